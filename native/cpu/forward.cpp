#include "cpu/forward.h"

#include <algorithm>
#include <cmath>

#include "cpu/rope.h"

namespace quest::cpu {

namespace {

constexpr int64_t kLogitRows = 64;       // logits of this many rows are in memory at a time
constexpr int64_t kRowsPerTask = 16;     // of the element-wise steps

bool uses_sinks(const CpuBranch& b) { return b.method.method == Method::streaming; }

}  // namespace

Forward::Forward(const ModelSpec& spec, const Weights& weights, const Kernels& kernels, ThreadPool& pool)
    : spec_(spec),
      weights_(weights),
      kernels_(kernels),
      pool_(pool),
      int4_(weights, pool),
      shape_{spec.n_layers, spec.n_heads, spec.n_kv_heads, spec.head_dim} {
  for (const LayerWeights& l : weights.layers) {
    if (!spec.qkv_bias) break;
    std::vector<float>& bias = bias_.emplace_back(static_cast<size_t>(l.q_bias.cols + l.k_bias.cols + l.v_bias.cols));
    float* to = bias.data();
    for (const Tensor* t : {&l.q_bias, &l.k_bias, &l.v_bias}) {
      kernels.widen(t->data, t->dtype, t->cols, to);
      to += t->cols;
    }
  }
}

void Forward::norm_rows(const float* x, const Tensor& w, int64_t rows, float* out) {
  const auto one = [&](int64_t r) {
    kernels_.rmsnorm(x + r * spec_.hidden, w.data, w.dtype, spec_.hidden, spec_.norm_eps, out + r * spec_.hidden);
  };
  pool_.parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    for (int64_t r = task * kRowsPerTask; r < std::min(rows, (task + 1) * kRowsPerTask); ++r) one(r);
  });
}

void Forward::embed(std::span<Work> works) {
  int64_t row = 0;
  const size_t stride = static_cast<size_t>(spec_.hidden) * dtype_bytes(weights_.embed.dtype);
  for (const Work& w : works) {
    for (int32_t id : w.ids) {
      const auto* from = static_cast<const unsigned char*>(weights_.embed.data) + static_cast<size_t>(id) * stride;
      kernels_.widen(from, weights_.embed.dtype, spec_.hidden, x_.data() + row++ * spec_.hidden);
    }
  }
}

// Adds the layer's bias, where the model has one, to the projections of the pass's rows.
void Forward::add_bias(int64_t layer) {
  if (bias_.empty()) return;
  const int64_t q_dim = spec_.n_heads * spec_.head_dim, kv_dim = spec_.n_kv_heads * spec_.head_dim;
  const float* bias = bias_[static_cast<size_t>(layer)].data();
  const auto add = [](float* row, const float* b, int64_t n) {
    for (int64_t i = 0; i < n; ++i) row[i] += b[i];
  };
  pool_.parallel_for((rows_ + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    for (int64_t r = task * kRowsPerTask; r < std::min(rows_, (task + 1) * kRowsPerTask); ++r) {
      add(q_.data() + r * q_dim, bias, q_dim);
      add(k_.data() + r * kv_dim, bias + q_dim, kv_dim);
      add(v_.data() + r * kv_dim, bias + q_dim + kv_dim, kv_dim);
    }
  });
}

// Rotates q and k; keeps a copy of q rotated to the last cache position for branches that read sinks.
void Forward::rope(const std::vector<Segment>& segments) {
  const int64_t d = spec_.head_dim, half = d / 2, q_dim = spec_.n_heads * d, kv_dim = spec_.n_kv_heads * d;
  for (const Segment& s : segments) {
    const bool sinks = !q_sinks_.empty() && !s.prefill && uses_sinks(*s.branch);
    std::vector<float> cache_cos(static_cast<size_t>(half)), cache_sin(static_cast<size_t>(half));
    if (sinks) rope_angles(spec_, s.branch->method.budget_tokens - 1, cache_cos.data(), cache_sin.data());
    pool_.parallel_for((s.rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
      for (int64_t i = task * kRowsPerTask; i < std::min(s.rows, (task + 1) * kRowsPerTask); ++i) {
        const int64_t row = s.row0 + i;
        float* q = q_.data() + row * q_dim;
        if (sinks) {
          std::copy(q, q + q_dim, q_sinks_.data() + row * q_dim);
          rotate(q_sinks_.data() + row * q_dim, spec_.n_heads, d, cache_cos.data(), cache_sin.data());
        }
        rotate(q, spec_.n_heads, d, cos_.data() + row * half, sin_.data() + row * half);
        rotate(k_.data() + row * kv_dim, spec_.n_kv_heads, d, cos_.data() + row * half, sin_.data() + row * half);
      }
    });
  }
}

