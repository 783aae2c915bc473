// Kernels that show whether the emulation of `emulator.h` does what a GPU does. They are part of the stand-in
// only; each is compared with plain loops in `tests/emulator_test.ts`.

#include "device.cuh"

// out[i] = scale · x[i]
SD_KERNEL(64, selftest_scale, float* out, const float* x, int count, float scale) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = scale * x[i];
}

// out[block] = the sum of the 128 numbers of the block: through shuffles in a warp, shared memory between warps.
SD_KERNEL(128, selftest_sum, float* out, const float* x) {
  SD_SHARED(float, partial, 4);
  float sum = x[blockIdx.x * 128 + threadIdx.x];
  for (int mask = 16; mask > 0; mask /= 2) sum += shfl_xor(sum, mask);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = partial[0] + partial[1] + partial[2] + partial[3];
}

// out = a·b, a [16, 16] row-major, b [16, 8] row-major, out [16, 8].
template <class Type>
SD_INLINE void product(float* out, const float* a, const float* b, Type type, uint32_t (*pack)(float, float)) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t left[4], right[2];
  for (int i = 0; i < 4; i++) {
    const float* at = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    left[i] = pack(at[0], at[1]);
  }
  for (int i = 0; i < 2; i++) {
    const float* at = b + (2 * t + i * 8) * 8 + g;
    right[i] = pack(at[0], at[8]);
  }
  float c[4] = {};
  mma_16816(c, left, right, type);
  for (int i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
}
SD_KERNEL(32, selftest_product_f16, float* out, const float* a, const float* b) {
  product(out, a, b, F16{}, pack_f16);
}
SD_KERNEL(32, selftest_product_bf16, float* out, const float* a, const float* b) {
  product(out, a, b, Bf16{}, pack_bf16);
}

// out [4, 32] = x [4, 32] through shared memory, a row ahead. With `waits` 0 it does not wait for the copies.
SD_KERNEL(8, selftest_staged, float* out, const float* x, int waits) {
  SD_DYNAMIC_SHARED(float, ring); // [2, 32]
  const int lane = threadIdx.x;
  cp_async16(ring + 4 * lane, x + 4 * lane);
  cp_async_commit();
  for (int row = 0; row < 4; row++) {
    if (row + 1 < 4) cp_async16(ring + (row + 1) % 2 * 32 + 4 * lane, x + (row + 1) * 32 + 4 * lane);
    cp_async_commit();
    if (waits) cp_async_wait<1>();
    syncthreads();
    for (int i = 0; i < 4; i++) out[row * 32 + 4 * lane + i] = ring[row % 2 * 32 + 31 - (4 * lane + i)];
    syncthreads();
  }
}

// One warp waits for its block, the other for a lane of its own that waits for the block too.
SD_KERNEL(64, selftest_stuck, float* out) {
  if (threadIdx.x < 33) syncthreads();
  out[threadIdx.x] = shfl(out[threadIdx.x], 0);
}

// Writes one number at a place of an array of 3 in shared memory, perhaps beside it.
SD_KERNEL(1, selftest_beside, float* out, int place) {
  SD_SHARED(float, values, 3);
  values[place] = 1;
  *out = values[place];
}

// to_f16 and to_bf16 of x, and back.
SD_KERNEL(32, selftest_convert, float* f16, float* bf16, const float* x, int count) {
  for (int i = threadIdx.x; i < count; i += 32) {
    f16[i] = from_f16(to_f16(x[i]));
    bf16[i] = from_bf16(to_bf16(x[i]));
  }
}

// A race: the thread that writes last is not determined.
SD_KERNEL(32, selftest_race, int* out) {
  *out = blockIdx.x * 32 + threadIdx.x;
}
