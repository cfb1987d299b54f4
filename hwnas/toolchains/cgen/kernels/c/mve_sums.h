/* Sums of products for Cortex-M cores with MVE: one or two rows of activations against all blocks of four output
 * channels, requantised and stored.
 *
 * VMLADAV adds 16 products of 8 bits to a general-purpose register of even number: four channels of two rows take all
 * eight of them, so pointers and counts live in the odd ones. Weights of a block lie as it reads them: the last
 * (depth % 16) products of each channel first, then 16 of each in turn. Its parameters are four biases and four
 * multipliers (or negative shifts). Written in assembly because gcc 12 spills the accumulators. */
typedef struct {
  const int8_t *rows[2];   /* activations, signed */
  int32_t passes;          /* rounds of four steps of 16 products */
  const void *first;       /* where a block begins: at the remainder, or where `steps` says */
  const void *steps;       /* the step of the first round that begins it */
  int32_t rest;            /* depth % 16 */
  const int8_t *weights;
  const int32_t *parameters;
  uint8_t *results[2];
  const int32_t *end;      /* of the parameters of whole blocks */
  int32_t zero, low, high; /* of the results */
} hwnas_mve_job;

#if HWNAS_MVE
/* Offsets of the members above. */
#define HWNAS_JOB_PASSES "8"
#define HWNAS_JOB_FIRST "12"
#define HWNAS_JOB_STEPS "16"
#define HWNAS_JOB_REST "20"
#define HWNAS_JOB_WEIGHTS "24"
#define HWNAS_JOB_RESULTS "32"
#define HWNAS_JOB_END "40"
#define HWNAS_JOB_ZERO "44"
#define HWNAS_JOB_HIGH "52"

#define HWNAS_MVE_ENTER                                                                                             \
  "push {r4-r11, lr}\n vpush {d8-d15}\n mov r11, r0\n"                                                              \
  "ldrd r0, r2, [r11, #" HWNAS_JOB_ZERO "]\n ldr r4, [r11, #" HWNAS_JOB_HIGH "]\n"                                  \
  "vdup.32 q4, r0\n vdup.32 q5, r2\n vdup.32 q6, r4\n"                                                              \
  "ldrd r5, r9, [r11, #" HWNAS_JOB_WEIGHTS "]\n"
#define HWNAS_MVE_LEAVE "vpop {d8-d15}\n pop {r4-r11, pc}\n"

/* Requantise q by q2: one rounding product, or a shift that rounds half to even (the bias holds 2^(s-1) - 1). */
#define HWNAS_MVE_MULTIPLY(q) "vrmulh.s32 " q ", " q ", q2\n"
#define HWNAS_MVE_SHIFT(q)                                                                                          \
  "vshl.s32 q3, " q ", q2\n vand q3, q3, q7\n vadd.i32 " q ", " q ", q3\n vshl.s32 " q ", " q ", q2\n"
#define HWNAS_MVE_BOUND(q) "vadd.i32 " q ", " q ", q4\n vmax.s32 " q ", " q ", q5\n vmin.s32 " q ", " q ", q6\n"

/* Two rows: 6 loads and 8 VMLADAV for 128 products. */
#define HWNAS_MVE_PAIR_STEP                                                                                         \
  "vldrb.8 q0, [r1], #16\n vldrb.8 q2, [r5], #16\n vmladava.s8 r0, q0, q2\n"                                        \
  "vldrb.8 q1, [r3], #16\n vmladava.s8 r8, q1, q2\n"                                                                \
  "vldrb.8 q3, [r5], #16\n vmladava.s8 r2, q0, q3\n vmladava.s8 r10, q1, q3\n"                                      \
  "vldrb.8 q2, [r5], #16\n vmladava.s8 r4, q0, q2\n vmladava.s8 r12, q1, q2\n"                                      \
  "vldrb.8 q3, [r5], #16\n vmladava.s8 r6, q0, q3\n vmladava.s8 lr, q1, q3\n"
