//! Process groups: the collectives that ranks call together. Each rank must make the same calls in the same order; a
//! group whose call failed is broken and should be dropped at once, with its reducers, so that its neighbours notice.

use crate::ffi::{self, RawGroup, c_count, c_string, check, check_ptr, ptr, ptrs, taken};
use crate::store::milliseconds;
use crate::{Error, ErrorKind, Result, Store};
use std::borrow::Borrow;
use std::ffi::c_int;
use std::time::Duration;
use tch::{Device, Tensor};

/// The network interface that Gloo listens at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// The one that the host's own name resolves to.
    #[default]
    Default,
    /// By name, `lo` or `eth0`.
    Named(String),
}

/// How values of several ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their mean; floating point only.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// Which library carries a group's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Gloo over TCP, tensors on the CPU.
    Gloo,
    /// NCCL for tensors on CUDA devices, Gloo beside it for those on the CPU.
    Nccl,
}

/// A group of ranks.
#[derive(Debug)]
pub struct ProcessGroup {
    raw: *mut RawGroup,
    rank: usize,
    world: usize,
    backend: Backend,
}

// SAFETY: c10d's groups may be used from any thread; without Sync only one thread uses one at a time.
unsafe impl Send for ProcessGroup {}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: `raw` came from the shim and is freed once, here; a reducer holds a counted reference of its own.
        unsafe { ffi::graft_group_free(self.raw) }
    }
}

impl ProcessGroup {
    /// A Gloo group of `world` ranks. Returns when all have come. `timeout` is for that and for each later collective.
    /// Give each generation of a group a store prefix of its own.
    pub fn gloo(store: &Store, rank: usize, world: usize, timeout: Duration, interface: &Interface) -> Result<Self> {
        Self::create(Backend::Gloo, store, rank, world, timeout, interface)
    }

    /// An NCCL group; needs the feature `cuda` and a device, which must have been chosen with
    /// [`crate::device::set_cuda_device`] before. CPU tensors go through Gloo, which meets at `interface`.
    pub fn nccl(store: &Store, rank: usize, world: usize, timeout: Duration, interface: &Interface) -> Result<Self> {
        Self::create(Backend::Nccl, store, rank, world, timeout, interface)
    }

    /// The group that fits the device that the model is on.
    pub fn for_device(device: Device, store: &Store, rank: usize, world: usize, timeout: Duration, interface: &Interface) -> Result<Self> {
        match device {
            Device::Cpu => Self::gloo(store, rank, world, timeout, interface),
            Device::Cuda(_) => Self::nccl(store, rank, world, timeout, interface),
            Device::Mps | Device::Vulkan => Err(Error::new(
                ErrorKind::Backend,
                "form a process group",
                &format!("there is no collective backend for {device:?}: use the CPU or a CUDA device"),
            )),
        }
    }

    fn create(backend: Backend, store: &Store, rank: usize, world: usize, timeout: Duration, interface: &Interface) -> Result<Self> {
        const DOING: &str = "form a process group";
        if rank >= world {
            let text = format!("rank {rank} is not below the world size {world}");
            return Err(Error::new(ErrorKind::Backend, DOING, &text));
        }
        let name = match interface {
            Interface::Default => None,
            Interface::Named(name) => Some(c_string(DOING, name)?),
        };
        let name_ptr = name.as_ref().map_or(std::ptr::null(), |n| n.as_ptr());
        let (r, w, ms) = (c_count(DOING, rank)?, c_count(DOING, world)?, milliseconds(timeout));
        // SAFETY: the store is live and `name` lives through the call; null is the documented "default".
        let raw = unsafe {
            match backend {
                Backend::Gloo => ffi::graft_group_gloo(store.raw(), r, w, ms, name_ptr),
                Backend::Nccl => ffi::graft_group_nccl(store.raw(), r, w, ms, name_ptr),
            }
        };
        Ok(Self { raw: check_ptr(DOING, raw)?, rank, world, backend })
    }

