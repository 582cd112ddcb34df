//! What a probe costs, and how soon a dead upstream is found.
//!
//! `cost`: processor time, wake-ups and memory of 4 WANs with 3 targets each, and the same with one process of a peer
//! per target if `LINKWATCH_PEER` names its binary (dpinger's options); then a probe by itself, without the daemon.
//! `outage`: the provider stops forwarding with the carrier up, under a stream of UDP; how long it was interrupted.
//!
//! `cargo bench --bench probe [-- cost|outage] [ROUNDS]`; both and 20 rounds unless told otherwise.

#[path = "../bed/mod.rs"]
mod bed;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::FromRawFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::delay::Cable;
use bed::lab::{INET, Lab, Port, wan_addresses};
use bed::stream::Stream;
use linkwatch::config::ProbeConfig;
use linkwatch::engine::Event;
use linkwatch::engine::action::{ProbePath, ProbeRequest};
use linkwatch::engine::event::ProbeId;
use linkwatch::engine::object::Hop;
use linkwatch::sys::clock::Clock;
use linkwatch::sys::probe::Prober;
use linkwatch::types::{FwMark, IfIndex, UplinkSlot};

const PATIENCE: Duration = Duration::from_secs(30);
/// Packets a second of the stream: a lost one is half a millisecond.
const RATE: u32 = 2000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let rounds = words.iter().find_map(|a| a.parse().ok()).unwrap_or(20);
    let wanted = |word: &str| !words.iter().any(|w| w.parse::<u32>().is_err()) || words.iter().any(|w| w == word);
    if let Err(error) = bed::netns::become_able() {
        println!("skipped: namespaces are not allowed here ({error})");
        return;
    }
    if wanted("cost") {
        cost();
    }
    if wanted("outage") {
        outages(rounds);
    }
}

// --- cost ------------------------------------------------------------------------------------------------------------

const WANS: [&str; 4] = ["wan1", "wan2", "wan3", "wan4"];

/// The three targets of a WAN: its gateway, the host behind it, and that host's address on the provider's network.
fn targets(n: usize) -> [IpAddr; 3] {
    [wan_addresses(n)[0].1, INET[0], IpAddr::from([192, 0, 2, n as u8 * 4 + 2])]
}

/// Processor time in nanoseconds, times it was woken, resident memory in kB; of all threads.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    nanos: u64,
    woken: u64,
    memory: u64,
}

impl Used {
    fn of(process: u32) -> Self {
        let mut used = Self::default();
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        let number = |text: &str, name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap_or("");
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0_u64)
        };
        for task in std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs").flatten() {
            let text = read(&task.path().join("schedstat"));
            used.nanos += text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
            used.woken += number(&read(&task.path().join("status")), "voluntary_ctxt_switches");
        }
        used.memory = number(&read(Path::new(&format!("/proc/{process}/status"))), "VmRSS");
        used
    }

    fn of_all(processes: &[u32]) -> Self {
        processes.iter().map(|p| Self::of(*p)).fold(Self::default(), |a, b| Self {
            nanos: a.nanos + b.nanos,
            woken: a.woken + b.woken,
            memory: a.memory + b.memory,
        })
    }
}

/// Echo requests that the router has sent.
fn echoes(lab: &Lab) -> u64 {
    let text = lab.router.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("proc");
    let mut lines = text.lines().filter(|l| l.starts_with("IcmpMsg:"));
    let names = lines.next().unwrap_or("").split_whitespace();
    let values = lines.next().unwrap_or("").split_whitespace();
    names.zip(values).find(|(n, _)| *n == "OutType8").and_then(|(_, v)| v.parse().ok()).unwrap_or(0)
}

