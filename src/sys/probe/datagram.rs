//! Probes without a connection: echo, ARP, neighbour discovery, DNS. One socket per kind and family sends and hears all.
//!
//! The sockets are never polled: an answer waits in the kernel with its time stamp until the loop wakes for its next
//! timer, so a probe costs one wake-up and not two. Filters in the kernel see to it that forgeries do not wait there.
//!
//! Only DNS has a socket per uplink: the kernel and all translators on the way tell flows by their ports, and two
//! uplinks with the same address would share one flow.

use std::net::IpAddr;

use libc::c_int;

use super::keys::{Keys, random};
use super::pending::{Pending, Ring, Wait};
use super::socket::{Message, Socket, To, arp_protocol};
use super::stamps::Stamps;
use crate::config::probe::{ProbeConfig, Word};
use crate::engine::Event;
use crate::engine::action::ProbeRequest;
use crate::engine::event::{ProbeId, ProbeOutcome, Refusal};
use crate::limits;
use crate::proto::probe::echo::{self, Echo, Heard, Quote, Ticket};
use crate::proto::probe::{arp, dns, filter, ndp};
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, UplinkSlot};

/// Messages read from one socket in a turn; the rest waits for the next.
const BUDGET: usize = 256;
/// Bytes of the receive buffer: a packet of the usual size is read whole, of a longer one its head.
const BUFFER: usize = 2048;
/// Hop limit of DNS queries; other probes say their own.
const HOPS: u8 = 64;
/// `SOL_RAW`, `ICMP_FILTER`: types that are not even looked at.
const ICMP_FILTER: (c_int, c_int) = (255, 1);
/// `SOL_ICMPV6`, `ICMPV6_FILTER`
const ICMPV6_FILTER: (c_int, c_int) = (58, 1);
/// A DNS socket that went unanswered so often gets another port, in case a translator on the way has gone wrong with it.
const UNANSWERED: u8 = 3;
/// But not before this age.
const DNS_AGE: Duration = Duration::from_secs(5);

/// The sockets of one uplink for DNS.
#[derive(Default)]
struct Dns {
    sockets: [Option<Socket>; 2],
    opened: Instant,
    unanswered: u8,
    name: Word,
}

/// The sockets, opened at first use, and what was sent by them.
pub struct Datagrams {
    keys: Keys,
    pending: Ring,
    echo: [Option<Socket>; 2],
    arp: Option<Socket>,
    ndp: Option<Socket>,
    dns: [Dns; limits::UPLINKS],
    buf: [u8; BUFFER],
}

impl Datagrams {
    /// Without any socket.
    pub fn new() -> Self {
        Self {
            keys: Keys::new(Instant::ZERO),
            pending: Ring::default(),
            echo: [None, None],
            arp: None,
            ndp: None,
            dns: std::array::from_fn(|_| Dns::default()),
            buf: [0; BUFFER],
        }
    }

    /// Sends an echo request.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send_echo(&mut self, request: &ProbeRequest, config: &ProbeConfig, now: Instant) -> Result<(), Errno> {
        let (probe, path, family) = (request.id, &request.path, Family::of(request.target));
        if self.keys.turn(now) {
            self.filter_echoes()?;
        }
        let ticket = Ticket {
            tag: self.keys.tag(),
            uplink: probe.uplink.0,
            track: probe.track,
            life: probe.life,
            sent: now.micros(),
            cookie: 0,
        };
        let mut echo = Echo { id: self.keys.id(probe.uplink.0, now), seq: probe.seq, ticket };
        echo.ticket.cookie = self.keys.seal(&echo, request.target, path.hop.ifindex.0);
        let head = echo::encode(family, &echo);
        let padding = usize::from(config.size).saturating_sub(echo::TICKET);
        let secret = self.keys.secret();
        let place = if family == Family::V4 { &mut self.echo[0] } else { &mut self.echo[1] };
        let socket = opened(place, &|| match family {
            Family::V4 => {
                let socket = Socket::open(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
                socket.filter(&filter::echo_v4(secret))?;
                let unwanted: u32 = !(1 << 0 | 1 << 3 | 1 << 11);
                socket.set(ICMP_FILTER.0, ICMP_FILTER.1, unwanted)?;
                socket.want_details(libc::AF_INET)?;
                Ok(socket)
            }
            Family::V6 => {
                let socket = Socket::open(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)?;
                socket.filter(&filter::echo_v6(secret))?;
                socket.set(ICMPV6_FILTER.0, ICMPV6_FILTER.1, only_icmpv6(&[1, 3, 129]))?;
                socket.want_details(libc::AF_INET6)?;
                Ok(socket)
            }
        })?;
        socket.send(To::Host(request.target, 0), path, Some(config.max_ttl), &head, padding)?;
        let wait = Wait::Echo { id: echo.id, checksum: u16::from_be_bytes([head[2], head[3]]) };
        self.pending.push(pending(request, wait, now));
        Ok(())
    }

