/* Products of 8-bit weights with packed activations: four output channels times two pixels (or one) at a time.
 *
 * Activations are packed as pairs of 16 bits, elements 0 and 2 of four before 1 and 3, those of two pixels in turn. Two
 * channels' weights share a 16-bit half: 256 * upper + lower. SMLAD with the half gives 256 * sum(upper) + sum(lower),
 * with the lower byte alone sum(lower); their difference, shifted right, is sum(upper) while that is below 2^23 in
 * size, so sums over many elements are taken apart after every HWNAS_CHUNK fours.
 *
 * A block of four channels is a stream of bytes: bias 0 and 2; for each four elements four words of weights; bias 1 and
 * 3; four multipliers. A last block of one or two channels has half of each. */

/* How sums become results: multiplied, or shifted with ties to even; a zero point that is even is part of the bias. */
enum { HWNAS_MULTIPLY = 0, HWNAS_SHIFT = 1, HWNAS_SHIFT_ODD = 2 };
enum { HWNAS_CHUNK = 64 };

typedef struct {
  const uint32_t *pack;   /* packed activations */
  const uint32_t *chunk;  /* end of their first chunk; others have HWNAS_CHUNK fours */
  const uint32_t *end;    /* end of all */
  uint32_t skip;          /* fours, then bytes of code, to skip in the first round of the unrolled loop */
  const void *weights;    /* the stream of blocks */
  uint8_t *y;             /* results of the first pixel */
  int32_t distance;       /* from there to the second pixel's, bytes */
  uint8_t *y_end;         /* behind the last whole block */
  int32_t zero;           /* the results' zero point, where it is not part of the bias */
  uint32_t low, high;     /* bounds of the results, each four times */
  int32_t sums[4];        /* upper sums of chunks before */
} hwnas_dot;

#if !HWNAS_DSP

/* One result from its sum. */
HWNAS_INLINE int32_t hwnas_dot_result(int32_t sum, int32_t multiplier, int32_t zero, int32_t kind, int32_t is_signed) {
  int32_t r = kind == HWNAS_MULTIPLY ? hwnas_smmlar(sum, multiplier, zero) : hwnas_half_even(sum, multiplier);
  if (kind == HWNAS_SHIFT_ODD) r += zero;
  return is_signed ? hwnas_ssat8(r) : hwnas_usat8(r);
}

HWNAS_INLINE uint8_t hwnas_dot_clamped(int32_t r, const hwnas_dot *job, int32_t clamped, int32_t is_signed) {
  if (clamped) {
    int32_t low = is_signed ? (int8_t)(job->low & 0xFF) : (int32_t)(job->low & 0xFF);
    int32_t high = is_signed ? (int8_t)(job->high & 0xFF) : (int32_t)(job->high & 0xFF);
    r = r < low ? low : r > high ? high : r;
  }
  return (uint8_t)r;
}

/* A block: `halves` is 2 for four channels, 1 for two. Returns the stream behind it. */
HWNAS_INLINE const uint8_t *hwnas_dot_block(const hwnas_dot *job, const uint8_t *w, int32_t pixels, int32_t halves,
                                            int32_t kind, int32_t is_signed, int32_t clamped) {
  int32_t lower[2][2], upper[2][2], sums[2][2] = {{0, 0}, {0, 0}}; /* half, pixel */
  const uint32_t *pack = job->pack, *chunk = job->chunk;
  for (int32_t h = 0; h < halves; h++, w += 4)
    for (int32_t p = 0; p < pixels; p++) lower[h][p] = upper[h][p] = (int32_t)hwnas_load32(w);
  for (;;) {
    for (; pack != chunk; pack += pixels) {
      for (int32_t h = 0; h < halves; h++, w += 4) {
        uint32_t v = hwnas_load32(w), l = hwnas_sxtb16(v);
        for (int32_t p = 0; p < pixels; p++) {
          upper[h][p] = hwnas_smlad(pack[p], v, upper[h][p]);
          lower[h][p] = hwnas_smlad(pack[p], l, lower[h][p]);
        }
      }
    }
    for (int32_t h = 0; h < halves; h++) {
      for (int32_t p = 0; p < pixels; p++) {
        sums[h][p] += (int32_t)((uint32_t)upper[h][p] - (uint32_t)lower[h][p]) >> 8;
        upper[h][p] = lower[h][p];
      }
    }
    if (pack == job->end) break;
    chunk += HWNAS_CHUNK * 2 * pixels;
  }
  const uint8_t *multipliers = w + 4 * halves;
  for (int32_t h = 0; h < halves; h++, w += 4) {
    int32_t bias = (int32_t)hwnas_load32(w);
    for (int32_t p = 0; p < pixels; p++) {
      int32_t both[2] = {lower[h][p], (int32_t)((uint32_t)sums[h][p] + (uint32_t)bias)};
      for (int32_t c = 0; c < 2; c++) {
        int32_t m = (int32_t)hwnas_load32(multipliers + 4 * (2 * h + c));
        int32_t r = hwnas_dot_result(both[c], m, job->zero, kind, is_signed);
        job->y[(p ? job->distance : 0) + 2 * h + c] = hwnas_dot_clamped(r, job, clamped, is_signed);
      }
    }
  }
  return multipliers + 8 * halves;
}

