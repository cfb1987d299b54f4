/* Floats to integers for MVE with floating point: four at a time, rounded half to even. */
/* y = clip(x * bounds[0], bounds[1], bounds[2]) to the nearest integer, plus the zero point. */
HWNAS_INLINE int32_t hwnas_mve_quantize(const float *x, const int32_t *zero, const float *bounds, void *result,
                                        int32_t count) {
  uint8_t *y = (uint8_t *)result;
#if HWNAS_MVE && (__ARM_FEATURE_MVE & 2)
  const float32x4_t low = vdupq_n_f32(bounds[1]), high = vdupq_n_f32(bounds[2]);
  __asm volatile("wlstp.32 lr, %2, 2f\n1:\n vldrw.32 q0, [%0], #16\n vmul.f32 q0, q0, %3\n vmaxnm.f32 q0, q0, %q5\n"
                 "vminnm.f32 q0, q0, %q6\n vcvtn.s32.f32 q0, q0\n vadd.i32 q0, q0, %4\n vstrb.32 q0, [%1], #4\n"
                 "letp lr, 1b\n2:"
                 : "+r"(x), "+l"(y) : "r"(count), "r"(bounds[0]), "r"(zero[0]), "w"(low), "w"(high)
                 : "lr", "d0", "d1", "memory");
#else
  for (int32_t i = 0; i < count; i++) {
    const float scaled = x[i] * bounds[0], least = scaled < bounds[1] ? bounds[1] : scaled;
    const float kept = least > bounds[2] ? bounds[2] : least;
    y[i] = (uint8_t)((int32_t)rintf(kept) + zero[0]);
  }
#endif
  return 0;
}
