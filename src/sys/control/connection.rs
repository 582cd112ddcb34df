//! One client of the control socket: a request comes in, an answer goes out part by part, as fast as the client reads.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::task::Context;

use crate::sys::wait::Async;

use super::{ClientId, PATIENCE, Rights, Wish};
use crate::engine::{Command, Engine};
use crate::limits;
use crate::proto::control::{Error, FrameWriter, Item, REQUEST_MAX, Request, VERSION, decode_request, split_frame};
use crate::proto::report::{self, Sink};
use crate::sys::journal::Journal;
use crate::sys::trace::Recorder;
use crate::time::{Duration, Instant};
use crate::types::{PolicySlot, UplinkSlot};

/// What is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Nothing: a request may come.
    Idle,
    /// The status, from this part on.
    Status(usize),
    /// The journal, from this number on.
    Events { seq: u32, follow: bool },
    /// Somebody else does something for it.
    Waits,
    /// The last words are in the buffer; then the connection ends.
    Over,
}

/// A connection.
pub(super) struct Connection {
    pub id: ClientId,
    stream: Async<UnixStream>,
    rights: Rights,
    job: Job,
    request: heapless::Vec<u8, REQUEST_MAX>,
    answer: Box<[u8; limits::CONTROL_TX]>,
    /// The part of `answer` that is not sent yet.
    unsent: core::ops::Range<usize>,
    /// When it last got on.
    since: Instant,
    broken: bool,
}

/// Says that all places are taken.
pub(super) fn refuse(mut stream: UnixStream) {
    let mut buf = [0; 64];
    let mut frame = FrameWriter::new(&mut buf);
    frame.item(Item::Failed("busy: all places are taken"));
    let len = frame.finish();
    let _ = stream.set_nonblocking(true);
    let _ = stream.write(buf.get(..len).unwrap_or(&[]));
}

