/* Convolutions on cores without packed arithmetic: blocks of four output channels and two output pixels, whose eight
 * sums stay in registers. The windows of both pixels are first copied side by side, as words: value k of the first,
 * value k of the second, in the order rows, columns, channels. */

/* What is seen of the input: NHWC, `channels` of the `span` values of a pixel. */
typedef struct {
  int32_t height, width, span, channels, rows, columns, stride_y, stride_x, step_y, step_x, top, left, out_width;
} hwnas_view;

/* Windows of so few values, those of first layers, are worth code of their own at the border. */
#define HWNAS_SMALL_WINDOW 64

/* `count` values to every second word. */
HWNAS_INLINE void hwnas_spread(hwnas_signed_word *to, const void *from, int32_t count, int32_t is_signed) {
  HWNAS_UNROLLED(8)
  for (int32_t k = 0; k < count; k++) to[2 * k] = hwnas_byte(from, k, is_signed);
}

HWNAS_INLINE void hwnas_spread_zero(hwnas_signed_word *to, int32_t count, int32_t zero) {
  HWNAS_UNROLLED(4)
  for (int32_t k = 0; k < count; k++) to[2 * k] = zero;
}

/* The window of one output pixel to every second word; what lies outside the input is its zero point. */
HWNAS_INLINE void hwnas_spread_window(hwnas_signed_word *to, const uint8_t *x, const hwnas_view *g, int32_t pixel,
                                      int32_t zero, int32_t is_signed) {
  const int32_t y = pixel / g->out_width * g->stride_y - g->top, at = pixel % g->out_width * g->stride_x - g->left;
  /* neighbouring columns are one run where they are neighbours in memory */
  const int32_t joined = g->step_x == 1 && g->span == g->channels, runs = joined ? 1 : g->columns;
  for (int32_t i = 0; i < g->rows; i++) {
    const int32_t row = y + i * g->step_y, is_inside = row >= 0 && row < g->height;
    for (int32_t j = 0; j < runs; j++) {
      const int32_t first = at + j * g->step_x, columns = joined ? g->columns : 1;
      int32_t before = first < 0 ? -first : 0, end = g->width - first;
      before = before < columns && is_inside ? before : columns;
      end = end < before ? before : end < columns ? end : columns;
      hwnas_spread_zero(to, before * g->channels, zero);
      to += 2 * before * g->channels;
      if (end > before)
        hwnas_spread(to, x + (row * g->width + first + before) * g->span, (end - before) * g->channels, is_signed);
      to += 2 * (end - before) * g->channels;
      hwnas_spread_zero(to, (columns - end) * g->channels, zero);
      to += 2 * (columns - end) * g->channels;
    }
  }
}

/* The same in one copy for all kernels of a network. */
HWNAS_SHARED void hwnas_spread_any_window(hwnas_signed_word *to, const uint8_t *x, const hwnas_view *g,
                                          int32_t pixel, int32_t zero, int32_t is_signed) {
  if (is_signed)
    hwnas_spread_window(to, x, g, pixel, zero, 1);
  else
    hwnas_spread_window(to, x, g, pixel, zero, 0);
}

/* Two neighbouring windows that lie inside the input. */
HWNAS_INLINE void hwnas_spread_pair(hwnas_signed_word *to, const uint8_t *x, const hwnas_view *g, int32_t is_signed) {
  const int32_t joined = g->step_x == 1 && g->span == g->channels, runs = joined ? 1 : g->columns;
  const int32_t count = joined ? g->columns * g->channels : g->channels;
  for (int32_t i = 0; i < g->rows; i++)
    for (int32_t j = 0; j < runs; j++, to += 2 * count) {
      const uint8_t *first = x + (i * g->step_y * g->width + j * g->step_x) * g->span;
      const uint8_t *second = first + g->stride_x * g->span;
      HWNAS_UNROLLED(8)
      for (int32_t k = 0; k < count; k++) {
        const int32_t a = hwnas_byte(first, k, is_signed), b = hwnas_byte(second, k, is_signed);
        to[2 * k] = a;
        to[2 * k + 1] = b;
      }
    }
}

