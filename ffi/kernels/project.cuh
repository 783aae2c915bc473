// What all projections share: the shape of blocks, norms on the way in, and what becomes of a sum.
#pragma once

#include "layout.cuh"

constexpr int WARPS = 8;  // of a block for few rows: each has a share of the sums
constexpr int THREADS = WARPS * WARP;

// What happens to a sum: nothing, GELU, or being added to what is there.
enum Then { STORE = 0, GELU = 1, ADD = 2 };

struct Finish {
  float* out;
  Group* groups;      // of out, or null
  const float* bias;  // [outputs] or null
  const float* gate;  // [outputs] or null
  int rows, outputs, then;
};

SD_INLINE float gelu(float y) {
  return 0.5f * y * (1 + tanhf(0.7978845608028654f * fmaf(0.044715f * y * y, y, y)));
}

// A sum becomes an entry of out; lanes with the same row and 16 neighbouring outputs come together.
SD_INLINE void finish(const Finish& f, int row, int output, float y) {
  const bool inside = row < f.rows && output < f.outputs;
  if (inside) {
    if (f.bias) y += f.bias[output];
    if (f.then == GELU) y = gelu(y);
    float* at = f.out + (size_t)row * padded(f.outputs) + output;
    if (f.then == ADD) y = fmaf(f.gate ? f.gate[output] : 1, y, *at);
    *at = y;
  }
  if (!f.groups) return;
  Group group = group_around(inside ? y : 0, output, f.outputs);
  if (inside && output % 16 == 0) f.groups[(size_t)row * groups_of(f.outputs) + output / 16] = group;
}

// The norm of rows on their way in.
struct NormIn {
  const Group* groups; // of x
  const float* gain;   // [inputs], null: no norm
  const float* shift;  // [inputs] or null
  float epsilon;
};

// The statistics of `count` rows from `first` on, one warp a row, into shared memory.
SD_INLINE void prepare_statistics(Statistics* shared, const NormIn& norm, int first, int count, int rows, int inputs) {
  if (!norm.gain) return;
  for (int r = threadIdx.x / WARP; r < count; r += WARPS) {
    const Group* groups = norm.groups + (size_t)min(first + r, rows - 1) * groups_of(inputs);
    Statistics s = row_statistics(groups, inputs, norm.epsilon);
    if (threadIdx.x % WARP == 0) shared[r] = s;
  }
  syncthreads();
}

SD_INLINE uint32_t pack(F16, float low, float high) { return pack_f16(low, high); }
SD_INLINE uint32_t pack(Bf16, float low, float high) { return pack_bf16(low, high); }
