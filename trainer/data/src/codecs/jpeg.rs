//! Sequential JPEG (ITU-T T.81: baseline and extended, Huffman) of 8 or 12 bits, without any idea of colours: components come as they
//! are stored, and the DICOM file says what they mean. The decoder behind dicom-rs knows 8 bits only and guesses the colours; it stays the
//! one for everything that it can do, because it is several times faster.

use std::f32::consts::PI;

use super::{Frame, marker};

const ENDED: &str = "its JPEG ends early";
const BROKEN: &str = "its JPEG is malformed";
const OTHER: &str = "its JPEG is neither baseline nor extended sequential by Huffman's codes";

/// Order in which the coefficients of a block are stored, T.81, figure A.6.
const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43,
    36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Bits of a sample, height and width, by the header of the frame.
pub(super) fn header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
    loop {
        let (code, segment, after) = marker(rest)?;
        match code {
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                let &[bits, high, low, left, right] = segment.first_chunk()?;
                return Some((bits, usize::from(u16::from_be_bytes([high, low])), usize::from(u16::from_be_bytes([left, right]))));
            }
            0xDA | 0xD9 => return None,
            _ => rest = after,
        }
    }
}

/// Decodes a picture of `width` × `height` pixels.
///
/// # Errors
/// Anything but a whole picture of that size.
pub(super) fn decode(bytes: &[u8], width: usize, height: usize) -> Result<Frame, &'static str> {
    let mut rest = bytes.strip_prefix(&[0xFF, 0xD8]).ok_or(BROKEN)?;
    let mut tables = Tables::default();
    let mut picture: Option<Picture> = None;
    loop {
        let (code, segment, after) = marker(rest).ok_or(ENDED)?;
        rest = after;
        match code {
            0xC0 | 0xC1 if picture.is_none() => picture = Some(Picture::read(segment, width, height)?),
            0xC4 => tables.read_codes(segment)?,
            0xDB => tables.read_steps(segment)?,
            0xDD => tables.restart = usize::from(u16::from_be_bytes(segment.try_into().map_err(|_| BROKEN)?)),
            0xDA => {
                let picture = picture.as_mut().ok_or(BROKEN)?;
                rest = picture.scan(segment, &tables, rest)?;
                if picture.planes.iter().all(|plane| plane.done) {
                    return Ok(picture.frame(width, height));
                }
            }
            0xE0..=0xEF | 0xFE => {}
            0xD9 => return Err(ENDED),
            _ => return Err(OTHER),
        }
    }
}

/// One of Huffman's codes, T.81, F.2.2.3: of each length the first code that is too large, and what to add for the place of a value.
#[derive(Clone)]
struct Code {
    bounds: [(i32, i32); 17],
    values: Vec<u8>,
}

/// What precedes a scan.
#[derive(Default)]
struct Tables {
    /// Of DC, then of AC.
    codes: [[Option<Code>; 4]; 2],
    steps: [Option<[f32; 64]>; 4],
    /// Units between two markers; 0 where there are none.
    restart: usize,
}

impl Tables {
    fn read_codes(&mut self, mut segment: &[u8]) -> Result<(), &'static str> {
        while let Some((&[head, ref counts @ ..], after)) = segment.split_first_chunk::<17>() {
            let counts: [usize; 16] = counts.map(usize::from);
            let (values, after) = after.split_at_checked(counts.iter().sum()).ok_or(BROKEN)?;
            let mut bounds = [(0, 0); 17];
            let (mut code, mut place) = (0i32, 0i32);
            for (length, count) in (1..).zip(counts) {
                bounds[length] = (code + count as i32, place - code);
                (code, place) = ((code + count as i32) << 1, place + count as i32);
            }
            let slot = self.codes.get_mut(usize::from(head >> 4)).and_then(|kind| kind.get_mut(usize::from(head & 15))).ok_or(BROKEN)?;
            *slot = Some(Code { bounds, values: values.to_vec() });
            segment = after;
        }
        if segment.is_empty() { Ok(()) } else { Err(BROKEN) }
    }

    fn read_steps(&mut self, mut segment: &[u8]) -> Result<(), &'static str> {
        while let Some((&head, after)) = segment.split_first() {
            let bytes = usize::from(head >> 4) + 1;
            let (numbers, after) = after.split_at_checked(64 * bytes).filter(|_| bytes <= 2).ok_or(BROKEN)?;
            let mut steps = [0.0; 64];
            for (place, number) in ZIGZAG.into_iter().zip(numbers.chunks_exact(bytes)) {
                steps[place] = number.iter().fold(0.0, |all, byte| all * 256.0 + f32::from(*byte));
            }
            *self.steps.get_mut(usize::from(head & 15)).ok_or(BROKEN)? = Some(steps);
            segment = after;
        }
        Ok(())
    }
}

