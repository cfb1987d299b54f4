/* Sums and products of two tensors of one shape for MVE, four elements at a time, and tables of 256 results. */
#if HWNAS_MVE
/* y = clip((a * numbers[0] + b * numbers[1] + numbers[2]) >> numbers[3]): the end of the offset rounds. */
#define HWNAS_MVE_ADD(ta, tb)                                                                                       \
  __asm volatile("vdup.32 q2, %4\n vdup.32 q3, %8\n vdup.32 q4, %9\n wlstp.32 lr, %3, 2f\n"                         \
                 "1:\n vldrb." ta " q0, [%0], #4\n vldrb." tb " q1, [%1], #4\n vmlas.s32 q0, q2, %6\n"              \
                 "vmla.s32 q0, q1, %5\n vshl.s32 q0, %7\n vmax.s32 q0, q0, q3\n vmin.s32 q0, q0, q4\n"              \
                 "vstrb.32 q0, [%2], #4\n letp lr, 1b\n2:"                                                          \
                 : "+l"(a), "+l"(b), "+l"(y)                                                                        \
                 : "r"(count), "r"(numbers[0]), "r"(numbers[1]), "r"(numbers[2]), "r"(-numbers[3]),                 \
                   "r"(numbers[5]), "r"(numbers[6])                                                                 \
                 : "lr", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "memory")
/* The same with a shift that rounds half to even (the offset holds 2^(s-1) - 1), and the zero point added behind it. */
#define HWNAS_MVE_ADD_EVEN(ta, tb)                                                                                  \
  __asm volatile("ldr r0, [%4]\n vdup.32 q2, r0\n ldr r0, [%4, #20]\n vdup.32 q3, r0\n ldr r0, [%4, #24]\n"         \
                 "vdup.32 q4, r0\n vdup.32 q5, %7\n vmov.i32 q6, #1\n ldr r0, [%4, #16]\n wlstp.32 lr, %3, 2f\n"    \
                 "1:\n vldrb." ta " q0, [%0], #4\n vldrb." tb " q1, [%1], #4\n vmlas.s32 q0, q2, %6\n"              \
                 "vmla.s32 q0, q1, %5\n vshl.s32 q1, q0, q5\n vand q1, q1, q6\n vadd.i32 q0, q0, q1\n"              \
                 "vshl.s32 q0, %7\n vadd.i32 q0, q0, r0\n vmax.s32 q0, q0, q3\n vmin.s32 q0, q0, q4\n"              \
                 "vstrb.32 q0, [%2], #4\n letp lr, 1b\n2:"                                                          \
                 : "+l"(a), "+l"(b), "+l"(y)                                                                        \
                 : "r"(count), "r"(numbers), "r"(numbers[1]), "r"(numbers[2]), "r"(-numbers[3])                     \
                 : "lr", "r0", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "d10", "d11", "d12",     \
                   "d13", "memory")
#define HWNAS_MVE_BY_SIGNS(code)                                                                                    \
  if (signed_a && signed_b) code("s32", "s32");                                                                     \
  else if (signed_a) code("s32", "u32");                                                                            \
  else if (signed_b) code("u32", "s32");                                                                            \
  else code("u32", "u32")
#endif

/* numbers: factors of a and b, offset, shift, zero point, smallest and largest integer of the result. */
HWNAS_INLINE int32_t hwnas_mve_add(const void *left, const void *right, const int32_t *numbers, void *result,
                                   int32_t count, int32_t signed_a, int32_t signed_b, int32_t even) {
  const uint8_t *a = (const uint8_t *)left, *b = (const uint8_t *)right;
  uint8_t *y = (uint8_t *)result;
#if HWNAS_MVE
  if (even) {
    HWNAS_MVE_BY_SIGNS(HWNAS_MVE_ADD_EVEN);
  } else {
    HWNAS_MVE_BY_SIGNS(HWNAS_MVE_ADD);
  }
#else
  for (int32_t i = 0; i < count; i++) {
    const int32_t x = signed_a ? (int8_t)a[i] : a[i], z = signed_b ? (int8_t)b[i] : b[i];
    const int32_t sum = x * numbers[0] + z * numbers[1] + numbers[2];
    const int32_t value = even ? hwnas_mve_rescaled(sum, -numbers[3], 0) + numbers[4] : sum >> numbers[3];
    y[i] = hwnas_mve_byte(value, numbers[5], numbers[6]);
  }
#endif
  return 0;
}

/* Each byte by its entry: a gather of 16 bytes. The table begins with the smallest integer. */
HWNAS_INLINE void hwnas_mve_looked_up(const uint8_t *from, const uint8_t *table, uint8_t *to, int32_t count,
                                      int32_t is_signed) {
#if HWNAS_MVE
  const uint8x16_t turned = vdupq_n_u8(is_signed ? 0x80 : 0);
  __asm volatile("wlstp.8 lr, %2, 2f\n1:\n vldrb.8 q0, [%0], #16\n veor q0, q0, %q4\n vldrb.u8 q1, [%3, q0]\n"
                 "vstrb.8 q1, [%1], #16\n letp lr, 1b\n2:"
                 : "+r"(from), "+r"(to) : "r"(count), "r"(table), "w"(turned) : "lr", "d0", "d1", "d2", "d3", "memory");
#else
  for (int32_t i = 0; i < count; i++) to[i] = table[is_signed ? from[i] ^ 0x80 : from[i]];
#endif
}

HWNAS_INLINE int32_t hwnas_mve_table(const void *x, const void *table, void *y, int32_t count, int32_t is_signed) {
  hwnas_mve_looked_up((const uint8_t *)x, (const uint8_t *)table, (uint8_t *)y, count, is_signed);
  return 0;
}
