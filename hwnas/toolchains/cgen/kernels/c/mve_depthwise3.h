/* Depthwise 3x3 convolutions with stride 1 for MVE: four results of a channel, two by two, from one vector.
 *
 * The scratch memory holds four rows of sixteen channels with their columns turned into words: column, channel, row.
 * A gather of four words is then a 4x4 field of one channel, and one VMLADAV gives the sum of a 3x3 window in it. The
 * weights of a channel are spread to words of a column too, with zeros around: from four places, 16 bytes are the
 * windows at (0, 0), (0, 1), (1, 0) and (1, 1). Weights in flash: channel, column, row. Parameters: bias and factor of
 * each channel. ends: as in mve_conv.h. */
enum { HWNAS_MVE_SPREAD = 24 }; /* bytes of a channel's weights with zeros: five before the first, four behind the last */

#if HWNAS_MVE
/* Four rows as columns of words, made signed. */
HWNAS_INLINE void hwnas_mve_columns(uint8_t *to, const uint8_t *const *rows, int32_t width, int32_t channels,
                                    int32_t inside, uint8_t flip) {
  const uint8x16_t turned = vdupq_n_u8(flip);
  const uint8_t *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  __asm volatile("vctp.8 %7\n dls lr, %6\n1:\n vpstttt\n vldrbt.8 q0, [%1]\n vldrbt.8 q1, [%2]\n"
                 "vldrbt.8 q2, [%3]\n vldrbt.8 q3, [%4]\n veor q0, q0, %q8\n veor q1, q1, %q8\n"
                 "veor q2, q2, %q8\n veor q3, q3, %q8\n add %1, %5\n add %2, %5\n add %3, %5\n add %4, %5\n"
                 "vst40.8 {q0, q1, q2, q3}, [%0]\n vst41.8 {q0, q1, q2, q3}, [%0]\n"
                 "vst42.8 {q0, q1, q2, q3}, [%0]\n vst43.8 {q0, q1, q2, q3}, [%0]!\n le lr, 1b"
                 : "+r"(to), "+r"(a), "+r"(b), "+r"(c), "+r"(d) : "r"(channels), "r"(width), "r"(inside), "w"(turned)
                 : "lr", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "memory");
}

/* Set those rows of the columns that `outside` names (a bit for each byte of a vector) to the padding. */
HWNAS_INLINE void hwnas_mve_border(uint8_t *to, int32_t width, int32_t outside, uint8_t pad) {
  const uint8x16_t pads = vdupq_n_u8(pad);
  __asm volatile("vmsr p0, %2\n dls lr, %1\n1:\n vpstttt\n vstrbt.8 %q3, [%0], #16\n vstrbt.8 %q3, [%0], #16\n"
                 "vstrbt.8 %q3, [%0], #16\n vstrbt.8 %q3, [%0], #16\n le lr, 1b"
                 : "+r"(to) : "r"(width), "r"(outside), "w"(pads) : "lr", "memory");
}

/* The sums of one channel of two rows: for each pair of columns the four of a square. */
HWNAS_INLINE void hwnas_mve_squares(int32_t *sums, const uint8_t *columns, const int8_t *spread, int32_t pairs,
                                    uint32x4_t words) {
  __asm volatile("vldrb.8 q4, [%1, #5]\n vldrb.8 q5, [%1, #1]\n vldrb.8 q6, [%1, #4]\n vldrb.8 q7, [%1]\n"
                 "vdup.32 q3, %2\n vadd.i32 q3, q3, %q4\n dls lr, %3\n"
                 "1:\n vldrw.u32 q0, [q3, #128]!\n vmladav.s8 r0, q0, q4\n vmladav.s8 r2, q0, q5\n"
                 "vmladav.s8 r4, q0, q6\n vmladav.s8 r6, q0, q7\n stm %0!, {r0, r2, r4, r6}\n le lr, 1b"
                 : "+r"(sums) : "r"(spread), "r"(columns - 128), "r"(pairs), "w"(words)
                 : "lr", "r0", "r2", "r4", "r6", "d0", "d1", "d6", "d7", "d8", "d9", "d10", "d11", "d12", "d13", "d14",
                   "d15", "memory");
}

#define HWNAS_MVE_FINISH(rescale, store)                                                                            \
  __asm volatile("vmsr p0, %11\n dls lr, %2\n1:\n vldrw.32 q0, [%0], #16\n vadd.i32 q0, q0, %4\n" rescale           \
                 "vadd.i32 q0, q0, %5\n vmax.s32 q0, q0, %q7\n vmin.s32 q0, q0, %q8\n" store                        \
                 "add %1, %3\n le lr, 1b"                                                                           \
                 : "+r"(sums), "+r"(y)                                                                              \
                 : "r"(pairs), "r"(step), "r"(bias), "r"(zero), "w"(factors), "w"(low), "w"(high), "w"(places),     \
                   "w"(ones), "r"(lanes)                                                                            \
                 : "lr", "d0", "d1", "d2", "d3", "memory")
#define HWNAS_MVE_FINISH_BY(store)                                                                                  \
  do {                                                                                                              \
    if (multiply)                                                                                                   \
      HWNAS_MVE_FINISH("vrmulh.s32 q0, q0, %q6\n", store);                                                          \
    else                                                                                                            \
      HWNAS_MVE_FINISH("vshl.s32 q1, q0, %q6\n vand q1, q1, %q10\n vadd.i32 q0, q0, q1\n vshl.s32 q0, q0, %q6\n",   \
                       store);                                                                                      \
  } while (0)

