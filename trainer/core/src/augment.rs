//! What happens to a training image, as numbers: a function of (seed, epoch, sample) alone, so the same sample is changed the
//! same way whatever rank sees it and however many ranks there are. Pixels are the trainer's business.

use std::f64::consts::PI;

use crate::policy::{Operation, Policy};
use crate::rng::{Purpose, Stream};

/// Random numbers that a sample may use, and more; each sample has its own range of counters.
const NUMBERS: u64 = 1 << 6;

/// Probabilities and largest changes; the default changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augment {
    /// Probability of mirroring left and right.
    pub horizontal_flip: f64,
    /// Probability of mirroring top and bottom.
    pub vertical_flip: f64,
    /// Smallest share of the area that a crop keeps; 1 for no crop.
    pub crop: f64,
    /// Largest rotation either way, in degrees.
    pub rotate: f64,
    /// Largest shift either way, as a share of the side.
    pub translate: f64,
    /// Largest relative change of brightness.
    pub brightness: f64,
    /// Largest relative change of contrast.
    pub contrast: f64,
    /// Largest relative change of gamma.
    pub gamma: f64,
    /// Largest standard deviation of a blur, in pixels.
    pub blur: f64,
    /// Largest standard deviation of noise, where 1 is from black to white.
    pub noise: f64,
    /// Probability of erasing a rectangle.
    pub erase: f64,
    /// A published policy beside all that.
    pub policy: Option<Policy>,
}

/// The change of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Maps output to input coordinates, both in [−1, 1] with x to the right and y down: rows of a 2×3 matrix, as torch's
    /// `affine_grid` takes it.
    pub matrix: [f64; 6],
    /// A policy's operations with their strengths, in this order.
    pub operations: Vec<(Operation, f64)>,
    /// Factor on all pixels.
    pub brightness: f64,
    /// Factor on the distance of pixels from the image's mean.
    pub contrast: f64,
    /// Exponent of pixels from 0 to 1.
    pub gamma: f64,
    /// Standard deviation of the blur in pixels; 0 for none.
    pub blur: f64,
    /// Standard deviation of the noise, and the seed of its pixels; 0 for none.
    pub noise: (f64, u32),
    /// Rectangle that is erased: left, top, right, bottom as shares of the side.
    pub erase: Option<[f64; 4]>,
}

impl Augment {
    /// The change of `sample` in `epoch`.
    #[must_use]
    pub fn change(&self, seed: u64, epoch: u32, sample: usize) -> Change {
        // Drawn in a fixed order, used or not, so that turning one change on does not move the others.
        let mut draws = Stream::at(seed, Purpose::Augment, epoch, sample as u64 * NUMBERS);
        let flip_x = if draws.uniform() < self.horizontal_flip { -1.0 } else { 1.0 };
        let flip_y = if draws.uniform() < self.vertical_flip { -1.0 } else { 1.0 };
        // The crop's area, aspect and place are drawn as torchvision's RandomResizedCrop draws them.
        let area = self.crop + (1.0 - self.crop) * draws.uniform();
        let aspect = (either_way(&mut draws, (4.0f64 / 3.0).ln())).exp();
        let (mut width, mut height) = ((area * aspect).sqrt().min(1.0), (area / aspect).sqrt().min(1.0));
        if self.crop >= 1.0 {
            (width, height) = (1.0, 1.0);
        }
        let (place_x, place_y) = (either_way(&mut draws, 1.0 - width), either_way(&mut draws, 1.0 - height));
        let angle = either_way(&mut draws, self.rotate).to_radians();
        let (shift_x, shift_y) = (either_way(&mut draws, 2.0 * self.translate), either_way(&mut draws, 2.0 * self.translate));
        let (sin, cos) = angle.sin_cos();
        let matrix =
            [cos * width * flip_x, -sin * height * flip_y, place_x + shift_x, sin * width * flip_x, cos * height * flip_y, place_y + shift_y];
        let brightness = 1.0 + either_way(&mut draws, self.brightness);
        let contrast = 1.0 + either_way(&mut draws, self.contrast);
        let erased = draws.uniform() < self.erase;
        let (share, shape) = (0.02 + 0.18 * draws.uniform(), (either_way(&mut draws, 3.3f64.ln())).exp());
        let (w, h) = ((share * shape).sqrt().min(1.0), (share / shape).sqrt().min(1.0));
        let (left, top) = ((1.0 - w) * draws.uniform(), (1.0 - h) * draws.uniform());
        let gamma = either_way(&mut draws, self.gamma.ln_1p()).exp();
        let blur = self.blur * draws.uniform();
        let noise = (self.noise * draws.uniform(), (draws.uniform() * f64::from(u32::MAX)) as u32);
        let operations = self.policy.map_or_else(Vec::new, |policy| policy.draw(seed, epoch, sample));
        let erase = erased.then_some([left, top, left + w, top + h]);
        Change { matrix, operations, brightness, contrast, gamma, blur, noise, erase }
    }
}

