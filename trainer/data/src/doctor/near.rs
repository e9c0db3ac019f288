//! Near duplicates: pairs of pictures that are the same but for scale, compression, brightness, contrast, a narrow
//! crop, a turn or a mirror image. Near-linear in the number of images: a perceptual hash proposes, the correlation of
//! the small pictures decides.
//!
//! The hash is pHash's (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010): the signs of the
//! 63 lowest frequencies of the discrete cosine transform around their medians over the set. It is looked up in four
//! bands (multi-index hashing, Norouzi, Punjani and Fleet, CVPR 2012), and in each band also with the bits flipped that
//! are nearest to their medians (multi-probe, Lv et al., VLDB 2007), since those are the ones that differ between copies.
//! The eight turns and mirror images need no second transform: they change signs of frequencies and swap u and v.

use std::collections::BTreeMap;

use crate::doctor::fingerprint::SIDE;
use crate::parallel;

/// Frequencies per direction.
const WAVES: usize = 8;
/// Bits of a hash: all those frequencies but the mean.
const BITS: usize = WAVES * WAVES - 1;
const BANDS: usize = 4;
const BAND_BITS: usize = 16;
/// In each band so many of its least certain bits are tried both ways.
const UNCERTAIN: usize = 3;
/// Hashes that differ in more bits are not compared. The two pairs of COVID-CT differ in 3 and 4.
const HAMMING_LIMIT: u32 = 10;
/// At most so many pictures, the nearest by their hash, are compared with each: a crowd is not a copy.
const COMPARED: usize = 32;
/// The least correlation of a copy. The copies in COVID-CT, cropped and scaled by others, have 0.996 and 0.989; the most
/// similar pictures of its different patients have less than 0.95.
const CORRELATION: f64 = 0.985;
/// A copy stands out: at most [`CROWD`] other pictures may be nearer than so many times its distance (1 − correlation).
const STANDS_OUT: f64 = 3.0;
const CROWD: usize = 3;

/// A picture turned or mirrored: what is done to one picture of a pair to get the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    transposed: bool,
    mirror_x: bool,
    mirror_y: bool,
}

impl Turn {
    fn all() -> [Self; 8] {
        std::array::from_fn(|i| Self { transposed: i & 4 != 0, mirror_x: i & 1 != 0, mirror_y: i & 2 != 0 })
    }

    /// In words, for people; none for the picture as it is.
    pub(crate) fn name(self) -> Option<&'static str> {
        match (self.transposed, self.mirror_x, self.mirror_y) {
            (false, false, false) => None,
            (false, true, false) => Some("mirrored left to right"),
            (false, false, true) => Some("mirrored top to bottom"),
            (false, true, true) => Some("turned by 180°"),
            (true, false, false) | (true, true, true) => Some("mirrored along a diagonal"),
            (true, true, false) | (true, false, true) => Some("turned by 90°"),
        }
    }

    /// The small picture after mirroring and then swapping rows and columns.
    fn of(self, grey: &[u8]) -> Vec<u8> {
        let at = |y: usize, x: usize| {
            let (y, x) = if self.transposed { (x, y) } else { (y, x) };
            let (y, x) = (if self.mirror_y { SIDE - 1 - y } else { y }, if self.mirror_x { SIDE - 1 - x } else { x });
            grey[y * SIDE + x]
        };
        (0..SIDE * SIDE).map(|i| at(i / SIDE, i % SIDE)).collect()
    }

    /// The spectrum of [`Turn::of`] from the spectrum of the picture: mirroring negates the odd frequencies.
    fn of_spectrum(self, spectrum: &[f32; BITS]) -> [f32; BITS] {
        std::array::from_fn(|i| {
            let (u, v) = ((i + 1) / WAVES, (i + 1) % WAVES);
            let (u, v) = if self.transposed { (v, u) } else { (u, v) };
            let odd = (self.mirror_y && u % 2 == 1) != (self.mirror_x && v % 2 == 1);
            let value = spectrum[u * WAVES + v - 1];
            if odd { -value } else { value }
        })
    }
}

