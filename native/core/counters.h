// What a branch has read since its fork, summed over decode steps, layers and heads.
#pragma once

#include <cstdint>

namespace quest {

struct Counters {
  int64_t decode_steps = 0;
  int64_t sparse_steps = 0;      // steps in which some layer attended fewer tokens than the cache held
  int64_t tokens_attended = 0;   // (token, layer, query head) triples
  int64_t tokens_available = 0;
  int64_t pages_attended = 0;    // a partly attended page counts as one
  int64_t pages_available = 0;
  int64_t kv_bytes = 0;          // read by the method; with one list per query head, every list counts
  int64_t metadata_bytes = 0;
  int64_t dense_kv_bytes = 0;    // what `full` reads over the same steps
};

}  // namespace quest
