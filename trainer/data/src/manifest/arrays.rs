//! MedMNIST's arrays: images become files beside the manifest.

use std::fs;
use std::io::Read;
use std::path::Path;

use image::{GrayImage, RgbImage};

use super::{Written, medmnist, refused, save, snippet, unwritable, vacant};
use crate::error::{DataError, Reason};
use crate::inspect::unreadable;

/// An array has at most so many bytes.
const ARRAY_LIMIT: u64 = 1 << 34;

/// MedMNIST's arrays (Yang et al. 2023): `train_images` `[N, H, W]` or `[N, H, W, 3]` of bytes, `train_labels` `[N, 1]`, or `[N, K]` of 0 and 1
/// for K findings; the same for val and test.
pub(super) fn arrays(file: &Path, folder: &Path) -> Result<Written, DataError> {
    vacant(folder)?;
    let mut notes: Vec<String> = medmnist::check(file)?.into_iter().collect();
    let odd = |what: String| refused(Reason::DataUnreadable, format!("{}: {what}", file.display()), "take MedMNIST's files as they are handed out");
    let bytes = fs::File::open(file).map_err(|e| unreadable(file, e))?;
    let mut archive = zip::ZipArchive::new(bytes).map_err(|e| odd(format!("no .npz archive: {e}")))?;
    let mut read = |name: &str| -> Result<Vec<u8>, DataError> {
        let mut member = archive.by_name(&format!("{name}.npy")).map_err(|e| odd(format!("{name}: {e}")))?;
        if member.size() > ARRAY_LIMIT {
            return Err(odd(format!("{name} has {} bytes", member.size())));
        }
        let mut bytes = Vec::new();
        member.by_ref().take(ARRAY_LIMIT).read_to_end(&mut bytes).map_err(|e| odd(format!("{name}: {e}")))?;
        Ok(bytes)
    };
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    for split in ["train", "val", "test"] {
        let (images, labels) = (format!("{split}_images"), format!("{split}_labels"));
        let images = Array::parse(&read(&images)?, bytes_of).map_err(|what| odd(format!("{images}: {what}")))?;
        let labels = Array::parse(&read(&labels)?, whole_of).map_err(|what| odd(format!("{labels}: {what}")))?;
        let [n, height, width, channels] = match images.shape[..] {
            [n, h, w] => [n, h, w, 1],
            [n, h, w, 3] => [n, h, w, 3],
            ref other => return Err(odd(format!("{split}_images has the shape {other:?}"))),
        };
        let answers = match labels.shape[..] {
            [m] if m == n => 1,
            [m, k] if m == n && k > 0 => k,
            ref other => return Err(odd(format!("{split}_labels has the shape {other:?} for {n} images"))),
        };
        if answers > 1 && findings.is_empty() {
            findings = (0..answers).map(|k| format!("finding-{k}")).collect();
        } else if answers != findings.len().max(1) {
            return Err(odd(format!("{split}_labels has {answers} columns")));
        }
        let side = |x: usize| u32::try_from(x).map_err(|_| odd(format!("{split}_images is {height} × {width}")));
        let (h, w) = (side(height)?, side(width)?);
        let within = folder.join("images").join(split);
        fs::create_dir_all(&within).map_err(|e| unwritable(&within, e))?;
        for (index, pixels) in images.numbers.chunks_exact((height * width * channels).max(1)).enumerate() {
            let name = format!("images/{split}/{index:06}.png");
            let path = folder.join(&name);
            let pixels = pixels.to_vec();
            let saved = match channels {
                1 => GrayImage::from_raw(w, h, pixels).map(|image| image.save(&path)),
                _ => RgbImage::from_raw(w, h, pixels).map(|image| image.save(&path)),
            };
            saved.ok_or_else(|| odd(format!("{split}_images is {height} × {width}")))?.map_err(|e| unwritable(&path, e))?;
            let own = &labels.numbers[index * answers..(index + 1) * answers];
            rows.push([name, split.to_owned()].into_iter().chain(own.iter().map(ToString::to_string)).collect());
        }
    }
    let answers: Vec<&str> = if findings.is_empty() { vec!["label"] } else { findings.iter().map(String::as_str).collect() };
    let manifest = save(folder, &[&["image", "split"], &answers[..]].concat(), &rows)?;
    notes.push("the arrays name no patients, and classes by number only: see the data set's page for their names".to_owned());
    let label = if findings.is_empty() { "    label: label\n" } else { "" };
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(folder, &findings, label, false) })
}

pub(super) struct Array<T> {
    pub(super) shape: Vec<usize>,
    pub(super) numbers: Vec<T>,
}

impl<T> Array<T> {
    /// Reads `.npy` (NumPy's format 1 to 3) in C order; `of` gives its numbers, if they are of a kind that is wanted.
    pub(super) fn parse(bytes: &[u8], of: impl FnOnce(&[u8]) -> Option<std::io::Result<Vec<T>>>) -> Result<Self, String> {
        let file = npyz::NpyFile::new(bytes).map_err(|e| e.to_string())?;
        let shape: Vec<usize> = file.shape().iter().map(|n| usize::try_from(*n).unwrap_or(usize::MAX)).collect();
        if file.order() != npyz::Order::C {
            return Err("is in Fortran's order".into());
        }
        let count = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n)).ok_or("is too large")?;
        if count > bytes.len() {
            return Err(format!("has {} bytes for {count} numbers", bytes.len()));
        }
        let numbers = of(bytes).ok_or_else(|| format!("holds {}, which is not read here", file.dtype().descr()))?;
        Ok(Self { shape, numbers: numbers.map_err(|e| e.to_string())? })
    }
}

/// The numbers of an array of `K`; none of one of another kind.
fn numbers<K: npyz::Deserialize, T: From<K>>(bytes: &[u8]) -> Option<std::io::Result<Vec<T>>> {
    let reader = npyz::NpyFile::new(bytes).ok()?.data::<K>().ok()?;
    Some(reader.map(|number| number.map(T::from)).collect())
}

/// Pixels: bytes, as they are.
fn bytes_of(bytes: &[u8]) -> Option<std::io::Result<Vec<u8>>> {
    numbers::<u8, u8>(bytes)
}

/// Labels: integers of any size.
fn whole_of(bytes: &[u8]) -> Option<std::io::Result<Vec<i64>>> {
    numbers::<u8, i64>(bytes)
        .or_else(|| numbers::<i8, i64>(bytes))
        .or_else(|| numbers::<u16, i64>(bytes))
        .or_else(|| numbers::<i16, i64>(bytes))
        .or_else(|| numbers::<u32, i64>(bytes))
        .or_else(|| numbers::<i32, i64>(bytes))
        .or_else(|| numbers::<i64, i64>(bytes))
}

/// Samples of a signal: numbers of any kind, in single precision.
pub(super) fn real_of(bytes: &[u8]) -> Option<std::io::Result<Vec<f32>>> {
    let whole = || whole_of(bytes).map(|numbers| Ok(numbers?.into_iter().map(|number| number as f32).collect()));
    let double = || numbers::<f64, f64>(bytes).map(|numbers| Ok(numbers?.into_iter().map(|number| number as f32).collect()));
    numbers::<f32, f32>(bytes).or_else(double).or_else(whole)
}
