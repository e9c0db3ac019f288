// In place of cuda.cpp where the feature `cuda` is off: everything says so.
#define USE_C10D_GLOO 1

#include "internal.h"

namespace {

void absent() {
  record(GRAFT_BACKEND, "this build has no NCCL and no CUDA: build graft-torch with the feature `cuda`");
}

} // namespace

extern "C" {

graft_group* graft_group_nccl(graft_store*, int, int, int64_t, const char*) {
  absent();
  return nullptr;
}
int graft_has_nccl(void) {
  return 0;
}
int graft_set_cuda_device(int) {
  absent();
  return -1;
}
graft_graph* graft_graph_begin(void) {
  absent();
  return nullptr;
}
int graft_graph_end(graft_graph*) {
  absent();
  return -1;
}
int graft_graph_replay(graft_graph*) {
  absent();
  return -1;
}
void graft_graph_free(graft_graph*) {}

} // extern "C"
