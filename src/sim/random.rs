//! Random runs: one seed is one world, one configuration and one row of mishaps, the same every time.
//!
//! After every step the invariants of `check_step` must hold. After the mishaps the world is left alone for [`QUIET`];
//! then the kernel must hold exactly what [`expected`] says, a slow model written from the documentation and not from the
//! engine: it knows the kernel's true state and no history. Then nothing more may be asked of the kernel.
//!
//! A failure names its seed and gives the whole timeline, from a second run of the same seed.

mod check;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use super::chance::Chance;
use super::kernel::Channel;
use super::model::{carriers, compare, eligible};
use super::paths::Paths;
use super::script::default_policy;
use super::{World, show_time};
use crate::config::probe::{Host, Quality, Target};
use crate::config::{
    Config, DampingConfig, Failback, FlushConfig, LastResort, ProbeConfig, RuleConfig, RuleTarget, Snat6, Span,
    UplinkConfig,
};
use crate::engine::event::{Feed, MainDefault};
use crate::engine::object::{Hop, NexthopBody, RouteSpec, RouteTarget, RuleAction, RuleSpec, Selector};
use crate::limits;
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, IfIndex, IfName, Name, Permille, PolicySlot, Prefix, UplinkId};

/// How long the world is left alone in the end: longest hold-down, longest suppression and longest back-off all pass.
const QUIET: Duration = Duration::from_secs(75);
/// Whom the uplinks ask.
const TARGETS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x11)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x12)),
];
/// Mishaps in a run.
const STEPS: u32 = 60;

/// Runs a seed.
///
/// # Errors
/// What went wrong, with the seed and the timeline.
pub fn run(seed: u64) -> Result<(), String> {
    run_with(&Chance::new(seed), &format!("seed {seed}"))
}

/// Runs a seed and records every daemon in it; what was recorded.
///
/// # Errors
/// What went wrong.
pub fn record(seed: u64) -> Result<Vec<Vec<u8>>, String> {
    let mut run = Run::new(Chance::new(seed));
    run.world.records = true;
    run.whole().map_err(|problem| format!("seed {seed}: {problem}"))?;
    run.world.stop_recording();
    Ok(run.world.recorded)
}

/// Runs what a fuzzer's bytes say; the mishaps end with them.
///
/// # Errors
/// What went wrong, with the timeline.
pub fn run_bytes(bytes: &[u8]) -> Result<(), String> {
    run_with(&Chance::from_bytes(bytes), "these bytes")
}

fn run_with(chance: &Chance, name: &str) -> Result<(), String> {
    if attempt(chance.clone(), false).is_ok() {
        return Ok(());
    }
    // Once more, writing everything down.
    match attempt(chance.clone(), true) {
        Err((problem, timeline)) => Err(format!("{timeline}{name}: {problem}")),
        Ok(()) => Err(format!("{name}: failed, and not when run again: something is not deterministic")),
    }
}

fn attempt(chance: Chance, keep_timeline: bool) -> Result<(), (String, String)> {
    let mut run = Run::new(chance);
    if keep_timeline {
        run.world.timeline = Some(Vec::new());
    }
    // An engine that panics is a finding like any other; the world is only read afterwards.
    let result = catch_unwind(AssertUnwindSafe(|| run.whole()));
    let problem = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(problem)) => problem,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            format!("panic: {}", text.unwrap_or_default())
        }
    };
    let mut timeline = format!("{:#?}\n", run.world.config);
    for line in run.world.timeline.iter().flatten() {
        let _ = writeln!(timeline, "{line}");
    }
    Err((problem, timeline))
}

/// A run under way.
struct Run {
    world: World,
    chance: Chance,
    last_fault: Instant,
    /// Own ways out of devices that are no uplink's, by what they are, and since when.
    wrong_since: HashMap<String, Instant>,
    /// Since when the default has led out of a dead device while a live one was there.
    dead_since: [Option<Instant>; 2],
    /// Since when it has led into the dark while a bright one was there.
    dark_since: [Option<Instant>; 2],
}

impl Run {
    fn new(mut chance: Chance) -> Self {
        let config = random_config(&mut chance);
        let mut world = World::new(config);
        world.kernel.no_nexthops = chance.one_in(20);
        world.kernel.no_ipv6 = chance.one_in(20);
        world.kernel.no_resilient = chance.one_in(10);
        world.kernel.flows.missing = chance.one_in(10);
        world.kernel.flows.refuse = if chance.one_in(10) { chance.below(4) as u32 } else { 0 };
        world.kernel.old_link_watch = chance.one_in(5);
        let run = Self {
            world,
            chance,
            last_fault: Instant::ZERO,
            wrong_since: HashMap::new(),
            dead_since: [None; 2],
            dark_since: [None; 2],
        };
        run.with_devices()
    }

