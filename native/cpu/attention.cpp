#include "cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cpu/page_lists.h"
#include "cpu/row_group.h"
#include "cpu/spans.h"

namespace quest::cpu {

namespace {

constexpr int64_t kBlockRows = 64;         // query heads x queries that share each loaded key
constexpr int64_t kPagesPerChunk = 256;    // of a page-scoring task
constexpr int64_t kPagesTogether = 32;     // scored by all rows of a group while they are in the first-level cache
constexpr int64_t kItemsPerThread = 2;     // with fewer lists than this, lists are split over threads

// What one list read, for the counters.
struct ListStats {
  int64_t tokens = 0, pages = 0, scored_pages = 0;
  float recalled = 0;  // summed over the list's heads, where it is wanted
};

// Rows [first, first + rows) of a segment that read densely, for one KV head.
struct Block {
  Segment* segment;
  int64_t first, rows, kv_head;
};

class Pass {
 public:
  Pass(ThreadPool& pool, const Kernels& kernels, const AttentionShape& shape, int64_t layer,
       std::vector<Segment>& segments, const float* q, const float* q_sinks, float* out)
      : pool_(pool), kernels_(kernels), shape_(shape), layer_(layer), segments_(segments), q_(q), q_sinks_(q_sinks), out_(out) {}

  void run() {
    plan();
    stats_.resize(items_.size());
    const auto n_lists = static_cast<int64_t>(lists_.size()), n_groups = static_cast<int64_t>(groups_.size());
    const bool whole_lists = n_lists >= kItemsPerThread * pool_.threads();
    const auto n_blocks = static_cast<int64_t>(blocks_.size());
    pool_.parallel_for(n_blocks + n_groups + (whole_lists ? n_lists : 0), [&](int64_t i, int) {
      if (i < n_blocks) {
        attend_block(blocks_[static_cast<size_t>(n_blocks - 1 - i)]);  // the longest first
      } else if (i < n_blocks + n_groups) {
        attend_group(groups_[static_cast<size_t>(i - n_blocks)]);
      } else {
        attend_list(lists_[static_cast<size_t>(i - n_blocks - n_groups)]);
      }
    });
    if (!whole_lists) attend_lists_in_parts();
    for (Segment& s : segments_) {
      if (s.column_sums) add_column_sums(s);
    }
    evict_all();
    count();
    write_recall();
  }

 private:
  const float* query(const Segment& s, int64_t row, int64_t head) const {
    return q_ + ((s.row0 + row) * shape_.n_heads + head) * shape_.head_dim;
  }
  const float* sink_query(const Segment& s, int64_t row, int64_t head) const {
    return q_sinks_ ? q_sinks_ + ((s.row0 + row) * shape_.n_heads + head) * shape_.head_dim : nullptr;
  }
  float* output(const Segment& s, int64_t row, int64_t head) const {
    return out_ + ((s.row0 + row) * shape_.n_heads + head) * shape_.head_dim;
  }
  Reading reading(const Segment& s, int64_t n) const {
    return s.prefill ? Reading::dense : reading_of(s.branch->method, layer_, n);
  }

  void plan() {
    const int64_t g = shape_.group();
    const int64_t block = std::max<int64_t>(1, kBlockRows / g);
    for (Segment& s : segments_) {
      int64_t dense = 0;
      while (dense < s.rows && reading(s, s.base + dense + 1) == Reading::dense) ++dense;
      // A single row is cheaper as a list; traces are written by lists; column sums need the blocks.
      if ((dense == 1 && !s.column_sums) || s.see.trace) dense = 0;
      for (int64_t first = 0; first < dense; first += block) {
        for (int64_t h = 0; h < shape_.n_kv_heads; ++h) blocks_.push_back({&s, first, std::min(block, dense - first), h});
      }
      dense_rows_.push_back(dense);
      std::vector<std::vector<int64_t>> open;  // groups that still take rows, one per list of a row
      for (int64_t row = dense; row < s.rows; ++row) {
        const int64_t n = s.base + row + 1;
        const Reading how = reading(s, n);
        if (how == Reading::evictor) count_token_in(shape_, layer_, *s.branch, n);
        const int64_t heads = how == Reading::selector && lists_per_head(s.branch->method) ? 1 : g;
        const bool groups = how == Reading::selector && s.rows > 1 && !selects_tokens(s.branch->method);
        if (groups) open.resize(static_cast<size_t>(shape_.n_heads / heads));
        for (int64_t head = 0; head < shape_.n_heads; head += heads) {
          const auto index = static_cast<int64_t>(items_.size());
          items_.push_back({&s, row, n, head, heads, head / g, {}, 0, {}, {}});
          if (!groups) {
            lists_.push_back(index);
            continue;
          }
          auto& group = open[static_cast<size_t>(head / heads)];
          group.push_back(index);
          const int64_t size = s.branch->pages.page_size();
          const int64_t most = group_rows(heads, selected_pages(s.branch->method, static_cast<int>(size)) * size);
          if (static_cast<int64_t>(group.size()) == most) groups_.push_back(std::exchange(group, {}));
        }
      }
      for (auto& group : open) {
        if (!group.empty()) groups_.push_back(std::move(group));
      }
      if (s.column_sums) {
        row_max_.resize(static_cast<size_t>(s.rows * shape_.n_heads));
        row_sum_.resize(row_max_.size());
      }
    }
    probabilities_.resize(items_.size());
  }

