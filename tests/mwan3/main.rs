//! Every option of mwan3, alone: the same marks, tables, numbers of rules, shares and order of rules as mwan3 2.12.2.
//!
//! `expected.txt` holds what mwan3 told the kernel. [`DIFFERENCES`] are all the ways in which linkwatch does otherwise; each is
//! a line of the README, and each says what it makes of mwan3's facts. A difference that is not among them fails the test,
//! and so does one that is no longer there.

mod cases;
mod ours;

use std::path::Path;

use cases::Facts;
use linkwatch::proto::config_file::{self, Dialect};

/// What mwan3 does, and linkwatch does in another way.
struct Difference {
    /// A part of its line in the README.
    told: &'static str,
    /// Makes of mwan3's facts what linkwatch's are.
    apply: fn(&str, &mut Facts),
}

/// How far a share may be from mwan3's: its probabilities are cut to thousandths.
const TOLERANCE: i32 = 2;

const DIFFERENCES: &[Difference] = &[
    Difference {
        told: "there is no rule 3000+N",
        apply: |_, facts| {
            each(facts, "interface", |line| {
                let (rest, last) = line.rsplit_once(' ').expect("numbers of rules");
                let table: u32 = line.split_whitespace().skip_while(|w| *w != "table").nth(1)?.parse().ok()?;
                assert_eq!(last.parse(), Ok(3000 + table), "{line}");
                Some(rest.to_owned())
            });
        },
    },
    Difference {
        told: "Rules 2061, 2062 and 2063 are for the marks blackhole, unreachable and default",
        apply: |_, facts| {
            let mask =
                facts.get("mask").and_then(|m| m.first()).and_then(|m| m.strip_prefix("mask ")).map(str::to_owned);
            for family in ["ipv4", "ipv6"] {
                let Some(lines) = facts.get_mut(&format!("{family} reserved")) else { continue };
                let number: u32 = lines.last().and_then(|l| l.rsplit(' ').next()?.parse().ok()).expect("a number");
                let mask = mask.as_deref().expect("a mask");
                lines.push(format!("{family} reserved default mark {mask} rule {}", number + 1));
            }
        },
    },
    Difference {
        told: "`proto icmp` is ICMPv6 in IPv6",
        apply: |_, facts| {
            each(facts, "ipv6 rule", |line| line.contains("proto icmp ").then(|| line.replace("icmp ", "icmpv6 ")));
        },
    },
    Difference {
        told: "takes no sets: table main is asked first",
        apply: |name, facts| {
            if let Some(lines) = facts.get_mut("bypass") {
                assert_eq!((name, lines.len()), ("globals.rt_table_lookup", 1));
                *lines = vec!["bypass table 220".to_owned()];
            }
        },
    },
    Difference {
        told: "`src_iface` is a section of the file or a device",
        apply: |name, facts| {
            if name == "rule.src_iface.unknown" {
                for family in ["ipv4", "ipv6"] {
                    let lines = facts.get_mut(&format!("{family} rule")).expect("rules");
                    lines.insert(0, format!("{family} rule from nowhere proto tcp to one"));
                }
            }
        },
    },
    Difference {
        told: "An `ipset` is a set in our nft table; a rule for both families has two",
        apply: |_, facts| {
            each(facts, "ipv6 rule", |line| line.contains("set games ").then(|| line.replace("games", "games6")));
        },
    },
    Difference {
        told: "`initial_state offline` without `track_ip` has no effect",
        apply: |name, facts| {
            if name == "interface.initial_state" {
                facts.insert(
                    "ipv4 policy".into(),
                    vec!["ipv4 policy both wan 600 wanb 400".into(), "ipv4 policy one wan 1000".into()],
                );
            }
        },
    },
    Difference {
        told: "A rule without `use_policy` and a policy that does not exist are errors, not warnings",
        apply: |name, facts| match name {
            "rule.use_policy.unknown" => refuse(facts, "web.use_policy: policy 'nobody' is not in this file"),
            "rule.use_policy.none" => refuse(facts, "web: use_policy is missing"),
            _ => {}
        },
    },
    Difference {
        told: "A name of more than 15 bytes and a metric above 256 are errors",
        apply: |name, facts| match name {
            "policy.name.16" | "rule.name.16" => refuse(facts, "sixteen_letters_: name of 16 bytes, at most 15"),
            "member.metric.300" => refuse(facts, "wanb_2.metric: '300' is no number from 1 to 256"),
            _ => {}
        },
    },
];

