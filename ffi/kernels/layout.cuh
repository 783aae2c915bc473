// How tensors lie on the device. Everything is padded with zeros, so that no kernel has a ragged inner loop:
//
// - rows of activations and vectors to whole 16 entries (64 bytes), see `padded`;
// - f16 and bf16 matrices [outputs, inputs] are cut into tiles of 16 outputs by 16 inputs, each in the order in which
//   the lanes of a warp take it as operand A of mma.m16n8k16: 8 entries, 16 bytes, a lane;
// - f32 and int8 matrices are panels of 32 outputs: for each 4 inputs, 32 outputs side by side, f32 as 4 rows of
//   them, int8 as one row of 4 bytes.
//
// `src/backend/cuda/tensors.ts` computes the sizes; `matrix_index` is the only place that knows the order.

#pragma once
#include "device.cuh"

// How the kernels number the dtypes.
enum Format { AS_F32 = 0, AS_F16 = 1, AS_BF16 = 2, AS_INT8 = 3 };

constexpr int WARP = 32;

SD_INLINE int padded(int columns) { return (columns + 15) & ~15; }

// Which entry of the packed matrix W[output][input] is. Of the inputs of a tile, lane % 4 takes four that follow one
// another: mma names them 2q, 2q+1, 2q+8, 2q+9, but a sum over inputs does not care, as long as operand B agrees,
// and so a lane's share of a row of x is one aligned load of 16 bytes.
SD_INLINE size_t matrix_index(int format, int output, int input, int inputs) {
  int k = padded(inputs);
  if (format == AS_F16 || format == AS_BF16) {
    size_t tile = (size_t)(output / 16) * (k / 16) + input / 16;
    int lane = output % 8 * 4 + input % 16 / 4;
    int slot = input % 4 / 2 * 4 + output % 16 / 8 * 2 + input % 2;
    return (tile * WARP + lane) * 8 + slot;
  }
  size_t panel = (size_t)(output / 32) * k * 32;
  if (format == AS_F32) return panel + (size_t)input * 32 + output % 32;
  return panel + (size_t)(input / 4) * 128 + output % 32 * 4 + input % 4;
}

// A packed matrix as a kernel sees it; `scales` are int8's, one for each output.
SD_INLINE float matrix_entry(const void* data, const float* scales, int format, int output, int input,
                                     int inputs) {
  size_t at = matrix_index(format, output, input, inputs);
  switch (format) {
    case AS_F16: return from_f16(((const uint16_t*)data)[at]);
    case AS_BF16: return from_bf16(((const uint16_t*)data)[at]);
    case AS_INT8: return ((const int8_t*)data)[at] * scales[output];
    default: return ((const float*)data)[at];
  }
}

// Folds a value over the lanes of a warp; every lane has the result. The tree is fixed.
template <class T, class Fold>
SD_INLINE T warp_fold(T value, Fold fold) {
  for (int mask = WARP / 2; mask > 0; mask /= 2) value = fold(value, shfl_xor(value, mask));
  return value;
}

SD_INLINE float warp_sum(float value) {
  return warp_fold(value, [](float a, float b) { return a + b; });
}

// Several sums over the same number of neighbouring lanes, whose exchanges overlap.
template <int LANES, int COUNT>
SD_INLINE void sum_over(float (&values)[COUNT]) {
#pragma unroll
  for (int mask = LANES / 2; mask > 0; mask /= 2) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) values[i] += shfl_xor(values[i], mask);
  }
}

// The sum of a value over the lanes up to this one.
template <class T>
SD_INLINE T warp_running_sum(T value) {
  const int lane = threadIdx.x % WARP;
  for (int by = 1; by < WARP; by *= 2) {
    const T other = shfl(value, lane - by);
    if (lane >= by) value += other;
  }
  return value;
}

// What a norm has to know of 16 columns of a row: their sum, and the sum of squares about their mean. Whoever writes
// the rows of a residual stream writes their groups too, [rows, columns / 16]; so nobody has to read the rows twice.
struct Group {
  float sum, squares;
};

SD_INLINE int groups_of(int columns) { return (columns + 15) / 16; }

