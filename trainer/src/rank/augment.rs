//! Changes training images, batched and on the device that trains: one affine resampling for all geometry, then brightness,
//! contrast and erasing, then blends of pairs. What happens to an image is decided in graft-trainer-core.

use graft_crds::spec;
use graft_torch::tch::{Device, Kind, Tensor};
use graft_trainer_core::augment::{Augment, Blend, Change};

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
        erase: settings.erase.value(),
    }
}

/// Images `[N, 3, S, S]` with values in [0, 1], each changed as its entry says. Where a change looks outside of an image it
/// sees the nearest pixel.
pub(super) fn apply(images: &Tensor, changes: &[Change]) -> Result<Tensor, Failure> {
    let device = images.device();
    let mut images = images.shallow_clone();
    if changes.iter().any(|c| c.matrix != [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]) {
        let rows: Vec<f64> = changes.iter().flat_map(|c| c.matrix).collect();
        let theta = column(&rows, device)?.f_view([-1, 2, 3])?;
        let grid = Tensor::f_affine_grid_generator(&theta, images.size(), false)?;
        let (bilinear, border) = (0, 1);
        images = images.f_grid_sampler_2d(&grid, bilinear, border, false)?;
    }
    if changes.iter().any(|c| c.contrast != 1.0) {
        let contrast = column(&changes.iter().map(|c| c.contrast).collect::<Vec<_>>(), device)?;
        let mean = images.f_mean_dim(Some(&[1i64, 2, 3][..]), true, Kind::Float)?;
        images = images.f_sub(&mean)?.f_mul(&contrast)?.f_add(&mean)?.f_clamp(0.0, 1.0)?;
    }
    if changes.iter().any(|c| c.brightness != 1.0) {
        let brightness = column(&changes.iter().map(|c| c.brightness).collect::<Vec<_>>(), device)?;
        images = images.f_mul(&brightness)?.f_clamp(0.0, 1.0)?;
    }
    for (i, rectangle) in changes.iter().enumerate().filter_map(|(i, c)| Some((i, c.erase?))) {
        let image = images.f_narrow(0, i as i64, 1)?;
        let mean = image.f_mean(Kind::Float)?;
        let _ = window(&image, rectangle)?.f_fill_tensor_(&mean)?;
    }
    Ok(images)
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

/// A number per image, to be multiplied with images.
fn column(values: &[f64], device: Device) -> Result<Tensor, Failure> {
    Ok(Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?.f_view([-1, 1, 1, 1])?.f_to_device(device)?)
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

    const SAME: Change = Change { matrix: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], brightness: 1.0, contrast: 1.0, erase: None };

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
