// A stand-in for libcuda and for cuBLAS: the functions `ffi/libcuda.ts` and `ffi/libcublas.ts` bind, over the host's
// memory, with kernels that were compiled for the host (`emulator.h`) and are found by name, whatever module is loaded.
// Built by `standin.ts` together with the kernels.
//
// It is stricter than a driver. Work that is put into a stream runs when something waits for it and no earlier;
// memory starts as NaN and stands between guards; sizes of parameters are compared with the kernel's own; handles
// and addresses are checked. What it objects to it also remembers, for `standin_complaints`. It can be told to fail
// the Nth call of any function, and counts what was not given back. What belongs to one device is refused where
// another's context is current. Calls may come from several threads, and wait for one another.

#include <chrono>
#include <cstdarg>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <set>

#include "device.cuh"

#define API extern "C" __attribute__((visibility("default")))

namespace {

using Status = int; // CUresult
using Address = uint64_t;

enum : Status {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_CONTEXT = 201,
  NO_BINARY = 209,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
};

const std::map<Status, std::pair<const char*, const char*>> ERRORS = {
    {SUCCESS, {"CUDA_SUCCESS", "no error"}},
    {INVALID_VALUE, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {OUT_OF_MEMORY, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {NOT_INITIALIZED, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
    {NO_DEVICE, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {INVALID_DEVICE, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {INVALID_CONTEXT, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {NO_BINARY, {"CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"}},
    {INVALID_HANDLE, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {NOT_FOUND, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {ILLEGAL_ADDRESS, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {LAUNCH_FAILED, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
    {NOT_SUPPORTED, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}},
    {CAPTURE_INVALIDATED, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {CAPTURE_UNSUPPORTED, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
};

// ---- what tests set and ask

// By the names `standin_set` knows; `major.1` is that of device 1 alone.
std::map<std::string, int64_t> settings = {
    {"devices", 1}, {"memory", int64_t(1) << 33}, {"major", 9}, {"minor", 0}, {"version", 13000}, {"reversed", 0},
    {"refuses", 0}, {"loses", 0},
};

int64_t setting(const char* name, int device) {
  auto own = settings.find(std::string(name) + "." + std::to_string(device));
  return own == settings.end() ? settings.at(name) : own->second;
}

// What is set for all devices is set for each.
void set(const std::string& name, int64_t value) {
  settings.at(name.substr(0, name.find('.')));
  for (int device = 0; device < 8; device++) settings.erase(name + "." + std::to_string(device));
  settings[name] = value;
  emulator::reversed = settings["reversed"] != 0;
}

// A process that no test can tell is told by its environment: `devices=2,major.1=7`.
const bool told = [] {
  const char* all = std::getenv("SPECDIFF_STANDIN");
  for (const char* at = all; at != nullptr && *at != 0; at += strcspn(at, ","), at += *at == ',') {
    const char* equals = strchr(at, '=');
    if (equals == nullptr) break;
    set(std::string(at, equals), std::atoll(equals + 1));
  }
  return true;
}();

struct Failure { int after; Status status; };
std::map<std::string, Failure> failures;
std::map<std::string, int> calls;
int64_t downloaded = 0; // bytes
std::string complaints;

void complain(const char* format, ...) __attribute__((format(printf, 1, 2)));
void complain(const char* format, ...) {
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  complaints += std::string(line) + "\n";
}

// ---- the machine

std::mutex mutex;
bool initialised = false;

// `lost` is set by a failure of a kernel: every call in the context fails with it until it is released.
struct Context { int device; int retained = 0; Status lost = SUCCESS; };
Context contexts[8];
thread_local Context* current = nullptr;

using emulator::all_poison, emulator::MOST_SHARED, emulator::POISON;

constexpr size_t GUARD = 256;

struct Allocation {
  size_t bytes;
  int device;
  std::unique_ptr<unsigned char[]> memory; // guard, contents, guard, and up to 255 bytes for alignment
  unsigned char* contents;
};
std::map<Address, Allocation> allocations;
std::deque<Allocation> freed; // the latest, to see whether they are still written to
std::map<Address, size_t> pinned; // portable: every device reaches it

using Operation = std::function<Status()>;

struct Graph { int device; std::vector<Operation> operations; bool dependent = false, invalid = false; };
struct Stream {
  int device;
  std::deque<Operation> queue;
  std::unique_ptr<Graph> capture;
  bool after_kernel = false; // whether what was put in last is one
};
struct Event {
  int device;
  std::chrono::steady_clock::time_point time;
};
// What cuBLAS puts where. `stream` and the work memory have to be there for as long as it.
struct Blas {
  int device;
  Stream* stream = nullptr;
  Address workspace = 0;
};
struct Function { int device; const emulator::Kernel* kernel; std::string name; int most_shared = 48 << 10; };
struct Module { int device; std::map<std::string, std::unique_ptr<Function>> functions; };

template <class T> using Live = std::map<T*, std::unique_ptr<T>>;
Live<Stream> streams;
Live<Event> events;
Live<Graph> graphs, executables;
Live<Module> modules;
Live<Blas> blas;

template <class T> T* make(Live<T>& live, std::unique_ptr<T> object) {
  T* handle = object.get();
  live[handle] = std::move(object);
  return handle;
}

// Whether what is on a device may be used in the context that is current.
bool is_here(int device, const char* what) {
  if (current != nullptr && current->device == device) return true;
  complain("%s: of device %d, in the context of %d", what, device, current == nullptr ? -1 : current->device);
  return false;
}

template <class T> bool find(Live<T>& live, T* handle, const char* what) {
  if (live.count(handle)) return is_here(handle->device, what);
  complain("%s: no such handle", what);
  return false;
}

// A call: no other begins before its end. It is counted, and may have been told to fail.
struct Call {
  const std::lock_guard<std::mutex> alone{mutex};
  Status status = SUCCESS;

  explicit Call(const char* name) {
    calls[name]++;
    auto failure = failures.find(name);
    if (failure != failures.end() && --failure->second.after == 0) {
      status = failure->second.status;
      failures.erase(failure);
      if (current != nullptr && status >= ILLEGAL_ADDRESS && status <= LAUNCH_FAILED) current->lost = status;
    } else if (!initialised) {
      status = NOT_INITIALIZED;
    }
  }
};
#define ENTER() const Call call(__func__); if (call.status) return call.status
#define ENTER_CONTEXT() \
  ENTER(); \
  if (current == nullptr || current->retained == 0) return INVALID_CONTEXT; \
  if (current->lost) return current->lost
// What gives something back does so even where it fails.
#define ENTER_RELEASE() \
  const Call call(__func__); \
  const Status status = call.status || current == nullptr ? call.status : current->lost

// Whether nothing was written around the allocations. Complains once for each.
bool guards_hold() {
  bool hold = true;
  for (auto& [address, allocation] : allocations) {
    unsigned char* before = allocation.contents - GUARD;
    unsigned char* after = allocation.contents + allocation.bytes;
    if (all_poison(before, GUARD) && all_poison(after, GUARD)) continue;
    complain("memory was written outside an allocation of %zu bytes", allocation.bytes);
    std::memset(before, POISON, GUARD);
    std::memset(after, POISON, GUARD);
    hold = false;
  }
  return hold;
}

void check_freed(const Allocation& allocation) {
  if (!all_poison(allocation.contents - GUARD, allocation.bytes + 2 * GUARD)) {
    complain("memory of %zu bytes was written after it was freed", allocation.bytes);
  }
}

// Whether [address, address + bytes) lies inside one allocation.
bool within(Address address, size_t bytes, const char* what) {
  auto after = allocations.upper_bound(address);
  if (after != allocations.begin()) {
    auto& [begin, allocation] = *std::prev(after);
    if (address + bytes <= begin + allocation.bytes) return is_here(allocation.device, what);
  }
  complain("%s: %zu bytes are not within an allocation", what, bytes);
  return false;
}

bool is_pinned(const void* host, size_t bytes) {
  const Address address = Address(host);
  auto after = pinned.upper_bound(address);
  return after != pinned.begin() && address + bytes <= std::prev(after)->first + std::prev(after)->second;
}

// Whether no parameter of a kernel is an address of another device.
bool parameters_here(const char* parameters, size_t bytes, const char* what) {
  for (size_t at = 0; at + 8 <= bytes; at += 8) {
    Address word;
    std::memcpy(&word, parameters + at, 8);
    auto after = allocations.upper_bound(word);
    if (after == allocations.begin()) continue;
    auto& [begin, allocation] = *std::prev(after);
    if (word < begin + allocation.bytes && !is_here(allocation.device, what)) return false;
  }
  return true;
}

// Runs what is in the stream.
Status drain(Stream* stream) {
  Status& lost = contexts[stream->device].lost;
  while (!stream->queue.empty()) {
    const Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (lost == SUCCESS) lost = operation();
  }
  return lost;
}

// All streams of the device whose context is current.
Status drain_all() {
  for (auto& [handle, stream] : streams) {
    if (stream->device == current->device) drain(handle);
  }
  return current->lost;
}

Status put(Stream* stream, Operation operation) {
  if (stream->capture) stream->capture->operations.push_back(std::move(operation));
  else stream->queue.push_back(std::move(operation));
  stream->after_kernel = false;
  return SUCCESS;
}

bool any_capture() {
  return std::any_of(streams.begin(), streams.end(), [](auto& entry) {
    return entry.second->device == current->device && entry.second->capture != nullptr;
  });
}

struct Attribute { uint32_t id, padding; uint32_t value[16]; };
struct Config {
  uint32_t grid[3], block[3], shared_bytes;
  Stream* stream;
  const Attribute* attributes;
  uint32_t attribute_count;
};

} // namespace

// ---- for the tests

// Makes the nth call of a function from now on return `status`.
API void standin_fail(const char* name, int nth, Status status) { failures[name] = {nth, status}; }
API int standin_calls(const char* name) { return calls[name]; }
API void standin_set(const char* name, int64_t value) { set(name, value); }

// Makes noise of a purpose, position and counter what a test says it is.
API void standin_noise(uint32_t purpose, uint32_t position, uint32_t counter, const uint32_t* words) {
  emulator::told_noise[{purpose, position, counter}] = {words[0], words[1], words[2], words[3]};
}

// Forgets failures to come, noise to come, and calls that were made.
API void standin_reset() {
  emulator::told_noise.clear();
  failures.clear();
  calls.clear();
  downloaded = 0;
}

// Bytes that were copied to the host since the last reset.
API int64_t standin_downloaded() { return downloaded; }

// What was made and not given back.
API int standin_live() {
  int contexts_held = 0;
  for (auto& context : contexts) contexts_held += context.retained;
  return int(allocations.size() + pinned.size() + streams.size() + events.size() + graphs.size() + executables.size() +
             modules.size() + blas.size()) + contexts_held;
}

// What it objected to since the last time, a line each; as much as fits, with a zero at its end.
API void standin_complaints(char* text, int capacity) {
  for (auto& allocation : freed) check_freed(allocation);
  freed.clear();
  snprintf(text, capacity, "%s", complaints.c_str());
  complaints.clear();
}

// ---- what there is

API Status cuInit(uint32_t) {
  initialised = true;
  ENTER();
  return settings["devices"] > 0 ? SUCCESS : NO_DEVICE;
}
API Status cuDriverGetVersion(int* version) {
  ENTER();
  *version = int(settings["version"]);
  return SUCCESS;
}
API Status cuGetErrorName(Status error, const char** text) {
  auto found = ERRORS.find(error);
  *text = found == ERRORS.end() ? nullptr : found->second.first;
  return *text == nullptr ? INVALID_VALUE : SUCCESS;
}
API Status cuGetErrorString(Status error, const char** text) {
  auto found = ERRORS.find(error);
  *text = found == ERRORS.end() ? nullptr : found->second.second;
  return *text == nullptr ? INVALID_VALUE : SUCCESS;
}
API Status cuDeviceGetCount(int* count) {
  ENTER();
  *count = int(settings["devices"]);
  return SUCCESS;
}
API Status cuDeviceGet(int* device, int ordinal) {
  ENTER();
  if (ordinal < 0 || ordinal >= settings["devices"]) return INVALID_DEVICE;
  *device = ordinal;
  return SUCCESS;
}
API Status cuDeviceGetName(char* name, int capacity, int) {
  ENTER();
  snprintf(name, capacity, "stand-in");
  return SUCCESS;
}
API Status cuDeviceGetAttribute(int* value, int attribute, int device) {
  ENTER();
  switch (attribute) {
    case 16: *value = 4; break;          // multiprocessors
    case 75: *value = int(setting("major", device)); break;
    case 76: *value = int(setting("minor", device)); break;
    case 97: *value = MOST_SHARED; break;  // shared memory per block
    default: return INVALID_VALUE;
  }
  return SUCCESS;
}

// ---- contexts

API Status cuDevicePrimaryCtxRetain(Context** context, int device) {
  ENTER();
  contexts[device].device = device;
  contexts[device].retained++;
  *context = &contexts[device];
  return SUCCESS;
}
API Status cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER_RELEASE();
  if (contexts[device].retained == 0) return INVALID_CONTEXT;
  if (--contexts[device].retained == 0) contexts[device].lost = SUCCESS;
  return status;
}
API Status cuCtxSetCurrent(Context* context) {
  ENTER();
  current = context;
  return SUCCESS;
}
API Status cuCtxSynchronize() {
  ENTER_CONTEXT();
  if (any_capture()) return CAPTURE_UNSUPPORTED;
  return drain_all();
}

// ---- memory

API Status cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER_CONTEXT();
  *free = *total = setting("memory", current->device);
  for (auto& [address, allocation] : allocations) {
    if (allocation.device == current->device) *free -= allocation.bytes;
  }
  return SUCCESS;
}
API Status cuMemAlloc_v2(Address* address, size_t bytes) {
  ENTER_CONTEXT();
  if (any_capture()) return CAPTURE_UNSUPPORTED;
  if (bytes == 0) return INVALID_VALUE;
  size_t used = bytes;
  for (auto& [other, allocation] : allocations) {
    if (allocation.device == current->device) used += allocation.bytes;
  }
  if (used > size_t(setting("memory", current->device))) return OUT_OF_MEMORY;
  Allocation made{bytes, current->device, nullptr, nullptr};
  const size_t whole = bytes + 2 * GUARD + 255;
  made.memory.reset(new unsigned char[whole]);
  std::memset(made.memory.get(), POISON, whole);
  made.contents = made.memory.get() + GUARD;
  made.contents += -uintptr_t(made.contents) % 256;
  *address = Address(made.contents);
  allocations[*address] = std::move(made);
  return SUCCESS;
}
API Status cuMemFree_v2(Address address) {
  ENTER_RELEASE();
  auto found = allocations.find(address);
  if (found == allocations.end()) {
    complain("cuMemFree_v2: not an allocation, or freed before");
    return INVALID_VALUE;
  }
  if (!is_here(found->second.device, __func__)) return INVALID_VALUE;
  drain_all();
  guards_hold();
  std::memset(found->second.contents, POISON, found->second.bytes);
  if (found->second.bytes <= 1 << 20) freed.push_back(std::move(found->second));
  allocations.erase(found);
  if (freed.size() > 64) {
    check_freed(freed.front());
    freed.pop_front();
  }
  return status;
}
API Status cuMemHostAlloc(void** host, size_t bytes, uint32_t) {
  ENTER_CONTEXT();
  if (bytes == 0) return INVALID_VALUE;
  *host = new unsigned char[bytes];
  std::memset(*host, POISON, bytes);
  pinned[Address(*host)] = bytes;
  return SUCCESS;
}
API Status cuMemFreeHost(void* host) {
  ENTER_RELEASE();
  auto found = pinned.find(Address(host));
  if (found == pinned.end()) {
    complain("cuMemFreeHost: not an allocation, or freed before");
    return INVALID_VALUE;
  }
  for (auto& [handle, stream] : streams) drain(handle);
  std::memset(host, POISON, found->second);
  delete[] static_cast<unsigned char*>(host);
  pinned.erase(found);
  return status;
}

API Status cuMemcpyHtoDAsync_v2(Address to, const void* host, size_t bytes, Stream* stream) {
  ENTER_CONTEXT();
  if (!find(streams, stream, __func__)) return INVALID_HANDLE;
  if (!within(to, bytes, __func__)) return INVALID_VALUE;
  void* target = reinterpret_cast<void*>(to);
  if (is_pinned(host, bytes)) {
    return put(stream, [=] { std::memcpy(target, host, bytes); return SUCCESS; });
  }
  if (stream->capture) return CAPTURE_UNSUPPORTED;
  // pageable memory is read before the call returns
  const std::vector<char> staged(static_cast<const char*>(host), static_cast<const char*>(host) + bytes);
  return put(stream, [=] { std::memcpy(target, staged.data(), bytes); return SUCCESS; });
}
API Status cuMemcpyDtoHAsync_v2(void* host, Address from, size_t bytes, Stream* stream) {
  ENTER_CONTEXT();
  if (!find(streams, stream, __func__)) return INVALID_HANDLE;
  if (!within(from, bytes, __func__)) return INVALID_VALUE;
  if (!is_pinned(host, bytes) && stream->capture) return CAPTURE_UNSUPPORTED;
  downloaded += bytes;
  const void* source = reinterpret_cast<const void*>(from);
  return put(stream, [=] { std::memcpy(host, source, bytes); return SUCCESS; });
}
API Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* stream) {
  ENTER_CONTEXT();
  if (!find(streams, stream, __func__)) return INVALID_HANDLE;
  if (!within(to, bytes, __func__) || !within(from, bytes, __func__)) return INVALID_VALUE;
  void* target = reinterpret_cast<void*>(to);
  const void* source = reinterpret_cast<const void*>(from);
  return put(stream, [=] { std::memmove(target, source, bytes); return SUCCESS; });
}
API Status cuMemsetD32Async(Address to, uint32_t word, size_t count, Stream* stream) {
  ENTER_CONTEXT();
  if (!find(streams, stream, __func__)) return INVALID_HANDLE;
  if (to % 4 != 0 || !within(to, 4 * count, __func__)) return INVALID_VALUE;
  uint32_t* target = reinterpret_cast<uint32_t*>(to);
  return put(stream, [=] { std::fill_n(target, count, word); return SUCCESS; });
}

// ---- kernels

API Status cuModuleLoadData(Module** module, const void*) {
  ENTER_CONTEXT();
  if (setting("major", current->device) < 8) return NO_BINARY;
  *module = make(modules, std::make_unique<Module>());
  (*module)->device = current->device;
  return SUCCESS;
}
API Status cuModuleUnload(Module* module) {
  ENTER_RELEASE();
  if (!find(modules, module, __func__)) return INVALID_HANDLE;
  drain_all();
  modules.erase(module);
  return status;
}
API Status cuModuleGetFunction(Function** function, Module* module, const char* name) {
  ENTER_CONTEXT();
  if (!find(modules, module, __func__)) return INVALID_HANDLE;
  auto found = emulator::kernels().find(name);
  if (found == emulator::kernels().end()) return NOT_FOUND;
  auto& entry = module->functions[name];
  if (entry == nullptr) entry.reset(new Function{module->device, &found->second, name});
  *function = entry.get();
  return SUCCESS;
}
API Status cuFuncSetAttribute(Function* function, int attribute, int value) {
  ENTER_CONTEXT();
  const int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
  if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > int(MOST_SHARED)) return INVALID_VALUE;
  if (!is_here(function->device, __func__)) return INVALID_HANDLE;
  function->most_shared = value;
  return SUCCESS;
}
API Status cuLaunchKernelEx(const Config* config, Function* function, void** parameters, void** extra) {
  ENTER_CONTEXT();
  if (!find(streams, config->stream, __func__)) return INVALID_HANDLE;
  if (!is_here(function->device, __func__)) return INVALID_HANDLE;
  const char* name = function->name.c_str();
  const auto [x, y, z] = config->grid;
  const auto [width, height, depth] = config->block;
  const uint64_t threads = uint64_t(width) * height * depth;
  if (x == 0 || y == 0 || z == 0 || x > INT32_MAX || y > 65535 || z > 65535) {
    complain("%s: a grid of [%u, %u, %u] blocks", name, x, y, z);
    return INVALID_VALUE;
  }
  if (threads == 0 || threads > function->kernel->most_threads) {
    complain("%s: a block of %zu threads, expected up to %u", name, size_t(threads), function->kernel->most_threads);
    return INVALID_VALUE;
  }
  if (int(config->shared_bytes) > function->most_shared) {
    complain("%s: %u bytes of shared memory, %d are allowed", name, config->shared_bytes, function->most_shared);
    return INVALID_VALUE;
  }
  const uint32_t PROGRAMMATIC_STREAM_SERIALIZATION = 6;
  for (uint32_t i = 0; i < config->attribute_count; i++) {
    if (config->attributes[i].id != PROGRAMMATIC_STREAM_SERIALIZATION || config->attributes[i].value[0] != 1) {
      complain("%s: launch attribute %u is not known", name, config->attributes[i].id);
      return INVALID_VALUE;
    }
  }
  if (config->attribute_count > 0) {
    calls["dependent launches"]++;
    if (!config->stream->after_kernel) complain("%s: may begin before work has ended that is no kernel", name);
  }
  if (config->attribute_count > 0 && config->stream->capture) {
    config->stream->capture->dependent = true;
    if (settings["refuses"] == 1) {
      config->stream->capture->invalid = true;
      return NOT_SUPPORTED;
    }
  }
  // CU_LAUNCH_PARAM_BUFFER_POINTER, pointer, CU_LAUNCH_PARAM_BUFFER_SIZE, pointer to the size, CU_LAUNCH_PARAM_END
  if (parameters != nullptr || Address(extra[0]) != 1 || Address(extra[2]) != 2 || extra[4] != nullptr) {
    complain("%s: parameters are not in one buffer", name);
    return INVALID_VALUE;
  }
  const size_t bytes = *static_cast<const size_t*>(extra[3]);
  if (bytes != function->kernel->parameter_bytes) {
    complain("%s: %zu bytes of parameters, expected %zu", name, bytes, function->kernel->parameter_bytes);
    return INVALID_VALUE;
  }
  calls[function->name]++;
  if (!parameters_here(static_cast<const char*>(extra[1]), bytes, name)) return INVALID_VALUE;
  const std::function<void()> body = function->kernel->bind(static_cast<const char*>(extra[1]));
  put(config->stream, [=, label = function->name, shared_bytes = config->shared_bytes]() -> Status {
    gridDim = {x, y, z};
    blockDim = {width, height, depth};
    const uint64_t blocks = uint64_t(x) * y * z;
    const bool loses = settings["loses"] != 0;
    for (uint64_t place = 0; place < blocks; place++) {
      const uint64_t i = emulator::reversed ? blocks - 1 - place : place;
      blockIdx = {uint32_t(i % x), uint32_t(i / x % y), uint32_t(i / x / y)};
      if (loses && blockIdx.z == 1) continue;
      const char* fault = emulator::run_block(body, blockDim, shared_bytes);
      if (fault == nullptr) continue;
      complain("%s: %s", label.c_str(), fault);
      return LAUNCH_FAILED;
    }
    if (guards_hold()) return SUCCESS;
    complain("%s: went out of bounds", label.c_str());
    return ILLEGAL_ADDRESS;
  });
  config->stream->after_kernel = true;
  return SUCCESS;
}

// ---- streams, events, graphs

API Status cuStreamCreate(Stream** stream, uint32_t) {
  ENTER_CONTEXT();
  *stream = make(streams, std::make_unique<Stream>());
  (*stream)->device = current->device;
  return SUCCESS;
}
API Status cuStreamDestroy_v2(Stream* stream) {
  ENTER_RELEASE();
  if (!find(streams, stream, __func__)) return INVALID_HANDLE;
  drain(stream);
  streams.erase(stream);
  return status;
}
API Status cuStreamSynchronize(Stream* stream) {
  ENTER_CONTEXT();
  if (!find(streams, stream, __func__)) return INVALID_HANDLE;
  if (stream->capture) return CAPTURE_UNSUPPORTED;
  return drain(stream);
}
API Status cuStreamBeginCapture_v2(Stream* stream, int) {
  ENTER_CONTEXT();
  if (!find(streams, stream, __func__)) return INVALID_HANDLE;
  if (stream->capture) return CAPTURE_UNSUPPORTED;
  stream->capture = std::make_unique<Graph>();
  stream->capture->device = stream->device;
  stream->after_kernel = false;
  return SUCCESS;
}
API Status cuStreamEndCapture(Stream* stream, Graph** graph) {
  ENTER_RELEASE();
  if (!find(streams, stream, __func__)) return INVALID_HANDLE;
  if (!stream->capture) return INVALID_VALUE;
  auto captured = std::move(stream->capture);
  stream->after_kernel = false;
  if (status != SUCCESS) return status;
  if (captured->invalid) return CAPTURE_INVALIDATED;
  *graph = make(graphs, std::move(captured));
  return SUCCESS;
}
API Status cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, uint64_t) {
  ENTER_CONTEXT();
  if (!find(graphs, graph, __func__)) return INVALID_HANDLE;
  if (graph->dependent && settings["refuses"] == 2) return NOT_SUPPORTED;
  *executable = make(executables, std::make_unique<Graph>(*graph));
  return SUCCESS;
}
API Status cuGraphLaunch(Graph* executable, Stream* stream) {
  ENTER_CONTEXT();
  if (!find(executables, executable, __func__) || !find(streams, stream, __func__)) return INVALID_HANDLE;
  return put(stream, [operations = executable->operations] {
    for (auto& operation : operations) {
      if (const Status status = operation()) return status;
    }
    return Status(SUCCESS);
  });
}
API Status cuGraphDestroy(Graph* graph) {
  ENTER_RELEASE();
  if (!find(graphs, graph, __func__)) return INVALID_HANDLE;
  graphs.erase(graph);
  return status;
}
API Status cuGraphExecDestroy(Graph* executable) {
  ENTER_RELEASE();
  if (!find(executables, executable, __func__)) return INVALID_HANDLE;
  executables.erase(executable);
  return status;
}
API Status cuEventCreate(Event** event, uint32_t) {
  ENTER_CONTEXT();
  *event = make(events, std::make_unique<Event>());
  (*event)->device = current->device;
  return SUCCESS;
}
API Status cuEventRecord(Event* event, Stream* stream) {
  ENTER_CONTEXT();
  if (!find(events, event, __func__) || !find(streams, stream, __func__)) return INVALID_HANDLE;
  return put(stream, [event] {
    if (events.count(event)) event->time = std::chrono::steady_clock::now();
    return Status(SUCCESS);
  });
}
API Status cuEventElapsedTime(float* milliseconds, Event* begin, Event* end) {
  ENTER_CONTEXT();
  if (!find(events, begin, __func__) || !find(events, end, __func__)) return INVALID_HANDLE;
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return SUCCESS;
}
API Status cuEventDestroy_v2(Event* event) {
  ENTER_RELEASE();
  if (!find(events, event, __func__)) return INVALID_HANDLE;
  events.erase(event);
  return status;
}

// ---- cuBLAS

enum : Status {
  BLAS_NOT_INITIALIZED = 1,
  BLAS_INVALID_VALUE = 7,
  BLAS_EXECUTION_FAILED = 13,
  BLAS_INTERNAL_ERROR = 14,
  BLAS_NOT_SUPPORTED = 15,
};
#define ENTER_BLAS() \
  ENTER(); \
  if (current == nullptr || current->retained == 0) return BLAS_NOT_INITIALIZED; \
  if (current->lost) return BLAS_EXECUTION_FAILED

API const char* cublasGetStatusString(Status status) {
  switch (status) {
    case BLAS_NOT_INITIALIZED: return "the library was not initialized";
    case BLAS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
    case BLAS_EXECUTION_FAILED: return "the function failed to launch on the GPU";
    case BLAS_INTERNAL_ERROR: return "an internal operation failed";
    case BLAS_NOT_SUPPORTED: return "the requested functionality is not supported";
    default: return "unrecognized status";
  }
}
API Status cublasCreate_v2(Blas** handle) {
  ENTER_BLAS();
  if (any_capture()) {
    complain("cublasCreate_v2: while a stream is capturing");
    return BLAS_INTERNAL_ERROR;
  }
  *handle = make(blas, std::make_unique<Blas>());
  (*handle)->device = current->device;
  return SUCCESS;
}
API Status cublasDestroy_v2(Blas* handle) {
  ENTER_RELEASE();
  if (!find(blas, handle, __func__)) return BLAS_NOT_INITIALIZED;
  if (handle->stream != nullptr && !streams.count(handle->stream)) complain("cublasDestroy_v2: after its stream");
  if (handle->workspace != 0 && !allocations.count(handle->workspace)) {
    complain("cublasDestroy_v2: after its work memory");
  }
  drain_all();
  blas.erase(handle);
  return status;
}
API Status cublasGetVersion_v2(Blas* handle, int* version) {
  ENTER_BLAS();
  if (!find(blas, handle, __func__)) return BLAS_NOT_INITIALIZED;
  *version = 130100;
  return SUCCESS;
}
API Status cublasSetStream_v2(Blas* handle, Stream* stream) {
  ENTER_BLAS();
  if (!find(blas, handle, __func__) || !find(streams, stream, __func__)) return BLAS_NOT_INITIALIZED;
  handle->stream = stream;
  handle->workspace = 0;
  return SUCCESS;
}
API Status cublasSetWorkspace_v2(Blas* handle, Address workspace, size_t bytes) {
  ENTER_BLAS();
  if (!find(blas, handle, __func__)) return BLAS_NOT_INITIALIZED;
  if (workspace % 256 != 0 || !within(workspace, bytes, __func__)) return BLAS_INVALID_VALUE;
  handle->workspace = workspace;
  return SUCCESS;
}

// Only what is asked for: C [m, n] f32 = transposed A [k, m] · B [k, n], all column-major, A and B of 16 bits. Added
// from the last to the first, which is an order like any other.
API Status cublasGemmEx(Blas* handle, int transa, int transb, int m, int n, int k, const float* alpha, Address a,
                        int a_type, int lda, Address b, int b_type, int ldb, const float* beta, Address c, int c_type,
                        int ldc, int compute_type, int algorithm) {
  ENTER_BLAS();
  if (!find(blas, handle, __func__) || handle->stream == nullptr) return BLAS_NOT_INITIALIZED;
  const int OP_N = 0, OP_T = 1, R_32F = 0, R_16F = 2, R_16BF = 14, COMPUTE_32F = 68, DEFAULT = -1;
  if (transa != OP_T || transb != OP_N || a_type != b_type || (a_type != R_16F && a_type != R_16BF) ||
      c_type != R_32F || compute_type != COMPUTE_32F || algorithm != DEFAULT || *alpha != 1 || *beta != 0) {
    complain("cublasGemmEx: a product of this kind is not expected");
    return BLAS_NOT_SUPPORTED;
  }
  if (m <= 0 || n <= 0 || k <= 0 || lda < k || ldb < k || ldc < m) return BLAS_INVALID_VALUE;
  if (handle->workspace == 0) complain("cublasGemmEx: has no work memory of ours");
  // what its best kernels need
  if (a % 16 || b % 16 || c % 16 || lda % 8 || ldb % 8 || ldc % 4) complain("cublasGemmEx: is not aligned");
  if (!within(handle->workspace, 1, __func__) || !within(a, 2 * (size_t(m - 1) * lda + k), __func__) ||
      !within(b, 2 * (size_t(n - 1) * ldb + k), __func__) || !within(c, 4 * (size_t(n - 1) * ldc + m), __func__)) {
    return BLAS_INVALID_VALUE;
  }
  const auto widen = a_type == R_16F ? from_f16 : from_bf16;
  const uint16_t* left = reinterpret_cast<const uint16_t*>(a);
  const uint16_t* right = reinterpret_cast<const uint16_t*>(b);
  float* out = reinterpret_cast<float*>(c);
  return put(handle->stream, [=] {
    for (int j = 0; j < n; j++) {
      for (int i = 0; i < m; i++) {
        float sum = 0;
        for (int l = k; l-- > 0;) sum += widen(left[size_t(i) * lda + l]) * widen(right[size_t(j) * ldb + l]);
        out[size_t(j) * ldc + i] = sum;
      }
    }
    return Status(SUCCESS);
  });
}
