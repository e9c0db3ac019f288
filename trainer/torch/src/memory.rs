//! Gradients set to zero or to nothing, the channels-last memory format, and how much memory a GPU has. Values never change
//! here, only where and in what order they lie.

use crate::Result;
use crate::ffi::{self, c_count, check, ptr, ptrs, taken};
use std::borrow::Borrow;
use tch::Tensor;

/// What a gradient is before a backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleared {
    /// Undefined: its memory is given back and the next backward pass writes instead of adding. The faster choice.
    None,
    /// Zeros in the same memory.
    Zeros,
}

/// Clears gradients. Works on gradients that are views of a reducer's buckets, on which tch's `zero_grad` fails.
pub fn zero_grads<T: Borrow<Tensor>>(parameters: &[T], to: Cleared) -> Result<()> {
    const DOING: &str = "clear gradients";
    let pointers = ptrs(parameters);
    let count = c_count(DOING, pointers.len())?;
    let to_none = match to {
        Cleared::None => 1,
        Cleared::Zeros => 0,
    };
    // SAFETY: all tensors are live and `count` is their number.
    check(DOING, unsafe { ffi::graft_zero_grads(pointers.as_ptr(), count, to_none) })?;
    Ok(())
}

/// [`zero_grads`] with [`Cleared::None`].
pub fn zero_grads_to_none<T: Borrow<Tensor>>(parameters: &[T]) -> Result<()> {
    zero_grads(parameters, Cleared::None)
}

/// The tensor `[N, C, H, W]` with its values laid out N, H, W, C; itself if it is so already.
pub fn to_channels_last(tensor: &Tensor) -> Result<Tensor> {
    // SAFETY: the tensor is live; the shim returns a new handle.
    taken("change the memory format", unsafe { ffi::graft_to_channels_last(ptr(tensor)) })
}

/// Lays a parameter's values out in channels-last order, in place of the old ones; a tensor without four dimensions is
/// left as it is.
pub fn set_channels_last(parameter: &mut Tensor) -> Result<()> {
    // SAFETY: the tensor is live and borrowed mutably.
    check("change the memory format", unsafe { ffi::graft_set_channels_last(ptr(parameter)) })?;
    Ok(())
}

/// Whether the tensor lies in channels-last order.
pub fn is_channels_last(tensor: &Tensor) -> Result<bool> {
    // SAFETY: the tensor is live.
    Ok(check("ask the memory format", unsafe { ffi::graft_is_channels_last(ptr(tensor)) })? != 0)
}

/// A GPU's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What this process's tensors had of it at most since this was last asked.
    pub peak: u64,
    /// What nobody has of it now.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// Gives memory that torch keeps for later tensors back to a GPU, and says what it has then.
///
/// # Errors
/// There is no such GPU.
pub fn give_back(index: usize) -> Result<DeviceMemory> {
    const DOING: &str = "ask for the memory of a GPU";
    let index = c_count(DOING, index)?;
    let (mut peak, mut free, mut total) = (0, 0, 0);
    // SAFETY: the three places are for one number each.
    check(DOING, unsafe { ffi::graft_device_memory(index, &raw mut peak, &raw mut free, &raw mut total) })?;
    let [peak, free, total] = [peak, free, total].map(i64::unsigned_abs);
    Ok(DeviceMemory { peak, free, total })
}
