//! What linkwatch makes of a configuration, in the same words: from the ip rules, routes and nexthops that the daemon puts
//! into a pretend kernel whose links are all well, and from the text that nft would read.

use linkwatch::config::Config;
use linkwatch::engine::event::MainDefault;
use linkwatch::engine::object::{Hop, NexthopBody, RouteTarget, RuleAction, RuleSpec, Selector};
use linkwatch::proto::nft::{self, Table};
use linkwatch::sim::World;
use linkwatch::time::Instant;
use linkwatch::types::{Family, FwMark, IfIndex, Prefix};

use crate::cases::{Facts, kind};

/// The facts of a configuration.
pub fn facts(config: &Config) -> Facts {
    let world = settled(config);
    let table = nft::table(config);
    let mut lines = vec![format!("mask {:#x}", config.globals.mark_mask)];
    for family in Family::BOTH {
        let word = word(family);
        reserved(&world, family, &mut lines);
        interfaces(&world, family, &mut lines);
        for (at, policy) in config.policies.iter().enumerate() {
            let table = 7600 + at as u32;
            lines.push(format!("{word} policy {} {}", policy.name, shares(&world, family, table)));
        }
        if config.rules_need_nft() {
            nft_rules(&world, &table, family, &mut lines);
        } else {
            ip_rules(&world, family, &mut lines);
        }
    }
    for rule in rules_of(&world, Family::V4) {
        if let (1901.., RuleAction::Lookup { table, suppress: Some(0) }) = (rule.priority, rule.action) {
            lines.push(format!("bypass table {table}"));
        }
    }
    let mut facts = Facts::new();
    lines.into_iter().for_each(|line| facts.entry(kind(&line)).or_default().push(line));
    facts
}

/// The ip rules of a family, in the order in which the kernel asks them.
fn rules_of(world: &World, family: Family) -> Vec<&RuleSpec> {
    let mut rules: Vec<&RuleSpec> = world.kernel.rules().iter().filter(|r| r.family == family).collect();
    rules.sort();
    rules
}

fn word(family: Family) -> &'static str {
    ["ipv4", "ipv6"][family.index()]
}

/// A world in which every uplink has had all it needs for ten minutes.
fn settled(config: &Config) -> World {
    let mut world = World::new(config.clone());
    for (n, uplink) in config.uplinks.iter().enumerate() {
        let (ifindex, net) = (IfIndex(2 + n as u32), n as u16 + 1);
        world.kernel.create_link(uplink.device, ifindex, true, false);
        let v4 = |last| [192, 0, net as u8, last].into();
        let v6 = |last| [0x2001, 0xdb8, net, 0, 0, 0, 0, last].into();
        world.kernel.add_address(uplink.device, v4(2), 24, true);
        world.kernel.add_address(uplink.device, v6(2), 64, true);
        for (family, gateway) in [(Family::V4, v4(1)), (Family::V6, v6(1))] {
            let hop = Hop { gateway: Some(gateway), ifindex, onlink: false };
            assert!(world.kernel.add_main_default(MainDefault { family, metric: 10 * u32::from(net), hop }));
        }
        world.collect();
    }
    world.start();
    world.run_until(Instant::from_millis(600_000));
    world
}

fn reserved(world: &World, family: Family, lines: &mut Vec<String>) {
    for rule in rules_of(world, family).into_iter().filter(|r| (2000..3000).contains(&r.priority)) {
        let what = match rule.action {
            RuleAction::Blackhole => "blackhole",
            RuleAction::Unreachable => "unreachable",
            RuleAction::Lookup { table: 254, .. } => "default",
            RuleAction::Lookup { .. } => continue,
        };
        let mark = rule.select.mark.expect("those are for marks").value;
        lines.push(format!("{} reserved {what} mark {mark:#x} rule {}", word(family), rule.priority));
    }
}

