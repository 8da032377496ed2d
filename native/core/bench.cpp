#include "core/bench.h"

#include <algorithm>
#include <chrono>

#include "cpu/bench.h"
#if defined(QUEST_HAVE_CUDA) && !defined(QUEST_EMULATE)
#include "cuda/bench.h"
#endif

namespace quest {

std::unique_ptr<KernelBench> make_kernel_bench(const std::string& device, int threads) {
#if defined(QUEST_HAVE_CUDA) && !defined(QUEST_EMULATE)
  if (device.starts_with("cuda:")) return cuda::make_kernel_bench(std::stoi(device.substr(5)));
#endif
  if (device == "cpu") return cpu::make_kernel_bench(threads);
  throw Error("E_DEVICE", "device is \"" + device + "\", wanted cpu or cuda:N of this build");
}

KernelTime repeat_until_steady(const TimingRules& rules, const JobControl& job, const std::function<double()>& once) {
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < 2; ++i) once();
  std::vector<double> times, sorted;
  KernelTime result;
  const auto start = Clock::now();
  do {
    job.check();
    times.push_back(once());
    if (static_cast<int64_t>(times.size()) < rules.min_repeats) continue;
    sorted = times;
    std::sort(sorted.begin(), sorted.end());
    const size_t tenth = sorted.size() / 10;
    result.median_us = sorted[sorted.size() / 2];
    result.best_us = sorted.front();
    result.noise_pct = 50 * (sorted[sorted.size() - 1 - tenth] - sorted[tenth]) / result.median_us;
    result.repeats = static_cast<int64_t>(sorted.size());
    if (result.noise_pct <= rules.noise_pct) break;
  } while (static_cast<int64_t>(times.size()) < rules.min_repeats ||
           std::chrono::duration<double>(Clock::now() - start).count() < rules.max_seconds);
  return result;
}

void check_case(const KernelCase& c, const std::vector<std::string>& kernels) {
  const auto fail = [&](const std::string& what) { throw Error("E_BENCH", c.kernel + ": " + what); };
  if (std::find(kernels.begin(), kernels.end(), c.kernel) == kernels.end()) {
    std::string list;
    for (const std::string& k : kernels) list += (list.empty() ? "" : ", ") + k;
    throw Error("E_BENCH", "there is no kernel \"" + c.kernel + "\" on this device", "there are " + list);
  }
  const bool matrix = c.n > 0 || c.k > 0;
  if (matrix) {
    if (c.rows < 1 || c.rows > 65536 || c.n < 8 || c.n > (1 << 20) || c.k < 8 || c.k > (1 << 20) || c.k % 8 != 0) fail("rows, n and k are out of range");
    return;
  }
  if (c.n_heads < 1 || c.n_heads > 1024 || c.n_kv_heads < 1 || c.n_heads % c.n_kv_heads != 0) fail("the query heads must be a multiple of the KV heads");
  if (c.head_dim < 8 || c.head_dim > 256 || c.head_dim % 8 != 0) fail("head_dim is " + std::to_string(c.head_dim));
  if (c.page_size < 1 || c.page_size > 128 || (c.page_size & (c.page_size - 1)) != 0) fail("page_size is " + std::to_string(c.page_size));
  if (c.context_tokens < 1 || c.context_tokens > (1 << 24)) fail("context_tokens is " + std::to_string(c.context_tokens));
  if (c.budget_tokens < 0 || c.budget_tokens > c.context_tokens) fail("budget_tokens is " + std::to_string(c.budget_tokens) + " of " + std::to_string(c.context_tokens));
}

}  // namespace quest
