// Causal attention of a chunk of queries on tensor cores, keys and values in pages.
//
//   out[i, h] = softmax(q[i, h] . K[0 .. base + i]^T / sqrt(d)) V
//
// The chunk's own keys are already in the cache. A block takes 128 queries of one head (four warps of 32); keys pass in tiles
// of 64 (32 where a block has less than 102 KB of shared memory) through two stages filled by cp.async, each row looked up in the page table. Scores, maxima and sums stay in
// registers (online softmax); probabilities are rounded to half for the second product, as in FlashAttention-2. Rows in
// shared memory are padded to an odd number of 16-byte units. Blocks of the longest rows start first.
// With 16 queries per warp every product waits for shared memory (each warp reads all of K and V): 256 TFLOP/s on an H100.
// With 32 each fragment of K and V serves twice; queries are read again for each tile, since their registers hold outputs.
//
// Work: 4 d per (query, visible key, head). 32 heads, d 128, the last 2048 of 32K: 1.0 TFLOP, 1.4 ms at 762 TFLOP/s;
// measured 3.6 ms (294 TFLOP/s). Test: quest_cuda_tests --gtest_filter='PrefillAttention*'.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

constexpr int kRowTiles = 2;  // of 16 queries per warp
constexpr int kQueries = 4 * kRowTiles * 16;
constexpr int kThreads = 128;

template <class T, int D, int kKeys>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads) prefill_kernel(PrefillParams p) {
  constexpr int kPitch = D + 8;
  constexpr int kChunks = D / 8;  // 16-byte units of a row
  T* q_tile = reinterpret_cast<T*>(dynamic_shared());
  const auto k_tile = [&](int stage) { return q_tile + (kQueries + 2 * stage * kKeys) * kPitch; };
  const auto v_tile = [&](int stage) { return q_tile + (kQueries + (2 * stage + 1) * kKeys) * kPitch; };
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  const int row0 = (static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x)) * kQueries;
  const int head = static_cast<int>(blockIdx.y), kv_head = head / (p.n_heads / p.n_kv_heads);
  const int rows = min(kQueries, p.rows - row0), first = p.base + row0;  // position of the block's first query
  const int visible = first + rows;                                     // keys that the last row sees
  const int shift = 31 - __clz(p.page_size);
  const int64_t page_half = static_cast<int64_t>(p.page_size) * D;
  const T* kv = static_cast<const T*>(p.kv) + kv_head * 2 * page_half;
  dependency_wait();
  dependency_release();

  const T* q = static_cast<const T*>(p.q) + row0 * p.q_stride + head * D;
  for (int i = tid; i < kQueries * kChunks; i += kThreads) {
    const int r = i / kChunks, c = i % kChunks * 8;
    copy_async16(q_tile + r * kPitch + c, q + (r < rows ? r * p.q_stride + c : 0), r < rows);
  }
  const auto fetch = [&](int tile) {
    T* keys = k_tile(tile % 2);
    T* values = v_tile(tile % 2);
    for (int i = tid; i < kKeys * kChunks; i += kThreads) {
      const int r = i / kChunks, c = i % kChunks * 8, position = tile * kKeys + r;
      const bool there = position < visible;
      const T* from = kv;
      if (there) from += static_cast<int64_t>(p.table[position >> shift]) * p.n_kv_heads * 2 * page_half + (position & (p.page_size - 1)) * D + c;
      copy_async16(keys + r * kPitch + c, from, there);
      copy_async16(values + r * kPitch + c, from + (there ? page_half : 0), there);
    }
  };
  const int tiles = (visible + kKeys - 1) / kKeys;
  fetch(0);
  copy_async_commit();

  float out[kRowTiles][D / 8][4], top[kRowTiles][2], sum[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    top[m][0] = top[m][1] = kMinusInfinity;
    sum[m][0] = sum[m][1] = 0;
#pragma unroll
    for (int i = 0; i < D / 8; ++i) out[m][i][0] = out[m][i][1] = out[m][i][2] = out[m][i][3] = 0;
  }
  const float scale = kLog2e / sqrtf(static_cast<float>(D));
  const int warp_row = warp * kRowTiles * 16, my_row = warp_row + lane / 4;  // and + 8, + 16, ...

  for (int tile = 0; tile < tiles; ++tile) {
    copy_async_wait<0>();
    __syncthreads();
    if (tile + 1 < tiles) fetch(tile + 1);
    copy_async_commit();
    float s[kRowTiles][kKeys / 8][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) s[m][j][0] = s[m][j][1] = s[m][j][2] = s[m][j][3] = 0;
    }
    const T* keys = k_tile(tile % 2);
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) load_matrix4(a[m], q_tile + (warp_row + m * 16 + lane % 16) * kPitch + i * 16 + lane / 16 * 8);
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t b[4];
        load_matrix4(b, keys + (j * 16 + lane / 16 * 8 + lane % 8) * kPitch + i * 16 + lane / 8 % 2 * 8);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          mma16816<T>(s[m][2 * j], a[m], b[0], b[1]);
          mma16816<T>(s[m][2 * j + 1], a[m], b[2], b[3]);
        }
      }
    }
    // Only the tiles that reach past the block's first query need the causal mask.
    const bool masked = (tile + 1) * kKeys > first + 1;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int last = first + my_row + m * 16 + half * 8;  // position of this row: its last visible key
        float best = kMinusInfinity;
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[m][j][e] *= scale;
            if (masked && tile * kKeys + j * 8 + lane % 4 * 2 + e % 2 > last) s[m][j][e] = kMinusInfinity;
            best = fmaxf(best, s[m][j][e]);
          }
        }
        best = fmaxf(best, __shfl_xor_sync(kFull, best, 1));
        best = fmaxf(best, __shfl_xor_sync(kFull, best, 2));
        // Tile 0 has a key for every row, so next is finite from then on.
        const float next = fmaxf(top[m][half], best);
        const float old_scale = top[m][half] == next ? 1.0f : exp2_approx(top[m][half] - next);
        top[m][half] = next;
        sum[m][half] *= old_scale;
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[m][j][e] = exp2_approx(s[m][j][e] - next);
            sum[m][half] += s[m][j][e];
          }
        }
