//! One axial slice of a NIfTI volume as a picture. The `nifti` crate knows version 1 of the format only; the headers are
//! short, so both are read here (nifti1.h and nifti2.h of nifti.nimh.nih.gov). Nothing is allocated because a header says
//! so: memory grows as data comes.
//!
//! A slice is seen as a DICOM axial slice is: the patient's right at the left of the picture, the front at its top. Slices
//! are counted from 0 at the feet; those of a series of volumes follow each other.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use image::{DynamicImage, RgbImage};

use crate::decode::{DecodeError, Limits, Picture, Reading};
use crate::grey::{Plane, full_range, square};

const HEADER_1: usize = 348;
const HEADER_2: usize = 540;
/// The share of voxels at each end of the range that the window leaves out where none is given, as is usual for MRI.
const TAILS: f64 = 0.005;

/// Whether a file's name says NIfTI.
pub(crate) fn named(name: &str) -> bool {
    name.ends_with(".nii") || name.ends_with(".nii.gz")
}

/// Whether a file that begins so is NIfTI or gzip; no other format that is read here is packed by gzip.
pub(crate) fn recognised(beginning: &[u8]) -> bool {
    beginning.starts_with(&[0x1F, 0x8B]) || Layout::of(beginning).is_some()
}

fn broken(what: impl Into<String>) -> DecodeError {
    DecodeError::Nifti(what.into())
}

/// Version, byte order, and whether the voxels are in a second file.
#[derive(Clone, Copy)]
struct Layout {
    version: u8,
    big: bool,
    pair: bool,
}

impl Layout {
    fn of(beginning: &[u8]) -> Option<Self> {
        let first = beginning.first_chunk::<4>()?;
        let size = |big| if big { u32::from_be_bytes(*first) } else { u32::from_le_bytes(*first) } as usize;
        let (version, big, magic) = [false, true].into_iter().find_map(|big| match size(big) {
            HEADER_1 => Some((1, big, 344..348)),
            HEADER_2 => Some((2, big, 4..8)),
            _ => None,
        })?;
        match beginning.get(magic)? {
            b"n+1\0" | b"n+2\0" => Some(Self { version, big, pair: false }),
            b"ni1\0" | b"ni2\0" => Some(Self { version, big, pair: true }),
            _ => None,
        }
    }
}

/// Numbers at places of a header.
struct Fields<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Fields<'_> {
    fn take<const N: usize>(&self, at: usize) -> Result<[u8; N], DecodeError> {
        let mut bytes: [u8; N] = self.bytes.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or_else(|| broken("ends in its header"))?;
        if self.big {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn i16(&self, at: usize) -> Result<i64, DecodeError> {
        Ok(i64::from(i16::from_le_bytes(self.take(at)?)))
    }

    fn i32(&self, at: usize) -> Result<i64, DecodeError> {
        Ok(i64::from(i32::from_le_bytes(self.take(at)?)))
    }

    fn i64(&self, at: usize) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.take(at)?))
    }

    fn f32(&self, at: usize) -> Result<f64, DecodeError> {
        Ok(f64::from(f32::from_le_bytes(self.take(at)?)))
    }

    fn f64(&self, at: usize) -> Result<f64, DecodeError> {
        Ok(f64::from_le_bytes(self.take(at)?))
    }
}

/// What of a header decides the pixels.
struct Header {
    big: bool,
    /// Voxels along the three stored axes.
    size: [usize; 3],
    /// Volumes in the file.
    volumes: usize,
    kind: Kind,
    /// Bytes between the header and the voxels.
    gap: u64,
    slope: f64,
    intercept: f64,
    /// Millimetres between voxels along the stored axes.
    zooms: [f64; 3],
    /// Column `i` is the direction of stored axis `i` in the patient: right, front, head.
    axes: [[f64; 3]; 3],
}

/// How a voxel is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    U8,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    Rgb,
    Rgba,
}

