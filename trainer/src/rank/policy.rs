//! The operations of augmentation policies, batched on the device that trains. What each does is torchvision's, but that geometry is
//! about the image's centre, is interpolated, and sees the nearest pixel where it looks outside.

use std::collections::BTreeMap;

use graft_torch::tch::{Kind, Tensor};
use graft_torch::transfer::on_device;
use graft_trainer_core::policy::Operation;

use super::augment::{column, resampled};
use crate::event::Failure;

/// Images `[N, 3, S, S]` with values in [0, 1], to each of which its operations are done one after the other.
pub(super) fn apply<'a>(mut images: Tensor, drawn: impl Iterator<Item = &'a [(Operation, f64)]>) -> Result<Tensor, Failure> {
    let drawn: Vec<&[(Operation, f64)]> = drawn.collect();
    for turn in 0..drawn.iter().map(|list| list.len()).max().unwrap_or(0) {
        let mut groups: BTreeMap<Operation, (Vec<i64>, Vec<f64>)> = BTreeMap::new();
        for (image, (operation, strength)) in (0i64..).zip(&drawn).filter_map(|(image, list)| Some((image, list.get(turn)?))) {
            let (of, strengths) = groups.entry(*operation).or_default();
            of.push(image);
            strengths.push(*strength);
        }
        for (operation, (of, strengths)) in groups {
            let of = on_device(Tensor::f_from_slice(&of)?, images.device())?;
            let changed = operate(operation, &images.f_index_select(0, &of)?, &strengths)?;
            images = images.f_index_copy(0, &of, &changed)?;
        }
    }
    Ok(images)
}

fn operate(operation: Operation, images: &Tensor, strengths: &[f64]) -> Result<Tensor, Failure> {
    let turned = |matrix: fn(f64) -> [f64; 6]| resampled(images, &strengths.iter().flat_map(|s| matrix(*s)).collect::<Vec<_>>());
    // factor · image + (1 − factor) · other, as far as there are such colours.
    let blended = |other: &Tensor| -> Result<Tensor, Failure> {
        let factor = column(&strengths.iter().map(|s| 1.0 + s).collect::<Vec<_>>(), images.device())?;
        Ok(images.f_sub(other)?.f_mul(&factor)?.f_add(other)?.f_clamp(0.0, 1.0)?)
    };
    let own = || column(strengths, images.device());
    match operation {
        Operation::ShearX => turned(|s| [1.0, s, 0.0, 0.0, 1.0, 0.0]),
        Operation::ShearY => turned(|s| [1.0, 0.0, 0.0, s, 1.0, 0.0]),
        // A side is 2 long.
        Operation::TranslateX => turned(|s| [1.0, 0.0, 2.0 * s, 0.0, 1.0, 0.0]),
        Operation::TranslateY => turned(|s| [1.0, 0.0, 0.0, 0.0, 1.0, 2.0 * s]),
        Operation::Rotate => turned(|s| {
            let (sin, cos) = s.to_radians().sin_cos();
            [cos, -sin, 0.0, sin, cos, 0.0]
        }),
        Operation::Brightness => blended(&images.f_zeros_like()?),
        Operation::Color => blended(&grey(images)?),
        Operation::Contrast => blended(&grey(images)?.f_mean_dim(Some(&[1i64, 2, 3][..]), true, Kind::Float)?),
        Operation::Sharpness => blended(&smoothed(images)?),
        Operation::Posterize => {
            let step = column(&strengths.iter().map(|bits| (8.0 - bits).exp2()).collect::<Vec<_>>(), images.device())?;
            Ok(bytes(images)?.f_div(&step)?.f_floor()?.f_mul(&step)?.f_div_scalar(255.0)?)
        }
        Operation::Solarize => {
            let bright = images.f_ge_tensor(&own()?)?;
            Ok(images.f_neg()?.f_add_scalar(1.0)?.f_where_self(&bright, images)?)
        }
        Operation::AutoContrast => {
            let (low, high) = (images.f_amin([2i64, 3], true)?, images.f_amax([2i64, 3], true)?);
            let flat = high.f_eq_tensor(&low)?;
            let range = high.f_sub(&low)?.f_masked_fill(&flat, 1.0)?;
            Ok(images.f_where_self(&flat, &images.f_sub(&low)?.f_div(&range)?)?)
        }
        Operation::Equalize => equalized(images),
    }
}

