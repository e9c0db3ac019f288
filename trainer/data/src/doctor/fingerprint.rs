//! What the doctor keeps of an image: two digests, the picture at 32 × 32 grey pixels, and facts about its file. It is
//! a function of the file's bytes alone, about 1.2 KiB, so that a hundred thousand images fit into memory.

use graft_crds::spec::Interpolation;
use image::DynamicImage;
use sha2::{Digest, Sha256};

use crate::decode::{DecodeError, FORMATS, OTHER, Picture, Reading, decode_picture};
use crate::loader::FileDigest;
use crate::resample::resample;

/// Side of the small grey picture in pixels.
pub(crate) const SIDE: usize = 32;
/// Width of the border in the small picture, in pixels: a sixteenth of the side.
const BORDER: usize = SIDE / 16;

/// What is known about a file besides its picture.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    /// Width in pixels.
    pub(crate) width: u32,
    /// Height in pixels.
    pub(crate) height: u32,
    /// Bits per channel.
    pub(crate) bits: u16,
    /// Channels as stored: 1 is grey.
    pub(crate) channels: u8,
    /// The file's format, by its content.
    pub(crate) format: &'static str,
    /// Mean and standard deviation of the top, bottom, left and right border, in grey levels.
    pub(crate) border: [f32; 8],
}

/// What the doctor keeps of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Fingerprint {
    /// SHA-256 of the file.
    pub(crate) file: FileDigest,
    /// SHA-256 of size and decoded pixels: equal for the same picture in two lossless files.
    pub(crate) pixels: FileDigest,
    /// The picture stretched to 32 × 32 grey pixels, rows from top to bottom.
    pub(crate) grey: Vec<u8>,
    /// About the file.
    pub(crate) facts: Facts,
}

impl Fingerprint {
    /// Length of [`Fingerprint::to_bytes`].
    pub const BYTES: usize = 32 + 32 + SIDE * SIDE + 4 + 4 + 2 + 1 + 1 + 8 * 4;

    /// Decodes a file, or one slice of it, and measures it.
    ///
    /// # Errors
    /// Anything but a whole image within the limits.
    pub(crate) fn of(bytes: &[u8], slice: Option<u32>, reading: &Reading) -> Result<Self, DecodeError> {
        Ok(Self::measure(Sha256::digest(bytes).into(), decode_picture(bytes, slice, reading)?)?.0)
    }

    /// Measures the picture of the file with this digest; gives the pixels back.
    ///
    /// # Errors
    /// A picture without pixels.
    pub(crate) fn measure(file: FileDigest, picture: Picture) -> Result<(Self, DynamicImage), DecodeError> {
        let Picture { image, size, format, bits, channels } = picture;
        let (width, height) = (image.width(), image.height());
        if width == 0 || height == 0 {
            return Err(DecodeError::Empty);
        }
        let pixels = Sha256::new().chain_update(width.to_le_bytes()).chain_update(height.to_le_bytes()).chain_update(image.as_bytes()).finalize();
        let grey = resample::<1>(image.to_luma8().into_raw(), (width as usize, height as usize), (SIDE, SIDE), Interpolation::Bilinear);
        let facts = Facts { width: size[0], height: size[1], bits, channels, format, border: border(&grey) };
        Ok((Self { file, pixels: pixels.into(), grey, facts }, image))
    }

    /// SHA-256 of the file.
    #[must_use]
    pub fn file(&self) -> FileDigest {
        self.file
    }

