// Projections of many rows by f16 and bf16 matrices: prefills, and drafts over a whole context. The rows are normalised,
// rounded and packed once; then two packed matrices are multiplied, tile by tile, from a ring in shared memory that all
// warps of a block fill. Where bits do not matter cuBLAS may multiply instead: what comes before and after is here too.
//
// The bits are those of `project_half` in `project.cu`, where the steps of a sum are dealt to warps and blocks. Here one
// warp does what they all do, share after share: a share's steps into sums of its own, those of a block's warps into
// the block's, those of the blocks into the total. So there are three sets of sums in registers; it takes them to be
// exact. Deliberately not for few rows: nobody shares the sum of an output.

#include "project.cuh"

// ---- rows as a matrix ----

// Rounds rows, normalised if they are to be, and packs them as the tiles of 16 rows by 16 inputs that `layout.cuh`
// describes, or leaves them as rows. Rows beyond the last, up to a whole tile, repeat it. Grid (any, rows / 16).
template <class Half, bool AS_ROWS>
SD_INLINE void narrow(uint2* out, const float* x, const NormIn& norm, int rows, int inputs) {
  SD_SHARED(Statistics, statistics, 16);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int first = blockIdx.y * 16, stride = padded(inputs), all = stride / 16;
  grid_dependency_wait();
  prepare_statistics(statistics, norm, first, rows, inputs);
  Statistics of_row[2] = {};
  if (norm.gain) of_row[0] = statistics[lane / 4], of_row[1] = statistics[lane / 4 + 8];
  auto entries = [&](int half, int column) {
    float4 v = *(const float4*)(x + (size_t)min(first + half * 8 + lane / 4, rows - 1) * stride + column);
    if (!norm.gain) return v;
    const float4 gain = *(const float4*)(norm.gain + column);
    float4 shift = {};
    if (norm.shift) shift = *(const float4*)(norm.shift + column);
    v.x = normalised(v.x, of_row[half], gain.x, shift.x);
    v.y = normalised(v.y, of_row[half], gain.y, shift.y);
    v.z = normalised(v.z, of_row[half], gain.z, shift.z);
    v.w = normalised(v.w, of_row[half], gain.w, shift.w);
    return v;
  };
#pragma unroll 4
  for (int step = blockIdx.x * WARPS + warp; step < all; step += gridDim.x * WARPS) {
    const int column = step * 16 + lane % 4 * 4;
    const float4 upper = entries(0, column), lower = entries(1, column);
    const uint2 left = make_uint2(pack(Half(), upper.x, upper.y), pack(Half(), upper.z, upper.w));
    const uint2 right = make_uint2(pack(Half(), lower.x, lower.y), pack(Half(), lower.z, lower.w));
    if (AS_ROWS) {
      uint2* to = out + ((size_t)(first + lane / 4) * stride + column) / 4;
      to[0] = left;
      to[2 * stride] = right;  // 8 rows further
    } else {
      uint4* to = (uint4*)out + ((size_t)blockIdx.y * all + step) * WARP + lane;
      *to = make_uint4(left.x, right.x, left.y, right.y);
    }
  }
  grid_dependency_launch();
}

#define NARROW(name, Half, AS_ROWS)                                                                              \
  SD_KERNEL(THREADS, name, uint2* out, const float* x, const Group* groups, const float* gain, const float* shift, \
            float epsilon, int rows, int inputs) {                                                               \
    narrow<Half, AS_ROWS>(out, x, {groups, gain, shift, epsilon}, rows, inputs);                                 \
  }
NARROW(narrow_f16, F16, false)
NARROW(narrow_bf16, Bf16, false)
NARROW(narrow_rows_f16, F16, true)
NARROW(narrow_rows_bf16, Bf16, true)

// ---- the product ----

constexpr int OUTPUTS = 128;       // of a block; 32 of a warp
constexpr int GROUP_ROWS = 64;     // of a warp; four warps have the same
constexpr int GROUP_THREADS = 128; // those four
constexpr int STAGES = 5;          // of the ring
constexpr int STEPS = 2;           // of a stage, each of 16 inputs
constexpr int PITCH = OUTPUTS + 4; // of the sums in shared memory, so that columns lie in different banks

