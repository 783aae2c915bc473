// Projections: out = finish(norm(x)·Wᵀ). For few rows the weights are what costs: each is read once for all rows of a
// tile. For more, it is the rows, which every block reads: so a block of many rows has more outputs. For as many as
// keep the tensor cores busy there is `project_many.cu`.
//
// The bit-exact rule: the steps of a sum are dealt in turn to the warps of the blocks that share an output, by a number
// of blocks that depends on the matrix alone, and what the warps have is added in their order, then what the blocks
// have in theirs. None of this depends on how many rows there are; a row is a column of operand B. The build switches
// the contraction of a·b + c off, so that every instance of a template rounds alike.

#include "project.cuh"

// ---- f16 and bf16: 16 or 64 outputs a block on the tensor cores, rows in tiles of 8 ----

// Steps that are on their way from memory.
template <int TILES>
constexpr int STAGES = TILES == 1 ? 5 : TILES < 6 ? 4 : 3;

// Blocks of up to 48 rows have registers for more threads than they are, so that one of `attention_half.cu` has room
// beside them.
template <int TILES>
constexpr int ROOM = TILES > 6 ? THREADS : 384;

// A lane of a warp copies what it will itself multiply, so that the ring needs no barrier: of each stage, 16 bytes of
// each tile of the weights and 16 of each tile of rows. Gain and shift, which are the same for all rows, come once for
// the warp, by its first 8 lanes.
template <class Half, int MATS, int TILES>
SD_INLINE void project_half(const Finish& f, const float* x, const uint4* weights, const NormIn& norm, float* partials,
                            unsigned* arrivals, int inputs) {
  constexpr int ROWS = TILES * 8, OUTPUTS = MATS * 16, ITEMS = ROWS * OUTPUTS;
  SD_DYNAMIC_SHARED(uint4, ring);
  SD_SHARED(Statistics, statistics, ROWS);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int first = blockIdx.y * ROWS, stride = padded(inputs), all = stride / 16;
  const int sharers = gridDim.z * WARPS, share = blockIdx.z * WARPS + warp;
  const int steps = (all - share + sharers - 1) / sharers;  // this warp's: share, share + sharers, …
  const int quad = lane % 4 * 4;  // of the 16 inputs of a step, this lane's 4
  // where this lane's part of the first step is, from which another is the same way for all; no pointers, as registers
  // are short
  int weights_from[MATS], rows_from[TILES];
#pragma unroll
  for (int m = 0; m < MATS; m++) {
    const int tile = min(blockIdx.x * MATS + m, (unsigned)(f.outputs - 1) / 16);
    weights_from[m] = (tile * all + share) * WARP + lane;
  }
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    rows_from[t] = min(first + t * 8 + lane / 4, f.rows - 1) * stride + share * 16 + quad;
  }
  const float* const factors = lane < 4 ? norm.gain : norm.shift;
  const float* norm_from = norm.gain && lane < 8 && factors ? factors + share * 16 + quad : nullptr;
  auto slot = [&](int step, int s) {
    return ring + (step % STAGES<TILES> * (MATS + TILES) + s) * THREADS + threadIdx.x;
  };
  auto norm_slot = [&](int step, int of) {
    return ring + STAGES<TILES> * (MATS + TILES) * THREADS + (step % STAGES<TILES> * WARPS + warp) * 8 + of;
  };
  auto load_weights = [&](int step) {
    for (int m = 0; m < MATS && step < steps; m++) {
      cp_async16(slot(step, m), weights + (weights_from[m] + step * sharers * WARP));
    }
  };
  auto load_rows = [&](int step) {
    if (step < steps) {
      const int ahead = step * sharers * 16;
      for (int t = 0; t < TILES; t++) cp_async16(slot(step, MATS + t), x + (rows_from[t] + ahead));
      if (norm_from) cp_async16(norm_slot(step, lane), norm_from + ahead);
    }
    cp_async_commit();  // also an empty group counts, which keeps the counting simple
  };

  for (int s = 0; s < STAGES<TILES> - 1; s++) load_weights(s);
  grid_dependency_wait();  // the weights do not depend on the kernel before this one
  for (int s = 0; s < STAGES<TILES> - 1; s++) load_rows(s);
  prepare_statistics(statistics, norm, first, f.rows, inputs);
  // without a norm rows go through one that changes nothing: branches would keep the tiles from overlapping
  Statistics mine[TILES];
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    mine[t] = {0, 1};
    if (norm.gain) mine[t] = statistics[t * 8 + lane / 4];
  }

  float sums[MATS][TILES][4] = {};
  for (int step = 0; step < steps; step++) {
    load_weights(step + STAGES<TILES> - 1);
    syncwarp();  // all lanes have read gain and shift of the step before, whose place is free
    load_rows(step + STAGES<TILES> - 1);
    cp_async_wait<STAGES<TILES> - 1>();
    syncwarp();  // gain and shift, which other lanes have copied, are there
    uint32_t a[MATS][4];
#pragma unroll
    for (int m = 0; m < MATS; m++) {
      const uint4 w = *slot(step, m);
      a[m][0] = w.x, a[m][1] = w.y, a[m][2] = w.z, a[m][3] = w.w;
    }
    float4 gain = {1, 1, 1, 1}, shift = {};
    if (norm.gain) gain = *(float4*)norm_slot(step, lane % 4);
    if (norm.gain && norm.shift) shift = *(float4*)norm_slot(step, 4 + lane % 4);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      float4 v = *(float4*)slot(step, MATS + t);
      v.x = normalised(v.x, mine[t], gain.x, shift.x);
      v.y = normalised(v.y, mine[t], gain.y, shift.y);
      v.z = normalised(v.z, mine[t], gain.z, shift.z);
      v.w = normalised(v.w, mine[t], gain.w, shift.w);
      const uint32_t b[2] = {pack(Half(), v.x, v.y), pack(Half(), v.z, v.w)};
#pragma unroll
      for (int m = 0; m < MATS; m++) mma_16816(sums[m][t], a[m], b, Half());
    }
  }
  cp_async_wait<0>();
  grid_dependency_launch();

  syncthreads();  // the ring becomes [WARPS, ROWS, OUTPUTS]
  float* of_warps = (float*)ring;
