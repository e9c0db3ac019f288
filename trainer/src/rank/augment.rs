//! Changes training images, batched and on the device that trains: one affine resampling for all geometry, then contrast,
//! brightness, gamma, blur, noise and erasing, then blends of pairs. What happens to an image is decided in graft-trainer-core.

use graft_crds::spec::{self, PolicyName};
use graft_torch::tch::{Device, Kind, Tensor};
use graft_torch::transfer::on_device;
use graft_trainer_core::augment::{Augment, Blend, Change};
use graft_trainer_core::policy::Policy;

use crate::event::Failure;

/// The settings as numbers.
pub(super) fn numbers(settings: &spec::Augment) -> Augment {
    Augment {
        horizontal_flip: settings.horizontal_flip.value(),
        vertical_flip: settings.vertical_flip.value(),
        crop: settings.crop.value(),
        rotate: settings.rotate.value(),
        translate: settings.translate.value(),
        brightness: settings.brightness.value(),
        contrast: settings.contrast.value(),
        gamma: settings.gamma.value(),
        blur: settings.blur.value(),
        noise: settings.noise.value(),
        erase: settings.erase.value(),
        policy: settings.policy.as_ref().map(|policy| match policy.name {
            PolicyName::RandAugment => {
                let positive = |number: i32| u32::try_from(number).unwrap_or(0);
                Policy::Rand { operations: positive(policy.operations), magnitude: positive(policy.magnitude) }
            }
            PolicyName::TrivialAugment => Policy::Trivial,
        }),
    }
}

/// Images `[N, 3, S, S]` with values in [0, 1], each changed as its entry says. Where a change looks outside of an image it
/// sees the nearest pixel.
pub(super) fn apply(images: &Tensor, changes: &[Change]) -> Result<Tensor, Failure> {
    let device = images.device();
    let mut images = images.shallow_clone();
    if changes.iter().any(|c| c.matrix != [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]) {
        images = resampled(&images, &changes.iter().flat_map(|c| c.matrix).collect::<Vec<_>>())?;
    }
    images = super::policy::apply(images, changes.iter().map(|c| c.operations.as_slice()))?;
    if changes.iter().any(|c| c.contrast != 1.0) {
        let contrast = column(&changes.iter().map(|c| c.contrast).collect::<Vec<_>>(), device)?;
        let mean = images.f_mean_dim(Some(&[1i64, 2, 3][..]), true, Kind::Float)?;
        images = images.f_sub(&mean)?.f_mul(&contrast)?.f_add(&mean)?.f_clamp(0.0, 1.0)?;
    }
    if changes.iter().any(|c| c.brightness != 1.0) {
        let brightness = column(&changes.iter().map(|c| c.brightness).collect::<Vec<_>>(), device)?;
        images = images.f_mul(&brightness)?.f_clamp(0.0, 1.0)?;
    }
    if changes.iter().any(|c| c.gamma != 1.0) {
        let gamma = column(&changes.iter().map(|c| c.gamma).collect::<Vec<_>>(), device)?;
        images = images.f_pow(&gamma)?;
    }
    if changes.iter().any(|c| c.blur > 0.0) {
        images = blurred(&images, &changes.iter().map(|c| c.blur).collect::<Vec<_>>())?;
    }
    if changes.iter().any(|c| c.noise.0 > 0.0) {
        let strength = column(&changes.iter().map(|c| c.noise.0).collect::<Vec<_>>(), device)?;
        let seeds: Vec<i64> = changes.iter().map(|c| i64::from(c.noise.1)).collect();
        images = images.f_add(&normal(&seeds, &images)?.f_mul(&strength)?)?.f_clamp(0.0, 1.0)?;
    }
    for (i, rectangle) in changes.iter().enumerate().filter_map(|(i, c)| Some((i, c.erase?))) {
        let image = images.f_narrow(0, i as i64, 1)?;
        let mean = image.f_mean(Kind::Float)?;
        let _ = window(&image, rectangle)?.f_fill_tensor_(&mean)?;
    }
    Ok(images)
}