// Goes over the steps of a sum: those of the first share in order, then those of the second, …
struct Walk {
  int share, step;
  SD_INLINE void next(int sharers, int all) {
    step += sharers;
    if (step >= all) step = ++share;
  }
};

// One warp's sums: for 32 outputs and 64 rows, as mma leaves them.
typedef float Sums[2][8][4];

SD_INLINE void add_to(Sums& to, const Sums& sums) {
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int t = 0; t < 8; t++) {
#pragma unroll
      for (int i = 0; i < 4; i++) to[m][t][i] += sums[m][t][i];
    }
  }
}

SD_INLINE void clear(Sums& sums) {
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int t = 0; t < 8; t++) {
#pragma unroll
      for (int i = 0; i < 4; i++) sums[m][t][i] = 0;
    }
  }
}

// x [rows, inputs] as `narrow` packs it; `splits` are the blocks that share an output in `project_half`.
template <class Half, int GROUPS>
SD_INLINE void project_many(const Finish& f, const uint4* x, const uint4* weights, int splits, int inputs) {
  constexpr int COUNT = GROUPS * GROUP_THREADS, ROWS = GROUPS * GROUP_ROWS;
  constexpr int WEIGHTS = OUTPUTS * 2, SLOTS = WEIGHTS + ROWS * 2;  // of 16 bytes, in a step
  SD_DYNAMIC_SHARED(uint4, ring);                                   // [STAGES, STEPS, SLOTS]
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int all = padded(inputs) / 16, sharers = splits * WARPS;

  // what a thread copies: the same slots of each step
  const uint4* weights_from[2 / GROUPS];
#pragma unroll
  for (int j = 0; j < 2 / GROUPS; j++) {
    const unsigned tile = blockIdx.x * (OUTPUTS / 16) + warp + j * (COUNT / WARP);
    weights_from[j] = weights + (size_t)min(tile, (unsigned)(f.outputs - 1) / 16) * all * WARP + lane;
  }
  const unsigned row_tile = blockIdx.y * (ROWS / 16) + warp;
  const uint4* rows_from = x + (size_t)min(row_tile, (unsigned)(f.rows - 1) / 16) * all * WARP + lane;
  Walk ahead = {0, 0};
  int loaded = 0;        // steps
  uint4* free_at = ring; // where the next stage goes
  auto load = [&](bool with_weights, bool with_rows) {
#pragma unroll
    for (int p = 0; p < STEPS; p++) {
      if (loaded < all) {
        uint4* to = free_at + p * SLOTS + threadIdx.x;
#pragma unroll
        for (int j = 0; j < 2 / GROUPS && with_weights; j++) {
          cp_async16(to + j * COUNT, weights_from[j] + ahead.step * WARP);
        }
        if (with_rows) cp_async16(to + WEIGHTS, rows_from + ahead.step * WARP);
        ahead.next(sharers, all);
      }
      loaded++;
    }
    free_at = free_at == ring + (STAGES - 1) * STEPS * SLOTS ? ring : free_at + STEPS * SLOTS;
  };
  for (int s = 0; s < STAGES - 1; s++) load(true, false);
  ahead = {0, 0}, loaded = 0, free_at = ring;
  grid_dependency_wait();  // the weights do not depend on the kernel before this one
  for (int s = 0; s < STAGES - 1; s++) {
    load(false, true);
    cp_async_commit();
  }

  Sums of_share, of_block, total;
  clear(of_block);
  clear(total);
  Walk at = {0, 0};
  const uint4* stage = ring;
  for (int base = 0; base < all; base += STEPS) {
    cp_async_wait<STAGES - 2>();
    syncthreads();  // what all have copied is there, and the stage before this one is free
    load(true, true);
    cp_async_commit();
#pragma unroll
    for (int p = 0; p < STEPS; p++) {
      if (base + p >= all) break;
      const uint4* from = stage + p * SLOTS + lane;
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; m++) {
        const uint4 w = from[(warp % 4 * 2 + m) * WARP];
        a[m][0] = w.x, a[m][1] = w.y, a[m][2] = w.z, a[m][3] = w.w;
      }
      auto multiply = [&]() {
#pragma unroll
        for (int tile = 0; tile < GROUP_ROWS / 16; tile++) {
          const uint4 v = from[WEIGHTS + (warp / 4 * (GROUP_ROWS / 16) + tile) * WARP];
          const uint32_t upper[2] = {v.x, v.z}, lower[2] = {v.y, v.w};
#pragma unroll
          for (int m = 0; m < 2; m++) {
            mma_16816(of_share[m][2 * tile], a[m], upper, Half());
            mma_16816(of_share[m][2 * tile + 1], a[m], lower, Half());
          }
        }
      };
      if (at.step == at.share) {
        clear(of_share);  // which the compiler makes part of the first product
        multiply();
      } else {
        multiply();
      }
      if (at.step + sharers >= all) {
        add_to(of_block, of_share);
        if (at.share % WARPS == WARPS - 1 || at.share == all - 1) {
          add_to(total, of_block);
          clear(of_block);
        }
      }
      at.next(sharers, all);
    }
    stage = stage == ring + (STAGES - 1) * STEPS * SLOTS ? ring : stage + STEPS * SLOTS;
  }
  cp_async_wait<0>();
  grid_dependency_launch();

  syncthreads();  // the ring becomes [ROWS, PITCH]
  float* sums = (float*)ring;