/// Changes lines of all kinds that end with `kind`.
fn each(facts: &mut Facts, kind: &str, change: impl Fn(&str) -> Option<String>) {
    for (_, lines) in facts.iter_mut().filter(|(k, _)| k.ends_with(kind)) {
        for line in lines {
            if let Some(other) = change(line) {
                *line = other;
            }
        }
    }
}

/// mwan3 takes the file in some way; linkwatch says what is wrong and takes nothing.
fn refuse(facts: &mut Facts, message: &str) {
    facts.clear();
    facts.insert("refused".to_owned(), vec![message.to_owned()]);
}

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn our_facts(text: &str) -> Facts {
    let outcome = config_file::read(text.as_bytes(), Dialect::Mwan3, &[]);
    match outcome.config {
        Some(config) => ours::facts(&config),
        None => {
            let shown = outcome.errors.iter().map(|e| format!("{}: {}", e.place, e.message));
            Facts::from([("refused".to_owned(), shown.collect())])
        }
    }
}

/// Whether two facts say the same; shares may differ by what mwan3 rounds away.
fn same(a: &str, b: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
    let shares = a.get(1) == Some(&"policy");
    let close = |a: &str, b: &str| match (a.parse::<i32>(), b.parse::<i32>()) {
        (Ok(a), Ok(b)) if shares => (a - b).abs() <= TOLERANCE,
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| close(a, b))
}

/// Every destination is no condition.
fn simple(facts: &mut Facts) {
    each(facts, "rule", |line| Some(line.replace("dst 0.0.0.0/0 ", "").replace("dst ::/0 ", "")));
}

#[test]
fn every_option_alone_gives_what_mwan3_gives_but_for_the_differences_in_the_readme() {
    let expected = cases::expected(&read("tests/mwan3/expected.txt"));
    let mut seen = vec![false; DIFFERENCES.len()];
    let mut wrong = Vec::new();
    let configurations = cases::configurations(&read("tests/mwan3/cases.txt"));
    assert_eq!(expected.len(), configurations.len());
    for (name, text) in &configurations {
        let mut theirs = expected.get(name).unwrap_or_else(|| panic!("{name} is not in expected.txt")).clone();
        simple(&mut theirs);
        for (difference, seen) in DIFFERENCES.iter().zip(&mut seen) {
            let before = theirs.clone();
            (difference.apply)(name, &mut theirs);
            *seen |= theirs != before;
        }
        let ours = our_facts(text);
        let kinds: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for kind in kinds {
            let (theirs, ours) = (theirs.get(kind), ours.get(kind));
            let alike = match (theirs, ours) {
                (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
                _ => false,
            };
            if !alike {
                wrong.push(format!(
                    "[{name}]\n  mwan3, with the known differences: {theirs:#?}\n  linkwatch: {ours:#?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "differences that nobody has written down:\n{}", wrong.join("\n"));
    let vanished: Vec<&str> = DIFFERENCES.iter().zip(&seen).filter(|(_, seen)| !**seen).map(|(d, _)| d.told).collect();
    assert!(vanished.is_empty(), "no longer there: {vanished:?}");
    println!("{} configurations, {} differences", configurations.len(), DIFFERENCES.len());
}

#[test]
fn every_difference_is_told_in_the_readme() {
    let readme = read("README.md");
    let part = readme.split("Differences from mwan3:").nth(1).and_then(|r| r.split("\n## ").next());
    let part = part.expect("the list is there").split_whitespace().collect::<Vec<_>>().join(" ");
    for difference in DIFFERENCES {
        assert!(part.contains(difference.told), "not in the README: {}", difference.told);
    }
}

/// So that nobody forgets an option: all that the reader knows of mwan3's words is in a configuration of its own.
#[test]
fn no_option_of_mwan3_is_left_out() {
    let cases = cases::configurations(&read("tests/mwan3/cases.txt"));
    let words = "globals: mmx_mask logging loglevel source_routing rt_table_lookup
        interface: enabled family initial_state track_ip track_method httping_ssl reliability count timeout interval
        interface: failure_interval keep_failure_interval recovery_interval down up size max_ttl check_quality failure_latency
        interface: recovery_latency failure_loss recovery_loss flush_conntrack
        member: interface metric weight
        policy: use_member last_resort
        rule: family proto src_ip dest_ip src_port dest_port src_iface ipset sticky timeout use_policy logging";
    for line in words.lines() {
        let (kind, options) = line.trim().split_once(": ").expect("TYPE: OPTION...");
        for option in options.split(' ') {
            let name = format!("{kind}.{option}");
            let has = cases.iter().any(|(case, text)| {
                (*case == name || case.starts_with(&format!("{name}."))) && text.contains(&format!(" {option} '"))
            });
            assert!(has || name == "rule.use_policy", "{name} has no case");
        }
    }
}
