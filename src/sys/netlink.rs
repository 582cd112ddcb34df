//! rtnetlink sockets: bytes only, and only the kernel's.
//!
//! Each socket is connected to port 0, so that the kernel refuses forged unicast, and the sender of each datagram is
//! checked before a byte of it is read, because multicast can be forged by root. Sources: netlink(7), `linux/netlink.h`.

use std::io;
use std::os::fd::AsRawFd;

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;

use crate::proto::rtnl::Instruction;

/// `NETLINK_CAP_ACK`
const CAP_ACK: libc::c_int = 10;
/// `SOL_NETLINK`
const SOL_NETLINK: libc::c_int = 270;

/// `RTNLGRP_LINK`
pub const GROUP_LINK: u32 = 1;
/// Addresses, routes and rules of both families, nexthops.
pub const GROUPS_STATE: [u32; 7] = [5, 7, 8, 9, 11, 19, 32];

/// A non-blocking rtnetlink socket.
pub struct Socket {
    inner: NlSocket,
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
        Self::of(NlFamily::Route, groups, receive_buffer)
    }

    /// Opens a socket to netfilter that hears of `groups`.
    ///
    /// # Errors
    /// What the kernel refused: it may be without netfilter.
    pub fn open_netfilter(groups: &[u32]) -> io::Result<Self> {
        Self::of(NlFamily::Netfilter, groups, None)
    }

    fn of(family: NlFamily, groups: &[u32], receive_buffer: Option<u32>) -> io::Result<Self> {
        let inner = NlSocket::new(family)?;
        inner.nonblock()?;
        if let Some(bytes) = receive_buffer {
            inner.set_recv_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        }
        // Old kernels lack one or the other; then dumps come unfiltered and refusals without words.
        let options = [inner.enable_ext_ack(true), inner.enable_strict_checking(true), set(&inner, CAP_ACK)];
        for error in options.into_iter().filter_map(Result::err) {
            log!(Debug, "netlink option: {error}");
        }
        inner.bind(None, Groups::empty())?;
        for group in groups {
            // A kernel without IPv6 or nexthops has no such group: nothing to hear there.
            if let Err(error) = inner.add_mcast_membership(Groups::new_groups(&[*group])) {
                log!(Debug, "netlink group {group}: {error}");
            }
        }
        let addr = kernel();
        let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: addr lives until the call returns and len is its size; the descriptor is ours.
        let failed = unsafe { libc::connect(inner.as_raw_fd(), (&raw const addr).cast(), len) < 0 };
        if failed {
            return Err(io::Error::last_os_error());
        }
        let port = inner.pid()?;
        Ok(Self { inner, port })
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
            libc::setsockopt(self.inner.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, value, len) < 0
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
        self.inner.send(request, Msg::empty()).map(drop)
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
            (libc::recvmsg(self.inner.as_raw_fd(), &raw mut message, 0), message)
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
        // SAFETY: the descriptor is open as long as self, and so is what is borrowed.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}

fn kernel() -> libc::sockaddr_nl {
    // SAFETY: sockaddr_nl is plain data for which zeroes are valid.
    let mut addr: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    addr.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    addr
}

fn set(socket: &NlSocket, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value lives until the call returns and its size is passed with it; the descriptor is ours.
    let failed = unsafe {
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), SOL_NETLINK, option, (&raw const on).cast(), len) < 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
