// Long work on its own thread, with a promise, coalesced callbacks and cancellation.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>

#include "core/job.h"

namespace quest::addon {

// The JavaScript object that cancels a job.
class Job : public Napi::ObjectWrap<Job> {
 public:
  static Napi::Function define(Napi::Env env);
  static Job* from(const Napi::Value& value);  // throws Error E_ARGUMENT for anything else
  explicit Job(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Job>(info), control(std::make_shared<JobControl>()) {}

  std::shared_ptr<JobControl> control;

 private:
  void cancel(const Napi::CallbackInfo& info);
};

// What runs on the thread, and what turns its result into a JavaScript value on the event loop afterwards.
struct Task {
  std::function<void(const JobControl& job)> work;
  std::function<Napi::Value(Napi::Env env)> deliver;
};


// Starts a task. `progress` is called with (done, total). `make` receives a function that posts (index, id) pairs to
// `tokens`, when that is given. Must be called on the event loop; returns the promise.
Napi::Promise start(Napi::Env env, const Job& job, const Napi::Function& progress, const Napi::Function& tokens,
                    const std::function<Task(std::function<void(int64_t, int32_t)> post_token)>& make);

// Turns a native error into a JavaScript one with `code` and `hint`.
Napi::Error to_js(Napi::Env env, const std::exception& error);

// Runs f on the event loop's thread; native exceptions become JavaScript ones.
template <typename F>
auto guarded(Napi::Env env, F&& f) {
  try {
    return f();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& e) {
    throw to_js(env, e);
  }
}

}  // namespace quest::addon
