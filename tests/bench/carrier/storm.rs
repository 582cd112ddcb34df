//! A full table of foreign routes arrives while a WAN is unplugged; notifications are lost for want of a buffer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use linkwatch::engine::layout;
use linkwatch::proto::netlink::{Message, messages};
use linkwatch::sys::netlink::{Received, Socket};
use linkwatch::types::{Family, PolicySlot};

use crate::bed::daemon::Daemon;
use crate::bed::lab::{Port, wan_addresses};
use crate::bed::rtnl::Route;
use crate::{PATIENCE, Sample, Stand, row, short, two_wans};

const ROUTES: usize = 60_000;
const REACTION: Duration = Duration::from_millis(10);
const RESYNC: Duration = Duration::from_millis(200);

/// All of it, with a fifth of the rounds: each loads 60,000 routes.
pub fn measure(rounds: usize) {
    let rounds = rounds.div_ceil(5);
    routes_arrive(rounds, false);
    routes_arrive(rounds, true);
    for loaded in [false, true] {
        overrun(rounds, loaded);
    }
}

fn table(stand: &Stand) -> Vec<Route> {
    let dev = stand.lab.router.rtnl(|r| r.index("wan2")).expect("wan2");
    let via = wan_addresses(1)[0].1;
    let route = |n: usize| {
        let dst = std::net::Ipv4Addr::from(0x0a00_0000 | (n as u32) << 8);
        Route { dst: Some((dst.into(), 24)), ..Route::default(via, dev, 0) }
    };
    (0..ROUTES).map(route).collect()
}

/// How long after the plug packets went the other way, and how long after it the kernel told of the group that moves
/// them; without a daemon there is none.
struct Reaction {
    packets: Duration,
    group: Option<Duration>,
}

fn react(stand: &Stand, watcher: &Socket, daemon: Option<&Daemon>, plugged: bool) -> Reaction {
    let mut buf = vec![0; 65_536];
    while !matches!(watcher.receive(&mut buf).expect("a whole socket"), Received::Empty) {}
    let (mut packets, mut group) = (None, None);
    let at = Instant::now();
    stand.lab.plug(0, plugged);
    let moved = crate::bed::until(PATIENCE, || {
        if let Received::Datagram(len) = watcher.receive(&mut buf).expect("a whole socket")
            && messages(&buf[..len]).flatten().any(|m| is_group(&m))
        {
            group.get_or_insert(at.elapsed());
        }
        if packets.is_none() && stand.lab.way(0) == Some(usize::from(!plugged)) {
            packets = Some(at.elapsed());
        }
        packets.is_some() && (group.is_some() || daemon.is_none())
    });
    assert!(moved.is_some(), "no switch: {:#?}", daemon.map(Daemon::lines));
    Reaction { packets: packets.expect("just seen"), group }
}

fn routes_arrive(rounds: usize, with_daemon: bool) {
    let stand = Stand::new("storm", Port::Virtual, &two_wans("0"), &[]);
    let daemon = with_daemon.then(|| stand.start());
    if !with_daemon {
        stand.lab.router.sysctl("ipv4/conf/wan1/ignore_routes_with_linkdown", "1").expect("a sysctl");
    }
    let watcher = stand.lab.router.run(|| Socket::open(&[32], None).expect("a socket that hears of nexthops"));
    let react = |plugged| react(&stand, &watcher, daemon.as_ref(), plugged);
    let routes = table(&stand);
    // The first round also finds the memory's resting place.
    let (mut quiet, mut loaded, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        quiet.push(react(false));
        react(true);
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                stand.lab.router.rtnl(|r| r.add_many(&routes));
                over.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            std::thread::sleep(Duration::from_millis(10 + 3 * round as u64));
            let late = over.load(std::sync::atomic::Ordering::Relaxed);
            let took = react(false);
            if late {
                println!("round {round}: the routes were all there before the WAN was unplugged; not counted");
            } else if round > 0 {
                loaded.push(took);
            }
        });
        react(true);
        memory.push(daemon.as_ref().map_or(0, |d| d.status_number("VmRSS")));
        stand.lab.router.rtnl(|r| r.delete_many(&routes));
    }
    let who = if with_daemon { "" } else { "; kernel alone, two metrics" };
    for (what, all) in [("quiet", &quiet), ("while 60000 foreign routes arrive", &loaded)] {
        let goal = if what == "quiet" { "" } else { "≤ 10 ms" };
        let tell = |end: &str, times: Vec<Duration>| {
            let times = Sample::new(times);
            let figure = format!("median {}, worst {}", short(times.median()), short(times.worst()));
            let met = (with_daemon && what != "quiet").then_some(times.worst() <= REACTION);
            row(&format!("from unplugging until {end}, {what}{who}"), &figure, goal, met);
        };
        tell("packets go the other way", all.iter().map(|r| r.packets).collect());
        if with_daemon {
            tell("the switch is in the kernel", all.iter().filter_map(|r| r.group).collect());
        }
    }
    if with_daemon {
        let (first, last) = (memory[0], memory[memory.len() - 1]);
        let figure = format!("{first} kB after the first, {last} kB after {rounds} more");
        row("the daemon's resident memory over these loads", &figure, "no growth (16 pages)", Some(last <= first + 64));
    }
}