impl Kind {
    fn of(code: i64) -> Option<Self> {
        Some(match code {
            2 => Self::U8,
            256 => Self::I8,
            4 => Self::I16,
            512 => Self::U16,
            8 => Self::I32,
            768 => Self::U32,
            1024 => Self::I64,
            1280 => Self::U64,
            16 => Self::F32,
            64 => Self::F64,
            128 => Self::Rgb,
            2304 => Self::Rgba,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::Rgb => 3,
            Self::I32 | Self::U32 | Self::F32 | Self::Rgba => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The number in `bytes`, which are as many as [`Kind::bytes`] says; colours have none.
    fn value(self, bytes: &[u8], big: bool) -> f64 {
        let mut le = [0; 8];
        let n = bytes.len().min(8);
        le[..n].copy_from_slice(&bytes[..n]);
        if big {
            le[..n].reverse();
        }
        let [a, b, c, d, ..] = le;
        match self {
            Self::U8 => f64::from(a),
            Self::I8 => f64::from(a as i8),
            Self::I16 => f64::from(i16::from_le_bytes([a, b])),
            Self::U16 => f64::from(u16::from_le_bytes([a, b])),
            Self::I32 => f64::from(i32::from_le_bytes([a, b, c, d])),
            Self::U32 => f64::from(u32::from_le_bytes([a, b, c, d])),
            Self::I64 => i64::from_le_bytes(le) as f64,
            Self::U64 => u64::from_le_bytes(le) as f64,
            Self::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
            Self::F64 => f64::from_le_bytes(le),
            Self::Rgb | Self::Rgba => f64::NAN,
        }
    }
}

impl Header {
    fn read(source: &mut impl Read) -> Result<Self, DecodeError> {
        let mut bytes = Vec::new();
        let ended = |_| broken("ends in its header");
        source.by_ref().take(HEADER_1 as u64).read_to_end(&mut bytes).map_err(ended)?;
        let layout = Layout::of(&bytes).ok_or(DecodeError::UnknownFormat)?;
        if layout.version == 2 {
            source.by_ref().take((HEADER_2 - HEADER_1) as u64).read_to_end(&mut bytes).map_err(ended)?;
        }
        if layout.pair {
            return Err(broken("has its voxels in a second file (.img): convert it to one .nii.gz"));
        }
        let fields = Fields { bytes: &bytes, big: layout.big };
        if layout.version == 1 { Self::version_1(&fields) } else { Self::version_2(&fields) }
    }

    fn version_1(f: &Fields<'_>) -> Result<Self, DecodeError> {
        let mut dim = [0; 8];
        let mut pixdim = [0.0; 8];
        for i in 0..8 {
            dim[i] = f.i16(40 + 2 * i)?;
            pixdim[i] = f.f32(76 + 4 * i)?;
        }
        let rows = |at: usize| -> Result<[f64; 3], DecodeError> { Ok([f.f32(at)?, f.f32(at + 4)?, f.f32(at + 8)?]) };
        let affine = if f.i16(254)? > 0 {
            Some([rows(280)?, rows(296)?, rows(312)?])
        } else if f.i16(252)? > 0 {
            Some(rotation(rows(256)?, pixdim[0]))
        } else {
            None
        };
        Self::assemble(f, dim, pixdim, f.i16(70)?, f.f32(108)?, [f.f32(112)?, f.f32(116)?], affine)
    }

    fn version_2(f: &Fields<'_>) -> Result<Self, DecodeError> {
        let mut dim = [0; 8];
        let mut pixdim = [0.0; 8];
        for i in 0..8 {
            dim[i] = f.i64(16 + 8 * i)?;
            pixdim[i] = f.f64(104 + 8 * i)?;
        }
        let rows = |at: usize| -> Result<[f64; 3], DecodeError> { Ok([f.f64(at)?, f.f64(at + 8)?, f.f64(at + 16)?]) };
        let affine = if f.i32(348)? > 0 {
            Some([rows(400)?, rows(432)?, rows(464)?])
        } else if f.i32(344)? > 0 {
            Some(rotation(rows(352)?, pixdim[0]))
        } else {
            None
        };
        Self::assemble(f, dim, pixdim, f.i16(12)?, f.i64(168)? as f64, [f.f64(176)?, f.f64(184)?], affine)
    }

    fn assemble(
        fields: &Fields<'_>,
        dim: [i64; 8],
        pixdim: [f64; 8],
        kind: i64,
        offset: f64,
        [slope, intercept]: [f64; 2],
        affine: Option<[[f64; 3]; 3]>,
    ) -> Result<Self, DecodeError> {
        let rank =
            usize::try_from(dim[0]).ok().filter(|rank| (1..=7).contains(rank)).ok_or_else(|| broken("has no sensible number of dimensions"))?;
        let side = |i: usize| if i > rank { Some(1) } else { usize::try_from(dim[i]).ok().filter(|n| *n > 0) };
        let side = |i: usize| side(i).ok_or_else(|| broken("has a dimension that is not above 0"));
        let size = [side(1)?, side(2)?, side(3)?];
        let mut volumes = 1usize;
        for i in 4..8 {
            volumes = volumes.checked_mul(side(i)?).ok_or_else(|| broken("is too large"))?;
        }
        let kind = Kind::of(kind).ok_or_else(|| broken(format!("has voxels of a type that is not supported (code {kind})")))?;
        if !(0.0..1e9).contains(&offset) {
            return Err(broken("says that its voxels begin nowhere"));
        }
        let identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        // A slope of 0 means that voxels are not scaled.
        let scaled = slope != 0.0 && slope.is_finite() && intercept.is_finite();
        let (slope, intercept) = if scaled { (slope, intercept) } else { (1.0, 0.0) };
        let zooms = [pixdim[1], pixdim[2], pixdim[3]].map(f64::abs);
        // Writers that leave the offset out mean the end of the header and of the four bytes that say whether extensions follow.
        let header = fields.bytes.len() as u64;
        let gap = (offset as u64).max(header + 4) - header;
        Ok(Self { big: fields.big, size, volumes, kind, gap, slope, intercept, zooms, axes: affine.unwrap_or(identity) })
    }

    /// For right, front and head: the stored axis that runs along it, and whether it runs the other way. The axis that is
    /// nearest to a direction gets it, strongest first.
    fn orientation(&self) -> [(usize, bool); 3] {
        let norm = |axis: usize| (0..3).map(|row| self.axes[row][axis].powi(2)).sum::<f64>().sqrt();
        let mut pairs: Vec<(f64, usize, usize)> =
            (0..3).flat_map(|row| (0..3).map(move |axis| (row, axis))).map(|(row, axis)| (self.axes[row][axis] / norm(axis), row, axis)).collect();
        // Numbers that are none go last.
        pairs.sort_by(|a, b| (b.0.abs() > 0.0).cmp(&(a.0.abs() > 0.0)).then(b.0.abs().total_cmp(&a.0.abs())));
        let mut found = [None; 3];
        for (cosine, row, axis) in pairs {
            if found[row].is_none() && !found.iter().flatten().any(|(taken, _)| *taken == axis) {
                found[row] = Some((axis, cosine < 0.0));
            }
        }
        found.map(|pair| pair.unwrap_or((0, false)))
    }
}

/// The rotation of quaternion (a, b, c, d) with the handedness `qfac`; nifti1.h, method 2.
fn rotation([b, c, d]: [f64; 3], qfac: f64) -> [[f64; 3]; 3] {
    let a = (1.0 - b * b - c * c - d * d).max(0.0).sqrt();
    let q = if qfac < 0.0 { -1.0 } else { 1.0 };
    [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c) * q],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b) * q],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), (a * a + d * d - b * b - c * c) * q],
    ]
}

