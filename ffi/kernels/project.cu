// Projections of 1 … 64 rows and more: out = finish(norm(x)·Wᵀ). The weights are what costs: each is read once, for
// all rows of a tile, and the rows wait in cache.
//
// The bit-exact rule: a block owns a few outputs, its 8 warps take the steps of the sum in turn, and what they have is
// added in the order of the warps. None of this depends on how many rows there are; a row is a column of operand B.
// The build switches the contraction of a·b + c off, so that every instance of a template rounds alike.

#include "layout.cuh"

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP;

// What happens to a sum: nothing, GELU, or being added to what is there.
enum Then { STORE = 0, GELU = 1, ADD = 2 };

struct Finish {
  float* out;
  const float* bias;  // [outputs] or null
  const float* gate;  // [outputs] or null
  int outputs, then;
};

SD_INLINE float gelu(float y) {
  return 0.5f * y * (1 + tanhf(0.7978845608028654f * fmaf(0.044715f * y * y, y, y)));
}

SD_INLINE void finish(const Finish& f, int row, int output, float y) {
  if (f.bias) y += f.bias[output];
  if (f.then == GELU) y = gelu(y);
  float* at = f.out + (size_t)row * padded(f.outputs) + output;
  if (f.then == ADD) y = fmaf(f.gate ? f.gate[output] : 1, y, *at);
  *at = y;
}

// The norm of rows on their way in: gain and shift, and the statistics of the rows, or null to compute them here.
struct NormIn {
  const float* gain;  // [inputs], null: no norm
  const float* shift; // [inputs] or null
  const Statistics* rows;
  float epsilon;
};

// The statistics of `count` rows from `first` on, one warp a row, into shared memory.
SD_INLINE void prepare_statistics(Statistics* shared, const float* x, const NormIn& norm, int first, int count,
                                          int rows, int inputs) {
  if (!norm.gain) return;
  for (int r = threadIdx.x / WARP; r < count; r += WARPS) {
    int row = min(first + r, rows - 1);
    Statistics s = norm.rows ? norm.rows[row] : row_statistics(x + (size_t)row * padded(inputs), inputs, norm.epsilon);
    if (threadIdx.x % WARP == 0) shared[r] = s;
  }
  syncthreads();
}

// ---- f16 and bf16: 16 outputs a block on the tensor cores, rows in tiles of 8 ----

SD_INLINE uint32_t pack(F16, float low, float high) { return pack_f16(low, high); }
SD_INLINE uint32_t pack(Bf16, float low, float high) { return pack_bf16(low, high); }

// Steps that are on their way from memory.
template <int TILES>
constexpr int STAGES = TILES == 1 ? 8 : TILES <= 6 ? 4 : 3;

