//! From an image file's bytes to the network's input as unsigned bytes. Input is not trusted: the header is checked
//! against limits before pixels are allocated, and a file that ends early is refused rather than filled up with grey.

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use graft_crds::Architecture;
use graft_crds::spec::{Data, Fit, Interpolation, Preprocessing, Window};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Finding, Reason};
use crate::jpeg::{self, Jpeg};
use crate::resample::resample;
use crate::{dicom, nifti};

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest side in pixels.
    pub side: u32,
    /// Width times height in pixels, also after resizing.
    pub pixels: u64,
    /// Size of the file in bytes.
    pub file: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { side: 16_384, pixels: 1 << 28, file: 1 << 30 }
    }
}

impl Limits {
    /// Refuses an image that is too large.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(crate) fn check(self, width: u32, height: u32) -> Result<(), DecodeError> {
        let fits = width <= self.side && height <= self.side && u64::from(width) * u64::from(height) <= self.pixels;
        if fits { Ok(()) } else { Err(DecodeError::TooLarge { width, height, limits: self }) }
    }
}

/// How files are read, besides the geometry of the network's input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// How large an image may be.
    pub limits: Limits,
    /// Grey windows of DICOM and NIfTI: none, one, or three that become the channels; see [`Data::windows`].
    pub windows: Vec<Window>,
    /// A shorter side in pixels that is enough: a JPEG is decoded at 1/8, 1/4 or 1/2 of its size where that leaves so much.
    pub enough: Option<u32>,
}

impl Reading {
    /// As a job's data says, within the default limits.
    #[must_use]
    pub fn of(data: &Data) -> Self {
        Self { windows: data.windows.clone(), ..Self::default() }
    }
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The bytes are no image of a known format.
    #[error("is no PNG, JPEG, BMP, TIFF, WebP, DICOM or NIfTI")]
    UnknownFormat,
    /// The file is DICOM, and there is something wrong with it.
    #[error("the DICOM file {0}")]
    Dicom(String),
    /// The file is NIfTI, and there is something wrong with it.
    #[error("the NIfTI file {0}")]
    Nifti(String),
    /// The file holds several pictures and none was chosen.
    #[error("holds {count} {what}: choose one, as FILE#0 for the first, in a manifest")]
    WhichSlice {
        /// How many there are.
        count: u32,
        /// What they are.
        what: &'static str,
    },
    /// The chosen picture is not in the file.
    #[error("holds {count} {what}, counted from 0, and #{wanted} is asked for")]
    NoSuchSlice {
        /// How many there are.
        count: u32,
        /// What they are.
        what: &'static str,
        /// Which one is asked for.
        wanted: u32,
    },
    /// The decoder refused it.
    #[error("{0}")]
    Decode(#[from] image::ImageError),
    /// The JPEG has no end marker.
    #[error("the JPEG ends before its end marker, so it is truncated")]
    Truncated,
    /// The image is larger than the limits allow.
    #[error("{width} × {height} pixels are more than the limit of {} a side and {} in all, as it is or resized", limits.side, limits.pixels)]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What is allowed.
        limits: Limits,
    },
    /// The file is larger than the limits allow.
    #[error("{bytes} bytes are more than the limit of {limit}")]
    FileTooLarge {
        /// Size of the file.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The image has no pixels.
    #[error("has no pixels")]
    Empty,
    /// The bytes are other ones than when the file was checked.
    #[error("is another file than when it was checked")]
    Changed,
    /// The decoder crashed on it.
    #[error("crashed the decoder")]
    Crashed,
}

impl DecodeError {
    /// The index of the picture that is meant, in a file that holds `count` of them.
    ///
    /// # Errors
    /// `WhichSlice` when there are several and none is chosen; `NoSuchSlice` when the chosen one is not there.
    pub(crate) fn choose(wanted: Option<u32>, count: u32, what: &'static str) -> Result<u32, Self> {
        match wanted {
            None if count == 1 => Ok(0),
            None => Err(Self::WhichSlice { count, what }),
            Some(wanted) if wanted < count => Ok(wanted),
            Some(wanted) => Err(Self::NoSuchSlice { count, what, wanted }),
        }
    }
}

/// The size and shape of the network's input; what is left of preprocessing before bytes become numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Geometry {
    /// Side of the square input in pixels.
    pub size: u32,
    /// Length of the shorter side before the centre is cut out, in pixels; without meaning for [`Fit::Stretch`].
    pub resize: u32,
    /// How an image that is not square fills the input.
    pub fit: Fit,
    /// The filter.
    pub interpolation: Interpolation,
}

