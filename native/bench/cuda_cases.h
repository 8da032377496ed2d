// Shapes of GPU attention that the tests check and the benchmark times.
#pragma once

namespace quest::cuda {

struct SparseCase {
  int n;  // keys
  int heads, kv_heads, head_dim, page_size;
  int list_pages;
  bool timed;
};

inline constexpr SparseCase kSparseCases[] = {
    // Figure 9's shapes: Llama-2-7B and Llama-3.1-8B, budget 2048 and 4096
    {8192, 32, 32, 128, 16, 128, true},
    {32768, 32, 32, 128, 16, 128, true},
    {32768, 32, 32, 128, 16, 256, true},
    {131072, 32, 32, 128, 16, 128, true},
    {131072, 32, 32, 128, 16, 256, true},
    {32768, 32, 8, 128, 16, 128, true},
    {32768, 32, 8, 128, 16, 256, true},
    {131072, 32, 8, 128, 16, 128, true},
    {131072, 32, 8, 128, 16, 256, true},
    // nothing divides anything; partial, single and whole last pages; lists of one page and of all but one
    {17, 1, 1, 128, 16, 1, false},
    {33, 2, 2, 64, 16, 2, false},
    {331, 4, 4, 128, 16, 20, false},
    {400, 3, 1, 64, 16, 7, false},
    {2047, 4, 2, 128, 16, 33, false},
    {2048, 8, 2, 128, 16, 127, false},
    {777, 8, 1, 64, 16, 5, false},
    {1531, 5, 1, 128, 16, 17, false},
    {1000, 4, 2, 128, 4, 61, false},
    {501, 2, 2, 64, 8, 9, false},
    {3001, 2, 1, 128, 32, 11, false},
    {641, 2, 2, 64, 64, 3, false},
    {129, 2, 2, 128, 1, 40, false},
    {1289, 2, 1, 128, 128, 2, false},
};

}  // namespace quest::cuda
