#include "measure.h"

#include <string.h>

#include "image.h"
#include "link.h"
#include "pattern.h"
#include "port.h"
#include "session.h"
#include "watermark.h"

static uint16_t timed_network = HWNAS_NOBODY, timed_kernels;

static int32_t nothing(uint8_t *arena, uint8_t *workspace) {
    (void)arena;
    (void)workspace;
    return 0;
}

static const hwnas_kernel empty = {.name = "", .run = nothing};

/* Between two kernels: the watchdog is told that we live, and a STOP is heard. */
static inline void look_up(void) {
    hwnas_watchdog_kick();
    while (hwnas_serial_waits()) hwnas_link_take((uint8_t)hwnas_serial_read());
}

/* Run `count` kernels. With step 0 it is the same one again and again: that is how the loop itself is timed, by the
 * same instructions. Not inlined, so that there is one copy of them. */
__attribute__((noinline)) static int32_t run_kernels(const hwnas_kernel *kernel, uint16_t count, uint16_t step) {
    int32_t error = 0;
    for (uint16_t i = 0; i < count && !error && !hwnas_now.stop; i++, kernel += step) {
        error = kernel->run(hwnas_arena, hwnas_workspace);
        look_up();
    }
    return error;
}

__attribute__((noinline)) static int32_t time_region(const hwnas_kernel *kernel, uint16_t count, uint16_t step,
                                                     uint64_t *ticks, bool *interrupted) {
    hwnas_serial_flush();
    hwnas_ticks_align();
    uint32_t interrupts = hwnas_interrupts;
    hwnas_trigger(true);
    uint64_t from = hwnas_ticks();
    int32_t error = run_kernels(kernel, count, step);
    *ticks = hwnas_ticks() - from;
    hwnas_trigger(false);
    *interrupted = hwnas_interrupts != interrupts;
    return error;
}

static uint64_t time_kernel(const hwnas_kernel *kernel, int32_t *error) {
    uint64_t from = hwnas_ticks();
    *error = kernel->run(hwnas_arena, hwnas_workspace);
    return hwnas_ticks() - from;
}

/* Each kernel by itself, less what an empty one takes; the whole run's ticks come with the readings in between. */
static int32_t time_kernels(uint16_t number, uint64_t *ticks, bool *interrupted) {
    const hwnas_network *network = hwnas_networks[number];
    int32_t error = 0;
    uint64_t none = time_kernel(&empty, &error);
    none = time_kernel(&empty, &error); /* the second time, caches are warm */
    hwnas_serial_flush();
    hwnas_ticks_align();
    timed_network = number;
    timed_kernels = 0;
    uint32_t interrupts = hwnas_interrupts;
    uint64_t from = hwnas_ticks();
    for (uint16_t i = 0; i < network->kernels && !error && !hwnas_now.stop; i++) {
        uint64_t taken = time_kernel(&network->kernel[i], &error);
        taken -= taken < none ? taken : none;
        if (i < hwnas_kernel_room) {
            hwnas_kernel_ticks[i] = taken < UINT32_MAX ? (uint32_t)taken : UINT32_MAX;
            timed_kernels++;
        }
        look_up();
    }
    *ticks = hwnas_ticks() - from;
    *interrupted = hwnas_interrupts != interrupts;
    return error;
}

static void take_arena(uint16_t number, bool fill) {
    hwnas_now.owner = number;
    hwnas_now.written = 0;
    hwnas_now.has_outputs = false;
    if (fill) hwnas_fill(hwnas_networks[number], hwnas_arena);
}

static int32_t run_untimed(uint16_t number) {
    const hwnas_network *network = hwnas_networks[number];
    int32_t error = run_kernels(network->kernel, network->kernels, 1);
    hwnas_now.done++;
    hwnas_on_period();
    return error;
}

static bool goes_on(const hwnas_run_report *report) { return !report->error && !hwnas_now.stop; }

void hwnas_measure(const hwnas_run_plan *plan, hwnas_run_report *report) {
    const hwnas_network *network = hwnas_networks[plan->network];
    bool fill = plan->flags & HWNAS_FLAG_FILL, kernels = plan->flags & HWNAS_FLAG_KERNELS, interrupted;
    memset(report, 0, sizeof *report);
    hwnas_paint(hwnas_workspace, hwnas_workspace_bytes);
    hwnas_stack_paint();
    for (int i = 0; i < 2; i++) /* the second time, caches are warm */
        time_region(&empty, network->kernels, 0, &report->overhead, &interrupted);
    for (uint16_t i = 0; i < plan->warmup && goes_on(report); i++) {
        take_arena(plan->network, fill);
        report->error = run_untimed(plan->network);
    }
    for (uint16_t i = 0; i < plan->repeats && goes_on(report); i++) {
        take_arena(plan->network, fill);
        report->error = !fill && kernels
                            ? time_kernels(plan->network, &report->ticks[i], &interrupted)
                            : time_region(network->kernel, network->kernels, 1, &report->ticks[i], &interrupted);
        report->interrupted = (uint16_t)(report->interrupted + interrupted);
        report->runs++;
        hwnas_now.done++;
        hwnas_on_period();
    }
    if (fill && kernels && goes_on(report)) {
        uint64_t ticks;
        take_arena(plan->network, fill);
        report->error = time_kernels(plan->network, &ticks, &interrupted);
    }
    hwnas_now.has_outputs = goes_on(report);
    uint8_t *bottom = hwnas_stack_bottom();
    report->stack_bytes = hwnas_used_downwards(bottom, (uint32_t)(hwnas_stack_top() - bottom));
    report->workspace_bytes = hwnas_used_upwards(hwnas_workspace, hwnas_workspace_bytes);
}

int32_t hwnas_loop(uint16_t number, uint32_t milliseconds, uint32_t *runs, uint64_t *ticks) {
    uint64_t until = (uint64_t)milliseconds * hwnas_this_boot.counter_hz / 1000;
    int32_t error = 0;
    *runs = 0;
    take_arena(number, true);
    hwnas_serial_flush();
    hwnas_trigger(true);
    uint64_t from = hwnas_ticks();
    do { /* the inputs of a second run are what the first left there: its work is the same */
        error = run_untimed(number);
        look_up();
        ++*runs;
        *ticks = hwnas_ticks() - from;
    } while (*ticks < until && !error && !hwnas_now.stop);
    hwnas_trigger(false);
    hwnas_now.has_outputs = !error && !hwnas_now.stop;
    return error;
}

int32_t hwnas_run_once(uint16_t number) {
    take_arena(number, false);
    int32_t error = run_untimed(number);
    hwnas_now.has_outputs = !error && !hwnas_now.stop;
    return error;
}

uint16_t hwnas_kernels_timed(uint16_t network) { return network == timed_network ? timed_kernels : 0; }