impl Geometry {
    /// What the spec asks for, the rest from the architecture: its input size, its `resize` in proportion to the size
    /// rounded down, crop, its filter.
    ///
    /// # Errors
    /// `InvalidPreprocessing` when the side is 0 or no multiple of the architecture's patches, or when `resize` is smaller than
    /// `size`, which would leave borders without a value.
    pub fn resolve(architecture: Architecture, spec: Option<&Preprocessing>) -> Result<Self, DataError> {
        let field = |read: fn(&Preprocessing) -> Option<i32>| spec.and_then(read).map(|value| u32::try_from(value).unwrap_or(0));
        let size = field(|p| p.size).unwrap_or_else(|| architecture.input_size());
        let resize = field(|p| p.resize).unwrap_or(size.saturating_mul(architecture.resize()) / architecture.input_size());
        let fit = spec.and_then(|p| p.fit).unwrap_or_default();
        let interpolation = spec.and_then(|p| p.interpolation).unwrap_or_else(|| architecture.interpolation());
        let patch = architecture.patch();
        if !size.is_multiple_of(patch) {
            let what = format!(
                "spec.backbone.preprocessing.size: {} cuts its input into patches of {patch} pixels, and {size} is no multiple of it",
                architecture.name()
            );
            let remedy = format!("take {} or {}", size / patch * patch, (size / patch + 1) * patch);
            return Err(DataError::one(Finding::new(Reason::InvalidPreprocessing, what, vec![], remedy)));
        }
        if size == 0 || (fit == Fit::Crop && resize < size) {
            let what = format!("spec.backbone.preprocessing: no square of {size} pixels can be cut out of an image resized to {resize}");
            return Err(DataError::one(Finding::new(Reason::InvalidPreprocessing, what, vec![], "make resize at least as large as size")));
        }
        Ok(Self { size, resize, fit, interpolation })
    }

    /// Bytes of one image: 3 × size × size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        3 * self.size as usize * self.size as usize
    }

    /// The shorter side in pixels that an image needs before it is resized without being enlarged.
    pub(crate) fn enough(&self) -> u32 {
        match self.fit {
            Fit::Stretch => self.size,
            Fit::Crop => self.resize,
        }
    }

    /// Size in pixels to which an image is resized before it is cropped; torchvision's `Resize`.
    fn resized(&self, width: u32, height: u32) -> (u64, u64) {
        let long = |long: u32, short: u32| u64::from(self.resize) * u64::from(long) / u64::from(short.max(1));
        match self.fit {
            Fit::Stretch => (u64::from(self.size), u64::from(self.size)),
            Fit::Crop if width <= height => (u64::from(self.resize), long(height, width)),
            Fit::Crop => (long(width, height), u64::from(self.resize)),
        }
    }
}

/// Decodes an image to RGB: grey is repeated, alpha is dropped without blending, 16 bits are scaled from their full
/// range to 8 (but Pillow cuts 16-bit grey off at 255), and it is turned and mirrored as its EXIF or TIFF's tag says, as a viewer
/// shows it and Pillow's `ImageOps.exif_transpose` makes it.
/// Grey values of DICOM and NIfTI pass through the windows of `reading`, else through the file's own, else from the lowest to
/// the highest. `slice` chooses one of a file's frames or slices, from 0.
///
/// # Errors
/// Anything but a whole image within the limits.
pub fn decode(bytes: &[u8], slice: Option<u32>, reading: &Reading) -> Result<RgbImage, DecodeError> {
    Ok(decode_picture(bytes, slice, reading)?.image.into_rgb8())
}

/// The bytes of an image file.
///
/// # Errors
/// It cannot be read, or is larger than the limit.
pub(crate) fn read_file(path: &Path, limits: Limits) -> Result<Vec<u8>, DecodeError> {
    let bytes = fs::metadata(path)?.len();
    if bytes > limits.file {
        return Err(DecodeError::FileTooLarge { bytes, limit: limits.file });
    }
    Ok(fs::read(path)?)
}

