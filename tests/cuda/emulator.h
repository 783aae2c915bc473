// What `ffi/kernels/device.cuh` offers on a GPU, offered by a CPU, so that the kernels' own source runs in tests.
// One block at a time; a thread of a block is a fiber that runs until it meets a barrier of its block or warp.
// Deliberately unkind: shared memory starts as NaN and stands between guards, asynchronous copies land at the wait and
// no earlier, and a barrier that some thread does not come to fails the launch. It says nothing about speed, caches, or
// races between the threads of a block that a barrier does not settle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <setjmp.h>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <vector>

struct uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct int2 { int x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Index3 { uint32_t x, y, z; };
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

using std::max, std::min;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict

#define SD_INLINE inline
#define SD_KERNEL(threads, name, ...) \
  extern "C" void name(__VA_ARGS__); \
  static const emulator::Registration name##_registration(#name, threads, name); \
  extern "C" void name(__VA_ARGS__)
#define SD_KERNEL_FOR(threads, blocks, name, ...) SD_KERNEL(threads, name, __VA_ARGS__)
#define SD_SHARED(type, name, count) \
  static emulator::Shared<type, count> name##_shared; \
  type(&name)[count] = name##_shared.enter()
#define SD_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::block().dynamic.bytes)

namespace emulator {

// ---- kernels by name

struct Kernel {
  uint32_t most_threads;
  size_t parameter_bytes;
  // the call, once the packed parameters are unpacked
  std::function<std::function<void()>(const char*)> bind;
};

inline std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

template <class T> T take(const char* packed, size_t& at) {
  at = (at + alignof(T) - 1) / alignof(T) * alignof(T);
  T value;
  std::memcpy(&value, packed + at, sizeof(T));
  at += sizeof(T);
  return value;
}

struct Registration {
  template <class... P> Registration(const char* name, uint32_t most_threads, void (*kernel)(P...)) {
    size_t bytes = 0;
    ((bytes = (bytes + alignof(P) - 1) / alignof(P) * alignof(P) + sizeof(P)), ...);
    kernels()[name] = {most_threads, bytes, [kernel](const char* packed) {
                         size_t at = 0;
                         std::tuple<P...> values{take<P>(packed, at)...};
                         return [kernel, values] { std::apply(kernel, values); };
                       }};
  }
};

// ---- a block and its threads

// Released, as a whole, when all who are expected have come.
struct Barrier {
  uint32_t come = 0, expected = 0, round = 0;
  void release_if_complete() {
    if (come > 0 && come == expected) come = 0, round++;
  }
};

struct Copy { void* to; const void* from; uint32_t group; };

// 64 bytes that each lane shows to its warp. Two sets, so that one exchange needs one barrier.
struct Warp {
  Barrier barrier;
  alignas(16) unsigned char shown[2][32][64];
};

struct Thread {
  Index3 index;
  uint32_t lane;
  Warp* warp;
  const Barrier* waits_for = nullptr;
  uint32_t round = 0;       // of the barrier it waits for
  uint32_t exchanges = 0;   // of its warp so far
  uint32_t copy_group = 0;  // commits so far
  std::vector<Copy> copies; // not yet arrived
};

struct Fiber {
  std::unique_ptr<char[]> stack;
  jmp_buf place;
  bool started = false;
  Thread* thread = nullptr; // null: idle
};

constexpr unsigned char POISON = 0xff; // of all bytes: NaN in f32, f16 and bf16

inline bool all_poison(const unsigned char* bytes, size_t count) {
  return count == 0 || (bytes[0] == POISON && std::memcmp(bytes, bytes + 1, count - 1) == 0);
}

constexpr size_t MOST_SHARED = 227 << 10; // bytes of dynamic shared memory a block may have

// The dynamic shared memory of a block, and behind it a guard as large as the largest stage of a ring.
struct Dynamic {
  static constexpr size_t GUARD = 64 << 10;
  alignas(128) unsigned char bytes[MOST_SHARED + GUARD];
  size_t size = 0;              // of the block
  size_t used = sizeof(bytes);  // what may not be poison

  void begin(size_t of_block) {
    size = of_block;
    std::memset(bytes, POISON, max(size, used)); // what the block before had may be the guard now
    used = size;
  }
  // Whether the guard is as it was.
  bool end() {
    const bool holds = all_poison(bytes + size, GUARD);
    if (!holds) used = sizeof(bytes);
    return holds;
  }
};

// The guards around an array in shared memory, and the bytes of each.
constexpr size_t ARRAY_GUARD = 256;
struct Guards { const unsigned char *before, *after; };

struct Block {
  std::function<void()> body;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Dynamic dynamic;
  std::vector<Guards> arrays;    // that its threads have come to
  const char* fault = nullptr;   // what went wrong
  Barrier barrier;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* running = nullptr;
  size_t next = 0, finished = 0;
  uint64_t serial = 0; // of this block among all
  jmp_buf scheduler;

