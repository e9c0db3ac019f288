//! Antialiased resizing that equals Pillow's to the bit (`ImagingResample` for 8-bit images, `src/libImaging/Resample.c`):
//! what a model saw in training through torchvision is what it sees here. Rows first, then columns, where Pillow 13 takes columns first for
//! some shapes and is then up to a level apart; between the passes
//! values are rounded and cut off at 0 and 255. Weights are fixed-point numbers of 22 bits after the point.

use graft_crds::spec::Interpolation;

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
    if from.0 != to.0 {
        pixels = rows::<C>(&pixels, from.0, &taps(from.0, to.0, filter));
    }
    if from.1 != to.1 {
        pixels = columns(&pixels, to.0 * C, &taps(from.1, to.1, filter));
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

fn level(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn rows<const C: usize>(pixels: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / width * taps.len());
    for row in pixels.chunks_exact(width * C) {
        for Taps { first, weights } in taps {
            let mut sums = [HALF; C];
            for (pixel, weight) in row[first * C..].chunks_exact(C).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            out.extend(sums.map(level));
        }
    }
    out
}

fn columns(pixels: &[u8], stride: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(stride * taps.len());
    let mut sums = vec![HALF; stride];
    for Taps { first, weights } in taps {
        sums.fill(HALF);
        for (row, weight) in pixels[first * stride..].chunks_exact(stride).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        out.extend(sums.iter().copied().map(level));
    }
    out
}
