// Attention over a cache of f32: rows append their keys and values, rotated if they are to be, and attend.
//
// Keys are taken in chunks of 64 by absolute position. What a row finds in one chunk does not depend on the other
// rows, and chunks are merged in their order, so the result has the same bits however many rows there are. Few rows
// split the chunks over blocks and the last block of a tile of rows to arrive merges; many rows walk over them.

#include "attention.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;
constexpr int KEYS = 64;  // of a chunk
constexpr int TILE = 16;  // rows of a block

// Writes rows of keys and values, kv [R, 2*H*D], behind the cache's length. Grid (H, R).
SD_KERNEL(THREADS, append, const float* kv, float* keys, float* values, const int* length, const float* rotation,
          int size, int capacity) {
  grid_dependency_wait();
  const int head = blockIdx.x, width = gridDim.x * size, position = *length + blockIdx.y;
  const float* row = kv + (size_t)blockIdx.y * padded(2 * width) + head * size;
  for (int d = threadIdx.x; d < size; d += THREADS) {
    size_t at = ((size_t)head * capacity + position) * size + d;
    keys[at] = turned(row, d, size, rotation ? rotation + (size_t)position * size : nullptr);
    values[at] = row[width + d];
  }
}

// out [R, H*D], qkv [R, 3*H*D], keys and values [H, capacity, D], rotation [positions, D] or null, partials
// [H, R, chunks, D + 2], arrivals [H, tiles], zeros before and after.
// Grid (H, R / TILE, chunks or 1); chunks beyond the length, which is known on the device only, end at once.
SD_KERNEL(THREADS, attention, float* out, const float* qkv, float* keys, float* values, const int* length_at,
          const float* rotation, float* partials, unsigned* arrivals, int size, int capacity, int rows,
          int causal_rows, int window, float scale) {
  SD_DYNAMIC_SHARED(float, shared);
  float* k = shared;                     // [KEYS, size + 1]: a column of keys lies in different banks
  float* v = k + KEYS * (size + 1);      // [KEYS, size]
  float* q = v + KEYS * size;            // [TILE, size]
  float* weights = q + TILE * size;      // [TILE, KEYS]
  float* mixed = weights + TILE * KEYS;  // [TILE, size], over the chunks so far
  SD_SHARED(Seen, here, TILE);           // in this chunk
  SD_SHARED(Seen, known, TILE);          // in the chunks before it

  grid_dependency_wait();
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const int head = blockIdx.x, heads = gridDim.x, first = blockIdx.y * TILE, count = min(TILE, rows - first);
  const int length = *length_at, end = length + rows, chunks = (end + KEYS - 1) / KEYS;
  const int stride = padded(3 * heads * size), width = heads * size;
  const bool split = gridDim.z > 1;
  if ((int)blockIdx.z >= chunks) return;
  auto start = [&](int row) { return window ? max(0, length + row - window + 1) : 0; };
  auto stop = [&](int row) { return row < causal_rows ? length + row + 1 : end; };
  auto turn = [&](int position) { return rotation ? rotation + (size_t)position * size : nullptr; };
  auto partial = [&](int row, int chunk) {
    return partials + (((size_t)head * rows + first + row) * gridDim.z + chunk) * (size + 2);
  };

  for (int i = threadIdx.x; i < TILE * size; i += THREADS) {
    int r = i / size, row = first + r;
    mixed[i] = 0;
    q[i] = r < count ? turned(qkv + (size_t)row * stride + head * size, i % size, size, turn(length + row)) : 0;
  }
  if (threadIdx.x < TILE) known[threadIdx.x] = {-INFINITY, 0};

  for (int chunk = blockIdx.z; chunk < chunks; chunk += gridDim.z) {
    const int base = chunk * KEYS;
    const int most = first + count > causal_rows ? end : stop(first + count - 1);
    const bool visible = base < most && base + KEYS > start(first);
    const bool append = blockIdx.y == 0 && base + KEYS > length;
    if (!visible && !append && !split) continue;

    if (visible || append) {
      const size_t at = ((size_t)head * capacity + base) * size;  // of the chunk in the cache
      const int held = min(KEYS, length - base);                  // its keys there; the others are of this pass
#pragma unroll 4
      for (int key = warp; key < held; key += WARPS) {
        for (int d = lane; d < size; d += WARP) {
          k[key * (size + 1) + d] = keys[at + key * size + d];
          v[key * size + d] = values[at + key * size + d];
        }
      }
#pragma unroll 1
      for (int key = max(0, held) + warp; key < KEYS; key += WARPS) {
        const int position = base + key;
        const float* row = qkv + (size_t)(position - length) * stride + width + head * size;
        for (int d = lane; d < size; d += WARP) {
          float a = position < end ? turned(row, d, size, turn(position)) : 0;
          float b = position < end ? row[width + d] : 0;
          if (append && position < end) keys[at + key * size + d] = a, values[at + key * size + d] = b;
          k[key * (size + 1) + d] = a;
          v[key * size + d] = b;
        }
      }
    }
    syncthreads();
    if (visible) {
      for (int i = threadIdx.x; i < count * KEYS; i += THREADS) {
        int r = i / KEYS, key = i % KEYS, position = base + key;
        float score = -INFINITY;
        if (position >= start(first + r) && position < stop(first + r)) {
          float dot = 0;
          for (int d = 0; d < size; d++) dot = fmaf(q[r * size + d], k[key * (size + 1) + d], dot);
          score = dot * scale;
        }
        weights[i] = score;
      }
      syncthreads();
      for (int r = warp; r < count; r += WARPS) {
        float a = weights[r * KEYS + lane], b = weights[r * KEYS + WARP + lane];
        float largest = warp_fold(fmaxf(a, b), [](float x, float y) { return fmaxf(x, y); });
        // what is not seen gets 0; what is no number stays none, also where there is nothing else
        const float origin = largest == -INFINITY ? 0 : largest;
        a = expf(a - origin);
        b = expf(b - origin);
        weights[r * KEYS + lane] = a;
        weights[r * KEYS + WARP + lane] = b;
        float total = warp_sum(a + b);
        if (lane == 0) here[r] = {largest, total};
      }
    } else if (threadIdx.x < TILE) {
      here[threadIdx.x] = {-INFINITY, 0};
    }
    syncthreads();
    for (int i = threadIdx.x; i < count * size; i += THREADS) {
      int r = i / size, d = i % size;
      if (here[r].total != 0) {  // something is seen, perhaps no number
        // only what the row sees: others may hold no numbers, and 0 times that is none
        const int from = max(0, start(first + r) - base), to = min(KEYS, stop(first + r) - base);
        float sum = 0;
#pragma unroll 8
        for (int key = from; key < to; key++) sum = fmaf(weights[r * KEYS + key], v[key * size + d], sum);
        if (split) partial(r, chunk)[2 + d] = sum;
        else mixed[i] = merged(merge<Natural>(known[r], here[r]), mixed[i], sum);
      }
      if (split && d == 0) *(Seen*)partial(r, chunk) = here[r];
    }
    syncthreads();
    if ((int)threadIdx.x < count && here[threadIdx.x].total != 0) {
      known[threadIdx.x] = merge<Natural>(known[threadIdx.x], here[threadIdx.x]).seen;
    }
  }

  if (split) {
    if (!last_to_arrive(arrivals + head * gridDim.y + blockIdx.y, chunks)) return;
  }
  grid_dependency_launch();
  syncthreads();
  for (int i = threadIdx.x; i < count * size; i += THREADS) {
    int r = i / size, d = i % size;
    Seen seen = split ? Seen{-INFINITY, 0} : known[r];
    float sum = mixed[i];  // 0 if split
    if (split) {
      for (int chunk = 0; chunk < chunks; chunk++) {
        const volatile float* of = partial(r, chunk);  // other blocks wrote it
        Seen fresh = {of[0], of[1]};
        if (fresh.total == 0) continue;
        Merge m = merge<Natural>(seen, fresh);
        sum = merged(m, sum, of[2 + d]);
        seen = m.seen;
      }
    }
    out[(size_t)(first + r) * padded(width) + head * size + d] = sum / seen.total;
  }
}
