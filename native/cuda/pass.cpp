#include "cuda/pass.h"

#include <algorithm>

namespace quest::cuda {

namespace {

int64_t pages_of(int64_t n, int64_t page_size) { return (n + page_size - 1) / page_size; }

// How a decode row of n keys reads the layers in which its method acts.
Reading reading_of(const MethodOptions& o, int page_size, int64_t n) {
  switch (method_info(o.method).kind) {
    case MethodKind::dense: return Reading::dense;
    case MethodKind::evictor: return Reading::evictor;  // keeps statistics even while everything fits
    case MethodKind::selector: return selects_pages(o, page_size, n) ? Reading::selector : Reading::dense;
    case MethodKind::window: return n <= o.budget_tokens ? Reading::dense : Reading::window;
  }
  return Reading::dense;
}

DecodeRow decode_row(const ModelSpec& spec, const Segment& s, int64_t row, int64_t layer) {
  const MethodOptions& o = s.branch->method;
  const int64_t n = s.base + row + 1;
  const int page_size = s.branch->pages.page_size();
  DecodeRow r{};
  r.table = s.branch->table.get();
  r.n = static_cast<int32_t>(n);
  r.row = static_cast<int32_t>(s.row0 + row);
  r.reading = acts_in_layer(o, layer) ? reading_of(o, page_size, n) : Reading::dense;
  r.skip_layers = static_cast<int32_t>(std::min(o.skip_layers, spec.n_layers));
  r.list_pages = static_cast<int32_t>(std::min(selects_tokens(o) ? o.budget_tokens : selected_pages(o, page_size), n));
  r.scores_open = scores_open_page(o.method);
  r.mean = o.group == GroupMode::mean;
  r.sinks = static_cast<int32_t>(o.sinks);
  r.window = static_cast<int32_t>(o.budget_tokens - o.sinks);
  if (r.reading == Reading::evictor) {
    r.kept = static_cast<int32_t>(s.branch->kept);
    r.kept_all = !s.branch->dropped;
    r.budget = static_cast<int32_t>(o.budget_tokens);
    r.protect = static_cast<int32_t>(protected_tokens(o));
    r.kept_lists = static_cast<int32_t>(kept_sets_per_layer(o.method, spec.n_kv_heads));
    r.kept_stride = static_cast<int32_t>(o.budget_tokens + 1);
    r.kept_tokens = s.branch->kept_tokens.get();
    r.kept_scores = o.method == Method::h2o ? s.branch->kept_scores.get() : nullptr;
    if (o.h2o_prefill && s.branch->first_step) {
      r.first_scores = s.branch->column_sums->get();
      r.first_stride = spec.max_context;
    }
  }
  return r;
}

// The same row as a selector of the tokens with the highest logits, for recall.
DecodeRow top_row(const DecodeRow& row, int64_t top) {
  DecodeRow r = row;
  r.reading = Reading::selector;
  r.skip_layers = 0;
  r.scores_open = 1;  // every token competes
  r.list_pages = static_cast<int32_t>(std::clamp<int64_t>(top, 1, row.n));
  return r;
}

size_t group_of(const ModelSpec& spec, const MethodOptions& o, Reading reading) {
  if (o.method == Method::oracle && reading == Reading::selector) return selects_tokens(o) ? 3 : 2;
  return has_own_lists(o, spec.group()) ? 1 : 0;
}

// Rows of a segment, from its first, that read everything in this layer.
int64_t dense_rows(const Segment& s, int64_t layer) {
  const MethodOptions& o = s.branch->method;
  if (s.work->prefill || !acts_in_layer(o, layer)) return s.rows;
  if (method_info(o.method).kind == MethodKind::evictor) return 0;
  int64_t dense = 0;
  while (dense < s.rows && reading_of(o, s.branch->pages.page_size(), s.base + dense + 1) == Reading::dense) ++dense;
  return dense;
}

LayerPlan plan_layer(const ModelSpec& spec, Pass& pass, int64_t layer) {
  LayerPlan plan{layer, layer + 1, {}, {}};
  for (size_t g = 1; g < std::size(plan.groups); ++g) plan.groups[g].own_lists = true;
  plan.groups[2].scoring = Scoring::page_logits;
  plan.groups[3].scoring = Scoring::token_logits;
  for (size_t i = 0; i < pass.segments.size(); ++i) {
    const Segment& s = pass.segments[i];
    const MethodOptions& o = s.branch->method;
    int64_t dense = dense_rows(s, layer);
    if (dense == 1 && !s.work->prefill) dense = 0;  // one row is a decode row, so that all single steps look alike
    if (dense > 0) plan.prefill.push_back({i, dense});
    for (int64_t row = dense; row < s.rows; ++row) {
      plan.groups[group_of(spec, o, decode_row(spec, s, row, layer).reading)].rows.push_back({i, row});
    }
  }
  for (RowGroup& g : plan.groups) {
    g.first = static_cast<int64_t>(pass.rows.size());
    bool scores_open = false;
    pass.token_lists = pass.token_lists || (g.scoring == Scoring::token_logits && !g.rows.empty());
    for (const ReadRow& r : g.rows) {
      const Segment& s = pass.segments[r.segment];
      const DecodeRow d = decode_row(spec, s, r.row, layer);
      pass.rows.push_back(d);
      g.keys = std::max<int64_t>(g.keys, d.n);
      g.pages = std::max(g.pages, pages_of(d.n, pass.page_size));
      g.settled = g.settled && s.rows == 1;
      scores_open = scores_open || d.scores_open;
      g.others = g.others || layer < d.skip_layers || d.reading != Reading::selector;
      if (pass.recalled) pass.top_rows.push_back(top_row(d, s.work->see.recall_top));
      if (s.work->see.recall && d.reading != Reading::dense) g.recall_top = std::max<int64_t>(g.recall_top, pass.top_rows.back().list_pages);
      if (d.reading == Reading::selector) g.selects = true, g.list_pages = std::max<int64_t>(g.list_pages, d.list_pages);
      if (d.reading == Reading::window) g.tokens = true;
      if (d.reading == Reading::evictor) g.tokens = g.evicts = true, g.kept = std::max<int64_t>(g.kept, d.kept);
    }
    // Recall looks at the rotated queries afterwards.
    g.appends = g.selects && g.scoring == Scoring::bounds && !g.others && g.settled && !scores_open && !pass.recalled &&
                static_cast<int64_t>(g.rows.size()) == pass.n_rows;
  }
  return plan;
}

}  // namespace

bool selects_pages(const MethodOptions& o, int page_size, int64_t n) {
  if (method_info(o.method).kind != MethodKind::selector || n <= o.budget_tokens) return false;
  return selects_tokens(o) || selected_pages(o, page_size) < pages_of(n, page_size);
}

bool has_own_lists(const MethodOptions& o, int64_t group) {
  return group > 1 && method_info(o.method).kind == MethodKind::selector && lists_per_head(o);
}

Pass plan_pass(const ModelSpec& spec, std::span<Work> works, std::span<const int64_t> bases) {
  Pass pass;
  pass.pool = works[0].branch->pool.get();
  pass.page_size = pass.pool->page_size();
  for (size_t i = 0; i < works.size(); ++i) {
    Work& w = works[i];
    const auto rows = static_cast<int64_t>(w.ids.size());
    pass.segments.push_back({&w, w.branch, pass.n_rows, rows, bases[i], w.branch->kept});
    pass.ids.insert(pass.ids.end(), w.ids.begin(), w.ids.end());
    const bool streaming = !w.prefill && w.branch->method.method == Method::streaming;
    pass.sinks = pass.sinks || streaming;
    pass.traced = pass.traced || w.see.trace;
    pass.recalled = pass.recalled || w.see.recall;
    for (int64_t r = 0; r < rows;) {
      const int64_t position = bases[i] + r, offset = position % pass.page_size;
      const int64_t count = std::min(rows - r, pass.page_size - offset);
      pass.tasks.push_back({static_cast<int32_t>(pass.n_rows + r), static_cast<int32_t>(count), static_cast<int32_t>(position),
                            w.branch->pages.pages()[static_cast<size_t>(position / pass.page_size)],
                            streaming ? static_cast<int32_t>(w.branch->method.budget_tokens - 1) : -1});
      r += count;
    }
    pass.n_rows += rows;
  }
  pass.drop_last = works.size() == 1 && works[0].prefill && works[0].ids.size() > 1 && !works[0].column_sums;
  for (int64_t l = 0; l < spec.n_layers; ++l) {
    bool same = l > 0;
    for (const Segment& s : pass.segments) {
      if (!s.work->prefill && l > 0 && acts_in_layer(s.branch->method, l) != acts_in_layer(s.branch->method, l - 1)) same = false;
    }
    if (same) {
      pass.layers.back().end = l + 1;
    } else {
      pass.layers.push_back(plan_layer(spec, pass, l));
    }
  }
  const auto aligned = [](size_t n) { return (n + 15) / 16 * 16; };
  pass.ids_at = 0;
  pass.tasks_at = aligned(pass.ids.size() * sizeof(int32_t));
  pass.rows_at = pass.tasks_at + aligned(pass.tasks.size() * sizeof(AppendTask));
  pass.top_rows_at = pass.rows_at + aligned(pass.rows.size() * sizeof(DecodeRow));
  pass.bytes = pass.top_rows_at + aligned(pass.top_rows.size() * sizeof(DecodeRow));
  return pass;
}

void count_pass(const ModelSpec& spec, const Pass& pass, const int32_t* open_selected) {
  const int64_t heads = spec.n_heads, kv_heads = spec.n_kv_heads, size = pass.page_size;
  const int64_t bytes = 2 * spec.head_dim * 2;  // K and V of a token, or the bounds of a page, in one KV head
  for (const Segment& s : pass.segments) {
    if (s.work->prefill) continue;
    const MethodOptions& o = s.branch->method;
    Counters& c = s.branch->counters;
    int64_t sparse_layers = 0;
    for (int64_t l = 0; l < spec.n_layers; ++l) sparse_layers += acts_in_layer(o, l);
    const int64_t dense_layers = spec.n_layers - sparse_layers;
    for (int64_t row = 0; row < s.rows; ++row) {
      const int64_t n = s.base + row + 1, pages = pages_of(n, size), all = spec.n_layers;
      c.tokens_available += n * heads * all;
      c.pages_available += pages * heads * all;
      c.dense_kv_bytes += n * kv_heads * bytes * all;
      // Tokens and pages per query head in the layers that follow the method, and the lists that are read.
      int64_t tokens = n, attended_pages = pages, lists = kv_heads, scored = 0;
      switch (reading_of(o, static_cast<int>(size), n)) {
        case Reading::dense: break;
        case Reading::selector: {
          if (selects_tokens(o)) {
            tokens = o.budget_tokens;
            attended_pages = 0;  // see Forward::examine_lists
            lists = heads;
            break;
          }
          attended_pages = selected_pages(o, static_cast<int>(size));
          const bool open = !scores_open_page(o.method);
          tokens = attended_pages * size - (open ? pages * size - n : 0);
          if (has_own_lists(o, spec.group())) lists = heads;
          scored = o.method == Method::oracle ? 0 : open ? pages - 1 : pages;  // the oracle knows its logits for nothing
          break;
        }
        case Reading::window: {
          tokens = o.budget_tokens;
          const int64_t first = (n - (o.budget_tokens - o.sinks)) / size, sink_pages = pages_of(o.sinks, size);
          attended_pages = sink_pages + pages - std::max(first, sink_pages);
          break;
        }
        case Reading::evictor:
          tokens = s.kept;
          attended_pages = std::min(pages, pages_of(tokens, size));  // at least this many: kept tokens may be scattered
          break;
      }
      c.tokens_attended += heads * (n * dense_layers + tokens * sparse_layers);
      c.pages_attended += heads * (pages * dense_layers + attended_pages * sparse_layers);
      c.kv_bytes += bytes * (n * kv_heads * dense_layers + tokens * lists * sparse_layers);
      c.metadata_bytes += bytes * lists * scored * sparse_layers;
      c.decode_steps += 1;
      c.sparse_steps += tokens < n && sparse_layers > 0;
    }
  }
  // Where the open page competes, lists that chose it read fewer tokens.
  for (size_t i = 0; i < pass.rows.size() && open_selected; ++i) {
    if (open_selected[i] == 0) continue;
    const DecodeRow& r = pass.rows[i];
    for (const Segment& s : pass.segments) {
      if (r.row < s.row0 || r.row >= s.row0 + s.rows) continue;
      const int64_t missing = pages_of(r.n, size) * size - r.n;
      const int64_t heads_per_list = has_own_lists(s.branch->method, spec.group()) ? 1 : spec.group();
      s.branch->counters.tokens_attended -= open_selected[i] * missing * heads_per_list;
      s.branch->counters.kv_bytes -= open_selected[i] * missing * bytes;
    }
  }
}

}  // namespace quest::cuda
