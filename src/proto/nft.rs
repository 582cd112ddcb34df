//! The configuration becomes the text of `table inet linkwatch`, to be read by `nft -f -` as one transaction.
//!
//! The table marks and remembers, nothing else: a new connection gets the mark of the uplink that it leaves or enters by
//! (in its connection, not in the packet), packets of a marked connection get that mark back before routing, and packets
//! of new connections get the mark of the first rule that fits, if there are rules that ip rules cannot say. Nothing in it
//! depends on which uplink is up, so nothing in it is changed when that changes.
//!
//! Two run-time values cannot be combined before Linux 6.14: hence one small chain for each uplink and policy, chosen by a
//! map. Bits that are not ours stay as they are: ours are only ever set where they are all zero.

use std::fmt::{self, Write as _};

use super::nft_rules;
use crate::config::{Config, SetConfig, Snat6, UplinkConfig};
use crate::engine::marks;
use crate::types::{Family, FwMark, IfName};

/// The table's family and name, as nft says it.
pub const TABLE: &str = "inet linkwatch";
/// The set whose only element tells which text was loaded.
pub const STAMP: &str = "stamp";
/// The set that holds a protocol as long as its strays are rejected.
pub const STRAYS: &str = "strays";

/// The table: what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Sets.
    pub sets: Vec<Set>,
    /// Chains; all are there before the first rule leads to one.
    pub chains: Vec<Chain>,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What is between its braces.
    pub body: String,
    /// Its elements from the start, separated by commas.
    pub elements: String,
}

/// What somebody else left in our table: an earlier life of ours with another configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Names of chains.
    pub chains: Vec<String>,
    /// Names of sets; bytes of their elements; seconds after which those go.
    pub sets: Vec<(String, u32, u64)>,
    /// Names of sets that were written with other elements than they have now.
    pub outdated: Vec<String>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it hooks in, if it does.
    pub hook: String,
    /// Its rules, a line each.
    pub rules: String,
}

/// Whether nft can name a device: it has no character with a meaning to nft.
pub(super) fn is_plain(name: &IfName) -> bool {
    name.as_bytes().iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'*'))
}

/// Sets bits that are zero in a packet's mark.
pub(super) fn set_mark(mark: FwMark) -> String {
    format!("meta mark set meta mark | {:#010x}", mark.value)
}

/// Adds an item to a list with commas.
pub(super) fn item(list: &mut String, item: fmt::Arguments<'_>) {
    let comma = if list.is_empty() { "" } else { ", " };
    let _ = write!(list, "{comma}{item}");
}

/// The table that a configuration calls for.
pub fn table(config: &Config) -> Table {
    let mask = config.globals.mark_mask;
    let mut table = Table::default();
    config.sets.iter().for_each(|set| add_sets_of(config, set, &mut table));
    let rules = nft_rules::rules(config, &mut table);
    let mut uplinks: Vec<&UplinkConfig> = Vec::new();
    config.uplinks.iter().filter(|u| is_plain(&u.device)).for_each(|u| uplinks.push(u));
    table.hook("prerouting", "filter", "prerouting", "mangle");
    table.hook("output", "route", "output", "mangle");
    table.hook("postrouting", "filter", "postrouting", "mangle");
    // Answers to a DHCP server and to neighbours leave where they were sent.
    table.rule("output", format_args!("udp dport {{ 67, 68, 546, 547 }} return"));
    table.rule("output", format_args!("icmpv6 type {{ 133, 134, 135, 136, 137 }} return"));
    if config.globals.pinning {
        table.add_set(STRAYS.to_owned(), "type inet_proto; flags timeout;".to_owned(), String::new());
        pinning(config, &uplinks, &mut table);
    }
    if rules {
        let line = format!("meta mark & {mask:#010x} == 0 ct direction original jump rules");
        table.rule("prerouting", format_args!("{line}"));
        table.rule("output", format_args!("oifname != \"lo\" {line}"));
    }
    snat6(&uplinks, &mut table);
    // The whole's stamp first, then those of the sets whose elements are not all ours.
    let mut stamps = format!("{:#010x}", fnv(&table.whole()));
    for stamp in table.sets.iter().filter_map(Set::stamp) {
        item(&mut stamps, format_args!("{stamp:#010x}"));
    }
    table.add_set(STAMP.to_owned(), "type mark;".to_owned(), stamps);
    table
}

