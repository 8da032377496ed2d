// The KV methods: what they are called, how they are configured, and the decisions they take. Executors supply the scores.
//
// One decode step sees n keys (the new token's included). Where n <= budget every method is exactly dense, and layers below
// skip_layers are dense always. Ties go to the lower index; a NaN score counts as -inf.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quest {

enum class Method : uint8_t { full, quest, quest_paper, streaming, h2o, tova, oracle };

// How the page lists of the query heads in one group are made: one list from the maximum or mean of their scores, or one each.
enum class GroupMode : uint8_t { max, mean, head };

enum class MethodKind : uint8_t {
  dense,     // reads everything
  selector,  // keeps everything, reads the best pages (oracle: the best tokens)
  window,    // reads sinks and a recent window; depends on positions alone
  evictor,   // drops tokens for good, one step after another
};

struct MethodOptions {
  Method method = Method::full;
  int64_t budget_tokens = 0;
  int64_t skip_layers = 2;
  GroupMode group = GroupMode::max;
  int64_t sinks = 4;
  bool h2o_prefill = false;  // H2O starts from the column sums of the prefill's attention
  bool oracle_pages = false;  // the oracle takes whole pages by their highest logit, not single tokens
  int64_t only_layer = -1;    // for analyses: act in this layer alone, all others are dense; -1 is every layer

  bool operator==(const MethodOptions&) const = default;
};

struct MethodInfo {
  Method method;
  const char* name;
  MethodKind kind;
};

const MethodInfo& method_info(Method method);
Method method_from_name(const std::string& name);  // throws Error E_METHOD naming the methods
GroupMode group_from_name(const std::string& name);

// Throws Error E_METHOD_OPTIONS: a budget below one page (selectors) or not above the sinks (streaming), and so on.
void validate_method(const MethodOptions& options, int page_size);

// Whether the method may read less than everything in this layer.
bool acts_in_layer(const MethodOptions& options, int64_t layer);

// True when a step with n keys reads the whole cache in this layer.
bool is_dense_step(const MethodOptions& options, int64_t layer, int64_t n);

// Selectors -----------------------------------------------------------------------------------------------------------

// Whether each query head has a page list of its own, or its group shares one.
bool lists_per_head(const MethodOptions& options);

// Whether the step lists single tokens instead of pages (the oracle, unless oracle_pages).
bool selects_tokens(const MethodOptions& options);

// Pages a step attends: the budget in pages, within the method's minimum.
int64_t selected_pages(const MethodOptions& options, int page_size);

// Whether the page that holds the newest token is scored like the others (or attended without a score).
bool scores_open_page(Method method);

// Ascending indices of the k largest of scores[0, n); ties to the lower index, NaN last. k >= n gives all.
void select_top(const float* scores, int64_t n, int64_t k, std::vector<int32_t>& out);

// Pages to attend, ascending, given scores of all n_pages pages (the open page's score is ignored where it is not scored).
void select_pages(const MethodOptions& options, int page_size, const float* scores, int64_t n_pages,
                  std::vector<int32_t>& out);

// The oracle's tokens, ascending: the newest one and the budget - 1 others with the highest logits. logits [n].
void select_tokens(const MethodOptions& options, const float* logits, int64_t n, std::vector<int32_t>& out);

// Evictors ------------------------------------------------------------------------------------------------------------

// Tokens kept by one list (H2O: per layer and KV head; TOVA: per layer), ascending, with H2O's accumulated scores.
struct KeptSet {
  std::vector<int32_t> tokens;
  std::vector<float> accumulated;  // [tokens] for H2O, empty for TOVA
};

// Lists that one layer keeps: n_kv_heads for H2O, one for TOVA.
int64_t kept_sets_per_layer(Method method, int64_t n_kv_heads);

// Drops the lowest `scores` (ties: the lower index goes first; NaN before all) until at most budget tokens are kept, never
// one of the most recent `protect`. scores [set.tokens].
void evict(KeptSet& set, const float* scores, int64_t budget, int64_t protect);

// H2O protects half of its budget, rounded up, for recent tokens; TOVA protects none.
int64_t protected_tokens(const MethodOptions& options);

}  // namespace quest
