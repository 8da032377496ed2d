// Matrix-vector products for decode steps of one to eight rows, with what surrounds them fused in.
//
//   out[r, n] = sum_k in[r, k] * weight[n, k]          in, weight half; sums fp32
//   prologue: in = rmsnorm(x) * norm_weight, recomputed by every block from the fp32 residual stream
//   epilogue: store half or fp32, add to the residual stream, or silu(gate) * up of rows i and n/2 + i
//
// Blocks stay (two per multiprocessor), keep the inputs in shared memory and hand weight rows to their warps. A warp loads
// 16 bytes per lane, four loads at a time, one batch ahead of the arithmetic; the first batch is asked for before the
// prologue, and with programmatic launch before the predecessor has ended, since weights depend on nothing; the second comes to L2
// while the prologue runs.
//
// Bytes: 2 n k once. 4096 x 4096: 33.5 MB, 11 us at 3.0 TB/s; a layer of Llama-2-7B: 405 MB, 135 us.
// Measured on an H100, one row: qkv 96%, o 90%, gate_up 95%, down 91%, lm_head 98% of the read bandwidth; eight rows: half of
// that, bound by the conversion of the inputs.
// Test: quest_cuda_tests --gtest_filter='Gemv*'. Time: quest_cuda_bench gemv.
#include <algorithm>

#include "cuda/dispatch.cuh"
#include "cuda/gemv_norm.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * 32;
constexpr int kBatch = 4;                     // loads in flight per lane
constexpr int kStep = 32 * 8 * kBatch;        // elements of a weight row per batch
constexpr size_t kMaxInputBytes = 200 * 1024;  // in shared memory, where the GPU has it

template <class T, int kRows, Epilogue kEpilogue>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads, kRows < 8 ? 2 : 1) gemv_kernel(GemvParams p) {
  __shared__ float scratch[kWarps];
  T* in = reinterpret_cast<T*>(dynamic_shared());  // [kRows, k]
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  constexpr int kParts = kEpilogue == Epilogue::silu_mul ? 2 : 1;  // weight rows per output
  const int outputs = p.n / kParts, stride = static_cast<int>(gridDim.x) * kWarps;
  const T* weight = static_cast<const T*>(p.weight);

  int output = static_cast<int>(blockIdx.x) * kWarps + warp, part = 0, at = 0;  // what `w` holds
  uint4 w[kBatch];
  const auto load = [&](int o, int which, int k0) {
    if (o >= outputs) return;
    const T* row = weight + (static_cast<int64_t>(which) * outputs + o) * p.k;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int k = k0 + (i * 32 + lane) * 8;
      w[i] = k < p.k ? load_streaming(row + k) : uint4{0, 0, 0, 0};
    }
  };
  load(output, 0, 0);
  const NormPrologue<kThreads> norm(p.norm_weight, p.norm_x ? p.k : 0);
  dependency_wait();
  dependency_release();
  // Reads of the second batch, for the time of the prologue. (Asked for before the predecessor ends, they would delay its last reads.)
  if (output < outputs && lane == 0 && kStep < p.k) {
    prefetch_to_l2(weight + static_cast<int64_t>(output) * p.k + kStep, static_cast<unsigned>(min(kStep, p.k - kStep)) * sizeof(T));
  }

  for (int r = 0; r < p.rows; ++r) {
    T* to = in + static_cast<int64_t>(r) * p.k;
    if (p.norm_x) {
      norm.row(p.norm_x + static_cast<int64_t>(r) * p.k, p.eps, scratch, to);
    } else {
      const T* from = static_cast<const T*>(p.in) + static_cast<int64_t>(r) * p.k;
      for (int i = tid * 8; i < p.k; i += kThreads * 8) *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
    }
  }
  __syncthreads();

  float acc[kRows], gate[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) acc[r] = gate[r] = 0;
  while (output < outputs) {
    // The batch to ask for next.
    int next_at = at + kStep, next_part = part, next_output = output;
    if (next_at >= p.k) {
      next_at = 0;
      if (++next_part == kParts) next_part = 0, next_output += stride;
    }
    uint4 now[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) now[i] = w[i];
    load(next_output, next_part, next_at);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int k = at + (i * 32 + lane) * 8;
      if (k >= p.k) continue;
      float a[8];
      unpack8<T>(now[i], a);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= p.rows) continue;
        float b[8];
        unpack8<T>(*reinterpret_cast<const uint4*>(in + static_cast<int64_t>(r) * p.k + k), b);
