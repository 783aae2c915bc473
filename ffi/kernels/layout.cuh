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

// The group of a column; the 16 lanes that hold its columns call together, those beyond the last column with 0.
SD_INLINE Group group_around(float value, int column, int columns) {
  auto sum = [](float v) {
    for (int mask = 8; mask > 0; mask /= 2) v += shfl_xor(v, mask);
    return v;
  };
  float total = sum(value);
  float d = column < columns ? value - total / min(16, columns - column / 16 * 16) : 0;
  return {total, sum(d * d)};
}

// Mean of a row and 1/sqrt(variance + epsilon).
struct Statistics {
  float mean, scale;
};

// From the groups of a row, by one warp; every lane has them.
SD_INLINE Statistics row_statistics(const Group* groups, int columns, float epsilon) {
  int lane = threadIdx.x % WARP;
  float sum = 0, squares = 0;
  for (int g = lane; g < groups_of(columns); g += WARP) sum += groups[g].sum;
  float mean = warp_sum(sum) / columns;
  for (int g = lane; g < groups_of(columns); g += WARP) {
    int count = min(16, columns - g * 16);
    float d = groups[g].sum / count - mean;
    squares += fmaf(count * d, d, groups[g].squares);
  }
  float variance = warp_sum(squares) / columns;
  // what overflows is to end as no number, and not as a row of zeros
  return {mean, 1 / sqrtf(variance + epsilon + 0 * variance)};
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
