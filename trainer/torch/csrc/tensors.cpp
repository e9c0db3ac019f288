// Gradients and optimizer steps, ways from and to a device, memory formats, autocast and process-wide settings: what one
// rank does alone. It keeps no state but a thread's stream for copies.
#define USE_C10D_GLOO 1

#include "internal.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Logging.h>

#include <optional>

struct graft_later {
  Tensor host;
  std::optional<c10::Event> copied;
};

namespace {

at::DeviceType device_type(int device) {
  return device == GRAFT_CUDA_DEVICE ? at::kCUDA : at::kCPU;
}

} // namespace

extern "C" {

// ---- gradients and optimizer steps ----------------------------------------------------------------------------------

int graft_zero_grads(const graft_tensor* parameters, int count, int to_none) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> zeroed;
    for (int i = 0; i < count; i++) {
      Tensor& gradient = tensor(parameters[i]).mutable_grad();
      if (!gradient.defined()) {
        continue;
      }
      if (to_none) {
        gradient.reset();
      } else {
        zeroed.push_back(gradient);
      }
    }
    if (!zeroed.empty()) {
      at::_foreach_zero_(zeroed);
    }
  });
}
int graft_fused_adam(int decoupled, const graft_tensor* parameters, const graft_tensor* gradients,
                     const graft_tensor* first_moments, const graft_tensor* second_moments, const graft_tensor* steps,
                     int count, double lr, double beta1, double beta2, double weight_decay, double eps,
                     graft_tensor lr_there, graft_tensor skip) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    auto p = tensors(parameters, count), g = tensors(gradients, count), m = tensors(first_moments, count),
         v = tensors(second_moments, count), s = tensors(steps, count);
    auto skipped = skip ? std::optional<Tensor>(tensor(skip)) : std::nullopt;
    at::_foreach_add_(s, 1);
    auto step = [&](const auto& rate) {
      if (decoupled) {
        at::_fused_adamw_(p, g, m, v, {}, s, rate, beta1, beta2, weight_decay, eps, /*amsgrad=*/false,
                          /*maximize=*/false, std::nullopt, skipped);
      } else {
        at::_fused_adam_(p, g, m, v, {}, s, rate, beta1, beta2, weight_decay, eps, /*amsgrad=*/false,
                         /*maximize=*/false, std::nullopt, skipped);
      }
    };
    if (lr_there) {
      step(tensor(lr_there));
    } else {
      step(lr);
    }
    if (skipped) {
      at::_foreach_sub_(s, std::vector<Tensor>(s.size(), *skipped));
    }
  });
}
int graft_fused_sgd(const graft_tensor* parameters, const graft_tensor* gradients, const graft_tensor* momenta,
                    int count, double lr, double momentum, double weight_decay, int nesterov, int first_step,
                    graft_tensor lr_there, graft_tensor skip) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    auto p = tensors(parameters, count), g = tensors(gradients, count);
    auto m = momenta ? tensors(momenta, count) : std::vector<Tensor>{};
    auto skipped = skip ? std::optional<Tensor>(tensor(skip)) : std::nullopt;
    auto step = [&](const auto& rate) {
      at::_fused_sgd_(p, g, m, weight_decay, momentum, rate, /*dampening=*/0.0, nesterov != 0, /*maximize=*/false,
                      first_step != 0, std::nullopt, skipped);
    };
    if (lr_there) {
      step(tensor(lr_there));
    } else {
      step(lr);
    }
  });
}
int graft_unscale(const graft_tensor* gradients, int count, graft_tensor inverse_scale, graft_tensor not_finite) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    auto g = tensors(gradients, count);
    at::_amp_foreach_non_finite_check_and_unscale_(g, tensor(not_finite), tensor(inverse_scale));
  });
}
int graft_update_scale(graft_tensor scale, graft_tensor growth, graft_tensor not_finite, double factor, int64_t every) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    at::_amp_update_scale_(tensor(scale), tensor(growth), tensor(not_finite), factor, 1.0 / factor, every);
  });
}

// ---- memory of a device ---------------------------------------------------------------------------------------------

int graft_device_memory(int index, int64_t* peak, int64_t* free, int64_t* total) {
  return guarded_status([&] {
    const auto device = static_cast<c10::DeviceIndex>(index);
    auto* allocator = c10::getDeviceAllocator(at::kCUDA);
    *peak = allocator->getDeviceStats(device).allocated_bytes[0].peak;
    allocator->emptyCache();
    allocator->resetPeakStats(device);
    const auto [left, all] = allocator->getMemoryInfo(device);
    *free = static_cast<int64_t>(left);
    *total = static_cast<int64_t>(all);
  });
}

// ---- from and to a device without waiting ---------------------------------------------------------------------------

