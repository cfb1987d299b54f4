/* Floats to 8-bit integers, rounded half to even. A core with a floating-point unit converts by one instruction (in the
 * rounding mode to the nearest even, which is the one after reset); without one, integers take the number apart. */

HWNAS_INLINE int32_t hwnas_nearest(float x) {
#if defined(__ARM_FP) && (__ARM_FP & 4) && defined(__thumb2__) && defined(__GNUC__) && !defined(__SOFTFP__)
  float r;
  int32_t bits, limited;
  __asm__("vcvtr.s32.f32 %0, %1" : "=t"(r) : "t"(x));
  memcpy(&bits, &r, 4);
  __asm__("ssat %0, #16, %1" : "=r"(limited) : "r"(bits));
  return limited;
#else
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t exponent = bits >> 23 & 0xFF, whole = (bits & 0x7FFFFF) | 0x800000;
  int32_t r = 0x7FFF;
  if (exponent < 127 - 1) {
    r = 0; /* below a half */
  } else if (exponent < 127 + 14) {
    const uint32_t shift = 150 - exponent; /* 10 to 24 */
    r = (int32_t)((whole + ((1u << (shift - 1)) - 1) + (whole >> shift & 1)) >> shift);
  }
  return bits >> 31 ? -r : r;
#endif
}

/* x * 2^power; what is too small for a number becomes 0, as it would be rounded. */
HWNAS_INLINE float hwnas_scaled(float x, int32_t power) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const int32_t exponent = (int32_t)(bits >> 23 & 0xFF), moved = exponent + power;
  if (exponent == 0 || moved <= 0) bits &= 0x80000000u;
  else bits = (bits & 0x807FFFFFu) | (uint32_t)(exponent == 255 || moved > 254 ? 254 : moved) << 23;
  memcpy(&x, &bits, 4);
  return x;
}

/* factor: the reciprocal of a step that is a power of two (is_shift), 2^scalars[1], or the step. */
HWNAS_INLINE int32_t hwnas_quantize_scalar(const float *x, const float *factor, const int32_t *scalars, void *y,
                                           int32_t count, int32_t is_shift, int32_t is_signed) {
  const float by = factor[0];
  const int32_t zero = scalars[0], power = scalars[1];
  uint8_t *to = (uint8_t *)y;
  (void)power;
  HWNAS_UNROLLED(4)
  for (int32_t k = 0; k < count; k++) {
#if defined(__SOFTFP__)
    const float scaled = is_shift ? hwnas_scaled(x[k], power) : x[k] / by;
#else
    const float scaled = is_shift ? x[k] * by : x[k] / by;
#endif
    to[k] = (uint8_t)hwnas_narrowed(hwnas_nearest(scaled) + zero, is_signed);
  }
  return 0;
}
