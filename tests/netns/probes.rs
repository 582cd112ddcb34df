//! Probes on the real kernel, socket by socket: who is believed, and who is not.
//!
//! ```text
//!   router --- wan0 --- isp (gateway 198.51.100.1, target 203.0.113.10 and 2001:db8:ffff::10 on its lo)
//!          `-- wan1 --- its twin, with the same addresses throughout
//! ```

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use linkwatch::config::ProbeConfig;
use linkwatch::config::probe::{Method, Word};
use linkwatch::engine::Event;
use linkwatch::engine::action::{ProbePath, ProbeRequest};
use linkwatch::engine::event::{ProbeId, ProbeOutcome, Refusal};
use linkwatch::engine::object::Hop;
use linkwatch::proto::probe::checksum;
use linkwatch::sys::clock::Clock;
use linkwatch::sys::probe::Prober;
use linkwatch::sys::wait;
use linkwatch::time::Instant;
use linkwatch::types::{Errno, Family, FwMark, IfIndex, UplinkSlot};

use crate::bed::netns::Netns;
use crate::bed::rtnl::Route;
use crate::{Case, PATIENCE, bed};

pub const CASES: &[Case] = &[
    ("probes::echoes_of_all_sizes_are_answered_in_both_families", echoes),
    ("probes::the_same_target_over_twin_wans_is_told_apart", twins),
    ("probes::a_neighbour_answers_arp_and_neighbour_discovery", neighbours),
    ("probes::an_open_port_answers_and_a_closed_one_refuses", tcp),
    ("probes::dns_answers_count_when_they_answer_the_question", dns),
    ("probes::http_answers_count_with_the_wanted_status", http),
    ("probes::connections_that_say_nothing_are_forgotten_and_the_table_is_bounded", silent_connections),
    ("probes::a_reply_from_elsewhere_by_another_device_or_changed_is_no_answer", forgeries),
    ("probes::a_flood_of_forged_replies_fills_no_buffer", flood),
    ("probes::errors_that_quote_a_probe_refuse_it_however_short_the_quote", errors),
    ("probes::what_cannot_be_sent_says_why", not_sent),
    ("probes::a_device_made_again_needs_no_care", made_again),
    ("probes::names_are_resolved_through_the_uplink", names),
    ("probes::an_upstream_that_dies_silently_moves_the_traffic_and_back", dies_silently),
    ("probes::a_probe_costs_one_wake_up_no_thread_and_no_process", thrifty),
    ("probes::a_metered_standby_costs_less_than_a_hundred_kilobytes_a_day", metered),
    ("probes::answers_carry_the_time_at_which_they_came", stamps),
];

const TARGET: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10))];
const US: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2))];
const GATEWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1))];
const LEN: [u8; 2] = [24, 64];
const ANSWERED: ProbeOutcome = ProbeOutcome::Answered;

/// Twin WANs: everything about them is the same but the cable.
struct Twins {
    router: Netns,
    isps: Vec<Netns>,
}

impl Twins {
    fn new() -> Self {
        let make = || Netns::new().expect("a namespace");
        let twins = Self { router: make(), isps: vec![make(), make()] };
        for netns in twins.isps.iter().chain([&twins.router]) {
            for name in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv6/conf/default/accept_dad"] {
                netns.sysctl(name, "0").expect("a sysctl");
            }
        }
        for (n, isp) in twins.isps.iter().enumerate() {
            isp.sysctl("ipv4/ip_forward", "1").expect("a sysctl");
            isp.sysctl("ipv6/conf/all/forwarding", "1").expect("a sysctl");
            isp.rtnl(|r| {
                r.add_address("lo", TARGET[0], 32).expect("an address");
                r.add_address("lo", TARGET[1], 128).expect("an address");
            });
            twins.plug_in(n);
        }
        // A new device drops what is sent before its queue is ready.
        for (n, family) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            twins.probing(method(Method::Echo), |s| s.wait_alive(&twins.request(n, family, 0)));
        }
        twins
    }

    /// Lays the cable of WAN `n` and gives both its ends their addresses; table and rules as the daemon would.
    fn plug_in(&self, n: usize) {
        let (wan, isp) = (format!("wan{n}"), &self.isps[n]);
        self.router.rtnl(|r| {
            r.add_veth(&wan, None, isp, "near", None).expect("a cable");
            r.set_up(&wan, true).expect("it is there");
        });
        isp.rtnl(|r| r.set_up("near", true)).expect("it is there");
        for family in [0, 1] {
            isp.rtnl(|r| r.add_address("near", GATEWAY[family], LEN[family])).expect("an address");
            self.router.rtnl(|r| {
                let dev = r.index(&wan).expect("it is there");
                r.add_address(&wan, US[family], LEN[family]).expect("an address");
                let table = n as u32 + 1;
                let default = Route { table, ..Route::default(GATEWAY[family], dev, 0) };
                r.replace_route(&default).expect("a route");
                let af = [libc::AF_INET, libc::AF_INET6][family];
                // There already when the device is made again.
                let _ = r.add_rule(af, 1000 + table, None, Some(&wan), table);
            });
        }
    }

    fn path(&self, n: usize, family: usize) -> ProbePath {
        let dev = self.router.rtnl(|r| r.index(&format!("wan{n}"))).expect("it is there");
        ProbePath {
            source: US[family],
            hop: Hop { gateway: Some(GATEWAY[family]), ifindex: IfIndex(dev), onlink: false },
            mark: FwMark { value: (n as u32 + 1) << 8, mask: 0x3F00 },
        }
    }

    fn request(&self, n: usize, family: usize, seq: u16) -> ProbeRequest {
        let id = ProbeId { uplink: UplinkSlot(n as u8), track: family as u8, seq, life: 7 };
        ProbeRequest { id, target: TARGET[family], path: self.path(n, family) }
    }

    /// Does something with a prober in the router.
    fn probing<T: Send>(&self, config: ProbeConfig, inside: impl FnOnce(&mut Session) -> T + Send) -> T {
        self.router
            .run(|| inside(&mut Session { prober: Prober::new(), clock: Clock::start(), config, heard: Vec::new() }))
    }
}