impl Connection {
    pub fn new(id: ClientId, stream: UnixStream, rights: Rights, now: Instant) -> io::Result<Self> {
        Ok(Self {
            id,
            stream: Async::new(stream)?,
            rights,
            job: Job::Idle,
            request: heapless::Vec::new(),
            answer: Box::new([0; limits::CONTROL_TX]),
            unsent: 0..0,
            since: now,
            broken: false,
        })
    }

    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        // Always readable: a client that hangs up is seen there.
        let readable = self.stream.poll_readable(cx).is_ready();
        let writable = !self.unsent.is_empty() && self.stream.poll_writable(cx).is_ready();
        readable || writable
    }

    /// When it is dropped unless it gets on; a follower that has read everything may stay for ever.
    pub fn drop_at(&self) -> Option<Instant> {
        let waits_for_us = self.job == Job::Waits || self.follows() && self.unsent.is_empty();
        (!waits_for_us).then(|| self.since.after(PATIENCE))
    }

    pub fn is_over(&self, now: Instant) -> bool {
        let done = self.job == Job::Over && self.unsent.is_empty();
        self.broken || done || self.drop_at().is_some_and(|at| at <= now)
    }

    /// Since when it has asked for nothing, or has followed without any news.
    pub fn idle_since(&self) -> Option<Instant> {
        let follows_in_peace = self.follows() && self.unsent.is_empty();
        (self.job == Job::Idle || follows_in_peace).then_some(self.since)
    }

    pub fn follows(&self) -> bool {
        matches!(self.job, Job::Events { follow: true, .. })
    }

    pub fn answer(&mut self, result: Result<(), &str>, now: Instant) {
        if self.job == Job::Waits {
            self.say(result.map_or_else(Item::Failed, |()| Item::Done));
            self.send(now);
        }
    }

    /// Puts the last words into the buffer.
    fn say(&mut self, item: Item<'_>) {
        self.report(&mut |_| {}, item);
    }

    /// Puts an answer that fits into one frame into the buffer, and the last words.
    fn report(&mut self, fill: &mut dyn FnMut(&mut FrameWriter<'_>), last: Item<'_>) {
        let mut frame = FrameWriter::new(self.answer.as_mut_slice());
        fill(&mut frame);
        frame.item(last);
        self.unsent = 0..frame.finish();
        self.job = Job::Over;
    }

    pub fn turn(&mut self, engine: &Recorder, journal: &Journal, now: Instant) -> Option<Wish> {
        let wish = if self.job == Job::Idle { self.receive(engine, now) } else { self.listen() };
        while self.send(now) && self.fill(engine, journal, now) {}
        wish
    }

    /// Reads what comes; a whole request begins a job, or is a wish.
    fn receive(&mut self, engine: &Engine, now: Instant) -> Option<Wish> {
        let mut buf = [0; REQUEST_MAX];
        let room = buf.get_mut(..REQUEST_MAX.saturating_sub(self.request.len()))?;
        match self.stream.get_ref().read(room) {
            Ok(0) => self.broken = true,
            Ok(read) => {
                let fits = self.request.extend_from_slice(room.get(..read).unwrap_or(&[])).is_ok();
                self.broken |= !fits;
                self.since = now;
            }
            Err(error) if would_block(&error) => return None,
            Err(_) => self.broken = true,
        }
        let request = std::mem::take(&mut self.request);
        match split_frame(&request, REQUEST_MAX) {
            Ok(None) => {
                self.request = request;
                None
            }
            Ok(Some((content, len))) if len == request.len() => match decode_request(content) {
                Ok(asked) => self.begin(asked, engine),
                Err(error) => self.refuse(&error),
            },
            Ok(Some(_)) => self.refuse(&Error::Content),
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&mut self, error: &Error) -> Option<Wish> {
        self.say(Item::Failed(&format!("{error}; this is linkwatch {}", env!("CARGO_PKG_VERSION"))));
        None
    }

    /// While an answer is under way nothing more may come.
    fn listen(&mut self) -> Option<Wish> {
        match self.stream.get_ref().read(&mut [0; 16]) {
            Err(error) if would_block(&error) => {}
            _ => self.broken = true,
        }
        None
    }

    fn begin(&mut self, request: Request<'_>, engine: &Engine) -> Option<Wish> {
        match self.understand(request, engine) {
            Ok(wish) => {
                if wish.is_some() {
                    self.job = Job::Waits;
                }
                wish
            }
            Err(why) => {
                self.say(Item::Failed(&why));
                None
            }
        }
    }

    fn understand(&mut self, request: Request<'_>, engine: &Engine) -> Result<Option<Wish>, String> {
        if request.changes() && self.rights < Rights::Change {
            return Err("not permitted: only root and the group of the socket may change anything".to_owned());
        }
        // A path is written to with the daemon's rights, not the client's.
        if matches!(request, Request::Trace { .. }) && self.rights < Rights::Root {
            return Err("not permitted: only root may have a run recorded".to_owned());
        }
        Ok(Some(match request {
            Request::Status => {
                self.job = Job::Status(0);
                return Ok(None);
            }
            Request::Events { since, follow } => {
                self.job = Job::Events { seq: since, follow };
                return Ok(None);
            }
            Request::Graph { uplink } => {
                // Sixty minutes fit into one frame.
                let slot = find_uplink(engine, uplink)?;
                self.report(&mut |frame| graph(slot, engine, frame), Item::Done);
                return Ok(None);
            }
            Request::Explain(packet) => {
                self.report(&mut |frame| report::explain::fields(engine.config(), &packet, frame), Item::Done);
                return Ok(None);
            }
            Request::Hold { uplink, hold } => {
                Wish::Command(Command::Hold { uplink: find_uplink(engine, uplink)?, hold })
            }
            Request::Prefer { policy, uplink } => {
                let policy = find_policy(engine, policy)?;
                let uplink = uplink.map(|name| find_uplink(engine, name)).transpose()?;
                let members = engine.config().policies.get(usize::from(policy.0)).map(|p| &p.members);
                if uplink.is_some_and(|u| members.is_some_and(|m| m.iter().all(|m| m.uplink != u))) {
                    return Err("that uplink is no member of the policy".to_owned());
                }
                Wish::Command(Command::Prefer { policy, uplink })
            }
            Request::Probe { uplink, target } => {
                let uplink = find_uplink(engine, uplink)?;
                let mut names = Vec::new();
                if let Some(config) = engine.config().uplinks.get(usize::from(uplink.0)) {
                    names.extend(config.probe.targets.iter().map(|t| t.host.to_string()));
                }
                if names.is_empty() {
                    return Err("that uplink is not probed: it has no track_ip".to_owned());
                }
                let mut track = None;
                if let Some(target) = target {
                    track = (0..).zip(&names).find(|(_, name)| *name == target).map(|(at, _)| at);
                    if track.is_none() {
                        return Err(unknown("target", target, &mut names.iter().map(String::as_str)));
                    }
                }
                Wish::Command(Command::Probe { uplink, track })
            }
            Request::Reload { confirm_ms } => {
                let confirm = confirm_ms.map(|ms| Duration::from_millis(ms.into()));
                Wish::Reload { confirm }
            }
            Request::Confirm => Wish::Confirm,
            Request::FlushFlows { uplink } => Wish::FlushFlows(find_uplink(engine, uplink)?),
            Request::Trace { path, size } => Wish::Trace { path: path.map(PathBuf::from), size },
        }))
    }

    /// Puts the next part of the answer into the empty buffer; `false` when there is none now.
    fn fill(&mut self, engine: &Recorder, journal: &Journal, now: Instant) -> bool {
        let mut frame = FrameWriter::new(self.answer.as_mut_slice());
        let next = match self.job {
            Job::Idle | Job::Waits | Job::Over => return false,
            Job::Status(part) if part < report::parts(engine) => {
                report::status_part(engine, part, now, &mut frame);
                Job::Status(part + 1)
            }
            Job::Status(_) => {
                engine.report(&mut frame);
                frame.item(Item::Done);
                Job::Over
            }
            Job::Events { seq, follow } => match journal.from(seq) {
                Some(entry) => {
                    entry.report(&mut frame);
                    Job::Events { seq: entry.seq.wrapping_add(1), follow }
                }
                None if follow => return false,
                None => {
                    frame.item(Item::Done);
                    Job::Over
                }
            },
        };
        if frame.overflowed {
            log!(Warn, "control: an answer is longer than this board's buffer of {} bytes", limits::CONTROL_TX);
            self.broken = true;
            return false;
        }
        self.unsent = 0..frame.finish();
        self.job = next;
        true
    }

    /// Sends what waits; whether everything went.
    fn send(&mut self, now: Instant) -> bool {
        while let Some(rest) = self.answer.get(self.unsent.clone()).filter(|rest| !rest.is_empty()) {
            match self.stream.get_ref().write(rest) {
                Ok(sent) if sent > 0 => {
                    self.unsent.start += sent;
                    self.since = now;
                }
                Err(error) if would_block(&error) => return false,
                _ => {
                    self.broken = true;
                    return false;
                }
            }
        }
        true
    }
}

fn graph(slot: UplinkSlot, engine: &Engine, frame: &mut FrameWriter<'_>) {
    frame.array("minutes");
    if let Some((_, uplink)) = engine.uplinks().nth(usize::from(slot.0)) {
        for minute in uplink.probing.history.minutes(engine.now()) {
            frame.table("");
            frame.number("sent", minute.sent.into());
            frame.number("loss_permille", minute.loss().map_or(-1, |l| l.0.into()));
            frame.number("rtt_us", minute.rtt().map_or(-1, i64::from));
            frame.number("rtt_max_us", minute.rtt().map_or(-1, |_| minute.longest.into()));
            frame.end();
        }
    }
    frame.end();
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn find_uplink(engine: &Engine, name: &str) -> Result<UplinkSlot, String> {
    let config = engine.config();
    let names = &mut config.uplinks.iter().map(|u| u.name.as_str());
    config.uplink_slot(name).ok_or_else(|| unknown("uplink", name, names))
}

fn find_policy(engine: &Engine, name: &str) -> Result<PolicySlot, String> {
    let config = engine.config();
    let names = &mut config.policies.iter().map(|p| p.name.as_str());
    config.policy_slot(name).ok_or_else(|| unknown("policy", name, names))
}

/// A name that does not exist, and the nearest that does.
fn unknown(what: &str, name: &str, known: &mut dyn Iterator<Item = &str>) -> String {
    let mut nearest = (usize::MAX, "");
    for known in known {
        nearest = nearest.min((distance(name, known), known));
    }
    let (far, near) = nearest;
    let shown = name.get(..name.floor_char_boundary(40)).unwrap_or("").escape_default();
    if far <= near.len().max(name.len()) / 2 {
        return format!("no {what} '{shown}'; did you mean '{near}'?");
    }
    format!("no {what} '{shown}'")
}

/// Letters that distance looks at: names are short.
const LETTERS: usize = 64;

/// Letters to be changed, added or taken away between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b = b.bytes().take(LETTERS);
    // How far the begin of `a` is from so many letters of `b`.
    let mut row = [0_usize; LETTERS + 1];
    row.iter_mut().enumerate().for_each(|(n, place)| *place = n);
    for (n, from) in a.bytes().take(LETTERS).enumerate() {
        let (mut diagonal, mut left) = (n, n + 1);
        row[0] = left;
        for (place, to) in row.iter_mut().skip(1).zip(b.clone()) {
            let above = *place;
            left = (diagonal + usize::from(from != to)).min(above + 1).min(left + 1);
            *place = left;
            diagonal = above;
        }
    }
    row.get(b.len()).copied().unwrap_or(0)
}

/// The version of the frames that are answered with.
const _: () = assert!(VERSION == 1, "an older client must get a clear answer: think of it when this changes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_exist_brings_the_nearest() {
        let known = ["wan", "wanb", "lte"];
        assert_eq!(unknown("uplink", "wanbb", &mut known.into_iter()), "no uplink 'wanbb'; did you mean 'wanb'?");
        assert_eq!(unknown("uplink", "xyzzy", &mut known.into_iter()), "no uplink 'xyzzy'");
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("abc", "adc")), (3, 0, 1));
    }
}
