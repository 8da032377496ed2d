#include "addon/quantizer.h"

#include <cstring>
#include <utility>

#include "addon/convert.h"
#include "addon/instance.h"
#include "addon/job.h"

namespace quest::addon {

namespace {

Napi::Value bytes_to_js(Napi::Env env, const std::vector<unsigned char>& bytes) {
  auto out = Napi::Uint8Array::New(env, bytes.size());
  if (!bytes.empty()) std::memcpy(out.Data(), bytes.data(), bytes.size());
  return out;
}

}  // namespace

Napi::Function Quantizer::define(Napi::Env env) {
  return DefineClass(env, "NativeQuantizer",
                     {InstanceMethod<&Quantizer::next>("next"), InstanceMethod<&Quantizer::plain>("plain"), InstanceMethod<&Quantizer::dispose>("dispose")});
}

Napi::Value Quantizer::create(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Job* job = Job::from(info[0]);
    auto spec = model_spec(info[1]);
    auto calibration = int32_array(info[2], "calibration");
    if (!info[3].IsObject()) throw Error("E_ARGUMENT", "options must be an object");
    const auto o = info[3].As<Napi::Object>();
    cpu::QuantizeOptions options;
    options.group = static_cast<int>(integer_field(o, "group"));
    options.activation_aware = bool_field(o, "activationAware");
    options.clip = bool_field(o, "clip");
    options.sequence = integer_field(o, "sequence");
    const int64_t threads = integer_field(o, "threads");
    if (threads < 0 || threads > 1024) throw Error("E_ARGUMENT", "threads is " + std::to_string(threads) + ", wanted 0 to 1024");
    auto made = std::make_shared<std::shared_ptr<cpu::Quantizer>>();
    return start(info.Env(), *job, {}, {}, [&](auto) {
      return Task{[=, spec = std::move(spec), calibration = std::move(calibration)](const JobControl&) {
                    *made = std::make_shared<cpu::Quantizer>(spec, calibration, options, static_cast<int>(threads));
                  },
                  [made](Napi::Env env) -> Napi::Value {
                    const Napi::Object object = Instance::of(env).quantizer.New({});
                    Unwrap(object)->quantizer_ = std::move(*made);
                    return object;
                  }};
    });
  });
}

const std::shared_ptr<cpu::Quantizer>& Quantizer::quantizer() const {
  if (!quantizer_) throw Error("E_DISPOSED", "this quantiser has been disposed");
  return quantizer_;
}

Napi::Value Quantizer::next(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Job* job = Job::from(info[0]);
    auto layer = std::make_shared<cpu::QuantizedLayer>();
    return start(info.Env(), *job, function_argument(info[1], "progress"), {}, [&](auto) {
      return Task{[quantizer = quantizer(), layer](const JobControl& control) { *layer = quantizer->next(control); },
                  [layer](Napi::Env env) -> Napi::Value {
                    Napi::Object tensors = Napi::Object::New(env), errors = Napi::Object::New(env), out = Napi::Object::New(env);
                    for (auto& [name, bytes] : layer->tensors) tensors.Set(name, bytes_to_js(env, std::exchange(bytes, {})));
                    for (const auto& [name, error] : layer->errors) {
                      Napi::Object pair = Napi::Object::New(env);
                      pair.Set("before", error.first);
                      pair.Set("after", error.second);
                      errors.Set(name, pair);
                    }
                    out.Set("tensors", tensors);
                    out.Set("errors", errors);
                    return out;
                  }};
    });
  });
}

Napi::Value Quantizer::plain(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Job* job = Job::from(info[0]);
    if (!info[1].IsString() || !info[2].IsNumber() || !info[3].IsNumber()) throw Error("E_ARGUMENT", "plain wants a name, a row and a number of rows");
    const std::string name = info[1].As<Napi::String>().Utf8Value();
    const int64_t first = info[2].As<Napi::Number>().Int64Value(), rows = info[3].As<Napi::Number>().Int64Value();
    auto bytes = std::make_shared<std::vector<unsigned char>>();
    return start(info.Env(), *job, {}, {}, [&](auto) {
      return Task{[quantizer = quantizer(), name, first, rows, bytes](const JobControl&) { *bytes = quantizer->plain(name, first, rows); },
                  [bytes](Napi::Env env) -> Napi::Value { return bytes_to_js(env, *bytes); }};
    });
  });
}

void Quantizer::dispose(const Napi::CallbackInfo&) { quantizer_.reset(); }

}  // namespace quest::addon