/// As far as one can tell them apart in 8 bits: whole numbers from 0 to 255.
fn bytes(images: &Tensor) -> Result<Tensor, Failure> {
    Ok(images.f_mul_scalar(255.0)?.f_round()?)
}

/// Luminance by ITU-R BT.601, `[N, 1, S, S]`.
fn grey(images: &Tensor) -> Result<Tensor, Failure> {
    let weights = on_device(Tensor::from_slice(&[0.2989f32, 0.587, 0.114]).f_view([1, 3, 1, 1])?, images.device())?;
    Ok(images.f_mul(&weights)?.f_sum_dim_intlist(1i64, true, Kind::Float)?)
}

/// Each pixel inside averaged with its eight neighbours, which weigh a fifth of it.
fn smoothed(images: &Tensor) -> Result<Tensor, Failure> {
    let size = images.size();
    let kernel = Tensor::from_slice(&[1f32, 1.0, 1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0]).f_div_scalar(13.0)?.f_view([1, 1, 3, 3])?;
    let kernel = on_device(kernel.f_repeat([size[1], 1, 1, 1])?, images.device())?;
    let result = images.copy();
    let mut inside = result.f_narrow(2, 1, size[2] - 2)?.f_narrow(3, 1, size[3] - 2)?;
    inside.f_copy_(&images.f_conv2d(&kernel, None::<Tensor>, [1, 1], [0, 0], [1, 1], size[1])?)?;
    Ok(result)
}

