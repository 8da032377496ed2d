#include "naive.cuh"

namespace quest::cuda::test {

namespace {

struct EmbedAt {  // (row, column)
  EmbedParams p;
  __device__ void operator()(int64_t i) const { p.x[i] = static_cast<float>(number(p.table, static_cast<int64_t>(p.ids[i / p.width]) * p.width + i % p.width, p.type)); }
};

struct NormAt {  // (row, column)
  NormParams p;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / p.width;
    const float* x = p.x + (p.gather ? p.gather[row] : row) * p.width;
    double squares = 0;
    for (int c = 0; c < p.width; ++c) squares += static_cast<double>(x[c]) * x[c];
    put(p.out, i, x[i % p.width] / sqrt(squares / p.width + static_cast<double>(p.eps)) * p.weight[i % p.width], p.type);
  }
};

struct SiluMulAt {  // (row, column)
  SiluMulParams p;
  __device__ void operator()(int64_t i) const {
    const int64_t at = i / p.width * 2 * p.width + i % p.width;
    const double gate = number(p.gate_up, at, p.type);
    put(p.out, i, gate / (1 + exp(-gate)) * number(p.gate_up, at + p.width, p.type), p.type);
  }
};

struct ArgmaxAt {  // row
  ArgmaxParams p;
  __device__ void operator()(int64_t row) const {
    const float* x = p.logits + row * p.vocab;
    int best = 0;
    for (int i = 1; i < p.vocab; ++i) {
      const bool number = x[i] == x[i], best_number = x[best] == x[best];
      if (number && x[i] > (best_number ? x[best] : kMinusInfinity)) best = i;
    }
    p.ids[row] = best;
  }
};

struct NllAt {  // row
  NllParams p;
  __device__ void operator()(int64_t row) const {
    if (p.targets[row] < 0) return;
    const float* x = p.logits + row * p.vocab;
    double top = x[0], sum = 0;
    for (int i = 1; i < p.vocab; ++i) top = x[i] > top ? x[i] : top;
    for (int i = 0; i < p.vocab; ++i) sum += exp(x[i] - top);
    p.nll[row] = static_cast<float>(log(sum) + top - x[p.targets[row]]);
  }
};

}  // namespace

void naive_embed(const EmbedParams& p, const Launch& how) { each(how, "naive_embed", int64_t{1} * p.rows * p.width, EmbedAt{p}); }
void naive_rmsnorm(const NormParams& p, const Launch& how) { each(how, "naive_rmsnorm", int64_t{1} * p.rows * p.width, NormAt{p}); }
void naive_silu_mul(const SiluMulParams& p, const Launch& how) { each(how, "naive_silu_mul", p.rows * p.width, SiluMulAt{p}); }
void naive_argmax(const ArgmaxParams& p, const Launch& how) { each(how, "naive_argmax", p.rows, ArgmaxAt{p}); }
void naive_negative_log_likelihood(const NllParams& p, const Launch& how) { each(how, "naive_nll", p.rows, NllAt{p}); }

}  // namespace quest::cuda::test
