//! The arithmetic under a recorded run: bits with learnt probabilities, and numbers made of them.
//!
//! A binary range coder in the manner of LZMA's, with probabilities of sixteen bits, each the mean of one that learns fast
//! and one that learns slowly. Whatever is coded is described once, for both directions: a [`Coder`] that writes takes
//! the bit and returns it, one that reads pays no heed to it and returns what stands there.
//!
//! Integers only, and no order of bytes of the machine's own: the same run is the same bytes everywhere.

/// Either end of the line.
pub trait Coder {
    /// Whether it reads.
    const READS: bool;

    /// Writes `bit` and returns it, or reads one.
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool;
}

/// How likely a bit is zero, learnt from those before it.
#[derive(Clone, Copy, Debug)]
pub struct Bit {
    fast: u16,
    slow: u16,
    /// Bits seen, as far as it matters.
    seen: u8,
}

impl Default for Bit {
    fn default() -> Self {
        Self { fast: 0x8000, slow: 0x8000, seen: 0 }
    }
}

impl Bit {
    /// In 65536ths; never certain.
    fn zero(self) -> u32 {
        ((u32::from(self.fast) + u32::from(self.slow)) / 2).clamp(48, 65_536 - 48)
    }

    fn learn(&mut self, bit: bool) {
        // The first ones count as much as a mean of so few allows: what never changes is soon believed.
        let rate = u8::BITS - (self.seen + 1).leading_zeros();
        self.seen = (self.seen + 1).min(126);
        for (place, rate) in [(&mut self.fast, rate.min(4)), (&mut self.slow, rate.min(7))] {
            if bit {
                *place -= *place >> rate;
            } else {
                *place += (u16::MAX - *place) >> rate;
            }
        }
    }
}

/// The least width of the range: below it a byte is settled.
const LEAST: u32 = 1 << 24;

/// Writes bits.
#[derive(Debug)]
pub struct Encoder {
    low: u64,
    range: u32,
    /// The byte that a carry may still change, and how many of 0xff stand behind it.
    last: Option<u8>,
    waiting: u32,
    /// What is settled.
    pub out: Vec<u8>,
}

impl Encoder {
    /// Writes behind what is in `out`.
    pub fn new(out: Vec<u8>) -> Self {
        Self { low: 0, range: u32::MAX, last: None, waiting: 0, out }
    }

    fn settle(&mut self) {
        let carry = self.low > u64::from(u32::MAX);
        if self.low < 0xff00_0000 || carry {
            if let Some(last) = self.last {
                self.out.push(last.wrapping_add(u8::from(carry)));
            }
            for _ in 0..std::mem::take(&mut self.waiting) {
                self.out.push(if carry { 0 } else { 0xff });
            }
            self.last = Some((self.low >> 24) as u8);
        } else {
            self.waiting = self.waiting.saturating_add(1);
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    /// Ends the row of bits: everything is in `out`, and the next bit begins a new row.
    pub fn end(&mut self) {
        for _ in 0..5 {
            self.settle();
        }
        self.low = 0;
        self.range = u32::MAX;
        self.last = None;
        self.waiting = 0;
    }
}

impl Coder for Encoder {
    const READS: bool = false;

    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool {
        let bound = (self.range >> 16) * model.zero();
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        model.learn(bit);
        while self.range < LEAST {
            self.range <<= 8;
            self.settle();
        }
        bit
    }
}

/// Reads bits out of a row that [`Encoder::end`] has ended.
#[derive(Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    code: u32,
    range: u32,
}

impl<'a> Decoder<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut new = Self { bytes, at: 0, code: 0, range: u32::MAX };
        for _ in 0..4 {
            new.code = new.code << 8 | new.next();
        }
        new
    }

    fn next(&mut self) -> u32 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at = self.at.saturating_add(1);
        u32::from(byte)
    }

    /// Whether more was read than there is: what came last is made up.
    pub fn is_beyond(&self) -> bool {
        self.at > self.bytes.len().saturating_add(4)
    }
}

impl Coder for Decoder<'_> {
    const READS: bool = true;

    fn bit(&mut self, model: &mut Bit, _: bool) -> bool {
        let bound = (self.range >> 16) * model.zero();
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        model.learn(bit);
        while self.range < LEAST {
            self.range <<= 8;
            self.code = self.code << 8 | self.next();
        }
        bit
    }
}

