//! The scenario language: a configuration, then a timeline of what goes in and what must come out.
//!
//! ```text
//! # comment
//! uplink wan device wan id 1 families 4 metric 10 gateway 192.0.2.1 hold-down 5s damping off
//! policy default wan/1 wanb/2 last-resort unreachable
//! 0s   > link wan ifindex 2 carrier on
//! 0s   > address wan 192.0.2.10/24
//! 0s   > start
//! 60s  > link wan carrier off
//! 60s  < notice wan down: carrier lost
//! 60s  < switch default IPv4 wan -> wanb
//! 60s  = default goes via wanb
//! ```
//!
//! `>` goes in; `<` must come out at that time, and no other notice or switch may; `=` asks the pretend kernel, after
//! everything at that time has happened. Without `policy` lines all uplinks are members of `default`, by metric. Lines of
//! configuration after `start` take effect with `> reload`.
//!
//! [`run`] returns the scenario as it should read; the caller compares it with what it says, or writes it back.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

use super::{World, show_time};
use crate::config::{Config, DampingConfig, LastResort, Member, PolicyConfig, UplinkConfig};
use crate::engine::action::RouteQuestion;
use crate::engine::event::{Feed, MainDefault};
use crate::engine::notice::{Notice, Object};
use crate::engine::object::{Hop, RouteSpec, RouteTarget};
use crate::engine::uplink::{Reason, State};
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, FwMark, IfIndex, IfName, Name, PolicySlot, UplinkId, UplinkSlot};

/// The netlink port of the rival in scenarios.
const RIVAL: u32 = 4242;

/// Runs a scenario and gives it back with its `<` lines as they came out, and what `=` lines found wrong.
///
/// # Errors
/// A line that makes no sense, or an `=` line that does not hold, with its number.
pub fn run(text: &str) -> Result<String, String> {
    let mut scenario = Scenario::default();
    for (index, line) in text.lines().enumerate() {
        scenario.line(line).map_err(|e| format!("line {}: {e}\n    {line}", index + 1))?;
    }
    scenario.finish()
}

#[derive(Default)]
struct Scenario {
    config: Config,
    world: Option<World>,
    result: String,
    at: Instant,
    /// Change requests at the last `>` line.
    requests: u64,
}

