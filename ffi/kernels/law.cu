// From logits to a law, `distribution.ts` on the device, and a token by a race: one block a row.
//
// No float is summed across threads: weights are added as whole numbers of 2^-46, so that the order does not matter.

#include "draw.cuh"
#include "faults.cuh"

constexpr int THREADS = 1024;

typedef unsigned long long u64;

// A number whose unsigned order is that of the floats: −∞ … +∞, then NaN.
SD_INLINE uint32_t ordered(float x) {
  if (x != x) return ~0u;
  uint32_t bits = float_to_bits(x + 0.0f);  // −0 is 0
  return bits >> 31 ? ~bits : bits | 1u << 31;
}

SD_INLINE float from_ordered(uint32_t key) { return bits_to_float(key >> 31 ? key & ~(1u << 31) : ~key); }

// Descending logits, ascending ids.
SD_INLINE u64 ranked(float logit, int id) { return (u64)ordered(logit) << 32 | (uint32_t)~id; }

// Sums of measures, by the value of a byte. The first byte of most logits of a row is the same. To add 32
// bits to shared memory atomically is an instruction, to add 64 a loop that tries until nobody came between:
// so a sum is two halves, the low one carrying into the high one. And it has copies, so that few lanes of a
// warp add to the same; a copy's last entry puts those of a sum into different banks.
constexpr int COPIES = 16, VALUES = 256, COPY = VALUES + 1;
struct Sums {
  uint32_t low[COPIES * COPY], high[COPIES * COPY];
  u64 of_warp[VALUES / WARP];
  u64 chosen, left;  // the byte, and what is left of the goal

  SD_INLINE void clear() {
    for (int i = threadIdx.x; i < COPIES * COPY; i += THREADS) low[i] = high[i] = 0;
  }
  SD_INLINE void add(int value, u64 measure) {
    const int at = threadIdx.x % COPIES * COPY + value;
    const uint32_t part = (uint32_t)measure, before = atomic_add(&low[at], part);
    const uint32_t carried = (uint32_t)(measure >> 32) + (before + part < before);
    if (carried) atomic_add(&high[at], carried);
  }
  SD_INLINE u64 total(int value) const {
    u64 sum = 0;
    for (int at = value; at < COPIES * COPY; at += COPY) sum += ((u64)high[at] << 32) + low[at];
    return sum;
  }
};

// The largest key for which the measures of all keys at or above it reach `goal`, found a byte at a time.
template <class Key, class Measure>
SD_INLINE u64 select(Sums& sums, int count, int bytes, u64 goal, Key key, Measure measure) {
  const int warp = threadIdx.x / WARP;
  const int value = VALUES - 1 - (int)threadIdx.x;  // the first threads have the largest
  u64 prefix = 0;
  for (int byte = bytes - 1; byte >= 0; byte--) {
    sums.clear();
    syncthreads();
    for (int v = threadIdx.x; v < count; v += THREADS) {
      // the measure before it is needed, so that loads do not wait for one another
      const u64 rest = key(v) >> 8 * byte, m = measure(v);
      if (rest >> 8 == prefix && m) sums.add(rest & 255, m);
    }
    syncthreads();
    u64 mine = 0, upto = 0;  // of this thread's value, and of all from the largest down to it
    if (value >= 0) {
      mine = sums.total(value);
      upto = warp_running_sum(mine);
      if (threadIdx.x % WARP == WARP - 1) sums.of_warp[warp] = upto;
    }
    syncthreads();
    if (value >= 0) {
      for (int w = 0; w < warp; w++) upto += sums.of_warp[w];
      const u64 above = upto - mine;
      if (above < goal && (upto >= goal || value == 0)) sums.chosen = value, sums.left = goal - above;
    }
    syncthreads();
    prefix = prefix << 8 | sums.chosen;
    goal = sums.left;
  }
  return prefix;
}

