// The GPU executor as seen from the rest of the runtime. Only this header of native/cuda is included outside of it.
#pragma once

#include <memory>
#include <string>

#include "core/devices.h"
#include "core/executor.h"

namespace quest::cuda {

// Empty when GPU `index` can be used; else why not, in a few words ("no CUDA driver").
std::string unavailable(int index);

// What the kernels do not cover of a model, in a few words ("head_dim is 8"), or nothing.
std::string not_covered(const ModelSpec& spec);

GpuReport gpu_report();

// As plan_gpu_memory in core/devices.h.
GpuMemoryPlan plan_memory(const ModelSpec& spec, int page_size, int64_t free_bytes);

// Throws Error E_DEVICE when the GPU cannot be used and E_UNSUPPORTED when the kernels do not cover the model.
std::unique_ptr<Executor> make_cuda_executor(const ModelSpec& spec, int index);

}  // namespace quest::cuda
