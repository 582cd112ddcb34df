//! The configuration becomes the text of `table inet linkwatch`, to be read by `nft -f -` as one transaction.
//!
//! The table marks and remembers, nothing else: a new connection gets the mark of the uplink that it leaves or enters by
//! (in its connection, not in the packet), packets of a marked connection get that mark back before routing, and packets
//! of new connections get the mark of the first rule that fits, if there are rules that ip rules cannot say. Nothing in it
//! depends on which uplink is up, so nothing in it is changed when that changes.
//!
//! Two run-time values cannot be combined before Linux 6.14: hence one small chain for each uplink and policy, chosen by a
//! map. Bits that are not ours stay as they are: ours are only ever set where they are all zero.

use std::fmt::Write as _;

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

/// The table: what is in it, in the order in which it must be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Sets.
    pub sets: Vec<Set>,
    /// Chains; one is written before those that lead to it.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it hooks in, if it does.
    pub hook: String,
    /// Its rules.
    pub rules: Vec<String>,
}

impl Chain {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), hook: String::new(), rules: Vec::new() }
    }

    fn hooked(name: &str, kind: &str, hook: &str, priority: &str) -> Self {
        let hook = format!("type {kind} hook {hook} priority {priority}; policy accept;");
        Self { name: name.to_owned(), hook, rules: Vec::new() }
    }

    pub(super) fn rule(&mut self, text: impl Into<String>) {
        self.rules.push(text.into());
    }
}

/// A device's name as nft reads it back; `None` when it has a character with a meaning to nft.
pub fn device(name: &IfName) -> Option<String> {
    let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'*');
    name.as_bytes().iter().all(plain).then(|| format!("\"{name}\""))
}

/// Sets bits that are zero in a packet's mark.
pub(super) fn set_mark(mark: FwMark) -> String {
    format!("meta mark set meta mark | {:#010x}", mark.value)
}

/// The table that a configuration calls for.
pub fn table(config: &Config) -> Table {
    let mask = config.globals.mark_mask;
    let mut table = Table::default();
    table.sets.extend(config.sets.iter().flat_map(|s| sets_of(config, s)));
    let rules = nft_rules::rules(config, &mut table);
    let uplinks: Vec<(&UplinkConfig, String)> =
        config.uplinks.iter().filter_map(|u| device(&u.device).map(|d| (u, d))).collect();
    let mut prerouting = Chain::hooked("prerouting", "filter", "prerouting", "mangle");
    let mut output = Chain::hooked("output", "route", "output", "mangle");
    let mut postrouting = Chain::hooked("postrouting", "filter", "postrouting", "mangle");
    // Answers to a DHCP server and to neighbours leave where they were sent.
    output.rule("udp dport { 67, 68, 546, 547 } return");
    output.rule("icmpv6 type { 133, 134, 135, 136, 137 } return");
    if config.globals.pinning {
        table.sets.push(Set {
            name: STRAYS.to_owned(),
            body: "type inet_proto; flags timeout;".to_owned(),
            elements: String::new(),
        });
        pinning(config, &uplinks, &mut table, [&mut prerouting, &mut output, &mut postrouting]);
    }
    if rules {
        let line = format!("meta mark & {mask:#010x} == 0 ct direction original jump rules");
        prerouting.rule(line.clone());
        output.rule(format!("oifname != \"lo\" {line}"));
    }
    table.chains.extend([prerouting, output, postrouting]);
    snat6(&uplinks, &mut table);
    // The whole's stamp first, then those of the sets whose elements are not all ours.
    let stamps = [fnv(&table.whole())].into_iter().chain(table.sets.iter().filter_map(Set::stamp));
    let elements: Vec<String> = stamps.map(|stamp| format!("{stamp:#010x}")).collect();
    table.sets.push(Set { name: STAMP.to_owned(), body: "type mark;".to_owned(), elements: elements.join(", ") });
    table
}

