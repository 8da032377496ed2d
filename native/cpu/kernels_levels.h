// The tables that the per-level files define. Only kernels.cpp, which knows what the CPU can run, hands them out.
#pragma once

#include "cpu/kernels.h"

// On any other machine the baseline is the only level.
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define QUEST_X86_LEVELS 1
#else
#define QUEST_X86_LEVELS 0
#endif

namespace quest::cpu {

const Kernels& baseline_kernels();
#if QUEST_X86_LEVELS
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace quest::cpu