/// Decoders may panic on hostile files: here that is an error like the others.
///
/// # Errors
/// What `work` says, or that it crashed.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(DecodeError::Crashed))
}

/// The names of the formats.
pub(crate) const FORMATS: [&str; 7] = ["PNG", "JPEG", "BMP", "TIFF", "WebP", "DICOM", "NIfTI"];
/// The name of every other format.
pub(crate) const OTHER: &str = "other";

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::WebP => "WebP",
        _ => OTHER,
    }
}

/// An image and how its file stores it.
pub(crate) struct Picture {
    /// One channel of 8 bits for a grey picture, also where the file repeats it in three; else three.
    pub(crate) image: DynamicImage,
    /// Width and height in pixels, of the picture as it is shown; of a JPEG the image may be a fraction of it, see [`Reading::enough`].
    pub(crate) size: [u32; 2],
    /// Name of the format, by the file's content.
    pub(crate) format: &'static str,
    /// Bits per channel as stored.
    pub(crate) bits: u16,
    /// Channels as stored: 1 is grey.
    pub(crate) channels: u8,
}

/// Grey pictures with one channel and all others with three: a grey picture costs a third, and its copy in RGB is the same.
fn canonical(image: DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma8(_) => image,
        DynamicImage::ImageLuma16(_) | DynamicImage::ImageLumaA8(_) | DynamicImage::ImageLumaA16(_) => DynamicImage::ImageLuma8(image.into_luma8()),
        other => {
            let rgb = other.into_rgb8();
            let (pixels, _) = rgb.as_raw().as_chunks();
            if !pixels.iter().all(|[red, green, blue]| red == green && green == blue) {
                return DynamicImage::ImageRgb8(rgb);
            }
            let (width, height) = rgb.dimensions();
            let grey = pixels.iter().map(|[red, _, _]| *red).collect();
            GrayImage::from_raw(width, height, grey).map_or(DynamicImage::ImageRgb8(rgb), DynamicImage::ImageLuma8)
        }
    }
}

/// Decodes an image.
///
/// # Errors
/// Anything but a whole image within the limits.
pub(crate) fn decode_picture(bytes: &[u8], slice: Option<u32>, reading: &Reading) -> Result<Picture, DecodeError> {
    let picture = if dicom::recognised(bytes) {
        dicom::frame(bytes, slice, reading)?
    } else if nifti::recognised(bytes) {
        nifti::slice(bytes, slice, reading)?
    } else {
        DecodeError::choose(slice, 1, "picture")?;
        ordinary(bytes, reading)?
    };
    Ok(Picture { image: canonical(picture.image), ..picture })
}

/// A file of one of the formats that are not medical, as a viewer shows it.
fn ordinary(bytes: &[u8], Reading { limits, enough, .. }: &Reading) -> Result<Picture, DecodeError> {
    let (limits, enough) = (*limits, *enough);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let format = reader.format().ok_or(DecodeError::UnknownFormat)?;
    if format == ImageFormat::Jpeg {
        if !jpeg::is_whole(bytes) {
            return Err(DecodeError::Truncated);
        }
        if let Some(Jpeg { image, size }) = jpeg::decode(bytes, enough, limits)? {
            let picture = Picture { channels: image.color().channel_count(), bits: 8, format: name(format), image, size };
            return Ok(picture.turned(by_exif(jpeg::exif(bytes))));
        }
    }
    let mut allocation = image::Limits::default();
    allocation.max_alloc = Some(limits.pixels.saturating_mul(8));
    reader.limits(allocation);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    // A tag that cannot be read turns nothing: the picture is whole without it.
    let orientation = match format {
        ImageFormat::Jpeg => by_exif(jpeg::exif(bytes)),
        ImageFormat::Tiff => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        _ => by_exif(decoder.exif_metadata().ok().flatten().as_deref()),
    };
    let image = DynamicImage::from_decoder(decoder)?;
    let channels = image.color().channel_count();
    let bits = image.color().bits_per_pixel() / u16::from(channels.max(1));
    Ok(Picture { image, size: [width, height], format: name(format), bits, channels }.turned(orientation))
}

/// How EXIF says that a picture is to be turned. Some PNG and WebP files have it with the beginning that it has in a JPEG.
fn by_exif(exif: Option<&[u8]>) -> Orientation {
    exif.and_then(|exif| Orientation::from_exif_chunk(exif.strip_prefix(jpeg::EXIF).unwrap_or(exif))).unwrap_or(Orientation::NoTransforms)
}

