// Products of one row with 4-bit weights that follow each other, in one kernel: a layer's O, gate and up, down, and the next layer's QKV.
//
// Between kernels the memory stands still for some four microseconds (the last block, the launch, the norm, the first reads), as long as
// the products themselves take with 4-bit weights. Here a block stays, and weights wait for nothing: each warp has the copy engine bring its
// units into a ring in shared memory, in the order in which it will need them, over the ends of tiles and of products. Where products
// meet, all blocks wait for each other (grid_barrier.cuh), read the new input and go on with weights that have arrived meanwhile.
//
// A block is two halves of eight warps, each with the tiles that a block of int4_gemv.cu would have: the sums are the same bits. The
// warps of a half share out the units of a tile; their sums wait in shared memory until eight tiles are done, or all, so that warps
// do not meet in between.
//
// Blocks take so much shared memory that two never share a multiprocessor: where some start early, others would stay empty (7B int4, 32K,
// Quest 2048: 3.9 ms per token against 3.1). With ten slots instead of five the attention kernel no longer fits beside it (3.4 ms). The same chain over 16-bit weights
// gained nothing, rows handed out one by one or not: 10.8 ms against 10.4 ms for the full cache.
//
// Bytes: 0.53 n k of each product, once. A layer of Llama-2-7B: 107.5 MB, 35 us at 3.09 TB/s.
// Measured on an H100: 51 us, against 61 us for the four kernels.
// Test: quest_cuda_tests --gtest_filter='Int4Chain*'.
#include <algorithm>
#include <string>

#include "cuda/grid_barrier.cuh"
#include "cuda/int4_unit.cuh"
#include "cuda/warp_ring.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 16, kHalf = kWarps / 2;
constexpr int kThreads = kWarps * 32;
constexpr int kHeld = 8;  // tiles of a half whose sums wait
constexpr int kScratchBytes = 128;
constexpr int kSumBytes = 2 * kHeld * kHalf * kInt4Outputs * 4;
constexpr int kSlots = 5;
constexpr size_t kAlone = 114 * 1024;  // shared memory that no two blocks of a multiprocessor can have
template <int kGroups>
using UnitRing = WarpRing<kSlots, int4_block_bytes(kInt4Inputs / kGroups)>;

template <int kGroups>
size_t shared_bytes(int most_columns) {
  const size_t bytes = static_cast<size_t>(kWarps) * (UnitRing<kGroups>::kBytes + UnitRing<kGroups>::kBarrierBytes) + kSumBytes + kScratchBytes +
                       static_cast<size_t>(int4_units(most_columns)) * kInt4Inputs * 2;
  return bytes < kAlone ? kAlone : bytes;
}

// Where a warp is on its way through the weights.
struct Place {
  int product, tile, unit, tiles, units;
  const unsigned char* at;
};

