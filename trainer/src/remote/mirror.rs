//! Data of an object store, a web server or the hub as a folder of the disk: the same paths as there, each object fetched once for its
//! version, and its SHA-256 written down. What then reads the folder need not know where it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use graft_crds::contract::ExitReason;
use graft_crds::spec::Data;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::bucket::{Object, in_a_store};
use super::index::Index;
use super::store::Store;
use super::{CONNECTIONS, RemoteError, environment, unreachable};
use crate::event::Failure;
use crate::storage;

/// How often it is said how far the fetching is.
const NEWS: Duration = Duration::from_secs(10);

/// `data` with the folder of the disk in place of each `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, `https://…` and `hf://datasets/…`, where what
/// lies there has been fetched: with a manifest, that and the files that it names; without, what is an image by its name. The folders are
/// below `cache`, which processes may share. Those of one `attempt` (the empty one is none) see the same version of the data, the one that
/// the first of them found. `log` hears what takes long.
///
/// # Errors
/// `DataNotFound` when the server does not give it, `DataUnreachable` when trying again later may help, `StorageFailed` when `cache`
/// cannot be written.
pub fn local(data: &Data, cache: &Path, attempt: &str, mut log: impl FnMut(String)) -> Result<Data, Failure> {
    let mut data = data.clone();
    let input = &data.columns.input;
    let mut sets = vec![("spec.data.train", &mut data.train.uri, data.train.manifest.as_deref())];
    if let Some(uri) = &mut data.validation.uri {
        sets.push(("spec.data.validation", uri, data.validation.manifest.as_deref()));
    }
    if let Some(test) = &mut data.test {
        sets.push(("spec.data.test", &mut test.uri, test.manifest.as_deref()));
    }
    for (field, uri, manifest) in sets.into_iter().filter(|(_, uri, _)| elsewhere(uri)) {
        let folder = fetch(uri, manifest.map(|name| (name, input.as_str())), cache, attempt, &mut log);
        let folder = folder.map_err(|error| failed(error, &format!("{field}: {uri}")))?;
        *uri = format!("file://{}", folder.display());
    }
    Ok(data)
}

/// What lies at a URI, to be looked at: a folder with the same names, in which tables, lists and DICOM have been fetched into `cache`, and all
/// other files are empty; and the path in it that the URI names, the folder or a table. A web server is asked only for a table, and for the
/// files that it names.
///
/// # Errors
/// As [`local`].
pub fn outline(uri: &str, cache: &Path, mut log: impl FnMut(String)) -> Result<(TempDir, PathBuf), Failure> {
    sketch(uri, cache, &mut log).map_err(|error| failed(error, uri))
}

/// Whether any of it is not on this machine.
#[must_use]
pub fn is_remote(data: &Data) -> bool {
    let sets = [Some(&data.train.uri), data.validation.uri.as_ref(), data.test.as_ref().map(|set| &set.uri)];
    sets.into_iter().flatten().any(|uri| elsewhere(uri))
}

/// Whether a URI of data names what is not on this machine.
#[must_use]
pub fn elsewhere(uri: &str) -> bool {
    in_a_store(uri) || ["https://", "hf://"].iter().any(|scheme| uri.starts_with(scheme))
}

fn failed(error: RemoteError, place: &str) -> Failure {
    match error {
        RemoteError::Io { path, source } => Failure::storage(&path, source),
        RemoteError::Unreachable { why, permanent: true } => Failure::new(ExitReason::DataError, "DataNotFound", format!("{place}: {why}")),
        RemoteError::Unreachable { why, permanent: false } => Failure::new(ExitReason::CheckpointError, "DataUnreachable", format!("{place}: {why}")),
    }
}

