//! What is left behind: of an earlier life with another configuration, of an uplink that is gone, of us. Needs nft.

use std::collections::BTreeMap;

use crate::bed::daemon::Daemon;
use crate::bed::lab::{Lab, Port};
use crate::flows::{balanced, has_nft, nft, nft_text, setup, wait_table};
use crate::{Case, PATIENCE, Setup, bed, program, two_wans};

pub const CASES: &[Case] = &[
    ("traces::a_restart_with_another_file_leaves_nothing_of_the_old_table", other_life),
    ("traces::what_an_uplink_brought_goes_with_it_and_the_rest_goes_with_us", as_before),
];

/// Our table as text, its lines sorted: nft lists in the order of making.
fn table(setup: &Setup) -> Vec<String> {
    let text = nft(&setup.lab.router, "list table inet linkwatch");
    let mut lines: Vec<String> = text.lines().map(|l| l.trim().to_owned()).collect();
    lines.sort();
    lines
}

fn other_life() {
    let set =
        |entries: &str| format!("config ipset 'fixed'\n{entries}\nconfig ipset 'names'\n\toption family 'any'\n\n");
    let rule = |name: &str, more: &str| format!("config rule '{name}'\n{more}\toption use_policy 'balanced'\n\n");
    let sticky = |timeout: u32| format!("\toption sticky '1'\n\toption timeout '{timeout}'\n\toption proto 'tcp'\n");
    let first = balanced(&format!(
        "{}{}{}{}{}",
        set("\tlist entry '198.18.1.0/24'\n\tlist entry '198.18.2.0/24'\n"),
        rule("web", &sticky(300)),
        rule("old", &sticky(200).replace("tcp", "udp")),
        rule("games", "\toption ipset 'games'\n"),
        rule("more", "\toption ipset 'names'\n\toption ipset_src 'fixed'\n"),
    ));
    let second = balanced(&format!(
        "{}{}{}",
        set("\tlist entry '198.18.2.0/24'\n"),
        rule("web", &sticky(60)),
        rule("more", "\toption ipset 'names'\n\toption ipset_src 'fixed'\n"),
    ));
    let Some(mut setup) = setup("otherlife", &first.replace("damping '0'", "damping '0'\n\toption snat6 '1'")) else {
        return;
    };
    for element in ["names { 198.18.0.1 }", "names6 { 2001:db8:1::1 }", "games { 198.18.0.2 }"] {
        nft(&setup.lab.router, &format!("add element inet linkwatch {element}"));
    }
    let before = table(&setup);
    assert!(before.iter().any(|l| l.contains("masquerade")), "{before:#?}");
    setup.daemon.kill();
    std::fs::write(&setup.config, &second).expect("the file is ours");
    setup.start_again();
    setup.wait_steady();
    let gone = |lines: &[String]| !lines.iter().any(|l| l.contains("old") || l.contains("games") || l.contains("masq"));
    let mut lines = Vec::new();
    let there = bed::until(PATIENCE, || {
        lines = table(&setup);
        gone(&lines) && lines.iter().any(|l| l.contains("timeout 1m"))
    });
    assert!(there.is_some(), "{lines:#?}\n{:#?}", setup.daemon.lines());
    let kept = |line: &String| line.contains("198.18.0.1") || line.contains("2001:db8:1::1");
    assert_eq!(lines.iter().filter(|l| kept(l)).count(), 2, "unchanged sets keep their elements: {lines:#?}");
    // Nobody complained on the way, and a table made from nothing is the same.
    let complains = |line: &str| line.contains("nft") && !line.contains("debug:");
    assert!(setup.daemon.lines().iter().all(|(_, l)| !complains(l)), "{:#?}", setup.daemon.lines());
    lines.retain(|line| !kept(line));
    nft(&setup.lab.router, "delete table inet linkwatch");
    wait_table(&setup);
    assert_eq!(table(&setup), lines);
}

/// Everything that we touch, and everything beside it.
#[derive(Debug, PartialEq, Eq)]
struct World {
    kernel: Vec<Vec<u8>>,
    ruleset: String,
    sysctls: BTreeMap<String, String>,
}

fn world(lab: &Lab) -> World {
    let devices = ["wan1", "wan2", "lan0", "all", "default"];
    let mut names: Vec<String> = ["ipv4", "ipv6"].map(|v| format!("{v}/fib_multipath_hash_policy")).into();
    for version in ["ipv4", "ipv6"] {
        names.extend(devices.map(|d| format!("{version}/conf/{d}/ignore_routes_with_linkdown")));
    }
    let sysctls = names.into_iter().map(|n| (n.clone(), lab.router.read_sysctl(&n).expect("a sysctl"))).collect();
    World { kernel: lab.router.rtnl(|r| r.everything()), ruleset: nft(&lab.router, "list ruleset"), sysctls }
}

fn as_before() {
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    if !has_nft(&lab.router) {
        return;
    }
    nft_text(&lab.router, "table inet fw4 {\n set keep {\n type ipv4_addr\n elements = { 192.0.2.1 }\n }\n}\n");
    let untouched = world(&lab);
    let folder = bed::daemon::Folder::new("asbefore");
    let both = balanced("config rule 'all'\n\toption sticky '1'\n\toption use_policy 'balanced'\n");
    let one = two_wans("").split("config interface 'wan2'").next().expect("a part").to_owned()
        + "config member 'm1'\n\toption interface 'wan1'\n\nconfig policy 'balanced'\n\tlist use_member 'm1'\n\n\
           config rule 'all'\n\toption sticky '1'\n\toption use_policy 'balanced'\n";
    let (config, state) = (folder.write("linkwatch", &one), folder.at("state"));
    let daemon = Daemon::run(program(), &lab.router, &config, &state, &[]);
    let mut setup = Setup { lab, folder, daemon, config, state };
    setup.wait_steady();
    wait_table(&setup);
    let alone = world(&setup.lab);
    assert_ne!(alone, untouched);
    let to = |setup: &Setup, text: &str| {
        std::fs::write(&setup.config, text).expect("the file is ours");
        let mark = setup.daemon.mark();
        setup.daemon.signal(libc::SIGHUP);
        assert!(setup.daemon.wait_line(mark, &["read again"], PATIENCE).is_some());
        setup.wait_as_desired();
    };
    let like = |setup: &Setup, wanted: &World, what: &str| {
        let there = bed::until(PATIENCE, || world(&setup.lab) == *wanted);
        if there.is_none() {
            assert_eq!(world(&setup.lab), *wanted, "{what}");
        }
    };
    // The second WAN comes and goes.
    to(&setup, &both);
    let there = bed::until(PATIENCE, || nft(&setup.lab.router, "list ruleset").contains("\"wan2\""));
    assert!(there.is_some());
    to(&setup, &one);
    like(&setup, &alone, "after the WAN has left the file");
    // It leaves while nobody runs.
    to(&setup, &both);
    setup.daemon.kill();
    std::fs::write(&setup.config, &one).expect("the file is ours");
    setup.start_again();
    setup.wait_steady();
    like(&setup, &alone, "after the WAN has left the file of the next life");
    // We leave.
    to(&setup, &both);
    setup.daemon.signal(libc::SIGTERM);
    assert!(setup.daemon.wait(PATIENCE).is_some(), "it ends");
    let mut flush = setup.lab.router.command(program());
    let output = flush.arg("flush").arg("--state").arg(&setup.state).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world(&setup.lab), untouched, "after flush");
}
