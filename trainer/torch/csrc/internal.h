// What the units of the shim share: the types behind the handles, and the guard that no exception passes.
#pragma once
#include "shim.h"

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <ATen/core/Tensor.h>

#include <chrono>
#include <string>
#include <vector>

using at::Tensor;
using c10::intrusive_ptr;
using c10::make_intrusive;
using c10d::ProcessGroup;
using Milliseconds = std::chrono::milliseconds;

struct graft_store {
  intrusive_ptr<c10d::Store> store;
};
struct graft_group {
  intrusive_ptr<ProcessGroup> group;
};

// Record the exception that is being handled as this thread's last error.
void record_exception() noexcept;
void record(int kind, std::string text);

template <class F>
auto guarded(F&& body, decltype(body()) failed) noexcept -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    record_exception();
  }
  return failed;
}

template <class F>
int guarded_status(F&& body) noexcept {
  return guarded(
      [&] {
        body();
        return 0;
      },
      -1);
}

inline Tensor& tensor(graft_tensor t) {
  return *static_cast<Tensor*>(t);
}

inline std::vector<Tensor> tensors(const graft_tensor* list, int count) {
  std::vector<Tensor> out;
  out.reserve(count);
  for (int i = 0; i < count; i++) {
    out.push_back(tensor(list[i]));
  }
  return out;
}

// Gloo beside what the group has, for tensors on the CPU.
void add_gloo(graft_group& g, const intrusive_ptr<c10d::Store>& store, int64_t timeout_ms, const char* interface_name);
