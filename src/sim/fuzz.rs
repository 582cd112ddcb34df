//! Fuzz bodies: bytes in, a panic where a promise is broken.
//!
//! | body | the bytes are | what must hold |
//! |---|---|---|
//! | [`netlink`] | a datagram | the walker stays inside it; a fact that is decoded can be written, and reads the same again |
//! | [`config`] | a configuration file | an error or a configuration, never both; lines exist; the engine takes what was accepted |
//! | [`engine`] | chances of a random run | every invariant of [`random`] |
//! | [`hostile`] | turns of the loop | a kernel that lies costs no panic, no endless drain and no timer that stays due |
//! | [`snapshot`] | a saved state | whatever it says, the engine starts with it |
//!
//! `tests/fuzz` has the targets for libFuzzer and the corpora; `tests/fuzz.rs` replays those with every `cargo test`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::chance::Chance;
use super::kernel::FakeKernel;
use super::random;
use super::script::default_policy;
use super::{DRAIN, World};
use crate::config::{Config, DampingConfig, UplinkConfig};
use crate::engine::action::Token;
use crate::engine::event::{DumpOutcome, ProbeId, ProbeOutcome};
use crate::engine::object::{RouteTarget, RuleAction};
use crate::engine::{Action, Dump, Engine, Event, Feed, Op, Snapshot};
use crate::limits;
use crate::proto::config_file::{self, Dialect};
use crate::proto::describe::{Style, describe};
use crate::proto::netlink::{HEADER, Malformed, messages};
use crate::proto::rtnl::{Answers, decode_notification, encode};
use crate::proto::unpack::Unpack;
use crate::time::{Duration, Instant};
use crate::types::{Errno, IfIndex, IfName, Name, PolicySlot, UplinkId, UplinkSlot};

/// Bytes of the longest request.
const REQUEST: usize = 512 + 8 * limits::GROUP;
/// The port of our request socket in these tests.
const OWN_PORT: u32 = 77;
/// Turns of the loop in one run of [`hostile`].
const TURNS: usize = 400;

/// A datagram, as the multicast sockets, the request socket and `linkwatch monitor` read it.
pub fn netlink(datagram: &[u8]) {
    check_walk(datagram);
    let announced = decoded(|sink| decode_notification(datagram, OWN_PORT, sink));
    announced.iter().for_each(check_event);
    assert_eq!(announced, decoded(|sink| decode_notification(datagram, OWN_PORT, sink)), "read twice, heard twice");
    // The same bytes as answers: to nothing, to a question, and as parts of a dump.
    for seq in [None, Some(1), Some(0x8000_0000)] {
        let mut answers = Answers::default();
        let mut buf = [0; REQUEST];
        let len = answers.encode(&Action::Dump(Dump::Links), &mut buf).expect("a dump fits");
        assert!(len >= HEADER, "a dump of {len} bytes");
        let mut part = datagram.to_vec();
        if let Some(seq) = seq {
            renumber(&mut part, seq);
        }
        decoded(|sink| answers.decode(&part, sink)).iter().for_each(check_event);
        let printable = |c: char| c == ' ' || c.is_ascii_graphic();
        assert!(answers.last_reason().chars().all(printable), "{:?}", answers.last_reason());
    }
}

/// Messages and attributes lie inside the datagram, in order, and there are not more of them than fit.
fn check_walk(datagram: &[u8]) {
    let (mut end, mut count) = (0, 0);
    for message in messages(datagram) {
        count += 1;
        let Ok(message) = message else { continue };
        assert!(message.body.at >= end + HEADER, "messages overlap");
        end = message.body.at + message.body.bytes.len();
        assert!(end <= datagram.len(), "a message beyond the end");
        assert_eq!(datagram.get(message.body.at..end), Some(message.body.bytes), "a message is not where it says");
        let headers = [0, 8, 12, 16];
        for attributes in headers.into_iter().filter_map(|h| message.body.attributes(h, "test").ok()) {
            let mut inner = message.body.at;
            for (_, value) in attributes.map_while(Result::ok) {
                assert!(
                    value.at >= inner + 4 && value.at + value.bytes.len() <= end,
                    "an attribute leaves its message"
                );
                inner = value.at + value.bytes.len();
            }
        }
        for style in [Style::Text, Style::Json] {
            if let Ok(Some(line)) = describe(&message, style) {
                assert!(!line.contains(char::is_control), "a control character in {line:?}");
            }
        }
    }
    assert!(count <= datagram.len() / HEADER + 1, "{count} messages in {} bytes", datagram.len());
}

