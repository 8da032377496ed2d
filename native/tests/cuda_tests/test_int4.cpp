// 4-bit weights on the GPU: their layout against AutoAWQ's, weight by weight, and products against the naive kernel.
#include "core/awq.h"
#include "naive_kernels.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

// One projection in AutoAWQ's layout with what it stands for, computed one weight at a time.
struct Projection {
  int n, k, group;
  std::vector<uint32_t> weights, zeros;
  std::vector<uint16_t> scales;
  std::vector<double> values;  // [n, k]

  Projection(Random& random, int outputs, int inputs, int group_size) : n(outputs), k(inputs), group(group_size) {
    const auto size = [](int64_t a, int64_t b) { return static_cast<size_t>(a * b); };
    weights.resize(size(k, n / 8));
    zeros.resize(size(k / group, n / 8));
    scales.resize(size(k / group, n));
    for (uint32_t& w : weights) w = random.engine();
    for (uint32_t& w : zeros) w = random.engine();
    for (uint16_t& s : scales) s = to_half(0.02f + 0.01f * std::abs(random.normal()), Half::fp16);
    compute();
  }

  void compute() {
    values.assign(static_cast<size_t>(n) * static_cast<size_t>(k), 0);
    for (int64_t o = 0; o < n; ++o) {
      for (int64_t i = 0; i < k; ++i) {
        const int64_t g = i / group;
        const int q = static_cast<int>(awq_nibble(weights[static_cast<size_t>(i * (n / 8) + o / 8)], static_cast<int>(o % 8)));
        const int zero = static_cast<int>(awq_nibble(zeros[static_cast<size_t>(g * (n / 8) + o / 8)], static_cast<int>(o % 8)));
        values[static_cast<size_t>(o * k + i)] = (q - zero) * static_cast<double>(from_half(scales[static_cast<size_t>(g * n + o)], Half::fp16));
      }
    }
  }
};

// Projections packed together on the device, poisoned first.
struct Packed {
  Array<unsigned char> memory;
  std::vector<double> values;  // of all, below each other
  int n = 0, k, group;
  bool interleaved;

  Packed(const std::vector<Projection>& parts, bool interleave)
      : memory(static_cast<size_t>(int4_bytes(total(parts), parts[0].k, parts[0].group))), k(parts[0].k), group(parts[0].group), interleaved(interleave) {
    std::vector<Array<uint32_t>> words;
    std::vector<Array<uint16_t>> scales;
    words.reserve(2 * parts.size());
    scales.reserve(parts.size());
    Int4PackParams p{};
    p.n_parts = static_cast<int>(parts.size());
    p.out = memory.get();
    p.n = n = total(parts);
    p.k = k;
    p.group = group;
    p.interleaved = interleaved;
    for (size_t i = 0; i < parts.size(); ++i) {
      words.emplace_back(parts[i].weights);
      words.emplace_back(parts[i].zeros);
      scales.emplace_back(parts[i].scales);
      p.parts[i] = {words[2 * i].get(), words[2 * i + 1].get(), scales[i].get(), parts[i].n};
      values.insert(values.end(), parts[i].values.begin(), parts[i].values.end());
    }
    int4_pack(p, {});
    // Every byte of the layout, fillers included.
    Array<unsigned char> naive(memory.n);
    p.out = naive.get();
    naive_int4_pack(p, {});
    EXPECT_EQ(memory.host(), naive.host()) << "k " << k << " group " << group;
  }

  static int total(const std::vector<Projection>& parts) {
    int n = 0;
    for (const Projection& part : parts) n += part.n;
    return n;
  }
};

struct Case {
  std::vector<int> parts;
  int k, group, rows;
};
const Case kCases[] = {{{8}, 32, 32, 1},        {{16}, 128, 128, 1},     {{24, 8, 8}, 320, 64, 2},  {{40}, 96, 32, 3},     {{32, 16, 16}, 256, 128, 5},
                       {{8}, 4096, 128, 8},     {{24, 24}, 576, 64, 7},  {{16, 16}, 1152, 128, 4},  {{72}, 2176, 128, 11}, {{16}, 11008, 128, 8}};

