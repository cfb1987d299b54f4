/* Pools and means of images with packed arithmetic, four channels at a time: sums in 16-bit halves, which hold 256
 * values, and the larger of four quarters in two instructions. */

#if HWNAS_DSP
/* Two quarters of a word, widened and added to two halves: the first and third, or (ror8) the second and fourth. */
#define HWNAS_WIDENED_SUM(name, instruction)                            \
  HWNAS_INLINE uint32_t hwnas_##name(uint32_t sums, uint32_t word) {    \
    uint32_t r;                                                         \
    __asm__(instruction : "=r"(r) : "r"(sums), "r"(word));              \
    return r;                                                           \
  }
HWNAS_WIDENED_SUM(sxtab16, "sxtab16 %0, %1, %2")
HWNAS_WIDENED_SUM(sxtab16_ror8, "sxtab16 %0, %1, %2, ror #8")
HWNAS_WIDENED_SUM(uxtab16, "uxtab16 %0, %1, %2")
HWNAS_WIDENED_SUM(uxtab16_ror8, "uxtab16 %0, %1, %2, ror #8")
#else
HWNAS_INLINE uint32_t hwnas_added_halves(uint32_t x, uint32_t y) {
  return ((x + y) & 0xFFFF) | ((x & 0xFFFF0000u) + (y & 0xFFFF0000u));
}
HWNAS_INLINE uint32_t hwnas_sxtab16(uint32_t sums, uint32_t word) {
  return hwnas_added_halves(sums, hwnas_sxtb16(word));
}
HWNAS_INLINE uint32_t hwnas_sxtab16_ror8(uint32_t sums, uint32_t word) {
  return hwnas_added_halves(sums, hwnas_sxtb16_ror8(word));
}
HWNAS_INLINE uint32_t hwnas_uxtab16(uint32_t sums, uint32_t word) {
  return hwnas_added_halves(sums, hwnas_uxtb16(word));
}
HWNAS_INLINE uint32_t hwnas_uxtab16_ror8(uint32_t sums, uint32_t word) {
  return hwnas_added_halves(sums, hwnas_uxtb16_ror8(word));
}
#endif

/* Sums of rows x columns (at most 256) values of four channels. */
HWNAS_INLINE void hwnas_sum_four(int32_t *sums, const uint8_t *x, int32_t rows, int32_t columns, int32_t row_bytes,
                                 int32_t channels, int32_t is_signed) {
  uint32_t even = 0, odd = 0;
  HWNAS_UNROLLED(3)
  for (int32_t i = 0; i < rows; i++) {
    HWNAS_UNROLLED(8)
    for (int32_t j = 0; j < columns; j++) {
      const uint32_t word = hwnas_load32(x + i * row_bytes + j * channels);
      even = is_signed ? hwnas_sxtab16(even, word) : hwnas_uxtab16(even, word);
      odd = is_signed ? hwnas_sxtab16_ror8(odd, word) : hwnas_uxtab16_ror8(odd, word);
    }
  }
  sums[0] += is_signed ? (int16_t)(even & 0xFFFF) : (int32_t)(even & 0xFFFF);
  sums[1] += is_signed ? (int16_t)(odd & 0xFFFF) : (int32_t)(odd & 0xFFFF);
  sums[2] += is_signed ? (int16_t)(even >> 16) : (int32_t)(even >> 16);
  sums[3] += is_signed ? (int16_t)(odd >> 16) : (int32_t)(odd >> 16);
}

/* The sum, or the largest, of rows x columns values of four channels. */
HWNAS_INLINE void hwnas_pool_four(int32_t *found, const uint8_t *x, int32_t rows, int32_t columns, int32_t row_bytes,
                                  int32_t channels, int32_t is_maximum, int32_t is_signed) {
  if (is_maximum) {
    uint32_t best = is_signed ? 0x80808080u : 0;
    HWNAS_UNROLLED(3)
    for (int32_t i = 0; i < rows; i++) {
      HWNAS_UNROLLED(8)
      for (int32_t j = 0; j < columns; j++) {
        const uint32_t word = hwnas_load32(x + i * row_bytes + j * channels);
        best = is_signed ? hwnas_larger_signed(word, best) : hwnas_larger_unsigned(word, best);
      }
    }
    HWNAS_UNROLLED(4)
    for (int32_t c = 0; c < 4; c++)
      found[c] = is_signed ? (int8_t)(best >> (8 * c) & 0xFF) : (int32_t)(best >> (8 * c) & 0xFF);
    return;
  }
  found[0] = found[1] = found[2] = found[3] = 0;
  if (rows * columns <= 256) {
    hwnas_sum_four(found, x, rows, columns, row_bytes, channels, is_signed);
    return;
  }
  const int32_t lines = 256 / columns;
  for (int32_t i = 0; i < rows; i += lines)
    hwnas_sum_four(found, x + i * row_bytes, rows - i < lines ? rows - i : lines, columns, row_bytes, channels,
                   is_signed);
}

