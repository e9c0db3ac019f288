//! One frame of a DICOM file as a picture, and the patient that a file names. dicom-rs reads and decompresses; what is
//! decided here is which frame, which window, and what is refused. No message holds a value of the file's, because any
//! of them may name a person.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use dicom_pixeldata::{
    ConvertOptions, DecodedPixelData, ModalityLutOption, PhotometricInterpretation, PixelDecoder, PixelRepresentation, PlanarConfiguration,
    VoiLutFunction, VoiLutOption,
};
use image::{DynamicImage, RgbImage};

use crate::decode::{DecodeError, Limits, Picture, Reading};
use crate::grey::{Curve, Plane, full_range, square};
use crate::plausible::{Part, plausible};
use crate::{codecs, palette};

/// The transfer syntax of explicit VR big endian, retired and still found.
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
/// Bytes before the file's first tag, then `DICM`.
const PREAMBLE: usize = 128;
/// Length of a file's beginning that says whether it is DICOM.
pub(crate) const MAGIC_END: usize = PREAMBLE + 4;

/// Whether a file that begins so is DICOM, by PS3.10, section 7.1.
pub(crate) fn recognised(beginning: &[u8]) -> bool {
    beginning.get(PREAMBLE..MAGIC_END) == Some(b"DICM")
}

fn short() -> DecodeError {
    broken("has fewer pixels than its header says")
}

fn broken(what: &str) -> DecodeError {
    DecodeError::Dicom(what.to_owned())
}

/// The number of an element.
pub(crate) fn whole(object: &DefaultDicomObject, tag: Tag) -> Option<u32> {
    object.element_opt(tag).ok().flatten().and_then(|element| element.to_int().ok())
}

/// The text of an element, without padding; none where it is empty.
pub(crate) fn text(object: &DefaultDicomObject, tag: Tag) -> Option<String> {
    let text = object.element_opt(tag).ok()??.to_str().ok()?.trim_matches(['\0', ' ']).to_owned();
    (!text.is_empty()).then_some(text)
}

/// A file with its width and height, which are within the limits.
fn opened(bytes: &[u8], limits: Limits) -> Result<(DefaultDicomObject, u32, u32), DecodeError> {
    let malformed = || broken("cannot be parsed: it is truncated or malformed");
    if !plausible(Cursor::new(bytes), bytes.len() as u64, Part::Whole) {
        return Err(malformed());
    }
    let object = OpenFileOptions::new().from_reader(bytes).map_err(|_| malformed())?;
    let (Some(width), Some(height)) = (whole(&object, tags::COLUMNS), whole(&object, tags::ROWS)) else {
        return Err(broken("holds no image"));
    };
    if width == 0 || height == 0 {
        return Err(DecodeError::Empty);
    }
    limits.check(width, height)?;
    Ok((object, width, height))
}

/// What a file says before its pixels; none where it cannot be read.
pub(crate) fn header(path: &Path) -> Option<DefaultDicomObject> {
    let file = File::open(path).ok()?;
    let bytes = file.metadata().ok()?.len();
    if !plausible(file, bytes, Part::Header) {
        return None;
    }
    OpenFileOptions::new().read_until(tags::PIXEL_DATA).open_file(path).ok()
}

