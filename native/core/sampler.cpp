#include "core/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace quest {

int32_t greedy(std::span<const float> logits) {
  size_t best = 0;
  bool found = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    if (!found || logits[i] > logits[best]) best = i;
    found = true;
  }
  return static_cast<int32_t>(best);
}

// splitmix64: every seed, 0 included, gives a full-period stream.
double Sampler::uniform() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

int32_t Sampler::next(std::span<const float> logits) {
  const int32_t best = greedy(logits);
  if (options_.temperature <= 0) return best;
  const double top = logits[static_cast<size_t>(best)];
  std::vector<double> p(logits.size());
  double total = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::isnan(logits[i]) ? 0 : std::exp((logits[i] - top) / options_.temperature);
    total += p[i];
  }
  // No token has a probability (all NaN, or an infinite logit): there is nothing to draw from.
  if (!(total > 0) || !std::isfinite(total)) return best;

  std::vector<int32_t> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const double pa = p[static_cast<size_t>(a)], pb = p[static_cast<size_t>(b)];
    return pa != pb ? pa > pb : a < b;
  });
  double nucleus = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || nucleus < options_.top_p * total)) {
    nucleus += p[static_cast<size_t>(order[count++])];
  }
  double u = uniform() * nucleus;
  for (size_t i = 0; i < count; ++i) {
    u -= p[static_cast<size_t>(order[i])];
    if (u < 0) return order[i];
  }
  return order[count - 1];
}

}  // namespace quest