fn decoded(decode: impl FnOnce(&mut dyn FnMut(Event)) -> Result<(), Malformed>) -> Vec<Event> {
    let mut events = Vec::new();
    if let Err(error) = decode(&mut |event| events.push(event)) {
        assert!(!error.to_string().is_empty());
    }
    events
}

/// Writes a sequence number into every message that is whole.
fn renumber(datagram: &mut [u8], seq: u32) {
    let places: Vec<usize> = messages(datagram).map_while(Result::ok).map(|m| m.body.at - HEADER).collect();
    for at in places {
        if let Some(place) = datagram.get_mut(at + 8..at + 12) {
            place.copy_from_slice(&seq.to_ne_bytes());
        }
    }
}

/// What was decoded is well-formed, and what is ours can be written and read back.
fn check_event(event: &Event) {
    let action = match *event {
        Event::Link { link, .. } => {
            assert!(link.ifindex.0 != 0 && !link.name.is_none(), "{link:?}");
            assert_eq!(IfName::new(link.name.as_bytes()), Some(link.name));
            return;
        }
        Event::OwnRoute(route) => Action::Route { token: Token(1), op: Op::Replace, route },
        Event::OwnRule(rule) => Action::Rule { token: Token(1), op: Op::Add, rule },
        Event::OwnNexthop(nexthop) => Action::Nexthop { token: Token(1), op: Op::Replace, nexthop },
        _ => return,
    };
    check_round(&action);
}

/// A request that is read as a notification tells of the same object.
fn check_round(action: &Action) {
    let mut buf = [0; REQUEST];
    let len = encode(action, 1, &mut buf).unwrap_or_else(|e| panic!("{e:?}: {action:?}"));
    let read = decoded(|sink| decode_notification(buf.get(..len).unwrap_or(&[]), OWN_PORT, sink));
    let want = match *action {
        Action::Route { op: Op::Delete, .. } | Action::Rule { op: Op::Delete, .. } => return,
        Action::Nexthop { op: Op::Delete, .. } => return,
        Action::Route { mut route, .. } => {
            // Without a gateway there is nothing that the flag could say.
            if let RouteTarget::Via(hop) = &mut route.target {
                hop.onlink &= hop.gateway.is_some();
            }
            Event::OwnRoute(route)
        }
        Action::Rule { rule, .. } => Event::OwnRule(rule),
        Action::Nexthop { mut nexthop, .. } => {
            if let crate::engine::object::NexthopBody::Leaf { hop, .. } = &mut nexthop.body {
                hop.onlink &= hop.gateway.is_some();
            }
            Event::OwnNexthop(nexthop)
        }
        _ => return,
    };
    assert!(read.contains(&want), "{action:?}\n  is read as {read:?}");
}