  // Dense causal attention of a block of queries: each page of keys is loaded once for all of them.
  void attend_block(const Block& b) {
    const int64_t g = shape_.group(), d = shape_.head_dim, rows = b.rows * g;
    Segment& s = *b.segment;
    KvStore& store = s.branch->cache->store;
    const auto& ids = s.branch->pages.pages();
    const int64_t size = s.branch->pages.page_size();
    std::vector<float> q(static_cast<size_t>(rows * d)), scores(static_cast<size_t>(rows * kSpanTokens)),
        value(static_cast<size_t>(rows * d));
    for (int64_t i = 0; i < b.rows; ++i) {
      const float* from = query(s, b.first + i, b.kv_head * g);
      std::copy(from, from + g * d, q.data() + i * g * d);
    }
    Softmax state;
    state.reset(rows, d);
    const int64_t n_first = s.base + b.first + 1, n_last = n_first + b.rows - 1;

    // Calls f(row0, rows, page keys, keys visible, column) for every page of a span; one call for pages that all rows see.
    const auto each_page = [&](int64_t begin, int64_t end, auto&& f) {
      for (int64_t at = begin; at < end; at += size) {
        const int64_t count = std::min(size, end - at);
        const float* k = store.keys(layer_, ids[static_cast<size_t>(at / size)], b.kv_head);
        if (at + count <= n_first) {
          f(int64_t{0}, rows, k, count, at - begin);
          continue;
        }
        for (int64_t i = 0; i < b.rows; ++i) {
          const int64_t visible = std::min(count, n_first + i - at);
          if (visible > 0) f(i * g, g, k, visible, at - begin);
        }
      }
    };

    for (int64_t begin = 0; begin < n_last; begin += kSpanTokens) {
      const int64_t end = std::min(begin + kSpanTokens, n_last);
      const float scale = 1.0f / std::sqrt(static_cast<float>(d));
      each_page(begin, end, [&](int64_t r, int64_t n, const float* k, int64_t keys, int64_t column) {
        kernels_.dot_rows(q.data() + r * d, d, n, k, d, keys, d, scale, scores.data() + r * kSpanTokens + column, kSpanTokens);
      });
      std::fill(value.begin(), value.end(), 0.0f);
      std::vector<float> max(static_cast<size_t>(rows)), sum(static_cast<size_t>(rows));
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t visible = std::min(end, n_first + r / g) - begin;
        if (visible > 0) {
          sum[static_cast<size_t>(r)] = kernels_.exp_span(scores.data() + r * kSpanTokens, visible, &max[static_cast<size_t>(r)]);
        }
      }
      each_page(begin, end, [&](int64_t r, int64_t n, const float* k, int64_t keys, int64_t column) {
        kernels_.axpy_rows(scores.data() + r * kSpanTokens + column, kSpanTokens, n, k + store.value_offset(), d, keys, d,
                           value.data() + r * d, d);
      });
      for (int64_t r = 0; r < rows; ++r) {
        if (n_first + r / g <= begin) continue;
        merge_span(state, r, max[static_cast<size_t>(r)], sum[static_cast<size_t>(r)], value.data() + r * d, d);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = b.first + r / g, head = b.kv_head * g + r % g;
      finish_row(state, r, d, output(s, row, head));
      if (s.column_sums) {
        row_max_[static_cast<size_t>(row * shape_.n_heads + head)] = state.max[static_cast<size_t>(r)];
        row_sum_[static_cast<size_t>(row * shape_.n_heads + head)] = state.sum[static_cast<size_t>(r)];
      }
    }
  }

