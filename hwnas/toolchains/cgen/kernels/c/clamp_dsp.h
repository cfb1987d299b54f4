/* Bounds that a clamp narrows, kept for a whole tensor at once: two instructions for each side of four values, where
 * comparing each takes six. */
#if HWNAS_DSP
#define HWNAS_CHOSEN(name, difference, x, y)                                                              \
  HWNAS_INLINE uint32_t hwnas_##name(uint32_t a, uint32_t b) {                                            \
    uint32_t r;                                                                                           \
    __asm__(difference " %0, %1, %2\n\tsel %0, " x ", " y : "=&r"(r) : "r"(a), "r"(b) : "cc");            \
    return r;                                                                                             \
  }
HWNAS_CHOSEN(larger_signed, "ssub8", "%1", "%2")
HWNAS_CHOSEN(smaller_signed, "ssub8", "%2", "%1")
HWNAS_CHOSEN(larger_unsigned, "usub8", "%1", "%2")
HWNAS_CHOSEN(smaller_unsigned, "usub8", "%2", "%1")
#else
HWNAS_INLINE uint32_t hwnas_chosen(uint32_t a, uint32_t b, uint32_t flip, int32_t larger) {
  uint32_t r = 0;
  for (int32_t k = 0; k < 32; k += 8) {
    const uint32_t x = a >> k & 0xFF, y = b >> k & 0xFF;
    r |= (((x ^ flip) > (y ^ flip)) == (larger != 0) ? x : y) << k;
  }
  return r;
}
HWNAS_INLINE uint32_t hwnas_larger_signed(uint32_t a, uint32_t b) { return hwnas_chosen(a, b, 0x80, 1); }
HWNAS_INLINE uint32_t hwnas_smaller_signed(uint32_t a, uint32_t b) { return hwnas_chosen(a, b, 0x80, 0); }
HWNAS_INLINE uint32_t hwnas_larger_unsigned(uint32_t a, uint32_t b) { return hwnas_chosen(a, b, 0, 1); }
HWNAS_INLINE uint32_t hwnas_smaller_unsigned(uint32_t a, uint32_t b) { return hwnas_chosen(a, b, 0, 0); }
#endif

HWNAS_INLINE void hwnas_clamp_bytes(uint8_t *y, int32_t count, int32_t low, int32_t high, int32_t is_signed) {
  const uint32_t least = (uint32_t)(low & 0xFF) * 0x01010101u, most = (uint32_t)(high & 0xFF) * 0x01010101u;
  HWNAS_UNROLLED(4)
  for (int32_t k = 0; k < count / 4; k++) {
    const uint32_t word = hwnas_load32(y + 4 * k);
    hwnas_store32(y + 4 * k, is_signed ? hwnas_smaller_signed(hwnas_larger_signed(word, least), most)
                                       : hwnas_smaller_unsigned(hwnas_larger_unsigned(word, least), most));
  }
  for (int32_t k = count & ~3; k < count; k++) y[k] = (uint8_t)hwnas_clipped(hwnas_byte(y, k, is_signed), low, high);
}
