//! A TAP device: its carrier can be switched by hand, and the kernel announces it as a physical port's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

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
}
