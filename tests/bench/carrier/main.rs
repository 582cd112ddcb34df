//! What a loss of carrier costs: packets, milliseconds, memory. Each figure is a row of a table in Markdown, with the
//! goal it is held against and whether it was met; nothing here fails.
//!
//! `cargo bench --bench carrier [-- ROUNDS] [loss|ports|life|storm|disturb]`; 50 rounds of everything unless told
//! otherwise. Figures of a machine that does something else at the same time are that machine's figures.

#[path = "../../bed/mod.rs"]
mod bed;
mod life;
mod loss;
mod ports;
mod storm;
mod upset;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::lab::{Lab, Port};

/// Packets per second of each stream.
pub const RATE: u32 = 10_000;
/// How long a step may take before the benchmark gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Two WANs for both families, failover, no damping.
pub fn two_wans(hold_down: &str) -> String {
    let section = |name, metric| {
        format!(
            "config interface '{name}'\n\toption family 'any'\n\toption metric '{metric}'\n\
             \toption hold_down '{hold_down}'\n\toption damping '0'\n"
        )
    };
    section("wan1", 10) + &section("wan2", 20)
}

/// A lab whose router can run the daemon.
pub struct Stand {
    pub lab: Lab,
    pub folder: Folder,
    pub config: PathBuf,
    pub words: Vec<&'static str>,
}

impl Stand {
    /// Two WANs with ports of a kind.
    pub fn new(name: &str, port: Port, config: &str, words: &[&'static str]) -> Self {
        let lab = Lab::build(&["wan1", "wan2"], port).expect("a lab");
        let folder = Folder::new(&format!("bench-{name}"));
        let config = folder.write("linkwatch", config);
        Self { lab, folder, config, words: words.to_vec() }
    }

    /// Starts the daemon and waits until it has taken over both families.
    pub fn start(&self) -> Daemon {
        let program = Path::new(env!("CARGO_BIN_EXE_linkwatch"));
        let state = self.folder.at("state");
        let daemon = Daemon::run(program, &self.lab.router, &self.config, &state, &self.words);
        for family in ["IPv4", "IPv6"] {
            let said = daemon.wait_line(0, &[family, "leaves by"], PATIENCE);
            assert!(said.is_some(), "{:?}", daemon.lines());
        }
        daemon
    }

    /// Waits until a stream of `rate` packets a second really leaves by a WAN: asking for the way of a new flow would
    /// not tell where one that is under way goes.
    pub fn wait_carried(&self, way: usize, rate: u32) {
        let sent = || self.lab.router.rtnl(|r| r.sent_packets(&self.lab.wans[way]));
        let carried = bed::until(PATIENCE, || {
            let (before, start) = (sent(), Instant::now());
            std::thread::sleep(Duration::from_millis(20));
            let more = sent() - before;
            more as f64 > 0.5 * f64::from(rate) * start.elapsed().as_secs_f64()
        });
        assert!(carried.is_some(), "the stream does not leave by {way}");
    }

    /// Waits until a new flow of a family leaves by a WAN.
    pub fn wait_way(&self, family: usize, way: usize) {
        let there = bed::until(PATIENCE, || self.lab.way(family) == Some(way));
        assert!(there.is_some(), "family {family} leaves by {:?}, not by {way}", self.lab.way(family));
    }
}

/// Sorted numbers and what is said of them.
pub struct Sample<T>(Vec<T>);

impl<T: Copy + Ord> Sample<T> {
    /// Sorts them.
    pub fn new(mut all: Vec<T>) -> Self {
        assert!(!all.is_empty(), "nothing was measured");
        all.sort_unstable();
        Self(all)
    }

    /// The one in the middle.
    pub fn median(&self) -> T {
        self.0[self.0.len() / 2]
    }

    /// The worst.
    pub fn worst(&self) -> T {
        self.0[self.0.len() - 1]
    }

    /// How many there are, and how many of them `fit`.
    pub fn count(&self, fit: impl Fn(T) -> bool) -> (usize, usize) {
        (self.0.iter().filter(|n| fit(**n)).count(), self.0.len())
    }
}

/// Prints a row of the table.
pub fn row(what: &str, figure: &str, goal: &str, met: Option<bool>) {
    let verdict = match met {
        Some(true) => "PASS",
        Some(false) => "FALLS SHORT",
        None => "for comparison",
    };
    println!("| {what} | {figure} | {goal} | {verdict} |");
}

/// A time with three digits or so.
pub fn short(time: Duration) -> String {
    match time.as_micros() {
        us @ 0..10_000 => format!("{us} µs"),
        us => format!("{:.1} ms", us as f64 / 1000.0),
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let rounds = words.iter().find_map(|w| w.parse().ok()).unwrap_or(50);
    let named: Vec<&String> = words.iter().filter(|w| w.parse::<usize>().is_err()).collect();
    if let Err(error) = bed::netns::become_able() {
        println!("skipped: namespaces are not allowed here ({error})");
        return;
    }
    type Part = (&'static str, fn(usize));
    let parts: [Part; 5] = [
        ("loss", loss::measure),
        ("ports", ports::measure),
        ("life", life::measure),
        ("storm", storm::measure),
        ("disturb", upset::measure),
    ];
    let start = Instant::now();
    println!("| what | figure | goal | result |\n|---|---|---|---|");
    for (name, part) in parts {
        if named.is_empty() || named.iter().any(|n| n.as_str() == name) {
            part(rounds);
        }
    }
    println!("\n{rounds} rounds, {:.0} s", start.elapsed().as_secs_f64());
}
