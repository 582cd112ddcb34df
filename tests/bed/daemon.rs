//! The daemon as a process: started, spoken to by signals, listened to, and never left behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::netns::Netns;

/// A folder that goes with the value.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes an empty one.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("linkwatch-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for temporary files");
        Self { path }
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Daemon {
    /// Starts `command`, whose standard error is listened to.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("the program starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("it is piped");
        let (sink, begin) = (lines.clone(), Instant::now());
        // Ends with the daemon.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if std::env::var_os("BED_SHOW").is_some() {
                    eprintln!("    | {:?} {line}", begin.elapsed());
                }
                sink.lock().expect("nobody panics with it").push((Instant::now(), line));
            }
        });
        Self { child, lines }
    }

    /// Starts `program run` in a namespace with a configuration file and a state file.
    pub fn run(program: &Path, netns: &Netns, config: &Path, state: &Path, more: &[&str]) -> Self {
        let mut command = netns.command(program);
        // The bus of this machine is none of ours.
        command.arg("run").args(["--ubus", "none"]).arg("-c").arg(config).arg("--state").arg(state);
        // Beside the state: each daemon of each test has a place of its own.
        command.arg("--control").arg(state.with_file_name("control")).args(more);
        Self::spawn(command)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn lines(&self) -> Vec<(Instant, String)> {
        self.lines.lock().expect("nobody panics with it").clone()
    }

    /// How many lines there are: a place to look on from.
    pub fn mark(&self) -> usize {
        self.lines.lock().expect("nobody panics with it").len()
    }

    /// Waits for a line after place `from` that contains all of `words`; the line.
    pub fn wait_line(&self, from: usize, words: &[&str], within: Duration) -> Option<(Instant, String)> {
        let mut found = None;
        super::until(within, || {
            let lines = self.lines.lock().expect("nobody panics with it");
            found = lines.iter().skip(from).find(|(_, l)| words.iter().all(|w| l.contains(w))).cloned();
            found.is_some()
        });
        found
    }

    /// Losses of an uplink's carrier that it has told of: the last total, and those without an announcement since.
    pub fn carrier_losses_told(&self, uplink: &str) -> u32 {
        let number = |line: &str, before: &str| -> Option<u32> {
            line.split(before).nth(1)?.split_whitespace().next()?.parse().ok()
        };
        let name = format!("'{uplink}'");
        let mut told = 0;
        for (_, line) in self.lines().iter().filter(|(_, l)| l.contains("Uplink ") && l.contains(&name)) {
            match (number(line, "(carrier lost "), number(line, "lost its carrier ")) {
                (Some(total), _) => told = total,
                (None, Some(more)) => told += more,
                (None, None) => {}
            }
        }
        told
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill takes no pointers; the child is ours and has not been waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let mut status = None;
        super::until(within, || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status
    }

    /// Kills it at once, as the kernel does when memory runs out.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A number of `/proc/PID/status`, in its unit there.
    pub fn status_number(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or("");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