#define HWNAS_MVE_PAIR(name, prepare, requantise)                                                                   \
  extern const char name##_steps[], name##_rest[], name##_end[];                                                    \
  static __attribute__((naked, noipa, unused)) void name(hwnas_mve_job *job __attribute__((unused))) {              \
    __asm volatile(HWNAS_MVE_ENTER prepare                                                                          \
      "1:\n ldm r9, {r0, r2, r4, r6}\n ldm r9!, {r8, r10, r12, lr}\n"                                               \
      "ldrd r1, r3, [r11]\n ldr r7, [r11, #" HWNAS_JOB_PASSES "]\n ldr pc, [r11, #" HWNAS_JOB_FIRST "]\n"           \
      #name "_rest:\n ldr r7, [r11, #" HWNAS_JOB_REST "]\n vctp.8 r7\n"                                             \
      "vpstt\n vldrbt.8 q0, [r1]\n vldrbt.8 q1, [r3]\n add r1, r7\n add r3, r7\n"                                   \
      "vldrb.8 q2, [r5]\n add r5, r7\n vmladava.s8 r0, q0, q2\n vmladava.s8 r8, q1, q2\n"                           \
      "vldrb.8 q3, [r5]\n add r5, r7\n vmladava.s8 r2, q0, q3\n vmladava.s8 r10, q1, q3\n"                          \
      "vldrb.8 q2, [r5]\n add r5, r7\n vmladava.s8 r4, q0, q2\n vmladava.s8 r12, q1, q2\n"                          \
      "vldrb.8 q3, [r5]\n add r5, r7\n vmladava.s8 r6, q0, q3\n vmladava.s8 lr, q1, q3\n"                           \
      "ldr r7, [r11, #" HWNAS_JOB_PASSES "]\n ldr pc, [r11, #" HWNAS_JOB_STEPS "]\n"                                \
      #name "_steps:\n" HWNAS_MVE_PAIR_STEP HWNAS_MVE_PAIR_STEP HWNAS_MVE_PAIR_STEP HWNAS_MVE_PAIR_STEP             \
      "subs r7, #1\n bne " #name "_steps\n"                                                                         \
      #name "_end:\n vldrw.32 q2, [r9], #16\n"                                                                      \
      "vmov q0[2], q0[0], r0, r4\n vmov q0[3], q0[1], r2, r6\n"                                                     \
      "vmov q1[2], q1[0], r8, r12\n vmov q1[3], q1[1], r10, lr\n"                                                   \
      requantise("q0") HWNAS_MVE_BOUND("q0") requantise("q1") HWNAS_MVE_BOUND("q1")                                 \
      "ldrd r0, r2, [r11, #" HWNAS_JOB_RESULTS "]\n vstrb.32 q0, [r0], #4\n vstrb.32 q1, [r2], #4\n"                \
      "strd r0, r2, [r11, #" HWNAS_JOB_RESULTS "]\n ldr r4, [r11, #" HWNAS_JOB_END "]\n"                            \
      "cmp r9, r4\n bne 1b\n" HWNAS_MVE_LEAVE);                                                                     \
  }
#define HWNAS_MVE_PAIR_STEP_BYTES 56

/* One row: 5 loads and 4 VMLADAV for 64 products. */
#define HWNAS_MVE_ROW_STEP                                                                                          \
  "vldrb.8 q0, [r1], #16\n vldrb.8 q2, [r5], #16\n vmladava.s8 r0, q0, q2\n"                                        \
  "vldrb.8 q3, [r5], #16\n vmladava.s8 r2, q0, q3\n"                                                                \
  "vldrb.8 q2, [r5], #16\n vmladava.s8 r4, q0, q2\n"                                                                \
  "vldrb.8 q3, [r5], #16\n vmladava.s8 r6, q0, q3\n"