// A lane of a warp copies what it will itself multiply, so that the ring needs no barrier: of each stage, 16 bytes of
// the weights, 16 of each tile of rows, 16 of gain and 16 of shift.
template <class Half, int TILES>
SD_INLINE void project_half(const Finish& f, const float* x, const uint4* weights, const NormIn& norm, int rows,
                                    int inputs) {
  SD_DYNAMIC_SHARED(uint4, ring);
  SD_SHARED(Statistics, statistics, TILES * 8);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int first = blockIdx.y * TILES * 8, stride = padded(inputs), all = stride / 16;
  const int steps = (all - warp + WARPS - 1) / WARPS;  // this warp's: warp, warp + 8, …
  const int slots = norm.gain ? TILES + 3 : TILES + 1;
  const int quad = lane % 4 * 4;  // of the 16 inputs of a step, this lane's 4
  auto slot = [&](int step, int s) { return ring + (size_t)(step % STAGES<TILES> * slots + s) * THREADS + threadIdx.x; };
  auto load_weights = [&](int step) {
    if (step >= steps) return;
    cp_async16(slot(step, 0), weights + ((size_t)blockIdx.x * all + step * WARPS + warp) * WARP + lane);
  };
  auto load_rows = [&](int step) {
    if (step < steps) {
      int column = (step * WARPS + warp) * 16 + quad;
      for (int t = 0; t < TILES; t++) {
        int row = min(first + t * 8 + lane / 4, rows - 1);
        cp_async16(slot(step, 1 + t), x + (size_t)row * stride + column);
      }
      if (norm.gain) cp_async16(slot(step, TILES + 1), norm.gain + column);
      if (norm.gain && norm.shift) cp_async16(slot(step, TILES + 2), norm.shift + column);
    }
    cp_async_commit();  // also an empty group counts, which keeps the counting simple
  };

  for (int s = 0; s < STAGES<TILES> - 1; s++) load_weights(s);
  grid_dependency_wait();  // the weights do not depend on the kernel before this one
  for (int s = 0; s < STAGES<TILES> - 1; s++) load_rows(s);
  prepare_statistics(statistics, x, norm, first, TILES * 8, rows, inputs);
  Statistics mine[TILES] = {};
  for (int t = 0; t < TILES && norm.gain; t++) mine[t] = statistics[t * 8 + lane / 4];

  float sums[TILES][4] = {};
  for (int step = 0; step < steps; step++) {
    load_weights(step + STAGES<TILES> - 1);
    load_rows(step + STAGES<TILES> - 1);
    cp_async_wait<STAGES<TILES> - 1>();
    const uint4 w = *slot(step, 0);
    const uint32_t a[4] = {w.x, w.y, w.z, w.w};
    float4 gain = {}, shift = {};
    if (norm.gain) gain = *(float4*)slot(step, TILES + 1);
    if (norm.gain && norm.shift) shift = *(float4*)slot(step, TILES + 2);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      float4 v = *(float4*)slot(step, 1 + t);
      if (norm.gain) {
        v.x = normalised(v.x, mine[t], gain.x, shift.x);
        v.y = normalised(v.y, mine[t], gain.y, shift.y);
        v.z = normalised(v.z, mine[t], gain.z, shift.z);
        v.w = normalised(v.w, mine[t], gain.w, shift.w);
      }
      const uint32_t b[2] = {pack(Half(), v.x, v.y), pack(Half(), v.z, v.w)};
      mma_16816(sums[t], a, b, Half());
    }
  }
  cp_async_wait<0>();
  grid_dependency_launch();

  syncthreads();  // the ring becomes [WARPS, rows of the tiles, 16 outputs]
  float* partial = (float*)ring;
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    float* at = partial + ((warp * TILES + t) * 8 + quad / 2) * 16 + lane / 4;
    at[0] = sums[t][0];
    at[16] = sums[t][1];
    at[8] = sums[t][2];
    at[24] = sums[t][3];
  }
  syncthreads();
  for (int i = threadIdx.x; i < TILES * 8 * 16; i += THREADS) {
    float y = 0;
    for (int w = 0; w < WARPS; w++) y += partial[w * TILES * 8 * 16 + i];
    int row = first + i / 16, output = blockIdx.x * 16 + i % 16;
    if (row < rows && output < f.outputs) finish(f, row, output, y);
  }
}

// Grid (outputs / 16, rows / (8·TILES)).
#define PROJECT_HALF(name, Half, TILES)                                                                              \
  SD_KERNEL(THREADS, name, float* out, const float* x, const uint4* weights, const float* bias, const float* gate,   \
                          const float* gain, const float* shift, const Statistics* statistics, float epsilon,       \
                          int rows, int inputs, int outputs, int then) {                                            \
    project_half<Half, TILES>({out, bias, gate, outputs, then}, x, weights, {gain, shift, statistics, epsilon}, rows, \
                              inputs);                                                                               \
  }
#define PROJECT_HALVES(TILES)                      \
  PROJECT_HALF(project_f16_##TILES, F16, TILES) \
  PROJECT_HALF(project_bf16_##TILES, Bf16, TILES)
PROJECT_HALVES(1)
PROJECT_HALVES(2)
PROJECT_HALVES(4)
PROJECT_HALVES(6)
PROJECT_HALVES(8)

// ---- f32 and int8: 32 outputs a block, one a lane ----

// Adds up what the warps have for [ROWS, 32 outputs], in their order; `use` takes row, output and sum.
template <int ROWS, class T, class Use>
SD_INLINE void panel_sums(const T (&sums)[ROWS], int rows, int outputs, Use use) {
  SD_SHARED(T, partial, WARPS * ROWS * WARP);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
  for (int r = 0; r < ROWS; r++) partial[(warp * ROWS + r) * WARP + lane] = sums[r];
  syncthreads();
  for (int i = threadIdx.x; i < ROWS * WARP; i += THREADS) {
    T sum = 0;
    for (int w = 0; w < WARPS; w++) sum += partial[w * ROWS * WARP + i];
    int row = blockIdx.y * ROWS + i / WARP, output = blockIdx.x * WARP + i % WARP;
    if (row < rows && output < outputs) use(row, output, sum);
  }
}

template <int ROWS>
SD_INLINE void project_panel(const Finish& f, const float* x, const float* weights, const NormIn& norm,
                                     int rows, int inputs) {
  SD_SHARED(Statistics, statistics, ROWS);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int first = blockIdx.y * ROWS, stride = padded(inputs);
  grid_dependency_wait();
  prepare_statistics(statistics, x, norm, first, ROWS, rows, inputs);
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
      float4 v = *(const float4*)(x + (size_t)min(first + r, rows - 1) * stride + k);
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
  panel_sums(sums, rows, f.outputs, [&](int row, int output, float y) { finish(f, row, output, y); });
}

// A row of bytes q stands for scale·(q − zero).
struct Quantised {
  float scale;
  int zero;
};

template <int ROWS>
SD_INLINE void project_bytes(const Finish& f, const int* x, const Quantised* quantised, const int* weights,
                                     const float* scales, const int* channel_sums, int rows, int inputs) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int first = blockIdx.y * ROWS, words = padded(inputs) / 4;
  grid_dependency_wait();
  const int* panel = weights + (size_t)blockIdx.x * words * WARP + lane;
  int sums[ROWS] = {};
#pragma unroll 4
  for (int k = warp; k < words; k += WARPS) {
    int w = panel[(size_t)k * WARP];
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r] = dp4a(w, x[(size_t)min(first + r, rows - 1) * words + k], sums[r]);
  }
  grid_dependency_launch();
  panel_sums(sums, rows, f.outputs, [&](int row, int output, int dot) {
    Quantised q = quantised[row];
    // Σ w·(q − zero) = Σ w·q − zero·Σ w, in integers
    finish(f, row, output, (float)(dot - q.zero * channel_sums[output]) * (scales[output] * q.scale));
  });
}

