//! Probes with a connection: TCP, and HTTP over it. One socket each, from a fixed table.
//!
//! A connection ends as soon as it has told what it was asked: a TCP probe when it stands, an HTTP probe with the status.
//! It is reset then, not closed: that is one packet instead of three, and leaves no port waiting for a minute. One that
//! tells nothing in time is forgotten in silence.

use heapless::String;

use super::poller::{Interest, Poller};
use super::socket::Socket;
use crate::config::probe::{Host, Method, ProbeConfig};
use crate::engine::Event;
use crate::engine::action::ProbeRequest;
use crate::engine::event::{ProbeId, ProbeOutcome, Refusal};
use crate::limits;
use crate::proto::probe::http::{self, Progress, StatusLine};
use crate::time::Instant;
use crate::types::Errno;

/// Bytes of an answer that are read at most.
const ANSWER: usize = 512;

/// How far a connection is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Connecting,
    Sending { done: usize },
    Reading { line: StatusLine, read: usize },
}

struct Connection {
    socket: Socket,
    probe: ProbeId,
    deadline: Instant,
    stage: Stage,
    /// What is sent when it stands, and the status that is wanted; nothing for plain TCP.
    request: Option<(String<{ http::REQUEST }>, u16)>,
}

/// The connections under way.
#[derive(Default)]
pub struct Connections {
    table: [Option<Connection>; limits::CONNECTIONS],
}

impl Connections {
    /// Begins one.
    ///
    /// # Errors
    /// What the kernel said; `EMFILE` when the table is full.
    pub fn send(
        &mut self,
        request: &ProbeRequest,
        config: &ProbeConfig,
        now: Instant,
        poller: &mut Poller,
    ) -> Result<(), Errno> {
        let (key, place) = self.table.iter_mut().enumerate().find(|(_, c)| c.is_none()).ok_or(Errno::EMFILE)?;
        let words = match config.method {
            Method::Http => {
                let target = config.targets.get(usize::from(request.id.track)).map(|t| &t.host);
                let host = match target {
                    Some(Host::Name(name)) if config.name.is_empty() => name,
                    _ => &config.name,
                };
                let text = http::request(host, &config.path, request.target, config.port);
                Some((text.ok_or(Errno::EINVAL)?, config.status))
            }
            _ => None,
        };
        let domain = if request.target.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = Socket::open(domain, libc::SOCK_STREAM, 0)?;
        socket.set(libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })?;
        socket.bind_path(&request.path)?;
        socket.connect(request.target, config.port, request.path.hop.ifindex.0)?;
        poller.watch(&socket, key as u64, Interest::Write, true)?;
        let deadline = now.after(config.timeout);
        *place = Some(Connection { socket, probe: request.id, deadline, stage: Stage::Connecting, request: words });
        Ok(())
    }

    /// Goes on with a connection that is ready.
    pub fn go_on(&mut self, key: u64, now: Instant, poller: &mut Poller, sink: &mut dyn FnMut(Event)) {
        let Some(place) = usize::try_from(key).ok().and_then(|at| self.table.get_mut(at)) else { return };
        let Some(connection) = place else { return };
        let Some(end) = connection.go_on(key, poller) else { return };
        let id = connection.probe;
        *place = None;
        if let Some(outcome) = end {
            sink(Event::Probe { id, outcome, at: now });
        }
    }

    /// Forgets those whose time is over.
    pub fn on_timeout(&mut self, now: Instant) {
        for place in &mut self.table {
            if place.as_ref().is_some_and(|c| c.deadline <= now) {
                *place = None;
            }
        }
    }

    /// When the first time is over.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.table.iter().flatten().map(|c| c.deadline).min()
    }
}

/// How it ended; `None` when it only failed here.
type End = Option<ProbeOutcome>;

impl Connection {
    /// One step; `None` to wait for more.
    fn go_on(&mut self, key: u64, poller: &mut Poller) -> Option<End> {
        if let Stage::Connecting = self.stage {
            match self.socket.take_error() {
                Errno::OK if self.request.is_none() => return Some(Some(ProbeOutcome::Answered)),
                Errno::OK => self.stage = Stage::Sending { done: 0 },
                errno => return Some(refusal(errno)),
            }
        }
        let Some((text, status)) = &self.request else { return Some(None) };
        if let Stage::Sending { done } = &mut self.stage {
            let rest = text.as_bytes().get(*done..).unwrap_or(&[]);
            match self.socket.write(rest) {
                Ok(sent) => *done = done.saturating_add(sent),
                Err(_) if would_block() => return None,
                Err(errno) => return Some(refusal(errno)),
            }
            if *done < text.len() {
                return None;
            }
            self.stage = Stage::Reading { line: StatusLine::default(), read: 0 };
            return match poller.watch(&self.socket, key, Interest::Read, false) {
                Ok(()) => None,
                Err(errno) => Some(refusal(errno)),
            };
        }
        let Stage::Reading { line, read } = &mut self.stage else { return None };
        let mut buf = [0; ANSWER];
        let room = ANSWER.saturating_sub(*read);
        let len = match self.socket.read(buf.get_mut(..room).unwrap_or(&mut [])) {
            Ok(Some(0)) => return Some(Some(ProbeOutcome::Refused(Refusal::Closed))),
            Ok(Some(len)) => len,
            Ok(None) => return None,
            Err(errno) => return Some(refusal(errno)),
        };
        *read = read.saturating_add(len);
        match line.feed(buf.get(..len).unwrap_or(&[])) {
            Progress::Status(found) if *status == 0 || found == *status => Some(Some(ProbeOutcome::Answered)),
            Progress::Status(found) => Some(Some(ProbeOutcome::Refused(Refusal::BadStatus(found)))),
            // No status at all is another status.
            Progress::Garbage => Some(Some(ProbeOutcome::Refused(Refusal::BadStatus(0)))),
            Progress::More => None,
        }
    }
}

fn would_block() -> bool {
    std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock
}

/// What an error of a connection says. Silence (`ETIMEDOUT`) and trouble of our own say nothing.
fn refusal(errno: Errno) -> End {
    const ECONNRESET: u16 = 104;
    const ECONNREFUSED: u16 = 111;
    const EHOSTDOWN: u16 = 112;
    const EHOSTUNREACH: u16 = 113;
    const EPIPE: u16 = 32;
    match errno {
        Errno(ECONNRESET | ECONNREFUSED | EPIPE) => Some(ProbeOutcome::Refused(Refusal::Closed)),
        Errno::ENETUNREACH | Errno(EHOSTDOWN | EHOSTUNREACH) => Some(ProbeOutcome::Refused(Refusal::Unreachable)),
        _ => None,
    }
}