/// Each image blurred with a Gaussian of its own standard deviation in pixels, cut off at three of the largest; borders are continued.
fn blurred(images: &Tensor, deviations: &[f64]) -> Result<Tensor, Failure> {
    let size = images.size();
    let (n, channels) = (size[0], size[1]);
    let largest = deviations.iter().copied().fold(0.0, f64::max);
    let radius = ((3.0 * largest).ceil() as i64).min(size[2] - 1);
    let kernel = |deviation: f64| -> Vec<f64> {
        let weight = |x: i64| if x == 0 { 1.0 } else { (-0.5 * (x as f64 / deviation.max(1e-6)).powi(2)).exp() };
        let weights: Vec<f64> = (-radius..=radius).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|w| w / sum).collect()
    };
    let kernels: Vec<f64> = deviations.iter().flat_map(|d| std::iter::repeat_n(kernel(*d), channels as usize)).flatten().collect();
    let kernels = on_device(Tensor::f_from_slice(&kernels)?.f_to_kind(Kind::Float)?, images.device())?;
    let (across, down) = (kernels.f_view([n * channels, 1, 1, -1])?, kernels.f_view([n * channels, 1, -1, 1])?);
    let mut flat = images.f_reshape([1, n * channels, size[2], size[3]])?.f_replication_pad2d([radius; 4])?;
    for kernel in [across, down] {
        flat = flat.f_conv2d(&kernel, None::<Tensor>, [1, 1], [0, 0], [1, 1], n * channels)?;
    }
    Ok(flat.f_view(size.as_slice())?)
}

/// Numbers of the standard normal distribution in the shape of `images`, one seed for each image: a function of seed and position
/// alone, and so the same on every device and rank (a hash after T. Mueller's 32-bit finaliser, then Box and Muller 1958).
fn normal(seeds: &[i64], images: &Tensor) -> Result<Tensor, Failure> {
    const MASK: i64 = 0xFFFF_FFFF;
    let pixels: i64 = images.size().iter().skip(1).product();
    let seeds = on_device(Tensor::f_from_slice(seeds)?.f_view([-1, 1])?, images.device())?;
    let uniform = |stream: i64| -> Result<Tensor, Failure> {
        let positions = Tensor::f_arange(pixels, (Kind::Int64, images.device()))?.f_mul_scalar(2)?.f_add_scalar(stream)?;
        let mut x = positions.f_mul_scalar(0x9E37_79B9)?.f_add(&seeds)?.f_bitwise_and(MASK)?;
        for _ in 0..2 {
            let shifted = x.f_bitwise_right_shift_tensor_scalar(16)?;
            x = x.f_bitwise_xor_tensor(&shifted)?.f_mul_scalar(0x045D_9F3B)?.f_bitwise_and(MASK)?;
        }
        x = x.f_bitwise_xor_tensor(&x.f_bitwise_right_shift_tensor_scalar(16)?)?;
        // Of (0, 1), so that its logarithm is a number.
        Ok(x.f_to_kind(Kind::Double)?.f_add_scalar(0.5)?.f_div_scalar(4_294_967_296.0)?)
    };
    let radius = uniform(0)?.f_log()?.f_mul_scalar(-2.0)?.f_sqrt()?;
    let angle = uniform(1)?.f_mul_scalar(std::f64::consts::TAU)?.f_cos()?;
    Ok(radius.f_mul(&angle)?.f_to_kind(Kind::Float)?.f_view(images.size().as_slice())?)
}

/// Images and partners `[N, 3, S, S]` blended, and the share of the images themselves in the result, which pixels round.
pub(super) fn blended(images: &Tensor, partners: &Tensor, blend: &Blend) -> Result<(Tensor, f64), Failure> {
    let Some(rectangle) = blend.pasted else {
        return Ok((partners.f_lerp(images, blend.share)?, blend.share));
    };
    let result = images.copy();
    let target = window(&result, rectangle)?;
    let size = target.size();
    target.shallow_clone().f_copy_(&window(partners, rectangle)?)?;
    let side = images.size()[3];
    Ok((result, 1.0 - (size[2] * size[3]) as f64 / (side * side) as f64))
}