/// A number of `bits` bits, highest first, each with a model of its own in `models`, which has room for `1 << bits`.
pub fn tree<C: Coder>(c: &mut C, models: &mut [Bit], bits: u32, value: u32) -> u32 {
    let mut node = 1_usize;
    for at in (0..bits).rev() {
        let mut spare = Bit::default();
        let model = models.get_mut(node).unwrap_or(&mut spare);
        let bit = c.bit(model, value >> at & 1 != 0);
        node = node << 1 | usize::from(bit);
    }
    (node - (1 << bits)) as u32
}

/// Sizes of numbers whose upper bits are learnt.
const LEARNT: usize = 14;

/// Numbers of either sign, small ones more often: sign, size, then the bits below the highest, the first three of them learnt.
#[derive(Clone, Debug)]
pub struct Number {
    zero: Bit,
    sign: Bit,
    size: [[Bit; 64]; 2],
    upper: [[[Bit; 8]; LEARNT]; 2],
}

impl Default for Number {
    fn default() -> Self {
        let bit = Bit::default();
        Self { zero: bit, sign: bit, size: [[bit; 64]; 2], upper: [[[bit; 8]; LEARNT]; 2] }
    }
}

impl Number {
    /// Codes a number.
    pub fn code<C: Coder>(&mut self, c: &mut C, value: i64) -> i64 {
        if !c.bit(&mut self.zero, value != 0) {
            return 0;
        }
        let negative = c.bit(&mut self.sign, value < 0);
        let (Some(size), Some(upper)) =
            (self.size.get_mut(usize::from(negative)), self.upper.get_mut(usize::from(negative)))
        else {
            return 0;
        };
        let magnitude = value.unsigned_abs().max(1);
        let below = tree(c, size, 6, 63 - magnitude.leading_zeros());
        let learnt = below.min(3);
        let mut spare = [Bit::default(); 8];
        let models = upper.get_mut(below as usize).unwrap_or(&mut spare);
        let head = tree(c, models, learnt, (magnitude >> (below - learnt)) as u32 & 7 & ((1 << learnt) - 1));
        let mut result = 1_u64 << learnt | u64::from(head);
        for at in (0..below - learnt).rev() {
            result = result << 1 | u64::from(c.bit(&mut Bit::default(), magnitude >> at & 1 != 0));
        }
        if negative { (result as i64).wrapping_neg() } else { result as i64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_small_ones_are_cheap() {
        let edges = [0, 1, -1, 2, 7, 8, -9, 255, 65_536, i64::MAX, i64::MIN, i64::MIN + 1, 0, 0, 5];
        let mut encoder = Encoder::new(Vec::new());
        let mut number = Number::default();
        edges.iter().for_each(|n| assert_eq!(number.code(&mut encoder, *n), *n));
        for n in 0..10_000 {
            number.code(&mut encoder, n % 3);
        }
        encoder.end();
        let bytes = encoder.out;
        // Three values, equally often: 1.58 bits each.
        assert!(bytes.len() < 2_400, "{} bytes", bytes.len());
        let (mut decoder, mut number) = (Decoder::new(&bytes), Number::default());
        for n in edges {
            assert_eq!(number.code(&mut decoder, 0), n);
        }
        for n in 0..10_000 {
            assert_eq!(number.code(&mut decoder, 0), n % 3);
        }
        assert!(!decoder.is_beyond());
    }

    #[test]
    fn a_carry_runs_through_any_row_of_ones() {
        // Bits that are likely wrong keep low near the top of its range.
        for seed in 0..200_u32 {
            let bit = |n: u32| (n.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) >> 7 & 3 != 0;
            let mut encoder = Encoder::new(Vec::new());
            let mut model = Bit::default();
            for n in 0..4_000 {
                encoder.bit(&mut model, bit(n));
            }
            encoder.end();
            let (mut decoder, mut model) = (Decoder::new(&encoder.out), Bit::default());
            assert!((0..4_000).all(|n| decoder.bit(&mut model, false) == bit(n)), "seed {seed}");
        }
    }

    #[test]
    fn nothing_is_read_from_nothing() {
        for bytes in [&[][..], &[0xff; 3], &[0; 9], &[0xff; 40]] {
            let (mut decoder, mut number) = (Decoder::new(bytes), Number::default());
            for _ in 0..1_000 {
                number.code(&mut decoder, 0);
            }
        }
    }
}