HWNAS_INLINE int32_t hwnas_dot_size(int32_t pixels, int32_t halves) { return 0 * pixels * halves; }

HWNAS_INLINE void hwnas_dot_blocks(hwnas_dot *job, int32_t pixels, int32_t halves, int32_t kind, int32_t is_signed,
                                   int32_t clamped, int32_t chunked) {
  const uint8_t *w = (const uint8_t *)job->weights;
  (void)chunked;
  for (; job->y != job->y_end; job->y += 4) w = hwnas_dot_block(job, w, pixels, halves, kind, is_signed, clamped);
  job->weights = w;
}

#else

/* The blocks in assembly: gcc 12 spends a fifth more on moving sums about. In the loop r0 is the pack, r1 the stream, r2
 * and r3 activations, r4 to r7 the sums of the first pixel, r8 to r11 those of the second, r12 and lr weights (for one
 * pixel r8 to r11 are weights, and r12 is the end of the chunk). On the stack stand the end of the chunk, the job, and
 * where in the unrolled loop the first round begins. Offsets are those of hwnas_dot, and every instruction of the loop
 * takes the bytes that hwnas_dot_size counts. */
HWNAS_INLINE int32_t hwnas_dot_size(int32_t pixels, int32_t halves) {
  return pixels == 2 ? (halves == 2 ? 104 : 56) : halves == 2 ? 60 : 32;
}

#define HWNAS_TWO(l0, u0, l1, u1)                                                         \
  "ldr.w r12, [r1], #4\n sxtb16 lr, r12\n smlad " u0 ", r2, r12, " u0 "\n smlad " u1      \
  ", r3, r12, " u1 "\n smlad " l0 ", r2, lr, " l0 "\n smlad " l1 ", r3, lr, " l1 "\n"
#define HWNAS_PAIR_PART \
  "ldrd r2, r3, [r0], #8\n" HWNAS_TWO("r4", "r5", "r8", "r9") HWNAS_TWO("r6", "r7", "r10", "r11")
#define HWNAS_PAIR_FOUR HWNAS_PAIR_PART HWNAS_PAIR_PART
#define HWNAS_PAIR_HALF_PART "ldrd r2, r3, [r0], #8\n" HWNAS_TWO("r4", "r5", "r8", "r9")
#define HWNAS_PAIR_HALF_FOUR HWNAS_PAIR_HALF_PART HWNAS_PAIR_HALF_PART

#define HWNAS_SINGLE_PART(x)                                                                                        \
  "ldrd r8, r9, [r1], #8\n sxtb16 r10, r8\n sxtb16 r11, r9\n smlad r5, " x ", r8, r5\n smlad r4, " x ", r10, r4\n"  \
  "smlad r7, " x ", r9, r7\n smlad r6, " x ", r11, r6\n"
#define HWNAS_SINGLE_FOUR "ldrd r2, r3, [r0], #8\n" HWNAS_SINGLE_PART("r2") HWNAS_SINGLE_PART("r3")
#define HWNAS_SINGLE_HALF_FOUR                                                                                      \
  "ldrd r2, r3, [r0], #8\n ldrd r8, r9, [r1], #8\n sxtb16 r10, r8\n sxtb16 r11, r9\n smlad r5, r2, r8, r5\n"     \
  "smlad r4, r2, r10, r4\n smlad r5, r3, r9, r5\n smlad r4, r3, r11, r4\n"