// Of how many columns a group is, and one over that, which is exact for 16.
SD_INLINE int group_size(int group, int columns) { return min(16, columns - group * 16); }
SD_INLINE float group_share(int group, int columns) { return 1.0f / group_size(group, columns); }

// The groups of a column in several rows; the 16 lanes that hold its columns call together, those beyond the last column
// with zeros.
template <int COUNT>
SD_INLINE void groups_around(Group (&found)[COUNT], const float (&values)[COUNT], int column, int columns) {
  const float share = group_share(column / 16, columns);
  float sums[COUNT], squares[COUNT];
#pragma unroll
  for (int n = 0; n < COUNT; n++) sums[n] = values[n];
  sum_over<16>(sums);
#pragma unroll
  for (int n = 0; n < COUNT; n++) {
    const float d = column < columns ? values[n] - sums[n] * share : 0;
    squares[n] = d * d;
  }
  sum_over<16>(squares);
#pragma unroll
  for (int n = 0; n < COUNT; n++) found[n] = {sums[n], squares[n]};
}

// The same in one.
SD_INLINE Group group_around(float value, int column, int columns) {
  const float values[1] = {value};
  Group found[1];
  groups_around(found, values, column, columns);
  return found[0];
}

// Mean of a row and 1/sqrt(variance + epsilon).
struct Statistics {
  float mean, scale;
};

// From the groups of rows, by one warp; every lane has them. `groups(r)`: where those of the rth row are.
template <int ROWS, class Groups>
SD_INLINE void row_statistics(Statistics (&found)[ROWS], Groups groups, int columns, float epsilon) {
  constexpr int HELD = 4, BATCH = HELD * WARP;  // of a row by a lane, and by a warp, at a time
  const int lane = threadIdx.x % WARP, all = groups_of(columns);
  Group held[ROWS][HELD];
  auto load = [&](int base) {  // all of them before any is needed: what costs is to wait for memory
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
      for (int h = 0; h < HELD; h++) {
        const int g = base + h * WARP + lane;
        float2 v = {};
        if (g < all) v = *(const float2*)(groups(r) + g);
        held[r][h] = {v.x, v.y};
      }
    }
  };
  float sums[ROWS] = {}, squares[ROWS] = {};
  for (int base = 0; base < all; base += BATCH) {
    load(base);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
      for (int h = 0; h < HELD; h++) sums[r] += held[r][h].sum;
    }
  }
  const float share = 1.0f / columns, share_of_last = group_share(all - 1, columns);
  sum_over<WARP>(sums);
#pragma unroll
  for (int r = 0; r < ROWS; r++) found[r].mean = sums[r] * share;
  for (int base = (all - 1) / BATCH * BATCH; base >= 0; base -= BATCH) {
    if (base + BATCH < all) load(base);  // the last are still here
#pragma unroll
    for (int h = 0; h < HELD; h++) {
      const int g = base + h * WARP + lane, count = group_size(g, columns);
      const float share = count == 16 ? 0.0625f : share_of_last;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const float d = held[r][h].sum * share - found[r].mean;
        if (g < all) squares[r] += fmaf(count * d, d, held[r][h].squares);
      }
    }
  }
  sum_over<WARP>(squares);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const float variance = squares[r] * share;
    // what overflows is to end as no number, and not as a row of zeros
    found[r].scale = rsqrtf(variance + epsilon + 0 * variance);
  }
}

SD_INLINE float normalised(float x, Statistics row, float gain, float shift) {
  return fmaf((x - row.mean) * row.scale, gain, shift);
}

// Whether this block, which has left its share behind, is the last of `count` to arrive; only that one goes on.
//
// One thread fences for its block. What its threads wrote comes before the barrier, that before the fence,
// and that before the addition; the last to arrive adds to what all additions before made, and its own fence
// comes before the barrier behind which its block reads. Such orders add up (PTX ISA, causality order), and
// the grids of cooperative groups wait by the same.
SD_INLINE bool last_to_arrive(unsigned* arrived, unsigned count) {
  SD_SHARED(bool, last, 1);
  syncthreads();
  if (threadIdx.x == 0) {
    device_fence();
    last[0] = atomic_add(arrived, 1u) == count - 1;
    if (last[0]) {
      *arrived = 0;  // for the next launch
      device_fence();
    }
  }
  syncthreads();
  return last[0];
}