// Stores K and V of the pass's rows and updates the minima and maxima of their pages.
void Forward::append_kv(int64_t layer, const std::vector<Segment>& segments) {
  const int64_t d = spec_.head_dim, heads = spec_.n_kv_heads;
  pool_.parallel_for(static_cast<int64_t>(segments.size()) * heads, [&](int64_t task, int) {
    const Segment& s = segments[static_cast<size_t>(task / heads)];
    const int64_t head = task % heads;
    KvStore& store = s.branch->cache->store;
    const int64_t size = s.branch->pages.page_size();
    for (int64_t i = 0; i < s.rows; ++i) {
      const int64_t position = s.base + i, offset = position % size;
      const int32_t page = s.branch->pages.pages()[static_cast<size_t>(position / size)];
      const float* k = k_.data() + ((s.row0 + i) * heads + head) * d;
      const float* v = v_.data() + ((s.row0 + i) * heads + head) * d;
      float* keys = store.keys(layer, page, head) + offset * d;
      std::copy(k, k + d, keys);
      std::copy(v, v + d, keys + store.value_offset());
      float* low = store.metadata(layer, head, page);
      float* high = low + d;
      for (int64_t c = 0; c < d; ++c) {
        low[c] = offset == 0 ? k[c] : std::min(low[c], k[c]);
        high[c] = offset == 0 ? k[c] : std::max(high[c], k[c]);
      }
    }
  });
}

float Forward::negative_log_likelihood(const float* logits, int32_t target) const {
  std::vector<float> e(logits, logits + spec_.vocab);
  float max = 0;
  const float sum = kernels_.exp_span(e.data(), spec_.vocab, &max);
  return std::log(sum) + max - logits[target];
}

// Final norm, logits of the rows that somebody wants, their likelihoods. Rows of all works share each matrix product.
void Forward::logits(std::span<Work> works, const std::vector<Segment>& segments) {
  struct Wanted {
    size_t work;
    int64_t row;  // within the work's ids
    int64_t at;   // in x_
  };
  std::vector<Wanted> wanted;
  for (size_t i = 0; i < works.size(); ++i) {
    const auto n = static_cast<int64_t>(works[i].ids.size());
    const bool all = works[i].logits || works[i].nll;
    const int64_t first = all ? 0 : works[i].keep_last ? n - 1 : n;
    // Prefill passes may have dropped all rows but the last (see run).
    for (int64_t r = first; r < n; ++r) wanted.push_back({i, r, segments[i].row0 + segments[i].rows - (n - r)});
  }
  const int64_t at_once = std::min(static_cast<int64_t>(wanted.size()), kLogitRows);
  std::vector<float> in(static_cast<size_t>(at_once * spec_.hidden)), out(static_cast<size_t>(at_once * spec_.vocab));
  for (size_t begin = 0; begin < wanted.size(); begin += static_cast<size_t>(at_once)) {
    const auto count = std::min(static_cast<int64_t>(wanted.size() - begin), at_once);
    for (int64_t i = 0; i < count; ++i) {
      const float* x = x_.data() + wanted[begin + static_cast<size_t>(i)].at * spec_.hidden;
      std::copy(x, x + spec_.hidden, in.data() + i * spec_.hidden);
    }
    norm_rows(in.data(), weights_.norm, count, in.data());
    linear(pool_, kernels_, in.data(), spec_.hidden, count, {{int4_.of(weights_.lm_head), out.data(), spec_.vocab}}, false);
    pool_.parallel_for(count, [&](int64_t i, int) {
      const Wanted& w = wanted[begin + static_cast<size_t>(i)];
      Work& work = works[w.work];
      const float* row = out.data() + i * spec_.vocab;
      if (work.logits) std::copy(row, row + spec_.vocab, work.logits + w.row * spec_.vocab);
      if (work.nll) work.nll[w.row] = negative_log_likelihood(row, work.targets[static_cast<size_t>(w.row)]);
      if (work.keep_last && w.row + 1 == static_cast<int64_t>(work.ids.size())) {
        work.branch->last_logits.assign(row, row + spec_.vocab);
      }
    });
  }
}