graft_tensor graft_bytes(int64_t count, int pinned) {
  return guarded(
      [&]() -> graft_tensor {
        return new Tensor(at::empty({count}, at::TensorOptions(at::kByte).pinned_memory(pinned != 0)));
      },
      nullptr);
}
void* graft_data(graft_tensor t) {
  return guarded([&] { return tensor(t).mutable_data_ptr(); }, nullptr);
}
graft_tensor graft_upload(graft_tensor host, int index) {
  return guarded(
      [&]() -> graft_tensor {
        at::NoGradGuard no_grad;
        const c10::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
        const auto* streams = c10::impl::getDeviceGuardImpl(at::kCUDA);
        const c10::Stream main = streams->getStream(device);
        thread_local const c10::Stream side = streams->getStreamFromGlobalPool(device, /*isHighPriority=*/false);
        const Tensor pinned = tensor(host).is_pinned() ? tensor(host) : tensor(host).pin_memory();
        Tensor copy;
        {
          c10::StreamGuard on_side(side);
          copy = pinned.to(device, /*non_blocking=*/true);
        }
        c10::Event copied(at::kCUDA);
        copied.record(side);
        copied.block(main);
        // The allocator must not give its memory away before the main stream is done with it.
        copy.record_stream(main);
        return new Tensor(std::move(copy));
      },
      nullptr);
}
graft_later* graft_later_new(graft_tensor t) {
  return guarded(
      [&]() -> graft_later* {
        at::NoGradGuard no_grad;
        const Tensor& value = tensor(t);
        if (value.device().is_cpu()) {
          return new graft_later{value, std::nullopt};
        }
        Tensor host = at::empty({}, value.options().device(at::kCPU).pinned_memory(true));
        host.copy_(value.detach(), /*non_blocking=*/true);
        c10::Event copied(value.device().type());
        copied.record(c10::impl::getDeviceGuardImpl(value.device().type())->getStream(value.device()));
        return new graft_later{host, std::move(copied)};
      },
      nullptr);
}
void graft_later_free(graft_later* l) {
  guarded_status([&] { delete l; });
}
int graft_later_wait(graft_later* l, double* value) {
  return guarded_status([&] {
    if (l->copied) {
      l->copied->synchronize();
    }
    *value = l->host.item<double>();
  });
}
int graft_leave_default_stream(int index) {
  return guarded_status([&] {
    const auto* streams = c10::impl::getDeviceGuardImpl(at::kCUDA);
    const c10::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
    streams->exchangeStream(streams->getStreamFromGlobalPool(device, /*isHighPriority=*/false));
  });
}

// ---- memory format, autocast, process-wide settings -----------------------------------------------------------------

graft_tensor graft_to_channels_last(graft_tensor t) {
  return guarded(
      [&]() -> graft_tensor { return new Tensor(tensor(t).contiguous(at::MemoryFormat::ChannelsLast)); }, nullptr);
}
int graft_set_channels_last(graft_tensor t) {
  return guarded_status([&] {
    at::NoGradGuard no_grad;
    if (tensor(t).dim() == 4) {
      tensor(t).set_data(tensor(t).contiguous(at::MemoryFormat::ChannelsLast));
    }
  });
}
int graft_is_channels_last(graft_tensor t) {
  return guarded([&] { return tensor(t).is_contiguous(at::MemoryFormat::ChannelsLast) ? 1 : 0; }, -1);
}
int graft_autocast_enter(int device, int bfloat16, int* was_enabled, int* was_type) {
  return guarded_status([&] {
    auto type = device_type(device);
    *was_enabled = at::autocast::is_autocast_enabled(type) ? 1 : 0;
    *was_type = static_cast<int>(at::autocast::get_autocast_dtype(type));
    at::autocast::set_autocast_dtype(type, bfloat16 ? at::kBFloat16 : at::kHalf);
    at::autocast::set_autocast_enabled(type, true);
    at::autocast::increment_nesting();
  });
}
int graft_autocast_leave(int device, int was_enabled, int was_type) {
  return guarded_status([&] {
    auto type = device_type(device);
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    at::autocast::set_autocast_enabled(type, was_enabled != 0);
    at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(was_type));
  });
}
int graft_set_threads(int intra_op, int inter_op) {
  return guarded_status([&] {
    at::set_num_threads(intra_op);
    if (static_cast<int>(at::get_num_interop_threads()) != inter_op) {
      at::set_num_interop_threads(inter_op);
    }
  });
}
int graft_set_deterministic(int on) {
  return guarded_status([&] {
    at::globalContext().setDeterministicAlgorithms(on != 0, /*warn_only=*/false);
    at::globalContext().setDeterministicCuDNN(on != 0);
    // Else every new tensor is first filled with NaN, to show who reads what nobody wrote: a fifth of a training step.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}
int graft_set_tf32(int on) {
  return guarded_status([&] {
    at::globalContext().setAllowTF32CuBLAS(on != 0);
    at::globalContext().setAllowTF32CuDNN(on != 0);
  });
}
int graft_set_log_level(int level) {
  return guarded_status([&] { FLAGS_caffe2_log_level = level; });
}

} // extern "C"
