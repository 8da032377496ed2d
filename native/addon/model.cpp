#include "addon/model.h"

#include <utility>

#include "addon/convert.h"
#include "addon/instance.h"
#include "addon/job.h"
#include "addon/sequence.h"

namespace quest::addon {

namespace {

// A feed request with the ids it points to and the branch it keeps alive.
struct OwnedRequest {
  std::shared_ptr<Branch> branch;
  std::vector<int32_t> ids, targets;
  Logits logits = Logits::none;
  bool pages = false;
  int64_t recall_top = 0;
};

Logits logits_wanted(const std::string& name) {
  if (name == "none") return Logits::none;
  if (name == "last") return Logits::last;
  if (name == "all") return Logits::all;
  throw Error("E_ARGUMENT", "logits is \"" + name + "\", wanted none, last or all");
}

OwnedRequest owned_request(const Napi::Value& value, const Executor* executor) {
  if (!value.IsObject()) throw Error("E_ARGUMENT", "a feed must be an object");
  const auto o = value.As<Napi::Object>();
  const Sequence* s = Sequence::from(o.Get("sequence"));
  OwnedRequest r;
  r.branch = s->branch();
  if (s->executor().get() != executor) throw Error("E_ARGUMENT", "the sequence belongs to another model");
  r.ids = int32_array(o.Get("ids"), "ids");
  r.logits = logits_wanted(string_field(o, "logits"));
  r.pages = bool_field(o, "pages");
  r.recall_top = integer_field(o, "recallTop", 0);
  if (r.recall_top < 0) throw Error("E_ARGUMENT", "recallTop is " + std::to_string(r.recall_top) + ", wanted 0 or more");
  if (!o.Get("targets").IsUndefined()) r.targets = int32_array(o.Get("targets"), "targets");
  return r;
}

Napi::Value result_to_js(Napi::Env env, const FeedRequest& r) {
  Napi::Object o = Napi::Object::New(env);
  if (r.logits != Logits::none) o.Set("logits", to_js(env, r.logits_out));
  if (!r.targets.empty()) o.Set("nll", to_js(env, r.nll_out));
  if (r.recall_top > 0) o.Set("recall", to_js(env, r.recall_out));
  if (r.pages) {
    o.Set("pages", to_js(env, r.pages_out));
    o.Set("pagesWidth", static_cast<double>(r.pages_width));
  }
  return o;
}

}  // namespace

Napi::Function Model::define(Napi::Env env) {
  return DefineClass(env, "NativeModel",
                     {InstanceAccessor<&Model::info>("info"), InstanceMethod<&Model::create_sequence>("createSequence"),
                      InstanceMethod<&Model::feed>("feed"), InstanceMethod<&Model::generate>("generate"),
                      InstanceMethod<&Model::dispose>("dispose")});
}

Napi::Value Model::load(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Job* job = Job::from(info[0]);
    auto spec = model_spec(info[1]);
    if (!info[2].IsObject()) throw Error("E_ARGUMENT", "options must be an object");
    const auto options = info[2].As<Napi::Object>();
    const std::string device = string_field(options, "device");
    const int64_t threads = integer_field(options, "threads");
    if (threads < 0 || threads > 1024) throw Error("E_ARGUMENT", "threads is " + std::to_string(threads) + ", wanted 0 to 1024");
    auto loaded = std::make_shared<std::shared_ptr<Executor>>();
    return start(info.Env(), *job, {}, {}, [&](auto) {
      return Task{[=, spec = std::move(spec)](const JobControl&) { *loaded = make_executor(spec, device, static_cast<int>(threads)); },
                  [loaded](Napi::Env env) -> Napi::Value {
                    const Napi::Object object = Instance::of(env).model.New({});
                    Unwrap(object)->executor_ = std::move(*loaded);
                    return object;
                  }};
    });
  });
}

const std::shared_ptr<Executor>& Model::executor() const {
  if (!executor_) throw Error("E_DISPOSED", "this model has been disposed");
  return executor_;
}

Napi::Value Model::info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return to_js(info.Env(), executor()->info()); });
}

Napi::Value Model::create_sequence(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsNumber()) throw Error("E_ARGUMENT", "page size must be a number");
    const double size = info[0].As<Napi::Number>().DoubleValue();
    if (!(size >= 1 && size <= 128)) throw Error("E_PAGE_SIZE", "page_size must be a power of two from 1 to 128");
    return Sequence::wrap(info.Env(), executor(), executor()->create(static_cast<int>(size)));
  });
}

Napi::Value Model::feed(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Job* job = Job::from(info[0]);
    if (!info[1].IsArray()) throw Error("E_ARGUMENT", "feeds must be an array");
    const auto list = info[1].As<Napi::Array>();
    auto owned = std::make_shared<std::vector<OwnedRequest>>();
    for (uint32_t i = 0; i < list.Length(); ++i) owned->push_back(owned_request(list.Get(i), executor().get()));
    auto requests = std::make_shared<std::vector<FeedRequest>>();
    for (OwnedRequest& r : *owned) {
      FeedRequest request;
      request.branch = r.branch.get();
      request.ids = r.ids;
      request.logits = r.logits;
      request.targets = r.targets;
      request.pages = r.pages;
      request.recall_top = r.recall_top;
      requests->push_back(std::move(request));
    }
    return start(info.Env(), *job, function_argument(info[2], "progress"), {}, [&](auto) {
      return Task{[executor = executor(), owned, requests](const JobControl& control) { executor->feed(*requests, control); },
                  [owned, requests](Napi::Env env) -> Napi::Value {
                    auto results = Napi::Array::New(env, requests->size());
                    for (uint32_t i = 0; i < requests->size(); ++i) results.Set(i, result_to_js(env, (*requests)[i]));
                    return results;
                  }};
    });
  });
}

Napi::Value Model::generate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Job* job = Job::from(info[0]);
    if (!info[1].IsArray()) throw Error("E_ARGUMENT", "sequences must be an array");
    const auto list = info[1].As<Napi::Array>();
    std::vector<std::shared_ptr<Branch>> branches;
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Sequence* s = Sequence::from(list.Get(i));
      branches.push_back(s->branch());
      if (s->executor() != executor()) throw Error("E_ARGUMENT", "a sequence belongs to another model");
      for (uint32_t j = 0; j < i; ++j) {
        if (branches[j] == branches[i]) throw Error("E_ARGUMENT", "a sequence is listed twice");
      }
    }
    auto options = generate_options(info[2]);
    auto out = std::make_shared<std::vector<std::vector<int32_t>>>();
    return start(info.Env(), *job, {}, function_argument(info[3], "onToken"), [&](auto post) {
      return Task{[executor = executor(), branches = std::move(branches), options, out, post](const JobControl& control) {
                    std::vector<Branch*> raw;
                    for (const auto& b : branches) raw.push_back(b.get());
                    *out = executor->generate(raw, options, post, control);
                  },
                  [out](Napi::Env env) -> Napi::Value {
                    auto lists = Napi::Array::New(env, out->size());
                    for (uint32_t i = 0; i < out->size(); ++i) lists.Set(i, to_js(env, (*out)[i]));
                    return lists;
                  }};
    });
  });
}

void Model::dispose(const Napi::CallbackInfo&) { executor_.reset(); }

}  // namespace quest::addon
