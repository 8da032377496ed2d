// Weights made up in memory, for benchmarks of shapes without a checkpoint: norms of ones, matrices of small random numbers.
#include <algorithm>
#include <cstring>
#include <utility>

#include "core/awq.h"
#include "core/error.h"
#include "core/weights.h"

namespace quest {

namespace {

// A random sign and mantissa with the exponent of 2^-7: numbers of a trained layer's size, never NaN.
std::vector<uint16_t> random_block() {
  std::vector<uint16_t> block(size_t{1} << 20);
  uint32_t state = 1;
  for (uint16_t& h : block) {
    state = state * 1664525u + 1013904223u;
    h = static_cast<uint16_t>((state >> 16 & 0x83ff) | 0x2000);
  }
  return block;
}

}  // namespace

Weights random_weights(const ModelSpec& spec) {
  if (spec.random_weights != "fp16" && spec.random_weights != "int4") {
    throw Error("E_UNSUPPORTED", "random weights of type \"" + spec.random_weights + "\", wanted fp16 or int4");
  }
  const bool int4 = spec.random_weights == "int4";
  constexpr uint16_t kOne = 0x3c00;
  constexpr int64_t kInt4Group = 128;
  const int64_t q_dim = spec.n_heads * spec.head_dim, kv_dim = spec.n_kv_heads * spec.head_dim, hidden = spec.hidden;
  const int64_t elements = 2 * q_dim * hidden + 2 * kv_dim * hidden + 3 * spec.ffn * hidden;
  const int64_t layer = 2 * hidden + (int4 ? elements / 4 + elements / kInt4Group * 5 / 4 : elements);
  const int64_t vocabulary = spec.vocab * hidden * (spec.tied_embeddings ? 1 : 2);
  Weights w;
  w.made.resize(static_cast<size_t>(vocabulary + hidden + spec.n_layers * layer));
  const std::vector<uint16_t> block = random_block();
  uint16_t* at = w.made.data();
  const auto vector = [&](int64_t n) {
    std::fill(at, at + n, kOne);
    return Tensor{std::exchange(at, at + n), DType::fp16, 1, n};
  };
  const auto matrix = [&](int64_t rows, int64_t cols) {
    uint16_t* const begin = at;
    for (int64_t left = rows * cols; left > 0;) {
      const int64_t n = std::min(left, static_cast<int64_t>(block.size()));
      std::memcpy(at, block.data(), static_cast<size_t>(n) * sizeof(uint16_t));
      at += n;
      left -= n;
    }
    return Tensor{begin, DType::fp16, rows, cols};
  };
  // 4-bit weights around zero with one scale, so that they are as large as the others.
  const auto projection = [&](const char* name, int64_t rows, int64_t cols) {
    if (!int4) return matrix(rows, cols);
    check_int4(name, rows, cols, kInt4Group, DType::fp16);
    Tensor t = matrix(rows, cols / 4);
    t.cols = cols;
    t.group = kInt4Group;
    const int64_t groups = rows * cols / kInt4Group;
    t.zeros = std::fill_n(at, groups / 4, uint16_t{0x8888}) - groups / 4;
    at += groups / 4;
    t.scales = std::fill_n(at, groups, uint16_t{0x1800}) - groups;  // 2^-9
    at += groups;
    return t;
  };
  w.embed = matrix(spec.vocab, hidden);
  w.norm = vector(hidden);
  w.lm_head = spec.tied_embeddings ? w.embed : matrix(spec.vocab, hidden);
  for (int64_t i = 0; i < spec.n_layers; ++i) {
    LayerWeights l;
    l.attn_norm = vector(hidden);
    l.q = projection("q", q_dim, hidden);
    l.k = projection("k", kv_dim, hidden);
    l.v = projection("v", kv_dim, hidden);
    l.o = projection("o", hidden, q_dim);
    l.ffn_norm = vector(hidden);
    l.gate = projection("gate", spec.ffn, hidden);
    l.up = projection("up", spec.ffn, hidden);
    l.down = projection("down", hidden, spec.ffn);
    w.layers.push_back(l);
  }
  return w;
}

}  // namespace quest
