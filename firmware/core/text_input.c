#include "text_input.h"

#include <string.h>

#include "image.h"
#include "port.h"
#include "print.h"
#include "session.h"
#include "words.h"

static struct {
    uint32_t size, position;
    bool apart; /* in spare RAM, not in the input itself */
} loaded;

static const hwnas_network *network(void) { return hwnas_network_at(0); }

/* The commands take one run of bytes for all inputs of the network, in order. */
static uint32_t input_bytes(void) {
    uint32_t bytes = 0;
    for (uint16_t i = 0; network() && i < network()->inputs; i++) bytes += network()->input[i].bytes;
    return bytes;
}

/* The input that byte number `*at` of them all belongs to; `*at` becomes its offset there. */
static uint8_t input_of(uint32_t *at) {
    uint8_t i = 0;
    while (*at >= network()->input[i].bytes) *at -= network()->input[i++].bytes;
    return i;
}

static uint8_t loaded_byte(uint32_t at) {
    if (loaded.apart) return hwnas_spare_memory()[at];
    uint8_t input = input_of(&at);
    return hwnas_arena[network()->input[input].offset + at];
}

static void load_byte(uint8_t byte) {
    uint32_t at = loaded.position++;
    if (loaded.apart) {
        hwnas_spare_memory()[at] = byte;
    } else {
        uint8_t input = input_of(&at);
        hwnas_write_input(0, input, at, &byte, 1);
    }
}

static void db_load(const char *count) {
    if (!count) {
        hwnas_print_line("e-[Command 'db load' requires the # of bytes]");
        return;
    }
    int32_t bytes = hwnas_number(count);
    if (bytes <= 0) {
        hwnas_print_line("e-[Command 'db load' must be >0 bytes]");
    } else if ((uint32_t)bytes > input_bytes()) {
        hwnas_print_line_number("e-[Supplied buffer size exceeds maximum of ", input_bytes(), "]");
    } else {
        loaded.size = (uint32_t)bytes;
        loaded.position = 0;
        loaded.apart = loaded.size <= hwnas_spare_bytes();
        hwnas_print_line_number("m-[Expecting ", loaded.size, " bytes]");
    }
}

static void db_print(const char *count, const char *from) {
    enum { PER_LINE = 8 };
    uint32_t end = loaded.position, at = from ? (uint32_t)hwnas_number(from) : 0;
    uint32_t most = count ? (uint32_t)hwnas_number(count) : end;
    if (at > end) at = end; /* a negative number is a large one here */
    if (most < end - at) end = at + most;
    for (uint32_t i = 0; at < end; i++, at++) {
        hwnas_print(i % PER_LINE ? "-" : "m-buffer-");
        hwnas_print_hex(loaded_byte(at));
        if (i % PER_LINE == PER_LINE - 1 || at + 1 == end) hwnas_print_line("");
    }
}

static int hex_value(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    digit = (char)(digit | 0x20);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static void db_bytes(const char *digits) {
    if (strlen(digits) % 2) {
        hwnas_print_line("e-[Insufficent number of hex digits]");
        return;
    }
    for (; *digits && loaded.position < loaded.size; digits += 2) {
        int high = hex_value(digits[0]), low = hex_value(digits[1]);
        if (high < 0 || low < 0) {
            hwnas_print("e-[Invalid hex digit '");
            hwnas_serial_write((uint8_t)digits[0]);
            hwnas_serial_write((uint8_t)digits[1]);
            hwnas_print_line("']");
            return;
        }
        load_byte((uint8_t)(high << 4 | low));
        if (loaded.position == loaded.size) hwnas_print_line("m-load-done");
    }
}

void hwnas_db(char *words) {
    char *word = hwnas_next_word(&words);
    if (!word) {
        hwnas_print_line("e-[Command 'db' requires a subcommand]");
    } else if (hwnas_same(word, "load")) {
        db_load(hwnas_next_word(&words));
    } else if (hwnas_same(word, "print")) {
        char *count = hwnas_next_word(&words);
        db_print(count, hwnas_next_word(&words));
    } else {
        db_bytes(word);
    }
}

bool hwnas_db_serves_once(void) { return loaded.size && !loaded.apart; }

bool hwnas_db_apply(void) {
    static const uint8_t zeros[16];
    uint32_t before = 0;
    for (uint8_t i = 0; i < network()->inputs; i++) {
        uint32_t bytes = network()->input[i].bytes, known = 0;
        if (loaded.position > before) known = loaded.position - before < bytes ? loaded.position - before : bytes;
        if (loaded.apart) hwnas_write_input(0, i, 0, hwnas_spare_memory() + before, known);
        for (uint32_t at = known; at < bytes; at += sizeof zeros)
            hwnas_write_input(0, i, at, zeros, bytes - at < sizeof zeros ? bytes - at : sizeof zeros);
        before += bytes;
    }
    return hwnas_inputs_are_fresh(0);
}
