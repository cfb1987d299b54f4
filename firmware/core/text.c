#include "text.h"

#include <string.h>

#include "image.h"
#include "measure.h"
#include "port.h"
#include "print.h"
#include "session.h"
#include "text_input.h"
#include "words.h"

#define VERSION "ULPMark for tinyML Firmware V0.0.1" /* what the public runner looks for */

enum { COMMAND_BYTES = 80, WARMUP = 10 };

static char command[COMMAND_BYTES + 1];
static uint16_t length;

static void timestamp(void) {
    uint32_t hz = hwnas_this_boot.counter_hz;
    uint64_t ticks = hwnas_ticks();
    hwnas_print_line_number("m-lap-us-", ticks / hz * 1000000 + ticks % hz * 1000000 / hz, "");
}

void hwnas_text_greet(void) {
    hwnas_print_line("m-timestamp-mode-performance");
    timestamp();
    hwnas_print_line("m-init-done");
    hwnas_print_line("m-ready");
}

static const hwnas_network *network(void) { return hwnas_network_at(0); }

static void print_element(const hwnas_tensor *tensor, const uint8_t *at) {
    uint32_t word = 0;
    int64_t wide = 0;
    switch (tensor->dtype) {
    case HWNAS_I8: hwnas_print_whole((int8_t)*at); break;
    case HWNAS_U8: hwnas_print_whole(*at); break;
    case HWNAS_I64:
        memcpy(&wide, at, sizeof wide);
        hwnas_print_whole(wide);
        break;
    case HWNAS_I32:
        memcpy(&word, at, sizeof word);
        hwnas_print_whole((int32_t)word);
        break;
    default:
        memcpy(&word, at, sizeof word);
        hwnas_print_float(word);
    }
}

static uint32_t element_bytes(uint8_t dtype) {
    return dtype == HWNAS_I8 || dtype == HWNAS_U8 ? 1 : dtype == HWNAS_I64 ? 8 : 4;
}

static void results(void) {
    if (!network() || hwnas_now.owner != 0 || !hwnas_now.has_outputs) {
        hwnas_print_line("e-[No results; infer first]");
        return;
    }
    bool first = true;
    hwnas_print("m-results-[");
    for (uint16_t i = 0; i < network()->outputs; i++) {
        const hwnas_tensor *tensor = &network()->output[i];
        for (uint32_t at = 0; at < tensor->bytes; at += element_bytes(tensor->dtype)) {
            if (!first) hwnas_print(",");
            first = false;
            print_element(tensor, hwnas_arena + tensor->offset + at);
        }
    }
    hwnas_print_line("]");
}

enum { USED_UP = INT32_MIN };

static int32_t run_times(int32_t times) {
    int32_t error = 0;
    for (int32_t i = 0; i < times && !error && !hwnas_now.stop; i++)
        error = hwnas_db_apply() ? hwnas_run_once(0) : USED_UP;
    return error;
}

static void time_inferences(int32_t times, int32_t warmup) {
    hwnas_session_begin(0);
    hwnas_print_line_number("m-warmup-start-", (uint32_t)warmup, "");
    int32_t error = run_times(warmup);
    hwnas_print_line("m-warmup-done");
    hwnas_print_line_number("m-infer-start-", (uint32_t)times, "");
    timestamp();
    hwnas_serial_flush();
    hwnas_trigger(true);
    if (!error) error = run_times(times);
    hwnas_trigger(false);
    timestamp();
    hwnas_print_line("m-infer-done");
    hwnas_session_end();
    if (error == USED_UP)
        hwnas_print_line("e-[The input was used up; load it again]");
    else if (error)
        hwnas_print_line("e-[A kernel reported an error]");
    else
        results();
}

static void infer(char *words) {
    char *count = hwnas_next_word(&words), *before = hwnas_next_word(&words);
    int32_t times = count ? hwnas_number(count) : 1, warmup = before ? hwnas_number(before) : WARMUP;
    if (times <= 0)
        hwnas_print_line("e-[Inference iterations must be >0]");
    else if (warmup < 0)
        hwnas_print_line("e-[Inference warmup must be >=0]");
    else if (!network())
        hwnas_print_line("e-[No network]");
    else if (hwnas_db_serves_once() && (warmup || times > 1))
        hwnas_print_line("e-[The input serves once, there is no RAM to keep it; use infer 1 0]");
    else
        time_inferences(times, warmup);
}

static void help(void) {
    hwnas_print_line(VERSION);
    hwnas_print_line("");
    hwnas_print_line("help         : Print this information");
    hwnas_print_line("name         : Print the name of the device");
    hwnas_print_line("profile      : Print the firmware version and the network");
    hwnas_print_line("timestamp    : Print the time in microseconds");
    hwnas_print_line("db load N    : Expect N bytes of input");
    hwnas_print_line("db HH[HH]*   : Take them as hexadecimal digits");
    hwnas_print_line("db print [N] [OFFSET]");
    hwnas_print_line("             : Print them");
    hwnas_print_line("infer N [W=10]: Run N times after W times for warming up");
    hwnas_print_line("results      : Print the outputs of the last run");
}

static void execute(char *words) {
    char *word = hwnas_next_word(&words);
    if (!word) word = "";
    if (hwnas_same(word, "name")) {
        hwnas_print("m-name-dut-[hwnas ");
        hwnas_print(hwnas_this_boot.port);
        hwnas_print_line("]");
    } else if (hwnas_same(word, "profile")) {
        hwnas_print_line("m-profile-[" VERSION "]");
        hwnas_print("m-model-[");
        hwnas_print(network() ? network()->name : "none");
        hwnas_print_line("]");
    } else if (hwnas_same(word, "timestamp")) {
        timestamp();
    } else if (hwnas_same(word, "db")) {
        hwnas_db(words);
    } else if (hwnas_same(word, "infer")) {
        infer(words);
    } else if (hwnas_same(word, "results")) {
        results();
    } else if (hwnas_same(word, "help")) {
        help();
    } else {
        hwnas_print("e-[Unknown command: ");
        hwnas_print(word);
        hwnas_print_line("]");
    }
    hwnas_print_line("m-ready");
}

bool hwnas_text_take(char byte) {
    if (byte != '%') {
        if (byte < 0x20 || byte == 0x7F) return false; /* line ends and other control characters mean nothing */
        if (length <= COMMAND_BYTES) command[length++] = byte;
        return false;
    }
    bool fits = length < COMMAND_BYTES;
    command[fits ? length : 0] = 0;
    length = 0;
    if (hwnas_now.measures) return true; /* a command in the midst of a run goes unheard, like every request but STOP */
    if (fits) {
        execute(command);
    } else {
        hwnas_print_line("e-[Command is too long]");
        hwnas_print_line("m-ready");
    }
    return true;
}

void hwnas_text_clear(void) { length = 0; }