    fn with_devices(mut self) -> Self {
        for at in 0..self.world.config.uplinks.len() {
            if !self.chance.one_in(6) {
                self.create(at);
                self.equip(at);
            }
        }
        self
    }

    fn whole(&mut self) -> Result<(), String> {
        self.world.start();
        for _ in 0..STEPS {
            if self.chance.is_over() {
                break;
            }
            let micros = match self.chance.below(6) {
                0 => 0,
                1 => self.chance.below(1_000),
                2 | 3 => self.chance.below(100_000),
                4 => self.chance.below(1_500_000),
                _ => self.chance.below(6_000_000),
            };
            self.pass(Duration::from_micros(micros))?;
            self.jitter();
            self.mishap();
            self.world.collect();
        }
        self.end_of_faults();
        self.pass(QUIET)?;
        compare(&self.world.kernel, &self.world.config).map_err(|e| format!("{e}{}", self.probes()))?;
        self.check_default()?;
        let requests = self.world.kernel.requests;
        self.pass(QUIET)?;
        match self.world.kernel.requests - requests {
            0 => Ok(()),
            n => Err(format!("L10: {n} change requests in a quiet world")),
        }
    }

    /// What the engine thinks of its uplinks, for the story of a failure.
    fn probes(&self) -> String {
        let mut text = String::new();
        for (config, uplink) in self.world.engine.iter().flat_map(|e| e.uplinks()) {
            let _ = write!(text, "\n  {}: {:?}", config.name, uplink.legs.map(|l| (l.state, l.reason)));
            let _ = write!(text, " {:?}", uplink.probing.reach);
            for t in &uplink.probing.tracks {
                let _ = write!(text, " ({:?} sick {} poor {} {:?})", t.verdict, t.sick, t.poor, t.trouble);
            }
        }
        text
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.world.now().after(time);
        self.world.collect();
        while self.world.next_at().is_some_and(|at| at <= until) {
            self.world.step();
            self.check_step()?;
        }
        self.world.run_until(until);
        Ok(())
    }

    /// Each channel is as slow as it likes, but keeps its order.
    fn jitter(&mut self) {
        for channel in [Channel::Links, Channel::State, Channel::Requests] {
            let slow = if self.chance.one_in(8) { 20_000 } else { 500 };
            self.world.latency[channel.index()] = Duration::from_micros(self.chance.below(slow));
        }
    }

    fn end_of_faults(&mut self) {
        self.world.note("> all faults end".into());
        let faults = &mut self.world.kernel.faults;
        faults.refuse.clear();
        (faults.lose_acks, faults.interrupt_dumps, faults.fail_dumps) = (0, 0, 0);
        for feed in [Feed::Links, Feed::State, Feed::Requests] {
            if self.world.kernel.faults.deaf[Channel::from(feed).index()] {
                self.world.kernel.overrun(feed);
            }
        }
        self.world.paths = Paths::new();
        if self.world.engine.is_none() {
            self.world.start();
        }
        self.last_fault = self.world.now();
    }

