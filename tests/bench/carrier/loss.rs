//! Packets lost when a WAN is unplugged and plugged back under 10,000 packets a second: the kernel by itself with two
//! default routes of different metric, the daemon, and the daemon killed right before, one after the other.

use std::time::{Duration, Instant};

use crate::bed::lab::Port;
use crate::bed::stream::Stream;
use crate::{PATIENCE, RATE, Sample, Stand, bed, row, two_wans};

/// The goal for the median and for the worst of the unpluggings, in packets (0.5 ms and 2 ms), and for the return.
const GOAL: (usize, usize, usize) = (5, 20, 1);
/// Between a change and the next.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// Nothing of ours but the sysctl.
    Kernel,
    Daemon,
    DeadDaemon,
    /// The daemon with plain routes instead of nexthop objects, as on an old kernel.
    Plain,
}

/// All of them, each with so many unpluggings.
pub fn measure(rounds: usize) {
    for family in [0, 1] {
        for who in [Who::Kernel, Who::Daemon, Who::DeadDaemon, Who::Plain] {
            one(who, family, rounds);
        }
    }
}

fn one(who: Who, family: usize, rounds: usize) {
    let show = std::env::var_os("GAPS").is_some();
    // Flows would stay where they are when a better WAN is back: then only the first unplugging would be one for them.
    let mut config = two_wans("1200ms") + "config globals 'globals'\n\toption failback 'immediate'\n";
    if who == Who::Plain {
        config += "\toption nexthops 'off'\n";
    }
    let stand = Stand::new("loss", Port::Virtual, &config, if show { &["-vv"] } else { &[] });
    let lab = &stand.lab;
    let mut daemon = None;
    if who == Who::Kernel {
        for wan in ["wan1", "wan2"] {
            for version in ["ipv4", "ipv6"] {
                let name = format!("{version}/conf/{wan}/ignore_routes_with_linkdown");
                lab.router.sysctl(&name, "1").expect("a sysctl");
            }
        }
    } else {
        daemon = Some(stand.start());
    }
    let stream = Stream::start(lab, family, RATE);
    assert!(stream.wait_for(RATE / 2, PATIENCE), "no traffic");
    let (mut unplugs, mut plugs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        stand.wait_carried(0, RATE);
        if who == Who::DeadDaemon {
            daemon.as_mut().expect("it was started").kill();
        }
        unplugs.push(Instant::now());
        lab.plug(0, false);
        stand.wait_way(family, 1);
        stand.wait_carried(1, RATE);
        std::thread::sleep(PAUSE);
        plugs.push(Instant::now());
        lab.plug(0, true);
        stand.wait_way(family, 0);
        std::thread::sleep(PAUSE);
        if who == Who::DeadDaemon {
            daemon = Some(stand.start());
        }
    }
    let outcome = stream.stop();
    let ends = unplugs.iter().skip(1).copied().chain([Instant::now()]);
    let down = Sample::new(unplugs.iter().zip(&plugs).map(|(a, b)| outcome.loss(*a, *b).packets).collect());
    let back = Sample::new(plugs.iter().zip(ends).map(|(a, b)| outcome.loss(*a, b).packets).collect());
    let name = match who {
        Who::Kernel => "kernel alone, two metrics",
        Who::Daemon => "linkwatch",
        Who::DeadDaemon => "linkwatch, killed by SIGKILL before",
        Who::Plain => "linkwatch with plain routes",
    };
    let met = down.median() <= GOAL.0 && down.worst() <= GOAL.1 && back.worst() <= GOAL.2;
    let dropped = match outcome.overflowed {
        0 => String::new(),
        n => format!("; the receiver itself dropped {n}"),
    };
    row(
        &format!("carrier loss at {RATE} packets/s, {}, {name}", ["IPv4", "IPv6"][family]),
        &format!(
            "lost: median {}, worst {}; on return: median {}, worst {}{dropped}",
            down.median(),
            down.worst(),
            back.median(),
            back.worst()
        ),
        "median ≤ 5, worst ≤ 20; on return ≤ 1",
        matches!(who, Who::Daemon | Who::DeadDaemon).then_some(met),
    );
    if show {
        let at = |t: &Instant| format!("{:.3}", t.duration_since(outcome.sent[0]).as_secs_f64());
        println!("    lost: {}", outcome.gaps());
        println!("    unplugged at {:?}", unplugs.iter().map(at).collect::<Vec<_>>());
        println!("    plugged at {:?}", plugs.iter().map(at).collect::<Vec<_>>());
        let lines = daemon.map(|d: bed::daemon::Daemon| d.lines()).unwrap_or_default();
        lines.into_iter().for_each(|(t, line)| println!("    {} {line}", at(&t)));
    }
}
