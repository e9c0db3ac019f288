//! What dicom-rs does not decode, decoded here into what it would have read from an uncompressed file: JPEG-LS, JPEG of 12 bits, JPEG whose
//! RGB it would take for YBR, run lengths of 32 bits, and YBR_FULL_422 without compression. All the rest of a file stays as it is.

mod jpeg;
mod jpeg2000;
mod jpegls;
mod rle;

use dicom_core::value::Value;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::DefaultDicomObject;

use crate::dicom::{text, whole};

/// Samples of a picture, interleaved by pixel.
struct Frame {
    /// Bits of a sample.
    bits: u32,
    components: usize,
    samples: Vec<u16>,
}

/// The next marker of a JPEG: its code, what it holds, and what follows.
fn marker(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let fill = bytes.iter().take_while(|byte| **byte == 0xFF).count();
    let (code, rest) = bytes.get(fill..)?.split_first().filter(|_| fill > 0)?;
    if matches!(code, 0x01 | 0xD0..=0xD9) {
        return Some((*code, &[], rest));
    }
    let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?)).checked_sub(2)?;
    let (segment, after) = rest.get(2..)?.split_at_checked(length)?;
    Some((*code, segment, after))
}

/// Replaces the pixels of `object` by those of frame `index` as they are without compression, if dicom-rs would not decode them; then says
/// true, and the frame is the only one. `size` is width and height.
///
/// # Errors
/// In words, when the pixels are not a whole frame of that size.
pub(crate) fn unpack(object: &mut DefaultDicomObject, index: u32, size: [u32; 2]) -> Result<bool, &'static str> {
    let [width, height] = size.map(|side| side as usize);
    let number = |tag: Tag| whole(object, tag).unwrap_or(1) as usize;
    let (components, allocated) = (number(tags::SAMPLES_PER_PIXEL), number(tags::BITS_ALLOCATED));
    let colours = text(object, tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_default();
    let syntax = object.meta().transfer_syntax().to_owned();
    let pixels = match syntax.as_str() {
        uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS => Pixels::Samples(jpegls::decode(&packed(object, index)?, width, height)?),
        uids::JPEG2000_LOSSLESS | uids::JPEG2000 => Pixels::Samples(jpeg2000::decode(&packed(object, index)?, width, height)?),
        uids::JPEG_BASELINE8_BIT | uids::JPEG_EXTENDED12_BIT => {
            let bytes = packed(object, index)?;
            if sized(&bytes, width, height)? != 12 && !(colours == "RGB" && unmarked(&bytes)) {
                return Ok(false);
            }
            Pixels::Samples(jpeg::decode(&bytes, width, height)?)
        }
        uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 => {
            sized(&packed(object, index)?, width, height)?;
            return Ok(false);
        }
        uids::RLE_LOSSLESS if allocated == 32 => Pixels::Bytes(rle::decode(&packed(object, index)?, width * height, components, 4)?),
        syntax if colours == "YBR_FULL_422" && plain(syntax) && allocated == 8 => Pixels::Bytes(full(object, index, width * height)?),
        _ => return Ok(false),
    };
    replace(object, pixels, allocated, components)?;
    Ok(true)
}

/// Bits of a sample of a JPEG, if that has the size that the file's header says: the decoder makes room for what the JPEG says.
fn sized(jpeg: &[u8], width: usize, height: usize) -> Result<u8, &'static str> {
    match jpeg::header(jpeg) {
        Some((bits, down, across)) if (across, down) == (width, height) => Ok(bits),
        Some(_) => Err("has pixels of another size than its header says"),
        None => Err("has JPEG pixels without a header"),
    }
}

enum Pixels {
    Samples(Frame),
    /// As many bits as the file allocates.
    Bytes(Vec<u8>),
}

fn plain(syntax: &str) -> bool {
    [uids::IMPLICIT_VR_LITTLE_ENDIAN, uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN].contains(&syntax)
}

