// methods.md written down as plainly as possible, in double precision, one query head and one step at a time. The tests'
// reference for attention, selection and eviction.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <vector>

#include "core/methods.h"

namespace quest::naive {

using Vector = std::vector<double>;

struct Shape {
  int64_t heads, kv_heads, d, page_size;
  int64_t group() const { return heads / kv_heads; }
};

// Keys and values of one layer: [kv head][token][d], rotated.
struct Cache {
  std::vector<std::vector<std::vector<float>>> k, v;
};

struct StepResult {
  std::vector<Vector> out;                       // [heads][d]
  std::vector<std::vector<int64_t>> attended;    // [heads] token positions, ascending
};

inline double dot(const float* a, const float* b, int64_t d) {
  double s = 0;
  for (int64_t i = 0; i < d; ++i) s += double(a[i]) * double(b[i]);
  return s;
}

// Probabilities of the listed tokens for one head; logits from q, or from q_sink for positions below `sinks`.
inline Vector probabilities(const Shape& s, const Cache& c, int64_t head, const std::vector<int64_t>& tokens, const float* q,
                            const float* q_sink, int64_t sinks) {
  Vector p;
  for (int64_t j : tokens) {
    const float* query = j < sinks ? q_sink : q;
    p.push_back(dot(query, c.k[size_t(head / s.group())][size_t(j)].data(), s.d) / std::sqrt(double(s.d)));
  }
  const double top = *std::max_element(p.begin(), p.end());
  double total = 0;
  for (double& x : p) total += x = std::exp(x - top);
  for (double& x : p) x /= total;
  return p;
}

inline std::vector<int64_t> range(int64_t from, int64_t to) {
  std::vector<int64_t> r(size_t(std::max<int64_t>(0, to - from)));
  std::iota(r.begin(), r.end(), from);
  return r;
}

// The k best indices of scores, ties to the lower one, ascending.
inline std::vector<int64_t> best(const Vector& scores, int64_t k) {
  std::vector<int64_t> order = range(0, int64_t(scores.size()));
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[size_t(a)] > scores[size_t(b)]; });
  order.resize(size_t(std::min<int64_t>(k, int64_t(order.size()))));
  std::sort(order.begin(), order.end());
  return order;
}

inline double page_score(const Shape& s, const Cache& c, int64_t kv_head, int64_t page, int64_t n, const float* q) {
  double total = 0;
  for (int64_t i = 0; i < s.d; ++i) {
    double low = INFINITY, high = -INFINITY;
    for (int64_t t = page * s.page_size; t < std::min(n, (page + 1) * s.page_size); ++t) {
      low = std::min(low, double(c.k[size_t(kv_head)][size_t(t)][size_t(i)]));
      high = std::max(high, double(c.k[size_t(kv_head)][size_t(t)][size_t(i)]));
    }
    total += std::max(q[i] * low, q[i] * high);
  }
  return total;
}

// Logits of one head over the first n tokens.
inline Vector logits(const Shape& s, const Cache& c, int64_t head, int64_t n, const float* q) {
  Vector x;
  for (int64_t t = 0; t < n; ++t) x.push_back(dot(q, c.k[size_t(head / s.group())][size_t(t)].data(), s.d) / std::sqrt(double(s.d)));
  return x;
}

// Mean over the heads of the share of the `top` tokens with the highest logits that are among the attended ones.
inline double recall(const Shape& s, const Cache& c, int64_t n, const float* q, const std::vector<std::vector<int64_t>>& attended,
                     int64_t top) {
  double total = 0;
  for (int64_t h = 0; h < s.heads; ++h) {
    const auto wanted = best(logits(s, c, h, n, q + h * s.d), top);
    int64_t found = 0;
    for (int64_t t : wanted) found += std::count(attended[size_t(h)].begin(), attended[size_t(h)].end(), t);
    total += double(found) / double(wanted.size());
  }
  return total / double(s.heads);
}

// A method's memory over the steps of one branch, one layer.
class Layer {
 public:
  Layer(Shape shape, MethodOptions options) : s_(shape), o_(options) {}

  // H2O's starting scores [kv head][token].
  std::vector<Vector> prefill_sums;

