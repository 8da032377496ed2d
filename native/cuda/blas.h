// cuBLAS where the machine has it. It is opened at run time: a build machine or a user's machine may not have it, and the
// kernels' own tensor-core product (gemm.cu) then takes its place.
#pragma once

#include "cuda/kernels.h"

namespace quest::cuda {

class Blas {
 public:
  Blas();
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  bool available() const { return handle_ != nullptr; }
  const char* name() const { return available() ? "cuBLAS" : "own tensor-core kernels"; }

  // As gemm(), by cuBLAS where available.
  void product(const GemmParams&, const Launch&);

 private:
  void* library_ = nullptr;
  void* handle_ = nullptr;
  int (*destroy_)(void*) = nullptr;
  int (*set_stream_)(void*, cudaStream_t) = nullptr;
  int (*gemm_)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int, int, const void*, void*, int,
               int, int, int) = nullptr;
};

}  // namespace quest::cuda