impl Scenario {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut words = Words { words: &words };
        let Some(first) = words.peek() else { return self.keep(line) };
        match first {
            w if w.starts_with('#') => return self.keep(line),
            "uplink" => {
                words.next();
                let uplink = parse_uplink(&mut words, self.config.uplinks.len())?;
                match self.config.uplinks.iter_mut().find(|u| u.name == uplink.name) {
                    Some(place) => *place = uplink,
                    None => self.config.uplinks.push(uplink).map_err(|_| "too many uplinks")?,
                }
                return self.keep(line);
            }
            "policy" => {
                words.next();
                let policy = parse_policy(&mut words, &self.config)?;
                self.config.policies.push(policy).map_err(|_| "too many policies")?;
                return self.keep(line);
            }
            "nexthops" => {
                words.next();
                self.config.globals.nexthops = words.on_off()?;
                return self.keep(line);
            }
            _ => {}
        }
        let at = Instant::ZERO.after(words.duration()?);
        if at < self.at {
            return Err("goes back in time".into());
        }
        self.at = at;
        match words.word("> or < or =")? {
            "<" => Ok(()),
            ">" => {
                self.run_until(at);
                self.keep(line)?;
                self.input(&mut words)?;
                words.end()
            }
            "=" => {
                self.run_until(at);
                self.keep(line)?;
                self.check(&mut words)?;
                words.end()
            }
            other => Err(format!("'{other}' is none of > < =")),
        }
    }

    fn keep(&mut self, line: &str) -> Result<(), String> {
        self.result.push_str(line);
        self.result.push('\n');
        Ok(())
    }

    fn finish(mut self) -> Result<String, String> {
        self.run_until(self.at);
        let violations = self.world.map(|w| w.violations).unwrap_or_default();
        match violations.first() {
            None => Ok(self.result),
            Some(violation) => Err(violation.clone()),
        }
    }

    fn world(&mut self) -> &mut World {
        self.world.get_or_insert_with(|| World::new(Config::default()))
    }

    fn run_until(&mut self, at: Instant) {
        self.world().run_until(at);
        let notices = self.world().take_notices();
        for (at, notice) in notices {
            let (config, result) = (self.world().config.clone(), &mut self.result);
            let _ = writeln!(result, "{:<7} < {}", show_time(at), show_notice(&notice, &config));
        }
    }

    fn with_default_policy(&self) -> Config {
        let mut config = self.config.clone();
        if config.policies.is_empty() {
            config.policies.extend([default_policy(&config)]);
        }
        config.default_policy = config.policies.iter().position(|p| p.name == "default").map(|i| PolicySlot(i as u8));
        config
    }

    fn input(&mut self, words: &mut Words) -> Result<(), String> {
        let config = self.with_default_policy();
        let requests = self.world().kernel.requests;
        self.requests = requests;
        let now = self.world().now();
        let world = self.world();
        let done = match words.word("an input")? {
            "start" | "restart" => {
                world.config = config;
                world.start();
                true
            }
            "crash" => {
                world.crash();
                true
            }
            "reload" => {
                world.reload(config);
                true
            }
            "kernel" => {
                words.expect("without")?;
                match words.word("nexthops or IPv6")? {
                    "nexthops" => world.kernel.no_nexthops = true,
                    "IPv6" => world.kernel.no_ipv6 = true,
                    other => return Err(format!("no kernel is without '{other}' here")),
                }
                true
            }
            "link" => input_link(world, words, now)?,
            "address" => {
                let device = words.device()?;
                let (addr, len) = words.prefix()?;
                match words.peek() {
                    Some("gone") => {
                        words.next();
                        world.kernel.remove_address(device, addr)
                    }
                    Some("tentative") => {
                        words.next();
                        world.kernel.add_address(device, addr, len, false)
                    }
                    _ => world.kernel.add_address(device, addr, len, true),
                }
            }
            "main" => input_main(world, words)?,
            "overrun" => {
                world.kernel.overrun(words.feed()?);
                true
            }
            "deaf" => {
                let feed = words.feed()?;
                world.kernel.faults.deaf[super::Channel::from(feed).index()] = true;
                true
            }
            "interrupt" => {
                words.expect("dumps")?;
                world.kernel.faults.interrupt_dumps = words.number()?;
                true
            }
            "lose" => match words.word("acks or route")? {
                "acks" => {
                    world.kernel.faults.lose_acks = words.number()?;
                    true
                }
                _ => {
                    let (family, table, metric) = (words.family()?, words.number()?, words.number()?);
                    world.kernel.delete_own_routes(None, |r| (r.family, r.table, r.metric) == (family, table, metric))
                        > 0
                }
            },
            "refuse" => {
                let times: usize = words.number()?;
                let errno = words.errno()?;
                world.kernel.faults.refuse = vec![errno; times];
                true
            }
            "rival" => match words.word("deletes")? {
                "deletes" => match words.word("routes or rules")? {
                    "rules" => world.kernel.delete_own_rules(Some(RIVAL), |_| true) > 0,
                    "route" => {
                        let (family, table, metric) = (words.family()?, words.number()?, words.number()?);
                        let is = |r: &RouteSpec| (r.family, r.table, r.metric) == (family, table, metric);
                        // A rival in a loop finds nothing now and then.
                        world.kernel.delete_own_routes(Some(RIVAL), is);
                        true
                    }
                    "routes" => world.kernel.delete_own_routes(Some(RIVAL), |_| true) > 0,
                    other => return Err(format!("'{other}' is neither route, routes nor rules")),
                },
                "puts" => {
                    words.expect("route")?;
                    let (family, table, metric) = (words.family()?, words.number()?, words.number()?);
                    let spec = RouteSpec { family, table, metric, target: RouteTarget::Unreachable };
                    world.kernel.plant_foreign_route(spec);
                    true
                }
                other => return Err(format!("a rival cannot '{other}'")),
            },
            other => return Err(format!("no input '{other}'")),
        };
        world.collect();
        if done { Ok(()) } else { Err("this had no effect".into()) }
    }

    fn check(&mut self, words: &mut Words) -> Result<(), String> {
        let before = self.requests;
        let world = self.world();
        let subject = words.word("what to check")?;
        if subject == "changed" {
            words.expect("nothing")?;
            let changes = world.kernel.requests - before;
            return if changes == 0 { Ok(()) } else { Err(format!("{changes} change requests since the last input")) };
        }
        if subject == "requests" {
            words.expect("at")?;
            words.expect("most")?;
            let (most, changes) = (words.number::<u64>()?, world.kernel.requests - before);
            return if changes <= most {
                Ok(())
            } else {
                Err(format!("{changes} change requests since the last input"))
            };
        }
        if subject == "as" {
            words.expect("expected")?;
            return super::model::compare(&world.kernel, &world.config);
        }
        let (family, mark) = match subject {
            "default" => (Family::V4, None),
            "IPv6" => (Family::V6, None),
            "mark" => {
                let value = words.word("a mark")?.trim_start_matches("0x");
                let value = u32::from_str_radix(value, 16).map_err(|_| "not a hexadecimal mark")?;
                (Family::V4, Some(FwMark { value, mask: world.config.globals.mark_mask }))
            }
            other => return Err(format!("cannot check '{other}'")),
        };
        words.expect("goes")?;
        let want = match words.word("via or nowhere")? {
            "via" => Some(words.device()?),
            _ => None,
        };
        let dst = super::FAR_AWAY[family.index()];
        let found = world.kernel.goes_via(&RouteQuestion { dst, mark });
        if found == want {
            return Ok(());
        }
        match found {
            Some(name) => Err(format!("goes via {name}")),
            None => Err("goes nowhere".into()),
        }
    }
}

