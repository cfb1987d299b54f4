/* Depthwise convolutions for MVE: eight channels of two neighbouring pixels at a time.
 *
 * The rows of activations that a row of the result reads are kept in the scratch memory, padded, and in blocks of
 * sixteen channels, so that neighbouring columns of a block are neighbours in memory. Each row is copied there once.
 * Weights lie in groups of eight channels: row, column, channel. Parameters of a group: four biases of its even
 * channels, four of its odd ones, then multipliers or negative shifts likewise (that is how VMULLB, VMULLT and VQMOVN
 * take lanes). ends: as in mve_conv.h. */
typedef struct {
  int32_t width, channels, columns, left; /* of the activations; columns with padding; columns of padding before */
} hwnas_mve_line;

typedef struct {
  int32_t rows, columns, step, dilate, is_signed, multiply;
} hwnas_mve_taps;

#if HWNAS_MVE
/* A row of activations into its slot. */
HWNAS_INLINE void hwnas_mve_line_copy(uint8_t *to, const uint8_t *row, const hwnas_mve_line v, uint8_t pad) {
  for (int32_t c = 0; c < v.channels; c += 16, row += 16) {
    const uint8_t *from = row;
    hwnas_mve_fill((int8_t *)to, v.left * 16, pad);
    to += v.left * 16;
    if (v.channels - c >= 16)
      __asm volatile("dls lr, %2\n1:\n vldrb.8 q0, [%1]\n add %1, %3\n vstrb.8 q0, [%0], #16\n le lr, 1b"
                     : "+r"(to), "+r"(from) : "r"(v.width), "r"(v.channels) : "lr", "d0", "d1", "memory");
    else
      __asm volatile("vctp.8 %4\n dls lr, %2\n"
                     "1:\n vpst\n vldrbt.8 q0, [%1]\n add %1, %3\n vstrb.8 q0, [%0], #16\n le lr, 1b"
                     : "+r"(to), "+r"(from) : "r"(v.width), "r"(v.channels), "r"(v.channels - c)
                     : "lr", "d0", "d1", "memory");
    hwnas_mve_fill((int8_t *)to, (v.columns - v.left - v.width) * 16, pad);
    to += (v.columns - v.left - v.width) * 16;
  }
}

#define HWNAS_MVE_SCRATCHED "d8", "d9", "d10", "d11", "d12", "d13", "d14", "d15", "memory"

/* One tap: its weights with the activations of two pixels, 8 and 8 products. */
#define HWNAS_MVE_TAP(type)                                                                                         \
  __asm volatile("vldrb.s16 q4, [%4], %7\n vldrb." type " q5, [%5, %8]\n vmullb.s16 q6, q4, q5\n"                   \
                 "vmullt.s16 q7, q4, q5\n vadd.i32 %q0, %q0, q6\n vadd.i32 %q1, %q1, q7\n"                          \
                 "vldrb." type " q5, [%6, %8]\n vmullb.s16 q6, q4, q5\n vmullt.s16 q7, q4, q5\n"                    \
                 "vadd.i32 %q2, %q2, q6\n vadd.i32 %q3, %q3, q7"                                                    \
                 : "+w"(even0), "+w"(odd0), "+w"(even1), "+w"(odd1), "+l"(weights)                                  \
                 : "l"(row), "l"(row + 16 * v.step), "i"(inside), "i"(16 * j * v.dilate)                            \
                 : HWNAS_MVE_SCRATCHED)

/* The same where what the second pixel reads is what the first one reads next. */
#define HWNAS_MVE_NEXT_TAP(type)                                                                                    \
  __asm volatile("vldrb.s16 q5, [%4], %7\n vmullb.s16 q6, q5, %q5\n vmullt.s16 q7, q5, %q5\n"                       \
                 "vadd.i32 %q0, %q0, q6\n vadd.i32 %q1, %q1, q7\n"                                                  \
                 "vldrb." type " %q5, [%6, %8]\n vmullb.s16 q6, q5, %q5\n vmullt.s16 q7, q5, %q5\n"                 \
                 "vadd.i32 %q2, %q2, q6\n vadd.i32 %q3, %q3, q7"                                                    \
                 : "+w"(even0), "+w"(odd0), "+w"(even1), "+w"(odd1), "+l"(weights), "+w"(value)                     \
                 : "l"(row), "i"(inside), "i"(16 * (j + 1) * v.dilate)                                              \
                 : "d10", "d11", "d12", "d13", "d14", "d15", "memory")

