// Causal attention of a chunk of queries on Hopper's warpgroup products; what prefill_attention.cu computes, faster.
//
//   out[i, h] = softmax(q[i, h] . K[0 .. base + i]^T / sqrt(d)) V
//
// A block takes 128 queries of one head: two warpgroups of 64 compute, a third only fetches. Keys and values pass in tiles of
// 128 through two stages each; every page of a tile is one box per 64 columns of a tensor map over the layer's pool, so page
// lookups cost one lane each and pages past the end arrive as zeros. Per tile and warpgroup:
//
//   S(t) = Q K(t)^T starts, O += P(t-1) V(t-1) starts, the other warpgroup's turn;  S(t) done: softmax of S(t) while the
//   second product still runs;  O rescaled if a maximum moved, P(t) = half(S(t)) stays in registers as the next A operand.
//
// Taking turns keeps one warpgroup's products behind the other's exponentials. Blocks of the longest rows start first, blocks
// of one head run side by side and find each other's keys in L2. Covers head_dim 64 and 128, pages of 8 to 128 tokens.
//
// Work: 4 d per (query, visible key, head). 32 heads, d 128, the last 2048 of 32K: 1.0 TFLOP, 1.4 ms at 762 TFLOP/s;
// measured 1.89 ms (563 TFLOP/s). The exponentials alone (16 per cycle and multiprocessor) take half of the products' time.
// Test: quest_cuda_tests --gtest_filter='PrefillAttention*'. Time: quest_cuda_bench prefill.
#include "cuda/dispatch.cuh"

#ifdef QUEST_EMULATE

namespace quest::cuda {

bool prefill_wgmma_covers(const PrefillParams&) { return false; }
void prefill_attention_wgmma(const PrefillParams&, const Launch&) { throw Error("E_UNSUPPORTED", "the emulated GPU has no wgmma"); }

}  // namespace quest::cuda

#else

#include "cuda/hopper.cuh"
#include "cuda/tensor_map.h"

