//! The declarations of `csrc/shim.h`, and the two or three helpers that turn its conventions into Rust's. The only
//! assumption is that the header and this page say the same.

use crate::{Error, ErrorKind, Result};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use tch::Tensor;

/// An `at::Tensor*`.
pub(crate) type TensorPtr = *mut c_void;

#[repr(C)]
pub(crate) struct RawStore {
    _opaque: [u8; 0],
}
#[repr(C)]
pub(crate) struct RawGroup {
    _opaque: [u8; 0],
}
#[repr(C)]
pub(crate) struct RawReducer {
    _opaque: [u8; 0],
}
#[repr(C)]
pub(crate) struct RawLater {
    _opaque: [u8; 0],
}
#[repr(C)]
pub(crate) struct RawGraph {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn graft_error() -> *const c_char;
    fn graft_error_kind() -> c_int;

    pub(crate) fn graft_store_serve(listening: c_int, port: u16, timeout_ms: i64) -> *mut RawStore;
    pub(crate) fn graft_store_connect(host: *const c_char, port: u16, timeout_ms: i64) -> *mut RawStore;
    pub(crate) fn graft_store_prefix(store: *mut RawStore, prefix: *const c_char) -> *mut RawStore;
    pub(crate) fn graft_store_free(store: *mut RawStore);
    pub(crate) fn graft_store_port(store: *mut RawStore) -> c_int;
    pub(crate) fn graft_store_set(store: *mut RawStore, key: *const c_char, value: *const u8, size: usize) -> c_int;
    pub(crate) fn graft_store_get(store: *mut RawStore, key: *const c_char, value: *mut u8, capacity: usize) -> i64;
    pub(crate) fn graft_store_add(store: *mut RawStore, key: *const c_char, amount: i64, total: *mut i64) -> c_int;
    pub(crate) fn graft_store_wait(store: *mut RawStore, key: *const c_char, timeout_ms: i64) -> c_int;
    pub(crate) fn graft_store_check(store: *mut RawStore, key: *const c_char) -> c_int;
    pub(crate) fn graft_store_delete(store: *mut RawStore, key: *const c_char) -> c_int;

    pub(crate) fn graft_group_gloo(store: *mut RawStore, rank: c_int, world: c_int, timeout_ms: i64, interface_name: *const c_char) -> *mut RawGroup;
    pub(crate) fn graft_group_nccl(store: *mut RawStore, rank: c_int, world: c_int, timeout_ms: i64, interface_name: *const c_char) -> *mut RawGroup;
    pub(crate) fn graft_has_nccl() -> c_int;
    pub(crate) fn graft_group_free(group: *mut RawGroup);
    pub(crate) fn graft_group_abort(group: *mut RawGroup) -> c_int;
    pub(crate) fn graft_all_reduce(group: *mut RawGroup, tensor: TensorPtr, op: c_int) -> c_int;
    pub(crate) fn graft_sum_over_ranks(group: *mut RawGroup, tensor: TensorPtr) -> TensorPtr;
    pub(crate) fn graft_broadcast(group: *mut RawGroup, tensor: TensorPtr, root: c_int) -> c_int;
    pub(crate) fn graft_all_gather(group: *mut RawGroup, input: TensorPtr, outputs: *const TensorPtr, world: c_int) -> c_int;
    pub(crate) fn graft_broadcast_coalesced(group: *mut RawGroup, list: *const TensorPtr, count: c_int, root: c_int) -> c_int;
    pub(crate) fn graft_barrier(group: *mut RawGroup) -> c_int;

    pub(crate) fn graft_reducer_new(
        group: *mut RawGroup,
        parameters: *const TensorPtr,
        names: *const *const c_char,
        count: c_int,
        bucket_bytes: i64,
        first_bucket_bytes: i64,
        find_unused: c_int,
        bucket_views: c_int,
        bfloat16: c_int,
    ) -> *mut RawReducer;
    pub(crate) fn graft_reducer_free(reducer: *mut RawReducer);
    pub(crate) fn graft_reducer_begin(reducer: *mut RawReducer) -> c_int;
    pub(crate) fn graft_reducer_prepare_backward(reducer: *mut RawReducer, outputs: *const TensorPtr, count: c_int) -> c_int;
    pub(crate) fn graft_reducer_finish(reducer: *mut RawReducer) -> c_int;
    pub(crate) fn graft_reducer_stats(reducer: *mut RawReducer, text: *mut u8, capacity: usize) -> i64;

    pub(crate) fn graft_zero_grads(parameters: *const TensorPtr, count: c_int, to_none: c_int) -> c_int;
    pub(crate) fn graft_fused_adam(
        decoupled: c_int,
        parameters: *const TensorPtr,
        gradients: *const TensorPtr,
        first_moments: *const TensorPtr,
        second_moments: *const TensorPtr,
        steps: *const TensorPtr,
        count: c_int,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        lr_there: TensorPtr,
        skip: TensorPtr,
    ) -> c_int;
    pub(crate) fn graft_fused_sgd(
        parameters: *const TensorPtr,
        gradients: *const TensorPtr,
        momenta: *const TensorPtr,
        count: c_int,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: c_int,
        first_step: c_int,
        lr_there: TensorPtr,
        skip: TensorPtr,
    ) -> c_int;
    pub(crate) fn graft_unscale(gradients: *const TensorPtr, count: c_int, inverse_scale: TensorPtr, not_finite: TensorPtr) -> c_int;
    pub(crate) fn graft_update_scale(scale: TensorPtr, growth: TensorPtr, not_finite: TensorPtr, factor: f64, every: i64) -> c_int;

