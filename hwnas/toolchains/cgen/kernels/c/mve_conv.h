/* Convolutions for MVE: patches of two pixels made signed in the scratch memory, then all output channels of them.
 *
 * Arrays: weights in blocks of four channels as mve_sums.h reads them, channels that fill no block one by one behind;
 * parameters of a block: four biases, four multipliers or negative shifts; of a channel behind: bias and multiplier.
 * ends: the activations' zero point as a byte, then zero point, smallest and largest integer of the result. */
typedef struct {
  int32_t height, width, channels;             /* of the activations */
  int32_t rows, columns;                       /* of the kernel */
  int32_t step_y, step_x, dilate_y, dilate_x;
  int32_t top, left;                           /* padding */
  int32_t inputs;                              /* channels of a group */
} hwnas_mve_window;

/* The rows of a patch that lies inside and whose runs are short: in whole vectors, of which the next row, and in the
 * end the next patch or spare memory, take back what is too much. */
HWNAS_INLINE void hwnas_mve_patch_inside(int8_t *to, const uint8_t *from, const int32_t rows, const int32_t run,
                                         int32_t stride, uint8_t flip) {
#if HWNAS_MVE
  const uint8x16_t turned = vdupq_n_u8(flip);
  if (run < 16) {
    __asm volatile("vctp.8 %3\n dls lr, %2\n1:\n vpst\n vldrbt.8 q0, [%1]\n add %1, %4\n veor q0, q0, %q5\n"
                   "vstrb.8 q0, [%0]\n add %0, %3\n le lr, 1b"
                   : "+r"(to), "+r"(from) : "r"(rows), "r"(run), "r"(stride), "w"(turned)
                   : "lr", "d0", "d1", "memory");
    return;
  }
  for (int32_t i = 0; i < rows; i++, from += stride, to += run)
#pragma GCC unroll 8
    for (int32_t k = 0; k < run; k += 16) {
      const int32_t at = run - k < 16 ? run - 16 : k; /* the last vector may begin within the one before */
      const uint8x16_t bytes = vldrbq_u8(from + at);
      vstrbq_u8((uint8_t *)to + at, flip ? veorq_u8(bytes, turned) : bytes);
    }
#else
  for (int32_t i = 0; i < rows; i++) hwnas_mve_flip(to + i * run, from + i * stride, run, flip);
#endif
}

/* The activations under one pixel of the result, in the order of the weights: row, column, channel. */
HWNAS_INLINE void hwnas_mve_patch(int8_t *to, const uint8_t *x, const hwnas_mve_window v, int32_t oy, int32_t ox,
                                  uint8_t flip, uint8_t pad) {
  const int32_t run = v.columns * v.inputs, x0 = ox * v.step_x - v.left;
  const int32_t is_run = v.dilate_x == 1 && v.inputs == v.channels; /* a row of a patch lies as one piece */
  int32_t y = oy * v.step_y - v.top, at = (y * v.width + x0) * v.channels;
  if (is_run && run <= 128 && x0 >= 0 && x0 + v.columns <= v.width && y >= 0
      && y + (v.rows - 1) * v.dilate_y < v.height) {
    hwnas_mve_patch_inside(to, x + at, v.rows, run, v.dilate_y * v.width * v.channels, flip);
    return;
  }
  int32_t before = x0 < 0 ? (-x0 < v.columns ? -x0 : v.columns) : 0, behind = x0 + v.columns - v.width;
  behind = (behind < 0 ? 0 : behind < v.columns ? behind : v.columns) * v.channels;
  before *= v.channels;
  for (int32_t i = 0; i < v.rows; i++, y += v.dilate_y, at += v.dilate_y * v.width * v.channels, to += run) {
    if (y < 0 || y >= v.height) {
      hwnas_mve_fill(to, run, pad);
    } else if (is_run) {
      hwnas_mve_fill(to, before, pad);
      hwnas_mve_flip(to + before, x + (at + before), run - before - behind, flip);
      hwnas_mve_fill(to + (run - behind), behind, pad);
    } else {
      for (int32_t j = 0, column = x0; j < v.columns; j++, column += v.dilate_x)
        if (column < 0 || column >= v.width) hwnas_mve_fill(to + j * v.inputs, v.inputs, pad);
        else hwnas_mve_flip(to + j * v.inputs, x + (at + j * v.dilate_x * v.channels), v.inputs, flip);
    }
  }
}

HWNAS_INLINE int32_t hwnas_mve_conv(const void *x, const int8_t *weights, const int32_t *parameters,
                                    const int32_t *ends, void *y, void *scratch, int32_t height, int32_t width,
                                    int32_t channels, int32_t out_height, int32_t out_width, int32_t outputs,
                                    int32_t rows, int32_t columns, int32_t step_y, int32_t step_x, int32_t dilate_y,
                                    int32_t dilate_x, int32_t top, int32_t left, int32_t groups, int32_t is_signed,
                                    int32_t multiply) {
  const int32_t inputs = channels / groups, per_group = outputs / groups, depth = rows * columns * inputs;
  const hwnas_mve_window window = {height, width, channels, rows, columns, step_y,
                                   step_x, dilate_y, dilate_x, top, left, inputs};
  const int32_t room = (depth + 15) / 16 * 16;
  const uint8_t flip = is_signed ? 0 : 0x80, pad = (uint8_t)(ends[0] ^ flip);
  for (int32_t g = 0; g < groups; g++) {
    hwnas_mve_job job = {.rows = {(int8_t *)scratch, (int8_t *)scratch + room},
                         .weights = weights + g * per_group * depth, .parameters = parameters + 2 * g * per_group,
                         .zero = ends[1], .low = ends[2], .high = ends[3]};
    job.end = job.parameters + per_group / 4 * 8;
    int32_t oy = 0, ox = 0;
    for (int32_t p = 0; p < out_height * out_width; p += 2) {
      const int32_t pixels = p + 2 <= out_height * out_width ? 2 : 1;
      for (int32_t i = 0; i < pixels; i++) {
        hwnas_mve_patch((int8_t *)scratch + i * room, (const uint8_t *)x + g * inputs, window, oy, ox, flip, pad);
        if (++ox == out_width) ox = 0, oy++;
      }
      hwnas_mve_sums(&job, (uint8_t *)y + (p * outputs + g * per_group), pixels, outputs, per_group, depth, multiply);
    }
  }
  return 0;
}

/* 1x1 with stride 1: a pixel is a row as it stands, or four of them made signed at once. */
HWNAS_INLINE int32_t hwnas_mve_pointwise(const void *x, const int8_t *weights, const int32_t *parameters,
                                         const int32_t *ends, void *y, void *scratch, int32_t pixels,
                                         int32_t channels, int32_t outputs, int32_t is_signed, int32_t multiply) {
  hwnas_mve_job job = {.weights = weights, .parameters = parameters, .end = parameters + outputs / 4 * 8,
                       .zero = ends[1], .low = ends[2], .high = ends[3]};
  const int32_t turned = 4;
  for (int32_t p = 0; p < pixels; p += 2) {
    const int8_t *row = (const int8_t *)x + p * channels;
    if (!is_signed) {
      if (p % turned == 0)
        hwnas_mve_flip((int8_t *)scratch, (const uint8_t *)row,
                       (pixels - p < turned ? pixels - p : turned) * channels, 0x80);
      row = (const int8_t *)scratch + p % turned * channels;
    }
    job.rows[0] = row;
    job.rows[1] = row + channels;
    hwnas_mve_sums(&job, (uint8_t *)y + p * outputs, pixels - p < 2 ? 1 : 2, outputs, outputs, channels, multiply);
  }
  return 0;
}
