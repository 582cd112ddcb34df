//! Sections `rule` and `ipset`: which traffic takes which policy, and the sets that rules name.
//!
//! Lists are kept in the configuration's shared tables; what stands twice in a list is kept once.

use std::net::IpAddr;

use super::values::small;
use super::{Reader, Section, Value};
use crate::config::{RuleConfig, RuleTarget, SetConfig, Span};
use crate::engine::marks;
use crate::limits;
use crate::proto::nft::has;
use crate::sort::sort;
use crate::time::Duration;
use crate::types::{Family, IfName, Mac, Name, PolicySlot, PortRange, Prefix, SetName};

/// Names of IP protocols (`/etc/protocols`, the IANA registry); `None` is any.
const PROTOCOLS: [(&str, Option<u8>); 35] = [
    ("all", None),
    ("any", None),
    ("icmp", Some(1)),
    ("igmp", Some(2)),
    ("ipencap", Some(4)),
    ("ipip", Some(4)),
    ("st", Some(5)),
    ("tcp", Some(6)),
    ("egp", Some(8)),
    ("igp", Some(9)),
    ("pup", Some(12)),
    ("udp", Some(17)),
    ("hmp", Some(20)),
    ("rdp", Some(27)),
    ("dccp", Some(33)),
    ("ipv6", Some(41)),
    ("idrp", Some(45)),
    ("rsvp", Some(46)),
    ("gre", Some(47)),
    ("esp", Some(50)),
    ("ah", Some(51)),
    ("skip", Some(57)),
    ("icmpv6", Some(58)),
    ("ipv6-icmp", Some(58)),
    ("eigrp", Some(88)),
    ("ospf", Some(89)),
    ("etherip", Some(97)),
    ("encap", Some(98)),
    ("pim", Some(103)),
    ("vrrp", Some(112)),
    ("l2tp", Some(115)),
    ("isis", Some(124)),
    ("sctp", Some(132)),
    ("udplite", Some(136)),
    ("mpls-in-ip", Some(137)),
];

/// Words of nft's grammar that a set can therefore not be called.
const RESERVED: [&str; 28] = [
    "add", "all", "any", "chain", "ct", "counter", "daddr", "delete", "dport", "drop", "elements", "flags", "flush",
    "ip", "ip6", "limit", "log", "map", "mark", "meta", "return", "rule", "saddr", "set", "sport", "table", "tcp",
    "udp",
];

impl<'a> Reader<'a> {
    pub(super) fn ipset(&mut self, section: &'a Section) {
        let named = section.options.iter().find(|v| v.key == "name").map_or(&section.name, |v| &v.value);
        let mut families = [true, false];
        let mut entries = Vec::new();
        for value in &section.options {
            match self.at(value) {
                "name" => {}
                "enabled" => {
                    if !self.flag(true) {
                        return;
                    }
                }
                "family" => self.families(&mut families),
                "entry" => self.prefix_list(&mut entries),
                // What a member of the set is: here it is always an address or a network.
                "match" | "storage" | "comment" => {}
                _ => self.unknown(),
            }
        }
        self.value = None;
        if entries.iter().any(|p| !families.get(Family::of(p.addr).index()).is_some_and(|f| *f)) {
            self.error(format_args!("an entry is of another family than the set"));
        }
        let Some(at) = self.set(named, families) else { return };
        let entries = self.keep_prefixes(entries);
        if let Some(set) = self.config.sets.get_mut(usize::from(at)) {
            set.entries = entries;
        }
    }

