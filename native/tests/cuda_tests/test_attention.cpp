// Decode attention, and the cache append that feeds it, against the naive kernels.
#include "naive_kernels.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

std::vector<int> range(int begin, int end) {
  std::vector<int> v;
  for (int i = begin; i < end; ++i) v.push_back(i);
  return v;
}

struct DecodeCase {
  int n, heads, kv_heads, d, page_size;
};

const DecodeCase kCases[] = {{1, 2, 2, 128, 16},   {15, 4, 2, 64, 16},   {16, 8, 2, 64, 16},    {17, 2, 1, 96, 16},  {100, 8, 1, 32, 16},
                             {513, 2, 2, 128, 16}, {2047, 2, 2, 64, 16}, {2048, 4, 1, 128, 32}, {331, 6, 2, 64, 64}, {129, 3, 1, 128, 128},
                             {77, 2, 2, 64, 1},    {1000, 8, 2, 64, 4},  {45, 5, 1, 64, 8}};

// One decode call over two rows with the same reading, and its outputs.
struct Decode {
  const Cache& cache;
  DecodeCase c;
  Half type;
  int lists_per_row;
  Array<uint16_t> q, q_sinks;
  int splits;
  struct Outputs {
    std::vector<uint16_t> out;
    std::vector<float> logits, norms;
  };

  Decode(const Cache& cache_, DecodeCase c_, Half type_, Random& random, int lists, int splits_)
      : cache(cache_), c(c_), type(type_), lists_per_row(lists), q(random.halves(static_cast<size_t>(2 * c.heads * c.d), type)),
        q_sinks(random.halves(static_cast<size_t>(2 * c.heads * c.d), type)), splits(splits_) {}

  // lists: [lists_per_row] of pages, the same for both rows; row 1 of q is computed first, to mix things up. A third row of out is poison.
  Outputs run(DecodeRow row, const std::vector<std::vector<int>>& lists, bool tokens, bool naive = false) {
    row.table = cache.device_table.get();
    row.n = c.n;
    DecodeRow a = row, b = row;
    a.row = 1;
    b.row = 0;
    Array<DecodeRow> rows(std::vector<DecodeRow>{a, b});
    const int width = lists.empty() ? 1 : static_cast<int>(lists[0].size());
    std::vector<int32_t> flat;
    for (int r = 0; r < 2; ++r) {
      for (int l = 0; l < lists_per_row; ++l) {
        for (int i = 0; i < width; ++i) flat.push_back(lists.empty() ? -1 : lists[static_cast<size_t>(l)][static_cast<size_t>(i)]);
      }
    }
    Array<int32_t> list_array(flat);
    const bool evicts = row.reading == Reading::evictor;
    const int stride = row.kept + 3;
    Array<uint16_t> out(static_cast<size_t>(3 * c.heads * c.d));
    Array<float> partials(static_cast<size_t>(2 * c.heads * splits * (c.d + 2)));
    Array<unsigned> arrivals(std::vector<unsigned>(static_cast<size_t>(2 * c.heads), 0));
    Array<float> logits(evicts ? static_cast<size_t>(2 * c.heads * stride) : 0), norms(static_cast<size_t>(4 * c.heads));
    DecodeParams p{rows.get(), 2, {3, c.heads, c.kv_heads, c.d, shift_of(c.page_size), lists_per_row, type}, q.get(), int64_t{c.heads} * c.d,
                   q_sinks.get(), cache.kv.get(), list_array.get(), width, out.get(), tokens, splits, partials.get(), arrivals.get(),
                   evicts ? logits.get() : nullptr, stride, norms.get()};
    if (naive) {
      naive_decode_attention(p, {});
      return {out.host(), logits.host(), norms.host()};
    }
    decode_attention(p, {});
    const auto first = out.host();
    decode_attention(p, {});  // the arrival counters must be ready again
    EXPECT_EQ(out.host(), first);
    for (unsigned x : arrivals.host()) EXPECT_EQ(x, 0u);
    return {first, logits.host(), norms.host()};
  }
  std::vector<uint16_t> out(const DecodeRow& row, const std::vector<std::vector<int>>& lists, bool tokens) { return run(row, lists, tokens).out; }
  std::vector<uint16_t> want(const DecodeRow& row, const std::vector<std::vector<int>>& lists = {}) { return run(row, lists, true, true).out; }
};