/// What a header says of a file's slices.
pub(crate) struct Shape {
    /// Voxels from left to right, from back to front, and from the feet to the head.
    pub(crate) size: [usize; 3],
    /// Volumes in the file.
    pub(crate) volumes: usize,
    /// To where the stored axes run: right or left, anterior or posterior, superior or inferior, as RAS.
    pub(crate) axes: String,
    /// Distance of axial slices in millimetres.
    pub(crate) step: f64,
    /// Distances of voxels in millimetres, in the order of `size`.
    pub(crate) spacing: [f64; 3],
}

impl Shape {
    fn of(header: &Header) -> Self {
        let directions = header.orientation();
        let mut axes = [' '; 3];
        for ((axis, flipped), letters) in directions.into_iter().zip([['R', 'L'], ['A', 'P'], ['S', 'I']]) {
            axes[axis] = letters[usize::from(flipped)];
        }
        let size = directions.map(|(axis, _)| header.size[axis]);
        let spacing = directions.map(|(axis, _)| header.zooms[axis]);
        Self { size, volumes: header.volumes, axes: axes.iter().collect(), step: spacing[2], spacing }
    }

    /// Axial slices of all volumes.
    pub(crate) fn slices(&self) -> usize {
        self.size[2].saturating_mul(self.volumes).min(u32::MAX as usize)
    }
}