HWNAS_INLINE void hwnas_spread_windows(hwnas_signed_word *to, const uint8_t *x, const hwnas_view *g, int32_t pixel,
                                       int32_t pixels, int32_t zero, int32_t is_signed) {
  const int32_t y = pixel / g->out_width * g->stride_y - g->top, column = pixel % g->out_width;
  const int32_t at = column * g->stride_x - g->left;
  const int32_t reach_x = g->stride_x + (g->columns - 1) * g->step_x + 1, reach_y = (g->rows - 1) * g->step_y + 1;
  if (pixels == 2 && y >= 0 && at >= 0 && y + reach_y <= g->height && at + reach_x <= g->width &&
      column + 1 < g->out_width) {
    hwnas_spread_pair(to, x + (y * g->width + at) * g->span, g, is_signed);
    return;
  }
  for (int32_t k = 0; k < pixels; k++) {
    if (g->rows * g->columns * g->channels <= HWNAS_SMALL_WINDOW) {
      hwnas_spread_window(to + k, x, g, pixel + k, zero, is_signed);
    } else {
      const hwnas_view own = *g; /* what a function is handed the address of is no constant any more */
      hwnas_spread_any_window(to + k, x, &own, pixel + k, zero, is_signed);
    }
  }
}

/* sums[c] and sums[4 + c] += the products of four channels' weights with the first and second pixel's values. */
HWNAS_INLINE void hwnas_block_4x2(int32_t *sums, const hwnas_signed_word *values, const int8_t *weights,
                                  int32_t depth) {
#if HWNAS_THUMB2
#define HWNAS_CHANNEL(first, second)     \
  "ldrsb %[w], [%[weights]], #1\n\t"     \
  "mla %[" first "], %[x], %[w], %[" first "]\n\t" \
  "mla %[" second "], %[y], %[w], %[" second "]\n\t"
#define HWNAS_STEP "ldrd %[x], %[y], [%[values]], #8\n\t" \
  HWNAS_CHANNEL("a", "e") HWNAS_CHANNEL("b", "f") HWNAS_CHANNEL("c", "g") HWNAS_CHANNEL("d", "h")
  int32_t a = sums[0], b = sums[1], c = sums[2], d = sums[3], e = sums[4], f = sums[5], g = sums[6], h = sums[7];
  int32_t x, y, w;
  if (depth >= 8) {
    const int8_t *const end = weights + depth / 8 * 32;
    __asm__ volatile("1:\n\t"
                     ".rept 8\n\t" HWNAS_STEP ".endr\n\t"
                     "ldr %[x], %[end]\n\t"
                     "cmp %[weights], %[x]\n\t"
                     "bne.w 1b\n\t"
                     : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [e] "+r"(e), [f] "+r"(f), [g] "+r"(g),
                       [h] "+r"(h), [values] "+r"(values), [weights] "+r"(weights), [x] "=&r"(x), [y] "=&r"(y),
                       [w] "=&r"(w)
                     : [end] "m"(end)
                     : "cc", "memory");
  }
  for (int32_t k = 0; k < depth % 8; k++)
    __asm__ volatile(HWNAS_STEP
                     : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [e] "+r"(e), [f] "+r"(f), [g] "+r"(g),
                       [h] "+r"(h), [values] "+r"(values), [weights] "+r"(weights), [x] "=&r"(x), [y] "=&r"(y),
                       [w] "=&r"(w)
                     :
                     : "memory");
  sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d, sums[4] = e, sums[5] = f, sums[6] = g, sums[7] = h;
#undef HWNAS_STEP
#undef HWNAS_CHANNEL
#else
  for (int32_t k = 0; k < depth; k++)
    for (int32_t c = 0; c < 4; c++) {
      sums[c] += values[2 * k] * weights[4 * k + c];
      sums[4 + c] += values[2 * k + 1] * weights[4 * k + c];
    }
#endif
}

/* The same for fewer channels or one pixel. */
HWNAS_INLINE void hwnas_block_rest(int32_t *sums, const hwnas_signed_word *values, const int8_t *weights, int32_t depth,
                                   int32_t channels, int32_t pixels) {
  for (int32_t k = 0; k < depth; k++)
    HWNAS_UNROLLED(4)
    for (int32_t c = 0; c < channels; c++) {
      const int32_t w = weights[channels * k + c];
      sums[c] += values[2 * k] * w;
      if (pixels > 1) sums[4 + c] += values[2 * k + 1] * w;
    }
}

