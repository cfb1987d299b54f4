/* Depthwise convolutions with packed arithmetic: a channel becomes a plane of 16-bit values (plane.h), whose words meet
 * pairs of weights. Two neighbouring output pixels share every load: of a row, the second reads the words of the first
 * from their high halves, or from the next words where the stride is even. */

/* The weights of a row in pairs: first (0, 1), (2, 3), ..., then, for pixels that begin in a high half, (1, 2),
 * (3, 4), ... What is left over is taken from the pair that holds it. */
HWNAS_INLINE void hwnas_pair_weights(uint32_t *pairs, const int8_t *weights, int32_t rows, int32_t columns) {
  const int32_t count = columns > 1 ? columns - 1 : 1;
  HWNAS_UNROLLED(7)
  for (int32_t i = 0; i < rows; i++, pairs += count, weights += columns) {
    if (columns == 1) pairs[0] = (uint32_t)(int32_t)weights[0];
    HWNAS_UNROLLED(4)
    for (int32_t j = 0; j < columns / 2; j++)
      pairs[j] = hwnas_pkhbt16((uint32_t)(int32_t)weights[2 * j], (uint32_t)(int32_t)weights[2 * j + 1]);
    HWNAS_UNROLLED(4)
    for (int32_t j = 0; j < (columns - 1) / 2; j++)
      pairs[columns / 2 + j] =
          hwnas_pkhbt16((uint32_t)(int32_t)weights[2 * j + 1], (uint32_t)(int32_t)weights[2 * j + 2]);
  }
}

/* A row of one pixel whose first value is in the low half of the first word. */
HWNAS_INLINE int32_t hwnas_row_low(const uint32_t *words, const uint32_t *pairs, int32_t columns, int32_t sum) {
  if (columns == 1) return hwnas_smlabb(words[0], pairs[0], sum);
  HWNAS_UNROLLED(4)
  for (int32_t j = 0; j < columns / 2; j++) sum = hwnas_smlad(words[j], pairs[j], sum);
  return columns % 2 ? hwnas_smlabt(words[columns / 2], pairs[columns - 2], sum) : sum;
}

/* A row of one pixel whose first value is in the high half of the first word. */
HWNAS_INLINE int32_t hwnas_row_high(const uint32_t *words, const uint32_t *pairs, int32_t columns, int32_t sum) {
  sum = hwnas_smlatb(words[0], pairs[0], sum);
  HWNAS_UNROLLED(4)
  for (int32_t j = 0; j < (columns - 1) / 2; j++) sum = hwnas_smlad(words[j + 1], pairs[columns / 2 + j], sum);
  return columns % 2 ? sum : hwnas_smlabt(words[columns / 2], pairs[columns / 2 - 1], sum);
}

/* Windows of three by three at stride 1 or 2 by hand: two columns of the result from top to bottom, two rows in a turn.
 * Six pairs of weights and the bias stay in registers, where a compiler would keep addresses. The code saves what it
 * uses, so that it asks its surroundings for three registers only. */
#if HWNAS_DSP && defined(__OPTIMIZE__)
#define HWNAS_NINE 1

/* What the code reads beside the plane: first all that is held in registers. */
typedef struct {
  uint32_t pairs[6];
  int32_t bias, entry, zero;
  const uint8_t *end;
} hwnas_nine_numbers;

/* r0 plane, r1 result, r2 and r3 words of a row, r4 to r9 weights, r10 bias, r11 and r12 sums, lr numbers. */
#define HWNAS_ROW_1(place, front, back, add_first, add_second) \
  "ldrd r2, r3, [r0" place "\n\t"                              \
  "smlad r11, r2, " front ", " add_first "\n\t"                \
  "smlatb r12, r2, " front ", " add_second "\n\t"              \
  "smlabt r11, r3, " back ", r11\n\t"                          \
  "smlad r12, r3, " back ", r12\n\t"
