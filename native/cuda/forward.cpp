#include "cuda/forward.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "cuda/int4.h"
#include "cuda/memory_plan.h"

namespace quest::cuda {

namespace {

constexpr size_t kBoardWords = size_t{4} << 20;
constexpr size_t kScoreFloats = size_t{16} << 20;
constexpr size_t kListEntries = size_t{4} << 20;
constexpr size_t kMaxInputColumns = 95 * 1024;  // of a GEMV's input in shared memory, where the GPU has it
constexpr int kInt4Rows = 32;                // above that, unpacking a 4-bit matrix costs less than reading it every eight rows

// Strides that a captured graph keeps while a sequence grows: four steps to a power of two.
int64_t bucket(int64_t n) {
  int64_t b = 64;
  while (b < n) b *= 2;
  return b == 64 ? b : (n + b / 8 - 1) / (b / 8) * (b / 8);
}

bool flag(const char* name, bool otherwise) {
  const char* v = std::getenv(name);
  return v ? std::strcmp(v, "0") != 0 : otherwise;
}

bool is_evictor(const CudaBranch& b) { return method_info(b.method.method).kind == MethodKind::evictor; }

}  // namespace

Forward::Forward(const ModelSpec& spec, const DeviceWeights& weights, cudaStream_t stream)
    : spec_(spec), weights_(weights), stream_(stream) {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  max_columns_ = static_cast<int64_t>(std::min(kMaxInputColumns, (shared_limit() - 9 * 1024) / 2));
  check(cudaDeviceGetAttribute(&sms_, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  overlap_ = major >= 9 && flag("QUEST_CUDA_OVERLAP", true);
  graphs_ = flag("QUEST_CUDA_GRAPHS", true);
  const WorkspaceSizes sizes = workspace_sizes(spec);
  x_.resize(sizes.x);
  xn_.resize(sizes.xn);
  qkv_.resize(sizes.qkv);
  attn_.resize(sizes.attn);
  gate_up_.resize(sizes.gate_up);
  act_.resize(sizes.act);
  unpacked_.resize(sizes.unpacked);
  logits_.resize(sizes.logits);
  nll_.resize(sizes.nll);
  next_ids_.resize(sizes.next_ids);
  targets_.resize(sizes.targets);
  partials_.resize(sizes.partials);
  arrivals_.resize(sizes.arrivals);
  check(cudaMemsetAsync(arrivals_.get(), 0, arrivals_.size() * sizeof(unsigned), stream_), "memset");
  barrier_.resize(1);
  check(cudaMemsetAsync(barrier_.get(), 0, sizeof(unsigned), stream_), "memset");
  wanted_host_.resize(2 * static_cast<size_t>(kMaxRows));
  for (Slot& slot : slots_) {
    slot.next_ids.resize(static_cast<size_t>(kStepRows));
    check(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming), "cudaEventCreate");
  }
  const bool four_bits = std::any_of(weights_.layers.begin(), weights_.layers.end(), [](const DeviceLayer& l) { return l.o.group > 0; });
  if (four_bits) unchained_ = chain_refusal(major);
  neighbour_.move_in(device, four_bits && unchained_.empty(), major >= 9 && sparse_fuses() && flag("QUEST_CUDA_FUSED", true));
  if (unchained_.empty()) unchained_ = neighbour_.unchained();
}

// Why this GPU or the user allows no chains: they run only where all of their blocks are there at once.
std::string Forward::chain_refusal(int major) const {
  if (!flag("QUEST_CUDA_CHAINS", true)) return "QUEST_CUDA_CHAINS is 0";
  if (major < 9 || !sparse_fuses()) return "the GPU or this build lacks Hopper's code";  // as for the fused kernel
  return int4_chain_refusal(static_cast<int>(std::max({spec_.hidden, spec_.ffn, spec_.n_heads * spec_.head_dim})), sms_);
}

Forward::~Forward() {
  for (Slot& slot : slots_) cudaEventDestroy(slot.done);
}

void Forward::synchronize(const char* what) { check(cudaStreamSynchronize(stream_), what); }

// With a norm, `in` is the residual stream.
GemvParams Forward::gemv_of(const Product& p) const {
  return {p.norm ? nullptr : p.in, p.norm ? static_cast<const float*>(p.in) : nullptr, p.norm, spec_.norm_eps, p.weight->data, p.out,
          static_cast<int>(p.rows), static_cast<int>(p.n), static_cast<int>(p.k), p.epilogue, weights_.type, sms_};
}
Int4GemvParams Forward::int4_gemv_of(const Product& p) const {
  return {p.norm ? nullptr : p.in, p.norm ? static_cast<const float*>(p.in) : nullptr, p.norm, spec_.norm_eps, p.weight->data, p.weight->group,
          p.out, static_cast<int>(p.rows), static_cast<int>(p.n), static_cast<int>(p.k), p.epilogue, sms_};
}

bool Forward::chain(std::span<const Product> products) {
  if (!neighbour_.chains()) return false;
  Int4GemvChainParams p{};
  p.n = static_cast<int>(products.size());
  p.barrier = barrier_.get();
  for (size_t i = 0; i < products.size(); ++i) {
    const int64_t group = products[i].weight->group;
    if (products[i].rows != 1 || group == 0 || group != products[0].weight->group) return false;
    p.products[i] = int4_gemv_of(products[i]);
  }
  int4_gemv_chain(p, launch_here());
  return true;
}

void Forward::project(const Product& p) {
  const DeviceMatrix& weight = *p.weight;
  if (weight.group > 0 && p.rows <= kInt4Rows && p.k <= max_columns_) return int4_gemv(int4_gemv_of(p), launch_here());
  if (weight.group == 0 && p.rows <= kGemvRows && p.k <= max_columns_) return gemv(gemv_of(p), launch_here());
  const int rows = static_cast<int>(p.rows), n = static_cast<int>(p.n), k = static_cast<int>(p.k);
  const void* in = p.in;
  if (p.norm) {
    rmsnorm({static_cast<const float*>(in), nullptr, p.norm, xn_.get(), rows, k, spec_.norm_eps, weights_.type}, launch_here());
    in = xn_.get();
  }
  const bool silu = p.epilogue == Epilogue::silu_mul;
  const void* matrix = weight.data;
  if (weight.group > 0) {
    int4_unpack({weight.data, unpacked_.get(), n, k, weight.group, silu}, launch_here());
    matrix = unpacked_.get();
  }
  blas_.product({in, matrix, silu ? gate_up_.get() : p.out, rows, n, k, silu ? Epilogue::half : p.epilogue, weights_.type}, launch_here());
  if (silu) silu_mul({gate_up_.get(), p.out, p.rows, n / 2, weights_.type}, launch_here());
}

// Makes room in a branch's page table and lists, on the host and on the device. Entries of the table pass through `staging`,
// which is free again once the pass has run. Returns how many did.
static size_t prepare_branch(const ModelSpec& spec, const Work& w, int32_t* staging, cudaStream_t stream) {
  CudaBranch& b = *w.branch;
  const auto rows = static_cast<int64_t>(w.ids.size());
  const int64_t base = b.length(), size = b.pages.page_size();
  const auto copy = b.pages.extend(rows);  // all of it, or nothing has happened
  b.broken = true;
  if (copy) {
    b.pool->copy_page(*copy, stream);
    b.uploaded = std::min<int64_t>(b.uploaded, base / size);
  }
  const auto& pages = b.pages.pages();
  b.table.reserve(static_cast<size_t>((spec.max_context + size - 1) / size));
  const auto from = static_cast<size_t>(b.uploaded), count = pages.size() - from;
  if (count > 0) {
    std::memcpy(staging, pages.data() + from, count * sizeof(int32_t));
    check(cudaMemcpyAsync(b.table.get() + from, staging, count * sizeof(int32_t), cudaMemcpyHostToDevice, stream), "page table");
    b.uploaded = static_cast<int64_t>(pages.size());
  }
  if (w.column_sums) {
    const auto sums = static_cast<size_t>(spec.n_layers * spec.n_kv_heads * spec.max_context);
    if (!b.column_sums) {
      b.column_sums = std::make_shared<Buffer<float>>(sums);
    } else if (b.column_sums.use_count() > 1) {
      auto own = std::make_shared<Buffer<float>>(sums);
      check(cudaMemcpyAsync(own->get(), b.column_sums->get(), sums * sizeof(float), cudaMemcpyDeviceToDevice, stream), "column sums");
      check(cudaStreamSynchronize(stream), "column sums");  // the shared ones may be freed now
      b.column_sums = std::move(own);
    }
    b.summed += rows;
  }
  if (w.prefill || !is_evictor(b)) return count;
  b.first_step = b.kept == 0;
  if (b.first_step) {
    b.kept = base;
    const auto lists = static_cast<size_t>(spec.n_layers * kept_sets_per_layer(b.method.method, spec.n_kv_heads) * (b.method.budget_tokens + 1));
    b.kept_tokens.resize(lists);
    if (b.method.method == Method::h2o) {
      b.kept_scores.resize(lists);
      check(cudaMemsetAsync(b.kept_scores.get(), 0, lists * sizeof(float), stream), "memset");
    }
  }
  b.kept += rows;
  return count;
}

// What a step changes of an evictor's lists, set aside before it and put back after it. `kept` is what the step read but its
// own token: a list that was full then had dropped tokens, or was about to.
static void save_lists(CudaBranch& b, cudaStream_t stream) {
  const auto copy = [&](auto& to, const auto& from) {
    to.reserve(from.size());
    if (from.size() > 0) check(cudaMemcpyAsync(to.get(), from.get(), from.size() * sizeof(*from.get()), cudaMemcpyDeviceToDevice, stream), "kept tokens");
  };
  copy(b.saved_tokens, b.kept_tokens);
  copy(b.saved_scores, b.kept_scores);
}

static void restore_lists(CudaBranch& b, int64_t kept, cudaStream_t stream) {
  const auto copy = [&](auto& to, const auto& from) {
    if (to.size() > 0) check(cudaMemcpyAsync(to.get(), from.get(), to.size() * sizeof(*to.get()), cudaMemcpyDeviceToDevice, stream), "kept tokens");
  };
  copy(b.kept_tokens, b.saved_tokens);
  copy(b.kept_scores, b.saved_scores);
  b.kept = kept;
  b.dropped = kept < b.length();
}

// Sends the plan to the device. The host copy keeps its place, so that a captured graph sends each pass's own.
void Forward::append(Pass& pass) {
  check(cudaMemcpyAsync(plan_device_.get(), slots_[pass.slot].plan.get(), pass.bytes, cudaMemcpyHostToDevice, stream_), "plan");
  embed({pass.fed ? next_ids_.get() : reinterpret_cast<const int32_t*>(plan_device_.get() + pass.ids_at), weights_.embed, x_.get(), static_cast<int>(pass.n_rows),
         static_cast<int>(spec_.hidden), weights_.type},
        launch_here());
}

// Of all rows of the pass.
AppendParams Forward::append_params(const Pass& pass, int64_t layer) const {
  return {reinterpret_cast<const AppendTask*>(plan_device_.get() + pass.tasks_at), static_cast<int>(pass.tasks.size()), qkv_.get(), q_sinks_.get(),
          pass.pool->kv(layer), pass.pool->metadata(layer), weights_.inv_freq, spec_.rope_attention_factor,
          weights_.layers[static_cast<size_t>(layer)].qkv_bias, static_cast<int>(spec_.n_heads), static_cast<int>(spec_.n_kv_heads),
          static_cast<int>(spec_.head_dim), pass.page_size, pass.pool->capacity(), weights_.type};
}

void Forward::enqueue_rows(Pass& pass, const RowGroup& group, int64_t layer) {
  if (group.rows.empty()) return;
  const int64_t heads = spec_.n_heads, kv_heads = spec_.n_kv_heads, lists = group.own_lists ? heads : kv_heads;
  const int64_t d = spec_.head_dim, stride = (heads + 2 * kv_heads) * d;
  const bool by_tokens = group.scoring == Scoring::token_logits;
  const int64_t score_stride = bucket(by_tokens ? group.keys : group.pages), logit_stride = bucket(group.kept);
  const int64_t list_stride = std::max<int64_t>(1, group.list_pages);
  int shift = 0;
  while (1 << shift < pass.page_size) ++shift;
  const auto grow = [&](auto& buffer, int64_t least, size_t usual) {
    if (buffer.size() >= static_cast<size_t>(least)) return;
    forget_graphs();  // they hold the old address
    buffer.resize(std::max(usual, static_cast<size_t>(least)));
  };
  // Selectors by logits, and recall, look at every key of every query head.
  const int64_t top_scores = group.recall_top > 0 ? heads * bucket(group.keys) : 0, tops = heads * group.recall_top;
  if (group.selects) {
    grow(scores_, lists * score_stride, kScoreFloats);
    grow(lists_, lists * list_stride, kListEntries);
  }
  if (tops > 0) {
    grow(scores_, top_scores, kScoreFloats);
    grow(tops_, tops, kListEntries);
    grow(shares_, kMaxDecodeRows * heads, 0);
  }
  if (group.evicts) {
    grow(kept_logits_, heads * logit_stride, kScoreFloats);
    grow(kept_totals_, kv_heads * logit_stride, kScoreFloats);
    grow(kept_norms_, 2 * kMaxDecodeRows * heads, 0);
  }
  const auto total = static_cast<int64_t>(group.rows.size());
  int64_t most = std::min(kMaxDecodeRows, int64_t{kDecodePartials / 2});
  if (group.selects) {
    most = std::min({most, static_cast<int64_t>(scores_.size()) / (lists * score_stride), static_cast<int64_t>(lists_.size()) / (lists * list_stride)});
  }
  if (tops > 0) most = std::min({most, static_cast<int64_t>(scores_.size()) / top_scores, static_cast<int64_t>(tops_.size()) / tops});
  if (group.evicts) {
    most = std::min({most, static_cast<int64_t>(kept_logits_.size()) / (heads * logit_stride), static_cast<int64_t>(kept_totals_.size()) / (kv_heads * logit_stride)});
  }
  const DecodeShape shape{static_cast<int>(layer), static_cast<int>(heads), static_cast<int>(kv_heads), static_cast<int>(d), shift,
                          static_cast<int>(lists), weights_.type};
  for (int64_t begin = 0; begin < total; begin += most) {
    const int64_t count = std::min(most, total - begin);
    const auto n = static_cast<int>(count);
    const auto* rows = reinterpret_cast<const DecodeRow*>(plan_device_.get() + pass.rows_at) + group.first + begin;
    const void* kv = pass.pool->kv(layer);
    const DecodeParams attention{rows, n, shape, qkv_.get(), stride, q_sinks_.get(), kv, lists_.get(), static_cast<int32_t>(list_stride),
                                 attn_.get(), group.tokens, decode_splits(shape, n, sms_), partials_.get(), arrivals_.get(),
                                 group.evicts ? kept_logits_.get() : nullptr, logit_stride, group.evicts ? kept_norms_.get() : nullptr};
    if (group.selects && group.scoring != Scoring::bounds) {
      token_logits({rows, n, shape, qkv_.get(), stride, kv, scores_.get(), score_stride, group.keys, !by_tokens}, launch_here());
      DecodeShape scored = shape;
      if (by_tokens) scored.page_shift = 0;  // tokens are pages of one
      top_k({rows, n, scored, scores_.get(), score_stride, score_stride, lists_.get(), static_cast<int32_t>(list_stride), nullptr}, launch_here());
    }
    if (by_tokens) {
      list_attention({rows, n, shape, qkv_.get(), stride, kv, lists_.get(), list_stride, attn_.get()}, launch_here());
    } else if (group.selects && group.scoring == Scoring::bounds) {
      AppendParams fresh{};
      if (group.appends) {
        fresh = append_params(pass, layer);
        fresh.tasks += begin;
        fresh.n_tasks = n;
      }
      const SparsePlan fused = neighbour_.fuses() ? sparse_plan(shape, n, score_stride, list_stride, sms_) : SparsePlan{};
      if (fused.blocks > 0) {
        const int64_t words = sparse_board_words(shape, n, score_stride, fused);
        if (static_cast<size_t>(words) > board_.size()) {
          grow(board_, words, kBoardWords);
          check(cudaMemsetAsync(board_.get(), 0xff, board_.size() * sizeof(uint32_t), stream_), "memset");
        }
      }
      sparse_attention({attention, pass.pool->metadata(layer), pass.pool->capacity(), score_stride, fused, board_.get(), group.settled, group.others, scores_.get(),
                        score_stride, estimate_blocks(shape, n, score_stride, sms_), lists_.get(), open_selected_.get() + group.first + begin, fresh},
                       launch_here());
    } else {
      decode_attention(attention, launch_here());
    }
    if (tops > 0) {
      const auto* top_rows = reinterpret_cast<const DecodeRow*>(plan_device_.get() + pass.top_rows_at) + group.first + begin;
      const int64_t top_stride = bucket(group.keys);
      token_logits({rows, n, shape, qkv_.get(), stride, kv, scores_.get(), top_stride, group.keys, false}, launch_here());
      DecodeShape by_head = shape;
      by_head.page_shift = 0;
      by_head.n_lists = static_cast<int>(heads);
      top_k({top_rows, n, by_head, scores_.get(), top_stride, top_stride, tops_.get(), static_cast<int32_t>(group.recall_top), nullptr}, launch_here());
      recall({rows, top_rows, n, shape, tops_.get(), group.recall_top, lists_.get(), list_stride, by_tokens, shares_.get()}, launch_here());
    }
    if (group.evicts) {
      evict_kept({rows, n, shape, kept_logits_.get(), logit_stride, kept_norms_.get(), kept_totals_.get()}, launch_here());
    }
    if (pass.examined()) examine_rows(pass, group, layer, begin, count, list_stride);
  }
}

// Brings back what a launch of decode rows chose and attended, for those who asked.
void Forward::examine_rows(Pass& pass, const RowGroup& group, int64_t layer, int64_t begin, int64_t count, int64_t list_stride) {
  const int64_t heads = spec_.n_heads, lists = group.own_lists ? heads : spec_.n_kv_heads;
  const bool by_tokens = group.scoring == Scoring::token_logits;
  const auto entries = static_cast<size_t>(count * lists * list_stride), shares = static_cast<size_t>(group.recall_top > 0 ? count * heads : 0);
  lists_host_.reserve(std::max<size_t>(entries, 1));
  shares_host_.reserve(std::max<size_t>(shares, 1));
  if (group.selects) {
    check(cudaMemcpyAsync(lists_host_.get(), lists_.get(), entries * sizeof(int32_t), cudaMemcpyDeviceToHost, stream_), "page lists");
  }
  if (shares > 0) check(cudaMemcpyAsync(shares_host_.get(), shares_.get(), shares * sizeof(float), cudaMemcpyDeviceToHost, stream_), "recall");
  synchronize("page lists");
  std::vector<int32_t> pages;
  for (int64_t i = 0; i < count; ++i) {
    const ReadRow& r = group.rows[static_cast<size_t>(begin + i)];
    const Segment& s = pass.segments[r.segment];
    const DecodeRow& row = pass.rows[static_cast<size_t>(group.first + begin + i)];
    if (s.work->see.recall) {
      float total = 0;
      for (int64_t h = 0; h < heads; ++h) total += row.reading == Reading::dense ? 1.0f : shares_host_[static_cast<size_t>(i * heads + h)];
      s.work->see.recall[r.row * spec_.n_layers + layer] = total / static_cast<float>(heads);
    }
    if (row.reading != Reading::selector) continue;
    const bool open_first = !row.scores_open;
    for (int64_t h = 0; h < heads; ++h) {
      const int32_t* list = lists_host_.get() + (i * lists + (group.own_lists ? h : h / spec_.group())) * list_stride;
      pages.assign(list, list + row.list_pages);
      if (by_tokens) {
        for (int32_t& token : pages) token /= pass.page_size;
        pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
        s.branch->counters.pages_attended += static_cast<int64_t>(pages.size());
      }
      if (!s.work->see.trace) continue;
      const int64_t skip = row.skip_layers;
      int32_t* out = s.work->see.trace + ((r.row * (spec_.n_layers - skip) + layer - skip) * heads + h) * s.work->see.trace_width;
      int64_t at = 0;
      if (open_first) out[at++] = pages.back();
      for (size_t j = 0; j + (open_first ? 1 : 0) < pages.size() && at < s.work->see.trace_width; ++j) out[at++] = pages[j];
    }
  }
}

// Traced rows that read everything, in one layer.
static void trace_dense(const ModelSpec& spec, const Segment& s, int64_t row, int64_t layer) {
  const MethodOptions& o = s.branch->method;
  const int64_t n = s.base + row + 1, size = s.branch->pages.page_size(), skip = std::min(o.skip_layers, spec.n_layers);
  if (!s.work->see.trace || layer < skip || selects_pages(o, static_cast<int>(size), n)) return;
  const int64_t pages = (n + size - 1) / size;
  const bool open_first = !scores_open_page(o.method);
  for (int64_t h = 0; h < spec.n_heads; ++h) {
    int32_t* out = s.work->see.trace + ((row * (spec.n_layers - skip) + layer - skip) * spec.n_heads + h) * s.work->see.trace_width;
    int64_t at = 0;
    if (open_first) out[at++] = static_cast<int32_t>(pages - 1);
    for (int64_t j = 0; j + (open_first ? 1 : 0) < pages && at < s.work->see.trace_width; ++j) out[at++] = static_cast<int32_t>(j);
  }
}

void Forward::enqueue_attention(Pass& pass, const LayerPlan& plan, int64_t layer) {
  const int64_t d = spec_.head_dim, stride = (spec_.n_heads + 2 * spec_.n_kv_heads) * d;
  const bool last = layer + 1 == spec_.n_layers && pass.drop_last;
  for (const PrefillPiece& piece : plan.prefill) {
    const Segment& s = pass.segments[piece.segment];
    const int64_t first = last ? piece.rows - 1 : 0, row = s.row0 + first;
    prefill_attention({qkv_.get() + row * stride, stride, pass.pool->kv(layer), s.branch->table.get(), attn_.get() + row * spec_.n_heads * d,
                       static_cast<int>(piece.rows - first), static_cast<int>(s.base + first), static_cast<int>(spec_.n_heads),
                       static_cast<int>(spec_.n_kv_heads), static_cast<int>(d), pass.page_size, pass.pool->capacity(), weights_.type},
                      launch_here());
    if (s.work->see.recall) {
      for (int64_t r = 0; r < piece.rows; ++r) s.work->see.recall[r * spec_.n_layers + layer] = 1;
    }
    if (!s.work->column_sums) continue;
    column_norms_.reserve(static_cast<size_t>(2 * kMaxRows * spec_.n_heads));
    column_sums({qkv_.get() + s.row0 * stride, stride, pass.pool->kv(layer), s.branch->table.get(), column_norms_.get(),
                 s.branch->column_sums->get() + layer * spec_.n_kv_heads * spec_.max_context, spec_.max_context, static_cast<int>(piece.rows),
                 static_cast<int>(s.base), static_cast<int>(spec_.n_heads), static_cast<int>(spec_.n_kv_heads), static_cast<int>(d),
                 pass.page_size, weights_.type},
                launch_here());
  }
  for (const RowGroup& g : plan.groups) enqueue_rows(pass, g, layer);
  if (!pass.traced) return;
  for (const Segment& s : pass.segments) {
    for (int64_t row = 0; row < s.rows; ++row) trace_dense(spec_, s, row, layer);
  }
}

void Forward::enqueue_layers(Pass& pass, const JobControl* job) {
  append(pass);
  if (!pass.rows.empty()) {
    check(cudaMemsetAsync(open_selected_.get(), 0, pass.rows.size() * sizeof(int32_t), stream_), "memset");
  }
  const int64_t d = spec_.head_dim, q_dim = spec_.n_heads * d, qkv_dim = (spec_.n_heads + 2 * spec_.n_kv_heads) * d, hidden = spec_.hidden;
  bool projected = false;  // this layer's queries, keys and values, with the layer before
  for (const LayerPlan& plan : pass.layers) {
    for (int64_t l = plan.begin; l < plan.end; ++l) {
      if (job) job->check();
      const DeviceLayer& w = weights_.layers[static_cast<size_t>(l)];
      if (!projected) project({pass.n_rows, w.attn_norm, x_.get(), &w.qkv, qkv_.get(), qkv_dim, hidden, Epilogue::half});
      const bool appended = std::any_of(std::begin(plan.groups), std::end(plan.groups), [](const RowGroup& g) { return g.appends; });
      if (!appended) rope_append(append_params(pass, l), launch_here());
      // After the last layer's keys nobody needs a prefill's rows but the last.
      const bool last = l + 1 == spec_.n_layers && pass.drop_last;
      if (last && !pass.segments[0].work->keep_last) return;
      const int64_t first = last ? pass.n_rows - 1 : 0, rows = pass.n_rows - first;
      enqueue_attention(pass, plan, l);
      float* x = x_.get() + first * hidden;
      const Product o{rows, nullptr, attn_.get() + first * q_dim, &w.o, x, hidden, q_dim, Epilogue::residual};
      const Product gate_up{rows, w.ffn_norm, x, &w.gate_up, act_.get(), 2 * spec_.ffn, hidden, Epilogue::silu_mul};
      const Product down{rows, nullptr, act_.get(), &w.down, x, hidden, spec_.ffn, Epilogue::residual};
      if (l + 1 < spec_.n_layers) {
        const DeviceLayer& next = weights_.layers[static_cast<size_t>(l + 1)];
        const Product qkv{rows, next.attn_norm, x, &next.qkv, qkv_.get(), qkv_dim, hidden, Epilogue::half};
        projected = chain(std::array{o, gate_up, down, qkv});
        if (projected) continue;
      } else if (chain(std::array{o, gate_up, down})) {
        continue;
      }
      for (const Product& product : {o, gate_up, down}) project(product);
    }
  }
}

// The greedy next token of every row; the logits stay in the slot's part of logits_.
void Forward::enqueue_step(Pass& pass) {
  const auto rows = static_cast<int>(pass.n_rows);
  float* logits = logits_.get() + pass.slot * kStepRows * spec_.vocab;
  const DeviceMatrix head{weights_.lm_head};
  project({pass.n_rows, weights_.norm, x_.get(), &head, logits, spec_.vocab, spec_.hidden, Epilogue::fp32});
  argmax({logits, next_ids_.get(), rows, static_cast<int>(spec_.vocab)}, launch_here());
  check(cudaMemcpyAsync(slots_[pass.slot].next_ids.get(), next_ids_.get(), static_cast<size_t>(rows) * sizeof(int32_t), cudaMemcpyDeviceToHost, stream_),
        "next ids");
}

void Forward::fetch_logits(const Step& step, size_t row, std::vector<float>& out) {
  out.resize(static_cast<size_t>(spec_.vocab));
  logits_host_.reserve(out.size());
  const float* logits = logits_.get() + (step.pass.slot * kStepRows + static_cast<int64_t>(row)) * spec_.vocab;
  check(cudaMemcpyAsync(logits_host_.get(), logits, out.size() * sizeof(float), cudaMemcpyDeviceToHost, stream_), "logits");
  synchronize("logits");
  std::memcpy(out.data(), logits_host_.get(), out.size() * sizeof(float));
}

// Everything about a pass of single rows that its launches depend on, beside what the plan on the device says.
static std::vector<int64_t> shape_of(const Pass& pass, bool greedy) {
  std::vector<int64_t> key{pass.n_rows, greedy, pass.slot, pass.fed, pass.sinks, static_cast<int64_t>(reinterpret_cast<intptr_t>(pass.pool)),
                           static_cast<int64_t>(pass.bytes)};
  for (const LayerPlan& plan : pass.layers) {
    key.insert(key.end(), {plan.begin, plan.end});
    for (const RowGroup& g : plan.groups) {
      key.insert(key.end(), {static_cast<int64_t>(g.rows.size()), g.first, g.selects, g.others, g.appends, g.tokens, g.evicts, g.list_pages, bucket(g.keys), bucket(g.pages), bucket(g.kept)});
    }
  }
  return key;
}

// What a pass that has been sent leaves of its evictors' lists.
void Forward::settle(const Pass& pass) {
  for (const Segment& s : pass.segments) {
    CudaBranch& b = *s.branch;
    b.first_step = false;
    if (s.work->prefill || !is_evictor(b)) continue;
    b.dropped = b.dropped || b.kept > b.method.budget_tokens;
    b.kept = std::min(b.kept, b.method.budget_tokens);
  }
}

// After a pass has run.
void Forward::collect(Pass& pass) {
  count_pass(spec_, pass, pass.rows.empty() ? nullptr : slots_[pass.slot].open_selected.get());
  for (const Segment& s : pass.segments) s.branch->broken = !sent_.empty();  // the steps under way are of the same branches
}

// Final norm, logits of the rows that somebody wants, their likelihoods.
void Forward::logits(Pass& pass) {
  struct Wanted {
    const Segment* segment;
    int64_t row;
  };
  std::vector<Wanted> wanted;
  int32_t* staged = wanted_host_.get();
  for (const Segment& s : pass.segments) {
    const Work& w = *s.work;
    const bool all = w.logits || w.nll;
    for (int64_t r = all ? 0 : w.keep_last ? s.rows - 1 : s.rows; r < s.rows; ++r) {
      staged[wanted.size()] = static_cast<int32_t>(s.row0 + r);
      staged[static_cast<size_t>(kMaxRows) + wanted.size()] = w.nll ? w.targets[static_cast<size_t>(r)] : -1;
      wanted.push_back({&s, r});
    }
  }
  if (wanted.empty()) return;
  check(cudaMemcpyAsync(targets_.get(), staged, static_cast<size_t>(2 * kMaxRows) * sizeof(int32_t), cudaMemcpyHostToDevice, stream_), "rows");
  const auto vocab = static_cast<size_t>(spec_.vocab);
  logits_host_.reserve(static_cast<size_t>(kLogitRows) * vocab);
  for (size_t begin = 0; begin < wanted.size(); begin += static_cast<size_t>(kLogitRows)) {
    const size_t count = std::min(wanted.size() - begin, static_cast<size_t>(kLogitRows));
    rmsnorm({x_.get(), targets_.get() + begin, weights_.norm, xn_.get(), static_cast<int>(count), static_cast<int>(spec_.hidden), spec_.norm_eps,
             weights_.type},
            launch_here());
    const DeviceMatrix head{weights_.lm_head};
    project({static_cast<int64_t>(count), nullptr, xn_.get(), &head, logits_.get(), spec_.vocab, spec_.hidden, Epilogue::fp32});
    bool likelihoods = false;
    for (size_t i = 0; i < count; ++i) {
      const Work& w = *wanted[begin + i].segment->work;
      likelihoods = likelihoods || w.nll;
      const bool last = w.keep_last && wanted[begin + i].row + 1 == wanted[begin + i].segment->rows;
      if (!w.logits && !last) continue;
      check(cudaMemcpyAsync(logits_host_.get() + i * vocab, logits_.get() + i * vocab, vocab * sizeof(float), cudaMemcpyDeviceToHost, stream_), "logits");
    }
    if (likelihoods) {
      negative_log_likelihood({logits_.get(), targets_.get() + kMaxRows + begin, nll_.get() + begin, static_cast<int>(count), static_cast<int>(spec_.vocab)},
                              launch_here());
    }
    synchronize("logits");
    for (size_t i = 0; i < count; ++i) {
      const Wanted& at = wanted[begin + i];
      const Work& w = *at.segment->work;
      const float* row = logits_host_.get() + i * vocab;
      if (w.logits) std::copy(row, row + vocab, w.logits + at.row * spec_.vocab);
      if (w.keep_last && at.row + 1 == at.segment->rows) at.segment->branch->last_logits.assign(row, row + vocab);
    }
  }
  std::vector<float> nll(wanted.size());
  check(cudaMemcpy(nll.data(), nll_.get(), nll.size() * sizeof(float), cudaMemcpyDeviceToHost), "likelihoods");
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i].segment->work->nll) wanted[i].segment->work->nll[wanted[i].row] = nll[i];
  }
}