namespace quest::cuda {

namespace {

constexpr int kQueries = 128;
constexpr int kKeys = 128;
constexpr int kStages = 2;
constexpr int kThreads = 384;

struct WgmmaParams {
  PrefillParams p;
  CUtensorMap pool;  // [pages * n_kv_heads * 2 * page_size, head_dim], boxes of [page_size, 64]
};

#ifdef QUEST_WGMMA_CODE

template <int D>
struct Tiles {
  static constexpr int kColumns = D / kSwizzleColumns;
  static constexpr int kColumnBytes = kKeys * 128;  // of 64 halves per row
  static constexpr int kBytes = kColumns * kColumnBytes;
  unsigned char* base;  // queries, then per stage keys and values
  __device__ unsigned char* queries() const { return base; }
  __device__ unsigned char* keys(int stage) const { return base + (1 + 2 * stage) * kBytes; }
  __device__ unsigned char* values(int stage) const { return base + (2 + 2 * stage) * kBytes; }
};

struct Barriers {
  uint64_t keys_full[kStages], values_full[kStages], keys_empty[kStages], values_empty[kStages];
};

// One warp fills the stages.
template <class T, int D>
__device__ inline void fetch(const WgmmaParams& w, const Tiles<D>& tiles, Barriers& bars, int kv_head, int visible, int n_tiles) {
  const PrefillParams& p = w.p;
  constexpr int kColumns = Tiles<D>::kColumns, kBytes = Tiles<D>::kBytes;
  const int lane = static_cast<int>(threadIdx.x) % 32, pages_per_tile = kKeys / p.page_size;
  const int page = lane / kColumns, column = lane % kColumns;  // of the tile: what this lane fetches
  const bool active = page < pages_per_tile;
  const int nowhere = static_cast<int>(p.pages * p.n_kv_heads * 2 * p.page_size), pages = (visible + p.page_size - 1) / p.page_size;
  const int tail = visible % p.page_size;  // tokens of a last page that is not full: what lies after them may be anything
  const int box = column * Tiles<D>::kColumnBytes + page * p.page_size * 128;
  for (int tile = 0; tile < n_tiles; ++tile) {
    const int stage = tile % kStages, index = tile * pages_per_tile + page;
    const unsigned empty = (tile / kStages & 1) ^ 1;
    const bool there = active && index < pages;
    const int row = there ? (p.table[index] * p.n_kv_heads + kv_head) * 2 * p.page_size : nowhere;
    barrier_wait(&bars.keys_empty[stage], empty);
    if (lane == 0) barrier_expect(&bars.keys_full[stage], kBytes);
    __syncwarp();
    if (active) copy_box(tiles.keys(stage) + box, &w.pool, column * kSwizzleColumns, row, &bars.keys_full[stage]);

    barrier_wait(&bars.values_empty[stage], empty);
    const bool torn = tail > 0 && tile == n_tiles - 1;  // a zero probability times such a value must be zero
    if (torn) {
      const int last = pages - 1, at = (last - tile * pages_per_tile) * p.page_size;
      const T* from = static_cast<const T*>(p.kv) + ((static_cast<int64_t>(p.table[last]) * p.n_kv_heads + kv_head) * 2 + 1) * p.page_size * D;
      for (int i = lane; i < p.page_size * (D / 8); i += 32) {
        const int r = i / (D / 8), unit = i % (D / 8);
        const uint4 v = r < tail ? *reinterpret_cast<const uint4*>(from + r * D + unit * 8) : uint4{0, 0, 0, 0};
        *reinterpret_cast<uint4*>(tiles.values(stage) + unit / 8 * Tiles<D>::kColumnBytes + swizzled(at + r, unit % 8)) = v;
      }
      fence_async_shared();
      __syncwarp();
    }
    if (lane == 0) barrier_expect(&bars.values_full[stage], static_cast<unsigned>(kBytes - (torn ? p.page_size * D * 2 : 0)));
    __syncwarp();
    if (active && !(torn && index == pages - 1)) {
      copy_box(tiles.values(stage) + box, &w.pool, column * kSwizzleColumns, there ? row + p.page_size : nowhere, &bars.values_full[stage]);
    }
  }
}

// Online softmax of a thread's two rows of scores: maxima, sums, and the factor that older sums and outputs get.
struct Softmax {
  float top[2] = {kMinusInfinity, kMinusInfinity}, sum[2] = {0, 0}, rescale[2];

  // s becomes probabilities. With kMasked, keys behind `last` + 8 half are left out; key0 is the position of this lane's first.
  template <bool kMasked>
  __device__ void operator()(float (&s)[kKeys / 2], float scale, int key0, int last) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float best = kMinusInfinity;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[4 * j + 2 * half + e];
          if (kMasked && key0 + 8 * j + e > last + 8 * half) x = kMinusInfinity;
          best = fmaxf(best, x);
        }
      }
      best = fmaxf(best, __shfl_xor_sync(kFull, best, 1));
      best = fmaxf(best, __shfl_xor_sync(kFull, best, 2));
      // Tile 0 has a key for every row, so next is finite from then on.
      const float next = fmaxf(top[half], best), offset = next * scale;
      rescale[half] = exp2_approx(top[half] * scale - offset);
      top[half] = next;
      float total = 0;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[4 * j + 2 * half + e];
          x = exp2_approx(fmaf(x, scale, -offset));
          total += x;
        }
      }
      sum[half] = fmaf(sum[half], rescale[half], total);
    }
  }
};

template <class T>
__device__ inline void to_halves(uint32_t (&w)[kKeys / 4], const float (&s)[kKeys / 2]) {
#pragma unroll
  for (int i = 0; i < kKeys / 4; ++i) w[i] = pack2<T>(s[2 * i], s[2 * i + 1]);
}