/// Minimum, maximum and mean of a grey file's first frame after slope and intercept and before any window: of CT, Hounsfield units.
///
/// # Errors
/// Anything but a whole frame of grey pixels within the limits.
pub fn grey_values(bytes: &[u8]) -> Result<[f64; 3], DecodeError> {
    let (mut object, width, height) = opened(bytes, Limits::default())?;
    let index = prepare(&mut object, 0, [width, height])?;
    let pixels = pixels(&object, index)?;
    let values = plane(&pixels, object.meta().transfer_syntax() == BIG_ENDIAN)?.values;
    let (mut least, mut most, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    for value in values.iter().copied().map(f64::from) {
        (least, most, sum) = (least.min(value), most.max(value), sum + value);
    }
    Ok([least, most, sum / values.len().max(1) as f64])
}

/// Frame `wanted`, or the only one.
///
/// # Errors
/// Anything but a whole frame of grey or coloured pixels within the limits.
pub(crate) fn frame(bytes: &[u8], wanted: Option<u32>, reading: &Reading) -> Result<Picture, DecodeError> {
    let (mut object, width, height) = opened(bytes, reading.limits)?;
    let whole = |tag: Tag| whole(&object, tag);
    let index = DecodeError::choose(wanted, whole(tags::NUMBER_OF_FRAMES).unwrap_or(1).max(1), "frames")?;
    let bits = whole(tags::BITS_STORED).and_then(|bits| u16::try_from(bits).ok()).unwrap_or(8);
    let channels = whole(tags::SAMPLES_PER_PIXEL).and_then(|samples| u8::try_from(samples).ok()).unwrap_or(1);
    let index = prepare(&mut object, index, [width, height])?;
    let pixels = pixels(&object, index)?;
    if (pixels.columns(), pixels.rows()) != (width, height) {
        return Err(broken("has another size than its header says"));
    }
    let swapped = object.meta().transfer_syntax() == BIG_ENDIAN;
    let image = match pixels.photometric_interpretation() {
        PhotometricInterpretation::PaletteColor => {
            let data = palette::coloured(&object, values(&pixels)?).map_err(broken)?;
            RgbImage::from_raw(width, height, data).map(DynamicImage::ImageRgb8).ok_or_else(short)?
        }
        _ if pixels.samples_per_pixel() == 1 => grey(&pixels, swapped, reading)?,
        _ => coloured(&pixels, swapped, [width, height])?,
    };
    let (down, across) = spacing(&object);
    let image = square(image, across, down, reading.limits)?;
    Ok(Picture { size: [image.width(), image.height()], image, format: "DICOM", bits, channels })
}

/// Decodes here what dicom-rs would not, and says which frame of `object` is then the one that is frame `index` of the file.
fn prepare(object: &mut DefaultDicomObject, index: u32, size: [u32; 2]) -> Result<u32, DecodeError> {
    let alone = codecs::unpack(object, index, size).map_err(broken)?;
    Ok(if alone { 0 } else { index })
}

/// Frame `index` without compression.
fn pixels(object: &DefaultDicomObject, index: u32) -> Result<DecodedPixelData<'_>, DecodeError> {
    object.decode_pixel_data_frame(index).map_err(|error| undecodable(object, &error))
}

/// Why dicom-rs could not decode: mostly a transfer syntax that is not supported, and that can be helped.
fn undecodable(object: &DefaultDicomObject, error: &dicom_pixeldata::Error) -> DecodeError {
    let syntax = object.meta().transfer_syntax();
    // The error's own text names attributes and codecs; what is below it may hold values.
    DecodeError::Dicom(format!(
        "has pixels that cannot be decoded ({error}; transfer syntax {syntax}): if the file is whole, convert it to explicit little endian, as with gdcmconv --raw"
    ))
}

fn grey(pixels: &DecodedPixelData<'_>, swapped: bool, reading: &Reading) -> Result<DynamicImage, DecodeError> {
    let plane = plane(pixels, swapped)?;
    let own = || {
        let window = pixels.window().ok().flatten().and_then(<[_]>::first).filter(|window| window.width > 0.0);
        let function = pixels.voi_lut_function().ok().flatten().and_then(<[_]>::first);
        let curve = match function {
            Some(VoiLutFunction::LinearExact) => Curve::LinearExact,
            Some(VoiLutFunction::Sigmoid) => Curve::Sigmoid,
            _ => Curve::Linear,
        };
        window.map_or_else(|| full_range(&plane.values, 0.0), |window| (window.center, window.width, curve))
    };
    plane.picture(&reading.windows, own).ok_or_else(short)
}

/// Grey values after slope and intercept.
fn plane(pixels: &DecodedPixelData<'_>, swapped: bool) -> Result<Plane, DecodeError> {
    let inverted = match pixels.photometric_interpretation() {
        PhotometricInterpretation::Monochrome1 => true,
        PhotometricInterpretation::Monochrome2 => false,
        _ => return Err(broken("has grey pixels of a kind that is not known")),
    };
    let options = ConvertOptions::new().with_modality_lut(ModalityLutOption::Default).with_voi_lut(VoiLutOption::Identity);
    let values = match pixels.bits_allocated() {
        // dicom-rs makes a byte of each bit, and does not convert what is wider than 16 bits.
        1 => pixels.data().iter().map(|bit| f32::from(*bit)).collect(),
        32 => wide(pixels, swapped),
        _ => pixels.to_vec_frame_with_options::<f32>(0, &options).map_err(|_| short())?,
    };
    Ok(Plane { width: pixels.columns(), height: pixels.rows(), values, inverted })
}

fn turned([a, b, c, d]: [u8; 4], swapped: bool) -> [u8; 4] {
    if swapped { [c, d, a, b] } else { [a, b, c, d] }
}

