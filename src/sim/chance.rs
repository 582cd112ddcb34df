//! Chance that comes out the same each time: from a seed, or from the bytes of a fuzzer.

/// Where chances come from: a seed, by xorshift64* (Vigna 2016), enough for a test and the same everywhere; or the bytes
/// of a fuzzer, as few for each as it takes, and zeroes when they are over.
#[derive(Clone, Debug)]
pub struct Chance(Source);

#[derive(Clone, Debug)]
enum Source {
    Seed(u64),
    Bytes { bytes: Vec<u8>, at: usize },
}

impl Chance {
    /// From a seed; nearby seeds give unlike rows.
    pub fn new(seed: u64) -> Self {
        // The splitmix64 step, so that small seeds fill all bits; xorshift must not start at 0.
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self(Source::Seed((z ^ (z >> 31)) | 1))
    }

    /// From a fuzzer's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Source::Bytes { bytes: bytes.to_vec(), at: 0 })
    }

    /// Whether there were bytes, and all are used.
    pub fn is_over(&self) -> bool {
        matches!(&self.0, Source::Bytes { bytes, at } if *at >= bytes.len())
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        match &mut self.0 {
            Source::Seed(state) => {
                *state ^= *state >> 12;
                *state ^= *state << 25;
                *state ^= *state >> 27;
                state.wrapping_mul(0x2545_F491_4F6C_DD1D)
            }
            Source::Bytes { .. } => self.take(8).iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        }
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if let Source::Seed(_) = self.0 {
            return (self.draw() >> 16) % n;
        }
        let len = (u64::BITS - (n - 1).leading_zeros()).div_ceil(8) as usize;
        self.take(len).iter().fold(0, |n, byte| n << 8 | u64::from(*byte)) % n
    }

    /// The next bytes; fewer when they are over.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        match &mut self.0 {
            Source::Seed(_) => (0..len).map(|_| self.draw() as u8).collect(),
            Source::Bytes { bytes, at } => {
                let end = at.saturating_add(len).min(bytes.len());
                let taken = bytes.get(*at..end).unwrap_or(&[]).to_vec();
                *at = end;
                taken
            }
        }
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