/* As `hwnas_pool_pixel` of pool_scalar.h, for a number of channels that is a multiple of four. */
HWNAS_INLINE void hwnas_pool_packed_pixel(uint8_t *y, const uint8_t *x, int32_t rows, int32_t columns,
                                          int32_t row_bytes, int32_t channels, int32_t share, int32_t entry,
                                          const hwnas_pool *p, int32_t is_maximum, int32_t is_shift,
                                          int32_t is_clamped, int32_t signed_x, int32_t signed_y) {
  const int32_t elements = is_maximum ? 1 : rows * columns;
  int32_t offset = -elements * p->zero * p->scale;
  if (is_maximum && is_shift) offset += (1 << (entry - 1)) - 1;
  for (int32_t c = 0; c < channels; c += 4) {
    int32_t found[4];
    hwnas_pool_four(found, x + c, rows, columns, row_bytes, channels, is_maximum, signed_x);
    HWNAS_UNROLLED(4)
    for (int32_t k = 0; k < 4; k++) {
      const int32_t sum = hwnas_multiplied(offset, found[k], p->scale);
      if (is_maximum || !is_shift)
        y[c + k] = hwnas_packed_finish(sum, entry, &p->ends, is_shift, is_clamped, signed_y);
      else
        y[c + k] = (uint8_t)hwnas_saturated(hwnas_quotient(sum, share << p->divide, p->base) + p->ends.zero, &p->ends,
                                            is_clamped, signed_y);
    }
  }
}

/* Parameters as those of `hwnas_pool_scalar`. */
HWNAS_INLINE int32_t hwnas_pool_dsp(const void *x, const int32_t *table, const int32_t *scalars, void *y,
                                    int32_t height, int32_t width, int32_t channels, int32_t rows, int32_t columns,
                                    int32_t stride_y, int32_t stride_x, int32_t top, int32_t left, int32_t out_height,
                                    int32_t out_width, int32_t is_maximum, int32_t is_partial, int32_t is_shift,
                                    int32_t is_clamped, int32_t signed_x, int32_t signed_y) {
  const hwnas_pool p = {scalars[0], scalars[1], {scalars[2], scalars[3], scalars[4]}, scalars[5], scalars[6]};
  const int32_t row_bytes = width * channels;
  uint8_t *to = (uint8_t *)y;
  for (int32_t i = 0; i < out_height; i++) {
    const int32_t first = i * stride_y - top, y0 = first < 0 ? 0 : first;
    const int32_t y1 = first + rows < height ? first + rows : height;
    for (int32_t j = 0; j < out_width; j++, to += channels) {
      const int32_t begin = j * stride_x - left, x0 = begin < 0 ? 0 : begin;
      const int32_t x1 = begin + columns < width ? begin + columns : width;
      const uint8_t *from = (const uint8_t *)x + y0 * row_bytes + x0 * channels;
      const int32_t inside = (y1 - y0) * (x1 - x0), entry = table[is_partial && !is_shift ? inside - 1 : 0];
      if (inside == rows * columns)
        hwnas_pool_packed_pixel(to, from, rows, columns, row_bytes, channels, inside, entry, &p, is_maximum, is_shift,
                                is_clamped, signed_x, signed_y);
      else
        hwnas_pool_packed_pixel(to, from, y1 - y0, x1 - x0, row_bytes, channels, is_partial ? inside : rows * columns,
                                entry, &p, is_maximum, is_shift, is_clamped, signed_x, signed_y);
    }
  }
  return 0;
}
