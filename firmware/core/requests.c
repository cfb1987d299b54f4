#include "requests.h"

#include "bytes.h"
#include "crc32.h"
#include "frame.h"
#include "image.h"
#include "link.h"
#include "measure.h"
#include "port.h"
#include "session.h"

/* The last reply, whole, and the request that it answers: the one that is asked again does no work again. */
static struct {
    uint8_t bytes[HWNAS_FRAME_BYTES];
    uint16_t length; /* 0: none */
    uint32_t crc;    /* of the request */
} last;

/* A request's body, and the reply that grows. */
typedef struct {
    const uint8_t *body;
    uint16_t length;
    hwnas_body reply;
} exchange;

#ifdef HWNAS_FAULTS
static bool cut_next_reply;
#endif

enum { ENVELOPE = HWNAS_HEAD_BYTES + 5, STATUS_AT = HWNAS_HEAD_BYTES };

static uint8_t refuse(exchange *x, const char *why) {
    x->reply.length = ENVELOPE;
    x->reply.full = false;
    hwnas_put_text(&x->reply, why);
    return HWNAS_OUT_OF_RANGE;
}

static uint8_t wrong_length(exchange *x) { return refuse(x, "the body has another length"); }

static uint8_t hello(exchange *x) {
    hwnas_put_u8(&x->reply, HWNAS_PROTOCOL);
    hwnas_put_u16(&x->reply, HWNAS_VERSION);
    hwnas_put_u8(&x->reply, hwnas_this_boot.counter);
    hwnas_put_u32(&x->reply, hwnas_this_boot.counter_hz);
    hwnas_put_u8(&x->reply, hwnas_this_boot.cause);
    hwnas_put_u16(&x->reply, hwnas_network_count);
    hwnas_put_u16(&x->reply, HWNAS_BODY_BYTES);
    hwnas_put_u32(&x->reply, (uint32_t)(hwnas_stack_top() - hwnas_stack_bottom()));
    hwnas_put(&x->reply, hwnas_image_id, sizeof hwnas_image_id);
    hwnas_put(&x->reply, hwnas_this_boot.board_id, sizeof hwnas_this_boot.board_id);
    hwnas_put_text(&x->reply, hwnas_this_boot.port);
    return HWNAS_DONE;
}

static void put_tensor(hwnas_body *reply, const hwnas_tensor *tensor) {
    hwnas_put_u8(reply, tensor->dtype);
    hwnas_put_u8(reply, tensor->rank);
    hwnas_put_u32(reply, tensor->offset);
    hwnas_put_u32(reply, tensor->bytes);
    for (uint8_t i = 0; i < tensor->rank; i++) hwnas_put_u32(reply, (uint32_t)tensor->shape[i]);
}

static uint8_t info(exchange *x, const hwnas_network *network) {
    size_t name = strlen(network->name);
    if (name > 255 || network->inputs > 255 || network->outputs > 255) return refuse(x, "too much for one reply");
    hwnas_put_u8(&x->reply, (uint8_t)network->inputs);
    hwnas_put_u8(&x->reply, (uint8_t)network->outputs);
    hwnas_put_u16(&x->reply, network->kernels);
    hwnas_put_u32(&x->reply, network->arena_bytes);
    hwnas_put_u32(&x->reply, network->workspace_bytes);
    hwnas_put_u8(&x->reply, (uint8_t)name);
    hwnas_put_text(&x->reply, network->name);
    for (uint16_t i = 0; i < network->inputs; i++) put_tensor(&x->reply, &network->input[i]);
    for (uint16_t i = 0; i < network->outputs; i++) put_tensor(&x->reply, &network->output[i]);
    return HWNAS_DONE;
}

static uint8_t write(exchange *x, uint16_t number, const hwnas_network *network) {
    uint8_t input = x->body[2];
    uint32_t offset = hwnas_u32(x->body + 3), length = x->length - 7u;
    if (input >= network->inputs) return refuse(x, "no such input");
    uint32_t bytes = network->input[input].bytes;
    if (offset > bytes || length > bytes - offset) return refuse(x, "beyond the end of the input");
    hwnas_write_input(number, input, offset, x->body + 7, length);
    return HWNAS_DONE;
}

static uint8_t check(exchange *x, uint16_t number, const hwnas_network *network) {
    uint8_t index = x->body[2] & 0x7F;
    bool output = x->body[2] & 0x80;
    if (index >= (output ? network->outputs : network->inputs)) return refuse(x, "no such tensor");
    if (output && !(hwnas_now.owner == number && hwnas_now.has_outputs)) return refuse(x, "no outputs; run it first");
    const hwnas_tensor *tensor = output ? &network->output[index] : &network->input[index];
    hwnas_put_u32(&x->reply, hwnas_crc32(0, hwnas_arena + tensor->offset, tensor->bytes));
    return HWNAS_DONE;
}