/// The lowest frequencies of the type-II discrete cosine transform without the mean, scaled to length 1; row-major in
/// (vertical, horizontal). All 0 for a picture of one level.
fn spectrum(grey: &[u8], waves: &[[f32; SIDE]; WAVES]) -> [f32; BITS] {
    let mut rows = [[0f32; WAVES]; SIDE];
    for (row, line) in rows.iter_mut().zip(grey.chunks_exact(SIDE)) {
        for (value, wave) in row.iter_mut().zip(waves) {
            *value = line.iter().zip(wave).map(|(level, wave)| f32::from(*level) * wave).sum();
        }
    }
    let mut out: [f32; BITS] = std::array::from_fn(|i| {
        let (u, v) = ((i + 1) / WAVES, (i + 1) % WAVES);
        rows.iter().zip(&waves[u]).map(|(row, wave)| row[v] * wave).sum()
    });
    let length = out.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 1e-3 {
        out.iter_mut().for_each(|value| *value /= length);
    }
    out
}

fn waves() -> [[f32; SIDE]; WAVES] {
    let angle = |u: usize, x: usize| std::f64::consts::PI * (2 * x + 1) as f64 * u as f64 / (2 * SIDE) as f64;
    std::array::from_fn(|u| std::array::from_fn(|x| angle(u, x).cos() as f32))
}

fn medians(spectra: &[[f32; BITS]]) -> [f32; BITS] {
    std::array::from_fn(|i| {
        let mut values: Vec<f32> = spectra.iter().map(|spectrum| spectrum[i]).collect();
        let middle = values.len() / 2;
        values.select_nth_unstable_by(middle, f32::total_cmp);
        values[middle]
    })
}

fn hash(spectrum: &[f32; BITS], medians: &[f32; BITS]) -> u64 {
    (0..BITS).fold(0, |word, i| word | u64::from(spectrum[i] > medians[i]) << i)
}

fn band(hash: u64, band: usize) -> u16 {
    (hash >> (band * BAND_BITS)) as u16
}

/// The values of a band to look up: its own, and those with its least certain bits flipped.
fn probes(own: u16, spectrum: &[f32; BITS], medians: &[f32; BITS], band: usize) -> impl Iterator<Item = u16> {
    let first = band * BAND_BITS;
    let mut bits: Vec<usize> = (first..(first + BAND_BITS).min(BITS)).collect();
    bits.sort_unstable_by(|a, b| (spectrum[*a] - medians[*a]).abs().total_cmp(&(spectrum[*b] - medians[*b]).abs()));
    let flips: Vec<u16> = bits.iter().take(UNCERTAIN).map(|bit| 1 << (bit - first)).collect();
    (0..1usize << flips.len())
        .map(move |chosen| flips.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1).fold(own, |word, (_, flip)| word ^ flip))
}

/// All hashes of a band, sorted by its value: `entries[starts[v]..starts[v + 1]]` have the value v.
struct Band {
    starts: Vec<u32>,
    entries: Vec<(u64, u32)>,
}

impl Band {
    fn of(hashes: &[u64], number: usize) -> Self {
        let mut starts = vec![0u32; (1 << BAND_BITS) + 1];
        for hash in hashes {
            starts[usize::from(band(*hash, number)) + 1] += 1;
        }
        for value in 0..1 << BAND_BITS {
            starts[value + 1] += starts[value];
        }
        let mut next = starts.clone();
        let mut entries = vec![(0, 0); hashes.len()];
        for (index, hash) in hashes.iter().enumerate() {
            let slot = &mut next[usize::from(band(*hash, number))];
            entries[*slot as usize] = (*hash, index as u32);
            *slot += 1;
        }
        Self { starts, entries }
    }

    fn at(&self, value: u16) -> &[(u64, u32)] {
        &self.entries[self.starts[usize::from(value)] as usize..self.starts[usize::from(value) + 1] as usize]
    }
}