void Forward::launch_pass(Pass& pass, bool greedy, const JobControl* job) {
  const bool single_rows = pass.n_rows == static_cast<int64_t>(pass.segments.size()) && pass.n_rows <= 16;
  const bool prefills = std::any_of(pass.segments.begin(), pass.segments.end(), [](const Segment& s) { return s.work->prefill; });
  const auto enqueue = [&](const JobControl* control) {
    enqueue_layers(pass, control);
    if (greedy) enqueue_step(pass);
    // Behind the last kernel: a copy between kernels keeps the next one from starting early.
    if (pass.rows.empty()) return;
    check(cudaMemcpyAsync(slots_[pass.slot].open_selected.get(), open_selected_.get(), pass.rows.size() * sizeof(int32_t), cudaMemcpyDeviceToHost, stream_),
          "counters");
  };
  if (!graphs_ || !single_rows || prefills || pass.examined()) return enqueue(job);
  if (job) job->check();
  // Scratch grows in enqueue_rows, which a capture must not see: the first pass of a shape runs as it is, the second captures.
  cudaGraphExec_t* exec = step_graphs_.find(shape_of(pass, greedy));
  if (!exec) {
    try {
      return enqueue(job);
    } catch (...) {
      forget_graphs();  // this pass may not have come to where scratch grows
      throw;
    }
  }
  if (!*exec) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "graph capture");
    try {
      enqueue(nullptr);
    } catch (...) {
      cudaStreamEndCapture(stream_, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream_, &graph), "graph capture");
    const cudaError_t e = cudaGraphInstantiate(exec, graph, 0);
    cudaGraphDestroy(graph);
    check(e, "graph instantiation");
  }
  check(cudaGraphLaunch(*exec, stream_), "graph launch");
}

