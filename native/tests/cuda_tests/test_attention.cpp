// Decode attention, and the cache append that feeds it.
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
  std::vector<double> last_logits, last_norms;

  Decode(const Cache& cache_, DecodeCase c_, Half type_, Random& random, int lists, int splits_)
      : cache(cache_), c(c_), type(type_), lists_per_row(lists), q(random.halves(static_cast<size_t>(2 * c.heads * c.d), type)),
        q_sinks(random.halves(static_cast<size_t>(2 * c.heads * c.d), type)), splits(splits_) {}

  // lists: [lists_per_row] of pages, the same for both rows; row 1 of q is computed first, to mix things up.
  std::vector<uint16_t> run(DecodeRow row, const std::vector<std::vector<int>>& lists, bool tokens, bool keep_logits = false) {
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
    const auto size = static_cast<size_t>(2 * c.heads * c.d);
    Array<uint16_t> out(size);
    Array<float> partials(static_cast<size_t>(2 * c.heads * splits * (c.d + 2)));
    Array<unsigned> arrivals(std::vector<unsigned>(static_cast<size_t>(2 * c.heads), 0));
    Array<float> logits(keep_logits ? static_cast<size_t>(2 * c.heads * row.kept) : 1), norms(static_cast<size_t>(4 * c.heads));
    DecodeParams p{rows.get(), 2, {3, c.heads, c.kv_heads, c.d, shift_of(c.page_size), lists_per_row, type}, q.get(), int64_t{c.heads} * c.d,
                   q_sinks.get(), cache.kv.get(), list_array.get(), width, out.get(), tokens, splits, partials.get(), arrivals.get(),
                   keep_logits ? logits.get() : nullptr, row.kept, norms.get()};
    decode_attention(p, {});
    const auto first = out.host();
    decode_attention(p, {});  // the arrival counters must be ready again
    EXPECT_EQ(out.host(), first);
    for (unsigned x : arrivals.host()) EXPECT_EQ(x, 0u);
    if (keep_logits) {
      const auto l = logits.host(), s = norms.host();
      last_logits.assign(l.begin(), l.end());
      last_norms.assign(s.begin(), s.end());
    }
    return first;
  }

  // tokens_of(query head) -> tokens in list order
  template <class TokensOf>
  std::vector<double> want(TokensOf&& tokens_of, int sinks = 0) {
    const auto qs = widen(q.host(), type), ss = widen(q_sinks.host(), type);
    std::vector<double> out;
    for (int r = 0; r < 2; ++r) {
      for (int h = 0; h < c.heads; ++h) {
        const auto at = static_cast<size_t>((r * c.heads + h) * c.d);
        const auto o = attend(cache, h / (c.heads / c.kv_heads), &qs[at], tokens_of(h), nullptr, &ss[at], sinks);
        out.insert(out.end(), o.begin(), o.end());
      }
    }
    return out;
  }
};

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
        const auto out = decode.run(row_of(Reading::dense), {}, false);
        EXPECT_LT(relative_error(widen(out, type), decode.want([&](int) { return range(0, c.n); })), half_step(type))
            << c.n << " tokens, " << c.heads << "/" << c.kv_heads << " heads of " << c.d << ", page " << c.page_size;
        // A row whose method is sparse reads densely below skip_layers, and the token path gives the same bits.
        DecodeRow skipped = row_of(Reading::selector);
        skipped.skip_layers = 4;
        EXPECT_EQ(decode.run(skipped, {}, false), out);
        EXPECT_EQ(decode.run(row_of(Reading::dense), {}, true), out);
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
        const int lists = own ? c.heads : c.kv_heads, group = c.heads / c.kv_heads;
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
        const auto out = decode.run(row, chosen, false);
        const auto tokens_of = [&](int h) {
          std::vector<int> t;
          for (int page : chosen[static_cast<size_t>(own ? h : h / group)]) {
            for (int i = page * c.page_size; i < std::min(c.n, (page + 1) * c.page_size); ++i) t.push_back(i);
          }
          return t;
        };
        EXPECT_LT(relative_error(widen(out, type), decode.want(tokens_of)), half_step(type)) << c.n << " own " << own;
        EXPECT_EQ(decode.run(row, chosen, true), out);

        // The list of everything is dense attention, bit for bit.
        row.list_pages = pages;
        const std::vector<std::vector<int>> everything(static_cast<size_t>(lists), range(0, pages));
        EXPECT_EQ(decode.run(row, everything, false), decode.run(row_of(Reading::dense), {}, false)) << c.n;

        // Teeth: the comparison notices one page missing.
        if (k > 1) {
          const auto dropped = decode.want([&](int h) {
            auto t = tokens_of(h);
            t.erase(t.begin(), t.begin() + c.page_size);
            return t;
          });
          EXPECT_GT(relative_error(widen(out, type), dropped), 4 * half_step(type));
        }
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
      const auto out = decode.run(row, {}, true);
      const auto want = decode.want(
          [&](int) {
            auto t = range(0, sinks);
            for (int i = c.n - window; i < c.n; ++i) t.push_back(i);
            return t;
          },
          sinks);
      EXPECT_LT(relative_error(widen(out, Half::fp16), want), half_step(Half::fp16)) << c.n << " sinks " << sinks;
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
        std::vector<std::vector<int>> tokens;
        for (int l = 0; l < lists; ++l) {
          auto t = range(0, c.n - 1);
          if (!all) std::shuffle(t.begin(), t.end(), random.engine);
          t.resize(static_cast<size_t>(kept - 1));
          std::sort(t.begin(), t.end());
          // The newest token is not in the list yet.
          std::copy(t.begin(), t.end(), stored.begin() + (3 * lists + l) * stride);
          t.push_back(c.n - 1);
          tokens.push_back(t);
        }
        Array<int32_t> list(stored);
        Decode decode(cache, c, Half::fp16, random, c.kv_heads, 3);
        DecodeRow row = row_of(Reading::evictor);
        row.kept = kept;
        row.kept_all = all;
        row.kept_lists = lists;
        row.kept_stride = stride;
        row.kept_tokens = list.get();
        const auto out = decode.run(row, {}, true, true);
        const int group = c.heads / c.kv_heads;
        const auto tokens_of = [&](int h) { return tokens[static_cast<size_t>(shared ? 0 : h / group)]; };
        EXPECT_LT(relative_error(widen(out, Half::fp16), decode.want(tokens_of)), half_step(Half::fp16)) << c.n;
        // The logits it leaves give the probabilities. Decode row 0 is query row 1.
        const auto qs = widen(decode.q.host(), Half::fp16);
        std::vector<double> mine, want;
        for (int h = 0; h < c.heads; ++h) {
          std::vector<double> p;
          attend(cache, h / group, &qs[static_cast<size_t>((c.heads + h) * c.d)], tokens_of(h), &p);
          want.insert(want.end(), p.begin(), p.end());
          for (int j = 0; j < kept; ++j) {
            mine.push_back(std::exp2(decode.last_logits[static_cast<size_t>(h * kept + j)] - decode.last_norms[static_cast<size_t>(2 * h)]) /
                           decode.last_norms[static_cast<size_t>(2 * h + 1)]);
          }
        }
        EXPECT_LT(relative_error(mine, want), 1e-4) << c.n;
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
      Cache cache(random, n, c.kv_heads, c.d, c.page_size, type);  // has the final keys too; they are overwritten
      std::vector<uint16_t> before_kv = cache.kv.host();
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
      const auto input = random.halves(static_cast<size_t>(c.rows * width), type);
      Array<uint16_t> qkv(input), sinks(static_cast<size_t>(c.rows * c.heads * c.d));
      std::vector<float> frequencies;
      for (int i = 0; i < half; ++i) frequencies.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
      Array<float> inv_freq(frequencies);
      std::vector<AppendTask> tasks;
      for (int r = 0; r < c.rows;) {
        const int position = c.before + r, count = std::min(c.rows - r, c.page_size - position % c.page_size);
        tasks.push_back({r, count, position, cache.table[static_cast<size_t>(position / c.page_size)], c.sink_position});
        r += count;
      }
      Array<AppendTask> task_array(tasks);
      const float factor = 1.25f;
      // Large beside the projections, so that one left out, or of another head, shows.
      const std::vector<float> biases = c.biased ? random.floats(static_cast<size_t>(width), 4) : std::vector<float>(static_cast<size_t>(width), 0.0f);
      Array<float> bias(biases);
      rope_append({task_array.get(), static_cast<int>(tasks.size()), qkv.get(), sinks.get(), cache.kv.get(), cache.metadata.get(), inv_freq.get(), factor,
                   c.biased ? bias.get() : nullptr, c.heads, c.kv_heads, c.d, c.page_size, cache.capacity, type},
                  {});
      auto in = widen(input, type);
      for (size_t i = 0; i < in.size(); ++i) in[i] += static_cast<double>(biases[i % static_cast<size_t>(width)]);
      const auto out = widen(qkv.host(), type), sink = widen(sinks.host(), type), kv = widen(cache.kv.host(), type);
      const auto rotated = [&](int r, int head, int i, int position) {
        const double angle = static_cast<double>(static_cast<float>(position) * frequencies[static_cast<size_t>(i % half)]);
        const double a = in[static_cast<size_t>(r * width + head * c.d + i % half)], b = in[static_cast<size_t>(r * width + head * c.d + i % half + half)];
        return factor * (i < half ? a * std::cos(angle) - b * std::sin(angle) : b * std::cos(angle) + a * std::sin(angle));
      };
      std::vector<double> got, want;
      for (int r = 0; r < c.rows; ++r) {
        const int position = c.before + r, page = cache.table[static_cast<size_t>(position / c.page_size)];
        for (int h = 0; h < c.heads; ++h) {
          for (int i = 0; i < c.d; ++i) {
            got.push_back(out[static_cast<size_t>(r * width + h * c.d + i)]);
            want.push_back(rotated(r, h, i, position));
            if (c.sink_position >= 0) {
              got.push_back(sink[static_cast<size_t>((r * c.heads + h) * c.d + i)]);
              want.push_back(rotated(r, h, i, c.sink_position));
            }
          }
        }
        for (int h = 0; h < c.kv_heads; ++h) {
          for (int i = 0; i < c.d; ++i) {
            got.push_back(kv[cache.at(page, h, 0, position % c.page_size, i)]);
            want.push_back(rotated(r, c.heads + h, i, position));
            got.push_back(kv[cache.at(page, h, 1, position % c.page_size, i)]);
            want.push_back(in[static_cast<size_t>(r * width + (c.heads + c.kv_heads + h) * c.d + i)]);
          }
        }
      }
      EXPECT_LT(relative_error(got, want), half_step(type)) << c.before << " + " << c.rows;
      // Bounds are exact over the keys as stored.
      const auto after = cache.metadata.host();
      for (int h = 0; h < c.kv_heads; ++h) {
        for (int p = 0; p * c.page_size < n; ++p) {
          for (int i = 0; i < c.d; ++i) {
            double low = 1e30, high = -1e30;
            for (int t = p * c.page_size; t < std::min(n, (p + 1) * c.page_size); ++t) {
              const double k = kv[cache.at(cache.table[static_cast<size_t>(p)], h, 0, t % c.page_size, i)];
              low = std::min(low, k);
              high = std::max(high, k);
            }
            ASSERT_EQ(from_half(after[cache.bound(h, cache.table[static_cast<size_t>(p)], 0, i)], type), low);
            ASSERT_EQ(from_half(after[cache.bound(h, cache.table[static_cast<size_t>(p)], 1, i)], type), high);
          }
        }
      }
      // Nothing else in the cache moved.
      auto expected = before_kv;
      const auto final_kv = cache.kv.host();
      for (int t = c.before; t < n; ++t) {
        for (int h = 0; h < c.kv_heads; ++h) {
          for (int w = 0; w < 2; ++w) {
            for (int i = 0; i < c.d; ++i) {
              const auto at = cache.at(cache.table[static_cast<size_t>(t / c.page_size)], h, w, t % c.page_size, i);
              expected[at] = final_kv[at];
            }
          }
        }
      }
      EXPECT_EQ(final_kv, expected);
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
          Array<uint16_t> metadata(poison);
          page_bounds({kv.get(), metadata.get(), static_cast<int64_t>(cache.kv.n), static_cast<int64_t>(cache.metadata.n), 2, c.kv_heads, c.d, c.page_size,
                       cache.capacity, page, count, type},
                      {});
          auto want = poison;  // nothing but the page's bounds is written
          for (int h = 0; h < c.kv_heads; ++h) {
            for (int i = 0; i < c.d; ++i) {
              double low = 1e30, high = -1e30;
              for (int t = first; t < first + count; ++t) {
                low = std::min(low, cache.keys[cache.index(h, t, i)]);
                high = std::max(high, cache.keys[cache.index(h, t, i)]);
              }
              const auto half = [&](double x) { return to_half(static_cast<float>(x), type); };
              want[cache.bound(h, page, 0, i)] = half(low);
              want[cache.bound(h, page, 1, i)] = half(high);
              want[cache.metadata.n + cache.bound(h, page, 0, i)] = half(-high);
              want[cache.metadata.n + cache.bound(h, page, 1, i)] = half(-low);
            }
          }
          ASSERT_EQ(metadata.host(), want) << c.tokens << " tokens, page " << logical << ", " << count;
        }
      }
    }
  }
}

}  // namespace quest::cuda::test
