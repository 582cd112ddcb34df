//! Flows from the LAN to the far host, and by which WAN the packets of each of them come out.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lab::{INET, LAN, Lab};

/// How long packets are sent again and again until they arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// The far host: remembers by which provider the last packet of each source port came, and answers it.
pub struct Far {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<u16, usize>>>,
    last: Arc<Mutex<Option<usize>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Far {
    /// Starts to listen at a port, in both families.
    pub fn listen(lab: &Lab, port: u16) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let last = Arc::new(Mutex::new(None));
        let mut threads = Vec::new();
        for (family, addr) in INET.into_iter().enumerate() {
            let socket = lab.inet.run(|| UdpSocket::bind((addr, port)).expect("the far host's port is free"));
            with_interface(&socket, family);
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            let indexes: Vec<u32> =
                (0..lab.isps.len()).map(|n| lab.inet.rtnl(|r| r.index(&format!("isp{n}"))).expect("a port")).collect();
            let (stop, seen, last) = (stop.clone(), seen.clone(), last.clone());
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some((from, index, _)) = receive(&socket) {
                        let _ = socket.send_to(b"yes", from);
                        if let Some(way) = indexes.iter().position(|i| *i == index) {
                            *last.lock().expect("nobody panics with it") = Some(way);
                            seen.lock().expect("nobody panics with it").insert(from.port(), way);
                        }
                    }
                }
            }));
        }
        Self { stop, seen, last, threads }
    }

    /// By which provider the last packet of all came.
    pub fn last(&self) -> Option<usize> {
        *self.last.lock().expect("nobody panics with it")
    }

    /// Which way the packets of these flows take now: each sends one, and again until it has arrived.
    pub fn ways(&self, flows: &[UdpSocket], port: u16) -> Vec<usize> {
        let family = usize::from(flows[0].local_addr().expect("bound").is_ipv6());
        let ports: Vec<u16> = flows.iter().map(|f| f.local_addr().expect("bound").port()).collect();
        self.seen.lock().expect("nobody panics with it").clear();
        let all = super::until(PATIENCE, || {
            for (flow, own) in flows.iter().zip(&ports) {
                if !self.seen.lock().expect("nobody panics with it").contains_key(own) {
                    let _ = flow.send_to(b"which way", (INET[family], port));
                }
            }
            std::thread::sleep(Duration::from_millis(20));
            let seen = self.seen.lock().expect("nobody panics with it");
            ports.iter().all(|p| seen.contains_key(p))
        });
        let seen = self.seen.lock().expect("nobody panics with it");
        assert!(all.is_some(), "{} of {} flows arrive", seen.len(), flows.len());
        ports.iter().map(|p| seen[p]).collect()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|t| t.join().expect("it does not panic"));
    }
}

/// Lets a socket tell by which port a datagram came in.
pub fn with_interface(socket: &UdpSocket, family: usize) {
    use std::os::fd::AsRawFd;
    let (level, option) = [(libc::IPPROTO_IP, libc::IP_PKTINFO), (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)][family];
    let on: libc::c_int = 1;
    // SAFETY: the value lives until the call returns, and its size is passed with it.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), 4) };
    super::checked(answer, "packet info").expect("every kernel has it");
}

/// One datagram: who sent it, the index of the port that it came in by, and how it begins.
pub fn receive(socket: &UdpSocket) -> Option<(SocketAddr, u32, [u8; 64])> {
    use std::os::fd::AsRawFd;
    let (mut data, mut control) = ([0_u8; 64], [0_u64; 16]);
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: zeroes are valid for both; all that the message points to outlives the call, and the control messages are
    // walked within the length that the kernel gave.
    unsafe {
        let mut from: libc::sockaddr_storage = std::mem::zeroed();
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        if libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) < 0 {
            return None;
        }
        let mut index = None;
        let mut one = libc::CMSG_FIRSTHDR(&raw const message);
        while !one.is_null() {
            match ((*one).cmsg_level, (*one).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    index = Some((*libc::CMSG_DATA(one).cast::<libc::in_pktinfo>()).ipi_ifindex as u32);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    index = Some((*libc::CMSG_DATA(one).cast::<libc::in6_pktinfo>()).ipi6_ifindex as u32);
                }
                _ => {}
            }
            one = libc::CMSG_NXTHDR(&raw const message, one);
        }
        let from = match i32::from(from.ss_family) {
            libc::AF_INET => {
                let from = &*(&raw const from).cast::<libc::sockaddr_in>();
                SocketAddr::from((from.sin_addr.s_addr.to_ne_bytes(), u16::from_be(from.sin_port)))
            }
            _ => {
                let from = &*(&raw const from).cast::<libc::sockaddr_in6>();
                SocketAddr::from((from.sin6_addr.s6_addr, u16::from_be(from.sin6_port)))
            }
        };
        index.map(|index| (from, index, data))
    }
}

/// New flows of the LAN host.
pub fn flows(lab: &Lab, family: usize, count: usize) -> Vec<UdpSocket> {
    let addr = LAN[family].1;
    lab.lan.run(|| (0..count).map(|_| UdpSocket::bind((addr, 0)).expect("a port")).collect())
}
