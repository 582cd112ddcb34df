//! The loop: what came in goes to the engine, what the engine asks for goes out.

mod bus;
mod clients;
mod flows;
mod kept;
mod plan;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use heapless::LinearMap;

use super::clock::{Boot, Clock};
use super::control::Control;
use super::netfilter::Netfilter;
use super::netlink::{GROUP_LINK, GROUPS_STATE, Received, Socket};
use super::nft::Nft;
use super::probe::Prober;
use super::ration::Ration;
use super::signal::{Signal, Signals};
use super::store::{self, OldValue, State};
use super::sysctl;
use super::trace::Recorder;
use super::ubus::Bus;
use super::ubus::netifd::Logical;
use super::wait::{Async, Timer};
use crate::config::Config;
use crate::config::probe::Host;
use crate::engine::action::Load;
use crate::engine::action::{ProbePath, ProbeRequest};
use crate::engine::event::ProbeOutcome;
use crate::engine::object::{RouteSpec, RouteTarget};
use crate::engine::{Action, Dump, Engine, Event, Feed, Op, Token, layout};
use crate::limits;
use crate::proto::config_file;
use crate::proto::nft;
use crate::proto::rtnl::{Answers, decode_notification, state_filter};
use crate::proto::trace::Ending;
use crate::sys::failure::failure;
use crate::time::Instant;
use crate::types::{Errno, Family, FwMark, IfIndex, IfName, Name, PolicySlot, UplinkId, UplinkSlot};

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
    /// The bus.
    pub ubus: Ubus,
    /// Receive buffers of this many bytes instead of the system's: for tests of overruns.
    pub receive_buffer: Option<u32>,
}

/// Whether there is a bus, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ubus {
    /// None.
    Off,
    /// In one of the usual places.
    Usual,
    /// There.
    At(PathBuf),
}

/// The configuration file as it is now.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The configuration; `None` when there is any error.
    pub config: Option<Box<Config>>,
    /// What is wrong, with file and line.
    pub errors: Vec<String>,
    /// What is likely not meant.
    pub warnings: Vec<String>,
}

