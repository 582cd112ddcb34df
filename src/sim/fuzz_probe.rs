//! Fuzz bodies of the probes' codecs: any bytes in, and a panic where a promise is broken.
//!
//! What must hold: no reader panics or looks beyond its bytes, what it returns is what the bytes say, a longer cut of
//! the same bytes never turns an answer into another one, and reading in pieces is reading at once.

use std::net::{IpAddr, Ipv4Addr};

use crate::proto::probe::echo::{self, Heard};
use crate::proto::probe::http::{Progress, StatusLine};
use crate::proto::probe::{arp, checksum, dns, ndp};
use crate::types::Family;

/// The question that answers are read for.
pub const NAME: &str = "www.example.org";
/// Its number.
pub const ID: u16 = 0x4c57;

/// A body: bytes in.
pub type Body = fn(&[u8]);

/// All of them.
pub const BODIES: [(&str, Body); 5] = [("echo", echo), ("arp", arp), ("ndp", ndp), ("dns", dns), ("http", http)];

/// The first byte chooses the body, the rest is its input: one target for libFuzzer.
pub fn any(bytes: &[u8]) {
    if let Some((which, input)) = bytes.split_first()
        && let Some((_, body)) = BODIES.get(usize::from(*which) % BODIES.len())
    {
        body(input);
    }
}

/// ICMP and ICMPv6 as raw sockets give them.
pub fn echo(bytes: &[u8]) {
    for (heard, message) in [
        (echo::decode_v4(bytes, false), behind_ip(bytes)),
        (echo::decode_v4(bytes, true), behind_ip(bytes)),
        (echo::decode_v6(bytes), Some(bytes)),
    ] {
        match heard {
            Ok(Heard::Reply(reply)) => {
                let again = echo::encode(Family::V6, &reply);
                let message = message.expect("it was read");
                assert_eq!(message.get(4..echo::REQUEST), again.get(4..), "read one thing, written another");
            }
            Ok(Heard::Error(quote)) => {
                let whole = quote.ticket.is_some();
                assert!(!whole || bytes.len() >= 8 + 20 + echo::REQUEST, "a ticket out of nothing");
                assert_eq!(quote.source.is_ipv4(), quote.target.is_ipv4());
            }
            Err(_) => {}
        }
    }
    if let (Ok(heard), Some(message)) = (echo::decode_v4(bytes, false), behind_ip(bytes)) {
        assert_eq!(checksum(message), 0, "the checksum was not looked at");
        assert_eq!(echo::decode_v4(bytes, true), Ok(heard), "cut or not, the same bytes say the same");
    }
}

fn behind_ip(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0xf) * 4..)
}

/// ARP as a packet socket gives it.
pub fn arp(bytes: &[u8]) {
    if let Ok(reply) = arp::decode(bytes) {
        let mut again = arp::encode(reply.sender_mac, reply.sender, reply.target);
        again[7] = 2;
        again[18..24].copy_from_slice(&reply.target_mac);
        assert_eq!(bytes.get(..arp::LEN), Some(&again[..]));
    }
}

/// Neighbour advertisements; the first byte is the hop limit.
pub fn ndp(bytes: &[u8]) {
    let Some((hops, message)) = bytes.split_first() else { return };
    if let Ok(target) = ndp::decode(message, *hops) {
        assert_eq!(*hops, ndp::HOP_LIMIT, "it was routed");
        assert_eq!(message.get(8..24), Some(&target.octets()[..]));
        assert!(!target.is_multicast());
    }
}

/// Answers to a query of either family.
pub fn dns(bytes: &[u8]) {
    for family in Family::BOTH {
        let answer = dns::decode(bytes, ID, NAME, family);
        if let Ok(answer) = answer {
            assert_eq!(bytes.get(..2), Some(&ID.to_be_bytes()[..]), "another number");
            assert!(bytes.get(2).is_some_and(|b| b & 0x80 != 0), "a question taken for an answer");
            match answer {
                dns::Answer::Known(Some(addr)) => {
                    assert_eq!(Family::of(addr), family);
                    let octets = match addr {
                        IpAddr::V4(a) => a.octets().to_vec(),
                        IpAddr::V6(a) => a.octets().to_vec(),
                    };
                    assert!(bytes.windows(octets.len()).any(|w| w == octets), "an address out of nothing");
                }
                dns::Answer::Failed(code) => assert!(code > 0 && code != 3),
                dns::Answer::Known(None) | dns::Answer::NoName => {}
            }
        }
    }
}

/// The beginning of an HTTP answer; the first byte says where it is cut in two.
pub fn http(bytes: &[u8]) {
    let Some((cut, answer)) = bytes.split_first() else { return };
    let at_once = StatusLine::default().feed(answer);
    let mut pieces = StatusLine::default();
    let (first, second) = answer.split_at(usize::from(*cut).min(answer.len()));
    let early = pieces.feed(first);
    let late = pieces.feed(second);
    assert_eq!(late, at_once, "in pieces it reads otherwise");
    assert!(early == Progress::More || early == late, "it changed its mind");
    if let Progress::Status(status) = at_once {
        assert!((100..=599).contains(&status));
        assert!(answer.starts_with(b"HTTP/1."));
    }
}

