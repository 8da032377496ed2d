// Attention and page scores of up to eight query heads on tensor cores: keys, or pages, by heads.
//
// Products are m16n8k16, the heads of a group are the eight columns (missing ones are zeros). A lane holds, of scores, rows
// lane/4 + {0, 8} and heads 2(lane%4) + {0, 1}. The order of columns within a product does not matter as long as both sides
// agree, so lane%4 = c takes chunk 4j + c (eight halves, one 16-byte load) for two products: no transposed loads.
//
// The bound of q . k over a page: the larger of q_i min_i and q_i max_i is q_i max_i for q_i >= 0 and q_i min_i otherwise, so
// the sum of the larger ones is q+ . max + q- . min. estimate and the fused kernel share this code, so they agree bit for bit.
#pragma once

#include "cuda/dispatch.cuh"

namespace quest::cuda {

constexpr int kGroupHeads = 8;

// Where chunk c of row r lies in a tile of rows of D halves in shared memory.
template <int D>
__device__ inline int row_chunk(int r, int c) {  // read along rows: eight lanes at two rows meet different banks
  return r * D + (c ^ ((r & 1) << 2)) * 8;
}
template <int D>
__device__ inline int column_chunk(int r, int c) {  // read down columns: eight rows meet different banks
  return r * D + (c ^ (r & 7)) * 8;
}

// Queries as the second operand: chunk 4j + lane%4 of head lane/4.
template <int D>
struct GroupQueries {
  uint4 chunk[D / 32];

  // queries: the group's first head
  template <class T>
  __device__ void load(const T* queries, int group, int lane) {
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      chunk[j] = lane / 4 < group ? *reinterpret_cast<const uint4*>(queries + lane / 4 * D + (4 * j + lane % 4) * 8) : uint4{0, 0, 0, 0};
    }
  }
};

// score[0..3] += rows of the two chunk lists by the heads. first: of row lane/4; second: of row lane/4 + 8.
template <class T>
__device__ inline void multiply_chunk(float (&score)[4], const uint4& first, const uint4& second, const uint4& query) {
  const uint32_t a[4] = {first.x, second.x, first.y, second.y}, b[4] = {first.z, second.z, first.w, second.w};
  mma16816<T>(score, a, query.x, query.y);
  mma16816<T>(score, b, query.z, query.w);
}

template <class T, bool kPositive>
__device__ inline uint32_t part_of_pair(uint32_t pair) {  // each half where it has the sign, else 0
  const uint32_t negative = (pair >> 15 & 0x00010001u) * 0xffffu;
  return pair & (kPositive ? ~negative : negative);
}
template <class T, bool kPositive>
__device__ inline uint4 part_of(const uint4& v) {
  return {part_of_pair<T, kPositive>(v.x), part_of_pair<T, kPositive>(v.y), part_of_pair<T, kPositive>(v.z), part_of_pair<T, kPositive>(v.w)};
}

// Bounds of eight pages: low, high: chunks 4j + lane%4 of page lane/4. Gives the scores of page lane/4, heads 2(lane%4) + {0, 1}.
template <class T, int D>
__device__ inline float2 page_scores(const GroupQueries<D>& queries, const uint4 (&low)[D / 32], const uint4 (&high)[D / 32]) {
  // Two chains of products each: one would be twice as long to wait for.
  float below[2][4] = {}, above[2][4] = {};
#pragma unroll
  for (int j = 0; j < D / 32; ++j) {
    multiply_chunk<T>(below[j % 2], low[j], high[j], part_of<T, false>(queries.chunk[j]));
    multiply_chunk<T>(above[j % 2], low[j], high[j], part_of<T, true>(queries.chunk[j]));
  }
  return {below[0][0] + below[1][0] + above[0][2] + above[1][2], below[0][1] + below[1][1] + above[0][3] + above[1][3]};
}

// The same of one page that has only `count` keys yet, from the keys [count, D].
template <class T, int D>
__device__ inline float2 open_page_scores(const GroupQueries<D>& queries, const T* keys, int count, int lane) {
  uint4 low[D / 32], high[D / 32];
#pragma unroll
  for (int j = 0; j < D / 32; ++j) {
    float least[8] = {}, most[8] = {};
    for (int t = 0; t < count; ++t) {
      float k[8];
      unpack8<T>(*reinterpret_cast<const uint4*>(keys + t * D + (4 * j + lane % 4) * 8), k);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        least[i] = t == 0 ? k[i] : fminf(least[i], k[i]);
        most[i] = t == 0 ? k[i] : fmaxf(most[i], k[i]);
      }
    }
    low[j] = pack8<T>(least);
    high[j] = pack8<T>(most);
  }
  return page_scores<T, D>(queries, low, high);
}

