//! What a folder holds of an object store: a line of CSV for each object with its key, version, bytes and SHA-256, written when the
//! object is there. A line that a crash cut off costs that object a second download.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use super::RemoteError;
use super::bucket::Object;
use super::mirror::Objects;

pub(super) struct Index {
    path: PathBuf,
    /// Version, bytes and SHA-256 by key.
    held: BTreeMap<String, (String, u64, String)>,
    writer: csv::Writer<File>,
}

impl Index {
    /// Reads what was written, and writes it anew without what is no longer so.
    pub(super) fn open(path: PathBuf) -> Result<Self, RemoteError> {
        let mut held = BTreeMap::new();
        if let Ok(mut reader) = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(&path) {
            held.extend(
                reader.deserialize().flatten().map(|(key, version, bytes, sha256): (String, String, u64, String)| (key, (version, bytes, sha256))),
            );
        }
        let anew = || -> std::io::Result<csv::Writer<File>> {
            let partial = path.with_extension("partial");
            let mut writer = csv::WriterBuilder::new().has_headers(false).from_path(&partial)?;
            for (key, (version, bytes, sha256)) in &held {
                writer.serialize((key, version, bytes, sha256))?;
            }
            writer.flush()?;
            fs::rename(&partial, &path)?;
            Ok(csv::WriterBuilder::new().has_headers(false).from_writer(OpenOptions::new().append(true).open(&path)?))
        };
        let writer = anew().map_err(|source| RemoteError::Io { path: path.clone(), source })?;
        Ok(Self { path, held, writer })
    }

    /// Forgets, and removes from the folder `files`, those of the keys that were `asked` for that are not among `objects` in this version.
    pub(super) fn keep(&mut self, files: &Path, objects: &Objects, asked: impl Fn(&str) -> bool) -> Result<(), RemoteError> {
        let stays =
            |key: &String, held: &(String, u64, String)| objects.get(key).is_some_and(|object| (&object.version, object.bytes) == (&held.0, held.1));
        let gone: Vec<String> = self.held.iter().filter(|(key, held)| asked(key) && !stays(key, held)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            let path = files.join(&key);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(RemoteError::Io { path, source }),
                _ => {
                    self.held.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// Whether the object is there in this version.
    pub(super) fn has(&self, files: &Path, key: &str, object: &Object) -> bool {
        self.held.get(key).is_some_and(|(version, bytes, _)| (version, *bytes) == (&object.version, object.bytes))
            && fs::metadata(files.join(key)).is_ok_and(|file| file.len() == object.bytes)
    }

    /// It is there.
    pub(super) fn add(&mut self, key: &str, object: &Object, sha256: String) -> Result<(), RemoteError> {
        let written = self.writer.serialize((key, &object.version, object.bytes, &sha256)).map_err(std::io::Error::from);
        written.and_then(|()| self.writer.flush()).map_err(|source| RemoteError::Io { path: self.path.clone(), source })?;
        self.held.insert(key.to_owned(), (object.version.clone(), object.bytes, sha256));
        Ok(())
    }
}