    fn mishap(&mut self) {
        let at = self.chance.below(self.world.config.uplinks.len() as u64) as usize;
        let Some(uplink) = self.world.config.uplinks.get(at).cloned() else { return };
        let now = self.world.now();
        let device = uplink.device;
        let kind = self.chance.below(40);
        self.world.note(format!("> mishap {kind} on {device}"));
        match kind {
            0..=5 => {
                let carrier = self.world.kernel.link(device).is_some_and(|l| l.carrier);
                self.world.kernel.set_carrier(device, !carrier, now);
            }
            6 | 7 => {
                for _ in 0..=self.chance.below(3) {
                    self.world.kernel.set_carrier(device, false, now);
                    self.world.kernel.set_carrier(device, true, now);
                }
            }
            8 => {
                self.world.kernel.set_admin(device, false);
            }
            9 => {
                self.world.kernel.set_admin(device, false);
                self.world.kernel.set_admin(device, true);
                self.equip_perhaps(at);
            }
            10 | 11 => {
                self.create(at);
                self.world.kernel.set_admin(device, true);
                self.world.kernel.set_carrier(device, true, now);
                self.equip(at);
            }
            12 => {
                self.world.kernel.delete_link(device);
            }
            13 => {
                self.world.kernel.delete_link(device);
                self.create(at);
                self.equip_perhaps(at);
            }
            14 => {
                // Its number is given to a device that is none of ours.
                if let Some(ifindex) = self.world.kernel.link(device).map(|l| l.ifindex) {
                    self.world.kernel.delete_link(device);
                    let other = device_name("tun", self.chance.below(90));
                    self.world.kernel.create_link(other, ifindex, true, false);
                }
            }
            15 => {
                let other = device_name("old", self.chance.below(90));
                self.world.kernel.rename_link(device, other);
            }
            16 => {
                let away: Vec<_> = self.world.kernel.links().iter().map(|l| l.name).collect();
                let n = self.chance.below(away.len().max(1) as u64) as usize;
                if let Some(name) = away.get(n) {
                    self.world.kernel.rename_link(*name, device);
                }
            }
            17 | 18 => {
                let gone = self.world.kernel.addresses().iter().find(|a| self.is_on(a.ifindex, device)).copied();
                if let Some(address) = gone {
                    self.world.kernel.remove_address(device, address.addr);
                }
            }
            19 => self.equip_perhaps(at),
            20 => {
                let host = 20 + self.chance.below(5) as u8;
                let usable = !self.chance.one_in(3);
                let (addr, len) = address_of(&uplink, random_family(&mut self.chance), host);
                self.give(device, addr, len, usable);
            }
            21 => self.change_gateway(&uplink),
            22 => {
                let family = random_family(&mut self.chance);
                self.world.kernel.remove_main_default(family, uplink.metric);
            }
            23 => {
                let (n, of) = (self.chance.below(3) as u32, 3);
                let by = self.somebody();
                self.world.kernel.delete_own_routes(by, |r| r.metric % of == n);
            }
            24 => {
                let by = self.somebody();
                self.world.kernel.delete_own_rules(by, |_| true);
            }
            25 => {
                let by = self.somebody();
                let n = self.chance.below(self.world.kernel.nexthops().len().max(1) as u64) as usize;
                if let Some(id) = self.world.kernel.nexthops().get(n).map(|n| n.id) {
                    self.world.kernel.delete_own_nexthop(by, id);
                }
            }
            26 => {
                let table = [1, 2, 9, 7600, 7601][self.chance.below(5) as usize];
                let metric = [5, 10, 1000, 1001][self.chance.below(4) as usize];
                let family = random_family(&mut self.chance);
                if family == Family::V4 || !self.world.kernel.no_ipv6 {
                    let target = RouteTarget::Blackhole;
                    self.world.kernel.plant_own_route(RouteSpec { family, table, metric, target });
                }
            }
            27 => {
                let action = RuleAction::Lookup { table: 9, suppress: None };
                let rule = RuleSpec { family: Family::V4, priority: 1500, select: Selector::default(), action };
                self.world.kernel.plant_own_rule(rule);
            }
            28 => {
                let feed = [Feed::Links, Feed::State, Feed::Requests][self.chance.below(3) as usize];
                let deaf = &mut self.world.kernel.faults.deaf[Channel::from(feed).index()];
                if *deaf {
                    self.world.kernel.overrun(feed);
                } else {
                    *deaf = true;
                }
                self.fault();
            }
            29 => {
                self.world.kernel.faults.lose_acks = 1 + self.chance.below(3) as u32;
                self.fault();
            }
            30 | 31 => {
                let errnos = [Errno::EINVAL, Errno::EPERM, Errno(12), Errno::EBUSY, Errno(105)];
                let errno = errnos[self.chance.below(errnos.len() as u64) as usize];
                self.world.kernel.faults.refuse = vec![errno; 1 + self.chance.below(5) as usize];
                self.fault();
            }
            32 => {
                self.world.kernel.faults.interrupt_dumps = 1 + self.chance.below(4) as u32;
                self.fault();
            }
            33 => {
                self.world.kernel.faults.fail_dumps = 1 + self.chance.below(2) as u32;
                self.fault();
            }
            35 | 36 => {
                let (family, both) = (random_family(&mut self.chance), self.chance.one_in(2));
                let path = self.world.paths.at(device);
                let dark = !path.dark[family.index()];
                path.dark[family.index()] = dark;
                if both {
                    path.dark = [dark; 2];
                }
            }
            37 => {
                let target = TARGETS[self.chance.below(TARGETS.len() as u64) as usize];
                let dead = self.world.paths.dead.contains(&target);
                self.world.paths.dead.retain(|t| *t != target);
                if !dead {
                    self.world.paths.dead.push(target);
                }
            }
            38 => {
                let loss = [0, 50, 300, 800][self.chance.below(4) as usize];
                let rtt = Duration::from_millis([1, 30, 400][self.chance.below(3) as usize]);
                let path = self.world.paths.at(device);
                (path.loss, path.rtt) = (loss, rtt);
            }
            34 => {
                if self.chance.one_in(2) {
                    self.world.crash();
                    self.fault();
                    return;
                }
                self.world.start();
                self.fault();
            }
            _ => {
                let frozen = Duration::from_micros(self.chance.below(20_000_000));
                self.world.freeze(frozen);
                self.fault();
            }
        }
        if self.world.engine.is_none() && self.chance.one_in(4) {
            self.world.start();
            self.fault();
        }
        // A feed is never deaf for long: the socket says so when it is read next.
        for feed in [Feed::Links, Feed::State, Feed::Requests] {
            if self.world.kernel.faults.deaf[Channel::from(feed).index()] && self.chance.one_in(3) {
                self.world.kernel.overrun(feed);
                self.fault();
            }
        }
    }

