//! ICMP and ICMPv6 echo: the request with our ticket in its payload, its reply, and errors that quote it.
//!
//! The ticket says which probe it was and when it left, and is sealed by a cookie that only we can make: an answer
//! needs no memory of ours to be told from a forgery. Errors of old routers quote no more than eight bytes of the
//! request: number, sequence and checksum (which hangs on the cookie) are all there is to compare then.
//! Sources: RFC 792, RFC 1812 4.3.2.3, RFC 4443.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Junk, be16, byte, checksum, field, put};
use crate::engine::event::Refusal;
use crate::types::Family;

/// Bytes of the ICMP header.
const HEADER: usize = 8;
/// Bytes of a [`Ticket`]: the least payload.
pub const TICKET: usize = 24;
/// Bytes of a request; a longer payload is zeroes behind it.
pub const REQUEST: usize = HEADER + TICKET;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const V6_UNREACHABLE: u8 = 1;
const V6_TIME_EXCEEDED: u8 = 3;
const V6_ECHO: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
/// "Fragmentation needed": news for the kernel, not a refusal.
const CODE_TOO_BIG: u8 = 4;
const PROTO_ICMP: u8 = 1;
const PROTO_ICMPV6: u8 = 58;

/// What we write into the payload to know our own again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What the filter in the kernel looks for.
    pub tag: u32,
    /// Place of the uplink.
    pub uplink: u8,
    /// Place of the target.
    pub track: u8,
    /// Life of the target.
    pub life: u16,
    /// When the request left, microseconds on the engine's clock.
    pub sent: u64,
    /// Seals all of it, and the addresses and the device beside it.
    pub cookie: u64,
}

/// A request, or a reply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// ICMP identifier.
    pub id: u16,
    /// ICMP sequence number.
    pub seq: u16,
    /// The first bytes of the payload.
    pub ticket: Ticket,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An echo reply.
    Reply(Echo),
    /// An error that quotes an echo request.
    Error(Quote),
}

/// An error, and what it quotes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// What the error says.
    pub refusal: Refusal,
    /// Where the request came from.
    pub source: IpAddr,
    /// Where the request went.
    pub target: IpAddr,
    /// ICMP identifier.
    pub id: u16,
    /// ICMP sequence number.
    pub seq: u16,
    /// ICMP checksum.
    pub checksum: u16,
    /// The ticket, when the quote is long enough.
    pub ticket: Option<Ticket>,
}

/// Writes a request. The checksum of ICMPv6 is left to the kernel, which knows the addresses.
pub fn encode(family: Family, echo: &Echo) -> [u8; REQUEST] {
    let mut out = [0; REQUEST];
    let ticket = &echo.ticket;
    let fields: &[&[u8]] = &[
        &[if family == Family::V4 { ECHO } else { V6_ECHO }, 0, 0, 0],
        &echo.id.to_be_bytes(),
        &echo.seq.to_be_bytes(),
        &ticket.tag.to_be_bytes(),
        &[ticket.uplink],
        &[ticket.track],
        &ticket.life.to_be_bytes(),
        &ticket.sent.to_be_bytes(),
        &ticket.cookie.to_be_bytes(),
    ];
    put(&mut out, fields);
    if family == Family::V4 {
        [out[2], out[3]] = checksum(&out).to_be_bytes();
    }
    out
}

/// Reads an IPv4 packet as a raw socket gives it, IP header first. `cut` says that the end is missing: then the
/// checksum cannot be checked, and the cookie has to do.
///
/// # Errors
/// [`Junk`]: it is no reply to an echo request and no error about one.
pub fn decode_v4(packet: &[u8], cut: bool) -> Result<Heard, Junk> {
    let message = packet.get(header_v4(packet)?..).ok_or(Junk::Short)?;
    if !cut && checksum(message) != 0 {
        return Err(Junk::Checksum);
    }
    let refusal = match (byte(message, 0)?, byte(message, 1)?) {
        (ECHO_REPLY, 0) => return read_echo(message).map(Heard::Reply),
        (UNREACHABLE, code) if code != CODE_TOO_BIG => Refusal::Unreachable,
        (TIME_EXCEEDED, 0) => Refusal::Expired,
        _ => return Err(Junk::Foreign),
    };
    let quoted = message.get(HEADER..).ok_or(Junk::Short)?;
    let inner = quoted.get(header_v4(quoted)?..).ok_or(Junk::Short)?;
    if byte(quoted, 9)? != PROTO_ICMP {
        return Err(Junk::Foreign);
    }
    let source = IpAddr::V4(Ipv4Addr::from(field::<4>(quoted, 12)?));
    let target = IpAddr::V4(Ipv4Addr::from(field::<4>(quoted, 16)?));
    read_quote(inner, ECHO, refusal, source, target)
}