fn overrun(rounds: usize, loaded: bool) {
    let stand = Stand::new("overrun", Port::Virtual, &two_wans("0"), &["--rcvbuf", "1", "-v"]);
    let daemon = stand.start();
    let routes = table(&stand);
    if loaded {
        stand.lab.router.rtnl(|r| r.add_many(&routes));
    }
    let before = stand.lab.router.rtnl(|r| r.own());
    let (mut resyncs, mut wholes, mut seen) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        // Settle: what is measured is one overrun.
        std::thread::sleep(Duration::from_millis(1500));
        let mark = daemon.mark();
        daemon.signal(libc::SIGSTOP);
        stand.lab.router.rtnl(|r| {
            for n in 0..200_u8 {
                let address = IpAddr::from([100, 64, n, 1]);
                r.add_address("wan2", address, 32).expect("an address");
                r.delete_address("wan2", address, 32).expect("an address");
            }
            r.delete_own_rules(libc::AF_INET as u8, |_| true);
        });
        let at = Instant::now();
        daemon.signal(libc::SIGCONT);
        let whole = crate::bed::until(PATIENCE, || stand.lab.router.rtnl(|r| r.own()) == before);
        assert!(whole.is_some(), "never made good: {:#?}", daemon.lines());
        wholes.push(at.elapsed());
        if let Some(took) = resync(&daemon, mark) {
            seen += 1;
            resyncs.push(took);
        }
    }
    let name = if loaded { format!(" with {ROUTES} routes in main") } else { String::new() };
    let total = counted(&daemon);
    let figure = format!("seen in {seen} of {rounds} rounds; counted so far, as last told: {total}");
    row(
        &format!("overrun of the smallest receive buffer{name}"),
        &figure,
        "seen, counted",
        Some(seen == rounds && total > 0),
    );
    let (resyncs, wholes) = (Sample::new(resyncs), Sample::new(wholes));
    row(
        &format!("full resync after an overrun{name}"),
        &format!("median {}, worst {}", short(resyncs.median()), short(resyncs.worst())),
        "≤ 200 ms",
        Some(resyncs.worst() <= RESYNC),
    );
    let figure = format!("median {}, worst {}", short(wholes.median()), short(wholes.worst()));
    row(&format!("from waking until the deleted rules are back{name}"), &figure, "", None);
}

/// Whether a message tells of the group for IPv4 of the first policy.
fn is_group(message: &Message<'_>) -> bool {
    const NEWNEXTHOP: u16 = 104;
    let id = message.body.attributes(8, "nhmsg").into_iter().flatten().flatten().find(|(kind, _)| *kind == 1);
    let group = layout::group(Family::V4, PolicySlot(0));
    message.kind == NEWNEXTHOP && id.is_some_and(|(_, v)| v.u32(0, "id") == Ok(group))
}

/// How long the daemon says that it took to read everything again.
fn resync(daemon: &Daemon, mark: usize) -> Option<Duration> {
    let (_, line) = daemon.wait_line(mark, &["everything read again"], PATIENCE)?;
    let us = line.split("again ").nth(1)?.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_micros(us))
}

/// The total of overruns in the last line that tells of them.
fn counted(daemon: &Daemon) -> u32 {
    let lines = daemon.lines();
    let line = lines.iter().rev().find(|(_, l)| l.contains("notifications lost")).map(|(_, l)| l.clone());
    let numbers = line.unwrap_or_default();
    numbers.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).next_back().unwrap_or(0)
}
