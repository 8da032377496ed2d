#include "support.h"

namespace quest::cuda::test {

bool gpu_present() {
  static const bool present = [] {
    int count = 0;
    const bool ok = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    cudaGetLastError();
    if (!ok) std::puts("There is no usable GPU here: the CUDA tests are skipped.");
    return ok;
  }();
  return present;
}

TEST(Rows, EmbedNormSilu) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (int width : {8, 64, 264, 4096}) {
      Random random(static_cast<unsigned>(width));
      const int rows = 5, vocab = 19;
      const auto w = static_cast<size_t>(width);
      Array<uint16_t> table(random.halves(vocab * w, type));
      Array<int32_t> ids(std::vector<int32_t>{0, 18, 3, 3, 7});
      Array<float> x(rows * w), weight(random.floats(w));
      Array<uint16_t> out(rows * w);
      embed({ids.get(), table.get(), x.get(), rows, width, type}, {});
      const auto t = widen(table.host(), type);
      const auto xs = x.host();
      for (int r = 0; r < rows; ++r) {
        for (size_t i = 0; i < w; ++i) ASSERT_EQ(xs[static_cast<size_t>(r) * w + i], t[static_cast<size_t>(ids.host()[static_cast<size_t>(r)]) * w + i]);
      }
      Array<int32_t> gather(std::vector<int32_t>{4, 0, 1});
      rmsnorm({x.get(), gather.get(), weight.get(), out.get(), 3, width, 1e-5f, type}, {});
      std::vector<double> want;
      const auto ws = weight.host();
      for (int r : {4, 0, 1}) {
        double squares = 0;
        for (size_t i = 0; i < w; ++i) squares += static_cast<double>(xs[static_cast<size_t>(r) * w + i]) * xs[static_cast<size_t>(r) * w + i];
        for (size_t i = 0; i < w; ++i) want.push_back(xs[static_cast<size_t>(r) * w + i] / std::sqrt(squares / width + 1e-5) * ws[i]);
      }
      auto got = widen(out.host(), type);
      EXPECT_TRUE(std::isnan(got[3 * w]));  // the poison: nothing beyond the three rows was written
      got.resize(3 * w);
      EXPECT_LT(relative_error(got, want), half_step(type));

      Array<uint16_t> gate_up(random.halves(rows * 2 * w, type, 3)), act(rows * w);
      silu_mul({gate_up.get(), act.get(), rows, width, type}, {});
      const auto g = widen(gate_up.host(), type);
      want.clear();
      for (size_t r = 0; r < rows; ++r) {
        for (size_t i = 0; i < w; ++i) want.push_back(g[r * 2 * w + i] / (1 + std::exp(-g[r * 2 * w + i])) * g[r * 2 * w + w + i]);
      }
      EXPECT_LT(relative_error(widen(act.host(), type), want), half_step(type));
    }
  }
}

TEST(Logits, Argmax) {
  QUEST_NEEDS_GPU();
  const float nan = std::nanf(""), inf = INFINITY;
  for (int vocab : {1, 31, 1024, 1025, 32000}) {
    Random random(static_cast<unsigned>(vocab));
    const auto v = static_cast<size_t>(vocab);
    std::vector<float> x = random.floats(v * 4);
    for (size_t i = 0; i < v; ++i) x[v + i] = nan;              // nothing to choose from: index 0
    for (size_t i = 0; i < v; ++i) x[2 * v + i] = i % 2 ? 0.0f : -0.0f;  // all equal: index 0
    if (vocab > 2) x[3 * v + v / 2] = x[3 * v + v - 1] = 9, x[3 * v] = nan;
    if (vocab > 31) x[3 * v + 1] = -inf;
    Array<float> logits(x);
    Array<int32_t> ids(4);
    argmax({logits.get(), ids.get(), 4, vocab}, {});
    const auto got = ids.host();
    EXPECT_EQ(got[0], std::max_element(x.begin(), x.begin() + vocab) - x.begin());
    EXPECT_EQ(got[1], 0);
    EXPECT_EQ(got[2], 0);
    if (vocab > 2) {
      EXPECT_EQ(got[3], vocab / 2);
    }
  }
}

TEST(Logits, NegativeLogLikelihood) {
  QUEST_NEEDS_GPU();
  for (int vocab : {1, 257, 32000}) {
    Random random(static_cast<unsigned>(vocab));
    const auto v = static_cast<size_t>(vocab);
    Array<float> logits(random.floats(v * 3, 5));
    Array<int32_t> targets(std::vector<int32_t>{0, vocab - 1, -1});
    Array<float> nll(3);
    negative_log_likelihood({logits.get(), targets.get(), nll.get(), 3, vocab}, {});
    const auto x = logits.host(), got = nll.host();
    for (size_t r = 0; r < 2; ++r) {
      double sum = 0;
      for (size_t i = 0; i < v; ++i) sum += std::exp(static_cast<double>(x[r * v + i]));
      EXPECT_NEAR(got[r], std::log(sum) - x[r * v + (r ? v - 1 : 0)], 1e-4);
    }
    EXPECT_TRUE(std::isnan(got[2]));
  }
}

}  // namespace quest::cuda::test