  void prepare_scores(ListItem& item) const {
    item.scored_pages = reading(*item.segment, item.n) == Reading::selector ? pages_to_score(item) : 0;
    if (item.scored_pages > 0) item.page_scores.resize(static_cast<size_t>(score_slots(item)));
  }

  void score(ListItem& item, int64_t p0, int64_t p1) const {
    if (p0 < p1) score_pages(kernels_, layer_, shape_.head_dim, item, query(*item.segment, item.row, item.head0), p0, p1);
  }

  void attend_one_span(ListItem& item, Partials& partials, int64_t span, bool keep_scores) const {
    const int64_t d = shape_.head_dim, h = item.heads;
    const Segment& s = *item.segment;
    attend_span(kernels_, s.branch->cache->store, layer_, item.kv_head, item.keys, span, query(s, item.row, item.head0),
                sink_query(s, item.row, item.head0), h, d,
                partials.scores.data() + (keep_scores ? span * h * kSpanTokens : 0), partials.max.data() + span * h,
                partials.sum.data() + span * h, partials.value.data() + span * h * d);
  }

  bool wants_probabilities(const ListItem& item) const { return reading(*item.segment, item.n) == Reading::evictor; }

  // Merges the spans in order, writes the output and, for evictors, the probabilities summed over the list's heads.
  void finish(int64_t index, ListItem& item, const Partials& partials) {
    const int64_t d = shape_.head_dim, h = item.heads, spans = item.keys.spans();
    const Segment& s = *item.segment;
    Softmax state;
    state.reset(h, d);
    for (int64_t span = 0; span < spans; ++span) {
      for (int64_t i = 0; i < h; ++i) {
        const auto at = static_cast<size_t>(span * h + i);
        merge_span(state, i, partials.max[at], partials.sum[at], partials.value.data() + (span * h + i) * d, d);
      }
    }
    for (int64_t i = 0; i < h; ++i) finish_row(state, i, d, output(s, item.row, item.head0 + i));
    if (wants_probabilities(item)) {
      auto& p = probabilities_[static_cast<size_t>(index)];
      p.assign(static_cast<size_t>(item.keys.tokens()), 0.0f);
      for (int64_t span = 0; span < spans; ++span) {
        for (int64_t i = 0; i < h; ++i) {
          const auto at = static_cast<size_t>(span * h + i);
          const float scale = std::exp(partials.max[at] - state.max[static_cast<size_t>(i)]) / state.sum[static_cast<size_t>(i)];
          const float* e = partials.scores.data() + (span * h + i) * kSpanTokens;
          for (int64_t j = 0; j < item.keys.span_tokens(span); ++j) p[static_cast<size_t>(span * kSpanTokens + j)] += e[j] * scale;
        }
      }
    }
    ListStats& stats = stats_[static_cast<size_t>(index)];
    stats.tokens = item.keys.tokens();
    stats.pages = item.keys.pages();
    // The oracle knows its logits for nothing.
    stats.scored_pages = s.branch->method.method == Method::oracle ? 0 : item.scored_pages;
  }

  void measure_recall(int64_t index, const ListItem& item) {
    const Segment& s = *item.segment;
    if (!s.see.recall) return;
    float& recall = stats_[static_cast<size_t>(index)].recalled;
    recall = reading(s, item.n) == Reading::dense
                 ? static_cast<float>(item.heads)
                 : recalled(kernels_, layer_, shape_.head_dim, item, query(s, item.row, item.head0), s.see.recall_top);
  }

  void attend_list(int64_t index) {
    ListItem item = items_[static_cast<size_t>(index)];
    prepare_scores(item);
    score(item, 0, item.scored_pages);
    list_keys(shape_, layer_, item);
    measure_recall(index, item);
    const bool keep = wants_probabilities(item);
    Partials partials;
    partials.size(item.keys.spans(), item.heads, shape_.head_dim, keep);
    for (int64_t span = 0; span < item.keys.spans(); ++span) attend_one_span(item, partials, span, keep);
    finish(index, item, partials);
  }

