// Kernel timing on the CPU, see core/bench.h.
#pragma once

#include "core/bench.h"

namespace quest::cpu {

std::unique_ptr<KernelBench> make_kernel_bench(int threads);

}  // namespace quest::cpu
