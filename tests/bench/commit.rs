//! From a carrier loss to the switch in the kernel: the daemon against the least that can be written in C: a blocking
//! read of link news, and one send of a request that was encoded beforehand. Round by round in turn, in networks of the
//! same shape.
//!
//! Both are watched from outside: when the kernel announces the loss, and when it announces the group that replaces the
//! lost one. `cargo bench --bench commit [-- ROUNDS]`; 200 unless told otherwise.

#[path = "../bed/mod.rs"]
mod bed;

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::lab::{Lab, Port, wan_addresses};
use linkwatch::proto::netlink::{F_ACK, F_CREATE, F_REPLACE, Writer, messages};
use linkwatch::sys::netlink::{Received, Socket};

const PATIENCE: Duration = Duration::from_secs(20);
/// `RTNLGRP_LINK` and `RTNLGRP_NEXTHOP`.
const GROUPS: [u32; 2] = [1, 32];
const NEWLINK: u16 = 16;
const NEWNEXTHOP: u16 = 104;
/// `NHA_GROUP`
const NHA_GROUP: u16 = 2;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(200);
    if let Err(error) = bed::netns::become_able() {
        println!("skipped: namespaces are not allowed here ({error})");
        return;
    }
    let labs = [0, 1].map(|_| Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab"));
    let folder = Folder::new("bench-commit");
    let section = |name, metric| {
        format!(
            "config interface '{name}'\n\toption family 'ipv4'\n\toption metric '{metric}'\n\toption hold_down '0'\n\
             \toption damping '0'\n"
        )
    };
    let config = folder.write("linkwatch", &(section("wan1", 10) + &section("wan2", 20)));
    let program = Path::new(env!("CARGO_BIN_EXE_linkwatch"));
    let daemon = Daemon::run(program, &labs[0].router, &config, &folder.at("state"), &[]);
    assert!(daemon.wait_line(0, &["IPv4", "leaves by"], PATIENCE).is_some(), "{:?}", daemon.lines());
    let stop = AtomicBool::new(false);
    let mut samples: [Vec<(Duration, Duration)>; 2] = Default::default();
    std::thread::scope(|s| {
        s.spawn(|| labs[1].router.run(|| least(&stop)));
        let watchers = [0, 1].map(|n: usize| labs[n].router.run(|| Socket::open(&GROUPS, None).expect("a socket")));
        for _ in 0..rounds {
            for n in [0, 1] {
                // The rest of the last round must not be taken for this one's.
                std::thread::sleep(Duration::from_millis(20));
                samples[n].push(round(&labs[n], &watchers[n]));
            }
        }
        stop.store(true, Ordering::Relaxed);
        // Something to wake up for.
        labs[1].plug(0, false);
    });
    println!("carrier loss to the switch in the kernel, {rounds} rounds each, in turn\n");
    println!("| who | after the announcement: median | p99 | after unplugging: median | p99 |\n|---|---|---|---|---|");
    let mut medians = [0.0_f64; 2];
    for (n, who) in ["linkwatch", "blocking read, one prepared send"].into_iter().enumerate() {
        let [after, whole] = [0, 1].map(|which| {
            let mut all: Vec<f64> =
                samples[n].iter().map(|(a, b)| if which == 0 { a } else { b }.as_secs_f64() * 1e6).collect();
            all.sort_by(f64::total_cmp);
            (all[all.len() / 2], all[(all.len() * 99 / 100).min(all.len() - 1)])
        });
        println!("| {who} | {:.0} µs | {:.0} µs | {:.0} µs | {:.0} µs |", after.0, after.1, whole.0, whole.1);
        medians[n] = whole.0;
    }
    println!("\nratio of the medians after unplugging: {:.2}", medians[0] / medians[1]);
}