std::ostream& operator<<(std::ostream& out, const DecodeCase& c) {
  return out << c.n << " tokens, " << c.heads << "/" << c.kv_heads << " heads of " << c.d << ", page " << c.page_size;
}

DecodeRow row_of(Reading reading) {
  DecodeRow r{};
  r.reading = reading;
  r.skip_layers = 2;
  return r;
}

}  // namespace

TEST(DecodeAttention, Dense) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const DecodeCase& c : kCases) {
      if (left_out(c.n, 600)) continue;
      for (int splits : {2, 7}) {
        Random random(static_cast<unsigned>(c.n));
        Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, type);
        Decode decode(cache, c, type, random, c.kv_heads, splits);
        const auto out = decode.out(row_of(Reading::dense), {}, false);
        EXPECT_LT(difference(out, decode.want(row_of(Reading::dense)), type), half_step(type)) << c;
        // A row whose method is sparse reads densely below skip_layers, and the token path gives the same bits.
        DecodeRow skipped = row_of(Reading::selector);
        skipped.skip_layers = 4;
        EXPECT_EQ(decode.out(skipped, {}, false), out);
        EXPECT_EQ(decode.out(row_of(Reading::dense), {}, true), out);
      }
    }
  }
}

TEST(DecodeAttention, PageLists) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const DecodeCase& c : kCases) {
      if (left_out(c.n, 600)) continue;
      const int pages = (c.n + c.page_size - 1) / c.page_size;
      if (pages < 2) continue;
      for (bool own : {false, true}) {
        Random random(static_cast<unsigned>(c.n + own));
        Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, type);
        const int lists = own ? c.heads : c.kv_heads;
        Decode decode(cache, c, type, random, lists, 5);
        const int k = std::max(1, pages / 3);
        std::vector<std::vector<int>> chosen;
        for (int l = 0; l < lists; ++l) {
          auto all = range(0, pages - 1);
          std::shuffle(all.begin(), all.end(), random.engine);
          all.resize(static_cast<size_t>(k - 1));
          all.push_back(pages - 1);
          std::sort(all.begin(), all.end());
          chosen.push_back(all);
        }
        DecodeRow row = row_of(Reading::selector);
        row.list_pages = k;
        const auto out = decode.out(row, chosen, false);
        EXPECT_LT(difference(out, decode.want(row, chosen), type), half_step(type)) << c << ", own " << own;
        EXPECT_EQ(decode.out(row, chosen, true), out);

        // Teeth: the comparison notices one page missing.
        if (k > 1) {
          auto dropped = chosen;
          for (auto& list : dropped) list.erase(list.begin());
          DecodeRow less = row;
          less.list_pages = k - 1;
          EXPECT_GT(difference(out, decode.want(less, dropped), type), 4 * half_step(type)) << c;
        }

        // The list of everything is dense attention, bit for bit.
        row.list_pages = pages;
        const std::vector<std::vector<int>> everything(static_cast<size_t>(lists), range(0, pages));
        EXPECT_EQ(decode.out(row, everything, false), decode.out(row_of(Reading::dense), {}, false)) << c;
      }
    }
  }
}

TEST(DecodeAttention, SinksAndWindow) {
  QUEST_NEEDS_GPU();
  for (const DecodeCase& c : kCases) {
    if (left_out(c.n, 600)) continue;
    for (int sinks : {0, 4, 7}) {
      const int window = 13;
      if (c.n <= sinks + window) continue;
      Random random(static_cast<unsigned>(c.n));
      Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, Half::fp16);
      Decode decode(cache, c, Half::fp16, random, c.kv_heads, 4);
      DecodeRow row = row_of(Reading::window);
      row.sinks = sinks;
      row.window = window;
      const auto out = decode.out(row, {}, true);
      EXPECT_LT(difference(out, decode.want(row), Half::fp16), half_step(Half::fp16)) << c << ", sinks " << sinks;
      // Teeth: a window of one token less; sinks that see the query of the others.
      DecodeRow less = row;
      less.window = window - 1;
      EXPECT_GT(difference(out, decode.want(less), Half::fp16), 4 * half_step(Half::fp16)) << c;
      if (sinks == 0) continue;
      decode.q_sinks.set(decode.q.host());
      EXPECT_GT(difference(out, decode.want(row), Half::fp16), 4 * half_step(Half::fp16)) << c;
    }
  }
}

