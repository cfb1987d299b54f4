// The two ends of a valid/ready stream, with pauses at random: what a core must cope with.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

// Whether to pause in a cycle, `of` times in 256 (255: always); the same seed pauses in the same cycles.
class Pause {
public:
    Pause(uint32_t seed, uint8_t of) : state_(seed * 2654435761u + 1), of_(of) {}

    bool now() {
        if (of_ == 0) return false;
        if (of_ == 255) return true;
        state_ = state_ * 1664525u + 1013904223u; // Knuth's line with Lewis's multiplier; the high bits are the good ones
        return (state_ >> 24) < of_;
    }

private:
    uint32_t state_;
    uint8_t of_;
};

// Offers word after word. A word once offered stays until it is taken, as valid/ready demands.
class Source {
public:
    Source(const std::vector<uint8_t> &bytes, size_t word_bytes, uint32_t seed, uint8_t pauses)
        : next_(bytes.data()), end_(bytes.data() + bytes.size()), word_bytes_(word_bytes), pause_(seed, pauses) {}

    // Whether there is a word this cycle; it is written to the core's port.
    bool offer(void *port) {
        if (!offered_ && !empty() && !pause_.now()) {
            offered_ = true;
            std::memcpy(port, next_, word_bytes_);
        }
        return offered_;
    }

    void moved(bool taken) {
        if (taken) {
            next_ += word_bytes_;
            offered_ = false;
        }
    }

    bool empty() const { return next_ == end_; }

private:
    const uint8_t *next_, *end_;
    size_t word_bytes_;
    Pause pause_;
    bool offered_ = false;
};
