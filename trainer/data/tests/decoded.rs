//! Decoded images on the disk: found again by any process, equal to what decoding gives, and never read when they are not whole.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use graft_crds::spec::{Fit, Interpolation, Window};
use graft_data::decoded::Decoded;
use graft_data::decoded::kept::{self, Policy, Why};
use graft_data::doctor::Fingerprint;
use graft_data::{DecodeCache, Geometry, Loader, Reading, Sample, Split};
use image::{GrayImage, Luma};

const GEOMETRY: Geometry = Geometry { size: 12, resize: 14, fit: Fit::Crop, interpolation: Interpolation::Bilinear };
const PLENTY: u64 = 1 << 40;
/// Images of a site.
const COUNT: usize = 20;

struct Site {
    folder: tempfile::TempDir,
    samples: Vec<Sample>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sample = |n: usize| {
            let path = folder.path().join(format!("{n}.png"));
            draw(&path, n as u32);
            Sample::unlabelled(path, None, format!("{n}.png"), Split::Train)
        };
        let samples = (0..COUNT).map(sample).collect();
        Self { samples, folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("decoded")
    }

    fn disk(&self, quota: u64) -> Option<Arc<Decoded>> {
        Some(Arc::new(Decoded::open(&self.root(), vec!["file:///data".into()], GEOMETRY, &Reading::default(), quota).unwrap()))
    }

    fn loader(&self, disk: Option<Arc<Decoded>>) -> Loader {
        Loader::new(self.samples.clone(), GEOMETRY, Reading::default(), 2, DecodeCache::new(0).before(disk))
    }

    /// A start: all files are checked, and all images read. Gives how many were found decoded, the fingerprints and the images.
    fn start(&self, disk: Option<Arc<Decoded>>) -> (usize, Vec<Fingerprint>, Vec<u8>) {
        let mut loader = self.loader(disk);
        let prints = loader.check(0..COUNT).unwrap();
        loader.settle(&prints);
        let batch = loader.batch(&(0..COUNT).collect::<Vec<_>>()).unwrap();
        (loader.found(), prints, batch)
    }

    /// The files of decoded images of this kind.
    fn files(&self, kind: &str) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.root()).unwrap().map(|entry| entry.unwrap().path());
        let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|k| k == kind)).collect()
    }
}

fn draw(path: &Path, n: u32) {
    GrayImage::from_fn(20 + n, 30, |x, y| Luma([(x * 7 + y * n + n * 31) as u8])).save(path).unwrap();
}

