//! Waits for descriptors and for a moment: one system call, and nothing else wakes.
//!
//! The loop is a future on smol's executor; only what it waits with is ours. smol's reactor shares its work with a thread
//! of its own, and every timer set and descriptor watched is told to it by further system calls: measured, a probe woke the
//! process 2.8 times, and 1.0 times now. Here a future says what it waits for by polling it, and [`block_on`] hands just
//! that to `ppoll`, so what is not polled (a feed on hold) cannot wake anybody.
//!
//! All on one thread: a waker only makes the next wait short, it does not interrupt one.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clock;

/// The longest single wait, whatever is asked for: more than this and it does not fit into a 32-bit machine's call.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What is waited for in this turn, and what the last wait found.
#[derive(Default)]
struct Turn {
    polls: Vec<PollFd<'static>>,
    found: Vec<(RawFd, PollFlags)>,
    wanted: Vec<(RawFd, PollFlags)>,
    deadlines: Vec<(u32, Instant)>,
    next_timer: u32,
}

thread_local! {
    static TURN: RefCell<Turn> = RefCell::default();
}

impl Turn {
    /// Whether the last wait found the descriptor ready; if not, the next one waits for it too.
    fn ready(&mut self, fd: RawFd, events: PollFlags) -> bool {
        if let Some(at) = self.found.iter().position(|f| *f == (fd, events)) {
            self.found.swap_remove(at);
            return true;
        }
        if !self.wanted.contains(&(fd, events)) {
            self.wanted.push((fd, events));
        }
        false
    }

    fn forget(&mut self, fd: RawFd) {
        self.wanted.retain(|(f, _)| *f != fd);
        self.found.retain(|(f, _)| *f != fd);
    }

    fn wait(&mut self, at_once: bool) {
        let due = self.deadlines.iter().map(|(_, at)| *at).min();
        let left = |at: Instant| at.saturating_duration_since(clock::monotonic()).min(LONGEST);
        let time = if at_once { Some(Duration::ZERO) } else { due.map(left) };
        let time = time.and_then(|t| Timespec::try_from(t).ok());
        self.polls.extend(self.wanted.iter().map(|(fd, events)| {
            // SAFETY: whoever waits for a descriptor owns it, and takes it out of the list before closing it.
            PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(*fd) }, *events)
        }));
        // Interrupted, or out of memory: nothing was found, and the next turn looks again.
        let ready = poll(&mut self.polls, time.as_ref()).unwrap_or(0);
        self.found.clear();
        if ready > 0 {
            let found = self.wanted.iter().zip(&self.polls).filter(|(_, p)| !p.revents().is_empty());
            self.found.extend(found.map(|(wanted, _)| *wanted));
        }
        self.polls.clear();
        self.wanted.clear();
        self.deadlines.clear();
    }
}

fn turn<T>(with: impl FnOnce(&mut Turn) -> T) -> T {
    TURN.with_borrow_mut(with)
}

// What follows is called for many kinds of descriptors and futures: one copy of each is enough.

#[inline(never)]
fn ready(fd: RawFd, events: PollFlags) -> bool {
    turn(|t| t.ready(fd, events))
}

#[inline(never)]
fn forget(fd: RawFd) {
    let _ = TURN.try_with(|t| t.try_borrow_mut().map(|mut t| t.forget(fd)));
}

#[inline(never)]
fn wait(at_once: bool) {
    turn(|t| t.wait(at_once));
}

/// A waker that only remembers that it was used.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a future to its end on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let (flag, waker) = waker();
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        wait(flag.0.swap(false, Ordering::Relaxed));
    }
}

#[inline(never)]
fn waker() -> (Arc<Flag>, Waker) {
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    (flag.clone(), Waker::from(flag))
}

/// A descriptor that does not block, and can be waited for inside [`block_on`].
#[derive(Debug)]
pub struct Async<T: AsFd> {
    inner: T,
}