#pragma unroll
  for (int t = 0; t < TILES; t++) {
#pragma unroll
    for (int m = 0; m < MATS; m++) {
      float* at = of_warps + warp * ITEMS + (t * 8 + quad / 2) * OUTPUTS + m * 16 + lane / 4;
      at[0] = sums[m][t][0];
      at[OUTPUTS] = sums[m][t][1];
      at[8] = sums[m][t][2];
      at[OUTPUTS + 8] = sums[m][t][3];
    }
  }
  syncthreads();
  // a thread has entries of one output, in every so manieth row; of the smallest blocks, half of the threads have none
  constexpr int EACH = (ITEMS + THREADS - 1) / THREADS;
  const bool has_any = (int)threadIdx.x < ITEMS;
  float y[EACH] = {};
#pragma unroll
  for (int n = 0; n < EACH && has_any; n++) {
#pragma unroll
    for (int w = 0; w < WARPS; w++) y[n] += of_warps[w * ITEMS + n * THREADS + threadIdx.x];
  }
  if (gridDim.z > 1) {
    const size_t blocks = gridDim.x * gridDim.y;
    float* parts = partials + (blockIdx.y * gridDim.x + blockIdx.x) * (size_t)ITEMS + threadIdx.x;
#pragma unroll
    for (int n = 0; n < EACH && has_any; n++) parts[blockIdx.z * blocks * ITEMS + n * THREADS] = y[n];
    if (!last_to_arrive(arrivals + blockIdx.y * gridDim.x + blockIdx.x, gridDim.z)) return;
#pragma unroll
    for (int n = 0; n < EACH; n++) y[n] = 0;
#pragma unroll 2
    for (unsigned z = 0; z < gridDim.z && has_any; z++) {
      float part[EACH];
#pragma unroll
      for (int n = 0; n < EACH; n++) part[n] = load_l2(parts + z * blocks * ITEMS + n * THREADS);
#pragma unroll
      for (int n = 0; n < EACH; n++) y[n] += part[n];
    }
  }
  if (!has_any) return;
  finish(f, first + threadIdx.x / OUTPUTS, THREADS / OUTPUTS, blockIdx.x * OUTPUTS + threadIdx.x % OUTPUTS, y);
}

