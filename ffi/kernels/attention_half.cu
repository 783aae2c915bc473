// Attention over a cache of f16 on the tensor cores, for models whose weights are of 16 bits, f16 and bf16 alike:
// queries, keys, values and the weights of a softmax are rounded to f16, which has three bits more than bf16; sums are
// f32. What is beyond the range of f16, or no number, makes no numbers of the rows that see it, and so is told. Heads of
// up to 128 entries, padded with zeros to 16, 32, 64 or 128.
//
// Keys are taken in chunks of 128 by absolute position, by the rules of `attention.cu`: what a row finds in a chunk does
// not depend on the other rows, and chunks are merged in their order. A warp has 16 rows, a block 64. Up to 64 rows
// split the chunks over blocks, which append what is of their chunk first; more come with their keys and values
// appended, and walk over the chunks.
//
// How the cache lies, for each head: chunks of keys [KEYS/16, D/16] tiles and of values [D/16, KEYS/16] tiles, a tile
// of 16 by 16 in the order in which the lanes of a warp take it as operand B of mma.m16n8k16 for 2·8 columns, 16 bytes a
// lane. With g = lane / 4 and t = lane % 4 a lane has
// - of a tile of keys, entries 4t … 4t+3 of key 4(g/2) + g%2, then of the key two further;
// - of a tile of values, keys 4t … 4t+3 of entry g, then of entry g+8.
// So the scores that a lane is left with by mma are those of the keys 4t … 4t+3 that it needs as weights of values.

#include "attention.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;
constexpr int KEYS = 128;         // of a chunk
constexpr int KEY_TILES = KEYS / 16;
constexpr int TILE = WARPS * 16;  // rows of a block

SD_INLINE bool fits(float value) { return fabsf(value) <= 65504; }

// NaN for what does not fit.
SD_INLINE uint32_t half_bits(float value) { return fits(value) ? to_f16(value) : 0x7fff; }

SD_INLINE uint32_t half_pair(float low, float high) { return half_bits(low) | half_bits(high) << 16; }

// Rows of one head, at positions from `start` on.
struct Rows {
  const float* first;     // entries of the head at `start`
  int stride;             // to the next row
  const float* rotation;  // [positions, size], or null
  int size, start;

  // Entries, `place(i)` telling position and entry of the ith, as they are.
  template <int COUNT, class Place>
  SD_INLINE void load(float (&entries)[COUNT], Place place) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) entries[i] = first[(place(i).x - start) * stride + place(i).y];
  }

  // The same turned by `turned` of `attention.cuh`; everything is loaded before any of it is needed.
  template <int COUNT, class Place>
  SD_INLINE void load_turned(float (&entries)[COUNT], Place place) const {
    load(entries, place);
    if (!rotation) return;
    const int half = size / 2;
    float others[COUNT], cosines[COUNT], sines[COUNT];
    load(others, [&](int i) {
      const int2 at = place(i);
      return make_int2(at.x, at.y < half ? at.y + half : at.y - half);
    });
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int2 at = place(i);
      const float* angle = rotation + at.x * size + (at.y < half ? at.y : at.y - half);
      cosines[i] = angle[0], sines[i] = angle[half];
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const float other = place(i).y < half ? -others[i] : others[i];
      entries[i] = entries[i] * cosines[i] + other * sines[i];
    }
  }
};

// Keys and values of this pass, up to a position.
struct Fresh {
  Rows keys, values;
  int end;

  SD_INLINE bool has(int2 at) const { return at.x >= keys.start && at.x < end && at.y < keys.size; }
  // What is near and there, to be loaded without a question and not used.
  SD_INLINE int2 near(int2 at) const {
    return make_int2(min(max(at.x, keys.start), end - 1), min(at.y, keys.size - 1));
  }
};

