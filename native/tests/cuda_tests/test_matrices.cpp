// Matrix products of 16-bit weights against the naive kernel.
#include "naive_kernels.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

struct MatrixCase {
  int rows, n, k;
};

// Runs one product through `run(in, weight, out, epilogue)` with every epilogue it has, beside the naive kernel.
template <class Run>
void check_epilogues(MatrixCase c, Half type, bool silu, Run&& run) {
  Random random(static_cast<unsigned>(c.rows * 31 + c.n * 7 + c.k));
  const auto rows = static_cast<size_t>(c.rows), n = static_cast<size_t>(c.n), k = static_cast<size_t>(c.k), beyond = n;  // a row of poison
  Array<uint16_t> in(random.halves(rows * k, type)), weight(random.halves(n * k, type, 1 / std::sqrt(static_cast<float>(c.k))));
  const auto naive = [&](void* out, Epilogue e) { naive_gemv({in.get(), nullptr, nullptr, 0, weight.get(), out, c.rows, c.n, c.k, e, type, 0}, {}); };
  const auto what = testing::Message() << c.rows << " rows, " << c.n << " x " << c.k;
  for (Epilogue e : {Epilogue::half, Epilogue::silu_mul}) {
    if (e == Epilogue::silu_mul && (!silu || c.n % 2 != 0)) continue;
    Array<uint16_t> got(rows * n + beyond), want(rows * n + beyond);
    run(in.get(), weight.get(), got.get(), e);
    naive(want.get(), e);
    EXPECT_LT(difference(got.host(), want.host(), type), half_step(type)) << what;
  }
  for (Epilogue e : {Epilogue::fp32, Epilogue::residual}) {
    Array<float> got(rows * n + beyond), want(rows * n + beyond);
    if (e == Epilogue::residual) {
      auto before = random.floats(rows * n);
      before.resize(rows * n + beyond, got.host().back());
      got.set(before);
      want.set(before);
    }
    run(in.get(), weight.get(), got.get(), e);
    naive(want.get(), e);
    EXPECT_LT(difference(got.host(), want.host()), 1e-5) << what;
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
  for (Half type : {Half::fp16, Half::bf16}) {
    for (int rows : {1, 2, 4, 8}) {
      for (int k : {64, 1032, 4096}) {
        Random random(static_cast<unsigned>(k + rows));
        const auto size = static_cast<size_t>(k) * static_cast<size_t>(rows);
        const int n = 40;
        const auto weights = random.floats(static_cast<size_t>(k));
        Array<float> x(random.floats(size, 4)), norm(weights), got(static_cast<size_t>(rows * n + 1)), want(static_cast<size_t>(rows * n + 1));
        Array<uint16_t> weight(random.halves(static_cast<size_t>(n * k), type));
        const auto params = [&](float* out) {
          return GemvParams{nullptr, x.get(), norm.get(), 1e-5f, weight.get(), out, rows, n, k, Epilogue::fp32, type, 132};
        };
        gemv(params(got.get()), {});
        naive_gemv(params(want.get()), {});
        // Where fp32 and double fall on different sides of a rounding, an input differs by one step.
        const double limit = 0.1 * half_step(type);
        EXPECT_LT(difference(got.host(), want.host()), limit) << rows << " rows of " << k;
        // Teeth: one weight of the norm.
        auto changed = weights;
        changed.back() += 1;
        norm.set(changed);
        naive_gemv(params(want.get()), {});
        EXPECT_GT(difference(got.host(), want.host()), 2 * limit) << rows << " rows of " << k;
      }
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
      auto fewer = in.host();
      for (size_t r = 0; r < rows; ++r) fewer[r * k + column] = 0;
      Array<uint16_t> less(fewer), want(rows * n);
      naive_gemm({less.get(), weight.get(), want.get(), c.rows, c.n, c.k, Epilogue::half, type}, {});
      for (const auto* out : {&by_gemv, &by_gemm}) EXPECT_GT(difference(out->host(), want.host(), type), 2 * half_step(type)) << "column " << column;
    }
  }
}

}  // namespace quest::cuda::test