/// One good input for each way through each body: what fuzzing starts from.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let ticket = echo::Ticket { tag: 1, uplink: 2, track: 3, life: 4, sent: 5, cookie: 6 };
    let request = |family| echo::encode(family, &echo::Echo { id: 7, seq: 8, ticket }).to_vec();
    let sealed = |mut message: Vec<u8>| {
        message[2..4].fill(0);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    };
    let ip = |message: &[u8]| {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 10, 198, 51, 100, 2];
        packet.extend(message);
        packet
    };
    let mut reply = request(Family::V4);
    reply[0] = 0;
    let quote = ip(&request(Family::V4));
    let mut reply_v6 = request(Family::V6);
    reply_v6[0] = 129;
    let mut quote_v6 = vec![0; 40];
    (quote_v6[0], quote_v6[6]) = (0x60, 58);
    quote_v6.extend(request(Family::V6));
    let error = |kind: u8, quote: &[u8]| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], quote].concat();

    let mac = [2, 0, 0, 0, 0, 9];
    let mut arp = arp::encode(mac, Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2)).to_vec();
    arp[7] = 2;
    arp.extend([0; 18]);

    let mut ndp = vec![255, 136, 0, 0, 0, 0xe0, 0, 0, 0, 0xfe, 0x80];
    ndp.resize(1 + 24, 0);
    ndp.extend([2, 1, 2, 0, 0, 0, 0, 9]);

    let answer = |family, flags: u16, records: u8, rest: &[u8]| {
        let mut query = [0; dns::QUERY];
        let len = dns::encode(ID, NAME, family, &mut query).expect("a name");
        let mut message = query[..len].to_vec();
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[7] = records;
        message.extend(rest);
        message
    };
    let a = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 10];
    let aaaa = [&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16][..], &[0x20, 1, 13, 184], &[1; 12]].concat();
    let cname = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, b'x', 0xc0, 16];
    let alias = [&cname[..], &[1, b'x', 0xc0, 16], &a[2..]].concat();
    vec![
        ("echo", ip(&sealed(reply))),
        ("echo", ip(&sealed(error(3, &quote)))),
        ("echo", ip(&sealed(error(11, &quote[..28])))),
        ("echo", reply_v6),
        ("echo", error(1, &quote_v6)),
        ("arp", arp),
        ("ndp", ndp),
        ("dns", answer(Family::V4, 0x8180, 1, &a)),
        ("dns", answer(Family::V6, 0x8180, 1, &aaaa)),
        ("dns", answer(Family::V4, 0x8180, 2, &alias)),
        ("dns", answer(Family::V4, 0x8380, 0, &[])),
        ("dns", answer(Family::V4, 0x8183, 0, &[])),
        ("dns", answer(Family::V4, 0x8182, 0, &[])),
        ("http", b"\x05HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n".to_vec()),
        ("http", b"\x0cHTTP/1.0 302 Found\r\n".to_vec()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations of each sample in a test run; `LINKWATCH_FUZZ` says another number.
    const ROUNDS: u64 = 20_000;

    /// xorshift64 (Marsaglia 2003).
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 20) as usize % n.max(1)
        }

        fn mutate(&mut self, bytes: &mut Vec<u8>) {
            for _ in 0..=self.below(4) {
                let (at, value) = (self.below(bytes.len()), self.below(256) as u8);
                match self.below(6) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at.min(bytes.len()), value),
                    2 => bytes.extend_from_within(at.min(bytes.len())..),
                    3 => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << (value & 7)),
                    4 => {
                        bytes.iter_mut().skip(at).take(2).for_each(|b| *b = [0, 0xff, 0xc0, 12][usize::from(value & 3)])
                    }
                    _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = value),
                }
            }
            bytes.truncate(1024);
        }
    }

    #[test]
    fn samples_are_understood() {
        let samples = samples();
        let understood = samples.iter().filter(|(name, bytes)| match *name {
            "echo" => echo::decode_v4(bytes, false).is_ok() || echo::decode_v6(bytes).is_ok(),
            "arp" => arp::decode(bytes).is_ok(),
            "ndp" => ndp::decode(&bytes[1..], bytes[0]).is_ok(),
            "dns" => Family::BOTH.iter().any(|f| dns::decode(bytes, ID, NAME, *f).is_ok()),
            _ => matches!(StatusLine::default().feed(&bytes[1..]), Progress::Status(_)),
        });
        assert_eq!(understood.count(), samples.len());
    }

    #[test]
    fn no_mutation_of_a_good_answer_breaks_a_promise() {
        let rounds = std::env::var("LINKWATCH_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
        for (name, sample) in samples() {
            let body = BODIES.iter().find(|(n, _)| *n == name).expect("a body for each sample").1;
            body(&sample);
            for seed in 1..=rounds {
                let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let mut bytes = sample.clone();
                dice.mutate(&mut bytes);
                let result = std::panic::catch_unwind(|| body(&bytes));
                assert!(result.is_ok(), "{name}, seed {seed}: {bytes:02x?}");
                // Under a right checksum, so that what lies behind it is reached.
                if name == "echo" && bytes.len() > 24 {
                    bytes[22..24].fill(0);
                    let sum = behind_ip(&bytes).filter(|_| bytes[0] == 0x45).map_or(0, checksum);
                    bytes[22..24].copy_from_slice(&sum.to_be_bytes());
                    let result = std::panic::catch_unwind(|| body(&bytes));
                    assert!(result.is_ok(), "{name}, seed {seed}, sealed: {bytes:02x?}");
                }
            }
        }
    }
}
