#include "cuda/blas.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace quest::cuda {

namespace {

// From cuBLAS's and CUDA's public headers, which are not needed to build.
constexpr int kTranspose = 1, kNoTranspose = 0, kFp32 = 0, kFp16 = 2, kBf16 = 14, kComputeFp32 = 68, kDefaultAlgorithm = -1;

template <class F>
bool find(void* library, const char* symbol, F& f) {
  void* p = dlsym(library, symbol);
  std::memcpy(&f, &p, sizeof(p));
  return p != nullptr;
}

}  // namespace

Blas::Blas() {
#ifndef QUEST_EMULATE
  const char* off = std::getenv("QUEST_CUBLAS");
  if (off && std::strcmp(off, "0") == 0) return;
  for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so", "/usr/local/cuda/lib64/libcublas.so"}) {
    library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library_) break;
  }
  if (!library_) return;
  int (*create)(void**) = nullptr;
  if (!find(library_, "cublasCreate_v2", create) || !find(library_, "cublasDestroy_v2", destroy_) ||
      !find(library_, "cublasSetStream_v2", set_stream_) || !find(library_, "cublasGemmEx", gemm_) || create(&handle_) != 0) {
    handle_ = nullptr;
  }
#endif
}

Blas::~Blas() {
  // The library stays open: its own threads and handlers may outlive this object.
  if (handle_) destroy_(handle_);
}

void Blas::product(const GemmParams& p, const Launch& how) {
  if (!available()) return gemm(p, how);
  const float one = 1, beta = p.epilogue == Epilogue::residual ? 1 : 0;
  const int in = p.type == Half::fp16 ? kFp16 : kBf16, out = p.epilogue == Epilogue::half ? in : kFp32;
  // Column-major: out^T [n, rows] = weight [k, n]^T in [k, rows].
  const int status = set_stream_(handle_, how.stream) |
                     gemm_(handle_, kTranspose, kNoTranspose, p.n, p.rows, p.k, &one, p.weight, in, p.k, p.in, in, p.k, &beta, p.out, out,
                           p.n, kComputeFp32, kDefaultAlgorithm);
  if (status != 0) throw Error("E_CUDA", "cuBLAS failed with status " + std::to_string(status), "set QUEST_CUBLAS=0 to do without it");
}

}  // namespace quest::cuda