    /// The place of a set with this name, which is made if there is none.
    fn set(&mut self, name: &str, families: [bool; 2]) -> Option<u8> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        // Ours have two dots in their names.
        let ours = has(name, "..") || name == "stamp" || name == "strays";
        let named = SetName::try_from(name).ok().filter(|n| n.len() <= 30);
        let Some(named) = named.filter(|_| begins && !ours && name.bytes().all(fits) && !RESERVED.contains(&name))
        else {
            self.refuse(name, format_args!("cannot be the name of a set: want at most 30 letters, digits, -, _"));
            return None;
        };
        if let Some(at) = self.config.sets.iter().position(|s| s.name == named) {
            if let Some(set) = self.config.sets.get_mut(at) {
                for (has, wants) in set.families.iter_mut().zip(families) {
                    *has |= wants;
                }
            }
            return u8::try_from(at).ok();
        }
        let at = self.config.sets.len();
        if self.config.sets.push(SetConfig { name: named, families, entries: Span::EMPTY }).is_err() {
            self.full("sets", limits::SETS);
            return None;
        }
        u8::try_from(at).ok()
    }

    pub(super) fn rule(&mut self, section: &'a Section) {
        let Ok(name) = Name::try_from(section.name.as_str()) else { return };
        let mut rule = RuleConfig { name, ..RuleConfig::new(RuleTarget::Default) };
        let mut policy = None;
        let (mut sticky, mut timeout) = (false, 600);
        let [mut src, mut dst] = [Vec::new(), Vec::new()];
        let [mut sport, mut dport] = [Vec::new(), Vec::new()];
        let [mut src_set, mut dst_set] = [None, None];
        for value in &section.options {
            match self.at(value) {
                "family" => self.families(&mut rule.families),
                "proto" => rule.proto = self.proto(),
                "src_ip" => self.prefix_list(&mut src),
                "dest_ip" => self.prefix_list(&mut dst),
                "src_port" => self.port_list(&mut sport),
                "dest_port" => self.port_list(&mut dport),
                "src_iface" => {
                    let of_section = self.config.uplinks.iter().find(|u| u.name.as_str() == self.text);
                    match of_section.map(|u| u.device).or_else(|| IfName::new(self.text.as_bytes())) {
                        Some(device) => rule.iif = device,
                        None => self.error(format_args!("no device name: 1 to 15 bytes")),
                    }
                }
                "src_mac" => rule.mac = self.mac(),
                "use_policy" => policy = Some(value),
                "ipset" => dst_set = Some(value),
                "ipset_src" => src_set = Some(value),
                "sticky" => sticky = self.flag(false),
                "timeout" => timeout = self.number_or(1, 1_000_000, 600),
                "logging" => rule.log = self.flag(false),
                _ => self.unknown(),
            }
        }
        self.value = None;
        let has_ports = matches!(rule.proto, Some(6 | 17 | 33 | 132 | 136));
        if !has_ports && (!sport.is_empty() || !dport.is_empty()) {
            self.warn(format_args!("ports without proto tcp or udp are left out"));
            (sport, dport) = (Vec::new(), Vec::new());
        }
        if rule.proto == Some(58) {
            // ICMP of IPv4 is another protocol, called by its own name.
            rule.families = [false, rule.families[1]];
        }
        self.narrow(&mut rule, &src);
        self.narrow(&mut rule, &dst);
        rule.src_set = src_set.and_then(|value| self.set_of_rule(value, rule.families));
        rule.dst_set = dst_set.and_then(|value| self.set_of_rule(value, rule.families));
        self.value = None;
        rule.sticky = sticky.then_some(Duration::from_secs(timeout.into()));
        rule.src = self.keep_prefixes(src);
        rule.dst = self.keep_prefixes(dst);
        rule.sport = self.keep_ports(sport);
        rule.dport = self.keep_ports(dport);
        self.value = policy;
        rule.target = match policy.map(|value| value.value.as_str()) {
            Some("default") => RuleTarget::Default,
            Some("unreachable") => RuleTarget::Unreachable,
            Some("blackhole") => RuleTarget::Blackhole,
            Some(name) => {
                let at = self.config.policies.iter().position(|p| p.name.as_str() == name);
                if at.is_none() {
                    self.absent("policy", name);
                }
                RuleTarget::Policy(PolicySlot(u8::try_from(at.unwrap_or(0)).unwrap_or(u8::MAX)))
            }
            None => {
                self.error(format_args!("use_policy is missing"));
                RuleTarget::Default
            }
        };
        self.value = None;
        if self.config.rules.push(rule).is_err() {
            self.full("rules", limits::POLICY_RULES);
        }
    }

    fn set_of_rule(&mut self, value: &'a Value, families: [bool; 2]) -> Option<u8> {
        self.at(value);
        if !self.config.sets.iter().any(|s| s.name.as_str() == value.value) {
            let shown = value.value.escape_default();
            self.warn(format_args!("no 'config ipset' is called '{shown}': empty until somebody fills it"));
        }
        self.set(&value.value, families)
    }

    /// A rule with addresses is about their families only.
    fn narrow(&mut self, rule: &mut RuleConfig, prefixes: &[Prefix]) {
        if prefixes.is_empty() {
            return;
        }
        for (family, serves) in Family::BOTH.into_iter().zip(&mut rule.families) {
            *serves &= prefixes.iter().any(|p| Family::of(p.addr) == family);
        }
        if rule.families == [false, false] {
            self.error(format_args!("the addresses are of another family than the rule"));
        }
    }

    fn proto(&mut self) -> Option<u8> {
        if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == self.text) {
            return *number;
        }
        let number = small(self.text).and_then(|number| u8::try_from(number).ok());
        if number.is_none() {
            self.wrong(format_args!("is no protocol: want a number or all, tcp, udp, icmp, esp, …"));
        }
        // 0 is any, as with iptables.
        number.filter(|n| *n != 0)
    }

    /// Adds what a word says to a list.
    pub(super) fn prefix(&mut self, word: &str, list: &mut Vec<Prefix>) {
        let (addr, len) = word.split_once('/').map_or((word, None), |(a, l)| (a, Some(l)));
        let parsed = addr.parse::<IpAddr>().ok().and_then(|addr| {
            let len = len.map_or(Some(Prefix::host(addr).len.into()), small)?;
            Prefix::new(addr, u8::try_from(len).ok()?)
        });
        match parsed {
            Some(prefix) => list.push(prefix),
            None => self.refuse(word, format_args!("is no address and no ADDRESS/LENGTH")),
        }
    }

    pub(super) fn prefix_list(&mut self, list: &mut Vec<Prefix>) {
        for word in self.text.split([',', ' ']).filter(|w| !w.is_empty()) {
            self.prefix(word, list);
        }
    }

    fn port_list(&mut self, list: &mut Vec<PortRange>) {
        for word in self.text.split([',', ' ']).filter(|w| !w.is_empty()) {
            let (first, last) = word.split_once([':', '-']).unwrap_or((word, word));
            let range = small(first).zip(small(last)).map(|(first, last)| PortRange { first, last });
            match range.filter(|r| r.first <= r.last && r.first > 0) {
                Some(range) => list.push(range),
                None => self.refuse(word, format_args!("is no port and no range FIRST:LAST or FIRST-LAST")),
            }
        }
    }

    fn mac(&mut self) -> Option<Mac> {
        let mut bytes = [0; 6];
        let mut parts = self.text.split([':', '-']);
        let mut whole = true;
        for byte in &mut bytes {
            match parts.next().filter(|p| p.len() == 2).and_then(|p| u32::from_str_radix(p, 16).ok()) {
                Some(part) => *byte = part as u8,
                None => whole = false,
            }
        }
        if !whole || parts.next().is_some() {
            self.wrong(format_args!("is no hardware address like 02:00:5e:00:53:01"));
            return None;
        }
        Some(Mac(bytes))
    }

    /// Prefixes overlap only by lying inside each other: the inner ones are said already.
    pub(super) fn keep_prefixes(&mut self, list: Vec<Prefix>) -> Span {
        let mut kept: Vec<Prefix> = Vec::new();
        for (at, prefix) in list.iter().enumerate() {
            let wider = list.iter().enumerate().find(|(other, wider)| {
                *other != at
                    && wider.contains(prefix.addr)
                    && (wider.len < prefix.len || (*wider == prefix && *other < at))
            });
            match wider {
                Some((_, wider)) => self.warn(format_args!("{prefix} lies in {wider} and is left out")),
                None => kept.push(*prefix),
            }
        }
        let first = self.config.prefixes.len();
        if self.config.prefixes.extend_from_slice(&kept).is_err() {
            self.error(format_args!("too many addresses: this board's build holds {} in all lists", limits::PREFIXES));
            return Span::EMPTY;
        }
        span(first, kept.len())
    }

    /// Ranges that touch or overlap become one.
    fn keep_ports(&mut self, mut list: Vec<PortRange>) -> Span {
        sort(&mut list, |a, b| (a.first, a.last) < (b.first, b.last));
        let mut kept: Vec<PortRange> = Vec::new();
        for range in list {
            match kept.last_mut().filter(|last| range.first <= last.last.saturating_add(1)) {
                Some(last) => last.last = last.last.max(range.last),
                None => kept.push(range),
            }
        }
        let first = self.config.ports.len();
        if self.config.ports.extend_from_slice(&kept).is_err() {
            self.error(format_args!("too many ports: this board's build holds {} in all lists", limits::PORTS));
            return Span::EMPTY;
        }
        span(first, kept.len())
    }

    /// Uplinks count from the bottom of the mask, policies and sticky rules from its top: they must not meet.
    pub(super) fn check_marks(&mut self) {
        let mut count = 0;
        marks::each(&self.config, |_, _| count += 1);
        if count > limits::MARKS {
            self.error(format_args!(
                "too many marks for policies and sticky rules: {count}, this board's build holds {}",
                limits::MARKS
            ));
        }
        let highest = self.config.uplinks.iter().map(|u| u32::from(u.id.0)).max().unwrap_or(0);
        if let Some(lowest) = marks::lowest(&self.config).filter(|lowest| *lowest <= highest) {
            let mask = self.config.globals.mark_mask;
            self.error(format_args!(
                "mmx_mask {mask:#x} is too small: interfaces take marks up to {highest}, policies and sticky rules down to {lowest}"
            ));
        }
    }
}

