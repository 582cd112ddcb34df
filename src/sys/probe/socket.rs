//! Sockets of probes: every message says by which device, from which address and with which mark it leaves, and tells
//! by which device and when it came.
//!
//! Nothing is bound, so a device that is deleted and made again, or an address that changes, needs no new socket.
//! Sources: ip(7), ipv6(7), packet(7), socket(7); `SO_MARK` per message needs Linux 5.4, `SO_TIMESTAMPNS_NEW` 5.1.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, socklen_t};

use crate::engine::action::ProbePath;
use crate::proto::rtnl::{Instruction, errno};
use crate::types::Errno;

/// `SO_TIMESTAMPNS_NEW`: seconds of 64 bits on every machine.
const SO_TIMESTAMPNS_NEW: c_int = 64;
/// `SO_BINDTOIFINDEX` (Linux 5.0)
const SO_BINDTOIFINDEX: c_int = 62;
/// `IP_BIND_ADDRESS_NO_PORT`: the port is chosen when connecting, by all four parts of the connection.
const IP_BIND_ADDRESS_NO_PORT: c_int = 24;
/// `SIOCGIFNAME`, `SIOCGIFHWADDR`
const NAME_OF_INDEX: u32 = 0x8910;
const HARDWARE_OF_NAME: u32 = 0x8927;
/// `ARPHRD_ETHER`
const ETHERNET: u16 = 1;
/// `ETH_P_ARP`
const ETH_P_ARP: u16 = 0x0806;
/// Zeroes that pad a long echo, as often as it takes.
static ZEROES: [u8; 1024] = [0; 1024];
/// The longest padding takes so many pieces.
const PIECES: usize = 66;

/// An open, non-blocking socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// To an address and, for UDP, a port.
    Host(IpAddr, u16),
    /// To everybody on the link, by ARP.
    Link,
}

/// A message that came in.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Bytes in the buffer.
    pub len: usize,
    /// Whether the end did not fit.
    pub cut: bool,
    /// The sender, or for an error the one that the probe was sent to.
    pub from: Option<IpAddr>,
    /// To which of our addresses.
    pub to: Option<IpAddr>,
    /// By which device; 0 when unknown.
    pub ifindex: u32,
    /// When, by the wall clock in microseconds.
    pub stamp: Option<i64>,
    /// Its hop limit (IPv6).
    pub hop_limit: u8,
    /// An ICMP error about one of ours: type and code.
    pub icmp: Option<(u8, u8)>,
}