std::vector<Projection> projections(Random& random, const Case& c) {
  std::vector<Projection> parts;
  for (int n : c.parts) parts.emplace_back(random, n, c.k, c.group);
  return parts;
}

}  // namespace

TEST(Int4, UnpacksToTheValuesBitForBit) {
  QUEST_NEEDS_GPU();
  for (const Case& c : kCases) {
    for (bool interleaved : {false, true}) {
      if (interleaved && (c.parts.size() != 2 || c.parts[0] != c.parts[1])) continue;
      Random random(static_cast<unsigned>(c.k));
      const Packed packed(projections(random, c), interleaved);
      Array<uint16_t> out(packed.values.size());
      int4_unpack({packed.memory.get(), out.get(), packed.n, packed.k, packed.group, interleaved}, {});
      const auto got = out.host();
      Array<uint16_t> naive(packed.values.size());
      naive_int4_unpack({packed.memory.get(), naive.get(), packed.n, packed.k, packed.group, interleaved}, {});
      EXPECT_EQ(got, naive.host());
      size_t wrong = 0;
      for (size_t i = 0; i < got.size(); ++i) wrong += got[i] != to_half(static_cast<float>(packed.values[i]), Half::fp16);
      EXPECT_EQ(wrong, 0u) << "k " << c.k << " group " << c.group << " interleaved " << interleaved;
    }
  }
}

TEST(Int4, GemvEpilogues) {
  QUEST_NEEDS_GPU();
  for (const Case& c : kCases) {
    Random random(static_cast<unsigned>(c.k + c.rows));
    const auto parts = projections(random, c);
    const Packed packed(parts, false);
    const auto rows = static_cast<size_t>(c.rows), n = static_cast<size_t>(packed.n);
    Array<uint16_t> in(random.halves(rows * static_cast<size_t>(c.k), Half::fp16));
    const auto what = testing::Message() << "rows " << c.rows << " n " << packed.n << " k " << c.k << " group " << c.group;
    const auto run = [&](const Packed& w, auto kernel, auto& out, Epilogue e) {
      kernel({in.get(), nullptr, nullptr, 0, w.memory.get(), w.group, out.get(), c.rows, w.n, w.k, e, 3}, {});
    };
    Array<uint16_t> half(rows * n + 1), naive_half(rows * n + 1);
    run(packed, int4_gemv, half, Epilogue::half);
    run(packed, naive_int4_gemv, naive_half, Epilogue::half);
    EXPECT_LT(difference(half.host(), naive_half.host(), Half::fp16), half_step(Half::fp16)) << what;
    Array<float> full(rows * n + 1), naive_full(rows * n + 1);
    run(packed, int4_gemv, full, Epilogue::fp32);
    run(packed, naive_int4_gemv, naive_full, Epilogue::fp32);
    EXPECT_LT(difference(full.host(), naive_full.host()), 1e-5) << what;
    const auto before = random.floats(rows * n);
    Array<float> residual(before), naive_residual(before);
    run(packed, int4_gemv, residual, Epilogue::residual);
    run(packed, naive_int4_gemv, naive_residual, Epilogue::residual);
    EXPECT_LT(difference(residual.host(), naive_residual.host()), 1e-5) << what;
    if (parts.size() != 2 || parts[0].n != parts[1].n) continue;
    const Packed interleaved(parts, true);
    Array<uint16_t> act(rows * n / 2 + 1), naive_act(rows * n / 2 + 1);
    run(interleaved, int4_gemv, act, Epilogue::silu_mul);
    run(interleaved, naive_int4_gemv, naive_act, Epilogue::silu_mul);
    EXPECT_LT(difference(act.host(), naive_act.host(), Half::fp16), half_step(Half::fp16)) << what;
  }
}