/// A prober at work.
struct Session {
    prober: Prober,
    clock: Clock,
    config: ProbeConfig,
    heard: Vec<Event>,
}

impl Session {
    fn send(&mut self, request: &ProbeRequest) -> Result<(), Errno> {
        self.prober.send(request, &self.config, self.clock.now())
    }

    fn look(&mut self) {
        let now = self.clock.now();
        let heard = &mut self.heard;
        self.prober.receive(now, &mut |event| heard.push(event));
    }

    /// Waits for what becomes of a probe.
    fn outcome(&mut self, id: ProbeId) -> (ProbeOutcome, Instant) {
        let mut found = None;
        let there = bed::until(PATIENCE, || {
            self.look();
            found = self.heard.iter().find_map(|e| match e {
                Event::Probe { id: of, outcome, at } if *of == id => Some((*outcome, *at)),
                _ => None,
            });
            found.is_some()
        });
        assert!(there.is_some(), "no word of {id:?}: {:?}", self.heard);
        found.expect("it was found")
    }

    fn ask(&mut self, request: &ProbeRequest) -> ProbeOutcome {
        self.send(request).expect("it leaves");
        self.outcome(request.id).0
    }

    /// Sends the probe again and again, by other numbers, until one of them is answered.
    fn wait_alive(&mut self, request: &ProbeRequest) {
        let mut request = *request;
        let there = bed::until(PATIENCE, || {
            request.id.seq = request.id.seq.wrapping_add(1);
            let _ = self.send(&request);
            std::thread::sleep(Duration::from_millis(10));
            self.look();
            let ours = |id: &ProbeId| (id.life, id.track) == (request.id.life, request.id.track);
            self.heard.drain(..).any(|e| matches!(e, Event::Probe { id, outcome: ANSWERED, .. } if ours(&id)))
        });
        assert!(there.is_some(), "never answered: {request:?}");
    }

    /// Words about a probe so far.
    fn words(&self, id: ProbeId) -> usize {
        self.heard.iter().filter(|e| matches!(e, Event::Probe { id: of, .. } if *of == id)).count()
    }
}

fn method(method: Method) -> ProbeConfig {
    ProbeConfig { method, ..ProbeConfig::default() }
}

fn word(text: &str) -> Word {
    Word::try_from(text).expect("it is short")
}

fn echoes() {
    let twins = Twins::new();
    for family in [0, 1] {
        for (seq, size) in [24, 1000, 1472, 5000, 65_507].into_iter().enumerate() {
            let config = ProbeConfig { size, ..ProbeConfig::default() };
            let outcome = twins.probing(config, |s| s.ask(&twins.request(0, family, seq as u16)));
            assert_eq!(outcome, ANSWERED, "family {family}, {size} bytes");
        }
    }
}

