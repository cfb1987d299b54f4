/* The text dialect against a fake board: what a runner of MLPerf Tiny sends, and what it must get. */
#include <string.h>

#include "check.h"
#include "fake_port.h"
#include "link.h"
#include "print.h"
#include "requests.h"
#include "text.h"
#include "words.h"

static char *answer(const char *command) {
    fake_forget();
    fake_receive(command, strlen(command));
    fake.sent[fake.sent_length] = 0;
    return (char *)fake.sent;
}

static void expect(const char *command, const char *lines) {
    const char *got = answer(command);
    if (!strcmp(got, lines)) return;
    fprintf(stderr, "%s\nexpected: %s\ngot: %s\n", command, lines, got);
    exit(1);
}

static void expect_number(uint32_t bits, const char *text) {
    fake_forget();
    hwnas_print_float(bits);
    fake.sent[fake.sent_length] = 0;
    if (strcmp((char *)fake.sent, text)) fprintf(stderr, "%08x: %s, not %s\n", (unsigned)bits, (char *)fake.sent, text);
    CHECK(!strcmp((char *)fake.sent, text));
}

static void prints_numbers(void) {
    static const struct {
        float value;
        const char *text;
    } cases[] = {{0, "0.000"},          {1, "1.000"},        {-0.25f, "-0.250"},        {0.0005f, "0.001"},
                 {0.00049f, "0.000"},   {1e-30f, "0.000"},   {123456.789f, "123456.789"}, {16777216, "16777216.000"},
                 {1e12f, "999999995904.000"}, {3.14159274f, "3.142"}, {-1e20f, "-inf"}, {1e-45f, "0.000"},
                 {0.0625f, "0.062"},   {0.1875f, "0.188"},  {-0.0625f, "-0.062"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t bits;
        memcpy(&bits, &cases[i].value, 4);
        expect_number(bits, cases[i].text);
    }
    for (uint32_t bits = 1; bits < 0x53000000; bits += 99991) { /* up to 2^39 */
        float value;
        char text[64];
        memcpy(&value, &bits, 4);
        snprintf(text, sizeof text, "%.3f", (double)value);
        expect_number(bits, text);
    }
    expect_number(0x7F800000, "inf");
    expect_number(0xFFC00000, "nan");
    CHECK(hwnas_number("12a") == 12 && hwnas_number("-7") == -7 && hwnas_number("99999999999") == INT32_MAX);
    CHECK(hwnas_number("") == 0 && hwnas_number("x") == 0 && hwnas_number("-99999999999") == -INT32_MAX);
}

static void greets(void) {
    fake.ticks = 1234;
    fake_forget();
    hwnas_text_greet();
    fake.sent[fake.sent_length] = 0;
    CHECK(!strcmp((char *)fake.sent, "m-timestamp-mode-performance\r\nm-lap-us-1235000\r\nm-init-done\r\nm-ready\r\n"));
}

static void names_itself(void) {
    expect("name%", "m-name-dut-[hwnas fake]\r\nm-ready\r\n");
    expect("\r\n name%", "m-name-dut-[hwnas fake]\r\nm-ready\r\n");
    expect("profile%", "m-profile-[ULPMark for tinyML Firmware V0.0.1]\r\nm-model-[floats]\r\nm-ready\r\n");
    expect("nonsense 1 2%", "e-[Unknown command: nonsense]\r\nm-ready\r\n");
    expect("%", "e-[Unknown command: ]\r\nm-ready\r\n");
}

static void loads_and_infers(void) {
    expect("results%", "e-[No results; infer first]\r\nm-ready\r\n");
    expect("db%", "e-[Command 'db' requires a subcommand]\r\nm-ready\r\n");
    expect("db load%", "e-[Command 'db load' requires the # of bytes]\r\nm-ready\r\n");
    expect("db load 0%", "e-[Command 'db load' must be >0 bytes]\r\nm-ready\r\n");
    expect("db load -3%", "e-[Command 'db load' must be >0 bytes]\r\nm-ready\r\n");
    expect("db load 33%", "e-[Supplied buffer size exceeds maximum of 32]\r\nm-ready\r\n");
    expect("db load 32%", "m-[Expecting 32 bytes]\r\nm-ready\r\n");
    expect("db 0000803F%", "m-ready\r\n"); /* 1.0 */
    expect("db 000%", "e-[Insufficent number of hex digits]\r\nm-ready\r\n");
    expect("db 00x0%", "e-[Invalid hex digit 'x0']\r\nm-ready\r\n");
    expect("db load 32%", "m-[Expecting 32 bytes]\r\nm-ready\r\n");
    expect("db 0000803f000000400000404000008040%", "m-ready\r\n");       /* a = 1 2 3 4 */
    expect("db 0000003f0000803e000000c10000c842ffff%", "m-load-done\r\nm-ready\r\n"); /* b = 0.5 0.25 -8 100 */
    expect("db print 10 3%", "m-buffer-3f-00-00-00-40-00-00-40\r\nm-buffer-40-00\r\nm-ready\r\n");
    expect("db print 3%", "m-buffer-00-00-80\r\nm-ready\r\n");
    expect("db print 9 32%", "m-ready\r\n");
    expect("db print -1 -1%", "m-ready\r\n");
    expect("infer 0%", "e-[Inference iterations must be >0]\r\nm-ready\r\n");
    expect("infer 1 -1%", "e-[Inference warmup must be >=0]\r\nm-ready\r\n");
    static const char end[] = "m-infer-done\r\nm-results-[2.500,4.250,-2.000,108.000]\r\nm-ready\r\n";
    fake.rises = 0;
    const char *got = answer("infer 3 2%");
    CHECK(!strncmp(got, "m-warmup-start-2\r\nm-warmup-done\r\nm-infer-start-3\r\nm-lap-us-", 59));
    CHECK(!strcmp(got + strlen(got) - strlen(end), end)); /* five runs, and the input is still the one loaded */
    CHECK(fake.rises == 1 && !fake.trigger);
    got = answer("infer%");
    CHECK(strstr(got, "m-warmup-start-10\r\n") && strstr(got, "m-infer-start-1\r\n"));
    expect("results%", "m-results-[2.500,4.250,-2.000,108.000]\r\nm-ready\r\n");
}

static void does_without_spare_memory(void) {
    fake.spare = 31;
    expect("db load 32%", "m-[Expecting 32 bytes]\r\nm-ready\r\n");
    expect("db 0000803f000000400000404000008040%", "m-ready\r\n");
    expect("db 0000003f0000803e000000c10000c842%", "m-load-done\r\nm-ready\r\n");
    expect("db print 2 30%", "m-buffer-c8-42\r\nm-ready\r\n");
    expect("infer 2 0%", "e-[The input serves once, there is no RAM to keep it; use infer 1 0]\r\nm-ready\r\n");
    CHECK(strstr(answer("infer 1 0%"), "m-results-[2.500,4.250,-2.000,108.000]"));
    CHECK(strstr(answer("infer 1 0%"), "e-[The input was used up; load it again]"));
    fake.spare = FAKE_SPARE;
}

static void keeps_to_its_command_buffer(void) {
    char command[200];
    memset(command, 'x', sizeof command);
    command[79] = '%';
    command[80] = 0;
    CHECK(strstr(answer(command), "e-[Unknown command: xxxx"));
    command[79] = 'x';
    command[80] = '%';
    command[81] = 0;
    expect(command, "e-[Command is too long]\r\nm-ready\r\n");
    command[80] = command[81] = 'x';
    command[199] = 0;
    expect(command, "");
    expect("%", "e-[Command is too long]\r\nm-ready\r\n");
    expect("name%", "m-name-dut-[hwnas fake]\r\nm-ready\r\n");
}

static void shares_the_line_with_frames(void) {
    uint8_t reply[300];
    expect("name%", "m-name-dut-[hwnas fake]\r\nm-ready\r\n");
    CHECK(fake_ask(1, HWNAS_HELLO, "", 0, reply));
    expect("na", "");
    CHECK(fake_ask(2, HWNAS_HELLO, "", 0, reply)); /* a frame ends a line that was begun */
    expect("name%", "m-name-dut-[hwnas fake]\r\nm-ready\r\n");
    fake_receive("\0\0", 2);
    expect("name%", ""); /* a frame is open */
    hwnas_link_drop();   /* until the line was silent for a second */
    expect("name%", "m-name-dut-[hwnas fake]\r\nm-ready\r\n");
    fake_receive("\0", 1);
    for (int i = 0; i < 300; i++) fake_receive("a", 1); /* or the frame gets too long to be one */
    answer("%");
    expect("name%", "m-name-dut-[hwnas fake]\r\nm-ready\r\n");
}

int main(void) {
    fake_clear();
    prints_numbers();
    greets();
    names_itself();
    loads_and_infers();
    does_without_spare_memory();
    keeps_to_its_command_buffer();
    shares_the_line_with_frames();
    puts("text ok");
    return 0;
}