fn interfaces(world: &World, family: Family, lines: &mut Vec<String>) {
    let rules = || rules_of(world, family).into_iter();
    for bound in rules().filter(|r| !r.select.oif.is_none()) {
        let RuleAction::Lookup { table, .. } = bound.action else { continue };
        let leads = |r: &&RuleSpec| r.select.mark.is_some() && r.action == RuleAction::Lookup { table, suppress: None };
        let marked: Vec<&RuleSpec> = rules().filter(leads).collect();
        let [marked] = marked.as_slice() else { panic!("{marked:?} lead to table {table}") };
        let way = world.kernel.routes().iter().find(|r| r.own && r.spec.family == family && r.spec.table == table);
        assert!(way.is_some(), "table {table} is empty");
        lines.push(format!(
            "{} interface {} mark {:#x} table {table} rules {} {}",
            word(family),
            bound.select.oif,
            marked.select.mark.map_or(0, |m| m.value),
            bound.priority,
            marked.priority,
        ));
    }
}

/// Who gets how many thousandths of what takes a policy's table, or its last resort.
fn shares(world: &World, family: Family, table: u32) -> String {
    let routes = || world.kernel.routes().iter().map(|r| r.spec).filter(|s| s.family == family && s.table == table);
    let Some(pointer) = routes().find(|s| s.metric == 10) else {
        return match routes().min_by_key(|s| s.metric).map(|s| s.target) {
            Some(RouteTarget::Unreachable) => "last unreachable".to_owned(),
            Some(RouteTarget::Blackhole) => "last blackhole".to_owned(),
            None => "last default".to_owned(),
            other => panic!("table {table} begins with {other:?}"),
        };
    };
    let body = |id| world.kernel.nexthops().iter().find(|n| n.id == id).map(|n| n.body);
    let RouteTarget::Nexthop(group) = pointer.target else { panic!("{pointer:?}") };
    let Some(NexthopBody::Group(group)) = body(group) else { panic!("{pointer:?} leads to no group") };
    let mut by_name: std::collections::BTreeMap<String, u32> = Default::default();
    for member in group.members() {
        let Some(NexthopBody::Leaf { hop, .. }) = body(member.id) else { panic!("{member:?} is no leaf") };
        let device = world.kernel.link_name(hop.ifindex).expect("leaves lead to links");
        *by_name.entry(device.to_string()).or_default() += u32::from(member.weight);
    }
    let all: u32 = by_name.values().sum();
    let shown: Vec<String> =
        by_name.iter().map(|(name, weight)| format!("{name} {}", (weight * 1000 + all / 2) / all)).collect();
    shown.join(" ")
}

/// The configuration's name of a policy's table.
fn policy_name(world: &World, table: u32) -> String {
    let at = table.checked_sub(7600).and_then(|at| world.config.policies.get(at as usize));
    at.unwrap_or_else(|| panic!("{table} is no policy's table")).name.to_string()
}

fn proto_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        50 => "esp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

fn network(prefix: &str) -> &str {
    prefix.trim_end_matches("/32").trim_end_matches("/128")
}

fn action(world: &World, action: RuleAction) -> String {
    match action {
        RuleAction::Blackhole => "to blackhole".to_owned(),
        RuleAction::Unreachable => "to unreachable".to_owned(),
        RuleAction::Lookup { table: 254, .. } => "to default".to_owned(),
        RuleAction::Lookup { table, .. } => format!("to {}", policy_name(world, table)),
    }
}

fn ip_rules(world: &World, family: Family, lines: &mut Vec<String>) {
    for rule in rules_of(world, family).into_iter().filter(|r| (3000..3900).contains(&r.priority)) {
        let Selector { src, dst, iif, proto, sport, dport, .. } = rule.select;
        let mut words = vec![format!("{} rule", word(family))];
        words.extend((!iif.is_none()).then(|| format!("from {iif}")));
        words.extend(proto.map(|p| format!("proto {}", proto_name(p))));
        let place = |word: &str, prefix: Option<Prefix>| prefix.map(|p| format!("{word} {}", network(&p.to_string())));
        words.extend(place("src", src).into_iter().chain(place("dst", dst)));
        for (word, range) in [("sport", sport), ("dport", dport)] {
            words.extend(range.map(|r| match r.first == r.last {
                true => format!("{word} {}", r.first),
                false => format!("{word} {}-{}", r.first, r.last),
            }));
        }
        words.push(action(world, rule.action));
        lines.push(words.join(" "));
    }
}