/// The last error of this thread.
pub fn last_errno() -> Errno {
    errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

impl Socket {
    /// Opens one.
    ///
    /// # Errors
    /// What the kernel said: `EAFNOSUPPORT` without IPv6, `EMFILE`, `EPERM`.
    pub fn open(domain: c_int, kind: c_int, protocol: c_int) -> Result<Self, Errno> {
        // SAFETY: socket takes numbers and returns a new descriptor or -1.
        let fd = unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Sets an option.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set<T: Copy>(&self, level: c_int, option: c_int, value: T) -> Result<(), Errno> {
        let len = size_of::<T>() as socklen_t;
        // SAFETY: the value lives until the call returns and len is its size; the descriptor is ours.
        let failed =
            unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), len) < 0 };
        if failed { Err(last_errno()) } else { Ok(()) }
    }

    /// Lets the kernel drop what does not pass `program`.
    ///
    /// # Errors
    /// A kernel without socket filters.
    pub fn filter(&self, program: &[Instruction]) -> Result<(), Errno> {
        const NOTHING: libc::sock_filter = libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
        let mut code = [NOTHING; 48];
        for (place, i) in code.iter_mut().zip(program) {
            *place = libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
        }
        let len = program.len().min(code.len()) as u16;
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, libc::sock_fprog { len, filter: code.as_mut_ptr() })
    }

    /// Wants to know when messages came and by which device.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn want_details(&self, domain: c_int) -> Result<(), Errno> {
        let on: c_int = 1;
        self.set(libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW, on)?;
        match domain {
            libc::AF_INET => self.set(libc::IPPROTO_IP, libc::IP_PKTINFO, on),
            libc::AF_INET6 => {
                self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, on)?;
                self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, on)
            }
            _ => Ok(()),
        }
    }

    /// Makes a packet socket hear a protocol on all devices.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn listen_to_all(&self, protocol: c_int) -> Result<(), Errno> {
        let mut out = storage();
        // SAFETY: sockaddr_storage is larger than any address and aligned for all of them.
        let place = unsafe { &mut *(&raw mut out).cast::<libc::sockaddr_ll>() };
        place.sll_family = libc::AF_PACKET as libc::sa_family_t;
        place.sll_protocol = protocol as u16;
        let len = size_of::<libc::sockaddr_ll>() as socklen_t;
        // SAFETY: the address lives until the call returns and len is its size; the descriptor is ours.
        let failed = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const out).cast(), len) < 0 };
        if failed { Err(last_errno()) } else { Ok(()) }
    }

    /// Binds a connection to a path: device, mark and source address.
    ///
    /// # Errors
    /// What the kernel said; `EADDRNOTAVAIL` when the address is gone.
    pub fn bind_path(&self, path: &ProbePath) -> Result<(), Errno> {
        let on: c_int = 1;
        self.set(libc::SOL_SOCKET, SO_BINDTOIFINDEX, path.hop.ifindex.0)?;
        self.set(libc::SOL_SOCKET, libc::SO_MARK, path.mark.value)?;
        // Without it a port is taken for good as long as the socket lives, which is short.
        let _ = self.set(libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, on);
        let (address, len) = address(path.source, 0, path.hop.ifindex.0);
        // SAFETY: the address lives until the call returns and len is its size; the descriptor is ours.
        let failed = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) < 0 };
        if failed { Err(last_errno()) } else { Ok(()) }
    }

    /// Connects, or begins to.
    ///
    /// # Errors
    /// What the kernel said; that it takes a while is none.
    pub fn connect(&self, target: IpAddr, port: u16, ifindex: u32) -> Result<(), Errno> {
        let (address, len) = address(target, port, ifindex);
        // SAFETY: the address lives until the call returns and len is its size; the descriptor is ours.
        let failed = unsafe { libc::connect(self.fd.as_raw_fd(), (&raw const address).cast(), len) < 0 };
        if failed && io::Error::last_os_error().raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(last_errno());
        }
        Ok(())
    }

    /// How connecting went, or what happened to the socket since.
    pub fn take_error(&self) -> Errno {
        let (mut value, mut len): (c_int, _) = (0, size_of::<c_int>() as socklen_t);
        // SAFETY: both live until the call returns and len is the value's size; the descriptor is ours.
        let failed = unsafe {
            let fd = self.fd.as_raw_fd();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut value).cast(), &raw mut len) < 0
        };
        if failed { last_errno() } else { errno(value) }
    }

    /// Sends bytes on a connected socket; how many were taken.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        // SAFETY: the buffer is as long as said; the descriptor is ours.
        let sent = unsafe {
            libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast::<c_void>(), bytes.len(), libc::MSG_NOSIGNAL)
        };
        usize::try_from(sent).map_err(|_| last_errno())
    }

    /// Reads from a connected socket; `None` when nothing waits.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read(&self, buf: &mut [u8]) -> Result<Option<usize>, Errno> {
        // SAFETY: the buffer is as long as said; the descriptor is ours.
        let read = unsafe { libc::recv(self.fd.as_raw_fd(), buf.as_mut_ptr().cast::<c_void>(), buf.len(), 0) };
        match usize::try_from(read) {
            Ok(read) => Ok(Some(read)),
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(None),
                _ => Err(last_errno()),
            },
        }
    }

    /// Sends `head` and `padding` zeroes along a path.
    ///
    /// # Errors
    /// What the kernel said: the message did not leave.
    pub fn send(&self, to: To, path: &ProbePath, ttl: Option<u8>, head: &[u8], padding: usize) -> Result<(), Errno> {
        let ifindex = path.hop.ifindex.0;
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES];
        let mut left = padding;
        let mut used = 0;
        for part in &mut parts {
            // The kernel only reads what these point to.
            let bytes = if used == 0 { head } else { ZEROES.get(..left.min(ZEROES.len())).unwrap_or(&ZEROES) };
            if bytes.is_empty() {
                break;
            }
            if used > 0 {
                left = left.saturating_sub(bytes.len());
            }
            *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            used += 1;
        }
        let (mut address, len) = match to {
            To::Host(target, port) => address(target, port, ifindex),
            To::Link => broadcast(ifindex),
        };
        let mut control = Control::default();
        match (to, path.source) {
            (To::Link, _) => {}
            (_, IpAddr::V4(source)) => {
                let ipi_spec_dst = libc::in_addr { s_addr: u32::from(source).to_be() };
                let ipi_addr = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: ifindex as c_int, ipi_spec_dst, ipi_addr };
                control.put(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
                if let Some(ttl) = ttl {
                    control.put(libc::IPPROTO_IP, libc::IP_TTL, c_int::from(ttl));
                }
            }
            (_, IpAddr::V6(source)) => {
                let ipi6_addr = libc::in6_addr { s6_addr: source.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: ifindex as _ };
                control.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
                if let Some(ttl) = ttl {
                    control.put(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, c_int::from(ttl));
                }
            }
        }
        control.put(libc::SOL_SOCKET, libc::SO_MARK, path.mark.value);
        // SAFETY: msghdr is plain data for which zeroes are valid; all it points to outlives the call, and the parts of
        // the message are only read.
        let sent = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_name = (&raw mut address).cast();
            message.msg_namelen = len;
            message.msg_iov = parts.as_mut_ptr();
            message.msg_iovlen = used as _;
            message.msg_control = control.room.0.as_mut_ptr().cast();
            message.msg_controllen = control.len as _;
            libc::sendmsg(self.fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
        };
        if sent < 0 { Err(last_errno()) } else { Ok(()) }
    }

    /// Reads a message, or an ICMP error about one of ours; `None` when nothing waits.
    ///
    /// # Errors
    /// What the kernel said; for a socket without connection that is news of an earlier message.
    pub fn receive(&self, buf: &mut [u8], errors: bool) -> Result<Option<Message>, Errno> {
        let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        let mut room = Room::default();
        let flags = if errors { libc::MSG_ERRQUEUE } else { 0 };
        // SAFETY: sockaddr_storage and msghdr are plain data for which zeroes are valid; all that the message points to
        // outlives the call, with the sizes given.
        let (read, from, header) = unsafe {
            let mut from: libc::sockaddr_storage = std::mem::zeroed();
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = (&raw mut from).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as socklen_t;
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = room.0.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Room>() as _;
            let read = libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, flags);
            (read, from, header)
        };
        let Ok(len) = usize::try_from(read) else {
            return match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(None),
                _ => Err(last_errno()),
            };
        };
        let (from, link) = sender(&from);
        let mut message = Message {
            len,
            cut: header.msg_flags & libc::MSG_TRUNC != 0,
            from,
            to: None,
            ifindex: link,
            stamp: None,
            hop_limit: 0,
            icmp: None,
        };
        // SAFETY: the kernel filled the room with whole control messages and said how much of it; the macros walk them,
        // and each value is read as far as its message says that it goes.
        unsafe {
            let mut control = libc::CMSG_FIRSTHDR(&raw const header);
            while !control.is_null() {
                let (level, kind) = ((*control).cmsg_level, (*control).cmsg_type);
                let data = libc::CMSG_DATA(control);
                let bytes = ((*control).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                message.detail(level, kind, std::slice::from_raw_parts(data, bytes));
                control = libc::CMSG_NXTHDR(&raw const header, control);
            }
        }
        Ok(Some(message))
    }

    /// The Ethernet address of a device.
    ///
    /// # Errors
    /// `ENODEV`, or `EOPNOTSUPP` for a device without one (PPP, raw IP).
    pub fn mac(&self, ifindex: u32) -> Result<[u8; 6], Errno> {
        // struct ifreq: a name of 16 bytes, then what is asked for.
        let mut request = [0_u8; 40];
        request[16..20].copy_from_slice(&ifindex.to_ne_bytes());
        for question in [NAME_OF_INDEX, HARDWARE_OF_NAME] {
            // SAFETY: the request is at least as long as struct ifreq and lives until the call returns.
            let failed = unsafe { libc::ioctl(self.fd.as_raw_fd(), question as _, request.as_mut_ptr()) < 0 };
            if failed {
                return Err(last_errno());
            }
        }
        let kind = u16::from_ne_bytes([request[16], request[17]]);
        let mac = request[18..].first_chunk().copied().ok_or(Errno::EINVAL)?;
        if kind == ETHERNET { Ok(mac) } else { Err(Errno::EOPNOTSUPP) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Message {
    /// Takes in a control message.
    fn detail(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let word = |from: usize| data.get(from..).and_then(|d| d.first_chunk::<4>()).map(|b| u32::from_ne_bytes(*b));
        match (level, kind) {
            (libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW) => {
                let long = |from: usize| {
                    let bytes = data.get(from..).and_then(|d| d.first_chunk::<8>())?;
                    Some(i64::from_ne_bytes(*bytes))
                };
                if let (Some(seconds), Some(nanos)) = (long(0), long(8)) {
                    self.stamp = Some(seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000));
                }
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // struct in_pktinfo: index, our address that was meant, address in the header
                self.ifindex = word(0).unwrap_or(0);
                self.to = data.get(8..).and_then(|d| d.first_chunk::<4>()).map(|b| IpAddr::from(*b));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.to = data.first_chunk::<16>().map(|b| IpAddr::from(*b));
                self.ifindex = word(16).unwrap_or(0);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                self.hop_limit = word(0).and_then(|w| u8::try_from(w).ok()).unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                // struct sock_extended_err: errno, origin (2 ICMP, 3 ICMPv6), type, code
                if let Some([2 | 3, kind, code]) = data.get(4..7) {
                    self.icmp = Some((*kind, *code));
                }
            }
            _ => {}
        }
    }
}

/// Room for control messages, aligned as their headers want it.
#[repr(C, align(8))]
struct Room([u8; 256]);

impl Default for Room {
    fn default() -> Self {
        Self([0; 256])
    }
}

/// Control messages under way to the kernel: at most three, of at most 20 bytes.
#[derive(Default)]
struct Control {
    room: Room,
    len: usize,
}

impl Control {
    fn put<T: Copy>(&mut self, level: c_int, kind: c_int, value: T) {
        let size = size_of::<T>() as u32;
        // SAFETY: the sizes are computed from a type, nothing is dereferenced.
        let (space, len) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size)) };
        let Some(place) = self.room.0.get_mut(self.len..self.len + space) else { return };
        let header = place.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: the place is as long as header and value with their padding, and aligned because the room is and all
        // that came before is padded.
        unsafe {
            (*header).cmsg_len = len as _;
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        self.len += space;
    }
}