/// A configuration file, ours and as one of mwan3.
pub fn config(text: &[u8]) {
    for dialect in [Dialect::Linkwatch, Dialect::Mwan3] {
        let outcome = config_file::read(text, dialect, &[]);
        assert_eq!(outcome.config.is_some(), outcome.errors.is_empty(), "{:?}", outcome.errors);
        let lines = text.iter().filter(|b| **b == b'\n').count() + 1;
        for diagnostic in outcome.errors.iter().chain(&outcome.warnings) {
            assert!(diagnostic.line <= lines, "{diagnostic:?} of {lines}");
            let shown = diagnostic.show("FILE").to_string();
            assert!(!shown.contains(char::is_control), "a control character in {shown:?}");
        }
        let Some(config) = outcome.config else { continue };
        check_config(&config);
        // A number stays with its name.
        let ids: Vec<(Name, UplinkId)> = config.uplinks.iter().map(|u| (u.name.clone(), u.id)).collect();
        assert_eq!(config_file::read(text, dialect, &ids).config.as_ref(), Some(&config), "read again");
        let mut world = World::new(*config);
        world.kernel = FakeKernel::new();
        for (n, uplink) in world.config.uplinks.iter().enumerate() {
            world.kernel.create_link(uplink.device, IfIndex(2 + n as u32), true, true);
        }
        world.start();
        world.run_until(Instant::from_millis(3_000));
        assert_eq!(world.violations, Vec::<String>::new());
        assert!(world.engine.as_ref().is_some_and(|e| e.is_synced()), "the engine never read its kernel");
    }
}

/// Names are unique, numbers fit, slots exist.
fn check_config(config: &Config) {
    for (at, uplink) in config.uplinks.iter().enumerate() {
        assert!(uplink.id.0 != 0 && uplink.id.0 <= 252 && !uplink.device.is_none(), "{uplink:?}");
        let twin = |u: &UplinkConfig| u.name == uplink.name || u.id == uplink.id;
        assert!(!config.uplinks.iter().take(at).any(twin), "twice: {uplink:?}");
    }
    let uplinks = config.uplinks.len();
    for policy in &config.policies {
        assert!(policy.members.iter().all(|m| usize::from(m.uplink.0) < uplinks && m.weight > 0), "{policy:?}");
    }
    let policies = config.policies.len();
    assert!(config.default_policy.is_none_or(|PolicySlot(p)| usize::from(p) < policies));
    for rule in &config.rules {
        let target = match rule.target {
            crate::config::RuleTarget::Policy(PolicySlot(p)) => usize::from(p) < policies,
            _ => true,
        };
        assert!(target && rule.families != [false; 2], "{rule:?}");
    }
}

/// A random run whose chances are the bytes: the world ends with them.
pub fn engine(bytes: &[u8]) {
    if let Err(story) = random::run_bytes(bytes) {
        panic!("{story}");
    }
}

/// Whether the bytes are a saved state of today's layout.
pub fn is_snapshot(bytes: &[u8]) -> bool {
    Unpack::first::<Snapshot>(bytes).is_some()
}

/// A saved state: postcard as the state file holds it, without the version byte.
pub fn snapshot(bytes: &[u8]) {
    let Some((saved, _)) = Unpack::first::<Snapshot>(bytes) else { return };
    let mut world = World::new(two_wans(true));
    world.saved = Some(saved);
    world.start();
    for n in 0..20 {
        world.kernel.create_link(device("wan"), IfIndex(2), n % 2 == 0, false);
        world.kernel.set_carrier(device("wan"), n % 2 == 0, world.now());
        world.collect();
        world.run_until(Instant::from_millis(3_000 * n));
    }
    assert_eq!(world.violations, Vec::<String>::new());
}

/// The loop of the daemon, with a kernel that says whatever the bytes say.
pub fn hostile(bytes: &[u8]) {
    let mut run = Hostile::new(Chance::from_bytes(bytes));
    run.drain();
    for _ in 0..TURNS {
        if run.chance.is_over() {
            break;
        }
        run.turn();
    }
}

struct Hostile {
    chance: Chance,
    engine: Box<Engine>,
    answers: Answers,
    now: Instant,
    /// The dump under way and its sequence number.
    dump: Option<Dump>,
    dump_seq: u32,
    /// Requests without an answer.
    waiting: Vec<Token>,
    /// What the last datagram that we sent said.
    sent: Vec<u8>,
    events: u32,
}

impl Hostile {
    fn new(chance: Chance) -> Self {
        Self {
            chance,
            engine: Box::new(Engine::new(&two_wans(true), Instant::ZERO)),
            answers: Answers::default(),
            now: Instant::ZERO,
            dump: None,
            dump_seq: 0,
            waiting: Vec::new(),
            sent: Vec::new(),
            events: 0,
        }
    }

