/**
 * The functions of cuBLAS, NVIDIA's products of matrices, that the engine calls: each by the name it is exported
 * under, which CUDA 12 and 13 have in common. The plain name of one that ends in `_v2` is that of an older interface.
 * `ffi/check_headers.ts` compares this table with `cublas_api.h`, as it does that of `libcuda.ts`.
 *
 * @module
 */

/** The table for `Deno.dlopen`. What returns a number returns a `cublasStatus_t`, 0 for success. */
export const cublasSymbols = {
  cublasCreate_v2: { parameters: ["buffer" /* cublasHandle_t* handle */], result: "i32" },
  cublasDestroy_v2: { parameters: ["u64" /* cublasHandle_t handle */], result: "i32" },
  cublasGetVersion_v2: {
    parameters: ["u64", /* cublasHandle_t handle */ "buffer" /* int* version */],
    result: "i32",
  },
  cublasGetStatusString: { parameters: ["i32" /* cublasStatus_t status */], result: "pointer" },
  cublasSetStream_v2: {
    parameters: ["u64", /* cublasHandle_t handle */ "u64" /* cudaStream_t streamId */],
    result: "i32",
  },
  cublasSetWorkspace_v2: {
    parameters: [
      "u64", /* cublasHandle_t handle */
      "u64", /* void* workspace */
      "usize", /* size_t workspaceSizeInBytes */
    ],
    result: "i32",
  },
  cublasGemmEx: {
    parameters: [
      "u64", /* cublasHandle_t handle */
      "i32", /* cublasOperation_t transa */
      "i32", /* cublasOperation_t transb */
      "i32", /* int m */
      "i32", /* int n */
      "i32", /* int k */
      "buffer", /* const void* alpha */
      "u64", /* const void* A */
      "i32", /* cudaDataType Atype */
      "i32", /* int lda */
      "u64", /* const void* B */
      "i32", /* cudaDataType Btype */
      "i32", /* int ldb */
      "buffer", /* const void* beta */
      "u64", /* void* C */
      "i32", /* cudaDataType Ctype */
      "i32", /* int ldc */
      "i32", /* cublasComputeType_t computeType */
      "i32", /* cublasGemmAlgo_t algo */
    ],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;

/** cuBLAS, loaded. */
export type CublasFunctions = Deno.StaticForeignLibraryInterface<typeof cublasSymbols>;
