/* Arithmetic on packed 16-bit halves and 8-bit quarters of words: one instruction each with the DSP extension of
 * Armv7E-M and Armv8-M (Arm Architecture Reference Manual), and the same bits from plain C elsewhere. A word that holds
 * 16-bit halves has the first in its low half. Words are read and written at any address, so code that is built with
 * -mno-unaligned-access is plain C. */
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__thumb2__) && defined(__GNUC__)
#define HWNAS_DSP 1
#else
#define HWNAS_DSP 0
#endif

HWNAS_INLINE uint32_t hwnas_load32(const void *from) {
  uint32_t word;
  memcpy(&word, from, 4);
  return word;
}

HWNAS_INLINE void hwnas_store32(void *to, uint32_t word) { memcpy(to, &word, 4); }

#if HWNAS_DSP

#define HWNAS_UNARY(name, instruction)                     \
  HWNAS_INLINE uint32_t hwnas_##name(uint32_t x) {         \
    uint32_t r;                                            \
    __asm__(instruction : "=r"(r) : "r"(x));               \
    return r;                                              \
  }
#define HWNAS_BINARY(name, instruction)                            \
  HWNAS_INLINE uint32_t hwnas_##name(uint32_t x, uint32_t y) {     \
    uint32_t r;                                                    \
    __asm__(instruction : "=r"(r) : "r"(x), "r"(y));               \
    return r;                                                      \
  }
#define HWNAS_SUM(name, instruction)                                         \
  HWNAS_INLINE int32_t hwnas_##name(uint32_t x, uint32_t y, int32_t sum) {   \
    int32_t r;                                                               \
    __asm__(instruction : "=r"(r) : "r"(x), "r"(y), "r"(sum));               \
    return r;                                                                \
  }
#define HWNAS_SATURATED(name, instruction)       \
  HWNAS_INLINE int32_t hwnas_##name(int32_t x) { \
    int32_t r;                                   \
    __asm__(instruction : "=r"(r) : "r"(x));     \
    return r;                                    \
  }

#else

HWNAS_INLINE int32_t hwnas_low(uint32_t x) { return (int16_t)(x & 0xFFFF); }
HWNAS_INLINE int32_t hwnas_high(uint32_t x) { return (int16_t)(x >> 16); }
HWNAS_INLINE uint32_t hwnas_quarter(uint32_t x, int k) { return x >> (8 * k) & 0xFF; }
HWNAS_INLINE uint32_t hwnas_signed_quarter(uint32_t x, int k) { return (hwnas_quarter(x, k) ^ 0x80) - 0x80; }
HWNAS_INLINE uint32_t hwnas_halves(uint32_t low, uint32_t high) { return (low & 0xFFFF) | high << 16; }
HWNAS_INLINE int32_t hwnas_plus(int32_t sum, int32_t product) { return (int32_t)((uint32_t)sum + (uint32_t)product); }
HWNAS_INLINE int32_t hwnas_bounded(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

#define HWNAS_UNARY(name, instruction) \
  HWNAS_INLINE uint32_t hwnas_##name(uint32_t x) { return HWNAS_PLAIN_##name; }
#define HWNAS_BINARY(name, instruction) \
  HWNAS_INLINE uint32_t hwnas_##name(uint32_t x, uint32_t y) { return HWNAS_PLAIN_##name; }
#define HWNAS_SUM(name, instruction) \
  HWNAS_INLINE int32_t hwnas_##name(uint32_t x, uint32_t y, int32_t sum) { return HWNAS_PLAIN_##name; }
#define HWNAS_SATURATED(name, instruction) \
  HWNAS_INLINE int32_t hwnas_##name(int32_t x) { return HWNAS_PLAIN_##name; }

#define HWNAS_PLAIN_sxtb16 hwnas_halves(hwnas_signed_quarter(x, 0), hwnas_signed_quarter(x, 2))
#define HWNAS_PLAIN_sxtb16_ror8 hwnas_halves(hwnas_signed_quarter(x, 1), hwnas_signed_quarter(x, 3))
#define HWNAS_PLAIN_uxtb16 (x & 0xFF00FF)
#define HWNAS_PLAIN_uxtb16_ror8 (x >> 8 & 0xFF00FF)
#define HWNAS_PLAIN_pkhbt16 ((x & 0xFFFF) | y << 16)
#define HWNAS_PLAIN_smlad \
  hwnas_plus(hwnas_plus(sum, hwnas_low(x) * hwnas_low(y)), hwnas_high(x) * hwnas_high(y))
#define HWNAS_PLAIN_smlabb hwnas_plus(sum, hwnas_low(x) * hwnas_low(y))
#define HWNAS_PLAIN_smlabt hwnas_plus(sum, hwnas_low(x) * hwnas_high(y))
#define HWNAS_PLAIN_smlatb hwnas_plus(sum, hwnas_high(x) * hwnas_low(y))
#define HWNAS_PLAIN_ssat8 hwnas_bounded(x, -128, 127)
#define HWNAS_PLAIN_usat8 hwnas_bounded(x, 0, 255)

#endif

/* Two of four quarters, widened: the first and third, or (ror8) the second and fourth. */
HWNAS_UNARY(sxtb16, "sxtb16 %0, %1")
HWNAS_UNARY(sxtb16_ror8, "sxtb16 %0, %1, ror #8")
HWNAS_UNARY(uxtb16, "uxtb16 %0, %1")
HWNAS_UNARY(uxtb16_ror8, "uxtb16 %0, %1, ror #8")

/* Both low halves; that of x comes first. */
HWNAS_BINARY(pkhbt16, "pkhbt %0, %1, %2, lsl #16")

/* sum + x.low * y.low + x.high * y.high, or one product of the halves that are named (b low, t high). */
HWNAS_SUM(smlad, "smlad %0, %1, %2, %3")
HWNAS_SUM(smlabb, "smlabb %0, %1, %2, %3")
HWNAS_SUM(smlabt, "smlabt %0, %1, %2, %3")
HWNAS_SUM(smlatb, "smlatb %0, %1, %2, %3")

HWNAS_SATURATED(ssat8, "ssat %0, #8, %1")
HWNAS_SATURATED(usat8, "usat %0, #8, %1")

/* addend + sum * multiplier / 2^32, rounded half up. */
HWNAS_INLINE int32_t hwnas_smmlar(int32_t sum, int32_t multiplier, int32_t addend) {
#if HWNAS_DSP
  int32_t r;
  __asm__("smmlar %0, %1, %2, %3" : "=r"(r) : "r"(sum), "r"(multiplier), "r"(addend));
  return r;
#else
  return (int32_t)(((int64_t)sum * multiplier + ((int64_t)1 << 31)) >> 32) + addend;
#endif
}

/* sum / 2^shift, rounded half to even: sum holds 2^(shift - 1) - 1 more, and multiplier is 2^(32 - shift), shift > 1.
 * The odd bit of the quotient tips the balance only where the sum was a tie. */
HWNAS_INLINE int32_t hwnas_half_even(int32_t sum, int32_t multiplier) {
  int64_t scaled = (int64_t)sum * multiplier;
  scaled += (int64_t)((int32_t)(scaled >> 32) & 1) * multiplier;
  return (int32_t)(scaled >> 32);
}