fn twins() {
    let twins = Twins::new();
    twins.probing(method(Method::Echo), |s| {
        let requests: Vec<ProbeRequest> =
            [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(n, family)| twins.request(n, family, 1)).to_vec();
        for request in &requests {
            s.send(request).expect("it leaves");
        }
        for request in &requests {
            assert_eq!(s.outcome(request.id).0, ANSWERED, "{request:?}");
        }
        // With one of them dead, only the other answers.
        for family in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"] {
            twins.isps[0].sysctl(family, "1").expect("a sysctl");
        }
        for family in [0, 1] {
            let (dead, alive) = (twins.request(0, family, 2), twins.request(1, family, 2));
            s.send(&dead).expect("it leaves");
            assert_eq!(s.ask(&alive), ANSWERED);
            assert_eq!(s.words(dead.id), 0);
        }
    });
}

fn neighbours() {
    let twins = Twins::new();
    twins.probing(method(Method::Neighbour), |s| {
        for n in [0, 1] {
            for family in [0, 1] {
                let request = ProbeRequest { target: GATEWAY[family], ..twins.request(n, family, 1) };
                assert_eq!(s.ask(&request), ANSWERED, "WAN {n}, family {family}");
            }
            // A link-local gateway, as router advertisements name it.
            let local = twins.isps[n].run(|| link_local("near"));
            let request = ProbeRequest { target: local, ..twins.request(n, 1, 2) };
            assert_eq!(s.ask(&request), ANSWERED, "{local} on WAN {n}");
        }
        // Nobody is there: the next word is about the next probe.
        let nobody = ProbeRequest { target: IpAddr::from([198, 51, 100, 77]), ..twins.request(0, 0, 3) };
        s.send(&nobody).expect("it leaves");
        let gateway = ProbeRequest { target: GATEWAY[0], ..twins.request(0, 0, 4) };
        assert_eq!(s.ask(&gateway), ANSWERED);
        assert_eq!(s.words(nobody.id), 0);
        // lo has no Ethernet.
        let path = ProbePath { hop: Hop { gateway: None, ifindex: IfIndex(1), onlink: false }, ..twins.path(0, 0) };
        let lo = ProbeRequest { path, ..twins.request(0, 0, 5) };
        assert_eq!(s.send(&lo), Err(Errno::EOPNOTSUPP));
    });
}

/// The link-local address of a device in the calling thread's namespace.
fn link_local(dev: &str) -> IpAddr {
    let mut found = None;
    bed::until(PATIENCE, || {
        let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with("fe80") && l.ends_with(dev)).map(str::to_owned);
        found = line.and_then(|l| u128::from_str_radix(&l[..32], 16).ok()).map(|n| IpAddr::V6(n.into()));
        found.is_some()
    });
    found.expect("a link-local address")
}

fn tcp() {
    let twins = Twins::new();
    let listeners = twins.isps[0].run(|| TARGET.map(|t| TcpListener::bind((t, 4430)).expect("a port")));
    let config = ProbeConfig { port: 4430, ..method(Method::Tcp) };
    twins.probing(config, |s| {
        for family in [0, 1] {
            let request = twins.request(0, family, 1);
            s.send(&request).expect("it leaves");
            // This one wakes its task by itself.
            let mut patience = wait::Timer::never();
            patience.set_at(std::time::Instant::now() + PATIENCE);
            let woken = wait::block_on(std::future::poll_fn(|cx| match s.prober.poll_ready(cx) {
                true => Poll::Ready(true),
                false => Pin::new(&mut patience).poll(cx).map(|()| false),
            }));
            assert!(woken, "never woken");
            assert_eq!(s.outcome(request.id).0, ANSWERED, "family {family}");
            // The twin has no such port.
            let closed = twins.request(1, family, 1);
            assert_eq!(s.ask(&closed), ProbeOutcome::Refused(Refusal::Closed), "family {family}");
            assert_eq!(s.prober.next_timeout(), None, "nothing is left over");
        }
    });
    drop(listeners);
}

/// A server of DNS in a thread: gives each query to `answer` and sends back what that makes of it. Ends with the test.
fn serve_dns(isp: &Netns, at: IpAddr, answer: impl Fn(&[u8], SocketAddr, &UdpSocket) + Send + 'static) {
    let socket = isp.run(|| UdpSocket::bind((at, 53)).expect("a port"));
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            answer(&query[..len], from, &socket);
        }
    });
}

/// An answer to a query, with records of type A or AAAA as the query wants, and a response code.
fn dns_answer(query: &[u8], code: u8, addr: Option<IpAddr>) -> Vec<u8> {
    let mut answer = query.to_vec();
    (answer[2], answer[3]) = (0x81, 0x80 | code);
    if let Some(addr) = addr {
        answer[7] = 1;
        let octets = match addr {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let kind = if addr.is_ipv4() { 1 } else { 28 };
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, octets.len() as u8]);
        answer.extend(octets);
    }
    answer
}

