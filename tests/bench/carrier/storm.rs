//! A full table of foreign routes arrives while a WAN is unplugged; notifications are lost for want of a buffer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

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
    routes_arrive(rounds);
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

fn routes_arrive(rounds: usize) {
    let stand = Stand::new("storm", Port::Virtual, &two_wans("0"), &[]);
    let daemon = stand.start();
    let routes = table(&stand);
    // Until the switch is committed, and until it is verified and told.
    let reaction = |plugged: bool, to: &str| {
        let mark = daemon.mark();
        let at = Instant::now();
        stand.lab.plug(0, plugged);
        let words = ["IPv4", "now leaves by", to];
        let (told, line) = daemon.wait_line(mark, &words, PATIENCE).expect("it says so");
        let told = told.saturating_duration_since(at);
        let after = time(&line, "verified ").saturating_sub(time(&line, "committed "));
        (told.saturating_sub(after), told)
    };
    // The first round also finds the memory's resting place.
    let (mut quiet, mut loaded, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        quiet.push(reaction(false, "'wan2'"));
        reaction(true, "'wan1'");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                stand.lab.router.rtnl(|r| r.add_many(&routes));
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            std::thread::sleep(Duration::from_millis(10 + 3 * round as u64));
            let over = stop.load(std::sync::atomic::Ordering::Relaxed);
            let took = reaction(false, "'wan2'");
            if over {
                println!("round {round}: the routes were all there before the WAN was unplugged; not counted");
            } else if round > 0 {
                loaded.push(took);
            }
        });
        reaction(true, "'wan1'");
        memory.push(daemon.status_number("VmRSS"));
        stand.lab.router.rtnl(|r| r.delete_many(&routes));
    }
    for (which, of) in [("committed", 0), ("verified and told", 1)] {
        let pick = |all: &[(Duration, Duration)]| {
            Sample::new(all.iter().map(|(a, b)| if of == 0 { *a } else { *b }).collect())
        };
        let (quiet, loaded) = (pick(&quiet), pick(&loaded));
        let figure = |s: &Sample<Duration>| format!("median {}, worst {}", short(s.median()), short(s.worst()));
        row(&format!("from unplugging until the switch is {which}, quiet"), &figure(&quiet), "", None);
        let what = format!("the same while {ROUTES} foreign routes arrive");
        row(&what, &figure(&loaded), "≤ 10 ms", Some(loaded.worst() <= REACTION));
    }
    let (first, last) = (memory[0], memory[memory.len() - 1]);
    let figure = format!("{first} kB after the first, {last} kB after {rounds} more");
    row("the daemon's resident memory over these loads", &figure, "no growth (16 pages)", Some(last <= first + 64));
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

/// A time of a switch in the daemon's words.
fn time(line: &str, which: &str) -> Duration {
    let mut words = line.split(which).nth(1).unwrap_or("").split([' ', ',', ')']);
    let number = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    match words.next() {
        Some("us") => Duration::from_micros(number),
        Some("ms") => Duration::from_millis(number),
        _ => Duration::from_secs(number),
    }
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
