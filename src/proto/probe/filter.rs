//! What the kernel drops before it wakes us or fills our buffers: filters in classic BPF, one per kind of socket.
//!
//! A filter knows nothing of the tracked addresses, so it never has to be changed with them: for echoes it compares our
//! numbers and our tag, which nobody off the path can guess, for the others what makes an answer an answer.

use heapless::Vec;

use crate::proto::rtnl::Instruction;

/// A filter.
pub type Program = Vec<Instruction, 48>;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD_X: u16 = 0x40;
const LOAD_HALF_X: u16 = 0x48;
const LOAD_BYTE_X: u16 = 0x50;
const LOAD_LENGTH: u16 = 0x80;
const LOAD_X_HEADER: u16 = 0xb1;
const SUBTRACT: u16 = 0x14;
const SUBTRACT_X: u16 = 0x1c;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: how the packet was addressed; 0 (`PACKET_HOST`) is to us alone.
const PACKET_TYPE: u32 = 0xffff_f004;

/// What echoes carry that others cannot know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The first of our ICMP identifiers.
    pub base: u16,
    /// How many there are from there on, wrapping.
    pub count: u16,
    /// The tag now and the one before.
    pub tags: [u32; 2],
}

/// Where a jump leads.
#[derive(Clone, Copy)]
enum To {
    Next,
    Skip(u8),
    Accept,
    Drop,
}

/// Placeholders until it is known how far away the ends are; no jump of ours is as long.
const ACCEPT: u8 = 254;
const DROP: u8 = 255;

#[derive(Default)]
struct Builder {
    code: Program,
}

impl Builder {
    fn op(&mut self, code: u16, k: u32) {
        // Cannot fail: the longest program is tested to fit.
        let _ = self.code.push(Instruction { code, jt: 0, jf: 0, k });
    }

    fn jump(&mut self, code: u16, k: u32, yes: To, no: To) {
        let place = |to| match to {
            To::Next => 0,
            To::Skip(n) => n,
            To::Accept => ACCEPT,
            To::Drop => DROP,
        };
        let _ = self.code.push(Instruction { code, jt: place(yes), jf: place(no), k });
    }

    /// Drops what has another value there.
    fn want(&mut self, load: u16, at: u32, value: u32) {
        self.op(load, at);
        self.jump(JUMP_EQUAL, value, To::Next, To::Drop);
    }

    /// Drops what has none of our identifiers there. Four instructions.
    fn want_id(&mut self, load: u16, at: u32, secret: &Secret) {
        self.op(load, at);
        self.op(SUBTRACT, u32::from(secret.base));
        self.op(AND, 0xffff);
        self.jump(JUMP_AT_LEAST, u32::from(secret.count), To::Drop, To::Next);
    }

    /// Ends with one of our tags there or not. Three instructions.
    fn decide_by_tag(&mut self, load: u16, at: u32, secret: &Secret) {
        self.op(load, at);
        let [now, before] = secret.tags;
        self.jump(JUMP_EQUAL, now, To::Accept, To::Next);
        self.jump(JUMP_EQUAL, before, To::Accept, To::Drop);
    }

    fn finish(mut self) -> Program {
        self.op(RETURN, u32::MAX);
        self.op(RETURN, 0);
        let accept = self.code.len().saturating_sub(2);
        for (at, op) in self.code.iter_mut().enumerate() {
            for place in [&mut op.jt, &mut op.jf] {
                let end = match *place {
                    ACCEPT => accept,
                    DROP => accept.saturating_add(1),
                    _ => continue,
                };
                *place = u8::try_from(end.saturating_sub(at).saturating_sub(1)).unwrap_or(DROP);
            }
        }
        self.code
    }
}