#define HWNAS_ENTER                                                                                                 \
  "push {r4-r11, lr}\n sub sp, #12\n ldr r1, [r0, #16]\n ldr r2, [r0, #4]\n ldr r3, [r0, #12]\n adr.w r4, 2f\n"     \
  "add r4, r3\n add r4, #1\n str r2, [sp]\n str r0, [sp, #4]\n str r4, [sp, #8]\n"
#define HWNAS_LEAVE "str r1, [r0, #16]\n add sp, #12\n pop {r4-r11, pc}\n"
#define HWNAS_FOUR_TIMES(four, end) four four four four end "bne.w 2b\n"

/* The upper sum of a chunk joins that of the chunks before; the next chunk begins with equal sums. */
#define HWNAS_JOIN(l, u, at) \
  "sub " u ", " l "\n ldr r12, [r2, #" at "]\n add r12, r12, " u ", asr #8\n str r12, [r2, #" at "]\n mov " u ", " l "\n"
#define HWNAS_MORE(joins, bytes)                                                                    \
  "ldr r2, [sp, #4]\n ldr r3, [r2, #8]\n cmp r0, r3\n beq 3f\n" joins                               \
  "ldr r3, [sp]\n add r3, #" bytes "\n str r3, [sp]\n mov r12, r3\n b.w 2b\n 3:\n ldr r3, [r2, #4]\n str r3, [sp]\n"

#define HWNAS_UPPER(l, u, bias) "sub " u ", " l "\n add " u ", " bias ", " u ", asr #8\n"
#define HWNAS_MULTIPLIED(r, m) "smmlar " r ", " r ", " m ", lr\n"
#define HWNAS_SHIFTED(r, m) "smull r2, " r ", " r ", " m "\n and lr, " r ", #1\n smlal r2, " r ", lr, " m "\n"
#define HWNAS_SHIFTED_ODD(r, m) \
  "smmul r2, " r ", " m "\n and r2, #1\n add " r ", r2\n smmla " r ", " r ", " m ", lr\n"
#define HWNAS_BYTES(a, b, c, d) \
  "bfi " a ", " b ", #8, #8\n bfi " c ", " d ", #8, #8\n pkhbt " a ", " a ", " c ", lsl #16\n"
#define HWNAS_BOUNDED(r, t, sub)                                             \
  sub " " t ", " r ", r12\n sel " r ", r12, " r "\n" sub " " t ", " r ", lr\n" \
      "sel " r ", " r ", lr\n"
#define HWNAS_ADDED(r, at) "ldr r2, [r0, #" at "]\n add " r ", r2\n"
#define HWNAS_SATURATED_4(sat, a, b, c, d) \
  sat " " a ", #8, " a "\n" sat " " b ", #8, " b "\n" sat " " c ", #8, " c "\n" sat " " d ", #8, " d "\n"
#define HWNAS_NEXT "str r2, [r0, #20]\n ldr r3, [r0, #28]\n cmp r2, r3\n bne.w 1b\n"
#define HWNAS_ZERO "mov r2, #0\n mov r3, #0\n strd r2, r3, [r0, #44]\n strd r2, r3, [r0, #52]\n"

#define HWNAS_PAIR_JOIN                                                                              \
  HWNAS_MORE(HWNAS_JOIN("r4", "r5", "44") HWNAS_JOIN("r6", "r7", "48") HWNAS_JOIN("r8", "r9", "52")  \
                 HWNAS_JOIN("r10", "r11", "56"), "1024")
#define HWNAS_PAIR_ADD \
  HWNAS_ADDED("r5", "44") HWNAS_ADDED("r7", "48") HWNAS_ADDED("r9", "52") HWNAS_ADDED("r11", "56")
#define HWNAS_PAIR_SCALE(scale)                                                              \
  "ldrd r3, r12, [r1], #8\n" scale("r4", "r3") scale("r8", "r3") scale("r5", "r12")          \
  scale("r9", "r12") "ldrd r3, r12, [r1], #8\n" scale("r6", "r3") scale("r10", "r3")         \
  scale("r7", "r12") scale("r11", "r12")
