// JavaScript values to the runtime's structs, every field checked. src/runtime/addon.ts is the other side.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/devices.h"
#include "core/executor.h"

namespace quest::addon {

// Field readers: throw Error E_ARGUMENT that names the field, on a missing or wrong one.
int64_t integer_field(const Napi::Object& object, const char* name);
double number_field(const Napi::Object& object, const char* name);
std::string string_field(const Napi::Object& object, const char* name);
bool bool_field(const Napi::Object& object, const char* name);
// The fallback where the field is absent.
int64_t integer_field(const Napi::Object& object, const char* name, int64_t fallback);
bool bool_field(const Napi::Object& object, const char* name, bool fallback);

// A copy, since the working thread outlives the call.
std::vector<int32_t> int32_array(const Napi::Value& value, const char* name);
Napi::Function function_argument(const Napi::Value& value, const char* name);

ModelSpec model_spec(const Napi::Value& value);
MethodOptions method_options(const Napi::Value& value);
GenerateOptions generate_options(const Napi::Value& value);

Napi::Float32Array to_js(Napi::Env env, const std::vector<float>& values);
Napi::Int32Array to_js(Napi::Env env, const std::vector<int32_t>& values);
Napi::Object to_js(Napi::Env env, const Counters& counters);
Napi::Object to_js(Napi::Env env, const ExecutorInfo& info);
Napi::Object to_js(Napi::Env env, const GpuReport& report);
Napi::Object to_js(Napi::Env env, const GpuMemoryPlan& plan);

}  // namespace quest::addon