    /// Asks for a neighbour, by ARP or neighbour discovery.
    ///
    /// # Errors
    /// What the kernel said; `EOPNOTSUPP` on a device without neighbours.
    pub fn send_neighbour(&mut self, request: &ProbeRequest, now: Instant) -> Result<(), Errno> {
        let path = &request.path;
        match (request.target, path.source) {
            (IpAddr::V4(target), IpAddr::V4(source)) => {
                let socket = opened(&mut self.arp, &|| {
                    // Opened deaf, so that nothing comes before the filter.
                    let socket = Socket::open(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
                    socket.filter(&filter::arp())?;
                    socket.want_details(libc::AF_PACKET)?;
                    socket.listen_to_all(arp_protocol())?;
                    Ok(socket)
                })?;
                let question = arp::encode(socket.mac(path.hop.ifindex.0)?, source, target);
                socket.send(To::Link, path, None, &question, 0)?;
                self.pending.push(pending(request, Wait::Arp, now));
            }
            (IpAddr::V6(target), IpAddr::V6(_)) => {
                let socket = opened(&mut self.ndp, &|| {
                    let socket = Socket::open(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)?;
                    socket.filter(&filter::ndp())?;
                    socket.set(ICMPV6_FILTER.0, ICMPV6_FILTER.1, only_icmpv6(&[136]))?;
                    socket.want_details(libc::AF_INET6)?;
                    Ok(socket)
                })?;
                // A device without a link address still has neighbours (RFC 4861, 4.3).
                let mac = socket.mac(path.hop.ifindex.0).map(Some).or_else(|errno| match errno {
                    Errno::EOPNOTSUPP => Ok(None),
                    errno => Err(errno),
                })?;
                let (question, len) = ndp::encode(target, mac);
                let question = question.get(..len).unwrap_or(&question);
                let group = To::Host(IpAddr::V6(ndp::solicited_node(target)), 0);
                socket.send(group, path, Some(ndp::HOP_LIMIT), question, 0)?;
                self.pending.push(pending(request, Wait::Ndp, now));
            }
            _ => return Err(Errno::EAFNOSUPPORT),
        }
        Ok(())
    }

    /// Sends a DNS query.
    ///
    /// # Errors
    /// What the kernel said; `EINVAL` for a name that is none.
    pub fn send_dns(&mut self, request: &ProbeRequest, config: &ProbeConfig, now: Instant) -> Result<(), Errno> {
        let family = Family::of(request.target);
        let uplink = self.dns.get_mut(usize::from(request.id.uplink.0)).ok_or(Errno::EINVAL)?;
        if uplink.unanswered >= UNANSWERED && now.since(uplink.opened) >= DNS_AGE {
            uplink.sockets = [None, None];
        }
        let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
        let place = if family == Family::V4 { &mut uplink.sockets[0] } else { &mut uplink.sockets[1] };
        if place.is_none() {
            (uplink.opened, uplink.unanswered) = (now, 0);
        }
        let socket = opened(place, &|| {
            let socket = Socket::open(domain, libc::SOCK_DGRAM, 0)?;
            socket.filter(&filter::dns())?;
            socket.want_details(domain)?;
            let (level, option) = match family {
                Family::V4 => (libc::IPPROTO_IP, libc::IP_RECVERR),
                Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
            };
            socket.set::<c_int>(level, option, 1)?;
            Ok(socket)
        })?;
        let id = random() as u16;
        let mut query = [0; dns::QUERY];
        let len = dns::encode(id, &config.name, family, &mut query).ok_or(Errno::EINVAL)?;
        let query = query.get(..len).unwrap_or(&query);
        let to = To::Host(request.target, dns::PORT);
        // The first try may bring the news of an earlier message instead.
        socket
            .send(to, &request.path, Some(HOPS), query, 0)
            .or_else(|_| socket.send(to, &request.path, Some(HOPS), query, 0))?;
        if uplink.name != config.name {
            uplink.name.clone_from(&config.name);
        }
        uplink.unanswered = uplink.unanswered.saturating_add(1);
        self.pending.push(pending(request, Wait::Dns { id }, now));
        Ok(())
    }

    /// Reads what waits.
    pub fn receive(&mut self, now: Instant, stamps: &Stamps, sink: &mut dyn FnMut(Event)) {
        let Self { keys, pending, echo, arp, ndp, dns, buf, .. } = self;
        let [echo_v4, echo_v6] = &*echo;
        each(echo_v4, buf, &mut |message, bytes| {
            match echo::decode_v4(bytes, message.cut) {
                Ok(heard) => hear_echo(keys, pending, heard, message, now, stamps, sink),
                Err(junk) => log!(Trace, "echo: {junk}"),
            };
        });
        each(echo_v6, buf, &mut |message, bytes| match echo::decode_v6(bytes) {
            Ok(heard) => hear_echo(keys, pending, heard, message, now, stamps, sink),
            Err(junk) => log!(Trace, "echo: {junk}"),
        });
        each(arp, buf, &mut |message, bytes| match arp::decode(bytes) {
            Ok(reply) => {
                let (from, to) = (IpAddr::V4(reply.sender), IpAddr::V4(reply.target));
                hear_neighbour(pending, Wait::Arp, (from, to), message, now, stamps, sink);
            }
            Err(junk) => log!(Trace, "arp: {junk}"),
        });
        each(ndp, buf, &mut |message, bytes| match (ndp::decode(bytes, message.hop_limit), message.to) {
            (Ok(from), Some(to)) => {
                hear_neighbour(pending, Wait::Ndp, (IpAddr::V6(from), to), message, now, stamps, sink);
            }
            (Ok(_), None) => {}
            (Err(junk), _) => log!(Trace, "ndp: {junk}"),
        });
        for (slot, uplink) in dns.iter_mut().enumerate() {
            let slot = UplinkSlot(slot as u8);
            for (family, socket) in Family::BOTH.into_iter().zip(&uplink.sockets) {
                let Some(socket) = socket else { continue };
                for _ in 0..BUDGET {
                    let Ok(Some(message)) = socket.receive(buf, true) else { break };
                    let bytes = buf.get(..message.len).unwrap_or(&[]);
                    hear_dns_error(pending, slot, &message, bytes, now, stamps, sink);
                }
                each_of(socket, buf, &mut |message, bytes| {
                    let answered = hear_dns(pending, (slot, family), &uplink.name, message, bytes, now, stamps, sink);
                    if answered {
                        uplink.unanswered = 0;
                    }
                });
            }
        }
    }

    /// Tells the filters the tag of now.
    fn filter_echoes(&mut self) -> Result<(), Errno> {
        let secret = self.keys.secret();
        let [v4, v6] = &self.echo;
        if let Some(socket) = v4 {
            socket.filter(&filter::echo_v4(secret))?;
        }
        if let Some(socket) = v6 {
            socket.filter(&filter::echo_v6(secret))?;
        }
        Ok(())
    }
}

fn pending(request: &ProbeRequest, wait: Wait, sent: Instant) -> Pending {
    let path = &request.path;
    let (ifindex, source, target) = (path.hop.ifindex.0, path.source, request.target);
    Pending { wait, probe: request.id, sent, ifindex, source, target }
}

/// The socket there, opened now if it is not.
fn opened<'a>(place: &'a mut Option<Socket>, open: &dyn Fn() -> Result<Socket, Errno>) -> Result<&'a Socket, Errno> {
    match place {
        Some(socket) => Ok(socket),
        None => Ok(place.insert(open()?)),
    }
}