#define HWNAS_PAIR_BOUND(sub) \
  "ldrd lr, r12, [r0, #36]\n" HWNAS_BOUNDED("r4", "r2", sub) HWNAS_BOUNDED("r8", "r2", sub)

#define HWNAS_PAIR(zero, joined, added, scale, sat, bounded)                                                     \
  HWNAS_ENTER "1:\n" zero                                                                                        \
  "ldr r0, [r0]\n ldrd r4, r6, [r1], #8\n mov r5, r4\n mov r8, r4\n mov r9, r4\n mov r7, r6\n mov r10, r6\n"     \
  "mov r11, r6\n ldr pc, [sp, #8]\n .balign 4\n 2:\n"                                                            \
  HWNAS_FOUR_TIMES(HWNAS_PAIR_FOUR, "ldr r2, [sp]\n cmp r0, r2\n") joined                                        \
  "ldr r0, [sp, #4]\n ldrd r2, r3, [r1], #8\n" HWNAS_UPPER("r4", "r5", "r2") HWNAS_UPPER("r8", "r9", "r2")       \
  HWNAS_UPPER("r6", "r7", "r3") HWNAS_UPPER("r10", "r11", "r3") added "ldr lr, [r0, #32]\n"                      \
  HWNAS_PAIR_SCALE(scale) HWNAS_SATURATED_4(sat, "r4", "r5", "r6", "r7")                                         \
  HWNAS_SATURATED_4(sat, "r8", "r9", "r10", "r11") HWNAS_BYTES("r4", "r5", "r6", "r7")                           \
  HWNAS_BYTES("r8", "r9", "r10", "r11") bounded                                                                  \
  "ldrd r2, r3, [r0, #20]\n str r8, [r2, r3]\n str r4, [r2], #4\n" HWNAS_NEXT HWNAS_LEAVE

#define HWNAS_PAIR_HALF_JOIN HWNAS_MORE(HWNAS_JOIN("r4", "r5", "44") HWNAS_JOIN("r8", "r9", "52"), "1024")
#define HWNAS_PAIR_HALF_ADD HWNAS_ADDED("r5", "44") HWNAS_ADDED("r9", "52")
#define HWNAS_PAIR_HALF_BOUND HWNAS_PAIR_BOUND
#define HWNAS_PAIR_HALF(zero, joined, added, scale, sat, bounded)                                                \
  HWNAS_ENTER "1:\n" zero                                                                                        \
  "ldr r0, [r0]\n ldr r4, [r1], #4\n mov r5, r4\n mov r8, r4\n mov r9, r4\n ldr pc, [sp, #8]\n .balign 4\n 2:\n" \
  HWNAS_FOUR_TIMES(HWNAS_PAIR_HALF_FOUR, "ldr r2, [sp]\n cmp r0, r2\n") joined                                   \
  "ldr r0, [sp, #4]\n ldr r2, [r1], #4\n" HWNAS_UPPER("r4", "r5", "r2") HWNAS_UPPER("r8", "r9", "r2") added      \
  "ldr lr, [r0, #32]\n ldrd r3, r12, [r1], #8\n" scale("r4", "r3") scale("r8", "r3") scale("r5", "r12")          \
  scale("r9", "r12") HWNAS_SATURATED_4(sat, "r4", "r5", "r8", "r9")                                              \
  "bfi r4, r5, #8, #8\n bfi r8, r9, #8, #8\n" bounded                                                            \
  "ldrd r2, r3, [r0, #20]\n str r8, [r2, r3]\n str r4, [r2], #4\n" HWNAS_NEXT HWNAS_LEAVE

#define HWNAS_SINGLE_JOIN \
  HWNAS_MORE(HWNAS_JOIN("r4", "r5", "44") HWNAS_JOIN("r6", "r7", "48"), "512")
#define HWNAS_SINGLE_ADD HWNAS_ADDED("r5", "44") HWNAS_ADDED("r7", "48")
#define HWNAS_SINGLE_SCALE(scale)                                                                            \
  "ldrd r8, r9, [r1], #8\n ldrd r10, r11, [r1], #8\n" scale("r4", "r8") scale("r5", "r9") scale("r6", "r10") \
  scale("r7", "r11")