fn fetch(uri: &str, manifest: Option<(&str, &str)>, cache: &Path, attempt: &str, log: &mut impl FnMut(String)) -> Result<PathBuf, RemoteError> {
    let mut mirror = Mirror::open(uri, cache)?;
    let done = mirror.folder.join(format!("done-{}", name_of(&[manifest.map_or("", |(name, _)| name)])));
    if !attempt.is_empty() && fs::read_to_string(&done).is_ok_and(|text| text == attempt) {
        return Ok(mirror.files);
    }
    let listed = mirror.list()?;
    let mut index = Index::open(mirror.folder.join("index.csv"))?;
    let wanted = match (manifest, &listed) {
        (Some((name, input)), listed) => {
            mirror.table(name, listed.as_ref(), &mut index, log)?;
            let asked = graft_data::named(&mirror.files.join(name), input);
            let wanted = mirror.store.find(&asked, listed.as_ref())?;
            match listed {
                Some(objects) => index.keep(&mirror.files, objects, |_| true)?,
                // Other manifests of the folder may name other files.
                None => index.keep(&mirror.files, &wanted, |key| key != name && asked.contains(key))?,
            }
            wanted
        }
        (None, Some(objects)) => {
            index.keep(&mirror.files, objects, |_| true)?;
            objects.iter().filter(|(key, _)| graft_data::named_as_image(key)).map(|(key, object)| (key.clone(), object.clone())).collect()
        }
        (None, None) => return Err(unreachable("an https:// folder cannot be listed; name its manifest".into(), true)),
    };
    mirror.get(&wanted, &mut index, log)?;
    fs::write(&done, attempt).map_err(io(&done))?;
    Ok(mirror.files)
}

fn sketch(uri: &str, cache: &Path, log: &mut impl FnMut(String)) -> Result<(TempDir, PathBuf), RemoteError> {
    let (base, table) = match uri.rsplit_once('/') {
        Some((base, name)) if graft_data::named_as_table(name) => (base, Some(name)),
        _ => (uri, None),
    };
    let mut mirror = Mirror::open(base, cache)?;
    let listed = mirror.list()?;
    let mut index = Index::open(mirror.folder.join("index.csv"))?;
    let (read, all) = match (table, listed) {
        (Some(name), Some(objects)) => (mirror.table(name, Some(&objects), &mut index, log)?, objects),
        (Some(name), None) => {
            let read = mirror.table(name, None, &mut index, log)?;
            let mut all = mirror.store.find(&graft_data::inspect::images_of(&mirror.files.join(name)), None)?;
            all.extend(read.clone());
            (read, all)
        }
        (None, Some(objects)) => {
            let read = |key: &String| graft_data::inspect::is_read(key);
            let read: Objects = objects.iter().filter(|(key, _)| read(key)).map(|(key, object)| (key.clone(), object.clone())).collect();
            mirror.get(&read, &mut index, log)?;
            (read, objects)
        }
        (None, None) => return Err(unreachable("an https:// folder cannot be listed; name a table in it, such as …/manifest.csv".into(), true)),
    };
    let folder = tempfile::tempdir().map_err(io(&std::env::temp_dir()))?;
    for key in all.keys() {
        let path = folder.path().join(key);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            if read.contains_key(key) { std::os::unix::fs::symlink(mirror.files.join(key), &path) } else { File::create(&path).map(drop) }
        });
        made.map_err(io(&path))?;
    }
    let path = table.map_or_else(|| folder.path().to_owned(), |name| folder.path().join(name));
    Ok((folder, path))
}

/// A name for what these texts identify: 16 hexadecimal digits.
fn name_of(texts: &[&str]) -> String {
    crate::hex(&Sha256::digest(texts.join("\n"))[..8])
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> RemoteError + use<> {
    let path = path.to_owned();
    |source| RemoteError::Io { path, source }
}

/// A folder of the disk that holds what a URI names.
struct Mirror<'a> {
    uri: &'a str,
    store: Store,
    folder: PathBuf,
    /// Whole files, by their keys.
    files: PathBuf,
    /// What is on its way.
    parts: PathBuf,
    /// Processes that share the folder wait for the one that fetches. Without locks in the file system they fetch beside each other.
    _lock: File,
}

impl<'a> Mirror<'a> {
    fn open(uri: &'a str, cache: &Path) -> Result<Self, RemoteError> {
        let store = Store::of(uri, environment)?;
        let (name, place) = store.names();
        let folder = cache.join(format!("{name}-{}", name_of(&[place, uri])));
        let (files, parts) = (folder.join("files"), folder.join("parts"));
        for path in [&files, &parts] {
            fs::create_dir_all(path).map_err(io(path))?;
        }
        let lock = File::create(folder.join("lock")).map_err(io(&folder))?;
        let _ = lock.lock();
        Ok(Self { uri, store, folder, files, parts, _lock: lock })
    }

