#include "cuda/memory_plan.h"

#include <algorithm>

#include "core/requests.h"
#include "cuda/device_weights.h"
#include "cuda/executor.h"
#include "cuda/forward.h"
#include "cuda/kernels.h"

namespace quest::cuda {

namespace {

constexpr double kReservedShare = 0.08;
constexpr int64_t kReservedBytes = int64_t{640} << 20;
constexpr int64_t kHalfBytes = 2;

}  // namespace

WorkspaceSizes workspace_sizes(const ModelSpec& spec) {
  const auto rows = static_cast<size_t>(kMaxRows);
  const auto hidden = static_cast<size_t>(spec.hidden), ffn = static_cast<size_t>(spec.ffn), vocab = static_cast<size_t>(spec.vocab);
  const auto d = static_cast<size_t>(spec.head_dim), heads = static_cast<size_t>(spec.n_heads), kv_heads = static_cast<size_t>(spec.n_kv_heads);
  WorkspaceSizes w{};
  w.x = w.xn = rows * hidden;
  w.qkv = rows * (heads + 2 * kv_heads) * d;
  w.attn = rows * heads * d;
  w.gate_up = rows * 2 * ffn;
  w.act = rows * ffn;
  // The largest matrix of a layer.
  if (spec.has_int4()) w.unpacked = hidden * std::max(2 * ffn, (heads + 2 * kv_heads) * d);
  w.logits = static_cast<size_t>(kLogitRows) * vocab;
  w.nll = w.next_ids = rows;
  w.targets = 2 * rows;  // gathered rows, then their targets
  w.partials = size_t{kDecodePartials} * heads * (d + 2);
  w.arrivals = static_cast<size_t>(kMaxDecodeRows) * heads;
  return w;
}

size_t WorkspaceSizes::bytes() const {
  const size_t halves = xn + qkv + attn + gate_up + act + unpacked, words = x + logits + nll + next_ids + targets + partials + arrivals;
  return 2 * halves + 4 * words;
}

int64_t kv_page_bytes(const ModelSpec& spec, int page_size) {
  return spec.n_layers * spec.n_kv_heads * 2 * page_size * spec.head_dim * kHalfBytes;
}

int64_t metadata_page_bytes(const ModelSpec& spec) { return spec.n_layers * spec.n_kv_heads * 2 * spec.head_dim * kHalfBytes; }

int64_t reserved_bytes(int64_t free_bytes) {
  return std::max(kReservedBytes, static_cast<int64_t>(static_cast<double>(free_bytes) * kReservedShare));
}

int64_t pages_that_fit(const ModelSpec& spec, int page_size, int64_t free_bytes, int64_t most_tokens) {
  const int64_t page_bytes = kv_page_bytes(spec, page_size) + metadata_page_bytes(spec);
  const int64_t fit = std::max<int64_t>(0, free_bytes - reserved_bytes(free_bytes)) / page_bytes;
  return std::min(fit, (most_tokens + page_size - 1) / page_size);
}

GpuMemoryPlan plan_memory(const ModelSpec& spec, int page_size, int64_t free_bytes) {
  check_page_size(page_size);
  const std::string missing = not_covered(spec);
  if (!missing.empty()) throw Error("E_UNSUPPORTED", "the GPU kernels do not cover this model: " + missing, "use --device cpu");
  GpuMemoryPlan p;
  p.weight_bytes = DeviceWeights::bytes_of(spec);
  p.workspace_bytes = static_cast<int64_t>(workspace_sizes(spec).bytes());
  p.kv_page_bytes = kv_page_bytes(spec, page_size);
  p.metadata_page_bytes = metadata_page_bytes(spec);
  const int64_t left = std::max<int64_t>(0, free_bytes - p.weight_bytes - p.workspace_bytes);
  p.reserved_bytes = reserved_bytes(left);
  p.pages = pages_that_fit(spec, page_size, left, kPoolContexts * spec.max_context);
  return p;
}

}  // namespace quest::cuda
