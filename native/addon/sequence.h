// A branch as a JavaScript object.
#pragma once

#include <napi.h>

#include <memory>

#include "core/executor.h"

namespace quest::addon {

class Sequence : public Napi::ObjectWrap<Sequence> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object wrap(Napi::Env env, std::shared_ptr<Executor> executor, std::shared_ptr<Branch> branch);
  explicit Sequence(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Sequence>(info) {}

  // The live branch. Throws Error E_DISPOSED after dispose().
  const std::shared_ptr<Branch>& branch() const;
  static Sequence* from(const Napi::Value& value);  // throws Error E_ARGUMENT for anything else
  const std::shared_ptr<Executor>& executor() const { return executor_; }

 private:
  Napi::Value length(const Napi::CallbackInfo& info);
  Napi::Value prefill(const Napi::CallbackInfo& info);
  Napi::Value fork(const Napi::CallbackInfo& info);
  Napi::Value counters(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<Executor> executor_;
  std::shared_ptr<Branch> branch_;
};

}  // namespace quest::addon
