/* Pooling for MVE: sixteen channels at a time of each window. */
typedef struct {
  int32_t height, width, channels;
  int32_t rows, columns, step_y, step_x, top, left, padded; /* padded: some windows reach beyond the activations */
} hwnas_mve_pool;

/* The part of a window that lies inside: rows and columns [y0, y1) x [x0, x1) of it. */
typedef struct {
  int32_t y0, y1, x0, x1;
} hwnas_mve_part;

HWNAS_INLINE hwnas_mve_part hwnas_mve_inside(const hwnas_mve_pool v, int32_t oy, int32_t ox) {
  hwnas_mve_part part = {0, v.rows, 0, v.columns};
  if (v.padded) {
    const int32_t y = oy * v.step_y - v.top, x = ox * v.step_x - v.left;
    if (y < 0) part.y0 = -y;
    if (y + v.rows > v.height) part.y1 = v.height - y;
    if (x < 0) part.x0 = -x;
    if (x + v.columns > v.width) part.x1 = v.width - x;
  }
  return part;
}

/* table: the result for each integer, from the smallest on. */
HWNAS_INLINE int32_t hwnas_mve_maxpool(const void *x, const void *table, void *y, int32_t height, int32_t width,
                                       int32_t channels, int32_t out_height, int32_t out_width, int32_t rows,
                                       int32_t columns, int32_t step_y, int32_t step_x, int32_t top, int32_t left,
                                       int32_t padded, int32_t is_signed) {
  const hwnas_mve_pool v = {height, width, channels, rows, columns, step_y, step_x, top, left, padded};
  uint8_t *to = (uint8_t *)y;
  for (int32_t oy = 0; oy < out_height; oy++)
    for (int32_t ox = 0; ox < out_width; ox++, to += channels) {
      const hwnas_mve_part part = hwnas_mve_inside(v, oy, ox);
      const int32_t at = ((oy * step_y - top + part.y0) * width + ox * step_x - left + part.x0) * channels;
#if HWNAS_MVE
      const uint8x16_t turned = vdupq_n_u8(is_signed ? 0x80 : 0);
      for (int32_t c = 0; c < channels; c += 16) {
        const mve_pred16_t lanes = vctp8q((uint32_t)(channels - c));
        const uint8_t *row = (const uint8_t *)x + at + c;
        uint8x16_t most = turned;
        for (int32_t i = part.y0; i < part.y1; i++, row += width * channels)
          for (int32_t j = part.x0; j < part.x1; j++) {
            const uint8_t *from = row + (j - part.x0) * channels;
            const uint8x16_t value = channels % 16 ? vldrbq_z_u8(from, lanes) : vldrbq_u8(from);
            if (is_signed)
              most = vreinterpretq_u8_s8(vmaxq_s8(vreinterpretq_s8_u8(most), vreinterpretq_s8_u8(value)));
            else
              most = vmaxq_u8(most, value);
          }
        if (is_signed) most = veorq_u8(most, turned);
        most = vldrbq_gather_offset_u8((const uint8_t *)table, most);
        if (channels % 16) vstrbq_p_u8(to + c, most, lanes);
        else vstrbq_u8(to + c, most);
      }
#else
      for (int32_t c = 0; c < channels; c++) {
        int32_t most = -128;
        for (int32_t i = 0; i < part.y1 - part.y0; i++)
          for (int32_t j = 0; j < part.x1 - part.x0; j++) {
            const uint8_t byte = ((const uint8_t *)x)[at + (i * width + j) * channels + c];
            const int32_t value = is_signed ? (int8_t)byte : byte;
            most = value > most ? value : most;
          }
        to[c] = ((const uint8_t *)table)[is_signed ? most + 128 : most];
      }
#endif
    }
  return 0;
}

/* How sums become means, to nearest, ties to even but where a factor is rounded anyway.
 * HWNAS_MVE_MULTIPLY: (sum + offset) * factor / 2^32. HWNAS_MVE_SHIFT: (sum + offset) / 2^shift; the offset holds
 * 2^(shift - 1) - 1. HWNAS_MVE_DIVIDE: the sum shifted left, made positive by the offset, over the divisor; factor is
 * 2^(32 + shift) / divisor rounded up, 2^shift the power of two below it: exact for quotients of less than 2^31. */
enum { HWNAS_MVE_DIVIDE = 0, HWNAS_MVE_MULTIPLY = 1, HWNAS_MVE_SHIFT = 2 };

