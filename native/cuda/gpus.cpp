// The GPUs of this machine, whether they can be used and why not.
#include <cuda_runtime.h>

#include "cuda/blas.h"
#include "cuda/executor.h"

namespace quest::cuda {

namespace {

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

int driver_version() {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  return driver;
}

}  // namespace

std::string unavailable(int index) {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (e == cudaErrorInsufficientDriver) {
    const int driver = driver_version();
    return driver == 0 ? "no CUDA driver" : "the CUDA driver is too old (it supports CUDA " + version(driver) + ")";
  }
  if (e != cudaSuccess && e != cudaErrorNoDevice) return cudaGetErrorString(e);
  if (count == 0) return "no NVIDIA GPU";
  if (index >= count) return "there are " + std::to_string(count) + " GPUs, cuda:0 to cuda:" + std::to_string(count - 1);
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  if (major < 8) return "the GPU's compute capability is " + std::to_string(major) + ".x, wanted 8.0 or newer";
  return "";
}

GpuReport gpu_report() {
  GpuReport report;
  report.compiled = true;
  if (const int driver = driver_version(); driver > 0) report.driver = version(driver);
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    cudaGetLastError();
    report.problem = unavailable(0);
    return report;
  }
  for (int i = 0; i < count; ++i) {
    GpuInfo gpu;
    gpu.index = i;
    gpu.problem = unavailable(i);
    cudaDeviceProp properties{};
    size_t free = 0, total = 0;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) {
      gpu.problem = cudaGetErrorString(cudaGetLastError());
    } else {
      gpu.name = properties.name;
      gpu.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
      gpu.major = properties.major;
      gpu.minor = properties.minor;
      gpu.multiprocessors = properties.multiProcessorCount;
      int mps = 0;
      cudaDeviceGetAttribute(&mps, cudaDevAttrMpsEnabled, i);
      gpu.mps = mps != 0;
      // The first call on a GPU that needs it to be free and alive.
      if (cudaSetDevice(i) != cudaSuccess || cudaMemGetInfo(&free, &total) != cudaSuccess) {
        gpu.problem = cudaGetErrorString(cudaGetLastError());
      } else {
        gpu.free_bytes = static_cast<int64_t>(free);
        if (gpu.problem.empty() && report.matrix_library.empty()) report.matrix_library = Blas().name();
      }
    }
    report.gpus.push_back(std::move(gpu));
  }
  return report;
}

}  // namespace quest::cuda