void Forward::run(std::span<Work> works, const JobControl& job) {
  std::vector<Segment> segments;
  rows_ = 0;
  bool sinks = false;
  for (Work& w : works) {
    Segment s;
    s.branch = w.branch;
    s.row0 = rows_;
    s.rows = static_cast<int64_t>(w.ids.size());
    s.base = w.branch->length();
    s.prefill = w.prefill;
    s.column_sums = w.column_sums;
    s.see = w.see;
    s.sparse.assign(w.ids.size(), 0);
    rows_ += s.rows;
    sinks = sinks || (!w.prefill && uses_sinks(*w.branch));
    segments.push_back(std::move(s));
  }
  const int64_t d = spec_.head_dim, half = d / 2, q_dim = spec_.n_heads * d, kv_dim = spec_.n_kv_heads * d;
  const auto size = [&](std::vector<float>& v, int64_t width) { v.resize(static_cast<size_t>(rows_ * width)); };
  size(x_, spec_.hidden), size(xn_, spec_.hidden), size(q_, q_dim), size(k_, kv_dim), size(v_, kv_dim);
  size(attn_, q_dim), size(gate_, spec_.ffn), size(up_, spec_.ffn), size(cos_, half), size(sin_, half);
  size(q_sinks_, sinks ? q_dim : 0);

  for (Segment& s : segments) {
    s.branch->broken = true;
    if (const auto copy = s.branch->pages.extend(s.rows)) s.branch->cache->store.copy_page(copy->from, copy->to);
    for (int64_t i = 0; i < s.rows; ++i) rope_angles(spec_, s.base + i, &cos_[static_cast<size_t>((s.row0 + i) * half)], &sin_[static_cast<size_t>((s.row0 + i) * half)]);
  }
  embed(works);

  for (int64_t l = 0; l < spec_.n_layers; ++l) {
    job.check();
    const LayerWeights& w = weights_.layers[static_cast<size_t>(l)];
    norm_rows(x_.data(), w.attn_norm, rows_, xn_.data());
    linear(pool_, kernels_, xn_.data(), spec_.hidden, rows_,
           {{int4_.of(w.q), q_.data(), q_dim}, {int4_.of(w.k), k_.data(), kv_dim}, {int4_.of(w.v), v_.data(), kv_dim}}, false);
    add_bias(l);
    rope(segments);
    append_kv(l, segments);
    if (l + 1 == spec_.n_layers && segments.size() == 1 && segments[0].prefill && !segments[0].column_sums) {
      // After the last layer's keys nobody needs a prefill's rows but the last.
      const int64_t keep = works[0].keep_last ? 1 : 0, first = rows_ - keep;
      std::copy(x_.begin() + first * spec_.hidden, x_.begin() + rows_ * spec_.hidden, x_.begin());
      std::copy(q_.begin() + first * q_dim, q_.begin() + rows_ * q_dim, q_.begin());
      segments[0].base += first;
      segments[0].rows = rows_ = keep;
      if (keep == 0) break;
    }
    attend(pool_, kernels_, shape_, l, segments, q_.data(), sinks ? q_sinks_.data() : nullptr, attn_.data());
    linear(pool_, kernels_, attn_.data(), q_dim, rows_, {{int4_.of(w.o), x_.data(), spec_.hidden}}, true);
    norm_rows(x_.data(), w.ffn_norm, rows_, xn_.data());
    linear(pool_, kernels_, xn_.data(), spec_.hidden, rows_,
           {{int4_.of(w.gate), gate_.data(), spec_.ffn}, {int4_.of(w.up), up_.data(), spec_.ffn}}, false);
    pool_.parallel_for((rows_ + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
      const int64_t from = task * kRowsPerTask, to = std::min(rows_, from + kRowsPerTask);
      kernels_.silu_mul(gate_.data() + from * spec_.ffn, up_.data() + from * spec_.ffn, (to - from) * spec_.ffn);
    });
    linear(pool_, kernels_, gate_.data(), spec_.ffn, rows_, {{int4_.of(w.down), x_.data(), spec_.hidden}}, true);
  }
  logits(works, segments);

  for (Segment& s : segments) {
    if (!s.prefill) {
      s.branch->counters.decode_steps += s.rows;
      for (char sparse : s.sparse) s.branch->counters.sparse_steps += sparse;
    }
    s.branch->broken = false;
  }
}

}  // namespace quest::cpu