    /// As bytes that another rank can read: [`Fingerprint::BYTES`] of them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let facts = &self.facts;
        let format = FORMATS.iter().position(|name| *name == facts.format).unwrap_or(FORMATS.len());
        let mut out = [&self.file[..], &self.pixels, &self.grey].concat();
        out.extend(facts.width.to_le_bytes());
        out.extend(facts.height.to_le_bytes());
        out.extend(facts.bits.to_le_bytes());
        out.extend([facts.channels, format as u8]);
        out.extend(facts.border.iter().flat_map(|v| v.to_le_bytes()));
        out
    }

    /// What [`Fingerprint::to_bytes`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (file, rest) = bytes.split_first_chunk::<32>()?;
        let (pixels, rest) = rest.split_first_chunk::<32>()?;
        let (grey, rest) = rest.split_at_checked(SIDE * SIDE)?;
        let (width, rest) = rest.split_first_chunk::<4>()?;
        let (height, rest) = rest.split_first_chunk::<4>()?;
        let (bits, rest) = rest.split_first_chunk::<2>()?;
        let ([channels, format], rest) = rest.split_first_chunk::<2>()?;
        let levels: Vec<f32> = rest.chunks_exact(4).filter_map(|four| Some(f32::from_le_bytes(four.try_into().ok()?))).collect();
        let facts = Facts {
            width: u32::from_le_bytes(*width),
            height: u32::from_le_bytes(*height),
            bits: u16::from_le_bytes(*bits),
            channels: *channels,
            format: FORMATS.into_iter().chain([OTHER]).nth(usize::from(*format))?,
            border: levels.try_into().ok()?,
        };
        Some(Self { file: *file, pixels: *pixels, grey: grey.to_vec(), facts })
    }
}

fn border(grey: &[u8]) -> [f32; 8] {
    let strips: [fn(usize, usize) -> bool; 4] = [|_, y| y < BORDER, |_, y| y >= SIDE - BORDER, |x, _| x < BORDER, |x, _| x >= SIDE - BORDER];
    let mut out = [0.0; 8];
    for (slot, inside) in out.chunks_exact_mut(2).zip(strips) {
        let levels: Vec<f32> = grey.iter().enumerate().filter(|(i, _)| inside(i % SIDE, i / SIDE)).map(|(_, level)| f32::from(*level)).collect();
        let mean = levels.iter().sum::<f32>() / levels.len() as f32;
        let variance = levels.iter().map(|level| (level - mean).powi(2)).sum::<f32>() / levels.len() as f32;
        slot.copy_from_slice(&[mean, variance.sqrt()]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageFormat, Luma};

    fn bytes(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut file = std::io::Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    #[test]
    fn the_same_picture_in_another_file_has_the_same_pixels() {
        let grey = DynamicImage::ImageLuma8(GrayImage::from_fn(50, 40, |x, y| Luma([(x * y % 256) as u8])));
        let files = [bytes(&grey, ImageFormat::Png), bytes(&grey, ImageFormat::Bmp), bytes(&grey.to_rgb8().into(), ImageFormat::Png)];
        let prints = files.map(|file| Fingerprint::of(&file, None, &Reading::default()).unwrap());
        assert!(prints.iter().all(|print| print.pixels == prints[0].pixels && print.grey == prints[0].grey));
        assert_ne!(prints[0].file, prints[2].file);
        assert_eq!((prints[0].facts.format, prints[0].facts.bits, prints[0].facts.channels), ("PNG", 8, 1));
        assert_eq!((prints[1].facts.format, prints[2].facts.channels), ("BMP", 3));
        assert!(prints.iter().all(|print| Fingerprint::from_bytes(&print.to_bytes()).as_ref() == Some(print)));
        assert_eq!((prints[0].to_bytes().len(), Fingerprint::from_bytes(&prints[0].to_bytes()[1..])), (Fingerprint::BYTES, None));
        let turned = Fingerprint::of(&bytes(&grey.rotate90(), ImageFormat::Png), None, &Reading::default()).unwrap();
        assert_ne!(turned.pixels, prints[0].pixels);
    }

    #[test]
    fn the_border_is_measured_side_by_side() {
        let mut grey = vec![0; SIDE * SIDE];
        grey[..BORDER * SIDE].fill(200);
        let measured = border(&grey);
        assert_eq!(measured[..4], [200.0, 0.0, 0.0, 0.0]);
        assert!((measured[4] - 200.0 / 16.0).abs() < 1e-3 && measured[5] > 40.0, "{measured:?}");
    }
}
