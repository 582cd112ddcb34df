//! The daemon on the real kernel: what it does when links, addresses, routes and it itself come and go.
//!
//! Each case has a network of its own (`tests/bed`). Nothing here measures how fast: that is what `tests/bench` is for;
//! time limits are only there to end a case that would wait for ever.
//!
//! `cargo test --test netns [WORDS]` runs the cases whose names contain one of the words.

#[path = "../bed/mod.rs"]
mod bed;
mod carrier;
mod control;
mod disturb;
mod flows;
mod input;
mod lifecycle;
mod probes;
mod repair;
mod shell;
mod state;
mod steer;
mod trace;
mod traces;

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::lab::{Lab, Port};

/// How long a case waits for what must happen: far more than it takes, so that a slow machine does not fail it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_linkwatch"))
}

/// Two WANs, failover, no hold-down and no damping unless `more` says so.
pub fn two_wans(more: &str) -> String {
    let mut text = String::new();
    for (name, metric) in [("wan1", 10), ("wan2", 20)] {
        text += &format!(
            "config interface '{name}'\n\toption family 'any'\n\toption metric '{metric}'\n\toption hold_down '0'\n\
             \toption damping '0'\n{more}\n"
        );
    }
    text
}

/// A lab with a daemon in its router.
pub struct Setup {
    pub lab: Lab,
    pub folder: Folder,
    pub daemon: Daemon,
    pub config: PathBuf,
    pub state: PathBuf,
}

impl Setup {
    /// Two WANs with ports of a kind, and a daemon that has taken over both families.
    pub fn new(name: &str, port: Port, config: &str) -> Self {
        {
            let words: &[&str] = if std::env::var_os("BED_SHOW").is_some() { &["-vv"] } else { &[] };
            Self::with(name, port, config, words)
        }
    }

    /// The same with more words on the daemon's command line.
    pub fn with(name: &str, port: Port, config: &str, words: &[&str]) -> Self {
        let lab = Lab::build(&["wan1", "wan2"], port).expect("a lab");
        let folder = Folder::new(name);
        let (config, state) = (folder.write("linkwatch", config), folder.at("state"));
        let daemon = Daemon::run(program(), &lab.router, &config, &state, words);
        let setup = Self { lab, folder, daemon, config, state };
        setup.wait_steady();
        setup
    }

    /// Waits until the daemon has said that both families leave by some WAN.
    pub fn wait_steady(&self) {
        for family in ["IPv4", "IPv6"] {
            let said = self.daemon.wait_line(0, &[family, "leaves by"], PATIENCE);
            assert!(said.is_some(), "no word of {family}: {:?}", self.daemon.lines());
        }
        self.wait_as_desired();
    }

    /// Starts another daemon in place of the one that ended.
    pub fn start_again(&mut self) {
        self.daemon = Daemon::run(program(), &self.lab.router, &self.config, &self.state, &["-v"]);
    }

    /// Waits until both families leave by WAN `n`.
    pub fn wait_way(&self, n: usize) {
        for family in [0, 1] {
            let there = bed::until(PATIENCE, || self.lab.way(family) == Some(n));
            assert!(there.is_some(), "family {family} goes by {:?}: {:?}", self.lab.way(family), self.daemon.lines());
        }
    }

    /// The changes that a fresh daemon would make now: what is missing in the kernel.
    pub fn missing(&self) -> Vec<String> {
        let mut plan = self.lab.router.command(program());
        plan.arg("plan").arg("-c").arg(&self.config).arg("--state").arg(&self.state);
        let output = plan.output().expect("the program runs");
        assert!(output.status.success(), "plan: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Waits until a fresh daemon would change nothing.
    pub fn wait_as_desired(&self) {
        let mut missing = Vec::new();
        let there = bed::until(PATIENCE, || {
            missing = self.missing();
            missing.is_empty()
        });
        assert!(there.is_some(), "still missing: {missing:#?}\n{:#?}", self.daemon.lines());
    }
}

type Case = (&'static str, fn());

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let cases: Vec<Case> = [
        carrier::CASES,
        control::CASES,
        disturb::CASES,
        flows::CASES,
        input::CASES,
        lifecycle::CASES,
        probes::CASES,
        repair::CASES,
        shell::CASES,
        state::CASES,
        steer::CASES,
        traces::CASES,
        trace::CASES,
    ]
    .concat();
    let chosen: Vec<&Case> =
        cases.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w))).collect();
    println!("\nrunning {} tests", chosen.len());
    if let Err(error) = bed::netns::become_able() {
        for (name, _) in &chosen {
            println!("test {name} ... skipped: namespaces are not allowed here ({error}); run as root");
        }
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored; 0 measured; 0 filtered out\n", chosen.len());
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in &chosen {
        let begin = Instant::now();
        let result = catch_unwind(case);
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(()) => passed += 1,
            Err(_) => failed += 1,
        }
        println!("test {name} ... {} ({seconds:.1} s)", if result.is_ok() { "ok" } else { "FAILED" });
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let out = cases.len() - chosen.len();
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out; \
         finished in {:.2}s\n",
        start.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
