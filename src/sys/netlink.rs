//! rtnetlink sockets: bytes only, and only the kernel's.
//!
//! Each socket is connected to port 0, so that the kernel refuses forged unicast, and the sender of each datagram is
//! checked before a byte of it is read, because multicast can be forged by root. Sources: netlink(7), `linux/netlink.h`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::proto::rtnl::Instruction;

/// `NETLINK_EXT_ACK`
const EXT_ACK: libc::c_int = 11;
/// `NETLINK_CAP_ACK`
const CAP_ACK: libc::c_int = 10;
/// `NETLINK_GET_STRICT_CHK`
const STRICT_CHK: libc::c_int = 12;
/// `SOL_NETLINK`
const SOL_NETLINK: libc::c_int = 270;

/// `RTNLGRP_LINK`
pub const GROUP_LINK: u32 = 1;
/// Addresses, routes and rules of both families, nexthops.
pub const GROUPS_STATE: [u32; 7] = [5, 7, 8, 9, 11, 19, 32];

/// A non-blocking rtnetlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
}

/// What a read brought.
#[derive(Debug)]
pub enum Received {
    /// A datagram of so many bytes.
    Datagram(usize),
    /// Nothing is waiting.
    Empty,
    /// The kernel dropped notifications, or a datagram was longer than the buffer.
    Overrun,
    /// A datagram that was not from the kernel; dropped unread.
    Foreign,
}

impl Socket {
    /// Opens a socket that hears of `groups`.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(groups: &[u32], receive_buffer: Option<u32>) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket() takes no pointers; a descriptor that is not negative is new and ours alone.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let mut socket = Self { fd, port: 0 };
        if let Some(bytes) = receive_buffer {
            socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
        }
        // Old kernels lack one or the other; then dumps come unfiltered and refusals without words.
        for option in [EXT_ACK, CAP_ACK, STRICT_CHK] {
            if let Err(error) = socket.set(SOL_NETLINK, option, 1) {
                log::debug!("netlink option {option}: {error}");
            }
        }
        socket.bind()?;
        for group in groups {
            // A kernel without IPv6 or nexthops has no such group: nothing to hear there.
            if let Err(error) = socket.set(SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, *group) {
                log::debug!("netlink group {group}: {error}");
            }
        }
        Ok(socket)
    }

    fn bind(&mut self) -> io::Result<()> {
        let mut addr = kernel();
        let mut len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        let fd = self.fd.as_raw_fd();
        // SAFETY: addr and len live until the calls return and describe each other; fd is ours.
        let failed = unsafe {
            libc::bind(fd, (&raw const addr).cast(), len) < 0
                || libc::connect(fd, (&raw const addr).cast(), len) < 0
                || libc::getsockname(fd, (&raw mut addr).cast(), &raw mut len) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        self.port = addr.nl_pid;
        Ok(())
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: u32) -> io::Result<()> {
        // SAFETY: value lives until the call returns and its size is passed with it; the descriptor is ours.
        let failed = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<u32>() as _) < 0
        };
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Lets the kernel drop what does not pass `program` before it wakes us.
    ///
    /// # Errors
    /// A kernel without socket filters.
    pub fn filter(&self, program: &[Instruction]) -> io::Result<()> {
        let mut code: Vec<libc::sock_filter> =
            program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
        let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
        // SAFETY: program and the code it points to live until the call returns; the kernel copies them.
        let failed = unsafe {
            let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
            let value = (&raw const program).cast();
            libc::setsockopt(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, value, len) < 0
        };
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Our port: what the kernel writes into the notifications that our requests cause.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request. The kernel carries it out before this returns; its answer waits in the receive buffer.
    ///
    /// # Errors
    /// The request was not taken.
    pub fn send(&self, request: &[u8]) -> io::Result<()> {
        // SAFETY: request lives until the call returns and its length is passed with it; the descriptor is ours.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads one datagram.
    ///
    /// # Errors
    /// None that can be mended by reading on.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<Received> {
        let mut from = kernel();
        from.nl_pid = u32::MAX;
        let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        // SAFETY: msghdr is plain data for which zeroes are valid; all it points to outlives the call.
        let (read, message) = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_name = (&raw mut from).cast();
            message.msg_namelen = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            (libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0), message)
        };
        if read < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(Received::Empty),
                Some(libc::ENOBUFS) => Ok(Received::Overrun),
                _ => Err(error),
            };
        }
        let whole_name = message.msg_namelen as usize == size_of::<libc::sockaddr_nl>();
        if !whole_name || i32::from(from.nl_family) != libc::AF_NETLINK || from.nl_pid != 0 {
            return Ok(Received::Foreign);
        }
        if message.msg_flags & libc::MSG_TRUNC != 0 {
            return Ok(Received::Overrun);
        }
        Ok(Received::Datagram(usize::try_from(read).unwrap_or(0)))
    }
}

impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn kernel() -> libc::sockaddr_nl {
    // SAFETY: sockaddr_nl is plain data for which zeroes are valid.
    let mut addr: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    addr.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    addr
}
