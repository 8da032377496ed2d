#include "naive.cuh"

namespace quest::cuda::test {

namespace {

constexpr double kLog2 = 1.4426950408889634;  // logits and maxima are kept in units of log2

struct PrefillAt {  // (row, head)
  PrefillParams p;
  __device__ void operator()(int64_t i) const {
    const int head = static_cast<int>(i % p.n_heads), row = static_cast<int>(i / p.n_heads);
    const View view{p.kv, p.table, p.n_kv_heads, head / (p.n_heads / p.n_kv_heads), p.page_size, p.head_dim, p.type};
    Attention out;
    for (int t = 0; t <= p.base + row; ++t) out.add(view, view.logit(p.q, row * p.q_stride + head * p.head_dim, t), t);
    out.store(p.out, i * p.head_dim, view);
  }
};

struct DecodeAt {  // (row, head)
  DecodeParams p;
  __device__ void operator()(int64_t i) const {
    const DecodeShape& s = p.shape;
    const int head = static_cast<int>(i % s.n_heads), kv_head = head / (s.n_heads / s.n_kv_heads), size = 1 << s.page_shift, d = s.head_dim;
    const int64_t r = i / s.n_heads;
    const DecodeRow& row = p.rows[r];
    const Reading reading = reading_of(row, s);
    if ((p.selectors_done && reading == Reading::selector) || (p.pages_done && (reading == Reading::selector || reading == Reading::dense))) return;
    const View view = view_of(row, s, p.kv, head);
    const int32_t* pages = p.lists + (r * s.n_lists + (s.n_lists == s.n_heads ? head : kv_head)) * p.list_stride;
    const int32_t* kept = row.kept_tokens + (static_cast<int64_t>(s.layer) * row.kept_lists + (row.kept_lists == 1 ? 0 : kv_head)) * row.kept_stride;
    const int64_t out_at = (static_cast<int64_t>(row.row) * s.n_heads + head) * d;
    int count = row.n;
    if (reading == Reading::selector) count = row.list_pages * size;
    if (reading == Reading::window) count = row.sinks + row.window;
    if (reading == Reading::evictor) count = row.kept;
    Attention out;
    for (int j = 0; j < count; ++j) {
      const bool sink = reading == Reading::window && j < row.sinks;
      int token = j;
      if (reading == Reading::selector) token = pages[j / size] * size + j % size;
      if (reading == Reading::window && !sink) token = row.n - count + j;
      if (reading == Reading::evictor && !row.kept_all) token = j == count - 1 ? row.n - 1 : kept[j];
      if (token >= row.n) continue;  // beyond the open page's end
      const double logit = sink ? view.logit(p.q_sinks, out_at, token) : view.logit(p.q, row.row * p.q_stride + head * d, token);
      out.add(view, logit, token);
      if (reading == Reading::evictor && p.logits) p.logits[i * p.logit_stride + j] = static_cast<float>(logit * kLog2);
    }
    out.store(p.out, out_at, view);
    if (!p.norms) return;
    p.norms[2 * i] = static_cast<float>(out.top * kLog2);
    p.norms[2 * i + 1] = static_cast<float>(out.sum);
  }
};

struct ListAt {  // (row, head)
  ListAttentionParams p;
  __device__ void operator()(int64_t i) const {
    const DecodeShape& s = p.shape;
    const int head = static_cast<int>(i % s.n_heads);
    const DecodeRow& row = p.rows[i / s.n_heads];
    if (reading_of(row, s) != Reading::selector) return;
    const View view = view_of(row, s, p.kv, head);
    Attention out;
    for (int j = 0; j < row.list_pages; ++j) {
      const int token = p.lists[i * p.list_stride + j];
      out.add(view, view.logit(p.q, row.row * p.q_stride + head * s.head_dim, token), token);
    }
    out.store(p.out, (static_cast<int64_t>(row.row) * s.n_heads + head) * s.head_dim, view);
  }
};

struct LogitAt {  // (row, head, token or page)
  TokenLogitsParams p;
  __device__ void operator()(int64_t i) const {
    const DecodeShape& s = p.shape;
    const int at = static_cast<int>(i % p.max_tokens), head = static_cast<int>(i / p.max_tokens % s.n_heads), size = p.by_page ? 1 << s.page_shift : 1;
    const int64_t r = i / p.max_tokens / s.n_heads;
    const DecodeRow& row = p.rows[r];
    if (at >= (row.n + size - 1) / size) return;
    const View view = view_of(row, s, p.kv, head);
    double best = kMinusInfinity;
    for (int t = at * size; t < (at + 1) * size && t < row.n; ++t) {
      const double logit = view.logit(p.q, row.row * p.q_stride + head * s.head_dim, t) * kLog2;
      if (!p.by_page || logit > best) best = logit;
    }
    p.logits[(r * s.n_heads + head) * p.stride + at] = static_cast<float>(best);
  }
};

__device__ View view_of(const ColumnSumsParams& p, int head) {
  return {p.kv, p.table, p.n_kv_heads, head / (p.n_heads / p.n_kv_heads), p.page_size, p.head_dim, p.type};
}

struct RowNormAt {  // (row, head)
  ColumnSumsParams p;
  __device__ void operator()(int64_t i) const {
    const int head = static_cast<int>(i % p.n_heads), row = static_cast<int>(i / p.n_heads);
    const View view = view_of(p, head);
    double top = kMinusInfinity, sum = 0;
    for (int t = 0; t <= p.base + row; ++t) {
      const double logit = view.logit(p.q, row * p.q_stride + head * p.head_dim, t), higher = logit > top ? logit : top;
      sum = (sum > 0 ? sum * exp(top - higher) : 0.0) + exp(logit - higher);
      top = higher;
    }
    p.norms[2 * i] = static_cast<float>(top * kLog2);
    p.norms[2 * i + 1] = static_cast<float>(sum);
  }
};

struct ColumnAt {  // (kv head, key)
  ColumnSumsParams p;
  __device__ void operator()(int64_t i) const {
    const int keys = p.base + p.rows, key = static_cast<int>(i % keys), kv_head = static_cast<int>(i / keys), group = p.n_heads / p.n_kv_heads;
    double total = 0;
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const View view = view_of(p, head);
      for (int row = key > p.base ? key - p.base : 0; row < p.rows; ++row) {
        const float* norm = p.norms + 2 * (static_cast<int64_t>(row) * p.n_heads + head);
        total += exp2(view.logit(p.q, row * p.q_stride + head * p.head_dim, key) * kLog2 - norm[0]) / norm[1];
      }
    }
    float& sum = p.sums[kv_head * p.stride + key];
    sum = static_cast<float>((key < p.base ? sum : 0.0f) + total);
  }
};

}  // namespace

void naive_prefill_attention(const PrefillParams& p, const Launch& how) { each(how, "naive_prefill", int64_t{1} * p.rows * p.n_heads, PrefillAt{p}); }
void naive_decode_attention(const DecodeParams& p, const Launch& how) { each(how, "naive_decode", int64_t{1} * p.n_rows * p.shape.n_heads, DecodeAt{p}); }
void naive_list_attention(const ListAttentionParams& p, const Launch& how) { each(how, "naive_list", int64_t{1} * p.n_rows * p.shape.n_heads, ListAt{p}); }
void naive_token_logits(const TokenLogitsParams& p, const Launch& how) {
  each(how, "naive_token_logits", p.n_rows * p.shape.n_heads * p.max_tokens, LogitAt{p});
}
void naive_column_sums(const ColumnSumsParams& p, const Launch& how) {
  if (p.rows == 0) return;
  each(how, "naive_row_norms", int64_t{1} * p.rows * p.n_heads, RowNormAt{p});
  each(how, "naive_column_sums", int64_t{1} * (p.base + p.rows) * p.n_kv_heads, ColumnAt{p});
}

}  // namespace quest::cuda::test