/// Each channel's values exchanged for their ranks, as PIL and torchvision do it in whole numbers.
fn equalized(images: &Tensor) -> Result<Tensor, Failure> {
    let size = images.size();
    let flat = bytes(images)?.f_to_kind(Kind::Int64)?.f_view([size[0] * size[1], size[2] * size[3]])?;
    let counts = Tensor::f_zeros([flat.size()[0], 256], (Kind::Int64, images.device()))?.f_scatter_add(1, &flat, &flat.f_ones_like()?)?;
    let last = counts.f_gather(1, &flat.f_amax([1i64], true)?, false)?;
    let step = last.f_neg()?.f_add_scalar(size[2] * size[3])?.f_div_scalar_mode(255, "floor")?;
    let flat_ones = step.f_eq(0)?;
    let divisor = step.f_clamp_min(1)?;
    let sums = counts.f_cumsum(1, Kind::Int64)?.f_add(&step.f_div_scalar_mode(2, "floor")?)?.f_div_tensor_mode(&divisor, "floor")?;
    // What is darker than a value decides where it goes.
    let table = Tensor::f_cat(&[sums.f_narrow(1, 0, 1)?.f_zeros_like()?, sums.f_narrow(1, 0, 255)?], 1)?.f_clamp(0, 255)?;
    let changed = flat.f_where_self(&flat_ones, &table.f_gather(1, &flat, false)?)?;
    Ok(changed.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?.f_view(size.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_torch::tch::Device;

    fn image(values: &[f32]) -> Tensor {
        let side = (values.len() as f64).sqrt() as i64;
        Tensor::from_slice(values).view([1, 1, side, side]).repeat([1, 3, 1, 1]) / 255.0
    }

    fn channel(images: &Tensor) -> Vec<f64> {
        Vec::try_from((images.get(0).get(0) * 255.0).to_kind(Kind::Double).view([-1])).unwrap()
    }

    fn once(operation: Operation, strength: f64, values: &[f32]) -> Vec<f64> {
        channel(&operate(operation, &image(values), &[strength]).unwrap())
    }

    fn near(got: &[f64], expected: &[f64]) {
        assert!(got.len() == expected.len() && got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-3), "{got:?} instead of {expected:?}");
    }

    const FOUR: [f32; 4] = [10.0, 60.0, 110.0, 160.0];

    #[test]
    fn operations_on_values_are_torchvisions() {
        near(&once(Operation::Brightness, 0.5, &[100.0, 200.0, 0.0, 10.0]), &[150.0, 255.0, 0.0, 15.0]);
        near(&once(Operation::Brightness, -0.5, &FOUR), &[5.0, 30.0, 55.0, 80.0]);
        // The weights of the three colours add up to 0.9999.
        let mean = 85.0 * 0.9999;
        near(&once(Operation::Contrast, -0.5, &FOUR), &FOUR.map(|v| mean + 0.5 * (f64::from(v) - mean)));
        near(&once(Operation::Color, -1.0, &FOUR), &FOUR.map(|v| 0.9999 * f64::from(v)));
        near(&once(Operation::Posterize, 2.0, &FOUR), &[0.0, 0.0, 64.0, 128.0]);
        near(&once(Operation::Solarize, 110.0 / 255.0, &FOUR), &[10.0, 60.0, 145.0, 95.0]);
        near(&once(Operation::AutoContrast, 0.0, &FOUR), &[0.0, 85.0, 170.0, 255.0]);
        near(&once(Operation::AutoContrast, 0.0, &[7.0; 4]), &[7.0; 4]);
    }

    #[test]
    fn sharpness_leaves_the_border_alone() {
        let mut values = [0.0f32; 9];
        values[4] = 130.0;
        let smooth = once(Operation::Sharpness, -1.0, &values);
        let mut expected = [0.0; 9];
        expected[4] = 50.0;
        near(&smooth, &expected);
    }

    #[test]
    fn equalizing_gives_each_value_its_rank() {
        // 32 x 32 pixels of 4 values: step is (1024 - 256) / 255 = 3, and 256 · k + 1 over 3 is 85, 171 and, cut off, 256.
        let values: Vec<f32> = (0..1024).map(|i| [10.0, 20.0, 30.0, 200.0][i / 256]).collect();
        let result = once(Operation::Equalize, 0.0, &values);
        near(&[result[0], result[256], result[512], result[768]], &[0.0, 85.0, 171.0, 255.0]);
        near(&once(Operation::Equalize, 0.0, &[9.0; 16]), &[9.0; 16]);
    }

    #[test]
    fn geometry_moves_pixels() {
        let mut values = [0.0f32; 25];
        values[12] = 100.0;
        let at = |operation, strength| once(operation, strength, &values).iter().position(|v| *v > 99.0);
        assert_eq!(at(Operation::TranslateX, 0.2), Some(11));
        assert_eq!(at(Operation::TranslateY, -0.2), Some(17));
        assert_eq!(at(Operation::ShearX, 0.7), Some(12));
        assert_eq!(at(Operation::Rotate, 90.0), Some(12));
    }

    #[test]
    fn each_image_has_its_own_operations() {
        let images = Tensor::cat(&[image(&FOUR), image(&FOUR), image(&FOUR)], 0);
        let twice = [(Operation::Brightness, -0.5), (Operation::Solarize, 0.0)];
        let lists: [&[(Operation, f64)]; 3] = [&[], &twice, &[(Operation::Solarize, 0.0)]];
        let changed = apply(images.copy(), lists.into_iter()).unwrap();
        let of = |i: i64| channel(&changed.narrow(0, i, 1));
        near(&of(0), &FOUR.map(f64::from));
        near(&of(1), &[250.0, 225.0, 200.0, 175.0]);
        near(&of(2), &[245.0, 195.0, 145.0, 95.0]);
        assert_eq!(changed.device(), Device::Cpu);
    }
}
