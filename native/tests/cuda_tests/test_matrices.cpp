#include "support.h"

namespace quest::cuda::test {

namespace {

struct MatrixCase {
  int rows, n, k;
};

std::vector<double> product(const std::vector<double>& in, const std::vector<double>& weight, MatrixCase c) {
  std::vector<double> out(static_cast<size_t>(c.rows) * static_cast<size_t>(c.n), 0.0);
  for (int r = 0; r < c.rows; ++r) {
    for (int i = 0; i < c.n; ++i) {
      double sum = 0;
      for (int k = 0; k < c.k; ++k) sum += in[static_cast<size_t>(r * c.k + k)] * weight[static_cast<size_t>(i) * static_cast<size_t>(c.k) + static_cast<size_t>(k)];
      out[static_cast<size_t>(r * c.n + i)] = sum;
    }
  }
  return out;
}

// Runs one product through `run` with every epilogue it has and compares.
template <class Run>
void check_epilogues(MatrixCase c, Half type, bool silu, Run&& run) {
  Random random(static_cast<unsigned>(c.rows * 31 + c.n * 7 + c.k));
  const auto rows = static_cast<size_t>(c.rows), n = static_cast<size_t>(c.n), k = static_cast<size_t>(c.k);
  Array<uint16_t> in(random.halves(rows * k, type)), weight(random.halves(n * k, type, 1 / std::sqrt(static_cast<float>(c.k))));
  const auto want = product(widen(in.host(), type), widen(weight.host(), type), c);
  Array<uint16_t> half(rows * n);
  run(in.get(), weight.get(), half.get(), Epilogue::half);
  EXPECT_LT(relative_error(widen(half.host(), type), want), half_step(type)) << c.rows << " " << c.n << " " << c.k;
  Array<float> full(rows * n);
  run(in.get(), weight.get(), full.get(), Epilogue::fp32);
  const auto f = full.host();
  EXPECT_LT(relative_error({f.begin(), f.end()}, want), 1e-5);
  const auto before = random.floats(rows * n);
  Array<float> residual(before);
  run(in.get(), weight.get(), residual.get(), Epilogue::residual);
  auto added = want;
  for (size_t i = 0; i < added.size(); ++i) added[i] += before[i];
  const auto r = residual.host();
  EXPECT_LT(relative_error({r.begin(), r.end()}, added), 1e-5);
  if (silu && c.n % 2 == 0) {
    Array<uint16_t> act(rows * n / 2);
    run(in.get(), weight.get(), act.get(), Epilogue::silu_mul);
    std::vector<double> w;
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < n / 2; ++j) {
        const double g = want[i * n + j];
        w.push_back(g / (1 + std::exp(-g)) * want[i * n + n / 2 + j]);
      }
    }
    EXPECT_LT(relative_error(widen(act.host(), type), w), half_step(type));
  }
}

const MatrixCase kCases[] = {{1, 1, 8}, {1, 64, 64}, {2, 15, 176}, {3, 130, 1000}, {5, 258, 1032}, {8, 96, 4096}, {7, 34, 2048}, {1, 18, 11008}};

}  // namespace

TEST(Gemv, Epilogues) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const MatrixCase& c : kCases) {
      check_epilogues(c, type, true, [&](const uint16_t* in, const uint16_t* w, void* out, Epilogue e) {
        gemv({in, nullptr, nullptr, 0, w, out, c.rows, c.n, c.k, e, type, 3}, {});
      });
    }
  }
}

// More rows than fit beside each other in shared memory are taken in turns.
TEST(Gemv, WideInputsInTurns) {
  QUEST_NEEDS_GPU();
  const MatrixCase c{8, left_out(20, 4) ? 4 : 20, 14336};
  check_epilogues(c, Half::fp16, true, [&](const uint16_t* in, const uint16_t* w, void* out, Epilogue e) {
    gemv({in, nullptr, nullptr, 0, w, out, c.rows, c.n, c.k, e, Half::fp16, 132}, {});
  });
}

TEST(Gemv, NormPrologue) {
  QUEST_NEEDS_GPU();
  for (int rows : {1, 2, 4, 8}) {
    for (int k : {64, 1032, 4096}) {
      Random random(static_cast<unsigned>(k + rows));
      const auto size = static_cast<size_t>(k) * static_cast<size_t>(rows);
      const int n = 40;
      Array<float> x(random.floats(size, 4)), norm(random.floats(static_cast<size_t>(k))), out(static_cast<size_t>(rows * n));
      Array<uint16_t> weight(random.halves(static_cast<size_t>(n * k), Half::fp16)), in(size);
      gemv({nullptr, x.get(), norm.get(), 1e-5f, weight.get(), out.get(), rows, n, k, Epilogue::fp32, Half::fp16, 132}, {});
      rmsnorm({x.get(), nullptr, norm.get(), in.get(), rows, k, 1e-5f, Half::fp16}, {});
      const auto want = product(widen(in.host(), Half::fp16), widen(weight.host(), Half::fp16), {rows, n, k});
      const auto got = out.host();
      EXPECT_LT(relative_error({got.begin(), got.end()}, want), 1e-4);
    }
  }
}

TEST(Gemm, Epilogues) {
  QUEST_NEEDS_GPU();
  const MatrixCase cases[] = {{1, 1, 8}, {17, 64, 64}, {128, 128, 128}, {129, 130, 176}, {130, 200, 1000}, {64, 257, 264}, {300, 128, 40}};
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const MatrixCase& c : cases) {
      if (left_out(int64_t{c.rows} * c.n * c.k, 130 * 130 * 176)) continue;
      check_epilogues(c, type, false, [&](const uint16_t* in, const uint16_t* w, void* out, Epilogue e) {
        gemm({in, w, out, c.rows, c.n, c.k, e, type}, {});
      });
    }
  }
}

// The comparison notices one product of a sum that is missing, in the first and in the last column.
TEST(Gemm, TeethOneProduct) {
  QUEST_NEEDS_GPU();
  const MatrixCase c{8, 40, 1032};
  const auto rows = static_cast<size_t>(c.rows), n = static_cast<size_t>(c.n), k = static_cast<size_t>(c.k);
  for (Half type : {Half::fp16, Half::bf16}) {
    Random random(9);
    Array<uint16_t> in(random.halves(rows * k, type)), weight(random.halves(n * k, type)), by_gemv(rows * n), by_gemm(rows * n);
    gemv({in.get(), nullptr, nullptr, 0, weight.get(), by_gemv.get(), c.rows, c.n, c.k, Epilogue::half, type, 132}, {});
    gemm({in.get(), weight.get(), by_gemm.get(), c.rows, c.n, c.k, Epilogue::half, type}, {});
    for (size_t column : {size_t{0}, k - 1}) {
      auto fewer = widen(in.host(), type);
      for (size_t r = 0; r < rows; ++r) fewer[r * k + column] = 0;
      const auto want = product(fewer, widen(weight.host(), type), c);
      for (const auto* out : {&by_gemv, &by_gemm}) EXPECT_GT(relative_error(widen(out->host(), type), want), 2 * half_step(type)) << "column " << column;
    }
  }
}

}  // namespace quest::cuda::test