#pragma unroll
  for (int t = 0; t < 8; t++) {
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const int row = warp / 4 * GROUP_ROWS + t * 8 + lane % 4 * 2;
      float* to = sums + row * PITCH + warp % 4 * 32 + m * 16 + lane / 4;
      to[0] = total[m][t][0];
      to[PITCH] = total[m][t][1];
      to[8] = total[m][t][2];
      to[PITCH + 8] = total[m][t][3];
    }
  }
  syncthreads();
  constexpr int BATCH = 8;  // rows of a thread at a time
  const int first = blockIdx.y * ROWS, count = min(ROWS, f.rows - first), output = threadIdx.x % OUTPUTS;
  for (int row = threadIdx.x / OUTPUTS; row < count; row += BATCH * GROUPS) {
    float y[BATCH];
#pragma unroll
    for (int n = 0; n < BATCH; n++) y[n] = sums[(row + n * GROUPS) * PITCH + output];
    finish(f, first + row, GROUPS, blockIdx.x * OUTPUTS + output, y);
  }
}

// Grid (outputs / 128, rows / (64·GROUPS)).
#define PROJECT_MANY(name, Half, GROUPS)                                                                              \
  SD_KERNEL(GROUPS * GROUP_THREADS, name, float* out, Group* groups, const uint4* x, const uint4* weights,            \
            const float* bias, const float* gate, int splits, int rows, int inputs, int outputs, int then) {          \
    project_many<Half, GROUPS>({out, groups, bias, gate, rows, outputs, then}, x, weights, splits, inputs);           \
  }
PROJECT_MANY(project_many_f16_64, F16, 1)
PROJECT_MANY(project_many_f16_128, F16, 2)
PROJECT_MANY(project_many_bf16_64, Bf16, 1)
PROJECT_MANY(project_many_bf16_128, Bf16, 2)

// ---- after a product of cuBLAS

constexpr int FINISHED = 8;  // rows of a block

// What becomes of sums [rows, outputs], padded, which may lie where the result goes. Grid (outputs / 256, rows / 8).
SD_KERNEL(THREADS, finish_rows, float* out, Group* groups, const float* sums, const float* bias, const float* gate,
          int rows, int outputs, int then) {
  const int output = blockIdx.x * THREADS + threadIdx.x, first = blockIdx.y * FINISHED;
  grid_dependency_wait();
  float y[FINISHED];
#pragma unroll
  for (int n = 0; n < FINISHED; n++) {
    y[n] = sums[(size_t)min(first + n, rows - 1) * padded(outputs) + min(output, outputs - 1)];
  }
  finish({out, groups, bias, gate, rows, outputs, then}, first, 1, output, y);
}
