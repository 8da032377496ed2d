// The CUDA executor: checks what it is asked, cuts it into passes, and keeps the pools.
#include "cuda/executor.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "core/requests.h"
#include "cuda/forward.h"
#include "cuda/generation.h"
#include "cuda/memory_plan.h"

namespace quest::cuda {

namespace {

constexpr int64_t kFeedRows = 512;       // rows of a feeding pass

// A stream of our own on one GPU; the first member, so that the device is chosen before anything is allocated.
struct Stream {
  int device;
  cudaStream_t stream = nullptr;
  explicit Stream(int index) : device(index) {
    check(cudaSetDevice(index), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Stream() {
    cudaSetDevice(device);
    cudaStreamDestroy(stream);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  void use() const { check(cudaSetDevice(device), "cudaSetDevice"); }
};

class CudaExecutor final : public Executor {
 public:
  CudaExecutor(const ModelSpec& spec, int index)
      : spec_(spec), stream_(index), weights_(load(spec_, stream_.stream)), forward_(spec_, weights_, stream_.stream) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    name_ = properties.name;
    device_ = "cuda:" + std::to_string(index);
  }

  const ModelSpec& spec() const override { return spec_; }

  ExecutorInfo info() const override {
    const int64_t per_token = spec_.n_layers * spec_.n_kv_heads * 2 * spec_.head_dim * 2;
    const auto apart = [](const char* what, const std::string& why) { return why.empty() ? "" : std::string(", ") + what + " one by one (" + why + ")"; };
    return {device_, 0, "", weights_.bytes(), per_token, per_token,
            name_ + ", " + forward_.matrix_library() + apart("4-bit products", forward_.unchained()) + apart("Quest's kernels", forward_.unfused())};
  }

  std::shared_ptr<Branch> create(int page_size) override {
    check_page_size(page_size);
    // Called from the event loop, so it must not wait for a running job; only a pool that is not there yet needs the GPU.
    std::lock_guard guard(pools_mutex_);
    const auto found = pools_.find(page_size);
    if (found != pools_.end()) return std::make_shared<CudaBranch>(found->second);
    std::unique_lock lock(running_, std::try_to_lock);
    if (!lock) throw Error("E_BUSY", "this model is running a job; wait for it before the first sequence of another page size");
    stream_.use();
    // Pools of other page sizes that nobody uses give their memory back first.
    std::erase_if(pools_, [](const auto& p) { return p.second.use_count() == 1; });
    forward_.forget_graphs();
    auto pool = std::make_shared<KvPool>(spec_, page_size, kPoolContexts * spec_.max_context);
    pools_[page_size] = pool;
    return std::make_shared<CudaBranch>(std::move(pool));
  }

  std::shared_ptr<Branch> fork(const Branch& parent, const MethodOptions& options) override {
    std::unique_lock lock(running_, std::try_to_lock);
    if (!lock) throw Error("E_BUSY", "this model is running a job; wait for it before forking");
    stream_.use();
    const auto& from = static_cast<const CudaBranch&>(parent);
    check_fork(from, options, from.kept > 0);
    if (options.method == Method::h2o && options.h2o_prefill && from.kept == 0) check_collected(from, from.summed);
    auto branch = std::make_shared<CudaBranch>(from);
    branch->method = options;
    branch->counters = {};
    return branch;
  }

  void prefill(Branch& branch, std::span<const int32_t> ids, bool h2o_prefill, const JobControl& job) override {
    std::lock_guard lock(running_);
    stream_.use();
    auto& b = static_cast<CudaBranch&>(branch);
    check_append(spec_, b, ids);
    if (!b.pool->has_room(b.pages.pages_to_extend(static_cast<int64_t>(ids.size())))) b.pool->refuse();
    if (b.kept > 0) throw Error("E_PREFILL", "this branch has dropped tokens; a dense prefill cannot follow");
    if (h2o_prefill) check_collecting(b, b.summed);
    const auto total = static_cast<int64_t>(ids.size());
    for (int64_t done = 0; done < total; done += kMaxRows) {
      const int64_t n = std::min(kMaxRows, total - done);
      Work w;
      w.branch = &b;
      w.ids = ids.subspan(static_cast<size_t>(done), static_cast<size_t>(n));
      w.prefill = true;
      w.column_sums = h2o_prefill;
      w.keep_last = done + n == total;
      forward_.run({&w, 1}, job);
      job.report(done + n, total);
    }
  }

  void feed(std::span<FeedRequest> requests, const JobControl& job) override {
    std::lock_guard lock(running_);
    stream_.use();
    int64_t total = 0;
    std::map<const KvPool*, std::vector<PageTable::Extension>> extensions;
    for (const FeedRequest& r : requests) {
      const auto& b = static_cast<CudaBranch&>(*r.branch);
      check_append(spec_, b, r.ids);
      const auto rows = static_cast<int64_t>(r.ids.size());
      total += rows;
      extensions[b.pool.get()].push_back({&b.pages, rows});
    }
    for (const auto& [pool, all] : extensions) {
      if (!pool->has_room(PageTable::pages_to_extend(all))) pool->refuse();
    }
    check_feed(spec_, requests);
    for (const FeedRequest& r : requests) {
      if (!r.replay.empty()) throw Error("E_UNSUPPORTED", "page lists are replayed on the CPU only");
    }
    for (FeedRequest& r : requests) size_outputs(spec_, r);
    // One pass reads one pool; branches whose steps depend on positions alone run whole chunks, the others one step each.
    std::map<std::pair<const KvPool*, bool>, std::vector<Cursor>> cursors;
    for (FeedRequest& r : requests) {
      if (r.ids.empty()) continue;
      const bool evicts = method_info(r.branch->method.method).kind == MethodKind::evictor;
      cursors[{static_cast<CudaBranch*>(r.branch)->pool.get(), evicts}].push_back({&r, 0});
    }
    int64_t done = 0;
    const auto run = [&](std::vector<Work>& works, int64_t rows) {
      forward_.run(works, job);
      done += rows;
      job.report(done, total);
    };
    const auto make = [&](const Cursor& c, int64_t rows) { return next_work<Work, CudaBranch>(spec_, c, rows); };
    for (auto& [key, list] : cursors) run_passes<Work>(list, key.second ? 1 : kFeedRows, kFeedRows, make, run);
    for (FeedRequest& r : requests) {
      if (r.logits == Logits::last && !r.ids.empty()) r.logits_out = static_cast<CudaBranch*>(r.branch)->last_logits;
    }
  }

  std::vector<std::vector<int32_t>> generate(std::span<Branch* const> branches, const GenerateOptions& options,
                                             const std::function<void(int64_t, int32_t)>& on_token,
                                             const JobControl& job) override {
    std::lock_guard lock(running_);
    stream_.use();
    std::vector<CudaBranch*> own;
    for (Branch* b : branches) {
      own.push_back(static_cast<CudaBranch*>(b));
      check_usable(*b);
      if (own.back()->last_logits.empty()) throw Error("E_GENERATE", "there is nothing to continue: feed or prefill a token first");
      quest::check_room(spec_, *b, std::max<int64_t>(0, options.max_tokens - 1));
    }
    return cuda::generate(forward_, own, options, on_token, job);
  }

 private:
  static DeviceWeights load(const ModelSpec& spec, cudaStream_t stream) {
    const std::string why = not_covered(spec);
    if (!why.empty()) {
      throw Error("E_UNSUPPORTED", "the GPU kernels do not cover this model: " + why,
                  "they cover head_dim 32, 64, 96, 128; up to 8 query heads per KV head; widths that are multiples of 8: use --device cpu");
    }
    if (spec.random_weights == "fp16") return DeviceWeights(spec, Half::fp16, stream);
    if (spec.random_weights == "int4") return DeviceWeights(spec, Half::fp16, stream, 128);
    return DeviceWeights(spec, Weights::map(spec), stream);
  }

  const ModelSpec spec_;
  Stream stream_;
  DeviceWeights weights_;
  Forward forward_;
  std::mutex running_;  // one job at a time
  std::mutex pools_mutex_;
  std::map<int, std::shared_ptr<KvPool>> pools_;
  std::string name_, device_;
};

}  // namespace

std::string not_covered(const ModelSpec& spec) {
  if (spec.head_dim != 32 && spec.head_dim != 64 && spec.head_dim != 96 && spec.head_dim != 128) return "head_dim is " + std::to_string(spec.head_dim);
  if (spec.group() > 8) return std::to_string(spec.group()) + " query heads share a KV head";
  if (spec.hidden % 8 != 0) return "hidden is " + std::to_string(spec.hidden);
  if (spec.ffn % 8 != 0) return "ffn is " + std::to_string(spec.ffn);
  if (spec.max_context > (1 << 27)) return "max_context is " + std::to_string(spec.max_context);
  return "";
}

std::unique_ptr<Executor> make_cuda_executor(const ModelSpec& spec, int index) {
  return std::make_unique<CudaExecutor>(spec, index);
}

}  // namespace quest::cuda
