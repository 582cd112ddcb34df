//! Ports whose loss of carrier the kernel announces at most once a second: how soon traffic is elsewhere although the
//! loss fell into the second of silence, alone and among 600 other links; and whether every short bounce is counted.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::bed::daemon::Daemon;
use crate::bed::lab::{Lab, Port};
use crate::bed::netns::Netns;
use crate::bed::tap::Tap;
use crate::{PATIENCE, Sample, Stand, bed, row, short, two_wans};

const TIMES: usize = 20;
const ALONE: Duration = Duration::from_millis(100);
const CROWDED: Duration = Duration::from_millis(250);

/// All of them; each 20 times, whatever the rounds.
pub fn measure(_: usize) {
    without_daemon();
    tap();
    let stand = Stand::new("ports", Port::Physical, &two_wans("0"), &[]);
    let daemon = stand.start();
    told("port (veth with equal indexes)", late(&stand), ALONE);
    bounces(&stand);
    // They come while the daemon looks, and the kernel is seconds behind with them. Their end is as slow: it comes last.
    let crowd = crowd(&stand.lab, 600);
    told("the same right after 600 links were made", late(&stand), CROWDED);
    std::thread::sleep(Duration::from_secs(10));
    told("the same among 600 settled links", late(&stand), CROWDED);
    drop((daemon, stand, crowd));
    std::thread::sleep(Duration::from_secs(3));
}

fn told(what: &str, times: Vec<Duration>, goal: Duration) {
    let times = Sample::new(times);
    let (within, of) = times.count(|t| t <= goal);
    row(
        &format!("loss in the kernel's closed window: {what}"),
        &format!("{within} of {of} in time; median {}, worst {}", short(times.median()), short(times.worst())),
        &format!("{of} of {of} within {}", short(goal)),
        Some(within == of),
    );
}

/// Unplugs the first WAN while the window is closed; how long until both families are by the second.
fn late(stand: &Stand) -> Vec<Duration> {
    let mut times = Vec::new();
    for n in 0..TIMES {
        // News of the other port closes the window for a second; the loss falls anywhere into it.
        stand.lab.plug(1, false);
        std::thread::sleep(Duration::from_millis(5));
        stand.lab.plug(1, true);
        std::thread::sleep(Duration::from_millis(60 + 37 * n as u64));
        let at = Instant::now();
        stand.lab.plug(0, false);
        [0, 1].into_iter().for_each(|family| stand.wait_way(family, 1));
        times.push(at.elapsed());
        stand.lab.plug(0, true);
        [0, 1].into_iter().for_each(|family| stand.wait_way(family, 0));
    }
    times
}

/// The same loss as the kernel announces it, with nobody asking: what the daemon has to be faster than.
fn without_daemon() {
    let stand = Stand::new("silence", Port::Physical, &two_wans("0"), &[]);
    stand.lab.router.sysctl("ipv4/conf/wan1/ignore_routes_with_linkdown", "1").expect("a sysctl");
    let mut times = Vec::new();
    for n in 0..5_u64 {
        std::thread::sleep(Duration::from_millis(1500));
        stand.lab.plug(1, false);
        std::thread::sleep(Duration::from_millis(5));
        stand.lab.plug(1, true);
        std::thread::sleep(Duration::from_millis(60 + 137 * n));
        let at = Instant::now();
        stand.lab.plug(0, false);
        stand.wait_way(0, 1);
        times.push(at.elapsed());
        stand.lab.plug(0, true);
        stand.wait_way(0, 0);
    }
    let times = Sample::new(times);
    let figure = format!("median {}, worst {}", short(times.median()), short(times.worst()));
    row("loss in the kernel's closed window: kernel alone, two metrics, IPv4", &figure, "", None);
}

fn bounces(stand: &Stand) {
    std::thread::sleep(Duration::from_millis(1500));
    let before = stand.lab.router.rtnl(|r| r.carrier_losses("wan1"));
    let told_before = losses_told(stand);
    for _ in 0..TIMES {
        stand.lab.plug(0, false);
        std::thread::sleep(Duration::from_millis(10));
        stand.lab.plug(0, true);
        std::thread::sleep(Duration::from_millis(10));
    }
    let truth = stand.lab.router.rtnl(|r| r.carrier_losses("wan1")) - before;
    [0, 1].into_iter().for_each(|family| stand.wait_way(family, 0));
    let count = || losses_told(stand).saturating_sub(told_before);
    let all = bed::until(Duration::from_secs(3), || count() == u64::from(truth));
    let figure = format!("{} of {truth} counted", count());
    row("20 bounces of 10 ms of a port", &figure, "all counted", Some(all.is_some()));
}

/// The first WAN's carrier losses by the daemon's status: its log is rationed, and after so many unpluggings says less.
fn losses_told(stand: &Stand) -> u64 {
    let mut command = stand.lab.router.command(Path::new(env!("CARGO_BIN_EXE_linkwatch")));
    command.args(["status", "--json", "--control"]).arg(stand.folder.at("control"));
    let output = command.output().expect("the program runs");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("valid JSON");
    status["uplinks"]["wan1"]["carrier_losses"].as_u64().expect("a number")
}

/// Ports like the WANs', all plugged in, their other ends in a namespace of its own.
fn crowd(lab: &Lab, count: u32) -> Netns {
    let there = Netns::new().expect("a namespace");
    there.sysctl("ipv6/conf/default/disable_ipv6", "1").expect("a sysctl");
    lab.router.rtnl(|r| {
        for n in 0..count {
            let (name, index) = (format!("other{n}"), 1000 + n);
            r.add_veth(&name, Some(index), &there, &name, Some(index)).expect("a port");
            r.set_up(&name, true).expect("up");
        }
    });
    there.rtnl(|r| {
        for n in 0..count {
            r.set_up(&format!("other{n}"), true).expect("up");
        }
    });
    there
}

fn tap() {
    let lab = Lab::build(&["wan1"], Port::Virtual).expect("a lab");
    let tap = match lab.router.run(|| Tap::open("tap0")) {
        Ok(tap) => tap,
        Err(error) => return println!("skipped: no TAP device here ({error})"),
    };
    lab.router.rtnl(|r| {
        r.set_up("tap0", true).expect("up");
        r.add_address("tap0", "100.64.0.2".parse().expect("an address"), 24).expect("an address");
    });
    tap.carrier(true);
    let folder = bed::daemon::Folder::new("bench-tap");
    let config = two_wans("0").replace("'wan1'", "'tap0'").replace("'wan2'", "'wan1'");
    let config = config.replacen("\toption metric '10'", "\toption metric '10'\n\toption gateway '100.64.0.1'", 1);
    let config = folder.write("linkwatch", &config);
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_linkwatch"));
    let daemon = Daemon::run(program, &lab.router, &config, &folder.at("state"), &[]);
    assert!(daemon.wait_line(0, &["IPv4", "leaves by 'tap0'"], PATIENCE).is_some(), "{:?}", daemon.lines());
    let mut times = Vec::new();
    for n in 0..TIMES {
        std::thread::sleep(Duration::from_millis(37 * n as u64 % 700));
        // `way` knows the WANs of the lab only: none of them is the TAP device.
        let at = Instant::now();
        tap.carrier(false);
        assert!(bed::until(PATIENCE, || lab.way(0) == Some(0)).is_some(), "{:#?}", daemon.lines());
        times.push(at.elapsed());
        tap.carrier(true);
        assert!(bed::until(PATIENCE, || lab.way(0).is_none()).is_some(), "{:#?}", daemon.lines());
    }
    told("TAP with TUNSETCARRIER", times, ALONE);
}