fn pinning(
    config: &Config,
    uplinks: &[(&UplinkConfig, String)],
    table: &mut Table,
    [prerouting, output, postrouting]: [&mut Chain; 3],
) {
    let mask = config.globals.mark_mask;
    let mark = |u: &UplinkConfig| FwMark::spread(u32::from(u.id.0), mask).value;
    let mut maps = [String::new(), String::new(), String::new()];
    // Families that share a device are one uplink each, with a mark each.
    let twins = |u: &UplinkConfig| uplinks.iter().filter(|(other, _)| other.device == u.device).count() > 1;
    for (at, (uplink, device)) in uplinks.iter().enumerate() {
        let (id, value) = (uplink.id.0, mark(uplink));
        let mut pin = Chain::new(format!("pin_{id}"));
        pin.rule(set_mark(marks::mark(config, marks::pin(config, uplink.id))));
        let _ = write!(maps[0], "{}{value:#010x} : goto pin_{id}", comma(&maps[0]));
        table.chains.push(pin);
        let first = uplinks.iter().position(|(other, _)| other.device == uplink.device) == Some(at);
        if !first {
            continue;
        }
        let (mut enter, mut leave) = (Chain::new(format!("in_{id}")), Chain::new(format!("out_{id}")));
        for (twin, _) in uplinks.iter().filter(|(other, _)| other.device == uplink.device) {
            let only = match twin.families {
                [true, false] if twins(twin) => "meta nfproto ipv4 ",
                [false, true] if twins(twin) => "meta nfproto ipv6 ",
                _ => "",
            };
            let value = mark(twin);
            enter.rule(format!("{only}ct mark & {mask:#010x} == 0 ct mark set ct mark | {value:#010x}"));
            leave.rule(format!("{only}ct mark set ct mark | {value:#010x}"));
        }
        nft_rules::learn(config, uplink, table, &mut leave);
        table.chains.extend([enter, leave]);
        let _ = write!(maps[1], "{}{device} : goto in_{id}", comma(&maps[1]));
        let _ = write!(maps[2], "{}{device} : goto out_{id}", comma(&maps[2]));
    }
    if uplinks.is_empty() {
        return;
    }
    let restore = format!("meta mark & {mask:#010x} == 0 ct mark & {mask:#010x} vmap {{ {} }}", maps[0]);
    // What comes in by an uplink is remembered, and never led out again by its own mark.
    prerouting.rule(format!("iifname vmap {{ {} }}", maps[1]));
    prerouting.rule(restore.clone());
    // Packets that have a mark already, as probes have, keep it.
    output.rule(restore);
    postrouting.rule(format!("ct mark & {mask:#010x} != 0 return"));
    postrouting.rule(format!("oifname vmap {{ {} }}", maps[2]));
    for hook in ["forward", "output"] {
        let mut strays = Chain::hooked(&format!("strays_{hook}"), "filter", hook, "mangle + 1");
        // Connection tracking takes a segment without a connection for a new one.
        strays.rule(format!("meta l4proto @{STRAYS} ct state new tcp flags & (syn | rst) == 0 reject with tcp reset"));
        table.chains.push(strays);
    }
}

fn comma(list: &str) -> &'static str {
    if list.is_empty() { "" } else { ", " }
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

fn sets_of(config: &Config, set: &SetConfig) -> Vec<Set> {
    let of = |family: Family| {
        let entries = config.prefixes(set.entries).iter().filter(|p| Family::of(p.addr) == family);
        let elements: Vec<String> = entries.map(ToString::to_string).collect();
        Set {
            name: set_name(set, family),
            body: format!("type {}; flags interval, timeout;", addr_type(family)),
            elements: elements.join(", "),
        }
    };
    Family::BOTH.into_iter().filter(|f| set.families.get(f.index()) == Some(&true)).map(of).collect()
}

