//! The heap is left alone from a link event to the switch: once with the engine and the codecs by themselves, fed with
//! real netlink bytes, and once with the daemon's own loop on a real kernel.
//!
//! What is counted are this thread's calls for memory while the code under test runs. The log is on, and its lines reach
//! a logger that reads none of them: what it costs to write a line is not on the way to a switch, what it costs to have
//! one is.

#[path = "bed/mod.rs"]
mod bed;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bed::daemon::Folder;
use bed::lab::{Lab, Port, wan_addresses};
use linkwatch::config::probe::Method;
use linkwatch::config::{Config, ProbeConfig};
use linkwatch::engine::action::{ProbePath, ProbeRequest};
use linkwatch::engine::event::{ProbeId, ProbeOutcome};
use linkwatch::engine::object::Hop;
use linkwatch::engine::{Action, Engine, Event};
use linkwatch::proto::config_file::{self, Dialect};
use linkwatch::proto::netlink::{F_DUMP, Writer};
use linkwatch::proto::rtnl::{Answers, decode_notification};
use linkwatch::sys::clock::Clock;
use linkwatch::sys::daemon::{Daemon, Options, Ubus};
use linkwatch::sys::netlink::{Received, Socket};
use linkwatch::sys::probe::Prober;
use linkwatch::time::Instant;
use linkwatch::types::{Errno, FwMark, IfIndex, UplinkSlot};

const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that is ending has no more locals, and nothing that is counted.
    let _ = COUNTING.try_with(|on| {
        if on.get() {
            let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        }
    });
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `code`; its result, and how often it asked for memory.
fn counted<T>(code: impl FnOnce() -> T) -> (T, u32) {
    CALLS.set(0);
    COUNTING.set(true);
    let result = code();
    COUNTING.set(false);
    (result, CALLS.get())
}

/// Counts the lines by level and reads none.
struct Deaf;

static NOTICES: AtomicU32 = AtomicU32::new(0);

