// Turns logits into tokens: greedy, or temperature and nucleus sampling with a seed.
#pragma once

#include <cstdint>
#include <span>

namespace quest {

struct Sampling {
  float temperature = 0;  // 0 is greedy
  float top_p = 1;
  uint64_t seed = 0;
};

// Index of the largest logit; ties to the lower index, NaN counts as -inf.
int32_t greedy(std::span<const float> logits);

class Sampler {
 public:
  explicit Sampler(const Sampling& options) : options_(options), state_(options.seed) {}

  int32_t next(std::span<const float> logits);

 private:
  double uniform();

  Sampling options_;
  uint64_t state_;
};

}  // namespace quest
