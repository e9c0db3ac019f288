//! Gives batches of decoded images, in the order asked for: from the disk where they are kept decoded, else from worker threads and
//! memory. A batch is a function of the files and the indices alone: threads, caches and prefetching change when an image is decoded,
//! never what comes out.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use image::DynamicImage;
use sha2::{Digest, Sha256};

use crate::dataset::Sample;
use crate::decode::{DecodeError, Geometry, Reading, decode_picture, fit, guarded, read_file};
use crate::decoded::{Decoded, Place};
use crate::doctor::Fingerprint;
use crate::error::{DataError, Finding, Reason};
use crate::parallel;

type Pixels = Arc<[u8]>;

/// SHA-256 of an image file.
pub type FileDigest = [u8; 32];

/// After so long a file that was moved or changed is looked at once more.
const PAUSE: Duration = Duration::from_secs(1);
/// How often [`Loader::examine`] says how far it is.
const NEWS: Duration = Duration::from_secs(10);

/// Where decoded images are kept: on the disk, where there is such a place; what is not there, in memory, up to a number of bytes. What
/// is in memory stays in: with a new random order each epoch, a fixed part of the images hits more often than the most recent ones would.
#[derive(Debug)]
pub struct DecodeCache {
    budget: usize,
    held: Mutex<(usize, HashMap<usize, Pixels>)>,
    disk: Option<Arc<Decoded>>,
}

impl DecodeCache {
    /// An empty cache of at most `budget` bytes of pixels in memory; 0 keeps nothing.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { budget, held: Mutex::default(), disk: None }
    }

    /// The same before images on the disk.
    #[must_use]
    pub fn before(self, disk: Option<Arc<Decoded>>) -> Self {
        Self { disk, ..self }
    }

    fn get(&self, index: usize) -> Option<Pixels> {
        lock(&self.held).1.get(&index).cloned()
    }

    fn put(&self, index: usize, pixels: &Pixels) {
        let mut held = lock(&self.held);
        if held.0 + pixels.len() <= self.budget && !held.1.contains_key(&index) {
            held.0 += pixels.len();
            held.1.insert(index, pixels.clone());
        }
    }

    /// Bytes of pixels that are held in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        lock(&self.held).0
    }
}

/// A poisoned lock only means that another thread panicked between two whole updates.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a file once all are checked.
struct Checked {
    file: FileDigest,
    place: Option<Place>,
}

/// A file that was read, and its digest.
struct Whole {
    path: PathBuf,
    bytes: Vec<u8>,
    digest: FileDigest,
}

struct Shared {
    samples: Vec<Sample>,
    geometry: Geometry,
    reading: Reading,
    cache: DecodeCache,
    /// Of each sample; empty until all are checked.
    checked: OnceLock<Vec<Checked>>,
    /// Images that [`Shared::examine`] found decoded on the disk.
    found: AtomicUsize,
    /// How many files were read for it.
    read: AtomicUsize,
    /// The file of several slices that was read last: its slices mostly follow each other.
    last: Mutex<Option<Arc<Whole>>>,
    /// Images asked for: `None` while a worker is at it.
    slots: Mutex<HashMap<usize, Option<Result<Pixels, String>>>>,
    ready: Condvar,
}

impl Shared {
    /// Reads and decodes one image, and offers it to the memory. A file that was checked and is not what it was is looked at again after a
    /// moment: somebody may just be replacing it by the same.
    fn load(&self, index: usize) -> Result<Pixels, String> {
        let loaded = match self.decoded(index) {
            Err(_) if self.checked(index).is_some() => {
                sleep(PAUSE);
                self.decoded(index)
            }
            other => other,
        };
        loaded.map_err(|error| error.to_string())
    }

    fn decoded(&self, index: usize) -> Result<Pixels, DecodeError> {
        guarded(|| {
            let sample = &self.samples[index];
            let bytes = read_file(&sample.path, self.reading.limits)?;
            if self.checked(index).is_some_and(|checked| checked.file[..] != Sha256::digest(&bytes)[..]) {
                return Err(DecodeError::Changed);
            }
            let pixels = self.fitted(decode_picture(&bytes, sample.slice, &self.reading)?.image)?;
            self.cache.put(index, &pixels);
            Ok(pixels)
        })
    }

    fn checked(&self, index: usize) -> Option<&Checked> {
        self.checked.get()?.get(index)
    }

    fn place(&self, index: usize) -> Option<&Place> {
        self.checked(index)?.place.as_ref()
    }

    /// The file of a sample that is examined; one of several slices is read and hashed once, as long as they follow each other.
    fn whole(&self, sample: &Sample) -> Result<Arc<Whole>, DecodeError> {
        let read = || {
            self.read.fetch_add(1, Ordering::Relaxed);
            let bytes = read_file(&sample.path, self.reading.limits)?;
            let digest = Sha256::digest(&bytes).into();
            Ok(Arc::new(Whole { path: sample.path.clone(), bytes, digest }))
        };
        if sample.slice.is_none() {
            return read();
        }
        let mut last = lock(&self.last);
        if let Some(whole) = last.as_ref().filter(|whole| whole.path == sample.path) {
            return Ok(whole.clone());
        }
        // The one before goes first: two volumes need not fit into memory.
        *last = None;
        Ok(last.insert(read()?).clone())
    }