  // Lists of neighbouring rows of one segment and KV head.
  void attend_group(const std::vector<int64_t>& group) {
    std::vector<ListItem> items;
    std::vector<float> q;
    int64_t pages = 0;
    for (int64_t index : group) {
      items.push_back(items_[static_cast<size_t>(index)]);
      ListItem& item = items.back();
      const float* from = query(*item.segment, item.row, item.head0);
      q.insert(q.end(), from, from + item.heads * shape_.head_dim);
      prepare_scores(item);
      pages = std::max(pages, item.scored_pages);
    }
    for (int64_t p = 0; p < pages; p += kPagesTogether) {
      for (ListItem& item : items) score(item, p, std::min(item.scored_pages, p + kPagesTogether));
    }
    for (size_t i = 0; i < group.size(); ++i) {
      list_keys(shape_, layer_, items[i]);
      measure_recall(group[i], items[i]);
    }
    std::vector<Partials> partials(group.size());
    attend_rows(kernels_, layer_, shape_.head_dim, items, q.data(), partials);
    for (size_t i = 0; i < group.size(); ++i) finish(group[i], items[i], partials[i]);
  }

  // The same steps with every list split over the threads: few branches at a long context.
  void attend_lists_in_parts() {
    struct Part {
      size_t item;
      int64_t begin, end;
    };
    std::vector<Part> parts;
    for (int64_t index : lists_) {
      const auto i = static_cast<size_t>(index);
      prepare_scores(items_[i]);
      for (int64_t p = 0; p < items_[i].scored_pages; p += kPagesPerChunk) {
        parts.push_back({i, p, std::min(items_[i].scored_pages, p + kPagesPerChunk)});
      }
    }
    pool_.parallel_for(static_cast<int64_t>(parts.size()), [&](int64_t i, int) {
      const Part& part = parts[static_cast<size_t>(i)];
      score(items_[part.item], part.begin, part.end);
    });
    std::vector<Partials> partials(items_.size());
    pool_.parallel_for(static_cast<int64_t>(lists_.size()), [&](int64_t task, int) {
      const int64_t i = lists_[static_cast<size_t>(task)];
      ListItem& item = items_[static_cast<size_t>(i)];
      list_keys(shape_, layer_, item);
      measure_recall(i, item);
      // Spans run side by side here, so each needs its own scores.
      partials[static_cast<size_t>(i)].size(item.keys.spans(), item.heads, shape_.head_dim, true);
    });
    parts.clear();
    for (int64_t index : lists_) {
      const auto i = static_cast<size_t>(index);
      for (int64_t span = 0; span < items_[i].keys.spans(); ++span) parts.push_back({i, span, span + 1});
    }
    pool_.parallel_for(static_cast<int64_t>(parts.size()), [&](int64_t i, int) {
      const Part& part = parts[static_cast<size_t>(i)];
      attend_one_span(items_[part.item], partials[part.item], part.begin, true);
    });
    for (int64_t i : lists_) finish(i, items_[static_cast<size_t>(i)], partials[static_cast<size_t>(i)]);
  }

  // H2O's starting scores: a second walk over the block's scores, now that each row's maximum and sum are known.
  void add_column_sums(Segment& s) {
    const int64_t g = shape_.group(), d = shape_.head_dim, n = s.base + s.rows;
    KvStore& store = s.branch->cache->store;
    const auto& ids = s.branch->pages.pages();
    const int64_t size = s.branch->pages.page_size();
    auto& sums = *s.branch->column_sums;
    for (int64_t h = 0; h < shape_.n_kv_heads; ++h) sums[static_cast<size_t>(layer_ * shape_.n_kv_heads + h)].resize(static_cast<size_t>(n), 0.0f);
    const int64_t spans = (n + kSpanTokens - 1) / kSpanTokens;
    pool_.parallel_for(spans * shape_.n_kv_heads, [&](int64_t task, int) {
      const int64_t kv_head = task % shape_.n_kv_heads, begin = task / shape_.n_kv_heads * kSpanTokens;
      float* total = sums[static_cast<size_t>(layer_ * shape_.n_kv_heads + kv_head)].data() + begin;
      std::vector<float> scores(static_cast<size_t>(g * kSpanTokens));
      const float scale = 1.0f / std::sqrt(static_cast<float>(d));
      for (int64_t row = std::max<int64_t>(0, begin - s.base); row < s.rows; ++row) {
        const int64_t end = std::min(begin + kSpanTokens, s.base + row + 1);
        const float* q = query(s, row, kv_head * g);
        for (int64_t at = begin; at < end; at += size) {
          kernels_.dot_rows(q, d, g, store.keys(layer_, ids[static_cast<size_t>(at / size)], kv_head), d, std::min(size, end - at), d,
                            scale, scores.data() + (at - begin), kSpanTokens);
        }
        for (int64_t i = 0; i < g; ++i) {
          const auto state = static_cast<size_t>(row * shape_.n_heads + kv_head * g + i);
          float* e = scores.data() + i * kSpanTokens;
          float max = 0;
          kernels_.exp_span(e, end - begin, &max);
          const float to_probability = std::exp(max - row_max_[state]) / row_sum_[state];
          for (int64_t j = 0; j < end - begin; ++j) total[j] += e[j] * to_probability;
        }
      }
    });
  }

