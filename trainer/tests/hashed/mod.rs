//! Weights and images that Rust and `tests/reference/reference.py` make from the same integer hash of names and positions.
#![allow(dead_code)] // Each test program uses its own part of this.

use graft_torch::tch::{Device, Kind, Tensor};

/// `reference.py`'s `uniform`.
pub fn uniform(name: &str, count: usize) -> impl Iterator<Item = f64> {
    uniform_in(name, 0..count as u64)
}

/// The numbers of these positions.
fn uniform_in(name: &str, positions: std::ops::Range<u64>) -> impl Iterator<Item = f64> {
    let seed = name.bytes().fold(2_166_136_261u32, |h, b| (h ^ u32::from(b)).wrapping_mul(16_777_619));
    positions.map(move |i| {
        let mut z = i.wrapping_add(u64::from(seed) << 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 24)
    })
}

/// `reference.py`'s `values`.
pub fn values(name: &str, shape: &[i64]) -> Tensor {
    if name.ends_with("num_batches_tracked") {
        return Tensor::zeros(shape, (Kind::Int64, Device::Cpu));
    }
    let count = shape.iter().product::<i64>() as usize;
    let scale = (6.0 / shape.iter().skip(1).product::<i64>() as f64).sqrt();
    let value = |u: f64| {
        let value = if shape.len() > 1 {
            (2.0 * u - 1.0) * scale
        } else if name.ends_with("running_var") || name.ends_with("weight") {
            0.5 + u
        } else {
            0.2 * (2.0 * u - 1.0)
        };
        value as f32
    };
    // The largest of the models have a hundred million of them.
    let mut numbers = vec![0f32; count];
    let share = count.div_ceil(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).max(1 << 16);
    std::thread::scope(|scope| {
        for (part, slots) in numbers.chunks_mut(share).enumerate() {
            let from = (part * share) as u64;
            scope.spawn(move || slots.iter_mut().zip(uniform_in(name, from..from + share as u64)).for_each(|(slot, u)| *slot = value(u)));
        }
    });
    Tensor::from_slice(&numbers).view(shape)
}
