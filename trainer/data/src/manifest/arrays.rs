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
/// An array's header has at most so many bytes.
const HEAD_LIMIT: u64 = 1 << 16;

/// The splits that MedMNIST's arrays are named by.
const SPLITS: [&str; 3] = ["train", "val", "test"];

/// MedMNIST's arrays (Yang et al. 2023): `train_images` `[N, H, W]` or `[N, H, W, 3]` of bytes, `train_labels` `[N, 1]`, or `[N, K]` of 0 and 1
/// for K findings; the same for val and test. Where there is nothing of val, validation patients are held out of train.
pub(super) fn arrays(file: &Path, folder: &Path) -> Result<Written, DataError> {
    vacant(folder)?;
    let mut notes: Vec<String> = medmnist::check(file)?.into_iter().collect();
    let mut npz = Npz::open(file)?;
    let splits = npz.splits();
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    for &split in &splits {
        let name = format!("{split}_images");
        let images = Array::parse(&npz.read(&name)?, bytes_of).map_err(|what| npz.odd(&format!("{name}: {what}")))?;
        let [n, height, width, channels] = npz.sides(split, &images.shape)?;
        let Labels { width: answers, numbers } = npz.labels(split, n)?;
        if answers > 1 && findings.is_empty() {
            findings = (0..answers).map(finding).collect();
        } else if answers != findings.len().max(1) {
            return Err(npz.odd(&format!("{split}_labels has {answers} columns")));
        }
        let side = |x: usize| u32::try_from(x).map_err(|_| npz.odd(&format!("{split}_images is {height} × {width}")));
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
            saved.ok_or_else(|| npz.odd(&format!("{split}_images is {height} × {width}")))?.map_err(|e| unwritable(&path, e))?;
            let own = &numbers[index * answers..(index + 1) * answers];
            rows.push([name, split.to_owned()].into_iter().chain(own.iter().map(ToString::to_string)).collect());
        }
    }
    let answers: Vec<&str> = if findings.is_empty() { vec!["label"] } else { findings.iter().map(String::as_str).collect() };
    let manifest = save(folder, &[&["image", "split"], &answers[..]].concat(), &rows)?;
    if splits.len() < SPLITS.len() {
        notes.push(WITHOUT_VAL.to_owned());
    }
    notes.push("the arrays name no patients, and classes by number only: see the data set's page for their names".to_owned());
    let label = if findings.is_empty() { "    label: label\n" } else { "" };
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(folder, &findings, label, false) })
}

/// What is to be said of arrays without those for validation.
pub(crate) const WITHOUT_VAL: &str = "there is no array val_images: validation images are held out of those for training";

/// How the column of an answer is called.
pub(crate) fn finding(column: usize) -> String {
    format!("finding-{column}")
}

/// Arrays in an archive, `NAME.npy`.
pub(crate) struct Npz<'a> {
    file: &'a Path,
    archive: zip::ZipArchive<fs::File>,
}

/// What an array's header says.
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The type of its numbers as NumPy calls it, `uint8`.
    pub(crate) kind: String,
}

/// The answers to a split's images, row by row.
pub(crate) struct Labels {
    /// How many there are for an image.
    pub(crate) width: usize,
    pub(crate) numbers: Vec<i64>,
}

impl<'a> Npz<'a> {
    /// # Errors
    /// It is no archive.
    pub(crate) fn open(file: &'a Path) -> Result<Self, DataError> {
        let bytes = fs::File::open(file).map_err(|e| unreadable(file, e))?;
        let archive = zip::ZipArchive::new(bytes).map_err(|e| odd(file, &format!("no .npz archive: {e}")))?;
        Ok(Self { file, archive })
    }