#define HWNAS_SINGLE_BOUND(sub) "ldrd lr, r12, [r0, #36]\n" HWNAS_BOUNDED("r4", "r2", sub)
#define HWNAS_SINGLE(zero, joined, added, scale, sat, bounded)                                                   \
  HWNAS_ENTER "1:\n" zero                                                                                        \
  "ldr r0, [r0]\n ldrd r4, r6, [r1], #8\n mov r5, r4\n mov r7, r6\n ldr r12, [sp]\n ldr pc, [sp, #8]\n"          \
  ".balign 4\n 2:\n" HWNAS_FOUR_TIMES(HWNAS_SINGLE_FOUR, "cmp r0, r12\n") joined                                 \
  "ldr r0, [sp, #4]\n ldrd r2, r3, [r1], #8\n" HWNAS_UPPER("r4", "r5", "r2") HWNAS_UPPER("r6", "r7", "r3")       \
  added "ldr lr, [r0, #32]\n" HWNAS_SINGLE_SCALE(scale) HWNAS_SATURATED_4(sat, "r4", "r5", "r6", "r7")           \
  HWNAS_BYTES("r4", "r5", "r6", "r7") bounded "ldr r2, [r0, #20]\n str r4, [r2], #4\n" HWNAS_NEXT HWNAS_LEAVE

#define HWNAS_SINGLE_HALF_JOIN HWNAS_MORE(HWNAS_JOIN("r4", "r5", "44"), "512")
#define HWNAS_SINGLE_HALF_ADD HWNAS_ADDED("r5", "44")
#define HWNAS_SINGLE_HALF_BOUND HWNAS_SINGLE_BOUND
#define HWNAS_SINGLE_HALF(zero, joined, added, scale, sat, bounded)                                              \
  HWNAS_ENTER "1:\n" zero                                                                                        \
  "ldr r0, [r0]\n ldr r4, [r1], #4\n mov r5, r4\n ldr r12, [sp]\n ldr pc, [sp, #8]\n .balign 4\n 2:\n"           \
  HWNAS_FOUR_TIMES(HWNAS_SINGLE_HALF_FOUR, "cmp r0, r12\n") joined                                               \
  "ldr r0, [sp, #4]\n ldr r2, [r1], #4\n" HWNAS_UPPER("r4", "r5", "r2") added                                    \
  "ldr lr, [r0, #32]\n ldrd r8, r9, [r1], #8\n" scale("r4", "r8") scale("r5", "r9")                              \
  sat " r4, #8, r4\n" sat " r5, #8, r5\n bfi r4, r5, #8, #8\n" bounded                                           \
  "ldr r2, [r0, #20]\n str r4, [r2], #4\n" HWNAS_NEXT HWNAS_LEAVE

#define HWNAS_DOT(name, code) \
  HWNAS_SHARED __attribute__((naked)) void name(hwnas_dot *job __attribute__((unused))) { __asm__ volatile(code); }