// Grid (outputs / 32, rows / ROWS).
#define PROJECT_PANEL(ROWS)                                                                                          \
  SD_KERNEL(THREADS, project_f32_##ROWS, float* out, const float* x, const float* weights, const float* bias,        \
                                        const float* gate, const float* gain, const float* shift,                   \
                                        const Statistics* statistics, float epsilon, int rows, int inputs,          \
                                        int outputs, int then) {                                                    \
    project_panel<ROWS>({out, bias, gate, outputs, then}, x, weights, {gain, shift, statistics, epsilon}, rows,     \
                        inputs);                                                                                    \
  }                                                                                                                  \
  SD_KERNEL(THREADS, project_int8_##ROWS, float* out, const int* x, const Quantised* quantised, const int* weights,  \
                                         const float* scales, const int* sums, const float* bias,                   \
                                         const float* gate, int rows, int inputs, int outputs, int then) {          \
    project_bytes<ROWS>({out, bias, gate, outputs, then}, x, quantised, weights, scales, sums, rows, inputs);       \
  }
PROJECT_PANEL(1)
PROJECT_PANEL(8)

// ---- what many rows need first; one warp a row ----

// Their statistics, once for all blocks that multiply them.
SD_KERNEL(WARP, statistics, Statistics* out, const float* x, int columns, float epsilon) {
  grid_dependency_wait();
  Statistics s = row_statistics(x + (size_t)blockIdx.x * padded(columns), columns, epsilon);
  if (threadIdx.x == 0) out[blockIdx.x] = s;
}

// Their bytes: a row's range, widened to hold 0, is cut into 127 steps. Padding comes out as `zero`, which the
// padding of the weights, 0, makes vanish.
SD_KERNEL(WARP, quantise, int8_t* out, Quantised* quantised, const float* x, const float* gain, const float* shift,
                         float epsilon, int columns) {
  grid_dependency_wait();
  const float* row = x + (size_t)blockIdx.x * padded(columns);
  Statistics s = {0, 1};
  if (gain) s = row_statistics(row, columns, epsilon);
  auto value = [&](int c) { return gain ? normalised(row[c], s, gain[c], shift ? shift[c] : 0) : row[c]; };
  float low = 0, high = 0;
  for (int c = threadIdx.x; c < columns; c += WARP) {
    low = fminf(low, value(c));
    high = fmaxf(high, value(c));
  }
  low = warp_fold(low, [](float a, float b) { return fminf(a, b); });
  high = warp_fold(high, [](float a, float b) { return fmaxf(a, b); });
  float scale = (high - low) / 127;
  if (scale == 0) scale = 1;
  float zero = rintf(-low / scale);
  for (int c = threadIdx.x; c < padded(columns); c += WARP) {
    float q = c < columns ? rintf(value(c) / scale) + zero : zero;
    out[(size_t)blockIdx.x * padded(columns) + c] = (int8_t)fminf(fmaxf(q, 0), 127);
  }
  if (threadIdx.x == 0) quantised[blockIdx.x] = {scale, (int)zero};
}