#define HWNAS_ROW_2(place, third, front, back, add_first, add_second) \
  "ldr r2, [r0, " third "]\n\t"                                       \
  "smlabt r12, r2, " back ", " add_second "\n\t"                      \
  "ldrd r2, r3, [r0" place "\n\t"                                     \
  "smlad r11, r2, " front ", " add_first "\n\t"                       \
  "smlad r12, r3, " front ", r12\n\t"                                 \
  "smlabt r11, r3, " back ", r11\n\t"
#define HWNAS_SUMS_1                                   \
  HWNAS_ROW_1(", %[row]]", "r6", "r7", "r10", "r10")   \
  HWNAS_ROW_1(", %[low]]", "r8", "r9", "r11", "r12")   \
  HWNAS_ROW_1("], %[next]", "r4", "r5", "r11", "r12")
#define HWNAS_SUMS_2                                                 \
  HWNAS_ROW_2(", %[row]]", "%[row] + 8", "r6", "r7", "r10", "r10")   \
  HWNAS_ROW_2(", %[low]]", "%[low] + 8", "r8", "r9", "r11", "r12")   \
  HWNAS_ROW_2("], %[next]", "#8", "r4", "r5", "r11", "r12")
/* As `hwnas_rescaled` has it: by a multiplier, or by a shift whose bias holds all but the odd bit. */
#define HWNAS_BY_MULTIPLIER "ldrd r2, r3, [lr, #28]\n\tsmmlar r11, r11, r2, r3\n\tsmmlar r12, r12, r2, r3\n\t"
#define HWNAS_BY_SHIFT                                                                      \
  "ldr r2, [lr, #28]\n\t"                                                                   \
  "asr r3, r11, r2\n\tand r3, r3, #1\n\tadd r11, r11, r3\n\tasr r11, r11, r2\n\t"           \
  "asr r3, r12, r2\n\tand r3, r3, #1\n\tadd r12, r12, r3\n\tasr r12, r12, r2\n\t"           \
  "ldr r3, [lr, #32]\n\tadd r11, r11, r3\n\tadd r12, r12, r3\n\t"
#define HWNAS_KEPT(saturate)                                         \
  saturate " r11, #8, r11\n\t" saturate " r12, #8, r12\n\t"          \
  "strb r11, [r1]\n\tstrb r12, [r1, %[beside]]\n\tadd r1, r1, %[line]\n\t"
#define HWNAS_TURN(sums, rescale, saturate)                                                                         \
  __asm__ volatile("push {r4-r11}\n\tldmia lr, {r4-r10}\n"                                                          \
                   "1:\n\t" sums rescale HWNAS_KEPT(saturate) sums rescale HWNAS_KEPT(saturate)                     \
                   "ldr r2, [lr, #36]\n\tcmp r1, r2\n\tbne.w 1b\n\tpop {r4-r11}"                                    \
                   : "+r"(plane), "+r"(result)                                                                      \
                   : "r"(numbers), [row] "i"(4 * pitch), [low] "i"(8 * pitch), [next] "i"(4 * pitch * stride_y),    \
                     [beside] "i"(channels), [line] "i"(line)                                                       \
                   : "r2", "r3", "r12", "cc", "memory")

