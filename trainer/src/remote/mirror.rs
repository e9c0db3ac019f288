//! Data of an object store as a folder of the disk: the same paths as below the prefix, each object fetched once for its version, and
//! its SHA-256 written down. What then reads the folder need not know where it came from.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use graft_crds::contract::ExitReason;
use graft_crds::spec::Data;
use sha2::{Digest, Sha256};

use super::bucket::{Bucket, Object, in_a_store};
use super::index::Index;
use super::{CONNECTIONS, RemoteError, environment, unreachable};
use crate::event::Failure;
use crate::storage;

/// How often it is said how far the fetching is.
const NEWS: Duration = Duration::from_secs(10);

/// `data` with the folder of the disk in place of each `s3://BUCKET/PREFIX`, `gs://…` and `az://…`, where what lies below the prefix has been fetched: with a
/// manifest, that and the files that it names; without, what is an image by its name. The folders are below `cache`, which processes may
/// share. Those of one `attempt` (the empty one is none) see the same version of the data, the one that the first of them found.
/// `log` hears what takes long.
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
    for (field, uri, manifest) in sets.into_iter().filter(|(_, uri, _)| in_a_store(uri)) {
        let folder = fetch(uri, manifest.map(|name| (name, input.as_str())), cache, attempt, &mut log).map_err(|error| match error {
            RemoteError::Io { path, source } => Failure::storage(&path, source),
            RemoteError::Unreachable { why, permanent: true } => {
                Failure::new(ExitReason::DataError, "DataNotFound", format!("{field}: {uri}: {why}"))
            }
            RemoteError::Unreachable { why, permanent: false } => {
                Failure::new(ExitReason::CheckpointError, "DataUnreachable", format!("{field}: {uri}: {why}"))
            }
        })?;
        *uri = format!("file://{}", folder.display());
    }
    Ok(data)
}

/// Whether any of it lies in an object store.
#[must_use]
pub fn is_remote(data: &Data) -> bool {
    let sets = [Some(&data.train.uri), data.validation.uri.as_ref(), data.test.as_ref().map(|set| &set.uri)];
    sets.into_iter().flatten().any(|uri| in_a_store(uri))
}

fn fetch(uri: &str, manifest: Option<(&str, &str)>, cache: &Path, attempt: &str, log: &mut impl FnMut(String)) -> Result<PathBuf, RemoteError> {
    let bucket = Bucket::of(uri, environment)?;
    let folder = cache.join(format!("{}-{}", bucket.name(), name_of(&[bucket.place(), uri])));
    let mirror = Mirror { uri, bucket: &bucket, files: folder.join("files"), parts: folder.join("parts") };
    for path in [&mirror.files, &mirror.parts] {
        fs::create_dir_all(path).map_err(io(path))?;
    }
    // Processes that share the folder wait for the one that fetches. Without locks in the file system they fetch beside each other.
    let lock = File::create(folder.join("lock")).map_err(io(&folder))?;
    let _ = lock.lock();
    let done = folder.join(format!("done-{}", name_of(&[manifest.map_or("", |(name, _)| name)])));
    if !attempt.is_empty() && fs::read_to_string(&done).is_ok_and(|text| text == attempt) {
        return Ok(mirror.files);
    }
    let objects = bucket.objects()?;
    if objects.is_empty() {
        return Err(unreachable("holds no object; check bucket and prefix".into(), true));
    }
    let mut index = Index::open(folder.join("index.csv"))?;
    index.keep(&mirror.files, &objects)?;
    let wanted: Vec<(&String, &Object)> = match manifest {
        Some((name, input)) => {
            let (key, object) = objects.get_key_value(name).ok_or_else(|| unreachable(format!("there is no {name:?}, the manifest"), true))?;
            mirror.get(&[(key, object)], &mut index, log)?;
            let named = graft_data::named(&mirror.files.join(name), input);
            objects.iter().filter(|(key, _)| named.contains(*key)).collect()
        }
        None => objects.iter().filter(|(key, _)| graft_data::named_as_image(key)).collect(),
    };
    mirror.get(&wanted, &mut index, log)?;
    fs::write(&done, attempt).map_err(io(&done))?;
    Ok(mirror.files)
}

/// A name for what these texts identify: 16 hexadecimal digits.
fn name_of(texts: &[&str]) -> String {
    crate::hex(&Sha256::digest(texts.join("\n"))[..8])
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> RemoteError + use<> {
    let path = path.to_owned();
    |source| RemoteError::Io { path, source }
}

struct Mirror<'a> {
    uri: &'a str,
    bucket: &'a Bucket,
    /// Whole files, by their keys.
    files: PathBuf,
    /// What is on its way.
    parts: PathBuf,
}

impl Mirror<'_> {
    /// Fetch those of the objects that are not there in this version.
    fn get(&self, wanted: &[(&String, &Object)], index: &mut Index, log: &mut impl FnMut(String)) -> Result<(), RemoteError> {
        let missing: Vec<(&String, &Object)> = wanted.iter().filter(|(key, object)| !index.has(&self.files, key, object)).copied().collect();
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
        let named = |error| match error {
            RemoteError::Unreachable { why, permanent } => {
                let shown = if graft_data::shows_person(key) { "an object whose key looks like personal data" } else { key };
                unreachable(format!("{shown}: {why}"), permanent)
            }
            other => other,
        };
        let partial = self.parts.join(name_of(&[key, &object.version]));
        self.bucket.get(key, object, &partial).map_err(named)?;
        let found = storage::entry(&partial).map_err(io(&partial))?;
        if found.bytes != object.bytes {
            fs::remove_file(&partial).map_err(io(&partial))?;
            return Err(named(unreachable(format!("has {} bytes, not the {} of the listing", found.bytes, object.bytes), false)));
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

/// The objects below a prefix, by the rest of their keys.
pub(super) type Objects = BTreeMap<String, Object>;