/// For ICMP on a raw socket, which gives the IP header too: replies to us, and errors that quote us. Of a quote that is
/// too short for the tag the identifier has to do.
pub fn echo_v4(secret: &Secret) -> Program {
    let mut b = Builder::default();
    b.op(LOAD_X_HEADER, 0);
    b.op(LOAD_BYTE_X, 0);
    // To the reply: over the two jumps that follow and the sixteen instructions of errors.
    b.jump(JUMP_EQUAL, 0, To::Skip(18), To::Next);
    b.jump(JUMP_EQUAL, 3, To::Skip(1), To::Next);
    b.jump(JUMP_EQUAL, 11, To::Next, To::Drop);
    b.want(LOAD_BYTE_X, 8, 0x45);
    b.want(LOAD_BYTE_X, 17, 1);
    b.want(LOAD_BYTE_X, 28, 8);
    b.want_id(LOAD_HALF_X, 32, secret);
    b.op(LOAD_LENGTH, 0);
    b.op(SUBTRACT_X, 0);
    b.jump(JUMP_AT_LEAST, 40, To::Next, To::Accept);
    b.decide_by_tag(LOAD_WORD_X, 36, secret);
    b.want_id(LOAD_HALF_X, 4, secret);
    b.decide_by_tag(LOAD_WORD_X, 8, secret);
    b.finish()
}

/// For ICMPv6 on a raw socket: replies to us, and errors that quote us; these quote all that fits.
pub fn echo_v6(secret: &Secret) -> Program {
    let mut b = Builder::default();
    b.op(LOAD_BYTE, 0);
    // To the reply: over the two jumps that follow and the eleven instructions of errors.
    b.jump(JUMP_EQUAL, 129, To::Skip(13), To::Next);
    b.jump(JUMP_EQUAL, 1, To::Skip(1), To::Next);
    b.jump(JUMP_EQUAL, 3, To::Next, To::Drop);
    b.want(LOAD_BYTE, 14, 58);
    b.want(LOAD_BYTE, 48, 128);
    b.want_id(LOAD_HALF, 52, secret);
    b.decide_by_tag(LOAD_WORD, 56, secret);
    b.want_id(LOAD_HALF, 4, secret);
    b.decide_by_tag(LOAD_WORD, 8, secret);
    b.finish()
}

/// For ARP on a packet socket without link headers: replies to us alone.
pub fn arp() -> Program {
    let mut b = Builder::default();
    b.want(LOAD_WORD, PACKET_TYPE, 0);
    b.want(LOAD_HALF, 6, 2);
    b.finish()
}

/// For neighbour discovery on a raw socket: advertisements that answer a question.
pub fn ndp() -> Program {
    let mut b = Builder::default();
    b.want(LOAD_BYTE, 0, 136);
    b.op(LOAD_BYTE, 4);
    b.jump(JUMP_BITS, 0x40, To::Accept, To::Drop);
    b.finish()
}

/// For DNS on a UDP socket, which gives the UDP header too: answers from the server's port.
pub fn dns() -> Program {
    let mut b = Builder::default();
    b.want(LOAD_HALF, 0, 53);
    b.op(LOAD_BYTE, 10);
    b.jump(JUMP_BITS, 0x80, To::Accept, To::Drop);
    b.finish()
}

#[cfg(test)]
mod tests {
    use super::super::echo::{self, Echo, Ticket};
    use super::*;
    use crate::types::Family;

    const SECRET: Secret = Secret { base: 0xfff8, count: 16, tags: [0xdead_beef, 7] };

