//! A TAP device: its carrier can be switched by hand, and the kernel announces it as a physical port's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::checked;

/// An open TAP device; gone with this value.
pub struct Tap {
    file: File,
}

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;

impl Tap {
    /// Makes one in the calling thread's namespace.
    ///
    /// # Errors
    /// No `/dev/net/tun`, or not allowed.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        // IFF_TAP | IFF_NO_PI
        request[16..18].copy_from_slice(&0x1002_u16.to_ne_bytes());
        // SAFETY: the request is as long as struct ifreq and lives until the call returns.
        checked(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }, "TUNSETIFF")?;
        Ok(Self { file })
    }

    /// Switches the carrier.
    pub fn carrier(&self, on: bool) {
        let value = libc::c_int::from(on);
        // SAFETY: the value lives until the call returns.
        let answer = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETCARRIER, &raw const value) };
        checked(answer, "TUNSETCARRIER").expect("Linux 5.1 or later");
    }

    /// Makes reading return at once when there is nothing to read.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn nonblocking(&self) -> io::Result<()> {
        // SAFETY: fcntl takes numbers; the descriptor is open as long as self.
        checked(unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, "O_NONBLOCK").map(drop)
    }

    /// The next frame that the kernel sends by the device; `None` when none waits.
    pub fn read(&self, buf: &mut [u8]) -> Option<usize> {
        (&self.file).read(buf).ok().filter(|len| *len > 0)
    }

    /// Lets a frame come in by the device; one that does not fit is lost.
    pub fn write(&self, frame: &[u8]) {
        let _ = (&self.file).write(frame);
    }

    /// Waits until there is something to read from one of two devices, or the time is over.
    pub fn wait(taps: &[Self; 2], time: Duration) {
        let poll = |tap: &Self| libc::pollfd { fd: tap.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut polls = [poll(&taps[0]), poll(&taps[1])];
        let time = libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
        // SAFETY: the array is as long as said, and both live until the call returns.
        unsafe { libc::ppoll(polls.as_mut_ptr(), 2, &raw const time, std::ptr::null()) };
    }
}
