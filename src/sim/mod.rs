//! The pretend world: a virtual clock around one engine and one pretend kernel.
//!
//! [`World`] stands where `sys` stands. It delivers what the kernel says, calls the engine when its timer is due, and
//! hands the kernel what the engine asks for, one thing at a time, always in the same order for the same inputs. Nothing
//! here waits and nothing reads a clock. Scenarios ([`script`]) and random runs ([`random`]) are built on it; [`fuzz`] takes bytes.
#![forbid(unsafe_code)]

pub mod chance;
pub mod day;
pub mod fuzz;
pub mod fuzz_control;
pub mod fuzz_flows;
pub mod fuzz_probe;
pub mod fuzz_trace;
pub mod fuzz_ubus;
pub mod kernel;
pub mod model;
pub mod paths;
pub mod random;
pub mod script;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Config;
use crate::engine::action::{Action, Dump, RouteQuestion};
use crate::engine::event::{Event, ProbeOutcome};
use crate::engine::notice::Notice;
use crate::engine::{Command, Engine, Snapshot};
use crate::limits;
use crate::proto::trace::{Ending, FRAME, Writer};
use crate::time::{Duration, Instant};
use crate::types::{Family, IfName};
use chance::Chance;
use kernel::{Channel, FakeKernel};
use paths::Paths;

/// The most actions one drain may yield: every object created and deleted once, a question per uplink and family, all
/// notices, and a few for dumps and the state file.
pub const DRAIN: usize =
    2 * (limits::ROUTES + limits::RULES + limits::NEXTHOPS) + 8 * limits::UPLINKS + limits::NOTICES + 16;

/// The most steps within one microsecond of pretend time before the world is called restless.
const STEPS_AT_ONCE: usize = 20_000;

/// An address that no link here has: where `=` lines and checks look.
pub const FAR_AWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1))];

/// Something on its way to the engine; ordered by time, then by age.
#[derive(Debug)]
struct Delivery {
    at: Instant,
    number: u64,
    channel: Channel,
    event: Event,
}

impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Delivery {}

impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delivery {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The virtual clock, the events on their way, the engine and the kernel.
pub struct World {
    /// The kernel.
    pub kernel: FakeKernel,
    /// The daemon's configuration.
    pub config: Config,
    /// The daemon; `None` while it is not running.
    pub engine: Option<Box<Engine>>,
    /// What the daemon last saved; lives on when it crashes.
    pub saved: Option<Snapshot>,
    /// Notices since the last [`World::take_notices`], with their times.
    notices: Vec<(Instant, Notice)>,
    /// What an invariant checked at every step found.
    pub violations: Vec<String>,
    /// Everything that went in and came out, as text; `None` (the default) keeps nothing.
    pub timeline: Option<Vec<String>>,
    /// How long each channel takes, by [`Channel::index`]; more than this is added by whoever wants jitter.
    pub latency: [Duration; 4],
    now: Instant,
    heap: BinaryHeap<Reverse<Delivery>>,
    number: u64,
    /// No message overtakes another on its channel.
    last_delivery: [Instant; 4],
    steps_now: usize,
    dump_running: bool,
    /// What lies behind the uplinks.
    pub paths: Paths,
    /// Answers to probes that nobody has read yet; they wake nobody.
    waiting: Vec<(Instant, Event)>,
    /// Asked for, and sent once all older news are read.
    pending_dump: Option<Dump>,
    /// Wake-ups come late by this many microseconds at most.
    pub wobble: Option<(Chance, u64)>,
    /// Whether each daemon's run is recorded from its start.
    pub records: bool,
    recorder: Option<Box<Writer>>,
    /// What was recorded of daemons that have ended.
    pub recorded: Vec<Vec<u8>>,
}

impl World {
    /// A world at time zero in which the daemon is not yet running.
    pub fn new(config: Config) -> Self {
        Self {
            kernel: FakeKernel::new(),
            config,
            engine: None,
            saved: None,
            notices: Vec::new(),
            violations: Vec::new(),
            timeline: None,
            latency: [Duration::ZERO; 4],
            now: Instant::ZERO,
            heap: BinaryHeap::new(),
            number: 0,
            last_delivery: [Instant::ZERO; 4],
            steps_now: 0,
            dump_running: false,
            paths: Paths::new(),
            waiting: Vec::new(),
            pending_dump: None,
            wobble: None,
            records: false,
            recorder: None,
            recorded: Vec::new(),
        }
    }

    /// Starts the daemon on whatever the kernel holds, with what an earlier one saved.
    pub fn start(&mut self) {
        self.crash();
        self.note("> start".into());
        let mut engine = Box::new(Engine::new(&self.config, self.now));
        if let Some(saved) = &self.saved {
            engine.restore(saved, self.now);
        }
        self.engine = Some(engine);
        if self.records {
            self.record();
        }
        self.drain();
    }

    /// Begins to record the running daemon.
    pub fn record(&mut self) {
        self.stop_recording();
        self.recorder = self.engine.as_ref().map(|e| Box::new(Writer::new(e, 0)));
    }

    /// Ends the recording, if there is one: it is the last of [`World::recorded`].
    pub fn stop_recording(&mut self) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.finish(Ending::Stopped);
            self.recorded.push(recorder.ready().to_vec());
        }
    }

    /// Tells the daemon, and the recorder what it is told.
    fn tell(&mut self, event: Event) {
        let Some(engine) = &mut self.engine else { return };
        let (event, now) = match &mut self.recorder {
            None => (event, self.now),
            Some(recorder) => recorder.event(event, self.now),
        };
        engine.handle_event(event, now);
    }

    /// Gives the running daemon another configuration.
    pub fn reload(&mut self, config: Config) {
        self.note("> reload".into());
        self.config = config;
        if let Some(engine) = &mut self.engine {
            let recorder = self.recorder.as_mut();
            let now = recorder.map_or(self.now, |recorder| recorder.config(&self.config, self.now));
            engine.reconfigure(&self.config, now);
        }
        self.drain();
    }

    /// An operator says something.
    pub fn command(&mut self, command: Command) {
        self.tell(Event::Command(command));
        self.drain();
    }

    /// Kills the daemon; the kernel stays as it is.
    pub fn crash(&mut self) {
        self.stop_recording();
        self.engine = None;
        self.heap.clear();
        self.waiting.clear();
        self.dump_running = false;
        self.pending_dump = None;
        self.kernel.take_output();
        self.note("> crash".into());
    }

    /// Does one thing: the earliest of a kernel timer, a delivery and the engine's timer. `false` when nothing is ahead.
    pub fn step(&mut self) -> bool {
        let Some(next) = self.next_at() else { return false };
        self.advance_to(next);
        self.steps_now += 1;
        if self.steps_now > STEPS_AT_ONCE {
            panic!("did not go quiet at {}", show_time(self.now));
        }
        if self.kernel.poll_timeout().is_some_and(|at| at <= self.now) {
            self.kernel.handle_timeout(self.now);
            self.collect();
            return true;
        }
        if self.pending_dump.is_some() && !self.is_unread() {
            if let Some(dump) = self.pending_dump.take() {
                self.kernel.apply(&Action::Dump(dump));
                self.collect();
            }
            return true;
        }
        let due = self.engine.as_ref().and_then(|e| e.poll_timeout()).is_some_and(|at| at <= self.now);
        if let Some((chance, most)) = self.wobble.as_mut().filter(|_| due && self.steps_now == 1) {
            let late = Duration::from_micros(chance.below(*most) / 2 + chance.below(*most) / 2);
            self.advance_to(self.now.after(late));
        }
        self.read_waiting();
        if self.next_delivery().is_some_and(|at| at <= self.now) {
            if let Some(delivery) = self.pop_delivery() {
                if self.timeline.is_some() {
                    self.note(format!("  {:?}: {:?}", delivery.channel, delivery.event));
                }
                if matches!(delivery.event, Event::DumpEnded { .. }) {
                    self.dump_running = false;
                }
                self.tell(delivery.event);
                self.drain();
            }
            return true;
        }
        if let Some((chance, _)) = &mut self.wobble {
            // Sockets are read before, and that takes its time.
            let late = Duration::from_micros(chance.below(60));
            self.advance_to(self.now.after(late));
        }
        if let Some(engine) = &mut self.engine {
            let Some(due) = engine.poll_timeout().filter(|due| *due <= self.now) else { return true };
            let now = self.recorder.as_mut().map_or(self.now, |recorder| recorder.timeout(due, self.now));
            engine.handle_timeout(now);
            self.drain();
            if let Some(at) = self.engine.as_ref().and_then(|e| e.poll_timeout()).filter(|at| *at <= self.now) {
                self.violations.push(format!("timer stays due: {} at {}", show_time(at), show_time(self.now)));
                panic!("timer stays due at {}", show_time(self.now));
            }
        }
        true
    }

    /// Reads the answers that have come in, as the shell does before anything else of a turn.
    fn read_waiting(&mut self) {
        while let Some(at) = self.waiting.iter().position(|(at, _)| *at <= self.now) {
            let (_, event) = self.waiting.remove(at);
            if self.timeline.is_some() {
                self.note(format!("  Probes: {event:?}"));
            }
            self.tell(event);
            self.drain();
        }
    }

    /// Something for the engine that did not come from the kernel.
    fn deliver(&mut self, at: Instant, event: Event) {
        self.number += 1;
        self.heap.push(Reverse(Delivery { at, number: self.number, channel: Channel::Requests, event }));
    }

    /// Does everything up to and at `until`, and leaves the clock there.
    pub fn run_until(&mut self, until: Instant) {
        self.collect();
        while self.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        self.advance_to(until);
    }

    /// Lets the kernel's new output travel; call it after doing something to the kernel.
    pub fn collect(&mut self) {
        for (channel, event) in self.kernel.take_output() {
            if self.engine.is_none() {
                continue;
            }
            let latency = self.latency.get(channel.index()).copied().unwrap_or_default();
            let mut at = self.now.after(latency);
            if let Some(last) = self.last_delivery.get_mut(channel.index()) {
                at = at.max(*last);
                *last = at;
            }
            self.number += 1;
            self.heap.push(Reverse(Delivery { at, number: self.number, channel, event }));
        }
    }

    /// Adds a line to the timeline, if one is kept.
    pub fn note(&mut self, text: String) {
        let now = self.now;
        if let Some(timeline) = &mut self.timeline {
            timeline.push(format!("{} {text}", show_time(now)));
        }
    }

    /// The notices since the last call.
    pub fn take_notices(&mut self) -> Vec<(Instant, Notice)> {
        std::mem::take(&mut self.notices)
    }

    /// The pretend time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// By which device a packet without a mark to somewhere far away would leave.
    pub fn default_via(&self, family: Family) -> Option<IfName> {
        let dst = *FAR_AWAY.get(family.index())?;
        self.kernel.goes_via(&RouteQuestion { dst, mark: None })
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        let kernel = self.kernel.poll_timeout();
        let delivery = self.next_delivery();
        let engine = self.engine.as_ref().and_then(|e| e.poll_timeout());
        [kernel, delivery, engine].into_iter().flatten().min().map(|at| at.max(self.now))
    }

    /// The queue that the daemon does not read now, as the shell does not.
    fn on_hold(&self) -> Option<Channel> {
        self.engine.as_ref().and_then(|e| e.feed_on_hold()).map(Channel::from)
    }

    /// Whether the kernel has changed in a way that has not reached the daemon yet.
    fn has_news(&self) -> bool {
        let [links, state, ..] = self.kernel.faults.deaf;
        links || state || self.is_unread()
    }

    /// Whether something that was announced has not been read.
    fn is_unread(&self) -> bool {
        self.heap.iter().any(|d| matches!(d.0.channel, Channel::Links | Channel::State))
    }

    fn next_delivery(&self) -> Option<Instant> {
        if self.pending_dump.is_some() {
            return Some(self.now);
        }
        let hold = self.on_hold();
        self.heap.iter().map(|d| &d.0).filter(|d| Some(d.channel) != hold).map(|d| d.at).min()
    }

    /// The earliest delivery of a queue that is read.
    fn pop_delivery(&mut self) -> Option<Delivery> {
        let hold = self.on_hold();
        let mut held = Vec::new();
        let mut found = None;
        while let Some(Reverse(delivery)) = self.heap.pop() {
            if Some(delivery.channel) == hold {
                held.push(Reverse(delivery));
            } else {
                found = Some(delivery);
                break;
            }
        }
        self.heap.extend(held);
        found
    }

    /// The daemon gets no time for `duration`: everything goes on without it, and reaches it late.
    pub fn freeze(&mut self, duration: Duration) {
        self.advance_to(self.now.after(duration));
        self.kernel.handle_timeout(self.now);
    }

    fn advance_to(&mut self, at: Instant) {
        if at > self.now {
            self.now = at;
            self.steps_now = 0;
        }
    }

    /// One mutation, then this: everything the engine wants now.
    fn drain(&mut self) {
        for _ in 0..DRAIN {
            let Some(engine) = &mut self.engine else { return };
            let action = match &mut self.recorder {
                None => engine.poll_action(self.now),
                Some(recorder) => {
                    let now = recorder.asking(self.now);
                    let action = engine.poll_action(now);
                    recorder.action(action.as_ref(), now);
                    if recorder.open_bytes() >= FRAME {
                        recorder.end_frame();
                    }
                    action
                }
            };
            let Some(action) = action else { return };
            self.perform(&action);
        }
        panic!("did not go quiet: more than {DRAIN} actions at {}", show_time(self.now));
    }

    fn perform(&mut self, action: &Action) {
        if self.timeline.is_some() {
            self.note(format!("    {action:?}"));
        }
        match action {
            Action::Announce(notice) => self.notices.push((self.now, *notice)),
            Action::Save => self.saved = self.engine.as_ref().map(|e| e.snapshot(self.now)),
            Action::ReopenRequests => {
                self.dump_running = false;
                self.pending_dump = None;
                self.heap.retain(|d| d.0.channel != Channel::Requests);
            }
            Action::Dump(dump) => {
                if self.dump_running {
                    self.violations.push(format!("I13: {dump:?} asked for while another dump runs"));
                }
                self.dump_running = true;
                self.pending_dump = Some(*dump);
            }
            Action::Nexthop { .. } | Action::Route { .. } | Action::Rule { .. } => {
                let before = Family::BOTH.map(|f| self.default_via(f));
                self.kernel.apply(action);
                for (family, before) in Family::BOTH.into_iter().zip(before) {
                    self.check_make_before_break(family, before, action);
                }
            }
            Action::Probe(request) => match self.paths.send(&self.kernel, request, self.now) {
                Some((at, event @ Event::Probe { outcome: ProbeOutcome::Answered, .. })) => {
                    self.waiting.push((at, event))
                }
                Some((at, event)) => self.deliver(at, event),
                None => {}
            },
            Action::Resolve { uplink, track, path } => {
                let targets = self.config.uplinks.get(usize::from(uplink.0)).map(|u| &u.probe.targets);
                let host = targets.and_then(|t| t.get(usize::from(*track))).map(|t| t.host.to_string());
                let addr = host.and_then(|h| self.paths.names.get(&h).copied());
                let device = self.kernel.link_name(path.hop.ifindex);
                let bright = device.is_some_and(|d| addr.is_none_or(|a| self.paths.answers(d, a)));
                if bright {
                    self.deliver(self.now, Event::Resolved { uplink: *uplink, track: *track, addr });
                }
            }
            Action::AskNft { token } => self.kernel.ask_nft(*token, &self.config),
            Action::LoadNft(_) => self.kernel.load_nft(&self.config),
            Action::DropFlows { .. } => {
                self.check_drop(action);
                self.kernel.apply(action);
            }
            Action::AskLink { ifindex, traffic: true, .. } => {
                self.kernel.apply(action);
                self.collect();
                if let Some(device) = self.kernel.link_name(*ifindex) {
                    let (received, sent) = self.paths.count(device);
                    self.deliver(self.now, Event::Traffic { ifindex: *ifindex, received, sent });
                }
            }
            Action::AskLink { .. }
            | Action::AskRoute { .. }
            | Action::AskResilient { .. }
            | Action::SpreadFlows { .. }
            | Action::DeleteNft { .. }
            | Action::UseNeighbour { .. }
            | Action::IgnoreLinkdown { .. } => {
                self.kernel.apply(action);
            }
        }
        self.collect();
    }

    /// Connections of an uplink are forgotten only when traffic has another way already.
    fn check_drop(&mut self, action: &Action) {
        let Action::DropFlows { uplink, family, .. } = action else { return };
        let Some(config) = self.config.uplinks.get(usize::from(uplink.0)).filter(|c| !c.flush.up) else { return };
        let Some(table) = self.config.default_policy.map(crate::engine::layout::policy_table) else { return };
        if self.config.policies.len() != 1 || self.has_news() {
            return;
        }
        // The policy's pointer leads elsewhere; that something else is broken as well is another matter.
        let pointer = |r: &&kernel::Route| (r.spec.family, r.spec.table, r.spec.metric) == (*family, table, 10);
        let ways = self.kernel.routes().iter().filter(pointer).flat_map(|r| self.kernel.ways(&r.spec.target));
        let device = self.kernel.link(config.device).map(|l| l.ifindex);
        let elsewhere: Vec<_> = ways.map(Some).collect();
        let led = !elsewhere.is_empty() && !elsewhere.contains(&device);
        // Or it is gone, and the routes below it lead elsewhere.
        if !led && self.default_via(*family).is_none_or(|via| via == config.device) {
            let now = show_time(self.now);
            self.violations.push(format!("connections of {} forgotten at {now} with no other way", config.device));
        }
    }

    /// I4: a change of ours never takes the default away while a way that works is there before and after.
    fn check_make_before_break(&mut self, family: Family, before: Option<IfName>, action: &Action) {
        let Some(before) = before else { return };
        if self.default_via(family).is_some() {
            return;
        }
        // The way that was there may have been a dead one, and then leaving it is right; and the engine can know only
        // what has reached it.
        let works = self.kernel.link(before).is_some_and(|l| l.is_live())
            && self.config.uplinks.iter().any(|u| u.device == before && model::eligible(&self.kernel, u, family));
        let known = self.engine.as_ref().is_some_and(|e| {
            e.uplinks().any(|(config, uplink)| {
                config.device == before && uplink.legs.get(family.index()).is_some_and(|leg| leg.state.is_usable())
            })
        });
        if works && known && !self.has_news() && self.config.default_policy.is_some() {
            let mut text = format!("I4: {family} default by {before} was taken away by {action:?}");
            for route in self.kernel.routes().iter().filter(|r| r.spec.family == family) {
                let _ = write!(text, "\n  {} {:?}", if route.own { "own" } else { "foreign" }, route.spec);
            }
            for nexthop in self.kernel.nexthops() {
                let _ = write!(text, "\n  {nexthop:?}");
            }
            self.violations.push(text);
        }
    }
}

/// As seconds with as many decimals as are needed: `60.05s`.
pub fn show_time(at: Instant) -> String {
    let (seconds, rest) = (at.micros() / 1_000_000, at.micros() % 1_000_000);
    if rest == 0 {
        return format!("{seconds}s");
    }
    format!("{seconds}.{rest:06}").trim_end_matches('0').to_owned() + "s"
}