fn storage() -> libc::sockaddr_storage {
    // SAFETY: sockaddr_storage is plain data for which zeroes are valid.
    unsafe { std::mem::zeroed() }
}

/// An address as the kernel wants it, and its length. A link-local one gets the device as its zone.
fn address(addr: IpAddr, port: u16, ifindex: u32) -> (libc::sockaddr_storage, socklen_t) {
    let mut out = storage();
    let at = &raw mut out;
    match addr {
        IpAddr::V4(addr) => {
            // SAFETY: sockaddr_storage is larger than any address and aligned for all of them.
            let place = unsafe { &mut *at.cast::<libc::sockaddr_in>() };
            place.sin_family = libc::AF_INET as libc::sa_family_t;
            place.sin_port = port.to_be();
            place.sin_addr.s_addr = u32::from(addr).to_be();
            (out, size_of::<libc::sockaddr_in>() as socklen_t)
        }
        IpAddr::V6(addr) => {
            // SAFETY: as above.
            let place = unsafe { &mut *at.cast::<libc::sockaddr_in6>() };
            place.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            place.sin6_port = port.to_be();
            place.sin6_addr.s6_addr = addr.octets();
            place.sin6_scope_id = if addr.is_unicast_link_local() || addr.is_multicast() { ifindex } else { 0 };
            (out, size_of::<libc::sockaddr_in6>() as socklen_t)
        }
    }
}

