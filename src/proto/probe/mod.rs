//! What probes say and what is said back: bytes of ICMP, ARP, NDP, DNS and HTTP, without a socket in sight.
//!
//! Each reader takes any bytes, reads only what is there, and answers with what it found or with [`Junk`]. What it
//! returns is not yet believed: the shell compares addresses, device, cookie and time with what was sent.

pub mod arp;
pub mod dns;
pub mod echo;
pub mod filter;
pub mod http;
pub mod ndp;

use core::fmt;

/// Why bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Junk {
    /// They end too early.
    Short,
    /// They do not add up.
    Checksum,
    /// They speak of something else.
    Foreign,
    /// They break the rules of their own protocol.
    Nonsense,
}

impl fmt::Display for Junk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "too short",
            Self::Checksum => "wrong checksum",
            Self::Foreign => "not an answer to us",
            Self::Nonsense => "malformed",
        })
    }
}

impl core::error::Error for Junk {}

/// The Internet checksum (RFC 1071) of `bytes`, ready to be written; 0 over bytes that hold a right one.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut pairs = bytes.chunks_exact(2);
    // No overflow: a packet has at most 32,768 pairs.
    let mut sum: u32 = pairs.by_ref().map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum();
    if let [last] = pairs.remainder() {
        sum = sum.saturating_add(u32::from(*last) << 8);
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff).saturating_add(sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Writes fields one behind the other, as far as there is room; how many bytes they are.
fn put(out: &mut [u8], fields: &[&[u8]]) -> usize {
    let mut len = 0;
    for byte in fields.iter().copied().flatten() {
        if let Some(place) = out.get_mut(len) {
            *place = *byte;
            len += 1;
        }
    }
    len
}

/// `N` bytes at `from`.
fn field<const N: usize>(bytes: &[u8], from: usize) -> Result<[u8; N], Junk> {
    bytes.get(from..).and_then(|b| b.first_chunk::<N>()).copied().ok_or(Junk::Short)
}

/// The byte at `from`.
fn byte(bytes: &[u8], from: usize) -> Result<u8, Junk> {
    bytes.get(from).copied().ok_or(Junk::Short)
}

/// Two bytes at `from`, in network order.
fn be16(bytes: &[u8], from: usize) -> Result<u16, Junk> {
    field(bytes, from).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_rfc_and_takes_odd_lengths() {
        // RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff; 65_536]), 0);
    }
}