TEST(Int4, GemvNormPrologue) {
  QUEST_NEEDS_GPU();
  for (const Case& c : {Case{{40}, 96, 32, 1}, Case{{16}, 4096, 128, 2}, Case{{24}, 1152, 64, 8}}) {
    Random random(static_cast<unsigned>(c.k));
    const Packed packed(projections(random, c), false);
    const auto size = static_cast<size_t>(c.rows) * static_cast<size_t>(c.k);
    Array<float> x(random.floats(size, 4)), norm(random.floats(static_cast<size_t>(c.k)));
    const auto run = [&](auto kernel) {
      Array<float> out(static_cast<size_t>(c.rows * packed.n + 1));
      kernel({nullptr, x.get(), norm.get(), 1e-5f, packed.memory.get(), packed.group, out.get(), c.rows, packed.n, packed.k, Epilogue::fp32, 132}, {});
      return out.host();
    };
    EXPECT_LT(difference(run(int4_gemv), run(naive_int4_gemv)), 1e-4);
  }
}

// A row's bits do not depend on the rows beside it, nor on how many multiprocessors share the work.
TEST(Int4, GemvRowsAreIndependent) {
  QUEST_NEEDS_GPU();
  const Case c{{136}, 2176, 128, 8};
  Random random(5);
  const Packed packed(projections(random, c), false);
  Array<uint16_t> in(random.halves(static_cast<size_t>(8 * c.k), Half::fp16));
  Array<float> together(static_cast<size_t>(8 * packed.n));
  int4_gemv({in.get(), nullptr, nullptr, 0, packed.memory.get(), 128, together.get(), 8, packed.n, c.k, Epilogue::fp32, 2}, {});
  const auto all = together.host();
  for (int r : {0, 5, 7}) {
    Array<float> alone(static_cast<size_t>(packed.n));
    int4_gemv({in.get() + r * c.k, nullptr, nullptr, 0, packed.memory.get(), 128, alone.get(), 1, packed.n, c.k, Epilogue::fp32, 132}, {});
    const auto one = alone.host();
    EXPECT_EQ(std::memcmp(one.data(), all.data() + r * packed.n, one.size() * sizeof(float)), 0) << r;
  }
}

// A layer's products and the next one's first, in one kernel: the bits that one kernel after another leaves, twice over with one barrier.
TEST(Int4Chain, EqualsTheProductsOneByOne) {
  QUEST_NEEDS_GPU();
  struct Layer {
    int hidden, ffn, qkv, group;
  };
  // Tiles that divide nothing; fewer units than warps; more than eight tiles for a half; edges filled up.
  for (const Layer& l : {Layer{128, 352, 192, 32}, Layer{640, 1088, 1000, 64}, Layer{256, 2304, 384, 128}}) {
    Random random(static_cast<unsigned>(l.ffn));
    const auto pack = [&](std::vector<int> parts, int k, bool interleaved) { return Packed(projections(random, {std::move(parts), k, l.group, 1}), interleaved); };
    const Packed o = pack({l.hidden}, l.hidden, false), gate_up = pack({l.ffn, l.ffn}, l.hidden, true), down = pack({l.hidden}, l.ffn, false),
                 qkv = pack({l.qkv}, l.hidden, false);
    const auto hidden = static_cast<size_t>(l.hidden);
    Array<uint16_t> attention(random.halves(hidden, Half::fp16));
    Array<float> norm(random.floats(hidden)), norm2(random.floats(hidden));
    const auto start = random.floats(hidden, 4);
    enum class By { chain, one_by_one, naive };
    const auto run = [&](By by, int sms) {
      Array<float> x(start);
      Array<uint16_t> act(static_cast<size_t>(l.ffn)), out(static_cast<size_t>(l.qkv));
      Array<unsigned> barrier(std::vector<unsigned>{0});
      Int4GemvChainParams p{};
      p.products[0] = {attention.get(), nullptr, nullptr, 0, o.memory.get(), l.group, x.get(), 1, o.n, o.k, Epilogue::residual, sms};
      p.products[1] = {nullptr, x.get(), norm.get(), 1e-5f, gate_up.memory.get(), l.group, act.get(), 1, gate_up.n, gate_up.k, Epilogue::silu_mul, sms};
      p.products[2] = {act.get(), nullptr, nullptr, 0, down.memory.get(), l.group, x.get(), 1, down.n, down.k, Epilogue::residual, sms};
      p.products[3] = {nullptr, x.get(), norm2.get(), 1e-5f, qkv.memory.get(), l.group, out.get(), 1, qkv.n, qkv.k, Epilogue::half, sms};
      p.n = 4;
      p.barrier = barrier.get();
      for (int round = 0; round < 2; ++round) {
        if (by == By::chain) {
          int4_gemv_chain(p, {});
        } else if (by == By::naive) {
          naive_int4_gemv_chain(p, {});
        } else {
          for (const Int4GemvParams& product : p.products) int4_gemv(product, {});
        }
      }
      return std::make_tuple(x.host(), act.host(), out.host());
    };
    const auto want = run(By::one_by_one, 3);
    for (int sms : {1, 3, 8}) EXPECT_EQ(run(By::chain, sms), want) << l.hidden << " wide, " << sms << " blocks";
    // Errors of one product are inputs of the next: a few roundings more.
    const auto naive = run(By::naive, 1);
    EXPECT_LT(difference(std::get<0>(want), std::get<0>(naive)), half_step(Half::fp16)) << l.hidden;
    EXPECT_LT(difference(std::get<1>(want), std::get<1>(naive), Half::fp16), 4 * half_step(Half::fp16)) << l.hidden;
    EXPECT_LT(difference(std::get<2>(want), std::get<2>(naive), Half::fp16), 4 * half_step(Half::fp16)) << l.hidden;
    // Teeth: another input, another outcome.
    auto changed = attention.host();
    changed[0] ^= 0x4000;
    attention.set(changed);
    EXPECT_NE(run(By::chain, 3), want);
  }
}