static uint8_t read(exchange *x, uint16_t number, const hwnas_network *network) {
    uint8_t output = x->body[2], length = x->body[7];
    uint32_t offset = hwnas_u32(x->body + 3);
    if (output >= network->outputs) return refuse(x, "no such output");
    if (!(hwnas_now.owner == number && hwnas_now.has_outputs)) return refuse(x, "no outputs; run it first");
    const hwnas_tensor *tensor = &network->output[output];
    if (offset > tensor->bytes || length > tensor->bytes - offset) return refuse(x, "beyond the end of the output");
    hwnas_put(&x->reply, hwnas_arena + tensor->offset + offset, length);
    return HWNAS_DONE;
}

static uint8_t kernel_error(exchange *x, int32_t error) {
    hwnas_put_u32(&x->reply, (uint32_t)error);
    return HWNAS_KERNEL_ERROR;
}

static uint8_t run(exchange *x, uint16_t number) {
    hwnas_run_plan plan = {number, hwnas_u16(x->body + 2), hwnas_u16(x->body + 4), x->body[6]};
    bool fill = plan.flags & HWNAS_FLAG_FILL;
    if (!plan.repeats || plan.repeats > HWNAS_MAX_REPEATS) return refuse(x, "repeats are 1 to 24");
    if (plan.flags & ~(HWNAS_FLAG_FILL | HWNAS_FLAG_KERNELS)) return refuse(x, "unknown flag");
    if (!fill && (plan.warmup || plan.repeats > 1)) return refuse(x, "inputs that were written last for one run");
    if (!fill && !hwnas_inputs_are_fresh(number)) return HWNAS_INPUT_USED;
    static hwnas_run_report report;
    hwnas_session_begin(HWNAS_RUN);
    hwnas_measure(&plan, &report);
    hwnas_session_end();
    if (report.error) return kernel_error(x, report.error);
    if (hwnas_now.stop) return HWNAS_STOPPED;
    hwnas_put_u16(&x->reply, report.runs);
    hwnas_put_u16(&x->reply, report.interrupted);
    hwnas_put_u64(&x->reply, report.overhead);
    hwnas_put_u32(&x->reply, report.stack_bytes);
    hwnas_put_u32(&x->reply, report.workspace_bytes);
    for (uint16_t i = 0; i < report.runs; i++) hwnas_put_u64(&x->reply, report.ticks[i]);
    return HWNAS_DONE;
}

static uint8_t loop(exchange *x, uint16_t number) {
    uint32_t runs;
    uint64_t ticks;
    hwnas_session_begin(HWNAS_LOOP);
    int32_t error = hwnas_loop(number, hwnas_u32(x->body + 2), &runs, &ticks);
    hwnas_session_end();
    if (error) return kernel_error(x, error);
    if (hwnas_now.stop) return HWNAS_STOPPED;
    hwnas_put_u32(&x->reply, runs);
    hwnas_put_u64(&x->reply, ticks);
    return HWNAS_DONE;
}

static uint8_t kernels(exchange *x, uint16_t number, const hwnas_network *network) {
    uint16_t first = hwnas_u16(x->body + 2), timed = hwnas_kernels_timed(number);
    if (first >= timed) return refuse(x, "no time of that kernel");
    hwnas_put_u16(&x->reply, network->kernels);
    for (uint16_t i = first; i < timed && x->reply.room - x->reply.length >= 8; i++)
        hwnas_put_u64(&x->reply, hwnas_kernel_ticks[i]);
    return HWNAS_DONE;
}

static uint8_t name(exchange *x, const hwnas_network *network) {
    uint16_t kernel = hwnas_u16(x->body + 2);
    if (kernel >= network->kernels) return refuse(x, "no such kernel");
    size_t length = strlen(network->kernel[kernel].name), room = (size_t)(x->reply.room - x->reply.length);
    hwnas_put(&x->reply, network->kernel[kernel].name, (uint32_t)(length < room ? length : room));
    return HWNAS_DONE;
}

#ifdef HWNAS_FAULTS
static uint8_t provocation; /* what to do once the reply is out */

static uint8_t provoke(exchange *x) {
    if (x->length < 1 || x->length > 2) return wrong_length(x);
    uint8_t kind = x->body[0];
    if (kind < 1 || kind > 6) return refuse(x, "kinds are 1 to 6");
    if (kind == 6) hwnas_brownouts = x->length > 1 ? x->body[1] : 1;
    provocation = kind;
    return HWNAS_DONE;
}

static void misbehave(void) {
    uint8_t kind = provocation;
    provocation = 0;
    switch (kind) {
    case 1: hwnas_provoke_hard_fault(); break;
    case 3: hwnas_mask_interrupts(); /* fall through */
    case 2:
        for (;;) __asm volatile("");
    case 5: cut_next_reply = true; break;
    case 4:
    case 6: hwnas_restart();
    default: break;
    }
}
#endif

