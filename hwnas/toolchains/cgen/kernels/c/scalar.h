/* What every kernel for cores without packed arithmetic ends with: from a 32-bit sum to 8 bits, in integers. */
#include <string.h>

/* Loops whose sums have to stay in registers are written for the instruction set itself where a compiler is known. */
#if defined(__thumb2__) && defined(__GNUC__) && defined(__OPTIMIZE__)
#define HWNAS_THUMB2 1
#else
#define HWNAS_THUMB2 0
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define HWNAS_UNROLLED(n) HWNAS_PRAGMA(GCC unroll n)
#elif defined(__clang__)
#define HWNAS_UNROLLED(n) HWNAS_PRAGMA(unroll(n))
#else
#define HWNAS_UNROLLED(n)
#endif
#define HWNAS_PRAGMA(text) _Pragma(#text)

/* Aligned words over memory that is also read in other sizes. */
#if defined(__GNUC__)
typedef uint32_t __attribute__((may_alias)) hwnas_word;
typedef int32_t __attribute__((may_alias)) hwnas_signed_word;
typedef int16_t __attribute__((may_alias)) hwnas_half;
#else
typedef uint32_t hwnas_word;
typedef int32_t hwnas_signed_word;
typedef int16_t hwnas_half;
#endif

/* The k-th of signed or unsigned bytes. */
HWNAS_INLINE int32_t hwnas_byte(const void *from, int32_t k, int32_t is_signed) {
  return is_signed ? ((const int8_t *)from)[k] : ((const uint8_t *)from)[k];
}

HWNAS_INLINE int32_t hwnas_clipped(int32_t x, int32_t low, int32_t high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

/* The range of 8 bits, which Thumb-2 has instructions for. */
HWNAS_INLINE int32_t hwnas_narrowed(int32_t x, int32_t is_signed) {
#if defined(__thumb2__) && defined(__GNUC__)
  int32_t r;
  if (is_signed)
    __asm__("ssat %0, #8, %1" : "=r"(r) : "r"(x));
  else
    __asm__("usat %0, #8, %1" : "=r"(r) : "r"(x));
  return r;
#else
  return is_signed ? hwnas_clipped(x, -128, 127) : hwnas_clipped(x, 0, 255);
#endif
}

/* sum + x * y; left alone, gcc adds the last term of a sum by an instruction of its own. */
HWNAS_INLINE int32_t hwnas_multiplied(int32_t sum, int32_t x, int32_t y) {
#if defined(__thumb2__) && defined(__GNUC__)
  int32_t r;
  __asm__("mla %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(sum));
  return r;
#else
  return sum + x * y;
#endif
}

/* Zero point and bounds of a result. Bounds are looked at only where a clamp narrows those of the type. */
typedef struct {
  int32_t zero, low, high;
} hwnas_ends;

HWNAS_INLINE int32_t hwnas_saturated(int32_t x, const hwnas_ends *ends, int32_t is_clamped, int32_t is_signed) {
  return is_clamped ? hwnas_clipped(x, ends->low, ends->high) : hwnas_narrowed(x, is_signed);
}

/* zero + sum * m / 2^32, rounded half up (entry is m); or zero + sum / 2^s, rounded half to even (entry is s, and the
 * sum holds 2^(s - 1) - 1 more): the odd bit of the quotient tips the balance only where the sum was a tie. */
HWNAS_INLINE int32_t hwnas_rescaled(int32_t sum, int32_t entry, int32_t zero, int32_t is_shift) {
  if (is_shift) return ((sum + (sum >> entry & 1)) >> entry) + zero;
  return (int32_t)(((int64_t)sum * entry + ((int64_t)zero * 4294967296 + 2147483648)) >> 32);
}

HWNAS_INLINE void hwnas_finish(uint8_t *to, int32_t sum, int32_t entry, const hwnas_ends *ends, int32_t is_shift,
                               int32_t is_clamped, int32_t is_signed) {
  *to = (uint8_t)hwnas_saturated(hwnas_rescaled(sum, entry, ends->zero, is_shift), ends, is_clamped, is_signed);
}