/// `struct icmp6_filter`: a bit per type, set for those that are not wanted.
fn only_icmpv6(types: &[u8]) -> [u32; 8] {
    let mut unwanted = [u32::MAX; 8];
    for kind in types {
        if let Some(word) = unwanted.get_mut(usize::from(kind >> 5)) {
            *word &= !(1 << (kind & 31));
        }
    }
    unwanted
}

fn each(socket: &Option<Socket>, buf: &mut [u8], hear: &mut dyn FnMut(&Message, &[u8])) {
    if let Some(socket) = socket {
        each_of(socket, buf, hear);
    }
}

/// Gives each message that waits to `hear`. An error of the socket is news of an earlier message, and read by that.
fn each_of(socket: &Socket, buf: &mut [u8], hear: &mut dyn FnMut(&Message, &[u8])) {
    for _ in 0..BUDGET {
        match socket.receive(buf, false) {
            Ok(Some(message)) => hear(&message, buf.get(..message.len).unwrap_or(&[])),
            Ok(None) => return,
            Err(errno) => log!(Trace, "probe socket: {errno}"),
        }
    }
}

fn probe(ticket: &Ticket, seq: u16) -> ProbeId {
    ProbeId { uplink: UplinkSlot(ticket.uplink), track: ticket.track, seq, life: ticket.life }
}

