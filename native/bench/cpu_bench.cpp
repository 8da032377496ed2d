// How fast the CPU kernels are beside what the machine can do: its read bandwidth and its multiply-add peak, measured
// here and now on the same threads. Prints a table, or JSON with --json.
//
//   npm run bench:cpu [-- --json] [-- --threads N] [-- --only TEXT] [-- --seconds S]
//   QUEST_SIMD=avx2 npm run bench:cpu
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "bench/cpu_cases.h"
#include "bench/cpu_peak.h"
#include "core/bench.h"
#include "cpu/linear.h"

namespace quest::cpu {
namespace {

struct Options {
  bool json = false;
  int threads = 0;
  double seconds = 1.0;  // per measurement
  std::string only;
};

struct Result {
  std::string name;
  const char* unit;
  double median, best;  // of the repetitions
  double noise_pct;
  double percent;  // of the bandwidth or the peak; negative: not compared
  const char* percent_of;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options), pool_(options.threads), kernels_(active_kernels()) {}

  ThreadPool& pool() { return pool_; }
  const Kernels& kernels() const { return kernels_; }
  const std::vector<Result>& results() const { return results_; }
  bool wanted(const std::string& name) const { return name.find(options_.only) != std::string::npos; }

  // Times run() again and again; `amount` units (10^9) of work per call. Returns the median rate.
  template <typename Run>
  double measure(const std::string& name, const char* unit, double amount, double limit, const char* limit_name, Run run) {
    using Clock = std::chrono::steady_clock;
    TimingRules rules;
    rules.min_repeats = 5;
    rules.max_seconds = options_.seconds;
    const KernelTime t = repeat_until_steady(rules, {}, [&] {
      const auto before = Clock::now();
      run();
      return std::chrono::duration<double, std::micro>(Clock::now() - before).count();
    });
    const double median = amount / t.median_us / 1e3;
    results_.push_back({name, unit, median, amount / t.best_us / 1e3, t.noise_pct, limit > 0 ? 100 * median / limit : -1, limit_name});
    if (!options_.json) print(results_.back());
    return median;
  }

  // Calls body(worker) on every thread at once.
  void on_all_threads(const std::function<void(int)>& body) {
    pool_.parallel_for(pool_.threads(), [&](int64_t i, int) { body(static_cast<int>(i)); });
  }

 private:
  static void print(const Result& r) {
    std::printf("%-44s %9.1f %-8s +-%4.1f%%, best %8.1f", r.name.c_str(), r.median, r.unit, r.noise_pct, r.best);
    if (r.percent >= 0) std::printf(" %5.0f%% of %s", r.percent, r.percent_of);
    std::printf("\n");
    std::fflush(stdout);
  }

