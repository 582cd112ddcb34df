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
//! `uplink ... probe TARGET... interval 1s` probes; `path wan dark IPv4`, `path wan loss 300`, `path wan rtt 30ms`, `path wan traffic
//! IN OUT`, `target ADDR dead`, `name NAME is ADDR` say what becomes of probes.
//!
//! `>` goes in; `<` must come out at that time, and no other notice or switch may; `=` asks the pretend kernel, after
//! everything at that time has happened. Without `policy` lines all uplinks are members of `default`, by metric. Lines of
//! configuration after `start` take effect with `> reload`.
//!
//! [`run`] returns the scenario as it should read; the caller compares it with what it says, or writes it back.

mod probes;
mod show;
mod words;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

use probes::{input_path, input_target, parse_probe};
pub use show::show_notice;
use words::Words;

use super::{World, show_time};
use crate::config::{
    Config, DampingConfig, Failback, FlushConfig, LastResort, Member, PolicyConfig, Snat6, Span, UplinkConfig,
};
use crate::engine::action::RouteQuestion;
use crate::engine::event::MainDefault;
use crate::engine::object::{Hop, RouteSpec, RouteTarget};
use crate::engine::{Command, Hold};
use crate::time::{Duration, Instant};
use crate::types::{Family, FwMark, IfIndex, IfName, Name, PolicySlot, UplinkId, UplinkSlot};

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
                    "resilient" => world.kernel.no_resilient = true,
                    "nft" => world.kernel.flows.missing = true,
                    "ctnetlink" => world.kernel.flows.without_ctnetlink = true,
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
            "path" => input_path(world, words)?,
            "hold" => {
                let uplink = words.uplink(&config)?;
                let hold = match words.word("up, down or auto")? {
                    "up" => Hold::Up,
                    "down" => Hold::Down,
                    _ => Hold::Auto,
                };
                world.command(Command::Hold { uplink, hold });
                true
            }
            "prefer" => {
                let policy = words.word("a policy")?;
                let policy = config.policies.iter().position(|p| p.name == policy).ok_or("no such policy")?;
                let uplink = match words.peek() {
                    Some("nobody") => words.next().and(None),
                    _ => Some(words.uplink(&config)?),
                };
                world.command(Command::Prefer { policy: PolicySlot(policy as u8), uplink });
                true
            }
            "freeze" => {
                world.freeze(words.duration()?);
                true
            }
            "target" => input_target(world, words)?,
            "name" => {
                let name = words.word("a name")?.to_owned();
                words.expect("is")?;
                world.paths.names.insert(name, words.parse("an address")?);
                true
            }
            "flows" => {
                let uplink = words.uplink(&config)?;
                let (family, count) = (words.family()?, words.number()?);
                let counts = &mut world.kernel.flows.counts;
                counts.retain(|(of, f, _)| (*of, *f) != (uplink, family));
                counts.push((uplink, family, count));
                true
            }
            "refuse-nft" => {
                world.kernel.flows.refuse = words.number()?;
                true
            }
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
                    "nft" => world.kernel.rival_deletes_nft(),
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
        if subject == "probes" {
            words.expect("by")?;
            let device = words.device()?;
            let sent = world.paths.sent.insert(device, 0).unwrap_or(0);
            words.expect("between")?;
            let (least, most) = (words.number::<u32>()?, words.number::<u32>()?);
            return if (least..=most).contains(&sent) {
                Ok(())
            } else {
                Err(format!("{sent} probes since the last look"))
            };
        }
        if subject == "nft" {
            let want = match words.word("in place, gone or runs")? {
                "runs" => {
                    let (want, runs) = (words.number::<u32>()?, std::mem::take(&mut world.kernel.flows.runs));
                    return if want == runs { Ok(()) } else { Err(format!("it ran {runs} times")) };
                }
                "gone" => false,
                _ => words.expect("place").map(|()| true)?,
            };
            let there = world.kernel.flows.table.as_deref() == Some(&world.config);
            return if want == there { Ok(()) } else { Err(format!("in place: {there}")) };
        }
        if subject == "flows" {
            words.expect("of")?;
            let config = world.config.clone();
            let (uplink, family) = (words.uplink(&config)?, words.family()?);
            let want: u32 = words.number()?;
            let counts = &world.kernel.flows.counts;
            let found = counts.iter().find(|(of, f, _)| (*of, *f) == (uplink, family)).map_or(0, |c| c.2);
            return if found == want { Ok(()) } else { Err(format!("there are {found}")) };
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
        flush: FlushConfig::default(),
        sources: Span::EMPTY,
        delegated: false,
        snat6: Snat6::Off,
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
            "probe" => parse_probe(words, &mut uplink)?,
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
    let mut policy = PolicyConfig {
        name,
        members: heapless::Vec::new(),
        use_degraded: false,
        last_resort: LastResort::default(),
        failback: Failback::default(),
    };
    while let Some(word) = words.next() {
        if word == "failback" {
            policy.failback = match words.word("graceful, immediate or never")? {
                "immediate" => Failback::Immediate,
                "never" => Failback::Never,
                _ => Failback::Graceful,
            };
            continue;
        }
        if word == "use-degraded" {
            policy.use_degraded = true;
            continue;
        }
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
        use_degraded: false,
        last_resort: LastResort::default(),
        failback: Failback::default(),
    }
}
