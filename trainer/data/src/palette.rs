//! PALETTE COLOR (DICOM PS3.3, C.7.6.3.1.5 and C.7.9): pixels that are places in three tables of 8 or 16 bits, which may be stored as
//! segments. Tables have at most 65,536 entries whatever a file says.

use dicom_core::Tag;
use dicom_core::value::{PrimitiveValue, Value};
use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;

const INCOMPLETE: &str = "has a palette that is not complete";

/// Tags of a colour's table: its descriptor, its entries, or its entries as segments.
const COLOURS: [[Tag; 3]; 3] = [
    [tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA, tags::SEGMENTED_RED_PALETTE_COLOR_LOOKUP_TABLE_DATA],
    [
        tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
        tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA,
        tags::SEGMENTED_GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA,
    ],
    [
        tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
        tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA,
        tags::SEGMENTED_BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA,
    ],
];

/// Levels of one colour from the pixel value `first` on; values outside take the nearest.
struct Table {
    first: i32,
    levels: Vec<u8>,
}

/// Pixels `[H, W, 3]` of 8 bits for the values of a frame.
///
/// # Errors
/// In words, when a table is not there or not whole.
pub(crate) fn coloured(object: &DefaultDicomObject, values: impl Iterator<Item = i32>) -> Result<Vec<u8>, &'static str> {
    let [red, green, blue] = COLOURS.map(|colour| table(object, colour));
    let all = [red?, green?, blue?];
    let level = |table: &Table, value: i32| {
        let place = value.saturating_sub(table.first).max(0) as usize;
        table.levels[place.min(table.levels.len() - 1)]
    };
    Ok(values.flat_map(|value| all.each_ref().map(|table| level(table, value))).collect())
}

fn table(object: &DefaultDicomObject, [descriptor, data, segmented]: [Tag; 3]) -> Result<Table, &'static str> {
    let element = |tag: Tag| object.element_opt(tag).ok().flatten();
    let said: Vec<i32> = element(descriptor).and_then(|element| element.to_multi_int().ok()).ok_or(INCOMPLETE)?;
    let &[entries, first, bits @ (8 | 16)] = said.as_slice() else { return Err(INCOMPLETE) };
    // 0 stands for 65,536, which does not fit.
    let entries = match entries & 0xFFFF {
        0 => 1 << 16,
        entries => entries as usize,
    };
    let signed = element(tags::PIXEL_REPRESENTATION).and_then(|element| element.to_int().ok()) == Some(1);
    let first = if signed && first > 0x7FFF { first - 0x1_0000 } else { first };
    let bytes = |tag: Tag| element(tag).and_then(|element| little(element.value()));
    let numbers = match (bytes(data), bytes(segmented)) {
        (Some(bytes), _) if bytes.len() >= 2 * entries => words(&bytes),
        // Entries of 8 bits may stand two in a word.
        (Some(bytes), _) => bytes.into_iter().map(u16::from).collect(),
        (None, Some(bytes)) if bits == 16 => expand(&words(&bytes), 2, entries)?,
        (None, Some(bytes)) => expand(&bytes.into_iter().map(u16::from).collect::<Vec<_>>(), 1, entries)?,
        (None, None) => return Err(INCOMPLETE),
    };
    let numbers = numbers.get(..entries).ok_or(INCOMPLETE)?;
    // Some writers say 16 bits and mean 8.
    let eight = bits == 8 || numbers.iter().all(|number| *number < 256);
    let level = |number: &u16| if eight { *number as u8 } else { ((u32::from(*number) * 255 + 32_767) / 65_535) as u8 };
    Ok(Table { first, levels: numbers.iter().map(level).collect() })
}

/// The bytes of words, the low one first, or bytes as they are.
fn little<I, P>(value: &Value<I, P>) -> Option<Vec<u8>> {
    match value {
        Value::Primitive(PrimitiveValue::U8(bytes)) => Some(bytes.to_vec()),
        Value::Primitive(PrimitiveValue::U16(words)) => Some(words.iter().flat_map(|word| word.to_le_bytes()).collect()),
        _ => None,
    }
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
}

/// Segments of PS3.3, C.7.9.2: 0 lists values, 1 is a line from the last value to another, 2 repeats earlier segments. `width` is the
/// bytes of a number, in which places are counted.
fn expand(segments: &[u16], width: usize, entries: usize) -> Result<Vec<u16>, &'static str> {
    let mut table = Vec::new();
    let mut rest = segments;
    while table.len() < entries {
        let Some(&[kind, count]) = rest.first_chunk() else { break };
        rest = if kind == 2 {
            let size = 4 / width;
            let (place, after) = rest[2..].split_at_checked(size).ok_or(INCOMPLETE)?;
            let offset = place.iter().rev().fold(0usize, |all, number| all << (8 * width) | usize::from(*number));
            let mut earlier = segments.get(offset / width..).ok_or(INCOMPLETE)?;
            for _ in 0..count {
                earlier = direct(earlier, &mut table, entries)?;
            }
            after
        } else {
            direct(rest, &mut table, entries)?
        };
    }
    Ok(table)
}

/// Expands the segment with which `rest` begins, unless it repeats others.
fn direct<'a>(rest: &'a [u16], table: &mut Vec<u16>, entries: usize) -> Result<&'a [u16], &'static str> {
    let Some((&[kind, count], after)) = rest.split_first_chunk() else { return Err(INCOMPLETE) };
    let count = usize::from(count);
    if table.len() + count > entries {
        return Err("has a palette whose segments are longer than it says");
    }
    match kind {
        0 => {
            let (values, after) = after.split_at_checked(count).ok_or(INCOMPLETE)?;
            table.extend_from_slice(values);
            Ok(after)
        }
        1 => {
            let (&to, after) = after.split_first().ok_or(INCOMPLETE)?;
            let from = f64::from(*table.last().ok_or(INCOMPLETE)?);
            let step = (f64::from(to) - from) / count.max(1) as f64;
            table.extend((1..=count).map(|n| (from + step * n as f64).round() as u16));
            Ok(after)
        }
        _ => Err(INCOMPLETE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_list_rise_and_repeat() {
        // Three values, a line of four to 50, then both again.
        let segments = [0, 3, 1, 2, 10, 1, 4, 50, 2, 2, 0, 0];
        let whole = [1, 2, 10, 20, 30, 40, 50, 1, 2, 10, 20, 30, 40, 50];
        assert_eq!(expand(&segments, 2, 14).unwrap(), whole);
        let bytes = [0, 3, 1, 2, 10, 1, 4, 50, 2, 2, 0, 0, 0, 0];
        assert_eq!(expand(&bytes, 1, 14).unwrap(), whole);
        assert!(expand(&segments, 2, 9).is_err());
        assert!(expand(&[1, 4, 50], 2, 4).is_err());
        assert!(expand(&[2, 1, 0, 0], 2, 4).is_err());
        assert_eq!(expand(&[0, 1, 7], 2, 4).unwrap(), [7]);
    }
}