#define HWNAS_MVE_SHIFTED(sum, by)                                                                                  \
  "vshl.s32 q6, " sum ", " by "\n vand q6, q6, q7\n vadd.i32 " sum ", " sum ", q6\n vshl.s32 " sum ", " sum ", " by "\n"

/* Eight channels (or the last `inside`) of two pixels, or of one where y1 is y0; `seen` are the rows they read. */
HWNAS_INLINE void hwnas_mve_depthwise_pair(const uint8_t *const *seen, const int8_t *weights, const int32_t *parameters,
                                           uint8_t *y0, uint8_t *y1, const int32_t inside,
                                           const hwnas_mve_taps v, int32_t zero, const int16_t *bounds) {
  int32x4_t even0 = vldrwq_s32(parameters), odd0 = vldrwq_s32(parameters + 4), even1 = even0, odd1 = odd0;
#pragma GCC unroll 8
  for (int32_t i = 0; i < v.rows; i++) {
    const uint8_t *row = seen[i];
    if (v.step == v.dilate) {
      int16x8_t value = v.is_signed ? vldrbq_s16((const int8_t *)row) : vreinterpretq_s16_u16(vldrbq_u16(row));
#pragma GCC unroll 8
      for (int32_t j = 0; j < v.columns; j++) {
        if (v.is_signed) HWNAS_MVE_NEXT_TAP("s16");
        else HWNAS_MVE_NEXT_TAP("u16");
      }
    } else {
#pragma GCC unroll 8
      for (int32_t j = 0; j < v.columns; j++) {
        if (v.is_signed) HWNAS_MVE_TAP("s16");
        else HWNAS_MVE_TAP("u16");
      }
    }
  }
  if (v.multiply)
    __asm volatile("vldrw.32 q4, [%4, #32]\n vldrw.32 q5, [%4, #48]\n vrmulh.s32 %q0, %q0, q4\n"
                   "vrmulh.s32 %q1, %q1, q5\n vrmulh.s32 %q2, %q2, q4\n vrmulh.s32 %q3, %q3, q5"
                   : "+w"(even0), "+w"(odd0), "+w"(even1), "+w"(odd1) : "r"(parameters) : HWNAS_MVE_SCRATCHED);
  else
    __asm volatile("vldrw.32 q4, [%4, #32]\n vldrw.32 q5, [%4, #48]\n vmov.i32 q7, #1\n"
                   HWNAS_MVE_SHIFTED("%q0", "q4") HWNAS_MVE_SHIFTED("%q1", "q5") HWNAS_MVE_SHIFTED("%q2", "q4")
                   HWNAS_MVE_SHIFTED("%q3", "q5")
                   : "+w"(even0), "+w"(odd0), "+w"(even1), "+w"(odd1) : "r"(parameters) : HWNAS_MVE_SCRATCHED);
#define HWNAS_MVE_NARROWED                                                                                          \
  "vqmovnb.s32 q6, %q0\n vqmovnt.s32 q6, %q1\n vqmovnb.s32 q7, %q2\n vqmovnt.s32 q7, %q3\n"                         \
  "vqadd.s16 q6, q6, %4\n vqadd.s16 q7, q7, %4\n vldrw.32 q4, [%5]\n vldrw.32 q5, [%5, #16]\n"                      \
  "vmax.s16 q6, q6, q4\n vmax.s16 q7, q7, q4\n vmin.s16 q6, q6, q5\n vmin.s16 q7, q7, q5\n"
  if (inside == 8)
    __asm volatile(HWNAS_MVE_NARROWED "vstrb.16 q7, [%7]\n vstrb.16 q6, [%6]"
                   : "+w"(even0), "+w"(odd0), "+w"(even1), "+w"(odd1) : "r"(zero), "r"(bounds), "l"(y0), "l"(y1)
                   : HWNAS_MVE_SCRATCHED);
  else
    __asm volatile(HWNAS_MVE_NARROWED "vctp.16 %8\n vpstt\n vstrbt.16 q7, [%7]\n vstrbt.16 q6, [%6]"
                   : "+w"(even0), "+w"(odd0), "+w"(even1), "+w"(odd1)
                   : "r"(zero), "r"(bounds), "l"(y0), "l"(y1), "r"(inside) : HWNAS_MVE_SCRATCHED);
}
#else
HWNAS_INLINE void hwnas_mve_line_copy(uint8_t *to, const uint8_t *row, const hwnas_mve_line v, uint8_t pad) {
  for (int32_t c = 0; c < v.channels; c += 16)
    for (int32_t i = 0; i < v.columns; i++, to += 16)
      for (int32_t k = 0; k < 16; k++) {
        const int32_t column = i - v.left, channel = c + k;
        to[k] = column < 0 || column >= v.width  ? pad
                : channel < v.channels           ? row[column * v.channels + channel]
                                                 : 0;
      }
}