    pub(crate) fn graft_bytes(count: i64, pinned: c_int) -> TensorPtr;
    pub(crate) fn graft_data(tensor: TensorPtr) -> *mut c_void;
    pub(crate) fn graft_upload(host: TensorPtr, index: c_int) -> TensorPtr;
    pub(crate) fn graft_later_new(scalar: TensorPtr) -> *mut RawLater;
    pub(crate) fn graft_later_free(later: *mut RawLater);
    pub(crate) fn graft_later_wait(later: *mut RawLater, value: *mut f64) -> c_int;

    pub(crate) fn graft_leave_default_stream(index: c_int) -> c_int;
    pub(crate) fn graft_graph_begin() -> *mut RawGraph;
    pub(crate) fn graft_graph_end(graph: *mut RawGraph) -> c_int;
    pub(crate) fn graft_graph_replay(graph: *mut RawGraph) -> c_int;
    pub(crate) fn graft_graph_free(graph: *mut RawGraph);

    pub(crate) fn graft_to_channels_last(tensor: TensorPtr) -> TensorPtr;
    pub(crate) fn graft_set_channels_last(tensor: TensorPtr) -> c_int;
    pub(crate) fn graft_is_channels_last(tensor: TensorPtr) -> c_int;
    pub(crate) fn graft_autocast_enter(device: c_int, bfloat16: c_int, was_enabled: *mut c_int, was_type: *mut c_int) -> c_int;
    pub(crate) fn graft_autocast_leave(device: c_int, was_enabled: c_int, was_type: c_int) -> c_int;
    pub(crate) fn graft_set_threads(intra_op: c_int, inter_op: c_int) -> c_int;
    pub(crate) fn graft_set_deterministic(on: c_int) -> c_int;
    pub(crate) fn graft_device_memory(index: c_int, peak: *mut i64, free: *mut i64, total: *mut i64) -> c_int;
    pub(crate) fn graft_set_tf32(on: c_int) -> c_int;
    pub(crate) fn graft_set_log_level(level: c_int) -> c_int;
    pub(crate) fn graft_set_cuda_device(index: c_int) -> c_int;
}

/// The calling thread's last error in the shim.
pub(crate) fn last_error(operation: &'static str) -> Error {
    // SAFETY: both read thread-local state of the shim; the text stays valid until this thread's next failing call, and
    // it is copied before that.
    let (code, text) = unsafe { (graft_error_kind(), CStr::from_ptr(graft_error()).to_string_lossy().into_owned()) };
    let kind = match code {
        2 => ErrorKind::Network,
        3 => ErrorKind::Store,
        4 => ErrorKind::Backend,
        5 => ErrorKind::Timeout,
        _ => ErrorKind::Torch,
    };
    Error::new(kind, operation, &text)
}

/// A status of the shim: negative means failed.
pub(crate) fn check(operation: &'static str, status: c_int) -> Result<c_int> {
    if status < 0 { Err(last_error(operation)) } else { Ok(status) }
}

/// A pointer of the shim: null means failed.
pub(crate) fn check_ptr<T>(operation: &'static str, pointer: *mut T) -> Result<*mut T> {
    if pointer.is_null() { Err(last_error(operation)) } else { Ok(pointer) }
}

/// A string for C; one with a zero byte inside is an error.
pub(crate) fn c_string(operation: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(ErrorKind::Torch, operation, &format!("{text:?} has a zero byte in it")))
}

/// A number of list entries for C.
pub(crate) fn c_count(operation: &'static str, count: usize) -> Result<c_int> {
    c_int::try_from(count).map_err(|_| Error::new(ErrorKind::Torch, operation, &format!("{count} tensors are more than one call can take")))
}

/// The tensor's own pointer, valid as long as the tensor lives.
pub(crate) fn ptr(tensor: &Tensor) -> TensorPtr {
    tensor.as_ptr().cast_mut().cast()
}

/// The pointer of a tensor that may be left out.
pub(crate) fn ptr_or_null(tensor: Option<&Tensor>) -> TensorPtr {
    tensor.map_or(std::ptr::null_mut(), ptr)
}

/// The tensor that a function of the shim made for us.
pub(crate) fn taken(operation: &'static str, pointer: TensorPtr) -> Result<Tensor> {
    let raw = check_ptr(operation, pointer)?;
    // SAFETY: every function of the shim that gives a tensor gives an `at::Tensor*` made with `new`, which is what tch takes over and deletes.
    Ok(unsafe { Tensor::from_ptr(raw.cast()) })
}

/// The pointers of a list.
pub(crate) fn ptrs<T: std::borrow::Borrow<Tensor>>(tensors: &[T]) -> Vec<TensorPtr> {
    tensors.iter().map(|t| ptr(t.borrow())).collect()
}
