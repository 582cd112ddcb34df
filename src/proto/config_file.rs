//! Sections of UCI become a [`Config`]: mwan3's words with mwan3's meaning, and ours.
//!
//! Everything is either applied or named: an error for each wrong value (then there is no configuration at all), a
//! warning for each option that is understood but not applied yet. Nothing is dropped in silence.

mod members;
mod probe;
mod rules;
mod values;

use std::net::IpAddr;

pub use super::uci::Diagnostic;
use super::uci::{Section, Value, sections};
use crate::config::probe::Word;
use crate::config::{Config, DampingConfig, Failback, FlushConfig, ProbeConfig, Snat6, Span, UplinkConfig};
use crate::limits;
use crate::time::Duration;
use crate::types::{Family, IfName, Name, UplinkId, UplinkSlot};
use members::NamedMember;
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
const LOG_LEVELS: [&str; 11] =
    ["emerg", "alert", "critical", "crit", "error", "err", "warning", "warn", "notice", "info", "debug"];
/// Their numbers.
const LOG_NUMBERS: [u8; 11] = [0, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7];

/// What kinds of sections there are, in the order in which they are read: whether one needs a name, and how long that
/// may be.
const KINDS: [(&str, bool, usize); 6] = [
    ("globals", false, usize::MAX),
    ("interface", true, 15),
    ("member", true, usize::MAX),
    ("policy", true, 15),
    ("ipset", false, usize::MAX),
    ("rule", false, 15),
];

/// A configuration of nothing, made in its place and not on the stack.
pub fn empty() -> Box<Config> {
    Box::write(Box::new_uninit(), Config::default())
}

/// Reads a file. `known_ids` are the numbers that names had before: a number stays with its name.
pub fn read(text: &[u8], dialect: Dialect, known_ids: &[(Name, UplinkId)]) -> Outcome {
    let (sections, errors) = sections(text);
    let nowhere = Section { kind: "globals".to_owned(), ..Section::default() };
    let mut reader = Reader {
        dialect,
        outcome: Outcome { config: None, errors, warnings: Vec::new() },
        config: empty(),
        section: &nowhere,
        value: None,
        text: "",
        interfaces: 0,
        known_ids,
        taken: Vec::new(),
        disabled: Vec::new(),
        members: Vec::new(),
        members_in_all: 0,
        failback: Failback::default(),
    };
    reader.check_names(&sections);
    for section in sections.iter().filter(|s| s.kind == "interface") {
        reader.taken.extend(reader.known_id(section));
    }
    for &(kind, ..) in &KINDS {
        for section in sections.iter().filter(|s| s.kind == kind) {
            reader.section = section;
            match kind {
                "globals" => reader.globals(section),
                "interface" => reader.interface(section),
                "member" => reader.member(section),
                "policy" => reader.policy(section),
                "ipset" => reader.ipset(section),
                _ => reader.rule(section),
            }
            reader.value = None;
        }
    }
    if !sections.iter().any(|s| matches!(s.kind.as_str(), "policy" | "rule")) {
        reader.implicit_policy();
    }
    reader.section = sections.iter().find(|s| s.kind == "globals").unwrap_or(&nowhere);
    reader.check_marks();
    let Reader { mut outcome, config, .. } = reader;
    outcome.config = outcome.errors.is_empty().then_some(config);
    outcome
}

struct Reader<'a> {
    dialect: Dialect,
    outcome: Outcome,
    config: Box<Config>,
    /// Where it is: what errors and warnings are about.
    section: &'a Section,
    /// The value of the section that it is at, if it is at one.
    value: Option<&'a Value>,
    /// The text of that value.
    text: &'a str,
    /// Interfaces met so far, disabled ones too.
    interfaces: usize,
    /// The numbers that names had before.
    known_ids: &'a [(Name, UplinkId)],
    /// Numbers of interfaces that cannot be given any more.
    taken: Vec<u8>,
    disabled: Vec<&'a str>,
    members: Vec<NamedMember<'a>>,
    /// Members of all policies so far.
    members_in_all: usize,
    /// What policies do that say nothing of it.
    failback: Failback,
}