fn pinning(config: &Config, uplinks: &[&UplinkConfig], table: &mut Table) {
    let mask = config.globals.mark_mask;
    let (mut pins, mut enters, mut leaves) = (String::new(), String::new(), String::new());
    for (at, uplink) in uplinks.iter().enumerate() {
        let (id, device) = (uplink.id.0, &uplink.device);
        let pin = marks::mark(config, marks::pin(config, uplink.id));
        table.rule(&format!("pin_{id}"), format_args!("{}", set_mark(pin)));
        item(&mut pins, format_args!("{:#010x} : goto pin_{id}", marks::mark(config, id.into()).value));
        // Families that share a device are one uplink each, with a mark each.
        if uplinks.iter().take(at).any(|other| other.device == *device) {
            continue;
        }
        let twins = uplinks.iter().filter(|other| other.device == *device).count() > 1;
        let (enter, leave) = (format!("in_{id}"), format!("out_{id}"));
        for twin in uplinks.iter().filter(|other| other.device == *device) {
            let only = match twin.families {
                [true, false] if twins => "meta nfproto ipv4 ",
                [false, true] if twins => "meta nfproto ipv6 ",
                _ => "",
            };
            let value = marks::mark(config, twin.id.0.into()).value;
            table.rule(&enter, format_args!("{only}ct mark & {mask:#010x} == 0 ct mark set ct mark | {value:#010x}"));
            table.rule(&leave, format_args!("{only}ct mark set ct mark | {value:#010x}"));
        }
        nft_rules::learn(config, uplink, table, &leave);
        item(&mut enters, format_args!("\"{device}\" : goto {enter}"));
        item(&mut leaves, format_args!("\"{device}\" : goto {leave}"));
    }
    if uplinks.is_empty() {
        return;
    }
    let restore = format!("meta mark & {mask:#010x} == 0 ct mark & {mask:#010x} vmap {{ {pins} }}");
    // What comes in by an uplink is remembered, and never led out again by its own mark.
    table.rule("prerouting", format_args!("iifname vmap {{ {enters} }}"));
    table.rule("prerouting", format_args!("{restore}"));
    // Packets that have a mark already, as probes have, keep it.
    table.rule("output", format_args!("{restore}"));
    table.rule("postrouting", format_args!("ct mark & {mask:#010x} != 0 return"));
    table.rule("postrouting", format_args!("oifname vmap {{ {leaves} }}"));
    for (name, hook) in [("strays_forward", "forward"), ("strays_output", "output")] {
        table.hook(name, "filter", hook, "mangle + 1");
        // Connection tracking takes a segment without a connection for a new one.
        table.rule(
            name,
            format_args!("meta l4proto @{STRAYS} ct state new tcp flags & (syn | rst) == 0 reject with tcp reset"),
        );
    }
}

/// The names of a set's halves, by [`Family::index`].
pub(super) fn set_name(set: &SetConfig, family: Family) -> String {
    let double = family == Family::V6 && set.is_double();
    format!("{}{}", set.name, if double { "6" } else { "" })
}

pub(super) fn addr_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

fn add_sets_of(config: &Config, set: &SetConfig, table: &mut Table) {
    for family in Family::BOTH.into_iter().filter(|f| set.families.get(f.index()) == Some(&true)) {
        let mut elements = String::new();
        for entry in config.prefixes(set.entries).iter().filter(|p| Family::of(p.addr) == family) {
            item(&mut elements, format_args!("{entry}"));
        }
        let body = format!("type {}; flags interval, timeout;", addr_type(family));
        table.add_set(set_name(set, family), body, elements);
    }
}

fn snat6(uplinks: &[&UplinkConfig], table: &mut Table) {
    for uplink in uplinks {
        let device = &uplink.device;
        if uplink.snat6 != Snat6::Off {
            table.hook("snat6", "nat", "postrouting", "srcnat");
        }
        match uplink.snat6 {
            Snat6::Off => {}
            Snat6::Masquerade => table.rule(
                "snat6",
                format_args!("oifname \"{device}\" meta nfproto ipv6 ip6 saddr != fe80::/10 masquerade"),
            ),
            Snat6::Prefix { from, to } => table.rule(
                "snat6",
                format_args!("oifname \"{device}\" snat ip6 prefix to ip6 saddr map {{ {from} : {to} }}"),
            ),
        }
    }
}

/// Whether a name from the kernel is one that we could have given: no other gets into a text for nft.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// FNV-1a over the text: other text, other number.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Whether the word is in the text; std's search for words is two kilobytes.
pub(super) fn has(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|part| part == word.as_bytes())
}

impl Set {
    /// The stamp that tells which elements of the configuration a set was written with; `None` for those that only we fill.
    pub fn stamp(&self) -> Option<u32> {
        let open = self.name != STAMP && self.name != STRAYS && !has(&self.name, "..");
        open.then(|| fnv(&format!("{} {}", self.name, self.elements)))
    }

    /// Whether a set of this name with such elements can stay.
    fn is_like(&self, key_len: u32, timeout: u64) -> bool {
        let own_len = if has(&self.body, "ipv6_addr") { 16 } else { 4 };
        let own_timeout = self.body.split(' ').find_map(|word| word.strip_suffix("s;")?.parse::<u32>().ok());
        has(&self.body, "inet_proto") || own_len == key_len && u64::from(own_timeout.unwrap_or(0)) == timeout
    }
}

impl Table {
    /// The stamp that tells this table from others.
    pub fn stamp(&self) -> u32 {
        let stamps = self.set(STAMP).and_then(|s| s.elements.split(',').next());
        let stamp = stamps.map(|s| s.strip_prefix("0x").unwrap_or(s));
        stamp.and_then(|s| u32::from_str_radix(s, 16).ok()).unwrap_or(0)
    }

