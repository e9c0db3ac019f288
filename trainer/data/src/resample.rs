//! Antialiased resizing that equals Pillow's to the bit (`ImagingResample` for 8-bit images, `src/libImaging/Resample.c`):
//! what a model saw in training through torchvision is what it sees here. Rows first, then columns, where Pillow 13 takes columns first for
//! some shapes and is then up to a level apart; between the passes
//! values are rounded and cut off at 0 and 255. Weights are fixed-point numbers of 22 bits after the point.
//!
//! The loops are compiled for several generations of processors, of which the running one's is taken. Their sums wrap: weights add up to
//! one, of either sign to less than two, so a sum of bytes times weights stays below 2^31 and checks for overflow would find none.

use graft_crds::spec::Interpolation;
use pulp::Arch;

const BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (BITS - 1);

/// The weights of one output pixel, and the first input pixel that they are for.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes interleaved pixels of `C` channels from `[height, width, C]` to `[new height, new width, C]`. Sizes are width
/// and height, none of them 0.
pub(crate) fn resample<const C: usize>(mut pixels: Vec<u8>, from: (usize, usize), to: (usize, usize), filter: Interpolation) -> Vec<u8> {
    let arch = Arch::new();
    if from.0 != to.0 {
        let taps = taps(from.0, to.0, filter);
        pixels = arch.dispatch(|| if C == 1 { grey_rows(&pixels, from.0, &taps) } else { rows::<C, 4>(&pixels, from.0, &taps) });
    }
    if from.1 != to.1 {
        let taps = taps(from.1, to.1, filter);
        pixels = arch.dispatch(|| columns(&pixels, to.0 * C, &taps));
    }
    pixels
}

/// `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow.
fn taps(from: usize, to: usize, filter: Interpolation) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    // Shrinking widens the filter: that is what antialiases.
    let stretch = scale.max(1.0);
    let (radius, kernel): (f64, fn(f64) -> f64) = match filter {
        Interpolation::Bilinear => (1.0, triangle),
        Interpolation::Bicubic => (2.0, catmull_rom),
    };
    let support = radius * stretch;
    let pixel = |i| {
        let centre = (i as f64 + 0.5) * scale;
        // Casts cut towards zero, as C's do.
        let first = (centre - support + 0.5).max(0.0) as usize;
        let last = ((centre + support + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..last).map(|x| kernel((x as f64 - centre + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: &f64| {
            let share = if sum == 0.0 { *w } else { w / sum };
            let scaled = share * f64::from(1u32 << BITS);
            (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(pixel).collect()
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic convolution with a = −1/2.
fn catmull_rom(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[inline(always)]
fn level(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// So many lanes at once, of which the first `C` are used: a pixel is read with what follows it.
#[inline(always)]
fn rows<const C: usize, const LANES: usize>(pixels: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = vec![0; pixels.len() / width * taps.len()];
    let mut padded = vec![0; width * C + LANES];
    for (row, target) in pixels.chunks_exact(width * C).zip(out.chunks_exact_mut(taps.len() * C)) {
        padded[..row.len()].copy_from_slice(row);
        for (Taps { first, weights }, target) in taps.iter().zip(target.chunks_exact_mut(C)) {
            let mut sums = [HALF; LANES];
            let mut rest = &padded[first * C..];
            for weight in weights {
                let Some(pixel) = rest.first_chunk::<LANES>() else { break };
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
                }
                rest = &rest[C..];
            }
            for (target, sum) in target.iter_mut().zip(sums) {
                *target = level(sum);
            }
        }
    }
    out
}

/// So many rows of one channel are resized at once: their pixels that stand below each other are put side by side.
const AT_ONCE: usize = 16;

#[inline(always)]
fn grey_rows(pixels: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = vec![0; pixels.len() / width * taps.len()];
    // Where fewer rows are left, lanes of the rows before are computed again, and kept nowhere.
    let mut turned = vec![[0; AT_ONCE]; width];
    for (rows, targets) in pixels.chunks(width * AT_ONCE).zip(out.chunks_mut(taps.len() * AT_ONCE)) {
        for (lane, row) in rows.chunks_exact(width).enumerate() {
            for (column, value) in turned.iter_mut().zip(row) {
                column[lane] = *value;
            }
        }
        for (at, Taps { first, weights }) in taps.iter().enumerate() {
            let mut sums = [HALF; AT_ONCE];
            for (column, weight) in turned[*first..].iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(column) {
                    *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
                }
            }
            for (target, sum) in targets.chunks_exact_mut(taps.len()).zip(sums) {
                target[at] = level(sum);
            }
        }
    }
    out
}

#[inline(always)]
fn columns(pixels: &[u8], stride: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = vec![0; stride * taps.len()];
    let mut sums = vec![HALF; stride];
    for (Taps { first, weights }, target) in taps.iter().zip(out.chunks_exact_mut(stride)) {
        sums.fill(HALF);
        for (row, weight) in pixels[first * stride..].chunks_exact(stride).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
            }
        }
        for (target, sum) in target.iter_mut().zip(&sums) {
            *target = level(*sum);
        }
    }
    out
}