/* A kernel for results in and out of bounds of their own, for sums of one chunk and of several. */
#define HWNAS_DOTS(name, KIND, scale, sat, sub)                                                               \
  HWNAS_DOT(name, KIND("", "", "", scale, sat, ""))                                                           \
  HWNAS_DOT(name##_clamped, KIND("", "", "", scale, sat, KIND##_BOUND(sub)))                                  \
  HWNAS_DOT(name##_chunked, KIND(HWNAS_ZERO, KIND##_JOIN, KIND##_ADD, scale, sat, ""))                        \
  HWNAS_DOT(name##_chunked_clamped, KIND(HWNAS_ZERO, KIND##_JOIN, KIND##_ADD, scale, sat, KIND##_BOUND(sub)))

/* For each way to scale, and each type of result. */
#define HWNAS_ALL_DOTS(name, KIND)                                                 \
  HWNAS_DOTS(name##_multiply_u8, KIND, HWNAS_MULTIPLIED, "usat", "usub8")          \
  HWNAS_DOTS(name##_multiply_s8, KIND, HWNAS_MULTIPLIED, "ssat", "ssub8")          \
  HWNAS_DOTS(name##_shift_u8, KIND, HWNAS_SHIFTED, "usat", "usub8")                \
  HWNAS_DOTS(name##_shift_s8, KIND, HWNAS_SHIFTED, "ssat", "ssub8")                \
  HWNAS_DOTS(name##_odd_u8, KIND, HWNAS_SHIFTED_ODD, "usat", "usub8")              \
  HWNAS_DOTS(name##_odd_s8, KIND, HWNAS_SHIFTED_ODD, "ssat", "ssub8")              \
  HWNAS_INLINE void name(hwnas_dot *job, int32_t kind, int32_t is_signed,          \
                         int32_t clamped, int32_t chunked) {                       \
    if (kind == HWNAS_MULTIPLY && is_signed) HWNAS_CALL(name##_multiply_s8)        \
    else if (kind == HWNAS_MULTIPLY) HWNAS_CALL(name##_multiply_u8)                \
    else if (kind == HWNAS_SHIFT && is_signed) HWNAS_CALL(name##_shift_s8)         \
    else if (kind == HWNAS_SHIFT) HWNAS_CALL(name##_shift_u8)                      \
    else if (is_signed) HWNAS_CALL(name##_odd_s8)                                  \
    else HWNAS_CALL(name##_odd_u8)                                                 \
  }
#define HWNAS_CALL(name)                                       \
  {                                                            \
    if (chunked && clamped) name##_chunked_clamped(job);       \
    else if (chunked) name##_chunked(job);                     \
    else if (clamped) name##_clamped(job);                     \
    else name(job);                                            \
  }

HWNAS_ALL_DOTS(hwnas_pair, HWNAS_PAIR)
HWNAS_ALL_DOTS(hwnas_pair_half, HWNAS_PAIR_HALF)
HWNAS_ALL_DOTS(hwnas_single, HWNAS_SINGLE)
HWNAS_ALL_DOTS(hwnas_single_half, HWNAS_SINGLE_HALF)

/* All flags are literals: one call remains, and the kernels that nobody calls are dropped. */
HWNAS_INLINE void hwnas_dot_blocks(hwnas_dot *job, int32_t pixels, int32_t halves, int32_t kind, int32_t is_signed,
                                   int32_t clamped, int32_t chunked) {
  if (pixels == 2 && halves == 2) hwnas_pair(job, kind, is_signed, clamped, chunked);
  else if (pixels == 2) hwnas_pair_half(job, kind, is_signed, clamped, chunked);
  else if (halves == 2) hwnas_single(job, kind, is_signed, clamped, chunked);
  else hwnas_single_half(job, kind, is_signed, clamped, chunked);
}

#endif

/* So many fours of packed elements, of one or two pixels. */
HWNAS_INLINE void hwnas_dot_pack(hwnas_dot *job, const uint32_t *pack, int32_t fours, int32_t pixels) {
  int32_t first = (fours - 1) % HWNAS_CHUNK + 1;
  job->pack = pack;
  job->chunk = pack + first * 2 * pixels;
  job->end = pack + fours * 2 * pixels;
  job->skip = (uint32_t)((4 - first % 4) % 4);
}

/* All `channels` of one or two pixels: whole blocks, then what is left by way of a block beside. Leaves job->weights
 * behind the stream. */
HWNAS_INLINE void hwnas_dot_pixels(hwnas_dot *job, uint8_t *y, int32_t distance, int32_t channels, int32_t pixels,
                                   int32_t kind, int32_t is_signed, int32_t clamped, int32_t chunked) {
  int32_t left = channels % 4, skip = (int32_t)job->skip;
  if (channels >= 4) {
    job->skip = (uint32_t)(skip * hwnas_dot_size(pixels, 2));
    job->y = y;
    job->y_end = y + (channels - left);
    job->distance = distance;
    hwnas_dot_blocks(job, pixels, 2, kind, is_signed, clamped, chunked);
  }
  if (left) {
    int32_t halves = left > 2 ? 2 : 1;
    uint8_t block[8];
    job->skip = (uint32_t)(skip * hwnas_dot_size(pixels, halves));
    job->y = block;
    job->y_end = block + 4;
    job->distance = 4;
    hwnas_dot_blocks(job, pixels, halves, kind, is_signed, clamped, chunked);
    for (int32_t p = 0; p < pixels; p++)
      for (int32_t c = 0; c < left; c++) y[p * distance + channels - left + c] = block[4 * p + c];
  }
  job->skip = (uint32_t)skip;
}