typedef struct {
  int32_t mode, lifts, lift, offset, factor, divisor, shift, zero;
  int16_t low, high;
} hwnas_mve_mean;

/* numbers: zero point of the activations; lift, divide and base of the recipe, or 0, shift, 0; zero point, smallest
 * and largest integer of the result. A sum of `inside` activations may count as one of more, those of the border being
 * 0. */
HWNAS_INLINE hwnas_mve_mean hwnas_mve_mean_of(const int32_t *numbers, const uint32_t *factors, int32_t inside,
                                              int32_t count, int32_t padded, int32_t mode) {
  const int32_t lifts = mode == HWNAS_MVE_DIVIDE || padded; /* means of few elements may need it */
  hwnas_mve_mean v = {mode, lifts, numbers[1], -(inside * numbers[0]) * (1 << numbers[1]), (int32_t)*factors, 1,
                      numbers[2], numbers[4], (int16_t)numbers[5], (int16_t)numbers[6]};
  if (mode == HWNAS_MVE_SHIFT) v.offset += (1 << (v.shift - 1)) - 1;
  if (mode != HWNAS_MVE_DIVIDE) return v;
  v.divisor = count << numbers[2];
  v.offset += v.divisor * numbers[3];
  v.zero -= numbers[3];
  v.shift = 0;
  while ((2 << v.shift) < v.divisor) v.shift++;
  return v;
}

#if HWNAS_MVE
HWNAS_INLINE int32x4_t hwnas_mve_averaged(int32x4_t sum, const hwnas_mve_mean v) {
  if (v.lifts) sum = vshlq_r_s32(sum, v.lift);
  sum = vaddq_n_s32(sum, v.offset);
  if (v.mode == HWNAS_MVE_MULTIPLY) return vrmulhq_s32(sum, vdupq_n_s32(v.factor));
  if (v.mode == HWNAS_MVE_SHIFT)
    return vshlq_r_s32(vaddq_s32(sum, vandq_s32(vshlq_s32(sum, vdupq_n_s32(-v.shift)), vdupq_n_s32(1))), -v.shift);
  int32x4_t quotient = sum;
  if (v.divisor > 1) {
    const uint32x4_t high = vmulhq_u32(vreinterpretq_u32_s32(sum), vdupq_n_u32((uint32_t)v.factor));
    quotient = vreinterpretq_s32_u32(vshlq_r_u32(high, -v.shift));
  }
  const int32x4_t rest = vmlaq_n_s32(sum, quotient, -v.divisor);
  const int32x4_t twice = vaddq_s32(vaddq_s32(rest, rest), vandq_s32(quotient, vdupq_n_s32(1)));
  return vaddq_m_n_s32(quotient, quotient, 1, vcmpgtq_n_s32(twice, v.divisor));
}

HWNAS_INLINE int16x8_t hwnas_mve_bounded(int16x8_t means, const hwnas_mve_mean v) {
  return vminq_s16(vmaxq_s16(means, vdupq_n_s16(v.low)), vdupq_n_s16(v.high));
}

/* Means of eight channels from sums of even and of odd ones. */
HWNAS_INLINE int16x8_t hwnas_mve_means(int32x4_t even, int32x4_t odd, const hwnas_mve_mean v) {
  const int16x8_t means = vqmovnbq_s32(vuninitializedq_s16(), hwnas_mve_averaged(even, v));
  return hwnas_mve_bounded(vqaddq_n_s16(vqmovntq_s32(means, hwnas_mve_averaged(odd, v)), (int16_t)v.zero), v);
}

/* Means of eight channels from sums of at most 256 activations; of 64, where sixteen bits hold all that occurs. */
HWNAS_INLINE int16x8_t hwnas_mve_short_means(int16x8_t sums, const hwnas_mve_mean v, int32_t count, int32_t is_signed) {
  if (v.mode == HWNAS_MVE_SHIFT && count <= 64) {
    sums = vaddq_n_s16(sums, (int16_t)v.offset);
    sums = vaddq_s16(sums, vandq_s16(vshlq_s16(sums, vdupq_n_s16((int16_t)-v.shift)), vdupq_n_s16(1)));
    return hwnas_mve_bounded(vaddq_n_s16(vshlq_r_s16(sums, -v.shift), (int16_t)v.zero), v);
  }
  if (is_signed) return hwnas_mve_means(vmovlbq_s16(sums), vmovltq_s16(sums), v);
  const uint16x8_t large = vreinterpretq_u16_s16(sums);
  return hwnas_mve_means(vreinterpretq_s32_u32(vmovlbq_u16(large)), vreinterpretq_s32_u32(vmovltq_u16(large)), v);
}