#define HWNAS_MVE_ROW(name, prepare, requantise)                                                                    \
  extern const char name##_steps[], name##_rest[], name##_end[];                                                    \
  static __attribute__((naked, noipa, unused)) void name(hwnas_mve_job *job __attribute__((unused))) {              \
    __asm volatile(HWNAS_MVE_ENTER prepare                                                                          \
      "ldr r3, [r11, #" HWNAS_JOB_RESULTS "]\n ldr r8, [r11, #" HWNAS_JOB_END "]\n"                                 \
      "1:\n ldm r9!, {r0, r2, r4, r6}\n"                                                                            \
      "ldr r1, [r11]\n ldr r7, [r11, #" HWNAS_JOB_PASSES "]\n ldr pc, [r11, #" HWNAS_JOB_FIRST "]\n"                \
      #name "_rest:\n ldr r7, [r11, #" HWNAS_JOB_REST "]\n vctp.8 r7\n"                                             \
      "vpst\n vldrbt.8 q0, [r1]\n add r1, r7\n"                                                                     \
      "vldrb.8 q2, [r5]\n add r5, r7\n vmladava.s8 r0, q0, q2\n"                                                    \
      "vldrb.8 q3, [r5]\n add r5, r7\n vmladava.s8 r2, q0, q3\n"                                                    \
      "vldrb.8 q2, [r5]\n add r5, r7\n vmladava.s8 r4, q0, q2\n"                                                    \
      "vldrb.8 q3, [r5]\n add r5, r7\n vmladava.s8 r6, q0, q3\n"                                                    \
      "ldr r7, [r11, #" HWNAS_JOB_PASSES "]\n ldr pc, [r11, #" HWNAS_JOB_STEPS "]\n"                                \
      #name "_steps:\n" HWNAS_MVE_ROW_STEP HWNAS_MVE_ROW_STEP HWNAS_MVE_ROW_STEP HWNAS_MVE_ROW_STEP                 \
      "subs r7, #1\n bne " #name "_steps\n"                                                                         \
      #name "_end:\n vldrw.32 q2, [r9], #16\n"                                                                      \
      "vmov q0[2], q0[0], r0, r4\n vmov q0[3], q0[1], r2, r6\n"                                                     \
      requantise("q0") HWNAS_MVE_BOUND("q0") "vstrb.32 q0, [r3], #4\n cmp r9, r8\n bne 1b\n" HWNAS_MVE_LEAVE);      \
  }
#define HWNAS_MVE_ROW_STEP_BYTES 36

HWNAS_MVE_PAIR(hwnas_mve_pair_multiply, "", HWNAS_MVE_MULTIPLY)
HWNAS_MVE_ROW(hwnas_mve_row_multiply, "", HWNAS_MVE_MULTIPLY)
HWNAS_MVE_PAIR(hwnas_mve_pair_shift, "vmov.i32 q7, #1\n", HWNAS_MVE_SHIFT)
HWNAS_MVE_ROW(hwnas_mve_row_shift, "vmov.i32 q7, #1\n", HWNAS_MVE_SHIFT)