Pass Forward::begin(std::span<Work> works, int slot_index, bool fed) {
  Slot& slot = slots_[slot_index];
  std::vector<int64_t> bases;
  bool sinks = false;
  size_t entries = 0;  // of page tables that may have to be sent: all that are new, and the open page where it was copied
  for (const Work& w : works) {
    const auto& b = *w.branch;
    entries += b.pages.pages().size() - static_cast<size_t>(b.uploaded) + static_cast<size_t>(b.pages.pages_to_extend(static_cast<int64_t>(w.ids.size()))) + 1;
  }
  slot.tables.reserve(std::max<size_t>(entries, 4096));
  size_t staged = 0;
  for (const Work& w : works) {
    bases.push_back(w.branch->length());
    sinks = sinks || (!w.prefill && w.branch->method.method == Method::streaming);
    staged += prepare_branch(spec_, w, slot.tables.get() + staged, stream_);
  }
  if (sinks) q_sinks_.reserve(static_cast<size_t>(kMaxRows * spec_.n_heads * spec_.head_dim));
  Pass pass = plan_pass(spec_, works, bases);
  pass.slot = slot_index;
  pass.fed = fed;
  // The slot's own copies are free to go, whatever the other slot's step still reads and writes.
  const auto grow = [&](auto& buffer, size_t n) {
    if (n <= buffer.size()) return;
    synchronize("plan");
    buffer.resize(2 * n);
    forget_graphs();
  };
  grow(slot.plan, pass.bytes);
  grow(plan_device_, pass.bytes);
  grow(slot.open_selected, pass.rows.size());
  grow(open_selected_, pass.rows.size());
  unsigned char* plan = slot.plan.get();
  std::memcpy(plan + pass.ids_at, pass.ids.data(), pass.ids.size() * sizeof(int32_t));
  std::memcpy(plan + pass.tasks_at, pass.tasks.data(), pass.tasks.size() * sizeof(AppendTask));
  if (!pass.rows.empty()) std::memcpy(plan + pass.rows_at, pass.rows.data(), pass.rows.size() * sizeof(DecodeRow));
  if (!pass.top_rows.empty()) std::memcpy(plan + pass.top_rows_at, pass.top_rows.data(), pass.top_rows.size() * sizeof(DecodeRow));
  return pass;
}

