// What one pass does, decided on the host: which rows of which branch are read how in which layer, and what that costs.
#pragma once

#include <span>
#include <vector>

#include "core/executor.h"
#include "core/requests.h"
#include "cuda/branch.h"
#include "cuda/kernels.h"

namespace quest::cuda {

// Tokens of one branch in a pass.
struct Work {
  CudaBranch* branch = nullptr;
  std::span<const int32_t> ids;
  bool prefill = false;
  bool column_sums = false;  // prefill: collect H2O's starting scores
  Examined see;              // of the ids

  float* logits = nullptr;           // [ids, vocab] or null
  std::span<const int32_t> targets;  // [ids] or empty
  float* nll = nullptr;              // [ids], with targets
  bool keep_last = false;            // leave the last row's logits in the branch
};

// One work's rows: row i of the segment is row row0 + i of the pass and sits at position base + i.
struct Segment {
  Work* work;
  CudaBranch* branch;
  int64_t row0, rows, base;
  int64_t kept;  // evictors: tokens that the row reads
};

// A row read by the decode kernels.
struct ReadRow {
  size_t segment;
  int64_t row;  // within the segment
};

// What a list is chosen by.
enum class Scoring : uint8_t { bounds, page_logits, token_logits };

// Decode rows that one sequence of launches serves: their query heads share lists, or each has its own.
struct RowGroup {
  bool own_lists = false;
  Scoring scoring = Scoring::bounds;
  std::vector<ReadRow> rows;
  int64_t first = 0;        // index of the first row's DecodeRow in the plan
  bool selects = false, tokens = false, evicts = false;  // some row does
  bool others = false;      // some row does not select
  bool settled = true;      // no row sees a page that this pass filled, but its last
  bool appends = false;     // its launches append the pass's tokens too: SparseParams::append; rows[i] is row i of the pass
  int64_t list_pages = 0;   // the longest list
  int64_t keys = 0;         // the most keys a row sees
  int64_t pages = 0;        // the most pages a row has
  int64_t recall_top = 0;   // the most top tokens that a row's recall asks for
  int64_t kept = 0;         // the most tokens kept
};

// Rows [0, rows) of a segment by the prefill kernel.
struct PrefillPiece {
  size_t segment;
  int64_t rows;
};

// Layers in a row that are read the same way.
struct LayerPlan {
  int64_t begin, end;
  std::vector<PrefillPiece> prefill;
  RowGroup groups[4];  // shared lists, own lists, the oracle's pages, the oracle's tokens
};

struct Pass {
  std::vector<Segment> segments;
  std::vector<LayerPlan> layers;
  std::vector<AppendTask> tasks;
  std::vector<DecodeRow> rows;
  std::vector<DecodeRow> top_rows;  // beside rows where recall is measured: selectors of each row's top tokens
  std::vector<int32_t> ids;
  int64_t n_rows = 0;
  int slot = 0;       // of the host's copies, see Forward::Slot
  bool fed = false;   // the ids are those that the step before left on the device
  bool sinks = false;
  bool traced = false;    // some work wants its page lists
  bool recalled = false;  // some work wants its recall
  bool token_lists = false;  // some row reads a list of single tokens: the pages it touches are counted on the host
  bool drop_last = false;  // a prefill whose last layer only needs its last row, or none
  const KvPool* pool = nullptr;
  int page_size = 0;

  // Where the plan's parts are in the device's copy, in bytes; its size.
  size_t tasks_at = 0, rows_at = 0, top_rows_at = 0, ids_at = 0, bytes = 0;

  // Somebody looks at every layer as it passes.
  bool examined() const { return traced || recalled || token_lists; }
};

// Plans a pass whose branches' page tables have already been extended. Evictors' kept counts are advanced by their new token.
Pass plan_pass(const ModelSpec& spec, std::span<Work> works, std::span<const int64_t> bases);

// True when a decode step of n keys selects pages in layers >= skip_layers (a list shorter than the cache).
bool selects_pages(const MethodOptions& options, int page_size, int64_t n);
bool has_own_lists(const MethodOptions& options, int64_t group);

// Adds a pass to its branches' counters; the pages that token lists touch are counted as the lists are seen. open_selected[i]: lists of rows[i] that held a partly filled open page.
void count_pass(const ModelSpec& spec, const Pass& pass, const int32_t* open_selected);

}  // namespace quest::cuda
