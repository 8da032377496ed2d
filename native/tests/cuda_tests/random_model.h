// A small random fp16 model in a file of its own, for tests of the whole executor.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "core/model_spec.h"
#include "support.h"

namespace quest::cuda::test {

struct Shape {
  int64_t heads, kv_heads, head_dim;
  bool bias, tied;
};

struct RandomModel {
  ModelSpec spec;
  std::string path = testing::TempDir() + "quest-random-" + std::to_string(getpid()) + ".bin";

  explicit RandomModel(const Shape& shape) {
    spec.n_layers = 2;
    spec.hidden = 64;
    spec.n_heads = shape.heads;
    spec.n_kv_heads = shape.kv_heads;
    spec.head_dim = shape.head_dim;
    spec.ffn = 96;
    spec.vocab = 80;
    spec.max_context = 128;
    spec.tied_embeddings = shape.tied;
    spec.qkv_bias = shape.bias;
    for (int64_t i = 0; i < shape.head_dim / 2; ++i) spec.inv_freq.push_back(std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(shape.head_dim)));
    spec.files = {path};
    const int64_t q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
    put("embed", {spec.vocab, spec.hidden}, 0.5f);
    put("norm", {spec.hidden}, 1);
    if (!shape.tied) put("lm_head", {spec.vocab, spec.hidden}, 0.3f);
    for (const std::string layer : {"layers.0.", "layers.1."}) {
      put(layer + "attn_norm", {spec.hidden}, 1);
      put(layer + "q", {q, spec.hidden}, 0.15f);
      put(layer + "k", {kv, spec.hidden}, 0.15f);
      put(layer + "v", {kv, spec.hidden}, 0.15f);
      if (shape.bias) {
        put(layer + "q_bias", {q}, 1);
        put(layer + "k_bias", {kv}, 1);
        put(layer + "v_bias", {kv}, 1);
      }
      put(layer + "o", {spec.hidden, q}, 0.1f);
      put(layer + "ffn_norm", {spec.hidden}, 1);
      put(layer + "gate", {spec.ffn, spec.hidden}, 0.15f);
      put(layer + "up", {spec.ffn, spec.hidden}, 0.15f);
      put(layer + "down", {spec.hidden, spec.ffn}, 0.15f);
    }
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes_.data()), static_cast<std::streamsize>(bytes_.size() * 2));
  }
  ~RandomModel() { std::remove(path.c_str()); }
  RandomModel(const RandomModel&) = delete;
  RandomModel& operator=(const RandomModel&) = delete;

 private:
  void put(const std::string& name, std::vector<int64_t> dims, float scale) {
    size_t n = 1;
    for (int64_t d : dims) n *= static_cast<size_t>(d);
    spec.tensors[name] = {0, bytes_.size() * 2, DType::fp16, std::move(dims)};
    const auto halves = random_.halves(n, Half::fp16, scale);
    bytes_.insert(bytes_.end(), halves.begin(), halves.end());
  }

  Random random_{7};
  std::vector<uint16_t> bytes_;
};

}  // namespace quest::cuda::test
