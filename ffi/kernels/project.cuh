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

// Sums become entries of out, those of one output in rows from `row` on, `apart` from one another. Lanes come together
// with the same rows and 16 neighbouring outputs. What is loaded is so before any of it is needed.
template <int COUNT>
SD_INLINE void finish(const Finish& f, int row, int apart, int output, const float (&sums)[COUNT]) {
  const bool known = output < f.outputs;
  const float bias = known && f.bias ? f.bias[output] : 0, gate = known && f.gate ? f.gate[output] : 1;
  float* out = f.out + (size_t)row * padded(f.outputs) + output;
  const int pitch = apart * padded(f.outputs);
  auto inside = [&](int n) { return known && row + n * apart < f.rows; };
  float y[COUNT], before[COUNT];
#pragma unroll
  for (int n = 0; n < COUNT; n++) {
    before[n] = 0;
    if (f.then == ADD && inside(n)) before[n] = out[n * pitch];
  }
#pragma unroll
  for (int n = 0; n < COUNT; n++) {
    y[n] = sums[n] + bias;
    if (f.then == GELU) y[n] = gelu(y[n]);
    if (f.then == ADD) y[n] = fmaf(gate, y[n], before[n]);
    if (inside(n)) out[n * pitch] = y[n];
    else y[n] = 0;
  }
  if (!f.groups) return;
  Group found[COUNT];
  groups_around(found, y, output, f.outputs);
  float2* to = (float2*)f.groups + (size_t)row * groups_of(f.outputs) + output / 16;
  const int groups_pitch = apart * groups_of(f.outputs);
#pragma unroll
  for (int n = 0; n < COUNT; n++) {
    if (inside(n) && output % 16 == 0) to[n * groups_pitch] = make_float2(found[n].sum, found[n].squares);
  }
}

// The norm of rows on their way in.
struct NormIn {
  const Group* groups; // of x
  const float* gain;   // [inputs], null: no norm
  const float* shift;  // [inputs] or null
  float epsilon;
};

// The statistics of rows from `first` on into shared memory, each warp those of every eighth.
template <int ROWS>
SD_INLINE void prepare_statistics(Statistics (&shared)[ROWS], const NormIn& norm, int first, int rows, int inputs) {
  if (!norm.gain) return;
  constexpr int EACH = (ROWS + WARPS - 1) / WARPS;
  const int warp = threadIdx.x / WARP;
  Statistics found[EACH];
  auto groups = [&](int r) {
    return norm.groups + (size_t)min(first + r * WARPS + warp, rows - 1) * groups_of(inputs);
  };
  row_statistics(found, groups, inputs, norm.epsilon);
#pragma unroll
  for (int r = 0; r < EACH; r++) {
    if (threadIdx.x % WARP == 0 && r * WARPS + warp < ROWS) shared[r * WARPS + warp] = found[r];
  }
  syncthreads();
}

SD_INLINE uint32_t pack(F16, float low, float high) { return pack_f16(low, high); }
SD_INLINE uint32_t pack(Bf16, float low, float high) { return pack_bf16(low, high); }
