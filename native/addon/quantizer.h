// The quantiser as a JavaScript object.
#pragma once

#include <napi.h>

#include <memory>

#include "cpu/quantizer.h"

namespace quest::addon {

class Quantizer : public Napi::ObjectWrap<Quantizer> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(const Napi::CallbackInfo& info);
  explicit Quantizer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Quantizer>(info) {}

 private:
  const std::shared_ptr<cpu::Quantizer>& quantizer() const;  // throws Error E_DISPOSED after dispose()

  Napi::Value next(const Napi::CallbackInfo& info);
  Napi::Value plain(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<cpu::Quantizer> quantizer_;
};

}  // namespace quest::addon
