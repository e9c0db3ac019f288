// C face of the parts of libtorch that tch leaves out: c10d's store, process groups and gradient reducer, fused
// optimizer steps, memory formats, autocast. Every function catches every C++ exception: on failure it returns null or
// a negative number, and graft_error() gives the text, graft_error_kind() the kind, both for the calling thread.
// A `graft_tensor` is the at::Tensor* that tch::Tensor::as_ptr() gives; no function here takes one over.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void* graft_tensor;
typedef struct graft_store graft_store;
typedef struct graft_group graft_group;
typedef struct graft_reducer graft_reducer;
typedef struct graft_later graft_later;
typedef struct graft_graph graft_graph;

enum { GRAFT_TORCH = 1, GRAFT_NETWORK = 2, GRAFT_STORE = 3, GRAFT_BACKEND = 4, GRAFT_TIMEOUT = 5 };
enum { GRAFT_SUM = 0, GRAFT_AVG = 1, GRAFT_MAX = 2, GRAFT_MIN = 3 };
enum { GRAFT_CPU = 0, GRAFT_CUDA_DEVICE = 1 };

const char* graft_error(void);
int graft_error_kind(void);

// Store. Sizes are bytes, times are milliseconds. `graft_store_get` returns the value's full size, of which at most
// `capacity` bytes were copied. `listening` is a socket of 127.0.0.1 at `port`, which the store takes over.
graft_store* graft_store_serve(int listening, uint16_t port, int64_t timeout_ms);
graft_store* graft_store_connect(const char* host, uint16_t port, int64_t timeout_ms);
graft_store* graft_store_prefix(graft_store*, const char* prefix);
void graft_store_free(graft_store*);
int graft_store_port(graft_store*);
int graft_store_set(graft_store*, const char* key, const uint8_t* value, size_t size);
int64_t graft_store_get(graft_store*, const char* key, uint8_t* value, size_t capacity);
int graft_store_add(graft_store*, const char* key, int64_t amount, int64_t* total);
int graft_store_wait(graft_store*, const char* key, int64_t timeout_ms);
int graft_store_check(graft_store*, const char* key);
int graft_store_delete(graft_store*, const char* key);

// Process groups. `interface_name` null: the interface that the host's own name resolves to.
graft_group* graft_group_gloo(graft_store*, int rank, int world, int64_t timeout_ms, const char* interface_name);
graft_group* graft_group_nccl(graft_store*, int rank, int world, int64_t timeout_ms, const char* interface_name);
int graft_has_nccl(void);
void graft_group_free(graft_group*);
int graft_group_abort(graft_group*);
int graft_all_reduce(graft_group*, graft_tensor, int op);
graft_tensor graft_sum_over_ranks(graft_group*, graft_tensor); // gradients flow through it
int graft_broadcast(graft_group*, graft_tensor, int root);
int graft_all_gather(graft_group*, graft_tensor input, const graft_tensor* outputs, int world);
int graft_broadcast_coalesced(graft_group*, const graft_tensor*, int count, int root);
int graft_barrier(graft_group*);

// DDP's reducer. `outputs` of prepare_backward are read only where unused parameters are searched for.
graft_reducer* graft_reducer_new(graft_group*, const graft_tensor* parameters, const char* const* names, int count,
                                 int64_t bucket_bytes, int64_t first_bucket_bytes, int find_unused, int bucket_views,
                                 int bfloat16);
void graft_reducer_free(graft_reducer*);
int graft_reducer_begin(graft_reducer*);
int graft_reducer_prepare_backward(graft_reducer*, const graft_tensor* outputs, int count);
int graft_reducer_finish(graft_reducer*);
int64_t graft_reducer_stats(graft_reducer*, char* text, size_t capacity);

// Gradients and fused optimizer steps. All lists of one call have `count` entries; `steps` are float scalars that the
// call adds one to. Null `momenta` means SGD without momentum. A float scalar `lr_there` beside the parameters on a GPU
// takes the place of `lr`; where a float scalar `skip` is there and 1, the step does nothing.
int graft_zero_grads(const graft_tensor* parameters, int count, int to_none);
int graft_fused_adam(int decoupled, const graft_tensor* parameters, const graft_tensor* gradients,
                     const graft_tensor* first_moments, const graft_tensor* second_moments, const graft_tensor* steps,
                     int count, double lr, double beta1, double beta2, double weight_decay, double eps,
                     graft_tensor lr_there, graft_tensor skip);
int graft_fused_sgd(const graft_tensor* parameters, const graft_tensor* gradients, const graft_tensor* momenta,
                    int count, double lr, double momentum, double weight_decay, int nesterov, int first_step,
                    graft_tensor lr_there, graft_tensor skip);
// Loss scaling. `not_finite` becomes 1 if a gradient is not finite; then the scale is divided by `factor`, and after
// `every` steps in a row without that it is multiplied by it.
int graft_unscale(const graft_tensor* gradients, int count, graft_tensor inverse_scale, graft_tensor not_finite);
int graft_update_scale(graft_tensor scale, graft_tensor growth, graft_tensor not_finite, double factor, int64_t every);

// From and to a device without waiting for it. `graft_upload` copies on a stream of its own, which the thread's current
// stream waits for. `graft_later` is a scalar on its way to the CPU.
graft_tensor graft_bytes(int64_t count, int pinned);
void* graft_data(graft_tensor);
graft_tensor graft_upload(graft_tensor host, int index);
graft_later* graft_later_new(graft_tensor scalar);
void graft_later_free(graft_later*);
int graft_later_wait(graft_later*, double* value);

// CUDA graphs. What this thread gives its current stream between begin and end is recorded, not run; the default
// stream cannot be recorded, so leave it first.
int graft_leave_default_stream(int index);
graft_graph* graft_graph_begin(void);
int graft_graph_end(graft_graph*);
int graft_graph_replay(graft_graph*);
void graft_graph_free(graft_graph*);

// A GPU's memory in bytes: what tensors had of it at most since the last call, what is free, and all of it. Memory that is
// kept for later tensors is given back first.
int graft_device_memory(int index, int64_t* peak, int64_t* free, int64_t* total);

// Memory format, autocast and process-wide settings.
graft_tensor graft_to_channels_last(graft_tensor);
int graft_set_channels_last(graft_tensor);
int graft_is_channels_last(graft_tensor);
int graft_autocast_enter(int device, int bfloat16, int* was_enabled, int* was_type);
int graft_autocast_leave(int device, int was_enabled, int was_type);
int graft_set_threads(int intra_op, int inter_op);
int graft_set_deterministic(int on);
int graft_set_tf32(int on);
int graft_set_log_level(int level);
int graft_set_cuda_device(int index);

#ifdef __cplusplus
}
#endif