// Grid (outputs / (16·MATS), rows / (8·TILES), splits of the sum).
#define PROJECT_HALF(name, Half, MATS, TILES)                                                                         \
  SD_KERNEL(ROOM<TILES>, name, float* out, Group* groups, const float* x, const Group* x_groups, const uint4* weights, \
            const float* bias, const float* gate, const float* gain, const float* shift, float epsilon,               \
            float* partials, unsigned* arrivals, int rows, int inputs, int outputs, int then) {                       \
    project_half<Half, MATS, TILES>({out, groups, bias, gate, rows, outputs, then}, x, weights,                       \
                                    {x_groups, gain, shift, epsilon}, partials, arrivals, inputs);                    \
  }
#define PROJECT_HALVES(MATS, TILES)                      \
  PROJECT_HALF(project_f16_##TILES, F16, MATS, TILES) \
  PROJECT_HALF(project_bf16_##TILES, Bf16, MATS, TILES)
PROJECT_HALVES(1, 1)
PROJECT_HALVES(4, 2)
PROJECT_HALVES(4, 4)
PROJECT_HALVES(4, 6)
PROJECT_HALVES(4, 8)

// ---- f32 and int8: 32 outputs a block, one a lane ----

// Adds up what the warps have for [ROWS, 32 outputs], in their order; `use` takes row, output and sum.
template <int ROWS, class T, class Use>
SD_INLINE void panel_sums(const T (&sums)[ROWS], Use use) {
  SD_SHARED(T, partial, WARPS * ROWS * WARP);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
  for (int r = 0; r < ROWS; r++) partial[(warp * ROWS + r) * WARP + lane] = sums[r];
  syncthreads();
  for (int i = threadIdx.x; i < ROWS * WARP; i += THREADS) {
    T sum = 0;
    for (int w = 0; w < WARPS; w++) sum += partial[w * ROWS * WARP + i];
    use((int)blockIdx.y * ROWS + i / WARP, (int)blockIdx.x * WARP + i % WARP, sum);
  }
}

template <int ROWS>
SD_INLINE void project_panel(const Finish& f, const float* x, const float* weights, const NormIn& norm,
                                     int inputs) {
  SD_SHARED(Statistics, statistics, ROWS);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int first = blockIdx.y * ROWS, stride = padded(inputs);
  grid_dependency_wait();
  prepare_statistics(statistics, norm, first, f.rows, inputs);
  const float* panel = weights + (size_t)blockIdx.x * stride * WARP + lane;
  float sums[ROWS] = {};
#pragma unroll 4
  for (int k = warp * 4; k < stride; k += WARPS * 4) {
    float w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) w[i] = panel[(size_t)(k + i) * WARP];
    float4 gain = {}, shift = {};
    if (norm.gain) gain = *(const float4*)(norm.gain + k);
    if (norm.gain && norm.shift) shift = *(const float4*)(norm.shift + k);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float4 v = *(const float4*)(x + (size_t)min(first + r, f.rows - 1) * stride + k);
      if (norm.gain) {
        v.x = normalised(v.x, statistics[r], gain.x, shift.x);
        v.y = normalised(v.y, statistics[r], gain.y, shift.y);
        v.z = normalised(v.z, statistics[r], gain.z, shift.z);
        v.w = normalised(v.w, statistics[r], gain.w, shift.w);
      }
      sums[r] = fmaf(w[0], v.x, sums[r]);
      sums[r] = fmaf(w[1], v.y, sums[r]);
      sums[r] = fmaf(w[2], v.z, sums[r]);
      sums[r] = fmaf(w[3], v.w, sums[r]);
    }
  }
  grid_dependency_launch();
  panel_sums(sums, [&](int row, int output, float sum) {
    const float y[1] = {sum};
    finish(f, row, 0, output, y);
  });
}

// A row of bytes q stands for scale·(q − zero).
struct Quantised {
  float scale;
  int zero;
};

template <int ROWS>
SD_INLINE void project_bytes(const Finish& f, const int* x, const Quantised* quantised, const int* weights,
                                     const float* scales, const int* channel_sums, int inputs) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int first = blockIdx.y * ROWS, words = padded(inputs) / 4;
  grid_dependency_wait();
  const int* panel = weights + (size_t)blockIdx.x * words * WARP + lane;
  int sums[ROWS] = {};
