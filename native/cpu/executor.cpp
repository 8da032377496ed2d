// The CPU executor: checks what it is asked, cuts it into passes, and keeps the caches.
#include "cpu/executor.h"

#include <algorithm>
#include <map>
#include <mutex>

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
    return {"cpu", pool_.threads(), active_kernels().name, weights_.bytes(), per_token, per_token};
  }

  std::shared_ptr<Branch> create(int page_size) override {
    if (page_size < 1 || page_size > 128 || (page_size & (page_size - 1)) != 0) {
      throw Error("E_PAGE_SIZE", "page_size is " + std::to_string(page_size) + ", wanted a power of two from 1 to 128");
    }
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
    check_usable(from);
    validate_method(options, from.pages.page_size());
    if (!from.kept.empty() && !(options == from.method)) {
      throw Error("E_FORK", std::string("this branch has already dropped tokens by ") + method_info(from.method.method).name +
                                " and cannot be read by another method",
                  "fork the sequence that was prefilled");
    }
    if (options.method == Method::h2o && options.h2o_prefill && from.kept.empty()) check_column_sums(from);
    auto branch = std::make_shared<CpuBranch>(from);
    branch->method = options;
    branch->counters = {};
    return branch;
  }

  void prefill(Branch& branch, std::span<const int32_t> ids, bool h2o_prefill, const JobControl& job) override {
    std::lock_guard lock(running_);
    auto& b = static_cast<CpuBranch&>(branch);
    check_append(b, ids);
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
    for (size_t i = 0; i < requests.size(); ++i) {
      FeedRequest& r = requests[i];
      auto& b = static_cast<CpuBranch&>(*r.branch);
      for (size_t j = 0; j < i; ++j) {
        if (requests[j].branch == r.branch) throw Error("E_FEED", "a branch is fed twice in one call");
      }
      check_append(b, r.ids);
      if (!r.targets.empty() && r.targets.size() != r.ids.size()) {
        throw Error("E_FEED", std::to_string(r.targets.size()) + " targets for " + std::to_string(r.ids.size()) + " ids");
      }
      check_ids(r.targets);
      prepare_outputs(r);
      total += static_cast<int64_t>(r.ids.size());
    }
    // Branches whose steps depend on positions alone run whole chunks at a time; the others one step each, side by side.
    std::vector<Cursor> parallel, stepwise;
    for (FeedRequest& r : requests) {
      if (r.ids.empty()) continue;
      const bool evicts = method_info(r.branch->method.method).kind == MethodKind::evictor;
      (evicts ? stepwise : parallel).push_back({&r, 0});
    }
    int64_t done = 0;
    run_passes(parallel, kMaxRows, done, total, job);
    run_passes(stepwise, 1, done, total, job);
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
      check_room(b, std::max<int64_t>(0, options.max_tokens - 1));
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
  struct Cursor {
    FeedRequest* request;
    int64_t done;
  };

  void check_ids(std::span<const int32_t> ids) const {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= spec_.vocab) {
        throw Error("E_TOKEN_ID", "token id " + std::to_string(ids[i]) + " at index " + std::to_string(i) +
                                      " is outside the vocabulary of " + std::to_string(spec_.vocab));
      }
    }
  }

  static void check_usable(const CpuBranch& b) {
    if (b.broken) throw Error("E_BROKEN", "an earlier step of this branch was interrupted; its cache holds half a step");
  }

  void check_room(const CpuBranch& b, int64_t n) const {
    if (b.length() + n > spec_.max_context) {
      throw Error("E_CONTEXT", std::to_string(b.length() + n) + " tokens are more than the model's context of " +
                                   std::to_string(spec_.max_context));
    }
  }

  void check_append(const CpuBranch& b, std::span<const int32_t> ids) const {
    check_usable(b);
    check_ids(ids);
    check_room(b, static_cast<int64_t>(ids.size()));
  }

  void check_column_sums(const CpuBranch& b) const {
    for (const auto& sums : b.column_sums ? *b.column_sums : std::vector<std::vector<float>>(1)) {
      if (static_cast<int64_t>(sums.size()) != b.length() || !b.column_sums) {
        throw Error("E_H2O_PREFILL", "h2o_prefill needs the attention of the whole prefill, which was not collected",
                    "prefill with h2o_prefill");
      }
    }
  }

  void begin_column_sums(CpuBranch& b) const {
    if (!b.column_sums) {
      if (b.length() > 0) throw Error("E_H2O_PREFILL", "h2o_prefill must be on from the first token");
      b.column_sums = std::make_shared<std::vector<std::vector<float>>>(static_cast<size_t>(spec_.n_layers * spec_.n_kv_heads));
    } else if (b.column_sums.use_count() > 1) {
      b.column_sums = std::make_shared<std::vector<std::vector<float>>>(*b.column_sums);
    }
  }

  void prepare_outputs(FeedRequest& r) const {
    const auto n = static_cast<int64_t>(r.ids.size());
    r.logits_out.assign(static_cast<size_t>(r.logits == Logits::all ? n * spec_.vocab : 0), 0.0f);
    r.nll_out.assign(r.targets.size(), 0.0f);
    r.pages_out.clear();
    r.recall_out.assign(static_cast<size_t>(r.recall_top > 0 ? n * spec_.n_layers : 0), 0.0f);
    if (!r.pages) return;
    const MethodOptions& o = r.branch->method;
    if (o.only_layer >= 0) throw Error("E_FEED", "pages are traced of methods that act in every layer, not of one with only_layer");
    if (method_info(o.method).kind != MethodKind::selector) {
      throw Error("E_FEED", std::string(method_info(o.method).name) + " selects no pages to trace");
    }
    const int64_t page_size = r.branch->pages.page_size();
    // Dense steps (n <= budget) can hold one page more than the budget has whole pages.
    r.pages_width = std::max(selected_pages(o, static_cast<int>(page_size)), (o.budget_tokens + page_size - 1) / page_size);
    if (selects_tokens(o)) r.pages_width = std::min(o.budget_tokens, (r.branch->length() + n + page_size - 1) / page_size);
    const int64_t layers = std::max<int64_t>(0, spec_.n_layers - o.skip_layers);
    r.pages_out.assign(static_cast<size_t>(n * layers * spec_.n_heads * r.pages_width), -1);
  }

  Work work_of(const Cursor& c, int64_t rows) const {
    FeedRequest& r = *c.request;
    const auto at = static_cast<size_t>(c.done), n = static_cast<size_t>(rows);
    Work w;
    w.branch = static_cast<CpuBranch*>(r.branch);
    w.ids = r.ids.subspan(at, n);
    w.keep_last = at + n == r.ids.size();
    if (r.logits == Logits::all) w.logits = r.logits_out.data() + c.done * spec_.vocab;
    if (!r.targets.empty()) {
      w.targets = r.targets.subspan(at, n);
      w.nll = r.nll_out.data() + c.done;
    }
    if (r.pages) {
      const int64_t layers = std::max<int64_t>(0, spec_.n_layers - r.branch->method.skip_layers);
      w.trace = r.pages_out.data() + c.done * layers * spec_.n_heads * r.pages_width;
      w.trace_width = r.pages_width;
    }
    if (r.recall_top > 0) {
      w.recall_top = r.recall_top;
      w.recall = r.recall_out.data() + c.done * spec_.n_layers;
    }
    return w;
  }

  // Advances all cursors together, at most rows_each rows of one branch and kMaxRows of all in a pass.
  void run_passes(std::vector<Cursor>& cursors, int64_t rows_each, int64_t& done, int64_t total, const JobControl& job) {
    for (;;) {
      std::vector<Work> works;
      int64_t rows = 0;
      for (Cursor& c : cursors) {
        const int64_t left = static_cast<int64_t>(c.request->ids.size()) - c.done;
        const int64_t n = std::min({left, rows_each, kMaxRows - rows});
        if (n == 0) continue;
        works.push_back(work_of(c, n));
        c.done += n;
        rows += n;
      }
      if (rows == 0) break;
      forward_.run(works, job);
      done += rows;
      job.report(done, total);
    }
    for (Cursor& c : cursors) {
      if (c.request->logits == Logits::last) c.request->logits_out = static_cast<CpuBranch*>(c.request->branch)->last_logits;
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