/* `channels` (at most 4) output channels of one or two pixels. params: bias of each, then multiplier or shift of each. */
HWNAS_INLINE void hwnas_conv_block(uint8_t *y, int32_t outputs, const hwnas_signed_word *values, const int8_t *weights,
                                   const int32_t *params, int32_t depth, int32_t channels, int32_t pixels,
                                   const hwnas_ends *ends, int32_t is_shift, int32_t is_clamped, int32_t is_signed) {
  int32_t sums[8];
  HWNAS_UNROLLED(4)
  for (int32_t c = 0; c < channels; c++) sums[c] = sums[4 + c] = params[c];
  if (channels == 4 && pixels == 2)
    hwnas_block_4x2(sums, values, weights, depth);
  else
    hwnas_block_rest(sums, values, weights, depth, channels, pixels);
  HWNAS_UNROLLED(4)
  for (int32_t c = 0; c < channels; c++) {
    const int32_t entry = params[channels + c];
    hwnas_finish(y + c, sums[c], entry, ends, is_shift, is_clamped, is_signed);
    if (pixels > 1) hwnas_finish(y + outputs + c, sums[4 + c], entry, ends, is_shift, is_clamped, is_signed);
  }
}

/* Weights: group by group, for each block of four of its output channels (the last may be narrower), depth x channels.
 * channels: those of the input; outputs: those of the result; scalars: the input's zero point, then zero point and
 * bounds of the result. scratch: 8 bytes for each value of a window. */
HWNAS_INLINE int32_t hwnas_conv_scalar(const void *x, const int8_t *weights, const int32_t *params,
                                       const int32_t *scalars, void *y, void *scratch, int32_t height, int32_t width,
                                       int32_t channels, int32_t groups, int32_t rows, int32_t columns,
                                       int32_t stride_y, int32_t stride_x, int32_t step_y, int32_t step_x, int32_t top,
                                       int32_t left, int32_t out_height, int32_t out_width, int32_t outputs,
                                       int32_t is_shift, int32_t is_clamped, int32_t signed_x, int32_t signed_y) {
  const int32_t inputs = channels / groups, share = outputs / groups, rest = share % 4;
  const hwnas_view g = {height, width,  channels, inputs, rows, columns, stride_y, stride_x,
                          step_y, step_x, top,      left,   out_width};
  const hwnas_ends ends = {scalars[1], scalars[2], scalars[3]};
  const int32_t depth = rows * columns * inputs, total = out_height * out_width;
  hwnas_signed_word *values = (hwnas_signed_word *)scratch;
  for (int32_t group = 0; group < groups; group++, weights += share * depth, params += 2 * share) {
    const uint8_t *from = (const uint8_t *)x + group * inputs;
    uint8_t *to = (uint8_t *)y + group * share;
    for (int32_t pixel = 0; pixel < total; pixel += 2, to += 2 * outputs) {
      const int32_t pixels = total % 2 && pixel + 1 == total ? 1 : 2;
      const int8_t *w = weights;
      const int32_t *p = params;
      hwnas_spread_windows(values, from, &g, pixel, pixels, scalars[0], signed_x);
      if (pixels == 2) {
        HWNAS_UNROLLED(1)
        for (int32_t o = 0; o + 4 <= share; o += 4, w += 4 * depth, p += 8)
          hwnas_conv_block(to + o, outputs, values, w, p, depth, 4, 2, &ends, is_shift, is_clamped, signed_y);
        if (rest)
          hwnas_conv_block(to + share - rest, outputs, values, w, p, depth, rest, 2, &ends, is_shift, is_clamped,
                           signed_y);
      } else {
        HWNAS_UNROLLED(1)
        for (int32_t o = 0; o + 4 <= share; o += 4, w += 4 * depth, p += 8)
          hwnas_conv_block(to + o, outputs, values, w, p, depth, 4, 1, &ends, is_shift, is_clamped, signed_y);
        if (rest)
          hwnas_conv_block(to + share - rest, outputs, values, w, p, depth, rest, 1, &ends, is_shift, is_clamped,
                           signed_y);
      }
    }
  }
  return 0;
}
