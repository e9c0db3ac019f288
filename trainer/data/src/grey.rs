//! From grey values with a meaning (Hounsfield units, intensities of an MRI) to bytes that a network's input is made of,
//! and from pixels that are not square to pixels that are.

use graft_crds::spec::{Interpolation, Window};
use image::{DynamicImage, GrayImage, RgbImage};

use crate::decode::{DecodeError, Limits};
use crate::resample::resample;

/// Pixels whose sides differ by less than this part are square.
const SQUARE: f64 = 0.01;

/// How grey values between the ends of a window become grey levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Curve {
    /// DICOM PS3.3, C.11.2.1.2.1: the window spans `width` whole values, the first of them black and the last white.
    Linear,
    /// DICOM PS3.3, C.11.2.1.3.2: from center − width / 2 to center + width / 2.
    LinearExact,
    /// DICOM PS3.3, C.11.2.1.3.1: 1 / (1 + exp(−4 (x − center) / width)).
    Sigmoid,
}

/// One value of a plane as a grey level in `0..=255`.
pub(crate) fn level(value: f32, center: f64, width: f64, curve: Curve) -> u8 {
    let value = f64::from(value);
    let share = match curve {
        Curve::Linear if width <= 1.0 => f64::from(u8::from(value > center - 0.5)),
        Curve::Linear => (value - (center - 0.5)) / (width - 1.0) + 0.5,
        Curve::LinearExact => (value - center) / width + 0.5,
        Curve::Sigmoid => 1.0 / (1.0 + (-4.0 * (value - center) / width).exp()),
    };
    // What is no number is as dark as can be.
    (share.clamp(0.0, 1.0) * 255.0).round() as u8
}

/// A plane of grey values, rows from top to bottom.
pub(crate) struct Plane {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) values: Vec<f32>,
    /// Low values are bright: DICOM's MONOCHROME1.
    pub(crate) inverted: bool,
}

impl Plane {
    /// The plane through windows: one gives a grey picture, three the channels of a coloured one; with none, `own` is the
    /// window. `None` when there are not as many values as pixels.
    pub(crate) fn picture(&self, windows: &[Window], own: impl FnOnce() -> (f64, f64, Curve)) -> Option<DynamicImage> {
        let through = |(center, width, curve): (f64, f64, Curve)| -> Vec<u8> {
            let levels = self.values.iter().map(|value| level(*value, center, width, curve));
            levels.map(|level| if self.inverted { 255 - level } else { level }).collect()
        };
        let given = |window: &Window| (f64::from(window.center), f64::from(window.width), Curve::Linear);
        match windows {
            [red, green, blue] => {
                let [red, green, blue] = [red, green, blue].map(|window| through(given(window)));
                let pixels = red.iter().zip(&green).zip(&blue).flat_map(|((r, g), b)| [*r, *g, *b]).collect();
                RgbImage::from_raw(self.width, self.height, pixels).map(DynamicImage::ImageRgb8)
            }
            [window, ..] => GrayImage::from_raw(self.width, self.height, through(given(window))).map(DynamicImage::ImageLuma8),
            [] => GrayImage::from_raw(self.width, self.height, through(own())).map(DynamicImage::ImageLuma8),
        }
    }
}

/// The window from the lowest to the highest of `values` that are numbers, without the share `cut` of them at each end.
pub(crate) fn full_range(values: &[f32], cut: f64) -> (f64, f64, Curve) {
    let mut finite: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if finite.is_empty() {
        return (0.0, 1.0, Curve::LinearExact);
    }
    let last = finite.len() - 1;
    let skipped = (last as f64 * cut).round() as usize;
    let mut at = |index: usize| f64::from(*finite.select_nth_unstable_by(index, f32::total_cmp).1);
    let (low, high) = (at(skipped), at(last - skipped));
    // A flat picture is black.
    if high > low { ((low + high) / 2.0, high - low, Curve::LinearExact) } else { (low + 0.5, 1.0, Curve::LinearExact) }
}

