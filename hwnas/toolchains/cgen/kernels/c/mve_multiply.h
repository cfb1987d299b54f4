/* Products of two tensors for MVE, eight elements at a time: of one shape, or of pixels with one row of channels. */
#if HWNAS_MVE
/* Product of q0 and q1 less their zero points, to eight results in q0. */
#define HWNAS_MVE_PRODUCT                                                                                           \
  "vsub.i16 q0, q0, %[za]\n vsub.i16 q1, q1, %[zb]\n vmullb.s16 q2, q0, q1\n vmullt.s16 q3, q0, q1\n"
#define HWNAS_MVE_HALF_EVEN(q)                                                                                      \
  "vadd.i32 " q ", " q ", %[half]\n vshl.s32 q0, " q ", %q[factor]\n vand q0, q0, %q[ones]\n"                       \
  "vadd.i32 " q ", " q ", q0\n vshl.s32 " q ", " q ", %q[factor]\n"
#define HWNAS_MVE_SCALED "vrmulh.s32 q2, q2, %q[factor]\n vrmulh.s32 q3, q3, %q[factor]\n"
#define HWNAS_MVE_TO_BYTES                                                                                          \
  "vqmovnb.s32 q0, q2\n vqmovnt.s32 q0, q3\n vqadd.s16 q0, q0, %[zero]\n vmax.s16 q0, q0, %q[low]\n"                \
  "vmin.s16 q0, q0, %q[high]\n"
#define HWNAS_MVE_OPERANDS                                                                                          \
  [za] "r"(v[0]), [zb] "r"(v[1]), [half] "r"(half), [zero] "r"(v[3]), [factor] "w"(factor), [ones] "w"(ones),       \
      [low] "w"(low), [high] "w"(high)
#define HWNAS_MVE_USED "lr", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "memory"
/* `eights` times eight elements, then `rest`, which is a constant. */
#define HWNAS_MVE_MULTIPLY_ROW(ta, tb, round)                                                                       \
  do {                                                                                                              \
    __asm volatile("wls lr, %[eights], 2f\n1:\n vldrb." ta " q0, [%[a]], #8\n vldrb." tb " q1, [%[b]], #8\n"        \
                   HWNAS_MVE_PRODUCT round HWNAS_MVE_TO_BYTES "vstrb.16 q0, [%[y]], #8\n le lr, 1b\n2:"             \
                   : [a] "+l"(a), [b] "+l"(b), [y] "+l"(y) : [eights] "r"(channels / 8), HWNAS_MVE_OPERANDS         \
                   : HWNAS_MVE_USED);                                                                               \
    if (rest)                                                                                                       \
      __asm volatile("vctp.16 %[rest]\n vpstt\n vldrbt." ta " q0, [%[a]]\n vldrbt." tb " q1, [%[b]]\n"              \
                     HWNAS_MVE_PRODUCT round HWNAS_MVE_TO_BYTES "vpst\n vstrbt.16 q0, [%[y]]"                       \
                     : : [a] "l"(a), [b] "l"(b), [y] "l"(y), [rest] "r"(rest), HWNAS_MVE_OPERANDS                   \
                     : HWNAS_MVE_USED);                                                                             \
  } while (0)
#define HWNAS_MVE_MULTIPLY_BY_KIND(ta, tb)                                                                          \
  do {                                                                                                              \
    if (even) HWNAS_MVE_MULTIPLY_ROW(ta, tb, HWNAS_MVE_HALF_EVEN("q2") HWNAS_MVE_HALF_EVEN("q3"));                  \
    else HWNAS_MVE_MULTIPLY_ROW(ta, tb, HWNAS_MVE_SCALED);                                                          \
  } while (0)
#endif

/* v: zero points of pixels and row, minus the shift (even: to nearest, ties to even) or the multiplier, then zero
 * point, smallest and largest integer of the result. */
HWNAS_INLINE int32_t hwnas_mve_multiply(const void *first, const void *second, const int32_t *v, void *result,
                                        int32_t pixels, int32_t channels, int32_t swapped, int32_t signed_a,
                                        int32_t signed_b, int32_t even) {
  const uint8_t *a = (const uint8_t *)(swapped ? second : first), *row = (const uint8_t *)(swapped ? first : second);
  uint8_t *y = (uint8_t *)result;
  const int32_t half = even ? (1 << (-v[2] - 1)) - 1 : 0;
#if HWNAS_MVE
  const int32x4_t factor = vdupq_n_s32(v[2]), ones = vdupq_n_s32(1);
  const int16x8_t low = vdupq_n_s16((int16_t)v[4]), high = vdupq_n_s16((int16_t)v[5]);
  const int32_t rest = channels % 8;
  for (int32_t p = 0; p < pixels; p++, a += rest, y += rest) {
    const uint8_t *b = row;
    if (signed_a && signed_b) HWNAS_MVE_MULTIPLY_BY_KIND("s16", "s16");
    else if (signed_a) HWNAS_MVE_MULTIPLY_BY_KIND("s16", "u16");
    else if (signed_b) HWNAS_MVE_MULTIPLY_BY_KIND("u16", "s16");
    else HWNAS_MVE_MULTIPLY_BY_KIND("u16", "u16");
  }
#else
  for (int32_t p = 0; p < pixels; p++)
    for (int32_t c = 0; c < channels; c++, a++, y++) {
      const int32_t x = (signed_a ? (int8_t)*a : *a) - v[0];
      const int32_t product = x * ((signed_b ? (int8_t)row[c] : row[c]) - v[1]) + half;
      *y = hwnas_mve_byte(hwnas_mve_rescaled(product, v[2], !even) + v[3], v[4], v[5]);
    }
#endif
  return 0;
}