/// A blend of a sample with a partner of the same global batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blend {
    /// Share of the sample itself in image and label.
    pub share: f64,
    /// With cutmix, the rectangle of the partner: left, top, right, bottom as shares of the side; without, pixels are averaged.
    pub pasted: Option<[f64; 4]>,
}

/// How step `step` of `epoch` blends its batch: one blend for all, as torchvision's `MixUp` and `CutMix` do. The partner of
/// position i is position i + 1, cyclically; the order of an epoch is random, so any partner is as good.
#[must_use]
pub fn blend(mixup: Option<f64>, cutmix: Option<f64>, seed: u64, epoch: u32, step: usize) -> Option<Blend> {
    let mut draws = Stream::at(seed, Purpose::Blend, epoch, step as u64 * NUMBERS);
    let cut = match (mixup, cutmix) {
        (None, None) => return None,
        (Some(_), None) => false,
        (None, Some(_)) => true,
        (Some(_), Some(_)) => draws.uniform() < 0.5,
    };
    let alpha = if cut { cutmix } else { mixup }.unwrap_or(1.0);
    let share = symmetric_beta(alpha, &mut draws);
    if !cut {
        return Some(Blend { share, pasted: None });
    }
    // Yun et al.: a rectangle of the image's shape around a random centre, cut at the borders; the labels follow its area.
    let half = (1.0 - share).sqrt() / 2.0;
    let (x, y) = (draws.uniform(), draws.uniform());
    let pasted = [(x - half).max(0.0), (y - half).max(0.0), (x + half).min(1.0), (y + half).min(1.0)];
    let area = (pasted[2] - pasted[0]) * (pasted[3] - pasted[1]);
    Some(Blend { share: 1.0 - area, pasted: Some(pasted) })
}

/// A draw of Beta(α, α): Ulrich's method, and below 1/2, where it does not hold, Jöhnk's, which there accepts more than three of four
/// (Devroye 1986, Non-Uniform Random Variate Generation, IX.4.1 and IX.3.5).
fn symmetric_beta(alpha: f64, draws: &mut Stream) -> f64 {
    // Of (0, 1], so that no power is of 0.
    let mut uniform = || 1.0 - draws.uniform();
    if alpha >= 0.5 {
        let radius = (1.0 - uniform().powf(2.0 / (2.0 * alpha - 1.0))).sqrt();
        return (1.0 + radius * (2.0 * PI * uniform()).cos()) / 2.0;
    }
    loop {
        // Logarithms, because powers of 1 / α are soon too small to be told from 0.
        let (x, y) = (uniform().ln() / alpha, uniform().ln() / alpha);
        let largest = x.max(y);
        let sum = largest + ((x - largest).exp() + (y - largest).exp()).ln();
        if sum <= 0.0 {
            return (x - sum).exp();
        }
    }
}

