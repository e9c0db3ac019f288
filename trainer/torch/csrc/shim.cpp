// The C++ behind shim.h: errors, and what ranks say to each other; tensors.cpp has what one rank does alone. It is compiled
// against libtorch 2.11 and against nothing else: what it takes for granted of the layout of c10d's classes is asserted
// below. No exception leaves it and it keeps no state but the last error of a thread.
#define USE_C10D_GLOO 1

#include "internal.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <ATen/ops/ones.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <typeinfo>
#include <unordered_map>
#include <vector>

static_assert(TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11, "graft-torch is written for libtorch 2.11");
// The gloo stubs must not change the layout of what is allocated here: these are the sizes with gloo's own headers.
static_assert(sizeof(c10d::ProcessGroupGloo) == 488, "ProcessGroupGloo: the gloo stubs do not fit this libtorch");
static_assert(sizeof(c10d::ProcessGroupGloo::Options) == 176, "Gloo Options: the gloo stubs do not fit this libtorch");

struct graft_reducer {
  std::shared_ptr<c10d::Reducer> reducer;
  std::shared_ptr<c10d::Logger> logger;
};

namespace {

thread_local std::string last_error;
thread_local int last_kind = 0;

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// c10d reports a timeout as whatever error its wait happened to be in; only the text tells.
bool tells_of_timeout(const std::string& text) {
  return contains(text, "Timed out") || contains(text, "timed out") || contains(text, "wait timeout") ||
      contains(text, "Timeout at");
}

c10d::ReduceOp reduce_op(int op) {
  switch (op) {
    case GRAFT_SUM:
      return c10d::ReduceOp::SUM;
    case GRAFT_AVG:
      return c10d::ReduceOp::AVG;
    case GRAFT_MAX:
      return c10d::ReduceOp::MAX;
    case GRAFT_MIN:
      return c10d::ReduceOp::MIN;
  }
  TORCH_CHECK(false, "unknown reduction ", op);
}

// The sum over all ranks. What a rank's value does to the losses of all ranks is its gradient, so that travels likewise.
struct SumOverRanks : torch::autograd::Function<SumOverRanks> {
  static Tensor summed(const Tensor& x, const intrusive_ptr<ProcessGroup>& group) {
    std::vector<Tensor> list{x.contiguous().clone()};
    group->allreduce(list)->wait();
    return list[0];
  }
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const intrusive_ptr<ProcessGroup>& group) {
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    return summed(x, group);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    auto group = c10::static_intrusive_pointer_cast<ProcessGroup>(context->saved_data["group"].toCapsule());
    return {summed(gradients[0], group), Tensor()};
  }
};

// Copies in pieces that torch does not share among threads. Gloo's threads do what follows a collective, and one that has once worked
// with threads of its own makes OpenMP count more threads than there are processors: from then on the threads of every operation sleep
// in the kernel between two of them instead of waiting awake, which cost a twelfth of a training step of ResNet-18.
void copy_alone(const Tensor& to, const Tensor& from) {
  if (!to.is_cpu()) {
    to.copy_(from);
    return;
  }
  for (int64_t start = 0; start < to.numel(); start += at::internal::GRAIN_SIZE) {
    auto count = std::min<int64_t>(at::internal::GRAIN_SIZE, to.numel() - start);
    to.view(-1).narrow(0, start, count).copy_(from.view(-1).narrow(0, start, count));
  }
}

// Gradients travel as bfloat16, half as many bytes; each rank adds up the same rounded ones. As torch's bf16_compress_hook,
// which is Python.
class Bf16Hook : public c10d::CppCommHookInterface<intrusive_ptr<ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    Tensor whole = bucket.getBufferRef();
    std::vector<Tensor> half{whole.to(at::kBFloat16).div_(state_->getSize())};
    auto sent = state_->allreduce(half)->getFuture();
    auto widen = [whole](c10::ivalue::Future& arrived) {
      copy_alone(whole, arrived.value().toTensorVector()[0]);
      return c10::IValue(whole);
    };
    return sent->then(widen, sent->elementType());
  }
};

} // namespace

void record(int kind, std::string text) {
  last_kind = tells_of_timeout(text) ? GRAFT_TIMEOUT : kind;
  last_error = std::move(text);
}

void record_exception() noexcept {
  try {
    throw;
  } catch (const c10::DistNetworkError& e) {
    record(GRAFT_NETWORK, e.what_without_backtrace());
  } catch (const c10::DistStoreError& e) {
    record(GRAFT_STORE, e.what_without_backtrace());
  } catch (const c10::DistError& e) {
    record(GRAFT_BACKEND, e.what_without_backtrace());
  } catch (const c10::Error& e) {
    record(GRAFT_TORCH, e.what_without_backtrace());
  } catch (const std::exception& e) {
    // Gloo's own exceptions: IoException is a broken connection; the class is not in any header we have.
    bool gloo = contains(typeid(e).name(), "gloo") || contains(e.what(), "gloo/");
    record(gloo ? GRAFT_NETWORK : GRAFT_TORCH, e.what());
  } catch (...) {
    record(GRAFT_TORCH, "a C++ exception of unknown type");
  }
}