// All blocks of a chain must be on the GPU at once: one on each multiprocessor, no more.
TEST(Int4Chain, RefusesMoreBlocksThanTheGpuHolds) {
  QUEST_NEEDS_GPU();
  int major = 0, sms = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
  if (major < 9) GTEST_SKIP() << "chains are for compute capability 9.0 and newer";
  EXPECT_EQ(int4_chain_refusal(11008, sms), "");
  EXPECT_EQ(int4_chain_refusal(11008, sms + 1), std::to_string(sms) + " of " + std::to_string(sms + 1) + " blocks fit on the GPU at once");
  EXPECT_EQ(int4_chain_refusal(1 << 20, sms), "inputs of 1048576 columns do not fit in shared memory");
}

// The checks above would see one wrong nibble.
TEST(Int4, TeethOneNibble) {
  QUEST_NEEDS_GPU();
  const Case c{{16}, 1152, 128, 1};
  Random random(9);
  auto parts = projections(random, c);
  const Packed intact(parts, false);
  parts[0].weights[1000] ^= 1u << 28;
  const Packed changed(parts, false);
  Array<uint16_t> in(random.halves(static_cast<size_t>(c.k), Half::fp16));
  const auto run = [&](auto kernel, const Packed& w) {
    Array<float> out(16);
    kernel({in.get(), nullptr, nullptr, 0, w.memory.get(), 128, out.get(), 1, 16, c.k, Epilogue::fp32, 132}, {});
    return out.host();
  };
  EXPECT_GT(difference(run(int4_gemv, changed), run(naive_int4_gemv, intact)), 1e-5);
  EXPECT_LT(difference(run(int4_gemv, changed), run(naive_int4_gemv, changed)), 1e-5);
}

TEST(Int4, RandomWeightsHaveTheDeviation) {
  QUEST_NEEDS_GPU();
  const int n = 64, k = 320;
  Array<unsigned char> memory(static_cast<size_t>(int4_bytes(n, k, 64)));
  int4_random({memory.get(), n, k, 64, 0.05f, 3}, {});
  Array<uint16_t> out(static_cast<size_t>(n * k));
  int4_unpack({memory.get(), out.get(), n, k, 64, false}, {});
  double sum = 0, squares = 0;
  for (double v : widen(out.host(), Half::fp16)) sum += v, squares += v * v;
  EXPECT_NEAR(std::sqrt(squares / (n * k)), 0.05, 0.002);
  EXPECT_NEAR(sum / (n * k), -0.05 / 4.61 / 2, 0.002);
}

}  // namespace quest::cuda::test
