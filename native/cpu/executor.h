// The CPU executor as seen from core/make_executor.cpp.
#pragma once

#include <memory>

#include "core/executor.h"

namespace quest::cpu {

// threads 0 means all cores. Maps the weights.
std::unique_ptr<Executor> make_cpu_executor(const ModelSpec& spec, int threads);

}  // namespace quest::cpu