void add_gloo(graft_group& g, const intrusive_ptr<c10d::Store>& store, int64_t timeout_ms, const char* interface_name) {
  using Gloo = c10d::ProcessGroupGloo;
  auto options = Gloo::Options::create(Milliseconds(timeout_ms));
  options->devices.push_back(
      interface_name ? Gloo::createDeviceForInterface(interface_name) : Gloo::createDefaultDevice());
  options->threads = 2;
  auto backend = make_intrusive<Gloo>(store, g.group->getRank(), g.group->getSize(), options);
  g.group->setBackend(c10::DeviceType::CPU, ProcessGroup::BackendType::GLOO, backend);
}

extern "C" {

const char* graft_error(void) {
  return last_error.c_str();
}
int graft_error_kind(void) {
  return last_kind;
}

// ---- store ----------------------------------------------------------------------------------------------------------

graft_store* graft_store_serve(int listening, uint16_t port, int64_t timeout_ms) {
  return guarded(
      [&]() -> graft_store* {
        c10d::TCPStoreOptions options;
        options.port = port;
        options.isServer = true;
        options.waitWorkers = false;
        options.timeout = Milliseconds(timeout_ms);
        // Without a socket of ours it would listen to the whole network.
        options.masterListenFd = listening;
        return new graft_store{make_intrusive<c10d::TCPStore>(std::string("127.0.0.1"), options)};
      },
      nullptr);
}
graft_store* graft_store_connect(const char* host, uint16_t port, int64_t timeout_ms) {
  return guarded(
      [&]() -> graft_store* {
        c10d::TCPStoreOptions options;
        options.port = port;
        options.waitWorkers = false;
        options.timeout = Milliseconds(timeout_ms);
        return new graft_store{make_intrusive<c10d::TCPStore>(std::string(host), options)};
      },
      nullptr);
}
graft_store* graft_store_prefix(graft_store* s, const char* prefix) {
  return guarded([&] { return new graft_store{make_intrusive<c10d::PrefixStore>(prefix, s->store)}; }, nullptr);
}
void graft_store_free(graft_store* s) {
  guarded_status([&] { delete s; });
}
int graft_store_port(graft_store* s) {
  return guarded(
      [&] {
        auto* tcp = dynamic_cast<c10d::TCPStore*>(s->store.get());
        TORCH_CHECK(tcp, "only a TCP store has a port, a prefix of one has none");
        return static_cast<int>(tcp->getPort());
      },
      -1);
}
int graft_store_set(graft_store* s, const char* key, const uint8_t* value, size_t size) {
  return guarded_status([&] { s->store->set(key, std::vector<uint8_t>(value, value + size)); });
}
int64_t graft_store_get(graft_store* s, const char* key, uint8_t* value, size_t capacity) {
  return guarded(
      [&] {
        std::vector<uint8_t> found = s->store->get(key);
        if (!found.empty() && capacity > 0) {
          memcpy(value, found.data(), std::min(capacity, found.size()));
        }
        return static_cast<int64_t>(found.size());
      },
      int64_t{-1});
}
int graft_store_add(graft_store* s, const char* key, int64_t amount, int64_t* total) {
  return guarded_status([&] { *total = s->store->add(key, amount); });
}
int graft_store_wait(graft_store* s, const char* key, int64_t timeout_ms) {
  return guarded_status([&] { s->store->wait({key}, Milliseconds(timeout_ms)); });
}
int graft_store_check(graft_store* s, const char* key) {
  return guarded([&] { return s->store->check({key}) ? 1 : 0; }, -1);
}
int graft_store_delete(graft_store* s, const char* key) {
  return guarded([&] { return s->store->deleteKey(key) ? 1 : 0; }, -1);
}

// ---- process groups -------------------------------------------------------------------------------------------------

graft_group* graft_group_gloo(graft_store* s, int rank, int world, int64_t timeout_ms, const char* interface_name) {
  return guarded(
      [&]() -> graft_group* {
        auto g = std::make_unique<graft_group>(graft_group{make_intrusive<ProcessGroup>(s->store, rank, world)});
        g->group->setDefaultBackend(ProcessGroup::BackendType::GLOO);
        add_gloo(*g, s->store, timeout_ms, interface_name);
        return g.release();
      },
      nullptr);
}

void graft_group_free(graft_group* g) {
  guarded_status([&] { delete g; });
}
int graft_group_abort(graft_group* g) {
  return guarded_status([&] { g->group->abort(); });
}
int graft_all_reduce(graft_group* g, graft_tensor t, int op) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    c10d::AllreduceOptions options;
    options.reduceOp = reduce_op(op);
    std::vector<Tensor> list{tensor(t)};
    g->group->allreduce(list, options)->wait();
  });
}
graft_tensor graft_sum_over_ranks(graft_group* g, graft_tensor t) {
  return guarded([&]() -> graft_tensor { return new Tensor(SumOverRanks::apply(tensor(t), g->group)); }, nullptr);
}
int graft_broadcast(graft_group* g, graft_tensor t, int root) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    c10d::BroadcastOptions options;
    options.rootRank = root;
    std::vector<Tensor> list{tensor(t)};
    g->group->broadcast(list, options)->wait();
  });
}
int graft_all_gather(graft_group* g, graft_tensor input, const graft_tensor* outputs, int world) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    std::vector<std::vector<Tensor>> out{tensors(outputs, world)};
    std::vector<Tensor> in{tensor(input)};
    if (!in[0].is_cpu()) {
      g->group->allgather(out, in)->wait();
      return;
    }
    // Gloo's all-gather copies in its own thread, see `copy_alone`; a broadcast writes into the tensor itself.
    out[0][g->group->getRank()].copy_(in[0]);
    for (int root = 0; root < world; ++root) {
      c10d::BroadcastOptions options;
      options.rootRank = root;
      std::vector<Tensor> list{out[0][root]};
      g->group->broadcast(list, options)->wait();
    }
  });
}
int graft_broadcast_coalesced(graft_group* g, const graft_tensor* list, int count, int root) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> detached;
    for (auto& t : tensors(list, count)) {
      detached.push_back(t.detach());
    }
    constexpr size_t buffer_bytes = size_t{250} << 20; // as torch's DistributedDataParallel
    c10d::broadcast_coalesced(g->group, detached, buffer_bytes, root);
  });
}
int graft_barrier(graft_group* g) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> one{at::ones({1})};
    g->group->allreduce(one)->wait();
  });
}