/// Pearson's correlation of small pictures; 0 when one has a single level.
fn correlation(a: &[u8], b: &[u8]) -> f64 {
    let sum = |values: &[u8]| values.iter().map(|v| u64::from(*v)).sum::<u64>() as f64;
    let dot = |a: &[u8], b: &[u8]| f64::from(a.iter().zip(b).map(|(a, b)| u32::from(*a) * u32::from(*b)).sum::<u32>());
    let n = a.len() as f64;
    let (mean_a, mean_b) = (sum(a) / n, sum(b) / n);
    let (variance_a, variance_b) = (dot(a, a) / n - mean_a * mean_a, dot(b, b) / n - mean_b * mean_b);
    if variance_a < 1e-6 || variance_b < 1e-6 { 0.0 } else { (dot(a, b) / n - mean_a * mean_b) / (variance_a * variance_b).sqrt() }
}

/// Two images that show the same picture; `first < second`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Near {
    pub(crate) first: usize,
    pub(crate) second: usize,
    /// Correlation of the small pictures.
    pub(crate) correlation: f64,
    /// How the first must be turned.
    pub(crate) turn: Turn,
}

#[derive(Clone, Copy)]
struct Neighbour {
    index: usize,
    correlation: f64,
    turn: Turn,
}

/// All near duplicates among small pictures of 32 × 32 pixels, by first and second index. Results do not depend on `threads`.
pub(crate) fn near_duplicates(greys: &[&[u8]], threads: usize) -> Vec<Near> {
    if greys.len() < 2 {
        return Vec::new();
    }
    let waves = waves();
    let spectra: Vec<[f32; BITS]> = greys.iter().map(|grey| spectrum(grey, &waves)).collect();
    let medians = medians(&spectra);
    let hashes: Vec<u64> = spectra.iter().map(|spectrum| hash(spectrum, &medians)).collect();
    let bands: Vec<Band> = (0..BANDS).map(|number| Band::of(&hashes, number)).collect();
    let neighbours = parallel::map(greys.len(), threads, |index| compare(greys[index], candidates(index, &spectra[index], &medians, &bands), greys));
    that_stand_out(&neighbours)
}

/// The nearest pictures by their hashes, each with the turn in which it is nearest.
fn candidates(index: usize, spectrum: &[f32; BITS], medians: &[f32; BITS], bands: &[Band]) -> Vec<(u32, Turn, usize)> {
    let mut nearest: BTreeMap<usize, (u32, Turn)> = BTreeMap::new();
    for turn in Turn::all() {
        let turned = turn.of_spectrum(spectrum);
        let own = hash(&turned, medians);
        for (number, entries) in bands.iter().enumerate() {
            for value in probes(band(own, number), &turned, medians, number) {
                for (hash, other) in entries.at(value) {
                    let distance = (hash ^ own).count_ones();
                    if distance <= HAMMING_LIMIT && *other as usize != index {
                        let slot = nearest.entry(*other as usize).or_insert((distance, turn));
                        *slot = (*slot).min((distance, turn));
                    }
                }
            }
        }
    }
    let mut all: Vec<_> = nearest.into_iter().map(|(other, (distance, turn))| (distance, turn, other)).collect();
    all.sort_unstable();
    all.truncate(COMPARED);
    all
}

fn compare(grey: &[u8], candidates: Vec<(u32, Turn, usize)>, greys: &[&[u8]]) -> Vec<Neighbour> {
    let compared =
        candidates.into_iter().map(|(_, turn, other)| Neighbour { index: other, correlation: correlation(&turn.of(grey), greys[other]), turn });
    compared.filter(|neighbour| neighbour.correlation > 0.8).collect()
}

