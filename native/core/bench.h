// Timing of single kernels on one device. Each backend implements it once (bench.cpp), for `quest bench` and the native
// benchmark programs alike.
//
// A case is one layer's work. Its data is rotated over copies, so that caches do not hold it from the last time; it is
// repeated until the spread is small. Whole models are timed through the executor itself.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/executor.h"
#include "core/job.h"

namespace quest {

struct KernelCase {
  std::string kernel;  // one of kernels()
  // Caches and attention.
  int64_t n_heads = 32, n_kv_heads = 32, head_dim = 128;
  int64_t context_tokens = 0, budget_tokens = 0;
  int64_t page_size = 16;
  // Matrix products and rows: out [rows, n] = in [rows, k] * weight [n, k].
  int64_t rows = 1, n = 0, k = 0;
};

struct KernelTime {
  double median_us = 0, best_us = 0;
  double noise_pct = 0;  // half of the middle 80% of the repeats, of the median
  int64_t repeats = 0;
  double bytes = 0, flops = 0;  // what the kernel must move and compute
};

// What a case is measured with: at least `min_repeats`, then on until the noise is at most `noise_pct` or `max_seconds` are over.
struct TimingRules {
  int64_t min_repeats = 15;
  double noise_pct = 1.0;
  double max_seconds = 0.5;
};

class KernelBench {
 public:
  virtual ~KernelBench() = default;
  virtual ExecutorInfo info() const = 0;
  virtual std::vector<std::string> kernels() const = 0;
  // Bytes per second of a kernel that only reads, over a range that no cache holds.
  virtual double read_bandwidth(const JobControl& job) = 0;
  // Throws Error E_BENCH for a case that the kernel does not have.
  virtual KernelTime time(const KernelCase& c, const TimingRules& rules, const JobControl& job) = 0;
};

// `device` is "cpu" or "cuda:N" (choose_device settles it).
std::unique_ptr<KernelBench> make_kernel_bench(const std::string& device, int threads);

// The median and noise of repeats of `once`, which returns one repeat's microseconds; two more come first and do not count.
KernelTime repeat_until_steady(const TimingRules& rules, const JobControl& job, const std::function<double()>& once);

// "heads 32/8, ..." of a case that cannot be.
void check_case(const KernelCase& c, const std::vector<std::string>& kernels);

}  // namespace quest
