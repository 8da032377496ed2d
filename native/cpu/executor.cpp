// The CPU executor: checks what it is asked, cuts it into passes, and keeps the caches.
#include "cpu/executor.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "core/requests.h"
#include "cpu/forward.h"

namespace quest {

namespace cpu {

namespace {

class CpuExecutor final : public Executor {
 public:
  CpuExecutor(const ModelSpec& spec, int threads)
      : spec_(spec), weights_(Weights::map(spec_)), pool_(threads), forward_(spec_, weights_, active_kernels(), pool_) {}

  const ModelSpec& spec() const override { return spec_; }

  ExecutorInfo info() const override {
    const int64_t per_token = spec_.n_layers * spec_.n_kv_heads * 2 * spec_.head_dim * static_cast<int64_t>(sizeof(float));
    return {"cpu", pool_.threads(), active_kernels().name, forward_.weight_bytes(), per_token, per_token, ""};
  }

  std::shared_ptr<Branch> create(int page_size) override {
    check_page_size(page_size);
    std::lock_guard lock(caches_mutex_);
    auto& cache = caches_[page_size];
    if (!cache) cache = std::make_shared<Cache>(spec_, page_size);
    return std::make_shared<CpuBranch>(cache);
  }

  std::shared_ptr<Branch> fork(const Branch& parent, const MethodOptions& options) override {
    // Forking is instant and called from the event loop, so it must not wait for a running job.
    std::unique_lock lock(running_, std::try_to_lock);
    if (!lock) throw Error("E_BUSY", "this model is running a job; wait for it before forking");
    const auto& from = static_cast<const CpuBranch&>(parent);
    check_fork(from, options, !from.kept.empty());
    if (options.method == Method::h2o && options.h2o_prefill && from.kept.empty()) check_collected(from, summed(from));
    auto branch = std::make_shared<CpuBranch>(from);
    branch->method = options;
    branch->counters = {};
    return branch;
  }

  void prefill(Branch& branch, std::span<const int32_t> ids, bool h2o_prefill, const JobControl& job) override {
    std::lock_guard lock(running_);
    auto& b = static_cast<CpuBranch&>(branch);
    check_append(spec_, b, ids);
    if (!b.kept.empty()) throw Error("E_PREFILL", "this branch has dropped tokens; a dense prefill cannot follow");
    if (h2o_prefill) begin_column_sums(b);
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
    int64_t total = 0;
    for (const FeedRequest& r : requests) {
      check_append(spec_, *r.branch, r.ids);
      total += static_cast<int64_t>(r.ids.size());
    }
    check_feed(spec_, requests);
    for (FeedRequest& r : requests) size_outputs(spec_, r);
    // Branches whose steps depend on positions alone run whole chunks at a time; the others one step each, side by side.
    std::vector<Cursor> parallel, stepwise;
    for (FeedRequest& r : requests) {
      if (r.ids.empty()) continue;
      const bool evicts = method_info(r.branch->method.method).kind == MethodKind::evictor;
      (evicts ? stepwise : parallel).push_back({&r, 0});
    }
    int64_t done = 0;
    const auto run = [&](std::vector<Work>& works, int64_t rows) {
      forward_.run(works, job);
      done += rows;
      job.report(done, total);
    };
    const auto make = [&](const Cursor& c, int64_t rows) { return next_work<Work, CpuBranch>(spec_, c, rows); };
    run_passes<Work>(parallel, kMaxRows, kMaxRows, make, run);
    run_passes<Work>(stepwise, 1, kMaxRows, make, run);
    for (FeedRequest& r : requests) {
      if (r.logits == Logits::last && !r.ids.empty()) r.logits_out = static_cast<CpuBranch*>(r.branch)->last_logits;
    }
  }

  std::vector<std::vector<int32_t>> generate(std::span<Branch* const> branches, const GenerateOptions& options,
                                             const std::function<void(int64_t, int32_t)>& on_token,
                                             const JobControl& job) override {
    std::lock_guard lock(running_);
    std::vector<std::vector<int32_t>> out(branches.size());
    std::vector<Sampler> samplers(branches.size(), Sampler(options.sampling));
    std::vector<size_t> live;
    for (size_t i = 0; i < branches.size(); ++i) {
      const auto& b = static_cast<CpuBranch&>(*branches[i]);
      check_usable(b);
      if (b.last_logits.empty()) throw Error("E_GENERATE", "there is nothing to continue: feed or prefill a token first");
      check_room(spec_, b, std::max<int64_t>(0, options.max_tokens - 1));
      live.push_back(i);
    }
    for (int64_t step = 0; step < options.max_tokens && !live.empty(); ++step) {
      std::vector<size_t> next;
      for (size_t i : live) {
        const int32_t id = samplers[i].next(static_cast<CpuBranch&>(*branches[i]).last_logits);
        if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) continue;
        out[i].push_back(id);
        on_token(static_cast<int64_t>(i), id);
        next.push_back(i);
      }
      live = std::move(next);
      if (step + 1 == options.max_tokens) break;
      for (size_t begin = 0; begin < live.size(); begin += static_cast<size_t>(kMaxRows)) {
        std::vector<Work> works;
        for (size_t j = begin; j < std::min(live.size(), begin + static_cast<size_t>(kMaxRows)); ++j) {
          Work w;
          w.branch = static_cast<CpuBranch*>(branches[live[j]]);
          w.ids = std::span(&out[live[j]].back(), 1);
          w.keep_last = true;
          works.push_back(w);
        }
        forward_.run(works, job);
      }
      job.report(step + 1, options.max_tokens);
    }
    return out;
  }

 private:
  // Tokens whose attention has been collected.
  static int64_t summed(const CpuBranch& b) { return b.column_sums ? static_cast<int64_t>(b.column_sums->front().size()) : 0; }

  void begin_column_sums(CpuBranch& b) const {
    check_collecting(b, summed(b));
    if (!b.column_sums) {
      b.column_sums = std::make_shared<std::vector<std::vector<float>>>(static_cast<size_t>(spec_.n_layers * spec_.n_kv_heads));
    } else if (b.column_sums.use_count() > 1) {
      b.column_sums = std::make_shared<std::vector<std::vector<float>>>(*b.column_sums);
    }
  }

  const ModelSpec spec_;
  const Weights weights_;
  ThreadPool pool_;
  Forward forward_;
  std::mutex running_;  // one job at a time
  std::mutex caches_mutex_;
  std::map<int, std::shared_ptr<Cache>> caches_;
};

}  // namespace

std::unique_ptr<Executor> make_cpu_executor(const ModelSpec& spec, int threads) {
  return std::make_unique<CpuExecutor>(spec, threads);
}

}  // namespace cpu

}  // namespace quest
