// The whole GPU executor against the golden vectors and the CPU executor: dense prefill, greedy decoding, every method in
// parallel and step by step, page lists, the oracle, recall, H2O's start from its prefill. Reads what scripts/pack_golden.js writes from the folder that QUEST_GOLDEN names; skipped without it.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "core/mapped_file.h"
#include "cpu/branch.h"
#include "cuda/branch.h"
#include "cuda/executor.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

struct Vector {
  std::vector<int64_t> shape;
  std::vector<float> floats;
  std::vector<int32_t> ints;
};

struct Golden {
  ModelSpec spec;
  std::map<std::string, Vector> vectors;
  std::vector<int32_t> ids;
  int64_t prompt = 0;
};

const char* golden_folder() { return std::getenv("QUEST_GOLDEN"); }

Golden read_golden(const std::string& name) {
  Golden g;
  const std::string base = std::string(golden_folder()) + "/" + name;
  const MappedFile data(base + ".bin");
  std::ifstream text(base + ".txt");
  if (!text) throw std::runtime_error("cannot read " + base + ".txt");
  ModelSpec& s = g.spec;
  s.files = {base + ".bin"};
  std::string line;
  while (std::getline(text, line)) {
    std::istringstream in(line);
    std::string key;
    in >> key;
    if (key == "tensor") {
      std::string tensor, dtype;
      TensorRef ref;
      in >> tensor >> ref.offset >> dtype;
      ref.dtype = dtype == "fp32" ? DType::fp32 : dtype == "bf16" ? DType::bf16 : DType::fp16;
      for (int64_t d; in >> d;) ref.shape.push_back(d);
      s.tensors[tensor] = ref;
    } else if (key == "vector") {
      std::string vector, dtype;
      size_t offset = 0;
      Vector v;
      in >> vector >> offset >> dtype;
      size_t n = 1;
      for (int64_t d; in >> d;) v.shape.push_back(d), n *= static_cast<size_t>(d);
      const unsigned char* p = data.data() + offset;
      if (dtype == "F32") {
        v.floats.resize(n);
        std::memcpy(v.floats.data(), p, n * 4);
      } else {
        for (size_t i = 0; i < n; ++i) {
          int64_t x = 0;
          int32_t y = 0;
          if (dtype == "I64") std::memcpy(&x, p + 8 * i, 8), y = static_cast<int32_t>(x);
          if (dtype == "I32") std::memcpy(&y, p + 4 * i, 4);
          v.ints.push_back(y);
        }
      }
      g.vectors[vector] = v;
    } else if (key == "invFreq") {
      for (float f; in >> f;) s.inv_freq.push_back(f);
    } else {
      double x = 0;
      in >> x;
      const std::map<std::string, int64_t*> integers{{"nLayers", &s.n_layers}, {"hidden", &s.hidden}, {"nHeads", &s.n_heads},
                                                     {"nKvHeads", &s.n_kv_heads}, {"headDim", &s.head_dim}, {"ffn", &s.ffn},
                                                     {"vocab", &s.vocab}, {"maxContext", &s.max_context}};
      if (integers.count(key)) *integers.at(key) = static_cast<int64_t>(x);
      if (key == "normEps") s.norm_eps = static_cast<float>(x);
      if (key == "attentionFactor") s.rope_attention_factor = static_cast<float>(x);
      if (key == "bias") s.qkv_bias = x != 0;
      if (key == "tied") s.tied_embeddings = x != 0;
    }
  }
  g.ids = g.vectors.at("input_ids").ints;
  g.prompt = g.vectors.at("prompt_len").ints[0];
  return g;
}

// `<method>.b<budget>[.page32][.grouphead][.skip0]`
MethodOptions options_of(const std::string& key, int& page_size) {
  MethodOptions o;
  page_size = 16;
  if (key == "dense") return o;
  std::istringstream in(key);
  std::string part;
  std::getline(in, part, '.');
  o.method = method_from_name(part);
  while (std::getline(in, part, '.')) {
    if (part[0] == 'b') o.budget_tokens = std::stoll(part.substr(1));
    if (part == "page32") page_size = 32;
    if (part == "grouphead") o.group = GroupMode::head;
    if (part == "skip0") o.skip_layers = 0;
  }
  return o;
}

