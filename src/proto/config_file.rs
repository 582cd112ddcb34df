//! Sections of UCI become a [`Config`]: mwan3's words with mwan3's meaning, and ours.
//!
//! Everything is either applied or named: an error for each wrong value (then there is no configuration at all), a
//! warning for each option that is understood but not applied yet. Nothing is dropped in silence.

mod members;
mod probe;
mod rules;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use super::uci::Diagnostic;
use super::uci::{Section, Value, sections};
use crate::config::probe::Word;
use crate::config::{
    Config, DampingConfig, Failback, FlushConfig, LastResort, Member, PolicyConfig, ProbeConfig, Snat6, Span,
    UplinkConfig,
};
use crate::limits;
use crate::sort::sort;
use crate::time::Duration;
use crate::types::{IfName, Name, PolicySlot, Prefix, UplinkId, UplinkSlot};
use probe::Probes;

/// Whose file it is: what is meant where nothing is said differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Ours: an interface is enabled and serves both families unless it says otherwise.
    Linkwatch,
    /// mwan3's: an interface is disabled and serves IPv4 unless it says otherwise.
    Mwan3,
}

/// What a file amounts to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The configuration; `None` when there is any error. Boxed: on a large board it is a hundred kilobytes.
    pub config: Option<Box<Config>>,
    /// What is wrong.
    pub errors: Vec<Diagnostic>,
    /// What is understood but not applied, or likely not meant.
    pub warnings: Vec<Diagnostic>,
}