void Forward::run(std::span<Work> works, const JobControl& job) {
  Pass pass = begin(works, 0, false);
  try {
    launch_pass(pass, false, &job);
    settle(pass);
    logits(pass);
    synchronize("forward pass");
  } catch (...) {
    cudaStreamSynchronize(stream_);  // nothing may still read the plan when the next pass writes it
    throw;
  }
  collect(pass);
}

void Forward::send(std::span<CudaBranch* const> branches, std::span<const int32_t> ids) {
  const bool fed = ids.empty();
  Step step;
  step.ids.assign(ids.begin(), ids.end());
  step.ids.resize(branches.size());
  step.works.resize(branches.size());
  for (size_t i = 0; i < branches.size(); ++i) {
    step.works[i].branch = branches[i];
    step.works[i].ids = std::span(step.ids).subspan(i, 1);
    if (fed && is_evictor(*branches[i])) save_lists(*branches[i], stream_);
  }
  const int slot = sent_.empty() ? 0 : 1 - sent_.back().pass.slot;
  step.pass = begin(step.works, slot, fed);
  launch_pass(step.pass, true, nullptr);  // a step is short, and never cut in half
  check(cudaEventRecord(slots_[slot].done, stream_), "decode step");
  settle(step.pass);
  sent_.push_back(std::move(step));
}