TEST(DecodeAttention, KeptTokens) {
  QUEST_NEEDS_GPU();
  for (const DecodeCase& c : kCases) {
    if (left_out(c.n, 600)) continue;
    for (bool shared : {false, true}) {
      for (bool all : {false, true}) {
        const int kept = all ? c.n : std::max(1, c.n * 2 / 3), lists = shared ? 1 : c.kv_heads, stride = kept + 2;
        Random random(static_cast<unsigned>(c.n));
        Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, Half::fp16);
        std::vector<int32_t> stored(static_cast<size_t>(4 * lists * stride), -1000000);
        for (int l = 0; l < lists; ++l) {
          auto t = range(0, c.n - 1);
          if (!all) std::shuffle(t.begin(), t.end(), random.engine);
          t.resize(static_cast<size_t>(kept - 1));
          std::sort(t.begin(), t.end());
          // The newest token is not in the list yet.
          std::copy(t.begin(), t.end(), stored.begin() + (3 * lists + l) * stride);
        }
        Array<int32_t> list(stored);
        Decode decode(cache, c, Half::fp16, random, c.kv_heads, 3);
        DecodeRow row = row_of(Reading::evictor);
        row.kept = kept;
        row.kept_all = all;
        row.kept_lists = lists;
        row.kept_stride = stride;
        row.kept_tokens = list.get();
        const auto got = decode.run(row, {}, true), want = decode.run(row, {}, true, true);
        EXPECT_LT(difference(got.out, want.out, Half::fp16), half_step(Half::fp16)) << c;
        // What eviction goes by: the logits, and the maximum and sum of their softmax.
        EXPECT_LT(difference(got.logits, want.logits), 1e-5) << c;
        EXPECT_LT(difference(got.norms, want.norms), 1e-5) << c;
        // Teeth: one token of a list is another.
        if (all || kept < 2) continue;
        for (int l = 0; l < lists; ++l) {
          int32_t& first = stored[static_cast<size_t>((3 * lists + l) * stride)];
          first = first > 0 ? first - 1 : c.n - 1;
        }
        list.set(stored);
        const auto wrong = decode.run(row, {}, true, true);
        EXPECT_GT(difference(got.out, wrong.out, Half::fp16), half_step(Half::fp16)) << c;
        EXPECT_GT(difference(got.logits, wrong.logits), 1e-4) << c;
      }
    }
  }
}

