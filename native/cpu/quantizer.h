// Makes 4-bit weights in AutoAWQ's layout (core/awq.h) from a 16-bit model, one layer at a time.
//
// Round to nearest: each group of a row gets scale = (max - min) / 15, in fp16, and a zero point between 0 and 15.
// Activation-aware (AWQ): input channels that carry large activations are scaled up before rounding and down in what feeds them, so
// that they lose less. The scale of channel i is mean|x_i|^alpha over a calibration text; alpha is searched on a grid of 20 for the
// least mean squared error of the output of what the matrices are part of:
//   q, k, v    the attention block's output; folded into the norm before them
//   o          its own output; folded into v's rows (query heads that share a KV head share their scales)
//   gate, up   the feed-forward block's output; folded into the norm before them
//   down       its own output; folded into up's rows
// Then v, o, gate, up and down have the largest weights of their groups cut where that lowers the output's error (quantizer_clip.h);
// q and k are left whole, since their errors meet in a product.
// Calibration text flows through the unrounded model. In memory: the calibration's activations and one layer's matrices in fp32.
// Test: quest_tests --gtest_filter='Quantizer*'.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/job.h"
#include "core/weights.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"

namespace quest::cpu {

struct QuantizeOptions {
  int group = 128;
  bool activation_aware = true;  // else round to nearest, without a calibration text
  bool clip = true;              // of activation_aware
  int64_t sequence = 512;        // tokens of the calibration text that see each other
};

// Numbers [n, k] rounded in groups, kept as what the checkpoint will hold.
struct RoundedMatrix {
  std::vector<uint8_t> q;        // [n, k]
  std::vector<uint8_t> zeros;    // [n, k / group]
  std::vector<uint16_t> scales;  // [n, k / group] fp16
};

// Rounds w [n, k] to the nearest of its group's sixteen values.
RoundedMatrix round_to_nearest(ThreadPool& pool, const std::vector<float>& w, int64_t n, int64_t k, int group);
// The values that it stands for, [n, k].
std::vector<float> rounded_values(ThreadPool& pool, const RoundedMatrix& m, int64_t n, int64_t k, int group);

struct QuantizedLayer {
  // "attn_norm", "q.weights", "q.zeros", "q.scales", "q_bias", ...: the bytes of the checkpoint's tensors.
  std::map<std::string, std::vector<unsigned char>> tensors;
  // Error of each search relative to its output's square, before and after: qkv, o, gate_up, down, and clip for all that were cut.
  std::map<std::string, std::pair<double, double>> errors;
};

class Quantizer {
 public:
  // calibration: token ids, cut into sequences; empty for round to nearest.
  Quantizer(const ModelSpec& spec, std::vector<int32_t> calibration, const QuantizeOptions& options, int threads);

  // Layer 0, 1, ... in order.
  QuantizedLayer next(const JobControl& job);

  // Rows of a tensor that stays 16-bit ("embed", "norm", "lm_head") as fp16.
  std::vector<unsigned char> plain(const std::string& name, int64_t first_row, int64_t rows) const;

 private:
  using Floats = std::vector<float>;
  struct Layer;

  Floats matrix(const Tensor& t) const;
  void norm(const Tensor& weight, const Floats& x, Floats& out);
  // out (+)= in w^T, over all calibration tokens.
  void multiply(const Floats& in, const Floats& w, int64_t n, int64_t k, Floats& out, bool add = false);
  void attention(const Layer& layer, Floats q, Floats k, const Floats& v, Floats& out);
  // Attention output for the given projections of `in`, before o.
  void attend(const Layer& layer, const Floats& in, const Floats& q, const Floats& k, const Floats& v, Floats& out);
  Floats feed_forward(const Floats& in, const Floats& gate, const Floats& up);
  Layer load(int64_t index) const;

  const ModelSpec spec_;
  const QuantizeOptions options_;
  const Weights weights_;
  const Kernels& kernels_;
  ThreadPool pool_;
  int64_t next_ = 0, tokens_ = 0;
  Floats x_;  // [tokens, hidden] the residual stream at the next layer
};

}  // namespace quest::cpu
