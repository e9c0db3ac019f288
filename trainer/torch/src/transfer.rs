//! Bytes to a device and numbers back from it, without waiting: what is asked for here is done when the device comes to it.
//! On the CPU everything is there at once.

use crate::Result;
use crate::ffi::{self, RawLater, c_count, check, check_ptr, ptr, taken};
use std::ffi::c_int;
use tch::{Device, Tensor};

/// Lets `fill` write `count` bytes, and gives them as a tensor `[count]` on `device`. For a GPU they lie in pinned memory
/// and are copied on a stream of their own, while the device still computes what it was given before.
///
/// # Errors
/// Memory or device has not enough room; or what `fill` says.
pub fn bytes<E: From<crate::Error>>(count: usize, device: Device, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Tensor, E> {
    const DOING: &str = "make room for bytes";
    let size = i64::try_from(count).unwrap_or(i64::MAX);
    // SAFETY: plain numbers; the shim returns a new handle.
    let host = taken(DOING, unsafe { ffi::graft_bytes(size, c_int::from(matches!(device, Device::Cuda(_)))) })?;
    if count > 0 {
        // SAFETY: the tensor is live.
        let start = check_ptr(DOING, unsafe { ffi::graft_data(ptr(&host)) })?;
        // SAFETY: the tensor has just been made, is contiguous, has `count` elements of one byte each, and nobody else knows it.
        // Its memory holds whatever bytes, and any byte is a `u8`.
        fill(unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), count) })?;
    }
    Ok(on_device(host, device)?)
}

/// A tensor of the CPU on `device`, without waiting for what the device still does.
pub fn on_device(tensor: Tensor, device: Device) -> Result<Tensor> {
    const DOING: &str = "copy to the device";
    let Device::Cuda(index) = device else { return Ok(tensor) };
    let index = c_count(DOING, index)?;
    // SAFETY: the tensor is live; the allocator of pinned memory keeps its bytes until the copy is done.
    taken(DOING, unsafe { ffi::graft_upload(ptr(&tensor), index) })
}

/// A number that is on its way from a device.
#[derive(Debug)]
pub struct Later {
    raw: *mut RawLater,
}

impl Later {
    /// Ask for the value of a scalar. Its tensor may change or go as soon as this returns.
    pub fn of(scalar: &Tensor) -> Result<Self> {
        // SAFETY: the tensor is live.
        let raw = check_ptr("fetch a number", unsafe { ffi::graft_later_new(ptr(scalar)) })?;
        Ok(Self { raw })
    }

    /// The value; waits until the device has come to it.
    pub fn wait(&self) -> Result<f64> {
        let mut value = 0.0;
        // SAFETY: `raw` is live until the drop, and there is room for one number.
        check("fetch a number", unsafe { ffi::graft_later_wait(self.raw, &raw mut value) })?;
        Ok(value)
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { ffi::graft_later_free(self.raw) };
    }
}
