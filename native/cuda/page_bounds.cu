// Bounds of one page from the keys it holds: what rope_append would have left after its first `count` tokens. For a token that
// is taken back, whose key has already widened them.
//
//   low[c] = min over t < count of key[t, c], high[c] likewise: fminf and fmaxf in the tokens' order, so the bits are the same
//
// One block per (KV head, layer), one thread per column. Bytes: a page's keys, 4 MB for 32 layers of 32 heads: a few us, once at
// the end of a generation. Test: quest_cuda_tests --gtest_filter='PageBounds*'.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

template <class T>
__global__ void page_bounds_kernel(PageBoundsParams p) {
  dependency_wait();
  dependency_release();
  const int d = p.head_dim, c = static_cast<int>(threadIdx.x);
  if (c >= d) return;
  const auto head = static_cast<int64_t>(blockIdx.x), layer = static_cast<int64_t>(blockIdx.y);
  const T* keys = static_cast<const T*>(p.kv) + layer * p.kv_stride + (static_cast<int64_t>(p.page) * p.n_kv_heads + head) * 2 * p.page_size * d;
  T* low = static_cast<T*>(p.metadata) + layer * p.metadata_stride + (head * p.pages + p.page) * 2 * d;
  float least = to_float(keys[c]), most = least;
  for (int t = 1; t < p.count; ++t) {
    const float key = to_float(keys[static_cast<int64_t>(t) * d + c]);
    least = fminf(least, key);
    most = fmaxf(most, key);
  }
  low[c] = from_float<T>(least);
  low[d + c] = from_float<T>(most);
}

}  // namespace

void page_bounds(const PageBoundsParams& p, const Launch& how) {
  const dim3 grid(static_cast<unsigned>(p.n_kv_heads), static_cast<unsigned>(p.n_layers));
  const auto threads = static_cast<unsigned>((p.head_dim + 31) / 32 * 32);
  with_half(p.type, [&](auto t) { launch(how, "page_bounds", page_bounds_kernel<decltype(t)>, grid, threads, 0, p); });
}

}  // namespace quest::cuda