  Options options_;
  ThreadPool pool_;
  const Kernels& kernels_;
  std::vector<Result> results_;
};

volatile uint64_t g_sink;

// All threads read one buffer of 1 GiB, each its own part.
double bench_bandwidth(Bench& bench) {
  const size_t bytes = size_t{1} << 30;
  std::vector<uint64_t> buffer(bytes / sizeof(uint64_t), 1);
  const auto threads = static_cast<size_t>(bench.pool().threads());
  const size_t part = buffer.size() / threads / 64 * 64;
  return bench.measure("read bandwidth, 1 GiB", "GB/s", static_cast<double>(part * threads * sizeof(uint64_t)), 0, "", [&] {
    bench.on_all_threads([&](int t) { g_sink = sum_words(buffer.data() + static_cast<size_t>(t) * part, part); });
  });
}

double bench_peak(Bench& bench) {
  const std::string level = bench.kernels().name;
  const int64_t rounds = 4'000'000;
  const double flops = fma_flops_per_round(level) * static_cast<double>(rounds) * bench.pool().threads();
  return bench.measure("multiply-add peak, " + level, "GFLOP/s", flops, 0, "",
                       [&] { bench.on_all_threads([&](int) { g_sink = static_cast<uint64_t>(run_fma(level, rounds)); }); });
}

std::vector<uint16_t> random_halves(size_t count) {
  std::vector<uint16_t> out(count);
  uint32_t state = 12345;
  for (uint16_t& h : out) {
    state = state * 1664525u + 1013904223u;
    h = static_cast<uint16_t>((state >> 16 & 0x83ff) | 0x2c00);  // +- 0.06 .. 0.12
  }
  return out;
}

std::vector<float> random_floats(size_t count) {
  std::vector<float> out(count);
  uint32_t state = 54321;
  for (float& f : out) {
    state = state * 1664525u + 1013904223u;
    f = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
  return out;
}

// 562 MB of matrices shaped as Llama-7B's, multiplied one after the other as a decode step does.
void bench_decode(Bench& bench, double bandwidth) {
  std::vector<std::pair<int64_t, int64_t>> shapes;
  for (int i = 0; i < 6; ++i) shapes.push_back({4096, 4096});
  for (int i = 0; i < 4; ++i) shapes.push_back({11008, 4096});
  size_t elements = 0;
  for (const auto& [n, k] : shapes) elements += static_cast<size_t>(n * k);
  const std::vector<uint16_t> weights = random_halves(elements);
  const std::vector<float> x = random_floats(32 * 4096);
  std::vector<float> y(32 * 11008);
  for (const DType dtype : {DType::fp16, DType::bf16}) {
    for (const int64_t m : {1, 4, 8, 32}) {
      if (dtype == DType::bf16 && m > 1) continue;
      const std::string name = "gemv set 562 MB " + std::string(dtype_name(dtype)) + ", m = " + std::to_string(m);
      if (!bench.wanted(name)) continue;
      bench.measure(name, "GB/s", static_cast<double>(elements * 2), bandwidth, "bandwidth", [&] {
        const uint16_t* w = weights.data();
        for (const auto& [n, k] : shapes) {
          linear(bench.pool(), bench.kernels(), x.data(), k, m, {{{w, dtype, n, k}, y.data(), n}}, false);
          w += n * k;
        }
      });
    }
  }
}

void bench_gemm(Bench& bench, double peak, int64_t m, int64_t n, int64_t k) {
  const std::string name = "gemm fp16 " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k);
  if (!bench.wanted(name)) return;
  const std::vector<uint16_t> w = random_halves(static_cast<size_t>(n * k));
  const std::vector<float> x = random_floats(static_cast<size_t>(m * k));
  std::vector<float> y(static_cast<size_t>(m * n));
  bench.measure(name, "GFLOP/s", 2.0 * static_cast<double>(m * n * k), peak, "peak", [&] {
    linear(bench.pool(), bench.kernels(), x.data(), k, m, {{{w.data(), DType::fp16, n, k}, y.data(), n}}, false);
  });
}

// Every thread walks its own keys of 2048 tokens (they stay in L2), the case's n at a time.
void bench_attention(Bench& bench, const AttentionCase& c, double peak) {
  const int64_t tokens = 2048 / c.n * c.n;
  const auto threads = static_cast<size_t>(bench.pool().threads());
  const std::vector<float> keys = random_floats(static_cast<size_t>(tokens * c.d));
  const std::vector<float> q = random_floats(static_cast<size_t>(c.nq * c.d));
  std::vector<std::vector<float>> scores(threads, std::vector<float>(static_cast<size_t>(c.nq * c.n), 0.5f));
  std::vector<std::vector<float>> out(threads, std::vector<float>(static_cast<size_t>(c.nq * c.d)));
  const int repeats = static_cast<int>(std::max<int64_t>(1, 256 / c.nq));
  const double flops = 2.0 * static_cast<double>(c.nq * tokens * c.d) * repeats * static_cast<double>(threads);
  const std::string shape = " nq " + std::to_string(c.nq) + ", n " + std::to_string(c.n) + ", d " + std::to_string(c.d);
  const Kernels& kernels = bench.kernels();
  const auto over_pages = [&](const std::function<void(size_t, const float*)>& page) {
    bench.on_all_threads([&](int t) {
      for (int r = 0; r < repeats; ++r) {
        for (int64_t j = 0; j < tokens; j += c.n) page(static_cast<size_t>(t), keys.data() + j * c.d);
      }
    });
  };
  if (bench.wanted("dot_rows" + shape)) {
    bench.measure("dot_rows" + shape, "GFLOP/s", flops, peak, "peak", [&] {
      over_pages([&](size_t t, const float* page) {
        kernels.dot_rows(q.data(), c.d, c.nq, page, c.d, c.n, c.d, 0.1f, scores[t].data(), c.n);
      });
    });
  }
  if (bench.wanted("axpy_rows" + shape)) {
    bench.measure("axpy_rows" + shape, "GFLOP/s", flops, peak, "peak", [&] {
      over_pages([&](size_t t, const float* page) {
        kernels.axpy_rows(scores[t].data(), c.n, c.nq, page, c.d, c.n, c.d, out[t].data(), c.d);
      });
    });
  }
}

// Metadata of 32K tokens in pages of 16 with 32 heads of 128: 64 MiB, more than the caches of most machines.
void bench_page_scores(Bench& bench, int64_t nq, double bandwidth) {
  const std::string name = "page_scores 2048 pages x 32 heads, nq " + std::to_string(nq);
  if (!bench.wanted(name)) return;
  const int64_t heads = 32, pages = 2048, d = 128;
  const std::vector<float> meta = random_floats(static_cast<size_t>(heads * pages * 2 * d));
  const std::vector<float> q = random_floats(static_cast<size_t>(nq * d));
  std::vector<float> out(static_cast<size_t>(heads * nq * pages));
  bench.measure(name, "GB/s", static_cast<double>(meta.size() * sizeof(float)), bandwidth, "bandwidth", [&] {
    bench.pool().parallel_for(heads, [&](int64_t h, int) {
      bench.kernels().page_scores(q.data(), d, nq, meta.data() + h * pages * 2 * d, 2 * d, pages, d,
                                  out.data() + h * nq * pages, pages);
    });
  });
}

void bench_exp(Bench& bench, int64_t n) {
  const std::string name = "exp_span n " + std::to_string(n);
  if (!bench.wanted(name)) return;
  const int64_t rows = std::max<int64_t>(1, 16384 / n);
  std::vector<std::vector<float>> s(static_cast<size_t>(bench.pool().threads()), random_floats(static_cast<size_t>(rows * n)));
  bench.measure(name, "Gelem/s", 16.0 * static_cast<double>(rows * n) * bench.pool().threads(), 0, "", [&] {
    bench.on_all_threads([&](int t) {
      float max;
      for (int r = 0; r < 16; ++r) {
        for (int64_t i = 0; i < rows; ++i) bench.kernels().exp_span(s[static_cast<size_t>(t)].data() + i * n, n, &max);
      }
    });
  });
}

void bench_hand_off(Bench& bench) {
  if (!bench.wanted("parallel_for")) return;
  bench.measure("parallel_for, empty, one iteration a thread", "calls/us", 1000 * 1e3, 0, "", [&] {
    for (int i = 0; i < 1000; ++i) bench.on_all_threads([](int) {});
  });
}

void print_json(const Bench& bench, int threads) {
  std::printf("{\n  \"simd\": \"%s\",\n  \"threads\": %d,\n  \"results\": [\n", bench.kernels().name, threads);
  for (size_t i = 0; i < bench.results().size(); ++i) {
    const Result& r = bench.results()[i];
    std::printf("    {\"name\": \"%s\", \"unit\": \"%s\", \"median\": %.4g, \"best\": %.4g, \"noise_pct\": %.4g", r.name.c_str(),
                r.unit, r.median, r.best, r.noise_pct);
    if (r.percent >= 0) std::printf(", \"percent\": %.1f, \"percent_of\": \"%s\"", r.percent, r.percent_of);
    std::printf("}%s\n", i + 1 < bench.results().size() ? "," : "");
  }
  std::printf("  ]\n}\n");
}

int run(const Options& options) {
  Bench bench(options);
  if (!options.json) {
    std::printf("simd %s, %d threads; median rate, its noise and the best of the repetitions\n\n", bench.kernels().name,
                bench.pool().threads());
  }
  const double bandwidth = bench_bandwidth(bench);
  const double peak = bench_peak(bench);
  bench_decode(bench, bandwidth);
  bench_gemm(bench, peak, 512, 4096, 4096);
  bench_gemm(bench, peak, 256, 768, 256);  // quest-tiny's size
  for (const AttentionCase& c : kAttentionCases) {
    if (c.timed) bench_attention(bench, c, peak);
  }
  bench_page_scores(bench, 1, bandwidth);
  bench_page_scores(bench, 4, bandwidth);
  bench_exp(bench, 16);
  bench_exp(bench, 128);
  bench_exp(bench, 4096);
  bench_hand_off(bench);
  if (options.json) print_json(bench, bench.pool().threads());
  return 0;
}

}  // namespace
}  // namespace quest::cpu

int main(int argc, char** argv) {
  quest::cpu::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (arg == "--json") {
      options.json = true;
    } else if (arg == "--threads" && value != nullptr) {
      options.threads = std::atoi(argv[++i]);
    } else if (arg == "--seconds" && value != nullptr) {
      options.seconds = std::atof(argv[++i]);
    } else if (arg == "--only" && value != nullptr) {
      options.only = argv[++i];
    } else {
      std::fprintf(stderr, "usage: quest_bench_cpu [--json] [--threads N] [--seconds S] [--only TEXT]\n");
      return 2;
    }
  }
  try {
    return quest::cpu::run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quest_bench_cpu: %s\n", error.what());
    return 3;
  }
}
