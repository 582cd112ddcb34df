//! Flows under switches, reloads and failbacks: what is lost, who moves, how long forgetting takes.
//!
//! `cargo bench --bench flows [-- WORDS]` runs the measurements whose names contain one of the words. Needs nft and
//! conntrack; without them a measurement says so and is skipped.

#[path = "../bed/mod.rs"]
mod bed;

use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::far::{Far, flows};
use bed::lab::{INET, LAN, Lab, Port};
use bed::netns::Netns;
use bed::rtnl::Route;
use linkwatch::engine::layout;
use linkwatch::proto::netlink::{Message, messages};
use linkwatch::sys::netlink::{Received, Socket};
use linkwatch::types::{Family, PolicySlot};

const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 7200;

struct Setup {
    lab: Lab,
    daemon: Daemon,
    folder: Folder,
}

fn two_wans() -> String {
    ["wan1", "wan2"]
        .map(|name| {
            format!(
                "config interface '{name}'\n\toption family 'ipv4'\n\toption hold_down '0'\n\toption damping '0'\n\n"
            )
        })
        .concat()
}

fn balanced(rule: &str) -> String {
    format!(
        "{}config member 'm1'\n\toption interface 'wan1'\n\toption weight '3'\n\n\
         config member 'm2'\n\toption interface 'wan2'\n\n\
         config policy 'balanced'\n\tlist use_member 'm1'\n\tlist use_member 'm2'\n\n{rule}",
        two_wans()
    )
}

const EVERYTHING: &str = "config rule 'all'\n\toption use_policy 'balanced'\n";

impl Setup {
    fn new(name: &str, config: &str) -> Self {
        let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
        let folder = Folder::new(name);
        let path = folder.write("linkwatch", config);
        let control = folder.at("control");
        let more = ["--control", control.to_str().expect("a plain path")];
        let daemon = Daemon::run(program(), &lab.router, &path, &folder.at("state"), &more);
        assert!(daemon.wait_line(0, &["IPv4", "leaves by"], PATIENCE).is_some(), "{:?}", daemon.lines());
        let setup = Self { lab, daemon, folder };
        let there = bed::until(PATIENCE, || {
            nft(&setup.lab.router, &["list", "chain", "inet", "linkwatch", "postrouting"]).contains("vmap")
        });
        assert!(there.is_some(), "{:?}", setup.daemon.lines());
        setup
    }

    /// Has the routes to the WANs' addresses and the translation that a router has.
    fn masquerade(&self) {
        for n in [0, 1] {
            self.lab.inet.rtnl(|r| {
                let dev = r.index(&format!("isp{n}")).expect("a port");
                let via = Ipv4Addr::new(192, 0, 2, n * 4 + 1).into();
                let dst = Some((bed::lab::wan_addresses(usize::from(n))[0].0, 32));
                r.replace_route(&bed::rtnl::Route { dst, ..bed::rtnl::Route::default(via, dev, 1) }).expect("a route");
            });
        }
        let text = "table ip nat {\n chain post {\n type nat hook postrouting priority srcnat;\n\
                    oifname { wan1, wan2 } masquerade\n }\n}\n";
        let mut command = self.lab.router.command("nft");
        let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft runs");
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("nft reads");
        assert!(child.wait().expect("nft ends").success());
    }