struct Agreement {
  double largest = 0;
  int wrong_argmax = 0;
};

// Rows of logits; the argmax must agree where the golden gap to the second is clear.
Agreement compare(const float* got, const float* want, int64_t rows, int64_t vocab, double gap) {
  Agreement a;
  for (int64_t r = 0; r < rows; ++r) {
    const float *g = got + r * vocab, *w = want + r * vocab;
    int64_t best = 0, mine = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      const double difference = std::abs(static_cast<double>(g[i]) - w[i]);
      a.largest = std::max(a.largest, std::isnan(difference) ? 1e9 : difference);
      if (w[i] > w[best]) best = i;
      if (g[i] > g[mine]) mine = i;
    }
    float second = -1e30f;
    for (int64_t i = 0; i < vocab; ++i) {
      if (i != best) second = std::max(second, w[i]);
    }
    if (w[best] - second > gap && mine != best) ++a.wrong_argmax;
  }
  return a;
}

#ifdef QUEST_EMULATE
constexpr int kGreedyRuns = 2;
#else
constexpr int kGreedyRuns = 20;
#endif

// Half precision moves scores by up to a thousandth, and where two lie closer the choice of a page or of a kept token may tip:
// no error of arithmetic, but in these tiny models it moves a step's logits by up to their own size. So each method's choices
// are held against what the CPU executor would choose in fp32 from the same state (few lists may differ, and a page may take
// another's place only where their scores are nearly equal), and its logits against those of the CPU executor reading the same
// pages or tokens. The CPU executor's own lists equal the golden ones (test/runtime), so a list that differs from those is a
// tipped one or follows from one.
constexpr double kChoiceGap = 0.001, kChoiceGapBf16 = 0.01;  // of the largest score of the list
constexpr double kChoiceGapOracle = 0.002;                   // true logits cancel where bounds add up, so their largest is smaller
constexpr double kShareOfListsTipped = 0.08;

// Gives an evictor of the CPU executor the tokens that the GPU's kept after the same step. Returns how many lists differed,
// and adds their number to `lists`.
int64_t keep_the_same(const ModelSpec& spec, const CudaBranch& from, cpu::CpuBranch& to, int64_t& lists) {
  if (!from.dropped) return 0;
  const int64_t sets = kept_sets_per_layer(from.method.method, spec.n_kv_heads), stride = from.method.budget_tokens + 1;
  std::vector<int32_t> tokens(from.kept_tokens.size());
  std::vector<float> scores(from.kept_scores.size());
  check(cudaMemcpy(tokens.data(), from.kept_tokens.get(), tokens.size() * 4, cudaMemcpyDeviceToHost), "kept tokens");
  if (!scores.empty()) check(cudaMemcpy(scores.data(), from.kept_scores.get(), scores.size() * 4, cudaMemcpyDeviceToHost), "kept scores");
  int64_t differing = 0;
  for (int64_t l = from.method.skip_layers; l < spec.n_layers; ++l) {
    for (int64_t s = 0; s < sets; ++s, ++lists) {
      KeptSet& set = to.kept[static_cast<size_t>(l)][static_cast<size_t>(s)];
      const auto at = (l * sets + s) * stride;
      const std::vector<int32_t> kept(tokens.begin() + at, tokens.begin() + at + from.kept);
      differing += kept != set.tokens;
      set.tokens = kept;
      if (!scores.empty()) set.accumulated.assign(scores.begin() + at, scores.begin() + at + from.kept);
    }
  }
  return differing;
}

class GoldenCase : public testing::TestWithParam<const char*> {};

}  // namespace

