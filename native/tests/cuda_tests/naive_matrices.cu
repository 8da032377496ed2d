#include "naive.cuh"

namespace quest::cuda::test {

namespace {

// Where the 4-bit weight of an output and an input is, by the layout in int4.h.
struct Int4Place {
  int64_t block;    // of a tile and a unit
  int word, shift;  // within it
  int scale;        // of the block's {scale, zero} pairs
};
__device__ inline Int4Place int4_place(int n, int k, int group, bool interleaved, int output, int input) {
  const int part = interleaved && output >= n / 2, at = output - part * (n / 2);
  const int tile = interleaved ? at / 8 : at / 16, row = interleaved ? at % 8 + 8 * part : at % 16;
  const int i = input % kInt4Inputs, lane = row % 8 * 4 + i % 8 / 2, nibble = row / 8 + i / 8 % 2 * 2 + i % 2 * 4;
  return {static_cast<int64_t>(tile) * int4_units(k) + input / kInt4Inputs, i / 64 * 128 + lane * 4 + i % 64 / 16, 4 * nibble,
          (i / group * 8 + row % 8) * 2 + row / 8};
}

__device__ inline double int4_weight(const void* weight, int n, int k, int group, bool interleaved, int output, int input) {
  const Int4Place at = int4_place(n, k, group, interleaved, output, input);
  const auto* block = static_cast<const unsigned char*>(weight) + at.block * int4_block_bytes(group);
  const auto* scales = block + kInt4Outputs * kInt4Inputs / 2;
  const double q = reinterpret_cast<const uint32_t*>(block)[at.word] >> at.shift & 15u;
  return (q - number(scales, 2 * at.scale + 1, Half::fp16)) * number(scales, 2 * at.scale, Half::fp16);
}

__device__ double weight_at(const GemvParams& p, int output, int input) { return number(p.weight, static_cast<int64_t>(output) * p.k + input, p.type); }
__device__ double weight_at(const Int4GemvParams& p, int output, int input) {
  return int4_weight(p.weight, p.n, p.k, p.group, p.epilogue == Epilogue::silu_mul, output, input);
}
__device__ Half type_of(const GemvParams& p) { return p.type; }
__device__ Half type_of(const Int4GemvParams&) { return Half::fp16; }

// A number as it is when stored.
__device__ double rounded(double x, Half type) {
  uint16_t bits;
  put(&bits, 0, x, type);
  return number(&bits, 0, type);
}

template <class Params>
struct ProductAt {  // (row, output)
  Params p;

  __device__ double sum(int64_t row, int output, double scale) const {
    double total = 0;
    for (int i = 0; i < p.k; ++i) {
      const double in = p.norm_x ? rounded(p.norm_x[row * p.k + i] * scale * p.norm_weight[i], type_of(p)) : number(p.in, row * p.k + i, type_of(p));
      total += in * weight_at(p, output, i);
    }
    return total;
  }

  __device__ void operator()(int64_t i) const {
    const bool silu = p.epilogue == Epilogue::silu_mul;
    const int outputs = silu ? p.n / 2 : p.n, output = static_cast<int>(i % outputs);
    const int64_t row = i / outputs;
    double squares = 0;
    for (int c = 0; p.norm_x && c < p.k; ++c) squares += static_cast<double>(p.norm_x[row * p.k + c]) * p.norm_x[row * p.k + c];
    const double scale = 1 / sqrt(squares / p.k + static_cast<double>(p.eps)), value = sum(row, output, scale);
    auto* full = static_cast<float*>(p.out);
    if (p.epilogue == Epilogue::half) put(p.out, i, value, type_of(p));
    if (p.epilogue == Epilogue::fp32) full[i] = static_cast<float>(value);
    if (p.epilogue == Epilogue::residual) full[i] = static_cast<float>(full[i] + value);
    if (silu) put(p.out, i, value / (1 + exp(-value)) * sum(row, output + outputs, scale), type_of(p));
  }
};

template <class Params>
void product(const Params& p, const Launch& how) {
  each(how, "naive_product", int64_t{1} * p.rows * (p.epilogue == Epilogue::silu_mul ? p.n / 2 : p.n), ProductAt<Params>{p});
}

struct PackAt {  // block of a tile and a unit: all that is in it, one weight after another
  Int4PackParams p;
  __device__ void operator()(int64_t i) const {
    auto* block = static_cast<unsigned char*>(p.out) + i * int4_block_bytes(p.group);
    auto* words = reinterpret_cast<uint32_t*>(block);
    auto* scales = block + kInt4Outputs * kInt4Inputs / 2;
    for (int w = 0; w < int4_block_bytes(p.group) / 4; ++w) words[w] = 0;
    for (int output = 0; output < p.n; ++output) {
      int part = 0, o = output;  // output o of a projection
      while (o >= p.parts[part].n) o -= p.parts[part++].n;
      const AwqPart& from = p.parts[part];
      const int nibble = 4 * (o % 8 / 2 + o % 2 * 4);  // AutoAWQ's order: 0 2 4 6 1 3 5 7
      for (int input = static_cast<int>(i % int4_units(p.k)) * kInt4Inputs; input < p.k; ++input) {
        const Int4Place at = int4_place(p.n, p.k, p.group, p.interleaved, output, input);
        if (at.block != i) break;
        words[at.word] |= (from.weights[static_cast<int64_t>(input) * (from.n / 8) + o / 8] >> nibble & 15u) << at.shift;
        const int64_t group = input / p.group;
        put(scales, 2 * at.scale, number(from.scales, group * from.n + o, Half::fp16), Half::fp16);
        put(scales, 2 * at.scale + 1, from.zeros[group * (from.n / 8) + o / 8] >> nibble & 15u, Half::fp16);
      }
    }
  }
};

struct UnpackAt {  // (output, input)
  Int4UnpackParams p;
  __device__ void operator()(int64_t i) const {
    put(p.out, i, int4_weight(p.weight, p.n, p.k, p.group, p.interleaved, static_cast<int>(i / p.k), static_cast<int>(i % p.k)), Half::fp16);
  }
};

}  // namespace

void naive_gemv(const GemvParams& p, const Launch& how) { product(p, how); }
void naive_gemm(const GemmParams& p, const Launch& how) {
  product(GemvParams{p.in, nullptr, nullptr, 0, p.weight, p.out, p.rows, p.n, p.k, p.epilogue, p.type, 0}, how);
}
void naive_int4_gemv(const Int4GemvParams& p, const Launch& how) { product(p, how); }
void naive_int4_gemv_chain(const Int4GemvChainParams& p, const Launch& how) {
  for (int i = 0; i < p.n; ++i) product(p.products[i], how);
}
void naive_int4_pack(const Int4PackParams& p, const Launch& how) {
  each(how, "naive_int4_pack", int64_t{1} * int4_tiles(p.n) * int4_units(p.k), PackAt{p});
}
void naive_int4_unpack(const Int4UnpackParams& p, const Launch& how) { each(how, "naive_int4_unpack", int64_t{1} * p.n * p.k, UnpackAt{p}); }

}  // namespace quest::cuda::test
