//! Random numbers that are the same in every run.

/// A SplitMix64 generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// What the elements of random tensors look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magnitudes {
    /// Between -2 and 2.
    Ordinary,
    /// Of either sign, anywhere between the smallest and the largest normal numbers.
    Extreme,
    /// Ordinary numbers, zeros of both signs, infinities and numbers at the ends of the range.
    Special,
}

impl Magnitudes {
    /// All of them.
    pub const ALL: [Magnitudes; 3] = [Magnitudes::Ordinary, Magnitudes::Extreme, Magnitudes::Special];
}

impl Random {
    /// A generator; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A number from `low` up to and without `high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1u64 << 24) as f32)
    }

    /// One of `choices`.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// An element of a tensor.
    pub fn element(&mut self, magnitudes: Magnitudes) -> f32 {
        match magnitudes {
            Magnitudes::Ordinary => self.between(-2.0, 2.0),
            Magnitudes::Extreme => self.of(&[-1.0, 1.0]) * 2f32.powf(self.between(-126.0, 127.0)),
            Magnitudes::Special => match self.below(12) {
                0 => self.of(&[0.0, -0.0]),
                1 => self.of(&[f32::INFINITY, f32::NEG_INFINITY]),
                2 => self.of(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE, -1e-45]),
                _ => self.between(-2.0, 2.0),
            },
        }
    }
}