/// A component.
struct Plane {
    id: u8,
    /// Samples across and down of a unit of all components.
    sampling: [usize; 2],
    steps: usize,
    /// Blocks across and down in whole units, which `samples` has, and as they are needed.
    stored: [usize; 2],
    needed: [usize; 2],
    samples: Vec<u16>,
    /// The last DC coefficient.
    dc: i32,
    done: bool,
}

struct Picture {
    bits: u8,
    planes: Vec<Plane>,
    units: [usize; 2],
}

impl Picture {
    fn read(segment: &[u8], width: usize, height: usize) -> Result<Self, &'static str> {
        let &[bits @ (8 | 12), y1, y0, x1, x0, components @ 1..=4, ref each @ ..] = segment else { return Err(OTHER) };
        let side = |high: u8, low: u8| usize::from(high) << 8 | usize::from(low);
        if (side(x1, x0), side(y1, y0)) != (width, height) {
            return Err("its JPEG has another size than its header says");
        }
        let each: Vec<&[u8]> = each.chunks_exact(3).take(usize::from(components)).collect();
        let sampling: Vec<[usize; 2]> = each.iter().map(|c| [usize::from(c[1] >> 4), usize::from(c[1] & 15)]).collect();
        if each.len() != usize::from(components) || sampling.iter().flatten().any(|n| !(1..=4).contains(n)) {
            return Err(BROKEN);
        }
        let most = [0, 1].map(|axis| sampling.iter().map(|own| own[axis]).max().unwrap_or(1));
        let units = [width.div_ceil(8 * most[0]), height.div_ceil(8 * most[1])];
        let planes = each.iter().zip(sampling).map(|(c, own)| {
            let stored = [0, 1].map(|axis| units[axis] * own[axis]);
            let needed = [(width * own[0]).div_ceil(most[0]).div_ceil(8), (height * own[1]).div_ceil(most[1]).div_ceil(8)];
            let samples = vec![0; stored[0] * stored[1] * 64];
            Plane { id: c[0], sampling: own, steps: usize::from(c[2]), stored, needed, samples, dc: 0, done: false }
        });
        Ok(Self { bits, planes: planes.collect(), units })
    }

    /// Reads one scan and returns what follows it.
    fn scan<'a>(&mut self, segment: &[u8], tables: &Tables, data: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let (&count, rest) = segment.split_first().ok_or(BROKEN)?;
        let (chosen, limits) = rest.split_at_checked(2 * usize::from(count)).ok_or(BROKEN)?;
        if limits != [0, 63, 0] {
            return Err("its JPEG chooses coefficients in a sequential scan, which the standard forbids");
        }
        let mut parts = Vec::new();
        for pair in chosen.chunks_exact(2) {
            let plane = self.planes.iter().position(|plane| plane.id == pair[0] && !plane.done).ok_or(BROKEN)?;
            let code = |kind: usize, index: u8| tables.codes[kind].get(usize::from(index)).and_then(Option::as_ref).ok_or(BROKEN);
            let steps = tables.steps.get(self.planes[plane].steps).and_then(Option::as_ref).ok_or(BROKEN)?;
            parts.push((plane, code(0, pair[1] >> 4)?, code(1, pair[1] & 15)?, steps));
            self.planes[plane].done = true;
        }
        let mut bits = Bits { rest: data, cache: 0, held: 0 };
        let alone = parts.len() == 1;
        let [across, down] = if alone { self.planes[parts[0].0].needed } else { self.units };
        let middle = 1 << (self.bits - 1);
        let cosines = cosines();
        for unit in 0..across * down {
            if tables.restart > 0 && unit > 0 && unit % tables.restart == 0 {
                bits.restart()?;
                self.planes.iter_mut().for_each(|plane| plane.dc = 0);
            }
            for (plane, dc, ac, steps) in &parts {
                let plane = &mut self.planes[*plane];
                let [h, v] = if alone { [1, 1] } else { plane.sampling };
                for inner in 0..h * v {
                    let coefficients = bits.block(dc, ac, steps, &mut plane.dc)?;
                    plane.put([unit % across * h + inner % h, unit / across * v + inner / h], &inverse(&coefficients, &cosines), middle);
                }
            }
        }
        self.planes.iter_mut().for_each(|plane| plane.dc = 0);
        Ok(bits.rest)
    }

    /// All components at the size of the picture, those with fewer samples repeated.
    fn frame(&self, width: usize, height: usize) -> Frame {
        let most = [0, 1].map(|axis| self.planes.iter().map(|plane| plane.sampling[axis]).max().unwrap_or(1));
        let mut samples = Vec::with_capacity(width * height * self.planes.len());
        for y in 0..height {
            for x in 0..width {
                let at = |plane: &Plane| {
                    let (column, row) = (x * plane.sampling[0] / most[0], y * plane.sampling[1] / most[1]);
                    plane.samples[row * plane.stored[0] * 8 + column]
                };
                samples.extend(self.planes.iter().map(at));
            }
        }
        Frame { bits: u32::from(self.bits), components: self.planes.len(), samples }
    }
}

