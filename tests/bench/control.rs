//! What people at the control socket cost: how long `status` takes in quiet, while a WAN flaps under traffic, and among
//! clients that mean harm; and what those do to switches.
//!
//! `cargo bench --bench control [-- ROUNDS]`; 300 questions and 2 times 10 unpluggings each unless told otherwise.

#[path = "../bed/mod.rs"]
mod bed;
mod rounds;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::lab::{Lab, Port};
use bed::stream::Stream;
use linkwatch::proto::control::{self, Item, REQUEST_MAX, Request};
use rounds::{show, switches};

pub const PATIENCE: Duration = Duration::from_secs(20);
/// Clients that mean harm, all at the same time.
const CROWD: usize = 64;
/// Unpluggings of one daemon: its log is rationed.
const COUNT: usize = 10;

struct Bench {
    lab: Lab,
    daemon: Daemon,
    socket: PathBuf,
    _folder: Folder,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
        let folder = Folder::new("bench-control");
        let section = |name: &str, metric| {
            format!(
                "config interface '{name}'\n\toption metric '{metric}'\n\toption hold_down '0'\n\toption damping '0'\n\
                 \tlist track_ip '192.0.2.53'\n\tlist track_ip 'gateway'\n\toption initial_state 'online'\n"
            )
        };
        let config = folder.write("linkwatch", &(section("wan1", 10) + &section("wan2", 20)));
        let socket = folder.at("control");
        let more = ["--control", socket.to_str().expect("a plain name")];
        let program = Path::new(env!("CARGO_BIN_EXE_linkwatch"));
        let daemon = Daemon::run(program, &lab.router, &config, &folder.at("state"), &more);
        assert!(daemon.wait_line(0, &["IPv4", "leaves by"], PATIENCE).is_some(), "{:?}", daemon.lines());
        Self { lab, daemon, socket, _folder: folder }
    }

    fn switches(&self) -> Vec<Duration> {
        let times = switches(&self.lab, &self.daemon, COUNT, Duration::from_millis(20));
        times.into_iter().map(|(_, took)| took).collect()
    }

    /// Asks for the status; how long until the last byte of it, or `None` when the connection was ended before.
    fn ask(&self) -> Option<Duration> {
        let begin = Instant::now();
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        let mut request = [0; REQUEST_MAX];
        let len = control::encode_request(&Request::Status, &mut request).expect("it fits");
        stream.write_all(&request[..len]).ok()?;
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            while let Some((content, whole)) = control::split_frame(&bytes, usize::MAX).expect("our version") {
                if control::items(content).any(|item| item == Ok(Item::Done)) {
                    return Some(begin.elapsed());
                }
                bytes.drain(..whole);
            }
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            }
        }
    }

    fn questions(&self, what: &str, count: usize) {
        let mut refused = 0;
        let mut times = Vec::new();
        while times.len() < count {
            match self.ask() {
                Some(time) => times.push(time),
                None => refused += 1,
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        show(what, times);
        if refused > 0 {
            println!("{:<58} {refused} of {} were turned away and asked again", "", count + refused);
        }
    }
}

/// One of those who mean harm: says something and never reads; comes back when it is thrown out.
fn pest(path: &Path, which: usize, stop: &AtomicBool, thrown_out: &AtomicU32) {
    let say: &[u8] = [&b""[..], &[0xff; 300], &[1, 1], &[1, 0, 3, 1, 0, 1], &[1, 0xff, 0xff], &[1, 0, 1, 0]][which % 6];
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = UnixStream::connect(path) else { continue };
        let _ = stream.write_all(say);
        while !stop.load(Ordering::Relaxed) && stream.write_all(&[]).is_ok() && !hung_up(&stream) {
            std::thread::sleep(Duration::from_millis(50));
        }
        thrown_out.fetch_add(1, Ordering::Relaxed);
    }
}

fn hung_up(stream: &UnixStream) -> bool {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one valid structure, no wait.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

fn crowded<T>(path: &Path, during: impl FnOnce() -> T) -> (T, u32) {
    let (stop, thrown_out) = (AtomicBool::new(false), AtomicU32::new(0));
    let result = std::thread::scope(|s| {
        for which in 0..CROWD {
            let (stop, thrown_out) = (&stop, &thrown_out);
            s.spawn(move || pest(path, which, stop, thrown_out));
        }
        let result = during();
        stop.store(true, Ordering::Relaxed);
        result
    });
    (result, thrown_out.into_inner())
}

fn main() {
    let count = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(300);
    if let Err(error) = bed::netns::become_able() {
        println!("skipped: namespaces are not allowed here ({error})");
        return;
    }
    println!("status: goal 5 ms");
    let bench = Bench::new();
    bench.questions("status, quiet", count);
    let stream = Stream::start(&bench.lab, 0, 10_000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for plugged in [false, true] {
                    bench.lab.plug(1, plugged);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        bench.questions("status, 10,000 packets/s, a WAN flaps 25 times a second", count);
        stop.store(true, Ordering::Relaxed);
    });
    stream.stop();
    let memory = bench.daemon.status_number("VmRSS");
    let ((), thrown_out) = crowded(&bench.socket, || {
        bench.questions(&format!("status, among {CROWD} clients that mean harm"), count);
    });
    println!(
        "    they were thrown out {thrown_out} times; resident memory {memory} KiB before, {} KiB after",
        bench.daemon.status_number("VmRSS")
    );
    drop(bench);
    let (mut alone, mut among) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        alone.extend(Bench::new().switches());
        let bench = Bench::new();
        among.extend(crowded(&bench.socket, || bench.switches()).0);
    }
    show("unplugging to the word of the switch, nobody there", alone);
    show(&format!("the same among {CROWD} clients that mean harm"), among);
}