    /// The transaction that makes this table of an empty one, or of one with the same chains and sets.
    pub fn whole(&self) -> String {
        self.whole_over(&Remains::default())
    }

    /// The transaction that makes this table of what an earlier life left; sets that are the same keep their elements.
    pub fn whole_over(&self, there: &Remains) -> String {
        let mut text = format!("add table {TABLE}\nflush table {TABLE}\n");
        for name in there.chains.iter().filter(|name| is_name(name) && self.chain(name).is_none()) {
            line(&mut text, "delete chain", name, "");
        }
        for (name, key_len, timeout) in there.sets.iter().filter(|(name, ..)| is_name(name)) {
            if self.set(name).is_none_or(|set| !set.is_like(*key_len, *timeout)) {
                line(&mut text, "delete set", name, "");
            } else if there.outdated.contains(name) {
                line(&mut text, "flush set", name, "");
            }
        }
        self.sets.iter().for_each(|set| write_set(&mut text, set));
        self.chains.iter().for_each(|chain| write_chain(&mut text, chain));
        self.chains.iter().for_each(|chain| write_rules(&mut text, chain));
        text
    }

    /// The same, after deleting what is there.
    pub fn anew(&self) -> String {
        format!("add table {TABLE}\ndelete table {TABLE}\n{}", self.whole())
    }

    /// The transaction that makes this table of another: what both have alike is not touched.
    pub fn change_from(&self, old: &Self) -> String {
        let mut text = String::new();
        for set in &self.sets {
            match old.set(&set.name) {
                Some(same) if same == set => {}
                Some(other) if other.body == set.body => {
                    line(&mut text, "flush set", &set.name, "");
                    write_elements(&mut text, set);
                }
                // Nothing of the old text may use it any more when it goes; the chains below are all written anew then.
                Some(_) => return self.anew(),
                None => write_set(&mut text, set),
            }
        }
        // With whether it was there.
        let mut changed = Vec::new();
        for chain in &self.chains {
            match old.chain(&chain.name) {
                Some(same) if same == chain => {}
                Some(other) if other.hook != chain.hook => return self.anew(),
                other => changed.push((chain, other.is_some())),
            }
        }
        let gone = |text: &mut String, what: &str| {
            for chain in old.chains.iter().filter(|chain| self.chain(&chain.name).is_none()) {
                line(text, what, &chain.name, "");
            }
        };
        changed.iter().for_each(|(chain, _)| write_chain(&mut text, chain));
        changed.iter().filter(|(_, old)| *old).for_each(|(chain, _)| line(&mut text, "flush chain", &chain.name, ""));
        gone(&mut text, "flush chain");
        changed.iter().for_each(|(chain, _)| write_rules(&mut text, chain));
        gone(&mut text, "delete chain");
        for set in old.sets.iter().filter(|set| self.set(&set.name).is_none()) {
            line(&mut text, "delete set", &set.name, "");
        }
        text
    }

    fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|s| s.name == name)
    }

    fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|c| c.name == name)
    }

    pub(super) fn add_set(&mut self, name: String, body: String, elements: String) {
        self.sets.push(Set { name, body, elements });
    }

    /// The chain with a name, which is made if there is none.
    #[inline(never)]
    pub(super) fn open(&mut self, name: &str) -> &mut Chain {
        let at = self.chains.iter().position(|c| c.name == name).unwrap_or(self.chains.len());
        if at == self.chains.len() {
            self.chains.push(Chain { name: name.to_owned(), ..Chain::default() });
        }
        &mut self.chains[at]
    }

    fn hook(&mut self, name: &str, kind: &str, hook: &str, priority: &str) {
        self.open(name).hook = format!("type {kind} hook {hook} priority {priority}; policy accept;");
    }

    /// Adds a rule to the chain with a name.
    pub(super) fn rule(&mut self, chain: &str, text: fmt::Arguments<'_>) {
        let _ = writeln!(self.open(chain).rules, "{text}");
    }
}

/// A command about something in the table.
fn line(text: &mut String, what: &str, name: &str, rest: &str) {
    let _ = writeln!(text, "{what} {TABLE} {name}{rest}");
}

fn braces(inside: &str) -> String {
    if inside.is_empty() { String::new() } else { format!(" {{ {inside} }}") }
}

fn write_set(text: &mut String, set: &Set) {
    line(text, "add set", &set.name, &braces(&set.body));
    if set.name == STAMP {
        line(text, "flush set", &set.name, "");
    }
    write_elements(text, set);
}

fn write_elements(text: &mut String, set: &Set) {
    if !set.elements.is_empty() {
        line(text, "add element", &set.name, &braces(&set.elements));
    }
}

fn write_chain(text: &mut String, chain: &Chain) {
    line(text, "add chain", &chain.name, &braces(&chain.hook));
}

fn write_rules(text: &mut String, chain: &Chain) {
    for rule in chain.rules.lines() {
        let _ = writeln!(text, "add rule {TABLE} {} {rule}", chain.name);
    }
}

/// The mark of one of the three reserved targets, or of a policy.
pub(super) fn target_mark(config: &Config, value: u32) -> FwMark {
    marks::mark(config, value)
}
