/* Convolution of any window, stride, dilation, border and number of groups, NHWC: two pixels of all channels of a group
 * at a time. */

typedef struct {
  int32_t height, width, pitch; /* pitch: all channels of a pixel, of which a group takes `channels` */
  int32_t channels, window_y, window_x, stride_y, stride_x, dilation_y, dilation_x, top, left, out_width;
} hwnas_window;

/* An output pixel: the first element of its window (out of bounds where that begins in the border), and how many pixels
 * are left in its row. */
typedef struct {
  int32_t row, column, left;
} hwnas_place;

HWNAS_INLINE hwnas_place hwnas_next(const hwnas_window *g, hwnas_place at) {
  at.column += g->stride_x;
  if (--at.left == 0) {
    at.left = g->out_width;
    at.column = -g->left;
    at.row += g->stride_y;
  }
  return at;
}

/* A tap's channels, or a row of zero points where it lies in the border. */
HWNAS_INLINE const uint8_t *hwnas_tap(const hwnas_window *g, const uint8_t *x, int32_t row, int32_t column,
                                      const uint8_t *border) {
  if ((uint32_t)row >= (uint32_t)g->height || (uint32_t)column >= (uint32_t)g->width) return border;
  return x + (row * g->width + column) * g->pitch;
}

/* Whether a row of taps lies side by side in memory. */
HWNAS_INLINE int32_t hwnas_inside(const hwnas_window *g, int32_t row, int32_t column) {
  return g->dilation_x == 1 && g->pitch == g->channels && (uint32_t)row < (uint32_t)g->height && column >= 0 &&
         column + g->window_x <= g->width;
}

/* The windows of two pixels where channels come in fours. */
HWNAS_INLINE void hwnas_pack_windows(const hwnas_window *g, uint32_t *pack, const uint8_t *x, const uint8_t *border,
                                     hwnas_place a, hwnas_place b, int32_t is_signed) {
  for (int32_t i = 0; i < g->window_y; i++, a.row += g->dilation_y, b.row += g->dilation_y) {
    if (hwnas_inside(g, a.row, a.column) && hwnas_inside(g, b.row, b.column)) {
      pack = hwnas_pack_pair(pack, x + (a.row * g->width + a.column) * g->pitch,
                             x + (b.row * g->width + b.column) * g->pitch, g->window_x * g->channels, is_signed);
    } else {
      for (int32_t j = 0; j < g->window_x; j++)
        pack = hwnas_pack_pair(pack, hwnas_tap(g, x, a.row, a.column + j * g->dilation_x, border),
                               hwnas_tap(g, x, b.row, b.column + j * g->dilation_x, border), g->channels, is_signed);
    }
  }
}

/* The window of a pixel as bytes. */
HWNAS_INLINE void hwnas_stage_window(const hwnas_window *g, uint8_t *to, const uint8_t *x, uint32_t zeros,
                                     hwnas_place at) {
  for (int32_t i = 0; i < g->window_y; i++, at.row += g->dilation_y) {
    if (hwnas_inside(g, at.row, at.column)) {
      to = hwnas_copy(to, x + (at.row * g->width + at.column) * g->pitch, g->window_x * g->channels);
    } else {
      for (int32_t j = 0; j < g->window_x; j++) {
        const uint8_t *tap = hwnas_tap(g, x, at.row, at.column + j * g->dilation_x, 0);
        to = tap ? hwnas_copy(to, tap, g->channels) : hwnas_fill(to, zeros, g->channels);
      }
    }
  }
}

/* x: images x height x width x (groups * channels). head: the input's zero point four times, the result's zero point,
 * its low and its high bound four times each. scratch: the pack (4 bytes an element of a window, rounded up to fours),
 * then one row of channels (channels in fours) or two windows. */
HWNAS_INLINE int32_t hwnas_conv_dsp(const void *x, const int8_t *weights, const int32_t *head, void *y, void *scratch,
                                    int32_t images, int32_t height, int32_t width, int32_t channels, int32_t groups,
                                    int32_t out_height, int32_t out_width, int32_t outputs, int32_t window_y,
                                    int32_t window_x, int32_t stride_y, int32_t stride_x, int32_t dilation_y,
                                    int32_t dilation_x, int32_t top, int32_t left, int32_t kind, int32_t takes_signed,
                                    int32_t gives_signed, int32_t clamped, int32_t chunked) {
  const hwnas_window g = {height,   width,    channels * groups, channels,   window_y, window_x, stride_y,
                          stride_x, dilation_y, dilation_x,      top,        left,     out_width};
  const int32_t size = window_y * window_x * channels, fours = (size + 3) / 4, pixels = out_height * out_width;
  const int32_t pointwise = window_y * window_x == 1 && !top && !left && out_height * stride_y < height + stride_y &&
                            out_width * stride_x < width + stride_x;
  const int32_t in_fours = channels % 4 == 0, all = outputs * groups;
  const uint32_t zeros = (uint32_t)head[0];
  uint32_t *pack = (uint32_t *)scratch;
  uint8_t *extra = (uint8_t *)(pack + 4 * fours);
  hwnas_dot job;
  job.zero = head[1];
  job.low = (uint32_t)head[2];
  job.high = (uint32_t)head[3];
  if (!pointwise && in_fours) hwnas_fill(extra, zeros, channels);
  for (int32_t image = 0; image < images; image++) {
    const uint8_t *from = (const uint8_t *)x + image * height * width * g.pitch;
    uint8_t *to = (uint8_t *)y + image * pixels * all;
    hwnas_place a = {-top, -left, out_width};
    int32_t pixel = 0;
    hwnas_dot_pack(&job, pack, fours, 2);
    for (; pixel + 2 <= pixels; pixel += 2) {
      hwnas_place b = hwnas_next(&g, a);
      job.weights = weights;
      for (int32_t group = 0; group < groups; group++) {
        const uint8_t *part = from + group * channels;
        if (pointwise) {
          hwnas_pack_pair(pack, part + (a.row * width + a.column) * g.pitch,
                          part + (b.row * width + b.column) * g.pitch, channels, takes_signed);
        } else if (in_fours) {
          hwnas_pack_windows(&g, pack, part, extra, a, b, takes_signed);
        } else {
          hwnas_stage_window(&g, extra, part, zeros, a);
          hwnas_stage_window(&g, extra + 4 * fours, part, zeros, b);
          hwnas_pack_pair(pack, extra, extra + 4 * fours, size, takes_signed);
        }
        hwnas_dot_pixels(&job, to + pixel * all + group * outputs, all, outputs, 2, kind, gives_signed, clamped,
                         chunked);
      }
      a = hwnas_next(&g, b);
    }
    if (pixel < pixels) {
      uint8_t *window = (uint8_t *)(pack + 2 * fours); /* the second half of the pack is free */
      hwnas_dot_pack(&job, pack, fours, 1);
      job.weights = weights;
      for (int32_t group = 0; group < groups; group++) {
        const uint8_t *part = from + group * channels;
        if (pointwise) {
          hwnas_pack_single(pack, part + (a.row * width + a.column) * g.pitch, channels, takes_signed);
        } else {
          hwnas_stage_window(&g, window, part, zeros, a);
          hwnas_pack_single(pack, window, size, takes_signed);
        }
        hwnas_dot_pixels(&job, to + pixel * all + group * outputs, 0, outputs, 1, kind, gives_signed, clamped,
                         chunked);
      }
    }
  }
  return 0;
}