/* Requantise and store squares; `places` are those of the four, of which `lanes` (a bit for each byte) are stored. */
HWNAS_INLINE void hwnas_mve_finish(const int32_t *sums, uint8_t *y, int32_t pairs, int32_t step, int32_t bias,
                                   int32_t factor, int32_t zero, int32x4_t low, int32x4_t high, uint32x4_t places,
                                   int32_t lanes, int32_t multiply) {
  const int32x4_t factors = vdupq_n_s32(factor), ones = vdupq_n_s32(1);
  if (lanes == 0xFFFF)
    HWNAS_MVE_FINISH_BY("vstrb.32 q0, [%1, %q9]\n");
  else
    HWNAS_MVE_FINISH_BY("vpst\n vstrbt.32 q0, [%1, %q9]\n");
}

HWNAS_INLINE void hwnas_mve_spread(int8_t *to, const int8_t *weights, int32_t channels) {
  hwnas_mve_fill(to, channels * HWNAS_MVE_SPREAD, 0);
  for (int32_t c = 0; c < channels; c++, to += HWNAS_MVE_SPREAD)
    for (int32_t j = 0; j < 3; j++)
      for (int32_t i = 0; i < 3; i++) to[5 + 4 * j + i] = *weights++;
}
#endif

HWNAS_INLINE int32_t hwnas_mve_depthwise3(const void *x, const int8_t *weights, const int32_t *parameters,
                                          const int32_t *ends, void *y, void *scratch, int32_t height, int32_t width,
                                          int32_t channels, int32_t out_height, int32_t out_width, int32_t top,
                                          int32_t left, int32_t is_signed, int32_t multiply) {
  const uint8_t flip = is_signed ? 0 : 0x80, pad = (uint8_t)(ends[0] ^ flip);
#if HWNAS_MVE
  const int32_t pairs = (out_width + 1) / 2, columns = 2 * pairs + 2, line = width * channels;
  const int32_t seen = width < columns - left ? width : columns - left; /* columns that are read */
  uint8_t *words = (uint8_t *)scratch;
  int32_t *sums = (int32_t *)(void *)(words + columns * 64);
  int8_t *spread = (int8_t *)(sums + 4 * pairs);
  const int32x4_t low = vdupq_n_s32(ends[2]), high = vdupq_n_s32(ends[3]);
  const uint32_t out_line = (uint32_t)(out_width * channels), next = (uint32_t)channels;
  const uint32x4_t gathered = vmulq_n_u32(viwdupq_n_u32(0, 4, 1), 64);
  const uint32_t corners[4] = {0, next, out_line, out_line + next};
  const uint32x4_t places = vldrwq_u32(corners);
  for (int32_t c = 0; c < channels; c += 16) {
    const int32_t inside = channels - c < 16 ? channels - c : 16;
    hwnas_mve_spread(spread, weights + 9 * c, inside);
    hwnas_mve_fill((int8_t *)words, left * 64, pad);
    hwnas_mve_fill((int8_t *)words + (left + seen) * 64, (columns - left - seen) * 64, pad);
    for (int32_t oy = 0; oy < out_height; oy += 2) {
      const uint8_t *rows[4];
      int32_t outside = 0;
      for (int32_t i = 0; i < 4; i++) {
        const int32_t at = oy - top + i, row = at < 0 ? 0 : at < height ? at : height - 1;
        rows[i] = (const uint8_t *)x + (row * line + c);
        if (at != row) outside |= 0x1111 << i;
      }
      hwnas_mve_columns(words + left * 64, rows, seen, channels, inside, flip);
      if (outside) hwnas_mve_border(words + left * 64, seen, outside, pad);
      const int32_t lanes = oy + 1 < out_height ? 0xFFFF : 0x00FF, whole = out_width / 2;
      uint8_t *to = (uint8_t *)y + (uint32_t)oy * out_line + c;
      for (int32_t k = 0; k < inside; k++, to++) {
        const int32_t bias = parameters[2 * (c + k)], factor = parameters[2 * (c + k) + 1];
        hwnas_mve_squares(sums, words + 4 * k, spread + HWNAS_MVE_SPREAD * k, pairs, gathered);
        hwnas_mve_finish(sums, to, whole, 2 * channels, bias, factor, ends[1], low, high, places, lanes, multiply);
        if (out_width % 2)
          hwnas_mve_finish(sums + 4 * whole, to + 2 * whole * channels, 1, 0, bias, factor, ends[1], low, high, places,
                           lanes & 0x0F0F, multiply);
      }
    }
  }
#else
  (void)scratch;
  for (int32_t oy = 0; oy < out_height; oy++)
    for (int32_t ox = 0; ox < out_width; ox++)
      for (int32_t c = 0; c < channels; c++) {
        int32_t sum = parameters[2 * c];
        for (int32_t k = 0; k < 9; k++) {
          const int32_t i = oy - top + k % 3, j = ox - left + k / 3;
          const int32_t is_inside = i >= 0 && i < height && j >= 0 && j < width;
          const int32_t byte = is_inside ? ((const uint8_t *)x)[(i * width + j) * channels + c] ^ flip : pad;
          sum += (int8_t)byte * weights[9 * c + k];
        }
        const int32_t value = hwnas_mve_rescaled(sum, parameters[2 * c + 1], multiply) + ends[1];
        ((uint8_t *)y)[(oy * out_width + ox) * channels + c] = hwnas_mve_byte(value, ends[2], ends[3]);
      }
#endif
  return 0;
}