    fn say(&self, words: &[&str]) {
        let mut command = self.lab.router.command(program());
        let status = command.args(words).arg("--control").arg(self.folder.at("control")).status();
        assert!(status.expect("the program runs").success(), "{words:?}");
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_linkwatch"))
}

fn nft(netns: &Netns, words: &[&str]) -> String {
    let output = netns.command("nft").args(words).output();
    output.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
}

fn on(ways: &[usize], way: usize) -> usize {
    ways.iter().filter(|w| **w == way).count()
}

/// One packet of a new flow each, at a rate; how many were sent and how many did not arrive.
fn new_flows(setup: &Setup, per_second: u32, during: impl FnOnce() + Send) -> (u32, u32) {
    let (stop, received) = (AtomicBool::new(false), AtomicU32::new(0));
    let server = setup.lab.inet.run(|| UdpSocket::bind((INET[0], PORT)).expect("a port"));
    server.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut quiet = 0;
            while quiet < 5 {
                match server.recv(&mut [0; 8]) {
                    Ok(_) => {
                        received.fetch_add(1, Ordering::Relaxed);
                        quiet = 0;
                    }
                    Err(_) => quiet += u32::from(stop.load(Ordering::Relaxed)),
                }
            }
        });
        let sender = s.spawn(|| {
            setup.lab.lan.enter();
            let start = Instant::now();
            let mut sent = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let due = start + Duration::from_secs(1) * sent / per_second;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let flow = UdpSocket::bind((LAN[0].1, 0)).expect("a port");
                flow.send_to(b"first", (INET[0], PORT)).expect("it leaves");
                sent += 1;
            }
            sent
        });
        during();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender does not panic");
        while bed::until(Duration::from_millis(600), || received.load(Ordering::Relaxed) >= sent).is_none() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        (sent, sent - received.load(Ordering::Relaxed).min(sent))
    })
}

fn flapping() {
    let setup = Setup::new("bench-flap", &two_wans());
    let (sent, lost) = new_flows(&setup, 2000, || {
        for _ in 0..10 {
            setup.lab.plug(1, false);
            std::thread::sleep(Duration::from_millis(250));
            setup.lab.plug(1, true);
            std::thread::sleep(Duration::from_millis(250));
        }
    });
    println!("{sent} new flows while the backup flaps 10 times: {lost} lost   goal 0");
}

fn reloading() {
    let rule = |ports: &str| {
        balanced(&format!(
            "config rule 'a'\n\toption proto 'udp'\n\toption dest_port '{ports}'\n\toption use_policy 'balanced'\n\n{EVERYTHING}"
        ))
    };
    let setup = Setup::new("bench-reload", &rule("1,2"));
    let (sent, lost) = new_flows(&setup, 2000, || {
        for round in 0..10 {
            let ports = if round % 2 == 0 { "1,2,3,7200" } else { "1,2" };
            std::fs::write(setup.folder.at("linkwatch"), rule(ports)).expect("the file is ours");
            setup.daemon.signal(libc::SIGHUP);
            std::thread::sleep(Duration::from_millis(400));
        }
    });
    println!("{sent} new flows over 10 reloads that change rules: {lost} lost   goal 0");
}

fn planned() {
    let setup = Setup::new("bench-planned", &two_wans());
    let server = setup.lab.inet.run(|| UdpSocket::bind((INET[0], PORT)).expect("a port"));
    server.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let stop = AtomicBool::new(false);
    // What arrives is counted by the ports of the far host, which no slow reader can falsify.
    let arrived = || setup.lab.inet.rtnl(|r| ["isp0", "isp1"].map(|p| r.received(p)).iter().sum::<u64>());
    let quiet = arrived();
    let (before, after, switches) = std::thread::scope(|s| {
        let sender = s.spawn(|| {
            setup.lab.lan.enter();
            let flow = UdpSocket::bind((LAN[0].1, 0)).expect("a port");
            flow.connect((INET[0], PORT)).expect("an address");
            let start = Instant::now();
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                sent += u64::from(flow.send(b"x").is_ok());
            }
            (sent, start.elapsed())
        });
        std::thread::sleep(Duration::from_millis(200));
        let mut switches = 0;
        for round in 0..200 {
            setup.say(&["switch", "default", ["wan2", "wan1"][round % 2]]);
            switches += 1;
        }
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        let (sent, time) = sender.join().expect("the sender does not panic");
        std::thread::sleep(Duration::from_millis(200));
        ((sent, time), arrived() - quiet, switches)
    });
    let (sent, time) = before;
    let lost = sent.saturating_sub(after);
    println!(
        "{switches} planned switches at {:.0} packets/s: {lost} of {sent} lost   goal 0 at 100000 packets/s",
        sent as f64 / time.as_secs_f64()
    );
}

