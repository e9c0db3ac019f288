//! Gives batches of decoded images, in the order asked for, from worker threads and an in-memory cache. A batch is a
//! function of the files and the indices alone: threads, cache and prefetching change when an image is decoded, never
//! what comes out.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};

use image::DynamicImage;
use sha2::{Digest, Sha256};

use crate::dataset::{Dataset, Sample};
use crate::decode::{DecodeError, Geometry, Reading, decode_picture, fit, guarded, read_file};
use crate::doctor::Fingerprint;
use crate::error::{DataError, Finding, Reason};
use crate::parallel;

type Pixels = Arc<[u8]>;

/// SHA-256 of an image file.
pub type FileDigest = [u8; 32];

/// Decoded images in memory, up to a number of bytes. What is in stays in: with a new random order each epoch, a fixed
/// part of the images hits more often than the most recent ones would.
#[derive(Debug)]
pub struct DecodeCache {
    budget: usize,
    held: Mutex<(usize, HashMap<usize, Pixels>)>,
}

impl DecodeCache {
    /// An empty cache of at most `budget` bytes of pixels; 0 keeps nothing.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { budget, held: Mutex::default() }
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

    /// Bytes of pixels that are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        lock(&self.held).0
    }
}

/// A poisoned lock only means that another thread panicked between two whole updates.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared {
    samples: Vec<Sample>,
    geometry: Geometry,
    reading: Reading,
    cache: DecodeCache,
    /// Images asked for: `None` while a worker is at it.
    slots: Mutex<HashMap<usize, Option<Result<Pixels, String>>>>,
    ready: Condvar,
}

impl Shared {
    /// Reads and decodes one image, and offers it to the cache.
    fn load(&self, index: usize) -> Result<Pixels, String> {
        let sample = &self.samples[index];
        let read = || read_file(&sample.path, self.reading.limits);
        let pixels = guarded(|| self.fitted(index, decode_picture(&read()?, sample.slice, &self.reading)?.image));
        pixels.map_err(|error| error.to_string())
    }

    /// As [`Shared::load`], and measures the image.
    fn examine(&self, index: usize) -> Result<Fingerprint, String> {
        let print = guarded(|| {
            let sample = &self.samples[index];
            let bytes = read_file(&sample.path, self.reading.limits)?;
            let (print, image) = Fingerprint::measure(&bytes, decode_picture(&bytes, sample.slice, &self.reading)?)?;
            self.fitted(index, image)?;
            Ok(print)
        });
        print.map_err(|error| error.to_string())
    }

    fn fitted(&self, index: usize, image: DynamicImage) -> Result<Pixels, DecodeError> {
        let pixels: Pixels = fit(image, &self.geometry, self.reading.limits)?.into();
        self.cache.put(index, &pixels);
        Ok(pixels)
    }

    fn undecodable(&self, failed: BTreeMap<usize, String>) -> DataError {
        let places = failed.iter().map(|(index, why)| format!("{}: {why}", self.samples[*index].shown()));
        let what = format!("{} image files cannot be decoded", failed.len());
        DataError::one(Finding::new(Reason::UndecodableInput, what, places.collect(), "replace the files or remove their rows"))
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
        let shared = Arc::new(Shared { samples, geometry, reading, cache, slots: Mutex::default(), ready: Condvar::new() });
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

    /// Begins to decode images that a later [`Loader::batch`] will ask for, and returns at once. What is prefetched stays in
    /// memory until it is asked for, so prefetch one batch ahead and no more.
    pub fn prefetch(&mut self, indices: &[usize]) {
        let mut slots = lock(&self.shared.slots);
        for &index in indices {
            if index < self.shared.samples.len() && !slots.contains_key(&index) && self.shared.cache.get(index).is_none() {
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
    /// `UndecodableInput` with all images of the batch that cannot be decoded.
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
        if failed.is_empty() { Ok(()) } else { Err(self.shared.undecodable(failed)) }
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

    /// Decodes every image of `range` once, with as many threads as the loader has, filling the cache, and returns the
    /// files' fingerprints in order. Run before training, so that a bad file is found before a device is used; ranks can each
    /// check a share.
    ///
    /// # Errors
    /// `UndecodableInput` with all files that cannot be decoded.
    pub fn check(&self, range: Range<usize>) -> Result<Vec<Fingerprint>, DataError> {
        let (mut prints, mut failed) = (Vec::with_capacity(range.len()), BTreeMap::new());
        for (index, result) in (range.start..).zip(self.examine(range)) {
            match result {
                Ok(print) => prints.push(print),
                Err(why) => drop(failed.insert(index, why)),
            }
        }
        if failed.is_empty() { Ok(prints) } else { Err(self.shared.undecodable(failed)) }
    }

    /// As [`Loader::check`], and says of each image that cannot be decoded why.
    #[must_use]
    pub fn examine(&self, range: Range<usize>) -> Vec<Result<Fingerprint, String>> {
        let end = range.end.min(self.shared.samples.len());
        let start = range.start.min(end);
        parallel::map(end - start, self.workers.len(), |at| self.shared.examine(start + at))
    }
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

/// Digest of the labelled data: SHA-256 over split, key, class and file digest of every sample, sorted by split and key,
/// so that the order of a manifest's rows does not matter. `prints` are those of `dataset.samples` in order. Patient
/// ids are no part of it. `None` when the numbers of samples and digests differ.
#[must_use]
pub fn data_digest(dataset: &Dataset, prints: &[Fingerprint]) -> Option<String> {
    if prints.len() != dataset.samples.len() {
        return None;
    }
    let label = |sample: &Sample| if sample.findings.is_empty() { sample.label.to_string() } else { dataset.told(sample) };
    let mut entries: Vec<_> =
        dataset.samples.iter().zip(prints).map(|(sample, print)| (sample.split, sample.key.as_str(), label(sample), print.file)).collect();
    entries.sort_unstable();
    let mut hasher = Sha256::new();
    let mut text = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    text("graft data digest 1");
    for class in &dataset.classes {
        text(class);
    }
    for (split, key, label, file) in entries {
        text(split.name());
        text(key);
        text(&label);
        text(&hex(&file));
    }
    Some(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