impl Plane {
    fn put(&mut self, [column, row]: [usize; 2], values: &[f32; 64], middle: i32) {
        let stride = self.stored[0] * 8;
        for (y, line) in values.chunks_exact(8).enumerate() {
            let from = (row * 8 + y) * stride + column * 8;
            for (sample, value) in self.samples[from..from + 8].iter_mut().zip(line) {
                *sample = (value.round() as i32 + middle).clamp(0, 2 * middle - 1) as u16;
            }
        }
    }
}

/// `C(u) / 2 × cos((2 x + 1) u π / 16)` at `[x][u]`.
fn cosines() -> [[f32; 8]; 8] {
    let mut all = [[0.0; 8]; 8];
    for (x, row) in all.iter_mut().enumerate() {
        for (u, value) in row.iter_mut().enumerate() {
            let scale = if u == 0 { 0.5f32.sqrt() } else { 1.0 };
            *value = scale / 2.0 * ((2 * x + 1) as f32 * u as f32 * PI / 16.0).cos();
        }
    }
    all
}

/// The inverse cosine transform, T.81, A.3.3.
fn inverse(coefficients: &[f32; 64], cosines: &[[f32; 8]; 8]) -> [f32; 64] {
    let (mut rows, mut values) = ([0.0; 64], [0.0; 64]);
    for v in 0..8 {
        for x in 0..8 {
            rows[8 * v + x] = (0..8).map(|u| cosines[x][u] * coefficients[8 * v + u]).sum::<f32>();
        }
    }
    for y in 0..8 {
        for x in 0..8 {
            values[8 * y + x] = (0..8).map(|v| cosines[y][v] * rows[8 * v + x]).sum::<f32>();
        }
    }
    values
}

/// Bits of a scan, where a 0 follows each byte 0xFF and a marker ends them.
struct Bits<'a> {
    rest: &'a [u8],
    cache: u32,
    held: u32,
}