/// Unplugs and plugs the first WAN; from the announcement of its loss, and from the unplugging, to that of a group.
fn round(lab: &Lab, watcher: &Socket) -> (Duration, Duration) {
    let mut buf = vec![0; 65_536];
    drain(watcher, &mut buf);
    let begin = Instant::now();
    lab.plug(0, false);
    let (mut lost, mut switched) = (None, None);
    watch(watcher, &mut buf, |kind, body, at| {
        // struct ifinfomsg: index at 4, flags at 8; IFF_LOWER_UP is 0x10000.
        if kind == NEWLINK && body.u32(4, "index") == Ok(100) && body.u32(8, "flags").is_ok_and(|f| f & 0x1_0000 == 0) {
            lost.get_or_insert(at);
        }
        if kind == NEWNEXTHOP && has_group(body) {
            switched.get_or_insert(at);
        }
        switched.is_some() && lost.is_some()
    });
    let (lost, switched) = (lost.expect("an announcement"), switched.expect("a switch"));
    std::thread::sleep(Duration::from_millis(5));
    drain(watcher, &mut buf);
    lab.plug(0, true);
    // Both put the group back on the first WAN when its carrier is back.
    watch(watcher, &mut buf, |kind, body, _| kind == NEWNEXTHOP && has_group(body));
    (switched.saturating_duration_since(lost), switched.saturating_duration_since(begin))
}

fn has_group(body: &linkwatch::proto::netlink::Bytes<'_>) -> bool {
    body.attributes(8, "nhmsg").into_iter().flatten().flatten().any(|(kind, _)| kind == NHA_GROUP)
}

/// Reads until `enough` says so.
fn watch(
    socket: &Socket,
    buf: &mut [u8],
    mut enough: impl FnMut(u16, &linkwatch::proto::netlink::Bytes<'_>, Instant) -> bool,
) {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "the switch did not come");
        wait_readable(socket);
        while let Received::Datagram(len) = socket.receive(buf).expect("a whole socket") {
            let at = Instant::now();
            for message in messages(&buf[..len]).flatten() {
                if enough(message.kind, &message.body, at) {
                    return;
                }
            }
        }
    }
}

fn drain(socket: &Socket, buf: &mut [u8]) {
    while !matches!(socket.receive(buf).expect("a whole socket"), Received::Empty) {}
}

fn wait_readable(socket: &Socket) {
    let mut poll = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives until the call returns.
    unsafe { libc::poll(&raw mut poll, 1, 1000) };
}

/// A nexthop request with protocol 99, encoded beforehand: a leaf or a group of one.
fn nexthop(id: u32, leaf: Option<(u32, [u8; 4])>, member: u32) -> Vec<u8> {
    let mut out = vec![0; 128];
    let mut w = Writer::new(&mut out, NEWNEXTHOP, F_ACK | F_CREATE | F_REPLACE, id);
    w.put(&[if leaf.is_some() { libc::AF_INET as u8 } else { 0 }, 0, 99, 0, 0, 0, 0, 0]);
    w.attribute_u32(1, id);
    match leaf {
        Some((dev, via)) => {
            w.attribute_u32(5, dev);
            w.attribute(6, &via);
        }
        None => w.attribute(NHA_GROUP, &[&member.to_ne_bytes()[..], &[0; 4]].concat()),
    }
    let len = w.finish().expect("short");
    out.truncate(len);
    out
}

/// The least that can be written: knows two devices by number, decides by one bit, sends what lies ready.
fn least(stop: &AtomicBool) {
    let links = Socket::open(&[1], None).expect("a socket");
    let requests = Socket::open(&[], None).expect("a socket");
    let via = |n: usize| match wan_addresses(n)[0].1 {
        std::net::IpAddr::V4(a) => a.octets(),
        std::net::IpAddr::V6(_) => unreachable!("the first is IPv4"),
    };
    let leaves = [nexthop(1, Some((100, via(0))), 0), nexthop(2, Some((101, via(1))), 0)];
    let groups = [nexthop(10, None, 1), nexthop(10, None, 2)];
    let mut buf = vec![0; 65_536];
    for request in [&leaves[0], &leaves[1], &groups[0]] {
        requests.send(request).expect("a request");
    }
    let mut up = true;
    while !stop.load(Ordering::Relaxed) {
        wait_readable(&links);
        while let Received::Datagram(len) = links.receive(&mut buf).expect("a whole socket") {
            let mut now = up;
            for message in messages(&buf[..len]).flatten() {
                if message.kind == NEWLINK && message.body.u32(4, "index") == Ok(100) {
                    now = message.body.u32(8, "flags").is_ok_and(|f| f & 0x1_0000 != 0);
                }
            }
            if now != up {
                up = now;
                if up {
                    requests.send(&leaves[0]).expect("a request");
                }
                requests.send(&groups[usize::from(!up)]).expect("a request");
            }
        }
        drain(&requests, &mut buf);
    }
}