TEST(RopeAppend, AgainstReference) {
  QUEST_NEEDS_GPU();
  struct Case {
    int before, rows, heads, kv_heads, d, page_size, sink_position;
    bool biased = false;
  };
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const Case& c : {Case{0, 1, 2, 2, 128, 16, -1}, Case{15, 3, 4, 2, 64, 16, 99}, Case{7, 40, 8, 1, 32, 16, -1}, Case{16, 16, 2, 1, 96, 16, 7},
                          Case{100, 9, 2, 2, 128, 4, -1}, Case{5, 3, 2, 2, 64, 1, 0}, Case{120, 20, 2, 1, 64, 128, -1},
                          Case{15, 3, 4, 2, 64, 16, 99, true}, Case{7, 40, 7, 1, 32, 16, -1, true}, Case{100, 9, 2, 2, 128, 4, -1, true}}) {
      Random random(static_cast<unsigned>(c.before));
      const int n = c.before + c.rows, half = c.d / 2, width = (c.heads + 2 * c.kv_heads) * c.d;
      Cache cache(random, n, c.kv_heads, c.d, c.page_size, type);
      auto before_kv = cache.kv.host();
      const auto each_new = [&](auto&& f) {  // f(an element of a new token's keys or values)
        for (int t = c.before; t < n; ++t) {
          for (int h = 0; h < c.kv_heads; ++h) {
            for (int which : {0, 1}) {
              for (int i = 0; i < c.d; ++i) f(cache.at(cache.table[static_cast<size_t>(t / c.page_size)], h, which, t % c.page_size, i));
            }
          }
        }
      };
      each_new([&](size_t at) { before_kv[at] = 0xffff; });
      // Metadata as they were before: the bounds of the first `before` keys, poison elsewhere.
      std::vector<uint16_t> bounds(cache.metadata.n, 0xffff);
      for (int h = 0; h < c.kv_heads; ++h) {
        for (int t = 0; t < c.before; ++t) {
          for (int i = 0; i < c.d; ++i) {
            const auto page = cache.table[static_cast<size_t>(t / c.page_size)];
            const auto k = static_cast<float>(cache.keys[cache.index(h, t, i)]);
            uint16_t& low = bounds[cache.bound(h, page, 0, i)];
            uint16_t& high = bounds[cache.bound(h, page, 1, i)];
            if (t % c.page_size == 0 || k < from_half(low, type)) low = to_half(k, type);
            if (t % c.page_size == 0 || k > from_half(high, type)) high = to_half(k, type);
          }
        }
      }
      cache.metadata.set(bounds);
      auto input = random.halves(static_cast<size_t>(c.rows * width), type);
      std::vector<float> frequencies;
      for (int i = 0; i < half; ++i) frequencies.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
      std::vector<AppendTask> tasks;
      for (int r = 0; r < c.rows;) {
        const int position = c.before + r, count = std::min(c.rows - r, c.page_size - position % c.page_size);
        tasks.push_back({r, count, position, cache.table[static_cast<size_t>(position / c.page_size)], c.sink_position});
        r += count;
      }
      // Large beside the projections, so that one left out, or of another head, shows.
      std::vector<float> biases = random.floats(static_cast<size_t>(width), 4);
      struct After {
        std::vector<uint16_t> qkv, sinks, kv, metadata;
      };
      const auto run = [&](auto kernel) {
        Array<float> inv_freq(frequencies), bias(biases);
        Array<AppendTask> task_array(tasks);
        Array<uint16_t> qkv(input), sinks(static_cast<size_t>(c.rows * c.heads * c.d));
        cache.kv.set(before_kv);
        cache.metadata.set(bounds);
        kernel({task_array.get(), static_cast<int>(tasks.size()), qkv.get(), sinks.get(), cache.kv.get(), cache.metadata.get(), inv_freq.get(), 1.25f,
                c.biased ? bias.get() : nullptr, c.heads, c.kv_heads, c.d, c.page_size, cache.capacity, type},
               {});
        return After{qkv.host(), sinks.host(), cache.kv.host(), cache.metadata.host()};
      };
      const After got = run([](const AppendParams& p, const Launch& how) { rope_append(p, how); });
      const After want = run([](const AppendParams& p, const Launch& how) { naive_rope_append(p, how); });
      const auto what = testing::Message() << c.before << " + " << c.rows << ", " << c.heads << "/" << c.kv_heads << " heads of " << c.d;
      EXPECT_LT(difference(got.qkv, want.qkv, type), half_step(type)) << what;
      EXPECT_LT(difference(got.sinks, want.sinks, type), half_step(type)) << what;
      EXPECT_LT(difference(got.kv, want.kv, type), half_step(type)) << what;
      EXPECT_LT(difference(got.metadata, want.metadata, type), half_step(type)) << what;
      // Only queries are rotated in place, and no key moved that was there.
      for (size_t i = 0; i < input.size(); ++i) {
        if (static_cast<int>(i) % width >= c.heads * c.d) {
          ASSERT_EQ(got.qkv[i], input[i]) << what;
        }
      }
      auto elsewhere = got.kv;
      each_new([&](size_t at) { elsewhere[at] = 0xffff; });
      ASSERT_EQ(elsewhere, before_kv) << what;
      // Bounds are exact over the keys as stored.
      cache.kv.set(got.kv);
      cache.metadata.set(bounds);
      for (int first = 0; first < n; first += c.page_size) {
        naive_page_bounds({cache.kv.get(), cache.metadata.get(), 0, 0, 1, c.kv_heads, c.d, c.page_size, cache.capacity,
                           cache.table[static_cast<size_t>(first / c.page_size)], std::min(c.page_size, n - first), type},
                          {});
      }
      ASSERT_EQ(got.metadata, cache.metadata.host()) << what;

      // Teeth: a sink's next position, another frequency of the last pair, one bias, one key beyond its page's maximum.
      const auto wrong = [&] { return run([](const AppendParams& p, const Launch& how) { naive_rope_append(p, how); }); };
      const double seen = 2 * half_step(type);
      if (c.sink_position >= 0) {
        for (AppendTask& t : tasks) ++t.sink_position;
        EXPECT_GT(difference(got.sinks, wrong().sinks, type), seen) << what;
        for (AppendTask& t : tasks) --t.sink_position;
      }
      frequencies.back() += 1;
      if (n > 1) {  // position 0 is not turned
        EXPECT_GT(difference(got.qkv, wrong().qkv, type), seen) << what;
        EXPECT_GT(difference(got.kv, wrong().kv, type), seen) << what;
      }
      frequencies.back() -= 1;
      if (c.biased) {
        biases.back() += 8;
        EXPECT_GT(difference(got.kv, wrong().kv, type), seen) << what;
        biases.back() -= 8;
      }
      uint16_t& key = input[static_cast<size_t>((c.rows - 1) * width + (c.heads + c.kv_heads - 1) * c.d)];
      key = to_half(50, type);
      EXPECT_GT(difference(got.kv, wrong().kv, type), seen) << what;
      EXPECT_GT(difference(got.metadata, wrong().metadata, type), seen) << what;
    }
  }
}

