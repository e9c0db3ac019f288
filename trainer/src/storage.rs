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
    let probe = folder.join(format!(".graft/probe-{}", std::process::id()));
    let attempt = || -> std::io::Result<()> {
        fs::create_dir_all(folder.join(".graft"))?;
        fs::write(&probe, b"graft")?;
        fs::remove_file(&probe)
    };
    attempt().map_err(|error| {
        let text = format!("spec.output.uri: {} cannot be written: {error}; mount a volume there that user 65532 may write to", folder.display());
        Failure::user("OutputNotWritable", text)
    })?;
    Ok(folder)
}
