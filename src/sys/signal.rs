//! Signals as a descriptor: TERM and INT end the daemon, HUP reloads it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signal that means something to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End.
    Terminate,
    /// Read the configuration again.
    Reload,
}

/// The descriptor that the signals come in by. They are blocked for the whole process: make it before any thread.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the signals and opens the descriptor.
    ///
    /// # Errors
    /// No descriptor was free.
    pub fn open() -> io::Result<Self> {
        // SAFETY: sigset_t is plain data; the calls only write to it, and signalfd() returns a new descriptor or -1.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// The next signal that waits.
    pub fn next(&self) -> Option<Signal> {
        // SAFETY: the buffer is as long as said and signalfd_siginfo is plain data; the descriptor is ours.
        let (read, info) = unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let len = size_of::<libc::signalfd_siginfo>();
            (libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), len), info)
        };
        if usize::try_from(read) != Ok(size_of::<libc::signalfd_siginfo>()) {
            return None;
        }
        match i32::try_from(info.ssi_signo) {
            Ok(libc::SIGHUP) => Some(Signal::Reload),
            _ => Some(Signal::Terminate),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
