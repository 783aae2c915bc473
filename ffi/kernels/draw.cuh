// Drawing from weights by one block of whole warps, up to 1024 threads: the noise of `philox.ts`, the race, and
// inversion as in `random.ts`. Sums are in double and in an order that the number of weights and of threads decides.
#pragma once
#include "layout.cuh"

// Folds a value over the block; every thread has the result. `rest` changes nothing it is folded with.
template <class T, class Fold>
SD_INLINE T block_fold(T value, Fold fold, T rest = T()) {
  SD_SHARED(T, of_warp, WARP);
  const int lane = threadIdx.x % WARP;
  value = warp_fold(value, fold);
  if (lane == 0) of_warp[threadIdx.x / WARP] = value;
  syncthreads();
  value = warp_fold(lane < blockDim.x / WARP ? of_warp[lane] : rest, fold);
  syncthreads();
  return value;
}

SD_INLINE double block_sum(double value) {
  return block_fold(value, [](double a, double b) { return a + b; });
}

// Ten rounds of Philox4x32.
SD_INLINE uint4 philox(uint4 c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; round++) {
    c = make_uint4(mulhi(0xCD9E8D57u, c.z) ^ c.y ^ k0, 0xCD9E8D57u * c.z, mulhi(0xD2511F53u, c.x) ^ c.w ^ k1,
                   0xD2511F53u * c.x);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// What noise depends on, beside a counter.
struct NoiseKey {
  uint32_t seed_low, seed_high, purpose, position;
};

SD_INLINE uint4 noise(NoiseKey key, uint32_t counter) {
  uint4 told;
  if (noise_is_told(key.purpose, key.position, counter, &told)) return told;
  return philox(make_uint4(counter, key.position, key.purpose, 0), key.seed_low, key.seed_high);
}

// `uniform` of `random.ts`: 52 bits, never 0 nor 1.
SD_INLINE double uniform(NoiseKey key, uint32_t draw) {
  uint4 block = noise(key, draw >> 1);
  uint32_t high = draw & 1 ? block.z : block.x, low = draw & 1 ? block.w : block.y;
  return (high * 0x1p20 + (low >> 12) + 0.5) * 0x1p-52;
}

// argmin over v of E_v / p[v], the lowest id among equals, E_v = −log1p(−u_v); −1 if no weight is positive. Every
// thread has it. p is aligned and padded to whole 16 entries.
SD_INLINE int race_winner(const float* p, int columns, NoiseKey key) {
  struct Entrant {
    double time;
    int id;
  };
  SD_SHARED(Entrant, of_warp, WARP);
  Entrant best = {INFINITY, -1};
  for (int block = threadIdx.x; block * 4 < columns; block += blockDim.x) {
    const float4 weights = ((const float4*)p)[block];
    const uint4 four = noise(key, block);
    const float weight[4] = {weights.x, weights.y, weights.z, weights.w};
    const uint32_t numbers[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int v = block * 4 + i;
      double w = v < columns ? weight[i] : 0, u = (numbers[i] + 0.5) * 0x1p-32;
      // −log1p(−u) ≥ u: an entry that loses with u in place of its exponential cannot win
      if (!(w > 0 && u < best.time * w)) continue;
      double time = -log1p(-u) / w;
      if (time < best.time) best = {time, v};
    }
  }
  auto fold = [&](Entrant mine) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) {
      Entrant other = {shfl_xor(mine.time, mask), shfl_xor(mine.id, mask)};
      if (other.time < mine.time || (other.time == mine.time && other.id < mine.id)) mine = other;
    }
    return mine;
  };
  const int lane = threadIdx.x % WARP;
  best = fold(best);
  if (lane == 0) of_warp[threadIdx.x / WARP] = best;
  syncthreads();
  return fold(lane < blockDim.x / WARP ? of_warp[lane] : Entrant{INFINITY, -1}).id;
}

// `invert` of `random.ts`: where the running sum of weights first exceeds u times their total; never where the weight
// is 0, and −1 if none is positive. Every thread has it. Each warp sums a segment; then all look into the one in
// which the sum is exceeded.
template <class Weight>
SD_INLINE int invert(int count, double u, Weight weight) {
  SD_SHARED(double, segments, WARP);
  SD_SHARED(double, of_warp, WARP);
  const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const int length = (count + warps - 1) / warps;
  double sum = 0;
  for (int v = warp * length + lane; v < min(count, (warp + 1) * length); v += WARP) sum += weight(v);
  sum = warp_fold(sum, [](double a, double b) { return a + b; });
  if (lane == 0) segments[warp] = sum;
  syncthreads();
  double total = 0;
  for (int s = 0; s < warps; s++) total += segments[s];
  if (!(total > 0)) return -1;
  const double threshold = u * total;
  double before = 0;  // the sum of what is left of the segment
  int segment = 0;
  double upto = 0;
  for (int s = 0; s < warps && !(upto > threshold); s++) {
    if (!(segments[s] > 0)) continue;
    segment = s;
    before = upto;
    upto += segments[s];
  }

  const int end = min(count, (segment + 1) * length), each = (length + blockDim.x - 1) / blockDim.x;
  const int from = segment * length + threadIdx.x * each, to = min(end, from + each);
  double mine = 0;
  for (int v = from; v < to; v++) mine += weight(v);
  mine = warp_running_sum(mine);
  if (lane == WARP - 1) of_warp[warp] = mine;
  double running = shfl(mine, lane - 1);
  if (lane == 0) running = 0;
  syncthreads();
  for (int w = 0; w < warp; w++) before += of_warp[w];
  running += before;
  int crossed = count, last = -1;
  for (int v = from; v < to && crossed == count; v++) {
    double w = weight(v);
    if (!(w > 0)) continue;
    running += w;
    last = v;
    if (running > threshold) crossed = v;
  }
  crossed = block_fold(crossed, [](int a, int b) { return a < b ? a : b; }, count);
  last = block_fold(last, [](int a, int b) { return a > b ? a : b; }, -1);
  return crossed < count ? crossed : last;
}