  // Runs all threads to their ends. False: some wait for a barrier that others do not come to.
  bool run();
};

inline Block& block() {
  static Block one;
  return one;
}

inline Thread& self() { return *block().running->thread; }

constexpr size_t STACK_BYTES = 64 << 10;

// A fiber runs thread after thread that has not begun; so threads that meet no barrier need one fiber in all.
inline void run_threads() {
  Block& all = block();
  for (;;) {
    Fiber* fiber = all.running;
    while (all.next < all.threads.size()) {
      Thread& thread = all.threads[all.next++];
      fiber->thread = &thread;
      threadIdx = thread.index;
      all.body();
      all.finished++;
      all.barrier.expected--;
      all.barrier.release_if_complete();
    }
    fiber->thread = nullptr;
    if (_setjmp(fiber->place) == 0) _longjmp(all.scheduler, 1);
  }
}

// Lets a fiber run until it blocks or has nothing left to do.
inline void resume(Fiber* fiber) {
  Block& all = block();
  all.running = fiber;
  if (_setjmp(all.scheduler) != 0) return;
  if (fiber->thread != nullptr) threadIdx = fiber->thread->index;
  if (fiber->started) _longjmp(fiber->place, 1);
  fiber->started = true;
  fiber->stack.reset(new char[STACK_BYTES]);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber->stack.get();
  // not all at the same distance from a page, or they displace one another from the cache
  context.uc_stack.ss_size = STACK_BYTES - all.fibers.size() * 448 % 16384;
  context.uc_link = nullptr;
  makecontext(&context, run_threads, 0);
  setcontext(&context);
}

inline bool Block::run() {
  next = finished = 0;
  serial++;
  for (;;) {
    bool progress = false;
    for (size_t i = 0; i < fibers.size(); i++) {
      Thread* thread = fibers[i]->thread;
      if (thread == nullptr || thread->round == thread->waits_for->round) continue;
      resume(fibers[i].get());
      progress = true;
    }
    while (next < threads.size()) {
      auto idle = std::find_if(fibers.begin(), fibers.end(), [](auto& fiber) { return fiber->thread == nullptr; });
      if (idle == fibers.end()) idle = fibers.insert(fibers.end(), std::make_unique<Fiber>());
      resume(idle->get());
      progress = true;
    }
    if (finished == threads.size()) return true;
    if (!progress) {
      fibers.clear(); // what stands on their stacks is lost
      return false;
    }
  }
}

inline void wait_at(Barrier& barrier) {
  Thread& thread = self();
  Fiber* fiber = block().running;
  thread.waits_for = &barrier;
  thread.round = barrier.round;
  barrier.come++;
  barrier.release_if_complete();
  if (thread.round != barrier.round) return;
  if (_setjmp(fiber->place) == 0) _longjmp(block().scheduler, 1);
}

// Whether blocks, and threads that no barrier orders, run from the last to the first.
inline bool reversed = false;

// Runs one block of a kernel. What it did wrong, or null.
inline const char* run_block(const std::function<void()>& body, Index3 shape, size_t dynamic_bytes) {
  Block& all = block();
  const size_t count = size_t(shape.x) * shape.y * shape.z;
  all.body = body;
  all.warps.resize((count + 31) / 32);
  for (auto& warp : all.warps) warp.barrier = {0, 32, 0};
  all.threads.assign(count, {});
  for (size_t place = 0; place < count; place++) {
    Thread& thread = all.threads[place];
    const size_t i = reversed ? count - 1 - place : place;
    thread.index = {uint32_t(i % shape.x), uint32_t(i / shape.x % shape.y), uint32_t(i / shape.x / shape.y)};
    thread.lane = i % 32;
    thread.warp = &all.warps[i / 32];
  }
  all.barrier = {0, uint32_t(count), 0};
  all.dynamic.begin(dynamic_bytes);
  all.arrays.clear();
  all.fault = nullptr;
  if (!all.run()) all.fault = "some threads wait at a barrier that others never reach";
  if (!all.dynamic.end()) all.fault = "dynamic shared memory was written beyond what the launch has of it";
  for (auto [before, after] : all.arrays) {
    if (all_poison(before, ARRAY_GUARD) && all_poison(after, ARRAY_GUARD)) continue;
    all.fault = "shared memory was written outside an array";
  }
  return all.fault;
}

// An array of the block, NaN when the first thread comes to it.
template <class T, size_t N> struct Shared {
  alignas(16) unsigned char before[ARRAY_GUARD];
  alignas(16) T values[N];
  unsigned char after[ARRAY_GUARD];
  uint64_t serial = 0;
  T (&enter())[N] {
    if (serial != block().serial) {
      serial = block().serial;
      std::memset(before, POISON, sizeof(before));
      std::memset(static_cast<void*>(values), POISON, sizeof(values));
      std::memset(after, POISON, sizeof(after));
      block().arrays.push_back({before, after});
    }
    return values;
  }
};

// Shows `mine` to the warp; what the lanes show, by lane.
template <class T> struct Shown {
  const unsigned char (*slots)[64];
  const T& operator[](int lane) const { return *reinterpret_cast<const T*>(slots[lane & 31]); }
};
template <class T> Shown<T> show(const T& mine) {
  static_assert(sizeof(T) <= 64, "a lane shows at most 64 bytes");
  Thread& thread = self();
  Warp& warp = *thread.warp;
  auto& set = warp.shown[thread.exchanges++ % 2];
  std::memcpy(set[thread.lane], &mine, sizeof(T));
  wait_at(warp.barrier);
  return {set};
}

// ---- floats by their bits

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// ---- noise that a test decides on

// By purpose, position and counter; what is not here is drawn.
inline std::map<std::tuple<uint32_t, uint32_t, uint32_t>, uint4> told_noise;

} // namespace emulator

inline void syncthreads() { emulator::wait_at(emulator::block().barrier); }
inline void syncwarp() { emulator::wait_at(emulator::self().warp->barrier); }
template <class T> T shfl(T value, int lane) { return emulator::show(value)[lane]; }
template <class T> T shfl_xor(T value, int mask) {
  const int lane = emulator::self().lane;
  return emulator::show(value)[lane ^ mask];
}

template <class T> T atomic_add(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}
inline void device_fence() {} // blocks run one after the other

inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
inline uint32_t mulhi(uint32_t a, uint32_t b) { return uint64_t(a) * b >> 32; }
inline float bits_to_float(uint32_t bits) { return emulator::float_of(bits); }
inline uint32_t float_to_bits(float value) { return emulator::bits_of(value); }
inline float exp2_approx(float x) { return exp2f(x); }
inline bool noise_is_told(uint32_t purpose, uint32_t position, uint32_t counter, uint4* words) {
  if (emulator::told_noise.empty()) return false;
  const auto found = emulator::told_noise.find({purpose, position, counter});
  if (found == emulator::told_noise.end()) return false;
  *words = found->second;
  return true;
}
inline int dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += int8_t(a >> i) * int8_t(b >> i);
  return c;
}