// What a lane has of a tile, the fresh entries put into what was there; `place(i)` is where in the head the ith of a
// lane's eight halves belongs.
template <class Place>
SD_INLINE uint4 renewed(uint4 held, const Fresh& fresh, const float (&entries)[8], Place place) {
  uint32_t words[4] = {held.x, held.y, held.z, held.w};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const uint32_t bits = half_bits(entries[i]), word = words[i / 2];
    const uint32_t with = i % 2 ? (word & 0xffff) | bits << 16 : (word & 0xffff0000) | bits;
    words[i / 2] = fresh.has(place(i)) ? with : word;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Puts fresh entries into the tiles of keys and of values from `position` and entries from `d` on. A key is NaN where
// its value does not fit. What stays behind in the cache after a text is taken back is multiplied by weights of 0, so
// values are always numbers; scores of keys are not looked at.
SD_INLINE void renew(uint4& keys, uint4& values, const Fresh& fresh, int position, int d, int lane) {
  auto of_keys = [&](int i) {
    return make_int2(position + lane / 8 * 4 + lane / 4 % 2 + i / 4 * 2, d + lane % 4 * 4 + i % 4);
  };
  auto of_values = [&](int i) { return make_int2(position + lane % 4 * 4 + i % 4, d + lane / 4 + i / 4 * 8); };
  auto near_keys = [&](int i) { return fresh.near(of_keys(i)); };
  float key[8], beside[8], value[8];
  fresh.values.load(value, [&](int i) { return fresh.near(of_values(i)); });
  fresh.values.load(beside, near_keys);
  fresh.keys.load_turned(key, near_keys);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (!fits(beside[i])) key[i] = NAN;
    if (!fits(value[i])) value[i] = 0;
  }
  keys = renewed(keys, fresh, key, of_keys);
  values = renewed(values, fresh, value, of_values);
}

// Where, in units of 16 bytes, the tiles of a head begin that hold a position: chunk after chunk.
SD_INLINE size_t tile_of_keys(int position, int step, int steps) {
  return ((size_t)(position / 16) * steps + step) * WARP;
}
SD_INLINE size_t tile_of_values(int position, int step, int steps) {
  return (((size_t)(position / KEYS) * steps + step) * KEY_TILES + position % KEYS / 16) * WARP;
}

// Writes rows of keys and values behind the cache's length. kv: keys of row 0, values H*D further; `steps`: D / 16,
// padded; `chunks`: of the cache. Grid (H, R / 16 + 1): a block has 16 positions, from a multiple of 16 on.
SD_KERNEL(THREADS, append_half, const float* kv, int stride, uint4* keys, uint4* values, const int* length,
          const float* rotation, int size, int steps, int chunks, int rows) {
  grid_dependency_wait();
  const int head = blockIdx.x, lane = threadIdx.x % WARP, start = *length;
  const float* row = kv + head * size;
  const Fresh fresh = {{row, stride, rotation, size, start},
                       {row + gridDim.x * size, stride, rotation, size, start},
                       start + rows};
  const int position = (start / 16 + blockIdx.y) * 16;
  const size_t of_head = (size_t)head * chunks * KEY_TILES * steps * WARP;
  if (position >= fresh.end) return;
  for (int step = threadIdx.x / WARP; step < steps; step += WARPS) {
    uint4* key = keys + of_head + tile_of_keys(position, step, steps) + lane;
    uint4* value = values + of_head + tile_of_values(position, step, steps) + lane;
    uint4 with_key = *key, with_value = *value;
    renew(with_key, with_value, fresh, position, step * 16, lane);
    *key = with_key;
    *value = with_value;
  }
}

struct Attention {
  float* out;            // [R, H*D]
  const float* qkv;      // [R, 3*H*D]
  uint4* keys;           // [H, capacity, D] as above
  uint4* values;
  const int* length;
  const float* rotation; // [positions, D] or null
  float* partials;       // [H, R, chunks launched, D], if chunks are split
  float2* seen;          // [H, R, chunks launched], likewise: largest score, sum
  unsigned* arrivals;    // [H], zeros before and after
  int appended;          // whether keys and values are in the cache
  int size, capacity;    // of a head; of the cache, in chunks
  int rows, causal_rows, window;
  float scale;           // of scores to base 2
};