/// The file, unpacked.
fn stream(path: &Path) -> Result<Box<dyn Read>, DecodeError> {
    let mut file = BufReader::new(File::open(path)?);
    let gzipped = file.fill_buf()?.starts_with(&[0x1F, 0x8B]);
    Ok(if gzipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// What the header of a file says.
///
/// # Errors
/// It is no NIfTI, or one that is not read.
pub(crate) fn shape(path: &Path) -> Result<Shape, DecodeError> {
    Ok(Shape::of(&Header::read(&mut stream(path)?)?))
}

/// The values that a mask has in each axial slice of its first volume, rounded.
///
/// # Errors
/// Anything but a whole volume of numbers within the limits.
pub(crate) fn layers(path: &Path) -> Result<(Shape, Vec<BTreeSet<i64>>), DecodeError> {
    let mut source = stream(path)?;
    let header = Header::read(&mut source)?;
    let (_, data) = voxels(&mut source, &header, 0, Limits::default())?;
    let [_, _, (up, to_feet)] = header.orientation();
    let stride: usize = header.size[..up].iter().product();
    let depth = header.size[up];
    let mut layers = vec![BTreeSet::new(); depth];
    let mut last = (usize::MAX, f64::NAN);
    for (place, voxel) in data.chunks_exact(header.kind.bytes()).enumerate() {
        let index = place / stride % depth;
        let layer = if to_feet { depth - 1 - index } else { index };
        let value = header.kind.value(voxel, header.big) * header.slope + header.intercept;
        // Neighbours are mostly alike.
        if (layer, value) != last && value.is_finite() {
            layers[layer].insert(value.round() as i64);
            last = (layer, value);
        }
    }
    Ok((Shape::of(&header), layers))
}

/// Passes over what precedes volume `volume` and reads it; returns how many voxels it has, and their bytes.
fn voxels(source: &mut impl Read, header: &Header, volume: usize, limits: Limits) -> Result<(usize, Vec<u8>), DecodeError> {
    let voxels = header.size.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).filter(|n| *n as u64 <= limits.pixels);
    let voxels = voxels.ok_or_else(|| broken(format!("has more voxels than the limit of {}", limits.pixels)))?;
    let truncated = || broken("ends before its voxels do, so it is truncated");
    let length = voxels * header.kind.bytes();
    let skipped = header.gap.saturating_add((volume as u64).saturating_mul(length as u64));
    let passed = std::io::copy(&mut source.by_ref().take(skipped), &mut std::io::sink()).map_err(|_| truncated())?;
    let mut data = Vec::new();
    source.by_ref().take(length as u64).read_to_end(&mut data).map_err(|_| truncated())?;
    if passed < skipped || data.len() < length { Err(truncated()) } else { Ok((voxels, data)) }
}

/// Slice `wanted` of a file, or the only one.
///
/// # Errors
/// Anything but a whole volume of numbers or colours within the limits.
pub(crate) fn slice(bytes: &[u8], wanted: Option<u32>, reading: &Reading) -> Result<Picture, DecodeError> {
    if bytes.starts_with(&[0x1F, 0x8B]) { read(&mut MultiGzDecoder::new(bytes), wanted, reading) } else { read(&mut &*bytes, wanted, reading) }
}

fn read(source: &mut impl Read, wanted: Option<u32>, reading: &Reading) -> Result<Picture, DecodeError> {
    let header = Header::read(source)?;
    let [(across, to_left), (down, to_back), (up, to_feet)] = header.orientation();
    let (width, height, depth) = (header.size[across], header.size[down], header.size[up]);
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    reading.limits.check(side(width), side(height))?;
    let slices = u32::try_from(depth.saturating_mul(header.volumes)).unwrap_or(u32::MAX);
    let wanted = DecodeError::choose(wanted, slices, "slices")? as usize;
    let (volume, layer) = (wanted / depth, wanted % depth);
    let (voxels, data) = voxels(source, &header, volume, reading.limits)?;

    let strides = [1, header.size[0], header.size[0] * header.size[1]];
    let along = |axis: usize, flipped: bool, index: usize| strides[axis] * if flipped { header.size[axis] - 1 - index } else { index };
    let base = along(up, to_feet, layer);
    // Columns run to the patient's left and rows to the back, so both directions are turned.
    let places = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
    let places = places.map(|(row, column)| base + along(down, !to_back, row) + along(across, !to_left, column));
    let voxel = |place: usize| &data[place * header.kind.bytes()..(place + 1) * header.kind.bytes()];
    let (image, channels) = match header.kind {
        Kind::Rgb | Kind::Rgba => {
            let pixels = places.flat_map(|place| voxel(place)[..3].to_vec()).collect();
            (RgbImage::from_raw(side(width), side(height), pixels).map(DynamicImage::ImageRgb8), 3)
        }
        kind => {
            let value = |place: usize| (kind.value(voxel(place), header.big) * header.slope + header.intercept) as f32;
            let plane = Plane { width: side(width), height: side(height), values: places.map(value).collect(), inverted: false };
            // Of the whole volume, so that its slices are comparable.
            let own = || full_range(&(0..voxels).map(value).collect::<Vec<_>>(), TAILS);
            (plane.picture(&reading.windows, own), 1)
        }
    };
    let image = image.ok_or(DecodeError::Empty)?;
    let image = square(image, header.zooms[across], header.zooms[down], reading.limits)?;
    Ok(Picture {
        size: [image.width(), image.height()],
        image,
        format: "NIfTI",
        bits: 8 * header.kind.bytes() as u16 / channels,
        channels: channels as u8,
    })
}