TEST(PageBounds, OfTheFirstTokens) {
  QUEST_NEEDS_GPU();
  struct Case {
    int tokens, kv_heads, d, page_size;
  };
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const Case& c : {Case{37, 2, 128, 16}, Case{5, 1, 32, 4}, Case{300, 3, 96, 128}, Case{3, 2, 64, 1}, Case{64, 1, 64, 32}}) {
      Random random(static_cast<unsigned>(c.tokens));
      const Cache cache(random, c.tokens, c.kv_heads, c.d, c.page_size, type);
      auto two_layers = cache.kv.host();  // the second has the first's keys with their signs turned
      for (size_t i = 0; i < cache.kv.n; ++i) two_layers.push_back(two_layers[i] ^ 0x8000u);
      const Array<uint16_t> kv(two_layers);
      const std::vector<uint16_t> poison(2 * cache.metadata.n, 0xffff);
      for (int logical = 0; logical < cache.pages; ++logical) {
        const int first = logical * c.page_size, there = std::min(c.page_size, c.tokens - first);
        const int32_t page = cache.table[static_cast<size_t>(logical)];
        for (int count : {1, (there + 1) / 2, there}) {
          Array<uint16_t> metadata(poison), want(poison);  // nothing but the page's bounds is written
          const auto params = [&](uint16_t* out, int tokens) {
            return PageBoundsParams{kv.get(), out, static_cast<int64_t>(cache.kv.n), static_cast<int64_t>(cache.metadata.n), 2, c.kv_heads, c.d, c.page_size,
                                    cache.capacity, page, tokens, type};
          };
          page_bounds(params(metadata.get(), count), {});
          naive_page_bounds(params(want.get(), count), {});
          ASSERT_EQ(metadata.host(), want.host()) << c.tokens << " tokens, page " << logical << ", " << count;
          // Teeth: one token less.
          if (count == 1) continue;
          naive_page_bounds(params(want.get(), count - 1), {});
          EXPECT_NE(metadata.host(), want.host()) << c.tokens << " tokens, page " << logical << ", " << count;
        }
      }
    }
  }
}

}  // namespace quest::cuda::test