impl<'a> Reader<'a> {
    fn check_names(&mut self, sections: &'a [Section]) {
        for (at, section) in sections.iter().enumerate() {
            self.section = section;
            let (kind, name) = (section.kind.as_str(), section.name.as_str());
            let Some((_, named, most)) = KINDS.iter().find(|(known, ..)| *known == kind) else {
                self.warn(format_args!("unknown section type '{}', left out", kind.escape_default()));
                continue;
            };
            if *named && name.is_empty() {
                self.error(format_args!("a {kind} needs a name"));
            }
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
                self.error(format_args!("a name may hold letters, digits, '_', '-' and '.'"));
            }
            if name.len() > *most {
                self.error(format_args!("name of {} bytes, at most 15", name.len()));
            }
            let twin = |s: &&Section| s.kind == kind && s.name == name && !name.is_empty();
            if let Some(twin) = sections.iter().take(at).find(twin) {
                self.error(format_args!("the name is taken by line {}", twin.line));
            }
        }
    }

    fn globals(&mut self, section: &'a Section) {
        let (mut logging, mut level_said) = (false, 5);
        for value in &section.options {
            match self.at(value) {
                "mmx_mask" => {
                    let text = self.text.strip_prefix("0x").or(self.text.strip_prefix("0X")).unwrap_or(self.text);
                    match u32::from_str_radix(text, 16).ok().filter(|m| m.count_ones() >= 3) {
                        Some(mask) => self.config.globals.mark_mask = mask,
                        None => self.wrong(format_args!("is no hexadecimal mask of at least 3 bits")),
                    }
                }
                "nexthops" => self.config.globals.nexthops = self.word(&["auto", "off"]) == Some(0),
                "on_exit" => self.config.globals.keep_on_exit = self.word(&["keep", "remove"]) == Some(0),
                "control_group" => match heapless::String::try_from(self.text) {
                    Ok(group) => self.config.globals.control_group = Some(group),
                    Err(_) => self.error(format_args!("a group name of over 32 bytes")),
                },
                "pinning" => self.config.globals.pinning = self.flag(true),
                "failback" => self.failback = self.failback_word(),
                "balance_buckets" => match self.number_or(32, 32_768, 0) {
                    buckets if buckets.is_power_of_two() => self.config.globals.balance.buckets = buckets as u16,
                    _ => self.error(format_args!("want a power of two from 32 to 32768")),
                },
                "balance_idle" => {
                    let idle = self.duration_of(self.text).map(|d| d.max(Duration::from_secs(1)));
                    self.config.globals.balance.idle = idle;
                }
                "balance_unbalanced" => {
                    self.config.globals.balance.unbalanced = self.duration_of(self.text).unwrap_or_default();
                }
                "logging" => logging = self.flag(false),
                "loglevel" => {
                    let level = self.word(&LOG_LEVELS);
                    level_said = level.and_then(|at| LOG_NUMBERS.get(at).copied()).unwrap_or(5);
                }
                "rt_table_lookup" => {
                    for word in self.text.split_ascii_whitespace() {
                        match word.parse().ok().filter(|n| *n > 0 && *n != 254) {
                            Some(table) if self.config.globals.tables.push(table).is_ok() => {}
                            Some(_) => self.error(format_args!("at most four tables")),
                            None => self.error(format_args!("no number of a table")),
                        }
                    }
                }
                "source_routing" => {
                    self.warn(format_args!("not needed: source prefixes are an option of interfaces, 'source'"));
                }
                "resolvers" | "resolvers_from" => match Word::try_from(self.text) {
                    Ok(path) if path.is_empty() || path.starts_with('/') => {
                        let globals = &mut self.config.globals;
                        let ours = value.key == "resolvers";
                        *if ours { &mut globals.resolvers } else { &mut globals.resolvers_from } = path;
                    }
                    _ => self.error(format_args!("no path of at most 63 bytes that begins with '/'")),
                },
                // The init script reads it.
                "jail" => {
                    self.flag(true);
                }
                "local_source" | "rtmon_interval" => self.obsolete(),
                _ => self.unknown(),
            }
        }
        self.config.globals.log = logging.then_some(level_said);
    }

    fn failback_word(&mut self) -> Failback {
        match self.word(&["graceful", "immediate", "never"]) {
            Some(0) => Failback::Graceful,
            Some(1) => Failback::Immediate,
            Some(_) => Failback::Never,
            None => Failback::default(),
        }
    }

    /// `flush_conntrack` of mwan3: there each word flushes everything; here the uplink's own connections, unless `all` is
    /// there too. What is said replaces the default, which is to forget them when the uplink goes down.
    fn flush_word(&mut self, flush: &mut Option<FlushConfig>) {
        let nothing = FlushConfig { down: false, up: false, all: false };
        for word in self.text.split_ascii_whitespace() {
            let flush = flush.get_or_insert(nothing);
            match word {
                "ifup" | "connected" => flush.up = true,
                "ifdown" | "disconnected" => flush.down = true,
                "always" => (flush.up, flush.down) = (true, true),
                "never" => *flush = nothing,
                "all" => flush.all = true,
                other => self.refuse(
                    other,
                    format_args!("is none of ifup, ifdown, connected, disconnected, always, never, all"),
                ),
            }
        }
    }

    /// `1`, or `FROM TO` with two prefixes of the same length.
    fn snat6(&mut self) -> Snat6 {
        if self.text.split_ascii_whitespace().count() == 1 {
            return if self.flag(false) { Snat6::Masquerade } else { Snat6::Off };
        }
        let mut prefixes = Vec::new();
        for word in self.text.split_ascii_whitespace() {
            self.prefix(word, &mut prefixes);
        }
        match prefixes.as_slice() {
            [from, to] if from.len == to.len && from.addr.is_ipv6() && to.addr.is_ipv6() => {
                Snat6::Prefix { from: *from, to: *to }
            }
            _ => {
                self.error(format_args!("want 1, or two IPv6 prefixes of the same length: FROM TO"));
                Snat6::Off
            }
        }
    }

    fn known_id(&self, section: &Section) -> Option<u8> {
        self.known_ids.iter().find(|(name, _)| name.as_str() == section.name).map(|(_, id)| id.0)
    }

    /// mwan3's numbering: the position in the file, disabled sections counted; but a name keeps the number it had.
    fn give_id(&mut self, section: &Section) -> u8 {
        self.interfaces = self.interfaces.saturating_add(1);
        if let Some(id) = self.known_id(section) {
            return id;
        }
        let free = |id: &u8| !self.taken.contains(id);
        let wish = Some(u8::try_from(self.interfaces).unwrap_or(u8::MAX)).filter(free);
        let id = wish.or_else(|| (1..u8::MAX).find(free)).unwrap_or(u8::MAX);
        self.taken.push(id);
        id
    }

    fn interface(&mut self, section: &'a Section) {
        let id = self.give_id(section);
        let ours = self.dialect == Dialect::Linkwatch;
        let (Ok(name), device) = (Name::try_from(section.name.as_str()), IfName::new(section.name.as_bytes())) else {
            return;
        };
        let mut enabled = ours;
        let mut device_said = false;
        let mut recover = None;
        let mut uplink = UplinkConfig {
            name,
            id: UplinkId(id),
            device: device.unwrap_or(IfName::NONE),
            families: [true, ours],
            gateway: None,
            gateway6: None,
            metric: u32::try_from(self.interfaces).unwrap_or(u32::MAX).saturating_mul(10),
            hold_down: Duration::from_secs(5),
            damping: None,
            probe: ProbeConfig::default(),
            flush: FlushConfig::default(),
            sources: Span::EMPTY,
            delegated: false,
            snat6: Snat6::Off,
        };
        let (mut flush, mut sources) = (None, Vec::new());
        let (mut damping, mut tuning) = (true, DampingConfig::default());
        let mut probes = Probes::default();
        for value in &section.options {
            match self.at(value) {
                "enabled" => enabled = self.flag(enabled),
                "family" => self.families(&mut uplink.families),
                "device" => match IfName::new(self.text.as_bytes()) {
                    Some(device) => {
                        uplink.device = device;
                        device_said = true;
                    }
                    None => self.error(format_args!("no device name: 1 to 15 bytes without '/', ':' or spaces")),
                },
                "gateway" => {
                    if let Some(IpAddr::V4(addr)) = self.address(Family::V4) {
                        uplink.gateway = Some(addr);
                    }
                }
                "gateway6" => {
                    if let Some(IpAddr::V6(addr)) = self.address(Family::V6) {
                        uplink.gateway6 = Some(addr);
                    }
                }
                "metric" => uplink.metric = self.number_or(0, u32::MAX, uplink.metric),
                "hold_down" => self.duration(&mut uplink.hold_down),
                "damping" => damping = self.flag(true),
                "damping_suppress" => tuning.suppress = self.number_or(1, 1_000_000, tuning.suppress),
                "damping_reuse" => tuning.reuse = self.number_or(1, 1_000_000, tuning.reuse),
                "damping_half_life" => self.duration(&mut tuning.half_life),
                "damping_max" => self.duration(&mut tuning.max_suppress),
                "flush_conntrack" => self.flush_word(&mut flush),
                "source" if self.text == "delegated" => uplink.delegated = true,
                "source" => self.prefix_list(&mut sources),
                "snat6" => uplink.snat6 = self.snat6(),
                "recover" => recover = self.duration_of(self.text).filter(|d| !d.is_zero()),
                "online_metric" => self.obsolete(),
                _ => self.probe_option(value, &mut uplink.probe, &mut probes),
            }
        }
        self.value = None;
        if tuning.reuse >= tuning.suppress {
            self.error(format_args!(
                "damping_reuse {} is not below damping_suppress {}",
                tuning.reuse, tuning.suppress
            ));
        }
        if tuning.half_life.is_zero() {
            self.error(format_args!("damping_half_life is zero"));
        }
        uplink.damping = damping.then_some(tuning);
        self.probes(&probes, uplink.families, &mut uplink.probe);
        uplink.flush = match flush {
            // `all` alone says which, not when.
            Some(FlushConfig { down: false, up: false, all: true }) => {
                FlushConfig { all: true, ..FlushConfig::default() }
            }
            said => said.unwrap_or_default(),
        };
        if sources.len() > limits::SOURCES {
            self.error(format_args!("too many source prefixes: {} at most", limits::SOURCES));
        }
        if !enabled {
            self.disabled.push(&section.name);
            let _ = self.config.disabled.push(uplink.name);
            return;
        }
        uplink.sources = self.keep_prefixes(sources);
        if uplink.device.is_none() {
            self.error(format_args!("the section's name is no device name: say 'option device'"));
        }
        let slot = UplinkSlot(u8::try_from(self.config.uplinks.len()).unwrap_or(u8::MAX));
        // Neither can fail before the table of uplinks does: all have the same capacity.
        if !device_said {
            let _ = self.config.logical.push(slot);
        }
        if let Some(after) = recover {
            let _ = self.config.recover.push((slot, after));
        }
        let most = (1_u32 << self.config.globals.mark_mask.count_ones().min(8)).saturating_sub(4);
        if u32::from(id) > most {
            self.error(format_args!("number {id} does not fit into mmx_mask: at most {most}"));
        }
        let overlaps = |u: &&UplinkConfig| {
            u.device == uplink.device && u.families.iter().zip(uplink.families).any(|(a, b)| *a && b)
        };
        if let Some(twin) = self.config.uplinks.iter().find(overlaps) {
            let twin = twin.name.clone();
            self.error(format_args!("device {} serves the same family for '{twin}'", uplink.device));
        }
        if self.config.uplinks.push(uplink).is_err() {
            self.full("interfaces", limits::UPLINKS);
        }
    }
}