fn hear_echo(
    keys: &Keys,
    pending: &Ring,
    heard: Heard,
    message: &Message,
    now: Instant,
    stamps: &Stamps,
    sink: &mut dyn FnMut(Event),
) {
    let mut tell = |id, outcome, sent| {
        let at = stamps.instant(message.stamp, sent, now);
        sink(Event::Probe { id, outcome, at });
    };
    match (heard, message.from) {
        (Heard::Reply(echo), Some(from)) if keys.opens(&echo, from, message.ifindex, now) => {
            let sent = Instant::from_micros(echo.ticket.sent);
            tell(probe(&echo.ticket, echo.seq), ProbeOutcome::Answered, sent);
        }
        (Heard::Error(Quote { refusal, target, id, seq, ticket: Some(ticket), .. }), _) => {
            let echo = Echo { id, seq, ticket };
            if keys.opens(&echo, target, message.ifindex, now) {
                let sent = Instant::from_micros(ticket.sent);
                tell(probe(&ticket, seq), ProbeOutcome::Refused(refusal), sent);
            }
        }
        (Heard::Error(quote), _) => {
            let wait = Wait::Echo { id: quote.id, checksum: quote.checksum };
            let found = pending.find(|p| {
                p.wait == wait
                    && (p.probe.seq, p.target, p.source, p.ifindex)
                        == (quote.seq, quote.target, quote.source, message.ifindex)
            });
            if let Some(found) = found {
                tell(found.probe, ProbeOutcome::Refused(quote.refusal), found.sent);
            }
        }
        _ => log!(Trace, "echo: not ours"),
    }
}

fn hear_neighbour(
    ring: &Ring,
    wait: Wait,
    (from, to): (IpAddr, IpAddr),
    message: &Message,
    now: Instant,
    stamps: &Stamps,
    sink: &mut dyn FnMut(Event),
) {
    // It answers the newest question that was asked before it came.
    let came = stamps.earliest(message.stamp, now);
    let fits = |p: &Pending| {
        p.wait == wait && p.sent <= came && (p.target, p.source, p.ifindex) == (from, to, message.ifindex)
    };
    ring.each_newest(fits, |p| {
        let at = stamps.instant(message.stamp, p.sent, now);
        sink(Event::Probe { id: p.probe, outcome: ProbeOutcome::Answered, at });
    });
}

#[allow(clippy::too_many_arguments)]
fn hear_dns(
    ring: &Ring,
    (uplink, family): (UplinkSlot, Family),
    name: &str,
    message: &Message,
    bytes: &[u8],
    now: Instant,
    stamps: &Stamps,
    sink: &mut dyn FnMut(Event),
) -> bool {
    let bytes = bytes.get(..dns::ANSWER).unwrap_or(bytes);
    let Some(id) = bytes.first_chunk::<2>().map(|b| u16::from_be_bytes(*b)) else { return false };
    let found = ring.find(|p| {
        p.wait == Wait::Dns { id }
            && p.probe.uplink == uplink
            && (Some(p.target), p.ifindex) == (message.from, message.ifindex)
    });
    let Some(found) = found else { return false };
    let outcome = match dns::decode(bytes, id, name, family) {
        Ok(dns::Answer::Known(_) | dns::Answer::NoName) => ProbeOutcome::Answered,
        Ok(dns::Answer::Failed(_)) => ProbeOutcome::Refused(Refusal::BadAnswer),
        Err(junk) => {
            log!(Trace, "dns: {junk}");
            return false;
        }
    };
    let at = stamps.instant(message.stamp, found.sent, now);
    sink(Event::Probe { id: found.probe, outcome, at });
    true
}

/// An ICMP error about a query; the kernel has checked that it quotes our socket's ports.
fn hear_dns_error(
    ring: &Ring,
    uplink: UplinkSlot,
    message: &Message,
    bytes: &[u8],
    now: Instant,
    stamps: &Stamps,
    sink: &mut dyn FnMut(Event),
) {
    let refusal = match (message.icmp, message.from) {
        (Some((3, 4)), Some(IpAddr::V4(_))) => return,
        (Some((3, _)), Some(IpAddr::V4(_))) | (Some((1, _)), Some(IpAddr::V6(_))) => Refusal::Unreachable,
        (Some((11, _)), Some(IpAddr::V4(_))) | (Some((3, _)), Some(IpAddr::V6(_))) => Refusal::Expired,
        _ => return,
    };
    // Old routers quote nothing of the query: then it was the newest.
    let id = bytes.first_chunk::<2>().map(|b| u16::from_be_bytes(*b));
    let found = ring.find(|p| {
        let dns = matches!(p.wait, Wait::Dns { id: sent } if id.is_none_or(|id| id == sent));
        dns && p.probe.uplink == uplink && Some(p.target) == message.from
    });
    if let Some(found) = found {
        let at = stamps.instant(message.stamp, found.sent, now);
        sink(Event::Probe { id: found.probe, outcome: ProbeOutcome::Refused(refusal), at });
    }
}
