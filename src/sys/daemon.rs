//! The loop: what came in goes to the engine, what the engine asks for goes out.

mod flows;
mod plan;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::clock::Clock;
use super::control::{Control, Wish};
use super::netfilter::Netfilter;
use super::netlink::{GROUP_LINK, GROUPS_STATE, Received, Socket};
use super::nft::Nft;
use super::peer;
use super::probe::Prober;
use super::ration::Ration;
use super::signal::{Signal, Signals};
use super::store::{self, OldValue, State};
use super::sysctl;
use super::text::Text;
use super::wait::{Async, Timer};
use crate::config::Config;
use crate::config::probe::Host;
use crate::engine::action::Load;
use crate::engine::action::{ProbePath, ProbeRequest};
use crate::engine::event::ProbeOutcome;
use crate::engine::object::{RouteSpec, RouteTarget};
use crate::engine::{Action, Dump, Engine, Event, Feed, Notice, Op, Token, layout};
use crate::limits;
use crate::proto::nft;
use crate::proto::rtnl::{Answers, decode_notification, state_filter};
use crate::time::Instant;
use crate::types::{Errno, Family, FwMark, IfIndex, IfName, PolicySlot, UplinkSlot};

/// Datagrams read from one socket before the others get their turn.
const BUDGET: usize = 64;
/// Bytes of the longest request.
const REQUEST: usize = 512 + 8 * limits::GROUP;

/// How the daemon runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state file.
    pub state: PathBuf,
    /// Where the control socket is, if there is to be one.
    pub control: Option<PathBuf>,
    /// Receive buffers of this many bytes instead of the system's: for tests of overruns.
    pub receive_buffer: Option<u32>,
}

/// What to do with the engine's wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Carry them out.
    Real,
    /// Say what would be done, and pretend that it was.
    Pretend,
}

/// The daemon's sockets and files around the engine.
pub struct Daemon {
    engine: Box<Engine>,
    clock: Clock,
    links: Async<Socket>,
    state: Async<Socket>,
    requests: Async<Socket>,
    netfilter: Netfilter,
    nft: Nft,
    answers: Answers,
    prober: Box<Prober>,
    options: Options,
    stored: State,
    mode: Mode,
    /// The dump to ask for at the end of this turn.
    dump: Option<Dump>,
    buf: Vec<u8>,
    changes: Vec<String>,
    /// Names of the uplinks' links, for words; older numbers go when there are too many.
    names: BTreeMap<IfIndex, IfName>,
    control: Option<Control>,
    ration: Ration,
    /// The configuration to go back to unless the new one is confirmed by then.
    before: Option<(Box<Config>, Instant)>,
}

impl Daemon {
    /// Opens the sockets and makes the engine. Nothing is changed yet.
    ///
    /// # Errors
    /// No sockets, or no privileges.
    pub fn open(config: &Config, options: Options) -> io::Result<Self> {
        let clock = Clock::start();
        let stored = store::load(&options.state);
        let links = Socket::open(&[GROUP_LINK], options.receive_buffer)?;
        let state = Socket::open(&GROUPS_STATE, options.receive_buffer)?;
        if let Err(error) = state.filter(&state_filter()) {
            log::warn!("no socket filter ({error}): every foreign route wakes the daemon");
        }
        let mut engine = Box::new(Engine::new(config, clock.now()));
        engine.restore(&stored.history, clock.now());
        Ok(Self {
            engine,
            clock,
            links: Async::new_nonblocking(links)?,
            state: Async::new_nonblocking(state)?,
            requests: Async::new_nonblocking(Socket::open(&[], None)?)?,
            netfilter: Netfilter::open(),
            nft: Nft::default(),
            answers: Answers::default(),
            prober: Box::default(),
            options,
            stored,
            mode: Mode::Real,
            dump: None,
            buf: vec![0; limits::NETLINK_RX],
            changes: Vec::new(),
            names: BTreeMap::new(),
            control: None,
            ration: Ration::default(),
            before: None,
        })
    }

