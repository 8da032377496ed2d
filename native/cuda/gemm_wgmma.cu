// Hopper's matrix product for prefill: what gemm.cu computes, by warpgroup products.
//
//   out[r, n] (+)= sum_k in[r, k] * weight[n, k]
//
// One block per multiprocessor walks over tiles of 128 rows x 256 columns: two warpgroups of 64 rows compute, a third fetches
// steps of 64 along k through a ring of four stages (tensor maps; edges arrive as zeros), also for the next tile while this
// one is written. Two neighbours in a cluster take the same columns and fetch half of their weights each, for both: L2 cannot
// feed 48 KB per step to every multiprocessor. Tiles go down the rows first, 2048 at a time, so that weights come from memory
// once per such group.
//
// Work: 2 rows n k. 2048 x 22016 x 4096: 369 GFLOP, 0.49 ms at 762 TFLOP/s.
// Test: quest_cuda_tests --gtest_filter='Gemm*'. Time: quest_cuda_bench gemm.
#include "cuda/dispatch.cuh"

#ifdef QUEST_EMULATE

namespace quest::cuda {

bool gemm_wgmma_covers(const GemmParams&) { return false; }
void gemm_wgmma(const GemmParams&, const Launch&) { throw Error("E_UNSUPPORTED", "the emulated GPU has no wgmma"); }

}  // namespace quest::cuda

#else

#include "cuda/hopper.cuh"
#include "cuda/tensor_map.h"

namespace quest::cuda {

namespace {

constexpr int kRows = 128, kColumns = 256, kDepth = 64;  // of a tile; of a step
constexpr int kStages = 4;
constexpr int kThreads = 384;
constexpr int kInBytes = kRows * kDepth * 2, kWeightBytes = kColumns * kDepth * 2, kStageBytes = kInBytes + kWeightBytes;

struct WgmmaParams {
  GemmParams p;
  int pairs, column_tiles;  // pairs of row tiles: one per cluster
  CUtensorMap in, weight;   // boxes of [128, 64]
};

#ifdef QUEST_WGMMA_CODE

constexpr int kPairsAtOnce = 8;  // of row tiles: 2048 rows

struct Tile {
  int row0, column0;
};
// Tile of a block of the cluster.
__device__ inline Tile tile_at(const WgmmaParams& w, int index, int rank) {
  const int group = index / (kPairsAtOnce * w.column_tiles), within = index % (kPairsAtOnce * w.column_tiles);
  const int first = group * kPairsAtOnce, size = min(kPairsAtOnce, w.pairs - first);
  return {((first + within % size) * 2 + rank) * kRows, within / size * kColumns};
}

// Four words of a quad: lane l of it gives word i to lane i and takes word l of each.
__device__ inline uint4 quad_transpose(uint32_t a, uint32_t b, uint32_t c, uint32_t d, int lane) {
  const bool odd = lane & 1, upper = lane & 2;
  uint32_t t = __shfl_xor_sync(kFull, odd ? a : b, 1);
  (odd ? a : b) = t;
  t = __shfl_xor_sync(kFull, odd ? c : d, 1);
  (odd ? c : d) = t;
  t = __shfl_xor_sync(kFull, upper ? a : c, 2);
  (upper ? a : c) = t;
  t = __shfl_xor_sync(kFull, upper ? b : d, 2);
  (upper ? b : d) = t;
  return {a, b, c, d};
}

// A thread's part of [64, 256] sums.
template <class T, Epilogue kEpilogue>
__device__ inline void store(const GemmParams& p, const float (&c)[kColumns / 2], Tile tile, int group, int thread) {
  const int lane = thread % 32, row0 = tile.row0 + group * 64 + thread / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = row0 + 8 * half;
    const int64_t at = static_cast<int64_t>(row) * p.n + tile.column0;
    if constexpr (kEpilogue == Epilogue::half) {
#pragma unroll
      for (int j = 0; j < kColumns / 8; j += 4) {
        const auto word = [&](int i) { return pack2<T>(c[4 * (j + i) + 2 * half], c[4 * (j + i) + 2 * half + 1]); };
        const uint4 v = quad_transpose(word(0), word(1), word(2), word(3), lane);
        const int column = (j + lane % 4) * 8;
        if (row < p.rows && tile.column0 + column < p.n) *reinterpret_cast<uint4*>(static_cast<T*>(p.out) + at + column) = v;
      }
    } else {
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        const int column = j * 8 + lane % 4 * 2;
        if (row >= p.rows || tile.column0 + column >= p.n) continue;
        float2* to = reinterpret_cast<float2*>(static_cast<float*>(p.out) + at + column);
        float2 v{c[4 * j + 2 * half], c[4 * j + 2 * half + 1]};
        if constexpr (kEpilogue == Epilogue::residual) {
          v.x += to->x;
          v.y += to->y;
        }
        *to = v;
      }
    }
  }
}