  // One step for the token at position n - 1, which is in the cache. q, q_sink [heads][d].
  StepResult step(const Cache& c, int64_t n, const float* q, const float* q_sink, bool dense_layer = false) {
    StepResult r;
    const int64_t g = s_.group();
    const bool evicts = o_.method == Method::h2o || o_.method == Method::tova;
    if (evicts && !dense_layer) take_in(n);
    std::vector<Vector> sums(size_t(s_.kv_heads), Vector{});
    for (int64_t h = 0; h < s_.heads; ++h) {
      const auto tokens = dense_layer ? range(0, n) : tokens_of(c, n, h, q);
      const bool windowed = !dense_layer && o_.method == Method::streaming && n > o_.budget_tokens;
      const Vector p = probabilities(s_, c, h, tokens, q + h * s_.d, q_sink ? q_sink + h * s_.d : nullptr, windowed ? o_.sinks : 0);
      Vector out(size_t(s_.d), 0.0);
      for (size_t j = 0; j < tokens.size(); ++j) {
        for (int64_t i = 0; i < s_.d; ++i) out[size_t(i)] += p[j] * c.v[size_t(h / g)][size_t(tokens[j])][size_t(i)];
      }
      Vector& sum = sums[size_t(h / g)];
      sum.resize(p.size(), 0.0);
      for (size_t j = 0; j < p.size(); ++j) sum[j] += p[j];
      r.out.push_back(out);
      r.attended.push_back(tokens);
    }
    if (evicts && !dense_layer) drop(sums);
    return r;
  }

 private:
  std::vector<int64_t> tokens_of(const Cache& c, int64_t n, int64_t head, const float* q) const {
    const int64_t B = o_.budget_tokens, kv = head / s_.group();
    if (o_.method == Method::h2o) return kept_[size_t(kv)];
    if (o_.method == Method::tova) return kept_[0];
    if (o_.method == Method::full || n <= B) return range(0, n);
    if (o_.method == Method::streaming) {
      auto tokens = range(0, o_.sinks);
      for (int64_t t : range(n - (B - o_.sinks), n)) tokens.push_back(t);
      return tokens;
    }
    if (o_.method == Method::oracle && !o_.oracle_pages) {
      auto tokens = best(logits(s_, c, head, n - 1, q + head * s_.d), B - 1);
      tokens.push_back(n - 1);
      return tokens;
    }
    const bool paper = o_.method == Method::quest_paper;
    const int64_t pages = (n + s_.page_size - 1) / s_.page_size;
    const int64_t k = std::max<int64_t>(paper ? 3 : 1, B / s_.page_size);
    const bool own_list = paper || o_.method == Method::oracle || o_.group == GroupMode::head;
    const int64_t h0 = own_list ? head : kv * s_.group(), h1 = own_list ? head + 1 : h0 + s_.group();
    Vector scores;
    for (int64_t p = 0; p < (paper ? pages : pages - 1); ++p) {
      double top = -INFINITY, total = 0;
      for (int64_t h = h0; h < h1; ++h) {
        double x = page_score(s_, c, kv, p, n, q + h * s_.d);
        if (o_.method == Method::oracle) {
          const Vector all = logits(s_, c, h, std::min(n, (p + 1) * s_.page_size), q + h * s_.d);
          x = *std::max_element(all.begin() + p * s_.page_size, all.end());
        }
        top = std::max(top, x);
        total += x;
      }
      scores.push_back(o_.group == GroupMode::mean && !own_list ? total / double(h1 - h0) : top);
    }
    auto chosen = best(scores, paper ? k : k - 1);
    if (!paper) chosen.push_back(pages - 1);
    std::vector<int64_t> tokens;
    for (int64_t p : chosen) {
      for (int64_t t : range(p * s_.page_size, std::min(n, (p + 1) * s_.page_size))) tokens.push_back(t);
    }
    return tokens;
  }

  void take_in(int64_t n) {
    if (kept_.empty()) {
      kept_.assign(o_.method == Method::h2o ? size_t(s_.kv_heads) : 1, range(0, n - 1));
      for (size_t i = 0; i < kept_.size(); ++i) {
        score_.push_back(prefill_sums.empty() ? Vector(size_t(n - 1), 0.0) : prefill_sums[i]);
      }
    }
    for (auto& k : kept_) k.push_back(n - 1);
    for (auto& a : score_) a.push_back(0.0);
  }

  void drop(const std::vector<Vector>& sums) {
    const int64_t B = o_.budget_tokens;
    for (size_t i = 0; i < kept_.size(); ++i) {
      Vector& a = score_[i];
      if (o_.method == Method::h2o) {
        for (size_t j = 0; j < a.size(); ++j) a[j] += sums[i][j];
      } else {
        std::fill(a.begin(), a.end(), 0.0);
        for (const Vector& s : sums) {
          for (size_t j = 0; j < a.size(); ++j) a[j] += s[j];
        }
      }
      const int64_t recent = o_.method == Method::h2o ? B - B / 2 : 0;
      while (int64_t(kept_[i].size()) > B) {
        const auto end = a.end() - recent;
        const auto at = std::min_element(a.begin(), end) - a.begin();
        a.erase(a.begin() + at);
        kept_[i].erase(kept_[i].begin() + at);
      }
    }
  }

  Shape s_;
  MethodOptions o_;
  std::vector<std::vector<int64_t>> kept_;
  std::vector<Vector> score_;
};

}  // namespace quest::naive
