// What a backend does: load a model, keep caches, run tokens. native/cpu and native/cuda each implement it once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/counters.h"
#include "core/job.h"
#include "core/methods.h"
#include "core/model_spec.h"
#include "core/paged_cache.h"
#include "core/sampler.h"

namespace quest {

// One sequence: its pages (shared with its forks) and the method that reads them. Executors derive from it.
class Branch {
 public:
  virtual ~Branch() = default;

  PageTable pages;
  MethodOptions method;
  Counters counters;
  // Set while tokens are being appended and left set when that failed: the cache then holds half a step.
  bool broken = false;

  int64_t length() const { return pages.length(); }

 protected:
  explicit Branch(PageTable p) : pages(std::move(p)) {}
};

enum class Logits : uint8_t { none, last, all };

// Tokens fed to one branch as decode steps, and what to bring back.
struct FeedRequest {
  Branch* branch = nullptr;
  std::span<const int32_t> ids;
  Logits logits = Logits::none;
  std::span<const int32_t> targets;  // [ids] or empty: next tokens whose negative log-likelihood is wanted
  bool pages = false;                // trace the pages attended (selectors)
  // Selectors of pages on the CPU: pages another executor attended (its pages_out, replay_width wide), attended here in place of
  // the best ones. Tells an error of arithmetic from a choice between two nearly equal scores.
  std::span<const int32_t> replay;
  int64_t replay_width = 0;
  int64_t recall_top = 0;            // above 0: measure how many of this many highest-attention tokens are attended

  std::vector<float> logits_out;    // [rows, vocab]
  std::vector<float> nll_out;       // [ids] nats
  std::vector<int32_t> pages_out;   // [steps * sparse layers, n_heads, pages_width], -1 where fewer were attended
  int64_t pages_width = 0;
  // [steps * sparse layers, n_heads], with replay: by how much the best page left out outscored the worst one chosen, as a
  // share of the largest score's magnitude; 0 where the choice was the best, or everything was attended.
  std::vector<float> replay_gap_out;
  // [ids, n_layers]: share of the recall_top tokens with the highest true logits (over the whole cache, ties to the lower
  // index, fewer while the cache is shorter) that the step attended, mean over query heads; 1 where the layer is dense.
  std::vector<float> recall_out;
};

struct GenerateOptions {
  int64_t max_tokens = 0;
  std::vector<int32_t> stop_ids;
  Sampling sampling;
};

struct ExecutorInfo {
  std::string device;
  int threads = 0;
  std::string simd;      // of the CPU; empty on a GPU
  int64_t weight_bytes = 0;
  int64_t kv_bytes_per_token = 0;       // all layers, K and V
  int64_t metadata_bytes_per_page = 0;  // all layers, minima and maxima
  std::string gpu;                      // its name and matrix library; empty on the CPU
};

class Executor {
 public:
  virtual ~Executor() = default;

  virtual const ModelSpec& spec() const = 0;
  virtual ExecutorInfo info() const = 0;

  virtual std::shared_ptr<Branch> create(int page_size) = 0;

  // A branch that shares the parent's pages and reads them by `options`; counters start at 0. An evictor that has dropped
  // tokens can only be forked into the same method with the same options.
  virtual std::shared_ptr<Branch> fork(const Branch& parent, const MethodOptions& options) = 0;

  // Appends ids densely; keeps the last token's logits for generate.
  virtual void prefill(Branch& branch, std::span<const int32_t> ids, bool h2o_prefill, const JobControl& job) = 0;

  // Appends ids as decode steps through each branch's method: in parallel where that equals one step after another, and in
  // lockstep over the branches where it does not. Keeps each branch's last logits for generate.
  virtual void feed(std::span<FeedRequest> requests, const JobControl& job) = 0;

  // Lockstep generation from each branch's last logits until a stop id (not returned) or max_tokens. The last token returned
  // is not in the cache yet. on_token(branch index, id) is called from the working thread.
  virtual std::vector<std::vector<int32_t>> generate(std::span<Branch* const> branches, const GenerateOptions& options,
                                                     const std::function<void(int64_t, int32_t)>& on_token,
                                                     const JobControl& job) = 0;
};

// `device` as in choose_device (core/devices.h). threads 0 means all cores.
std::unique_ptr<Executor> make_executor(const ModelSpec& spec, const std::string& device, int threads);

}  // namespace quest
