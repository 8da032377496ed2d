#include "naive.cuh"

namespace quest::cuda::test {

namespace {

struct AppendAt {  // (task, head, column): queries, then KV heads; all rows of the task
  AppendParams p;

  // Column `column` of a row's head, counted along qkv, as the product left it, with its bias.
  __device__ double input(int row, int head, int column) const {
    const int64_t stride = static_cast<int64_t>(p.n_heads + 2 * p.n_kv_heads) * p.head_dim, at = static_cast<int64_t>(head) * p.head_dim + column;
    return number(p.qkv, row * stride + at, p.type) + (p.bias ? p.bias[at] : 0.0f);
  }
  __device__ double rotated(double a, double b, int column, int position) const {
    const int half = p.head_dim / 2;
    // fp32: at position 100 000 that is all the models' own angles are good to
    const double angle = static_cast<float>(position) * p.inv_freq[column % half];
    return p.attention_factor * (column < half ? a * cos(angle) - b * sin(angle) : b * cos(angle) + a * sin(angle));
  }

  __device__ void operator()(int64_t i) const {
    const int d = p.head_dim, half = d / 2, column = static_cast<int>(i % half), head = static_cast<int>(i / half % (p.n_heads + p.n_kv_heads));
    const AppendTask task = p.tasks[i / half / (p.n_heads + p.n_kv_heads)];
    const int kv_head = head - p.n_heads;
    const int64_t bounds = (static_cast<int64_t>(kv_head) * p.pages + task.page) * 2 * d;
    for (int r = 0; r < task.count; ++r) {
      const int row = task.row + r, position = task.position + r, slot = position % p.page_size;
      const double a = input(row, head, column), b = input(row, head, column + half);
      for (int c : {column, column + half}) {
        const double x = rotated(a, b, c, position);
        if (head < p.n_heads) {
          if (task.sink_position >= 0) put(p.q_sinks, (static_cast<int64_t>(row) * p.n_heads + head) * d + c, rotated(a, b, c, task.sink_position), p.type);
          put(p.qkv, (static_cast<int64_t>(row) * (p.n_heads + 2 * p.n_kv_heads) + head) * d + c, x, p.type);
          continue;
        }
        const int64_t key = (((static_cast<int64_t>(task.page) * p.n_kv_heads + kv_head) * 2) * p.page_size + slot) * d + c;
        put(p.kv, key, x, p.type);
        put(p.kv, key + static_cast<int64_t>(p.page_size) * d, input(row, head + p.n_kv_heads, c), p.type);
        const double stored = number(p.kv, key, p.type);
        if (slot == 0 || stored < number(p.metadata, bounds + c, p.type)) put(p.metadata, bounds + c, stored, p.type);
        if (slot == 0 || stored > number(p.metadata, bounds + d + c, p.type)) put(p.metadata, bounds + d + c, stored, p.type);
      }
    }
  }
};

struct BoundsAt {  // (layer, kv head, column)
  PageBoundsParams p;
  __device__ void operator()(int64_t i) const {
    const int column = static_cast<int>(i % p.head_dim), head = static_cast<int>(i / p.head_dim % p.n_kv_heads);
    const int64_t layer = i / p.head_dim / p.n_kv_heads;
    const int64_t keys = layer * p.kv_stride + (static_cast<int64_t>(p.page) * p.n_kv_heads + head) * 2 * p.page_size * p.head_dim + column;
    const int64_t to = layer * p.metadata_stride + (head * p.pages + p.page) * 2 * p.head_dim + column;
    double low = number(p.kv, keys, p.type), high = low;
    for (int t = 1; t < p.count; ++t) {
      const double key = number(p.kv, keys + t * p.head_dim, p.type);
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
    put(p.metadata, to, low, p.type);
    put(p.metadata, to + p.head_dim, high, p.type);
  }
};

struct SortAt {  // (page, column)
  void* metadata;
  int head_dim;
  __device__ void operator()(int64_t i) const {
    const int64_t at = i / head_dim * 2 * head_dim + i % head_dim;
    const double a = number(metadata, at, Half::fp16), b = number(metadata, at + head_dim, Half::fp16);
    put(metadata, at, a < b ? a : b, Half::fp16);
    put(metadata, at + head_dim, a < b ? b : a, Half::fp16);
  }
};

}  // namespace

void naive_rope_append(const AppendParams& p, const Launch& how) {
  each(how, "naive_rope_append", int64_t{1} * p.n_tasks * (p.n_heads + p.n_kv_heads) * (p.head_dim / 2), AppendAt{p});
}
void naive_page_bounds(const PageBoundsParams& p, const Launch& how) {
  each(how, "naive_page_bounds", int64_t{1} * p.n_layers * p.n_kv_heads * p.head_dim, BoundsAt{p});
}
void sort_bounds(void* metadata, int64_t pages, int head_dim) { each({}, "sort_bounds", pages * head_dim, SortAt{metadata, head_dim}); }

}  // namespace quest::cuda::test
