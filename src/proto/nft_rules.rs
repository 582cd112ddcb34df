//! The rules of the configuration in nft's words, in file order; the first that fits marks the packet and ends it.
//!
//! A sticky rule keeps, for each uplink, a set of the sources that it has: a packet of one of them gets the mark that
//! prefers that uplink, and each new connection that leaves by an uplink puts its source into that uplink's set.

use super::nft::{Chain, Set, Table, addr_type, device, set_mark, set_name, target_mark};
use crate::config::{Config, RuleConfig, UplinkConfig};
use crate::engine::marks::{self, Meaning};
use crate::types::{Family, PortRange, Prefix, UplinkSlot};

/// Sources that a sticky set holds; one more is not remembered.
const SOURCES: u32 = 65_535;
/// syslog's levels as nft calls them.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/// Writes the chain `rules` and what it leads to; whether there are any.
pub(super) fn rules(config: &Config, table: &mut Table) -> bool {
    if !config.rules_need_nft() {
        return false;
    }
    let mut ends: Vec<u32> = Vec::new();
    let mut chain = Chain::new("rules");
    let mut sticky_chains = Vec::new();
    for (at, rule) in config.rules.iter().enumerate() {
        let end = if marks::is_sticky(rule) {
            sticky_chains.push(sticky(config, at, rule, table));
            format!("goto sticky_{}", label(config, at))
        } else {
            let value = marks::target(config, rule.target);
            if !ends.contains(&value) {
                ends.push(value);
            }
            format!("goto to_{value}")
        };
        for matches in matches(config, rule) {
            let log = match config.globals.log.filter(|_| rule.log).and_then(|l| LEVELS.get(usize::from(l))) {
                // Counted as well: the kernel says nothing of a log line that a full buffer dropped.
                Some(level) => format!("counter log prefix \"MWAN3({}) \" level {level} ", label(config, at)),
                None => String::new(),
            };
            chain.rule(format!("{matches}{log}{end}"));
        }
    }
    for value in ends {
        let mut end = Chain::new(format!("to_{value}"));
        end.rule(set_mark(target_mark(config, value)));
        table.chains.push(end);
    }
    table.chains.extend(sticky_chains);
    table.chains.push(chain);
    true
}

/// A rule's name as a part of nft's names: its own if that is plain and nobody else's, else its place.
fn label(config: &Config, at: usize) -> String {
    let name = config.rules.get(at).map(|r| r.name.as_str()).unwrap_or("");
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { format!("r.{at}") }
}

