// Kernel timing on a GPU: each case is captured as a CUDA graph that runs it over several copies of its data in turn, so that
// nothing of one copy is left in L2 from the last time; a graph's time by events, divided by the copies.
#include "cuda/bench.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>
#include <tuple>

#include "cuda/blas.h"
#include "cuda/executor.h"
#include "cuda/kernels.h"

namespace quest::cuda {

namespace {

constexpr double kColdBytes = 200e6;  // what is read once around the copies: four times the largest L2
constexpr int kMostCopies = 24;
constexpr int64_t kReadBytes = int64_t{2} << 30;
constexpr int64_t kPrefillRows = 2048;  // rows of a prefill chunk

struct Event {
  cudaEvent_t event = nullptr;
  Event() { check(cudaEventCreate(&event), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

struct Captured {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  Captured(cudaStream_t stream, const std::function<void()>& work) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  }
  ~Captured() {
    if (exec) cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
};

// One layer's cache in several copies, its queries and the scratch of a decode step.
struct LayerData {
  int64_t context, page;
  DecodeShape shape;
  int copies, splits;
  int64_t pages, kv_elements, metadata_elements;
  Buffer<uint16_t> kv, metadata, q, out;
  Buffer<int32_t> table, lists;
  Buffer<float> scores, partials;
  Buffer<unsigned> arrivals;
  Buffer<uint32_t> board;
  Buffer<DecodeRow> rows;  // dense, sparse
};

class CudaBench final : public KernelBench {
 public:
  explicit CudaBench(int index) : index_(index) {
    check(cudaSetDevice(index), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    sms_ = properties.multiProcessorCount;
    name_ = properties.name;
    const char* off = std::getenv("QUEST_CUDA_OVERLAP");
    overlap_ = properties.major >= 9 && !(off && off[0] == '0');
    const char* unfused = std::getenv("QUEST_CUDA_FUSED");
    fuses_ = properties.major >= 9 && sparse_fuses() && !(unfused && unfused[0] == '0');
  }
  ~CudaBench() override {
    cudaSetDevice(index_);
    layer_ = {};
    cudaStreamDestroy(stream_);
  }

  ExecutorInfo info() const override { return {"cuda:" + std::to_string(index_), 0, "", 0, 0, 0, name_ + ", " + blas_.name()}; }

  std::vector<std::string> kernels() const override {
    return {"dense", "estimate", "topk", "attention", "sparse", "prefill", "append", "norm", "gemv", "gemm"};
  }

  double read_bandwidth(const JobControl& job) override {
    check(cudaSetDevice(index_), "cudaSetDevice");
    layer_ = {};
    Buffer<uint16_t> data(static_cast<size_t>(kReadBytes / 2));
    Buffer<uint32_t> sink(1);
    fill(data.get(), kReadBytes / 2, 1, 1);
    const KernelTime t = time_graph(stream_, 1, {}, job, [&] { read_all({data.get(), kReadBytes, sink.get(), sms_}, here()); });
    return static_cast<double>(kReadBytes) / t.median_us * 1e6;
  }

  KernelTime time(const KernelCase& c, const TimingRules& rules, const JobControl& job) override {
    check(cudaSetDevice(index_), "cudaSetDevice");
    check_case(c, kernels());
    if (c.kernel == "gemv" || c.kernel == "gemm" || c.kernel == "norm") return time_rows(c, rules, job);
    ModelSpec shape;
    shape.n_heads = c.n_heads;
    shape.n_kv_heads = c.n_kv_heads;
    shape.head_dim = c.head_dim;
    shape.hidden = shape.ffn = 8;
    if (const std::string missing = not_covered(shape); !missing.empty()) throw Error("E_BENCH", "the GPU kernels do not cover this case: " + missing);
    if (c.kernel == "append") return time_append(c, rules, job);
    if (c.kernel == "prefill") return time_prefill(c, rules, job);
    return time_decode(c, rules, job);
  }

 private:
  Launch here() const { return {stream_, overlap_}; }
  void fill(void* out, int64_t n, float scale, uint32_t seed) { fill_random({out, n, scale, 0, false, Half::fp16, seed}, here()); }
  template <class T>
  void upload(Buffer<T>& to, const std::vector<T>& from) {
    to.resize(from.size());
    check(cudaMemcpy(to.get(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }

  // The layer of a case, kept from the last case where it is the same.
  LayerData& layer(const KernelCase& c) {
    const auto key = std::tuple(c.n_heads, c.n_kv_heads, c.head_dim, c.context_tokens, c.page_size);
    if (layer_ && key == layer_key_) return *layer_;
    layer_ = {};
    layer_ = std::make_unique<LayerData>();
    layer_key_ = key;
    LayerData& l = *layer_;
    l.context = c.context_tokens;
    l.page = c.page_size;
    l.pages = (c.context_tokens + c.page_size - 1) / c.page_size;
    int shift = 0;
    while ((int64_t{1} << shift) < c.page_size) ++shift;
    const auto heads = static_cast<int>(c.n_heads), kv_heads = static_cast<int>(c.n_kv_heads), d = static_cast<int>(c.head_dim);
    l.shape = {5, heads, kv_heads, d, shift, kv_heads, Half::fp16};
    l.kv_elements = l.pages * kv_heads * 2 * c.page_size * d;
    l.metadata_elements = l.pages * kv_heads * 2 * d;
    // The smallest read of a copy is its metadata.
    const double smallest = 2.0 * static_cast<double>(l.metadata_elements);
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    const double copy_bytes = 2.0 * static_cast<double>(l.kv_elements + l.metadata_elements);
    const int fit = static_cast<int>(0.9 * static_cast<double>(free) / copy_bytes);
    if (fit < 1) {
      throw Error("E_GPU_MEMORY", "one layer of this case takes " + std::to_string(static_cast<int64_t>(copy_bytes) >> 20) + " MiB, and " +
                                      std::to_string(free >> 20) + " MiB of the GPU are free", "use a shorter context");
    }
    l.copies = std::min(std::clamp(static_cast<int>(kColdBytes / smallest) + 1, 2, kMostCopies), fit);
    const auto many = [](int64_t n) { return static_cast<size_t>(n); };
    l.kv.resize(many(l.kv_elements * l.copies));
    l.metadata.resize(many(l.metadata_elements * l.copies));
    fill(l.kv.get(), l.kv_elements * l.copies, 1, 1);
    fill(l.metadata.get(), l.metadata_elements * l.copies, 1, 2);
    l.q.resize(many(c.n_heads * c.head_dim));
    l.out.resize(many(c.n_heads * c.head_dim));
    fill(l.q.get(), c.n_heads * c.head_dim, 1, 3);
    std::vector<int32_t> table(many(l.pages));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(7));
    upload(l.table, table);
    l.scores.resize(many(c.n_kv_heads * l.pages));
    l.lists.resize(many(c.n_kv_heads * l.pages));
    l.partials.resize(many(c.n_heads) * kDecodePartials * many(c.head_dim + 2));
    l.arrivals.resize(many(c.n_heads));
    check(cudaMemset(l.arrivals.get(), 0, l.arrivals.size() * sizeof(unsigned)), "arrivals");
    l.splits = decode_splits(l.shape, 1, sms_);
    return l;
  }

  void set_rows(LayerData& l, int64_t budget_pages) {
    DecodeRow dense{};
    dense.table = l.table.get();
    dense.n = static_cast<int32_t>(l.context);
    dense.reading = Reading::dense;
    DecodeRow sparse = dense;
    sparse.reading = Reading::selector;
    sparse.list_pages = static_cast<int32_t>(budget_pages);
    upload(l.rows, {dense, sparse});
  }

  void score(LayerData& l, int copy) {
    estimate({l.rows.get() + 1, 1, l.shape, l.q.get(), l.shape.n_heads * l.shape.head_dim, l.metadata.get() + copy * l.metadata_elements, l.kv.get(), l.pages,
              l.scores.get(), l.pages, estimate_blocks(l.shape, 1, l.pages, sms_)},
             here());
  }
  void select(LayerData& l, int64_t k) {
    top_k({l.rows.get() + 1, 1, l.shape, l.scores.get(), l.pages, l.pages, l.lists.get(), static_cast<int32_t>(k), nullptr}, here());
  }
  void attend(LayerData& l, int row, int copy, int64_t k) {
    decode_attention({l.rows.get() + row, 1, l.shape, l.q.get(), l.shape.n_heads * l.shape.head_dim, nullptr, l.kv.get() + copy * l.kv_elements, l.lists.get(),
                      static_cast<int32_t>(k), l.out.get(), false, l.splits, l.partials.get(), l.arrivals.get(), nullptr, 0, nullptr},
                     here());
  }
  // The whole of a sparse step's attention, as the executor runs it.
  void chain(LayerData& l, int copy, int64_t k) {
    const SparsePlan fused = fuses_ ? sparse_plan(l.shape, 1, l.pages, k, sms_) : SparsePlan{};
    if (const auto words = static_cast<size_t>(fused.blocks > 0 ? sparse_board_words(l.shape, 1, l.pages, fused) : 0); words > l.board.size()) {
      l.board.resize(words);
      check(cudaMemsetAsync(l.board.get(), 0xff, words * sizeof(uint32_t), stream_), "memset");
    }
    sparse_attention({{l.rows.get() + 1, 1, l.shape, l.q.get(), l.shape.n_heads * l.shape.head_dim, nullptr, l.kv.get() + copy * l.kv_elements, l.lists.get(),
                       static_cast<int32_t>(k), l.out.get(), false, l.splits, l.partials.get(), l.arrivals.get(), nullptr, 0, nullptr},
                      l.metadata.get() + copy * l.metadata_elements, l.pages, l.pages, fused, l.board.get(), true, false, l.scores.get(), l.pages,
                      estimate_blocks(l.shape, 1, l.pages, sms_), l.lists.get(), nullptr},
                     here());
  }

  KernelTime time_decode(const KernelCase& c, const TimingRules& rules, const JobControl& job) {
    LayerData& l = layer(c);
    const bool sparse = c.kernel != "dense";
    const int64_t k = std::max<int64_t>(1, c.budget_tokens / c.page_size);
    if (sparse && (k >= l.pages)) throw Error("E_BENCH", "budget_tokens is " + std::to_string(c.budget_tokens) + " of " + std::to_string(c.context_tokens) + ": nothing is sparse");
    set_rows(l, k);
    score(l, 0);
    select(l, k);
    const auto over_copies = [&](auto&& once) {
      return time_graph(stream_, l.copies, rules, job, [&] {
        for (int copy = 0; copy < l.copies; ++copy) once(copy);
      });
    };
    const double token = 2.0 * 2 * static_cast<double>(c.head_dim * c.n_kv_heads);  // bytes of keys and values, or of a page's metadata
    const double metadata = token * static_cast<double>(l.pages), kept = token * static_cast<double>(k * c.page_size);
    KernelTime t;
    if (c.kernel == "dense") {
      t = over_copies([&](int copy) { attend(l, 0, copy, 1); });
      t.bytes = token * static_cast<double>(c.context_tokens);
    } else if (c.kernel == "estimate") {
      t = over_copies([&](int copy) { score(l, copy); });
      t.bytes = metadata;
    } else if (c.kernel == "topk") {
      t = over_copies([&](int) { select(l, k); });
      t.bytes = 4.0 * static_cast<double>(c.n_kv_heads * l.pages);
    } else if (c.kernel == "attention") {
      t = over_copies([&](int copy) { attend(l, 1, copy, k); });
      t.bytes = kept;
    } else {
      t = over_copies([&](int copy) { chain(l, copy, k); });
      t.bytes = metadata + kept;
    }
    return t;
  }

  KernelTime time_prefill(const KernelCase& c, const TimingRules& rules, const JobControl& job) {
    LayerData& l = layer(c);
    const int64_t rows = std::min(kPrefillRows, c.context_tokens), base = c.context_tokens - rows, width = c.n_heads * c.head_dim;
    Buffer<uint16_t> q(static_cast<size_t>(rows * width)), out(static_cast<size_t>(rows * width));
    fill(q.get(), rows * width, 1, 4);
    KernelTime t = time_graph(stream_, 1, rules, job, [&] {
      PrefillParams p{};
      p.q = q.get();
      p.q_stride = width;
      p.kv = l.kv.get();
      p.table = l.table.get();
      p.out = out.get();
      p.rows = static_cast<int>(rows);
      p.base = static_cast<int>(base);
      p.n_heads = l.shape.n_heads;
      p.n_kv_heads = l.shape.n_kv_heads;
      p.head_dim = l.shape.head_dim;
      p.page_size = static_cast<int>(c.page_size);
      p.pages = l.pages;
      p.type = Half::fp16;
      prefill_attention(p, here());
    });
    t.flops = 4.0 * static_cast<double>(width) * static_cast<double>(rows) * (static_cast<double>(base) + static_cast<double>(rows + 1) / 2);
    return t;
  }

  // One decode step's rotation and append, at the end of the cache.
  KernelTime time_append(const KernelCase& c, const TimingRules& rules, const JobControl& job) {
    LayerData& l = layer(c);
    const int64_t width = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim;
    Buffer<uint16_t> qkv(static_cast<size_t>(width * l.copies));
    fill(qkv.get(), width * l.copies, 1, 5);
    Buffer<float> frequencies(static_cast<size_t>(c.head_dim / 2));
    fill_random({frequencies.get(), c.head_dim / 2, 0.1f, 0.5f, true, Half::fp16, 6}, here());
    Buffer<AppendTask> tasks;
    upload(tasks, {AppendTask{0, 1, static_cast<int32_t>(c.context_tokens - 1), static_cast<int32_t>(l.pages - 1), -1}});
    KernelTime t = time_graph(stream_, l.copies, rules, job, [&] {
      for (int copy = 0; copy < l.copies; ++copy) {
        AppendParams p{};
        p.tasks = tasks.get();
        p.n_tasks = 1;
        p.qkv = qkv.get() + copy * width;
        p.kv = l.kv.get() + copy * l.kv_elements;
        p.metadata = l.metadata.get() + copy * l.metadata_elements;
        p.inv_freq = frequencies.get();
        p.attention_factor = 1.0f;
        p.n_heads = l.shape.n_heads;
        p.n_kv_heads = l.shape.n_kv_heads;
        p.head_dim = l.shape.head_dim;
        p.page_size = static_cast<int>(c.page_size);
        p.pages = l.pages;
        p.type = Half::fp16;
        rope_append(p, here());
      }
    });
    // Reads the new row and the page's metadata, writes the queries, the keys and values, the metadata.
    t.bytes = 2.0 * static_cast<double>(width * 2 + 4 * c.n_kv_heads * c.head_dim);
    return t;
  }

  KernelTime time_rows(const KernelCase& c, const TimingRules& rules, const JobControl& job) {
    if (c.n == 0 || c.k == 0) throw Error("E_BENCH", c.kernel + " needs n and k");
    layer_ = {};
    const auto rows = static_cast<int>(c.rows), n = static_cast<int>(c.n), k = static_cast<int>(c.k);
    const auto size = [](int64_t a, int64_t b) { return static_cast<size_t>(a * b); };
    const bool product = c.kernel != "norm";
    const double weight_bytes = product ? 2.0 * static_cast<double>(c.n * c.k) : 0;
    const int copies = c.kernel == "gemm" ? 1 : std::clamp(static_cast<int>(kColdBytes / (weight_bytes + 6.0 * static_cast<double>(c.rows * c.k))) + 1, 2, kMostCopies);
    Buffer<uint16_t> in(size(c.rows, c.k)), weight(product ? size(c.n, c.k) * static_cast<size_t>(copies) : 0), out(size(c.rows, std::max(c.n, c.k)));
    Buffer<float> x(product ? 0 : size(c.rows, c.k) * static_cast<size_t>(copies)), norm(size(1, c.k));
    fill(in.get(), c.rows * c.k, 1, 1);
    if (product) fill(weight.get(), static_cast<int64_t>(weight.size()), 0.02f, 2);
    if (!product) fill_random({x.get(), static_cast<int64_t>(x.size()), 1, 0, true, Half::fp16, 3}, here());
    fill_random({norm.get(), c.k, 0, 1, true, Half::fp16, 4}, here());
    if (c.kernel == "gemv" && c.rows > kGemvRows) throw Error("E_BENCH", "gemv takes up to " + std::to_string(kGemvRows) + " rows, got " + std::to_string(c.rows));
    KernelTime t = time_graph(stream_, copies, rules, job, [&] {
      for (int copy = 0; copy < copies; ++copy) {
        const uint16_t* w = weight.get() + copy * c.n * c.k;
        if (c.kernel == "gemv") {
          gemv({in.get(), nullptr, norm.get(), 1e-5f, w, out.get(), rows, n, k, Epilogue::half, Half::fp16, sms_}, here());
        } else if (c.kernel == "gemm") {
          blas_.product({in.get(), w, out.get(), rows, n, k, Epilogue::half, Half::fp16}, here());
        } else {
          rmsnorm({x.get() + copy * c.rows * c.k, nullptr, norm.get(), out.get(), rows, k, 1e-5f, Half::fp16}, here());
        }
      }
    });
    t.bytes = product ? weight_bytes + 2.0 * static_cast<double>(c.rows * (c.k + c.n)) : 6.0 * static_cast<double>(c.rows * c.k);
    t.flops = product ? 2.0 * static_cast<double>(c.rows) * static_cast<double>(c.n * c.k) : 0;
    return t;
  }

  int index_;
  cudaStream_t stream_ = nullptr;
  int sms_ = 1;
  bool overlap_ = false, fuses_ = false;
  std::string name_;
  Blas blas_;
  std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> layer_key_;
  std::unique_ptr<LayerData> layer_;
};

}  // namespace

KernelTime time_graph(cudaStream_t stream, int units, const TimingRules& rules, const JobControl& job, const std::function<void()>& work) {
  work();
  check(cudaStreamSynchronize(stream), "warm-up");
  const Captured captured(stream, work);
  const Event begin, end;
  return repeat_until_steady(rules, job, [&] {
    check(cudaEventRecord(begin.event, stream), "event");
    check(cudaGraphLaunch(captured.exec, stream), "graph");
    check(cudaEventRecord(end.event, stream), "event");
    check(cudaEventSynchronize(end.event), "graph");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin.event, end.event), "event");
    return ms * 1000.0 / units;
  });
}

std::unique_ptr<KernelBench> make_kernel_bench(int index) {
  const std::string why = unavailable(index);
  if (!why.empty()) throw Error("E_DEVICE", "cuda:" + std::to_string(index) + " cannot be used: " + why, "use --device cpu");
  return std::make_unique<CudaBench>(index);
}

}  // namespace quest::cuda
