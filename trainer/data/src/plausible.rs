//! Whether the lengths in a DICOM file are ones that it can have. dicom-rs makes room for a value before it reads it, so that two
//! kilobytes that announce four gigabytes would take these and a minute.

use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};

use dicom_dictionary_std::tags;
use dicom_encoding::{TransferSyntax, TransferSyntaxIndex};
use dicom_parser::StatefulDecode;
use dicom_parser::dataset::LazyDataToken;
use dicom_parser::dataset::lazy_read::LazyDataSetReader;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use flate2::read::DeflateDecoder;

use crate::dicom::MAGIC_END;

/// The transfer syntax whose data set is compressed as a whole.
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
/// How many bytes such a data set may have.
const INFLATED: u64 = 1 << 28;

/// What of a file is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// What is before the pixels.
    Header,
}

/// Whether no value before the end of `part` says that it is longer than what is left of a file of so many bytes.
pub(crate) fn plausible(source: impl Read + Seek, bytes: u64, part: Part) -> bool {
    look(BufReader::new(source), bytes, part).unwrap_or(false)
}

/// As [`plausible`]; nothing where the file ends within its first group.
fn look(mut source: impl BufRead + Seek, bytes: u64, part: Part) -> Option<bool> {
    let left = bytes.checked_sub(MAGIC_END as u64)?;
    source.seek(SeekFrom::Start(MAGIC_END as u64)).ok()?;
    let syntax = first_group(&mut source, left)?;
    // One that is not known is refused before a value is read.
    let Some(known) = TransferSyntaxRegistry.get(&syntax) else { return Some(true) };
    if syntax != DEFLATED {
        return within(source, bytes, known, part);
    }
    let mut data = Vec::new();
    DeflateDecoder::new(source).take(INFLATED).read_to_end(&mut data).ok()?;
    let inflated = data.len() as u64;
    within(Cursor::new(data), inflated, known, part)
}

/// The same of the data set from where `source` is to its end, which lies so many bytes behind its beginning.
fn within(source: impl Read + Seek, end: u64, syntax: &TransferSyntax, part: Part) -> Option<bool> {
    let mut reader = LazyDataSetReader::new_with_ts(source, syntax).ok()?;
    while let Some(token) = reader.advance() {
        // What reads values at once goes on where this one stops, and may come to a long one there.
        let token = token.ok()?;
        let (length, position) = match &token {
            LazyDataToken::LazyValue { header, .. } if header.tag == tags::PIXEL_DATA && part == Part::Header => return Some(true),
            LazyDataToken::PixelSequenceStart if part == Part::Header => return Some(true),
            LazyDataToken::LazyValue { header, decoder } => (header.len.0, decoder.position()),
            LazyDataToken::LazyItemValue { len, decoder } => (*len, decoder.position()),
            _ => continue,
        };
        if u64::from(length) > end.saturating_sub(position) {
            return Some(false);
        }
        token.skip().ok()?;
    }
    Some(true)
}

/// The transfer syntax that the first group names, by PS3.10, section 7.1, with so many bytes `left` of the file; `source` is behind it
/// then. The group ends where its first element says, whatever stands in it, as it does for what reads the file afterwards.
fn first_group(source: &mut (impl BufRead + Seek), mut left: u64) -> Option<String> {
    let (mut syntax, mut group): (String, Option<u64>) = (String::new(), None);
    while group != Some(0) {
        let mut head = [0; 8];
        source.read_exact(&mut head).ok()?;
        let [number, number_high, element, element_high, vr @ .., low, high] = head;
        if group.is_none() && (number, number_high) != (2, 0) {
            source.seek_relative(-8).ok()?;
            break;
        }
        let mut taken = 8;
        let length = if matches!(&vr, b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV") {
            let mut long = [0; 4];
            source.read_exact(&mut long).ok()?;
            taken += 4;
            u64::from(u32::from_le_bytes(long))
        } else {
            u64::from(u16::from_le_bytes([low, high]))
        };
        taken += length;
        left = left.checked_sub(taken)?;
        let mut value = Vec::new();
        (&mut *source).take(length).read_to_end(&mut value).ok()?;
        group = match (group, (number, number_high, element, element_high), value.first_chunk()) {
            (None, (2, 0, 0, 0), Some(&bytes)) => Some(u64::from(u32::from_le_bytes(bytes))),
            (Some(rest), _, _) => Some(rest.checked_sub(taken)?),
            (None, _, _) => None,
        };
        if (number, number_high, element, element_high) == (2, 0, 0x10, 0) {
            syntax = String::from_utf8_lossy(&value).trim_end_matches(['\0', ' ']).to_owned();
        }
    }
    (!syntax.is_empty()).then_some(syntax)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of this transfer syntax with these bytes as its data set.
    fn file(syntax: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = [vec![0; MAGIC_END - 4], b"DICM\x02\x00\x10\x00UI".to_vec()].concat();
        bytes.extend((syntax.len() as u16).to_le_bytes());
        bytes.extend(syntax.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn fits(bytes: &[u8], part: Part) -> bool {
        plausible(Cursor::new(bytes), bytes.len() as u64, part)
    }

    #[test]
    fn a_value_is_not_longer_than_the_file() {
        let patient = |length: u32| [&[0x10, 0, 0x20, 0][..], &length.to_le_bytes(), b"ab"].concat();
        assert!(fits(&file("1.2.840.10008.1.2\0", &patient(2)), Part::Whole));
        assert!(!fits(&file("1.2.840.10008.1.2\0", &patient(4_000_000_000)), Part::Whole));
        assert!(!fits(&file("1.2.840.10008.1.2\0", &patient(3)), Part::Whole));
        let explicit = |length: u32| [&[0x10, 0, 0x20, 0][..], b"UT\0\0", &length.to_le_bytes(), b"ab"].concat();
        assert!(fits(&file("1.2.840.10008.1.2.1\0", &explicit(2)), Part::Whole));
        assert!(!fits(&file("1.2.840.10008.1.2.1\0", &explicit(1 << 31)), Part::Whole));
        // In the first group, too.
        let mut bytes = file("1.2.840.10008.1.2\0", &patient(2));
        bytes[MAGIC_END + 6] = 0xFF;
        assert!(!fits(&bytes, Part::Whole));
        let found = include_bytes!("../../../fuzz/regressions/dicom/a-value-longer-than-the-file");
        assert!(!fits(found, Part::Whole));
        // Within the length of its first group stands an element of another one.
        let found = include_bytes!("../../../fuzz/regressions/dicom/a-value-behind-a-strange-first-group");
        assert!(!fits(found, Part::Whole));
    }

    #[test]
    fn pixels_may_be_missing_where_only_the_header_is_read() {
        let pixels = [&[0xE0, 0x7F, 0x10, 0][..], &1000u32.to_le_bytes(), b"ab"].concat();
        let bytes = file("1.2.840.10008.1.2\0", &pixels);
        assert!(fits(&bytes, Part::Header) && !fits(&bytes, Part::Whole));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_crash_it(data: Vec<u8>, syntax in "1.2.840.10008.1.2(|.1|.2|.1.99)") {
            let bytes = file(&syntax, &data);
            fits(&bytes, Part::Whole);
            fits(&data, Part::Header);
        }
    }
}
