//! CUDA graphs: work that was given to a GPU once is given to it again in one call, with the same tensors in the same
//! places. It saves the time of a thousand launches where each is short.

use crate::Result;
use crate::ffi::{self, RawGraph, c_count, check, check_ptr};

/// Recorded work.
#[derive(Debug)]
pub struct Graph {
    raw: *mut RawGraph,
}

/// From now on this thread works on a stream of its own: the default stream cannot be recorded.
pub fn leave_default_stream(index: usize) -> Result<()> {
    const DOING: &str = "choose a CUDA stream";
    let index = c_count(DOING, index)?;
    // SAFETY: a plain number.
    check(DOING, unsafe { ffi::graft_leave_default_stream(index) })?;
    Ok(())
}

impl Graph {
    /// Record what `work` gives the GPU; nothing of it is run. `work` must not wait for the GPU, and must have been run before, so that all
    /// that is set up once is set up. Tensors that it reads must keep their place as long as the graph lives.
    ///
    /// # Errors
    /// There is no GPU, or `work` did something that cannot be recorded; or what `work` says.
    pub fn record<T, E: From<crate::Error>>(work: impl FnOnce() -> Result<T, E>) -> Result<(Self, T), E> {
        const DOING: &str = "record a CUDA graph";
        // SAFETY: no arguments.
        let graph = Self { raw: check_ptr(DOING, unsafe { ffi::graft_graph_begin() })? };
        let done = work();
        // SAFETY: `raw` is live. Recording ends also where `work` failed.
        let ended = check(DOING, unsafe { ffi::graft_graph_end(graph.raw) });
        let done = done?;
        ended?;
        Ok((graph, done))
    }

    /// Give it all to the GPU.
    pub fn replay(&self) -> Result<()> {
        // SAFETY: `raw` is live until the drop.
        check("replay a CUDA graph", unsafe { ffi::graft_graph_replay(self.raw) })?;
        Ok(())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { ffi::graft_graph_free(self.raw) };
    }
}
