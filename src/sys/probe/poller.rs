//! One descriptor for all that must wake the loop: connections and the names being resolved.
//!
//! The executor's reactor watches a single epoll of ours, so that a connection costs it nothing and allocates nothing.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::task::Context;

use crate::sys::wait::Async;

use super::socket::{Socket, last_errno};
use crate::types::Errno;

/// Descriptors that are ready at a time; others follow at the next turn.
pub const EVENTS: usize = 16;

/// What is watched, opened at first use.
#[derive(Default)]
pub struct Poller {
    epoll: Option<Async<Epoll>>,
}

struct Epoll {
    fd: OwnedFd,
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a socket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// To be connected, or to take bytes.
    Write,
    /// For bytes.
    Read,
}

impl Poller {
    /// Begins to watch a socket, or changes what for. It ends by itself when the socket is closed.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn watch(&mut self, socket: &Socket, key: u64, interest: Interest, new: bool) -> Result<(), Errno> {
        let epoll = match &mut self.epoll {
            Some(epoll) => epoll,
            place => place.insert(open()?),
        };
        let bits = match interest {
            Interest::Write => libc::EPOLLOUT,
            Interest::Read => libc::EPOLLIN,
        };
        let mut event = libc::epoll_event { events: bits as u32, u64: key };
        let op = if new { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_MOD };
        let (epoll, fd) = (epoll.get_ref().fd.as_raw_fd(), socket.as_fd().as_raw_fd());
        // SAFETY: the event lives until the call returns; both descriptors are open.
        let failed = unsafe { libc::epoll_ctl(epoll, op, fd, &raw mut event) < 0 };
        if failed { Err(last_errno()) } else { Ok(()) }
    }

    /// The keys of sockets that are ready.
    pub fn ready(&self) -> heapless::Vec<u64, EVENTS> {
        let mut keys = heapless::Vec::new();
        if let Some(epoll) = &self.epoll {
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
            let fd = epoll.get_ref().fd.as_raw_fd();
            // SAFETY: the array is as long as said; the descriptor is open.
            let count = unsafe { libc::epoll_wait(fd, events.as_mut_ptr(), EVENTS as libc::c_int, 0) };
            for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
                let _ = keys.push(event.u64);
            }
        }
        keys
    }

    /// Whether something is ready; if not, the task is woken when it is.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        self.epoll.as_ref().is_some_and(|epoll| epoll.poll_readable(cx).is_ready())
    }
}

fn open() -> Result<Async<Epoll>, Errno> {
    // SAFETY: epoll_create1 takes flags and returns a new descriptor or -1.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Async::new_nonblocking(Epoll { fd }).map_err(|_| last_errno())
}