// ---- reducer --------------------------------------------------------------------------------------------------------

graft_reducer* graft_reducer_new(graft_group* g, const graft_tensor* parameters, const char* const* names, int count,
                                 int64_t bucket_bytes, int64_t first_bucket_bytes, int find_unused, int bucket_views,
                                 int bfloat16) {
  return guarded(
      [&]() -> graft_reducer* {
        std::vector<Tensor> params = tensors(parameters, count);
        std::unordered_map<size_t, std::string> named;
        for (int i = 0; i < count; i++) {
          named[i] = names[i];
        }
        c10d::verify_params_across_processes(g->group, params, std::nullopt);
        std::vector<bool> sparse(count, false);
        // As DistributedDataParallel: one bucket in the first step, unless the buckets are never rebuilt.
        std::vector<size_t> limits{static_cast<size_t>(std::numeric_limits<int64_t>::max())};
        if (find_unused) {
          limits = {static_cast<size_t>(first_bucket_bytes), static_cast<size_t>(bucket_bytes)};
        }
        auto assignment = c10d::compute_bucket_assignment_by_size(params, limits, sparse);
        auto& buckets = std::get<0>(assignment);
        std::reverse(buckets.begin(), buckets.end());
        auto reducer = std::make_shared<c10d::Reducer>(
            params, buckets, g->group, sparse, bucket_bytes, find_unused != 0, bucket_views != 0, named,
            first_bucket_bytes, /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
            std::vector<int64_t>{});
        if (bfloat16) {
          reducer->register_comm_hook(std::make_unique<Bf16Hook>(g->group));
        }
        auto logger = std::make_shared<c10d::Logger>(reducer);
        reducer->set_logger(logger);
        logger->set_construction_data_and_log("graft", {}, -1, false, false, false);
        return new graft_reducer{reducer, logger};
      },
      nullptr);
}
void graft_reducer_free(graft_reducer* r) {
  guarded_status([&] {
    std::unique_ptr<graft_reducer> owned(r);
    owned->reducer->remove_autograd_hooks();
  });
}
int graft_reducer_begin(graft_reducer* r) {
  return guarded(
      [&] {
        r->logger->set_runtime_stats_and_log();
        r->reducer->prepare_for_forward();
        return r->reducer->rebuild_buckets() ? 1 : 0;
      },
      -1);
}
int graft_reducer_prepare_backward(graft_reducer* r, const graft_tensor* outputs, int count) {
  return guarded_status([&] { r->reducer->prepare_for_backward(tensors(outputs, count)); });
}
int graft_reducer_finish(graft_reducer* r) {
  return guarded_status([&] { r->reducer->check_finalized(); });
}
int64_t graft_reducer_stats(graft_reducer* r, char* text, size_t capacity) {
  return guarded(
      [&] {
        auto data = r->logger->get_ddp_logging_data();
        std::string all;
        for (const auto& [key, value] : data.ints_map) {
          all += key + "=" + std::to_string(value) + "\n";
        }
        for (const auto& [key, value] : data.strs_map) {
          all += key + "=" + value + "\n";
        }
        memcpy(text, all.data(), std::min(capacity, all.size()));
        return static_cast<int64_t>(all.size());
      },
      int64_t{-1});
}

} // extern "C"