    /// Whether we may change routes: asks the kernel to delete a route that is not there.
    ///
    /// # Errors
    /// We may not.
    pub async fn check_privileges(&mut self) -> io::Result<()> {
        let route = RouteSpec {
            family: Family::V4,
            table: layout::policy_table(PolicySlot(u8::MAX)),
            metric: layout::METRIC_LAST,
            target: RouteTarget::Unreachable,
        };
        let asked = Token(1);
        let mut request = [0; REQUEST];
        let action = Action::Route { token: asked, op: Op::Delete, route };
        let len = self.answers.encode(&action, &mut request).unwrap_or(0);
        self.requests.get_ref().send(request.get(..len).unwrap_or(&[]))?;
        let mut answer = None;
        // The kernel answers before send() returns.
        while let Received::Datagram(len) = self.requests.get_ref().receive(&mut self.buf)? {
            let datagram = self.buf.get(..len).unwrap_or(&[]);
            let _ = self.answers.decode(datagram, &mut |event| match event {
                Event::Acked { token, errno } if token == asked => answer = Some(errno),
                _ => {}
            });
        }
        match answer {
            Some(Errno::EPERM) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "changing routes needs CAP_NET_ADMIN: run as root or give it that capability",
            )),
            _ => Ok(()),
        }
    }

    /// Opens the control socket. Without it the daemon does its work all the same.
    ///
    /// # Errors
    /// Another daemon listens there: then this one should not run.
    pub fn open_control(&mut self) -> io::Result<()> {
        let Some(path) = &self.options.control else { return Ok(()) };
        let group = self.engine.config().globals.control_group.as_ref();
        let group = group.and_then(|name| {
            let id = peer::group_id(name);
            if id.is_none() {
                log::warn!("control_group {name}: no such group; only root may change anything");
            }
            id
        });
        match Control::listen(path, group) {
            Ok(control) => self.control = Some(control),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
            }
            Err(error) => log::error!("control socket {}: {error}; going on without", path.display()),
        }
        Ok(())
    }

    /// Runs until a signal ends it; `reload` gives another configuration, or `None` to keep the running one.
    ///
    /// # Errors
    /// A socket broke for good.
    pub async fn run(&mut self, signals: Signals, reload: &mut dyn FnMut() -> Option<Config>) -> io::Result<()> {
        let signals = Async::new_nonblocking(signals)?;
        let mut timer = Timer::never();
        let mut armed = None;
        loop {
            self.drain()?;
            if self.dump.is_some() {
                self.read_all()?;
            }
            let control = self.control.as_ref().and_then(Control::next_timeout);
            let confirm = self.before.as_ref().map(|(_, until)| *until);
            let probes = self.prober.next_timeout();
            let next = [self.engine.poll_timeout(), probes, control, confirm].into_iter().flatten().min();
            if next != armed {
                armed = next;
                match next {
                    Some(at) => timer.set_at(self.clock.deadline(at)),
                    None => timer = Timer::never(),
                }
            }
            let ready = std::future::poll_fn(|cx| self.poll_ready(cx, Some(&signals), &mut timer)).await;
            while let Some(signal) = signals.get_ref().next() {
                match signal {
                    Signal::Terminate => return self.end(),
                    Signal::Reload => {
                        self.before = None;
                        self.reload(reload);
                    }
                }
            }
            self.read_all()?;
            if ready.nft {
                self.read_nft()?;
            }
            if ready.timer {
                armed = None;
                let (engine, now) = (&mut self.engine, self.clock.now());
                self.prober.on_timeout(now, &mut |event| engine.handle_event(event, now));
                engine.handle_timeout(now);
            }
            self.drain()?;
            self.turn_control(reload)?;
        }
    }

    fn reload(&mut self, reload: &mut dyn FnMut() -> Option<Config>) -> bool {
        let Some(config) = reload() else { return false };
        log::info!("Configuration read again");
        self.engine.reconfigure(&config, self.clock.now());
        true
    }

    /// Clients come last: whatever they want, the links were read and traffic was moved before.
    fn turn_control(&mut self, reload: &mut dyn FnMut() -> Option<Config>) -> io::Result<()> {
        let now = self.clock.now();
        if let Some((before, _)) = self.before.take_if(|(_, until)| *until <= now) {
            log::warn!("The configuration was not confirmed: back to the one before");
            self.engine.reconfigure(&before, now);
        }
        loop {
            let now = self.clock.now();
            let Some(control) = &mut self.control else { return self.drain() };
            let Some((id, wish)) = control.turn(&self.engine, &self.stored.journal, now) else { return self.drain() };
            let result = self.fulfil(wish, reload);
            self.drain()?;
            let now = self.clock.now();
            if let Some(control) = &mut self.control {
                control.answer(id, result, now);
            }
        }
    }

    fn fulfil(&mut self, wish: Wish, reload: &mut dyn FnMut() -> Option<Config>) -> Result<(), &'static str> {
        let now = self.clock.now();
        match wish {
            Wish::Command(command) => self.engine.handle_event(Event::Command(command), now),
            Wish::Reload { confirm } => {
                let before = self.before.take().map_or_else(|| Box::new(self.engine.config().clone()), |(b, _)| b);
                if !self.reload(reload) {
                    return Err("the configuration is wrong and was not taken: see 'linkwatch check' and the log");
                }
                self.before = confirm.map(|time| (before, now.after(time)));
            }
            Wish::Confirm => {
                self.before.take().ok_or("nothing waits to be confirmed")?;
                log::info!("Configuration confirmed");
            }
            Wish::FlushFlows(uplink) => self.engine.forget_flows(uplink),
            Wish::Trace(_) => return Err("this build records nothing"),
        }
        Ok(())
    }

    /// One turn of the loop without waiting: reads what is there, lets due time pass, does what follows.
    ///
    /// # Errors
    /// A socket broke for good.
    pub fn turn(&mut self) -> io::Result<()> {
        self.read_all()?;
        let now = self.clock.now();
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
        }
        self.drain()?;
        if self.dump.is_some() {
            self.read_all()?;
        }
        Ok(())
    }

    /// Puts the sysctls back to what they were before us, and removes the state file.
    pub fn forget(&mut self) {
        for old in &self.stored.linkdown {
            match sysctl::write(&old.device, old.family, old.on) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::warn!("{} {}: {error}", old.family, old.device);
                }
                _ => {}
            }
        }
        self.unspread_flows();
        self.stored = State::default();
        let _ = std::fs::remove_file(&self.options.state);
    }

    fn end(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        self.save(now);
        Ok(())
    }

    /// Whether a clean exit leaves the kernel's state in place.
    pub fn keeps_on_exit(&self) -> bool {
        self.engine.config().globals.keep_on_exit
    }

    /// Removes everything of ours from the kernel.
    ///
    /// # Errors
    /// The kernel does not settle.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.engine.reconfigure(&Config::default(), self.clock.now());
        self.settle().await?;
        self.forget();
        Ok(())
    }

    fn poll_ready(&self, cx: &mut Context<'_>, signals: Option<&Async<Signals>>, timer: &mut Timer) -> Poll<Ready> {
        // Every source that is read now is asked, so that each of them wakes us; which one did only matters for the timer.
        let mut any = false;
        let hold = self.engine.feed_on_hold();
        for (feed, socket) in [(Feed::Links, &self.links), (Feed::Requests, &self.requests), (Feed::State, &self.state)]
        {
            any |= hold != Some(feed) && socket.poll_readable(cx).is_ready();
        }
        any |= self.prober.poll_ready(cx);
        let nft = self.netfilter.poll_ready(cx) | self.nft.poll_ready(cx);
        any |= signals.is_some_and(|s| s.poll_readable(cx).is_ready());
        any |= self.control.as_ref().is_some_and(|c| c.poll_ready(cx));
        let timer = Pin::new(timer).poll(cx).is_ready();
        if any || nft || timer { Poll::Ready(Ready { timer, nft }) } else { Poll::Pending }
    }

    /// Reads what waits: links first and again before each other datagram, then answers, then the rest. A feed whose
    /// news are newer than the dump under way waits for its end ([`Engine::feed_on_hold`]).
    fn read_all(&mut self) -> io::Result<()> {
        for _ in 0..BUDGET {
            let hold = self.engine.feed_on_hold();
            if hold != Some(Feed::Links) {
                self.read(Feed::Links, usize::MAX)?;
            }
            if self.read(Feed::Requests, 1)? {
                continue;
            }
            let hold = self.engine.feed_on_hold();
            if hold == Some(Feed::State) || !self.read(Feed::State, 1)? {
                break;
            }
        }
        self.read_probes()?;
        self.send_dump()
    }

    /// Reads the answers to probes, which come after all news of links: a probe over a link that is gone says nothing.
    fn read_probes(&mut self) -> io::Result<()> {
        let (engine, now) = (&mut self.engine, self.clock.now());
        self.prober.receive(now, &mut |event| {
            log::trace!("{event:?}");
            engine.handle_event(event, now);
        });
        self.drain()
    }

    fn probe(&mut self, request: &ProbeRequest, now: crate::time::Instant) {
        let uplink = self.engine.config().uplinks.get(usize::from(request.id.uplink.0));
        let sent = uplink.map_or(Err(Errno::ENOENT), |u| self.prober.send(request, &u.probe, now));
        if let Err(errno) = sent {
            let outcome = ProbeOutcome::NotSent(errno);
            self.engine.handle_event(Event::Probe { id: request.id, outcome, at: now }, now);
        }
    }

    fn resolve(&mut self, uplink: UplinkSlot, track: u8, path: &ProbePath, now: crate::time::Instant) {
        let config = self.engine.config().uplinks.get(usize::from(uplink.0)).map(|u| &u.probe);
        let target = config.and_then(|c| Some((c, c.targets.get(usize::from(track))?)));
        let asked = match target {
            Some((config, target)) => match &target.host {
                Host::Name(name) => {
                    self.prober.resolve(uplink, track, path, name, target.family, &config.resolvers, now)
                }
                Host::Addr(_) | Host::Gateway => Err(Errno::EINVAL),
            },
            None => Err(Errno::ENOENT),
        };
        if let Err(errno) = asked {
            log::debug!("name of target {track} of uplink {}: {errno}", uplink.0);
            self.engine.handle_event(Event::Resolved { uplink, track, addr: None }, now);
        }
    }

    /// Asks for the dump that the engine wants, now that all older news have been read: some of what they tell of may
    /// have ended since without a word, and would come back to life.
    fn send_dump(&mut self) -> io::Result<()> {
        let Some(dump) = self.dump.take() else { return Ok(()) };
        self.send(&Action::Dump(dump), self.clock.now())
    }

    /// Reads at most `budget` datagrams; whether there may be more.
    fn read(&mut self, feed: Feed, budget: usize) -> io::Result<bool> {
        for _ in 0..budget {
            let socket = match feed {
                Feed::Links => &self.links,
                Feed::State => &self.state,
                Feed::Requests => &self.requests,
            };
            let received = socket.get_ref().receive(&mut self.buf)?;
            let now = self.clock.now();
            let own_port = self.requests.get_ref().port();
            let engine = &mut self.engine;
            match received {
                Received::Empty => return Ok(false),
                Received::Foreign => {
                    log::debug!("datagram not from the kernel dropped");
                    engine.handle_foreign();
                }
                Received::Overrun => engine.handle_event(Event::Overrun(feed), now),
                Received::Datagram(len) => {
                    let datagram = self.buf.get(..len).unwrap_or(&[]);
                    let names = &mut self.names;
                    let mut sink = |event| {
                        log::trace!("{event:?}");
                        if let Event::Link { link, .. } = event
                            && names.get(&link.ifindex).is_none_or(|known| known.as_bytes() != link.name.as_bytes())
                            && engine.uplinks().any(|(config, _)| config.device == link.name)
                        {
                            if names.len() > 4 * limits::UPLINKS {
                                names.clear();
                            }
                            names.insert(link.ifindex, link.name);
                        }
                        engine.handle_event(event, now);
                    };
                    let result = match feed {
                        Feed::Requests => self.answers.decode(datagram, &mut sink),
                        _ => decode_notification(datagram, own_port, &mut sink),
                    };
                    if let Err(error) = result {
                        log::warn!("netlink: {error}");
                        engine.handle_event(Event::Overrun(feed), now);
                    }
                }
            }
            self.drain()?;
        }
        Ok(true)
    }

    /// Performs everything that the engine asks for now.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            let now = self.clock.now();
            let Some(action) = self.engine.poll_action(now) else { return Ok(()) };
            self.perform(action, now)?;
        }
    }

    fn perform(&mut self, action: Action, now: crate::time::Instant) -> io::Result<()> {
        log::trace!("{action:?}");
        if self.mode == Mode::Pretend {
            return self.pretend(action, now);
        }
        match action {
            Action::Announce(notice) => {
                self.announce(&notice);
                Ok(())
            }
            Action::Save => {
                self.save(now);
                Ok(())
            }
            Action::IgnoreLinkdown { device, family } => {
                let errno = self.ignore_linkdown(device, family, now);
                self.engine.handle_event(Event::SysctlWritten { device, family, errno }, now);
                Ok(())
            }
            Action::SpreadFlows { family } => {
                let errno = self.spread_flows(family, now);
                self.engine.handle_event(Event::SysctlWritten { device: IfName::NONE, family, errno }, now);
                Ok(())
            }
            Action::AskNft { token } => {
                self.ask_nft(token, now);
                Ok(())
            }
            Action::LoadNft(load) => {
                self.load_nft(load, now);
                Ok(())
            }
            Action::DeleteNft { token } => {
                let errno = self.netfilter.delete_table();
                self.engine.handle_event(Event::Acked { token, errno }, now);
                Ok(())
            }
            Action::DropFlows { uplink, family, all } => {
                self.drop_flows(uplink, family, all);
                Ok(())
            }
            Action::Dump(dump) => {
                self.dump = Some(dump);
                Ok(())
            }
            Action::Probe(request) => {
                self.probe(&request, now);
                Ok(())
            }
            Action::Resolve { uplink, track, path } => {
                self.resolve(uplink, track, &path, now);
                Ok(())
            }
            Action::ReopenRequests => {
                self.dump = None;
                self.requests = Async::new_nonblocking(Socket::open(&[], None)?)?;
                self.answers = Answers::default();
                Ok(())
            }
            _ => self.send(&action, now),
        }
    }

    fn send(&mut self, action: &Action, now: crate::time::Instant) -> io::Result<()> {
        let mut request = [0; REQUEST];
        let Ok(len) = self.answers.encode(action, &mut request) else {
            // Cannot happen: REQUEST holds the longest. If it did, the engine's time limit would mend it.
            log::warn!("request too long: {action:?}");
            return Ok(());
        };
        if let Action::Dump(dump) = action {
            self.engine.handle_event(Event::DumpBegan(*dump), now);
        }
        if let Err(error) = self.requests.get_ref().send(request.get(..len).unwrap_or(&[])) {
            let errno = Errno(u16::try_from(error.raw_os_error().unwrap_or(0)).unwrap_or(0));
            log::debug!("send: {error}");
            // The kernel did not take it: an answer will never come, so this is the answer.
            match action {
                Action::Dump(dump) => {
                    let outcome = crate::engine::event::DumpOutcome::Failed(errno);
                    self.engine.handle_event(Event::DumpEnded { dump: *dump, outcome }, now);
                }
                _ => self.engine.handle_event(Event::Overrun(Feed::Requests), now),
            }
        }
        Ok(())
    }

    fn announce(&mut self, notice: &Notice) {
        let names = &self.names;
        let text = Text { config: self.engine.config(), link_name: &|i| names.get(&i).map(IfName::to_string) };
        let line = text.notice(notice);
        let level = match notice {
            Notice::Uplink { .. }
            | Notice::Bounced { .. }
            | Notice::Switched { .. }
            | Notice::FlowsDropped { .. }
            | Notice::NftBack => log::Level::Info,
            _ => log::Level::Warn,
        };
        match self.ration.take(notice, self.engine.now()) {
            Some(0) => log::log!(level, "{line}"),
            Some(hidden) => log::log!(level, "{line} ({hidden} lines like it were not written)"),
            None => log::debug!("{line}"),
        }
        let uplink = match notice {
            Notice::Uplink { uplink, .. } | Notice::Bounced { uplink, .. } => Some(*uplink),
            Notice::Switched { to, from, .. } => to.first().or(from.first()),
            Notice::FlowsDropped { uplink, .. } | Notice::FlowsStuck { uplink, .. } => Some(*uplink),
            _ => None,
        };
        let config = self.engine.config();
        let uplink = uplink.and_then(|u| config.uplinks.get(usize::from(u.0))).map_or("", |u| u.name.as_str());
        self.stored.journal.push(self.clock.wall(), uplink, line);
        let now = self.clock.now();
        if let Some(control) = &mut self.control {
            control.stir(&self.engine, &self.stored.journal, now);
        }
    }

    fn save(&mut self, now: crate::time::Instant) {
        self.stored.history = self.engine.snapshot(now);
        if let Err(error) = store::save(&self.options.state, &self.stored) {
            log::warn!("state file {}: {error}", self.options.state.display());
        }
    }

    /// Sets the sysctl; its old value is in the state file before.
    fn ignore_linkdown(&mut self, device: IfName, family: Family, now: crate::time::Instant) -> Errno {
        let known = self.stored.linkdown.iter().any(|o| o.device == device && o.family == family);
        let result = sysctl::read(&device, family).and_then(|on| {
            if !known {
                // When the table is full, flush leaves this one set: it holds two per uplink, so that takes many reloads.
                let _ = self.stored.linkdown.push(OldValue { device, family, on });
                self.save(now);
            }
            if on { Ok(()) } else { sysctl::write(&device, family, true) }
        });
        match result {
            Ok(()) => Errno::OK,
            Err(error) => Errno(u16::try_from(error.raw_os_error().unwrap_or(0)).unwrap_or(u16::MAX)),
        }
    }
}

/// What woke the loop.
struct Ready {
    timer: bool,
    nft: bool,
}

/// Reads the state file's numbers of uplinks.
pub fn known_ids(state: &Path) -> Vec<(crate::types::Name, crate::types::UplinkId)> {
    store::load(state).history.uplinks.into_iter().map(|h| (h.name, h.id)).collect()
}