impl Picture {
    /// As a viewer shows it.
    fn turned(mut self, orientation: Orientation) -> Self {
        self.image.apply_orientation(orientation);
        let [width, height] = self.size;
        let size = match orientation {
            Orientation::NoTransforms | Orientation::Rotate180 | Orientation::FlipHorizontal | Orientation::FlipVertical => [width, height],
            Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => [height, width],
        };
        Self { size, ..self }
    }
}

/// Resizes and crops an image to the geometry: `[3, size, size]`, grey repeated, channels first, rows from top to bottom.
/// The pixels are Pillow's (torchvision's `Resize` and `CenterCrop` on PIL images), see `resample.rs`.
///
/// # Errors
/// An image without pixels, or one so elongated that it would exceed the limits when resized.
pub fn fit(image: impl Into<DynamicImage>, geometry: &Geometry, limits: Limits) -> Result<Vec<u8>, DecodeError> {
    let image = image.into();
    let (width, height) = (image.width(), image.height());
    let (new_width, new_height) = geometry.resized(width, height);
    if new_width.saturating_mul(new_height) > limits.pixels {
        return Err(DecodeError::TooLarge { width, height, limits });
    }
    if width == 0 || height == 0 {
        return Err(DecodeError::Empty);
    }
    let (from, to) = ((width as usize, height as usize), (new_width as usize, new_height as usize));
    let size = geometry.size as usize;
    Ok(match image {
        DynamicImage::ImageLuma8(grey) => crop::<1>(&resample::<1>(grey.into_raw(), from, to, geometry.interpolation), to, size).repeat(3),
        other => crop::<3>(&resample::<3>(other.into_rgb8().into_raw(), from, to, geometry.interpolation), to, size),
    })
}

