//! Two ways in which 32-bit machines with 64-bit time have gone wrong, each without an error: rustix handing musl a
//! value of the wrong width (the loop then never wakes), and std's futex wait given a 64-bit timespec by a
//! 32-bit system call (waits then end at once). `tests/cross/test` runs this under emulation.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use linkwatch::sys::wait::{Timer, block_on};
use smol::future::FutureExt;

/// Far more than the slowest emulation takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it on another thread, so that a timer that never fires fails the test instead of hanging it.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    let start = Instant::now();
    loop {
        if let Ok(value) = receiver.try_recv() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "still waiting: the timer never fired");
        std::thread::yield_now();
    }
}

#[test]
fn a_timer_fires_and_not_early() {
    let took = in_time(|| {
        let start = Instant::now();
        block_on(Timer::after(Duration::from_millis(300)));
        start.elapsed()
    });
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

#[test]
fn the_earlier_of_two_timers_fires_first() {
    let first = in_time(|| {
        let early = async {
            Timer::after(Duration::from_millis(100)).await;
            1
        };
        let late = async {
            Timer::after(Duration::from_secs(3600)).await;
            2
        };
        block_on(late.or(early))
    });
    assert_eq!(first, 1);
}

#[test]
fn waiting_with_a_limit_lasts_as_long_as_the_limit() {
    let (mutex, condition) = (Mutex::new(()), Condvar::new());
    let start = Instant::now();
    let mut guard = mutex.lock().expect("nobody else has it");
    // A wake-up without a cause is allowed; the limit running out early is not.
    loop {
        let (again, result) = condition.wait_timeout(guard, Duration::from_millis(300)).expect("nobody panics with it");
        guard = again;
        if result.timed_out() {
            break;
        }
    }
    drop(guard);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

#[test]
fn the_clock_never_goes_back() {
    let mut last = Instant::now();
    for _ in 0..1000 {
        let now = Instant::now();
        assert!(now >= last);
        last = now;
    }
}