/// Reads an ICMPv6 message as a raw socket gives it, with its checksum checked by the kernel.
///
/// # Errors
/// [`Junk`]: it is no reply to an echo request and no error about one.
pub fn decode_v6(message: &[u8]) -> Result<Heard, Junk> {
    let refusal = match (byte(message, 0)?, byte(message, 1)?) {
        (V6_ECHO_REPLY, 0) => return read_echo(message).map(Heard::Reply),
        (V6_UNREACHABLE, _) => Refusal::Unreachable,
        (V6_TIME_EXCEEDED, 0) => Refusal::Expired,
        _ => return Err(Junk::Foreign),
    };
    let quoted = message.get(HEADER..).ok_or(Junk::Short)?;
    // Our requests have no extension headers.
    if byte(quoted, 0)? >> 4 != 6 || byte(quoted, 6)? != PROTO_ICMPV6 {
        return Err(Junk::Foreign);
    }
    let source = IpAddr::V6(Ipv6Addr::from(field::<16>(quoted, 8)?));
    let target = IpAddr::V6(Ipv6Addr::from(field::<16>(quoted, 24)?));
    read_quote(quoted.get(40..).ok_or(Junk::Short)?, V6_ECHO, refusal, source, target)
}

/// Bytes of an IPv4 header with its options.
fn header_v4(packet: &[u8]) -> Result<usize, Junk> {
    let first = byte(packet, 0)?;
    let len = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || len < 20 { Err(Junk::Nonsense) } else { Ok(len) }
}

fn read_echo(message: &[u8]) -> Result<Echo, Junk> {
    Ok(Echo { id: be16(message, 4)?, seq: be16(message, 6)?, ticket: read_ticket(message)? })
}

fn read_ticket(message: &[u8]) -> Result<Ticket, Junk> {
    Ok(Ticket {
        tag: u32::from_be_bytes(field(message, 8)?),
        uplink: byte(message, 12)?,
        track: byte(message, 13)?,
        life: be16(message, 14)?,
        sent: u64::from_be_bytes(field(message, 16)?),
        cookie: u64::from_be_bytes(field(message, 24)?),
    })
}