    fn turn(&mut self) {
        match self.chance.below(16) {
            0 | 1 => self.datagram(Feed::Links, None),
            2 | 3 => self.datagram(Feed::State, None),
            4 => self.datagram(Feed::Requests, Some(self.dump_seq)),
            5 => {
                let seq = self.waiting.first().map(|t| t.0);
                self.datagram(Feed::Requests, seq);
            }
            // The kernel says that what we asked for happened, and that somebody else did it.
            6 => {
                let sent = self.sent.clone();
                self.heard(Feed::State, &sent);
            }
            7 | 8 => {
                let errno = self.errno();
                if let Some(token) = self.waiting.pop() {
                    self.tell(Event::Acked { token, errno });
                }
            }
            9 | 10 => {
                let outcome = match self.chance.below(4) {
                    0 => DumpOutcome::Interrupted,
                    1 => DumpOutcome::Failed(self.errno()),
                    _ => DumpOutcome::Complete,
                };
                if let Some(dump) = self.dump.take() {
                    self.tell(Event::DumpEnded { dump, outcome });
                }
            }
            11 => {
                let feed = [Feed::Links, Feed::State, Feed::Requests][self.chance.below(3) as usize];
                self.tell(Event::Overrun(feed));
            }
            12 => {
                let config = match self.chance.below(3) {
                    0 => Config::default(),
                    1 => two_wans(false),
                    _ => two_wans(true),
                };
                self.engine.reconfigure(&config, self.now);
            }
            13 => self.stray_event(),
            _ => {
                let micros = [1, 300, 20_000, 600_000, 7_000_000, 90_000_000][self.chance.below(6) as usize];
                self.now = self.now.after(Duration::from_micros(micros));
            }
        }
        self.drain();
        if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.engine.handle_timeout(self.now);
            self.drain();
            let next = self.engine.poll_timeout();
            assert!(next.is_none_or(|at| at > self.now), "the timer stays due: {next:?} at {:?}", self.now);
        }
        let events = self.engine.counters().events;
        assert!(events >= self.events, "a counter went back");
        self.events = events;
    }

    /// Events that no datagram of this world brings, with numbers that may never have been given out.
    fn stray_event(&mut self) {
        let token = Token(self.chance.below(1 << 16) as u32);
        let uplink = UplinkSlot(self.chance.below(256) as u8);
        let id = ProbeId { uplink, track: self.chance.below(256) as u8, seq: 1, life: self.chance.below(4) as u16 };
        let event = match self.chance.below(6) {
            0 => Event::Acked { token, errno: self.errno() },
            1 => Event::RouteAnswer { token, oif: Some(IfIndex(self.chance.below(4) as u32)) },
            2 => {
                let dump = Dump::ALL[self.chance.below(8) as usize];
                // The codec lets no end pass but that of the running dump; that one is told elsewhere.
                if self.dump == Some(dump) {
                    return;
                }
                Event::DumpEnded { dump, outcome: DumpOutcome::Complete }
            }
            3 => Event::Probe { id, outcome: ProbeOutcome::Answered, at: self.now },
            4 => Event::Resolved { uplink, track: id.track, addr: None },
            _ => {
                let family = crate::types::Family::BOTH[self.chance.below(2) as usize];
                Event::SysctlWritten { device: device("wan"), family, errno: self.errno() }
            }
        };
        self.tell(event);
    }

    fn errno(&mut self) -> Errno {
        let known = [Errno::OK, Errno::EPERM, Errno::ENODEV, Errno::EEXIST, Errno::ENETUNREACH, Errno::EBUSY];
        match self.chance.below(8) {
            n @ 0..=5 => known[n as usize],
            6 => Errno::EOPNOTSUPP,
            _ => Errno(self.chance.below(1 << 16) as u16),
        }
    }

    fn datagram(&mut self, feed: Feed, seq: Option<u32>) {
        let len = self.chance.below(1 << 16) as usize;
        let mut bytes = self.chance.take(len);
        if let Some(seq) = seq {
            renumber(&mut bytes, seq);
        }
        self.heard(feed, &bytes);
    }

    fn heard(&mut self, feed: Feed, bytes: &[u8]) {
        let mut events = Vec::new();
        let result = match feed {
            Feed::Requests => self.answers.decode(bytes, &mut |e| events.push(e)),
            _ => decode_notification(bytes, OWN_PORT, &mut |e| events.push(e)),
        };
        for event in events {
            check_event(&event);
            if let Event::DumpEnded { .. } = event {
                self.dump = None;
            }
            self.tell(event);
        }
        if result.is_err() {
            self.tell(Event::Overrun(feed));
        }
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle_event(event, self.now);
    }

    fn drain(&mut self) {
        for _ in 0..DRAIN {
            let Some(action) = self.engine.poll_action(self.now) else { return };
            self.perform(&action);
        }
        panic!("draining does not end within {DRAIN} actions");
    }

    fn perform(&mut self, action: &Action) {
        let mut buf = [0; REQUEST];
        let len = self.answers.encode(action, &mut buf).unwrap_or_else(|e| panic!("{e:?}: {action:?}"));
        let request = buf.get(..len).unwrap_or(&[]);
        if len > 0 {
            assert_eq!(messages(request).filter_map(Result::ok).count(), 1, "{action:?}");
        }
        match *action {
            Action::Route { token, .. } | Action::Nexthop { token, .. } | Action::Rule { token, .. } => {
                if let Action::Rule { rule, .. } = action {
                    let ours = matches!(rule.action, RuleAction::Lookup { table, .. } if table > 0);
                    assert!(ours || !matches!(rule.action, RuleAction::Lookup { .. }), "{rule:?}");
                }
                check_round(action);
                self.waiting.push(token);
                self.sent = request.to_vec();
            }
            Action::AskLink { token, .. } | Action::AskRoute { token, .. } => self.waiting.push(token),
            Action::Dump(dump) => {
                assert!(self.dump.is_none(), "I13: {dump:?} asked for while {:?} runs", self.dump);
                self.dump = Some(dump);
                self.dump_seq = messages(request).find_map(Result::ok).map_or(0, |m| m.seq);
                self.tell(Event::DumpBegan(dump));
            }
            Action::ReopenRequests => {
                self.dump = None;
                self.waiting.clear();
                self.answers = Answers::default();
            }
            _ => {}
        }
        assert!(self.waiting.len() <= 1 << 12, "{} requests without an answer", self.waiting.len());
        // Old ones are never answered.
        if self.waiting.len() > 64 {
            self.waiting.remove(0);
        }
    }
}

fn device(name: &str) -> IfName {
    IfName::new(name.as_bytes()).unwrap_or_default()
}

/// Two uplinks, the first with gateways of its own; with or without the second.
fn two_wans(both: bool) -> Config {
    let mut config = Config::default();
    for (n, name) in ["wan", "wanb"].into_iter().enumerate().take(1 + usize::from(both)) {
        let uplink = UplinkConfig {
            name: Name::from_str(name).unwrap_or_default(),
            id: UplinkId(n as u8 + 1),
            device: device(name),
            families: [true, true],
            gateway: (n == 0).then_some(Ipv4Addr::new(192, 0, 2, 1)),
            gateway6: (n == 0).then_some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            metric: 10 * (n as u32 + 1),
            hold_down: Duration::from_millis(500),
            damping: Some(DampingConfig::default()),
            probe: Default::default(),
            flush: Default::default(),
            sources: Default::default(),
            delegated: false,
            snat6: Default::default(),
        };
        // Cannot fail: every board holds two.
        let _ = config.uplinks.push(uplink);
    }
    let policy = default_policy(&config);
    let _ = config.policies.push(policy);
    config.default_policy = Some(PolicySlot(0));
    config
}
