//! Packets lost when a WAN is unplugged and plugged back under 10,000 packets a second: the kernel's dead-man layer by
//! itself, the daemon, and the daemon killed right before, one after the other on the same machine.
//!
//! `cargo bench --bench failover [-- ROUNDS]`; 50 rounds unless told otherwise.

#[path = "../bed/mod.rs"]
mod bed;

use std::path::Path;
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::lab::{Lab, Port};
use bed::stream::Stream;

const RATE: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(20);
/// The goal for the median and for the worst of the unpluggings, in packets (0.5 ms and 2 ms), and for the return.
const GOAL: (usize, usize, usize) = (5, 20, 1);

#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// Two plain default routes of different metric and the sysctl: nothing of ours.
    Kernel,
    Daemon,
    DeadDaemon,
}

fn config() -> String {
    let section = |name, metric| {
        format!(
            "config interface '{name}'\n\toption family 'any'\n\toption metric '{metric}'\n\toption hold_down '1200ms'\n\
             \toption damping '0'\n"
        )
    };
    section("wan1", 10) + &section("wan2", 20)
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(50);
    if let Err(error) = bed::netns::become_able() {
        println!("skipped: namespaces are not allowed here ({error})");
        return;
    }
    println!("packets lost at {RATE} packets/s, {rounds} rounds: median, worst");
    println!("{:<34}{:>16}{:>16}   goal", "", "unplugged", "plugged back");
    for family in [0, 1] {
        for who in [Who::Kernel, Who::Daemon, Who::DeadDaemon] {
            measure(who, family, rounds);
        }
    }
}

fn measure(who: Who, family: usize, rounds: usize) {
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let folder = Folder::new("bench-failover");
    let (config, state) = (folder.write("linkwatch", &config()), folder.at("state"));
    let program = Path::new(env!("CARGO_BIN_EXE_linkwatch"));
    let start = || {
        let words: &[&str] = if std::env::var_os("GAPS").is_some() { &["-vv"] } else { &[] };
        let daemon = Daemon::run(program, &lab.router, &config, &state, words);
        for family in ["IPv4", "IPv6"] {
            let said = daemon.wait_line(0, &[family, "leaves by"], PATIENCE);
            assert!(said.is_some(), "{:?}", daemon.lines());
        }
        daemon
    };
    let mut daemon = None;
    if who == Who::Kernel {
        for wan in ["wan1", "wan2"] {
            for version in ["ipv4", "ipv6"] {
                let name = format!("{version}/conf/{wan}/ignore_routes_with_linkdown");
                lab.router.sysctl(&name, "1").expect("a sysctl");
            }
        }
    } else {
        daemon = Some(start());
    }
    let stream = Stream::start(&lab, family, RATE);
    assert!(stream.wait_for(RATE / 2, PATIENCE), "no traffic");
    let (mut unplugs, mut plugs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        if who == Who::DeadDaemon {
            daemon.as_mut().expect("it was started").kill();
        }
        unplugs.push(Instant::now());
        lab.plug(0, false);
        assert!(bed::until(PATIENCE, || lab.way(family) == Some(1)).is_some(), "not on the other WAN");
        std::thread::sleep(Duration::from_millis(100));
        plugs.push(Instant::now());
        lab.plug(0, true);
        assert!(bed::until(PATIENCE, || lab.way(family) == Some(0)).is_some(), "not back");
        std::thread::sleep(Duration::from_millis(100));
        if who == Who::DeadDaemon {
            daemon = Some(start());
        }
    }
    let outcome = stream.stop();
    let ends = unplugs.iter().skip(1).copied().chain([Instant::now()]);
    let mut down: Vec<usize> = unplugs.iter().zip(&plugs).map(|(a, b)| outcome.loss(*a, *b).packets).collect();
    let mut back: Vec<usize> = plugs.iter().zip(ends).map(|(a, b)| outcome.loss(*a, b).packets).collect();
    down.sort_unstable();
    back.sort_unstable();
    let middle = |all: &[usize]| all[all.len() / 2];
    let last = |all: &[usize]| all[all.len() - 1];
    let name = match who {
        Who::Kernel => "kernel alone, two metrics",
        Who::Daemon => "linkwatch",
        Who::DeadDaemon => "linkwatch killed before",
    };
    let met = middle(&down) <= GOAL.0 && last(&down) <= GOAL.1 && last(&back) <= GOAL.2;
    println!(
        "{:<34}{:>8}{:>8}{:>8}{:>8}   {}{}",
        format!("{name}, {}", ["IPv4", "IPv6"][family]),
        middle(&down),
        last(&down),
        middle(&back),
        last(&back),
        if met { "met" } else { "missed" },
        if outcome.overflowed > 0 { format!(" (receiver dropped {})", outcome.overflowed) } else { String::new() },
    );
    if std::env::var_os("GAPS").is_some() {
        let at = |t: &Instant| format!("{:.3}", t.duration_since(outcome.sent[0]).as_secs_f64());
        println!("    lost: {}", outcome.gaps());
        println!("    unplugged at {:?}", unplugs.iter().map(at).collect::<Vec<_>>());
        println!("    plugged at {:?}", plugs.iter().map(at).collect::<Vec<_>>());
        println!(
            "{:#?}",
            daemon.map(|d| d.lines().into_iter().map(|(t, l)| format!("{} {l}", at(&t))).collect::<Vec<_>>())
        );
    }
}