/// What a rule asks of a packet, once or once per family; each ends with a space or is empty.
fn matches(config: &Config, rule: &RuleConfig) -> Vec<String> {
    let iif = match rule.iif.is_none() {
        true => String::new(),
        // A device that nft cannot name matches nothing; the reader of the configuration has said so.
        false => match device(&rule.iif) {
            Some(name) => format!("iifname {name} "),
            None => return Vec::new(),
        },
    };
    let mac = rule.mac.map_or(String::new(), |mac| format!("ether saddr {mac} "));
    let ports = |word: &str, ranges: &[PortRange]| match ranges {
        [] => String::new(),
        ranges => {
            let all: Vec<String> = ranges
                .iter()
                .map(|r| if r.first == r.last { r.first.to_string() } else { format!("{}-{}", r.first, r.last) })
                .collect();
            format!("th {word} {{ {} }} ", all.join(", "))
        }
    };
    let ports = ports("sport", config.ports(rule.sport)) + &ports("dport", config.ports(rule.dport));
    let depends = !rule.src.is_empty() || !rule.dst.is_empty() || rule.src_set.is_some() || rule.dst_set.is_some();
    let icmp = rule.proto == Some(1);
    if rule.families == [true, true] && !depends && !icmp {
        let proto = rule.proto.map_or(String::new(), |p| format!("meta l4proto {p} "));
        return vec![format!("{iif}{mac}{proto}{ports}")];
    }
    let mut all = Vec::new();
    for family in Family::BOTH.into_iter().filter(|f| rule.serves(*f)) {
        let addrs = |span, word: &str| {
            let list: &[Prefix] = config.prefixes(span);
            let own: Vec<&Prefix> = list.iter().filter(|p| Family::of(p.addr) == family).collect();
            if list.is_empty() || own.iter().any(|p| p.len == 0) {
                return Some(String::new());
            }
            let shown: Vec<String> = own.iter().map(ToString::to_string).collect();
            (!own.is_empty()).then(|| format!("{} {word} {{ {} }} ", ip(family), shown.join(", ")))
        };
        let set = |at: Option<u8>, word: &str| {
            let set = at.and_then(|at| config.sets.get(usize::from(at)));
            set.map_or(String::new(), |s| format!("{} {word} @{} ", ip(family), set_name(s, family)))
        };
        let (Some(src), Some(dst)) = (addrs(rule.src, "saddr"), addrs(rule.dst, "daddr")) else { continue };
        let (src_set, dst_set) = (set(rule.src_set, "saddr"), set(rule.dst_set, "daddr"));
        let nfproto = match family {
            Family::V4 => "meta nfproto ipv4 ",
            Family::V6 => "meta nfproto ipv6 ",
        };
        let proto = rule.proto_in(family).map_or(String::new(), |p| format!("meta l4proto {p} "));
        all.push(format!("{iif}{mac}{nfproto}{src}{dst}{src_set}{dst_set}{proto}{ports}"));
    }
    all
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The uplinks that a sticky rule keeps sources on, with the values that prefer them; and its own value first.
fn values(config: &Config, at: usize) -> (u32, Vec<(UplinkSlot, u32)>) {
    let (mut own, mut soft) = (0, Vec::new());
    marks::each(config, |value, meaning| match meaning {
        Meaning::Sticky { rule, .. } if rule == at => own = value,
        Meaning::Soft { rule, uplink, .. } if rule == at => soft.push((uplink, value)),
        _ => {}
    });
    (own, soft)
}

/// The name of the set of a rule's sources on an uplink.
fn sources(config: &Config, at: usize, slot: UplinkSlot, family: Family) -> Option<String> {
    let uplink = config.uplinks.get(usize::from(slot.0)).filter(|u| u.serves(family))?;
    let version = if family == Family::V4 { 4 } else { 6 };
    Some(format!("sticky{version}..{}..{}", label(config, at), uplink.id.0))
}

fn sticky(config: &Config, at: usize, rule: &RuleConfig, table: &mut Table) -> Chain {
    let mut chain = Chain::new(format!("sticky_{}", label(config, at)));
    let (own, soft) = values(config, at);
    let seconds = rule.sticky.map_or(0, |t| t.as_secs());
    for (slot, value) in &soft {
        for family in Family::BOTH.into_iter().filter(|f| rule.serves(*f)) {
            let Some(name) = sources(config, at, *slot, family) else { continue };
            let mark = set_mark(target_mark(config, *value));
            chain.rule(format!("{} saddr @{name} {mark} return", ip(family)));
            table.sets.push(Set {
                name,
                body: format!(
                    "type {}; size {SOURCES}; flags dynamic, timeout; timeout {seconds}s;",
                    addr_type(family)
                ),
                elements: String::new(),
            });
        }
    }
    chain.rule(set_mark(target_mark(config, own)));
    chain
}

/// A new connection leaves by an uplink: its source is remembered there, and no longer elsewhere.
pub(super) fn learn(config: &Config, uplink: &UplinkConfig, table: &mut Table, leave: &mut Chain) {
    let mask = config.globals.mark_mask;
    let mut map = Vec::new();
    for (at, rule) in config.rules.iter().enumerate().filter(|(_, r)| marks::is_sticky(r)) {
        let (own, soft) = values(config, at);
        let on_device =
            |slot: &UplinkSlot| config.uplinks.get(usize::from(slot.0)).is_some_and(|u| u.device == uplink.device);
        if !soft.iter().any(|(slot, _)| on_device(slot)) {
            continue;
        }
        let name = format!("learn_{}_{}", label(config, at), uplink.id.0);
        let mut chain = Chain::new(name.clone());
        for family in Family::BOTH.into_iter().filter(|f| rule.serves(*f)) {
            let Some((here, _)) = soft.iter().find(|(slot, _)| {
                on_device(slot) && config.uplinks.get(usize::from(slot.0)).is_some_and(|u| u.serves(family))
            }) else {
                continue;
            };
            let ip = ip(family);
            for (other, _) in soft.iter().filter(|(slot, _)| slot != here) {
                if let Some(other) = sources(config, at, *other, family) {
                    chain.rule(format!("{ip} saddr @{other} delete @{other} {{ {ip} saddr }}"));
                }
            }
            if let Some(here) = sources(config, at, *here, family) {
                chain.rule(format!("update @{here} {{ {ip} saddr }}"));
            }
        }
        table.chains.push(chain);
        for value in [own].into_iter().chain(soft.iter().map(|(_, value)| *value)) {
            map.push(format!("{:#010x} : goto {name}", target_mark(config, value).value));
        }
    }
    if !map.is_empty() {
        leave.rule(format!("meta mark & {mask:#010x} vmap {{ {} }}", map.join(", ")));
    }
}