/// Cuts the centre out and turns interleaved pixels into planes. Offsets round half to even, as Python's `round` does.
fn crop<const C: usize>(pixels: &[u8], (width, height): (usize, usize), size: usize) -> Vec<u8> {
    let offset = |length: usize| ((length - size) as f64 / 2.0).round_ties_even() as usize;
    let (left, top) = (offset(width), offset(height));
    let mut planes = Vec::with_capacity(C * size * size);
    for channel in 0..C {
        for y in top..top + size {
            let (row, _) = pixels[C * (y * width + left)..C * (y * width + left + size)].as_chunks::<C>();
            planes.extend(row.iter().map(|pixel| pixel[channel]));
        }
    }
    planes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jpeg::tests::jpeg;
    use image::{ImageBuffer, Luma, Rgba};

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn sixteen_bits_are_scaled_grey_is_repeated_and_alpha_dropped() {
        let grey: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_fn(3, 1, |x, _| Luma([[0, 32_896, 65_535][x as usize]]));
        let rgb = decode(&png(&DynamicImage::ImageLuma16(grey)), None, &Reading::default()).unwrap();
        assert_eq!(rgb.into_raw(), [0, 0, 0, 128, 128, 128, 255, 255, 255]);
        let clear = ImageBuffer::from_pixel(1, 1, Rgba([10u8, 20, 30, 0]));
        assert_eq!(decode(&png(&DynamicImage::ImageRgba8(clear)), None, &Reading::default()).unwrap().into_raw(), [10, 20, 30]);
    }

    #[test]
    fn every_format_in_the_list_decodes() {
        let image = DynamicImage::ImageRgb8(RgbImage::from_fn(9, 7, |x, y| image::Rgb([(x * 20) as u8, (y * 30) as u8, 7])));
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).unwrap();
            assert_eq!(decode(&bytes.into_inner(), None, &Reading::default()).unwrap(), image.to_rgb8(), "{format:?}");
        }
        let decoded = decode(&jpeg(64, 48), None, &Reading::default()).unwrap();
        assert!((i32::from(decoded.get_pixel(40, 20)[0]) - 160).abs() <= 4);
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let grey = DynamicImage::ImageLuma8(ImageBuffer::from_fn(40, 40, |x, y| Luma([(x * y % 251) as u8])));
        for whole in [jpeg(64, 48), png(&grey)] {
            assert!(decode(&whole, None, &Reading::default()).is_ok());
            for keep in [0, 3, 30, whole.len() / 2, whole.len() * 9 / 10] {
                assert!(decode(&whole[..keep], None, &Reading::default()).is_err(), "{keep} of {} bytes decoded", whole.len());
            }
        }
        let error = decode(b"<html>not found</html>", None, &Reading::default()).unwrap_err();
        assert!(matches!(error, DecodeError::UnknownFormat));
    }

    /// `whole`, a JPEG, with EXIF of this orientation.
    fn oriented(whole: &[u8], orientation: u8) -> Vec<u8> {
        let exif = [b"\xFF\xE1\0\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation], &[0; 6]].concat();
        [&whole[..2], &exif, &whole[2..]].concat()
    }

    #[test]
    fn both_decoders_of_jpeg_turn_it() {
        let whole = jpeg(64, 48);
        // Of bytes before the end marker libjpeg-turbo warns, so that the decoder in Rust has it.
        let odd = [&whole[..whole.len() - 2], &[7; 5], &[0xFF, 0xD9]].concat();
        assert!(crate::jpeg::decode(&odd, None, Limits::default()).unwrap().is_none());
        for (bytes, enough, size) in [(&whole, None, [48, 64]), (&whole, Some(24), [24, 32]), (&odd, None, [48, 64])] {
            let reading = Reading { enough, ..Reading::default() };
            let upright = decode_picture(bytes, None, &reading).unwrap();
            let turned = decode_picture(&oriented(bytes, 6), None, &reading).unwrap();
            assert_eq!((upright.size, turned.size), ([64, 48], [48, 64]));
            assert_eq!([turned.image.width(), turned.image.height()], size);
            assert_eq!(turned.image, upright.image.rotate90());
            for odd in [0, 9, 255] {
                assert_eq!(decode_picture(&oriented(bytes, odd), None, &reading).unwrap().image, upright.image, "orientation {odd}");
            }
        }
    }

    #[test]
    fn the_header_is_checked_before_pixels_are_allocated() {
        let mut bytes = png(&DynamicImage::new_luma8(4, 4));
        let huge = 1_000_000u32.to_be_bytes();
        bytes[16..20].copy_from_slice(&huge);
        bytes[20..24].copy_from_slice(&huge);
        assert!(decode(&bytes, None, &Reading::default()).is_err());
        let small = Reading { limits: Limits { side: 3, ..Limits::default() }, ..Reading::default() };
        assert!(matches!(decode(&png(&DynamicImage::new_luma8(4, 2)), None, &small), Err(DecodeError::TooLarge { width: 4, height: 2, .. })));
    }

    #[test]
    fn an_elongated_image_does_not_explode() {
        let geometry = Geometry { size: 224, resize: 256, fit: Fit::Crop, interpolation: Interpolation::Bilinear };
        let strip = || RgbImage::new(16_384, 1);
        assert!(matches!(fit(strip(), &geometry, Limits::default()), Err(DecodeError::TooLarge { .. })));
        let stretched = Geometry { fit: Fit::Stretch, ..geometry };
        assert_eq!(fit(strip(), &stretched, Limits::default()).unwrap().len(), geometry.bytes());
    }

    #[test]
    fn geometry_comes_from_the_spec_and_else_from_the_architecture() {
        let geometry = Geometry::resolve(Architecture::ResNet18, None).unwrap();
        assert_eq!((geometry.size, geometry.resize), (224, 256));
        let spec = Preprocessing { size: Some(96), resize: Some(90), ..Preprocessing::default() };
        assert_eq!(Geometry::resolve(Architecture::ResNet18, Some(&spec)).unwrap_err().reason(), "InvalidPreprocessing");
        let spec = Preprocessing { fit: Some(Fit::Stretch), ..spec };
        assert_eq!(Geometry::resolve(Architecture::ResNet18, Some(&spec)).unwrap().size, 96);
        let geometry = Geometry::resolve(Architecture::EfficientNetB1, None).unwrap();
        assert_eq!((geometry.size, geometry.resize, geometry.interpolation), (240, 256, Interpolation::Bicubic));
        let text = Geometry::resolve(Architecture::Dinov2S14, Some(&spec)).unwrap_err().to_string();
        assert!(text.contains("patches of 14 pixels") && text.contains("take 84 or 98"), "{text}");
    }
}
