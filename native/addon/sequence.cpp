#include "addon/sequence.h"

#include "addon/convert.h"
#include "addon/instance.h"
#include "addon/job.h"

namespace quest::addon {

Napi::Function Sequence::define(Napi::Env env) {
  return DefineClass(env, "NativeSequence",
                     {InstanceAccessor<&Sequence::length>("length"), InstanceMethod<&Sequence::prefill>("prefill"),
                      InstanceMethod<&Sequence::fork>("fork"), InstanceMethod<&Sequence::counters>("counters"),
                      InstanceMethod<&Sequence::dispose>("dispose")});
}

Napi::Object Sequence::wrap(Napi::Env env, std::shared_ptr<Executor> executor, std::shared_ptr<Branch> branch) {
  const Napi::Object object = Instance::of(env).sequence.New({});
  Sequence* s = Unwrap(object);
  s->executor_ = std::move(executor);
  s->branch_ = std::move(branch);
  return object;
}

const std::shared_ptr<Branch>& Sequence::branch() const {
  if (!branch_) throw Error("E_DISPOSED", "this sequence has been disposed");
  return branch_;
}

Sequence* Sequence::from(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(Instance::of(value.Env()).sequence.Value())) {
    throw Error("E_ARGUMENT", "sequence must be a NativeSequence");
  }
  return Unwrap(value.As<Napi::Object>());
}

Napi::Value Sequence::length(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), static_cast<double>(branch()->length())); });
}

Napi::Value Sequence::prefill(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Job* job = Job::from(info[0]);
    auto ids = int32_array(info[1], "ids");
    const bool h2o_prefill = info[2].ToBoolean();
    return start(info.Env(), *job, function_argument(info[3], "progress"), {}, [&](auto) {
      return Task{[executor = executor_, branch = branch(), ids = std::move(ids), h2o_prefill](const JobControl& control) {
                    executor->prefill(*branch, ids, h2o_prefill, control);
                  },
                  [](Napi::Env env) { return env.Undefined(); }};
    });
  });
}

Napi::Value Sequence::fork(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return wrap(info.Env(), executor_, executor_->fork(*branch(), method_options(info[0])));
  });
}

Napi::Value Sequence::counters(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return to_js(info.Env(), branch()->counters); });
}

void Sequence::dispose(const Napi::CallbackInfo&) {
  branch_.reset();
  executor_.reset();
}

}  // namespace quest::addon
