//! Rounds of unplugging, and how their times are shown.

use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::bed::daemon::Daemon;
use crate::bed::lab::Lab;

/// Unplugs the first WAN and plugs it back, so many times; per unplugging when the daemon said that it has switched, and
/// how long that took. At most some 20 times for each daemon: its log is rationed.
pub fn switches(lab: &Lab, daemon: &Daemon, count: usize, pause: Duration) -> Vec<(Instant, Duration)> {
    let mut times = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let at = switch(lab, daemon, false);
        times.push((at, at - begin));
        switch(lab, daemon, true);
        // Not always at the same moment of whatever else goes on.
        std::thread::sleep(pause + Duration::from_millis(7 * (times.len() as u64 % 10)));
    }
    times
}

fn switch(lab: &Lab, daemon: &Daemon, plugged: bool) -> Instant {
    let mark = daemon.mark();
    lab.plug(0, plugged);
    let word = format!("IPv4 now leaves by '{}'", if plugged { "wan1" } else { "wan2" });
    let said = daemon.wait_line(mark, &[&word], PATIENCE);
    said.unwrap_or_else(|| panic!("not '{word}': {:#?}", daemon.lines())).0
}

/// One line of a table.
pub fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |permille: usize| times[(times.len() - 1) * permille / 1000];
    println!("{what:<58} median {:>9.3?}  p99 {:>9.3?}  worst {:>9.3?}", at(500), at(990), at(1000));
}