    /// The kernel's machine, as far as our programs go; a load beyond the end drops.
    fn run(program: &[Instruction], packet: &[u8]) -> bool {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
        loop {
            let op = program[at];
            let load = |from: u32, len: usize| -> Option<u32> {
                let from = from as usize;
                Some(packet.get(from..from + len)?.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
            };
            let loaded = match op.code {
                LOAD_WORD => load(op.k, 4),
                LOAD_HALF => load(op.k, 2),
                LOAD_BYTE => load(op.k, 1),
                LOAD_WORD_X => load(x + op.k, 4),
                LOAD_HALF_X => load(x + op.k, 2),
                LOAD_BYTE_X => load(x + op.k, 1),
                LOAD_LENGTH => Some(packet.len() as u32),
                LOAD_X_HEADER => load(op.k, 1).map(|b| (b & 0xf) * 4),
                SUBTRACT => Some(a.wrapping_sub(op.k)),
                SUBTRACT_X => Some(a.wrapping_sub(x)),
                AND => Some(a & op.k),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return false };
            let jump = |yes: bool| usize::from(if yes { op.jt } else { op.jf });
            match op.code {
                RETURN => return op.k != 0,
                LOAD_X_HEADER => x = loaded,
                JUMP_EQUAL => at += jump(a == op.k),
                JUMP_AT_LEAST => at += jump(a >= op.k),
                JUMP_BITS => at += jump(a & op.k != 0),
                _ => a = loaded,
            }
            at += 1;
        }
    }

    fn sample(id: u16, tag: u32) -> Echo {
        Echo { id, seq: 1, ticket: Ticket { tag, uplink: 0, track: 0, life: 0, sent: 0, cookie: 9 } }
    }

    fn packets_v4(echo: &Echo) -> [Vec<u8, 128>; 3] {
        let request = echo::encode(Family::V4, echo);
        let mut header = [0; 20];
        (header[0], header[9]) = (0x45, 1);
        let of = |parts: &[&[u8]]| parts.iter().flat_map(|p| p.iter().copied()).collect();
        let error = [11, 0, 0, 0, 0, 0, 0, 0];
        let mut reply: Vec<u8, 128> = of(&[&header, &request]);
        reply[20] = 0;
        [reply, of(&[&header, &error, &header, &request]), of(&[&header, &error, &header, &request[..8]])]
    }

    #[test]
    fn echoes_pass_with_our_number_and_tag_only() {
        let program = echo_v4(&SECRET);
        for id in [0xfff8, 0xffff, 0, 7] {
            for (tag, short) in [(0xdead_beef, true), (7, true), (8, true)] {
                let [reply, error, cut] = packets_v4(&sample(id, tag));
                let ours = tag != 8;
                assert_eq!(run(&program, &reply), ours);
                assert_eq!(run(&program, &error), ours);
                assert_eq!(run(&program, &cut), short);
            }
        }
        for id in [0xfff7, 8] {
            for packet in packets_v4(&sample(id, 7)) {
                assert!(!run(&program, &packet));
            }
        }
        let [mut reply, mut error, _] = packets_v4(&sample(0, 7));
        reply[20] = 8;
        error[20] = 5;
        assert!(!run(&program, &reply) && !run(&program, &error));
        for len in 0..reply.len() {
            run(&program, &reply[..len]);
        }
    }

    #[test]
    fn echoes_over_ipv6_pass_with_our_number_and_tag_only() {
        let program = echo_v6(&SECRET);
        for (id, tag, ours) in [(0, 7, true), (0xfff8, 0xdead_beef, true), (8, 7, false), (0, 8, false)] {
            let mut reply = echo::encode(Family::V6, &sample(id, tag));
            reply[0] = 129;
            assert_eq!(run(&program, &reply), ours);
            let mut error = [0; 8 + 40 + 32];
            (error[0], error[8], error[14]) = (3, 0x60, 58);
            error[48..].copy_from_slice(&echo::encode(Family::V6, &sample(id, tag)));
            assert_eq!(run(&program, &error), ours);
            assert!(!run(&program, &error[..59]));
            error[0] = 2;
            assert!(!run(&program, &error));
        }
    }

    #[test]
    fn of_the_others_only_answers_pass() {
        let mut advertisement = [0; 24];
        (advertisement[0], advertisement[4]) = (136, 0x60);
        assert!(run(&ndp(), &advertisement));
        advertisement[4] = 0x20;
        assert!(!run(&ndp(), &advertisement));
        let mut answer = [0; 30];
        (answer[1], answer[10]) = (53, 0x80);
        assert!(run(&dns(), &answer));
        answer[10] = 0;
        assert!(!run(&dns(), &answer));
        assert_eq!(arp().len(), 6);
    }
}
