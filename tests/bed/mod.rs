//! A network in namespaces, made by our own hands: no root, no `ip`, no other package is needed where the system lets
//! a user make namespaces of their own. The demo, the tests on a real kernel and the benchmarks stand on it.
//!
//! Everything disappears with the process: namespaces live as long as their descriptors.
// Each program that stands on the bed uses a part of it.
#![allow(dead_code)]

pub mod daemon;
pub mod delay;
pub mod disturb;
pub mod far;
pub mod lab;
pub mod live;
pub mod netns;
pub mod rtnl;
pub mod stream;
pub mod tap;

use std::io;
use std::time::{Duration, Instant};

/// Turns a C call's answer into a result.
pub fn checked(answer: libc::c_int, what: &str) -> io::Result<libc::c_int> {
    if answer >= 0 {
        return Ok(answer);
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("{what}: {error}")))
}

/// Asks `is_so` again and again until it is or `within` is over; how long it took.
pub fn until(within: Duration, mut is_so: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if is_so() {
            return Some(start.elapsed());
        }
        if start.elapsed() > within {
            return None;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