/// Where the ip rules lead a packet with the mark that a chain of nft sets last.
fn by_mark(world: &World, table: &Table, family: Family, chain: &str) -> String {
    let chain = table.chains.iter().find(|c| c.name == chain).expect("what is gone to is there");
    let last = chain.rules.lines().last().expect("it is not empty");
    let value = last.rsplit("0x").next().and_then(|hex| u32::from_str_radix(hex, 16).ok()).expect("it sets a mark");
    let mark = FwMark { value, mask: world.config.globals.mark_mask };
    let fits = |r: &&RuleSpec| r.select == Selector { mark: Some(mark), ..Selector::default() };
    let rule = rules_of(world, family).into_iter().find(fits);
    action(world, rule.unwrap_or_else(|| panic!("nobody knows mark {mark}")).action)
}

/// The chain of the configuration's rules, read word for word as nft does.
fn nft_rules(world: &World, table: &Table, family: Family, lines: &mut Vec<String>) {
    let chain = table.chains.iter().find(|c| c.name == "rules").expect("there are rules for nft");
    for rule in chain.rules.lines() {
        let mut words = rule.split_whitespace();
        let (mut from, mut proto, mut places, mut log) = (None, None, Vec::new(), None);
        let mut this = true;
        let mut end = String::new();
        while let Some(word) = words.next() {
            let mut next = || words.next().unwrap_or_else(|| panic!("{rule}: cut off"));
            match word {
                "iifname" => from = Some(format!("from {}", next().trim_matches('"'))),
                "meta" => match next() {
                    "nfproto" => this = next() == self::word(family),
                    "l4proto" => proto = next().parse().ok().map(proto_name),
                    other => panic!("{rule}: meta {other}"),
                },
                "ip" | "ip6" | "th" => {
                    let place = match next() {
                        "saddr" => "src",
                        "daddr" => "dst",
                        port => port,
                    };
                    let first = next();
                    if let Some(set) = first.strip_prefix('@') {
                        places.push(format!("set {set}"));
                        continue;
                    }
                    assert_eq!(first, "{", "{rule}");
                    let mut all = vec![place.to_owned()];
                    all.extend(
                        words.by_ref().take_while(|w| *w != "}").map(|w| network(w.trim_end_matches(',')).into()),
                    );
                    places.push(all.join(" "));
                }
                "counter" => {}
                "log" => {
                    assert_eq!((next(), next().starts_with('"')), ("prefix", true), "{rule}");
                    assert_eq!((next(), next()), ("\"", "level"), "{rule}");
                    log = Some(next().to_owned());
                }
                "goto" => end = next().to_owned(),
                other => panic!("{rule}: {other}"),
            }
        }
        if !this {
            continue;
        }
        let mut shown = vec![format!("{} rule", self::word(family))];
        shown.extend(from.into_iter().chain(proto.map(|p| format!("proto {p}"))).chain(places));
        if let Some(level) = log {
            let prefix = rule.split('"').find(|w| w.starts_with("MWAN3(")).expect("a prefix");
            shown.push(format!("log {level} {}", prefix.trim_end()));
        }
        if let Some(name) = end.strip_prefix("sticky_") {
            let set =
                table.sets.iter().find(|s| s.name.starts_with("sticky") && s.name.contains(&format!("..{name}..")));
            let timeout = set.and_then(|s| s.body.split("timeout ").last()).expect("a sticky set has a timeout");
            shown.push(format!("sticky {}", timeout.trim_end_matches("s;")));
        }
        shown.push(by_mark(world, table, family, &end));
        lines.push(shown.join(" "));
    }
}