Step Forward::receive() {
  Step step = std::move(sent_.front());
  const Slot& slot = slots_[step.pass.slot];
  check(cudaEventSynchronize(slot.done), "decode step");
  sent_.pop_front();
  for (const Segment& s : step.pass.segments) step.before.push_back(s.branch->counters);
  collect(step.pass);
  std::copy_n(slot.next_ids.get(), step.ids.size(), step.ids.begin());
  return step;
}

void Forward::take_back(const Step& step, size_t row) {
  const Segment& s = step.pass.segments[row];
  CudaBranch& b = *s.branch;
  b.counters = step.before[row];
  b.pages.shrink(1);
  b.uploaded = std::min(b.uploaded, static_cast<int64_t>(b.pages.pages().size()));
  const auto in_open_page = static_cast<int>(s.base % b.pages.page_size());
  if (in_open_page > 0) {  // the token's key has widened the page's bounds
    page_bounds({b.pool->kv(0), b.pool->metadata(0), b.pool->kv_stride(), b.pool->metadata_stride(), static_cast<int>(spec_.n_layers),
                 static_cast<int>(spec_.n_kv_heads), static_cast<int>(spec_.head_dim), b.pages.page_size(), b.pool->capacity(), b.pages.pages().back(),
                 in_open_page, weights_.type},
                launch_here());
  }
  if (is_evictor(b)) restore_lists(b, s.kept - 1, stream_);
  synchronize("taking a step back");
}

void Forward::abandon() {
  cudaStreamSynchronize(stream_);  // nothing may still read the plans when the next pass writes them
  sent_.clear();
}

}  // namespace quest::cuda