/// Syslog's levels by mwan3's names and nft's.
const LOG_LEVELS: [(&str, u8); 11] = [
    ("emerg", 0),
    ("alert", 1),
    ("critical", 2),
    ("crit", 2),
    ("error", 3),
    ("err", 3),
    ("warning", 4),
    ("warn", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

/// A configuration of nothing, made in its place and not on the stack.
pub fn empty() -> Box<Config> {
    Box::write(Box::new_uninit(), Config::default())
}

/// Reads a file. `known_ids` are the numbers that names had before: a number stays with its name.
pub fn read(text: &[u8], dialect: Dialect, known_ids: &[(Name, UplinkId)]) -> Outcome {
    let (sections, errors) = sections(text);
    let outcome = Outcome { config: None, errors, warnings: Vec::new() };
    let mut reader = Reader {
        dialect,
        outcome,
        config: empty(),
        disabled: Vec::new(),
        members: Vec::new(),
        failback: Failback::default(),
    };
    reader.check_names(&sections);
    let of = |kind: &str| sections.iter().filter(|s| s.kind == kind).collect::<Vec<_>>();
    let globals = of("globals");
    globals.iter().for_each(|s| reader.globals(s));
    let interfaces = of("interface");
    let ids = assign_ids(&interfaces, known_ids);
    for (position, (section, id)) in interfaces.iter().zip(ids).enumerate() {
        reader.interface(section, position, id);
    }
    of("member").iter().for_each(|s| reader.member(s));
    of("policy").iter().for_each(|s| reader.policy(s));
    of("ipset").iter().for_each(|s| reader.ipset(s));
    of("rule").iter().for_each(|s| reader.rule(s));
    if !sections.iter().any(|s| matches!(s.kind.as_str(), "policy" | "rule")) {
        reader.implicit_policy();
    }
    for (section, message) in members::check(&reader.config, &sections) {
        reader.error(section, None, message);
    }
    let nowhere = Section { kind: "globals".to_owned(), ..Section::default() };
    reader.check_marks(globals.first().copied().unwrap_or(&nowhere));
    let Reader { mut outcome, config, .. } = reader;
    outcome.config = outcome.errors.is_empty().then_some(config);
    outcome
}

/// mwan3's numbering: the position in the file, disabled sections counted; but a name keeps the number it had.
fn assign_ids(interfaces: &[&Section], known: &[(Name, UplinkId)]) -> Vec<u8> {
    let known_id = |name: &str| known.iter().find(|(n, _)| n.as_str() == name).map(|(_, id)| id.0);
    let mut taken: Vec<u8> = interfaces.iter().filter_map(|s| known_id(&s.name)).collect();
    let mut ids = Vec::new();
    for (position, section) in interfaces.iter().enumerate() {
        let id = known_id(&section.name).unwrap_or_else(|| {
            let wish = u8::try_from(position.saturating_add(1)).unwrap_or(u8::MAX);
            let id =
                if taken.contains(&wish) { (1..u8::MAX).find(|n| !taken.contains(n)).unwrap_or(u8::MAX) } else { wish };
            taken.push(id);
            id
        });
        ids.push(id);
    }
    ids
}

struct NamedMember {
    name: String,
    interface: String,
    metric: u32,
    weight: u16,
}

struct Reader {
    dialect: Dialect,
    outcome: Outcome,
    config: Box<Config>,
    disabled: Vec<String>,
    members: Vec<NamedMember>,
    /// What policies do that say nothing of it.
    failback: Failback,
}

impl Reader {
    fn error(&mut self, section: &Section, value: Option<&Value>, message: impl Into<String>) {
        self.outcome.errors.push(diagnostic(section, value, message.into()));
    }

    fn warn(&mut self, section: &Section, value: Option<&Value>, message: impl Into<String>) {
        let news = diagnostic(section, value, message.into());
        // One warning for each option: the values of a list are one option.
        if !self.outcome.warnings.iter().any(|w| w.place == news.place && w.message == news.message) {
            self.outcome.warnings.push(news);
        }
    }

    fn check_names(&mut self, sections: &[Section]) {
        for (at, section) in sections.iter().enumerate() {
            let kind = section.kind.as_str();
            if !["globals", "interface", "member", "policy", "rule", "ipset"].contains(&kind) {
                self.warn(section, None, format!("unknown section type '{}', left out", kind.escape_default()));
                continue;
            }
            if !["globals", "rule", "ipset"].contains(&kind) && section.name.is_empty() {
                self.error(section, None, format!("a {kind} needs a name"));
            }
            if !section.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
                self.error(section, None, "a name may hold letters, digits, '_', '-' and '.'");
            }
            if ["interface", "policy", "rule"].contains(&kind) && section.name.len() > 15 {
                self.error(section, None, format!("name of {} bytes, at most 15", section.name.len()));
            }
            let twin = |s: &&Section| s.kind == section.kind && s.name == section.name && !s.name.is_empty();
            if let Some(twin) = sections.iter().take(at).find(twin) {
                self.error(section, None, format!("the name is taken by line {}", twin.line));
            }
        }
    }

    // --- values ------------------------------------------------------------------------------------------------------

    fn flag(&mut self, section: &Section, value: &Value) -> Option<bool> {
        match value.value.as_str() {
            "1" | "on" | "true" | "yes" | "enabled" => Some(true),
            "0" | "off" | "false" | "no" | "disabled" => Some(false),
            other => {
                self.refuse(section, value, other, "is neither 0 nor 1");
                None
            }
        }
    }

    fn number(&mut self, section: &Section, value: &Value, min: u32, max: u32) -> Option<u32> {
        let number = value.value.parse().ok().filter(|n| (min..=max).contains(n));
        if number.is_none() {
            let shown = value.value.escape_default();
            self.error(section, Some(value), format!("'{shown}' is no number from {min} to {max}"));
        }
        number
    }

    fn duration(&mut self, section: &Section, value: &Value) -> Option<Duration> {
        let text = value.value.as_str();
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let scale: Option<u64> = match unit {
            "ms" => Some(1),
            "" | "s" => Some(1000),
            "m" => Some(60_000),
            _ => None,
        };
        let millis = number.parse::<u64>().ok().zip(scale).and_then(|(n, s)| n.checked_mul(s));
        let millis = millis.filter(|m| *m <= 24 * 3_600_000);
        if millis.is_none() {
            self.refuse(section, value, text, "is no duration: want 10 (seconds), 200ms, 2s or 5m, at most a day");
        }
        millis.map(Duration::from_millis)
    }

    fn word(&mut self, section: &Section, value: &Value, allowed: &[&str]) -> Option<usize> {
        let found = allowed.iter().position(|a| *a == value.value);
        if found.is_none() {
            let shown = value.value.escape_default();
            self.error(section, Some(value), format!("'{shown}' is none of {}", allowed.join(", ")));
        }
        found
    }

    fn address<T: std::str::FromStr>(&mut self, section: &Section, value: &Value, what: &str) -> Option<T> {
        let parsed = value.value.parse().ok();
        if parsed.is_none() {
            self.error(section, Some(value), format!("'{}' is no {what} address", value.value.escape_default()));
        }
        parsed
    }

    /// An error about a word of the file's: `'WORD' is no number`.
    fn refuse(&mut self, section: &Section, value: &Value, word: &str, what: &str) {
        self.error(section, Some(value), format!("'{}' {what}", word.escape_default()));
    }

    fn unknown(&mut self, section: &Section, value: &Value) {
        self.warn(section, Some(value), "unknown option, left out");
    }

    // --- sections ----------------------------------------------------------------------------------------------------

    fn globals(&mut self, section: &Section) {
        let (mut logging, mut level_said) = (false, 5);
        for value in &section.options {
            match value.key.as_str() {
                "mmx_mask" => {
                    let text =
                        value.value.strip_prefix("0x").or(value.value.strip_prefix("0X")).unwrap_or(&value.value);
                    match u32::from_str_radix(text, 16).ok().filter(|m| m.count_ones() >= 3) {
                        Some(mask) => self.config.globals.mark_mask = mask,
                        None => {
                            self.refuse(section, value, &value.value, "is no hexadecimal mask of at least 3 bits");
                        }
                    }
                }
                "nexthops" => {
                    if let Some(word) = self.word(section, value, &["auto", "off"]) {
                        self.config.globals.nexthops = word == 0;
                    }
                }
                "on_exit" => {
                    if let Some(word) = self.word(section, value, &["keep", "remove"]) {
                        self.config.globals.keep_on_exit = word == 0;
                    }
                }
                "control_group" => match heapless::String::try_from(value.value.as_str()) {
                    Ok(group) => self.config.globals.control_group = Some(group),
                    Err(_) => self.error(section, Some(value), "a group name of over 32 bytes"),
                },
                "pinning" => self.config.globals.pinning = self.flag(section, value).unwrap_or(true),
                "failback" => self.failback = self.failback_word(section, value),
                "balance_buckets" => {
                    let buckets = self.number(section, value, 32, 32_768).filter(|n| n.is_power_of_two());
                    match buckets.and_then(|n| u16::try_from(n).ok()) {
                        Some(buckets) => self.config.globals.balance.buckets = buckets,
                        None => self.error(section, Some(value), "want a power of two from 32 to 32768"),
                    }
                }
                "balance_idle" => {
                    let idle = self.duration(section, value).map(|d| d.max(Duration::from_secs(1)));
                    self.config.globals.balance.idle = idle;
                }
                "balance_unbalanced" => {
                    self.config.globals.balance.unbalanced = self.duration(section, value).unwrap_or_default();
                }
                "logging" => logging = self.flag(section, value).unwrap_or(false),
                "loglevel" => {
                    let level = self.word(section, value, &LOG_LEVELS.map(|(name, _)| name));
                    level_said = level.and_then(|at| LOG_LEVELS.get(at)).map_or(5, |(_, level)| *level);
                }
                "rt_table_lookup" => {
                    for word in value.value.split_whitespace() {
                        match word.parse().ok().filter(|n| *n > 0 && *n != 254) {
                            Some(table) if self.config.globals.tables.push(table).is_ok() => {}
                            Some(_) => self.error(section, Some(value), "at most four tables"),
                            None => self.error(section, Some(value), "no number of a table"),
                        }
                    }
                }
                "source_routing" => {
                    self.warn(
                        section,
                        Some(value),
                        "not needed: source prefixes are an option of interfaces, 'source'",
                    );
                }
                "resolvers" | "resolvers_from" => match Word::try_from(value.value.as_str()) {
                    Ok(path) if path.is_empty() || path.starts_with('/') => {
                        let globals = &mut self.config.globals;
                        let ours = value.key == "resolvers";
                        *if ours { &mut globals.resolvers } else { &mut globals.resolvers_from } = path;
                    }
                    _ => self.error(section, Some(value), "no path of at most 63 bytes that begins with '/'"),
                },
                // The init script reads it.
                "jail" => drop(self.flag(section, value)),
                "local_source" | "rtmon_interval" => self.warn(section, Some(value), "obsolete, without effect"),
                _ => self.unknown(section, value),
            }
        }
        self.config.globals.log = logging.then_some(level_said);
    }

    fn failback_word(&mut self, section: &Section, value: &Value) -> Failback {
        let all = [Failback::Graceful, Failback::Immediate, Failback::Never];
        let word = self.word(section, value, &["graceful", "immediate", "never"]);
        word.and_then(|w| all.get(w).copied()).unwrap_or_default()
    }

    /// `flush_conntrack` of mwan3: there each word flushes everything; here the uplink's own connections, unless `all` is
    /// there too. What is said replaces the default, which is to forget them when the uplink goes down.
    fn flush_word(&mut self, section: &Section, value: &Value, flush: &mut Option<FlushConfig>) {
        let nothing = FlushConfig { down: false, up: false, all: false };
        for word in value.value.split_whitespace() {
            let flush = flush.get_or_insert(nothing);
            match word {
                "ifup" | "connected" => flush.up = true,
                "ifdown" | "disconnected" => flush.down = true,
                "always" => (flush.up, flush.down) = (true, true),
                "never" => *flush = nothing,
                "all" => flush.all = true,
                other => {
                    self.refuse(
                        section,
                        value,
                        other,
                        "is none of ifup, ifdown, connected, disconnected, always, never, all",
                    );
                }
            }
        }
    }

    /// `1`, or `FROM TO` with two prefixes of the same length.
    fn snat6(&mut self, section: &Section, value: &Value) -> Snat6 {
        let words: Vec<&str> = value.value.split_whitespace().collect();
        if let [_] = words.as_slice() {
            return if self.flag(section, value) == Some(true) { Snat6::Masquerade } else { Snat6::Off };
        }
        let prefixes: Vec<Prefix> = words.iter().filter_map(|w| self.prefix_of(section, value, w)).collect();
        match prefixes.as_slice() {
            [from, to] if from.len == to.len && from.addr.is_ipv6() && to.addr.is_ipv6() => {
                Snat6::Prefix { from: *from, to: *to }
            }
            _ => {
                self.error(section, Some(value), "want 1, or two IPv6 prefixes of the same length: FROM TO");
                Snat6::Off
            }
        }
    }

    fn interface(&mut self, section: &Section, position: usize, id: u8) {
        let ours = self.dialect == Dialect::Linkwatch;
        let (Ok(name), device) = (Name::try_from(section.name.as_str()), IfName::new(section.name.as_bytes())) else {
            return;
        };
        let mut enabled = ours;
        let mut device_said = false;
        let mut recover = None;
        let mut damping = Some(DampingConfig::default());
        let mut uplink = UplinkConfig {
            name,
            id: UplinkId(id),
            device: device.unwrap_or(IfName::NONE),
            families: if ours { [true, true] } else { [true, false] },
            gateway: None::<Ipv4Addr>,
            gateway6: None::<Ipv6Addr>,
            metric: u32::try_from(position).unwrap_or(u32::MAX).saturating_add(1).saturating_mul(10),
            hold_down: Duration::from_secs(5),
            damping: None,
            probe: ProbeConfig::default(),
            flush: FlushConfig::default(),
            sources: Span::EMPTY,
            delegated: false,
            snat6: Snat6::Off,
        };
        let (mut flush, mut sources) = (None, Vec::new());
        let mut tuning = DampingConfig::default();
        let mut probes = Probes::default();
        for value in &section.options {
            let key = value.key.as_str();
            match key {
                "enabled" => enabled = self.flag(section, value).unwrap_or(enabled),
                "family" => {
                    let families = [[true, false], [false, true], [true, true]];
                    let word = self.word(section, value, &["ipv4", "ipv6", "any"]);
                    uplink.families = word.and_then(|w| families.get(w).copied()).unwrap_or(uplink.families);
                }
                "device" => match IfName::new(value.value.as_bytes()) {
                    Some(device) => {
                        uplink.device = device;
                        device_said = true;
                    }
                    None => {
                        self.error(section, Some(value), "no device name: 1 to 15 bytes without '/', ':' or spaces")
                    }
                },
                "gateway" => uplink.gateway = self.address(section, value, "IPv4"),
                "gateway6" => uplink.gateway6 = self.address(section, value, "IPv6"),
                "metric" => uplink.metric = self.number(section, value, 0, u32::MAX).unwrap_or(uplink.metric),
                "hold_down" => uplink.hold_down = self.duration(section, value).unwrap_or(uplink.hold_down),
                "damping" => damping = self.flag(section, value).unwrap_or(true).then_some(tuning),
                "damping_suppress" => {
                    tuning.suppress = self.number(section, value, 1, 1_000_000).unwrap_or(tuning.suppress)
                }
                "damping_reuse" => tuning.reuse = self.number(section, value, 1, 1_000_000).unwrap_or(tuning.reuse),
                "damping_half_life" => tuning.half_life = self.duration(section, value).unwrap_or(tuning.half_life),
                "damping_max" => tuning.max_suppress = self.duration(section, value).unwrap_or(tuning.max_suppress),
                "flush_conntrack" => self.flush_word(section, value, &mut flush),
                "source" if value.value == "delegated" => uplink.delegated = true,
                "source" => self.prefix_list(section, value, &mut sources),
                "snat6" => uplink.snat6 = self.snat6(section, value),
                "recover" => recover = self.duration(section, value).filter(|d| !d.is_zero()),
                "online_metric" => self.warn(section, Some(value), "obsolete, without effect"),
                _ => {
                    if !self.probe_option(section, value, &mut probes) {
                        self.unknown(section, value);
                    }
                }
            }
        }
        if tuning.reuse >= tuning.suppress {
            self.error(
                section,
                None,
                format!("damping_reuse {} is not below damping_suppress {}", tuning.reuse, tuning.suppress),
            );
        }
        if tuning.half_life.is_zero() {
            self.error(section, None, "damping_half_life is zero");
        }
        uplink.damping = damping.map(|_| tuning);
        uplink.probe = self.probes(section, probes, uplink.families);
        uplink.flush = match flush {
            // `all` alone says which, not when.
            Some(FlushConfig { down: false, up: false, all: true }) => {
                FlushConfig { all: true, ..FlushConfig::default() }
            }
            said => said.unwrap_or_default(),
        };
        if sources.len() > limits::SOURCES {
            self.error(section, None, format!("too many source prefixes: {} at most", limits::SOURCES));
        }
        if enabled {
            uplink.sources = self.keep_prefixes(section, sources);
        }
        if !enabled {
            self.disabled.push(section.name.clone());
            let _ = self.config.disabled.push(uplink.name);
            return;
        }
        if uplink.device.is_none() {
            self.error(section, None, "the section's name is no device name: say 'option device'");
        }
        let slot = UplinkSlot(u8::try_from(self.config.uplinks.len()).unwrap_or(u8::MAX));
        // Neither can fail before the table of uplinks does: all have the same capacity.
        if !device_said {
            let _ = self.config.logical.push(slot);
        }
        if let Some(after) = recover {
            let _ = self.config.recover.push((slot, after));
        }
        let most =
            u8::try_from((1_u32 << self.config.globals.mark_mask.count_ones().min(8)) - 4).unwrap_or(u8::MAX).min(252);
        if id > most {
            self.error(section, None, format!("number {id} does not fit into mmx_mask: at most {most}"));
        }
        let overlaps = |u: &&UplinkConfig| {
            u.device == uplink.device && u.families.iter().zip(uplink.families).any(|(a, b)| *a && b)
        };
        if let Some(twin) = self.config.uplinks.iter().find(overlaps) {
            let message = format!("device {} serves the same family for '{}'", uplink.device, twin.name);
            self.error(section, None, message);
        }
        if self.config.uplinks.push(uplink).is_err() {
            self.error(section, None, format!("too many interfaces: this board's build holds {}", limits::UPLINKS));
        }
    }

    fn member(&mut self, section: &Section) {
        let mut member = NamedMember { name: section.name.clone(), interface: String::new(), metric: 1, weight: 1 };
        for value in &section.options {
            match value.key.as_str() {
                "interface" => member.interface.clone_from(&value.value),
                "metric" => member.metric = self.number(section, value, 1, 256).unwrap_or(1),
                "weight" => {
                    let weight = self.number(section, value, 1, 1000).unwrap_or(1);
                    member.weight = u16::try_from(weight).unwrap_or(1);
                }
                _ => self.unknown(section, value),
            }
        }
        let known = self.config.uplinks.iter().any(|u| u.name.as_str() == member.interface);
        if !known && !self.disabled.contains(&member.interface) {
            let shown = member.interface.escape_default().to_string();
            self.error(section, None, format!("interface '{shown}' is not in this file"));
        }
        self.members.push(member);
    }

    fn policy(&mut self, section: &Section) {
        let Ok(name) = Name::try_from(section.name.as_str()) else { return };
        let mut policy = PolicyConfig {
            name,
            members: heapless::Vec::new(),
            use_degraded: false,
            last_resort: LastResort::default(),
            failback: self.failback,
        };
        for value in &section.options {
            match value.key.as_str() {
                "use_member" => {
                    for name in value.value.split_whitespace() {
                        self.use_member(section, value, name, &mut policy);
                    }
                }
                "failback" => policy.failback = self.failback_word(section, value),
                "degraded" => {
                    let word = self.word(section, value, &["avoid", "use"]);
                    policy.use_degraded = word == Some(1);
                }
                "last_resort" => {
                    let all = [LastResort::Unreachable, LastResort::Blackhole, LastResort::Default];
                    let word = self.word(section, value, &["unreachable", "blackhole", "default"]);
                    policy.last_resort = word.and_then(|w| all.get(w).copied()).unwrap_or_default();
                }
                _ => self.unknown(section, value),
            }
        }
        by_metric(&mut policy.members);
        if self.config.policies.push(policy).is_err() {
            self.error(section, None, format!("too many policies: this board's build holds {}", limits::POLICIES));
        }
    }

    fn use_member(&mut self, section: &Section, value: &Value, name: &str, policy: &mut PolicyConfig) {
        let Some(member) = self.members.iter().find(|m| m.name == name) else {
            self.error(section, Some(value), format!("member '{}' is not in this file", name.escape_default()));
            return;
        };
        let Some(at) = self.config.uplinks.iter().position(|u| u.name.as_str() == member.interface) else {
            let message = format!("member '{}' is left out: its interface is disabled", name.escape_default());
            self.warn(section, Some(value), message);
            return;
        };
        let uplink = UplinkSlot(u8::try_from(at).unwrap_or(u8::MAX));
        if policy.members.push(Member { uplink, metric: member.metric, weight: member.weight }).is_err() {
            self.error(section, Some(value), format!("too many members: this board's build holds {}", limits::MEMBERS));
        }
    }

    /// Without any policy and rule: all interfaces, lowest metric first.
    fn implicit_policy(&mut self) {
        let member = |(at, uplink): (usize, &UplinkConfig)| {
            Some(Member { uplink: UplinkSlot(u8::try_from(at).ok()?), metric: uplink.metric, weight: 1 })
        };
        let mut members: heapless::Vec<Member, { limits::MEMBERS }> =
            self.config.uplinks.iter().enumerate().filter_map(member).collect();
        by_metric(&mut members);
        // Cannot fail: it is the only one.
        let _ = self.config.policies.push(PolicyConfig {
            name: Name::try_from("default").unwrap_or_default(),
            members,
            use_degraded: false,
            last_resort: LastResort::Default,
            failback: self.failback,
        });
        self.config.default_policy = Some(PolicySlot(0));
    }
}

/// Stable: file order among equals.
fn by_metric(members: &mut [Member]) {
    sort(members, |a, b| a.metric < b.metric);
}

fn diagnostic(section: &Section, value: Option<&Value>, message: String) -> Diagnostic {
    let name = if section.name.is_empty() { &section.kind } else { &section.name };
    let place = value.map_or_else(|| name.clone(), |v| format!("{name}.{}", v.key));
    Diagnostic { line: value.map_or(section.line, |v| v.line), place, message }
}