    fn fault(&mut self) {
        self.last_fault = self.world.now();
    }

    fn somebody(&mut self) -> Option<u32> {
        // A change without a message is a fault of its own: the overrun that hid it comes with it.
        if self.chance.one_in(4) {
            self.world.kernel.overrun(Feed::State);
            self.fault();
            return None;
        }
        Some(1000 + self.chance.below(3) as u32)
    }

    fn is_on(&self, ifindex: IfIndex, device: IfName) -> bool {
        self.world.kernel.link(device).is_some_and(|l| l.ifindex == ifindex)
    }

    fn create(&mut self, at: usize) {
        let Some(uplink) = self.world.config.uplinks.get(at) else { return };
        let ifindex = IfIndex(2 + self.chance.below(12) as u32);
        let (carrier, physical) = (!self.chance.one_in(4), !self.chance.one_in(5));
        self.world.kernel.create_link(uplink.device, ifindex, carrier, physical);
    }

    fn equip_perhaps(&mut self, at: usize) {
        if !self.chance.one_in(3) {
            self.equip(at);
        }
    }

    /// What netifd does: an address and a default route in table main for each family.
    fn equip(&mut self, at: usize) {
        let Some(uplink) = self.world.config.uplinks.get(at).cloned() else { return };
        for family in Family::BOTH {
            let (addr, len) = address_of(&uplink, family, 10);
            self.give(uplink.device, addr, len, true);
            self.put_default(&uplink, family, 1);
        }
    }

    /// An address, if the daemon has room for it: the model knows no limits. What happens beyond them is in `tests/input`.
    fn give(&mut self, device: IfName, addr: IpAddr, len: u8, usable: bool) {
        let kernel = &mut self.world.kernel;
        let Some(ifindex) = kernel.link(device).map(|l| l.ifindex) else { return };
        let others = kernel.addresses().iter().filter(|a| a.ifindex == ifindex && a.addr != addr).count();
        if others < limits::ADDRESSES {
            kernel.add_address(device, addr, len, usable);
        }
    }

    fn change_gateway(&mut self, uplink: &UplinkConfig) {
        let host = 1 + self.chance.below(4) as u8;
        let family = random_family(&mut self.chance);
        self.put_default(uplink, family, host);
    }

    fn put_default(&mut self, uplink: &UplinkConfig, family: Family, host: u8) {
        let Some(ifindex) = self.world.kernel.link(uplink.device).map(|l| l.ifindex) else { return };
        let gateway = match family {
            Family::V4 => address_of(uplink, family, host).0,
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, uplink.id.0.into(), host.into())),
        };
        let hop = Hop { gateway: Some(gateway), ifindex, onlink: false };
        self.world.kernel.add_main_default(MainDefault { family, metric: uplink.metric, hop });
    }
}

fn device_name(stem: &str, n: u64) -> IfName {
    IfName::new(format!("{stem}{n}").as_bytes()).unwrap_or_default()
}

fn random_family(chance: &mut Chance) -> Family {
    if chance.one_in(2) { Family::V6 } else { Family::V4 }
}