// Merges what the blocks of a head have found for rows; `factors` [rows, chunks].
template <int STEPS>
SD_INLINE void merge_chunks(const Attention& a, float2* factors, int chunks) {
  constexpr int D = STEPS * 16;  // 4 entries to a thread
  constexpr int AHEAD = 12;      // chunks whose loads do not wait for one another
  SD_SHARED(float, totals, TILE);
  const int head = blockIdx.x, launched = gridDim.z;
  const size_t first = (size_t)head * a.rows;
  for (int i = threadIdx.x; i < a.rows * chunks; i += THREADS) {
    factors[i] = load_l2(a.seen + (first + i / chunks) * launched + i % chunks);
  }
  syncthreads();
  if ((int)threadIdx.x < a.rows) {
    Seen known = {-INFINITY, 0};
    for (int chunk = 0; chunk < chunks; chunk++) {
      float2& factor = factors[threadIdx.x * chunks + chunk];
      const Seen fresh = {factor.x, factor.y};
      factor = {1, 0};
      if (fresh.total == 0) continue;
      const Merge m = merge<Binary>(known, fresh);
      factor = {m.known, m.fresh};
      known = m.seen;
    }
    totals[threadIdx.x] = known.total;
  }
  syncthreads();
  const int d = threadIdx.x % (D / 4) * 4;
  for (int row = threadIdx.x / (D / 4); row < a.rows; row += THREADS / (D / 4)) {
    const float* from = a.partials + (first + row) * launched * D + d;
    float sums[4] = {};
    for (int base = 0; base < chunks; base += AHEAD) {
      float4 found[AHEAD];
#pragma unroll
      for (int c = 0; c < AHEAD; c++) {
        if (base + c < chunks) found[c] = load_l2((const float4*)(from + (base + c) * D));
      }
#pragma unroll
      for (int c = 0; c < AHEAD; c++) {
        if (base + c >= chunks) break;
        const float2 factor = factors[row * chunks + base + c];  // where nothing is seen 1 and 0, and what was found 0
        const Merge m = {{}, factor.x, factor.y};
        sums[0] = merged(m, sums[0], found[c].x);
        sums[1] = merged(m, sums[1], found[c].y);
        sums[2] = merged(m, sums[2], found[c].z);
        sums[3] = merged(m, sums[3], found[c].w);
      }
    }
    float* out = a.out + (size_t)row * padded(gridDim.x * a.size) + head * a.size;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (d + j < a.size) out[d + j] = sums[j] / totals[row];
    }
  }
}

