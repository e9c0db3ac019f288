//! Decoded images on the disk, so that only the first start on a data set decodes: a restart, another job and the other ranks of a node
//! read what is there. An image is found by the digest of its file, and lies beside its fingerprint in a folder for its data set and
//! preprocessing; whoever builds writes segments of its own, so any number of processes can build together, and at worst an image
//! is there twice. It may assume nothing about what lies in the folder: what is not whole, or not what was written, is decoded anew.

pub mod kept;
mod segment;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use graft_crds::spec::Window;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::decode::{Geometry, Reading};
use crate::digest::hex;
use crate::doctor::Fingerprint;
use crate::loader::{FileDigest, lock};
use segment::{Draft, Name, PARTIAL, Segment, WHOLE};

/// Bytes of images after which a segment is closed: so much is decoded again at most after a crash.
const SEGMENT: usize = 128 << 20;
/// A file system is left with a tenth of its room, or with this many bytes: checkpoints may lie there too.
const LEFT_FREE: u64 = 2 << 30;
/// A file that nobody writes is left alone for so long: its writer may be about to lock it.
const FRESH: Duration = Duration::from_secs(60);
const ABOUT: &str = "about.json";
/// Digest of the source of everything that makes pixels.
const DECODER: &str = env!("GRAFT_DATA_SOURCE");

/// What the images of a folder have in common; `about.json` in it, whose age is that of the last use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Where the data set lies.
    pub data: Vec<String>,
    /// Size and shape of the images.
    pub geometry: Geometry,
    /// Grey windows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// What decoded them.
    pub decoder: String,
}

/// The decoded images of a data set.
#[derive(Debug)]
pub struct Decoded {
    root: PathBuf,
    folder: PathBuf,
    image: usize,
    quota: u64,
    known: Mutex<Known>,
    writing: Mutex<Writing>,
}

#[derive(Debug, Default)]
struct Known {
    files: HashSet<OsString>,
    places: HashMap<Name, Place>,
}

#[derive(Debug)]
enum Writing {
    Idle,
    Open(Draft),
    /// Why nothing more is kept.
    Stopped(String),
}

/// Where an image lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    segment: Arc<Segment>,
    number: usize,
}

impl Place {
    /// Reads the pixels; a segment that is damaged is removed.
    ///
    /// # Errors
    /// They cannot be read, or are not what was written.
    pub(crate) fn read(&self, to: &mut [u8]) -> io::Result<()> {
        self.segment.pixels(self.number, to).inspect_err(|_| self.segment.discard())
    }

    /// Has the system read it from the disk, and does not wait.
    pub(crate) fn prefetch(&self) {
        self.segment.prefetch(self.number);
    }
}