HWNAS_INLINE void hwnas_mve_depthwise_pair(const uint8_t *const *seen, const int8_t *weights, const int32_t *parameters,
                                           uint8_t *y0, uint8_t *y1, const int32_t inside,
                                           const hwnas_mve_taps v, int32_t zero, const int16_t *bounds) {
  for (int32_t p = 1; p >= 0; p--)
    for (int32_t c = 0; c < inside; c++) {
      const int32_t lane = c % 2 * 4 + c / 2, factor = parameters[8 + lane];
      int32_t sum = parameters[lane];
      for (int32_t i = 0; i < v.rows; i++)
        for (int32_t j = 0; j < v.columns; j++) {
          const uint8_t byte = seen[i][16 * (p * v.step + j * v.dilate) + c];
          sum += (v.is_signed ? (int8_t)byte : byte) * weights[(i * v.columns + j) * inside + c];
        }
      (p ? y1 : y0)[c] = hwnas_mve_byte(hwnas_mve_rescaled(sum, factor, v.multiply) + zero, bounds[0], bounds[8]);
    }
}
#endif

/* The same channels of a row of the result. */
HWNAS_INLINE void hwnas_mve_depthwise_row(const uint8_t **seen, const int8_t *weights, const int32_t *parameters,
                                          uint8_t *y, int32_t channels, int32_t pixels, const int32_t inside,
                                          const hwnas_mve_taps v, int32_t zero, const int16_t *bounds) {
  for (int32_t p = 0; p + 2 <= pixels; p += 2, y += 2 * channels) {
    hwnas_mve_depthwise_pair(seen, weights, parameters, y, y + channels, inside, v, zero, bounds);
#pragma GCC unroll 8
    for (int32_t i = 0; i < v.rows; i++) seen[i] += 32 * v.step;
  }
  if (pixels % 2) hwnas_mve_depthwise_pair(seen, weights, parameters, y, y, inside, v, zero, bounds);
}

HWNAS_INLINE int32_t hwnas_mve_depthwise(const void *x, const int8_t *weights, const int32_t *parameters,
                                         const int32_t *ends, void *y, void *scratch, int32_t height, int32_t width,
                                         int32_t channels, int32_t out_height, int32_t out_width, int32_t rows,
                                         int32_t columns, int32_t step_y, int32_t step_x, int32_t dilate_y,
                                         int32_t dilate_x, int32_t top, int32_t left, int32_t padded,
                                         int32_t is_signed, int32_t multiply) {
  const int32_t span = (rows - 1) * dilate_y + 1, block = padded * 16, line = (channels + 15) / 16 * block;
  const hwnas_mve_line v = {width, channels, padded, left};
  const hwnas_mve_taps taps = {rows, columns, step_x, dilate_x, is_signed, multiply};
  int16_t bounds[16];
  for (int32_t i = 0; i < 8; i++) bounds[i] = (int16_t)ends[2], bounds[8 + i] = (int16_t)ends[3];
  int32_t next = -top; /* row to be copied */
  for (int32_t oy = 0; oy < out_height; oy++) {
    const uint8_t *slots[8];
    const int32_t first = oy * step_y - top;
    if (next < first) next = first;
    for (; next < first + span; next++) {
      uint8_t *slot = (uint8_t *)scratch + (next + top) % span * line;
      if (next >= 0 && next < height)
        hwnas_mve_line_copy(slot, (const uint8_t *)x + next * width * channels, v, (uint8_t)ends[0]);
      else
        hwnas_mve_fill((int8_t *)slot, line, (uint8_t)ends[0]);
    }
    for (int32_t i = 0; i < rows; i++)
      slots[i] = (const uint8_t *)scratch + (first + top + i * dilate_y) % span * line;
    for (int32_t c = 0; c < channels; c += 8) {
      uint8_t *result = (uint8_t *)y + oy * out_width * channels + c;
      const uint8_t *seen[8];
#pragma GCC unroll 8
      for (int32_t i = 0; i < rows; i++) seen[i] = slots[i] + (c / 16 * block + c % 16);
      if (channels - c >= 8)
        hwnas_mve_depthwise_row(seen, weights + c * rows * columns, parameters + 2 * c, result, channels, out_width, 8,
                                taps, ends[1], bounds);
      else
        hwnas_mve_depthwise_row(seen, weights + c * rows * columns, parameters + 2 * c, result, channels, out_width,
                                channels % 8, taps, ends[1], bounds);
    }
  }
  return 0;
}
