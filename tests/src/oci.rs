//! Writes container images as OCI layouts in one tar file, without a daemon: the same input gives the same bytes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::hex;

/// One thing in a layer, by its path in the image without a leading slash.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A file of this machine.
    File {
        /// Path in the image.
        path: String,
        /// Where its bytes come from.
        source: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A file with given content.
    Bytes {
        /// Path in the image.
        path: String,
        /// Its content.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
    /// An empty folder.
    Folder {
        /// Path in the image.
        path: String,
        /// Permission bits.
        mode: u32,
    },
}

impl Entry {
    fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Bytes { path, .. } | Self::Folder { path, .. } => path,
        }
    }
}

/// What processors an image is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    #[default]
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// Of a program, by the machine in its ELF header.
    ///
    /// # Errors
    /// It cannot be read, or is for other processors.
    pub fn of(program: &Path) -> Result<Self> {
        let mut header = [0; 20];
        File::open(program).and_then(|mut file| file.read_exact(&mut header)).with_context(|| program.display().to_string())?;
        match (&header[..4], u16::from_le_bytes([header[18], header[19]])) {
            (b"\x7fELF", 62) => Ok(Self::Amd64),
            (b"\x7fELF", 183) => Ok(Self::Arm64),
            _ => bail!("{} is no program for 64-bit x86 or Arm", program.display()),
        }
    }

    /// Its name in images.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// How containers of an image start.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What processors its programs are for.
    pub architecture: Architecture,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// `uid:gid`.
    pub user: String,
    /// Labels by name.
    pub labels: Vec<(String, String)>,
}

/// Write `image` with one uncompressed layer per list of entries to the tar file `target`; gives its size in bytes.
///
/// # Errors
/// A source cannot be read or the target cannot be written.
pub fn write_image(target: &Path, image: &str, layers: &[Vec<Entry>], settings: &Settings) -> Result<u64> {
    let folder = target.parent().context("the image needs a folder")?;
    fs::create_dir_all(folder)?;
    let scratch = tempfile::tempdir_in(folder)?;
    let mut blobs: Vec<(String, PathBuf, u64)> = Vec::new();
    for (i, entries) in layers.iter().enumerate() {
        let path = scratch.path().join(format!("layer-{i}.tar"));
        write_layer(&path, entries)?;
        blobs.push((sha256_file(&path)?, path.clone(), path.metadata()?.len()));
    }
    let labels: serde_json::Map<String, Value> = settings.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let config = json!({
        "architecture": settings.architecture.name(), "os": "linux",
        "config": {"User": settings.user, "Env": settings.env, "Entrypoint": settings.entrypoint, "WorkingDir": "/", "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": blobs.iter().map(|(d, _, _)| format!("sha256:{d}")).collect::<Vec<_>>()},
    });
    let descriptors: Vec<Value> = blobs.iter().map(|(d, _, n)| descriptor("application/vnd.oci.image.layer.v1.tar", d, *n)).collect();
    let config = serde_json::to_vec(&config)?;
    let config_digest = hex(&Sha256::digest(&config));
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len() as u64), "layers": descriptors,
    }))?;
    let manifest_digest = hex(&Sha256::digest(&manifest));
    let mut top = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest_digest, manifest.len() as u64);
    top["annotations"] =
        json!({"io.containerd.image.name": image, "org.opencontainers.image.ref.name": image.rsplit(':').next().unwrap_or("latest")});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [top]}))?;

    let partial = scratch.path().join("image.tar");
    let mut tar = tar::Builder::new(io::BufWriter::new(File::create(&partial)?));
    append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", 0o644, &index)?;
    append(&mut tar, &format!("blobs/sha256/{manifest_digest}"), 0o644, &manifest)?;
    append(&mut tar, &format!("blobs/sha256/{config_digest}"), 0o644, &config)?;
    for (digest, path, size) in &blobs {
        tar.append_data(&mut header(*size, 0o644, tar::EntryType::Regular), format!("blobs/sha256/{digest}"), File::open(path)?)?;
    }
    tar.into_inner()?.flush()?;
    fs::rename(&partial, target)?;
    Ok(target.metadata()?.len())
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
}

fn header(size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_entry_type(kind);
    header
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(content.len() as u64, mode, tar::EntryType::Regular), path, content)
}

fn write_layer(target: &Path, entries: &[Entry]) -> Result<()> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.path().cmp(b.path()));
    let mut tar = tar::Builder::new(io::BufWriter::new(File::create(target)?));
    for entry in sorted {
        match entry {
            Entry::File { path, source, mode } => {
                let file = File::open(source).with_context(|| source.display().to_string())?;
                tar.append_data(&mut header(file.metadata()?.len(), *mode, tar::EntryType::Regular), path, file)?;
            }
            Entry::Bytes { path, content, mode } => append(&mut tar, path, *mode, content)?,
            Entry::Folder { path, mode } => tar.append_data(&mut header(0, *mode, tar::EntryType::Directory), format!("{path}/"), io::empty())?,
        }
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

/// SHA-256 of a file in hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&buffer[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_is_for() {
        assert_eq!(
            Architecture::of(&std::env::current_exe().unwrap()).unwrap().name(),
            if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(18, 0);
        fs::write(&file, [header.as_slice(), &[183, 0]].concat()).unwrap();
        assert_eq!(Architecture::of(&file).unwrap(), Architecture::Arm64);
        fs::write(&file, "#!/bin/sh\necho not a program\n").unwrap();
        Architecture::of(&file).unwrap_err();
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let layer =
            vec![Entry::Folder { path: "tmp".into(), mode: 0o1777 }, Entry::Bytes { path: "bin/x".into(), content: b"x".to_vec(), mode: 0o755 }];
        let digests: Vec<String> = ["a.tar", "b.tar"]
            .iter()
            .map(|name| {
                let path = folder.path().join(name);
                write_image(&path, "docker.io/library/x:1", std::slice::from_ref(&layer), &Settings::default()).unwrap();
                sha256_file(&path).unwrap()
            })
            .collect();
        assert_eq!(digests[0], digests[1]);
    }
}