impl Decoded {
    /// The images below `root` of the data set that lies at `data`, decoded to `geometry`; `root` may hold `quota` bytes.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn open(root: &Path, data: Vec<String>, geometry: Geometry, reading: &Reading, quota: u64) -> io::Result<Self> {
        let about = About { data, geometry, windows: reading.windows.clone(), decoder: DECODER.into() };
        let name = Sha256::digest(format!("{about:?} {:?}", reading.limits));
        let folder = root.join(hex(&name[..8]));
        fs::create_dir_all(&folder)?;
        let mut file = tempfile::Builder::new().suffix(".about").tempfile_in(&folder)?;
        file.write_all(&serde_json::to_vec_pretty(&about)?)?;
        file.persist(folder.join(ABOUT)).map_err(|error| error.error)?;
        remove_abandoned(&folder)?;
        let writing = Mutex::new(Writing::Idle);
        let decoded = Self { root: root.to_owned(), folder, image: geometry.bytes(), quota, known: Mutex::default(), writing };
        decoded.refresh();
        Ok(decoded)
    }

    /// Where the images lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Finds what others have written since.
    pub fn refresh(&self) {
        let known = &mut *lock(&self.known);
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|kind| kind != WHOLE) || !known.files.insert(entry.file_name()) {
                continue;
            }
            match Segment::open(&path, self.image) {
                Ok((segment, names)) => {
                    let segment = Arc::new(segment);
                    for (number, name) in names.into_iter().enumerate() {
                        known.places.entry(name).or_insert_with(|| Place { segment: segment.clone(), number });
                    }
                }
                // Segments appear whole: this one was damaged later. If it cannot be removed, it is found damaged again.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => drop(fs::remove_file(&path)),
                Err(_) => {}
            }
        }
    }

    pub(crate) fn find(&self, file: FileDigest, slice: Option<u32>) -> Option<Place> {
        lock(&self.known).places.get(&(file, slice)).cloned()
    }

    /// The fingerprint of an image that is here, if its pixels are what was written.
    pub(crate) fn look(&self, file: FileDigest, slice: Option<u32>) -> Option<Fingerprint> {
        thread_local! {
            static PIXELS: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        let place = self.find(file, slice)?;
        let sound = PIXELS.with_borrow_mut(|pixels| {
            pixels.resize(self.image, 0);
            place.read(pixels)
        });
        let print = sound.ok().and_then(|()| place.segment.print(place.number));
        if print.is_none() {
            lock(&self.known).places.remove(&(file, slice));
        }
        print.filter(|print| print.file() == file)
    }

    /// Keeps an image, if there is room.
    pub(crate) fn put(&self, print: &Fingerprint, slice: Option<u32>, pixels: &[u8]) {
        let writing = &mut *lock(&self.writing);
        let written = match std::mem::replace(writing, Writing::Idle) {
            Writing::Stopped(why) => {
                *writing = Writing::Stopped(why);
                return;
            }
            Writing::Open(draft) => Ok(draft),
            Writing::Idle => self.make_room().and_then(|()| Draft::new(&self.folder)),
        };
        let written = written.and_then(|mut draft| {
            draft.add(print, slice, pixels)?;
            if draft.bytes < SEGMENT { Ok(Writing::Open(draft)) } else { draft.finish().map(|()| Writing::Idle) }
        });
        *writing = written.unwrap_or_else(|error| Writing::Stopped(error.to_string()));
    }

    /// Closes what was put; from then on others can find it.
    pub fn seal(&self) {
        let writing = &mut *lock(&self.writing);
        *writing = match std::mem::replace(writing, Writing::Idle) {
            Writing::Open(draft) => draft.finish().map_or_else(|error| Writing::Stopped(error.to_string()), |()| Writing::Idle),
            other => other,
        };
    }

    /// Why not everything could be kept.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &*lock(&self.writing) {
            Writing::Stopped(why) => Some(format!("{}: {why}", self.folder.display())),
            Writing::Idle | Writing::Open(_) => None,
        }
    }

    /// Room for one more segment: what other data sets have is given up for it, the longest unused first.
    fn make_room(&self) -> io::Result<()> {
        let others = kept::Policy { quota: self.quota.saturating_sub(SEGMENT as u64), older_than: None, spare: Some(&self.folder) };
        kept::free(&self.root, &others, SystemTime::now())?;
        let bytes: u64 = kept::list(&self.root)?.iter().map(|kept| kept.bytes).sum();
        if bytes + SEGMENT as u64 > self.quota {
            return Err(io::Error::other(format!("the quota of {:.1} GiB is used up", self.quota as f64 / f64::from(1 << 30))));
        }
        let system = rustix::fs::statvfs(&self.folder)?;
        let (free, all) = (system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize);
        if free < SEGMENT as u64 + LEFT_FREE.min(all / 10) {
            return Err(io::Error::other(format!(
                "only {:.1} GiB are free there, which are left for other things",
                free as f64 / f64::from(1 << 30)
            )));
        }
        Ok(())
    }
}

/// Removes segments in the making whose writers are gone; gives their bytes.
fn remove_abandoned(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let Ok(about) = entry.metadata() else { continue };
        let fresh = about.modified().ok().and_then(|then| then.elapsed().ok()).is_none_or(|age| age < FRESH);
        if path.extension().is_some_and(|kind| kind == PARTIAL) && !fresh && nobody_writes(&path) {
            bytes += fs::remove_file(&path).map_or(0, |()| about.len());
        }
    }
    Ok(bytes)
}

/// On a network's file system only a file that is open for writing can be locked.
fn nobody_writes(path: &Path) -> bool {
    fs::OpenOptions::new().write(true).open(path).is_ok_and(|file| file.try_lock().is_ok())
}
