// Prefill attention: both kernels against the naive one and each other.
#include "naive_kernels.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

struct Case {
  int base, rows, heads, kv_heads, d, page_size;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.base << " + " << c.rows << ", " << c.heads << "/" << c.kv_heads << " heads of " << c.d << ", page " << c.page_size;
}

using Kernel = void (*)(const PrefillParams&, const Launch&);

// A chunk of queries inside wider rows, over a cache whose unwritten slots are NaN.
struct Chunk {
  Case c;
  Half type;
  int width;
  Random random;
  Cache cache;
  Array<uint16_t> q;

  Chunk(const Case& shape, Half half)
      : c(shape), type(half), width(shape.heads * shape.d + 8), random(static_cast<unsigned>(31 * shape.base + shape.rows)),
        cache(random, shape.base + shape.rows, shape.kv_heads, shape.d, shape.page_size, half),
        q(random.halves(static_cast<size_t>(shape.rows) * static_cast<size_t>(width), half)) {}

  PrefillParams params(void* out) const {
    return {q.get(), width, cache.kv.get(), cache.device_table.get(), out, c.rows, c.base, c.heads, c.kv_heads, c.d, c.page_size, cache.capacity, type};
  }

  // Outputs of a kernel, with a row of poison behind the last one.
  std::vector<uint16_t> run(Kernel kernel) const {
    Array<uint16_t> out(static_cast<size_t>(c.rows + 1) * static_cast<size_t>(c.heads * c.d));
    kernel(params(out.get()), {});
    return out.host();
  }

  std::vector<uint16_t> row(const std::vector<uint16_t>& out, int r) const {
    const auto n = static_cast<std::ptrdiff_t>(c.heads * c.d);
    return {out.begin() + r * n, out.begin() + (r + 1) * n};
  }

  void check(Kernel kernel, const std::vector<uint16_t>& want) const {
    const auto got = run(kernel);
    EXPECT_LT(difference(got, want, type), half_step(type)) << c;
    for (int r = 0; r < c.rows; ++r) EXPECT_LT(difference(row(got, r), row(want, r), type), 1.5 * half_step(type)) << c << ", row " << r;
  }
};

const Case kCases[] = {{0, 1, 2, 2, 128, 16},    {0, 63, 2, 1, 64, 16},   {0, 64, 2, 2, 32, 16},  {0, 65, 4, 1, 64, 1},    {1, 130, 2, 2, 128, 16},
                       {63, 2, 2, 2, 96, 4},     {300, 70, 8, 2, 64, 32}, {127, 129, 1, 1, 128, 128}, {0, 15, 2, 2, 128, 8},  {15, 17, 4, 2, 128, 64},
                       {111, 128, 3, 3, 64, 8},  {497, 15, 8, 1, 128, 16}, {255, 257, 2, 1, 128, 32}};

bool wgmma_present() {
  Chunk chunk({0, 1, 1, 1, 128, 16}, Half::fp16);
  return prefill_wgmma_covers(chunk.params(nullptr));
}
#define QUEST_NEEDS_WGMMA() \
  QUEST_NEEDS_GPU();        \
  if (!wgmma_present()) GTEST_SKIP() << "no wgmma on this GPU or in this build"

}  // namespace

TEST(PrefillAttention, AgainstReference) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const Case& c : kCases) {
      if (left_out(c.base + c.rows, 131)) continue;
      const Chunk chunk(c, type);
      const auto want = chunk.run(naive_prefill_attention);
      chunk.check(prefill_attention_mma, want);
      if (prefill_wgmma_covers(chunk.params(nullptr))) chunk.check(prefill_attention_wgmma, want);
      const auto out = chunk.run(prefill_attention);
      EXPECT_EQ(chunk.run(prefill_attention), out) << c;  // the same bits again
    }
  }
}

TEST(PrefillAttention, NoticesOneKeyAndOnePage) {
  QUEST_NEEDS_GPU();
  for (const Case& c : {Case{64, 70, 2, 2, 128, 16}, Case{130, 140, 4, 2, 64, 32}}) {
    Chunk chunk(c, Half::fp16);
    const auto out = chunk.run(prefill_attention);
    // Another page in the place of the second one, and the newest key of another value.
    auto table = chunk.cache.table;
    table[1] = table[2];
    chunk.cache.device_table.set(table);
    EXPECT_GT(difference(chunk.run(naive_prefill_attention), out, Half::fp16), 4 * half_step(Half::fp16));
    chunk.cache.device_table.set(chunk.cache.table);
    auto storage = chunk.cache.kv.host();
    const int last = c.base + c.rows - 1;
    for (int i = 0; i < c.d; ++i) storage[chunk.cache.at(chunk.cache.table.back(), 0, 0, last % c.page_size, i)] ^= 0x8000;
    chunk.cache.kv.set(storage);
    EXPECT_GT(difference(chunk.row(chunk.run(naive_prefill_attention), c.rows - 1), chunk.row(out, c.rows - 1), Half::fp16), 4 * half_step(Half::fp16));
  }
}

TEST(PrefillAttention, WgmmaAgainstMma) {
  QUEST_NEEDS_WGMMA();
  const int heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {8, 2}, {8, 1}};
  int i = 0;
  for (int rows : {1, 15, 17, 64, 127, 129, 2047}) {
    for (int base : {0, 1, 15, 128, 4099}) {
      for (int d : {64, 128}) {
        if (left_out(base + rows, 145)) continue;
        const auto& [n, kv] = heads[i % 5];
        const Case c{base, rows, n, kv, d, 8 << i % 5};
        const Half type = i++ % 3 == 0 ? Half::bf16 : Half::fp16;
        const Chunk chunk(c, type);
        ASSERT_TRUE(prefill_wgmma_covers(chunk.params(nullptr))) << c;
        EXPECT_LT(difference(chunk.run(prefill_attention_wgmma), chunk.run(prefill_attention_mma), type), 1.5 * half_step(type)) << c;
      }
    }
  }
}

TEST(PrefillAttention, WgmmaCovers) {
  QUEST_NEEDS_WGMMA();
  const auto covers = [](const Case& c, int64_t stride) {
    PrefillParams p{};
    p.q_stride = stride, p.rows = c.rows, p.n_heads = c.heads, p.n_kv_heads = c.kv_heads, p.head_dim = c.d, p.page_size = c.page_size, p.pages = 100;
    return prefill_wgmma_covers(p);
  };
  EXPECT_TRUE(covers({0, 1, 8, 1, 64, 8}, 512));
  EXPECT_FALSE(covers({0, 1, 8, 1, 96, 16}, 768));
  EXPECT_FALSE(covers({0, 1, 8, 1, 128, 4}, 1024));
  EXPECT_FALSE(covers({0, 1, 8, 1, 128, 16}, 1023));
}

}  // namespace quest::cuda::test
