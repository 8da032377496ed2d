#include "addon/convert.h"

#include <cmath>
#include <cstring>

#include "core/error.h"

namespace quest::addon {

namespace {

[[noreturn]] void wrong(const std::string& name, const char* wanted) {
  throw Error("E_ARGUMENT", name + " must be " + wanted);
}

Napi::Object object(const Napi::Value& value, const std::string& name) {
  if (!value.IsObject()) wrong(name, "an object");
  return value.As<Napi::Object>();
}

double number(const Napi::Value& value, const std::string& name) {
  if (!value.IsNumber()) wrong(name, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int64_t integer(const Napi::Value& value, const std::string& name) {
  const double d = number(value, name);
  if (d != std::floor(d) || std::abs(d) > 9007199254740991.0) wrong(name, "a whole number");
  return static_cast<int64_t>(d);
}

Place place(const Napi::Object& o, const std::string& name) {
  const int64_t file = integer_field(o, "file"), offset = integer_field(o, "offset");
  if (file < 0 || file > INT32_MAX || offset < 0) wrong(name, "a place with a file and an offset of at least 0");
  return {static_cast<int32_t>(file), static_cast<uint64_t>(offset)};
}

TensorRef tensor_ref(const Napi::Value& value, const std::string& name) {
  const Napi::Object o = object(value, name);
  TensorRef ref;
  static_cast<Place&>(ref) = place(o, name);
  const std::string dtype = string_field(o, "dtype");
  if (dtype == "fp32") {
    ref.dtype = DType::fp32;
  } else if (dtype == "fp16") {
    ref.dtype = DType::fp16;
  } else if (dtype == "bf16") {
    ref.dtype = DType::bf16;
  } else if (dtype == "int4") {
    ref.dtype = DType::fp16;
    ref.group = integer_field(o, "group");
    if (ref.group < 1) wrong(name + ".group", "at least 1");
    ref.zeros = place(object(o.Get("zeros"), name + ".zeros"), name + ".zeros");
    ref.scales = place(object(o.Get("scales"), name + ".scales"), name + ".scales");
  } else {
    wrong(name + ".dtype", "fp32, fp16, bf16 or int4");
  }
  const Napi::Value shape = o.Get("shape");
  if (!shape.IsArray()) wrong(name + ".shape", "an array");
  const auto dims = shape.As<Napi::Array>();
  for (uint32_t i = 0; i < dims.Length(); ++i) ref.shape.push_back(integer(dims.Get(i), name + ".shape"));
  return ref;
}

}  // namespace

int64_t integer_field(const Napi::Object& o, const char* name) { return integer(o.Get(name), name); }
double number_field(const Napi::Object& o, const char* name) { return number(o.Get(name), name); }

std::string string_field(const Napi::Object& o, const char* name) {
  const Napi::Value v = o.Get(name);
  if (!v.IsString()) wrong(name, "a string");
  return v.As<Napi::String>().Utf8Value();
}

bool bool_field(const Napi::Object& o, const char* name) {
  const Napi::Value v = o.Get(name);
  if (!v.IsBoolean()) wrong(name, "true or false");
  return v.As<Napi::Boolean>().Value();
}

int64_t integer_field(const Napi::Object& o, const char* name, int64_t fallback) {
  return o.Get(name).IsUndefined() ? fallback : integer_field(o, name);
}

bool bool_field(const Napi::Object& o, const char* name, bool fallback) {
  return o.Get(name).IsUndefined() ? fallback : bool_field(o, name);
}

std::vector<int32_t> int32_array(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) wrong(name, "an Int32Array");
  const auto a = value.As<Napi::Int32Array>();
  return {a.Data(), a.Data() + a.ElementLength()};
}

Napi::Function function_argument(const Napi::Value& value, const char* name) {
  if (!value.IsFunction()) wrong(name, "a function");
  return value.As<Napi::Function>();
}

ModelSpec model_spec(const Napi::Value& value) {
  const Napi::Object o = object(value, "spec");
  ModelSpec s;
  s.n_layers = integer_field(o, "nLayers");
  s.hidden = integer_field(o, "hidden");
  s.n_heads = integer_field(o, "nHeads");
  s.n_kv_heads = integer_field(o, "nKvHeads");
  s.head_dim = integer_field(o, "headDim");
  s.ffn = integer_field(o, "ffn");
  s.vocab = integer_field(o, "vocab");
  s.norm_eps = static_cast<float>(number_field(o, "normEps"));
  s.max_context = integer_field(o, "maxContext");
  s.tied_embeddings = bool_field(o, "tiedEmbeddings");
  s.qkv_bias = bool_field(o, "qkvBias");
  const Napi::Object rope = object(o.Get("rope"), "rope");
  const Napi::Value freq = rope.Get("invFreq");
  if (!freq.IsTypedArray() || freq.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) {
    wrong("rope.invFreq", "a Float32Array");
  }
  const auto f = freq.As<Napi::Float32Array>();
  s.inv_freq.assign(f.Data(), f.Data() + f.ElementLength());
  s.rope_attention_factor = static_cast<float>(number_field(rope, "attentionFactor"));
  if (!o.Get("randomWeights").IsUndefined()) s.random_weights = string_field(o, "randomWeights");
  if (!o.Get("files").IsArray()) wrong("files", "an array");
  const auto files = o.Get("files").As<Napi::Array>();
  for (uint32_t i = 0; i < files.Length(); ++i) {
    const Napi::Value path = files.Get(i);
    if (!path.IsString()) wrong("files", "an array of strings");
    s.files.push_back(path.As<Napi::String>().Utf8Value());
  }
  const Napi::Object tensors = object(o.Get("tensors"), "tensors");
  const Napi::Array names = tensors.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).As<Napi::String>().Utf8Value();
    s.tensors.emplace(name, tensor_ref(tensors.Get(name), "tensors." + name));
  }
  return s;
}