fn snat6(uplinks: &[(&UplinkConfig, String)], table: &mut Table) {
    let mut chain = Chain::hooked("snat6", "nat", "postrouting", "srcnat");
    for (uplink, device) in uplinks {
        match uplink.snat6 {
            Snat6::Off => {}
            Snat6::Masquerade => {
                chain.rule(format!("oifname {device} meta nfproto ipv6 ip6 saddr != fe80::/10 masquerade"));
            }
            Snat6::Prefix { from, to } => {
                chain.rule(format!("oifname {device} snat ip6 prefix to ip6 saddr map {{ {from} : {to} }}"));
            }
        }
    }
    if !chain.rules.is_empty() {
        table.chains.push(chain);
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
fn has(text: &str, word: &str) -> bool {
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
        let own_timeout = self.body.split(' ').find_map(|word| word.strip_suffix("s;")?.parse().ok());
        has(&self.body, "inet_proto") || own_len == key_len && own_timeout.unwrap_or(0) == timeout
    }
}

impl Table {
    /// The stamp that tells this table from others.
    pub fn stamp(&self) -> u32 {
        let stamps = self.sets.iter().find(|s| s.name == STAMP).and_then(|s| s.elements.split(',').next());
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
        let gone = |name: &&String| is_name(name) && self.chains.iter().all(|c| c.name != **name);
        for name in there.chains.iter().filter(gone) {
            let _ = writeln!(text, "delete chain {TABLE} {name}");
        }
        for (name, key_len, timeout) in there.sets.iter().filter(|(name, ..)| is_name(name)) {
            match self.sets.iter().find(|s| s.name == *name) {
                Some(set) if !set.is_like(*key_len, *timeout) => {
                    let _ = writeln!(text, "delete set {TABLE} {name}");
                }
                Some(_) if there.outdated.contains(name) => {
                    let _ = writeln!(text, "flush set {TABLE} {name}");
                }
                Some(_) => {}
                None => {
                    let _ = writeln!(text, "delete set {TABLE} {name}");
                }
            }
        }
        self.sets.iter().for_each(|set| add_set(&mut text, set));
        self.chains.iter().for_each(|chain| add_chain(&mut text, chain));
        self.chains.iter().for_each(|chain| add_rules(&mut text, chain));
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
            match old.sets.iter().find(|s| s.name == set.name) {
                Some(same) if same == set => {}
                Some(other) if other.body == set.body => {
                    let _ = writeln!(text, "flush set {TABLE} {}", set.name);
                    add_elements(&mut text, set);
                }
                // Nothing of the old text may use it any more when it goes; the chains below are all written anew then.
                Some(_) => return self.anew(),
                None => add_set(&mut text, set),
            }
        }
        let known = |chain: &Chain| old.chains.iter().find(|c| c.name == chain.name);
        if self.chains.iter().any(|c| known(c).is_some_and(|o| o.hook != c.hook)) {
            return self.anew();
        }
        let changed: Vec<&Chain> = self.chains.iter().filter(|c| known(c).is_none_or(|o| o.rules != c.rules)).collect();
        let gone: Vec<&Chain> = old.chains.iter().filter(|o| self.chains.iter().all(|c| c.name != o.name)).collect();
        changed.iter().for_each(|chain| add_chain(&mut text, chain));
        for chain in changed.iter().filter(|c| known(c).is_some()).chain(&gone) {
            let _ = writeln!(text, "flush chain {TABLE} {}", chain.name);
        }
        changed.iter().for_each(|chain| add_rules(&mut text, chain));
        gone.iter().for_each(|chain| {
            let _ = writeln!(text, "delete chain {TABLE} {}", chain.name);
        });
        for set in old.sets.iter().filter(|o| self.sets.iter().all(|s| s.name != o.name)) {
            let _ = writeln!(text, "delete set {TABLE} {}", set.name);
        }
        text
    }
}

fn add_set(text: &mut String, set: &Set) {
    let _ = writeln!(text, "add set {TABLE} {} {{ {} }}", set.name, set.body);
    if set.name == STAMP {
        let _ = writeln!(text, "flush set {TABLE} {}", set.name);
    }
    add_elements(text, set);
}

fn add_elements(text: &mut String, set: &Set) {
    if !set.elements.is_empty() {
        let _ = writeln!(text, "add element {TABLE} {} {{ {} }}", set.name, set.elements);
    }
}

fn add_chain(text: &mut String, chain: &Chain) {
    let hook = if chain.hook.is_empty() { String::new() } else { format!(" {{ {} }}", chain.hook) };
    let _ = writeln!(text, "add chain {TABLE} {}{hook}", chain.name);
}

fn add_rules(text: &mut String, chain: &Chain) {
    for rule in &chain.rules {
        let _ = writeln!(text, "add rule {TABLE} {} {rule}", chain.name);
    }
}

/// The mark of one of the three reserved targets, or of a policy.
pub(super) fn target_mark(config: &Config, value: u32) -> FwMark {
    marks::mark(config, value)
}
