#include "naive.cuh"

namespace quest::cuda::test {

namespace {

// A score as it is compared: NaN is the lowest.
__device__ float comparable(float x) { return x == x ? x : kMinusInfinity; }

struct EstimateAt {  // (row, list, page)
  EstimateParams p;
  __device__ void operator()(int64_t i) const {
    const DecodeShape& s = p.shape;
    const int page = static_cast<int>(i % p.score_stride), list = static_cast<int>(i / p.score_stride % s.n_lists);
    const DecodeRow& row = p.rows[i / p.score_stride / s.n_lists];
    const int pages = pages_of(row, s), group = s.n_heads / s.n_kv_heads, d = s.head_dim, size = 1 << s.page_shift;
    if (reading_of(row, s) != Reading::selector || page >= (row.scores_open ? pages : pages - 1)) return;
    const bool own = s.n_lists == s.n_heads;
    const int first = own ? list : list * group, heads = own ? 1 : group;
    const View view = view_of(row, s, p.kv, first);
    const int64_t bounds = (static_cast<int64_t>(view.head) * p.pages + row.table[page]) * 2 * d;
    double best = kMinusInfinity, total = 0;
    for (int head = first; head < first + heads; ++head) {
      double score = 0;
      for (int c = 0; c < d; ++c) {
        double low = number(p.metadata, bounds + c, s.type), high = number(p.metadata, bounds + d + c, s.type);
        if ((page + 1) * size > row.n) {  // the open page: its keys up to the row
          low = high = view.key(page * size, c);
          for (int t = page * size; t < row.n; ++t) {
            const double key = view.key(t, c);
            low = key < low ? key : low;
            high = key > high ? key : high;
          }
        }
        const double x = number(p.q, row.row * p.q_stride + head * d + c, s.type);
        score += x * low > x * high ? x * low : x * high;
      }
      best = score > best ? score : best;
      total += score;
    }
    p.scores[i] = static_cast<float>(row.mean && !own ? total / group : best);
  }
};

struct TopKAt {  // (row, list): a page is chosen when fewer than k are better, that is higher, or equal and earlier
  TopKParams p;
  __device__ void operator()(int64_t i) const {
    const DecodeShape& s = p.shape;
    const DecodeRow& row = p.rows[i / s.n_lists];
    if (reading_of(row, s) != Reading::selector) return;
    const float* scores = p.scores + i * p.score_stride;
    int32_t* list = p.lists + i * p.list_stride;
    const int pages = pages_of(row, s), n = row.scores_open ? pages : pages - 1, k = row.scores_open ? row.list_pages : row.list_pages - 1;
    int count = 0;
    for (int a = 0; a < n; ++a) {
      const float mine = comparable(scores[a]);
      int better = 0;
      for (int b = 0; b < n && better < k; ++b) better += comparable(scores[b]) > mine || (comparable(scores[b]) == mine && b < a);
      if (better < k) list[count++] = a;
    }
    if (!row.scores_open) list[count++] = pages - 1;
    if (p.open_selected && row.scores_open && list[count - 1] == pages - 1 && row.n % (1 << s.page_shift) != 0) {
      atomicAdd(&p.open_selected[i / s.n_lists], 1);
    }
  }
};

struct EvictAt {  // (row, list): a token goes when fewer than the surplus score lower, or as low and earlier; the protected stay
  EvictParams p;
  __device__ void operator()(int64_t i) const {
    const DecodeShape& s = p.shape;
    const int64_t r = i / s.n_kv_heads;
    const int which = static_cast<int>(i % s.n_kv_heads), group = s.n_heads / s.n_kv_heads;
    const DecodeRow& row = p.rows[r];
    if (reading_of(row, s) != Reading::evictor || which >= row.kept_lists) return;
    const bool h2o = row.kept_scores != nullptr;
    const int first = row.kept_lists == 1 ? 0 : which * group, heads = row.kept_lists == 1 ? s.n_heads : group;
    const int64_t list = (static_cast<int64_t>(s.layer) * row.kept_lists + which) * row.kept_stride;
    int32_t* tokens = row.kept_tokens + list;
    float* score = p.scores + i * p.logit_stride;
    for (int j = 0; j < row.kept; ++j) {
      double total = 0;
      const bool fresh = j == row.kept - 1, first_step = row.kept - 1 > row.budget;  // then nothing has been accumulated
      if (!fresh && row.first_scores) total = row.first_scores[(static_cast<int64_t>(s.layer) * s.n_kv_heads + which) * row.first_stride + j];
      if (!fresh && !row.first_scores && h2o && !first_step) total = row.kept_scores[list + j];
      for (int64_t at = r * s.n_heads + first; at < r * s.n_heads + first + heads; ++at) {
        total += exp2(static_cast<double>(p.logits[at * p.logit_stride + j]) - p.norms[2 * at]) / p.norms[2 * at + 1];
      }
      score[j] = static_cast<float>(total);
    }
    const int surplus = row.kept - row.budget, candidates = row.kept - row.protect;
    int to = 0;
    for (int j = 0; j < row.kept; ++j) {
      int lower = 0;
      for (int k = 0; k < candidates && lower < surplus; ++k) {
        const float mine = comparable(score[j]), other = comparable(score[k]);
        lower += other < mine || (other == mine && k < j);
      }
      if (surplus > 0 && j < candidates && lower < surplus) continue;
      const int32_t token = j == row.kept - 1 ? row.n - 1 : row.kept_all ? j : tokens[j];
      if (surplus > 0 || !row.kept_all) tokens[to] = token;  // a list of everything is not stored
      if (h2o) row.kept_scores[list + to] = score[j];
      ++to;
    }
  }
};

struct RecallAt {  // (row, head)
  RecallParams p;
  __device__ void operator()(int64_t i) const {
    const DecodeShape& s = p.shape;
    const int64_t r = i / s.n_heads;
    const int head = static_cast<int>(i % s.n_heads), kv_head = head / (s.n_heads / s.n_kv_heads), tops = p.top_rows[r].list_pages;
    const DecodeRow& row = p.rows[r];
    const Reading reading = reading_of(row, s);
    const int64_t list = p.token_lists ? i : r * s.n_lists + (s.n_lists == s.n_heads ? head : kv_head);
    const int64_t kept = (static_cast<int64_t>(s.layer) * row.kept_lists + (row.kept_lists == 1 ? 0 : kv_head)) * row.kept_stride;
    int found = 0;
    for (int j = 0; j < tops; ++j) {
      const int token = p.tops[i * p.top_stride + j];
      bool attended = reading == Reading::dense || (reading == Reading::evictor && (row.kept_all || token == row.n - 1));
      if (reading == Reading::window) attended = token < row.sinks || token >= row.n - row.window;
      for (int k = 0; reading == Reading::selector && k < row.list_pages; ++k) {
        attended = attended || p.lists[list * p.list_stride + k] == (p.token_lists ? token : token >> s.page_shift);
      }
      for (int k = 0; reading == Reading::evictor && !attended && k < row.kept - 1; ++k) attended = row.kept_tokens[kept + k] == token;
      found += attended;
    }
    p.shares[i] = static_cast<float>(found) / static_cast<float>(tops);
  }
};

}  // namespace

void naive_estimate(const EstimateParams& p, const Launch& how) { each(how, "naive_estimate", p.n_rows * p.shape.n_lists * p.score_stride, EstimateAt{p}); }
void naive_top_k(const TopKParams& p, const Launch& how) { each(how, "naive_top_k", int64_t{1} * p.n_rows * p.shape.n_lists, TopKAt{p}); }
void naive_evict_kept(const EvictParams& p, const Launch& how) { each(how, "naive_evict", int64_t{1} * p.n_rows * p.shape.n_kv_heads, EvictAt{p}); }
void naive_recall(const RecallParams& p, const Launch& how) { each(how, "naive_recall", int64_t{1} * p.n_rows * p.shape.n_heads, RecallAt{p}); }

}  // namespace quest::cuda::test
