// Which keys one query reads: builds a KeyList for a row by its branch's method.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/attention.h"
#include "cpu/spans.h"

namespace quest::cpu {

// One list of keys and the query heads that read it: a whole group, or one head where each has its own list.
struct ListItem {
  Segment* segment;
  int64_t row;    // within the segment
  int64_t n;      // keys that the row may see, its own included
  int64_t head0;  // first query head
  int64_t heads;
  int64_t kv_head;

  std::vector<float> page_scores;  // [heads, pages] before selection; the token oracle's logits [n]
  int64_t scored_pages = 0;
  std::vector<int32_t> pages;  // chosen by a page selector, ascending
  KeyList keys;
};

// How a row reads a layer.
enum class Reading : uint8_t { dense, selector, window, evictor };
Reading reading_of(const MethodOptions& options, int64_t layer, int64_t n);

// Selectors: pages to score, room for their scores, and scores of pages [p0, p1) of them. q [heads, d].
int64_t pages_to_score(const ListItem& item);
int64_t score_slots(const ListItem& item);
void score_pages(const Kernels& kernels, int64_t layer, int64_t d, ListItem& item, const float* q, int64_t p0, int64_t p1);

// Fills item.keys. Selectors must have been scored; evictors must have counted the row's token in.
void list_keys(const AttentionShape& shape, int64_t layer, ListItem& item);

// The share of the `top` tokens with the highest logits that the list holds, summed over its heads. q [heads, d].
float recalled(const Kernels& kernels, int64_t layer, int64_t d, const ListItem& item, const float* q, int64_t top);

// Evictors: counts the newest token into the layer's kept sets, creating them at the first decode step.
void count_token_in(const AttentionShape& shape, int64_t layer, CpuBranch& branch, int64_t n);

// Evictors: evicts after a step. probabilities [n_kv_heads, kept], summed over each group's query heads.
void evict_after(const AttentionShape& shape, int64_t layer, CpuBranch& branch,
                 const std::vector<std::vector<float>>& probabilities);

}  // namespace quest::cpu