    /// All objects, where they can be listed.
    fn list(&mut self) -> Result<Option<Objects>, RemoteError> {
        match self.store.list()? {
            Some(objects) if objects.is_empty() => {
                let what = if in_a_store(self.uri) { "bucket and prefix" } else { "revision and folder" };
                Err(unreachable(format!("holds no object; check {what}"), true))
            }
            listed => Ok(listed),
        }
    }

    /// Fetches the manifest, or another table.
    fn table(&self, name: &str, listed: Option<&Objects>, index: &mut Index, log: &mut impl FnMut(String)) -> Result<Objects, RemoteError> {
        let table = self.store.find(&BTreeSet::from([name.to_owned()]), listed)?;
        if table.is_empty() {
            return Err(unreachable(format!("there is no {name:?}, the manifest"), true));
        }
        self.get(&table, index, log)?;
        Ok(table)
    }

    /// Fetch those of the objects that are not there in this version.
    fn get(&self, wanted: &Objects, index: &mut Index, log: &mut impl FnMut(String)) -> Result<(), RemoteError> {
        let missing: Vec<(&String, &Object)> = wanted.iter().filter(|(key, object)| !index.has(&self.files, key, object)).collect();
        let bytes: u64 = missing.iter().map(|(_, object)| object.bytes).sum();
        if missing.is_empty() {
            return Ok(());
        }
        log(format!("data: fetching {} of {} objects, {:.1} MiB, of {}", missing.len(), wanted.len(), bytes as f64 / 1_048_576.0, self.uri));
        let next = AtomicUsize::new(0);
        let (tell, hear) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS.min(missing.len()) {
                let (tell, next, missing) = (tell.clone(), &next, &missing);
                scope.spawn(move || {
                    while let Some((key, object)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // Nobody hears when another object has failed.
                        if tell.send((*key, *object, self.one(key, object))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(tell);
            let mut said = Instant::now();
            for (number, (key, object, fetched)) in hear.into_iter().enumerate() {
                index.add(key, object, fetched?)?;
                if said.elapsed() > NEWS {
                    log(format!("data: {} of {} objects are here", number + 1, missing.len()));
                    said = Instant::now();
                }
            }
            Ok(())
        })
    }

    /// Fetch an object; gives its SHA-256.
    fn one(&self, key: &str, object: &Object) -> Result<String, RemoteError> {
        let partial = self.parts.join(name_of(&[key, &object.version]));
        self.store.get(key, object, &partial).map_err(|error| named(key, error))?;
        let found = storage::entry(&partial).map_err(io(&partial))?;
        if found.bytes != object.bytes {
            fs::remove_file(&partial).map_err(io(&partial))?;
            return Err(named(key, unreachable(format!("has {} bytes, not the {} of the listing", found.bytes, object.bytes), false)));
        }
        if object.sha256.as_ref().is_some_and(|sha256| *sha256 != found.sha256) {
            fs::remove_file(&partial).map_err(io(&partial))?;
            return Err(named(key, unreachable(format!("has the SHA-256 {}, not that of the listing", found.sha256), false)));
        }
        let path = self.files.join(key);
        let moved = File::open(&partial)
            .and_then(|file| file.sync_all())
            .and_then(|()| path.parent().map_or(Ok(()), fs::create_dir_all))
            .and_then(|()| fs::rename(&partial, &path));
        moved.map_err(io(&path))?;
        Ok(found.sha256)
    }
}

/// An error with the object that it is about.
pub(super) fn named(key: &str, error: RemoteError) -> RemoteError {
    match error {
        RemoteError::Unreachable { why, permanent } => {
            let shown = if graft_data::shows_person(key) { "an object whose key looks like personal data" } else { key };
            unreachable(format!("{shown}: {why}"), permanent)
        }
        other => other,
    }
}

/// The objects below a prefix, by the rest of their keys.
pub(super) type Objects = BTreeMap<String, Object>;