    /// Measures an image and keeps it decoded; its file is read in any case, its pixels only where they are not on the disk.
    fn examine(&self, index: usize) -> Result<Fingerprint, String> {
        let print = guarded(|| {
            let sample = &self.samples[index];
            let whole = self.whole(sample)?;
            let (bytes, digest) = (&whole.bytes, whole.digest);
            let disk = self.cache.disk.as_deref();
            if let Some(print) = disk.and_then(|disk| disk.look(digest, sample.slice)) {
                self.found.fetch_add(1, Ordering::Relaxed);
                return Ok(print);
            }
            let (print, image) = Fingerprint::measure(digest, decode_picture(bytes, sample.slice, &self.reading)?)?;
            let pixels = self.fitted(image)?;
            match disk {
                Some(disk) if disk.trouble().is_none() => disk.put(&print, sample.slice, &pixels),
                _ => self.cache.put(index, &pixels),
            }
            Ok(print)
        });
        print.map_err(|error| error.to_string())
    }

    fn fitted(&self, image: DynamicImage) -> Result<Pixels, DecodeError> {
        Ok(fit(image, &self.geometry, self.reading.limits)?.into())
    }

    fn unusable(&self, failed: BTreeMap<usize, String>) -> DataError {
        let places = failed.iter().map(|(index, why)| format!("{}: {why}", self.samples[*index].shown()));
        let (reason, what, remedy) = if self.checked.get().is_none() {
            (Reason::UndecodableInput, "cannot be decoded", "replace the files or remove their rows")
        } else {
            let remedy = "put the files back as they were, or start the job anew; leave its data alone until it is done";
            (Reason::InputChanged, "were moved or changed after they were checked", remedy)
        };
        DataError::one(Finding::new(reason, format!("{} image files {what}", failed.len()), places.collect(), remedy))
    }
}

/// Batches of decoded images from a list of samples.
pub struct Loader {
    shared: Arc<Shared>,
    jobs: Option<Sender<usize>>,
    workers: Vec<JoinHandle<()>>,
}

impl Loader {
    /// A loader over `samples` with `threads` decoding threads, at least one.
    #[must_use]
    pub fn new(samples: Vec<Sample>, geometry: Geometry, reading: Reading, threads: usize, cache: DecodeCache) -> Self {
        let (checked, found, read, slots, ready) = (OnceLock::new(), AtomicUsize::new(0), AtomicUsize::new(0), Mutex::default(), Condvar::new());
        let reading = Reading { enough: Some(geometry.enough()), ..reading };
        let shared = Arc::new(Shared { samples, geometry, reading, cache, checked, found, read, last: Mutex::default(), slots, ready });
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let workers =
            (0..threads.max(1)).map(|_| (shared.clone(), queue.clone())).map(|(shared, queue)| spawn(move || work(&shared, &queue))).collect();
        Self { shared, jobs: Some(jobs), workers }
    }

