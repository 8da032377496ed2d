// Kernel timing on a GPU, see core/bench.h.
#pragma once

#include <functional>

#include "core/bench.h"
#include "cuda/launch.h"

namespace quest::cuda {

// Throws Error E_DEVICE when the GPU cannot be used.
std::unique_ptr<KernelBench> make_kernel_bench(int index);

// Times `work`, which enqueues `units` of the same thing on `stream`, as one CUDA graph; the result is for one of them.
KernelTime time_graph(cudaStream_t stream, int units, const TimingRules& rules, const JobControl& job, const std::function<void()>& work);

}  // namespace quest::cuda
