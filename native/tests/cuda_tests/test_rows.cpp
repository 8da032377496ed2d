// Element-wise steps, and what is read from logits, against the naive kernels.
#include "naive_kernels.h"
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

namespace {

// Runs a kernel and its reference on outputs of their own. run(launcher, out)
template <class T, class Kernel, class Run>
std::vector<T> output_of(Kernel kernel, size_t n, Run&& run) {
  Array<T> out(n);
  run(kernel, out.get());
  return out.host();
}

}  // namespace

TEST(Rows, Embed) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (int width : {8, 64, 264, 4096}) {
      Random random(static_cast<unsigned>(width));
      const auto w = static_cast<size_t>(width);
      Array<uint16_t> table(random.halves(19 * w, type));
      Array<int32_t> ids(std::vector<int32_t>{0, 18, 3, 3, 7});
      const auto run = [&](auto kernel, float* out) { kernel({ids.get(), table.get(), out, 5, width, type}, {}); };
      const auto got = output_of<float>(embed, 6 * w, run), want = output_of<float>(naive_embed, 6 * w, run);
      EXPECT_EQ(difference(got, want), 0) << width;
      // Teeth: one id is another.
      ids.set({0, 18, 3, 4, 7});
      EXPECT_GT(difference(got, output_of<float>(naive_embed, 6 * w, run)), 0.1) << width;
    }
  }
}

TEST(Rows, Norm) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (int width : {8, 40, 264, 1000, 4096}) {
      for (int rows : {1, 3, 17}) {
        Random random(static_cast<unsigned>(width + rows));
        const auto w = static_cast<size_t>(width), r = static_cast<size_t>(rows);
        auto values = random.floats(r * w, 3), weights = random.floats(w);
        for (size_t i = 0; i < w; ++i) values[i] *= 1e-3f;  // the first row is small: eps counts
        Array<float> x(values), weight(weights);
        std::vector<int32_t> order;
        for (int i = 0; i < rows; ++i) order.push_back((i + rows / 2) % rows);
        Array<int32_t> gather(order);
        for (const int32_t* from : {static_cast<const int32_t*>(nullptr), static_cast<const int32_t*>(gather.get())}) {
          float eps = 1e-5f;
          const auto run = [&](auto kernel, uint16_t* out) { kernel({x.get(), from, weight.get(), out, rows, width, eps, type}, {}); };
          const auto got = output_of<uint16_t>(rmsnorm, (r + 1) * w, run);
          const auto want = [&] { return output_of<uint16_t>(naive_rmsnorm, (r + 1) * w, run); };
          EXPECT_LT(difference(got, want(), type), half_step(type)) << width << " wide, " << rows << " rows";
          // Teeth: no eps, one weight, one number, another row.
          eps = 0;
          if (rows == 1) {
            EXPECT_GT(difference(got, want(), type), 0.1) << width;
          }
          eps = 1e-5f;
          auto changed = weights;
          changed[w - 1] += 0.5f * std::sqrt(static_cast<float>(width));
          weight.set(changed);
          EXPECT_GT(difference(got, want(), type), 2 * half_step(type)) << width;
          weight.set(weights);
          auto others = values;
          others[(r - 1) * w + w - 1] += 3 * std::sqrt(static_cast<float>(width));
          x.set(others);
          EXPECT_GT(difference(got, want(), type), 2 * half_step(type)) << width;
          x.set(values);
          if (from && rows > 1) {
            gather.set(std::vector<int32_t>(r, 0));
            EXPECT_GT(difference(got, want(), type), 0.1) << width;
          }
        }
      }
    }
  }
}

TEST(Rows, SiluMul) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (int width : {8, 264, 4096}) {
      Random random(static_cast<unsigned>(width));
      const int rows = 5;
      const auto w = static_cast<size_t>(width);
      auto values = random.halves(rows * 2 * w, type, 3);
      Array<uint16_t> gate_up(values);
      const auto run = [&](auto kernel, uint16_t* out) { kernel({gate_up.get(), out, rows, width, type}, {}); };
      const auto got = output_of<uint16_t>(silu_mul, (rows + 1) * w, run);
      EXPECT_LT(difference(got, output_of<uint16_t>(naive_silu_mul, (rows + 1) * w, run), type), half_step(type)) << width;
      // Teeth: the gates' and the ups' places exchanged.
      for (size_t r = 0; r < rows; ++r) {
        std::swap_ranges(values.begin() + static_cast<std::ptrdiff_t>(r * 2 * w), values.begin() + static_cast<std::ptrdiff_t>(r * 2 * w + w),
                         values.begin() + static_cast<std::ptrdiff_t>(r * 2 * w + w));
      }
      gate_up.set(values);
      EXPECT_GT(difference(got, output_of<uint16_t>(naive_silu_mul, (rows + 1) * w, run), type), 0.1) << width;
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
    const auto run = [&](auto kernel, int32_t* ids) { kernel({logits.get(), ids, 4, vocab}, {}); };
    const auto got = output_of<int32_t>(argmax, 5, run), want = output_of<int32_t>(naive_argmax, 5, run);
    EXPECT_EQ(got, want) << vocab;
    EXPECT_EQ(want[1], 0);
    EXPECT_EQ(want[4], -1);
    if (vocab < 3) continue;
    EXPECT_EQ(want[3], vocab / 2);  // the first of two
    // Teeth: one logit in the last place, a hair above the others.
    x[3 * v + v - 1] = std::nextafter(9.0f, 10.0f);
    logits.set(x);
    EXPECT_NE(output_of<int32_t>(naive_argmax, 5, run), got) << vocab;
    EXPECT_EQ(output_of<int32_t>(argmax, 5, run), output_of<int32_t>(naive_argmax, 5, run)) << vocab;
  }
}

TEST(Logits, NegativeLogLikelihood) {
  QUEST_NEEDS_GPU();
  for (int vocab : {1, 2, 257, 1023, 32000}) {
    Random random(static_cast<unsigned>(vocab));
    const auto v = static_cast<size_t>(vocab);
    auto x = random.floats(v * 4, 5);
    for (size_t i = 0; i < v; ++i) x[3 * v + i] -= 200;  // far below 0: the maximum comes off first
    Array<float> logits(x);
    Array<int32_t> targets(std::vector<int32_t>{0, vocab - 1, -1, vocab / 2});
    const auto run = [&](auto kernel, float* nll) { kernel({logits.get(), targets.get(), nll, 4, vocab}, {}); };
    const auto got = output_of<float>(negative_log_likelihood, 4, run), want = output_of<float>(naive_negative_log_likelihood, 4, run);
    for (size_t r : {0, 1, 3}) EXPECT_NEAR(got[r], want[r], 1e-4) << vocab;
    EXPECT_TRUE(std::isnan(got[2]) && std::isnan(want[2]));
    if (vocab == 1) continue;
    // Teeth: the largest logit is missing, or another target.
    auto fewer = x;
    *std::max_element(fewer.begin(), fewer.begin() + vocab) = -1e30f;
    logits.set(fewer);
    targets.set({vocab - 1, 0, -1, 0});
    const auto wrong = output_of<float>(naive_negative_log_likelihood, 4, run);
    for (size_t r : {0, 1}) EXPECT_GT(std::abs(got[r] - wrong[r]), 1e-3) << vocab;
  }
}

}  // namespace quest::cuda::test
