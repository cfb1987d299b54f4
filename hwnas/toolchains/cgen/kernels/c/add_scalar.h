/* Sums and differences of two tensors of one shape. scalars: multipliers, offset, shift, zero point and bounds of the
 * result; the offset holds all that rounding adds, and the zero point where `is_shift` is 0. */
HWNAS_INLINE int32_t hwnas_add_scalar(const void *a, const void *b, const int32_t *scalars, void *y, int32_t count,
                                      int32_t is_shift, int32_t is_clamped, int32_t signed_a, int32_t signed_b,
                                      int32_t signed_y) {
  const int32_t by_a = scalars[0], by_b = scalars[1], offset = scalars[2], shift = scalars[3];
  const hwnas_ends ends = {scalars[4], scalars[5], scalars[6]};
  uint8_t *to = (uint8_t *)y;
  HWNAS_UNROLLED(4)
  for (int32_t k = 0; k < count; k++) {
    const int32_t sum = hwnas_multiplied(hwnas_multiplied(offset, hwnas_byte(a, k, signed_a), by_a),
                                         hwnas_byte(b, k, signed_b), by_b);
    const int32_t rounded = is_shift ? hwnas_rescaled(sum, shift, ends.zero, 1) : sum >> shift;
    to[k] = (uint8_t)hwnas_saturated(rounded, &ends, is_clamped, signed_y);
  }
  return 0;
}