  void evict_all() {
    for (size_t i = 0; i < items_.size();) {
      Segment& s = *items_[i].segment;
      if (!wants_probabilities(items_[i])) {
        ++i;
        continue;
      }
      std::vector<std::vector<float>> p;
      for (int64_t h = 0; h < shape_.n_kv_heads; ++h) p.push_back(std::move(probabilities_[i++]));
      evict_after(shape_, layer_, *s.branch, p);
    }
  }

  void write_recall() {
    const auto at = [&](const Segment& s, int64_t row) -> float& { return s.see.recall[row * shape_.n_layers + layer_]; };
    for (size_t i = 0; i < segments_.size(); ++i) {
      if (!segments_[i].see.recall) continue;
      for (int64_t row = 0; row < segments_[i].rows; ++row) at(segments_[i], row) = row < dense_rows_[i] ? 1.0f : 0.0f;
    }
    for (size_t i = 0; i < items_.size(); ++i) {
      const Segment& s = *items_[i].segment;
      if (s.see.recall) at(s, items_[i].row) += stats_[i].recalled / static_cast<float>(shape_.n_heads);
    }
  }

  void count() {
    const int64_t g = shape_.group(), bytes = 2 * shape_.head_dim * static_cast<int64_t>(sizeof(float));
    for (size_t i = 0; i < items_.size(); ++i) {
      const ListItem& item = items_[i];
      if (item.segment->prefill) continue;
      Counters& c = item.segment->branch->counters;
      const int64_t size = item.segment->branch->pages.page_size();
      c.tokens_attended += stats_[i].tokens * item.heads;
      c.tokens_available += item.n * item.heads;
      c.pages_attended += stats_[i].pages * item.heads;
      c.pages_available += (item.n + size - 1) / size * item.heads;
      c.kv_bytes += stats_[i].tokens * bytes;
      c.metadata_bytes += stats_[i].scored_pages * bytes;
      if (stats_[i].tokens < item.n) item.segment->sparse[static_cast<size_t>(item.row)] = 1;
      if (item.head0 % g == 0) c.dense_kv_bytes += item.n * bytes;
    }
    for (size_t i = 0; i < segments_.size(); ++i) {
      if (segments_[i].prefill) continue;
      Counters& c = segments_[i].branch->counters;
      const int64_t size = segments_[i].branch->pages.page_size();
      for (int64_t row = 0; row < dense_rows_[i]; ++row) {
        const int64_t n = segments_[i].base + row + 1, pages = (n + size - 1) / size;
        c.tokens_attended += n * shape_.n_heads;
        c.tokens_available += n * shape_.n_heads;
        c.pages_attended += pages * shape_.n_heads;
        c.pages_available += pages * shape_.n_heads;
        c.kv_bytes += n * shape_.n_kv_heads * bytes;
        c.dense_kv_bytes += n * shape_.n_kv_heads * bytes;
      }
    }
  }

  ThreadPool& pool_;
  const Kernels& kernels_;
  const AttentionShape& shape_;
  const int64_t layer_;
  std::vector<Segment>& segments_;
  const float* q_;
  const float* q_sinks_;
  float* out_;

  std::vector<Block> blocks_;
  std::vector<int64_t> dense_rows_;  // per segment: rows that blocks cover
  std::vector<ListItem> items_;
  std::vector<int64_t> lists_;                // items that are read each for itself
  std::vector<std::vector<int64_t>> groups_;  // items of neighbouring rows that are read together
  std::vector<ListStats> stats_;
  std::vector<std::vector<float>> probabilities_;  // per item, evictors only: [kept]
  std::vector<float> row_max_, row_sum_;           // column sums only: [rows, n_heads]
};

}  // namespace

void attend(ThreadPool& pool, const Kernels& kernels, const AttentionShape& shape, int64_t layer,
            std::vector<Segment>& segments, const float* q, const float* q_sinks, float* out) {
  Pass(pool, kernels, shape, layer, segments, q, q_sinks, out).run();
}

}  // namespace quest::cpu