// One score of the group from its heads', for the four lanes of a page. NaN counts as -inf.
__device__ inline float group_score(float2 score, int group, bool mean, int lane) {
  const int head = 2 * (lane % 4);
  const float a = score.x != score.x ? kMinusInfinity : score.x, b = score.y != score.y ? kMinusInfinity : score.y;
  float best = fmaxf(head < group ? a : kMinusInfinity, head + 1 < group ? b : kMinusInfinity);
  float total = (head < group ? a : 0) + (head + 1 < group ? b : 0);
#pragma unroll
  for (int o = 1; o < 4; o *= 2) {
    best = fmaxf(best, __shfl_xor_sync(kFull, best, o));
    total += __shfl_xor_sync(kFull, total, o);
  }
  return mean ? total / static_cast<float>(group) : best;
}

// Running softmax and output of a warp. Heads 2(lane%4) + {0, 1}; of the output columns 16i + lane/4 + {0, 8}.
template <class T, int D>
struct GroupSums {
  float max_[2] = {kMinusInfinity, kMinusInfinity}, sum[2] = {0, 0}, acc[D / 16][4] = {};

  // Logits of sixteen keys in units of log2; those from `rows` on are none. keys: a tile in row_chunk order.
  __device__ static void logits(float (&score)[4], const T* keys, const GroupQueries<D>& queries, int rows, int lane) {
    float part[2][4] = {};
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      const int r = lane / 4, c = 4 * j + lane % 4;
      multiply_chunk<T>(part[j % 2], *reinterpret_cast<const uint4*>(keys + row_chunk<D>(r, c)),
                        *reinterpret_cast<const uint4*>(keys + row_chunk<D>(r + 8, c)), queries.chunk[j]);
    }
    const float scale = kLog2e / sqrtf(static_cast<float>(D));
#pragma unroll
    for (int i = 0; i < 4; ++i) score[i] = lane / 4 + i / 2 * 8 < rows ? (part[0][i] + part[1][i]) * scale : kMinusInfinity;
  }

  // Turns logits into the weights of the keys, rounded to half: the second operand of `add`.
  __device__ void weigh(const float (&score)[4], uint32_t (&weights)[2]) {
    float weight[4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = fmaxf(score[h], score[h + 2]);
#pragma unroll
      for (int o = 4; o < 32; o *= 2) top = fmaxf(top, __shfl_xor_sync(kFull, top, o));
      top = fmaxf(top, max_[h]);
      // A tile may hold no key: then nothing changes, and -inf - -inf must not be taken.
      const float old_scale = max_[h] == top ? 1.0f : exp2_approx(max_[h] - top);
      max_[h] = top;
      weight[h] = score[h] == kMinusInfinity ? 0.0f : exp2_approx(score[h] - top);
      weight[h + 2] = score[h + 2] == kMinusInfinity ? 0.0f : exp2_approx(score[h + 2] - top);
      sum[h] = sum[h] * old_scale + weight[h] + weight[h + 2];
#pragma unroll
      for (int i = 0; i < D / 16; ++i) acc[i][h] *= old_scale, acc[i][h + 2] *= old_scale;
    }
    weights[0] = transpose8x8(pack2<T>(weight[0], weight[1]));
    weights[1] = transpose8x8(pack2<T>(weight[2], weight[3]));
  }

  // values: a tile in column_chunk order; rows without a weight must hold numbers.
  __device__ void add(const T* values, const uint32_t (&weights)[2], int lane) {
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t a[4];
      load_matrix4_transposed(a, values + column_chunk<D>(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
      mma16816<T>(acc[i], a, weights[0], weights[1]);
    }
  }

  // part(head): [D] values, then maximum and sum.
  template <class Part>
  __device__ void store(Part&& part, int heads, int lane) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int o = 4; o < 32; o *= 2) sum[h] += __shfl_xor_sync(kFull, sum[h], o);
      const int head = 2 * (lane % 4) + h;
      if (head >= heads) continue;
      float* to = part(head);
#pragma unroll
      for (int i = 0; i < D / 16; ++i) {
        to[i * 16 + lane / 4] = acc[i][h];
        to[i * 16 + lane / 4 + 8] = acc[i][h + 2];
      }
      if (lane / 4 == 0) to[D] = max_[h], to[D + 1] = sum[h];
    }
  }
};

}  // namespace quest::cuda
