// One pass of tokens through the network on the GPU, for any mix of branches: prefill chunks, decode steps, parallel scoring.
//
// run() decides on the host which rows are read how (pass.h), sends that plan to the device in one copy, and enqueues the
// kernels. A pass of single decode rows is captured as a CUDA graph the first time its shape is seen and replayed after
// that: lengths, page tables, page lists and budgets are device data, so the graph does not change from token to token.
#pragma once

#include <deque>
#include <span>
#include <string>
#include <vector>

#include "core/executor.h"
#include "cuda/blas.h"
#include "cuda/branch.h"
#include "cuda/device_weights.h"
#include "cuda/int4.h"
#include "cuda/neighbours.h"
#include "cuda/pass.h"
#include "cuda/step_graphs.h"

namespace quest::cuda {

constexpr int64_t kMaxRows = 2048;       // rows of one pass
constexpr int64_t kMaxDecodeRows = 512;  // of them read one by one (sparse, or single steps)
constexpr int64_t kLogitRows = 64;       // logits of this many rows are in memory at a time
constexpr int kSlots = 2;                // steps under way at a time
constexpr int64_t kStepRows = kLogitRows / kSlots;

// Decode steps of several branches at once, one row each.
struct Step {
  std::vector<Work> works;
  std::vector<int32_t> ids;  // sent: the tokens appended, if the host knows them; received: the greedy next tokens
  std::vector<Counters> before;
  Pass pass;
};

class Forward {
 public:
  Forward(const ModelSpec& spec, const DeviceWeights& weights, cudaStream_t stream);
  ~Forward();
  Forward(const Forward&) = delete;
  Forward& operator=(const Forward&) = delete;

  // Appends every work's ids to its branch. Branches must differ and share a page size; at most kMaxRows rows in all; evictors
  // one row each. When it throws, the branches of the pass are left broken.
  void run(std::span<Work> works, const JobControl& job);

  // Sends a step of at most kStepRows branches to the GPU and does not wait for it: appends ids[i] to branches[i], or without
  // ids what the step before, of the same branches and still under way, chooses. At most kSlots steps are under way.
  void send(std::span<CudaBranch* const> branches, std::span<const int32_t> ids);
  size_t under_way() const { return sent_.size(); }
  // Waits for the oldest step.
  Step receive();
  // Logits of a row of the received step, until kSlots more are sent.
  void fetch_logits(const Step& step, size_t row, std::vector<float>& out);
  // Undoes a row of the received step, whose token nobody wanted after all: only of a step without ids, the last one sent.
  void take_back(const Step& step, size_t row);
  // After an error: waits for what is under way and leaves its branches broken.
  void abandon();

  // Before a pool is freed: captured graphs hold its addresses.
  void forget_graphs() { step_graphs_.clear(); }

  const char* matrix_library() const { return blas_.name(); }
  // Why the 4-bit products of one row do not run in chains; empty where they do, and without such weights.
  const std::string& unchained() const { return unchained_; }
  // Why Quest's steps are not fused although the GPU could; else empty.
  const std::string& unfused() const { return neighbour_.unfused(); }

 private:
  void append(Pass& pass);
  AppendParams append_params(const Pass& pass, int64_t layer) const;
  void enqueue_layers(Pass& pass, const JobControl* job);
  void enqueue_attention(Pass& pass, const LayerPlan& plan, int64_t layer);
  void enqueue_rows(Pass& pass, const RowGroup& group, int64_t layer);
  void examine_rows(Pass& pass, const RowGroup& group, int64_t layer, int64_t begin, int64_t count, int64_t list_stride);
  // A projection out = in weight^T, with what is fused around it.
  struct Product {
    int64_t rows;
    const float* norm;           // [k] of the norm of the input, or null
    const void* in;              // [rows, k] half; with a norm the residual stream, fp32
    const DeviceMatrix* weight;  // [n, k]
    void* out;                   // [rows, n], see Epilogue
    int64_t n, k;
    Epilogue epilogue;
  };
  std::string chain_refusal(int major) const;
  GemvParams gemv_of(const Product& p) const;
  Int4GemvParams int4_gemv_of(const Product& p) const;
  // Products of one row after each other, in one kernel where they allow it. False: nothing was enqueued.
  bool chain(std::span<const Product> products);
  void project(const Product& p);
  void enqueue_step(Pass& pass);
  void launch_pass(Pass& pass, bool greedy, const JobControl* job);
  Pass begin(std::span<Work> works, int slot, bool fed);
  void settle(const Pass& pass);
  void collect(Pass& pass);
  void logits(Pass& pass);
  void synchronize(const char* what);
  Launch launch_here() const { return {stream_, overlap_}; }

  const ModelSpec& spec_;
  const DeviceWeights& weights_;
  cudaStream_t stream_;
  Blas blas_;
  int sms_ = 1;
  int64_t max_columns_ = 0;
  bool overlap_ = false;
  Neighbour neighbour_;  // whether products of single rows run in one kernel, and Quest's steps
  std::string unchained_;
  bool graphs_ = true;

  // [kMaxRows, ...]: residual stream fp32; half: its norm, projections, rotated sink queries, attention output, feed-forward.
  Buffer<float> x_;
  Buffer<uint16_t> unpacked_;  // a 4-bit matrix in fp16, for a product of many rows
  Buffer<uint16_t> xn_, qkv_, q_sinks_, attn_, gate_up_, act_;
  Buffer<float> logits_;  // [kLogitRows, vocab]
  Buffer<float> nll_;
  Buffer<int32_t> next_ids_, targets_;

  // Scratch of the decode rows.
  Buffer<float> scores_, partials_, kept_logits_, kept_norms_, kept_totals_, shares_, column_norms_;
  Buffer<int32_t> lists_, open_selected_, tops_;
  Buffer<unsigned> arrivals_;
  Buffer<uint32_t> board_;  // see sparse_board_words
  Buffer<unsigned> barrier_;  // of chains

  // What passes between the host and one pass on the GPU. The next pass has the other slot: its plan is written while this
  // one runs. Passes that are waited for use the first.
  struct Slot {
    Pinned<unsigned char> plan;
    Pinned<int32_t> tables, next_ids, open_selected;
    cudaEvent_t done = nullptr;
  };
  Slot slots_[kSlots];
  std::deque<Step> sent_;
  Buffer<unsigned char> plan_device_;
  Pinned<int32_t> wanted_host_;  // [2, kMaxRows]: rows wanted by logits(); their targets
  Pinned<float> logits_host_;
  Pinned<int32_t> lists_host_;
  Pinned<float> shares_host_;

  StepGraphs step_graphs_;
};

}  // namespace quest::cuda