    /// This process's number in the group, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks the group has.
    #[must_use]
    pub fn world(&self) -> usize {
        self.world
    }

    /// What carries the tensors.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether this build has NCCL in it. Whether there is a device is another matter.
    #[must_use]
    pub fn has_nccl() -> bool {
        // SAFETY: no arguments, no state.
        unsafe { ffi::graft_has_nccl() == 1 }
    }

    /// Puts the reduction over all ranks into the tensor on each of them. On CUDA the result is ready for what is
    /// enqueued next on the current stream.
    pub fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<()> {
        let op = match reduction {
            Reduction::Sum => 0,
            Reduction::Mean => 1,
            Reduction::Max => 2,
            Reduction::Min => 3,
        };
        // SAFETY: group and tensor are live; the call returns when the tensor is no longer written to.
        check("all-reduce", unsafe { ffi::graft_all_reduce(self.raw, ptr(tensor), op) })?;
        Ok(())
    }

    /// The sum over all ranks as a new tensor through which gradients flow: the gradient of each rank's tensor is the sum of those that
    /// all ranks have of the sum. Every rank must go backward through it too, or the others wait.
    pub fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        // SAFETY: group and tensor are live; the graph of the result keeps what it needs of the group.
        taken("sum over the ranks", unsafe { ffi::graft_sum_over_ranks(self.raw, ptr(tensor)) })
    }

    /// Puts rank `root`'s values into the tensor on each rank.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()> {
        let root = self.checked_root("broadcast", root)?;
        // SAFETY: as for `all_reduce`.
        check("broadcast", unsafe { ffi::graft_broadcast(self.raw, ptr(tensor), root) })?;
        Ok(())
    }

    /// Every rank's tensor, by rank. Shapes and kinds must be the same on all.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        const DOING: &str = "all-gather";
        let input = tensor.detach().contiguous();
        let outputs: Vec<Tensor> = (0..self.world).map(|_| input.empty_like()).collect();
        let pointers = ptrs(&outputs);
        let world = c_count(DOING, self.world)?;
        // SAFETY: all tensors are live and there are `world` outputs.
        check(DOING, unsafe { ffi::graft_all_gather(self.raw, ptr(&input), pointers.as_ptr(), world) })?;
        Ok(outputs)
    }

    /// Broadcasts many tensors in a few large messages. Order, shapes and kinds must be the same on all ranks: sort by
    /// name first.
    pub fn broadcast_coalesced<T: Borrow<Tensor>>(&self, tensors: &[T], root: usize) -> Result<()> {
        const DOING: &str = "broadcast of many tensors";
        let root = self.checked_root(DOING, root)?;
        let pointers = ptrs(tensors);
        let count = c_count(DOING, pointers.len())?;
        // SAFETY: all tensors are live and `count` is their number.
        check(DOING, unsafe { ffi::graft_broadcast_coalesced(self.raw, pointers.as_ptr(), count, root) })?;
        Ok(())
    }

    /// Returns when every rank has called it. It waits for processes, not for work queued on CUDA streams.
    pub fn barrier(&self) -> Result<()> {
        // SAFETY: the group is live.
        check("barrier", unsafe { ffi::graft_barrier(self.raw) })?;
        Ok(())
    }

    /// Breaks off what NCCL is doing, so that a thread stuck in it gets an error. Gloo has nothing to break off.
    pub fn abort(&self) -> Result<()> {
        // SAFETY: the group is live.
        check("abort the process group", unsafe { ffi::graft_group_abort(self.raw) })?;
        Ok(())
    }

    pub(crate) fn raw(&self) -> *mut RawGroup {
        self.raw
    }

    fn checked_root(&self, operation: &'static str, root: usize) -> Result<c_int> {
        if root >= self.world {
            let text = format!("root {root} is not below the world size {}", self.world);
            return Err(Error::new(ErrorKind::Backend, operation, &text));
        }
        c_count(operation, root)
    }
}
