// Kernel timing as a JavaScript object.
#pragma once

#include <napi.h>

#include <memory>

#include "core/bench.h"

namespace quest::addon {

class KernelBenchObject : public Napi::ObjectWrap<KernelBenchObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(const Napi::CallbackInfo& info);
  explicit KernelBenchObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<KernelBenchObject>(info) {}

 private:
  const std::shared_ptr<KernelBench>& bench() const;  // throws Error E_DISPOSED after dispose()

  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value kernels(const Napi::CallbackInfo& info);
  Napi::Value read_bandwidth(const Napi::CallbackInfo& info);
  Napi::Value time(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<KernelBench> bench_;
};

}  // namespace quest::addon