fn read_quote(inner: &[u8], kind: u8, refusal: Refusal, source: IpAddr, target: IpAddr) -> Result<Heard, Junk> {
    if byte(inner, 0)? != kind {
        return Err(Junk::Foreign);
    }
    let (checksum, id, seq) = (be16(inner, 2)?, be16(inner, 4)?, be16(inner, 6)?);
    Ok(Heard::Error(Quote { refusal, source, target, id, seq, checksum, ticket: read_ticket(inner).ok() }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const ECHOED: Echo = Echo {
        id: 0x1234,
        seq: 41,
        ticket: Ticket {
            tag: 0xdead_beef,
            uplink: 1,
            track: 2,
            life: 3,
            sent: 1_000_000,
            cookie: 0x0123_4567_89ab_cdef,
        },
    };
    const US: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const THEM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

    fn sealed(mut message: Vec<u8>) -> Vec<u8> {
        message[2..4].fill(0);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    fn ip_v4(source: Ipv4Addr, target: Ipv4Addr, options: usize, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20 + 4 * options];
        packet[0] = 0x45 + options as u8;
        packet[9] = 1;
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&target.octets());
        packet.extend_from_slice(body);
        packet
    }

    fn ip_v6(body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        (packet[0], packet[6], packet[23], packet[39]) = (0x60, 58, 1, 2);
        packet.extend_from_slice(body);
        packet
    }

    fn reply_v4(padding: usize) -> Vec<u8> {
        let mut message = encode(Family::V4, &ECHOED).to_vec();
        message[0] = 0;
        message.resize(REQUEST + padding, 0);
        ip_v4(THEM, US, 0, &sealed(message))
    }

    pub fn error_v4(kind: u8, code: u8, quoted: usize) -> Vec<u8> {
        let mut inner = ip_v4(US, THEM, 0, &encode(Family::V4, &ECHOED));
        inner.truncate(20 + quoted);
        let message = [&[kind, code, 0, 0, 0, 0, 0, 0][..], &inner].concat();
        ip_v4(Ipv4Addr::new(192, 0, 2, 1), US, 0, &sealed(message))
    }

    #[test]
    fn a_reply_brings_the_ticket_back() {
        assert_eq!(decode_v4(&reply_v4(0), false), Ok(Heard::Reply(ECHOED)));
        assert_eq!(decode_v4(&reply_v4(1001), false), Ok(Heard::Reply(ECHOED)));
        let mut message = encode(Family::V6, &ECHOED);
        message[0] = 129;
        assert_eq!(decode_v6(&message), Ok(Heard::Reply(ECHOED)));
    }

    #[test]
    fn zeroes_behind_a_request_do_not_change_its_checksum() {
        let mut message = encode(Family::V4, &ECHOED).to_vec();
        message.resize(1000, 0);
        assert_eq!(checksum(&message), 0);
    }

    #[test]
    fn a_flipped_bit_is_noticed_unless_the_end_is_missing() {
        let mut packet = reply_v4(0);
        packet[51] ^= 1;
        assert_eq!(decode_v4(&packet, false), Err(Junk::Checksum));
        let Ok(Heard::Reply(echo)) = decode_v4(&packet, true) else { panic!("the cookie has to tell") };
        assert_ne!(echo, ECHOED);
    }

    #[test]
    fn options_in_the_ip_header_are_passed_over() {
        let reply = reply_v4(0);
        assert_eq!(decode_v4(&ip_v4(THEM, US, 3, &reply[20..]), false), Ok(Heard::Reply(ECHOED)));
    }

    #[test]
    fn every_cut_of_a_reply_or_an_error_is_refused_and_none_panics() {
        for packet in [reply_v4(0), error_v4(3, 1, 8), error_v4(11, 0, 32)] {
            for len in 0..packet.len() {
                let cut = decode_v4(&packet[..len], false);
                assert!(matches!(cut, Err(Junk::Short | Junk::Checksum)), "{len}: {cut:?}");
            }
        }
    }

    #[test]
    fn an_error_tells_what_it_quotes_and_the_ticket_if_it_is_whole() {
        for (kind, code, refusal) in
            [(3, 1, Refusal::Unreachable), (3, 13, Refusal::Unreachable), (11, 0, Refusal::Expired)]
        {
            for (quoted, ticket) in [(8, None), (31, None), (32, Some(ECHOED.ticket))] {
                let Ok(Heard::Error(quote)) = decode_v4(&error_v4(kind, code, quoted), false) else {
                    panic!("{kind} {code}")
                };
                assert_eq!((quote.refusal, quote.source, quote.target), (refusal, US.into(), THEM.into()));
                assert_eq!((quote.id, quote.seq, quote.ticket), (0x1234, 41, ticket));
                let sent = encode(Family::V4, &ECHOED);
                assert_eq!(quote.checksum.to_be_bytes(), sent[2..4]);
            }
        }
        assert_eq!(decode_v4(&error_v4(3, 4, 32), false), Err(Junk::Foreign));
        assert_eq!(decode_v4(&error_v4(5, 0, 32), false), Err(Junk::Foreign));
        assert_eq!(decode_v4(&error_v4(3, 1, 7), false), Err(Junk::Short));
    }

    #[test]
    fn an_error_about_ipv6_tells_what_it_quotes() {
        let quoted = ip_v6(&encode(Family::V6, &ECHOED));
        let error = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
        let Ok(Heard::Error(quote)) = decode_v6(&error(1)) else { panic!("an error") };
        assert_eq!((quote.refusal, quote.ticket), (Refusal::Unreachable, Some(ECHOED.ticket)));
        assert_eq!(quote.target, "::2".parse::<IpAddr>().expect("an address"));
        assert!(matches!(decode_v6(&error(3)), Ok(Heard::Error(Quote { refusal: Refusal::Expired, .. }))));
        assert_eq!(decode_v6(&error(2)), Err(Junk::Foreign));
        for len in 0..56 {
            assert_eq!(decode_v6(&error(1)[..len]), Err(Junk::Short));
        }
    }

    #[test]
    fn what_is_no_echo_of_ours_is_foreign() {
        let request = encode(Family::V4, &ECHOED);
        assert_eq!(decode_v4(&ip_v4(THEM, US, 0, &request), false), Err(Junk::Foreign));
        let mut udp = error_v4(3, 3, 32);
        udp[20 + 8 + 9] = 17;
        let udp = ip_v4(THEM, US, 0, &sealed(udp[20..].to_vec()));
        assert_eq!(decode_v4(&udp, false), Err(Junk::Foreign));
    }
}
