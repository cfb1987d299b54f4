/* The end of a sum on cores with packed arithmetic, as `hwnas_finish` has it in scalar.h. */
HWNAS_INLINE uint8_t hwnas_packed_finish(int32_t sum, int32_t entry, const hwnas_ends *ends, int32_t is_shift,
                                         int32_t is_clamped, int32_t is_signed) {
  const int32_t x =
      is_shift ? hwnas_rescaled(sum, entry, ends->zero, 1) : hwnas_smmlar(sum, entry, ends->zero);
  if (is_clamped) return (uint8_t)hwnas_clipped(x, ends->low, ends->high);
  return (uint8_t)(is_signed ? hwnas_ssat8(x) : hwnas_usat8(x));
}
