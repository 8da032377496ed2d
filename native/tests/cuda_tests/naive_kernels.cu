#include "naive_kernels.h"

#include "cuda/dispatch.cuh"

namespace quest::cuda::test {

namespace {

constexpr unsigned kThreads = 32;

// A row's cache: element (position, K or V, column) of a KV head.
template <class T>
struct View {
  const DecodeRow& row;
  const DecodeShape& s;
  const T* kv;
  __device__ double at(int kv_head, int position, int value, int column) const {
    const int size = 1 << s.page_shift;
    const int64_t page = row.table[position / size];
    return to_float(kv[(((page * s.n_kv_heads + kv_head) * 2 + value) * size + position % size) * s.head_dim + column]);
  }
};

__device__ inline int pages_of(const DecodeRow& row, const DecodeShape& s) { return (row.n + (1 << s.page_shift) - 1) >> s.page_shift; }

// Thread: (page, list, row).
template <class T>
__global__ void naive_estimate_kernel(EstimateParams p) {
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.z];
  const DecodeShape& s = p.shape;
  const int page = static_cast<int>(blockIdx.x * kThreads + threadIdx.x), list = static_cast<int>(blockIdx.y), size = 1 << s.page_shift;
  const int pages = pages_of(row, s), group = s.n_heads / s.n_kv_heads, d = s.head_dim;
  if (row.reading != Reading::selector || s.layer < row.skip_layers || page >= (row.scores_open ? pages : pages - 1)) return;
  const bool own = s.n_lists == s.n_heads;
  const int kv_head = own ? list / group : list;
  const View<T> view{row, s, static_cast<const T*>(p.kv)};
  const T* bounds = static_cast<const T*>(p.metadata) + (static_cast<int64_t>(kv_head) * p.pages + row.table[page]) * 2 * d;
  double best = kMinusInfinity, total = 0;
  for (int h = own ? list : list * group; h < (own ? list + 1 : (list + 1) * group); ++h) {
    const T* q = static_cast<const T*>(p.q) + row.row * p.q_stride + h * d;
    double score = 0;
    for (int c = 0; c < d; ++c) {
      double low = to_float(bounds[c]), high = to_float(bounds[d + c]);
      if ((page + 1) * size > row.n) {  // the open page: its keys up to the row
        low = high = view.at(kv_head, page * size, 0, c);
        for (int t = page * size; t < row.n; ++t) {
          const double k = view.at(kv_head, t, 0, c);
          low = k < low ? k : low;
          high = k > high ? k : high;
        }
      }
      const double x = to_float(q[c]);
      score += x * low > x * high ? x * low : x * high;
    }
    best = score > best ? score : best;
    total += score;
  }
  p.scores[(static_cast<int64_t>(blockIdx.z) * s.n_lists + list) * p.score_stride + page] = static_cast<float>(row.mean && !own ? total / group : best);
}

// Thread 0 of block (list, row): a page is chosen when fewer than k are better. Better: higher, or equal and earlier.
__global__ void naive_top_k_kernel(TopKParams p) {
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.y];
  const DecodeShape& s = p.shape;
  if (row.reading != Reading::selector || s.layer < row.skip_layers || threadIdx.x != 0) return;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * s.n_lists + blockIdx.x;
  const float* scores = p.scores + at * p.score_stride;
  int32_t* list = p.lists + at * p.list_stride;
  const int pages = pages_of(row, s), n = row.scores_open ? pages : pages - 1, k = row.scores_open ? row.list_pages : row.list_pages - 1;
  const auto number = [&](int i) { return scores[i] != scores[i] ? kMinusInfinity : scores[i]; };
  int count = 0;
  for (int i = 0; i < n; ++i) {
    int better = 0;
    for (int j = 0; j < n && better < k; ++j) better += number(j) > number(i) || (number(j) == number(i) && j < i);
    if (better < k) list[count++] = i;
  }
  if (!row.scores_open) list[count++] = pages - 1;
  if (p.open_selected && row.scores_open && list[count - 1] == pages - 1 && row.n % (1 << s.page_shift) != 0) atomicAdd(&p.open_selected[blockIdx.y], 1);
}