/* Where a block begins, for a depth known when the code is written. */
#define HWNAS_MVE_ENTRY(name, bytes, depth)                                                                         \
  ((depth) < 16 ? name##_end + 1 : name##_steps + (-((depth) / 16) & 3) * (bytes) + 1)

HWNAS_INLINE void hwnas_mve_blocks(hwnas_mve_job *job, int32_t rows, int32_t outputs, int32_t depth, int32_t multiply) {
  (void)outputs;
  job->rest = depth % 16;
  job->passes = (depth / 16 + 3) / 4;
  if (rows == 2 && multiply) {
    job->steps = HWNAS_MVE_ENTRY(hwnas_mve_pair_multiply, HWNAS_MVE_PAIR_STEP_BYTES, depth);
    job->first = depth % 16 ? hwnas_mve_pair_multiply_rest + 1 : job->steps;
    hwnas_mve_pair_multiply(job);
  } else if (rows == 2) {
    job->steps = HWNAS_MVE_ENTRY(hwnas_mve_pair_shift, HWNAS_MVE_PAIR_STEP_BYTES, depth);
    job->first = depth % 16 ? hwnas_mve_pair_shift_rest + 1 : job->steps;
    hwnas_mve_pair_shift(job);
  } else if (multiply) {
    job->steps = HWNAS_MVE_ENTRY(hwnas_mve_row_multiply, HWNAS_MVE_ROW_STEP_BYTES, depth);
    job->first = depth % 16 ? hwnas_mve_row_multiply_rest + 1 : job->steps;
    hwnas_mve_row_multiply(job);
  } else {
    job->steps = HWNAS_MVE_ENTRY(hwnas_mve_row_shift, HWNAS_MVE_ROW_STEP_BYTES, depth);
    job->first = depth % 16 ? hwnas_mve_row_shift_rest + 1 : job->steps;
    hwnas_mve_row_shift(job);
  }
}

HWNAS_INLINE int32_t hwnas_mve_product(const int8_t *row, const int8_t *weights, int32_t depth) {
  int32_t sum = 0;
  __asm volatile("dlstp.8 lr, %3\n1:\n vldrb.8 q0, [%1], #16\n vldrb.8 q1, [%2], #16\n vmladava.s8 %0, q0, q1\n"
                 "letp lr, 1b"
                 : "+Te"(sum), "+r"(row), "+r"(weights) : "r"(depth) : "lr", "d0", "d1", "d2", "d3", "memory");
  return sum;
}
#else
HWNAS_INLINE int32_t hwnas_mve_product(const int8_t *row, const int8_t *weights, int32_t depth) {
  int32_t sum = 0;
  for (int32_t k = 0; k < depth; k++) sum += row[k] * weights[k];
  return sum;
}
#endif

#if !HWNAS_MVE
HWNAS_INLINE void hwnas_mve_blocks(hwnas_mve_job *job, int32_t rows, int32_t outputs, int32_t depth, int32_t multiply) {
  const int32_t rest = depth % 16;
  for (int32_t r = 0; r < rows; r++)
    for (int32_t o = 0; o < outputs / 4 * 4; o++) {
      const int8_t *block = job->weights + o / 4 * 4 * depth;
      const int32_t *parameters = job->parameters + o / 4 * 8 + o % 4;
      int32_t sum = parameters[0] + hwnas_mve_product(job->rows[r], block + o % 4 * rest, rest);
      for (int32_t k = rest; k < depth; k += 16)
        sum += hwnas_mve_product(job->rows[r] + k, block + (k - rest) * 4 + rest * 4 + o % 4 * 16, 16);
      const int32_t value = hwnas_mve_rescaled(sum, parameters[4], multiply);
      job->results[r][o] = hwnas_mve_byte(value + job->zero, job->low, job->high);
    }
}
#endif

/* All output channels of one or two rows of activations; results of a row are `stride` bytes apart. */
HWNAS_INLINE void hwnas_mve_sums(hwnas_mve_job *job, uint8_t *result, int32_t rows, int32_t stride, int32_t outputs,
                                 int32_t depth, int32_t multiply) {
  job->results[0] = result;
  job->results[1] = result + stride;
  if (outputs >= 4) hwnas_mve_blocks(job, rows, outputs, depth, multiply);
  const int32_t *parameters = job->parameters + outputs / 4 * 8;
  for (int32_t o = outputs / 4 * 4; o < outputs; o++, parameters += 2)
    for (int32_t r = 0; r < rows; r++) {
      int32_t sum = parameters[0] + hwnas_mve_product(job->rows[r], job->weights + o * depth, depth);
      const int32_t value = hwnas_mve_rescaled(sum, parameters[1], multiply);
      result[r * stride + o] = hwnas_mve_byte(value + job->zero, job->low, job->high);
    }
}
