//! JPEG 2000 (ISO/IEC 15444-1) by a decoder without unsafe code. It does not know of signed samples: whether they are is read here from the
//! marker SIZ, and the offset that unsigned ones have is taken off again.

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};

use super::Frame;

/// The beginning of a codestream, which may lie in a file's boxes: SOC and SIZ.
const BEGINNING: [u8; 4] = [0xFF, 0x4F, 0xFF, 0x51];
/// From there to the number of components, of two bytes, and the first one's precision, whose highest bit says that it is signed.
const COMPONENTS: usize = 40;
/// More are no picture, and would take memory.
const MOST: u16 = 4;

/// Decodes a frame of `width` by `height`.
///
/// # Errors
/// In words, when it is not a whole frame of that size, of at most 16 bits.
pub(super) fn decode(bytes: &[u8], width: usize, height: usize) -> Result<Frame, &'static str> {
    let damaged = "has damaged JPEG 2000 pixels";
    let start = memchr::memmem::find(bytes, &BEGINNING).ok_or(damaged)?;
    let &[high, low, precision] = bytes.get(start + COMPONENTS..).and_then(<[u8]>::first_chunk).ok_or(damaged)?;
    let signed = precision & 0x80 != 0;
    if u16::from_be_bytes([high, low]) > MOST {
        return Err("has JPEG 2000 pixels of more components than a picture");
    }
    let settings = DecodeSettings { strict: true, resolve_palette_indices: false, target_resolution: None };
    let image = Image::new(&bytes[start..], &settings).map_err(|_| damaged)?;
    if (image.width() as usize, image.height() as usize) != (width, height) {
        return Err("has another size than its header says");
    }
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(|_| damaged)?;
    let planes = decoded.components();
    let bits = planes.iter().map(|plane| u32::from(plane.bit_depth())).max().unwrap_or(0);
    if bits == 0 || bits > 16 {
        return Err("has JPEG 2000 pixels of more than 16 bits");
    }
    let offset = if signed { 1i32 << (bits - 1) } else { 0 };
    let mut samples = vec![0; width * height * planes.len()];
    for (at, plane) in planes.iter().enumerate() {
        if plane.samples().len() != width * height {
            return Err(damaged);
        }
        for (sample, value) in samples[at..].iter_mut().step_by(planes.len()).zip(plane.samples()) {
            *sample = (value.round() as i32 - offset) as u16;
        }
    }
    Ok(Frame { bits, components: planes.len(), samples })
}
