//! Policies, rules and sets that make no sense: each is named with its place, and nothing of the file is taken, or what is
//! left out is said.

use linkwatch::proto::config_file::{self, Dialect};
use linkwatch::proto::nft;
use linkwatch::types::PortRange;

/// Two uplinks, a member for each, a policy `both`, and more.
fn file(more: &str) -> String {
    let mut text = String::new();
    for n in [1, 2] {
        text += &format!("config interface 'wan{n}'\n\nconfig member 'm{n}'\n\toption interface 'wan{n}'\n\n");
    }
    text + "config policy 'both'\n\tlist use_member 'm1'\n\tlist use_member 'm2'\n\n" + more
}

fn errors(more: &str) -> Vec<String> {
    crate::refused(file(more).as_bytes())
}

/// What is said of a file that is taken.
fn warnings(more: &str) -> Vec<String> {
    let outcome = config_file::read(file(more).as_bytes(), Dialect::Linkwatch, &[]);
    assert_eq!(outcome.errors, []);
    outcome.warnings.iter().map(|w| w.show("FILE").to_string()).collect()
}

#[test]
fn unknown_members_policies_and_interfaces_are_errors_with_their_line() {
    for (more, line, says) in [
        ("config rule 'a'\n\toption use_policy 'bith'\n", 16, "policy 'bith' is not in this file"),
        ("config policy 'p'\n\tlist use_member 'm1'\n\tlist use_member 'm3'\n", 17, "member 'm3' is not in this file"),
        ("config member 'm3'\n\toption interface 'wan3'\n", 15, "interface 'wan3' is not in this file"),
        ("config member 'm3'\n", 15, "interface '' is not in this file"),
        ("config rule 'a'\n", 15, "use_policy is missing"),
    ] {
        let found = errors(more);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("FILE:{line}: ")) && found[0].contains(says), "{found:?}");
    }
}

#[test]
fn a_set_that_no_section_declares_is_made_empty_and_named() {
    let rule = "config rule 'a'\n\toption ipset 'games'\n\toption use_policy 'both'\n";
    assert!(warnings(rule).iter().any(|w| w.contains("a.ipset: no 'config ipset' is called 'games'")));
    let declared = format!("config ipset 'games'\n\toption family 'any'\n\n{rule}");
    assert_eq!(warnings(&declared), Vec::<String>::new());
    for name in ["a b", "strays", "stamp", "sticky4..a..1", "set", "1st", "much-too-long-for-the-kernels-31-bytes"] {
        let found = errors(&rule.replace("games", name));
        assert!(found.iter().any(|e| e.contains("cannot be the name of a set")), "{name}: {found:?}");
    }
}

#[test]
fn names_of_more_than_15_bytes_are_errors() {
    for more in [
        "config policy 'sixteen_letters_'\n\tlist use_member 'm1'\n",
        "config rule 'sixteen_letters_'\n\toption use_policy 'both'\n",
        "config interface 'sixteen_letters_'\n\toption device 'eth0'\n",
    ] {
        let found = errors(more);
        assert!(found[0].starts_with("FILE:15: ") && found[0].contains("name of 16 bytes, at most 15"), "{found:?}");
    }
}

#[test]
fn more_than_the_mask_holds_is_an_error_that_says_how_much() {
    // Three bits: seven values, three of them mwan3's.
    let five = "config interface 'wan3'\n\nconfig interface 'wan4'\n\nconfig interface 'wan5'\n\n";
    let found = errors(&format!("config globals\n\toption mmx_mask '0x7'\n\n{five}"));
    assert!(found.iter().any(|e| e.contains("number 5 does not fit into mmx_mask: at most 4")), "{found:?}");
    let sticky =
        "config globals\n\toption mmx_mask '0x7'\n\nconfig rule 'a'\n\toption sticky '1'\n\toption use_policy 'both'\n";
    let found = errors(sticky);
    assert!(found.iter().any(|e| e.contains("mmx_mask 0x7 is too small")), "{found:?}");
    for mask in ["0x3", "0x0", "3f00h", "0x1ffffffff"] {
        let found = errors(&format!("config globals\n\toption mmx_mask '{mask}'\n"));
        assert!(found.iter().any(|e| e.contains("no hexadecimal mask of at least 3 bits")), "{mask}: {found:?}");
    }
}

#[test]
fn prefixes_inside_others_are_named_and_left_out_of_rules_and_sets() {
    let rule = "config rule 'a'\n\toption dest_ip '10.0.0.0/8,10.1.0.0/16,10.0.0.0/8'\n\toption use_policy 'both'\n\n\
                config ipset 'fixed'\n\tlist entry '192.0.2.0/24'\n\tlist entry '192.0.2.128/25'\n";
    let said = warnings(rule);
    for says in [
        "a: 10.1.0.0/16 lies in 10.0.0.0/8 and is left out",
        "a: 10.0.0.0/8 lies in 10.0.0.0/8 and is left out",
        "fixed: 192.0.2.128/25 lies in 192.0.2.0/24 and is left out",
    ] {
        assert!(said.iter().any(|w| w.contains(says)), "{says}: {said:?}");
    }
    let text = nft::table(&crate::accepted(&file(rule))).whole();
    assert!(!text.contains("10.1.0.0") && !text.contains("192.0.2.128"), "{text}");
}

#[test]
fn ports_without_tcp_or_udp_are_named_and_left_out() {
    for proto in ["", "\toption proto 'all'\n", "\toption proto 'icmp'\n", "\toption proto 'esp'\n"] {
        let rule = format!("config rule 'a'\n{proto}\toption dest_port '443'\n\toption use_policy 'both'\n");
        let said = warnings(&rule);
        assert!(said.iter().any(|w| w.contains("a: ports without proto tcp or udp are left out")), "{said:?}");
        let config = crate::accepted(&file(&rule));
        assert_eq!(config.ports(config.rules[0].dport), []);
    }
    let rule = "config rule 'a'\n\toption proto 'udp'\n\toption dest_port '443'\n\toption use_policy 'both'\n";
    let config = crate::accepted(&file(rule));
    assert_eq!(config.ports(config.rules[0].dport), [PortRange { first: 443, last: 443 }]);
    for port in ["0", "65536", "90:80", "80-", "-80", "http", "1:2:3"] {
        let found = errors(&rule.replace("443", port));
        assert!(found[0].contains("is no port and no range"), "{port}: {found:?}");
    }
}