fn dns() {
    let twins = Twins::new();
    let config = |name: &str| ProbeConfig { name: word(name), ..method(Method::Dns) };
    for family in [0, 1] {
        serve_dns(&twins.isps[0], TARGET[family], |query, from, socket| {
            let send = |bytes: &[u8]| drop(socket.send_to(bytes, from));
            // The first label says what the server does.
            match query.get(13..16) {
                Some(b"ref") => send(&dns_answer(query, 5, None)),
                Some(b"non") => send(&dns_answer(query, 3, None)),
                Some(b"bad") => {
                    let mut wrong_id = dns_answer(query, 0, None);
                    wrong_id[1] ^= 1;
                    send(&wrong_id);
                    let mut wrong_name = dns_answer(query, 0, None);
                    wrong_name[13] = b'x';
                    send(&wrong_name);
                    send(&query[..7]);
                    send(query);
                }
                _ => send(&dns_answer(query, 0, None)),
            }
        });
        for (name, outcome) in [
            ("good.example", ANSWERED),
            ("", ANSWERED),
            ("none.example", ANSWERED),
            ("refused.example", ProbeOutcome::Refused(Refusal::BadAnswer)),
        ] {
            let heard = twins.probing(config(name), |s| s.ask(&twins.request(0, family, 1)));
            assert_eq!(heard, outcome, "{name}, family {family}");
        }
        twins.probing(config("bad.example"), |s| {
            let bad = twins.request(0, family, 1);
            s.send(&bad).expect("it leaves");
            s.config = config("good.example");
            assert_eq!(s.ask(&twins.request(0, family, 2)), ANSWERED);
            assert_eq!(s.words(bad.id), 0);
            // The twin has no server: its ICMP error says so, and the next query leaves all the same.
            for seq in [3, 4] {
                let refused = s.ask(&twins.request(1, family, seq));
                assert_eq!(refused, ProbeOutcome::Refused(Refusal::Unreachable), "family {family}");
            }
        });
    }
    let bad = twins.probing(config("a..b"), |s| s.send(&twins.request(0, 0, 1)));
    assert_eq!(bad, Err(Errno::EINVAL));
}

fn http() {
    let twins = Twins::new();
    for family in [0, 1] {
        let listener = twins.isps[0].run(|| TcpListener::bind((TARGET[family], 80)).expect("a port"));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut request = [0; 512];
                let len = stream.read(&mut request).unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..len]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or("").to_owned();
                let host = text.contains("\r\nHost: portal.example\r\n");
                let _ = match path.as_str() {
                    "/204" if host => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"),
                    "/slow" => {
                        let pieces: [&[u8]; 3] = [b"HT", b"TP/1.1 20", b"4 No Content\r\n\r\n"];
                        let _ = stream.set_nodelay(true);
                        pieces.iter().try_for_each(|p| stream.write_all(p))
                    }
                    "/portal" => stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n"),
                    "/garbage" => stream.write_all(b"\x16\x03\x01garbage"),
                    // As much as anybody reads.
                    "/endless" => std::iter::repeat_n(b"200 200 200 ", 1 << 16).try_for_each(|p| stream.write_all(p)),
                    _ => Ok(()),
                };
            }
        });
        let refused = |status| ProbeOutcome::Refused(Refusal::BadStatus(status));
        for (path, outcome) in [
            ("/204", ANSWERED),
            ("/slow", ANSWERED),
            ("/portal", refused(302)),
            ("/garbage", refused(0)),
            ("/endless", refused(0)),
            ("/closes", ProbeOutcome::Refused(Refusal::Closed)),
        ] {
            let config =
                ProbeConfig { port: 80, path: word(path), name: word("portal.example"), ..method(Method::Http) };
            let heard = twins.probing(config, |s| s.ask(&twins.request(0, family, 1)));
            assert_eq!(heard, outcome, "{path}, family {family}");
        }
    }
}

fn silent_connections() {
    let twins = Twins::new();
    // It never answers: nobody is at that address.
    let config = ProbeConfig { timeout: Duration::from_secs(3), ..method(Method::Tcp) };
    twins.probing(config, |s| {
        let nobody = |seq| ProbeRequest { target: IpAddr::from([198, 51, 100, 77]), ..twins.request(0, 0, seq) };
        let descriptors = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
        let mut sent = 0;
        while s.send(&nobody(sent)).is_ok() {
            sent += 1;
        }
        assert_eq!(usize::from(sent), linkwatch::limits::CONNECTIONS);
        assert_eq!(s.send(&nobody(sent)), Err(Errno::EMFILE));
        let (open, deadline) = (descriptors(), s.prober.next_timeout().expect("they are waited for"));
        assert!(deadline > s.clock.now());
        let heard = &mut s.heard;
        s.prober.on_timeout(deadline.after(Duration::from_secs(3)), &mut |e| heard.push(e));
        assert_eq!(s.prober.next_timeout(), None);
        assert!(s.heard.is_empty(), "forgotten in silence: {:?}", s.heard);
        assert!(descriptors() < open, "sockets stayed open");
        assert_eq!(s.send(&nobody(0)), Ok(()));
    });
}

