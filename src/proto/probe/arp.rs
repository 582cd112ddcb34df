//! ARP of a gateway on Ethernet: a request by broadcast, and its reply (RFC 826).
//!
//! ARP has no room for a cookie: a reply is believed for its addresses, its device and its time. Whoever can forge it
//! sits on the link itself and could take the gateway's place altogether.

use core::net::Ipv4Addr;

use super::{Junk, be16, field, put};

/// Bytes of a message; on the wire it is padded.
pub const LEN: usize = 28;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Hardware Ethernet, protocol IPv4, 6 and 4 bytes of address.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A reply: who is where, told to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Who answers.
    pub sender: Ipv4Addr,
    /// Where it is.
    pub sender_mac: Mac,
    /// Who had asked.
    pub target: Ipv4Addr,
    /// Where that is.
    pub target_mac: Mac,
}

/// Writes the question where `target` is, asked by `source` at `mac`.
pub fn encode(mac: Mac, source: Ipv4Addr, target: Ipv4Addr) -> [u8; LEN] {
    let mut out = [0; LEN];
    put(&mut out, &[&ETHERNET_IPV4, &REQUEST.to_be_bytes(), &mac, &source.octets(), &[0; 6], &target.octets()]);
    out
}

/// Reads a message; what follows it is padding.
///
/// # Errors
/// [`Junk`]: it is no reply for IPv4 on Ethernet, or its sender cannot be one.
pub fn decode(message: &[u8]) -> Result<Reply, Junk> {
    if field::<6>(message, 0)? != ETHERNET_IPV4 || be16(message, 6)? != REPLY {
        return Err(Junk::Foreign);
    }
    let reply = Reply {
        sender_mac: field(message, 8)?,
        sender: field::<4>(message, 14)?.into(),
        target_mac: field(message, 18)?,
        target: field::<4>(message, 24)?.into(),
    };
    // A group address, or none, is nobody's.
    if reply.sender_mac[0] & 1 != 0 || reply.sender_mac == [0; 6] { Err(Junk::Nonsense) } else { Ok(reply) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: (Mac, Ipv4Addr) = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(198, 51, 100, 2));
    const GATEWAY: (Mac, Ipv4Addr) = ([2, 0, 0, 0, 0, 9], Ipv4Addr::new(198, 51, 100, 1));

    fn reply() -> Vec<u8> {
        let mut message = encode(GATEWAY.0, GATEWAY.1, US.1).to_vec();
        message[7] = 2;
        message[18..24].copy_from_slice(&US.0);
        message
    }

    #[test]
    fn a_request_reads_as_in_the_rfc() {
        let sent = encode(US.0, US.1, GATEWAY.1);
        assert_eq!(sent[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(sent[8..18], [2, 0, 0, 0, 0, 1, 198, 51, 100, 2]);
        assert_eq!(sent[18..], [0, 0, 0, 0, 0, 0, 198, 51, 100, 1]);
        assert_eq!(decode(&sent), Err(Junk::Foreign));
    }

    #[test]
    fn a_reply_with_padding_is_read_and_a_short_one_refused() {
        let mut padded = reply();
        padded.resize(46, 0xaa);
        let read = decode(&padded).expect("a reply");
        assert_eq!((read.sender_mac, read.sender), GATEWAY);
        assert_eq!((read.target_mac, read.target), US);
        for len in 0..LEN {
            assert_eq!(decode(&padded[..len]), Err(Junk::Short), "{len}");
        }
    }

    #[test]
    fn a_sender_that_is_nobody_is_refused() {
        for mac in [[0xff; 6], [0; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let mut message = reply();
            message[8..14].copy_from_slice(&mac);
            assert_eq!(decode(&message), Err(Junk::Nonsense));
        }
    }

    #[test]
    fn other_hardware_or_protocol_is_foreign() {
        for (at, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16)] {
            let mut message = reply();
            message[at] = value;
            assert_eq!(decode(&message), Err(Junk::Foreign));
        }
    }
}