#endif  // QUEST_WGMMA_CODE

template <class T, Epilogue kEpilogue>
__global__ void QUEST_CLUSTER(2) __launch_bounds__(kThreads, 1) gemm_wgmma_kernel(const __grid_constant__ WgmmaParams w) {
#ifdef QUEST_WGMMA_CODE
  __shared__ uint64_t full[kStages], empty[kStages];
  const auto address = shared_address(dynamic_shared());
  unsigned char* stages = dynamic_shared() + (kSwizzleBytes - address % kSwizzleBytes) % kSwizzleBytes;
  const GemmParams& p = w.p;
  const int rank = static_cast<int>(cluster_rank()), cluster = static_cast<int>(blockIdx.x) / 2, clusters = static_cast<int>(gridDim.x) / 2;
  const int tiles = w.pairs * w.column_tiles, steps = (p.k + kDepth - 1) / kDepth;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], 16);  // warps that compute, of both blocks
    }
    barrier_init_fence();
  }
  cluster_sync();
  dependency_wait();
  dependency_release();
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  int at = 0;  // steps so far
  if (warpgroup == 0) {
    registers_give<40>();
    if (threadIdx.x == 0) {
      for (int index = cluster; index < tiles; index += clusters) {
        const Tile tile = tile_at(w, index, rank);
        for (int step = 0; step < steps; ++step, ++at) {
          const int stage = at % kStages;
          unsigned char* to = stages + stage * kStageBytes;
          barrier_wait(&empty[stage], (at / kStages & 1) ^ 1);
          barrier_expect(&full[stage], kStageBytes);
          copy_box(to, &w.in, step * kDepth, tile.row0, &full[stage]);
          copy_box_to(to + kInBytes + rank * (kWeightBytes / 2), &w.weight, step * kDepth, tile.column0 + rank * (kColumns / 2), &full[stage], 3);
        }
      }
    }
  } else {
    registers_take<232>();
    const int group = warpgroup - 1, thread = static_cast<int>(threadIdx.x) % 128;
    const auto release = [&](int step) {
      if (thread % 32 < 2) barrier_arrive_at(&empty[step % kStages], static_cast<unsigned>(thread % 32));
    };
    float c[kColumns / 2];
    for (int index = cluster; index < tiles; index += clusters) {
      for (int step = 0; step < steps; ++step, ++at) {
        const uint32_t in = shared_address(stages) + static_cast<uint32_t>(at % kStages * kStageBytes);
        const uint64_t a = descriptor_k_major(in + static_cast<uint32_t>(group * 64 * 128)), b = descriptor_k_major(in + kInBytes);
        barrier_wait(&full[at % kStages], at / kStages & 1);
        pin(c);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kDepth / 16; ++i) wgmma_shared<T>(c, a + i * 2, b + i * 2, step > 0 || i > 0);
        wgmma_commit();
        wgmma_wait<1>();  // the step before is done with its stage
        if (step > 0) release(at - 1);
      }
      wgmma_wait<0>();
      pin(c);
      release(at - 1);
      store<T, kEpilogue>(p, c, tile_at(w, index, rank), group, thread);
    }
  }
  cluster_sync();  // the neighbour may still write here
#else
  __trap();  // gemm_wgmma_covers() keeps builds without this code out
#endif
}

}  // namespace

bool gemm_wgmma_covers(const GemmParams& p) {
  return p.rows > 0 && p.k % 8 == 0 && p.n % 8 == 0 && p.epilogue != Epilogue::silu_mul && gpu_has_wgmma();
}

void gemm_wgmma(const GemmParams& p, const Launch& how) {
  const WgmmaParams params{p, (p.rows + 2 * kRows - 1) / (2 * kRows), (p.n + kColumns - 1) / kColumns, map_rows(p.in, p.type, p.k, p.rows, kRows),
                           map_rows(p.weight, p.type, p.k, p.n, kColumns / 2)};
  const int clusters = std::min(multiprocessors() / 2, params.pairs * params.column_tiles);
  with_half(p.type, [&](auto t) {
    using T = decltype(t);
    auto* kernel = p.epilogue == Epilogue::half   ? gemm_wgmma_kernel<T, Epilogue::half>
                   : p.epilogue == Epilogue::fp32 ? gemm_wgmma_kernel<T, Epilogue::fp32>
                                                  : gemm_wgmma_kernel<T, Epilogue::residual>;
    launch(how, "gemm_wgmma", kernel, dim3(static_cast<unsigned>(2 * clusters)), kThreads, size_t{kSwizzleBytes} + kStages * kStageBytes, params);
  });
}

}  // namespace quest::cuda

#endif  // QUEST_EMULATE
