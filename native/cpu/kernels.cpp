// Which SIMD levels this CPU can run, and the one in use.
#include "cpu/kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels_levels.h"

#if QUEST_X86_LEVELS
#include <cpuid.h>
#endif

namespace quest::cpu {
namespace {

#if QUEST_X86_LEVELS
// Asked by hand: GCC 11 and older clang do not know __builtin_cpu_supports("f16c"). With AVX2 usable, F16C is too.
bool cpu_has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> levels = {&baseline_kernels()};
#if QUEST_X86_LEVELS
  // __builtin_cpu_supports also asks whether the operating system saves these registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
  if (avx2) levels.push_back(&avx2_kernels());
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    levels.push_back(&avx512_kernels());
  }
#endif
  return levels;
}

const Kernels& active_kernels() {
  const std::vector<const Kernels*> levels = available_kernels();
  const char* wanted = std::getenv("QUEST_SIMD");
  if (wanted == nullptr || *wanted == '\0') return *levels.back();
  std::string names;
  for (const Kernels* level : levels) {
    if (std::string(wanted) == level->name) return *level;
    names += names.empty() ? level->name : std::string(", ") + level->name;
  }
  throw std::runtime_error("QUEST_SIMD is \"" + std::string(wanted) + "\"; this CPU and build have: " + names);
}

}  // namespace quest::cpu
