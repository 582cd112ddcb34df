//! The request socket: which dump is running, and what the kernel answered to what.

use heapless::{Deque, String};

use super::super::netlink::{self, Attributes, Bytes, Full, Malformed, Message, messages};
use super::{decode, encode, number as n};
use crate::engine::action::Token;
use crate::engine::event::{DumpOutcome, LinkSource};
use crate::engine::{Action, Dump, Event};
use crate::limits;
use crate::types::{Errno, IfIndex};

/// `NLMSGERR_ATTR_MSG`
const ATTR_MSG: u16 = 1;
/// `NLM_F_CAPPED`
const F_CAPPED: u16 = 0x100;
/// First sequence number of dumps: the lower half belongs to the engine's tokens.
const DUMPS: u32 = 0x8000_0000;

/// The bookkeeping of one request socket.
#[derive(Debug)]
pub struct Answers {
    dump: Option<Running>,
    next: u32,
    /// Questions after a link's traffic. The kernel tells of it whether it was asked or not; told at odd times it would
    /// only confuse.
    traffic: Deque<Token, { limits::UPLINKS }>,
    reason: String<120>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    dump: Dump,
    seq: u32,
    interrupted: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self { dump: None, next: DUMPS, traffic: Deque::new(), reason: String::new() }
    }
}

impl Answers {
    /// Encodes an action and remembers the dump; 0 when the action is not for netlink.
    ///
    /// # Errors
    /// [`Full`]: the buffer is too small.
    pub fn encode(&mut self, action: &Action, buf: &mut [u8]) -> Result<usize, Full> {
        let seq = self.next;
        let len = encode::encode(action, seq, buf)?;
        if let Action::Dump(dump) = action {
            self.dump = Some(Running { dump: *dump, seq, interrupted: false });
        }
        if let Action::AskLink { token, traffic: true, .. } = action {
            // The oldest was never answered.
            if self.traffic.is_full() {
                self.traffic.pop_front();
            }
            let _ = self.traffic.push_back(*token);
        }
        self.next = self.next.wrapping_add(1) | DUMPS;
        Ok(len)
    }

    /// Decodes a datagram of answers.
    ///
    /// # Errors
    /// [`Malformed`]: answers before the bad place were delivered, the rest is lost; treat it as an overrun.
    pub fn decode(&mut self, datagram: &[u8], sink: &mut dyn FnMut(Event)) -> Result<(), Malformed> {
        for message in messages(datagram) {
            let message = message?;
            match self.dump.as_mut().filter(|d| d.seq == message.seq) {
                Some(running) => {
                    running.interrupted |= message.flags & netlink::F_DUMP_INTR != 0;
                    let running = *running;
                    self.dump_part(running, &message, sink)?;
                }
                // An answer to a dump that was given up, or to a request that asked for none.
                None if message.seq >= DUMPS || message.seq == 0 => {}
                None => self.answer(&message, sink)?,
            }
        }
        Ok(())
    }

    fn dump_part(
        &mut self,
        running: Running,
        message: &Message<'_>,
        sink: &mut dyn FnMut(Event),
    ) -> Result<(), Malformed> {
        let errno = match message.kind {
            netlink::ERROR => self.error(message)?,
            // A dump that fails midway says so where it ends.
            netlink::DONE => message.body.u32(0, "NLMSG_DONE").map_or(Errno::OK, positive),
            _ => return decode::fact(message, LinkSource::Dumped, sink),
        };
        self.dump = None;
        let outcome = match errno {
            Errno::OK if running.interrupted => DumpOutcome::Interrupted,
            Errno::OK => DumpOutcome::Complete,
            errno => DumpOutcome::Failed(errno),
        };
        sink(Event::DumpEnded { dump: running.dump, outcome });
        Ok(())
    }

    fn answer(&mut self, message: &Message<'_>, sink: &mut dyn FnMut(Event)) -> Result<(), Malformed> {
        let token = Token(message.seq);
        match message.kind {
            netlink::ERROR => {
                let errno = self.error(message)?;
                sink(Event::Acked { token, errno });
                Ok(())
            }
            n::NEWROUTE => {
                let mut oif = None;
                for attribute in message.body.attributes(12, "rtmsg")? {
                    let (kind, value) = attribute?;
                    if kind == n::RTA_OIF {
                        oif = Some(IfIndex(value.u32(0, "RTA_OIF")?));
                    }
                }
                sink(Event::RouteAnswer { token, oif });
                Ok(())
            }
            n::NEWLINK => {
                decode::fact(message, LinkSource::Answered, sink)?;
                let asked = self.traffic.len();
                self.traffic.retain(|t| *t != token);
                if self.traffic.len() < asked { decode::traffic(&message.body, sink) } else { Ok(()) }
            }
            _ => decode::fact(message, LinkSource::Answered, sink),
        }
    }