/// All stations on a device's link, for ARP.
fn broadcast(ifindex: u32) -> (libc::sockaddr_storage, socklen_t) {
    let mut out = storage();
    // SAFETY: sockaddr_storage is larger than any address and aligned for all of them.
    let place = unsafe { &mut *(&raw mut out).cast::<libc::sockaddr_ll>() };
    place.sll_family = libc::AF_PACKET as libc::sa_family_t;
    place.sll_protocol = ETH_P_ARP.to_be();
    place.sll_ifindex = ifindex as c_int;
    place.sll_halen = 6;
    place.sll_addr = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
    (out, size_of::<libc::sockaddr_ll>() as socklen_t)
}

/// Who sent it, and over which device if the address says so.
fn sender(from: &libc::sockaddr_storage) -> (Option<IpAddr>, u32) {
    let at = &raw const *from;
    match c_int::from(from.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which address it is, and the storage is large enough for each.
            let place = unsafe { &*at.cast::<libc::sockaddr_in>() };
            (Some(Ipv4Addr::from(u32::from_be(place.sin_addr.s_addr)).into()), 0)
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let place = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            (Some(Ipv6Addr::from(place.sin6_addr.s6_addr).into()), 0)
        }
        libc::AF_PACKET => {
            // SAFETY: as above.
            let place = unsafe { &*at.cast::<libc::sockaddr_ll>() };
            (None, place.sll_ifindex as u32)
        }
        _ => (None, 0),
    }
}

/// The protocol that a packet socket for ARP is opened with.
pub fn arp_protocol() -> c_int {
    c_int::from(ETH_P_ARP.to_be())
}