// One warpgroup: 64 queries.
template <class T, int D>
__device__ inline void compute(const PrefillParams& p, const Tiles<D>& tiles, Barriers& bars, int group, int row0, int head, int n_tiles) {
  constexpr int kColumnBytes = Tiles<D>::kColumnBytes;
  const int tid = static_cast<int>(threadIdx.x) % 128, lane = tid % 32, warp = tid / 32;
  const int my_turn = 1 + group, other_turn = 2 - group, first_row = row0 + group * 64;

  unsigned char* queries = tiles.queries() + group * 64 * 128;
  const T* q = static_cast<const T*>(p.q) + head * D;
#pragma unroll
  for (int i = tid; i < 64 * (D / 8); i += 128) {
    const int r = i / (D / 8), unit = i % (D / 8);
    uint4 v{0, 0, 0, 0};
    if (first_row + r < p.rows) v = *reinterpret_cast<const uint4*>(q + (first_row + r) * p.q_stride + unit * 8);
    *reinterpret_cast<uint4*>(queries + unit / 8 * kColumnBytes + swizzled(r, unit % 8)) = v;
  }
  fence_async_shared();
  warpgroup_sync(3 + group);

  float out[D / 2], s[kKeys / 2];
  uint32_t w[kKeys / 4];
#pragma unroll
  for (int i = 0; i < D / 2; ++i) out[i] = 0;
  Softmax softmax;
  const float scale = kLog2e / sqrtf(static_cast<float>(D));
  const int my_row = warp * 16 + lane / 4, last = p.base + first_row + my_row;  // position of my first row: its last visible key

  const uint64_t q_descriptor = descriptor_k_major(shared_address(queries));
  const auto start_scores = [&](int tile) {
    const uint64_t k_descriptor = descriptor_k_major(shared_address(tiles.keys(tile % kStages)));
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      const int step = (i / 4 * kColumnBytes + i % 4 * 32) >> 4;
      wgmma_shared<T>(s, q_descriptor + step, k_descriptor + step, i > 0);
    }
    wgmma_commit();
  };
  const auto start_output = [&](int tile) {
    const uint64_t v_descriptor = descriptor_mn_major(shared_address(tiles.values(tile % kStages)), kColumnBytes);
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) wgmma_registers<T>(out, w + 4 * i, v_descriptor + (i * 2048 >> 4));
    wgmma_commit();
  };
  const auto release = [&](uint64_t* barrier) {
    if (lane == 0) barrier_arrive(barrier);
  };
  const auto wait = [&](uint64_t (&barriers)[kStages], int tile) { barrier_wait(&barriers[tile % kStages], tile / kStages & 1); };

  // Tiles below `clear` lie before every query of this warpgroup.
  const int clear = min(n_tiles, (p.base + first_row + 1) / kKeys), key0 = lane % 4 * 2;
  wait(bars.keys_full, 0);
  wgmma_fence();
  start_scores(0);
  if (group == 1 && n_tiles > 1) turn_give(other_turn);
  wgmma_wait<0>();
  pin(s);
  release(&bars.keys_empty[0]);
  if (clear > 0) {
    softmax.template operator()<false>(s, scale, key0, last);
  } else {
    softmax.template operator()<true>(s, scale, key0, last);
  }
  to_halves<T>(w, s);

  const auto step = [&](int tile, auto masked) {
    wait(bars.keys_full, tile);
    wait(bars.values_full, tile - 1);
    turn_wait(my_turn);
    pin(s);
    pin(out);
    pin(w);
    wgmma_fence();
    start_scores(tile);
    start_output(tile - 1);
    if (group == 0 || tile + 1 < n_tiles) turn_give(other_turn);
    wgmma_wait<1>();
    pin(s);
    release(&bars.keys_empty[tile % kStages]);
    softmax.template operator()<decltype(masked)::value>(s, scale, tile * kKeys + key0, last);
    pin(s);  // the exponentials stay in front of the wait
    wgmma_wait<0>();
    pin(out);
    pin(w);
    release(&bars.values_empty[(tile - 1) % kStages]);
    if (__any_sync(kFull, softmax.rescale[0] != 1.0f || softmax.rescale[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < D / 2; ++i) out[i] *= softmax.rescale[i / 2 % 2];
    }
    to_halves<T>(w, s);
  };
  int tile = 1;
  for (; tile < clear; ++tile) step(tile, std::false_type{});
  for (; tile < n_tiles; ++tile) step(tile, std::true_type{});

  wait(bars.values_full, n_tiles - 1);
  pin(out);
  pin(w);
  wgmma_fence();
  start_output(n_tiles - 1);
  wgmma_wait<0>();
  pin(out);

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += __shfl_xor_sync(kFull, sum, 1);
    sum += __shfl_xor_sync(kFull, sum, 2);
    const int r = first_row + my_row + half * 8;
    if (r >= p.rows) continue;
    const float scale_out = 1.0f / sum;
    T* to = static_cast<T*>(p.out) + (static_cast<int64_t>(r) * p.n_heads + head) * D + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
      *reinterpret_cast<uint32_t*>(to + i * 8) = pack2<T>(out[4 * i + 2 * half] * scale_out, out[4 * i + 2 * half + 1] * scale_out);
    }
  }
}

