//! The rules of the configuration in nft's words, in file order; the first that fits marks the packet and ends it.
//!
//! A sticky rule keeps, for each uplink, a set of the sources that it has: a packet of one of them gets the mark that
//! prefers that uplink, and each new connection that leaves by an uplink puts its source into that uplink's set.

use std::fmt::Write as _;

use super::nft::{Table, addr_type, is_plain, item, set_mark, set_name, target_mark};
use crate::config::{Config, RuleConfig, UplinkConfig};
use crate::engine::marks::{self, Meaning};
use crate::types::{Family, UplinkSlot};

/// Sources that a sticky set holds; one more is not remembered.
const SOURCES: u32 = 65_535;
/// syslog's levels as nft calls them.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/// Writes the chain `rules` and what it leads to; whether there are any.
pub(super) fn rules(config: &Config, table: &mut Table) -> bool {
    if !config.rules_need_nft() {
        return false;
    }
    table.open("rules");
    for (at, rule) in config.rules.iter().enumerate() {
        let end = if marks::is_sticky(rule) {
            let end = format!("sticky_{}", label(config, at));
            sticky(config, at, rule, table, &end);
            end
        } else {
            let value = marks::target(config, rule.target);
            let end = format!("to_{value}");
            if table.open(&end).rules.is_empty() {
                table.rule(&end, format_args!("{}", set_mark(target_mark(config, value))));
            }
            end
        };
        let log = match config.globals.log.filter(|_| rule.log).and_then(|l| LEVELS.get(usize::from(l))) {
            // Counted as well: the kernel says nothing of a log line that a full buffer dropped.
            Some(level) => format!("counter log prefix \"MWAN3({}) \" level {level} ", label(config, at)),
            None => String::new(),
        };
        let depends = !rule.src.is_empty() || !rule.dst.is_empty() || rule.src_set.is_some() || rule.dst_set.is_some();
        let alike = rule.families == [true, true] && !depends && rule.proto != Some(1);
        for family in if alike { &[None][..] } else { &[Some(Family::V4), Some(Family::V6)] } {
            if family.is_none_or(|f| rule.serves(f))
                && let Some(matches) = matches(config, rule, *family)
            {
                table.rule("rules", format_args!("{matches}{log}goto {end}"));
            }
        }
    }
    true
}

/// A rule's name as a part of nft's names: its own if that is plain and nobody else's, else its place.
fn label(config: &Config, at: usize) -> String {
    let name = config.rules.get(at).map(|r| r.name.as_str()).unwrap_or("");
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { format!("r.{at}") }
}

/// What a rule asks of a packet of one family, or of both alike: nothing, or words with a space behind them. `None` when
/// no packet can meet it.
fn matches(config: &Config, rule: &RuleConfig, family: Option<Family>) -> Option<String> {
    let mut text = String::new();
    if !rule.iif.is_none() {
        // A device that nft cannot name matches nothing; the reader of the configuration has said so.
        if !is_plain(&rule.iif) {
            return None;
        }
        let _ = write!(text, "iifname \"{}\" ", rule.iif);
    }
    if let Some(mac) = rule.mac {
        let _ = write!(text, "ether saddr {mac} ");
    }
    if let Some(family) = family {
        let ip = ip(family);
        text.push_str(match family {
            Family::V4 => "meta nfproto ipv4 ",
            Family::V6 => "meta nfproto ipv6 ",
        });
        for (span, word) in [(rule.src, "saddr"), (rule.dst, "daddr")] {
            let list = config.prefixes(span);
            let (mut own, mut all) = (String::new(), list.is_empty());
            for prefix in list.iter().filter(|p| Family::of(p.addr) == family) {
                item(&mut own, format_args!("{prefix}"));
                all |= prefix.len == 0;
            }
            if !all {
                if own.is_empty() {
                    return None;
                }
                let _ = write!(text, "{ip} {word} {{ {own} }} ");
            }
        }
        for (at, word) in [(rule.src_set, "saddr"), (rule.dst_set, "daddr")] {
            if let Some(set) = at.and_then(|at| config.sets.get(usize::from(at))) {
                let _ = write!(text, "{ip} {word} @{} ", set_name(set, family));
            }
        }
    }
    if let Some(proto) = family.map_or(rule.proto, |f| rule.proto_in(f)) {
        let _ = write!(text, "meta l4proto {proto} ");
    }
    for (span, word) in [(rule.sport, "sport"), (rule.dport, "dport")] {
        let mut ports = String::new();
        for range in config.ports(span) {
            match range.last == range.first {
                true => item(&mut ports, format_args!("{}", range.first)),
                false => item(&mut ports, format_args!("{}-{}", range.first, range.last)),
            }
        }
        if !ports.is_empty() {
            let _ = write!(text, "th {word} {{ {ports} }} ");
        }
    }
    Some(text)
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

/// Writes the chain of a sticky rule.
fn sticky(config: &Config, at: usize, rule: &RuleConfig, table: &mut Table, chain: &str) {
    let (own, soft) = values(config, at);
    let seconds = rule.sticky.map_or(0, |t| t.as_secs());
    for (slot, value) in &soft {
        for family in Family::BOTH.into_iter().filter(|f| rule.serves(*f)) {
            let Some(name) = sources(config, at, *slot, family) else { continue };
            let mark = set_mark(target_mark(config, *value));
            table.rule(chain, format_args!("{} saddr @{name} {mark} return", ip(family)));
            let (key, flags) = (addr_type(family), "flags dynamic, timeout");
            let body = format!("type {key}; size {SOURCES}; {flags}; timeout {seconds}s;");
            table.add_set(name, body, String::new());
        }
    }
    table.rule(chain, format_args!("{}", set_mark(target_mark(config, own))));
}

/// A new connection leaves by an uplink: its source is remembered there, and no longer elsewhere.
pub(super) fn learn(config: &Config, uplink: &UplinkConfig, table: &mut Table, leave: &str) {
    let mask = config.globals.mark_mask;
    let mut map = String::new();
    for (at, rule) in config.rules.iter().enumerate().filter(|(_, r)| marks::is_sticky(r)) {
        let (own, soft) = values(config, at);
        let on_device = |slot: UplinkSlot, family: Option<Family>| {
            let other = config.uplinks.get(usize::from(slot.0)).filter(|u| u.device == uplink.device);
            other.is_some_and(|u| family.is_none_or(|f| u.serves(f)))
        };
        if !soft.iter().any(|(slot, _)| on_device(*slot, None)) {
            continue;
        }
        let name = format!("learn_{}_{}", label(config, at), uplink.id.0);
        table.open(&name);
        for family in Family::BOTH.into_iter().filter(|f| rule.serves(*f)) {
            let Some((here, _)) = soft.iter().find(|(slot, _)| on_device(*slot, Some(family))) else { continue };
            let ip = ip(family);
            for (other, _) in soft.iter().filter(|(slot, _)| slot != here) {
                if let Some(other) = sources(config, at, *other, family) {
                    table.rule(&name, format_args!("{ip} saddr @{other} delete @{other} {{ {ip} saddr }}"));
                }
            }
            if let Some(here) = sources(config, at, *here, family) {
                table.rule(&name, format_args!("update @{here} {{ {ip} saddr }}"));
            }
        }
        let mut add = |value| {
            item(&mut map, format_args!("{:#010x} : goto {name}", target_mark(config, value).value));
        };
        add(own);
        soft.iter().for_each(|(_, value)| add(*value));
    }
    if !map.is_empty() {
        table.rule(leave, format_args!("meta mark & {mask:#010x} vmap {{ {map} }}"));
    }
}