/// A raw IPv4 socket for whole packets in a namespace.
struct Raw {
    fd: OwnedFd,
}

impl Raw {
    /// Sends packets with their own IP header, and hears echo requests.
    fn new(netns: &Netns) -> Self {
        let fd = netns.run(|| {
            // SAFETY: socket takes numbers and returns a new descriptor or -1.
            unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) }
        });
        assert!(fd >= 0, "a raw socket");
        // SAFETY: the descriptor is new and nobody else's.
        let raw = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        let on: libc::c_int = 1;
        // SAFETY: the value lives until the call returns and its size is passed with it.
        let done = unsafe { libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_HDRINCL, (&raw const on).cast(), 4) };
        assert_eq!(done, 0);
        raw
    }

    fn send(&self, source: IpAddr, target: IpAddr, message: &[u8]) {
        let packet = ip_v4(source, target, message);
        // SAFETY: sockaddr_in is plain data; all pointers outlive the call, with their sizes.
        let sent = unsafe {
            let mut to: libc::sockaddr_in = std::mem::zeroed();
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_addr.s_addr = u32::from_ne_bytes(octets(target));
            let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            libc::sendto(self.fd.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, (&raw const to).cast(), len)
        };
        assert_eq!(sent, packet.len() as isize, "{}", std::io::Error::last_os_error());
    }

    /// The next echo request that comes in: the ICMP message.
    fn echo_request(&self) -> Vec<u8> {
        loop {
            let mut buf = [0; 2048];
            // SAFETY: the buffer is as long as said.
            let len = unsafe { libc::recv(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
            let len = usize::try_from(len).expect("a packet");
            if buf[20] == 8 {
                return buf[20..len].to_vec();
            }
        }
    }
}

fn octets(addr: IpAddr) -> [u8; 4] {
    match addr {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(_) => panic!("IPv4 only"),
    }
}

fn ip_v4(source: IpAddr, target: IpAddr, message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    packet.extend(octets(source));
    packet.extend(octets(target));
    packet.extend(message);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

fn sealed(mut message: Vec<u8>) -> Vec<u8> {
    message[2..4].fill(0);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn reply_to(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[0] = 0;
    sealed(reply)
}

fn forgeries() {
    let twins = Twins::new();
    for isp in &twins.isps {
        isp.sysctl("ipv4/icmp_echo_ignore_all", "1").expect("a sysctl");
    }
    let (isp, other) = (Raw::new(&twins.isps[0]), Raw::new(&twins.isps[1]));
    twins.probing(method(Method::Echo), |s| {
        let request = twins.request(0, 0, 1);
        s.send(&request).expect("it leaves");
        let good = reply_to(&isp.echo_request());
        isp.send(IpAddr::from([203, 0, 113, 11]), US[0], &good);
        other.send(TARGET[0], US[0], &good);
        // Each byte of the payload behind the filter's tag, the sequence number, and the checksum.
        for at in [2, 6, 7].into_iter().chain(12..32) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            isp.send(TARGET[0], US[0], &if at == 2 { bad } else { sealed(bad) });
        }
        isp.send(TARGET[0], US[0], &good[..20]);
        // A marker that must be heard, sent last: what was not heard by then never is.
        let marker = twins.request(0, 0, 2);
        s.send(&marker).expect("it leaves");
        isp.send(TARGET[0], US[0], &reply_to(&isp.echo_request()));
        assert_eq!(s.outcome(marker.id).0, ANSWERED);
        assert_eq!(s.heard.len(), 1, "{:?}", s.heard);
        // The true reply still counts, however late.
        isp.send(TARGET[0], US[0], &good);
        assert_eq!(s.outcome(request.id).0, ANSWERED);
    });
}

fn flood() {
    let twins = Twins::new();
    let isp = Raw::new(&twins.isps[0]);
    twins.probing(method(Method::Echo), |s| {
        assert_eq!(s.ask(&twins.request(0, 0, 1)), ANSWERED);
        // Nobody reads meanwhile: a buffer takes a few hundred.
        let mut forged = [0; 32];
        for n in 0..20_000_u32 {
            forged[4..12].copy_from_slice(&u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            isp.send(TARGET[0], US[0], &sealed(forged.to_vec()));
        }
        assert_eq!(s.ask(&twins.request(0, 0, 2)), ANSWERED);
        assert_eq!(s.heard.len(), 2, "{:?}", s.heard);
    });
}

fn errors() {
    let twins = Twins::new();
    twins.isps[0].sysctl("ipv4/icmp_echo_ignore_all", "1").expect("a sysctl");
    let isp = Raw::new(&twins.isps[0]);
    let router = IpAddr::from([192, 0, 2, 1]);
    twins.probing(method(Method::Echo), |s| {
        for (seq, quoted, kind, refusal) in [
            (1, 32, 3, Refusal::Unreachable),
            (2, 8, 3, Refusal::Unreachable),
            (3, 12, 11, Refusal::Expired),
            (4, 32, 11, Refusal::Expired),
        ] {
            let request = twins.request(0, 0, seq);
            s.send(&request).expect("it leaves");
            let sent = isp.echo_request();
            let mut forged = sent.clone();
            forged[3] ^= 1;
            for (inner, from) in [(&forged, TARGET[0]), (&sent, IpAddr::from([203, 0, 113, 11]))] {
                // Wrong checksum, or about another target.
                let quote = &ip_v4(US[0], from, inner)[..20 + 8];
                isp.send(router, US[0], &sealed([&[kind, 1, 0, 0, 0, 0, 0, 0][..], quote].concat()));
            }
            let quote = &ip_v4(US[0], TARGET[0], &sent)[..20 + quoted];
            let code = u8::from(kind == 3);
            isp.send(router, US[0], &sealed([&[kind, code, 0, 0, 0, 0, 0, 0][..], quote].concat()));
            assert_eq!(s.outcome(request.id).0, ProbeOutcome::Refused(refusal), "{quoted} bytes quoted");
            assert_eq!(s.words(request.id), 1);
        }
        // The kernel's own errors, in both families.
        for (family, nowhere) in [(0, IpAddr::from([100, 64, 0, 1])), (1, "2001:db8:dead::1".parse().expect("one"))] {
            let request = ProbeRequest { target: nowhere, ..twins.request(0, family, 9) };
            assert_eq!(s.ask(&request), ProbeOutcome::Refused(Refusal::Unreachable), "family {family}");
        }
    });
}

fn not_sent() {
    let twins = Twins::new();
    for kind in [Method::Echo, Method::Dns, Method::Tcp] {
        twins.probing(method(kind), |s| {
            for family in [0, 1] {
                let good = twins.request(0, family, 1);
                let gone = ProbePath { hop: Hop { ifindex: IfIndex(4711), ..good.path.hop }, ..good.path };
                let sent = s.send(&ProbeRequest { path: gone, ..good });
                assert!(sent.is_err(), "{kind:?} by a device that is gone, family {family}");
                let foreign = [IpAddr::from([192, 0, 2, 99]), "2001:db8::99".parse().expect("one")][family];
                let sent = s.send(&ProbeRequest { path: ProbePath { source: foreign, ..good.path }, ..good });
                assert!(sent.is_err(), "{kind:?} from an address that is not ours, family {family}");
                let mixed = s.send(&ProbeRequest { target: TARGET[1 - family], ..good });
                assert_eq!(mixed, Err(Errno::EAFNOSUPPORT));
            }
        });
    }
    // No IPv6 on the device: said at once, each time.
    twins.router.sysctl("ipv6/conf/wan0/disable_ipv6", "1").expect("a sysctl");
    twins.probing(method(Method::Echo), |s| {
        for seq in 0..3 {
            assert!(s.send(&twins.request(0, 1, seq)).is_err());
        }
        assert_eq!(s.ask(&twins.request(0, 0, 1)), ANSWERED);
    });
    // The mark counts: without the rule for the device, only it leads out. The provider does not answer ARP for the
    // target as if it were on the link, which is what the kernel asks for then.
    twins.isps[0].sysctl("ipv4/conf/near/arp_ignore", "1").expect("a sysctl");
    twins.probing(method(Method::Echo), |s| {
        twins.router.rtnl(|r| {
            r.flush_rules(libc::AF_INET as u8);
            r.add_rule(libc::AF_INET, 2000, Some(0x100), None, 1).expect("a rule");
        });
        let marked = twins.request(0, 0, 5);
        let unmarked = ProbePath { mark: FwMark { value: 0, mask: 0x3F00 }, ..marked.path };
        let astray = ProbeRequest { path: unmarked, ..twins.request(0, 0, 4) };
        // Either refused, or asked for as if it were on the link: in no case answered.
        let _ = s.send(&astray);
        assert_eq!(s.ask(&marked), ANSWERED);
        assert_eq!(s.words(astray.id), 0);
    });
}

fn made_again() {
    let twins = Twins::new();
    for kind in [Method::Echo, Method::Neighbour] {
        twins.probing(method(kind), |s| {
            for life in 1..4 {
                for family in [0, 1] {
                    let target = if kind == Method::Neighbour { GATEWAY[family] } else { TARGET[family] };
                    let mut request = ProbeRequest { target, ..twins.request(0, family, 0) };
                    request.id.life = life;
                    s.wait_alive(&request);
                }
                twins.router.rtnl(|r| r.delete_link("wan0")).expect("it was there");
                twins.plug_in(0);
            }
        });
    }
}

fn names() {
    let twins = Twins::new();
    let found = [IpAddr::from([203, 0, 113, 80]), "2001:db8:80::1".parse().expect("an address")];
    serve_dns(&twins.isps[0], TARGET[0], move |query, from, socket| {
        let kind = query[query.len() - 3];
        let name = query.get(13..16);
        let addr = found[usize::from(kind == 28)];
        let answer = match name {
            Some(b"non") => dns_answer(query, 3, None),
            _ => dns_answer(query, 0, Some(addr)),
        };
        let _ = socket.send_to(&answer, from);
    });
    twins.probing(method(Method::Echo), |s| {
        let path = twins.path(0, 0);
        let mut resolve = |name: &str, family, resolvers: &[IpAddr]| {
            let now = s.clock.now();
            s.prober.resolve(UplinkSlot(0), 3, &path, name, family, resolvers, now).expect("somebody is asked");
            s.heard.clear();
            let there = bed::until(PATIENCE, || {
                let now = s.clock.now();
                s.look();
                let heard = &mut s.heard;
                s.prober.on_timeout(now, &mut |e| heard.push(e));
                !s.heard.is_empty()
            });
            assert!(there.is_some(), "no word of {name}");
            match s.heard[..] {
                [Event::Resolved { uplink: UplinkSlot(0), track: 3, addr }] => addr,
                _ => panic!("{:?}", s.heard),
            }
        };
        assert_eq!(resolve("www.example", Family::V4, &[TARGET[0]]), Some(found[0]));
        assert_eq!(resolve("www.example", Family::V6, &[TARGET[0]]), Some(found[1]));
        assert_eq!(resolve("none.example", Family::V4, &[TARGET[0]]), None);
        // The first refuses (no server), is silent (nobody there): the second is asked.
        assert_eq!(resolve("www.example", Family::V4, &[GATEWAY[0], TARGET[0]]), Some(found[0]));
        let silent = IpAddr::from([198, 51, 100, 77]);
        assert_eq!(resolve("www.example", Family::V4, &[silent, TARGET[0]]), Some(found[0]));
        // Nobody answers at all.
        assert_eq!(resolve("www.example", Family::V4, &[GATEWAY[0]]), None);
        let none = s.prober.resolve(UplinkSlot(0), 0, &path, "a..b", Family::V4, &[TARGET[0]], s.clock.now());
        assert_eq!(none, Err(Errno::EINVAL));
    });
}

fn thrifty() {
    let targets = "\tlist track_ip '203.0.113.10'\n\tlist track_ip '2001:db8:ffff::10'\n\tlist track_ip 'gateway'\n";
    let options = format!("{targets}\toption interval '100ms'\n\toption passive '0'\n");
    let setup = crate::Setup::new("thrifty", bed::lab::Port::Virtual, &crate::two_wans(&options));
    let number = |path: &str, name: &str, at: usize| -> u64 {
        let text = setup.lab.router.run(|| std::fs::read_to_string(path)).expect("proc");
        let mut found = text.lines().filter(|l| l.starts_with(name));
        let words = |line: Option<&str>| line.unwrap_or("").split_whitespace().nth(at).map(str::to_owned);
        words(found.next()).and_then(|w| w.parse().ok()).unwrap_or(0)
    };
    // Names stand in the line before the numbers.
    let sent = || {
        let text = setup.lab.router.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("proc");
        let mut lines = text.lines().filter(|l| l.starts_with("IcmpMsg:")).map(str::split_whitespace);
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let v4 = names.zip(values).find(|(n, _)| *n == "OutType8").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
        v4 + number("/proc/thread-self/net/snmp6", "Icmp6OutEchos", 1)
    };
    let process = setup.daemon.id();
    let woken = || number(&format!("/proc/{process}/status"), "voluntary_ctxt_switches", 1);
    // Once it answers by both and the window of asking for links is closed.
    std::thread::sleep(Duration::from_secs(3));
    let (sent_before, woken_before) = (sent(), woken());
    std::thread::sleep(Duration::from_secs(5));
    let (sent, woken) = (sent() - sent_before, woken() - woken_before);
    // Two WANs, four targets each (the gateway counts in both families), ten times a second.
    assert!((300..=500).contains(&sent), "{sent} probes in five seconds");
    assert!(woken <= sent + 5, "{sent} probes, woken {woken} times");
    assert_eq!(std::fs::read_dir(format!("/proc/{process}/task")).expect("proc").count(), 1, "threads");
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).expect("proc");
    assert_eq!(children, "", "processes");
}

fn stamps() {
    let twins = Twins::new();
    let config = [(Method::Echo, TARGET), (Method::Neighbour, GATEWAY)];
    for (kind, target) in config {
        twins.probing(method(kind), |s| {
            for family in [0, 1] {
                // The first one resolves the neighbour.
                let first = ProbeRequest { target: target[family], ..twins.request(0, family, 1) };
                assert_eq!(s.ask(&first), ANSWERED);
                let request = ProbeRequest { target: target[family], ..twins.request(0, family, 2) };
                s.send(&request).expect("it leaves");
                let sent = s.clock.now();
                // Long after the answer has come: it waits, and says when that was.
                std::thread::sleep(Duration::from_millis(300));
                let (outcome, at) = s.outcome(request.id);
                assert_eq!(outcome, ANSWERED);
                let after = at.since(sent);
                assert!(after < Duration::from_millis(200), "{kind:?} family {family}: {after:?} after it was sent");
            }
        });
    }
}

/// The provider's network dies behind its port: the carrier stays.
fn dies_silently() {
    let options = "\tlist track_ip '203.0.113.10'\n\tlist track_ip '2001:db8:ffff::10'\n\toption interval '50ms'\n";
    let setup = crate::Setup::new("silent", bed::lab::Port::Virtual, &crate::two_wans(options));
    setup.wait_way(0);
    let forwarding = |on: &str| {
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            setup.lab.isps[0].sysctl(name, on).expect("a sysctl");
        }
    };
    forwarding("0");
    setup.wait_way(1);
    forwarding("1");
    setup.wait_way(0);
}

/// What goes by WAN 2 is counted by nft while it stands by; at one probe a second instead of one in four minutes.
fn metered() {
    let options = "\tlist track_ip '203.0.113.10'\n\tlist track_ip '2001:db8:ffff::10'\n\toption metered '1'\n\
                   \toption standby_interval '1s'\n";
    let setup = crate::Setup::new("metered", bed::lab::Port::Virtual, &crate::two_wans(options));
    setup.wait_way(0);
    let nft = |words: &str| {
        let mut command = setup.lab.router.command("nft");
        command.args(words.split(' ')).output()
    };
    let rules = "add table inet bill ; add chain inet bill out { type filter hook output priority 10 ; } ; \
                 add chain inet bill in { type filter hook input priority -10 ; } ; add counter inet bill probes ; \
                 add rule inet bill out oifname wan2 icmp type echo-request counter name probes ; \
                 add rule inet bill out oifname wan2 icmpv6 type echo-request counter name probes ; \
                 add rule inet bill in iifname wan2 icmp type echo-reply counter name probes ; \
                 add rule inet bill in iifname wan2 icmpv6 type echo-reply counter name probes";
    match nft(rules) {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            println!("    skipped: no nft to count with ({error})");
            return;
        }
    }
    let counted = || -> (u64, u64) {
        let output = nft("list counter inet bill probes").expect("nft was there");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let after = |word: &str| {
            let mut words = text.split_whitespace().skip_while(|w| *w != word);
            words.nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        (after("packets"), after("bytes"))
    };
    // What a start costs is over by then.
    let begun = bed::until(crate::PATIENCE, || counted().0 > 4);
    assert!(begun.is_some(), "nothing is probed: {:#?}", setup.daemon.lines());
    let (before, start) = (counted(), std::time::Instant::now());
    let enough = bed::until(crate::PATIENCE, || counted().0 >= before.0 + 12);
    assert!(enough.is_some(), "too few probes: {:?}", counted());
    let (now, took) = (counted(), start.elapsed());
    let (packets, bytes) = (now.0 - before.0, now.1 - before.1);
    // A probe and its answer in a second: the pace that was asked for, and not one target each.
    assert!(took.as_millis() > 4500, "{packets} packets in {took:?}");
    let a_day = bytes * 2 / packets * (86_400 / 240);
    println!("    {} bytes a probe with its answer, {a_day} a day at one in 240 s", bytes * 2 / packets);
    assert!(a_day <= 100_000, "{a_day} bytes a day");
}