impl Reading {
    /// Says it all; the configuration if there is one.
    pub fn told(self) -> Option<Box<Config>> {
        self.warnings.iter().for_each(|w| log!(Warn, "{w}"));
        self.errors.iter().for_each(|e| log!(Error, "{e}"));
        if self.config.is_none() {
            log!(Error, "{} errors, nothing was changed; the running configuration stays", self.errors.len());
        }
        self.config
    }
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
    engine: Recorder,
    /// The configuration as it was read; the engine's has what netifd knows besides.
    config: Box<Config>,
    bus: Option<Bus>,
    planning: Option<bus::Planning>,
    clock: Clock,
    /// When the clock was started.
    boot: Boot,
    links: Async<Socket>,
    state: Async<Socket>,
    requests: Async<Socket>,
    netfilter: Netfilter,
    nft: Nft,
    answers: Answers,
    prober: Box<Prober>,
    options: Options,
    stored: Box<State>,
    /// The state file could not be written, and that was said.
    unsaved: bool,
    mode: Mode,
    /// The dump to ask for at the end of this turn.
    dump: Option<Dump>,
    buf: Vec<u8>,
    changes: Vec<String>,
    /// Names of the uplinks' links, for words; older numbers go when there are too many.
    names: LinearMap<IfIndex, IfName, { 4 * limits::UPLINKS }>,
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
    pub fn open(config: &Config, options: Options) -> io::Result<Box<Self>> {
        let (clock, boot) = (Clock::start(), Boot::read());
        let mut stored = store::load(&options.state);
        stored.history.grow_older(boot.since(&stored.saved));
        let links = Socket::open(&[GROUP_LINK], options.receive_buffer)?;
        let state = Socket::open(&GROUPS_STATE, options.receive_buffer)?;
        if let Err(error) = state.filter(&state_filter()) {
            log!(Warn, "no socket filter ({error}): every foreign route wakes the daemon");
        }
        let bus = match &options.ubus {
            Ubus::Off => None,
            Ubus::Usual => Some(Bus::new(None, clock.now())),
            Ubus::At(path) => Some(Bus::new(Some(path.clone()), clock.now())),
        };
        let mut with_names = Box::new(config.clone());
        Logical::default().apply(&mut with_names, &stored.named);
        // Not Box::new: that would make a megabyte on the stack and copy it.
        let mut engine = Box::write(Box::new_uninit(), Engine::empty(clock.now()));
        engine.reconfigure(&with_names, clock.now());
        engine.restore(&stored.history, clock.now());
        Ok(Box::new(Self {
            engine: Recorder::new(engine),
            config: Box::new(config.clone()),
            bus,
            planning: None,
            clock,
            boot,
            links: Async::new_nonblocking(links)?,
            state: Async::new_nonblocking(state)?,
            requests: Async::new_nonblocking(Socket::open(&[], None)?)?,
            netfilter: Netfilter::open(),
            nft: Nft::default(),
            answers: Answers::default(),
            prober: Box::default(),
            options,
            stored,
            unsaved: false,
            mode: Mode::Real,
            dump: None,
            buf: vec![0; limits::NETLINK_RX],
            changes: Vec::new(),
            names: LinearMap::new(),
            control: None,
            ration: Ration::default(),
            before: None,
        }))
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
            Some(Errno::EPERM) => Err(failure(
                io::ErrorKind::PermissionDenied,
                format_args!("changing routes needs CAP_NET_ADMIN: run as root or give it that capability"),
            )),
            _ => Ok(()),
        }
    }

    /// Runs until a signal ends it; `read` reads the configuration file.
    ///
    /// # Errors
    /// A socket broke for good.
    pub async fn run(&mut self, signals: Signals, read: &mut dyn FnMut() -> Reading) -> io::Result<()> {
        let signals = Async::new_nonblocking(signals)?;
        let mut timer = Timer::never();
        let mut armed = None;
        // What an earlier life with another configuration needed.
        self.leave_sysctls(self.clock.now());
        loop {
            self.drain()?;
            if self.dump.is_some() {
                self.read_all()?;
            }
            let control = self.control.as_ref().and_then(Control::next_timeout);
            let confirm = self.before.as_ref().map(|(_, until)| *until);
            let probes = self.prober.next_timeout();
            let bus = self.bus.as_ref().and_then(Bus::poll_timeout);
            let next = Instant::first(&[self.engine.poll_timeout(), probes, control, confirm, bus]);
            if next != armed {
                armed = next;
                match next {
                    Some(at) => timer.set_at(self.clock.deadline(at)),
                    None => timer = Timer::never(),
                }
            }
            let ready = smol::future::poll_fn(|cx| self.poll_ready(cx, Some(&signals), &mut timer)).await;
            while let Some(signal) = ready.signals.then(|| signals.get_ref().next()).flatten() {
                match signal {
                    Signal::Terminate => return self.end(),
                    Signal::Reload => {
                        self.before = None;
                        if let Some(config) = read().told() {
                            self.reconfigure(config);
                        }
                    }
                }
            }
            // A timer alone, as for a probe, reads nothing but the answers to probes: four system calls less on each.
            if ready.news {
                self.read_news()?;
            }
            self.read_probes()?;
            self.send_dump()?;
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
            self.turn_control(read)?;
            self.turn_bus(read)?;
            self.engine.turn_over();
        }
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
        self.engine.turn_over();
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        self.engine.stop(Ending::Exit);
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
        self.engine.reconfigure(&config_file::empty(), self.clock.now());
        self.settle().await?;
        self.forget();
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>, signals: Option<&Async<Signals>>, timer: &mut Timer) -> Poll<Ready> {
        // Every source that is read now is asked, so that each of them wakes us; what has nothing is not read.
        let mut news = false;
        let hold = self.engine.feed_on_hold();
        for (feed, socket) in [(Feed::Links, &self.links), (Feed::Requests, &self.requests), (Feed::State, &self.state)]
        {
            news |= hold != Some(feed) && socket.poll_readable(cx).is_ready();
        }
        let mut any = news;
        any |= self.prober.poll_ready(cx);
        let nft = self.netfilter.poll_ready(cx) | self.nft.poll_ready(cx);
        let signals = signals.is_some_and(|s| s.poll_readable(cx).is_ready());
        any |= self.control.as_ref().is_some_and(|c| c.poll_ready(cx));
        any |= self.bus.as_ref().is_some_and(|bus| bus.poll_ready(cx));
        any |= self.poll_plan(cx);
        let timer = Pin::new(timer).poll(cx).is_ready();
        if any || nft || signals || timer { Poll::Ready(Ready { news, signals, timer, nft }) } else { Poll::Pending }
    }

    /// Reads what waits: links first and again before each other datagram, then answers, then the rest. A feed whose
    /// news are newer than the dump under way waits for its end ([`Engine::feed_on_hold`]).
    fn read_news(&mut self) -> io::Result<()> {
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
        Ok(())
    }

    fn read_all(&mut self) -> io::Result<()> {
        self.read_news()?;
        self.read_probes()?;
        self.send_dump()
    }

    /// Reads the answers to probes, which come after all news of links: a probe over a link that is gone says nothing.
    fn read_probes(&mut self) -> io::Result<()> {
        let (engine, now) = (&mut self.engine, self.clock.now());
        self.prober.receive(now, &mut |event| {
            log!(Trace, "{event:?}");
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
            log!(Debug, "name of target {track} of uplink {}: {errno}", uplink.0);
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
                    log!(Debug, "datagram not from the kernel dropped");
                    engine.handle_foreign();
                }
                Received::Overrun => engine.handle_event(Event::Overrun(feed), now),
                Received::Datagram(len) => {
                    let datagram = self.buf.get(..len).unwrap_or(&[]);
                    let names = &mut self.names;
                    let mut sink = |event| {
                        log!(Trace, "{event:?}");
                        if let Event::Link { link, .. } = event
                            && names.get(&link.ifindex).is_none_or(|known| known.as_bytes() != link.name.as_bytes())
                            && engine.uplinks().any(|(config, _)| config.device == link.name)
                        {
                            if names.is_full() {
                                names.clear();
                            }
                            let _ = names.insert(link.ifindex, link.name);
                        }
                        engine.handle_event(event, now);
                    };
                    let result = match feed {
                        Feed::Requests => self.answers.decode(datagram, &mut sink),
                        _ => decode_notification(datagram, own_port, &mut sink),
                    };
                    if let Err(error) = result {
                        log!(Warn, "netlink: {error}");
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
        log!(Trace, "{action:?}");
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
            log!(Warn, "a request was too long to be sent");
            return Ok(());
        };
        if let Action::Dump(dump) = action {
            self.engine.handle_event(Event::DumpBegan(*dump), now);
        }
        if let Err(error) = self.requests.get_ref().send(request.get(..len).unwrap_or(&[])) {
            let errno = Errno(u16::try_from(error.raw_os_error().unwrap_or(0)).unwrap_or(0));
            log!(Debug, "send: {error}");
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
}

/// What woke the loop.
struct Ready {
    /// The kernel has news, or answers.
    news: bool,
    signals: bool,
    timer: bool,
    nft: bool,
}

/// Reads the state file's numbers of uplinks.
pub fn known_ids(state: &Path) -> Vec<(Name, UplinkId)> {
    store::load(state).history.uplinks.into_iter().map(|h| (h.name, h.id)).collect()
}

/// Puts the devices into a configuration that netifd named for its uplinks, as the state file remembers them.
pub fn put_known_devices(config: &mut Config, state: &Path) {
    Logical::default().apply(config, &store::load(state).named);
}
