//! The contact sheet: the pairs of a report side by side, so that a person sees at a glance what they are. It shows pixels, and so wants
//! the same care as the data; beside them stand keys and pseudonyms, as in the report.

use std::io::Cursor;

use font8x8::{BASIC_FONTS, UnicodeFonts};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, imageops};

use super::report::{Member, Pair, Report};
use crate::dataset::Dataset;
use crate::decode::{Reading, decode_picture, guarded, read_file};
use crate::parallel;

/// The worst pairs are shown, at most so many.
pub const PAIRS_SHOWN: usize = 50;
/// Side of the square that a picture is fitted into, in pixels.
const THUMB: u32 = 256;
/// Between pictures, in pixels.
const GAP: u32 = 8;
/// Height of a line of text and width of a letter, in pixels.
const LINE: u32 = 11;
const LETTER: u32 = 8;
/// A pair's height: a line about both, the pictures, three lines about each.
const PAIR: u32 = LINE + THUMB + 3 * LINE + 2 * GAP;
const PAPER: Rgb<u8> = Rgb([255; 3]);
const INK: Rgb<u8> = Rgb([0; 3]);
const EMPTY: Rgb<u8> = Rgb([64; 3]);

/// The sheet as a PNG file; none if the report has no pair. A picture that cannot be read any more is a grey square. `report` must be
/// of `dataset`.
#[must_use]
pub fn sheet(report: &Report, dataset: &Dataset, reading: &Reading, threads: usize) -> Option<Vec<u8>> {
    let pairs = &report.pairs[..report.pairs.len().min(PAIRS_SHOWN)];
    if pairs.is_empty() {
        return None;
    }
    let thumbs = parallel::map(2 * pairs.len(), threads, |index| {
        let pair = &pairs[index / 2];
        thumb(if index % 2 == 0 { &pair.first } else { &pair.second }, dataset, reading)
    });
    let mut png = Cursor::new(Vec::new());
    draw(pairs, &thumbs).write_to(&mut png, ImageFormat::Png).ok()?;
    Some(png.into_inner())
}

/// A picture within the square; none if it cannot be read.
fn thumb(member: &Member, dataset: &Dataset, reading: &Reading) -> Option<RgbImage> {
    let sample = dataset.samples.get(member.sample)?;
    let picture = guarded(|| decode_picture(&read_file(&sample.path, reading.limits)?, sample.slice, reading)).ok()?;
    Some(picture.image.thumbnail(THUMB, THUMB).into_rgb8())
}

fn draw(pairs: &[Pair], thumbs: &[Option<RgbImage>]) -> DynamicImage {
    let mut sheet = RgbImage::from_pixel(2 * THUMB + 3 * GAP, GAP + PAIR * pairs.len() as u32, PAPER);
    for ((number, pair), thumbs) in (0u32..).zip(pairs).zip(thumbs.chunks_exact(2)) {
        let top = GAP + PAIR * number;
        write(&mut sheet, &format!("{}: {}", number + 1, pair.likeness()), (GAP, top), 2 * THUMB);
        for (column, (member, thumb)) in (0u32..).zip([&pair.first, &pair.second].into_iter().zip(thumbs)) {
            let left = GAP + column * (THUMB + GAP);
            place(&mut sheet, thumb.as_ref(), (left, top + LINE));
            let patient = member.patient.as_deref().unwrap_or_default();
            for (line, text) in (0u32..).zip([&member.input, &format!("{}, {}", member.split, member.label), patient]) {
                write(&mut sheet, text, (left, top + LINE + THUMB + 3 + line * LINE), THUMB);
            }
        }
    }
    sheet.into()
}

/// A thumbnail in the middle of its square.
fn place(sheet: &mut RgbImage, thumb: Option<&RgbImage>, (left, top): (u32, u32)) {
    let square = RgbImage::from_pixel(THUMB, THUMB, EMPTY);
    imageops::replace(sheet, &square, left.into(), top.into());
    if let Some(thumb) = thumb {
        let middle = |at: u32, length: u32| i64::from(at + (THUMB - length.min(THUMB)) / 2);
        imageops::replace(sheet, thumb, middle(left, thumb.width()), middle(top, thumb.height()));
    }
}

/// Text from a place on; of what is too long the end is shown. Letters that the font lacks are question marks.
fn write(sheet: &mut RgbImage, text: &str, (left, top): (u32, u32), width: u32) {
    let fits = (width / LETTER) as usize;
    let length = text.chars().count();
    let shown: String = if length <= fits { text.to_owned() } else { "..".chars().chain(text.chars().skip(length + 2 - fits)).collect() };
    for (number, letter) in (0u32..).zip(shown.chars()) {
        let rows = BASIC_FONTS.get(letter).or_else(|| BASIC_FONTS.get('?')).unwrap_or_default();
        for (y, row) in (0u32..).zip(rows) {
            for x in (0..LETTER).filter(|x| row >> x & 1 == 1) {
                let (x, y) = (left + number * LETTER + x, top + y);
                if x < sheet.width() && y < sheet.height() {
                    sheet.put_pixel(x, y, INK);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_in_its_column_and_long_text_shows_its_end() {
        let inked = |text: &str| {
            let mut sheet = RgbImage::from_pixel(200, 20, PAPER);
            write(&mut sheet, text, (10, 5), 80);
            let dark: Vec<(u32, u32)> = sheet.enumerate_pixels().filter(|(_, _, pixel)| **pixel == INK).map(|(x, y, _)| (x, y)).collect();
            assert!(dark.iter().all(|(x, y)| (10..90).contains(x) && (5..13).contains(y)), "{text}");
            dark
        };
        assert!(inked("").is_empty());
        assert_eq!(inked("a/very/long/path/0001.png"), inked("..0001.png"));
        assert_eq!(inked("ü京"), inked("??"));
        assert_ne!(inked("a"), inked("b"));
    }
}