/* Two columns of `turns` times two rows. line: bytes of a row of the result. */
HWNAS_INLINE void hwnas_nine(uint8_t *to, const hwnas_word *at, int32_t turns, int32_t pitch, const uint32_t *pairs,
                             int32_t bias, int32_t entry, int32_t zero, int32_t stride_y, int32_t stride,
                             int32_t channels, int32_t line, int32_t is_shift, int32_t is_signed) {
  const hwnas_nine_numbers held = {{pairs[0], pairs[1], pairs[2], pairs[3], pairs[4], pairs[5]},
                                   bias, entry, zero, to + 2 * line * turns};
  register const hwnas_word *plane __asm__("r0") = at;
  register uint8_t *result __asm__("r1") = to;
  register const hwnas_nine_numbers *numbers __asm__("lr") = &held;
  if (stride == 1 && is_shift && is_signed) HWNAS_TURN(HWNAS_SUMS_1, HWNAS_BY_SHIFT, "ssat");
  if (stride == 1 && is_shift && !is_signed) HWNAS_TURN(HWNAS_SUMS_1, HWNAS_BY_SHIFT, "usat");
  if (stride == 1 && !is_shift && is_signed) HWNAS_TURN(HWNAS_SUMS_1, HWNAS_BY_MULTIPLIER, "ssat");
  if (stride == 1 && !is_shift && !is_signed) HWNAS_TURN(HWNAS_SUMS_1, HWNAS_BY_MULTIPLIER, "usat");
  if (stride == 2 && is_shift && is_signed) HWNAS_TURN(HWNAS_SUMS_2, HWNAS_BY_SHIFT, "ssat");
  if (stride == 2 && is_shift && !is_signed) HWNAS_TURN(HWNAS_SUMS_2, HWNAS_BY_SHIFT, "usat");
  if (stride == 2 && !is_shift && is_signed) HWNAS_TURN(HWNAS_SUMS_2, HWNAS_BY_MULTIPLIER, "ssat");
  if (stride == 2 && !is_shift && !is_signed) HWNAS_TURN(HWNAS_SUMS_2, HWNAS_BY_MULTIPLIER, "usat");
}
#else
#define HWNAS_NINE 0
#endif

/* One or two pixels of a channel; returns the place of the next ones. pitch: words of a row of the plane. */
HWNAS_INLINE const hwnas_word *hwnas_depthwise_pair(uint8_t *y, const hwnas_word *at, int32_t pitch,
                                                    const uint32_t *pairs, int32_t bias, int32_t entry, int32_t rows,
                                                    int32_t columns, int32_t stride, int32_t channels, int32_t pixels,
                                                    const hwnas_ends *ends, int32_t is_shift, int32_t is_signed) {
  const int32_t words = ((pixels - 1) * stride + columns + 1) / 2, count = columns > 1 ? columns - 1 : 1;
  int32_t first = bias, second = bias;
  HWNAS_UNROLLED(7)
  for (int32_t i = 0; i < rows; i++) {
    uint32_t seen[8];
    HWNAS_UNROLLED(8)
    for (int32_t j = 0; j < words; j++) seen[j] = at[i * pitch + j];
    first = hwnas_row_low(seen, pairs + i * count, columns, first);
    if (pixels == 1) continue;
    second = stride % 2 ? hwnas_row_high(seen + stride / 2, pairs + i * count, columns, second)
                        : hwnas_row_low(seen + stride / 2, pairs + i * count, columns, second);
  }
  y[0] = hwnas_packed_finish(first, entry, ends, is_shift, 0, is_signed);
  if (pixels == 2) y[channels] = hwnas_packed_finish(second, entry, ends, is_shift, 0, is_signed);
  return at + stride;
}

/* The values of a channel as 16-bit halves, two to a word where a word begins. */
HWNAS_INLINE void hwnas_gather_pairs(hwnas_word *plane, const uint8_t *x, const hwnas_strip *s, int32_t channel,
                                     int32_t is_signed) {
  const int32_t from = s->first < 0 ? 0 : s->first, odd = s->left % 2;
  const int32_t to = s->first + s->rows < s->height ? s->first + s->rows : s->height;
  const uint8_t *row = x + from * s->width * s->channels + channel;
  hwnas_half *into = (hwnas_half *)plane + (from - s->first) * s->pitch + s->left;
  for (int32_t i = from; i < to; i++, into += s->pitch, row += s->width * s->channels) {
    hwnas_word *words = (hwnas_word *)(into + odd);
    const uint8_t *at = row + odd * s->channels;
    if (odd && s->used) into[0] = (int16_t)hwnas_byte(row, 0, is_signed);
    HWNAS_UNROLLED(16)
    for (int32_t j = 0; j < (s->used - odd) / 2; j++)
      words[j] = hwnas_pkhbt16((uint32_t)hwnas_byte(at, 2 * j * s->channels, is_signed),
                               (uint32_t)hwnas_byte(at, (2 * j + 1) * s->channels, is_signed));
    if ((s->used - odd) % 2 && s->used > odd)
      into[s->used - 1] = (int16_t)hwnas_byte(row, (s->used - 1) * s->channels, is_signed);
  }
}

