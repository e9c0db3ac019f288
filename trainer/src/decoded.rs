//! Where decoded images are kept: `.graft/decoded` of a job's output, or the user's cache folder for commands without a job. The environment
//! may name another folder, to be shared by several jobs, and how much it may hold.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use graft_crds::spec::Data;
use graft_data::decoded::Decoded;
use graft_data::{Geometry, Reading};

use crate::remote::environment;

/// Names the folder.
const FOLDER: &str = "GRAFT_DECODED";
/// How many GiB it may hold; 0 keeps nothing.
const QUOTA: &str = "GRAFT_DECODED_GIB";
/// If nothing is said: ChestX-ray14 at 224 × 224 pixels has 16.
const DEFAULT_QUOTA: f64 = 32.0;

/// The folder of all decoded images: the environment's, else the usual one.
#[must_use]
pub fn folder(usual: &Path) -> PathBuf {
    environment(FOLDER).map_or_else(|| usual.to_owned(), PathBuf::from)
}

/// The bytes that the folder may hold.
///
/// # Errors
/// What the environment says is no number.
pub fn quota() -> Result<u64, String> {
    let said = environment(QUOTA);
    let bytes = said.as_deref().map_or(Ok(DEFAULT_QUOTA), str::parse).ok().and_then(bytes);
    bytes.ok_or_else(|| format!("{QUOTA}: {:?} is no number of GiB, such as 32", said.unwrap_or_default()))
}

/// So many GiB; none of what is no amount of memory.
#[must_use]
pub fn bytes(gib: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is finite and not negative, and more is cut off")]
    (gib.is_finite() && gib >= 0.0).then(|| (gib * f64::from(1 << 30)) as u64)
}

/// The decoded images of a data set; none if nothing is to be kept. `data` is as the job names it.
///
/// # Errors
/// Why nothing can be kept, in a sentence. That is no reason to stop.
pub fn open(usual: &Path, data: &Data, geometry: Geometry, reading: &Reading) -> Result<Option<Arc<Decoded>>, String> {
    let quota = quota()?;
    if quota == 0 {
        return Ok(None);
    }
    let sets = [Some(&data.train.uri), data.validation.uri.as_ref(), data.test.as_ref().map(|set| &set.uri)];
    let root = folder(usual);
    let decoded = Decoded::open(&root, sets.into_iter().flatten().cloned().collect(), geometry, reading, quota);
    decoded.map(|decoded| Some(Arc::new(decoded))).map_err(|error| format!("{}: {error}", root.display()))
}

/// What is said when not everything is kept.
#[must_use]
pub fn without(why: &str) -> String {
    format!("decoded images are not all kept on the disk, and the next start decodes them anew: {why}")
}
