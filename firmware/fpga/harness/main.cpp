// Simulates hwnas_core: reads jobs and the words of their streams, writes cycles and results. See ../README.md.
//
//   simulate
//
// Jobs come in on stdin and are answered on stdout one by one; the end of stdin ends it with 0. It ends with 2 for input
// that is not what it says it is, with 3 where a job passed its limit of cycles, with 4 where the core broke the
// protocol. An alarm ends a job that takes too long, whatever happened to whoever asked for it.
#include "Vhwnas_core.h"
#include "stream.hpp"
#include "verilated.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
#include <vector>

namespace {

constexpr uint32_t kMagic = 0x31465748; // "HWF1", little-endian
constexpr uint32_t kMostWords = 1u << 28;
constexpr size_t kParameterBytes = 9;
constexpr int kResetCycles = 4;

struct Head {
    uint32_t magic, rows, columns;
};

// One job as it comes in, in front of its words.
struct Job {
    uint32_t steps, tiles, rows, activation_words, weight_words, parameter_words, result_words;
    uint32_t grouped, is_signed, zero;
    int32_t result_zero, low, high;
    uint32_t seconds, cycles_limit, seed;
    uint8_t pauses[4]; // of 256: how often activations, weights, parameters and results pause; 255: for ever
};

struct Answer {
    uint32_t cycles, result_words;
};

[[noreturn]] void fail(int status, const char *what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(status);
}

void read_exactly(std::FILE *file, void *into, size_t size) {
    if (std::fread(into, 1, size, file) != size) fail(2, "the input ends too early");
}

std::vector<uint8_t> read_words(std::FILE *file, uint32_t words, size_t word_bytes) {
    if (words > kMostWords / word_bytes) fail(2, "a stream is longer than 256 MiB");
    std::vector<uint8_t> found(words * word_bytes);
    read_exactly(file, found.data(), found.size());
    return found;
}

class Bench {
public:
    Bench() : core_(&context_) {
        core_.clk = 0;
        core_.reset = 1;
        for (int i = 0; i < kResetCycles; i++) tick();
        core_.reset = 0;
        for (int i = 0; i < kResetCycles; i++) tick(); // until it takes a job
    }
    ~Bench() { core_.final(); }

    // Runs a job whose words follow in `in`; the answer goes to `out`.
    void run(const Job &job, std::FILE *in, std::FILE *out) {
        const std::vector<uint8_t> activations = read_words(in, job.activation_words, ROWS);
        const std::vector<uint8_t> weights = read_words(in, job.weight_words, COLUMNS);
        const std::vector<uint8_t> parameters = read_words(in, job.parameter_words, kParameterBytes);
        if (job.result_words == 0 || job.result_words > kMostWords / COLUMNS) fail(2, "no number of results");
        std::vector<uint8_t> results(size_t(job.result_words) * COLUMNS);

        Source from_activations(activations, ROWS, job.seed, job.pauses[0]);
        Source from_weights(weights, COLUMNS, job.seed + 1, job.pauses[1]);
        Source from_parameters(parameters, kParameterBytes, job.seed + 2, job.pauses[2]);
        Pause results_pause(job.seed + 3, job.pauses[3]);
        announce(job);

        uint32_t cycles = 0;
        size_t taken = 0;
        while (taken < job.result_words || !core_.job_ready) {
            if (cycles >= job.cycles_limit) fail(3, "a job passed its limit of cycles");
            const bool starts = core_.job_valid && core_.job_ready;
            core_.activation_valid = from_activations.offer(&core_.activation_data);
            core_.weight_valid = from_weights.offer(&core_.weight_data);
            core_.parameter_valid = from_parameters.offer(&core_.parameter_data);
            core_.result_ready = !results_pause.now();
            from_activations.moved(core_.activation_ready && core_.activation_valid);
            from_weights.moved(core_.weight_ready && core_.weight_valid);
            from_parameters.moved(core_.parameter_ready && core_.parameter_valid);
            if (core_.result_valid && core_.result_ready) {
                if (taken == job.result_words) fail(4, "the core gives more results than the job has");
                std::memcpy(&results[taken++ * COLUMNS], &core_.result_data, COLUMNS);
                last_cycle_ = cycles;
            }
            tick();
            cycles++;
            if (starts) core_.job_valid = 0;
        }
        if (!from_activations.empty() || !from_weights.empty() || !from_parameters.empty())
            fail(4, "the core was done before it took all of its words");
        const Answer answer = {last_cycle_ + 1, job.result_words};
        if (std::fwrite(&answer, sizeof answer, 1, out) != 1 ||
            std::fwrite(results.data(), 1, results.size(), out) != results.size() || std::fflush(out) != 0)
            fail(2, "the answer cannot be written");
    }

private:
    void announce(const Job &job) {
        core_.job_steps = job.steps;
        core_.job_tiles = job.tiles;
        core_.job_rows = job.rows & 0xFFFFFF;
        core_.job_activation_words = job.activation_words;
        core_.job_weight_words = job.weight_words;
        core_.job_grouped = job.grouped & 1;
        core_.job_signed = job.is_signed & 1;
        core_.job_zero = job.zero & 0xFF;
        core_.job_result_zero = job.result_zero & 0x1FF;
        core_.job_low = job.low & 0x1FF;
        core_.job_high = job.high & 0x1FF;
        core_.job_valid = 1;
    }

    void tick() {
        core_.clk = 0;
        core_.eval();
        core_.clk = 1;
        core_.eval();
    }

    VerilatedContext context_;
    Vhwnas_core core_;
    uint32_t last_cycle_ = 0;
};

} // namespace

int main() {
    Head head;
    read_exactly(stdin, &head, sizeof head);
    if (head.magic != kMagic) fail(2, "the input does not start with the magic number");
    if (head.rows != ROWS || head.columns != COLUMNS) fail(2, "the input is for another array");
    Bench bench;
    for (int next; (next = std::getc(stdin)) != EOF;) {
        std::ungetc(next, stdin);
        Job job;
        read_exactly(stdin, &job, sizeof job);
        alarm(job.seconds);
        bench.run(job, stdin, stdout);
        alarm(0);
    }
    return 0;
}
