#include "addon/kernel_bench.h"

#include "addon/convert.h"
#include "addon/instance.h"
#include "addon/job.h"

namespace quest::addon {

namespace {

KernelCase kernel_case(const Napi::Value& value) {
  if (!value.IsObject()) throw Error("E_ARGUMENT", "a case must be an object");
  const auto o = value.As<Napi::Object>();
  KernelCase c;
  c.kernel = string_field(o, "kernel");
  c.n_heads = integer_field(o, "nHeads", c.n_heads);
  c.n_kv_heads = integer_field(o, "nKvHeads", c.n_kv_heads);
  c.head_dim = integer_field(o, "headDim", c.head_dim);
  c.context_tokens = integer_field(o, "contextTokens", 0);
  c.budget_tokens = integer_field(o, "budgetTokens", 0);
  c.page_size = integer_field(o, "pageSize", c.page_size);
  c.rows = integer_field(o, "rows", 1);
  c.n = integer_field(o, "n", 0);
  c.k = integer_field(o, "k", 0);
  return c;
}

TimingRules timing_rules(const Napi::Value& value) {
  if (!value.IsObject()) throw Error("E_ARGUMENT", "timing rules must be an object");
  const auto o = value.As<Napi::Object>();
  TimingRules r;
  r.min_repeats = integer_field(o, "minRepeats");
  r.noise_pct = number_field(o, "noisePct");
  r.max_seconds = number_field(o, "maxSeconds");
  if (r.min_repeats < 1 || r.min_repeats > 1000000 || !(r.noise_pct >= 0) || !(r.max_seconds >= 0)) {
    throw Error("E_ARGUMENT", "timing rules are out of range: at least one repeat, noise and seconds of at least 0");
  }
  return r;
}

// A job whose result is a plain value, delivered by `to_value`.
template <class T, class Work, class ToValue>
Napi::Value run_job(const Napi::CallbackInfo& info, Work work, ToValue to_value) {
  return start(info.Env(), *Job::from(info[0]), {}, {}, [&](auto) {
    auto result = std::make_shared<T>();
    return Task{[=](const JobControl& control) { *result = work(control); }, [=](Napi::Env env) -> Napi::Value { return to_value(env, *result); }};
  });
}

}  // namespace

Napi::Function KernelBenchObject::define(Napi::Env env) {
  using Self = KernelBenchObject;
  return DefineClass(env, "NativeKernelBench",
                     {InstanceAccessor<&Self::info>("info"), InstanceAccessor<&Self::kernels>("kernels"),
                      InstanceMethod<&Self::read_bandwidth>("readBandwidth"), InstanceMethod<&Self::time>("time"),
                      InstanceMethod<&Self::dispose>("dispose")});
}

Napi::Value KernelBenchObject::create(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsString() || !info[1].IsNumber()) throw Error("E_ARGUMENT", "a kernel bench needs a device and a number of threads");
    const double threads = info[1].As<Napi::Number>().DoubleValue();
    if (!(threads >= 0 && threads <= 1024)) throw Error("E_ARGUMENT", "threads must be from 0 to 1024");
    const Napi::Object object = Instance::of(info.Env()).kernel_bench.New({});
    Unwrap(object)->bench_ = make_kernel_bench(info[0].As<Napi::String>().Utf8Value(), static_cast<int>(threads));
    return object;
  });
}

const std::shared_ptr<KernelBench>& KernelBenchObject::bench() const {
  if (!bench_) throw Error("E_DISPOSED", "this kernel bench has been disposed");
  return bench_;
}

Napi::Value KernelBenchObject::info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return to_js(info.Env(), bench()->info()); });
}

Napi::Value KernelBenchObject::kernels(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto names = Napi::Array::New(info.Env());
    for (const std::string& name : bench()->kernels()) names.Set(names.Length(), name);
    return names;
  });
}

Napi::Value KernelBenchObject::read_bandwidth(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return run_job<double>(info, [bench = bench()](const JobControl& job) { return bench->read_bandwidth(job); },
                           [](Napi::Env env, double v) -> Napi::Value { return Napi::Number::New(env, v); });
  });
}

Napi::Value KernelBenchObject::time(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const KernelCase c = kernel_case(info[1]);
    const TimingRules rules = timing_rules(info[2]);
    return run_job<KernelTime>(
        info, [bench = bench(), c, rules](const JobControl& job) { return bench->time(c, rules, job); },
        [](Napi::Env env, const KernelTime& t) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("medianUs", t.median_us);
          o.Set("noisePct", t.noise_pct);
          o.Set("repeats", static_cast<double>(t.repeats));
          o.Set("bytes", t.bytes);
          o.Set("flops", t.flops);
          return o;
        });
  });
}

void KernelBenchObject::dispose(const Napi::CallbackInfo&) { bench_.reset(); }

}  // namespace quest::addon