#pragma unroll 4
  for (int k = warp; k < words; k += WARPS) {
    int w = panel[(size_t)k * WARP];
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r] = dp4a(w, x[(size_t)min(first + r, f.rows - 1) * words + k], sums[r]);
  }
  grid_dependency_launch();
  panel_sums(sums, [&](int row, int output, int dot) {
    Quantised q = quantised[min(row, f.rows - 1)];
    // Σ w·(q − zero) = Σ w·q − zero·Σ w, in integers; scales and sums are padded as outputs are
    const float y[1] = {(float)(dot - q.zero * channel_sums[output]) * (scales[output] * q.scale)};
    finish(f, row, 0, output, y);
  });
}

// Grid (outputs / 32, rows / ROWS).
#define PROJECT_PANEL(ROWS)                                                                                           \
  SD_KERNEL(THREADS, project_f32_##ROWS, float* out, Group* groups, const float* x, const Group* x_groups,            \
            const float* weights, const float* bias, const float* gate, const float* gain, const float* shift,        \
            float epsilon, int rows, int inputs, int outputs, int then) {                                             \
    project_panel<ROWS>({out, groups, bias, gate, rows, outputs, then}, x, weights,                                   \
                        {x_groups, gain, shift, epsilon}, inputs);                                                    \
  }                                                                                                                   \
  SD_KERNEL(THREADS, project_int8_##ROWS, float* out, Group* groups, const int* x, const Quantised* quantised,        \
            const int* weights, const float* scales, const int* sums, const float* bias, const float* gate, int rows, \
            int inputs, int outputs, int then) {                                                                      \
    project_bytes<ROWS>({out, groups, bias, gate, rows, outputs, then}, x, quantised, weights, scales, sums, inputs); \
  }
PROJECT_PANEL(1)
PROJECT_PANEL(8)

// ---- what is made of rows first ----

// The groups of rows that came without. Grid: rows.
SD_KERNEL(THREADS, group, Group* groups, const float* x, int columns) {
  grid_dependency_wait();
  for (int base = 0; base < columns; base += THREADS) {
    int c = base + threadIdx.x;
    float value = c < columns ? x[(size_t)blockIdx.x * padded(columns) + c] : 0;
    Group found = group_around(value, c, columns);
    if (c < columns && c % 16 == 0) groups[(size_t)blockIdx.x * groups_of(columns) + c / 16] = found;
  }
}

// Their bytes, one warp a row: a row's range, widened to hold 0, is cut into 127 steps. Padding comes out as `zero`,
// which the padding of the weights, 0, makes vanish.
SD_KERNEL(WARP, quantise, int8_t* out, Quantised* quantised, const float* x, const Group* groups, const float* gain,
          const float* shift, float epsilon, int columns) {
  grid_dependency_wait();
  const float* row = x + (size_t)blockIdx.x * padded(columns);
  Statistics s[1] = {};
  auto of_row = [&](int) { return groups + (size_t)blockIdx.x * groups_of(columns); };
  if (gain) row_statistics(s, of_row, columns, epsilon);
  auto value = [&](int c) { return gain ? normalised(row[c], s[0], gain[c], shift ? shift[c] : 0) : row[c]; };
  float low = 0, high = 0, nothing = 0;
  for (int c = threadIdx.x; c < columns; c += WARP) {
    low = fminf(low, value(c));
    high = fmaxf(high, value(c));
    nothing += 0 * value(c);  // NaN where a value is no number, which the two above pass over
  }
  low = warp_fold(low, [](float a, float b) { return fminf(a, b); });
  high = warp_fold(high, [](float a, float b) { return fmaxf(a, b); });
  float scale = (high - low) / 127;
  if (scale == 0) scale = 1;
  scale += warp_sum(nothing);  // then that of the row is none either, and all that comes of it
  float zero = rintf(-low / scale);
  for (int c = threadIdx.x; c < padded(columns); c += WARP) {
    float q = c < columns ? rintf(value(c) / scale) + zero : zero;
    out[(size_t)blockIdx.x * padded(columns) + c] = (int8_t)fminf(fmaxf(q, 0), 127);
  }
  if (threadIdx.x == 0) quantised[blockIdx.x] = {scale, (int)zero};
}
