#include "core/devices.h"

#include <charconv>
#include <filesystem>

#include "core/error.h"
#ifdef QUEST_HAVE_CUDA
#include "cuda/executor.h"
#endif

namespace quest {

namespace {

// 0 for "cuda", N for "cuda:N", -1 for anything else.
int gpu_index(const std::string& device) {
  if (device == "cuda") return 0;
  if (!device.starts_with("cuda:")) return -1;
  int index = -1;
  const char* end = device.data() + device.size();
  const auto [p, e] = std::from_chars(device.data() + 5, end, index);
  return e == std::errc() && p == end ? index : -1;
}

// Whether the system shows an NVIDIA GPU, whatever this build can do with it (the second file: WSL).
bool gpu_present() {
  std::error_code ignored;
  return std::filesystem::exists("/dev/nvidiactl", ignored) || std::filesystem::exists("/dev/dxg", ignored);
}

#ifdef QUEST_HAVE_CUDA
constexpr bool kCompiled = true;
std::string unusable(int index) { return cuda::unavailable(index); }
std::string uncovered(const ModelSpec& spec) { return cuda::not_covered(spec); }
#else
constexpr bool kCompiled = false;
std::string unusable(int) { return "this build has no CUDA backend"; }
std::string uncovered(const ModelSpec&) { return ""; }
#endif

}  // namespace

GpuReport gpu_report() {
#ifdef QUEST_HAVE_CUDA
  return cuda::gpu_report();
#else
  GpuReport report;
  report.problem = unusable(0);
  return report;
#endif
}

GpuMemoryPlan plan_gpu_memory(const ModelSpec& spec, int page_size, int64_t free_bytes) {
#ifdef QUEST_HAVE_CUDA
  return cuda::plan_memory(spec, page_size, free_bytes);
#else
  (void)spec, (void)page_size, (void)free_bytes;
  throw Error("E_DEVICE", "the GPU's memory cannot be planned: " + unusable(0), "build it where nvcc is: npm run build:cuda");
#endif
}

DeviceChoice choose_device(const ModelSpec& spec, const std::string& device) {
  if (device == "cpu") return {"cpu", ""};
  if (device == "auto") {
    const std::string problem = unusable(0);
    if (!problem.empty()) return {"cpu", gpu_present() ? "running on the CPU; the GPU cannot be used: " + problem : ""};
    const std::string missing = uncovered(spec);
    if (!missing.empty()) return {"cpu", "running on the CPU; the GPU kernels do not cover this model: " + missing};
    return {"cuda:0", ""};
  }
  const int index = gpu_index(device);
  if (index < 0) throw Error("E_DEVICE", "device is \"" + device + "\", wanted auto, cpu, cuda or cuda:N", "quest doctor lists the devices");
  const std::string problem = unusable(index);
  if (problem.empty()) return {"cuda:" + std::to_string(index), ""};
  throw Error("E_DEVICE", device + " cannot be used: " + problem,
              kCompiled ? "use --device cpu" : "use --device cpu, or build it where nvcc is: npm run build:cuda");
}

}  // namespace quest
