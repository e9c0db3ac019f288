//! Counter-based random numbers: a value is a function of (key, counter), so any rank can compute the number of any
//! sample without having drawn the ones before it, and a resumed run needs no generator state. Never reads a clock or
//! the system's entropy.

/// Philox4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#[must_use]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        let (a_high, a_low) = ((a >> 32) as u32, a as u32);
        let (b_high, b_low) = ((b >> 32) as u32, b as u32);
        counter = [b_high ^ counter[1] ^ key[0], b_low, a_high ^ counter[3] ^ key[1], a_low];
    }
    counter
}

/// What a random number is for. Numbers for different purposes are independent under one seed. The discriminants are
/// part of the sample order, so they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the training samples.
    Order = 0,
    /// Which patients are held out for validation.
    Split = 1,
    /// Initial values of new parameters.
    Initialisation = 2,
    /// Generated images.
    Phantom = 3,
    /// Changes of training images.
    Augment = 4,
    /// Blends of training images.
    Blend = 5,
    /// Turns of the classes where they are balanced.
    Balance = 6,
    /// Operations of augmentation policies.
    Policy = 7,
}

/// 64 random bits for item `index` of `epoch` under `seed`.
#[must_use]
pub fn bits(seed: u64, purpose: Purpose, epoch: u32, index: u64) -> u64 {
    let block = philox4x32([index as u32, (index >> 32) as u32, epoch, purpose as u32], [seed as u32, (seed >> 32) as u32]);
    u64::from(block[0]) | u64::from(block[1]) << 32
}

/// A sequence of random numbers: the counter is (position, stream), the key is the seed.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    purpose: Purpose,
    stream: u32,
    position: u64,
}

impl Stream {
    /// The sequence number `stream` for `purpose` under `seed`, from its beginning.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, stream: u32) -> Self {
        Self::at(seed, purpose, stream, 0)
    }

    /// The same sequence from its number `position` on.
    #[must_use]
    pub fn at(seed: u64, purpose: Purpose, stream: u32, position: u64) -> Self {
        Self { seed, purpose, stream, position }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let value = bits(self.seed, self.purpose, self.stream, self.position);
        self.position += 1;
        value
    }

    /// Uniform in [0, 1), of 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..n; 0 when `n` is 0. The bias of the multiplication is below n / 2⁶⁴.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller 1958, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of Random123 1.14 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_stream_has_the_moments_it_should() {
        let mut stream = Stream::new(7, Purpose::Phantom, 3);
        let n = 20_000;
        let uniform = (0..n).map(|_| stream.uniform()).sum::<f64>() / f64::from(n);
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..n {
            let x = stream.normal();
            sum += x;
            squares += x * x;
        }
        assert!((uniform - 0.5).abs() < 0.01, "{uniform}");
        assert!((sum / f64::from(n)).abs() < 0.03 && (squares / f64::from(n) - 1.0).abs() < 0.04);
        assert!((0..1000).all(|_| stream.below(3) < 3));
    }
}