// Calls use(v, row[v]) for this thread's entries. Several are loaded before any is used: what is stored meanwhile could
// be what is loaded next, for all that the compiler knows, and would make each load wait.
template <class Use>
SD_INLINE void walk(const float* row, int columns, Use use) {
  constexpr int BATCH = 8;
  for (int base = threadIdx.x; base < columns; base += BATCH * THREADS) {
    float entries[BATCH] = {};
#pragma unroll
    for (int n = 0; n < BATCH; n++) {
      if (base + n * THREADS < columns) entries[n] = row[base + n * THREADS];
    }
#pragma unroll
    for (int n = 0; n < BATCH; n++) {
      if (base + n * THREADS < columns) use(base + n * THREADS, entries[n]);
    }
  }
}

// p[r] = the law of logits[r] under temperature, top-k (0: all) and top-p (1: all), or why there is none. Strides are
// padded.
SD_KERNEL_FOR(THREADS, 1, distribution, float* p_rows, const float* logit_rows, int columns, int logit_columns,
              float temperature, int top_k, double top_p) {
  constexpr float UNIT = 0x1p46f;  // products with it are exact
  SD_SHARED(Sums, sums, 1);
  grid_dependency_wait();
  float* p = p_rows + (size_t)blockIdx.x * padded(columns);
  const float* logits = logit_rows + (size_t)blockIdx.x * padded(logit_columns);
  auto add = [](u64 a, u64 b) { return a + b; };
  auto weight = [&](int v) { return (u64)(p[v] * UNIT); };

  u64 best = 0;
  walk(logits, columns, [&](int v, float logit) { best = max(best, ranked(logit, v)); });
  best = block_fold(best, [](u64 a, u64 b) { return a > b ? a : b; });
  const int winner = (int)~(uint32_t)best;
  const uint32_t top = best >> 32;
  const float largest = from_ordered(top);
  if (!(fabsf(largest) < INFINITY)) {
    const float why = no_law(top == ~0u ? 3 + winner : largest > 0 ? 2 : 1);
    for (int v = threadIdx.x; v < columns; v += THREADS) p[v] = why;
    return;
  }
  if (temperature == 0) {
    for (int v = threadIdx.x; v < columns; v += THREADS) p[v] = v == winner ? 1 : 0;
    return;
  }

  uint32_t threshold = 0;
  if (top_k > 0 && top_k < columns) {
    auto key = [&](int v) -> u64 { return ordered(logits[v]); };
    threshold = (uint32_t)select(sums[0], columns, 4, top_k, key, [](int) -> u64 { return 1; });
  }
  u64 total = 0;
  walk(logits, columns, [&](int v, float logit) {
    const float weight = ordered(logit) >= threshold ? expf((logit - largest) / temperature) : 0;
    p[v] = weight;
    total += (u64)(weight * UNIT);
  });
  total = block_fold(total, add);
  if (top_p < 1) {
    auto key = [&](int v) { return ranked(logits[v], v); };
    u64 goal = (u64)ceil(top_p * total);
    u64 least = select(sums[0], columns, 8, goal > 1 ? goal : 1, key, weight);
    total = 0;
    for (int v = threadIdx.x; v < columns; v += THREADS) {
      if (key(v) < least) p[v] = 0;
      total += weight(v);
    }
    total = block_fold(total, add);
  }
  const double scale = (double)UNIT / total;
  for (int v = threadIdx.x; v < columns; v += THREADS) p[v] = (float)(p[v] * scale);
}

// out[r] = argmin over v of E_v / p[r][v], the lowest id among equals, E_v = −log1p(−u_v) of row r's own noise.
SD_KERNEL(THREADS, race, int* out, const float* p_rows, int columns, uint32_t seed_low, uint32_t seed_high,
          uint32_t purpose, uint32_t position) {
  grid_dependency_wait();
  const float* p = p_rows + (size_t)blockIdx.x * padded(columns);
  int winner = race_winner(p, columns, {seed_low, seed_high, purpose, position + blockIdx.x});
  if (threadIdx.x == 0) out[blockIdx.x] = winner < 0 ? undrawn(p[0]) : winner;
}
