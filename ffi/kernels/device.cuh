// The instructions our kernels are written in: everything that is not plain C++. Compiled by nvcc each wrapper
// is one or a few instructions; compiled by a C++ compiler with -DSPECDIFF_HOST it is the emulation of
// `tests/cuda/emulator.h`, with the same fragment layouts, so that the kernels' own source runs without a GPU.
//
// Also usable in kernels, as in CUDA: threadIdx, blockIdx, blockDim, gridDim, uint2, uint4, float2, float4,
// make_uint4 … and the f32 functions of <cmath>. Blocks that use a shuffle or mma have a multiple of 32 threads,
// all of which take part. Deliberately no types of half precision: 16-bit floats are bits (uint16_t), always
// converted explicitly.
#pragma once

#include <cstdint>

// Tags that choose what the 16 bits of an entry mean.
struct F16 {};
struct Bf16 {};

#ifdef SPECDIFF_HOST
#include "emulator.h"
#else

// SD_KERNEL(threads, name, parameters…) { body }: a kernel for blocks of at most `threads` threads.
// Parameters are pointers and scalars.
#define SD_KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)

// The same, with registers for so many blocks at once on a multiprocessor.
#define SD_KERNEL_FOR(threads, blocks, name, ...) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)

// An array in shared memory, 16-byte aligned.
#define SD_SHARED(type, name, count) __shared__ __align__(16) type name[count]

// The dynamic shared memory of the launch, 16-byte aligned, as an array of `type`.
#define SD_DYNAMIC_SHARED(type, name) \
  extern __shared__ __align__(16) unsigned char sd_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(sd_dynamic_shared)

#define SD_INLINE __device__ __forceinline__

// ---- threads of a block and of a warp

SD_INLINE void syncthreads() { __syncthreads(); }
SD_INLINE void syncwarp() { __syncwarp(); }
template <class T> SD_INLINE T shfl(T value, int lane) { return __shfl_sync(~0u, value, lane); }
template <class T> SD_INLINE T shfl_xor(T value, int mask) { return __shfl_xor_sync(~0u, value, mask); }

// The value at `address` before it was changed.
template <class T> SD_INLINE T atomic_add(T* address, T value) { return atomicAdd(address, value); }

// Acquires and releases at the scope of the device. `__threadfence` also puts all fences into one order, and
// takes longer.
SD_INLINE void device_fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// ---- arithmetic

// The high 32 bits of the product.
SD_INLINE uint32_t mulhi(uint32_t a, uint32_t b) { return __umulhi(a, b); }
SD_INLINE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
SD_INLINE uint32_t float_to_bits(float value) { return __float_as_uint(value); }

// 2 to the power of `x`, to 2 units in the last place; denormal results are 0.
SD_INLINE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Whether a test decides on noise itself, so that it can walk through all of what may come of it. Not on a GPU.
SD_INLINE bool noise_is_told(uint32_t, uint32_t, uint32_t, uint4*) { return false; }

// c + the dot product of four signed bytes.
SD_INLINE int dp4a(int a, int b, int c) { return __dp4a(a, b, c); }

// Rounded to the nearest, ties to even.
SD_INLINE uint16_t to_f16(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
SD_INLINE float from_f16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
SD_INLINE uint16_t to_bf16(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
SD_INLINE float from_bf16(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }

// Two entries in one register, `low` in the low half, which is the first in memory.
SD_INLINE uint32_t pack_f16(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
SD_INLINE uint32_t pack_bf16(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// c += a·b by a warp: a [16, 16] row-major, b [16, 8] column-major, c [16, 8] f32. With g = lane / 4 and
// t = lane % 4 a lane holds a[0] = (row g, columns 2t, 2t+1), a[1] = (row g+8, the same), a[2], a[3] = the same
// 8 columns further; b[0] = (rows 2t, 2t+1, column g), b[1] = 8 rows further; c[0], c[1] = (row g, columns 2t,
// 2t+1), c[2], c[3] = (row g+8, the same). PTX ISA, mma.m16n8k16.
SD_INLINE void mma_16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], F16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
SD_INLINE void mma_16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Bf16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- memory

// What other blocks of this launch wrote before a fence: from L2, as L1 may hold what was there before.
SD_INLINE float load_l2(const float* source) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(source) : "memory");
  return v;
}
SD_INLINE float2 load_l2(const float2* source) {
  float2 v;
  asm volatile("ld.global.cg.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(source) : "memory");
  return v;
}
SD_INLINE float4 load_l2(const float4* source) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(source)
               : "memory");
  return v;
}

// Copies 16 bytes from global to shared memory (both 16-byte aligned) in the background. A group is what was
// copied since the last commit; wait<N> returns when all but the last N groups of this thread have arrived.
// Others see them after a barrier.
SD_INLINE void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
SD_INLINE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> SD_INLINE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Programmatic dependent launch (sm_90): wait for the results of the launch before this one, and allow the
// launch after it to begin. Without effect in an ordinary launch and on older devices.
SD_INLINE void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
SD_INLINE void grid_dependency_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
