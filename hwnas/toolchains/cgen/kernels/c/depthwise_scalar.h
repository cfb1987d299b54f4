/* Depthwise convolutions on cores without packed arithmetic: two neighbouring output pixels of a channel at a time. */

HWNAS_INLINE void hwnas_depthwise_cells(uint8_t *y, const hwnas_half *plane, int32_t pitch, const int8_t *weights,
                                        int32_t bias, int32_t entry, int32_t rows, int32_t columns, int32_t step_y,
                                        int32_t step_x, int32_t stride, int32_t channels, int32_t pixels,
                                        const hwnas_ends *ends, int32_t is_shift, int32_t is_clamped,
                                        int32_t is_signed) {
  int32_t sums[2] = {bias, bias};
  HWNAS_UNROLLED(5)
  for (int32_t i = 0; i < rows; i++) {
    HWNAS_UNROLLED(7)
    for (int32_t j = 0; j < columns; j++) {
      const int32_t w = weights[i * columns + j];
      const hwnas_half *at = plane + i * step_y * pitch + j * step_x;
      sums[0] += at[0] * w;
      if (pixels > 1) sums[1] += at[stride] * w;
    }
  }
  hwnas_finish(y, sums[0], entry, ends, is_shift, is_clamped, is_signed);
  if (pixels > 1) hwnas_finish(y + channels, sums[1], entry, ends, is_shift, is_clamped, is_signed);
}

/* Weights: channel by channel, rows x columns. params: bias, and multiplier or shift, of each channel. scalars: the
 * input's zero point, then zero point and bounds of the result. strip: output rows of a strip. */
HWNAS_INLINE int32_t hwnas_depthwise_scalar(const void *x, const int8_t *weights, const int32_t *params,
                                            const int32_t *scalars, void *y, void *scratch, int32_t height,
                                            int32_t width, int32_t channels, int32_t rows, int32_t columns,
                                            int32_t stride_y, int32_t stride_x, int32_t step_y, int32_t step_x,
                                            int32_t top, int32_t left, int32_t out_height, int32_t out_width,
                                            int32_t pitch, int32_t used, int32_t strip, int32_t is_shift, int32_t is_clamped, int32_t signed_x,
                                            int32_t signed_y) {
  const hwnas_ends ends = {scalars[1], scalars[2], scalars[3]};
  hwnas_word *plane = (hwnas_word *)scratch;
  for (int32_t first = 0; first < out_height; first += strip) {
    const int32_t lines = out_height - first < strip ? out_height - first : strip;
    const hwnas_strip s = {height, width, channels, first * stride_y - top,
                           (lines - 1) * stride_y + (rows - 1) * step_y + 1,
                           left,   used,  pitch};
    hwnas_fill_strip(plane, &s, scalars[0]);
    for (int32_t c = 0; c < channels; c++) {
      const int8_t *w = weights + c * rows * columns;
      const int32_t bias = params[2 * c], entry = params[2 * c + 1];
      uint8_t *to = (uint8_t *)y + first * out_width * channels + c;
      const hwnas_half *from = (const hwnas_half *)plane;
      hwnas_gather_strip(plane, (const uint8_t *)x, &s, c, signed_x);
      for (int32_t i = 0; i < lines; i++, from += stride_y * pitch) {
        const hwnas_half *at = from;
        for (int32_t j = 0; j < out_width / 2; j++, at += 2 * stride_x, to += 2 * channels)
          hwnas_depthwise_cells(to, at, pitch, w, bias, entry, rows, columns, step_y, step_x, stride_x, channels, 2,
                                &ends, is_shift, is_clamped, signed_y);
        if (out_width % 2) {
          hwnas_depthwise_cells(to, at, pitch, w, bias, entry, rows, columns, step_y, step_x, stride_x, channels, 1,
                                &ends, is_shift, is_clamped, signed_y);
          to += channels;
        }
      }
    }
  }
  return 0;
}
