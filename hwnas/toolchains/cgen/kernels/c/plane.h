/* One channel of an NHWC image as a plane of 16-bit values with its border, for kernels that go channel by channel.
 * Planes are cut into strips of output rows; a strip's border is filled once, its inside by each channel. */
typedef struct {
  int32_t height, width, channels; /* of the image */
  int32_t first, rows;             /* the row of the image that is the strip's first, and how many the strip has */
  int32_t left, used, pitch;       /* border before a row, values taken from one, values of a row of the plane (even) */
} hwnas_strip;

HWNAS_INLINE void hwnas_fill_strip(hwnas_word *plane, const hwnas_strip *s, int32_t zero) {
  const uint32_t pair = (uint32_t)(zero & 0xFFFF) * 0x10001u;
  HWNAS_UNROLLED(4)
  for (int32_t k = 0; k < s->rows * s->pitch / 2; k++) plane[k] = pair;
}

HWNAS_INLINE void hwnas_gather_strip(hwnas_word *plane, const uint8_t *x, const hwnas_strip *s, int32_t channel,
                                     int32_t is_signed) {
  const int32_t from = s->first < 0 ? 0 : s->first;
  const int32_t to = s->first + s->rows < s->height ? s->first + s->rows : s->height;
  const uint8_t *row = x + from * s->width * s->channels + channel;
  hwnas_half *into = (hwnas_half *)plane + (from - s->first) * s->pitch + s->left;
  for (int32_t i = from; i < to; i++, into += s->pitch, row += s->width * s->channels) {
    HWNAS_UNROLLED(16)
    for (int32_t j = 0; j < s->used; j++) into[j] = (int16_t)hwnas_byte(row, j * s->channels, is_signed);
  }
}
