//! Names of targets, asked through the uplink that they are probed on: the loop never waits for them.
//!
//! Each name has a socket of its own, bound to the path and connected to one resolver at a time. The system's resolver
//! is not used: it would ask through whatever uplink works. Without resolvers of its own, the uplink's gateway is asked.

use std::net::IpAddr;

use super::keys::random;
use super::poller::{Interest, Poller};
use super::socket::Socket;
use crate::config::probe::Word;
use crate::engine::Event;
use crate::engine::action::ProbePath;
use crate::proto::probe::dns::{self, Answer};
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, UplinkSlot};

/// Names that are resolved at a time. One more has to wait until it is asked for again.
const ROOM: usize = 4;
/// How long a resolver is waited for.
const WAIT: Duration = Duration::from_millis(1500);
/// How often each is asked.
const TRIES: usize = 2;
/// Keys of the poller from here on are ours.
pub const KEYS: u64 = 1 << 32;

struct Question {
    socket: Socket,
    uplink: UplinkSlot,
    track: u8,
    name: Word,
    family: Family,
    path: ProbePath,
    servers: heapless::Vec<IpAddr, 2>,
    /// How many times anyone was asked.
    asked: usize,
    id: u16,
    deadline: Instant,
}

/// The names being resolved.
#[derive(Default)]
pub struct Resolver {
    table: [Option<Question>; ROOM],
}

impl Resolver {
    /// Begins to resolve a name; what was asked for the same target before is forgotten.
    ///
    /// # Errors
    /// What the kernel said; `EMFILE` when too many are asked already, `EINVAL` for a name that is none, `ENOENT` when
    /// there is nobody to ask.
    #[allow(clippy::too_many_arguments)]
    pub fn ask(
        &mut self,
        (uplink, track): (UplinkSlot, u8),
        path: &ProbePath,
        name: &str,
        family: Family,
        resolvers: &[IpAddr],
        now: Instant,
        poller: &mut Poller,
    ) -> Result<(), Errno> {
        for place in &mut self.table {
            if place.as_ref().is_some_and(|q| (q.uplink, q.track) == (uplink, track)) {
                *place = None;
            }
        }
        let (at, place) = self.table.iter_mut().enumerate().find(|(_, q)| q.is_none()).ok_or(Errno::EMFILE)?;
        let ours = |server: &IpAddr| server.is_ipv4() == path.source.is_ipv4();
        let mut servers: heapless::Vec<IpAddr, 2> = resolvers.iter().copied().filter(ours).take(2).collect();
        if servers.is_empty() {
            servers.extend(path.hop.gateway.filter(ours));
        }
        let name = Word::try_from(name).map_err(|_| Errno::EINVAL)?;
        let first = servers.first().copied().ok_or(Errno::ENOENT)?;
        let socket = open(path, first)?;
        let id = random() as u16;
        let deadline = now.after(WAIT);
        let question = Question { socket, uplink, track, name, family, path: *path, servers, asked: 1, id, deadline };
        question.send()?;
        poller.watch(&question.socket, key(at), Interest::Read, true)?;
        *place = Some(question);
        Ok(())
    }

    /// Reads what waits for a question.
    pub fn go_on(&mut self, key: u64, now: Instant, poller: &mut Poller, sink: &mut dyn FnMut(Event)) {
        let at = usize::try_from(key.wrapping_sub(KEYS)).unwrap_or(usize::MAX);
        let Some(place) = self.table.get_mut(at) else { return };
        let Some(question) = place else { return };
        let mut buf = [0; dns::ANSWER];
        // Few wait at a time; what is left wakes us again.
        for _ in 0..8 {
            let addr = match question.socket.read(&mut buf) {
                Ok(None) => return,
                Ok(Some(len)) => {
                    let bytes = buf.get(..len).unwrap_or(&[]);
                    match dns::decode(bytes, question.id, &question.name, question.family) {
                        Ok(Answer::Known(addr)) => Some(addr),
                        Ok(Answer::NoName) => Some(None),
                        Ok(Answer::Failed(_)) => None,
                        // Somebody else's words: the answer may still come.
                        Err(_) => continue,
                    }
                }
                // Refused, or unreachable.
                Err(_) => None,
            };
            match addr {
                Some(addr) => finish(place, addr, sink),
                None => ask_next(place, at, now, poller, sink),
            }
            return;
        }
    }

    /// Asks the next resolver where one was silent too long.
    pub fn on_timeout(&mut self, now: Instant, poller: &mut Poller, sink: &mut dyn FnMut(Event)) {
        for (at, place) in self.table.iter_mut().enumerate() {
            if place.as_ref().is_some_and(|q| q.deadline <= now) {
                ask_next(place, at, now, poller, sink);
            }
        }
    }

    /// When the first has been silent too long.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.table.iter().flatten().map(|q| q.deadline).min()
    }
}

fn key(at: usize) -> u64 {
    KEYS | at as u64
}

fn open(path: &ProbePath, server: IpAddr) -> Result<Socket, Errno> {
    let domain = if server.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = Socket::open(domain, libc::SOCK_DGRAM, 0)?;
    socket.bind_path(path)?;
    socket.connect(server, dns::PORT, path.hop.ifindex.0)?;
    Ok(socket)
}

fn finish(place: &mut Option<Question>, addr: Option<IpAddr>, sink: &mut dyn FnMut(Event)) {
    if let Some(question) = place.take() {
        sink(Event::Resolved { uplink: question.uplink, track: question.track, addr });
    }
}

/// Asks again by a new socket, so by a new port; gives up when each was asked often enough.
fn ask_next(place: &mut Option<Question>, at: usize, now: Instant, poller: &mut Poller, sink: &mut dyn FnMut(Event)) {
    while let Some(question) = place {
        let count = question.servers.len();
        if question.asked >= count.saturating_mul(TRIES) {
            return finish(place, None, sink);
        }
        let server = question.servers.get(question.asked % count.max(1)).copied();
        question.asked = question.asked.saturating_add(1);
        question.id = random() as u16;
        question.deadline = now.after(WAIT);
        let Some(socket) = server.and_then(|server| open(&question.path, server).ok()) else { continue };
        question.socket = socket;
        if question.send().and_then(|()| poller.watch(&question.socket, key(at), Interest::Read, true)).is_ok() {
            return;
        }
    }
}

impl Question {
    fn send(&self) -> Result<(), Errno> {
        let mut query = [0; dns::QUERY];
        let len = dns::encode(self.id, &self.name, self.family, &mut query).ok_or(Errno::EINVAL)?;
        self.socket.write(query.get(..len).unwrap_or(&query)).map(drop)
    }
}
