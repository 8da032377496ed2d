// The addon's entry: what src/runtime/addon.ts calls NativeAddon.
#include <napi.h>

#include <thread>

#include "addon/convert.h"
#include "addon/instance.h"
#include "addon/job.h"
#include "addon/kernel_bench.h"
#include "addon/model.h"
#include "addon/quantizer.h"
#include "addon/sequence.h"
#include "cpu/kernels.h"

namespace quest::addon {

namespace {

Napi::Value cpu_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    Napi::Object o = Napi::Object::New(env);
    auto levels = Napi::Array::New(env);
    for (const auto* k : cpu::available_kernels()) levels.Set(levels.Length(), k->name);
    o.Set("levels", levels);
    o.Set("active", cpu::active_kernels().name);
    o.Set("cores", static_cast<double>(std::thread::hardware_concurrency()));
    return o;
  });
}

Napi::Value gpus(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value { return to_js(env, gpu_report()); });
}

Napi::Value choose(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!info[1].IsString()) throw Error("E_ARGUMENT", "device must be a string");
    const auto [device, note] = choose_device(model_spec(info[0]), info[1].As<Napi::String>().Utf8Value());
    Napi::Object o = Napi::Object::New(env);
    o.Set("device", device);
    if (!note.empty()) o.Set("note", note);
    return o;
  });
}

Napi::Value plan(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!info[1].IsObject()) throw Error("E_ARGUMENT", "options must be an object");
    const auto options = info[1].As<Napi::Object>();
    const int64_t page_size = integer_field(options, "pageSize"), free_bytes = integer_field(options, "freeBytes");
    if (page_size < 1 || page_size > 128) throw Error("E_PAGE_SIZE", "page_size must be a power of two from 1 to 128");
    return to_js(env, plan_gpu_memory(model_spec(info[0]), static_cast<int>(page_size), free_bytes));
  });
}

Napi::Value create_job(const Napi::CallbackInfo& info) { return Instance::of(info.Env()).job.New({}); }

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* instance = new Instance;
  instance->job = Napi::Persistent(Job::define(env));
  instance->model = Napi::Persistent(Model::define(env));
  instance->sequence = Napi::Persistent(Sequence::define(env));
  instance->kernel_bench = Napi::Persistent(KernelBenchObject::define(env));
  instance->quantizer = Napi::Persistent(Quantizer::define(env));
  env.SetInstanceData(instance);
  exports.Set("version", QUEST_VERSION);
  exports.Set("cpuInfo", Napi::Function::New(env, cpu_info));
  exports.Set("gpus", Napi::Function::New(env, gpus));
  exports.Set("chooseDevice", Napi::Function::New(env, choose));
  exports.Set("planGpuMemory", Napi::Function::New(env, plan));
  exports.Set("createJob", Napi::Function::New(env, create_job));
  exports.Set("createKernelBench", Napi::Function::New(env, KernelBenchObject::create));
  exports.Set("createQuantizer", Napi::Function::New(env, Quantizer::create));
  exports.Set("loadModel", Napi::Function::New(env, Model::load));
  return exports;
}

}  // namespace

}  // namespace quest::addon

static Napi::Object init_quest(Napi::Env env, Napi::Object exports) { return quest::addon::init(env, exports); }

NODE_API_MODULE(quest, init_quest)
