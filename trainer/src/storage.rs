//! Files that are whole or absent: written under another name, flushed to the disk, renamed. Reads and digests of files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use graft_trainer_core::checkpoint::FileEntry;
use sha2::{Digest, Sha256};

use crate::event::Failure;

/// Write a file so that it is whole or not there, even after a power loss.
///
/// # Errors
/// `StorageFailed` with the path.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|error| Failure::storage(path, error))
}

/// Make a folder and those above it.
///
/// # Errors
/// `StorageFailed` with the path.
pub fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| Failure::storage(path, error))
}

/// Size and SHA-256 of a file.
///
/// # Errors
/// It cannot be read.
pub fn entry(path: &Path) -> std::io::Result<FileEntry> {
    let mut file = File::open(path)?;
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(FileEntry { bytes, sha256: crate::hex(&digest.finalize()) });
        }
        bytes += n as u64;
        digest.update(&buffer[..n]);
    }
}

/// The folder of `spec.output.uri`, checked to be writable.
///
/// # Errors
/// `OutputNotWritable`, a user error.
pub fn open_output(uri: &str) -> Result<PathBuf, Failure> {
    let folder = graft_data::local_path(uri).to_path_buf();
    let attempt = || -> std::io::Result<()> {
        let own = folder.join(".graft");
        fs::create_dir_all(&own)?;
        // All ranks try at once, and those of different pods may well share a process id: the name must be random.
        let mut probe = tempfile::Builder::new().prefix("probe-").tempfile_in(&own)?;
        probe.write_all(b"graft")?;
        probe.close()
    };
    attempt().map_err(|error| {
        let text = format!("spec.output.uri: {} cannot be written: {error}; mount a volume there that user 65532 may write to", folder.display());
        Failure::user("OutputNotWritable", text)
    })?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn many_ranks_try_the_output_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let uri = format!("file://{}", folder.path().join("models/a").display());
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..100).try_for_each(|_| open_output(&uri).map(drop)))).collect();
            for one in all {
                one.join().unwrap().unwrap();
            }
        });
        assert_eq!(fs::read_dir(folder.path().join("models/a/.graft")).unwrap().count(), 0, "the probes are gone");
    }
}