fn shares() {
    let setup = Setup::new("bench-shares", &balanced(EVERYTHING));
    let far = Far::listen(&setup.lab, PORT);
    let mut first = 0;
    for _ in 0..20 {
        first += on(&far.ways(&flows(&setup.lab, 0, 500), PORT), 0);
    }
    let share = first as f64 / 100.0;
    println!("10000 flows at 3:1: {share:.1} % by the first   goal 75 +- 2: {}", met((73.0..=77.0).contains(&share)));
}

fn failback() {
    let setup = Setup::new("bench-failback", &two_wans());
    setup.masquerade();
    let far = Far::listen(&setup.lab, PORT);
    let old = flows(&setup.lab, 0, 400);
    assert_eq!(on(&far.ways(&old, PORT), 0), 400);
    setup.lab.plug(0, false);
    assert!(setup.daemon.wait_line(0, &["Forgot"], PATIENCE).is_some());
    let away = ways_by_flow(&setup, &old);
    setup.lab.plug(0, true);
    assert!(setup.daemon.wait_line(0, &["now leaves by 'wan1'"], PATIENCE).is_some());
    let back = ways_by_flow(&setup, &old);
    let moved = away.iter().zip(&back).filter(|(a, b)| a != b).count();
    let new = flows(&setup.lab, 0, 400);
    let fresh = on(&ways_by_flow(&setup, &new), 0);
    println!(
        "400 translated flows, WAN out and back: {moved} moved by the return   goal 0; {fresh} of 400 new ones by it   goal 380"
    );
}

/// Translated ports are not the flows' own: which way each takes is asked one by one.
fn ways_by_flow(setup: &Setup, all: &[UdpSocket]) -> Vec<usize> {
    let arrived = || setup.lab.inet.rtnl(|r| ["isp0", "isp1"].map(|p| r.received(p)));
    all.iter()
        .map(|flow| {
            let before = arrived();
            flow.send_to(b"which way", (INET[0], PORT)).expect("it leaves");
            let mut after = before;
            bed::until(PATIENCE, || {
                after = arrived();
                after != before
            });
            usize::from(after[0] == before[0])
        })
        .collect()
}

fn forgetting() {
    let setup = Setup::new("bench-forget", &two_wans());
    // The limit is the whole system's; a namespace can only read it.
    let most = setup.lab.router.read_sysctl("netfilter/nf_conntrack_max").ok().and_then(|n| n.parse::<u32>().ok());
    if most.is_none_or(|most| most < 130_000) {
        println!("skipped: nf_conntrack_max is {most:?}, 120000 connections need more");
        return;
    }
    // Half of them by each WAN.
    let mut made = 0;
    for way in ["wan1", "wan2"] {
        setup.say(&["switch", "default", way]);
        setup.lab.lan.run(|| {
            for port in 0..60_000_u16 {
                let flow = (port % 60 == 0).then(|| UdpSocket::bind((LAN[0].1, 0)).expect("a port"));
                if let Some(flow) = flow {
                    for to in 0..60_u16 {
                        made += u32::from(flow.send_to(b"x", (INET[0], 10_000 + port / 60 * 50 % 50_000 + to)).is_ok());
                    }
                }
            }
        });
    }
    setup.say(&["switch", "default", "auto"]);
    let count = |mark: &str| {
        let output = setup.lab.router.command("conntrack").args(["-L", "-m", mark]).output();
        output.map_or(0, |o| o.stdout.iter().filter(|b| **b == b'\n').count())
    };
    let before = [count("0x100/0x3f00"), count("0x200/0x3f00")];
    let mark = setup.daemon.mark();
    let start = Instant::now();
    setup.lab.plug(0, false);
    let (at, line) = setup.daemon.wait_line(mark, &["Forgot"], PATIENCE).expect("it says so");
    let after = [count("0x100/0x3f00"), count("0x200/0x3f00")];
    println!("{made} packets made {before:?} connections; {line}");
    println!(
        "forgotten and told {:.1} ms after the unplugging, {after:?} left   goal 100 ms, the other half intact",
        at.duration_since(start).as_secs_f64() * 1000.0
    );
}

