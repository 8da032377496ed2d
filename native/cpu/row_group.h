// Page lists of neighbouring rows, read page by page instead of list by list: parallel scoring has hundreds of queries
// whose lists overlap, and a page that several of them chose is loaded and turned once for all of them.
//
// Each list keeps its own order of keys and its own spans of 512, and each output element is summed as attend_span sums
// it, so a row gets the same bits in a group as alone.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/page_lists.h"

namespace quest::cpu {

// Rows of one group, so that the scores of all its lists stay in the second-level cache. heads: of one list.
int64_t group_rows(int64_t heads, int64_t list_tokens);

// Attends the lists of `items` (one KV head, the same number of heads each, item.pages filled in) for queries
// q [items, heads, d]; partials [items] receive each list's spans. Their scores are not kept.
void attend_rows(const Kernels& kernels, int64_t layer, int64_t d, const std::vector<ListItem>& items, const float* q,
                 std::vector<Partials>& partials);

}  // namespace quest::cpu
