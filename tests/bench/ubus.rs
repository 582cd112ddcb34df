//! What a bus costs: the time of a switch without a bus, with one, and with a thousand calls a second on it; how long news
//! takes to a subscriber; how long the object is away when the bus dies.
//!
//! `cargo bench --bench ubus [-- ROUNDS]`; two rounds of 20 unpluggings unless told otherwise: the log is rationed, so a
//! daemon that told of more would say less. With `LINKWATCH_UBUSD` set to the path of the
//! real `ubusd` it is measured on that, else on the bus of our tests.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../ubus/bus.rs"]
mod bus;
#[path = "../ubus/fields.rs"]
mod fields;
#[path = "../ubus/daemon/remote.rs"]
mod remote;
mod rounds;
#[path = "../ubus/daemon/served.rs"]
mod served;
#[path = "../ubus/session.rs"]
mod session;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::lab::{Lab, Port};
use linkwatch::proto::ubus::Status;
use linkwatch::proto::ubus::client::{Follow, Incoming, News, Setup};
use remote::Remote;
use rounds::{show, switches};
use served::Served;

pub const PATIENCE: Duration = Duration::from_secs(20);
/// Unpluggings of one daemon.
const COUNT: usize = 20;
/// Between two of them; under calls longer, so that it takes ten seconds.
const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_millis(500);
/// Calls a second.
const RATE: u32 = 1000;

const ASKER: Setup = Setup { objects: &[], paths: &[Follow { path: "linkwatch", subscribe: true }], events: &[] };

/// The bus under the measurement: dropped, it dies at once.
enum Server {
    Ours { _served: Served },
    Real(Child),
}

