//! `RTM_GETROUTE` with all of its answer: which table, device, gateway and source a packet would take.

use std::net::IpAddr;

use super::encode::encode_question_with;
use super::number as n;
use crate::engine::action::RouteQuestion;
use crate::proto::netlink::{self, Bytes, Full, messages};
use crate::types::{Errno, IfIndex};

/// `RTM_F_LOOKUP_TABLE` (`linux/rtnetlink.h`): say which table it was.
const LOOKUP_TABLE: u32 = 0x1000;

/// Where a packet would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteFound {
    /// By this route.
    By { table: u32, oif: Option<IfIndex>, gateway: Option<IpAddr>, source: Option<IpAddr> },
    /// Nowhere.
    Refused(Errno),
}

/// Writes the question.
///
/// # Errors
/// [`Full`]: 64 bytes are enough.
pub fn encode_lookup(question: &RouteQuestion, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    encode_question_with(question, LOOKUP_TABLE, seq, buf)
}

/// Reads the answer; `None` when the datagram holds none.
pub fn decode_lookup(datagram: &[u8]) -> Option<RouteFound> {
    let message = messages(datagram).next()?.ok()?;
    if message.kind == netlink::ERROR {
        let errno = message.body.u32(0, "nlmsgerr").ok()?.wrapping_neg();
        return Some(RouteFound::Refused(Errno(u16::try_from(errno).unwrap_or(u16::MAX))));
    }
    if message.kind != n::NEWROUTE {
        return None;
    }
    let mut table = u32::from(*message.body.bytes.get(4)?);
    let (mut oif, mut gateway, mut source) = (None, None, None);
    for (kind, value) in message.body.attributes(12, "rtmsg").ok()?.map_while(Result::ok) {
        match kind {
            n::RTA_TABLE => table = value.u32(0, "RTA_TABLE").ok()?,
            n::RTA_OIF => oif = Some(IfIndex(value.u32(0, "RTA_OIF").ok()?)),
            n::RTA_GATEWAY => gateway = address(value),
            n::RTA_PREFSRC => source = address(value),
            _ => {}
        }
    }
    Some(RouteFound::By { table, oif, gateway, source })
}

fn address(value: Bytes<'_>) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(value.bytes).ok().map(IpAddr::from);
    four.or_else(|| <[u8; 16]>::try_from(value.bytes).ok().map(IpAddr::from))
}
