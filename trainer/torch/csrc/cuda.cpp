// NCCL and CUDA graphs: what needs the headers of CUDA. Without the feature `cuda`, without_cuda.cpp takes its place.
#define USE_C10D_GLOO 1
#define USE_C10D_NCCL 1
#define USE_CUDA 1

#include "internal.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

struct graft_graph {
  at::cuda::CUDAGraph graph;
};

extern "C" {

graft_group* graft_group_nccl(graft_store* s, int rank, int world, int64_t timeout_ms, const char* interface_name) {
  return guarded(
      [&]() -> graft_group* {
        using Nccl = c10d::ProcessGroupNCCL;
        auto options = Nccl::Options::create();
        options->timeout = Milliseconds(timeout_ms);
        auto nccl_store = make_intrusive<c10d::PrefixStore>("nccl", s->store);
        auto g = std::make_unique<graft_group>(graft_group{make_intrusive<ProcessGroup>(s->store, rank, world)});
        g->group->setDefaultBackend(ProcessGroup::BackendType::NCCL);
        g->group->setBackend(c10::DeviceType::CUDA, ProcessGroup::BackendType::NCCL,
                             make_intrusive<Nccl>(nccl_store, rank, world, options));
        add_gloo(*g, make_intrusive<c10d::PrefixStore>("gloo", s->store), timeout_ms, interface_name);
        return g.release();
      },
      nullptr);
}
int graft_has_nccl(void) {
  return 1;
}
int graft_set_cuda_device(int index) {
  return guarded_status([&] { c10::cuda::set_device(static_cast<c10::DeviceIndex>(index)); });
}

graft_graph* graft_graph_begin(void) {
  return guarded(
      [&]() -> graft_graph* {
        auto g = std::make_unique<graft_graph>();
        // NCCL's watchdog may ask for its events meanwhile.
        g->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
        return g.release();
      },
      nullptr);
}
int graft_graph_end(graft_graph* g) {
  return guarded_status([&] { g->graph.capture_end(); });
}
int graft_graph_replay(graft_graph* g) {
  return guarded_status([&] { g->graph.replay(); });
}
void graft_graph_free(graft_graph* g) {
  guarded_status([&] { delete g; });
}

} // extern "C"
