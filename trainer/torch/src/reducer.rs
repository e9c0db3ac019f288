//! Gradients averaged over the ranks while the backward pass still runs: torch's DistributedDataParallel reducer, the
//! same C++ object that Python drives. It sees parameters only; buffers are the caller's to broadcast.

use crate::ffi::{self, RawReducer, c_count, c_string, check, check_ptr, ptrs};
use crate::{Error, ErrorKind, ProcessGroup, Result};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;
use tch::Tensor;

/// A parameter and the name that error messages call it by.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// The name in the state dict.
    pub name: &'a str,
    /// The leaf tensor; must require a gradient.
    pub tensor: &'a Tensor,
}

/// What to do about parameters that a backward pass does not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusedParameters {
    /// They are a mistake: [`Reducer::finish_step`] says so. The faster choice.
    Forbid,
    /// Look for them in each step, from the outputs given to [`Reducer::prepare_backward`].
    Find,
}

/// Where gradients lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientStorage {
    /// In the buckets that are sent: no copy. Such a gradient cannot be detached, so zero it with
    /// [`crate::memory::zero_grads`], never with tch's `zero_grad`.
    BucketViews,
    /// In tensors of their own.
    Separate,
}

/// The type that gradients travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// Their own.
    Whole,
    /// bfloat16: half the bytes of float32 and 8 of its 24 bits; they are added up in it too.
    BFloat16,
}

/// How gradients are put into buckets, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReducerSettings {
    /// Bytes of a full bucket.
    pub bucket_bytes: u32,
    /// Bytes of the first bucket, smaller so that sending starts early.
    pub first_bucket_bytes: u32,
    /// Parameters that a step does not use.
    pub unused: UnusedParameters,
    /// Where gradients lie.
    pub gradients: GradientStorage,
    /// How they travel.
    pub travel: Travel,
}

impl Default for ReducerSettings {
    /// torch's sizes, 25 MiB and 1 MiB, with gradients in the buckets and no unused parameters.
    fn default() -> Self {
        Self {
            bucket_bytes: 25 << 20,
            first_bucket_bytes: 1 << 20,
            unused: UnusedParameters::Forbid,
            gradients: GradientStorage::BucketViews,
            travel: Travel::Whole,
        }
    }
}

/// Whether the buckets changed at the start of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// As in the step before.
    Kept,
    /// Put in the order in which gradients came; happens once, in the second step.
    Rebuilt,
}

/// What torch measured in the steps so far. Times are means over the steps it sampled and zero before the first sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReducerStats {
    /// Bytes of each bucket, in the order in which they are sent.
    pub bucket_bytes: Vec<u64>,
    /// The forward pass.
    pub forward: Duration,
    /// The backward pass.
    pub backward: Duration,
    /// Sending and receiving.
    pub communication: Duration,
    /// The part of `communication` that ran under the backward pass.
    pub overlapped: Duration,
}

/// The reducer of one model on one rank.
///
/// A step: [`begin_step`](Self::begin_step), forward pass, [`prepare_backward`](Self::prepare_backward), gradients zeroed,
/// [`crate::device::backward`], [`finish_step`](Self::finish_step), optimizer. To accumulate gradients over several
/// backward passes, leave the three calls out of all but the last.
#[derive(Debug)]
pub struct Reducer {
    raw: *mut RawReducer,
}

// SAFETY: the C++ reducer locks around its state, and without Sync one thread at a time calls it.
unsafe impl Send for Reducer {}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: `raw` came from the shim and is freed once, here; the hooks in the parameters' graphs go first.
        unsafe { ffi::graft_reducer_free(self.raw) }
    }
}

