//! Process-wide settings of libtorch — threads, determinism, its own logging, the current CUDA device — and autocast,
//! which is per thread. Nothing here is read from the environment.

use crate::ffi::{self, check};
use crate::{Error, ErrorKind, Result};
use std::ffi::c_int;
use std::marker::PhantomData;
use tch::{Device, Kind};

pub use crate::error::backward;

/// How many threads one operation uses, and how many operations may run side by side. The second can be set only before
/// the first parallel work; setting it to what it is already is no error.
pub fn set_threads(intra_op: u16, inter_op: u16) -> Result<()> {
    let (intra, inter) = (c_int::from(intra_op.max(1)), c_int::from(inter_op.max(1)));
    // SAFETY: plain numbers.
    check("set the number of threads", unsafe { ffi::graft_set_threads(intra, inter) })?;
    Ok(())
}

/// Seeds torch's generators on all devices.
pub fn manual_seed(seed: u64) {
    tch::manual_seed(i64::from_ne_bytes(seed.to_ne_bytes()));
}

/// Whether torch may use kernels whose result depends on timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Determinism {
    /// The fastest kernels.
    Fast,
    /// Only kernels that give the same bits each time; an operation that has none is an error.
    Deterministic,
}

/// Sets it for all later operations.
pub fn set_determinism(determinism: Determinism) -> Result<()> {
    let on = match determinism {
        Determinism::Fast => 0,
        Determinism::Deterministic => 1,
    };
    // SAFETY: a plain number.
    check("set determinism", unsafe { ffi::graft_set_deterministic(on) })?;
    Ok(())
}

/// Whether float32 convolutions and matrix products on GPUs may round what they multiply to TF32's 10 bits.
pub fn set_tf32(allowed: bool) -> Result<()> {
    // SAFETY: a plain number.
    check("set TF32", unsafe { ffi::graft_set_tf32(c_int::from(allowed)) })?;
    Ok(())
}

/// The least severe messages that libtorch itself writes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Info,
    /// Warnings and errors, with C++ back traces.
    Warning,
    /// Errors, a failed connection among them.
    Error,
    /// Only what ends the process. For a caller that reports every [`Error`](crate::Error) itself.
    Fatal,
}

/// Sets it for the process.
pub fn set_log_level(level: LogLevel) -> Result<()> {
    let level = match level {
        LogLevel::Info => 0,
        LogLevel::Warning => 1,
        LogLevel::Error => 2,
        LogLevel::Fatal => 3,
    };
    // SAFETY: a plain number.
    check("set the log level", unsafe { ffi::graft_set_log_level(level) })?;
    Ok(())
}

/// Chooses the CUDA device for this thread. NCCL takes the one chosen when its first collective runs.
pub fn set_cuda_device(index: u16) -> Result<()> {
    // SAFETY: a plain number.
    check("choose the CUDA device", unsafe { ffi::graft_set_cuda_device(c_int::from(index)) })?;
    Ok(())
}

/// The type that autocast computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutocastType {
    /// bfloat16: float's range, no loss scaling needed.
    BFloat16,
    /// IEEE half: needs loss scaling.
    Half,
}

impl AutocastType {
    /// tch's name for it.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::BFloat16 => Kind::BFloat16,
            Self::Half => Kind::Half,
        }
    }
}

/// Autocast for this thread as long as the guard lives: matrix products and convolutions on the device compute in the
/// low-precision type. Guards must be dropped in the reverse order of their making. Build losses outside of one.
#[derive(Debug)]
pub struct AutocastGuard {
    device: c_int,
    was_enabled: c_int,
    was_type: c_int,
    /// The setting belongs to the thread, so the guard must not leave it.
    _thread: PhantomData<*const ()>,
}

impl AutocastGuard {
    /// Turns autocast on for a kind of device.
    pub fn new(device: Device, precision: AutocastType) -> Result<Self> {
        const DOING: &str = "turn autocast on";
        let device = match device {
            Device::Cpu => 0,
            Device::Cuda(_) => 1,
            Device::Mps | Device::Vulkan => {
                return Err(Error::new(ErrorKind::Torch, DOING, &format!("there is no autocast for {device:?}")));
            }
        };
        let bfloat16 = match precision {
            AutocastType::BFloat16 => 1,
            AutocastType::Half => 0,
        };
        let (mut was_enabled, mut was_type) = (0, 0);
        // SAFETY: the two places are for one int each.
        let status = unsafe { ffi::graft_autocast_enter(device, bfloat16, &raw mut was_enabled, &raw mut was_type) };
        check(DOING, status)?;
        Ok(Self { device, was_enabled, was_type, _thread: PhantomData })
    }
}

impl Drop for AutocastGuard {
    fn drop(&mut self) {
        // SAFETY: plain numbers, on the thread that `new` ran on. A failure leaves nothing to do about it in a drop.
        unsafe { ffi::graft_autocast_leave(self.device, self.was_enabled, self.was_type) };
    }
}
