// Kernel timing on the CPU, over the functions that the executor calls. A layer's copies are layers of one cache.
#include "cpu/bench.h"

#include <algorithm>
#include <chrono>
#include <tuple>

#include "cpu/attention.h"
#include "cpu/linear.h"
#include "cpu/page_lists.h"

namespace quest::cpu {

namespace {

constexpr double kColdBytes = 128e6;  // more than the last-level cache of most machines, once around the copies
constexpr int64_t kMostCopies = 8;
constexpr size_t kReadWords = size_t{1} << 27;  // 1 GiB
constexpr int64_t kPrefillRows = 512;

volatile uint64_t g_sink;

uint64_t sum_words(const uint64_t* words, size_t count) {
  uint64_t sums[16] = {};
  for (size_t i = 0; i + 16 <= count; i += 16) {
    for (size_t l = 0; l < 16; ++l) sums[l] += words[i + l];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

void randomize(float* out, int64_t n, uint32_t state) {
  for (int64_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    out[i] = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
}

struct LayerData {
  ModelSpec spec;
  std::shared_ptr<Cache> cache;
  std::shared_ptr<CpuBranch> branch;
  std::vector<float> q, out;
};

class CpuBench final : public KernelBench {
 public:
  explicit CpuBench(int threads) : pool_(threads), kernels_(active_kernels()) {}

  ExecutorInfo info() const override { return {"cpu", pool_.threads(), kernels_.name, 0, 0, 0, ""}; }
  std::vector<std::string> kernels() const override { return {"dense", "estimate", "topk", "attention", "sparse", "prefill", "norm", "gemv", "gemm"}; }

  double read_bandwidth(const JobControl& job) override {
    layer_ = {};
    const std::vector<uint64_t> words(kReadWords, 1);
    const auto threads = static_cast<size_t>(pool_.threads());
    const size_t part = words.size() / threads / 64 * 64;
    const KernelTime t = timed({}, job, [&](int64_t) {
      pool_.parallel_for(pool_.threads(), [&](int64_t i, int) { g_sink = sum_words(words.data() + static_cast<size_t>(i) * part, part); });
    });
    return static_cast<double>(part * threads * sizeof(uint64_t)) / t.median_us * 1e6;
  }

  KernelTime time(const KernelCase& c, const TimingRules& rules, const JobControl& job) override {
    check_case(c, kernels());
    if (c.kernel == "gemv" || c.kernel == "gemm" || c.kernel == "norm") return time_rows(c, rules, job);
    LayerData& l = layer(c);
    const AttentionShape shape{l.spec.n_layers, c.n_heads, c.n_kv_heads, c.head_dim};
    const int64_t d = c.head_dim, n = c.context_tokens, pages = (n + c.page_size - 1) / c.page_size, k = std::max<int64_t>(1, c.budget_tokens / c.page_size);
    const double token = 2.0 * sizeof(float) * static_cast<double>(d * c.n_kv_heads);
    const double metadata = token * static_cast<double>(pages), kept = token * static_cast<double>(k * c.page_size);
    const bool sparse = c.kernel == "estimate" || c.kernel == "topk" || c.kernel == "attention" || c.kernel == "sparse";
    if (sparse && k >= pages) throw Error("E_BENCH", "budget_tokens is " + std::to_string(c.budget_tokens) + " of " + std::to_string(n) + ": nothing is sparse");
    l.branch->method = {};
    if (sparse) {
      l.branch->method.method = Method::quest;
      l.branch->method.budget_tokens = c.budget_tokens;
      l.branch->method.skip_layers = 0;
    }
    std::vector<Segment> segment(1);
    Segment& s = segment[0];
    s.branch = l.branch.get();
    s.rows = 1;
    s.base = n - 1;
    KernelTime t;
    if (c.kernel == "dense" || c.kernel == "attention") {
      // Attention over the budget alone: a dense step over as many tokens, which reads the same bytes the same way.
      l.branch->method = {};
      if (sparse) s.base = k * c.page_size - 1;
      t = timed(rules, job, [&](int64_t i) { step(l, shape, segment, i); });
      t.bytes = sparse ? kept : token * static_cast<double>(n);
    } else if (c.kernel == "sparse") {
      t = timed(rules, job, [&](int64_t i) { step(l, shape, segment, i); });
      t.bytes = metadata + kept;
    } else if (c.kernel == "prefill") {
      s.rows = std::min(kPrefillRows, n);
      s.base = n - s.rows;
      s.prefill = true;
      l.q.resize(static_cast<size_t>(s.rows * c.n_heads * d));
      l.out.resize(l.q.size());
      randomize(l.q.data(), static_cast<int64_t>(l.q.size()), 3);
      t = timed(rules, job, [&](int64_t i) { step(l, shape, segment, i); });
      t.flops = 4.0 * static_cast<double>(c.n_heads * d * s.rows) * (static_cast<double>(s.base) + static_cast<double>(s.rows + 1) / 2);
    } else {
      t = time_selection(c, rules, job, l, shape, s);
      t.bytes = c.kernel == "estimate" ? metadata : sizeof(float) * static_cast<double>(c.n_kv_heads * pages);
    }
    return t;
  }

 private:
  static double microseconds(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }

  KernelTime timed(const TimingRules& rules, const JobControl& job, const std::function<void(int64_t)>& once) {
    int64_t i = 0;
    return repeat_until_steady(rules, job, [&] { return microseconds([&] { once(i++); }); });
  }

  void step(LayerData& l, const AttentionShape& shape, std::vector<Segment>& segment, int64_t i) {
    segment[0].sparse.assign(static_cast<size_t>(segment[0].rows), 0);
    attend(pool_, kernels_, shape, i % l.spec.n_layers, segment, l.q.data(), nullptr, l.out.data());
  }

  // Scores of all pages, or the lists from them.
  KernelTime time_selection(const KernelCase& c, const TimingRules& rules, const JobControl& job, LayerData& l, const AttentionShape& shape, Segment& s) {
    const int64_t g = shape.group();
    std::vector<ListItem> items;
    for (int64_t h = 0; h < c.n_kv_heads; ++h) {
      items.push_back({&s, 0, c.context_tokens, h * g, g, h, {}, 0, {}, {}});
      items.back().scored_pages = pages_to_score(items.back());
      items.back().page_scores.resize(static_cast<size_t>(score_slots(items.back())));
    }
    const auto score = [&](int64_t layer) {
      pool_.parallel_for(c.n_kv_heads, [&](int64_t h, int) {
        ListItem& item = items[static_cast<size_t>(h)];
        score_pages(kernels_, layer, c.head_dim, item, l.q.data() + item.head0 * c.head_dim, 0, item.scored_pages);
      });
    };
    if (c.kernel == "estimate") return timed(rules, job, [&](int64_t i) { score(i % l.spec.n_layers); });
    score(0);
    return repeat_until_steady(rules, job, [&] {
      std::vector<ListItem> fresh = items;  // listing merges the heads' scores in place
      return microseconds([&] { pool_.parallel_for(c.n_kv_heads, [&](int64_t h, int) { list_keys(shape, 0, fresh[static_cast<size_t>(h)]); }); });
    });
  }

  LayerData& layer(const KernelCase& c) {
    const auto key = std::tuple(c.n_heads, c.n_kv_heads, c.head_dim, c.context_tokens, c.page_size);
    if (!layer_ || key != layer_key_) {
      layer_ = {};
      auto l = std::make_unique<LayerData>();
      ModelSpec& spec = l->spec;
      const double metadata = 2.0 * sizeof(float) * static_cast<double>(c.head_dim * c.n_kv_heads) * static_cast<double>(c.context_tokens) / static_cast<double>(c.page_size);
      spec.n_layers = std::clamp<int64_t>(static_cast<int64_t>(kColdBytes / metadata), 1, kMostCopies);
      spec.n_heads = c.n_heads;
      spec.n_kv_heads = c.n_kv_heads;
      spec.head_dim = c.head_dim;
      l->cache = std::make_shared<Cache>(spec, static_cast<int>(c.page_size));
      l->branch = std::make_shared<CpuBranch>(l->cache);
      l->branch->pages.extend(c.context_tokens);
      const auto& pages = l->branch->pages.pages();
      const int64_t d = c.head_dim;
      pool_.parallel_for(static_cast<int64_t>(pages.size()), [&](int64_t p, int) {
        KvStore& store = l->cache->store;
        for (int64_t layer = 0; layer < spec.n_layers; ++layer) {
          for (int64_t h = 0; h < c.n_kv_heads; ++h) {
            const auto seed = static_cast<uint32_t>((p * 131 + layer) * 131 + h);
            randomize(store.keys(layer, pages[static_cast<size_t>(p)], h), 2 * store.value_offset(), seed);
            float* m = store.metadata(layer, h, pages[static_cast<size_t>(p)]);
            randomize(m, 2 * d, seed + 7);
            for (int64_t i = 0; i < d; ++i) {
              if (m[i] > m[d + i]) std::swap(m[i], m[d + i]);
            }
          }
        }
      });
      layer_ = std::move(l);
      layer_key_ = key;
    }
    layer_->q.resize(static_cast<size_t>(c.n_heads * c.head_dim));
    layer_->out.resize(layer_->q.size());
    randomize(layer_->q.data(), static_cast<int64_t>(layer_->q.size()), 3);
    return *layer_;
  }

  KernelTime time_rows(const KernelCase& c, const TimingRules& rules, const JobControl& job) {
    if (c.n == 0 || c.k == 0) throw Error("E_BENCH", c.kernel + " needs n and k");
    layer_ = {};
    std::vector<float> x(static_cast<size_t>(c.rows * c.k)), y(static_cast<size_t>(c.rows * std::max(c.n, c.k)));
    randomize(x.data(), static_cast<int64_t>(x.size()), 1);
    KernelTime t;
    if (c.kernel == "norm") {
      const std::vector<float> weight(static_cast<size_t>(c.k), 1.0f);
      t = timed(rules, job, [&](int64_t) {
        for (int64_t r = 0; r < c.rows; ++r) kernels_.rmsnorm(x.data() + r * c.k, weight.data(), DType::fp32, c.k, 1e-5f, y.data() + r * c.k);
      });
      t.bytes = 8.0 * static_cast<double>(c.rows * c.k);
      return t;
    }
    const int64_t copies = std::clamp<int64_t>(static_cast<int64_t>(kColdBytes / (2.0 * static_cast<double>(c.n * c.k))) + 1, 1, kMostCopies);
    std::vector<uint16_t> weight(static_cast<size_t>(copies * c.n * c.k));
    uint32_t state = 12345;
    for (uint16_t& h : weight) {
      state = state * 1664525u + 1013904223u;
      h = static_cast<uint16_t>((state >> 16 & 0x83ff) | 0x2000);  // a random sign and mantissa with the exponent of 2^-7
    }
    t = timed(rules, job, [&](int64_t i) {
      linear(pool_, kernels_, x.data(), c.k, c.rows, {{{weight.data() + i % copies * c.n * c.k, DType::fp16, c.n, c.k}, y.data(), c.n}}, false);
    });
    t.bytes = 2.0 * static_cast<double>(c.n * c.k) + 4.0 * static_cast<double>(c.rows * (c.k + c.n));
    t.flops = 2.0 * static_cast<double>(c.rows) * static_cast<double>(c.n * c.k);
    return t;
  }

  ThreadPool pool_;
  const Kernels& kernels_;
  std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> layer_key_;
  std::unique_ptr<LayerData> layer_;
};

}  // namespace

std::unique_ptr<KernelBench> make_kernel_bench(int threads) { return std::make_unique<CpuBench>(threads); }

}  // namespace quest::cpu