template <int kGroups>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads, 2) int4_chain_kernel(Int4GemvChainParams p) {
#if defined(QUEST_EMULATE) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
  constexpr int kBytes = int4_block_bytes(kInt4Inputs / kGroups);
  unsigned char* shared = dynamic_shared();
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, half = tid / 32 / kHalf, warp = tid / 32 % kHalf;
  using Ring = UnitRing<kGroups>;
  unsigned char* barriers = shared + kWarps * Ring::kBytes;
  auto* sums = reinterpret_cast<float*>(barriers + kWarps * Ring::kBarrierBytes);  // [half][tile][warp][output]
  auto* scratch = sums + kSumBytes / 4;
  auto* in = reinterpret_cast<__half*>(scratch + kScratchBytes / 4);
  Ring ring(shared + tid / 32 * Ring::kBytes, barriers + tid / 32 * Ring::kBarrierBytes, lane);
  const int blocks = static_cast<int>(gridDim.x), first = static_cast<int>(blockIdx.x) + blocks * half, stride = 2 * blocks;

  Place next{-1, 0, 0, 0, 0, nullptr};
  const auto enter_tile = [&] {
    next.unit = warp;
    next.at = static_cast<const unsigned char*>(p.products[next.product].weight) + (static_cast<int64_t>(next.tile) * next.units + warp) * kBytes;
  };
  const auto enter_product = [&] {
    while (++next.product < p.n) {
      next.tiles = int4_tiles(p.products[next.product].n);
      next.units = int4_units(p.products[next.product].k);
      next.tile = first;
      if (first < next.tiles && warp < next.units) return enter_tile();
    }
  };
  const auto fetch = [&](int slot) {
    if (next.product >= p.n) return;
    ring.fill(slot, next.at, kBytes);
    next.unit += kHalf;
    next.at += kHalf * kBytes;
    if (next.unit < next.units) return;
    next.tile += stride;
    if (next.tile < next.tiles) {
      enter_tile();
    } else {
      enter_product();
    }
  };
  enter_product();
#pragma unroll
  for (int i = 0; i < kSlots; ++i) fetch(i);

  for (int f = 0; f < p.n; ++f) {
    if (f == 0) {
      dependency_wait();
      dependency_release();
    } else {
      grid_barrier(p.barrier);
    }
    const Int4GemvParams& g = p.products[f];
    const int tiles = int4_tiles(g.n), units = int4_units(g.k), rounds = (tiles + stride - 1) / stride;
    stage_int4_inputs<kThreads>(g, in, units * kInt4Inputs, scratch);
    __syncthreads();
    for (int round = 0; round < rounds; ++round) {
      const int tile = first + round * stride;
      if (tile < tiles) {
        float acc[4] = {0, 0, 0, 0};
        for (int u = warp; u < units; u += kHalf) {
          const int slot = ring.take();
          Int4Unit<kGroups> unit;
          unit.template load<false>(ring.at(slot), lane);
          __syncwarp();
          fetch(slot);
          int4_multiply(acc, unit, in, u, 4, lane);
        }
        float* mine = sums + ((half * kHeld + round % kHeld) * kHalf + warp) * kInt4Outputs;
        if (lane % 4 == 0) {
          mine[lane / 4] = acc[0];
          mine[lane / 4 + 8] = acc[2];
        }
      }
      if (round % kHeld != kHeld - 1 && round + 1 < rounds) continue;
      __syncthreads();
      // The waiting sums, one output per thread: [half][tile][output].
      const int t = tid / kInt4Outputs % kHeld, row = tid % kInt4Outputs, from = round / kHeld * kHeld + t;
      const int at = static_cast<int>(blockIdx.x) + blocks * (tid / kInt4Outputs / kHeld) + from * stride;
      if (tid < 2 * kHeld * kInt4Outputs && from <= round && at < tiles) {
        const auto sum = [&](int output) {
          const float* of = sums + tid / kInt4Outputs * kHalf * kInt4Outputs + output;
          float value = 0;
#pragma unroll
          for (int w = 0; w < kHalf; ++w) value += of[w * kInt4Outputs];
          return value;
        };
        if (g.epilogue != Epilogue::silu_mul) {
          store_int4_output(g, at, 0, row, sum(row), 0);
        } else if (row < 8) {
          store_int4_output(g, at, 0, row, sum(row), sum(row + 8));
        }
      }
      __syncthreads();
    }
  }
#endif
}

template <int kGroups>
void launch_groups(const Int4GemvChainParams& p, const Launch& how) {
  int most = 0;
  for (int i = 0; i < p.n; ++i) most = p.products[i].k > most ? p.products[i].k : most;
  const unsigned blocks = static_cast<unsigned>(p.products[0].sms);
  launch_side_by_side(how, "int4_gemv_chain", int4_chain_kernel<kGroups>, dim3(blocks), kThreads, shared_bytes<kGroups>(most), p);
}

}  // namespace

std::string int4_chain_refusal(int most_columns, int blocks) {
  int device = 0, mps = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&mps, cudaDevAttrMpsEnabled, device), "cudaDeviceGetAttribute");
  if (mps != 0) return "processes share the GPU through MPS";  // and their chains' blocks each other's places
  if (shared_bytes<4>(most_columns) > shared_limit()) return "inputs of " + std::to_string(most_columns) + " columns do not fit in shared memory";
  const int resident = std::min({resident_blocks("int4_gemv_chain", int4_chain_kernel<1>, kThreads, shared_bytes<1>(most_columns)),
                                 resident_blocks("int4_gemv_chain", int4_chain_kernel<2>, kThreads, shared_bytes<2>(most_columns)),
                                 resident_blocks("int4_gemv_chain", int4_chain_kernel<4>, kThreads, shared_bytes<4>(most_columns))});
  if (resident < blocks) return std::to_string(resident) + " of " + std::to_string(blocks) + " blocks fit on the GPU at once";
  return "";
}

void int4_gemv_chain(const Int4GemvChainParams& p, const Launch& how) {
  if (p.products[0].group == 128) return launch_groups<1>(p, how);
  if (p.products[0].group == 64) return launch_groups<2>(p, how);
  launch_groups<4>(p, how);
}

}  // namespace quest::cuda