/// The address with this last byte in the uplink's network.
fn address_of(uplink: &UplinkConfig, family: Family, host: u8) -> (IpAddr, u8) {
    match family {
        Family::V4 => (IpAddr::V4(Ipv4Addr::new(198, 18, uplink.id.0, host)), 24),
        Family::V6 => (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, uplink.id.0.into(), 0, 0, 0, 0, host.into())), 64),
    }
}

fn random_probe(chance: &mut Chance, families: [bool; 2]) -> ProbeConfig {
    let interval = Duration::from_millis([500, 1000, 3000][chance.below(3) as usize]);
    let mut probe = ProbeConfig { interval, failure_interval: interval, ..ProbeConfig::default() };
    probe.metered = chance.one_in(6);
    probe.standby_interval = Duration::from_secs(5);
    probe.initial_online = !chance.one_in(3);
    for target in TARGETS.into_iter().filter(|t| families[Family::of(*t).index()]) {
        let host = if chance.one_in(6) { Host::Gateway } else { Host::Addr(target) };
        let _ = probe.targets.push(Target { host, family: Family::of(target) });
    }
    probe.reliability = 1 + chance.below(2) as u8;
    // A window must pass within the quiet time.
    if chance.one_in(4) && interval < Duration::from_secs(1) && !probe.metered {
        probe.quality = Some(Quality {
            failure_latency: 300_000,
            recovery_latency: 100_000,
            failure_loss: Permille(200),
            recovery_loss: Permille(100),
        });
    }
    probe
}

fn random_config(chance: &mut Chance) -> Config {
    let mut config = Config::default();
    config.globals.nexthops = !chance.one_in(8);
    let names = ["wan", "wanb", "wwan", "lte"];
    let probed = chance.one_in(3);
    let count = 1 + chance.below(4) as usize;
    for (n, name) in names.into_iter().enumerate().take(count) {
        let id = UplinkId(n as u8 + 1);
        let families = [[true, true], [true, true], [true, false], [false, true]][chance.below(4) as usize];
        let mut uplink = UplinkConfig {
            name: Name::from_str(name).unwrap_or_default(),
            id,
            device: device_name("eth", n as u64),
            families,
            gateway: None,
            gateway6: None,
            metric: 10 * chance.below(5) as u32 + n as u32,
            hold_down: Duration::from_millis([0, 500, 2000, 5000][chance.below(4) as usize]),
            damping: chance.one_in(2).then(DampingConfig::default),
            probe: Default::default(),
            flush: FlushConfig { down: !chance.one_in(4), up: chance.one_in(8), all: false },
            sources: Span::EMPTY,
            delegated: false,
            snat6: Snat6::Off,
        };
        if probed {
            uplink.probe = random_probe(chance, families);
        }
        if chance.one_in(2) {
            uplink.gateway = Some(Ipv4Addr::new(198, 18, id.0, 1));
        }
        if chance.one_in(2) {
            uplink.gateway6 = Some(Ipv6Addr::new(0x2001, 0xdb8, id.0.into(), 0, 0, 0, 0, 1));
        }
        let _ = config.uplinks.push(uplink);
    }
    let mut policy = default_policy(&config);
    policy.last_resort =
        [LastResort::Unreachable, LastResort::Blackhole, LastResort::Default][chance.below(3) as usize];
    if chance.one_in(3) {
        // All share, or the first two.
        let alike = if chance.one_in(2) { policy.members.len() } else { 2 };
        for member in policy.members.iter_mut().take(alike) {
            (member.metric, member.weight) = (1, 1 + chance.below(600) as u16);
        }
        policy.members.sort_by_key(|m| m.metric);
    }
    policy.failback = if chance.one_in(3) { Failback::Immediate } else { Failback::Graceful };
    let mut other = policy.clone();
    let _ = config.policies.push(policy);
    config.default_policy = (!chance.one_in(10)).then_some(PolicySlot(0));
    if chance.one_in(2) {
        other.name = Name::from_str("other").unwrap_or_default();
        // Worst first: members are in the order of their metrics.
        other.members.reverse();
        other.members.iter_mut().for_each(|m| m.metric = 1000 - m.metric);
        let _ = config.policies.push(other);
        let _ = config.prefixes.push(Prefix { addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), len: 8 });
        let _ = config.rules.push(RuleConfig {
            name: Name::from_str("guests").unwrap_or_default(),
            families: [true, false],
            src: Span { first: 0, len: 1 },
            sticky: chance.one_in(3).then_some(Duration::from_secs(600)),
            ..RuleConfig::new(RuleTarget::Policy(PolicySlot(1)))
        });
    }
    config
}