TEST_P(GoldenCase, AllVectors) {
  QUEST_NEEDS_GPU();
  if (!golden_folder()) GTEST_SKIP() << "QUEST_GOLDEN is not set";
  const std::string name = GetParam();
  const Golden g = read_golden(name);
  // The bf16 checkpoint is held against the fp16 one's vectors: its weights themselves are rounded more coarsely.
  const bool bf16 = name.ends_with("-bf16");
  const double tolerance = bf16 ? 0.05 : 3e-2, gap = 2 * tolerance;
  const auto executor = make_cuda_executor(g.spec, 0);
  const JobControl job;
  const int64_t vocab = g.spec.vocab;
  const std::span<const int32_t> ids(g.ids);
  const auto prompt = ids.subspan(0, static_cast<size_t>(g.prompt)), rest = ids.subspan(static_cast<size_t>(g.prompt));

  {  // every prompt position's logits, by parallel scoring
    auto branch = executor->fork(*executor->create(16), MethodOptions{});
    FeedRequest r;
    r.branch = branch.get();
    r.ids = prompt;
    r.logits = Logits::all;
    executor->feed({&r, 1}, job);
    const auto& want = g.vectors.at("dense.prefill_logits").floats;
    const int64_t positions[] = {0, 1, 17, 255, 559};
    for (size_t i = 0; i < 5; ++i) {
      const Agreement a = compare(r.logits_out.data() + positions[i] * vocab, want.data() + static_cast<int64_t>(i) * vocab, 1, vocab, gap);
      EXPECT_LT(a.largest, tolerance) << "position " << positions[i];
    }
  }
  {  // greedy, twenty times the same
    auto base = executor->create(16);
    executor->prefill(*base, ids.subspan(0, 64), false, job);
    const auto& want = g.vectors.at("greedy.prompt64.next32").ints;
    std::vector<int32_t> first;
    for (int i = 0; i < kGreedyRuns; ++i) {
      auto branch = executor->fork(*base, MethodOptions{});
      Branch* b = branch.get();
      GenerateOptions o;
      o.max_tokens = 32;
      const auto out = executor->generate({&b, 1}, o, [](int64_t, int32_t) {}, job)[0];
      if (i == 0) first = out;
      EXPECT_EQ(out, first) << "run " << i;
    }
    // Half precision may leave the reference where two logits are close; the first tokens are not.
    if (!bf16) {
      EXPECT_TRUE(std::equal(first.begin(), first.begin() + 4, want.begin()));
    }
    size_t same = 0;
    while (same < 32 && first[same] == want[same]) ++same;
    std::printf("  %s: greedy equals the reference for %zu of 32 tokens\n", name.c_str(), same);
  }
  const auto reference = make_executor(g.spec, "cpu", 1);
  for (const auto& [key, vector] : g.vectors) {
    if (!key.ends_with(".logits")) continue;
    const std::string method = key.substr(0, key.size() - 7);
    int page_size = 16;
    const MethodOptions options = options_of(method, page_size);
    auto base = executor->create(page_size), reference_base = reference->create(page_size);
    executor->prefill(*base, prompt, false, job);
    reference->prefill(*reference_base, prompt, false, job);
    const auto golden_pages = g.vectors.find(method + ".pages");
    std::vector<Counters> counters;
    const auto steps = static_cast<int64_t>(rest.size());
    const MethodKind kind = method_info(options.method).kind;
    const bool has_pages = golden_pages != g.vectors.end();
    std::vector<float> traced_logits;
    for (const std::string mode : {"traced", "parallel", "stepwise"}) {
      if (mode == "traced" && !has_pages) continue;
      auto branch = executor->fork(*base, options), reference_branch = reference->fork(*reference_base, options);
      std::vector<float> logits, reference_logits;
      int64_t lists = 0, differing = 0, tipped = 0;  // differing: from the golden lists
      double gap_of_choice = 0;
      const bool traced = has_pages && mode != "parallel";
      const size_t chunk = mode == "stepwise" ? 1 : rest.size();
      for (size_t at = 0; at < rest.size(); at += chunk) {
        FeedRequest r, same;
        r.branch = branch.get();
        r.ids = same.ids = rest.subspan(at, chunk);
        r.logits = same.logits = Logits::all;
        r.pages = traced;
        executor->feed({&r, 1}, job);
        logits.insert(logits.end(), r.logits_out.begin(), r.logits_out.end());
        if (kind == MethodKind::evictor && chunk == 1) {
          same.branch = reference_branch.get();
          reference->feed({&same, 1}, job);
          reference_logits.insert(reference_logits.end(), same.logits_out.begin(), same.logits_out.end());
          tipped += keep_the_same(g.spec, static_cast<const CudaBranch&>(*branch), static_cast<cpu::CpuBranch&>(*reference_branch), lists);
        }
        if (!traced) continue;
        same.branch = reference_branch.get();
        same.replay = r.pages_out;
        same.replay_width = r.pages_width;
        reference->feed({&same, 1}, job);
        reference_logits.insert(reference_logits.end(), same.logits_out.begin(), same.logits_out.end());
        tipped += std::count_if(same.replay_gap_out.begin(), same.replay_gap_out.end(), [](float g) { return g > 0; });
        gap_of_choice = std::max<double>(gap_of_choice, *std::max_element(same.replay_gap_out.begin(), same.replay_gap_out.end()));
        const auto& want = golden_pages->second;
        const int64_t k = want.shape[2], per_step = static_cast<int64_t>(want.ints.size()) / k / steps;
        const auto rows = per_step * static_cast<int64_t>(chunk), first = per_step * static_cast<int64_t>(at);
        ASSERT_EQ(static_cast<int64_t>(r.pages_out.size()), rows * r.pages_width);
        lists += rows;
        for (int64_t i = 0; i < rows; ++i) {
          std::vector<int32_t> mine, theirs(want.ints.begin() + (first + i) * k, want.ints.begin() + (first + i + 1) * k);
          for (int64_t j = 0; j < r.pages_width; ++j) {
            if (r.pages_out[static_cast<size_t>(i * r.pages_width + j)] >= 0) mine.push_back(r.pages_out[static_cast<size_t>(i * r.pages_width + j)]);
          }
          differing += mine != theirs;
        }
      }
      // Looking does not change what is seen.
      if (mode == "traced") traced_logits = logits;
      if (mode == "parallel" && has_pages) {
        EXPECT_EQ(logits, traced_logits) << method;
      }
      const bool replayed = !reference_logits.empty();
      const bool chooses = kind == MethodKind::selector || kind == MethodKind::evictor;
      const Agreement golden = compare(logits.data(), vector.floats.data(), steps, vocab, gap);
      std::printf("  %s %s %s: largest difference %.4f", name.c_str(), method.c_str(), mode.c_str(), golden.largest);
      if (replayed) {
        const Agreement a = compare(logits.data(), reference_logits.data(), steps, vocab, gap);
        std::printf(", %.4f with the same choices; %lld of %lld lists tipped, largest gap %.4f, %lld differ from the golden ones", a.largest,
                    static_cast<long long>(tipped), static_cast<long long>(lists), gap_of_choice, static_cast<long long>(differing));
        EXPECT_LT(a.largest, tolerance) << method << " " << mode;
        EXPECT_EQ(a.wrong_argmax, 0) << method << " " << mode;
        EXPECT_LT(gap_of_choice, bf16 ? kChoiceGapBf16 : kChoiceGap) << method << " " << mode;
        if (!bf16) {
          EXPECT_LE(static_cast<double>(tipped), kShareOfListsTipped * static_cast<double>(lists)) << method;
        }
      }
      std::printf("\n");
      if (!chooses) {
        EXPECT_LT(golden.largest, tolerance) << method << " " << mode;
        EXPECT_EQ(golden.wrong_argmax, 0) << method << " " << mode;
      }
      counters.push_back(branch->counters);
    }
    for (const Counters& c : counters) {
      EXPECT_EQ(c.tokens_available, counters[0].tokens_available) << method;
      EXPECT_EQ(c.sparse_steps, counters[0].sparse_steps) << method;
      // Lists that hold the open page read less than a whole page of it, and which do may tip.
      EXPECT_NEAR(static_cast<double>(c.kv_bytes), static_cast<double>(counters[0].kv_bytes), 0.01 * static_cast<double>(counters[0].kv_bytes)) << method;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, GoldenCase,
                         testing::Values("mha-d128", "linear8-d64", "yarn32-d128", "llama3-gqa4-d64", "llama3-gqa4-d64-bf16", "gqa8-d32-tied"),
                         [](const auto& info) {
                           std::string s = info.param;
                           std::replace(s.begin(), s.end(), '-', '_');
                           return s;
                         });

// Branches of several methods stepping together give what each gives alone, and forks leave each other alone.
TEST(Executor, BatchedBranches) {
  QUEST_NEEDS_GPU();
  if (!golden_folder()) GTEST_SKIP() << "QUEST_GOLDEN is not set";
  const Golden g = read_golden("llama3-gqa4-d64");
  const auto executor = make_cuda_executor(g.spec, 0);
  const JobControl job;
  auto base = executor->create(16);
  executor->prefill(*base, std::span(g.ids).subspan(0, 301), false, job);
  std::vector<MethodOptions> methods;
  for (const char* key : {"dense", "quest.b64", "quest-paper.b128", "streaming.b64", "h2o.b64", "tova.b64", "quest.b128.grouphead", "h2o.b400"}) {
    int page_size = 16;
    methods.push_back(options_of(key, page_size));
  }
  GenerateOptions o;
  o.max_tokens = 20;
  std::vector<std::vector<int32_t>> alone;
  for (const MethodOptions& m : methods) {
    auto branch = executor->fork(*base, m);
    Branch* b = branch.get();
    alone.push_back(executor->generate({&b, 1}, o, [](int64_t, int32_t) {}, job)[0]);
    EXPECT_EQ(branch->length(), 301 + 19);
  }
  std::vector<std::shared_ptr<Branch>> branches;
  std::vector<Branch*> raw;
  for (const MethodOptions& m : methods) branches.push_back(executor->fork(*base, m));
  for (const auto& b : branches) raw.push_back(b.get());
  const auto together = executor->generate(raw, o, [](int64_t, int32_t) {}, job);
  size_t same = 0;
  for (size_t i = 0; i < methods.size(); ++i) same += together[i] == alone[i];
  // One row and several rows go through different products; a near tie may tip. Most do not.
  EXPECT_GE(same, methods.size() - 1);
  EXPECT_EQ(base->length(), 301);
  EXPECT_EQ(alone[0], alone[7]);  // a budget above the length is dense, bit for bit
}

// What only analyses ask for, against the CPU executor.
TEST(Executor, Analyses) {
  QUEST_NEEDS_GPU();
  if (!golden_folder()) GTEST_SKIP() << "QUEST_GOLDEN is not set";
  for (const char* name : {"mha-d128", "llama3-gqa4-d64"}) {
    const Golden g = read_golden(name);
    const std::unique_ptr<Executor> executors[] = {make_cuda_executor(g.spec, 0), make_executor(g.spec, "cpu", 1)};
    const JobControl job;
    const auto steps = static_cast<int64_t>(g.ids.size()) - g.prompt;
    std::vector<MethodOptions> all(5);
    all[0].method = all[1].method = Method::oracle;
    all[1].oracle_pages = true;
    all[2].method = Method::h2o;
    all[2].h2o_prefill = true;
    all[3].method = Method::streaming;
    all[4].method = Method::tova;
    for (MethodOptions& o : all) {
      o.budget_tokens = 128;
      std::vector<float> logits[2], recall[2];
      std::vector<int32_t> pages;  // the oracle's, which the CPU reads too: see kChoiceGap
      int64_t width = 0;
      Counters counters[2];
      for (size_t e : {0, 1}) {
        auto base = executors[e]->create(16);
        // In two parts: sums go on from one to the next.
        executors[e]->prefill(*base, std::span(g.ids).subspan(0, 233), o.h2o_prefill, job);
        executors[e]->prefill(*base, std::span(g.ids).subspan(233, static_cast<size_t>(g.prompt) - 233), o.h2o_prefill, job);
        auto branch = executors[e]->fork(*base, o);
        FeedRequest r;
        r.branch = branch.get();
        r.ids = std::span(g.ids).subspan(static_cast<size_t>(g.prompt));
        r.logits = Logits::all;
        r.recall_top = 10;
        r.pages = o.oracle_pages;
        r.replay = pages;
        r.replay_width = width;
        executors[e]->feed({&r, 1}, job);
        pages = r.pages_out;
        width = r.pages_width;
        for (float choice : r.replay_gap_out) EXPECT_LT(choice, kChoiceGapOracle) << name;
        logits[e] = r.logits_out;
        recall[e] = r.recall_out;
        counters[e] = branch->counters;
      }
      const std::string what = std::string(name) + " " + method_info(o.method).name + (o.oracle_pages ? " pages" : "");
      // The first step's evictors have dropped nothing yet; later ones may have kept another token.
      const bool evicts = method_info(o.method).kind == MethodKind::evictor;
      const Agreement a = compare(logits[0].data(), logits[1].data(), evicts ? 1 : steps, g.spec.vocab, 6e-2);
      double difference = 0, total = 0;
      for (size_t i = 0; i < recall[0].size(); ++i) difference += std::abs(recall[0][i] - recall[1][i]), total += recall[0][i];
      std::printf("  %s: largest difference %.4f, recall %.3f, mean difference %.4f\n", what.c_str(), a.largest,
                  total / static_cast<double>(recall[0].size()), difference / static_cast<double>(recall[0].size()));
      EXPECT_LT(a.largest, 3e-2) << what;
      EXPECT_EQ(a.wrong_argmax, 0) << what;
      EXPECT_LT(difference / static_cast<double>(recall[0].size()), 0.01) << what;
      EXPECT_EQ(counters[0].sparse_steps, counters[1].sparse_steps) << what;
      EXPECT_EQ(counters[0].tokens_attended, counters[1].tokens_attended) << what;
      EXPECT_EQ(2 * counters[0].kv_bytes, counters[1].kv_bytes) << what;  // fp32 there, half here
      EXPECT_EQ(2 * counters[0].metadata_bytes, counters[1].metadata_bytes) << what;
    }
    {  // acting in the last layer alone is acting from there on
      auto base = executors[0]->create(16);
      executors[0]->prefill(*base, std::span(g.ids).subspan(0, static_cast<size_t>(g.prompt)), false, job);
      std::vector<float> logits[2];
      for (size_t i : {0, 1}) {
        MethodOptions o;
        o.method = Method::quest;
        o.budget_tokens = 64;
        (i == 0 ? o.only_layer : o.skip_layers) = g.spec.n_layers - 1;
        auto branch = executors[0]->fork(*base, o);
        FeedRequest r;
        r.branch = branch.get();
        r.ids = std::span(g.ids).subspan(static_cast<size_t>(g.prompt));
        r.logits = Logits::all;
        executors[0]->feed({&r, 1}, job);
        logits[i] = r.logits_out;
      }
      EXPECT_EQ(logits[0], logits[1]) << name;
    }
    // What was not collected cannot be started from.
    for (const auto& executor : executors) {
      auto base = executor->create(16);
      executor->prefill(*base, std::span(g.ids).subspan(0, 20), false, job);
      EXPECT_THROW(executor->fork(*base, all[2]), Error);
      EXPECT_THROW(executor->prefill(*base, std::span(g.ids).subspan(20, 5), true, job), Error);
    }
  }
}

TEST(Executor, FullCacheIsRefused) {
  QUEST_NEEDS_GPU();
  if (!golden_folder()) GTEST_SKIP() << "QUEST_GOLDEN is not set";
  Golden g = read_golden("mha-d128");
  const auto executor = make_cuda_executor(g.spec, 0);
  const JobControl job;
  std::vector<std::shared_ptr<Branch>> branches;
  std::vector<int32_t> ids(static_cast<size_t>(g.spec.max_context), 5);
  try {
    for (int i = 0; i < 20; ++i) {
      branches.push_back(executor->create(16));
      PageTable& pages = branches.back()->pages;
      pages.extend(g.spec.max_context);
    }
    ADD_FAILURE() << "twenty full contexts fit";
  } catch (const Error& e) {
    EXPECT_EQ(e.code, "E_GPU_MEMORY");
    EXPECT_NE(std::string(e.what()).find("tokens of all sequences"), std::string::npos);
  }
}

}  // namespace quest::cuda::test
