/**
 * The functions of libcuda, NVIDIA's driver, that the engine calls: each by the name it is exported under, which
 * for many is not the name in `cuda.h` (the header renames `cuMemAlloc` to `cuMemAlloc_v2`, and the plain name is
 * an older ABI with 32-bit sizes). All that is not optional is exported by the drivers of CUDA 12 and 13;
 * `ffi/check_headers.ts` compares this table with the header, parameter by parameter.
 *
 * Handles and addresses of the device are `u64`, which is bigint in TypeScript: exact, and nothing to wrap. Memory
 * that the driver reads or writes during the call is a `buffer`.
 *
 * @module
 */

/** The table for `Deno.dlopen`. Every function returns a `CUresult`, 0 for success. */
export const cudaSymbols = {
  // what there is
  cuInit: { parameters: ["u32" /* unsigned int Flags */], result: "i32" },
  cuDriverGetVersion: { parameters: ["buffer" /* int *driverVersion */], result: "i32" },
  cuGetErrorName: {
    parameters: ["i32", /* CUresult error */ "buffer" /* const char **pStr */],
    result: "i32",
  },
  cuGetErrorString: {
    parameters: ["i32", /* CUresult error */ "buffer" /* const char **pStr */],
    result: "i32",
  },
  cuDeviceGetCount: { parameters: ["buffer" /* int *count */], result: "i32" },
  cuDeviceGet: { parameters: ["buffer", /* CUdevice *device */ "i32" /* int ordinal */], result: "i32" },
  cuDeviceGetName: {
    parameters: ["buffer", /* char *name */ "i32", /* int len */ "i32" /* CUdevice dev */],
    result: "i32",
  },
  cuDeviceGetAttribute: {
    parameters: ["buffer", /* int *pi */ "i32", /* CUdevice_attribute attrib */ "i32" /* CUdevice dev */],
    result: "i32",
  },

  // the context, which libcudart and every library above it share
  cuDevicePrimaryCtxRetain: {
    parameters: ["buffer", /* CUcontext *pctx */ "i32" /* CUdevice dev */],
    result: "i32",
  },
  cuDevicePrimaryCtxRelease_v2: { parameters: ["i32" /* CUdevice dev */], result: "i32" },
  cuCtxSetCurrent: { parameters: ["u64" /* CUcontext ctx */], result: "i32" },
  cuCtxSynchronize: { parameters: [], result: "i32" },

  // memory
  cuMemGetInfo_v2: { parameters: ["buffer", /* size_t *free */ "buffer" /* size_t *total */], result: "i32" },
  cuMemAlloc_v2: {
    parameters: ["buffer", /* CUdeviceptr *dptr */ "usize" /* size_t bytesize */],
    result: "i32",
  },
  cuMemFree_v2: { parameters: ["u64" /* CUdeviceptr dptr */], result: "i32" },
  cuMemHostAlloc: {
    parameters: ["buffer", /* void **pp */ "usize", /* size_t bytesize */ "u32" /* unsigned int Flags */],
    result: "i32",
  },
  cuMemFreeHost: { parameters: ["u64" /* void *p */], result: "i32" },
  cuMemcpyHtoDAsync_v2: {
    parameters: [
      "u64", /* CUdeviceptr dstDevice */
      "buffer", /* const void *srcHost */
      "usize", /* size_t ByteCount */
      "u64", /* CUstream hStream */
    ],
    result: "i32",
  },
  cuMemcpyDtoHAsync_v2: {
    parameters: [
      "buffer", /* void *dstHost */
      "u64", /* CUdeviceptr srcDevice */
      "usize", /* size_t ByteCount */
      "u64", /* CUstream hStream */
    ],
    result: "i32",
  },
  cuMemcpyDtoDAsync_v2: {
    parameters: [
      "u64", /* CUdeviceptr dstDevice */
      "u64", /* CUdeviceptr srcDevice */
      "usize", /* size_t ByteCount */
      "u64", /* CUstream hStream */
    ],
    result: "i32",
  },
  cuMemsetD32Async: {
    parameters: [
      "u64", /* CUdeviceptr dstDevice */
      "u32", /* unsigned int ui */
      "usize", /* size_t N */
      "u64", /* CUstream hStream */
    ],
    result: "i32",
  },

  // kernels
  cuModuleLoadData: {
    parameters: ["buffer", /* CUmodule *module */ "buffer" /* const void *image */],
    result: "i32",
  },
  cuModuleUnload: { parameters: ["u64" /* CUmodule hmod */], result: "i32" },
  cuModuleGetFunction: {
    parameters: [
      "buffer", /* CUfunction *hfunc */
      "u64", /* CUmodule hmod */
      "buffer", /* const char *name */
    ],
    result: "i32",
  },
  cuFuncSetAttribute: {
    parameters: [
      "u64", /* CUfunction hfunc */
      "i32", /* CUfunction_attribute attrib */
      "i32", /* int value */
    ],
    result: "i32",
  },
  cuLaunchKernelEx: {
    parameters: [
      "buffer", /* const CUlaunchConfig *config */
      "u64", /* CUfunction f */
      "u64", /* void **kernelParams */
      "buffer", /* void **extra */
    ],
    result: "i32",
  },

  // streams, events and graphs
  cuStreamCreate: {
    parameters: ["buffer", /* CUstream *phStream */ "u32" /* unsigned int Flags */],
    result: "i32",
  },
  cuStreamDestroy_v2: { parameters: ["u64" /* CUstream hStream */], result: "i32" },
  cuStreamSynchronize: { parameters: ["u64" /* CUstream hStream */], result: "i32" },
  cuStreamBeginCapture_v2: {
    parameters: ["u64", /* CUstream hStream */ "i32" /* CUstreamCaptureMode mode */],
    result: "i32",
  },
  cuStreamEndCapture: {
    parameters: ["u64", /* CUstream hStream */ "buffer" /* CUgraph *phGraph */],
    result: "i32",
  },
  cuGraphInstantiateWithFlags: {
    parameters: [
      "buffer", /* CUgraphExec *phGraphExec */
      "u64", /* CUgraph hGraph */
      "u64", /* unsigned long long flags */
    ],
    result: "i32",
  },
  cuGraphLaunch: {
    parameters: ["u64", /* CUgraphExec hGraphExec */ "u64" /* CUstream hStream */],
    result: "i32",
  },
  cuGraphDestroy: { parameters: ["u64" /* CUgraph hGraph */], result: "i32" },
  cuGraphExecDestroy: { parameters: ["u64" /* CUgraphExec hGraphExec */], result: "i32" },
  cuEventCreate: {
    parameters: ["buffer", /* CUevent *phEvent */ "u32" /* unsigned int Flags */],
    result: "i32",
  },
  cuEventRecord: { parameters: ["u64", /* CUevent hEvent */ "u64" /* CUstream hStream */], result: "i32" },
  // since CUDA 12.8 the header means the second by the first one's name, and a driver may come to export no other
  cuEventElapsedTime: {
    parameters: [
      "buffer", /* float *pMilliseconds */
      "u64", /* CUevent hStart */
      "u64", /* CUevent hEnd */
    ],
    result: "i32",
    optional: true,
  },
  cuEventElapsedTime_v2: {
    parameters: [
      "buffer", /* float *pMilliseconds */
      "u64", /* CUevent hStart */
      "u64", /* CUevent hEnd */
    ],
    result: "i32",
    optional: true,
  },
  cuEventDestroy_v2: { parameters: ["u64" /* CUevent hEvent */], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** libcuda, loaded. */
export type Cuda = Deno.StaticForeignLibraryInterface<typeof cudaSymbols>;
