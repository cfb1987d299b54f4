/* Matrix products on cores without packed arithmetic: up to eight outputs at a time, each value loaded once for them. */

/* sums += values * the weights of eight outputs. */
HWNAS_INLINE void hwnas_dense_eight(int32_t *sums, const uint8_t *values, const int8_t *weights, int32_t depth,
                                    int32_t is_signed) {
#if HWNAS_THUMB2
#define HWNAS_OUTPUT(sum) "ldrsb %[w], [%[weights]], #1\n\tmla %[" sum "], %[x], %[w], %[" sum "]\n\t"
#define HWNAS_STEP(load)                                                                                            \
  load " %[x], [%[values]], #1\n\t" HWNAS_OUTPUT("a") HWNAS_OUTPUT("b") HWNAS_OUTPUT("c") HWNAS_OUTPUT("d")        \
      HWNAS_OUTPUT("e") HWNAS_OUTPUT("f") HWNAS_OUTPUT("g") HWNAS_OUTPUT("h")
#define HWNAS_STEPS(code)                                                                                           \
  __asm__ volatile(code                                                                                             \
                   : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [e] "+r"(e), [f] "+r"(f), [g] "+r"(g),     \
                     [h] "+r"(h), [values] "+r"(values), [weights] "+r"(weights), [x] "=&r"(x), [w] "=&r"(w)        \
                   : [end] "m"(end)                                                                                 \
                   : "cc", "memory")
#define HWNAS_LOOP(load) \
  HWNAS_STEPS("1:\n\t.rept 8\n\t" HWNAS_STEP(load) ".endr\n\tldr %[x], %[end]\n\tcmp %[weights], %[x]\n\tbne.w 1b")
  int32_t a = sums[0], b = sums[1], c = sums[2], d = sums[3], e = sums[4], f = sums[5], g = sums[6], h = sums[7];
  int32_t x, w;
  const int8_t *const end = weights + depth / 8 * 64;
  if (depth >= 8 && is_signed) HWNAS_LOOP("ldrsb");
  if (depth >= 8 && !is_signed) HWNAS_LOOP("ldrb");
  for (int32_t k = 0; k < depth % 8; k++) {
    if (is_signed)
      HWNAS_STEPS(HWNAS_STEP("ldrsb"));
    else
      HWNAS_STEPS(HWNAS_STEP("ldrb"));
  }
  sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d, sums[4] = e, sums[5] = f, sums[6] = g, sums[7] = h;
#undef HWNAS_LOOP
#undef HWNAS_STEPS
#undef HWNAS_STEP
#undef HWNAS_OUTPUT
#else
  for (int32_t k = 0; k < depth; k++)
    for (int32_t o = 0; o < 8; o++) sums[o] += hwnas_byte(values, k, is_signed) * weights[8 * k + o];
#endif
}

HWNAS_INLINE void hwnas_dense_block(uint8_t *y, const uint8_t *x, const int8_t *weights, const int32_t *params,
                                    int32_t depth, int32_t outputs, const hwnas_ends *ends, int32_t is_shift,
                                    int32_t is_clamped, int32_t signed_x, int32_t signed_y) {
  int32_t sums[8];
  HWNAS_UNROLLED(8)
  for (int32_t o = 0; o < outputs; o++) sums[o] = params[o];
  if (outputs == 8) {
    hwnas_dense_eight(sums, x, weights, depth, signed_x);
  } else {
    HWNAS_UNROLLED(4)
    for (int32_t k = 0; k < depth; k++) {
      const int32_t value = hwnas_byte(x, k, signed_x);
      HWNAS_UNROLLED(8)
      for (int32_t o = 0; o < outputs; o++) sums[o] += value * weights[outputs * k + o];
    }
  }
  HWNAS_UNROLLED(8)
  for (int32_t o = 0; o < outputs; o++)
    hwnas_finish(y + o, sums[o], params[outputs + o], ends, is_shift, is_clamped, signed_y);
}

/* Weights: for each block of `block` outputs (the last may be narrower), depth x outputs; params: bias of each, then
 * multiplier or shift of each. scalars: zero point and bounds of the result. */
HWNAS_INLINE int32_t hwnas_dense_scalar(const void *x, const int8_t *weights, const int32_t *params,
                                        const int32_t *scalars, void *y, int32_t rows, int32_t depth, int32_t outputs,
                                        int32_t block, int32_t is_shift, int32_t is_clamped, int32_t signed_x,
                                        int32_t signed_y) {
  const hwnas_ends ends = {scalars[0], scalars[1], scalars[2]};
  const int32_t rest = outputs % block;
  for (int32_t row = 0; row < rows; row++) {
    const uint8_t *from = (const uint8_t *)x + row * depth;
    uint8_t *to = (uint8_t *)y + row * outputs;
    const int8_t *w = weights;
    const int32_t *p = params;
    HWNAS_UNROLLED(1)
    for (int32_t o = 0; o + block <= outputs; o += block, w += block * depth, p += 2 * block)
      hwnas_dense_block(to + o, from, w, p, depth, block, &ends, is_shift, is_clamped, signed_x, signed_y);
    if (rest)
      hwnas_dense_block(to + outputs - rest, from, w, p, depth, rest, &ends, is_shift, is_clamped, signed_x, signed_y);
  }
  return 0;
}