inline float from_f16(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return emulator::float_of(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // the exponent's bias differs by 112; the product is exact, for subnormal numbers too
  const float value = emulator::float_of(magnitude << 13) * 0x1p112f;
  return emulator::float_of(sign | emulator::bits_of(value));
}
inline uint16_t to_f16(float value) {
  const uint32_t bits = emulator::bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // subnormal: in units of 2⁻²⁴, rounded as the addition rounds
    return sign | (emulator::bits_of(emulator::float_of(magnitude) + 0.5f) - emulator::bits_of(0.5f));
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}
inline float from_bf16(uint16_t bits) { return emulator::float_of(uint32_t(bits) << 16); }
inline uint16_t to_bf16(float value) {
  const uint32_t bits = emulator::bits_of(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack_f16(float low, float high) { return to_f16(low) | uint32_t(to_f16(high)) << 16; }
inline uint32_t pack_bf16(float low, float high) { return to_bf16(low) | uint32_t(to_bf16(high)) << 16; }

namespace emulator {
inline float entry(uint16_t bits, F16) { return from_f16(bits); }
inline float entry(uint16_t bits, Bf16) { return from_bf16(bits); }

struct Fragments { float a[4][2], b[2][2]; };
} // namespace emulator

template <class Type>
void mma_16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Type type) {
  emulator::Fragments mine;
  for (int half = 0; half < 2; half++) {
    for (int i = 0; i < 4; i++) mine.a[i][half] = emulator::entry(uint16_t(a[i] >> 16 * half), type);
    for (int i = 0; i < 2; i++) mine.b[i][half] = emulator::entry(uint16_t(b[i] >> 16 * half), type);
  }
  const int lane = emulator::self().lane, g = lane / 4, t = lane % 4;
  const auto shown = emulator::show(mine);
  for (int k = 0; k < 16; k++) {
    // column k of a and row k of b are held by lanes with t = k % 8 / 2, in the second registers from k = 8 on
    const int holder = k % 8 / 2, half = k % 2, later = k / 8;
    const auto& left = shown[4 * g + holder].a;
    for (int column = 0; column < 2; column++) {
      const float right = shown[4 * (2 * t + column) + holder].b[later][half];
      c[column] += left[2 * later][half] * right;
      c[2 + column] += left[2 * later + 1][half] * right;
    }
  }
}

inline float load_l2(const float* source) { return *source; }
inline float2 load_l2(const float2* source) { return *source; }
inline float4 load_l2(const float4* source) { return *source; }

inline void cp_async16(void* shared, const void* global) {
  if ((uintptr_t(shared) | uintptr_t(global)) % 16 != 0) {
    emulator::block().fault = "an asynchronous copy is not from and to multiples of 16 bytes";
    return;
  }
  emulator::Thread& thread = emulator::self();
  thread.copies.push_back({shared, global, thread.copy_group});
}
inline void cp_async_commit() { emulator::self().copy_group++; }
template <int N> void cp_async_wait() {
  emulator::Thread& thread = emulator::self();
  size_t arrived = 0;
  for (; arrived < thread.copies.size(); arrived++) {
    const emulator::Copy& copy = thread.copies[arrived];
    if (copy.group + N >= thread.copy_group) break;
    std::memcpy(copy.to, copy.from, 16);
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + arrived);
}
inline void grid_dependency_wait() {}
inline void grid_dependency_launch() {}
