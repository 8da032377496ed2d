// Shapes of attention calls that the tests check and the benchmark times.
#pragma once

#include <cstdint>

namespace quest::cpu {

struct AttentionCase {
  int64_t nq;  // queries (page_scores and dot_rows alike)
  int64_t n;   // keys, or pages for page_scores
  int64_t d;   // head dim
  bool timed;
};

inline constexpr AttentionCase kAttentionCases[] = {
    // prefill: a chunk's queries against one page of 16, or eight pages
    {64, 16, 64, true},
    {64, 16, 128, true},
    {64, 128, 128, true},
    {256, 16, 64, true},
    // decode: one query, or a GQA group of four, against one page
    {1, 16, 128, true},
    {4, 16, 128, true},
    // head dims of small models, partial pages
    {5, 7, 32, false},
    {17, 31, 48, false},
    {3, 16, 96, false},
    {33, 15, 80, false},
    // nothing divides anything
    {1, 1, 1, false},
    {2, 5, 3, false},
    {7, 17, 15, false},
    {9, 33, 17, false},
    {15, 1, 31, false},
    {13, 47, 100, false},
    {6, 20, 257, false},
    {3, 18, 600, false},
};

}  // namespace quest::cpu
