// Which backend a device name means.
#include <charconv>

#include "core/executor.h"
#include "cpu/executor.h"
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

}  // namespace

std::unique_ptr<Executor> make_executor(const ModelSpec& spec, const std::string& device, int threads) {
  spec.validate();
  // `auto` stays on the CPU: the CUDA executor passes its own tests on an H100, but no command has been run on it yet.
  if (device == "cpu" || device == "auto") return cpu::make_cpu_executor(spec, threads);
  const int gpu = gpu_index(device);
#ifdef QUEST_HAVE_CUDA
  if (gpu >= 0) return cuda::make_cuda_executor(spec, gpu);
#else
  if (gpu >= 0) {
    throw Error("E_DEVICE", "device is \"" + device + "\", but this build has no CUDA backend",
                "build with a CUDA toolkit (nvcc) on the machine, or use --device cpu");
  }
#endif
  throw Error("E_DEVICE", "device is \"" + device + "\", wanted auto, cpu, cuda or cuda:N");
}

}  // namespace quest