fn input_link(world: &mut World, words: &mut Words, now: Instant) -> Result<bool, String> {
    let device = words.device()?;
    let kernel = &mut world.kernel;
    Ok(match words.word("what about the link")? {
        "ifindex" => {
            let ifindex = IfIndex(words.number()?);
            words.expect("carrier")?;
            let carrier = words.on_off()?;
            let physical = words.peek() != Some("stacked");
            if !physical {
                words.next();
            }
            kernel.create_link(device, ifindex, carrier, physical)
        }
        "carrier" => kernel.set_carrier(device, words.on_off()?, now),
        "bounces" => {
            for _ in 0..words.number::<u32>()? {
                if !kernel.set_carrier(device, false, now) || !kernel.set_carrier(device, true, now) {
                    return Ok(false);
                }
            }
            true
        }
        "up" => kernel.set_admin(device, true),
        "down" => kernel.set_admin(device, false),
        "gone" => kernel.delete_link(device),
        "renamed" => kernel.rename_link(device, words.device()?),
        other => return Err(format!("a link does not '{other}'")),
    })
}

fn input_main(world: &mut World, words: &mut Words) -> Result<bool, String> {
    words.expect("default")?;
    words.expect("via")?;
    let gateway: IpAddr = words.parse("a gateway")?;
    words.expect("dev")?;
    let device = words.device()?;
    words.expect("metric")?;
    let metric = words.number()?;
    let family = Family::of(gateway);
    if words.peek() == Some("gone") {
        words.next();
        return Ok(world.kernel.remove_main_default(family, metric));
    }
    let ifindex = world.kernel.link(device).ok_or("no such device")?.ifindex;
    let hop = Hop { gateway: Some(gateway), ifindex, onlink: false };
    Ok(world.kernel.add_main_default(MainDefault { family, metric, hop }))
}

