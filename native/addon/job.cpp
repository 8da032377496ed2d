#include "addon/job.h"

#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "addon/instance.h"

namespace quest::addon {

Napi::Function Job::define(Napi::Env env) {
  return DefineClass(env, "NativeJob", {InstanceMethod<&Job::cancel>("cancel")});
}

Job* Job::from(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(Instance::of(value.Env()).job.Value())) {
    throw Error("E_ARGUMENT", "job must be a NativeJob");
  }
  return Unwrap(value.As<Napi::Object>());
}

void Job::cancel(const Napi::CallbackInfo&) { control->cancelled = true; }

Napi::Error to_js(Napi::Env env, const std::exception& error) {
  Napi::Error js = Napi::Error::New(env, error.what());
  if (const auto* e = dynamic_cast<const Error*>(&error)) {
    js.Set("code", Napi::String::New(env, e->code));
    if (!e->hint.empty()) js.Set("hint", Napi::String::New(env, e->hint));
  } else if (dynamic_cast<const std::bad_alloc*>(&error)) {
    js = Napi::Error::New(env, "the system has no more memory");
    js.Set("code", Napi::String::New(env, "E_MEMORY"));
  } else {
    js.Set("code", Napi::String::New(env, "E_NATIVE"));
  }
  return js;
}

namespace {

// One running job. Lives until its thread-safe function is finalized on the event loop.
struct Running {
  Napi::Promise::Deferred deferred;
  Napi::FunctionReference progress, tokens;
  Napi::ThreadSafeFunction call;
  std::shared_ptr<JobControl> control;
  Task task;
  std::thread thread;
  std::exception_ptr failure;

  std::mutex mutex;  // guards what follows
  bool queued = false;
  bool has_progress = false;
  int64_t done = 0, total = 0;
  std::vector<std::pair<int64_t, int32_t>> posted;

  explicit Running(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}

  // Called from the working thread; update runs under the lock. One call at a time is queued on the event loop.
  template <typename Update>
  void notify(Update&& update) {
    {
      std::lock_guard lock(mutex);
      update();
      if (queued) return;
      queued = true;
    }
    call.NonBlockingCall([this](Napi::Env env, Napi::Function) { deliver_notes(env); });
  }

  void deliver_notes(Napi::Env env) {
    std::vector<std::pair<int64_t, int32_t>> taken;
    bool report = false;
    int64_t at = 0, of = 0;
    {
      std::lock_guard lock(mutex);
      queued = false;
      taken.swap(posted);
      report = std::exchange(has_progress, false);
      at = done;
      of = total;
    }
    Napi::HandleScope scope(env);
    for (const auto& [index, id] : taken) {
      tokens.Call({Napi::Number::New(env, static_cast<double>(index)), Napi::Number::New(env, id)});
    }
    if (report) {
      progress.Call({Napi::Number::New(env, static_cast<double>(at)), Napi::Number::New(env, static_cast<double>(of))});
    }
  }

  void settle(Napi::Env env) {
    Napi::HandleScope scope(env);
    try {
      if (failure) std::rethrow_exception(failure);
      deferred.Resolve(task.deliver(env));
    } catch (const Napi::Error& e) {
      deferred.Reject(e.Value());
    } catch (const std::exception& e) {
      deferred.Reject(to_js(env, e).Value());
    }
  }
};

}  // namespace

Napi::Promise start(Napi::Env env, const Job& job, const Napi::Function& progress, const Napi::Function& tokens,
                    const std::function<Task(std::function<void(int64_t, int32_t)> post_token)>& make) {
  auto* running = new Running(env);
  const Napi::Promise promise = running->deferred.Promise();
  try {
    running->task = make([running](int64_t index, int32_t id) {
      running->notify([&] { running->posted.emplace_back(index, id); });
    });
  } catch (...) {
    delete running;
    throw;
  }
  running->control = job.control;
  if (!progress.IsEmpty()) running->progress = Napi::Persistent(progress);
  if (!tokens.IsEmpty()) running->tokens = Napi::Persistent(tokens);
  if (!progress.IsEmpty()) {
    running->control->progress = [running](int64_t done, int64_t total) {
      running->notify([&] {
        running->has_progress = true;
        running->done = done;
        running->total = total;
      });
    };
  }
  // The finalizer also runs when the environment ends first; then the job is told to stop before it is joined.
  running->call = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "quest job", 0, 1,
                                                [running](Napi::Env) {
                                                  running->control->cancelled = true;
                                                  if (running->thread.joinable()) running->thread.join();
                                                  delete running;
                                                });
  const auto body = [running] {
    try {
      running->control->check();
      running->task.work(*running->control);
    } catch (...) {
      running->failure = std::current_exception();
    }
    running->control->progress = nullptr;
    running->call.NonBlockingCall([running](Napi::Env e, Napi::Function) { running->settle(e); });
    running->call.Release();
  };
  try {
    running->thread = std::thread(body);
  } catch (const std::system_error& e) {
    // The finalizer deletes the job once its function is released.
    running->call.Release();
    throw Error("E_THREADS", std::string("the system gave no thread for a job: ") + e.what());
  }
  return promise;
}

}  // namespace quest::addon
