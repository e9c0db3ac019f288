//! JPEG-LS (ITU-T T.87, ISO/IEC 14495-1): lossless and near-lossless, components in scans of their own, by line or by sample, and
//! restart intervals. Hostile bytes give an error: nothing is allocated but what the caller's size asks for, and no index or sum
//! depends on the stream without a check. Names of variables are the standard's. CharLS, which dicom-rs would bring, is built by
//! CMake; what crates there are in Rust read one component or are a toolkit of their own.

use super::{Frame, marker};

/// Lengths of runs by their order, T.87, A.7.1.1.
const J: [u32; 32] = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Contexts of gradients; two more are those of interrupted runs.
const REGULAR: usize = 365;

const ENDED: &str = "its JPEG-LS ends early";
const BROKEN: &str = "its JPEG-LS is malformed";
const OTHER: &str = "its JPEG-LS has a feature that is not supported";

/// Decodes a picture of `width` × `height` pixels.
///
/// # Errors
/// Anything but a whole picture of that size.
pub(super) fn decode(bytes: &[u8], width: usize, height: usize) -> Result<Frame, &'static str> {
    let mut rest = bytes.strip_prefix(&[0xFF, 0xD8]).ok_or(BROKEN)?;
    let (mut preset, mut restart) = (Preset::default(), 0);
    let mut frame = Frame { bits: 0, components: 0, samples: Vec::new() };
    let mut done = 0;
    while frame.components == 0 || done < frame.components {
        let (code, segment, after) = marker(rest).ok_or(ENDED)?;
        rest = after;
        match code {
            0xF7 if frame.components == 0 => frame = header(segment, width, height)?,
            0xF8 => preset.read(segment)?,
            0xDD => restart = segment.iter().take(4).fold(0usize, |all, byte| all << 8 | usize::from(*byte)),
            // HP's colour transforms, which T.87 does not know.
            0xE8 if segment.starts_with(b"mrfx") && segment.get(4) != Some(&0) => return Err(OTHER),
            0xDA => {
                let scan = Scan::read(segment, &frame, done, &preset, restart)?;
                let mut bits = Bits::new(rest);
                scan.decode(&mut bits, &mut frame.samples, (width, height, frame.components))?;
                done += scan.components;
                rest = bits.after_scan();
            }
            // A second beginning follows the header that SPIFF puts before a file.
            0xE0..=0xEF | 0xFE | 0xD8 => {}
            _ => return Err(if code == 0xD9 { ENDED } else { BROKEN }),
        }
    }
    Ok(frame)
}

fn header(segment: &[u8], width: usize, height: usize) -> Result<Frame, &'static str> {
    let &[bits @ 2..=16, y1, y0, x1, x0, components @ 1..=4, ref each @ ..] = segment else { return Err(BROKEN) };
    let side = |high: u8, low: u8| usize::from(high) << 8 | usize::from(low);
    if (side(x1, x0), side(y1, y0)) != (width, height) {
        return Err("its JPEG-LS has another size than its header says");
    }
    if each.len() < 3 * usize::from(components) || each.chunks(3).take(usize::from(components)).any(|c| c[1] != 0x11) {
        return Err(OTHER);
    }
    let components = usize::from(components);
    Ok(Frame { bits: u32::from(bits), components, samples: vec![0; width * height * components] })
}

/// Parameters that LSE sets; 0 is the default.
#[derive(Default)]
struct Preset([i32; 5]);

impl Preset {
    fn read(&mut self, segment: &[u8]) -> Result<(), &'static str> {
        match segment.split_first() {
            Some((1, values)) if values.len() == 10 => {
                for (slot, pair) in self.0.iter_mut().zip(values.chunks_exact(2)) {
                    *slot = i32::from(u16::from_be_bytes([pair[0], pair[1]]));
                }
                Ok(())
            }
            // Tables of palettes: DICOM has its own.
            Some((2 | 3, _)) => Ok(()),
            _ => Err(OTHER),
        }
    }
}

/// What holds in a scan.
struct Scan {
    first: usize,
    components: usize,
    by_sample: bool,
    restart: usize,
    near: i32,
    maxval: i32,
    t: [i32; 3],
    reset: i32,
    range: i32,
    qbpp: u32,
    limit: u32,
}