impl Bits<'_> {
    /// At most 16 bits.
    fn read(&mut self, count: u32) -> Result<i32, &'static str> {
        while self.held < count {
            let (byte, after) = match self.rest {
                [0xFF, 0, after @ ..] => (0xFF, after),
                [0xFF, ..] | [] => return Err(ENDED),
                [byte, after @ ..] => (*byte, after),
            };
            self.cache = self.cache << 8 | u32::from(byte);
            self.held += 8;
            self.rest = after;
        }
        self.held -= count;
        Ok((self.cache >> self.held) as i32 & ((1 << count) - 1))
    }

    fn value(&mut self, code: &Code) -> Result<u8, &'static str> {
        let mut word = 0;
        for (bound, shift) in &code.bounds[1..] {
            word = word << 1 | self.read(1)?;
            if word < *bound {
                return usize::try_from(word + shift).ok().and_then(|place| code.values.get(place)).copied().ok_or(BROKEN);
            }
        }
        Err(BROKEN)
    }

    /// A number of `count` bits, T.81, F.2.2.1.
    fn number(&mut self, count: u32) -> Result<i32, &'static str> {
        if count > 16 {
            return Err(BROKEN);
        }
        let number = self.read(count)?;
        Ok(if count > 0 && number < 1 << (count - 1) { number - (1 << count) + 1 } else { number })
    }

    fn block(&mut self, dc: &Code, ac: &Code, steps: &[f32; 64], last: &mut i32) -> Result<[f32; 64], &'static str> {
        let mut coefficients = [0.0; 64];
        let count = u32::from(self.value(dc)?);
        *last = last.saturating_add(self.number(count)?);
        coefficients[0] = *last as f32 * steps[0];
        let mut k = 1;
        while k < 64 {
            let pair = self.value(ac)?;
            let (zeros, count) = (usize::from(pair >> 4), u32::from(pair & 15));
            if count == 0 {
                if zeros < 15 {
                    break;
                }
                k += 16;
                continue;
            }
            k += zeros;
            let place = *ZIGZAG.get(k).ok_or(BROKEN)?;
            coefficients[place] = self.number(count)? as f32 * steps[place];
            k += 1;
        }
        Ok(coefficients)
    }

    /// Passes over the padding and the marker RSTm.
    fn restart(&mut self) -> Result<(), &'static str> {
        match self.rest {
            [0xFF, 0xD0..=0xD7, rest @ ..] => *self = Self { rest, cache: 0, held: 0 },
            _ => return Err(BROKEN),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::{ImageFormat, RgbImage};

    /// A coloured JPEG of 45 × 31 pixels whose colours have half the samples, and one of grey.
    fn files() -> [Vec<u8>; 2] {
        let picture = RgbImage::from_fn(45, 31, |x, y| image::Rgb([(x * 5) as u8, (y * 8) as u8, ((x + y) * 3) as u8]));
        let grey = image::DynamicImage::ImageRgb8(picture.clone()).into_luma8();
        let (mut coloured, mut plain) = (Vec::new(), Vec::new());
        JpegEncoder::new_with_quality(&mut coloured, 90).encode_image(&picture).unwrap();
        JpegEncoder::new_with_quality(&mut plain, 90).encode_image(&grey).unwrap();
        [coloured, plain]
    }

    #[test]
    fn grey_of_eight_bits_is_what_the_other_decoder_reads() {
        let [coloured, plain] = files();
        let other = image::load_from_memory_with_format(&plain, ImageFormat::Jpeg).unwrap().into_luma8();
        let frame = decode(&plain, 45, 31).unwrap();
        assert!(frame.samples.iter().zip(other.as_raw()).all(|(ours, theirs)| ours.abs_diff(u16::from(*theirs)) <= 1));
        let frame = decode(&coloured, 45, 31).unwrap();
        assert_eq!((frame.components, frame.samples.len(), header(&coloured)), (3, 45 * 31 * 3, Some((8, 31, 45))));
        let luma = image::load_from_memory_with_format(&coloured, ImageFormat::Jpeg).unwrap().into_rgb8();
        let bright = |pixel: &image::Rgb<u8>| 0.299 * f64::from(pixel[0]) + 0.587 * f64::from(pixel[1]) + 0.114 * f64::from(pixel[2]);
        assert!(frame.samples.chunks(3).zip(luma.pixels()).all(|(ours, theirs)| (f64::from(ours[0]) - bright(theirs)).abs() < 4.0));
    }

    #[test]
    fn what_is_cut_off_or_changed_never_crashes() {
        for bytes in files() {
            for keep in 0..bytes.len() - 4 {
                assert!(decode(&bytes[..keep], 45, 31).is_err(), "{keep} of {} bytes are enough", bytes.len());
            }
            for place in 0..bytes.len() {
                for value in [0, 0x11, 0x7F, 0xFF, bytes[place] ^ 1] {
                    let mut changed = bytes.clone();
                    changed[place] = value;
                    let _ = decode(&changed, 45, 31);
                }
            }
        }
    }
}
