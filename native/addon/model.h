// A loaded model as a JavaScript object.
#pragma once

#include <napi.h>

#include <memory>

#include "core/executor.h"

namespace quest::addon {

class Model : public Napi::ObjectWrap<Model> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value load(const Napi::CallbackInfo& info);
  explicit Model(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Model>(info) {}

 private:
  const std::shared_ptr<Executor>& executor() const;  // throws Error E_DISPOSED after dispose()

  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value create_sequence(const Napi::CallbackInfo& info);
  Napi::Value feed(const Napi::CallbackInfo& info);
  Napi::Value generate(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<Executor> executor_;
};

}  // namespace quest::addon