HWNAS_INLINE int16x8_t hwnas_mve_wide8(const uint8_t *from, mve_pred16_t lanes, int32_t all, int32_t is_signed) {
  if (is_signed) return all ? vldrbq_s16((const int8_t *)from) : vldrbq_z_s16((const int8_t *)from, lanes);
  return vreinterpretq_s16_u16(all ? vldrbq_u16(from) : vldrbq_z_u16(from, lanes));
}

/* Add up eight or sixteen channels of `count` neighbouring pixels: at most 256 of them fit. */
#define HWNAS_MVE_ADD_RUN(type)                                                                                     \
  __asm volatile("wls lr, %3, 2f\n1:\n vldrb." type " q0, [%0]\n vadd.i16 %q1, %q1, q0\n"                           \
                 "vldrb." type " q0, [%0, #8]\n add %0, %4\n vadd.i16 %q2, %q2, q0\n le lr, 1b\n2:"                 \
                 : "+l"(from), "+w"(first), "+w"(second) : "r"(count), "r"(channels) : "lr", "d0", "d1", "memory")
#define HWNAS_MVE_ADD_NARROW_RUN(type)                                                                              \
  __asm volatile("vctp.16 %4\n wls lr, %2, 2f\n1:\n vpst\n vldrbt." type " q0, [%0]\n add %0, %3\n"                 \
                 "vadd.i16 %q1, %q1, q0\n le lr, 1b\n2:"                                                            \
                 : "+l"(from), "+w"(first) : "r"(count), "r"(channels), "r"(inside) : "lr", "d0", "d1", "memory")

HWNAS_INLINE void hwnas_mve_average(const uint8_t *x, uint8_t *to, const hwnas_mve_pool pool, int32_t rows,
                                    int32_t columns, int32_t inside, const hwnas_mve_mean v, int32_t is_signed) {
  const int32_t channels = pool.channels, row_bytes = pool.width * channels, most = pool.rows * pool.columns;
  const mve_pred16_t lanes = vctp16q((uint32_t)inside);
  int16x8_t first = vdupq_n_s16(0), second = first;
  if (!pool.padded && most <= 9) {
#pragma GCC unroll 9
    for (int32_t k = 0; k < most; k++) {
      const uint8_t *from = x + k / pool.columns * row_bytes + k % pool.columns * channels;
      const int16x8_t a = hwnas_mve_wide8(from, lanes, inside >= 8, is_signed);
      first = k ? vaddq_s16(first, a) : a;
      if (inside < 16) continue;
      const int16x8_t b = hwnas_mve_wide8(from + 8, lanes, 1, is_signed);
      second = k ? vaddq_s16(second, b) : b;
    }
  } else {
    int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    int32_t held = 0;
    for (int32_t i = 0; i < rows; i++, x += row_bytes)
      for (int32_t j = 0; j < columns;) {
        const int32_t count = most <= 256 || columns - j < 256 - held ? columns - j : 256 - held;
        const uint8_t *from = x + j * channels;
        if (inside == 16 && is_signed) HWNAS_MVE_ADD_RUN("s16");
        else if (inside == 16) HWNAS_MVE_ADD_RUN("u16");
        else if (is_signed) HWNAS_MVE_ADD_NARROW_RUN("s16");
        else HWNAS_MVE_ADD_NARROW_RUN("u16");
        j += count, held += count;
        if (most <= 256 || (held < 256 && (i + 1 < rows || j < columns))) continue;
        held = 0;
        if (is_signed) {
          sums[0] = vaddq_s32(sums[0], vmovlbq_s16(first)), sums[1] = vaddq_s32(sums[1], vmovltq_s16(first));
          sums[2] = vaddq_s32(sums[2], vmovlbq_s16(second)), sums[3] = vaddq_s32(sums[3], vmovltq_s16(second));
        } else {
          const uint16x8_t a = vreinterpretq_u16_s16(first), b = vreinterpretq_u16_s16(second);
          sums[0] = vaddq_s32(sums[0], vreinterpretq_s32_u32(vmovlbq_u16(a)));
          sums[1] = vaddq_s32(sums[1], vreinterpretq_s32_u32(vmovltq_u16(a)));
          sums[2] = vaddq_s32(sums[2], vreinterpretq_s32_u32(vmovlbq_u16(b)));
          sums[3] = vaddq_s32(sums[3], vreinterpretq_s32_u32(vmovltq_u16(b)));
        }
        first = second = vdupq_n_s16(0);
      }
    if (most > 256) {
      vstrbq_p_s16((int8_t *)to, hwnas_mve_means(sums[0], sums[1], v), lanes);
      if (inside == 16) vstrbq_s16((int8_t *)to + 8, hwnas_mve_means(sums[2], sums[3], v));
      return;
    }
  }
  first = hwnas_mve_short_means(first, v, most, is_signed);
  if (inside < 8) vstrbq_p_s16((int8_t *)to, first, lanes);
  else vstrbq_s16((int8_t *)to, first);
  if (inside == 16) vstrbq_s16((int8_t *)to + 8, hwnas_mve_short_means(second, v, most, is_signed));
}
#else
HWNAS_INLINE uint8_t hwnas_mve_averaged(int32_t sum, const hwnas_mve_mean v) {
  int32_t value;
  sum = sum * (1 << v.lift) + v.offset;
  if (v.mode != HWNAS_MVE_DIVIDE) {
    value = hwnas_mve_rescaled(sum, v.mode == HWNAS_MVE_SHIFT ? -v.shift : v.factor, v.mode == HWNAS_MVE_MULTIPLY);
  } else {
    value = v.divisor > 1 ? (int32_t)(((uint64_t)(uint32_t)sum * (uint32_t)v.factor) >> 32) >> v.shift : sum;
    const int32_t rest = sum - value * v.divisor;
    value += 2 * rest + (value & 1) > v.divisor;
  }
  return hwnas_mve_byte(value + v.zero, v.low, v.high);
}

