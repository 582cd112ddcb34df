//! `RTM_GETROUTE` with all of its answer: which table, device, gateway and source a packet would take.

use std::net::IpAddr;

use super::encode::put_ip;
use super::{af, number as n};
use crate::engine::explain::Packet;
use crate::proto::netlink::{self, Bytes, Full, Writer, messages};
use crate::types::{Errno, Family, IfIndex};

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

/// A packet of which it is asked where it would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// The packet.
    pub packet: Packet,
    /// Its mark; 0 for none.
    pub mark: u32,
    /// The link that it comes in by; `None` for what the router itself sends.
    pub iif: Option<IfIndex>,
}

/// Writes the question. Ports are only asked with TCP and UDP, protocols only where the kernel knows them
/// (`rtm_getroute_parse_ip_proto`).
///
/// # Errors
/// [`Full`]: 128 bytes are enough.
pub fn encode_lookup(journey: &Journey, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let packet = &journey.packet;
    let family = Family::of(packet.dst);
    let bits = |addr: IpAddr| if addr.is_ipv4() { 32 } else { 128 };
    let mut writer = Writer::new(buf, n::GETROUTE, 0, seq);
    writer.put(&[af(family), bits(packet.dst), packet.src.map_or(0, bits), 0, 0, 0, 0, 0]);
    writer.put(&LOOKUP_TABLE.to_ne_bytes());
    put_ip(&mut writer, n::RTA_DST, packet.dst);
    if let Some(src) = packet.src {
        put_ip(&mut writer, n::RTA_SRC, src);
    }
    if let Some(iif) = journey.iif {
        writer.attribute_u32(n::RTA_IIF, iif.0);
    }
    writer.attribute_u32(n::RTA_MARK, journey.mark);
    let (icmp, has_ports) = (if family == Family::V4 { 1 } else { 58 }, matches!(packet.proto, Some(6 | 17)));
    if let Some(proto) = packet.proto.filter(|p| has_ports || *p == icmp) {
        writer.attribute(n::RTA_IP_PROTO, &[proto]);
    }
    for (kind, port) in [(n::RTA_SPORT, packet.sport), (n::RTA_DPORT, packet.dport)] {
        if let Some(port) = port.filter(|_| has_ports) {
            writer.attribute(kind, &port.to_be_bytes());
        }
    }
    writer.finish()
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