/* Weights: channel by channel, rows x columns. params: bias, and multiplier or shift, of each channel. scalars: the
 * input's zero point, then zero point and bounds of the result. pitch: values of a row of the plane; strip: output
 * rows of a strip. */
HWNAS_INLINE int32_t hwnas_depthwise_dsp(const void *x, const int8_t *weights, const int32_t *params,
                                         const int32_t *scalars, void *y, void *scratch, int32_t height,
                                         int32_t width, int32_t channels, int32_t rows, int32_t columns,
                                         int32_t stride_y, int32_t stride_x, int32_t top, int32_t left,
                                         int32_t out_height, int32_t out_width, int32_t pitch, int32_t used,
                                         int32_t strip, int32_t is_shift, int32_t is_clamped, int32_t signed_x,
                                         int32_t signed_y) {
  const hwnas_ends ends = {scalars[1], scalars[2], scalars[3]};
  hwnas_word *plane = (hwnas_word *)scratch;
  for (int32_t begin = 0; begin < out_height; begin += strip) {
    const int32_t lines = out_height - begin < strip ? out_height - begin : strip;
    const hwnas_strip s = {height, width, channels, begin * stride_y - top, (lines - 1) * stride_y + rows,
                           left,   used,  pitch};
    hwnas_fill_strip(plane, &s, scalars[0]);
    for (int32_t c = 0; c < channels; c++) {
      uint32_t pairs[49];
      const int32_t bias = params[2 * c], entry = params[2 * c + 1];
      uint8_t *to = (uint8_t *)y + begin * out_width * channels + c;
      const hwnas_word *row = plane;
      hwnas_gather_pairs(plane, (const uint8_t *)x, &s, c, signed_x);
      hwnas_pair_weights(pairs, weights + c * rows * columns, rows, columns);
      int32_t done = 0;
#if HWNAS_NINE
      if (rows == 3 && columns == 3 && stride_x <= 2 && stride_y * pitch <= 500 && 2 * pitch <= 500 &&
          out_width * channels < 4096 && lines > 1) {
        for (int32_t j = 0; j < out_width / 2; j++)
          hwnas_nine(to + 2 * j * channels, plane + j * stride_x, lines / 2, pitch / 2, pairs, bias, entry, ends.zero,
                     stride_y, stride_x, channels, out_width * channels, is_shift, signed_y);
        done = lines & ~1;
      }
#endif
      for (int32_t i = 0; i < lines; i++, row += stride_y * pitch / 2) {
        const hwnas_word *at = row;
        if (i >= done) {
          HWNAS_UNROLLED(4)
          for (int32_t j = 0; j < out_width / 2; j++, to += 2 * channels)
            at = hwnas_depthwise_pair(to, at, pitch / 2, pairs, bias, entry, rows, columns, stride_x, channels, 2,
                                      &ends, is_shift, signed_y);
        } else {
          at += out_width / 2 * stride_x;
          to += out_width / 2 * 2 * channels;
        }
        if (out_width % 2) {
          hwnas_depthwise_pair(to, at, pitch / 2, pairs, bias, entry, rows, columns, stride_x, channels, 1, &ends,
                               is_shift, signed_y);
          to += channels;
        }
      }
    }
  }
  if (is_clamped) hwnas_clamp_bytes((uint8_t *)y, out_height * out_width * channels, ends.low, ends.high, signed_y);
  return 0;
}
