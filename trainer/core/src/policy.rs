//! Published policies of random operations: RandAugment (Cubuk et al. 2019, arXiv:1909.13719) and TrivialAugment in its wide form (Müller
//! and Hutter 2021, arXiv:2103.10158), with torchvision's operations and ranges; its translation by 32 pixels is taken of 224.

use crate::rng::{Purpose, Stream};

/// Random numbers that a sample may use, and more.
const NUMBERS: u64 = 1 << 6;
/// Strengths are drawn from so many steps between the weakest and the strongest.
const LEVELS: u32 = 31;

/// What can be done to an image, and in what its strength is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Rows are shifted by this times their distance from the centre.
    ShearX,
    /// The same of columns.
    ShearY,
    /// A shift to the side, as a share of the side.
    TranslateX,
    /// A shift up or down.
    TranslateY,
    /// Degrees.
    Rotate,
    /// A factor is 1 + this.
    Brightness,
    /// The factor on the distance from grey is 1 + this.
    Color,
    /// The factor on the distance from the image's mean is 1 + this.
    Contrast,
    /// The factor on the distance from the smoothed image is 1 + this.
    Sharpness,
    /// Bits that stay of 8.
    Posterize,
    /// Pixels of at least this, from 0 to 1, are inverted.
    Solarize,
    /// Each channel from its darkest to its brightest pixel; no strength.
    AutoContrast,
    /// Each channel with all of its values equally often; no strength.
    Equalize,
}

use Operation::{
    AutoContrast, Brightness, Color, Contrast, Equalize, Posterize, Rotate, Sharpness, ShearX, ShearY, Solarize, TranslateX, TranslateY,
};

/// All of them, beside which a policy may draw none.
const ALL: [Operation; 13] =
    [ShearX, ShearY, TranslateX, TranslateY, Rotate, Brightness, Color, Contrast, Sharpness, Posterize, Solarize, AutoContrast, Equalize];

/// How operations and strengths are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// So many operations, all of this magnitude from 0 to 30.
    Rand {
        /// How many.
        operations: u32,
        /// How strong.
        magnitude: u32,
    },
    /// One operation of any strength.
    Trivial,
}

impl Policy {
    /// What is done to `sample` in `epoch`, in this order.
    #[must_use]
    pub fn draw(self, seed: u64, epoch: u32, sample: usize) -> Vec<(Operation, f64)> {
        let mut draws = Stream::at(seed, Purpose::Policy, epoch, sample as u64 * NUMBERS);
        let count = match self {
            Self::Rand { operations, .. } => operations,
            Self::Trivial => 1,
        };
        let mut drawn = Vec::new();
        for _ in 0..count {
            // Drawn in a fixed order, used or not.
            let which = below(&mut draws, ALL.len() as u32 + 1);
            let level = below(&mut draws, LEVELS);
            let sign = if draws.uniform() < 0.5 { -1.0 } else { 1.0 };
            if let Some(operation) = ALL.get(which as usize) {
                drawn.push((*operation, self.strength(*operation, level, sign)));
            }
        }
        drawn
    }

    fn strength(self, operation: Operation, level: u32, sign: f64) -> f64 {
        let (wide, level) = match self {
            Self::Rand { magnitude, .. } => (false, magnitude.min(LEVELS - 1)),
            Self::Trivial => (true, level),
        };
        let share = f64::from(level) / f64::from(LEVELS - 1);
        let of = |rand: f64, trivial: f64| share * if wide { trivial } else { rand };
        match operation {
            ShearX | ShearY => sign * of(0.3, 0.99),
            TranslateX | TranslateY => sign * of(150.0 / 331.0, 32.0 / 224.0),
            Rotate => sign * of(30.0, 135.0),
            Brightness | Color | Contrast | Sharpness => sign * of(0.9, 0.99),
            Posterize => 8.0 - of(4.0, 6.0).round(),
            Solarize => 1.0 - share,
            AutoContrast | Equalize => 0.0,
        }
    }
}

/// A whole number below `limit`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a uniform number is below 1 and not negative")]
fn below(draws: &mut Stream, limit: u32) -> u32 {
    ((draws.uniform() * f64::from(limit)) as u32).min(limit - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_operation_comes_equally_often_and_within_its_range() {
        let mut seen: BTreeMap<Operation, Vec<f64>> = BTreeMap::new();
        let mut nothing = 0;
        for sample in 0..7000 {
            let drawn = Policy::Trivial.draw(3, 1, sample);
            assert_eq!(drawn, Policy::Trivial.draw(3, 1, sample));
            nothing += usize::from(drawn.is_empty());
            for (operation, strength) in drawn {
                seen.entry(operation).or_default().push(strength);
            }
        }
        assert!((400..600).contains(&nothing) && seen.len() == ALL.len(), "{nothing}");
        let ends = |operation| {
            let all: &Vec<f64> = &seen[&operation];
            assert!((400..600).contains(&all.len()), "{operation:?}: {}", all.len());
            (all.iter().copied().fold(f64::MAX, f64::min), all.iter().copied().fold(f64::MIN, f64::max))
        };
        for (operation, low, high) in [(ShearX, -0.99, 0.99), (Rotate, -135.0, 135.0), (Posterize, 2.0, 8.0), (Solarize, 0.0, 1.0)] {
            let (least, most) = ends(operation);
            assert!((least - low).abs() < 1e-9 && (most - high).abs() < 1e-9, "{operation:?}: {least} to {most}");
        }
    }

    #[test]
    fn rand_augment_has_one_magnitude() {
        let policy = Policy::Rand { operations: 3, magnitude: 9 };
        let drawn: Vec<(Operation, f64)> = (0..500).flat_map(|sample| policy.draw(0, 0, sample)).collect();
        assert!(drawn.len() > 1300 && drawn.len() < 1500);
        for (operation, strength) in drawn {
            let expected = match operation {
                ShearX | ShearY => 0.09,
                TranslateX | TranslateY => 0.3 * 150.0 / 331.0,
                Rotate => 9.0,
                Brightness | Color | Contrast | Sharpness => 0.27,
                Posterize => 7.0,
                Solarize => 0.7,
                AutoContrast | Equalize => 0.0,
            };
            assert!((strength.abs() - expected).abs() < 1e-9, "{operation:?}: {strength}");
        }
    }
}