/// Pixels of 32 bits, as in maps of doses, after slope and intercept. Of big-endian files dicom-rs turns the bytes of each word of
/// 16 bits, and the halves stay `swapped`.
fn wide(pixels: &DecodedPixelData<'_>, swapped: bool) -> Vec<f32> {
    let (slope, intercept) = pixels.rescale().ok().and_then(<[_]>::first).map_or((1.0, 0.0), |rescale| (rescale.slope, rescale.intercept));
    let signed = pixels.pixel_representation() == PixelRepresentation::Signed;
    let number = |four: [u8; 4]| if signed { f64::from(i32::from_ne_bytes(four)) } else { f64::from(u32::from_ne_bytes(four)) };
    pixels.data().as_chunks::<4>().0.iter().map(|four| (number(turned(*four, swapped)) * slope + intercept) as f32).collect()
}

/// Numbers of a frame of 8 or 16 bits, as they are stored.
fn values(pixels: &DecodedPixelData<'_>) -> Result<impl Iterator<Item = i32>, DecodeError> {
    let signed = pixels.pixel_representation() == PixelRepresentation::Signed;
    let bytes = usize::from(pixels.bits_allocated() / 8);
    if !(1..=2).contains(&bytes) {
        return Err(broken("has a palette for pixels of other than 8 or 16 bits"));
    }
    Ok(pixels.data().chunks_exact(bytes).map(move |part| match *part {
        [low, high] if signed => i32::from(i16::from_ne_bytes([low, high])),
        [low, high] => i32::from(u16::from_ne_bytes([low, high])),
        [byte, ..] if signed => i32::from(byte as i8),
        _ => part.first().copied().map_or(0, i32::from),
    }))
}

/// Samples of 8 bits, those of 16 and 32 scaled from their full range.
fn levels(pixels: &DecodedPixelData<'_>, swapped: bool) -> Result<Vec<u8>, DecodeError> {
    let data = pixels.frame_data(0).map_err(|_| short())?;
    let most = ((1u64 << pixels.bits_stored().clamp(1, 32)) - 1) as f64;
    let level = |number: f64| (number * 255.0 / most).round().clamp(0.0, 255.0) as u8;
    Ok(match pixels.bits_allocated() {
        8 => data.to_vec(),
        16 => data.as_chunks::<2>().0.iter().map(|two| level(f64::from(u16::from_ne_bytes(*two)))).collect(),
        32 => data.as_chunks::<4>().0.iter().map(|four| level(f64::from(u32::from_ne_bytes(turned(*four, swapped))))).collect(),
        _ => return Err(broken("has coloured pixels of other than 8, 16 or 32 bits")),
    })
}

fn coloured(pixels: &DecodedPixelData<'_>, swapped: bool, [width, height]: [u32; 2]) -> Result<DynamicImage, DecodeError> {
    if pixels.samples_per_pixel() != 3 {
        return Err(broken("has coloured pixels of other than 3 samples"));
    }
    let mut data = levels(pixels, swapped)?;
    if pixels.planar_configuration() != PlanarConfiguration::Standard {
        let (red, rest) = data.split_at(data.len() / 3);
        let (green, blue) = rest.split_at(data.len() / 3);
        data = red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [*r, *g, *b]).collect();
    }
    match pixels.photometric_interpretation() {
        PhotometricInterpretation::Rgb | PhotometricInterpretation::YbrIct | PhotometricInterpretation::YbrRct => {}
        PhotometricInterpretation::YbrFull => data.chunks_exact_mut(3).for_each(to_rgb),
        _ => return Err(broken("has colours that are neither RGB nor YBR_FULL: convert it to RGB")),
    }
    RgbImage::from_raw(width, height, data).map(DynamicImage::ImageRgb8).ok_or_else(short)
}

/// YBR_FULL to RGB: the inverse of DICOM PS3.3, C.7.6.3.1.2, which is JFIF's.
fn to_rgb(pixel: &mut [u8]) {
    let [y, cb, cr] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
    let (cb, cr) = (cb - 128.0, cr - 128.0);
    let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
    pixel.iter_mut().zip(rgb).for_each(|(target, value)| *target = value.round().clamp(0.0, 255.0) as u8);
}

/// Distances of pixels' centres, down the rows and across the columns, in millimetres or as a ratio; equal where the file
/// does not say.
fn spacing(object: &DefaultDicomObject) -> (f64, f64) {
    let pair = |tag: Tag| {
        let values = object.element_opt(tag).ok().flatten()?.to_multi_float64().ok()?;
        Some((*values.first()?, *values.get(1)?))
    };
    [tags::PIXEL_SPACING, tags::IMAGER_PIXEL_SPACING, tags::PIXEL_ASPECT_RATIO].into_iter().find_map(pair).unwrap_or((1.0, 1.0))
}

/// The id of the patient (0010,0020) that a file names; none where it names none, is no DICOM or cannot be read. The
/// pixels are not read.
pub(crate) fn patient(path: &Path) -> Option<String> {
    let object = header(path)?;
    text(&object, tags::PATIENT_ID)
}
