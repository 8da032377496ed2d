#ifndef QUEST_EMULATE

#include "cuda/tensor_map.h"

namespace quest::cuda {

namespace {

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's own function, found at run time: the library must load where there is no driver. Null when it is too old.
EncodeTiled encode_tiled() {
  static const EncodeTiled found = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &result);
    if (e != cudaSuccess) cudaGetLastError();
    return e == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(f) : nullptr;
  }();
  return found;
}

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

bool gpu_has_wgmma() {
#ifdef QUEST_WGMMA
  return attribute(cudaDevAttrComputeCapabilityMajor) == 9 && attribute(cudaDevAttrComputeCapabilityMinor) == 0 && encode_tiled();
#else
  return false;
#endif
}

int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

CUtensorMap map_rows(const void* data, Half type, int64_t width, int64_t rows, int box_rows) {
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows)}, pitch[] = {static_cast<cuuint64_t>(width) * 2};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows)}, stride[] = {1, 1};
  const CUresult e = encode_tiled()(&map, type == Half::fp16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                                    const_cast<void*>(data), sizes, pitch, box, stride, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (e != CUDA_SUCCESS) throw Error("E_CUDA", "cuTensorMapEncodeTiled failed with error " + std::to_string(static_cast<int>(e)));
  return map;
}

}  // namespace quest::cuda

#endif  // QUEST_EMULATE