impl<T: AsFd> Async<T> {
    /// Makes the descriptor non-blocking.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn new(inner: T) -> io::Result<Self> {
        let fd = inner.as_fd().as_raw_fd();
        // SAFETY: fcntl takes numbers; the descriptor is open as long as its owner.
        let failed = unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFL);
            flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0
        };
        if failed { Err(io::Error::last_os_error()) } else { Ok(Self { inner }) }
    }

    /// Takes a descriptor that does not block already.
    ///
    /// # Errors
    /// None.
    pub fn new_nonblocking(inner: T) -> io::Result<Self> {
        Ok(Self { inner })
    }

    /// What it is made of.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Ready once after something came in, or after a hang-up; waits for it otherwise.
    pub fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(PollFlags::IN)
    }

    /// Ready once after there is room to write; waits for it otherwise.
    pub fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(PollFlags::OUT)
    }

    /// Until something came in.
    ///
    /// # Errors
    /// None.
    pub async fn readable(&self) -> io::Result<()> {
        smol::future::poll_fn(|cx| self.poll_readable(cx)).await
    }

    fn poll(&self, events: PollFlags) -> Poll<io::Result<()>> {
        match ready(self.inner.as_fd().as_raw_fd(), events) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl<T: AsFd> AsFd for Async<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl<T: AsFd> Drop for Async<T> {
    fn drop(&mut self) {
        // The next descriptor may get the same number.
        forget(self.inner.as_fd().as_raw_fd());
    }
}

/// A moment to wait for inside [`block_on`]; it comes once.
#[derive(Debug)]
pub struct Timer {
    id: u32,
    at: Option<Instant>,
}

impl Timer {
    /// One that never comes.
    pub fn never() -> Self {
        let id = turn(|t| {
            t.next_timer = t.next_timer.wrapping_add(1);
            t.next_timer
        });
        Self { id, at: None }
    }

    /// Comes at this moment instead.
    pub fn set_at(&mut self, at: Instant) {
        self.at = Some(at);
    }

    /// One that comes after so long.
    pub fn after(time: Duration) -> Self {
        let at = clock::monotonic().checked_add(time);
        Self { at, ..Self::never() }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        turn(|t| t.deadlines.retain(|(id, _)| *id != self.id));
        match self.at {
            Some(at) if at <= clock::monotonic() => {
                self.at = None;
                Poll::Ready(())
            }
            Some(at) => {
                turn(|t| t.deadlines.push((self.id, at)));
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let id = self.id;
        let _ = TURN.try_with(|t| t.try_borrow_mut().map(|mut t| t.deadlines.retain(|(other, _)| *other != id)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Async<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (Async::new(ours).expect("ours"), theirs)
    }

    #[test]
    fn a_descriptor_is_waited_for_and_told_once() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").expect("room");
        block_on(ours.readable()).expect("never fails");
        let mut buf = [0; 8];
        assert_eq!(ours.get_ref().read(&mut buf).expect("a byte"), 1);
        let kind = ours.get_ref().read(&mut buf).map_err(|e| e.kind());
        assert_eq!(kind, Err(io::ErrorKind::WouldBlock));
        drop(theirs);
        block_on(ours.readable()).expect("a hang-up is told too");
        assert_eq!(ours.get_ref().read(&mut buf).expect("the end"), 0);
    }

    #[test]
    fn the_first_of_several_ends_the_wait() {
        let ((quiet, _theirs), (loud, mut other)) = (pair(), pair());
        let mut timer = Timer::never();
        let start = clock::monotonic();
        timer.set_at(start + Duration::from_millis(30));
        let first = |timer: &mut Timer| {
            block_on(smol::future::poll_fn(|cx| {
                let any = [quiet.poll_readable(cx), loud.poll_readable(cx)].map(|p| p.is_ready());
                match (any, Pin::new(&mut *timer).poll(cx)) {
                    ([false, false], Poll::Pending) => Poll::Pending,
                    (any, time) => Poll::Ready((any, time.is_ready())),
                }
            }))
        };
        assert_eq!(first(&mut timer), ([false, false], true));
        assert!(start.elapsed() >= Duration::from_millis(30));
        other.write_all(b"x").expect("room");
        assert_eq!(first(&mut timer), ([false, true], false), "the timer comes once");
    }

    #[test]
    fn what_is_not_polled_does_not_wake() {
        let (held, mut theirs) = pair();
        theirs.write_all(b"x").expect("room");
        let mut timer = Timer::never();
        timer.set_at(clock::monotonic() + Duration::from_millis(30));
        let mut turns = 0;
        block_on(smol::future::poll_fn(|cx| {
            // Polled only at first, then on hold.
            if turns == 0 {
                assert!(held.poll_readable(cx).is_pending());
            }
            turns += 1;
            Pin::new(&mut timer).poll(cx)
        }));
        assert!(turns <= 3, "{turns} turns");
    }

    #[test]
    fn a_timer_that_was_put_off_does_not_come_early() {
        let mut timer = Timer::never();
        let start = clock::monotonic();
        let mut turns = 0;
        block_on(smol::future::poll_fn(|cx| {
            timer.set_at(start + Duration::from_millis(1));
            let _ = Pin::new(&mut timer).poll(cx);
            timer.set_at(start + Duration::from_millis(40));
            turns += 1;
            Pin::new(&mut timer).poll(cx)
        }));
        assert!(start.elapsed() >= Duration::from_millis(40) && turns <= 3, "{turns} turns");
    }

    #[test]
    fn a_task_that_wakes_itself_is_polled_again() {
        let mut left = 3;
        block_on(smol::future::poll_fn(|cx| {
            left -= 1;
            cx.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        }));
        assert_eq!(block_on(smol::LocalExecutor::new().run(async { 7 })), 7);
    }
}