/* The least and the most bytes of a request's body; of those with a network its number comes first. */
static const struct {
    uint8_t op, least, most;
    bool of_network;
} shapes[] = {
    {HWNAS_HELLO, 0, 0, false}, {HWNAS_INFO, 2, 2, true},    {HWNAS_WRITE, 7, HWNAS_BODY_BYTES, true},
    {HWNAS_CHECK, 3, 3, true},  {HWNAS_RUN, 7, 7, true},     {HWNAS_READ, 8, 8, true},
    {HWNAS_KERNELS, 4, 4, true}, {HWNAS_LOOP, 6, 6, true},   {HWNAS_RESET, 0, 0, false},
    {HWNAS_STOP, 0, 0, false},  {HWNAS_NAME, 4, 4, true},
#ifdef HWNAS_FAULTS
    {HWNAS_PROVOKE, 1, 2, false},
#endif
};

static uint8_t answer(exchange *x, uint8_t op) {
    size_t i = 0, known = sizeof shapes / sizeof *shapes;
    while (i < known && shapes[i].op != op) i++;
    if (i == known) return HWNAS_UNKNOWN_OP;
    if (x->length < shapes[i].least || x->length > shapes[i].most) return wrong_length(x);
    uint16_t number = shapes[i].of_network ? hwnas_u16(x->body) : 0;
    const hwnas_network *network = hwnas_network_at(number);
    if (shapes[i].of_network && !network) return HWNAS_NO_NETWORK;
    switch (op) {
    case HWNAS_HELLO: return hello(x);
    case HWNAS_INFO: return info(x, network);
    case HWNAS_WRITE: return write(x, number, network);
    case HWNAS_CHECK: return check(x, number, network);
    case HWNAS_RUN: return run(x, number);
    case HWNAS_READ: return read(x, number, network);
    case HWNAS_KERNELS: return kernels(x, number, network);
    case HWNAS_LOOP: return loop(x, number);
    case HWNAS_NAME: return name(x, network);
#ifdef HWNAS_FAULTS
    case HWNAS_PROVOKE: return provoke(x);
#endif
    default: return HWNAS_DONE; /* RESET restarts once the reply is out; STOP with nothing to stop */
    }
}

static void begin_reply(hwnas_body *reply, uint8_t seq, uint8_t op) {
    hwnas_put_u8(reply, seq);
    hwnas_put_u8(reply, op | HWNAS_REPLY);
    hwnas_put_u8(reply, HWNAS_DONE);
    hwnas_put_u32(reply, hwnas_this_boot.nonce);
}

/* While a network runs, only STOP is heard; the kept reply belongs to what is under way. */
static void stop_what_runs(uint8_t seq, uint8_t op) {
    if (op != HWNAS_STOP) return;
    hwnas_now.stop = true; /* from here on no ALIVE comes in between */
    uint8_t bytes[ENVELOPE + HWNAS_CRC_BYTES];
    hwnas_body reply = {.bytes = bytes, .room = sizeof bytes};
    begin_reply(&reply, seq, op);
    hwnas_frame_write(bytes, hwnas_frame_seal(bytes, reply.length), hwnas_serial_write);
}

void hwnas_request(const uint8_t *bytes, uint16_t length) {
    uint8_t seq = bytes[0], op = bytes[1];
    uint32_t crc = hwnas_u32(bytes + length - HWNAS_CRC_BYTES);
    if (!seq || op >= 0x40) return; /* an event, or a reply: not for us */
    if (hwnas_now.measures) {
        stop_what_runs(seq, op);
        return;
    }
    if (!last.length || last.bytes[0] != seq || last.bytes[1] != (op | HWNAS_REPLY) || last.crc != crc) {
        exchange x = {.body = bytes + HWNAS_HEAD_BYTES,
                      .length = (uint16_t)(length - HWNAS_HEAD_BYTES - HWNAS_CRC_BYTES),
                      .reply = {.bytes = last.bytes, .room = HWNAS_HEAD_BYTES + HWNAS_BODY_BYTES}};
        last.crc = crc;
        begin_reply(&x.reply, seq, op);
        uint8_t status = answer(&x, op);
        if (x.reply.full) status = refuse(&x, "too much for one reply");
        x.reply.bytes[STATUS_AT] = status;
        last.length = hwnas_frame_seal(last.bytes, x.reply.length);
    }
#ifdef HWNAS_FAULTS
    if (cut_next_reply && last.length >= ENVELOPE + HWNAS_CRC_BYTES + 4) {
        uint16_t lying = hwnas_frame_seal(last.bytes, (uint16_t)(last.length - HWNAS_CRC_BYTES - 4));
        cut_next_reply = false;
        last.length = 0; /* lies once: asked again, the work is done again */
        hwnas_frame_write(last.bytes, lying, hwnas_serial_write);
        return;
    }
#endif
    hwnas_frame_write(last.bytes, last.length, hwnas_serial_write);
    if (op == HWNAS_RESET) {
        hwnas_serial_flush();
        hwnas_restart();
    }
#ifdef HWNAS_FAULTS
    if (provocation) {
        hwnas_serial_flush();
        misbehave();
    }
#endif
}