/// Whether a JPEG has no marker of JFIF or Adobe, which say whether its colours are transformed.
fn unmarked(jpeg: &[u8]) -> bool {
    let header = &jpeg[..jpeg.len().min(1024)];
    ![&b"JFIF\0"[..], b"Adobe"].iter().any(|name| header.windows(name.len()).any(|part| part == *name))
}

/// The compressed bytes of a frame: a fragment, all fragments of the only frame, or those that the table of offsets gives it.
fn packed(object: &DefaultDicomObject, index: u32) -> Result<Vec<u8>, &'static str> {
    let none = "has no compressed pixels although its transfer syntax says so";
    let element = object.element_opt(tags::PIXEL_DATA).ok().flatten().ok_or(none)?;
    let Value::PixelSequence(sequence) = element.value() else { return Err(none) };
    let (fragments, offsets) = (sequence.fragments(), sequence.offset_table());
    let (index, frames) = (index as usize, whole(object, tags::NUMBER_OF_FRAMES).unwrap_or(1).max(1) as usize);
    let absent = "has fewer frames than its header says";
    if frames == 1 {
        return Ok(fragments.concat());
    }
    if fragments.len() == frames {
        return fragments.get(index).cloned().ok_or(absent);
    }
    let from = *offsets.get(index).ok_or(absent)? as usize;
    let to = offsets.get(index + 1).map_or(usize::MAX, |offset| *offset as usize);
    let (mut place, mut bytes) = (0, Vec::new());
    for fragment in fragments {
        if (from..to).contains(&place) {
            bytes.extend_from_slice(fragment);
        }
        place += 8 + fragment.len();
    }
    Ok(bytes)
}

/// YBR_FULL of a frame in YBR_FULL_422, where two pixels share their colours: Y Y B R becomes Y B R Y B R.
fn full(object: &mut DefaultDicomObject, index: u32, pixels: usize) -> Result<Vec<u8>, &'static str> {
    let element = object.element_opt(tags::PIXEL_DATA).ok().flatten();
    let bytes = element.and_then(|element| element.to_bytes().ok()).ok_or("has no pixels")?;
    let length = pixels * 2;
    let frame = bytes.get(index as usize * length..).and_then(|rest| rest.get(..length)).ok_or("has fewer pixels than its header says")?;
    let full = frame.as_chunks::<4>().0.iter().flat_map(|&[first, second, b, r]| [first, b, r, second, b, r]).collect();
    object.put(DataElement::new(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "YBR_FULL"));
    Ok(full)
}

/// Puts samples in, and says so in the header.
fn replace(object: &mut DefaultDicomObject, pixels: Pixels, allocated: usize, components: usize) -> Result<(), &'static str> {
    let (value, bits) = match pixels {
        Pixels::Bytes(bytes) => (PrimitiveValue::U8(bytes.into()), allocated),
        Pixels::Samples(frame) => {
            if frame.components != components {
                return Err("has another number of components than its header says");
            }
            let signed = whole(object, tags::PIXEL_REPRESENTATION) == Some(1);
            match (frame.bits, allocated) {
                (..=8, 8) => (PrimitiveValue::U8(frame.samples.iter().map(|sample| *sample as u8).collect()), 8),
                (bits, 16) => {
                    // Negative numbers of fewer bits keep their sign.
                    let spread = |sample: u16| if signed { ((sample << (16 - bits)) as i16 >> (16 - bits)) as u16 } else { sample };
                    (PrimitiveValue::U16(frame.samples.into_iter().map(spread).collect()), 16)
                }
                _ => return Err("has more bits in its pixels than its header says"),
            }
        }
    };
    object.put(DataElement::new(tags::PIXEL_DATA, if bits == 8 { VR::OB } else { VR::OW }, value));
    object.put(DataElement::new(tags::NUMBER_OF_FRAMES, VR::IS, "1"));
    if components > 1 {
        object.put(DataElement::new(tags::PLANAR_CONFIGURATION, VR::US, PrimitiveValue::from(0u16)));
    }
    object.update_meta(|meta| meta.transfer_syntax = uids::EXPLICIT_VR_LITTLE_ENDIAN.into());
    Ok(())
}
