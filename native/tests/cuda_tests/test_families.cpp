// What model families add to the Llama decoder, through the whole GPU executor and held against the CPU's: a bias on queries,
// keys and values; tied embeddings; seven query heads on one KV head.
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "cpu/executor.h"
#include "cuda/executor.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

struct Shape {
  int64_t heads, kv_heads, head_dim;
  bool bias, tied;
};

// A random fp16 model in a file of its own.
struct RandomModel {
  ModelSpec spec;
  std::string path = testing::TempDir() + "quest-families-" + std::to_string(getpid()) + ".bin";

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

// Logits of steps after a prefill: all at once, and the last one as a single step.
std::vector<double> logits_of(Executor& executor) {
  const JobControl job;
  std::vector<int32_t> ids;
  for (int i = 0; i < 60; ++i) ids.push_back(i * 37 % 80);
  const std::span<const int32_t> all(ids);
  const auto branch = executor.create(16);
  executor.prefill(*branch, all.subspan(0, 45), false, job);
  std::vector<double> out;
  for (const auto part : {all.subspan(45, 14), all.subspan(59, 1)}) {
    FeedRequest r;
    r.branch = branch.get();
    r.ids = part;
    r.logits = Logits::all;
    executor.feed({&r, 1}, job);
    out.insert(out.end(), r.logits_out.begin(), r.logits_out.end());
  }
  return out;
}

}  // namespace

TEST(Families, GpuEqualsCpu) {
  QUEST_NEEDS_GPU();
  for (const Shape& shape : {Shape{4, 2, 64, false, false}, Shape{7, 1, 64, true, true}, Shape{2, 2, 128, true, false}}) {
    const RandomModel model(shape);
    const auto gpu = logits_of(*make_cuda_executor(model.spec, 0));
    EXPECT_LT(relative_error(gpu, logits_of(*cpu::make_cpu_executor(model.spec, 1))), 1e-2) << shape.heads << " heads";
    if (!shape.bias) continue;
    ModelSpec without = model.spec;
    without.qkv_bias = false;
    EXPECT_GT(relative_error(gpu, logits_of(*cpu::make_cpu_executor(without, 1))), 0.1);
  }
}

}  // namespace quest::cuda::test