fn age(path: &Path, seconds: u64) {
    File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn a_second_start_decodes_nothing_and_gives_the_same() {
    let site = Site::new();
    let plain = site.start(None);
    let first = site.start(site.disk(PLENTY));
    let second = site.start(site.disk(PLENTY));
    assert_eq!((plain.0, first.0, second.0), (0, 0, COUNT));
    for other in [first, second] {
        assert_eq!((&other.1, &other.2), (&plain.1, &plain.2));
    }
    assert_eq!((site.files("pixels").len(), site.files("partial").len()), (1, 0));
}

/// A volume of 8 × 8 × 5 bytes.
fn volume(path: &Path, n: u8) {
    let mut bytes = vec![0; 352];
    bytes[..4].copy_from_slice(&348u32.to_le_bytes());
    for (at, value) in [(40, 3), (42, 8), (44, 8), (46, 5), (48, 1), (50, 1), (52, 1), (54, 1), (70, 2), (72, 8), (254, 1)] {
        bytes[at] = value;
    }
    for (at, value) in [(76, 1.0f32), (80, 1.0), (84, 1.0), (88, 1.0), (108, 352.0), (280, 1.0), (300, 1.0), (320, 1.0)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[344..348].copy_from_slice(b"n+1\0");
    bytes.extend((0..5u8).flat_map(|z| (0..64u8).map(move |i| i.wrapping_mul(3 + z).wrapping_add(n))));
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_file_of_many_slices_is_read_and_hashed_once_at_each_start() {
    let mut site = Site::new();
    for n in 0..3 {
        volume(&site.folder.path().join(format!("{n}.nii")), n);
    }
    let sample = |n: u32| {
        let path = site.folder.path().join(format!("{}.nii", n / 5));
        Sample::unlabelled(path, Some(n % 5), format!("{}.nii#{}", n / 5, n % 5), Split::Train)
    };
    site.samples = (0..15).map(sample).collect();
    let check = || {
        let loader = Loader::new(site.samples.clone(), GEOMETRY, Reading::default(), 1, DecodeCache::new(0).before(site.disk(PLENTY)));
        let prints = loader.check(0..15).unwrap();
        (loader.files_read(), loader.found(), prints)
    };
    let (first, second) = (check(), check());
    assert_eq!(((first.0, first.1), (second.0, second.1)), ((3, 0), (3, 15)));
    assert!(first.2 == second.2 && (0..15).all(|n| first.2[n].file() == first.2[n / 5 * 5].file()));
    assert_ne!(first.2[0].file(), first.2[5].file());
    // One that is another at the next start is seen to be so.
    volume(&site.folder.path().join("1.nii"), 77);
    let third = check();
    assert_eq!((third.0, third.1), (3, 10));
}

#[test]
fn what_changes_the_pixels_is_not_taken_from_the_disk() {
    let site = Site::new();
    let before = site.start(site.disk(PLENTY));
    draw(&site.samples[3].path, 77);
    let after = site.start(site.disk(PLENTY));
    assert_eq!(after.0, COUNT - 1);
    assert_ne!((&after.1[3], &after.2), (&before.1[3], &before.2));
    assert_eq!(after.2, site.start(None).2);
    let other = |geometry, reading: &Reading| Decoded::open(&site.root(), vec!["file:///data".into()], geometry, reading, PLENTY).unwrap();
    let windowed = Reading { windows: vec![Window { center: 40, width: 400 }], ..Reading::default() };
    let folders = [other(GEOMETRY, &Reading::default()), other(GEOMETRY, &windowed), other(Geometry { resize: 15, ..GEOMETRY }, &Reading::default())];
    let folders = folders.map(|decoded| decoded.folder().to_owned());
    assert!(folders[0] != folders[1] && folders[0] != folders[2] && folders[1] != folders[2]);
    // The same file elsewhere is the same image.
    fs::rename(&site.samples[0].path, site.folder.path().join("moved.png")).unwrap();
    fs::copy(site.folder.path().join("moved.png"), &site.samples[0].path).unwrap();
    assert_eq!(site.start(site.disk(PLENTY)).0, COUNT);
}

#[test]
fn several_build_together_and_each_finds_what_all_wrote() {
    let site = Site::new();
    let expected = site.start(None);
    let disks: Vec<_> = (0..4).map(|_| site.disk(PLENTY)).collect();
    let mut loaders: Vec<Loader> = disks.into_iter().map(|disk| site.loader(disk)).collect();
    // Each rank its share, at once, and one of them everything, as another job might.
    let shares: Vec<Vec<Fingerprint>> = std::thread::scope(|scope| {
        let all: Vec<_> = loaders
            .iter()
            .enumerate()
            .map(|(rank, loader)| {
                scope.spawn(move || if rank == 3 { loader.check(0..COUNT) } else { loader.check(rank * 7..(rank * 7 + 7).min(COUNT)) }.unwrap())
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let prints = shares[..3].concat();
    assert_eq!((&prints, &shares[3]), (&expected.1, &expected.1));
    // Now nothing but the decoded images is left.
    for sample in &site.samples {
        fs::remove_file(&sample.path).unwrap();
    }
    for loader in &mut loaders {
        loader.settle(&prints);
        assert_eq!(loader.batch(&(0..COUNT).collect::<Vec<_>>()).unwrap(), expected.2);
    }
}

#[test]
fn what_is_damaged_or_cut_off_is_decoded_anew() {
    let site = Site::new();
    let expected = site.start(site.disk(PLENTY));
    let path = site.files("pixels").pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let mut cases: Vec<(Vec<u8>, usize)> = [0, 1, 31, whole.len() / 2, whole.len() - 1].iter().map(|keep| (whole[..*keep].to_vec(), 0)).collect();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        bytes
    };
    // A pixel, a row (checksum, digest, fingerprint), every part of the footer.
    cases.push((flipped(5 * GEOMETRY.bytes() + 9), COUNT - 1));
    let rows = COUNT * GEOMETRY.bytes();
    for at in [rows, rows + 9, rows + 13, rows + 500].into_iter().chain((0..32).map(|i| whole.len() - 32 + i)) {
        cases.push((flipped(at), 0));
    }
    for (bytes, found) in cases {
        for path in site.files("pixels") {
            fs::remove_file(path).unwrap();
        }
        fs::write(&path, &bytes).unwrap();
        let start = site.start(site.disk(PLENTY));
        assert_eq!((start.0, &start.1, &start.2), (found, &expected.1, &expected.2), "{} bytes", bytes.len());
        assert!(!path.exists(), "what is damaged goes");
        // What was in the same file and was sound is decoded once more, and then all is there.
        site.start(site.disk(PLENTY));
        assert_eq!(site.start(site.disk(PLENTY)).0, COUNT);
    }
}

#[test]
fn damage_during_training_is_decoded_around() {
    let site = Site::new();
    let expected = site.start(site.disk(PLENTY));
    let mut loader = site.loader(site.disk(PLENTY));
    let prints = loader.check(0..COUNT).unwrap();
    loader.settle(&prints);
    let path = site.files("pixels").pop().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(100).unwrap();
    for _ in 0..2 {
        assert_eq!(loader.batch(&(0..COUNT).collect::<Vec<_>>()).unwrap(), expected.2);
    }
}

#[test]
fn a_writer_that_dies_leaves_nothing_that_is_read() {
    let site = Site::new();
    site.start(site.disk(PLENTY));
    // Killed before the end: the file has its first name, and everything in it. Its lock went with the process.
    let path = site.files("pixels").pop().unwrap();
    let partial = path.with_extension("partial");
    fs::rename(&path, &partial).unwrap();
    assert_eq!(site.start(site.disk(PLENTY)).0, 0);
    assert!(partial.exists(), "it may be about to be locked");
    age(&partial, 100);
    let writer = File::open(&partial).unwrap();
    writer.lock().unwrap();
    site.disk(PLENTY);
    assert!(partial.exists(), "somebody still writes it");
    drop(writer);
    site.disk(PLENTY);
    assert!(!partial.exists());
}

#[test]
fn without_room_it_goes_on_and_says_why() {
    let site = Site::new();
    let expected = site.start(None);
    let disk = site.disk(1 << 20);
    let start = site.start(disk.clone());
    assert_eq!((start.0, &start.2), (0, &expected.2));
    let why = disk.unwrap().trouble().unwrap();
    assert!(why.contains("the quota of 0.0 GiB is used up"), "{why}");
    assert_eq!((site.files("pixels").len(), site.files("partial").len()), (0, 0));
    // The folder goes while it is used.
    let disk = site.disk(PLENTY);
    fs::remove_dir_all(site.root()).unwrap();
    assert_eq!(site.start(disk.clone()).2, expected.2);
    assert!(disk.unwrap().trouble().unwrap().contains("No such file"));
}

#[test]
fn a_file_that_moves_or_changes_during_training_is_named() {
    let site = Site::new();
    let ready = || {
        let mut loader = site.loader(None);
        let prints = loader.check(0..COUNT).unwrap();
        loader.settle(&prints);
        loader
    };
    let path = &site.samples[4].path;
    let bytes = fs::read(path).unwrap();
    for spoil in [|path: &Path| fs::remove_file(path).unwrap(), |path: &Path| draw(path, 99), |path: &Path| fs::write(path, b"half").unwrap()] {
        let mut loader = ready();
        spoil(path);
        loader.prefetch(&[4]);
        let error = loader.batch(&[3, 4, 5]).unwrap_err();
        assert_eq!(error.reason(), "InputChanged");
        let text = error.to_string();
        let named = format!("1 image files were moved or changed after they were checked: {}: ", path.display());
        assert!(text.contains(&named), "{text}");
        assert!(text.contains("put the files back as they were, or start the job anew"), "{text}");
        assert!(loader.batch(&[3, 5]).is_ok(), "the others are still there");
        fs::write(path, &bytes).unwrap();
        assert!(loader.batch(&[4]).is_ok(), "and this one when it is back");
    }
    // Whoever replaces a file by the same is not noticed: it is looked at twice.
    let mut loader = ready();
    fs::remove_file(path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            fs::write(path, &bytes).unwrap();
        });
        assert!(loader.batch(&[4]).is_ok());
    });
}

#[test]
fn the_longest_unused_goes_first_and_nothing_else_is_touched() {
    let site = Site::new();
    let folders: Vec<PathBuf> = (0..4u32)
        .map(|n| {
            let (data, geometry) = (vec![format!("file:///data/{n}")], GEOMETRY);
            let disk = Arc::new(Decoded::open(&site.root(), data, geometry, &Reading::default(), PLENTY).unwrap());
            site.start(Some(disk.clone()));
            age(&disk.folder().join("about.json"), 1000 * u64::from(4 - n));
            disk.folder().to_owned()
        })
        .collect();
    fs::create_dir(site.root().join("mine")).unwrap();
    fs::write(site.root().join("mine/notes.txt"), "x").unwrap();
    let all = kept::list(&site.root()).unwrap();
    assert_eq!(all.iter().map(|kept| kept.folder.clone()).collect::<Vec<_>>(), folders);
    assert!(all.iter().all(|kept| kept.images == COUNT as u64 && kept.bytes > kept.images * GEOMETRY.bytes() as u64));
    assert_eq!(all[1].about.as_ref().unwrap().data, ["file:///data/1"]);

    let now = SystemTime::now();
    let (each, hour) = (all[0].bytes, Duration::from_secs(3600));
    let chosen = |policy: &Policy<'_>| kept::choose(&all, policy, now).into_iter().map(|(kept, why)| (kept.folder.clone(), why)).collect::<Vec<_>>();
    let policy = Policy { quota: 2 * each, older_than: Some(hour), spare: None };
    assert_eq!(chosen(&policy), [(folders[0].clone(), Why::Old), (folders[1].clone(), Why::OverQuota)]);
    assert_eq!(chosen(&Policy { spare: Some(&folders[0]), ..policy }), [(folders[1].clone(), Why::OverQuota), (folders[2].clone(), Why::OverQuota)]);
    assert_eq!(chosen(&Policy { quota: PLENTY, older_than: None, spare: None }), []);

    // Another version's goes after a day.
    let about = folders[3].join("about.json");
    fs::write(&about, fs::read_to_string(&about).unwrap().replace("\"decoder\": \"", "\"decoder\": \"x")).unwrap();
    age(&about, 25 * 3600);
    let gone = kept::free(&site.root(), &Policy { quota: 2 * each, older_than: None, spare: None }, now).unwrap();
    assert_eq!(
        gone.iter().map(|(kept, why)| (&kept.folder, *why)).collect::<Vec<_>>(),
        [(&folders[3], Why::Outdated), (&folders[0], Why::OverQuota)]
    );
    assert!(folders[1].is_dir() && folders[2].is_dir() && !folders[0].exists() && !folders[3].exists());
    assert!(site.root().join("mine/notes.txt").exists());
}