    fn odd(&self, what: &str) -> DataError {
        odd(self.file, what)
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, DataError> {
        let file = self.file;
        let mut member = self.archive.by_name(&format!("{name}.npy")).map_err(|e| odd(file, &format!("{name}: {e}")))?;
        if member.size() > ARRAY_LIMIT {
            return Err(odd(file, &format!("{name} has {} bytes", member.size())));
        }
        let mut bytes = Vec::new();
        member.by_ref().take(ARRAY_LIMIT).read_to_end(&mut bytes).map_err(|e| odd(file, &format!("{name}: {e}")))?;
        Ok(bytes)
    }

    /// The headers of all arrays in the order of the archive; of one that cannot be read, the reason instead of its type.
    ///
    /// # Errors
    /// There is no array.
    pub(crate) fn heads(&mut self) -> Result<Vec<Head>, DataError> {
        let mut heads = Vec::new();
        for index in 0..self.archive.len() {
            let member = self.archive.by_index(index).map_err(|e| odd(self.file, &e.to_string()))?;
            let Some(name) = member.name().ok().and_then(|name| Some(name.strip_suffix(".npy")?.to_owned())) else { continue };
            let mut bytes = Vec::new();
            let head = member.take(HEAD_LIMIT).read_to_end(&mut bytes).and_then(|_| npyz::NpyFile::new(bytes.as_slice()));
            heads.push(match head {
                Ok(head) => {
                    let shape = head.shape().iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect();
                    Head { name, shape, kind: kind(&head.dtype().descr()) }
                }
                Err(error) => Head { name, shape: Vec::new(), kind: format!("something that is not read here ({error})") },
            });
        }
        if heads.is_empty() {
            let what = format!("{} is an archive without arrays of NumPy", self.file.display());
            return Err(refused(Reason::DataUnreadable, what, "unpack it, and name the folder"));
        }
        Ok(heads)
    }

    /// The splits that are asked for: all, or without val where the archive has nothing of it.
    pub(crate) fn splits(&self) -> Vec<&'static str> {
        let has = |name: &str| self.archive.index_for_name(&format!("{name}.npy")).is_some();
        SPLITS.into_iter().filter(|split| *split != "val" || has("val_images") || has("val_labels")).collect()
    }

    /// Images, height, width and channels of a split by the shape of its images.
    ///
    /// # Errors
    /// It is no shape of images.
    pub(crate) fn sides(&self, split: &str, shape: &[usize]) -> Result<[usize; 4], DataError> {
        match *shape {
            [n, h, w] => Ok([n, h, w, 1]),
            [n, h, w, 3] => Ok([n, h, w, 3]),
            ref other => Err(self.odd(&format!("{split}_images has the shape {other:?}"))),
        }
    }

    /// The labels of a split of so many images.
    ///
    /// # Errors
    /// They are not there, no whole numbers, or of others.
    pub(crate) fn labels(&mut self, split: &str, images: usize) -> Result<Labels, DataError> {
        let name = format!("{split}_labels");
        let labels = Array::parse(&self.read(&name)?, whole_of).map_err(|what| self.odd(&format!("{name}: {what}")))?;
        let width = match labels.shape[..] {
            [m] if m == images => 1,
            [m, k] if m == images && k > 0 => k,
            ref other => return Err(self.odd(&format!("{name} has the shape {other:?} for {images} images"))),
        };
        Ok(Labels { width, numbers: labels.numbers })
    }
}

fn odd(file: &Path, what: &str) -> DataError {
    refused(Reason::DataUnreadable, format!("{}: {what}", file.display()), "take MedMNIST's files as they are handed out")
}

/// `'|u1'` as NumPy calls it.
fn kind(descr: &str) -> String {
    let code = descr.trim_matches('\'').trim_start_matches(['<', '>', '|', '=']);
    let bits = |bytes: &str| bytes.parse::<u32>().ok().map(|bytes| 8 * bytes);
    match (code.get(..1), code.get(1..).and_then(bits)) {
        (Some("u"), Some(bits)) => format!("uint{bits}"),
        (Some("i"), Some(bits)) => format!("int{bits}"),
        (Some("f"), Some(bits)) => format!("float{bits}"),
        (Some("b"), Some(_)) => "bool".into(),
        _ => descr.to_owned(),
    }
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