HWNAS_INLINE void hwnas_mve_average(const uint8_t *x, uint8_t *to, const hwnas_mve_pool pool, int32_t rows,
                                    int32_t columns, int32_t inside, const hwnas_mve_mean v, int32_t is_signed) {
  for (int32_t c = 0; c < inside; c++) {
    int32_t sum = 0;
    for (int32_t i = 0; i < rows; i++)
      for (int32_t j = 0; j < columns; j++) {
        const uint8_t byte = x[(i * pool.width + j) * pool.channels + c];
        sum += is_signed ? (int8_t)byte : byte;
      }
    to[c] = hwnas_mve_averaged(sum, v);
  }
}
#endif

/* factors: one, or one for each number of activations of a window where the border does not count. */
HWNAS_INLINE int32_t hwnas_mve_avgpool(const void *x, const int32_t *numbers, const uint32_t *factors, void *y,
                                       int32_t height, int32_t width, int32_t channels, int32_t out_height,
                                       int32_t out_width, int32_t rows, int32_t columns, int32_t step_y,
                                       int32_t step_x, int32_t top, int32_t left, int32_t padded, int32_t counts_pads,
                                       int32_t is_signed, int32_t mode) {
  const hwnas_mve_pool v = {height, width, channels, rows, columns, step_y, step_x, top, left, padded};
  const int32_t whole = rows * columns;
  hwnas_mve_mean mean = hwnas_mve_mean_of(numbers, factors, whole, whole, padded, mode);
  uint8_t *to = (uint8_t *)y;
  for (int32_t oy = 0; oy < out_height; oy++)
    for (int32_t ox = 0; ox < out_width; ox++, to += channels) {
      const hwnas_mve_part part = hwnas_mve_inside(v, oy, ox);
      int32_t runs = part.y1 - part.y0, run = part.x1 - part.x0;
      const uint8_t *from = (const uint8_t *)x
                            + ((oy * step_y - top + part.y0) * width + ox * step_x - left + part.x0) * channels;
      if (padded) {
        const int32_t count = runs * run;
        mean = counts_pads ? hwnas_mve_mean_of(numbers, factors, count, whole, 1, mode)
                           : hwnas_mve_mean_of(numbers, factors + (count - 1), count, count, 1, mode);
      } else if (columns == width) { /* whole rows of the activations are one run */
        runs = 1, run = whole;
      }
      int32_t c = 0;
      for (; c + 16 <= channels; c += 16) hwnas_mve_average(from + c, to + c, v, runs, run, 16, mean, is_signed);
      if (channels % 16 >= 8) hwnas_mve_average(from + c, to + c, v, runs, run, 8, mean, is_signed), c += 8;
      if (channels % 8) hwnas_mve_average(from + c, to + c, v, runs, run, channels % 8, mean, is_signed);
    }
  return 0;
}
