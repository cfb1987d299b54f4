/* Average and maximum pools, and means of whole images, channel by channel. What lies outside the input counts as its
 * zero point in an average and is no candidate for a maximum. */

/* Constants of calibration: scale is 2^lift; a mean that is a shift divides by (elements << divide). */
typedef struct {
  int32_t zero, scale;
  hwnas_ends ends;
  int32_t divide, base;
} hwnas_pool;

/* The largest value, or the sum, of rows x columns values of one channel. */
HWNAS_INLINE int32_t hwnas_pooled(const uint8_t *x, int32_t rows, int32_t columns, int32_t row_bytes, int32_t channels,
                                  int32_t is_maximum, int32_t is_signed) {
  int32_t found = is_maximum && is_signed ? -128 : 0;
  HWNAS_UNROLLED(3)
  for (int32_t i = 0; i < rows; i++) {
    HWNAS_UNROLLED(8)
    for (int32_t j = 0; j < columns; j++) {
      const int32_t value = hwnas_byte(x, i * row_bytes + j * channels, is_signed);
      if (!is_maximum)
        found += value;
      else if (value > found)
        found = value;
    }
  }
  return found;
}

/* sum / divisor, rounded half to even; base * divisor, which keeps the quotient's parity, makes the sum positive. */
HWNAS_INLINE int32_t hwnas_quotient(int32_t sum, int32_t divisor, int32_t base) {
  const uint32_t lifted = (uint32_t)(sum + divisor * base), quotient = lifted / (uint32_t)divisor;
  const uint32_t twice = (lifted - quotient * (uint32_t)divisor) * 2;
  return (int32_t)(quotient + (twice + (quotient & 1) > (uint32_t)divisor)) - base;
}

/* All channels of one output pixel, from a window that lies inside the input. share: the elements of an average. */
HWNAS_INLINE void hwnas_pool_pixel(uint8_t *y, const uint8_t *x, int32_t rows, int32_t columns, int32_t row_bytes,
                                   int32_t channels, int32_t share, int32_t entry, const hwnas_pool *p,
                                   int32_t is_maximum, int32_t is_shift, int32_t is_clamped, int32_t signed_x,
                                   int32_t signed_y) {
  const int32_t elements = is_maximum ? 1 : rows * columns;
  int32_t offset = -elements * p->zero * p->scale;
  if (is_maximum && is_shift) offset += (1 << (entry - 1)) - 1;
  for (int32_t c = 0; c < channels; c++, x++, y++) {
    const int32_t found = hwnas_pooled(x, rows, columns, row_bytes, channels, is_maximum, signed_x);
    const int32_t sum = found * p->scale + offset;
    if (is_maximum || !is_shift)
      hwnas_finish(y, sum, entry, &p->ends, is_shift, is_clamped, signed_y);
    else
      *y = (uint8_t)hwnas_saturated(hwnas_quotient(sum, share << p->divide, p->base) + p->ends.zero, &p->ends,
                                    is_clamped, signed_y);
  }
}

/* table: multipliers, one for each number of elements of an average where `is_partial`, else one; or the shift of a
 * maximum. scalars: zero, 2^lift, result's zero, low, high, divide, base. */
HWNAS_INLINE int32_t hwnas_pool_scalar(const void *x, const int32_t *table, const int32_t *scalars, void *y,
                                       int32_t height, int32_t width, int32_t channels, int32_t rows, int32_t columns,
                                       int32_t stride_y, int32_t stride_x, int32_t top, int32_t left,
                                       int32_t out_height, int32_t out_width, int32_t is_maximum, int32_t is_partial,
                                       int32_t is_shift, int32_t is_clamped, int32_t signed_x, int32_t signed_y) {
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
      const int32_t inside = (y1 - y0) * (x1 - x0);
      if (inside == rows * columns)
        hwnas_pool_pixel(to, from, rows, columns, row_bytes, channels, inside,
                         table[is_partial && !is_shift ? inside - 1 : 0], &p, is_maximum, is_shift, is_clamped,
                         signed_x, signed_y);
      else
        hwnas_pool_pixel(to, from, y1 - y0, x1 - x0, row_bytes, channels, is_partial ? inside : rows * columns,
                         table[is_partial && !is_shift ? inside - 1 : 0], &p, is_maximum, is_shift, is_clamped,
                         signed_x, signed_y);
    }
  }
  return 0;
}
