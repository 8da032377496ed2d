// Which devices this machine and build have, and which one a run uses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/model_spec.h"

namespace quest {

struct GpuInfo {
  int index = 0;
  std::string name;
  int64_t memory_bytes = 0, free_bytes = 0;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  bool mps = false;     // processes share it through MPS
  std::string problem;  // empty when it can be used
};

struct GpuReport {
  bool compiled = false;       // this build has the CUDA backend
  std::string driver;          // newest CUDA version of the driver, e.g. "13.0"; empty without one
  std::string matrix_library;  // what multiplies matrices of many rows; empty when no GPU can be used
  std::string problem;         // why there are no GPUs
  std::vector<GpuInfo> gpus;
};

GpuReport gpu_report();

// How a GPU's memory would be divided for a model: weights and workspace first; of what is left a reserve, and pages.
struct GpuMemoryPlan {
  int64_t weight_bytes = 0, workspace_bytes = 0;
  int64_t reserved_bytes = 0;                         // scratch that grows on first use, the driver's own
  int64_t kv_page_bytes = 0, metadata_page_bytes = 0; // of one page over all layers
  int64_t pages = 0;                                  // that the cache would have
};

// For a GPU with `free_bytes` (GpuInfo has them), which need not be there. Throws Error E_DEVICE in a build without the CUDA
// backend and E_UNSUPPORTED when its kernels do not cover the model.
GpuMemoryPlan plan_gpu_memory(const ModelSpec& spec, int page_size, int64_t free_bytes);

struct DeviceChoice {
  std::string device;  // "cpu" or "cuda:N"
  std::string note;    // why `auto` does not take the GPU that the machine has; else empty
};

// What `device` ("auto", "cpu", "cuda", "cuda:N") means for a model. `auto` is the first GPU when it can be used and its kernels
// cover the model, and the CPU otherwise. Throws Error E_DEVICE for other names, and for a GPU that cannot be used.
DeviceChoice choose_device(const ModelSpec& spec, const std::string& device);

}  // namespace quest
