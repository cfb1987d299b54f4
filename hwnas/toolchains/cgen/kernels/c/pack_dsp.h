/* Packs of activations for dot_dsp.h: bytes widened to 16 bits, in the order in which products take them. */

HWNAS_INLINE uint32_t hwnas_even(uint32_t four, int32_t is_signed) {
  return is_signed ? hwnas_sxtb16(four) : hwnas_uxtb16(four);
}
HWNAS_INLINE uint32_t hwnas_odd(uint32_t four, int32_t is_signed) {
  return is_signed ? hwnas_sxtb16_ror8(four) : hwnas_uxtb16_ror8(four);
}

/* One to three bytes, and zeros behind them. */
HWNAS_INLINE uint32_t hwnas_load_some(const uint8_t *from, int32_t count) {
  uint32_t word = from[0];
  if (count > 1) word |= (uint32_t)from[1] << 8;
  if (count > 2) word |= (uint32_t)from[2] << 16;
  return word;
}

HWNAS_INLINE uint32_t *hwnas_put_pair(uint32_t *pack, uint32_t a, uint32_t b, int32_t is_signed) {
  pack[0] = hwnas_even(a, is_signed);
  pack[1] = hwnas_even(b, is_signed);
  pack[2] = hwnas_odd(a, is_signed);
  pack[3] = hwnas_odd(b, is_signed);
  return pack + 4;
}

HWNAS_INLINE uint32_t *hwnas_put_single(uint32_t *pack, uint32_t a, int32_t is_signed) {
  pack[0] = hwnas_even(a, is_signed);
  pack[1] = hwnas_odd(a, is_signed);
  return pack + 2;
}

#if HWNAS_DSP
/* Four words go out by one instruction, which gcc 12 does not find. */
#define HWNAS_PACK_PAIR(extend)                                                                                   \
  __asm__ volatile("ldr r4, [%1], #4\n ldr r5, [%2], #4\n " extend " r6, r4, ror #8\n " extend                    \
                   " r8, r5, ror #8\n " extend " r4, r4\n " extend " r5, r5\n stm %0!, {r4, r5, r6, r8}"          \
                   : "+r"(pack), "+r"(a), "+r"(b) : : "r4", "r5", "r6", "r8", "memory")
#define HWNAS_PACK_SINGLE(extend)                                                                                 \
  __asm__ volatile("ldr r4, [%1], #4\n " extend " r5, r4, ror #8\n " extend " r4, r4\n strd r4, r5, [%0], #8"     \
                   : "+r"(pack), "+r"(a) : : "r4", "r5", "memory")
#endif

/* `count` bytes of two pixels; the last four is filled up with zeros. */
HWNAS_INLINE uint32_t *hwnas_pack_pair(uint32_t *pack, const uint8_t *a, const uint8_t *b, int32_t count,
                                       int32_t is_signed) {
#if HWNAS_DSP
#pragma GCC unroll 4
  for (int32_t i = 0; i < count / 4; i++) {
    if (is_signed) HWNAS_PACK_PAIR("sxtb16");
    else HWNAS_PACK_PAIR("uxtb16");
  }
#else
  for (int32_t i = 0; i < count / 4; i++, a += 4, b += 4)
    pack = hwnas_put_pair(pack, hwnas_load32(a), hwnas_load32(b), is_signed);
#endif
  if (count % 4) pack = hwnas_put_pair(pack, hwnas_load_some(a, count % 4), hwnas_load_some(b, count % 4), is_signed);
  return pack;
}

/* `count` bytes of one pixel. */
HWNAS_INLINE uint32_t *hwnas_pack_single(uint32_t *pack, const uint8_t *a, int32_t count, int32_t is_signed) {
#if HWNAS_DSP
#pragma GCC unroll 4
  for (int32_t i = 0; i < count / 4; i++) {
    if (is_signed) HWNAS_PACK_SINGLE("sxtb16");
    else HWNAS_PACK_SINGLE("uxtb16");
  }
#else
  for (int32_t i = 0; i < count / 4; i++, a += 4) pack = hwnas_put_single(pack, hwnas_load32(a), is_signed);
#endif
  if (count % 4) pack = hwnas_put_single(pack, hwnas_load_some(a, count % 4), is_signed);
  return pack;
}

/* Copies bytes, words at a time: the C library's own may go byte by byte. Returns behind what was written. */
HWNAS_INLINE uint8_t *hwnas_copy(uint8_t *to, const uint8_t *from, int32_t count) {
  int32_t i = 0;
  for (; i + 4 <= count; i += 4) hwnas_store32(to + i, hwnas_load32(from + i));
  for (; i < count; i++) to[i] = from[i];
  return to + count;
}

HWNAS_INLINE uint8_t *hwnas_fill(uint8_t *to, uint32_t four, int32_t count) {
  int32_t i = 0;
  for (; i + 4 <= count; i += 4) hwnas_store32(to + i, four);
  for (; i < count; i++) to[i] = (uint8_t)four;
  return to + count;
}