#endif  // QUEST_WGMMA_CODE

template <class T, int D>
__global__ void __launch_bounds__(kThreads, 1) prefill_wgmma_kernel(const __grid_constant__ WgmmaParams w) {
#ifdef QUEST_WGMMA_CODE
  __shared__ Barriers bars;
  const auto address = shared_address(dynamic_shared());
  const Tiles<D> tiles{dynamic_shared() + (kSwizzleBytes - address % kSwizzleBytes) % kSwizzleBytes};
  const PrefillParams& p = w.p;
  const int row0 = (static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x)) * kQueries, head = static_cast<int>(blockIdx.y);
  const int visible = p.base + min(row0 + kQueries, p.rows);  // keys that the block's last row sees
  const int n_tiles = (visible + kKeys - 1) / kKeys;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&bars.keys_full[i], 1);
      barrier_init(&bars.values_full[i], 1);
      barrier_init(&bars.keys_empty[i], 8);  // warps that compute
      barrier_init(&bars.values_empty[i], 8);
    }
    barrier_init_fence();
  }
  __syncthreads();
  dependency_wait();
  dependency_release();
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  if (warpgroup == 0) {
    registers_give<24>();
    if (threadIdx.x < 32) fetch<T, D>(w, tiles, bars, head / (p.n_heads / p.n_kv_heads), visible, n_tiles);
  } else {
    registers_take<240>();
    compute<T, D>(p, tiles, bars, warpgroup - 1, row0, head, n_tiles);
  }
#else
  __trap();  // prefill_wgmma_covers() keeps builds without this code out
#endif
}

}  // namespace

bool prefill_wgmma_covers(const PrefillParams& p) {
  const bool shape = (p.head_dim == 64 || p.head_dim == 128) && p.page_size >= 8 && p.page_size <= kKeys && p.q_stride % 8 == 0;
  return shape && p.pages * p.n_kv_heads * 2 * p.page_size < INT32_MAX && gpu_has_wgmma();
}

void prefill_attention_wgmma(const PrefillParams& p, const Launch& how) {
  if (p.rows == 0) return;
  const dim3 grid(static_cast<unsigned>((p.rows + kQueries - 1) / kQueries), static_cast<unsigned>(p.n_heads));
  const WgmmaParams params{p, map_rows(p.kv, p.type, p.head_dim, p.pages * p.n_kv_heads * 2 * p.page_size, p.page_size)};
  const size_t shared = kSwizzleBytes + size_t{1 + 2 * kStages} * kKeys * static_cast<size_t>(p.head_dim) * 2;
  with_half(p.type, [&](auto t) {
    using T = decltype(t);
    launch(how, "prefill_attention_wgmma", p.head_dim == 64 ? prefill_wgmma_kernel<T, 64> : prefill_wgmma_kernel<T, 128>, grid, kThreads, shared, params);
  });
}

}  // namespace quest::cuda

#endif  // QUEST_EMULATE
