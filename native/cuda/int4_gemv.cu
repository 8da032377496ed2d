// Matrix-vector products with 4-bit weights for decode steps: gemv.cu's products, prologues and epilogues at a quarter of the bytes.
//
//   out[r, n] = sum_k in[r, k] * (q[n, k] - zero[n, k / group]) * scale[n, k / group]     in fp16; sums fp32
//
// At three bytes per nanosecond a multiprocessor gets some 45 weights per cycle, too many for fp32 arithmetic with conversions, so the
// products run on the tensor cores (int4_unit.cuh): up to eight rows of the input are the columns of B and cost no more than one.
//
// A block of eight warps takes tiles of 16 outputs; its warps share out the units of 128 inputs (a contiguous kilobyte each) and add
// up through shared memory in a fixed order. Every lane keeps four units in flight, over the ends of tiles; the first are asked for
// before the prologue, and with programmatic launch before the predecessor has ended. The inputs lie in shared memory as B operands.
//
// Bytes: 0.53 n k. 4096 x 4096: 8.9 MB, 3.0 us at 3.0 TB/s; a layer of Llama-2-7B: 107.5 MB, 36 us.
// Measured on an H100, one row: o 46%, qkv 60%, gate_up 64%, down 56% of the read bandwidth, short of the 60% wanted at 4096 x 4096.
// Rings filled by cp.async gave the same alone and made whole steps slower (7B int4, 32K, Quest 2048: 4.4 ms against 3.7 ms).
// Test: quest_cuda_tests --gtest_filter='Int4*'. Time: quest_cuda_bench int4.
#include <algorithm>

#include "cuda/dispatch.cuh"
#include "cuda/int4_unit.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kAhead = 4;                   // units in flight per lane
constexpr size_t kMaxInputBytes = 190 * 1024;  // in shared memory, where the GPU has it
constexpr size_t kSumBytes = 9 * 1024;         // beside it

// Stores one tile from the sums of the block's warps: partials [kWarps][16 rows of the tile][rows of the input].
__device__ inline void store_tile(const Int4GemvParams& p, int tile, const float* partials) {
  const int tid = static_cast<int>(threadIdx.x), rows = p.rows, width = kInt4Outputs * rows;
  const bool silu = p.epilogue == Epilogue::silu_mul;
  if (tid >= (silu ? width / 2 : width)) return;
  const auto sum = [&](int at) {
    float value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value += partials[w * width + at];
    return value;
  };
  store_int4_output(p, tile, tid % rows, tid / rows, sum(tid), silu ? sum(tid + width / 2) : 0);
}

template <int kGroups>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads, 2) int4_gemv_kernel(Int4GemvParams p) {
  __shared__ float scratch[kWarps];
  __shared__ float partials[2][kWarps * kInt4Outputs * kGemvRows];  // two tiles in turn: one barrier each
  auto* in = reinterpret_cast<__half*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, block = static_cast<int>(blockIdx.x);
  const int tiles = int4_tiles(p.n), units = int4_units(p.k), stride = static_cast<int>(gridDim.x);
  constexpr int kBytes = int4_block_bytes(kInt4Inputs / kGroups);

  Int4Unit<kGroups> held[kAhead];
  const unsigned char* next = static_cast<const unsigned char*>(p.weight) + (static_cast<int64_t>(block) * units + warp) * kBytes;
  int load_tile = warp < units ? block : tiles, load_unit = warp;
  const auto load = [&](Int4Unit<kGroups>& to) {
    if (load_tile >= tiles) return;
    to.template load<true>(next, lane);
    load_unit += kWarps;
    next += kWarps * kBytes;
    if (load_unit < units) return;
    next += (static_cast<int64_t>(stride) * units + warp - load_unit) * kBytes;
    load_unit = warp;
    load_tile += stride;
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load(held[i]);
  dependency_wait();
  dependency_release();
  stage_int4_inputs<kThreads>(p, in, units * kInt4Inputs, scratch);
  __syncthreads();

  const int lanes = 4 * p.rows;  // that hold a column of B
  float acc[4];
  const auto multiply = [&](Int4Unit<kGroups>& unit, int u) {
    int4_multiply(acc, unit, in, u, lanes, lane);
    load(unit);
  };
  int slot = 0;  // which of the held units is the next to multiply
  int buffer = 0;
  for (int tile = block; tile < tiles; tile += stride, buffer ^= 1) {
    acc[0] = acc[1] = acc[2] = acc[3] = 0;
    for (int u = warp; u < units; u += kWarps, slot = (slot + 1) % kAhead) {
      // Not held[slot], which would put them into memory.
      if (slot == 0) multiply(held[0], u);
      if (slot == 1) multiply(held[1], u);
      if (slot == 2) multiply(held[2], u);
      if (slot == 3) multiply(held[3], u);
    }
    float* mine = partials[buffer] + warp * kInt4Outputs * p.rows;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = lane % 4 * 2 + e % 2;
      if (column < p.rows) mine[(lane / 4 + e / 2 * 8) * p.rows + column] = acc[e];
    }
    __syncthreads();
    store_tile(p, tile, partials[buffer]);
  }
}

template <int kGroups>
void launch_groups(const Int4GemvParams& p, const Launch& how) {
  const int tiles = int4_tiles(p.n);
  const dim3 grid(static_cast<unsigned>(tiles < 2 * p.sms ? tiles : 2 * p.sms));
  const size_t shared = size_t{2} * static_cast<size_t>(p.rows) * static_cast<size_t>(int4_units(p.k)) * kInt4Inputs;
  launch(how, "int4_gemv", int4_gemv_kernel<kGroups>, grid, kThreads, shared, p);
}

const void* skip_bytes(const void* p, int64_t bytes) { return p ? static_cast<const unsigned char*>(p) + bytes : nullptr; }

}  // namespace

void int4_gemv(const Int4GemvParams& all, const Launch& how) {
  const auto space = static_cast<int>(std::min(kMaxInputBytes, shared_limit() - kSumBytes)), fit = space / (2 * int4_units(all.k) * kInt4Inputs);
  if (fit < 1) throw Error("E_UNSUPPORTED", "a 4-bit matrix has " + std::to_string(all.k) + " inputs, this GPU's kernels take up to " + std::to_string(space / 2));
  const int most = fit < kGemvRows ? fit : kGemvRows;
  const int64_t out_bytes = all.epilogue == Epilogue::half       ? int64_t{2} * all.n
                            : all.epilogue == Epilogue::silu_mul ? all.n
                                                                 : int64_t{4} * all.n;
  for (int row = 0; row < all.rows;) {
    Int4GemvParams p = all;
    p.rows = all.rows - row < most ? all.rows - row : most;
    p.in = skip_bytes(all.in, int64_t{2} * row * all.k);
    if (all.norm_x) p.norm_x = all.norm_x + static_cast<int64_t>(row) * all.k;
    p.out = static_cast<unsigned char*>(all.out) + row * out_bytes;
    if (p.group == 128) {
      launch_groups<1>(p, how);
    } else if (p.group == 64) {
      launch_groups<2>(p, how);
    } else {
      launch_groups<4>(p, how);
    }
    row += p.rows;
  }
}

}  // namespace quest::cuda