/// Pairs that are similar enough and stand out from what else is similar: strokes of a pen and rows of a crowd resemble
/// each other without being copies, and then many are about equally near (compare the ratio test of Lowe, IJCV 2004).
fn that_stand_out(neighbours: &[Vec<Neighbour>]) -> Vec<Near> {
    let mut pairs: BTreeMap<(usize, usize), Near> = BTreeMap::new();
    for (index, list) in neighbours.iter().enumerate() {
        for neighbour in list.iter().filter(|neighbour| neighbour.correlation >= CORRELATION) {
            let (first, second) = (index.min(neighbour.index), index.max(neighbour.index));
            pairs.entry((first, second)).or_insert(Near { first, second, correlation: neighbour.correlation, turn: neighbour.turn });
        }
    }
    let crowd = |of: usize, pair: &Near| {
        let reach = STANDS_OUT * (1.0 - pair.correlation);
        neighbours[of].iter().filter(|other| ![pair.first, pair.second].contains(&other.index) && 1.0 - other.correlation < reach).count()
    };
    pairs.into_values().filter(|pair| crowd(pair.first, pair).max(crowd(pair.second, pair)) <= CROWD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_trainer_core::rng::{Purpose, Stream};

    /// A smooth picture of its own for each number: all the frequencies that a hash reads, at random.
    fn picture(number: u32) -> Vec<u8> {
        let mut stream = Stream::new(7, Purpose::Phantom, number);
        let waves = waves();
        let mut value = vec![0f32; SIDE * SIDE];
        for u in 0..WAVES {
            for v in 0..WAVES {
                let weight = (stream.next_u64() % 2001) as f32 / 1000.0 - 1.0;
                for (i, slot) in value.iter_mut().enumerate() {
                    *slot += weight * waves[u][i / SIDE] * waves[v][i % SIDE];
                }
            }
        }
        value.iter().map(|v| (128.0 + 12.0 * v).clamp(0.0, 255.0) as u8).collect()
    }

    #[test]
    fn turning_a_spectrum_is_turning_the_picture() {
        let grey = picture(1);
        for turn in Turn::all() {
            let (a, b) = (turn.of_spectrum(&spectrum(&grey, &waves())), spectrum(&turn.of(&grey), &waves()));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3), "{turn:?}");
        }
    }

    #[test]
    fn copies_are_found_in_every_turn_and_others_are_not() {
        let mut greys: Vec<Vec<u8>> = (0..300).map(picture).collect();
        for (i, turn) in Turn::all().into_iter().enumerate() {
            // Darker, of less contrast and with noise.
            let copy = turn.of(&greys[10 * i]).iter().enumerate().map(|(at, level)| (f32::from(*level) * 0.8 + (at * 7 % 5) as f32) as u8).collect();
            greys.push(copy);
        }
        let views: Vec<&[u8]> = greys.iter().map(Vec::as_slice).collect();
        let found = near_duplicates(&views, 2);
        let pairs: Vec<_> = found.iter().map(|near| (near.first, near.second)).collect();
        assert_eq!(pairs, (0..8).map(|i| (10 * i, 300 + i)).collect::<Vec<_>>());
        assert_eq!(found[0].turn.name(), None);
        assert_eq!(found[3].turn.name(), Some("turned by 180°"));
        assert_eq!(found, near_duplicates(&views, 1));
    }

    #[test]
    fn a_crowd_is_no_copy() {
        // One picture with forty slightly different brightness ramps: all resemble each other, none stands out.
        let base = picture(3);
        let greys: Vec<Vec<u8>> = (0..40)
            .map(|n| {
                let own = picture(100 + n);
                base.iter().zip(&own).map(|(a, b)| ((u32::from(*a) * 15 + u32::from(*b)) / 16) as u8).collect()
            })
            .collect();
        let views: Vec<&[u8]> = greys.iter().map(Vec::as_slice).collect();
        assert!(correlation(views[0], views[1]) > CORRELATION);
        assert_eq!(near_duplicates(&views, 2), []);
    }

    #[test]
    fn a_picture_of_one_level_is_no_copy_of_another() {
        let (black, white) = (vec![0; SIDE * SIDE], vec![255; SIDE * SIDE]);
        assert_eq!(near_duplicates(&[&black, &white, &black], 1), []);
    }
}
