//! JPEG files by libjpeg-turbo: the pixels of Pillow and torchvision, which use it too, and at a half, a quarter or an eighth of the size where
//! that is enough. What libjpeg-turbo refuses or warns of is for the decoder in Rust to judge, see `decode.rs`.

use image::{DynamicImage, GrayImage, RgbImage};
use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat, ScalingFactor};

use crate::decode::{DecodeError, Limits};

/// More scans than any encoder makes are an attack on the decoder's time.
const SCANS: u32 = 100;

/// How EXIF begins in a JPEG.
pub(crate) const EXIF: &[u8] = b"Exif\0\0";

/// A decoded JPEG.
pub(crate) struct Jpeg {
    /// Grey or RGB, perhaps smaller than the file says.
    pub(crate) image: DynamicImage,
    /// Width and height in the file, in pixels.
    pub(crate) size: [u32; 2],
}

/// Decodes a JPEG of grey, YCbCr or RGB; `None` for what libjpeg-turbo has anything to say about. With `enough`, it is decoded at
/// 1/8, 1/4 or 1/2 of its size, the smallest that leaves no side shorter than `enough` pixels: what Pillow's `Image.draft` does.
///
/// # Errors
/// `TooLarge`.
pub(crate) fn decode(bytes: &[u8], enough: Option<u32>, limits: Limits) -> Result<Option<Jpeg>, DecodeError> {
    let Ok(mut decompressor) = Decompressor::new() else { return Ok(None) };
    let Ok(header) = decompressor.read_header(bytes) else { return Ok(None) };
    let (Ok(width), Ok(height)) = (u32::try_from(header.width), u32::try_from(header.height)) else { return Ok(None) };
    limits.check(width, height)?;
    let format = match header.colorspace {
        Colorspace::Gray => PixelFormat::GRAY,
        Colorspace::YCbCr | Colorspace::RGB => PixelFormat::RGB,
        Colorspace::CMYK | Colorspace::YCCK => return Ok(None),
    };
    let part = if header.is_lossless { 1 } else { divisor(width.min(height), enough) };
    let scale = ScalingFactor::new(1, part as usize);
    let small = header.scaled(scale);
    let pitch = small.width * format.size();
    let mut pixels = vec![0; pitch * small.height];
    let image = Image { pixels: pixels.as_mut_slice(), width: small.width, pitch, height: small.height, format };
    let decoded =
        decompressor.set_scaling_factor(scale).and_then(|()| decompressor.set_scan_limit(SCANS)).and_then(|()| decompressor.decompress(bytes, image));
    if decoded.is_err() {
        return Ok(None);
    }
    let (small_width, small_height) = (width.div_ceil(part), height.div_ceil(part));
    let image = match format {
        PixelFormat::GRAY => GrayImage::from_raw(small_width, small_height, pixels).map(DynamicImage::ImageLuma8),
        _ => RgbImage::from_raw(small_width, small_height, pixels).map(DynamicImage::ImageRgb8),
    };
    Ok(image.map(|image| Jpeg { image, size: [width, height] }))
}

/// By how much a JPEG whose shorter side is `shorter` may be divided.
fn divisor(shorter: u32, enough: Option<u32>) -> u32 {
    let fits = |part: &u32| enough.is_some_and(|enough| enough > 0 && shorter / enough >= *part);
    [8, 4, 2].into_iter().find(fits).unwrap_or(1)
}

/// The marker with which a scan begins.
const SCAN: u8 = 0xDA;

/// The segments of a JPEG's header, each by its marker and what follows its length; at last the first scan with all that is left.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut at = 2;
    std::iter::from_fn(move || {
        while let Some(&[0xFF, marker]) = bytes.get(at..at + 2) {
            let begin = at;
            match (marker, bytes.get(at + 2..at + 4)) {
                (0xFF, _) => at += 1,
                (0x01 | 0xD0..=0xD8, _) => at += 2,
                (SCAN, _) => {
                    at = bytes.len();
                    return Some((SCAN, &bytes[begin..]));
                }
                (_, Some(&[high, low])) => {
                    at += 2 + usize::from(u16::from_be_bytes([high, low]));
                    return Some((marker, bytes.get(begin + 4..at).unwrap_or_default()));
                }
                (_, _) => return None,
            }
        }
        None
    })
}

/// Whether a JPEG has an end marker after the beginning of its scan. Decoders fill up what is missing without an error.
/// The search begins behind the header, because a thumbnail in there has an end marker of its own; within scans, bytes
/// 0xFF are escaped, so the marker cannot appear by chance.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    segments(bytes).any(|(marker, rest)| marker == SCAN && memchr::memmem::find(rest, &[0xFF, 0xD9]).is_some())
}

/// A JPEG's EXIF, the first that it has.
pub(crate) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    segments(bytes).find_map(|(marker, segment)| if marker == 0xE1 { segment.strip_prefix(EXIF) } else { None })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;

    /// A picture of `width` by `height` as a JPEG.
    pub(crate) fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 4) as u8, (y * 5) as u8, ((x + y) * 2) as u8]));
        JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&image).unwrap();
        bytes
    }

    #[test]
    fn it_is_decoded_as_small_as_is_enough() {
        let bytes = jpeg(203, 130);
        for (enough, size) in [
            (None, (203, 130)),
            (Some(66), (203, 130)),
            (Some(65), (102, 65)),
            (Some(33), (102, 65)),
            (Some(32), (51, 33)),
            (Some(16), (26, 17)),
            (Some(1), (26, 17)),
            (Some(0), (203, 130)),
        ] {
            let Jpeg { image, size: stored } = decode(&bytes, enough, Limits::default()).unwrap().unwrap();
            assert_eq!(((image.width(), image.height()), stored), (size, [203, 130]), "{enough:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_left_to_the_other_decoder() {
        let whole = jpeg(64, 48);
        let mut spoilt = whole.clone();
        let length = spoilt.len();
        spoilt[length / 2..length / 2 + 40].fill(0xFF);
        for bytes in [&b""[..], b"\xFF\xD8\xFF", &whole[..length / 2], &spoilt] {
            assert!(decode(bytes, None, Limits::default()).unwrap().is_none());
        }
        let narrow = Limits { side: 63, ..Limits::default() };
        assert!(matches!(decode(&whole, None, narrow), Err(DecodeError::TooLarge { width: 64, .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_header_crashes_the_search_for_the_end_and_for_exif(mut bytes: Vec<u8>) {
            bytes.splice(0..0, [0xFF, 0xD8, 0xFF]);
            is_whole(&bytes);
            exif(&bytes);
        }
    }

    #[test]
    fn the_end_marker_of_a_thumbnail_does_not_count() {
        let whole = jpeg(64, 48);
        let mut with_thumbnail = whole[..2].to_vec();
        with_thumbnail.extend([0xFF, 0xE1, 0, 6, 0xFF, 0xD8, 0xFF, 0xD9]);
        with_thumbnail.extend(&whole[2..]);
        assert!(is_whole(&with_thumbnail));
        assert!(!is_whole(&with_thumbnail[..with_thumbnail.len() - 2]));
    }
}
