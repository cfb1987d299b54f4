/* Products of two tensors, NHWC: of one shape, or the second with one value for each channel of an image (a gate).
 * scalars: zero points of both, a shift left, what rounding adds, multiplier or shift, zero point and bounds of the
 * result. */

HWNAS_INLINE int32_t hwnas_multiply_scalar(const void *a, const void *b, const int32_t *scalars, void *y, int32_t count,
                                           int32_t is_shift, int32_t is_clamped, int32_t signed_a, int32_t signed_b,
                                           int32_t signed_y) {
  const int32_t lift = scalars[2], added = scalars[3], entry = scalars[4];
  const hwnas_ends ends = {scalars[5], scalars[6], scalars[7]};
  uint8_t *to = (uint8_t *)y;
  HWNAS_UNROLLED(4)
  for (int32_t k = 0; k < count; k++) {
    const int32_t product = (hwnas_byte(a, k, signed_a) - scalars[0]) * (hwnas_byte(b, k, signed_b) - scalars[1]);
    hwnas_finish(to + k, product * (1 << lift) + added, entry, &ends, is_shift, is_clamped, signed_y);
  }
  return 0;
}

/* Channel by channel: what a gate multiplies with and adds is then the same for all pixels. */
HWNAS_INLINE int32_t hwnas_gate_scalar(const void *a, const void *b, const int32_t *scalars, void *y, int32_t images,
                                       int32_t pixels, int32_t channels, int32_t gates, int32_t gate_first,
                                       int32_t is_shift, int32_t is_clamped, int32_t signed_x, int32_t signed_gate,
                                       int32_t signed_y) {
  const int32_t zero = scalars[gate_first ? 1 : 0], gate_zero = scalars[gate_first ? 0 : 1], lift = scalars[2];
  const int32_t added = scalars[3], entry = scalars[4];
  const hwnas_ends ends = {scalars[5], scalars[6], scalars[7]};
  const void *gate = gate_first ? a : b;
  for (int32_t image = 0; image < images; image++) {
    const uint8_t *x = (const uint8_t *)(gate_first ? b : a) + image * pixels * channels;
    uint8_t *to = (uint8_t *)y + image * pixels * channels;
    for (int32_t c = 0; c < channels; c++) {
      const int32_t by = (hwnas_byte(gate, (gates > 1 ? image * channels : 0) + c, signed_gate) - gate_zero) * (1 << lift);
      const int32_t base = added - zero * by;
      const uint8_t *from = x + c;
      uint8_t *into = to + c;
      HWNAS_UNROLLED(4)
      for (int32_t k = 0; k < pixels; k++, from += channels, into += channels)
        hwnas_finish(into, hwnas_multiplied(base, hwnas_byte(from, 0, signed_x), by), entry, &ends, is_shift, is_clamped,
                     signed_y);
    }
  }
  return 0;
}