impl Server {
    fn start(path: &Path) -> Self {
        let Some(program) = std::env::var_os("LINKWATCH_UBUSD") else {
            return Self::Ours { _served: Served::start(path, 1) };
        };
        let _ = std::fs::remove_file(path);
        let mut command = Command::new(program);
        command.arg("-s").arg(path).stdin(Stdio::null()).stderr(Stdio::null());
        Self::Real(command.spawn().expect("LINKWATCH_UBUSD starts"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Real(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Bench {
    lab: Lab,
    daemon: Daemon,
    socket: PathBuf,
    _folder: Folder,
}

impl Bench {
    fn new(with_bus: bool) -> Self {
        let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
        let folder = Folder::new("bench-ubus");
        let section = |name, metric| {
            format!(
                "config interface '{name}'\n\toption family 'ipv4'\n\toption metric '{metric}'\n\toption hold_down '0'\n\
                 \toption damping '0'\n"
            )
        };
        let config = folder.write("linkwatch", &(section("wan1", 10) + &section("wan2", 20)));
        let socket = folder.at("bus");
        let path = if with_bus { socket.to_str().expect("a plain name") } else { "none" };
        let program = Path::new(env!("CARGO_BIN_EXE_linkwatch"));
        let daemon = Daemon::run(program, &lab.router, &config, &folder.at("state"), &["--ubus", path]);
        assert!(daemon.wait_line(0, &["leaves by"], PATIENCE).is_some(), "{:?}", daemon.lines());
        Self { lab, daemon, socket, _folder: folder }
    }
}

/// Waits until the daemon's object is there and subscribed to.
fn asker(bench: &Bench) -> Remote {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < PATIENCE, "no object: {:#?}", bench.daemon.lines());
        let Some(mut remote) = Remote::connect(&bench.socket, ASKER) else { continue };
        while remote.turn(Duration::from_millis(1), &mut |_, _| {}) && begin.elapsed() < PATIENCE {
            if remote.news.contains(&News::PathUp(0)) {
                return remote;
            }
        }
    }
}

/// Calls so many times a second until told to stop; calls made and answered, and the times of the answers.
fn flood(mut remote: Remote, stop: &AtomicBool, answered: &AtomicU32) -> (u32, Vec<Duration>) {
    let (begin, mut made, mut times, mut open) = (Instant::now(), 0_u32, Vec::new(), std::collections::VecDeque::new());
    loop {
        let due = (begin.elapsed().as_micros() as u64 * u64::from(RATE) / 1_000_000) as u32;
        let ended = stop.load(Ordering::Relaxed);
        while made < due && !ended {
            let method = if made % 2 == 0 { "status" } else { "uplink" };
            if remote.client.call(0, method, 1, remote.now, &mut |w| w.str("uplink", "wan1")).is_err() {
                break;
            }
            open.push_back(Instant::now());
            made += 1;
        }
        remote.turn(Duration::from_millis(1), &mut |_, _| {});
        for news in std::mem::take(&mut remote.news) {
            if let News::Done(1, status) = news {
                assert_eq!(status, Status::OK);
                answered.fetch_add(1, Ordering::Relaxed);
                times.extend(open.pop_front().map(|at| at.elapsed()));
            }
        }
        if ended && open.is_empty() {
            return (made, times);
        }
    }
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(2);
    if let Err(error) = bed::netns::become_able() {
        println!("skipped: namespaces are not allowed here ({error})");
        return;
    }
    let whose = if std::env::var_os("LINKWATCH_UBUSD").is_some() { "the real ubusd" } else { "the bus of our tests" };
    let all = rounds * COUNT;
    println!("{all} unpluggings each, on {whose}; from the unplugging to the daemon's word that it has switched");

    let alone = (0..rounds)
        .flat_map(|_| {
            let bench = Bench::new(false);
            switches(&bench.lab, &bench.daemon, COUNT, SHORT)
        })
        .map(|t| t.1)
        .collect();
    show("no bus", alone);

    let (mut switched, mut told) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        subscribed(&mut switched, &mut told);
    }
    show("a bus and a subscriber", switched);
    show("    from that word to the subscriber", told);

    let bench = Bench::new(true);
    let server = Server::start(&bench.socket);
    flooded(&bench);
    drop(server);

    let mut away = Vec::new();
    for _ in 0..20 {
        // procd has it back a second after its death.
        std::thread::sleep(Duration::from_secs(1));
        let begin = Instant::now();
        let server = Server::start(&bench.socket);
        drop(asker(&bench));
        away.push(begin.elapsed());
        drop(server);
    }
    show("from the bus being back to the object being back, 20 times", away);
}

/// Switches with a subscriber: their times, and those of the news.
fn subscribed(switched: &mut Vec<Duration>, told: &mut Vec<Duration>) {
    let bench = Bench::new(true);
    let _server = Server::start(&bench.socket);
    let mut remote = asker(&bench);
    let (sender, receiver) = mpsc::channel();
    let done = Arc::new(AtomicBool::new(false));
    let listener = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            while !done.load(Ordering::Relaxed) {
                remote.turn(Duration::from_millis(5), &mut |_, incoming| {
                    if let Incoming::Notification { name: "policy", data } = incoming
                        && data.str("to") == Some("wan2")
                    {
                        let _ = sender.send(Instant::now());
                    }
                });
            }
        }
    });
    let times = switches(&bench.lab, &bench.daemon, COUNT, SHORT);
    done.store(true, Ordering::Relaxed);
    listener.join().expect("it ends");
    let heard: Vec<Instant> = receiver.iter().collect();
    assert_eq!(heard.len(), times.len(), "news is missing");
    switched.extend(times.iter().map(|t| t.1));
    told.extend(heard.iter().zip(&times).map(|(h, t)| h.duration_since(t.0)));
}

/// Switches under a flood of calls.
fn flooded(bench: &Bench) {
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let before = bench.daemon.status_number("VmRSS:");
    let remote = asker(bench);
    let flooder = std::thread::spawn({
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        move || flood(remote, &stop, &answered)
    });
    let begin = Instant::now();
    let mut times = switches(&bench.lab, &bench.daemon, COUNT / 4, LONG);
    let rss = bench.daemon.status_number("VmRSS:");
    times.extend(switches(&bench.lab, &bench.daemon, COUNT - COUNT / 4, LONG));
    let seconds = begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let (made, answers) = flooder.join().expect("every call is answered");
    let rate = f64::from(made) / seconds;
    show(&format!("{rate:.0} calls a second for {seconds:.0} s"), times.iter().map(|t| t.1).collect());
    show("    from a call to its answer", answers);
    println!(
        "    {} of {made} calls answered; VmRSS {before} kB before, {rss} kB after a quarter, {} kB at the end",
        answered.load(Ordering::Relaxed),
        bench.daemon.status_number("VmRSS:")
    );
}