// Thread: (column, head, row).
template <class T>
__global__ void naive_decode_kernel(DecodeParams p) {
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.z];
  const DecodeShape& s = p.shape;
  const int column = static_cast<int>(blockIdx.x * kThreads + threadIdx.x), head = static_cast<int>(blockIdx.y), d = s.head_dim;
  const int group = s.n_heads / s.n_kv_heads, kv_head = head / group, size = 1 << s.page_shift;
  if (column >= d) return;
  const bool selects = row.reading == Reading::selector && s.layer >= row.skip_layers;
  const int32_t* list = p.lists + (static_cast<int64_t>(blockIdx.z) * s.n_lists + (s.n_lists == s.n_heads ? head : kv_head)) * p.list_stride;
  const View<T> view{row, s, static_cast<const T*>(p.kv)};
  const T* q = static_cast<const T*>(p.q) + row.row * p.q_stride + head * d;
  double top = kMinusInfinity, sum = 0, value = 0;
  const int pages = selects ? row.list_pages : pages_of(row, s);
  for (int i = 0; i < pages; ++i) {
    const int page = selects ? list[i] : i;
    for (int t = page * size; t < (page + 1) * size && t < row.n; ++t) {
      double logit = 0;
      for (int c = 0; c < d; ++c) logit += to_float(q[c]) * view.at(kv_head, t, 0, c);
      logit /= sqrt(static_cast<double>(d));
      const double higher = logit > top ? logit : top, old = sum > 0 ? exp(top - higher) : 0.0, weight = exp(logit - higher);
      sum = sum * old + weight;
      value = value * old + weight * view.at(kv_head, t, 1, column);
      top = higher;
    }
  }
  static_cast<T*>(p.out)[(static_cast<int64_t>(row.row) * s.n_heads + head) * d + column] = from_float<T>(static_cast<float>(value / sum));
}

struct SortParams {
  __half* metadata;
  int64_t pages;
  int head_dim;
};
__global__ void sort_bounds_kernel(SortParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.pages * p.head_dim) return;
  __half* low = p.metadata + i / p.head_dim * 2 * p.head_dim + i % p.head_dim;
  const __half a = low[0], b = low[p.head_dim];
  if (to_float(a) <= to_float(b)) return;
  low[0] = b;
  low[p.head_dim] = a;
}

unsigned blocks(int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

}  // namespace

void naive_estimate(const EstimateParams& p, const Launch& how) {
  const dim3 grid(blocks(p.score_stride), static_cast<unsigned>(p.shape.n_lists), static_cast<unsigned>(p.n_rows));
  with_half(p.shape.type, [&](auto t) { launch(how, "naive_estimate", naive_estimate_kernel<decltype(t)>, grid, kThreads, 0, p); });
}

void naive_top_k(const TopKParams& p, const Launch& how) {
  launch(how, "naive_top_k", naive_top_k_kernel, dim3(static_cast<unsigned>(p.shape.n_lists), static_cast<unsigned>(p.n_rows)), kThreads, 0, p);
}

void naive_decode_attention(const DecodeParams& p, const Launch& how) {
  const dim3 grid(blocks(p.shape.head_dim), static_cast<unsigned>(p.shape.n_heads), static_cast<unsigned>(p.n_rows));
  with_half(p.shape.type, [&](auto t) { launch(how, "naive_decode", naive_decode_kernel<decltype(t)>, grid, kThreads, 0, p); });
}

void sort_bounds(void* metadata, int64_t pages, int head_dim) {
  launch({}, "sort_bounds", sort_bounds_kernel, dim3(blocks(pages * head_dim)), kThreads, 0, SortParams{static_cast<__half*>(metadata), pages, head_dim});
}

}  // namespace quest::cuda::test