/// Stretches the shorter side until pixels of `across` × `down` millimetres are square. Sizes that are no positive numbers
/// say nothing, and the picture stays as it is.
///
/// # Errors
/// The picture would exceed the limits.
pub(crate) fn square(image: DynamicImage, across: f64, down: f64, limits: Limits) -> Result<DynamicImage, DecodeError> {
    let ratio = down / across;
    if !ratio.is_finite() || ratio <= 0.0 || (ratio - 1.0).abs() < SQUARE {
        return Ok(image);
    }
    let (width, height) = (image.width(), image.height());
    let stretched = |side: u32, by: f64| (f64::from(side) * by).round().max(1.0) as u32;
    let (new_width, new_height) = if ratio > 1.0 { (width, stretched(height, ratio)) } else { (stretched(width, 1.0 / ratio), height) };
    limits.check(new_width, new_height)?;
    let (from, to) = ((width as usize, height as usize), (new_width as usize, new_height as usize));
    let stretched = match image {
        DynamicImage::ImageLuma8(grey) => {
            let pixels = resample::<1>(grey.into_raw(), from, to, Interpolation::Bilinear);
            GrayImage::from_raw(new_width, new_height, pixels).map(DynamicImage::ImageLuma8)
        }
        other => {
            let pixels = resample::<3>(other.into_rgb8().into_raw(), from, to, Interpolation::Bilinear);
            RgbImage::from_raw(new_width, new_height, pixels).map(DynamicImage::ImageRgb8)
        }
    };
    stretched.ok_or(DecodeError::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_the_one_of_the_standard() {
        // PS3.3, C.11.2.1.2.1, note 4: center 2048, width 4096 maps 0 to 0 and 4095 to 255.
        let at = |value| level(value, 2048.0, 4096.0, Curve::Linear);
        assert_eq!((at(-5.0), at(0.0), at(4095.0), at(9999.0), at(f32::NAN)), (0, 0, 255, 255, 0));
        // Width 1 is a threshold.
        assert_eq!([-1.0, 0.0].map(|value| level(value, 0.0, 1.0, Curve::Linear)), [0, 255]);
        assert_eq!([0.0, 50.0, 100.0].map(|value| level(value, 50.0, 100.0, Curve::LinearExact)), [0, 128, 255]);
        assert_eq!(level(50.0, 50.0, 100.0, Curve::Sigmoid), 128);
    }

    #[test]
    fn three_windows_are_three_channels_and_inverted_planes_are_turned() {
        let plane = Plane { width: 2, height: 1, values: vec![0.0, 100.0], inverted: false };
        let windows = [(50, 101), (0, 1), (200, 101)].map(|(center, width)| Window { center, width });
        let own = || (50.0, 100.0, Curve::LinearExact);
        assert_eq!(plane.picture(&windows, own).unwrap().into_rgb8().into_raw(), [1, 255, 0, 255, 255, 0]);
        assert_eq!(plane.picture(&windows[..1], own).unwrap().into_bytes(), [1, 255]);
        let inverted = Plane { inverted: true, ..plane };
        assert_eq!(inverted.picture(&[], own).unwrap().into_bytes(), [255, 0]);
        assert!(Plane { width: 3, ..inverted }.picture(&[], own).is_none());
    }

    #[test]
    fn the_full_range_leaves_out_what_is_no_number_and_the_tails() {
        let values: Vec<f32> = (0..=1000).map(|v| v as f32).chain([f32::NAN, f32::INFINITY]).collect();
        assert_eq!(full_range(&values, 0.0), (500.0, 1000.0, Curve::LinearExact));
        assert_eq!(full_range(&values, 0.005), (500.0, 990.0, Curve::LinearExact));
        assert_eq!(full_range(&[f32::NAN], 0.0).1, 1.0);
        let (center, width, curve) = full_range(&[7.0, 7.0], 0.0);
        assert_eq!(level(7.0, center, width, curve), 0);
    }

    #[test]
    fn pixels_become_square() {
        let image = || DynamicImage::ImageLuma8(GrayImage::from_pixel(10, 20, image::Luma([9])));
        let size = |across, down| square(image(), across, down, Limits::default()).map(|image| (image.width(), image.height())).unwrap();
        assert_eq!(
            [size(1.0, 1.005), size(0.5, 1.0), size(3.0, 1.0), size(0.0, 1.0), size(-1.0, 1.0)],
            [(10, 20), (10, 40), (30, 20), (10, 20), (10, 20)]
        );
        assert!(square(image(), 1e-6, 1.0, Limits::default()).is_err());
        assert!(square(image(), 1.0, 2.0, Limits::default()).unwrap().into_bytes().iter().all(|level| *level == 9));
    }
}
