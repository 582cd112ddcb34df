//! How long traffic is lost when an upstream dies behind a port that keeps its carrier, and what watching costs.
//!
//! A UDP stream from the LAN; the line behind the router's port is cut 20 times per row; the outage is the time from the
//! cut to the last packet that was lost. Then four uplinks with three targets each at one second are left alone: wake-ups
//! and memory are counted, not timed.
//!
//! `cargo bench --bench silent [-- ROUNDS]`; `LINKWATCH_BIN` names another binary of the daemon to be measured.

#[path = "../bed/mod.rs"]
mod bed;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::lab::{Lab, Port};
use bed::stream::Stream;

const PATIENCE: Duration = Duration::from_secs(30);

/// A row: what it is called, how it is probed, what the outage must not exceed in milliseconds.
const ROWS: [(&str, &str, u128); 3] = [
    ("50 ms x 3", "\toption interval '50ms'\n\toption down '3'\n", 170),
    ("10 ms x 3", "\toption interval '10ms'\n\toption down '3'\n", 45),
    ("defaults (500 ms x 3)", "", 2000),
];

fn program() -> PathBuf {
    std::env::var_os("LINKWATCH_BIN").map_or_else(|| Path::new(env!("CARGO_BIN_EXE_linkwatch")).into(), PathBuf::from)
}

fn section(name: &str, metric: u32, more: &str) -> String {
    format!(
        "config interface '{name}'\n\toption family 'ipv4'\n\toption metric '{metric}'\n\toption hold_down '200ms'\n\
         \toption damping '0'\n{more}"
    )
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(20);
    if let Err(error) = bed::netns::become_able() {
        println!("skipped: namespaces are not allowed here ({error})");
        return;
    }
    println!("outage when the upstream dies silently, {rounds} rounds, milliseconds");
    println!("| probing | median | worst | goal | within |\n|---|---|---|---|---|");
    for (name, options, goal) in ROWS {
        let mut outages = outages(options, if goal > 1000 { rounds.min(10) } else { rounds });
        outages.sort_unstable();
        let within = outages.iter().filter(|o| **o <= goal).count();
        let (median, worst) = (outages[outages.len() / 2], outages[outages.len() - 1]);
        println!("| {name} | {median} | {worst} | {goal} | {within} of {} |", outages.len());
    }
    cost();
}

fn outages(options: &str, rounds: usize) -> Vec<u128> {
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let folder = Folder::new("bench-silent");
    let options = format!("\tlist track_ip '203.0.113.10'\n\toption up '2'\n{options}");
    let config = folder.write("linkwatch", &(section("wan1", 10, &options) + &section("wan2", 20, &options)));
    let daemon = Daemon::run(&program(), &lab.router, &config, &folder.at("state"), &[]);
    let wait = |n| assert!(bed::until(PATIENCE, || lab.way(0) == Some(n)).is_some(), "{:#?}", daemon.lines());
    wait(0);
    // What never answered is waited for longer.
    std::thread::sleep(Duration::from_secs(2));
    let mut outages = Vec::new();
    for round in 0..rounds {
        let stream = Stream::start(&lab, 0, 2000);
        assert!(stream.wait_for(400, PATIENCE), "no traffic in round {round}");
        // At another place within the interval each time.
        std::thread::sleep(Duration::from_micros(1_700 * (round as u64 % 300)));
        let cut = Instant::now();
        lab.line(0, false);
        wait(1);
        assert!(stream.wait_for(200, PATIENCE), "no traffic by the other WAN in round {round}");
        let outcome = stream.stop();
        outages.push(until_they_arrive(&outcome, cut));
        lab.line(0, true);
        wait(0);
        assert!(bed::until(PATIENCE, || lab.way(0) == Some(0)).is_some());
    }
    outages
}

/// Milliseconds from the cut until the first packet was sent that arrived, and ten after it: one that is lost later for
/// another reason belongs to that.
fn until_they_arrive(outcome: &bed::stream::Outcome, cut: Instant) -> u128 {
    let after = outcome.sent.iter().zip(&outcome.arrived).filter(|(sent, _)| **sent > cut + Duration::from_millis(2));
    let after: Vec<_> = after.collect();
    let first = after.windows(10).find(|w| w.iter().all(|(_, arrived)| arrived.is_some()));
    first.map_or(u128::MAX, |w| w[0].0.duration_since(cut).as_millis())
}

/// Four uplinks, three targets each, one second: wake-ups of all threads, memory.
fn cost() {
    let names = ["wan1", "wan2", "wan3", "wan4"];
    let lab = Lab::build(&names, Port::Virtual).expect("a lab");
    let folder = Folder::new("bench-cost");
    let mut config = String::new();
    for (n, name) in names.iter().enumerate() {
        let far = format!("192.0.2.{}", n * 4 + 1);
        let targets = format!(
            "\toption interval '1'\n\toption failure_interval '1'\n\toption recovery_interval '1'\n\toption passive '0'\n\
             \tlist track_ip '203.0.113.10'\n\tlist track_ip 'gateway'\n\tlist track_ip '{far}'\n"
        );
        config += &section(name, 10 * (n as u32 + 1), &targets);
    }
    let config = folder.write("linkwatch", &config);
    let daemon = Daemon::run(&program(), &lab.router, &config, &folder.at("state"), &["--control", "none"]);
    assert!(bed::until(PATIENCE, || lab.way(0) == Some(0)).is_some(), "{:#?}", daemon.lines());
    // Links are asked for a while after the start, and the state is saved.
    std::thread::sleep(Duration::from_secs(5));
    let seconds = 20;
    let before = (wakeups(&daemon), cpu(&daemon));
    std::thread::sleep(Duration::from_secs(seconds));
    let (woken, used) = (wakeups(&daemon) - before.0, cpu(&daemon) - before.1);
    let rate = woken as f64 / seconds as f64;
    println!("\nfour uplinks, three targets each, one second, over {seconds} s:");
    println!("{rate:.2} wake-ups a second of {} threads (goal: 12 probes a second + 0.2)", threads(&daemon));
    println!("{} KiB resident, {} ms of CPU time", daemon.status_number("VmRSS"), used);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.id())).unwrap_or_default();
    println!("processes started by it: {}", children.split_whitespace().count());
}

fn tasks(daemon: &Daemon) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("it runs");
    folder.filter_map(Result::ok).map(|t| t.path()).collect()
}

fn threads(daemon: &Daemon) -> usize {
    tasks(daemon).len()
}

fn wakeups(daemon: &Daemon) -> u64 {
    let of = |task: PathBuf| {
        let text = std::fs::read_to_string(task.join("status")).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with("voluntary_ctxt_switches")).unwrap_or("");
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks(daemon).into_iter().map(of).sum()
}

/// Milliseconds of user and system time, in the kernel's ticks of 10 ms.
fn cpu(daemon: &Daemon) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", daemon.id())).unwrap_or_default();
    let after = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = after.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    10 * (fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0))
}