fn span(first: usize, len: usize) -> Span {
    // Cannot fail: the tables have at most 65535 entries.
    Span { first: u16::try_from(first).unwrap_or(u16::MAX), len: u16::try_from(len).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, Outcome, read};
    use super::*;

    fn outcome(rules: &str) -> Outcome {
        let text = format!(
            "config interface 'wan'\n\toption enabled 1\nconfig interface 'wanb'\n\toption enabled 1\n\
             config member 'a'\n\toption interface wan\n\toption weight 3\nconfig member 'b'\n\toption interface wanb\n\
             config policy 'balanced'\n\tlist use_member a\n\tlist use_member b\n{rules}"
        );
        read(text.as_bytes(), Dialect::Mwan3, &[])
    }

    #[test]
    fn mwan3s_own_rules_are_applied_without_a_word() {
        let found = outcome(
            "config rule 'https'\n\toption sticky 1\n\toption dest_port 443\n\toption proto tcp\n\toption use_policy balanced\n\
             config rule 'default_rule_v4'\n\toption dest_ip '0.0.0.0/0'\n\toption use_policy balanced\n\toption family ipv4\n",
        );
        assert!(found.errors.is_empty(), "{:?}", found.errors);
        let config = found.config.expect("a configuration");
        assert_eq!(config.rules[0].sticky, Some(Duration::from_secs(600)));
        assert!(config.rules_need_nft() && config.fits_ip_rule(&config.rules[0]));
        assert!(
            found.warnings.iter().all(|w| !w.message.contains("rule") && !w.message.contains("applied")),
            "{:?}",
            found.warnings
        );
        assert!(config.shares(&config.policies[0], Family::V4) && !config.shares(&config.policies[0], Family::V6));
    }

    #[test]
    fn lists_are_tidied_and_what_makes_no_sense_is_named() {
        let found = outcome(
            "config rule 'a'\n\toption src_ip '10.0.0.0/8,10.1.0.0/16 192.0.2.1'\n\toption proto tcp\n\
             \toption dest_port '80-90,85:100,443'\n\toption use_policy balanced\n",
        );
        let config = found.config.expect("a configuration");
        let rule = &config.rules[0];
        assert_eq!(config.prefixes(rule.src).len(), 2);
        assert_eq!(config.ports(rule.dport), [PortRange { first: 80, last: 100 }, PortRange { first: 443, last: 443 }]);
        assert!(found.warnings.iter().any(|w| w.message.contains("10.1.0.0/16 lies in 10.0.0.0/8")));
        for (option, says) in [
            ("option use_policy nobody", "policy 'nobody' is not in this file"),
            ("option proto quic", "'quic' is no protocol"),
            ("option ipset 'a b'", "cannot be the name of a set"),
            ("option src_ip '2001:db8::1'\n\toption family ipv4", "another family"),
            ("option src_mac '02:00'", "no hardware address"),
        ] {
            let found = outcome(&format!("config rule 'a'\n\toption use_policy balanced\n\t{option}\n"));
            assert!(found.errors.iter().any(|e| e.message.contains(says)), "{option}: {:?}", found.errors);
        }
    }

    #[test]
    fn a_mask_that_is_too_small_is_an_error() {
        let found = outcome(
            "config globals\n\toption mmx_mask '0x700'\n\
             config rule 'a'\n\toption sticky 1\n\toption use_policy balanced\n",
        );
        assert!(found.errors.iter().any(|e| e.message.contains("mmx_mask 0x700 is too small")), "{:?}", found.errors);
    }
}