/// Foreign routes that use our group: however many they are, a switch is one message for each family, which the kernel
/// confirms at once unless it also tells every route's reader of it (`nexthop_compat_mode`, 1 unless set).
fn behind() {
    const ROUTES: u32 = 100_000;
    const NEWNEXTHOP: u16 = 104;
    let setup = Setup::new("bench-behind", &two_wans());
    let group = layout::group(Family::V4, PolicySlot(0));
    let routes: Vec<Route> = (0..ROUTES)
        .map(|n| {
            let dst = Ipv4Addr::from(0x1400_0000 + (n << 8)).into();
            let one = Route::default(LAN[0].1, 0, 0);
            Route { dst: Some((dst, 24)), via: None, dev: None, nexthop: Some(group), ..one }
        })
        .collect();
    setup.lab.router.rtnl(|r| r.add_many(&routes));
    let heard = setup.lab.router.run(|| Socket::open(&[32], None).expect("a socket that hears of nexthops"));
    for mode in ["0", "1"] {
        setup.lab.router.sysctl("ipv4/nexthop_compat_mode", mode).expect("a sysctl");
        let mut buf = vec![0; 65_536];
        let mut drain = |group: u32| {
            let mut changes = 0;
            while let Ok(Received::Datagram(len)) = heard.receive(&mut buf) {
                let own = |m: &Message<'_>| {
                    let mut attributes = m.body.attributes(8, "nhmsg").into_iter().flatten().flatten();
                    attributes.any(|(kind, v)| kind == 1 && v.u32(0, "id") == Ok(group))
                };
                changes += messages(&buf[..len]).flatten().filter(|m| m.kind == NEWNEXTHOP && own(m)).count();
            }
            changes
        };
        drain(group);
        let mut took = Vec::new();
        let rounds = 20;
        for round in 0..rounds {
            let mark = setup.daemon.mark();
            setup.say(&["switch", "default", ["wan2", "wan1"][round % 2]]);
            let (_, line) = setup.daemon.wait_line(mark, &["IPv4 now leaves by"], PATIENCE).expect("it says so");
            took.push(committed(&line));
        }
        took.sort_unstable();
        println!(
            "{ROUTES} routes behind one group, nexthop_compat_mode={mode}: {} messages for {rounds} switches, committed \
             after {} us, worst {} us   goal {rounds}; 1000 us with mode 0",
            drain(group),
            took[rounds / 2],
            took[rounds - 1]
        );
    }
    let behind = setup.lab.router.rtnl(|r| r.count_by_nexthop(group));
    println!("{behind} of {ROUTES} routes are still there");
}

/// The microseconds to the commit in the daemon's line.
fn committed(line: &str) -> u64 {
    let mut words = line.split_whitespace().skip_while(|w| *w != "committed").skip(1);
    let number: u64 = words.next().and_then(|w| w.parse().ok()).expect("a number");
    if words.next().is_some_and(|w| w.starts_with("ms")) { number * 1000 } else { number }
}

fn met(is: bool) -> &'static str {
    if is { "met" } else { "missed" }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if let Err(error) = bed::netns::become_able() {
        println!("skipped: namespaces are not allowed here ({error})");
        return;
    }
    let lab = Lab::build(&["wan1"], Port::Virtual).expect("a lab");
    let works = |program: &str, word: &str| lab.router.command(program).args([word, "tables"]).output().is_ok();
    if !works("nft", "list") || !works("conntrack", "-C") {
        println!("skipped: nft or conntrack is missing");
        return;
    }
    drop(lab);
    let all: [(&str, fn()); 7] = [
        ("flapping", flapping),
        ("reload", reloading),
        ("planned", planned),
        ("shares", shares),
        ("failback", failback),
        ("forget", forgetting),
        ("behind", behind),
    ];
    for (_, run) in all.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w))) {
        run();
    }
}
