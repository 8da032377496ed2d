// The executor of a device.
#include "core/devices.h"
#include "core/executor.h"
#include "cpu/executor.h"
#ifdef QUEST_HAVE_CUDA
#include "cuda/executor.h"
#endif

namespace quest {

std::unique_ptr<Executor> make_executor(const ModelSpec& spec, const std::string& device, int threads) {
  spec.validate();
  const std::string chosen = choose_device(spec, device).device;
#ifdef QUEST_HAVE_CUDA
  if (chosen != "cpu") return cuda::make_cuda_executor(spec, std::stoi(chosen.substr(5)));
#endif
  return cpu::make_cpu_executor(spec, threads);
}

}  // namespace quest