template <int STEPS>
SD_INLINE void attention_half(const Attention& a) {
  constexpr int D = STEPS * 16, CHUNK = KEYS * D / 8;  // in units of 16 bytes
  constexpr int STAGES = STEPS > 4 ? 1 : 2;            // of a walk; of larger heads, two blocks have room instead
  SD_DYNAMIC_SHARED(uint4, shared);                    // [STAGES, or 1 if not appended; keys and values; CHUNK]
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
  const int head = blockIdx.x, heads = gridDim.x, width = heads * a.size, stride = padded(3 * width);
  const int first = blockIdx.y * TILE, count = min(TILE, a.rows - first);
  const int length = *a.length, end = length + a.rows, chunks = (end + KEYS - 1) / KEYS;
  const bool split = gridDim.z > 1;
  if ((int)blockIdx.z >= chunks) return;
  auto start = [&](int row) { return a.window ? max(0, length + row - a.window + 1) : 0; };
  auto stop = [&](int row) { return row < a.causal_rows ? length + row + 1 : end; };
  auto rows_of = [&](int which) {  // queries, keys, values
    return Rows{a.qkv + which * width + head * a.size, stride, a.rotation, a.size, length};
  };
  // the chunks that a row of this block sees are among these
  int chunk = start(first) / KEYS, until = (stop(first + count - 1) + KEYS - 1) / KEYS;
  bool needed = true;
  if (!a.appended) {
    needed = chunk <= (int)blockIdx.z && (int)blockIdx.z < until;
    needed = needed || (int)blockIdx.z >= length / KEYS;  // keys are to be appended
    chunk = blockIdx.z, until = chunk + 1;
  }
  const size_t of_head = (size_t)head * a.capacity * CHUNK;
  auto load = [&](int which) {
    uint4* to = shared + (a.appended ? which % STAGES * 2 * CHUNK : 0);
    const size_t from = of_head + (size_t)which * CHUNK;
    for (int i = threadIdx.x; i < CHUNK && which < until; i += THREADS) {
      cp_async16(to + i, a.keys + from + i);
      cp_async16(to + CHUNK + i, a.values + from + i);
    }
    cp_async_commit();
  };
  // what was in the cache before this pass does not depend on the kernel before this one
  if (!a.appended && needed) load(chunk);
  grid_dependency_wait();
  if (a.appended && STAGES > 1) load(chunk);

  // this lane's rows: g and g + 8 of its warp's
  const int of_warp = first + warp * 16;
  const bool active = of_warp < a.rows;
  uint32_t q[STEPS][4];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = min(of_warp + g + h * 8, a.rows - 1);
    auto entry = [&](int i) { return i / 4 * 16 + t * 4 + i % 4; };
    float v[STEPS * 4];
    rows_of(0).load_turned(v, [&](int i) { return make_int2(length + row, min(entry(i), a.size - 1)); });
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
      for (int i = step * 4; i < step * 4 + 4; i++) {
        if (entry(i) >= a.size) v[i] = 0;
      }
      q[step][h] = half_pair(v[step * 4], v[step * 4 + 1]);
      q[step][h + 2] = half_pair(v[step * 4 + 2], v[step * 4 + 3]);
    }
  }
  Seen known[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
  float mixed[STEPS][8] = {};

  for (; chunk < until; chunk++) {
    const int base = chunk * KEYS;
    uint4* keys = shared + (a.appended ? chunk % STAGES * 2 * CHUNK : 0);
    uint4* values = keys + CHUNK;
    if (a.appended) load(chunk + STAGES - 1);
    if (a.appended) cp_async_wait<STAGES - 1>();
    else cp_async_wait<0>();
    syncthreads();
    if (!a.appended && end > base && base + KEYS > length) {
      const Fresh fresh = {rows_of(1), rows_of(2), end};
      const int from = max(0, length - base) / 16, tiles = (min(KEYS, end - base) + 15) / 16 - from;
      for (int i = warp; i < tiles * STEPS; i += WARPS) {
        const int position = base + (from + i / STEPS) * 16, step = i % STEPS;
        uint4* key = keys + tile_of_keys(position - base, step, STEPS) + lane;
        uint4* value = values + tile_of_values(position - base, step, STEPS) + lane;
        uint4 with_key = *key, with_value = *value;
        renew(with_key, with_value, fresh, position, step * 16, lane);
        a.keys[of_head + tile_of_keys(position, step, STEPS) + lane] = *key = with_key;
        a.values[of_head + tile_of_values(position, step, STEPS) + lane] = *value = with_value;
      }
      syncthreads();
    }
    const int last_row = min(of_warp + 15, a.rows - 1);
    if (active && needed && start(of_warp) < base + KEYS && stop(last_row) > base) {
      // scores of keys 16·j + 4t … 4t+3: two of tile 2j, two of tile 2j+1, for row g, then for row g+8
      float s[2 * KEY_TILES][4] = {};
#pragma unroll
      for (int step = 0; step < STEPS; step++) {
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++) {
          const uint4 v = keys[(j * STEPS + step) * WARP + lane];
          const uint32_t near[2] = {v.x, v.y}, far[2] = {v.z, v.w};
          mma_16816(s[2 * j], q[step], near, F16());
          mma_16816(s[2 * j + 1], q[step], far, F16());
        }
      }
      const bool all_seen = start(last_row) <= base && stop(of_warp) >= base + KEYS;
      Seen here[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = of_warp + g + h * 8, from = start(row) - base - t * 4, to = stop(row) - base - t * 4;
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < 2 * KEY_TILES; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& score = s[n][h * 2 + e];
            const int key = n / 2 * 16 + n % 2 * 2 + e;
            score = all_seen || (key >= from && key < to) ? score * a.scale : -INFINITY;
            largest = fmaxf(largest, score);
          }
        }
        largest = fmaxf(largest, shfl_xor(largest, 1));
        largest = fmaxf(largest, shfl_xor(largest, 2));
        const float origin = largest == -INFINITY ? 0 : largest;
        float total = 0;
#pragma unroll
        for (int n = 0; n < 2 * KEY_TILES; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& weight = s[n][h * 2 + e];
            weight = Binary::power(weight - origin);
            total += weight;
          }
        }
        total += shfl_xor(total, 1);
        total += shfl_xor(total, 2);
        here[h] = {largest, total};
      }
      uint32_t weights[KEY_TILES][4];