#pragma unroll
        for (int i = 0; i < D / 8; ++i) {
          out[m][i][2 * half] *= old_scale;
          out[m][i][2 * half + 1] *= old_scale;
        }
      }
    }
    const T* values = v_tile(tile % 2);
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      uint32_t w[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        w[m][0] = pack2<T>(s[m][2 * j][0], s[m][2 * j][1]);
        w[m][1] = pack2<T>(s[m][2 * j][2], s[m][2 * j][3]);
        w[m][2] = pack2<T>(s[m][2 * j + 1][0], s[m][2 * j + 1][1]);
        w[m][3] = pack2<T>(s[m][2 * j + 1][2], s[m][2 * j + 1][3]);
      }
#pragma unroll
      for (int i = 0; i < D / 16; ++i) {
        uint32_t b[4];
        load_matrix4_transposed(b, values + (j * 16 + lane % 16) * kPitch + i * 16 + lane / 16 * 8);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          mma16816<T>(out[m][2 * i], w[m], b[0], b[1]);
          mma16816<T>(out[m][2 * i + 1], w[m], b[2], b[3]);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[m][half] += __shfl_xor_sync(kFull, sum[m][half], 1);
      sum[m][half] += __shfl_xor_sync(kFull, sum[m][half], 2);
      const int r = my_row + m * 16 + half * 8;
      if (r >= rows) continue;
      const float scale_out = 1.0f / sum[m][half];
      T* to = static_cast<T*>(p.out) + (static_cast<int64_t>(row0 + r) * p.n_heads + head) * D + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        *reinterpret_cast<uint32_t*>(to + i * 8) = pack2<T>(out[m][i][2 * half] * scale_out, out[m][i][2 * half + 1] * scale_out);
      }
    }
  }
}

size_t shared_bytes(int keys, int d) { return static_cast<size_t>(kQueries + 4 * keys) * static_cast<size_t>(d + 8) * 2; }

}  // namespace

void prefill_attention(const PrefillParams& p, const Launch& how) {
  prefill_wgmma_covers(p) ? prefill_attention_wgmma(p, how) : prefill_attention_mma(p, how);
}

void prefill_attention_mma(const PrefillParams& p, const Launch& how) {
  if (p.rows == 0) return;
  const dim3 grid(static_cast<unsigned>((p.rows + kQueries - 1) / kQueries), static_cast<unsigned>(p.n_heads));
  with_half(p.type, [&](auto t) {
    with_head_dim(p.head_dim, [&](auto d) {
      using T = decltype(t);
      constexpr int D = decltype(d)::value;
      const auto with_keys = [&](auto keys) {
        constexpr int kKeys = decltype(keys)::value;
        launch(how, "prefill_attention", prefill_kernel<T, D, kKeys>, grid, kThreads, shared_bytes(kKeys, D), p);
      };
      if (shared_bytes(64, D) <= shared_limit()) return with_keys(std::integral_constant<int, 64>{});
      with_keys(std::integral_constant<int, 32>{});
    });
  });
}

}  // namespace quest::cuda