fn parse_uplink(words: &mut Words, count: usize) -> Result<UplinkConfig, String> {
    let name = words.word("a name")?;
    let mut uplink = UplinkConfig {
        name: Name::from_str(name).map_err(|_| "name too long")?,
        id: UplinkId(count as u8 + 1),
        device: IfName::new(name.as_bytes()).ok_or("bad name")?,
        families: [true, false],
        gateway: None,
        gateway6: None,
        metric: count as u32 + 1,
        hold_down: Duration::from_secs(5),
        damping: None,
        probe: Default::default(),
    };
    while let Some(word) = words.next() {
        match word {
            "device" => uplink.device = words.device()?,
            "id" => uplink.id = UplinkId(words.number()?),
            "families" => {
                let text = words.word("families")?;
                uplink.families = [text.contains('4'), text.contains('6')];
            }
            "metric" => uplink.metric = words.number()?,
            "gateway" => match words.parse("a gateway")? {
                IpAddr::V4(a) => uplink.gateway = Some(a),
                IpAddr::V6(a) => uplink.gateway6 = Some(a),
            },
            "hold-down" => uplink.hold_down = words.duration()?,
            "damping" => {
                uplink.damping = match words.word("on or off")? {
                    "on" => Some(DampingConfig::default()),
                    _ => None,
                }
            }
            other => return Err(format!("an uplink has no '{other}'")),
        }
    }
    Ok(uplink)
}

fn parse_policy(words: &mut Words, config: &Config) -> Result<PolicyConfig, String> {
    let name = Name::from_str(words.word("a name")?).map_err(|_| "name too long")?;
    let mut policy = PolicyConfig { name, members: heapless::Vec::new(), last_resort: LastResort::default() };
    while let Some(word) = words.next() {
        if word == "last-resort" {
            policy.last_resort = match words.word("a last resort")? {
                "unreachable" => LastResort::Unreachable,
                "blackhole" => LastResort::Blackhole,
                _ => LastResort::Default,
            };
            continue;
        }
        let mut parts = word.split('/');
        let uplink = parts.next().unwrap_or_default();
        let slot = config.uplinks.iter().position(|u| u.name == uplink).ok_or(format!("no uplink '{uplink}'"))?;
        let metric = parts.next().and_then(|m| m.parse().ok()).unwrap_or(1);
        let weight = parts.next().and_then(|w| w.parse().ok()).unwrap_or(1);
        let member = Member { uplink: UplinkSlot(slot as u8), metric, weight };
        policy.members.push(member).map_err(|_| "too many members")?;
    }
    policy.members.sort_by_key(|m| m.metric);
    Ok(policy)
}

/// The implicit policy: every uplink, lowest metric first.
pub fn default_policy(config: &Config) -> PolicyConfig {
    let mut members: Vec<Member> = config
        .uplinks
        .iter()
        .enumerate()
        .map(|(i, u)| Member { uplink: UplinkSlot(i as u8), metric: u.metric, weight: 1 })
        .collect();
    members.sort_by_key(|m| m.metric);
    PolicyConfig {
        name: Name::from_str("default").unwrap_or_default(),
        members: members.into_iter().collect(),
        last_resort: LastResort::default(),
    }
}

/// A notice in one line, without its measured times.
pub fn show_notice(notice: &Notice, config: &Config) -> String {
    let uplink = |slot: UplinkSlot| match config.uplinks.get(usize::from(slot.0)) {
        Some(uplink) => uplink.name.to_string(),
        None => format!("uplink#{}", slot.0),
    };
    let way = |to: Option<UplinkSlot>| to.map_or("nothing".to_owned(), uplink);
    match notice {
        Notice::Uplink { uplink: slot, family, to, reason, flaps, .. } => {
            let family = family.map_or(String::new(), |f| format!(" {f}"));
            let flaps = if *flaps > 1 { format!(" ({flaps} flaps)") } else { String::new() };
            format!("notice {}{family} {}: {}{flaps}", uplink(*slot), show_state(*to), show_reason(*reason))
        }
        Notice::Bounced { uplink: slot, count } => format!("notice {} bounced {count} times unseen", uplink(*slot)),
        Notice::Switched { policy, family, from, to, .. } => {
            let name = config.policies.get(usize::from(policy.0)).map_or("?", |p| p.name.as_str());
            format!("switch {name} {family} {} -> {}", way(*from), way(*to))
        }
        Notice::Refused { object, errno, retry } => {
            format!("notice {} refused: {errno}, again in {}", show_object(object), show_duration(*retry))
        }
        Notice::Contended { object, by, retry } => {
            format!("notice {} contended by {by}, again in {}", show_object(object), show_duration(*retry))
        }
        Notice::Occupied { object } => format!("notice {} occupied", show_object(object)),
        Notice::Overrun { feed, total } => format!("notice overrun of {feed:?}, {total} so far"),
        Notice::Full { table, capacity } => format!("notice table {table} full at {capacity}"),
        Notice::SysctlFailed { device, family, errno } => format!("notice sysctl of {device} {family}: {errno}"),
        Notice::NoNexthops => "notice no nexthop objects".into(),
        Notice::NoFamily(family) => format!("notice no {family}"),
    }
}