fn measure(lab: &Lab, name: &str, processes: &[u32], seconds: u64) {
    let (before, sent, start) = (Used::of_all(processes), echoes(lab), Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let (after, sent, time) = (Used::of_all(processes), echoes(lab) - sent, start.elapsed().as_secs_f64());
    let per = |n: u64| n as f64 / sent.max(1) as f64;
    println!(
        "| {name} | {} | {:.1} | {:.1} | {:.2} | {} |",
        processes.len(),
        sent as f64 / time,
        per(after.nanos - before.nanos) / 1000.0,
        per(after.woken - before.woken),
        after.memory
    );
}

fn cost() {
    println!("4 WANs, 3 targets each:\n");
    println!("| who | processes | probes/s | processor time per probe, us | wake-ups per probe | RSS, kB |");
    println!("|---|---|---|---|---|---|");
    for (interval, peers_interval, seconds) in [("1s", "1s", 30), ("100ms", "100m", 20)] {
        let lab = Lab::build(&WANS, Port::Virtual).expect("a lab");
        let mut config = String::new();
        for (n, wan) in WANS.iter().enumerate() {
            config += &format!(
                "config interface '{wan}'\n\toption family 'ipv4'\n\toption metric '{n}'\n\toption interval '{interval}'\n\
                 \toption hold_down '0'\n\toption passive '0'\n"
            );
            targets(n).iter().for_each(|t| config += &format!("\tlist track_ip '{t}'\n"));
        }
        let folder = Folder::new("bench-probe");
        let (config, state) = (folder.write("linkwatch", &config), folder.at("state"));
        let mut daemon = Daemon::run(program(), &lab.router, &config, &state, &[]);
        assert!(daemon.wait_line(0, &["IPv4", "leaves by"], PATIENCE).is_some(), "{:?}", daemon.lines());
        std::thread::sleep(Duration::from_secs(3));
        measure(&lab, &format!("linkwatch, {interval}"), &[daemon.id()], seconds);
        if interval == "1s" {
            forging(&lab, || measure(&lab, "linkwatch, 1s, 10,000 forged answers/s", &[daemon.id()], seconds));
        }
        // Its routes and rules stay and lead the peer's probes.
        daemon.kill();
        match std::env::var_os("LINKWATCH_PEER") {
            None => println!("skipped: the peer, since LINKWATCH_PEER names none"),
            Some(peer) => {
                let mut peers = Vec::new();
                for n in 0..WANS.len() {
                    for target in targets(n) {
                        let mut command = lab.router.command(&peer);
                        let source = wan_addresses(n)[0].0.to_string();
                        command.args(["-f", "-B", &source, "-s", peers_interval, "-d", "24", "-r", "0", "-D", "10s"]);
                        command.args(["-A", "1s", "-C", "true", &target.to_string()]);
                        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
                        peers.push(Peer(command.spawn().expect("the peer starts")));
                    }
                }
                std::thread::sleep(Duration::from_secs(3));
                let processes: Vec<u32> = peers.iter().map(|p| p.0.id()).collect();
                measure(&lab, &format!("peer, {interval}"), &processes, seconds);
            }
        }
    }
    by_itself();
}

/// Meanwhile the far host sends echo replies to the first WAN that nobody asked for, 10,000 a second.
fn forging(lab: &Lab, during: impl FnOnce()) {
    const A_MILLISECOND: u32 = 10;
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let sender = s.spawn(|| {
            lab.inet.enter();
            // SAFETY: a plain call; the descriptor is owned from here on.
            let socket = unsafe {
                let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP);
                assert!(fd >= 0, "a raw socket: {}", std::io::Error::last_os_error());
                UdpSocket::from_raw_fd(fd)
            };
            let (start, mut sent) = (Instant::now(), 0_u32);
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..A_MILLISECOND {
                    let mut reply = [0_u8; 32];
                    reply[4..12].copy_from_slice(&u64::from(sent).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
                    let sum: u32 = reply.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
                    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                    reply[2..4].copy_from_slice(&sum.to_be_bytes());
                    let _ = socket.send_to(&reply, (wan_addresses(0)[0].0, 0));
                    sent += 1;
                }
                let due = start + Duration::from_millis(u64::from(sent / A_MILLISECOND));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            f64::from(sent) / start.elapsed().as_secs_f64()
        });
        during();
        stop.store(true, Ordering::Relaxed);
        let rate = sender.join().expect("the forger does not panic");
        assert!(rate > 9_000.0, "only {rate:.0} forged answers a second");
    });
}

/// A process that ends with the value.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    // SAFETY: timespec is plain data, and lives until the call returns.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Sending and hearing alone, with the kernel's part of it: both ends and the way between them run on this thread.
fn by_itself() {
    const PROBES: u16 = 20_000;
    let lab = Lab::build(&["wan1"], Port::Virtual).expect("a lab");
    println!(
        "\n| a probe by itself, {PROBES} of each | processor time with the kernel's for both ends, us |\n|---|---|"
    );
    for family in [0, 1] {
        let (source, gateway, _) = wan_addresses(0)[family];
        let nanos = lab.router.run(|| {
            let index = bed::rtnl::Rtnl::open().expect("a socket").index("wan1").expect("it is there");
            let hop = Hop { gateway: Some(gateway), ifindex: IfIndex(index), onlink: false };
            let path = ProbePath { source, hop, mark: FwMark { value: 0x100, mask: 0x3F00 } };
            let (mut prober, clock, config) = (Prober::new(), Clock::start(), ProbeConfig::default());
            let mut probe = |seq| {
                let id = ProbeId { uplink: UplinkSlot(0), track: 0, seq, life: 0 };
                let sent = prober.send(&ProbeRequest { id, target: gateway, path }, &config, clock.now());
                let mut answered = false;
                prober.receive(clock.now(), &mut |e| answered |= matches!(e, Event::Probe { id: of, .. } if of == id));
                sent.is_ok() && answered
            };
            // The first ones find the neighbour.
            assert!(bed::until(PATIENCE, || probe(0)).is_some(), "no answer");
            let start = thread_time();
            let answered = (1..=PROBES).filter(|seq| probe(*seq)).count();
            let time = thread_time() - start;
            assert!(answered * 100 >= usize::from(PROBES) * 99, "{answered} answered at once");
            time.as_nanos() / u128::from(PROBES)
        });
        println!("| echo, {} | {:.1} |", ["IPv4", "IPv6"][family], nanos as f64 / 1000.0);
    }
}

