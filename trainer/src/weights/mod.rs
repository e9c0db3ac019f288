//! Pretrained weights in and trained ones out: safetensors and PyTorch state dicts to tensors by name, and tensors by
//! name to safetensors. A file is data and never code: what cannot be a table of tensors is refused by name.

mod apply;
mod fetch;
mod fitted;
mod legacy;
mod names;
mod pickle;
mod pth;
mod safe;
mod shards;

pub use apply::{HEAD_FORM_KEY, HeadPolicy, LoadReport, apply};
pub use fetch::locate;
pub use safe::save_safetensors;

use crate::hex;
use graft_torch::tch::{Kind, Tensor};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read or written.
    #[error("weights {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file cannot be fetched.
    #[error("weights {uri}: {why}")]
    Unreachable {
        /// Where it should be, without what may be secret.
        uri: String,
        /// What went wrong.
        why: String,
        /// Trying again cannot help.
        permanent: bool,
    },
    /// The file is another one than was asked for.
    #[error("weights {path}: the file's SHA-256 is {found}, but {expected} was asked for; get the right file or correct the digest")]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest in the specification.
        expected: String,
        /// The file's own.
        found: String,
    },
    /// The file is damaged, or is no such file.
    #[error("weights {path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tensors are not those of the architecture.
    #[error("weights do not fit {architecture}: {problems}")]
    Fit {
        /// The architecture.
        architecture: &'static str,
        /// What differs, at most ten tensors, and whose tensors they are if they are those of another architecture.
        problems: String,
    },
    /// torch failed.
    #[error(transparent)]
    Torch(#[from] graft_torch::Error),
}

/// What a weights file holds. Floating point of any width has become 32-bit; integers are 64-bit.
#[derive(Debug)]
pub struct Weights {
    /// Tensors on the CPU, by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// SHA-256 of the file, in hexadecimal. For weights in several files, that of the text `sha256sum` prints of the index
    /// and the files, in the order of their names.
    pub digest: String,
    /// What a safetensors file says about itself; empty for a state dict.
    pub metadata: BTreeMap<String, String>,
}

/// Files above this many bytes are not read: ten times the largest of the architectures.
const MAX_FILE: u64 = 8 << 30;

/// Reads a `.safetensors` file, the index of one that is cut into several (`model.safetensors.index.json`), or a PyTorch
/// state dict; which one it is is seen from its content. With `sha256` (64 hexadecimal digits) weights of another digest
/// are refused; a single file before anything in it is looked at.
pub fn load(path: &Path, sha256: Option<&str>) -> Result<Weights, WeightsError> {
    let bytes = read_file(path)?;
    let check = |found: &str| match sha256 {
        Some(expected) if !expected.eq_ignore_ascii_case(found) => {
            Err(WeightsError::Digest { path: path.to_owned(), expected: expected.to_owned(), found: found.to_owned() })
        }
        Some(_) | None => Ok(()),
    };
    if bytes.starts_with(b"{") {
        let (weights, listing) = shards::read(path, &bytes)?;
        let digest = hex(&Sha256::digest(listing));
        check(&digest)?;
        return Ok(Weights { digest, ..weights });
    }
    let digest = hex(&Sha256::digest(&bytes));
    check(&digest)?;
    let format = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
    let (tensors, metadata) = if bytes.starts_with(b"PK\x03\x04") {
        (pth::read(&bytes).map_err(format)?, BTreeMap::new())
    } else if bytes.starts_with(b"\x80\x02") {
        (legacy::read(&bytes).map_err(format)?, BTreeMap::new())
    } else {
        safe::read(&bytes).map_err(format)?
    };
    Ok(Weights { tensors, digest, metadata })
}

fn read_file(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let io = |source| WeightsError::Io { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > MAX_FILE {
        let reason = format!("{size} bytes are more than the limit of {MAX_FILE}; a state dict without the optimizer's state is smaller");
        return Err(WeightsError::Format { path: path.to_owned(), reason });
    }
    std::fs::read(path).map_err(io)
}

/// A tensor of a file's bytes, with floating point as 32-bit and integers as 64-bit. `bytes` must be as many as the
/// shape needs.
fn tensor(bytes: &[u8], shape: &[i64], kind: Kind) -> Result<Tensor, String> {
    let numbers = shape.iter().try_fold(1i64, |n, &d| if d < 0 { None } else { n.checked_mul(d) });
    let wanted = numbers.and_then(|n| usize::try_from(n).ok()).and_then(|n| n.checked_mul(kind.elt_size_in_bytes()));
    if wanted != Some(bytes.len()) {
        return Err(format!("{} bytes cannot be a tensor of shape {shape:?} and kind {kind:?}", bytes.len()));
    }
    let made = Tensor::f_from_data_size(bytes, shape, kind).and_then(|t| t.f_to_kind(widened(kind)));
    made.map_err(|e| graft_torch::Error::from_tch("make a tensor", &e).to_string())
}

/// The kind that a tensor of a file is kept in.
fn widened(kind: Kind) -> Kind {
    match kind {
        Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double => Kind::Float,
        _ => Kind::Int64,
    }
}