    /// `struct nlmsgerr`: the error, the request's header (and its body unless capped), then the kernel's own words.
    fn error(&mut self, message: &Message<'_>) -> Result<Errno, Malformed> {
        let errno = positive(message.body.u32(0, "nlmsgerr")?);
        self.reason.clear();
        if errno != Errno::OK {
            let echoed = message.body.u32(4, "nlmsgerr").map_or(0, |len| len as usize);
            let from =
                if message.flags & F_CAPPED != 0 { 4 + netlink::HEADER } else { echoed.saturating_add(4 + 3) & !3 };
            // The words are a comfort, not a need: if they make no sense they are left out.
            if let Ok(rest) = message.body.rest(from, "nlmsgerr") {
                self.take_reason(rest);
            }
        }
        Ok(errno)
    }

    fn take_reason(&mut self, rest: Bytes<'_>) {
        for (kind, value) in Attributes::of(rest).map_while(Result::ok) {
            if kind == ATTR_MSG {
                let text = value.bytes.iter().take_while(|b| **b != 0);
                for byte in text.map(|b| if (0x20..0x7f).contains(b) { *b } else { b'?' }) {
                    if self.reason.push(char::from(byte)).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// What the kernel said about the last refusal, in its own words; empty when it said nothing.
    pub fn last_reason(&self) -> &str {
        &self.reason
    }
}

/// A negated error number, in the numbering that most architectures share.
fn positive(negated: u32) -> Errno {
    Errno(generic(u16::try_from(negated.wrapping_neg()).unwrap_or(u16::MAX)))
}

/// An error number of this machine, in the numbering that most architectures share.
pub fn errno(raw: i32) -> Errno {
    Errno(generic(u16::try_from(raw).unwrap_or(u16::MAX)))
}

/// MIPS counts the network's errors in its own way (`arch/mips/include/uapi/asm/errno.h`).
#[cfg(any(target_arch = "mips", target_arch = "mips64"))]
const fn generic(errno: u16) -> u16 {
    match errno {
        // ENOTSOCK to ENOPROTOOPT, EPROTONOSUPPORT to ENOTCONN, ESHUTDOWN to EINPROGRESS.
        95..=99 => errno - 7,
        120..=134 => errno - 27,
        143..=150 => errno - 35,
        n => n,
    }
}

#[cfg(not(any(target_arch = "mips", target_arch = "mips64")))]
const fn generic(errno: u16) -> u16 {
    errno
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::netlink::Writer;

    #[test]
    fn traffic_is_told_once_to_who_asked_for_it() {
        let mut answers = Answers::default();
        let heard = |answers: &mut Answers, traffic: Option<bool>, token: u32| {
            let mut buf = [0; 512];
            if let Some(traffic) = traffic {
                let ask = Action::AskLink { token: Token(token), ifindex: IfIndex(7), traffic };
                answers.encode(&ask, &mut buf).expect("it fits");
            }
            let mut writer = Writer::new(&mut buf, n::NEWLINK, 0, token);
            writer.put(&[0, 0, 0, 0]);
            writer.put(&7_u32.to_ne_bytes());
            writer.put(&[0; 8]);
            writer.attribute(n::IFLA_IFNAME, b"wan\0");
            let counts: [u64; 24] = std::array::from_fn(|at| 0x1_0000_0000 + at as u64);
            let bytes: Vec<u8> = counts.iter().flat_map(|c| c.to_ne_bytes()).collect();
            writer.attribute(n::IFLA_STATS64, &bytes);
            let len = writer.finish().expect("it fits");
            let mut traffic = Vec::new();
            answers
                .decode(&buf[..len], &mut |e| traffic.extend(matches!(e, Event::Traffic { .. }).then_some(e)))
                .expect("whole");
            traffic
        };
        assert_eq!(heard(&mut answers, Some(false), 1), []);
        let told = [Event::Traffic { ifindex: IfIndex(7), received: 0, sent: 1 }];
        assert_eq!(heard(&mut answers, Some(true), 2), told);
        assert_eq!(heard(&mut answers, None, 2), [], "a second answer");
        // Questions that were never answered are forgotten in time.
        for n in 3..100 {
            let ask = Action::AskLink { token: Token(n), ifindex: IfIndex(7), traffic: true };
            answers.encode(&ask, &mut [0; 64]).expect("it fits");
        }
        assert_eq!(heard(&mut answers, None, 3), []);
        assert_eq!(heard(&mut answers, None, 99), told);
    }
}
