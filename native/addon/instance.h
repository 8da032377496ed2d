// What one JavaScript environment owns: the constructors of the wrapped classes.
#pragma once

#include <napi.h>

namespace quest::addon {

struct Instance {
  Napi::FunctionReference job, model, sequence, kernel_bench, quantizer;

  static Instance& of(Napi::Env env) { return *env.GetInstanceData<Instance>(); }
};

}  // namespace quest::addon
