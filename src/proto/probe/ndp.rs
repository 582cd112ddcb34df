//! Neighbour discovery of a gateway: a solicitation to its group, and the advertisement that answers it (RFC 4861).
//!
//! What makes an advertisement credible is its hop limit of 255: no router passed it on, so it comes from the link.

use core::net::Ipv6Addr;

use super::{Junk, arp::Mac, byte, field, put};

/// The hop limit that neighbour discovery must have, sent and received.
pub const HOP_LIMIT: u8 = 255;
/// Bytes of the longest solicitation.
pub const SOLICITATION: usize = 32;

const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
/// Source link-layer address, in units of eight bytes.
const OPTION_SOURCE: [u8; 2] = [1, 1];

/// The group that a node with the address `target` listens to (RFC 4291, 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Writes the question where `target` is, asked from `mac` if the device has one; and its length. The checksum is left
/// to the kernel.
pub fn encode(target: Ipv6Addr, mac: Option<Mac>) -> ([u8; SOLICITATION], usize) {
    let mut out = [0; SOLICITATION];
    let mac = mac.as_ref().map_or(&[][..], |m| m);
    let option = if mac.is_empty() { &[][..] } else { &OPTION_SOURCE };
    let len = put(&mut out, &[&[NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &target.octets(), option, mac]);
    (out, len)
}

/// Reads a message that came with this hop limit; the kernel has checked its checksum. The address that answers.
///
/// # Errors
/// [`Junk`]: it is no advertisement that answers a question, or breaks a rule of RFC 4861, 7.1.2.
pub fn decode(message: &[u8], hop_limit: u8) -> Result<Ipv6Addr, Junk> {
    if byte(message, 0)? != NEIGHBOUR_ADVERTISEMENT || byte(message, 1)? != 0 {
        return Err(Junk::Foreign);
    }
    if byte(message, 4)? & SOLICITED == 0 {
        return Err(Junk::Foreign);
    }
    let target = Ipv6Addr::from(field::<16>(message, 8)?);
    let mut options = message.get(24..).ok_or(Junk::Short)?;
    if hop_limit != HOP_LIMIT || target.is_multicast() {
        return Err(Junk::Nonsense);
    }
    while !options.is_empty() {
        let len = usize::from(byte(options, 1)?) * 8;
        if len == 0 {
            return Err(Junk::Nonsense);
        }
        options = options.get(len..).ok_or(Junk::Short)?;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x1234, 0x56ff, 0xfe78, 0x9abc);

    fn advertisement(options: &[u8]) -> Vec<u8> {
        let mut message = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
        message.extend_from_slice(&GATEWAY.octets());
        message.extend_from_slice(options);
        message
    }

    #[test]
    fn the_group_ends_like_the_address() {
        assert_eq!(solicited_node(GATEWAY).to_string(), "ff02::1:ff78:9abc");
    }

    #[test]
    fn a_solicitation_names_its_sender_where_there_is_a_name() {
        let (message, len) = encode(GATEWAY, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!((message[0], len), (135, 32));
        assert_eq!(message[24..], [1, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(encode(GATEWAY, None).1, 24);
    }

    #[test]
    fn an_advertisement_is_read_with_and_without_options() {
        assert_eq!(decode(&advertisement(&[]), 255), Ok(GATEWAY));
        assert_eq!(decode(&advertisement(&[2, 1, 2, 0, 0, 0, 0, 9]), 255), Ok(GATEWAY));
        for len in 0..24 {
            assert_eq!(decode(&advertisement(&[])[..len], 255), Err(Junk::Short), "{len}");
        }
    }

    #[test]
    fn one_that_was_routed_or_has_a_false_length_is_refused() {
        assert_eq!(decode(&advertisement(&[]), 254), Err(Junk::Nonsense));
        assert_eq!(decode(&advertisement(&[2, 0, 0, 0, 0, 0, 0, 0]), 255), Err(Junk::Nonsense));
        assert_eq!(decode(&advertisement(&[2, 2, 0, 0, 0, 0, 0, 0]), 255), Err(Junk::Short));
        assert_eq!(decode(&advertisement(&[2]), 255), Err(Junk::Short));
    }

    #[test]
    fn one_that_nobody_asked_for_is_foreign() {
        let mut message = advertisement(&[]);
        message[4] = 0xa0;
        assert_eq!(decode(&message, 255), Err(Junk::Foreign));
        message[0] = 134;
        assert_eq!(decode(&message, 255), Err(Junk::Foreign));
    }
}