    /// The samples, by index.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.shared.samples
    }

    /// Size and shape of the images.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.shared.geometry
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &DecodeCache {
        &self.shared.cache
    }

    /// All files are checked, and `prints` are their fingerprints in the samples' order: from now on a file that is another one is
    /// refused, and what is decoded on the disk is read from there. Without effect when the numbers of samples and fingerprints differ, or
    /// the second time.
    pub fn settle(&mut self, prints: &[Fingerprint]) {
        let disk = self.shared.cache.disk.as_deref();
        if let Some(disk) = disk {
            disk.seal();
            disk.refresh();
        }
        let place = |print: &Fingerprint, sample: &Sample| disk.and_then(|disk| disk.find(print.file(), sample.slice));
        let checked = prints.iter().zip(&self.shared.samples).map(|(print, sample)| Checked { file: print.file(), place: place(print, sample) });
        if prints.len() == self.shared.samples.len() {
            let _ = self.shared.checked.set(checked.collect());
        }
    }

    /// How many images were found decoded on the disk when they were checked here.
    #[must_use]
    pub fn found(&self) -> usize {
        self.shared.found.load(Ordering::Relaxed)
    }

    /// How many files were read to check them here: of several slices in a row one.
    #[must_use]
    pub fn files_read(&self) -> usize {
        self.shared.read.load(Ordering::Relaxed)
    }

    /// Why not all decoded images could be kept on the disk, if they were to be.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.cache.disk.as_ref()?.trouble()
    }

    /// Begins to read or decode images that a later [`Loader::batch`] will ask for, and returns at once. What is decoded ahead stays in
    /// memory until it is asked for, so prefetch one batch ahead and no more.
    pub fn prefetch(&mut self, indices: &[usize]) {
        let mut slots = lock(&self.shared.slots);
        for &index in indices {
            if let Some(place) = self.shared.place(index) {
                place.prefetch();
            } else if index < self.shared.samples.len() && !slots.contains_key(&index) && self.shared.cache.get(index).is_none() {
                let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(index).is_ok());
                if sent {
                    slots.insert(index, None);
                }
            }
        }
    }

    /// The images at `indices` as `[N, 3, S, S]` unsigned bytes, in that order.
    ///
    /// # Errors
    /// `UndecodableInput` with all images of the batch that cannot be decoded; `InputChanged` for files that were checked before.
    ///
    /// # Panics
    /// When an index is not below the number of samples.
    pub fn batch(&mut self, indices: &[usize]) -> Result<Vec<u8>, DataError> {
        let mut batch = vec![0u8; indices.len() * self.shared.geometry.bytes()];
        self.batch_into(indices, &mut batch)?;
        Ok(batch)
    }

    /// As [`Loader::batch`], into memory that is there already, of [`Geometry::bytes`] for each image.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn batch_into(&mut self, indices: &[usize], batch: &mut [u8]) -> Result<(), DataError> {
        self.prefetch(indices);
        let size = self.shared.geometry.bytes();
        let mut failed = BTreeMap::new();
        let mut taken: HashMap<usize, Pixels> = HashMap::new();
        for (target, &index) in batch.chunks_exact_mut(size).zip(indices) {
            // An image that is damaged on the disk is decoded here.
            if self.shared.place(index).is_some_and(|place| place.read(target).is_ok()) {
                continue;
            }
            let found = taken.get(&index).cloned().map(Ok).or_else(|| self.take(index));
            match found.unwrap_or_else(|| self.shared.load(index)) {
                Ok(pixels) => {
                    target.copy_from_slice(&pixels);
                    taken.insert(index, pixels);
                }
                Err(why) => {
                    failed.insert(index, why);
                }
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(self.shared.unusable(failed)) }
    }

    /// What was asked for in the slots, waiting for it, or the cached image; none when neither has it.
    fn take(&mut self, index: usize) -> Option<Result<Pixels, String>> {
        let mut slots = lock(&self.shared.slots);
        while let Some(slot) = slots.get(&index) {
            if slot.is_some() {
                return slots.remove(&index).flatten();
            }
            slots = self.shared.ready.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
        drop(slots);
        self.shared.cache.get(index).map(Ok)
    }

    /// Looks at every image of `range` once, with as many threads as the loader has, keeps them decoded, and returns the files'
    /// fingerprints in order. Run before training, so that a bad file is found before a device is used; ranks can each check a share.
    ///
    /// # Errors
    /// `UndecodableInput` with all files that cannot be decoded.
    pub fn check(&self, range: Range<usize>) -> Result<Vec<Fingerprint>, DataError> {
        let (mut prints, mut failed) = (Vec::with_capacity(range.len()), BTreeMap::new());
        for (index, result) in (range.start..).zip(self.examine(range, |_| ())) {
            match result {
                Ok(print) => prints.push(print),
                Err(why) => drop(failed.insert(index, why)),
            }
        }
        if failed.is_empty() { Ok(prints) } else { Err(self.shared.unusable(failed)) }
    }

    /// As [`Loader::check`], and says of each image that cannot be decoded why. `news` hears now and then how far it is.
    #[must_use]
    pub fn examine(&self, range: Range<usize>, news: impl Fn(String) + Sync) -> Vec<Result<Fingerprint, String>> {
        let end = range.end.min(self.shared.samples.len());
        let start = range.start.min(end);
        if let Some(disk) = &self.shared.cache.disk {
            disk.refresh();
        }
        let (began, done, said) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Instant::now()));
        let all = parallel::map(end - start, self.workers.len(), |at| {
            let print = self.shared.examine(start + at);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Ok(mut said) = said.try_lock()
                && said.elapsed() > NEWS
            {
                *said = Instant::now();
                news(how_far(done, end - start, began.elapsed()));
            }
            print
        });
        *lock(&self.shared.last) = None;
        if let Some(disk) = &self.shared.cache.disk {
            disk.seal();
        }
        all
    }
}

fn how_far(done: usize, all: usize, elapsed: Duration) -> String {
    let left = elapsed.as_secs_f64() / done.max(1) as f64 * (all - done) as f64;
    format!("{done} of {all} images are looked at, {left:.0} s left")
}

fn work(shared: &Shared, queue: &Mutex<Receiver<usize>>) {
    loop {
        let job = lock(queue).recv();
        let Ok(index) = job else { return };
        let result = shared.load(index);
        lock(&shared.slots).insert(index, Some(result));
        shared.ready.notify_all();
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A worker ends when the queue is closed; it catches panics of the decoders itself.
            drop(worker.join());
        }
    }
}