MethodOptions method_options(const Napi::Value& value) {
  const Napi::Object o = object(value, "method options");
  MethodOptions m;
  m.method = method_from_name(string_field(o, "method"));
  m.budget_tokens = integer_field(o, "budgetTokens");
  m.skip_layers = integer_field(o, "skipLayers");
  m.group = group_from_name(string_field(o, "group"));
  m.sinks = integer_field(o, "sinks");
  m.h2o_prefill = bool_field(o, "h2oPrefill");
  m.oracle_pages = bool_field(o, "oraclePages", false);
  m.only_layer = integer_field(o, "onlyLayer", -1);
  return m;
}

GenerateOptions generate_options(const Napi::Value& value) {
  const Napi::Object o = object(value, "generate options");
  GenerateOptions g;
  g.max_tokens = integer_field(o, "maxTokens");
  g.stop_ids = int32_array(o.Get("stopIds"), "stopIds");
  const Napi::Object s = object(o.Get("sampling"), "sampling");
  g.sampling.temperature = static_cast<float>(number_field(s, "temperature"));
  g.sampling.top_p = static_cast<float>(number_field(s, "topP"));
  g.sampling.seed = static_cast<uint64_t>(integer_field(s, "seed"));
  if (!std::isfinite(g.sampling.temperature) || g.sampling.temperature < 0) wrong("temperature", "at least 0");
  if (!(g.sampling.top_p > 0 && g.sampling.top_p <= 1)) wrong("topP", "above 0 and at most 1");
  return g;
}

Napi::Float32Array to_js(Napi::Env env, const std::vector<float>& values) {
  auto out = Napi::Float32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(float));
  return out;
}

Napi::Int32Array to_js(Napi::Env env, const std::vector<int32_t>& values) {
  auto out = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(int32_t));
  return out;
}

Napi::Object to_js(Napi::Env env, const Counters& c) {
  Napi::Object o = Napi::Object::New(env);
  const auto set = [&](const char* name, int64_t v) { o.Set(name, Napi::Number::New(env, static_cast<double>(v))); };
  set("decodeSteps", c.decode_steps);
  set("sparseSteps", c.sparse_steps);
  set("tokensAttended", c.tokens_attended);
  set("tokensAvailable", c.tokens_available);
  set("pagesAttended", c.pages_attended);
  set("pagesAvailable", c.pages_available);
  set("kvBytes", c.kv_bytes);
  set("metadataBytes", c.metadata_bytes);
  set("denseKvBytes", c.dense_kv_bytes);
  return o;
}

Napi::Object to_js(Napi::Env env, const ExecutorInfo& i) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("device", i.device);
  if (i.gpu.empty()) {
    o.Set("threads", i.threads);
    o.Set("simd", i.simd);
  } else {
    o.Set("gpu", i.gpu);
  }
  o.Set("weightBytes", static_cast<double>(i.weight_bytes));
  o.Set("kvBytesPerToken", static_cast<double>(i.kv_bytes_per_token));
  o.Set("metadataBytesPerPage", static_cast<double>(i.metadata_bytes_per_page));
  return o;
}

Napi::Object to_js(Napi::Env env, const GpuReport& report) {
  Napi::Object o = Napi::Object::New(env);
  const auto put = [](Napi::Object to, const char* name, const std::string& v) {
    if (!v.empty()) to.Set(name, v);
  };
  o.Set("compiled", Napi::Boolean::New(env, report.compiled));
  put(o, "driver", report.driver);
  put(o, "matrixLibrary", report.matrix_library);
  put(o, "problem", report.problem);
  auto gpus = Napi::Array::New(env, report.gpus.size());
  for (uint32_t i = 0; i < report.gpus.size(); ++i) {
    const GpuInfo& gpu = report.gpus[i];
    Napi::Object g = Napi::Object::New(env);
    g.Set("index", gpu.index);
    g.Set("name", gpu.name);
    g.Set("memoryBytes", static_cast<double>(gpu.memory_bytes));
    g.Set("freeBytes", static_cast<double>(gpu.free_bytes));
    g.Set("computeCapability", std::to_string(gpu.major) + "." + std::to_string(gpu.minor));
    g.Set("multiprocessors", gpu.multiprocessors);
    g.Set("mps", gpu.mps);
    put(g, "problem", gpu.problem);
    gpus.Set(i, g);
  }
  o.Set("gpus", gpus);
  return o;
}

Napi::Object to_js(Napi::Env env, const GpuMemoryPlan& plan) {
  Napi::Object o = Napi::Object::New(env);
  const auto set = [&](const char* name, int64_t v) { o.Set(name, static_cast<double>(v)); };
  set("weightBytes", plan.weight_bytes);
  set("workspaceBytes", plan.workspace_bytes);
  set("reservedBytes", plan.reserved_bytes);
  set("kvBytesPerPage", plan.kv_page_bytes);
  set("metadataBytesPerPage", plan.metadata_page_bytes);
  set("pages", plan.pages);
  return o;
}

}  // namespace quest::addon
