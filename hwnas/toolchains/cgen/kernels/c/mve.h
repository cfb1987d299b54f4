/* What all MVE kernels share: vector code where gcc compiles it for a core with MVE, and the same integers from plain
 * C elsewhere. Built without optimisation, gcc does not see the constants that inline assembly takes. */
#if defined(__ARM_FEATURE_MVE) && defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__)
#define HWNAS_MVE 1
#include <arm_mve.h>
#else
#define HWNAS_MVE 0
#endif

/* A sum times a multiplier over 2^32, to nearest; or over 2^-factor, to nearest where the sum holds 2^(shift - 1) - 1,
 * ties to even: its lowest kept bit only matters where all below are set. */
HWNAS_INLINE int32_t hwnas_mve_rescaled(int32_t sum, int32_t factor, int32_t multiply) {
  if (multiply) return (int32_t)(((int64_t)sum * factor + 0x80000000LL) >> 32);
  return (sum + ((sum >> -factor) & 1)) >> -factor;
}

HWNAS_INLINE uint8_t hwnas_mve_byte(int32_t value, int32_t low, int32_t high) {
  return (uint8_t)(value < low ? low : value > high ? high : value);
}

/* Bytes moved and their sign turned, 16 at a time. `flip` is 0x80 where unsigned activations become signed (their
 * zero moves to -128), else 0. */
#if HWNAS_MVE
HWNAS_INLINE void hwnas_mve_flip(int8_t *to, const uint8_t *from, int32_t count, uint8_t flip) {
  uint8x16_t turned = vdupq_n_u8(flip);
  __asm volatile("wlstp.8 lr, %2, 2f\n1:\n vldrb.8 q0, [%1], #16\n veor q0, q0, %q3\n vstrb.8 q0, [%0], #16\n"
                 "letp lr, 1b\n2:"
                 : "+r"(to), "+r"(from) : "r"(count), "w"(turned) : "lr", "d0", "d1", "memory");
}

HWNAS_INLINE void hwnas_mve_fill(int8_t *to, int32_t count, uint8_t value) {
  uint8x16_t values = vdupq_n_u8(value);
  __asm volatile("wlstp.8 lr, %1, 2f\n1:\n vstrb.8 %q2, [%0], #16\n letp lr, 1b\n2:"
                 : "+r"(to) : "r"(count), "w"(values) : "lr", "memory");
}
#else
HWNAS_INLINE void hwnas_mve_flip(int8_t *to, const uint8_t *from, int32_t count, uint8_t flip) {
  for (int32_t i = 0; i < count; i++) to[i] = (int8_t)(from[i] ^ flip);
}

HWNAS_INLINE void hwnas_mve_fill(int8_t *to, int32_t count, uint8_t value) {
  for (int32_t i = 0; i < count; i++) to[i] = (int8_t)value;
}
#endif