#pragma unroll
      for (int j = 0; j < KEY_TILES; j++) {
        weights[j][0] = pack_f16(s[2 * j][0], s[2 * j][1]);
        weights[j][1] = pack_f16(s[2 * j][2], s[2 * j][3]);
        weights[j][2] = pack_f16(s[2 * j + 1][0], s[2 * j + 1][1]);
        weights[j][3] = pack_f16(s[2 * j + 1][2], s[2 * j + 1][3]);
      }
      Merge m[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        m[h] = {known[h], 1, 0};
        if (here[h].total != 0) m[h] = merge<Binary>(known[h], here[h]);  // something is seen, perhaps no number
        known[h] = m[h].seen;
      }
#pragma unroll
      for (int step = 0; step < STEPS; step++) {
        float sums[2][4] = {};  // entries 2t, 2t+1 of 8, then of the next 8, for row g, then for row g+8
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++) {
          const uint4 v = values[(step * KEY_TILES + j) * WARP + lane];
          const uint32_t near[2] = {v.x, v.y}, far[2] = {v.z, v.w};
          mma_16816(sums[0], weights[j], near, F16());
          mma_16816(sums[1], weights[j], far, F16());
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float sum = sums[i / 4][i % 4];
          mixed[step][i] = split ? sum : merged(m[i % 4 / 2], mixed[step][i], sum);
        }
      }
    }
    syncthreads();  // the stage is free
  }
  if (!split) grid_dependency_launch();

  // what this lane has of row g + 8h, entry by entry
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = of_warp + g + h * 8;
    if (row >= a.rows) continue;
    const size_t at = split ? ((size_t)head * a.rows + row) * gridDim.z + blockIdx.z : 0;
    float* to = split ? a.partials + at * D : a.out + (size_t)row * padded(width) + head * a.size;
    if (split && t == 0) a.seen[at] = {known[h].largest, known[h].total};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int d = step * 16 + i / 2 * 8 + t * 2 + i % 2;
        const float sum = mixed[step][i / 2 * 4 + h * 2 + i % 2];
        if (split) to[d] = sum;
        else if (d < a.size) to[d] = sum / known[h].total;
      }
    }
  }
  if (!split || !last_to_arrive(a.arrivals + head, chunks)) return;
  grid_dependency_launch();
  merge_chunks<STEPS>(a, (float2*)shared, chunks);
}

// Grid (H, R / TILE, chunks or 1); chunks beyond the length, which is known on the device only, end at once.
#define ATTENTION_HALF(STEPS, BLOCKS)                                                                                \
  SD_KERNEL_FOR(THREADS, BLOCKS, attention_half_##STEPS, float* out, const float* qkv, uint4* keys, uint4* values,   \
            const int* length, const float* rotation, float* partials, float2* seen, unsigned* arrivals,             \
            int appended, int size, int capacity, int rows, int causal_rows, int window, float scale) {              \
    attention_half<STEPS>({out, qkv, keys, values, length, rotation, partials, seen, arrivals, appended, size,       \
                           capacity, rows, causal_rows, window, scale});                                             \
  }
ATTENTION_HALF(1, 3)
ATTENTION_HALF(2, 3)
ATTENTION_HALF(4, 3)
ATTENTION_HALF(8, 2)