impl Scan {
    fn read(segment: &[u8], frame: &Frame, first: usize, preset: &Preset, restart: usize) -> Result<Self, &'static str> {
        let count = usize::from(*segment.first().ok_or(BROKEN)?);
        let &[near, interleave, transform] = segment.get(1 + 2 * count..).ok_or(BROKEN)? else { return Err(BROKEN) };
        if transform != 0 || interleave > 2 {
            return Err(OTHER);
        }
        let fits = if interleave == 0 { count == 1 } else { count == frame.components };
        if !fits || first + count > frame.components {
            return Err(BROKEN);
        }
        let [maxval, t1, t2, t3, reset] = preset.0;
        let whole = (1 << frame.bits) - 1;
        let maxval = if maxval == 0 { whole } else { maxval };
        let near = i32::from(near);
        if maxval > whole || near > maxval / 2 {
            return Err(BROKEN);
        }
        let t = thresholds(maxval, near, [t1, t2, t3]);
        if t[0] <= near || t[1] < t[0] || t[2] < t[1] || t[2] > maxval.max(near + 1) {
            return Err(BROKEN);
        }
        let range = (maxval + 2 * near) / (2 * near + 1) + 1;
        let bpp = log2(maxval + 1).max(2);
        let reset = if reset == 0 { 64 } else { reset.max(3) };
        let (components, by_sample) = (count, interleave == 2);
        Ok(Self { first, components, by_sample, restart, near, maxval, t, reset, range, qbpp: log2(range), limit: 2 * (bpp + bpp.max(8)) })
    }

    /// Fills the components of this scan in `samples`, which are interleaved.
    fn decode(&self, bits: &mut Bits<'_>, samples: &mut [u16], (width, height, stride): (usize, usize, usize)) -> Result<(), &'static str> {
        let fresh = || vec![vec![0i32; width + 2]; self.components];
        let (mut above, mut line) = (fresh(), fresh());
        let mut state = State::new(self);
        for y in 0..height {
            if self.restart > 0 && y > 0 && y % self.restart == 0 {
                bits.restart()?;
                (state, above, line) = (State::new(self), fresh(), fresh());
            }
            for (line, above) in line.iter_mut().zip(&mut above) {
                line[0] = above[1];
                above[width + 1] = above[width];
            }
            if self.by_sample {
                self.line(bits, &mut state, 0, &above, &mut line)?;
            } else {
                for c in 0..self.components {
                    self.line(bits, &mut state, c, &above[c..=c], &mut line[c..=c])?;
                }
            }
            for (c, line) in line.iter().enumerate() {
                let row = samples.iter_mut().skip(y * width * stride + self.first + c).step_by(stride);
                row.zip(&line[1..=width]).for_each(|(sample, value)| *sample = *value as u16);
            }
            std::mem::swap(&mut above, &mut line);
        }
        Ok(())
    }

    /// One line of one component, or of all when they alternate by sample; `run` is which of the orders of runs is theirs.
    fn line(&self, bits: &mut Bits<'_>, state: &mut State, run: usize, above: &[Vec<i32>], line: &mut [Vec<i32>]) -> Result<(), &'static str> {
        let width = line[0].len() - 2;
        let mut x = 1;
        while x <= width {
            let flat = |(above, line): (&Vec<i32>, &Vec<i32>)| {
                let (a, b, c, d) = (line[x - 1], above[x], above[x - 1], above[x + 1]);
                [d - b, b - c, c - a].iter().all(|gradient| gradient.abs() <= self.near)
            };
            if above.iter().zip(line.iter()).all(flat) {
                x = self.run(bits, state, run, x, above, line)?;
                continue;
            }
            for (above, line) in above.iter().zip(line.iter_mut()) {
                line[x] = self.regular(bits, state, [line[x - 1], above[x], above[x - 1], above[x + 1]])?;
            }
            x += 1;
        }
        Ok(())
    }

    /// A.4 to A.6.
    fn regular(&self, bits: &mut Bits<'_>, state: &mut State, [a, b, c, d]: [i32; 4]) -> Result<i32, &'static str> {
        let q = [d - b, b - c, c - a].map(|gradient| self.quantise(gradient));
        let signed = 81 * q[0] + 9 * q[1] + q[2];
        let (sign, context) = (if signed < 0 { -1 } else { 1 }, &mut state.contexts[signed.unsigned_abs() as usize]);
        let predicted = if c >= a.max(b) {
            a.min(b)
        } else if c <= a.min(b) {
            a.max(b)
        } else {
            a + b - c
        };
        let predicted = (predicted + sign * context.c).clamp(0, self.maxval);
        let k = context.order(context.a);
        let mapped = bits.golomb(k, self.limit, self.qbpp)?;
        let half = (mapped >> 1) as i32;
        let turned = self.near == 0 && k == 0 && 2 * context.b <= -context.n;
        let error = if (mapped & 1 == 1) == turned { half } else { -half - 1 };
        context.update(error, self);
        Ok(self.rebuilt(predicted, sign * error))
    }

    fn quantise(&self, gradient: i32) -> i32 {
        let [t1, t2, t3] = self.t;
        let size = match gradient.abs() {
            g if g >= t3 => 4,
            g if g >= t2 => 3,
            g if g >= t1 => 2,
            g if g > self.near => 1,
            _ => 0,
        };
        if gradient < 0 { -size } else { size }
    }

    fn rebuilt(&self, predicted: i32, error: i32) -> i32 {
        let step = 2 * self.near + 1;
        let value = predicted.saturating_add(error.saturating_mul(step));
        let value = if value < -self.near {
            value.saturating_add(self.range * step)
        } else if value > self.maxval + self.near {
            value - self.range * step
        } else {
            value
        };
        value.clamp(0, self.maxval)
    }

    /// A.7: a run from `x`, and what interrupts it; returns the place after it.
    fn run(
        &self,
        bits: &mut Bits<'_>,
        state: &mut State,
        run: usize,
        x: usize,
        above: &[Vec<i32>],
        line: &mut [Vec<i32>],
    ) -> Result<usize, &'static str> {
        let width = line[0].len() - 2;
        let order = &mut state.runs[run];
        let mut left = width + 1 - x;
        while left > 0 {
            let length = 1usize << J[*order];
            if bits.read(1)? == 0 {
                break;
            }
            if length <= left {
                *order = (*order + 1).min(31);
            }
            left -= length.min(left);
        }
        let whole = left == 0;
        if !whole {
            left = left.checked_sub(bits.read(J[*order])? as usize).filter(|left| *left > 0).ok_or(BROKEN)?;
        }
        let end = width + 1 - left;
        for line in line.iter_mut() {
            let value = line[x - 1];
            line[x..end].fill(value);
        }
        if whole {
            return Ok(end);
        }
        let used = J[*order];
        *order = order.saturating_sub(1);
        let alone = !self.by_sample;
        for (above, line) in above.iter().zip(line.iter_mut()) {
            let (a, b) = (line[end - 1], above[end]);
            let same = alone && (a - b).abs() <= self.near;
            let error = self.interruption(bits, state, same, used)?;
            line[end] = if same { self.rebuilt(a, error) } else { self.rebuilt(b, if a > b { -error } else { error }) };
        }
        Ok(end + 1)
    }

    /// A.7.2: the error of the sample after a run, `same` where those at its left and above it are alike.
    fn interruption(&self, bits: &mut Bits<'_>, state: &mut State, same: bool, used: u32) -> Result<i32, &'static str> {
        let kind = i32::from(same);
        let context = &mut state.contexts[REGULAR + usize::from(same)];
        let k = context.order(if same { context.a.saturating_add(context.n >> 1) } else { context.a });
        let mapped = bits.golomb(k, self.limit - used - 1, self.qbpp)? as i32;
        let odd = (mapped + kind) & 1;
        let size = (mapped + kind + odd) / 2;
        // `b` counts the negative errors here.
        let turned = k != 0 || 2 * context.b >= context.n;
        let error = if turned == (odd == 1) { -size } else { size };
        context.b += i32::from(error < 0);
        context.a = context.a.saturating_add((mapped + 1 - kind) >> 1);
        if context.n == self.reset {
            (context.a, context.b, context.n) = (context.a >> 1, context.b >> 1, context.n >> 1);
        }
        context.n += 1;
        Ok(error)
    }
}

/// C.2.4.1.1: defaults where a threshold is 0.
fn thresholds(maxval: i32, near: i32, given: [i32; 3]) -> [i32; 3] {
    let basic = if maxval >= 128 {
        let factor = (maxval.min(4095) + 128) / 256;
        [factor + 2 + 3 * near, 4 * factor + 3 + 5 * near, 17 * factor + 4 + 7 * near]
    } else {
        let factor = 256 / (maxval + 1);
        [(3 / factor + 3 * near).max(2), (7 / factor + 5 * near).max(3), (21 / factor + 7 * near).max(4)]
    };
    let mut least = near + 1;
    let mut all = [0; 3];
    for ((slot, basic), given) in all.iter_mut().zip(basic).zip(given) {
        *slot = if given != 0 {
            given
        } else if basic > maxval || basic < least {
            least
        } else {
            basic
        };
        least = *slot;
    }
    all
}

/// The least power of two that is not below `value`.
fn log2(value: i32) -> u32 {
    (value.max(1) as u32).next_power_of_two().trailing_zeros()
}

/// A, B, C and N of T.87, A.2.1.
#[derive(Clone)]
struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
}

impl Context {
    /// k of A.5.1 and A.7.2.
    fn order(&self, a: i32) -> u32 {
        (0..24).find(|k| i64::from(self.n) << k >= i64::from(a)).unwrap_or(24)
    }

    /// A.6.
    fn update(&mut self, error: i32, scan: &Scan) {
        self.b = self.b.saturating_add(error.saturating_mul(2 * scan.near + 1));
        self.a = self.a.saturating_add(error.saturating_abs());
        if self.n == scan.reset {
            (self.a, self.b, self.n) = (self.a >> 1, self.b >> 1, self.n >> 1);
        }
        self.n += 1;
        if self.b <= -self.n {
            self.b = (self.b + self.n).max(1 - self.n);
            self.c = (self.c - 1).max(-128);
        } else if self.b > 0 {
            self.b = (self.b - self.n).min(0);
            self.c = (self.c + 1).min(127);
        }
    }
}

/// What the decoder has learned.
struct State {
    contexts: Vec<Context>,
    /// The order of the next run, of each component when they alternate by line.
    runs: [usize; 4],
}

impl State {
    fn new(scan: &Scan) -> Self {
        let a = ((scan.range + 32) / 64).max(2);
        Self { contexts: vec![Context { a, b: 0, c: 0, n: 1 }; REGULAR + 2], runs: [0; 4] }
    }
}

/// Bits of a scan: the byte after 0xFF has seven, and a marker ends it.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    cache: u64,
    held: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, cache: 0, held: 0 }
    }

    fn fill(&mut self) {
        while self.held <= 48 {
            let Some(byte) = self.bytes.get(self.at) else { return };
            let stuffed = self.at > 0 && self.bytes[self.at - 1] == 0xFF;
            if *byte == 0xFF && self.bytes.get(self.at + 1).is_none_or(|next| *next >= 0x80) {
                return;
            }
            let width = if stuffed { 7 } else { 8 };
            self.cache = self.cache << width | u64::from(*byte);
            self.held += width;
            self.at += 1;
        }
    }

    /// At most 24 bits.
    fn read(&mut self, count: u32) -> Result<u32, &'static str> {
        if self.held < count {
            self.fill();
        }
        self.held = self.held.checked_sub(count).ok_or(ENDED)?;
        Ok((self.cache >> self.held) as u32 & ((1 << count) - 1))
    }

    /// A.5.3: Golomb's code of order `k`, of limited length.
    fn golomb(&mut self, k: u32, limit: u32, qbpp: u32) -> Result<u32, &'static str> {
        let most = limit.saturating_sub(qbpp + 1);
        let mut zeros = 0;
        while zeros < most && self.read(1)? == 0 {
            zeros += 1;
        }
        let value = if zeros < most {
            zeros << k | self.read(k)?
        } else {
            // After the one that ends the zeros.
            self.read(1)?;
            self.read(qbpp)? + 1
        };
        // Errors of 16 bits have 17 when their sign is folded in.
        if value < 1 << 18 { Ok(value) } else { Err(BROKEN) }
    }

    /// Passes over the padding and the marker RSTm.
    fn restart(&mut self) -> Result<(), &'static str> {
        match self.after_scan() {
            [0xFF, 0xD0..=0xD7, rest @ ..] => *self = Self::new(rest),
            _ => return Err(BROKEN),
        }
        Ok(())
    }

    /// What begins with the next marker.
    fn after_scan(&self) -> &'a [u8] {
        let from = self.at.saturating_sub(1).min(self.bytes.len());
        let is_marker = |pair: &[u8]| pair[0] == 0xFF && pair[1] >= 0x80;
        let found = self.bytes[from..].windows(2).position(is_marker);
        found.map_or(&[], |found| &self.bytes[from + found..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (37, 29);

    /// Written by CharLS, `tests/golden/jpegls.py`, with how far samples may be off.
    const FILES: [(&str, &[u8], i32); 5] = [
        ("none", include_bytes!("../../tests/golden/rgb_none.jls"), 0),
        ("line", include_bytes!("../../tests/golden/rgb_line.jls"), 0),
        ("sample", include_bytes!("../../tests/golden/rgb_sample.jls"), 0),
        ("near", include_bytes!("../../tests/golden/grey_near3.jls"), 3),
        ("16 bits", include_bytes!("../../tests/golden/grey16.jls"), 0),
    ];

    fn plane(x: usize, y: usize, c: usize) -> u16 {
        let noise = ((x * x + y * 7 * (c + 1)) ^ ((x * y) >> c)) & 0xFF;
        if (x / 8 + y / 8).is_multiple_of(2) { 40 * (c as u16 + 1) } else { noise as u16 }
    }

    #[test]
    fn what_charls_writes_is_read() {
        for (name, bytes, near) in FILES {
            let frame = decode(bytes, SIZE.0, SIZE.1).unwrap();
            assert_eq!(frame.samples.len(), SIZE.0 * SIZE.1 * frame.components, "{name}");
            for (index, sample) in frame.samples.iter().enumerate() {
                let (pixel, c) = (index / frame.components, index % frame.components);
                let (x, y) = (pixel % SIZE.0, pixel / SIZE.0);
                let expected = if name == "16 bits" { plane(x, y, 0) << 4 | plane(x, y, 1) >> 4 } else { plane(x, y, c) };
                assert!((i32::from(*sample) - i32::from(expected)).abs() <= near, "{name}: {sample} instead of {expected} at {x}, {y}, {c}");
            }
        }
    }

    #[test]
    fn a_restart_begins_anew() {
        // Two lines of white by a run each: a run over the line is one bit, once its order is 0.
        let head = [0xFF, 0xD8, 0xFF, 0xF7, 0, 11, 8, 0, 2, 0, 1, 1, 1, 0x11, 0, 0xFF, 0xDD, 0, 4, 0, 1, 0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 0, 0];
        let with = |marker: u8| [&head[..], &[0x80, 0xFF, marker, 0x80, 0xFF, 0xD9]].concat();
        assert_eq!(decode(&with(0xD0), 1, 2).unwrap().samples, [0, 0]);
        assert_eq!(decode(&with(0xD9), 1, 2).err(), Some(BROKEN));
    }

    #[test]
    fn what_is_cut_off_or_changed_never_crashes() {
        for (name, bytes, _) in FILES {
            for keep in 0..bytes.len() - 2 {
                assert!(decode(&bytes[..keep.min(bytes.len() - 8)], SIZE.0, SIZE.1).is_err(), "{name}: {keep} bytes are enough");
            }
            for place in 0..bytes.len() {
                for value in [0, 0x7F, 0xFF, bytes[place] ^ 1, bytes[place] ^ 0x80] {
                    let mut changed = bytes.to_vec();
                    changed[place] = value;
                    let _ = decode(&changed, SIZE.0, SIZE.1);
                }
            }
            assert!(decode(bytes, SIZE.0 + 1, SIZE.1).is_err());
        }
    }
}