impl Reducer {
    /// Puts hooks on the parameters, which must be the same ones in the same order on all ranks (checked, over the
    /// network). Their values are not made equal: broadcast them first. The reducer keeps the group's connections open
    /// until it is dropped.
    pub fn new(group: &ProcessGroup, parameters: &[Parameter<'_>], settings: ReducerSettings) -> Result<Self> {
        const DOING: &str = "set up the gradient reducer";
        if let Some(frozen) = parameters.iter().find(|p| !p.tensor.requires_grad()) {
            let text = format!("parameter {} does not require a gradient: leave frozen ones out", frozen.name);
            return Err(Error::new(ErrorKind::Torch, DOING, &text));
        }
        if parameters.is_empty() {
            return Err(Error::new(ErrorKind::Torch, DOING, "there is no trainable parameter"));
        }
        let names = parameters.iter().map(|p| c_string(DOING, p.name)).collect::<Result<Vec<_>>>()?;
        let name_ptrs: Vec<_> = names.iter().map(|n| n.as_ptr()).collect();
        let tensors: Vec<&Tensor> = parameters.iter().map(|p| p.tensor).collect();
        let pointers = ptrs(&tensors);
        let count = c_count(DOING, pointers.len())?;
        let find_unused = match settings.unused {
            UnusedParameters::Forbid => 0,
            UnusedParameters::Find => 1,
        };
        let bucket_views = match settings.gradients {
            GradientStorage::BucketViews => 1,
            GradientStorage::Separate => 0,
        };
        let bfloat16 = match settings.travel {
            Travel::Whole => 0,
            Travel::BFloat16 => 1,
        };
        // SAFETY: group, tensors and names live through the call, and both lists have `count` entries; the reducer
        // copies the tensor handles and the names.
        let raw = unsafe {
            ffi::graft_reducer_new(
                group.raw(),
                pointers.as_ptr(),
                name_ptrs.as_ptr(),
                count,
                i64::from(settings.bucket_bytes),
                i64::from(settings.first_bucket_bytes),
                find_unused,
                bucket_views,
                bfloat16,
            )
        };
        Ok(Self { raw: check_ptr(DOING, raw)? })
    }

    /// Before the forward pass of a step whose gradients are averaged.
    pub fn begin_step(&mut self) -> Result<Buckets> {
        // SAFETY: `raw` is live.
        let rebuilt = check("begin a step", unsafe { ffi::graft_reducer_begin(self.raw) })?;
        Ok(if rebuilt == 0 { Buckets::Kept } else { Buckets::Rebuilt })
    }

    /// After the forward pass. `outputs` are what the loss is computed from; they matter with
    /// [`UnusedParameters::Find`] only and must then be given.
    pub fn prepare_backward<T: Borrow<Tensor>>(&mut self, outputs: &[T]) -> Result<()> {
        const DOING: &str = "prepare the backward pass";
        let pointers = ptrs(outputs);
        let count = c_count(DOING, pointers.len())?;
        // SAFETY: `raw` and the tensors are live; `count` is their number.
        check(DOING, unsafe { ffi::graft_reducer_prepare_backward(self.raw, pointers.as_ptr(), count) })?;
        Ok(())
    }

    /// After the backward pass: an error if a parameter got no gradient, in which case none was averaged.
    pub fn finish_step(&mut self) -> Result<()> {
        // SAFETY: `raw` is live.
        check("finish a step", unsafe { ffi::graft_reducer_finish(self.raw) })?;
        Ok(())
    }

    /// What torch measured so far.
    pub fn stats(&self) -> Result<ReducerStats> {
        const DOING: &str = "read the reducer's measurements";
        let mut text = vec![0u8; 16 << 10];
        loop {
            // SAFETY: `raw` is live and `text` has the capacity that is passed.
            let size = unsafe { ffi::graft_reducer_stats(self.raw, text.as_mut_ptr(), text.len()) };
            let Ok(size) = usize::try_from(size) else { return Err(ffi::last_error(DOING)) };
            if size <= text.len() {
                return Ok(parse_stats(&String::from_utf8_lossy(&text[..size])));
            }
            text.resize(size, 0);
        }
    }
}

/// Reads the lines `key=value` of the shim.
fn parse_stats(text: &str) -> ReducerStats {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let time = |key: &str| Duration::from_nanos(fields.get(key).and_then(|v| v.parse().ok()).unwrap_or(0));
    let sizes = |key: &str| -> Vec<u64> { fields.get(key).map(|v| v.split(',').filter_map(|n| n.trim().parse().ok()).collect()).unwrap_or_default() };
    let rebuilt = sizes("rebuilt_bucket_sizes");
    ReducerStats {
        bucket_bytes: if rebuilt.is_empty() { sizes("bucket_sizes") } else { rebuilt },
        forward: time("avg_forward_compute_time"),
        backward: time("avg_backward_compute_time"),
        communication: time("avg_backward_comm_time"),
        overlapped: time("avg_backward_compute_comm_overlap_time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_read_and_rebuilt_buckets_win() {
        let stats = parse_stats("avg_backward_comm_time=1500\nbucket_sizes=12\nrebuilt_bucket_sizes=4, 8\nmodule_name=graft\n");
        assert_eq!(stats.bucket_bytes, [4, 8]);
        assert_eq!(stats.communication, Duration::from_nanos(1500));
        assert_eq!(stats.forward, Duration::ZERO);
    }
}