// --- outage ----------------------------------------------------------------------------------------------------------

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_linkwatch"))
}

fn outages(rounds: usize) {
    println!("\nThe provider stops forwarding, {rounds} times; outage of a UDP stream of {RATE} packets/s, ms:\n");
    println!("| probes | way and back, ms | family | median | worst | goal | |\n|---|---|---|---|---|---|---|");
    for (interval, delay, goal) in
        [(Some(50), 0, 170), (Some(10), 0, 45), (Some(50), 30, 200), (Some(10), 30, 75), (None, 0, 2000)]
    {
        for family in [0, 1] {
            outage(interval, Duration::from_millis(delay), family, rounds, goal);
        }
    }
}

fn outage(interval: Option<u32>, delay: Duration, family: usize, rounds: usize, goal: u64) {
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let cables: Vec<Cable> =
        if delay.is_zero() { Vec::new() } else { (0..2).map(|n| lab.slow_down(n).expect("TAP devices")).collect() };
    cables.iter().for_each(|c| c.delay(delay / 2));
    // Else a flow stays where it went, and only the first cut would be one for the stream.
    let mut config = "config globals 'globals'\n\toption failback 'immediate'\n".to_owned();
    for (wan, metric) in [("wan1", 10), ("wan2", 20)] {
        config += &format!(
            "config interface '{wan}'\n\toption family 'any'\n\toption metric '{metric}'\n\toption hold_down '0'\n\
             \toption damping '0'\n\tlist track_ip '{}'\n\tlist track_ip '{}'\n",
            INET[0], INET[1]
        );
        if let Some(interval) = interval {
            config += &format!("\toption interval '{interval}ms'\n");
        }
    }
    let folder = Folder::new("bench-outage");
    let (config, state) = (folder.write("linkwatch", &config), folder.at("state"));
    let words: &[&str] = if std::env::var_os("GAPS").is_some() { &["-v"] } else { &[] };
    let daemon = Daemon::run(program(), &lab.router, &config, &state, words);
    for family in ["IPv4", "IPv6"] {
        assert!(daemon.wait_line(0, &[family, "leaves by"], PATIENCE).is_some(), "{:?}", daemon.lines());
    }
    let stream = Stream::start(&lab, family, RATE);
    assert!(stream.wait_for(RATE, PATIENCE), "no traffic: {:?}", daemon.lines());
    let name = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"][family];
    let mut cuts = Vec::new();
    for round in 0..rounds {
        let way = |n| bed::until(PATIENCE, || lab.way(family) == Some(n)).is_some();
        assert!(way(0), "not on the first: {:#?}", daemon.lines());
        // Not always at the same moment of a round.
        std::thread::sleep(Duration::from_millis(300 + (round as u64 * 37) % 500));
        let cut = Instant::now();
        lab.isps[0].sysctl(name, "0").expect("a sysctl");
        assert!(way(1), "not on the second: {:#?}", daemon.lines());
        std::thread::sleep(Duration::from_millis(200));
        cuts.push((cut, Instant::now()));
        lab.isps[0].sysctl(name, "1").expect("a sysctl");
    }
    let outcome = stream.stop();
    let mut times: Vec<f64> =
        cuts.iter().map(|(from, to)| outcome.loss(*from, *to).packets as f64 * 1000.0 / f64::from(RATE)).collect();
    times.sort_by(f64::total_cmp);
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "| {} | {} | {} | {median:.1} | {worst:.1} | {goal} | {} |",
        interval.map_or("defaults".to_owned(), |i| format!("{i} ms x 3")),
        delay.as_millis(),
        ["IPv4", "IPv6"][family],
        match times.first() {
            Some(best) if *best > 0.0 && worst <= goal as f64 => "PASS",
            Some(best) if *best > 0.0 => "FALLS SHORT",
            _ => "NOT MEASURED: not every cut was one for the stream",
        },
    );
    if std::env::var_os("GAPS").is_some() {
        println!("{times:?}\n{:#?}", daemon.lines());
    }
}