#pragma unroll
        for (int j = 0; j < 8; ++j) acc[r] = fmaf(a[j], b[j], acc[r]);
      }
    }
    if (next_at == 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= p.rows) continue;
        const float value = warp_sum(acc[r]);
        acc[r] = 0;
        const int64_t to = static_cast<int64_t>(r) * outputs + output;
        if constexpr (kEpilogue == Epilogue::silu_mul) {
          if (part == 0) {
            gate[r] = value;
          } else if (lane == 0) {
            static_cast<T*>(p.out)[to] = from_float<T>(gate[r] / (1.0f + __expf(-gate[r])) * value);
          }
        } else if (lane == 0) {
          if constexpr (kEpilogue == Epilogue::half) static_cast<T*>(p.out)[to] = from_float<T>(value);
          if constexpr (kEpilogue == Epilogue::fp32) static_cast<float*>(p.out)[to] = value;
          if constexpr (kEpilogue == Epilogue::residual) static_cast<float*>(p.out)[to] += value;
        }
      }
    }
    at = next_at;
    part = next_part;
    output = next_output;
  }
}

template <class T, int kRows>
void launch_rows(const GemvParams& p, const Launch& how) {
  const int outputs = p.epilogue == Epilogue::silu_mul ? p.n / 2 : p.n;
  const int blocks = (outputs + kWarps - 1) / kWarps;
  const dim3 grid(static_cast<unsigned>(blocks < 2 * p.sms ? blocks : 2 * p.sms));
  const size_t shared = static_cast<size_t>(p.rows) * static_cast<size_t>(p.k) * sizeof(T);
  auto* kernel = p.epilogue == Epilogue::half       ? gemv_kernel<T, kRows, Epilogue::half>
                 : p.epilogue == Epilogue::fp32     ? gemv_kernel<T, kRows, Epilogue::fp32>
                 : p.epilogue == Epilogue::residual ? gemv_kernel<T, kRows, Epilogue::residual>
                                                    : gemv_kernel<T, kRows, Epilogue::silu_mul>;
  launch(how, "gemv", kernel, grid, kThreads, shared, p);
}

const void* skip_bytes(const void* p, int64_t bytes) { return p ? static_cast<const unsigned char*>(p) + bytes : nullptr; }

}  // namespace

void gemv(const GemvParams& all, const Launch& how) {
  const auto space = static_cast<int>(std::min(kMaxInputBytes, shared_limit() - 1024)), fit = space / (2 * all.k);
  if (fit < 1) throw Error("E_UNSUPPORTED", "a matrix has " + std::to_string(all.k) + " columns, this GPU's kernels take up to " + std::to_string(space / 2));
  const int64_t out_bytes = all.epilogue == Epilogue::half       ? int64_t{2} * all.n
                            : all.epilogue == Epilogue::silu_mul ? all.n
                                                                 : int64_t{4} * all.n;
  for (int row = 0; row < all.rows;) {
    GemvParams p = all;
    p.rows = all.rows - row;
    if (p.rows > kGemvRows) p.rows = kGemvRows;
    if (p.rows > fit) p.rows = fit;
    p.in = skip_bytes(all.in, int64_t{2} * row * all.k);
    if (all.norm_x) p.norm_x = all.norm_x + static_cast<int64_t>(row) * all.k;
    p.out = static_cast<unsigned char*>(all.out) + row * out_bytes;
    with_half(p.type, [&](auto t) {
      using T = decltype(t);
      if (p.rows == 1) return launch_rows<T, 1>(p, how);
      if (p.rows == 2) return launch_rows<T, 2>(p, how);
      if (p.rows <= 4) return launch_rows<T, 4>(p, how);
      launch_rows<T, 8>(p, how);
    });
    row += p.rows;
  }
}

}  // namespace quest::cuda
