//! Spectrograms: how strong each frequency is at each time of a signal, as a grey picture.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// From the strongest value down to black, in decibels.
const RANGE: f32 = 80.0;
/// Columns of a picture, about.
const COLUMNS: usize = 128;
/// Sides of the Fourier transform.
const SHORTEST: usize = 16;
const LONGEST: usize = 512;

/// Makes spectrograms of windows of one length.
pub(crate) struct Spectrogram {
    window: usize,
    hop: usize,
    taper: Vec<f32>,
    transform: Arc<dyn RealToComplex<f32>>,
}

impl Spectrogram {
    /// For windows of `window` samples, at least 16. The short-time Fourier transform has the length of the power of two next below an eighth of the
    /// window, between 16 and 512, periodic Hann windows, and a hop of a 128th of the window.
    pub(crate) fn new(window: usize) -> Self {
        let window = window.max(SHORTEST);
        let eighth = (window / 8).clamp(SHORTEST, LONGEST);
        let length = if eighth.is_power_of_two() { eighth } else { eighth.next_power_of_two() / 2 };
        let taper = (0..length).map(|i| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / length as f64).cos()).map(|v| v as f32).collect();
        Self { window, hop: (window / COLUMNS).max(1), taper, transform: RealFftPlanner::new().plan_fft_forward(length) }
    }

    /// Samples of a window.
    pub(crate) fn window(&self) -> usize {
        self.window
    }

    /// Rows and columns of a picture: frequencies and times.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.taper.len() / 2 + 1, (self.window - self.taper.len()) / self.hop + 1)
    }

    /// The picture of a window: its mean is taken off; white is the strongest value, black what is 80 dB below it or more, and the lowest frequency is
    /// the last row. A constant window is black.
    pub(crate) fn of(&self, samples: &[f32]) -> Vec<u8> {
        let (rows, columns) = self.size();
        let mean = samples.iter().map(|sample| f64::from(*sample)).sum::<f64>() / samples.len().max(1) as f64;
        let (mut part, mut spectrum) = (vec![0.0; self.taper.len()], vec![Complex::default(); rows]);
        let mut powers = vec![0.0f32; rows * columns];
        for column in 0..columns {
            let start = column * self.hop;
            for ((slot, sample), taper) in part.iter_mut().zip(&samples[start..]).zip(&self.taper) {
                *slot = (f64::from(*sample) - mean) as f32 * taper;
            }
            // It fails only for buffers of another length.
            let _ = self.transform.process(&mut part, &mut spectrum);
            for (row, value) in spectrum.iter().enumerate() {
                powers[(rows - 1 - row) * columns + column] = value.norm_sqr();
            }
        }
        let strongest = powers.iter().copied().fold(0.0, f32::max);
        let grey = |power: f32| {
            let below = 10.0 * (power / strongest).log10();
            if below.is_nan() { 0 } else { ((1.0 + below / RANGE).clamp(0.0, 1.0) * 255.0).round() as u8 }
        };
        powers.into_iter().map(grey).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_a_bright_line_at_its_frequency() {
        let spectrogram = Spectrogram::new(2048);
        assert_eq!((spectrogram.size(), spectrogram.window()), ((129, 113), 2048));
        let tone: Vec<f32> = (0..2048).map(|i| 5.0 + (std::f32::consts::TAU * 32.0 * i as f32 / 256.0).sin()).collect();
        let picture = spectrogram.of(&tone);
        for column in 0..113 {
            let brightest = (0..129).max_by_key(|row| picture[row * 113 + column]).unwrap();
            assert_eq!((brightest, picture[brightest * 113 + column]), (128 - 32, 255));
        }
        // The mean is no tone of frequency 0.
        assert_eq!(picture[128 * 113], 0);
        assert!(spectrogram.of(&vec![3.0; 2048]).iter().all(|grey| *grey == 0));
    }

    #[test]
    fn every_length_of_a_window_has_a_picture() {
        for window in [0, 16, 17, 100, 127, 128, 1000, 4096, 60_000] {
            let spectrogram = Spectrogram::new(window);
            let (rows, columns) = spectrogram.size();
            let noise: Vec<f32> = (0..spectrogram.window()).map(|i| ((i * 7919) % 101) as f32).collect();
            assert!(rows >= 9 && columns >= 1 && spectrogram.of(&noise).len() == rows * columns, "{window}");
        }
    }
}
