//! One frame of a DICOM file as a picture, and the patient that a file names. dicom-rs reads and decompresses; what is
//! decided here is which frame, which window, and what is refused. No message holds a value of the file's, because any
//! of them may name a person.

use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::{tags, uids};
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use dicom_pixeldata::{
    ConvertOptions, DecodedPixelData, ModalityLutOption, PhotometricInterpretation, PixelDecoder, PixelRepresentation, PlanarConfiguration,
    VoiLutFunction, VoiLutOption,
};
use image::{DynamicImage, RgbImage};

use crate::decode::{DecodeError, Limits, Picture, Reading};
use crate::grey::{Curve, Plane, full_range, square};

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

fn whole(object: &DefaultDicomObject, tag: Tag) -> Option<u32> {
    object.element_opt(tag).ok().flatten().and_then(|element| element.to_int().ok())
}

/// A file with its width and height, which are within the limits.
fn opened(bytes: &[u8], limits: Limits) -> Result<(DefaultDicomObject, u32, u32), DecodeError> {
    let object = OpenFileOptions::new().from_reader(bytes).map_err(|_| broken("cannot be parsed: it is truncated or malformed"))?;
    let (Some(width), Some(height)) = (whole(&object, tags::COLUMNS), whole(&object, tags::ROWS)) else {
        return Err(broken("holds no image"));
    };
    if width == 0 || height == 0 {
        return Err(DecodeError::Empty);
    }
    limits.check(width, height)?;
    Ok((object, width, height))
}

/// Minimum, maximum and mean of a grey file's first frame after slope and intercept and before any window: of CT, Hounsfield units.
///
/// # Errors
/// Anything but a whole frame of grey pixels within the limits.
pub fn grey_values(bytes: &[u8]) -> Result<[f64; 3], DecodeError> {
    let (object, ..) = opened(bytes, Limits::default())?;
    let pixels = object.decode_pixel_data_frame(0).map_err(|error| undecodable(&object, &error))?;
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
    let (object, width, height) = opened(bytes, reading.limits)?;
    let whole = |tag: Tag| whole(&object, tag);
    let index = DecodeError::choose(wanted, whole(tags::NUMBER_OF_FRAMES).unwrap_or(1).max(1), "frames")?;
    let bits = whole(tags::BITS_STORED).and_then(|bits| u16::try_from(bits).ok()).unwrap_or(8);
    let channels = whole(tags::SAMPLES_PER_PIXEL).and_then(|samples| u8::try_from(samples).ok()).unwrap_or(1);
    if ambiguous(&object) {
        return Err(broken("says RGB, and its JPEG does not say whether that is so: convert it to explicit little endian"));
    }
    let pixels = object.decode_pixel_data_frame(index).map_err(|error| undecodable(&object, &error))?;
    if (pixels.columns(), pixels.rows()) != (width, height) {
        return Err(broken("has another size than its header says"));
    }
    let swapped = object.meta().transfer_syntax() == BIG_ENDIAN;
    let image = if pixels.samples_per_pixel() == 1 { grey(&pixels, swapped, reading)? } else { coloured(&pixels, width, height)? };
    let (down, across) = spacing(&object);
    Ok(Picture { image: square(image, across, down, reading.limits)?, format: "DICOM", bits, channels })
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
        _ => return Err(broken("has a palette: convert it to RGB")),
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

/// Pixels of 32 bits, as in maps of doses, after slope and intercept. Of big-endian files dicom-rs turns the bytes of each word of
/// 16 bits, and the halves stay `swapped`.
fn wide(pixels: &DecodedPixelData<'_>, swapped: bool) -> Vec<f32> {
    let (slope, intercept) = pixels.rescale().ok().and_then(<[_]>::first).map_or((1.0, 0.0), |rescale| (rescale.slope, rescale.intercept));
    let signed = pixels.pixel_representation() == PixelRepresentation::Signed;
    let turned = |&[a, b, c, d]: &[u8; 4]| if swapped { [c, d, a, b] } else { [a, b, c, d] };
    let number = |four: [u8; 4]| if signed { f64::from(i32::from_ne_bytes(four)) } else { f64::from(u32::from_ne_bytes(four)) };
    pixels.data().as_chunks::<4>().0.iter().map(|four| (number(turned(four)) * slope + intercept) as f32).collect()
}

/// Whether a file says RGB and its JPEG has no marker of JFIF or Adobe that says what it is. Decoders then take it for YBR.
fn ambiguous(object: &DefaultDicomObject) -> bool {
    let lossy = [uids::JPEG_BASELINE8_BIT, uids::JPEG_EXTENDED12_BIT].contains(&object.meta().transfer_syntax());
    let text = |tag: Tag| object.element_opt(tag).ok().flatten().and_then(|element| element.to_str().ok().map(|text| text.trim().to_owned()));
    if !lossy || text(tags::PHOTOMETRIC_INTERPRETATION).as_deref() != Some("RGB") {
        return false;
    }
    let jpeg = object.element_opt(tags::PIXEL_DATA).ok().flatten().and_then(|element| element.fragments()?.first());
    let header: &[u8] = jpeg.map_or(&[], |jpeg| &jpeg[..jpeg.len().min(1024)]);
    ![&b"JFIF\0"[..], b"Adobe"].iter().any(|name| header.windows(name.len()).any(|part| part == *name))
}

fn coloured(pixels: &DecodedPixelData<'_>, width: u32, height: u32) -> Result<DynamicImage, DecodeError> {
    if pixels.samples_per_pixel() != 3 || pixels.bits_allocated() != 8 {
        return Err(broken("has coloured pixels of other than 3 × 8 bits"));
    }
    let mut data = pixels.frame_data(0).map_err(|_| short())?.to_vec();
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
    RgbImage::from_raw(width, height, data).map(DynamicImage::ImageRgb8).ok_or(DecodeError::Empty)
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
    let object = OpenFileOptions::new().read_until(tags::PIXEL_DATA).open_file(path).ok()?;
    let id = object.element_opt(tags::PATIENT_ID).ok()??.to_str().ok()?.trim_matches(['\0', ' ']).to_owned();
    (!id.is_empty()).then_some(id)
}