impl log::Log for Deaf {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Info && record.target().starts_with("linkwatch") {
            NOTICES.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn config(names: [&str; 2], gateways: bool) -> Config {
    let mut text = String::new();
    for (n, name) in names.into_iter().enumerate() {
        text += &format!("config interface '{name}'\n\toption family 'any'\n\toption metric '{n}'\n");
        text += "\toption hold_down '0'\n\toption damping '0'\n";
        if gateways {
            text += &format!("\toption gateway '192.0.2.{n}'\n");
        }
    }
    *config_file::read(text.as_bytes(), Dialect::Linkwatch, &[]).config.expect("a good configuration")
}

type Test = (&'static str, fn(bool));

fn main() -> ExitCode {
    let tests: [Test; 5] = [
        ("counting_counts", counting_counts),
        ("engine_and_codecs_ask_for_no_memory_from_a_link_event_to_the_switch", engine_and_codecs),
        ("probes_and_their_answers_ask_for_no_memory", probes),
        ("the_daemons_loop_asks_for_no_memory_from_a_link_event_to_the_switch", |able| daemons_loop(able, false)),
        ("neither_does_it_while_it_records", |able| daemons_loop(able, true)),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen: Vec<_> = tests
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())))
        .collect();
    log::set_logger(&Deaf).expect("it is the first");
    log::set_max_level(log::LevelFilter::Info);
    let able = bed::netns::become_able();
    if let Err(error) = &able {
        println!("namespaces are not allowed here ({error}): what needs them is skipped");
    }
    let able = able.is_ok();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (name, test) in &chosen {
        let fine = std::panic::catch_unwind(|| test(able)).is_ok();
        COUNTING.set(false);
        failed += usize::from(!fine);
        println!("test {name} ... {}", if fine { "ok" } else { "FAILED" });
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, out) = (chosen.len() - failed, tests.len() - chosen.len());
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out\n");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The others mean nothing if this one fails.
fn counting_counts(_: bool) {
    assert_eq!(counted(|| drop(std::hint::black_box(Box::new(1)))).1, 1);
    assert_eq!(counted(|| drop(std::hint::black_box(String::from("word")))).1, 1);
    assert_eq!(counted(|| ()).1, 0);
}

/// A link message as the kernel sends it, taken from the machine's own `lo`: all its attributes, another name, other
/// counters, and a carrier as wanted.
fn link_message(ifindex: u32, name: &str, carrier: bool, losses: u32) -> Vec<u8> {
    let socket = Socket::open(&[], None).expect("a netlink socket");
    let mut request = [0; 64];
    let mut writer = Writer::new(&mut request, 18, F_DUMP, 1);
    writer.put(&[0; 16]);
    let len = writer.finish().expect("short");
    socket.send(&request[..len]).expect("a dump request");
    let mut buf = vec![0; 65_536];
    let Ok(Received::Datagram(len)) = socket.receive(&mut buf) else { panic!("no links") };
    let lo = linkwatch::proto::netlink::messages(&buf[..len]).flatten().next().expect("every machine has lo");
    let mut out = vec![0; 8192];
    let mut writer = Writer::new(&mut out, 16, 0, 0);
    let mut header = lo.body.bytes[..16].to_vec();
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let flags: u32 = if carrier { 0x1_1043 } else { 0x1003 };
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    writer.put(&header);
    for (kind, value) in lo.body.attributes(16, "ifinfomsg").expect("a header").flatten() {
        match kind {
            3 => writer.attribute(3, &[name.as_bytes(), &[0]].concat()),
            16 => writer.attribute(16, &[if carrier { 6 } else { 2 }]),
            47 => writer.attribute_u32(47, losses + u32::from(carrier)),
            48 => writer.attribute_u32(48, losses),
            other => writer.attribute(other, value.bytes),
        }
    }
    let len = writer.finish().expect("one link fits");
    out.truncate(len);
    out
}

fn address_message(ifindex: u32, last: u8) -> Vec<u8> {
    let mut out = vec![0; 128];
    let mut writer = Writer::new(&mut out, 20, 0, 0);
    writer.put(&[2, 24, 0, 0]);
    writer.put(&ifindex.to_ne_bytes());
    writer.attribute(1, &[192, 0, 2, last]);
    writer.attribute(2, &[192, 0, 2, last]);
    let len = writer.finish().expect("short");
    out.truncate(len);
    out
}

/// A kernel that is content with everything: encodes each action as the daemon does and acknowledges it.
fn obey(engine: &mut Engine, answers: &mut Answers, facts: &[Vec<u8>], now: Instant) -> (u32, u32) {
    let (mut requests, mut announced) = (0, 0);
    let mut out = [0; 1024];
    while let Some(action) = engine.poll_action(now) {
        answers.encode(&action, &mut out).expect("it fits");
        requests += 1;
        match action {
            Action::Nexthop { token, .. } | Action::Route { token, .. } | Action::Rule { token, .. } => {
                engine.handle_event(Event::Acked { token, errno: Errno::OK }, now);
            }
            Action::AskRoute { token, .. } => engine.handle_event(Event::RouteAnswer { token, oif: None }, now),
            Action::Dump(dump) => {
                engine.handle_event(Event::DumpBegan(dump), now);
                // What the dump of links and of addresses shows; of ours everything is still there.
                let complete = linkwatch::engine::event::DumpOutcome::Complete;
                for fact in facts {
                    decode_notification(fact, 0, &mut |event| engine.handle_event(event, now)).expect("a good message");
                }
                engine.handle_event(Event::DumpEnded { dump, outcome: complete }, now);
            }
            Action::IgnoreLinkdown { device, family } => {
                engine.handle_event(Event::SysctlWritten { device, family, errno: Errno::OK }, now);
            }
            Action::Announce(_) => announced += 1,
            _ => {}
        }
        assert!(requests < 10_000, "draining does not end");
    }
    (requests, announced)
}

fn engine_and_codecs(_: bool) {
    let mut engine = Box::new(Engine::new(&config(["wan", "wanb"], true), Instant::ZERO));
    let mut answers = Answers::default();
    let (wan, wanb) = (link_message(2, "wan", true, 0), link_message(3, "wanb", true, 0));
    let facts = vec![wan, wanb, address_message(2, 10), address_message(3, 11)];
    obey(&mut engine, &mut answers, &facts, Instant::ZERO);
    let mut losses = 0;
    for round in 1..=100_u64 {
        let now = Instant::from_millis(round * 10_000);
        losses += 1;
        for carrier in [false, true] {
            let news = link_message(2, "wan", carrier, losses);
            let facts = [news.clone(), facts[1].clone(), facts[2].clone(), facts[3].clone()];
            let ((requests, announced), calls) = counted(|| {
                decode_notification(&news, 0, &mut |event| engine.handle_event(event, now)).expect("a good message");
                obey(&mut engine, &mut answers, &facts, now)
            });
            // What the kernel is asked for and what is told shows that something was decided.
            assert!(requests > 3 && announced > 0, "round {round}: {requests} requests, {announced} notices");
            assert_eq!(calls, 0, "round {round}, carrier {carrier}");
        }
    }
}

fn daemons_loop(able: bool, records: bool) {
    if !able {
        println!("    skipped: no namespaces");
        return;
    }
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let folder = Folder::new("alloc");
    let state = folder.at("state");
    let inside = || {
        let options = Options { state: state.clone(), control: None, ubus: Ubus::Off, receive_buffer: None };
        let mut daemon = Daemon::open(&config(["wan1", "wan2"], false), options).expect("a daemon");
        turn_until(&mut daemon, &state, || lab.way(0) == Some(0) && lab.way(1) == Some(0));
        // The first state file, and whatever else belongs to a start.
        let start = std::time::Instant::now();
        turn_until(&mut daemon, &state, || start.elapsed() > Duration::from_millis(1500));
        let file = folder.at("run.lwt");
        if records {
            daemon.trace(&file, 1 << 20).expect("a run");
        }
        let begun = std::fs::metadata(&file).map_or(0, |m| m.len());
        for round in 0..10 {
            for (plugged, way) in [(false, 1), (true, 0)] {
                let before = NOTICES.load(Ordering::Relaxed);
                lab.plug(0, plugged);
                // The uplink's own notice and both families' switches: all is over then.
                let over = || {
                    let told = NOTICES.load(Ordering::Relaxed) >= before + 3;
                    told && lab.way(0) == Some(way) && lab.way(1) == Some(way)
                };
                let calls = turn_until(&mut daemon, &state, over);
                assert_eq!(calls, 0, "round {round}, plugged {plugged}");
            }
        }
        let grown = std::fs::metadata(&file).map_or(0, |m| m.len()) - begun;
        assert_eq!(grown > 0, records, "{grown} bytes were recorded");
    };
    lab.router.run(inside);
}

/// Lets the daemon work until `is_so`; how often it asked for memory.
///
/// Turns in which it wrote its state file do not count: that comes a second after a switch, asks for memory, and may
/// fall into the next switch on a slow machine.
fn turn_until(daemon: &mut Daemon, state: &std::path::Path, mut is_so: impl FnMut() -> bool) -> u32 {
    use std::os::unix::fs::MetadataExt;
    // The file is written anew and renamed, so that another file is there afterwards.
    let file = || std::fs::metadata(state).map(|m| (m.ino(), m.mtime(), m.mtime_nsec())).ok();
    let mut calls = 0;
    let there = bed::until(PATIENCE, || {
        let before = file();
        let (result, more) = counted(|| daemon.turn());
        result.expect("the sockets are whole");
        if file() == before {
            calls += more;
        }
        is_so()
    });
    assert!(there.is_some(), "it never came");
    calls
}

/// Echo, ARP, neighbour discovery and DNS, in both families: sent, waited for and heard.
fn probes(able: bool) {
    if !able {
        println!("skipped: namespaces are not allowed here");
        return;
    }
    let lab = Lab::build(&["wan1"], Port::Virtual).expect("a lab");
    let server =
        lab.isps[0].run(|| wan_addresses(0).map(|(_, gateway, _)| UdpSocket::bind((gateway, 53)).expect("a port")));
    for socket in server {
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query) {
                query[2] |= 0x80;
                let _ = socket.send_to(&query[..len], from);
            }
        });
    }
    lab.router.run(|| {
        let index = bed::rtnl::Rtnl::open().expect("a socket").index("wan1").expect("it is there");
        let (mut prober, clock) = (Prober::new(), Clock::start());
        for method in [Method::Echo, Method::Neighbour, Method::Dns] {
            let config = ProbeConfig { method, ..ProbeConfig::default() };
            for (source, gateway, _) in wan_addresses(0) {
                let hop = Hop { gateway: Some(gateway), ifindex: IfIndex(index), onlink: false };
                let path = ProbePath { source, hop, mark: FwMark { value: 0x100, mask: 0x3F00 } };
                let mut probe = |seq: u16| {
                    let id = ProbeId { uplink: UplinkSlot(0), track: 0, seq, life: 0 };
                    let _ = prober.send(&ProbeRequest { id, target: gateway, path }, &config, clock.now());
                    let mut answered = false;
                    bed::until(Duration::from_millis(20), || {
                        prober.receive(clock.now(), &mut |e| {
                            answered |= matches!(e, Event::Probe { id: of, outcome: ProbeOutcome::Answered, .. } if of == id);
                        });
                        answered
                    });
                    answered
                };
                // The first ones open the sockets and find the neighbour.
                assert!(bed::until(PATIENCE, || probe(0)).is_some(), "{method:?} of {gateway}: no answer");
                let (answered, calls) = counted(|| (1..=100).filter(|seq| probe(*seq)).count());
                assert!(answered > 50, "{method:?} of {gateway}: {answered} answered");
                assert_eq!(calls, 0, "{method:?} of {gateway} asked for memory");
            }
        }
    });
}
