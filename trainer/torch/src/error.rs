//! Errors out of libtorch, sorted by what a caller can do about them. The text is libtorch's first message: C++ back
//! traces are cut off and nothing is added to it.

use tch::TchError;

/// What went wrong, as far as a caller's next move depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A connection to a peer or to the store broke or could not be made: the peer may be gone.
    Network,
    /// The key-value store refused a request.
    Store,
    /// The collective backend (Gloo, NCCL) failed for a reason of its own.
    Backend,
    /// A peer or a key did not come in time.
    Timeout,
    /// Anything else that torch reports: shapes, kinds, memory.
    Torch,
}

impl ErrorKind {
    /// Whether the process group is lost with this error, so that the ranks that are left must form a new one.
    #[must_use]
    pub fn is_collective(self) -> bool {
        match self {
            Self::Network | Self::Store | Self::Backend | Self::Timeout => true,
            Self::Torch => false,
        }
    }
}

/// An error out of libtorch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct Error {
    /// What a caller can do about it.
    pub kind: ErrorKind,
    /// What was being done.
    pub operation: &'static str,
    /// libtorch's message.
    pub message: String,
}

/// The result of a call into libtorch.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with the message's noise taken off.
    pub(crate) fn new(kind: ErrorKind, operation: &'static str, message: &str) -> Self {
        Self { kind, operation, message: clean(message) }
    }

    /// An error of tch's. A collective that fails inside a backward pass arrives as one, with nothing but its text to
    /// tell what it was.
    #[must_use]
    pub fn from_tch(operation: &'static str, error: &TchError) -> Self {
        let message = clean(&error.to_string());
        Self { kind: kind_of_text(&message), operation, message }
    }
}

/// Runs a backward pass from `loss`. Gradients are averaged over the ranks on the way if a [`crate::Reducer`] holds the
/// parameters; a peer that dies meanwhile is an error here.
pub fn backward(loss: &tch::Tensor) -> Result<()> {
    loss.f_backward().map_err(|e| Error::from_tch("backward pass", &e))
}

/// The kind of an error that came through tch.
fn kind_of_text(text: &str) -> ErrorKind {
    let has = |parts: &[&str]| parts.iter().any(|p| text.contains(p));
    if has(&["Timed out waiting", "timed out", "Watchdog caught collective"]) {
        ErrorKind::Timeout
    } else if has(&["gloo/", "Connection closed by peer", "Connection reset by peer", "Broken pipe"]) {
        ErrorKind::Network
    } else if has(&["NCCL", "ncclInternal", "ncclSystem", "ncclRemote"]) {
        ErrorKind::Backend
    } else {
        ErrorKind::Torch
    }
}

/// Cuts the C++ back trace and the lines of "Exception raised from".
fn clean(message: &str) -> String {
    let end = ["\nException raised from", "\nC++ CapturedTraceback", "Exception raised from"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min()
        .unwrap_or(message.len());
    message[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_traces_are_cut() {
        let text = "shapes differ\nException raised from check at a.cpp:1 (most recent call first):\nframe #0: x";
        assert_eq!(clean(text), "shapes differ");
        assert_eq!(clean("plain"), "plain");
    }

    #[test]
    fn a_gloo_error_in_a_backward_pass_is_a_network_error() {
        let text = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:1: Connection reset by peer";
        assert_eq!(kind_of_text(text), ErrorKind::Network);
        assert_eq!(kind_of_text("[x/gloo/buf.cc:8] Timed out waiting 5000ms for recv operation"), ErrorKind::Timeout);
        assert_eq!(kind_of_text("mat1 and mat2 shapes cannot be multiplied"), ErrorKind::Torch);
    }
}