/// Each image seen through its 2×3 matrix, of which `rows` has one after the other; see [`Change::matrix`].
pub(super) fn resampled(images: &Tensor, rows: &[f64]) -> Result<Tensor, Failure> {
    let theta = column(rows, images.device())?.f_view([-1, 2, 3])?;
    let grid = Tensor::f_affine_grid_generator(&theta, images.size(), false)?;
    let (bilinear, border) = (0, 1);
    Ok(images.f_grid_sampler_2d(&grid, bilinear, border, false)?)
}

/// A number per image, to be multiplied with images.
pub(super) fn column(values: &[f64], device: Device) -> Result<Tensor, Failure> {
    Ok(on_device(Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?.f_view([-1, 1, 1, 1])?, device)?)
}

/// The pixels of a rectangle, as a view.
fn window(images: &Tensor, [left, top, right, bottom]: [f64; 4]) -> Result<Tensor, Failure> {
    let size = images.size();
    let pixel = |share: f64, side: i64| ((share * side as f64).round() as i64).clamp(0, side);
    let (x0, x1) = (pixel(left, size[3]), pixel(right, size[3]));
    let (y0, y1) = (pixel(top, size[2]), pixel(bottom, size[2]));
    Ok(images.f_narrow(2, y0, y1 - y0)?.f_narrow(3, x0, x1 - x0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Change = Change {
        matrix: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        operations: Vec::new(),
        brightness: 1.0,
        contrast: 1.0,
        gamma: 1.0,
        blur: 0.0,
        noise: (0.0, 0),
        erase: None,
    };

    fn images() -> Tensor {
        Tensor::arange(2 * 3 * 8 * 8, (Kind::Float, Device::Cpu)).view([2, 3, 8, 8]) / 400.0
    }

    fn near(a: &Tensor, b: &Tensor) -> bool {
        (a - b).abs().max().double_value(&[]) < 1e-6
    }

    #[test]
    fn a_flip_mirrors_only_its_image() {
        let images = images();
        let flip = Change { matrix: [-1.0, 0.0, 0.0, 0.0, 1.0, 0.0], ..SAME };
        let changed = apply(&images, &[SAME, flip]).unwrap();
        assert!(near(&changed.get(0), &images.get(0)) && near(&changed.get(1), &images.get(1).flip([2])));
        let upside_down = apply(&images, &[Change { matrix: [1.0, 0.0, 0.0, 0.0, -1.0, 0.0], ..SAME }, SAME]).unwrap();
        assert!(near(&upside_down.get(0), &images.get(0).flip([1])));
    }

    #[test]
    fn a_crop_of_a_quarter_shows_that_quarter() {
        let images = images();
        let corner = Change { matrix: [0.5, 0.0, -0.5, 0.0, 0.5, -0.5], ..SAME };
        let changed = apply(&images, &[corner, SAME]).unwrap();
        let expected = images.narrow(0, 0, 1).narrow(2, 0, 4).narrow(3, 0, 4);
        // Bilinear samples lie a quarter of a pixel off; the mean is the quarter's all the same.
        assert!((changed.get(0).mean(Kind::Float) - expected.mean(Kind::Float)).abs().double_value(&[]) < 1e-3);
    }

    #[test]
    fn brightness_contrast_and_erasing() {
        let images = images();
        let changed = apply(&images, &[Change { brightness: 0.5, ..SAME }, SAME]).unwrap();
        assert!(near(&changed.get(0), &(images.get(0) * 0.5)) && near(&changed.get(1), &images.get(1)));
        let flat = apply(&images, &[Change { contrast: 0.0, ..SAME }, SAME]).unwrap();
        assert!(near(&flat.get(0), &images.get(0).mean(Kind::Float).expand([3, 8, 8], false)));
        let erased = apply(&images.copy(), &[Change { erase: Some([0.25, 0.5, 0.75, 1.0]), ..SAME }, SAME]).unwrap();
        let hole = erased.get(0).narrow(1, 4, 4).narrow(2, 2, 4);
        assert!(near(&hole, &images.get(0).mean(Kind::Float).expand([3, 4, 4], false)));
        assert!(near(&erased.get(0).narrow(1, 0, 4), &images.get(0).narrow(1, 0, 4)));
    }

    #[test]
    fn gamma_and_blur_change_only_their_image() {
        let images = images();
        let changed = apply(&images, &[Change { gamma: 2.0, ..SAME }, SAME]).unwrap();
        assert!(near(&changed.get(0), &images.get(0).square()) && near(&changed.get(1), &images.get(1)));

        let point = Tensor::zeros([2, 3, 33, 33], (Kind::Float, Device::Cpu));
        let _ = point.narrow(2, 16, 1).narrow(3, 16, 1).fill_(1.0);
        let spread = apply(&point, &[Change { blur: 2.0, ..SAME }, Change { blur: 0.5, ..SAME }]).unwrap();
        let expected = |x: f64, deviation: f64| (-0.5 * (x / deviation).powi(2)).exp() / (deviation * std::f64::consts::TAU.sqrt());
        for (image, deviation, tolerance) in [(0, 2.0, 2e-3), (1, 0.5, 0.03)] {
            let row = Vec::<f64>::try_from(spread.get(image).get(1).sum_dim_intlist(0, false, Kind::Double)).unwrap();
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{row:?}");
            for x in 0..4 {
                assert!((row[16 + x] - expected(x as f64, deviation)).abs() < tolerance && (row[16 + x] - row[16 - x]).abs() < 1e-6, "{row:?}");
            }
        }
    }

    #[test]
    fn noise_is_normal_and_belongs_to_its_image() {
        let grey = Tensor::full([2, 3, 64, 64], 0.5, (Kind::Float, Device::Cpu));
        let noisy = |seeds: [u32; 2]| apply(&grey, &seeds.map(|seed| Change { noise: (0.1, seed), ..SAME })).unwrap() - &grey;
        let both = noisy([7, 8]);
        for image in 0..2 {
            let noise = both.get(image).to_kind(Kind::Double);
            let (mean, deviation) = (noise.mean(Kind::Double).double_value(&[]), noise.std(true).double_value(&[]));
            assert!(mean.abs() < 3e-3 && (deviation - 0.1).abs() < 3e-3, "{mean} {deviation}");
            let beyond = noise.abs().gt(0.196).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            assert!((beyond - 0.05).abs() < 0.01, "{beyond} lies beyond 1.96 deviations");
            let neighbours = (noise.narrow(2, 0, 63) * noise.narrow(2, 1, 63)).mean(Kind::Double).double_value(&[]);
            assert!(neighbours.abs() < 5e-4, "neighbours are correlated: {neighbours}");
        }
        assert!((both.get(0) * both.get(1)).mean(Kind::Double).double_value(&[]).abs() < 5e-4);
        // The same image elsewhere in another batch gets the same noise.
        assert!(near(&noisy([8, 9]).get(0), &both.get(1)));
    }

    #[test]
    fn blends_mix_pixels_by_their_share() {
        let images = images();
        let partners = images.flip([0]);
        let (mixed, share) = blended(&images, &partners, &Blend { share: 0.25, pasted: None }).unwrap();
        assert!(share == 0.25 && near(&mixed, &(&images * 0.25 + &partners * 0.75)));
        let (cut, share) = blended(&images, &partners, &Blend { share: 0.0, pasted: Some([0.0, 0.0, 0.5, 0.5]) }).unwrap();
        assert_eq!(share, 0.75);
        assert!(near(&cut.narrow(2, 0, 4).narrow(3, 0, 4), &partners.narrow(2, 0, 4).narrow(3, 0, 4)));
        assert!(near(&cut.narrow(2, 4, 4), &images.narrow(2, 4, 4)));
    }
}