/// Uniform in [−limit, limit).
fn either_way(draws: &mut Stream, limit: f64) -> f64 {
    draws.between(-limit, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Augment = Augment {
        horizontal_flip: 0.0,
        vertical_flip: 0.0,
        crop: 1.0,
        rotate: 0.0,
        translate: 0.0,
        brightness: 0.0,
        contrast: 0.0,
        gamma: 0.0,
        blur: 0.0,
        noise: 0.0,
        erase: 0.0,
        policy: None,
    };

    #[test]
    fn nothing_asked_is_nothing_done() {
        for sample in 0..100 {
            let change = NOTHING.change(1, 2, sample);
            let noise = (0.0, change.noise.1);
            let (matrix, operations) = ([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], Vec::new());
            let same = Change { matrix, operations, brightness: 1.0, contrast: 1.0, gamma: 1.0, blur: 0.0, noise, erase: None };
            assert_eq!(change, same);
        }
    }

    #[test]
    fn changes_stay_within_their_limits_and_use_them() {
        let augment = Augment { horizontal_flip: 0.5, crop: 0.5, brightness: 0.2, gamma: 0.5, blur: 2.0, noise: 0.1, erase: 0.25, ..NOTHING };
        let changes: Vec<Change> = (0..2000).map(|sample| augment.change(3, 0, sample)).collect();
        let share = |wanted: &dyn Fn(&Change) -> bool| changes.iter().filter(|c| wanted(c)).count() as f64 / 2000.0;
        assert!((share(&|c| c.matrix[0] < 0.0) - 0.5).abs() < 0.05);
        assert!((share(&|c| c.erase.is_some()) - 0.25).abs() < 0.05);
        for change in &changes {
            let [a, b, x, c, d, y] = change.matrix;
            assert!(b == 0.0 && c == 0.0 && (0.4..=1.0).contains(&(a.abs() * d.abs())), "{change:?}");
            // Nothing outside the image is seen.
            assert!(a.abs() + x.abs() <= 1.0 + 1e-9 && d.abs() + y.abs() <= 1.0 + 1e-9, "{change:?}");
            assert!((0.8..=1.2).contains(&change.brightness) && (1.0 / 1.5..=1.5).contains(&change.gamma));
            assert!((0.0..=2.0).contains(&change.blur) && (0.0..=0.1).contains(&change.noise.0));
        }
        assert!(changes.iter().any(|c| c.brightness > 1.15) && changes.iter().any(|c| c.brightness < 0.85));
    }

    #[test]
    fn a_change_belongs_to_its_sample_and_epoch() {
        let augment = Augment { rotate: 10.0, ..NOTHING };
        assert_eq!(augment.change(1, 2, 3), augment.change(1, 2, 3));
        for other in [augment.change(2, 2, 3), augment.change(1, 3, 3), augment.change(1, 2, 4)] {
            assert_ne!(augment.change(1, 2, 3), other);
        }
        // Another change beside it does not move it.
        let more = Augment { brightness: 0.5, erase: 1.0, ..augment };
        assert_eq!(more.change(1, 2, 3).matrix, augment.change(1, 2, 3).matrix);
    }

    #[test]
    fn shares_of_a_blend_are_beta_distributed() {
        for alpha in [0.01, 0.2, 0.5, 1.0, 4.0] {
            let shares: Vec<f64> = (0..4000).filter_map(|step| blend(Some(alpha), None, 7, 1, step)).map(|b| b.share).collect();
            let mean = shares.iter().sum::<f64>() / 4000.0;
            let variance = shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 4000.0;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.02 && (variance - expected).abs() < 0.1 * expected, "{alpha}: {mean} {variance} {expected}");
        }
        for step in 0..200 {
            let Some(Blend { share, pasted: Some([l, t, r, b]) }) = blend(None, Some(1.0), 7, 1, step) else { panic!("no rectangle") };
            assert!((1.0 - share - (r - l) * (b - t)).abs() < 1e-9 && l >= 0.0 && t >= 0.0 && r <= 1.0 && b <= 1.0);
        }
    }
}