fn show_duration(duration: Duration) -> String {
    show_time(Instant::ZERO.after(duration))
}

fn show_state(state: State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Down => "down",
        State::HoldDown => "held down",
        State::Damped => "damped",
        State::Up => "up",
    }
}

fn show_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NoDevice => "no device",
        Reason::AdminDown => "administratively down",
        Reason::NoCarrier => "carrier lost",
        Reason::NoAddress => "no address",
        Reason::NoGateway => "no gateway",
        Reason::Usable => "usable again",
        Reason::HeldDown => "stayed good",
        Reason::AtStart => "at start",
        Reason::Flapping => "flapping",
    }
}

fn show_object(object: &Object) -> String {
    match object {
        Object::Route(r) => format!("{} route of table {} metric {}", r.family, r.table, r.metric),
        Object::Rule(r) => format!("{} rule {}", r.family, r.priority),
        Object::Nexthop(n) => format!("nexthop {}", n.id),
    }
}

/// The words of a line, taken one by one.
struct Words<'a> {
    words: &'a [&'a str],
}

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.first().copied()
    }

    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn word(&mut self, what: &str) -> Result<&'a str, String> {
        self.next().ok_or(format!("ends where {what} should be"))
    }

    fn expect(&mut self, want: &str) -> Result<(), String> {
        let found = self.word(want)?;
        if found == want { Ok(()) } else { Err(format!("'{found}' where '{want}' should be")) }
    }

    fn end(&mut self) -> Result<(), String> {
        self.next().map_or(Ok(()), |word| Err(format!("'{word}' is too much")))
    }

    fn parse<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.word(what)?;
        word.parse().map_err(|_| format!("'{word}' is not {what}"))
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        self.parse("a number")
    }

    fn on_off(&mut self) -> Result<bool, String> {
        match self.word("on or off")? {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(format!("'{other}' is neither on nor off")),
        }
    }

    fn device(&mut self) -> Result<IfName, String> {
        IfName::new(self.word("a device")?.as_bytes()).ok_or("not a device name".into())
    }

    fn family(&mut self) -> Result<Family, String> {
        match self.word("a family")? {
            "IPv4" => Ok(Family::V4),
            "IPv6" => Ok(Family::V6),
            other => Err(format!("'{other}' is no family")),
        }
    }

    fn feed(&mut self) -> Result<Feed, String> {
        match self.word("a feed")? {
            "links" => Ok(Feed::Links),
            "state" => Ok(Feed::State),
            "requests" => Ok(Feed::Requests),
            other => Err(format!("'{other}' is no feed")),
        }
    }

    fn errno(&mut self) -> Result<Errno, String> {
        let word = self.word("an error")?;
        (0..=200).map(Errno).find(|e| e.to_string() == word).ok_or(format!("'{word}' is no error"))
    }

    fn prefix(&mut self) -> Result<(IpAddr, u8), String> {
        let word = self.word("an address")?;
        let (addr, len) = word.split_once('/').ok_or("an address needs its length")?;
        Ok((addr.parse().map_err(|_| "not an address")?, len.parse().map_err(|_| "not a length")?))
    }

    /// `5s`, `0.25s`, `300ms`.
    fn duration(&mut self) -> Result<Duration, String> {
        let word = self.word("a time")?;
        let bad = || format!("'{word}' is no time");
        if let Some(ms) = word.strip_suffix("ms") {
            return ms.parse().map(Duration::from_millis).map_err(|_| bad());
        }
        let seconds = word.strip_suffix('s').ok_or_else(bad)?;
        let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        if part.len() > 6 {
            return Err(bad());
        }
        let micros: u64 = format!("{part:0<6}").parse().map_err(|_| bad())?;
        Ok(Duration::from_micros(whole.saturating_mul(1_000_000).saturating_add(micros)))
    }
}
