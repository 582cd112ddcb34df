//! Names behind a real dnsmasq: each WAN's resolver is reachable through that WAN only, and the LAN asks one question once.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use linkwatch::proto::ubus::Status;

use super::Case;
use super::bed::lab::{LAN, Lab, wan_addresses};
use super::bed::until;
use super::served::Served;
use super::setup::{Asker, Bench, PATIENCE};

pub const CASES: &[Case] = &[("dns::names_resolve_soon_after_a_wan_died_and_no_question_is_lost_then", names)];

/// What the issue allows between the death of a WAN and the first name that resolves.
const SOON: Duration = Duration::from_secs(2);

/// A provider's resolver: every name is 203.0.113.10.
struct Resolver {
    stop: Arc<AtomicBool>,
    /// The newest question that came; they are numbered.
    newest: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Resolver {
    fn start(lab: &Lab, n: usize) -> Self {
        let (_, address, _) = wan_addresses(n)[0];
        let socket = lab.isps[n].run(|| UdpSocket::bind((address, 53)).expect("a provider's port is free"));
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, seen) = (stop.clone(), newest.clone());
        let thread = std::thread::spawn(move || {
            let mut buf = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buf) else { continue };
                // The question ends with its type and class; what follows (EDNS) is left out.
                let Some(name) = buf[12..len].iter().position(|b| *b == 0) else { continue };
                let question = &buf[12..(12 + name + 5).min(len)];
                let head = [buf[0], buf[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
                let answer = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 203, 0, 113, 10];
                // A byte of length, an n, the number.
                let number = buf[14..13 + usize::from(buf[12])].iter().fold(0, |n, b| n * 10 + usize::from(b & 0xf));
                seen.fetch_max(number, Ordering::Relaxed);
                let _ = socket.send_to(&[&head[..], question, &answer].concat(), from);
            }
        });
        Self { stop, newest, thread: Some(thread) }
    }

    fn newest(&self) -> usize {
        self.newest.load(Ordering::Relaxed)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A host in the LAN that asks each name once and never again.
struct Client {
    socket: UdpSocket,
    router: SocketAddr,
    next: u16,
}

impl Client {
    fn new(lab: &Lab) -> Self {
        let (router, host, _) = LAN[0];
        let socket = lab.lan.run(|| UdpSocket::bind((host, 0)).expect("a port"));
        Self { socket, router: SocketAddr::new(router, 53), next: 0 }
    }

    /// Whether a new name resolves within `patience`, asked once.
    fn resolves(&mut self, patience: Duration) -> bool {
        self.next += 1;
        let [high, low] = self.next.to_be_bytes();
        let label = format!("n{}", self.next);
        let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, label.len() as u8];
        query.extend_from_slice(label.as_bytes());
        query.extend_from_slice(b"\x07example\x03org\0\0\x01\0\x01");
        let _ = self.socket.send_to(&query, self.router);
        let end = Instant::now() + patience;
        let mut buf = [0; 512];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            match self.socket.recv(&mut buf) {
                // Without an error, with an answer.
                Ok(len) if len > 12 && buf[..2] == query[..2] => return buf[3] & 0xf == 0 && buf[7] > 0,
                _ => {}
            }
        }
    }
}

fn dnsmasq() -> Option<&'static Path> {
    ["/usr/sbin/dnsmasq", "/usr/bin/dnsmasq", "/sbin/dnsmasq"].map(Path::new).into_iter().find(|p| p.exists())
}

fn names() {
    let Some(program) = dnsmasq() else {
        println!("    skipped: no dnsmasq here (Debian: dnsmasq-base)");
        return;
    };
    let bench = Bench::usual("names");
    let served = Served::start(&bench.socket, 25);
    let mut asker = Asker::new(&served, &bench);
    let gateway = |n: usize| -> IpAddr { wan_addresses(n)[0].1 };
    let list: String = (0..2).map(|n| format!("# Interface wan{}\nnameserver {}\n", n + 1, gateway(n))).collect();
    let (source, target) = (bench.folder.write("auto", &list), bench.folder.at("resolvers"));
    let text = std::fs::read_to_string(&bench.config).expect("it is ours");
    let globals = format!(
        "config globals 'globals'\n\toption resolvers '{}'\n\toption resolvers_from '{}'\n",
        target.display(),
        source.display()
    );
    std::fs::write(&bench.config, globals + &text).expect("it is ours");
    let (status, said) = asker.call(&served, 0, "reload", |_| {});
    assert!(status == Status::OK && said.starts_with("{\"ok\":true"), "{said}");
    assert!(until(PATIENCE, || target.exists()).is_some());
    let resolvers = [Resolver::start(&bench.lab, 0), Resolver::start(&bench.lab, 1)];
    let mut command = bench.lab.router.command(program);
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--cache-size=0", "--pid-file"]);
    command.args(["--user=root", "--group=root", "--bind-interfaces"]);
    let log = bench.folder.at("dnsmasq.log");
    command.arg(format!("--log-facility={}", log.display()));
    command.arg(format!("--listen-address={}", LAN[0].0)).arg(format!("--resolv-file={}", target.display()));
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is a program");
    let mut client = Client::new(&bench.lab);
    let there = until(PATIENCE, || client.resolves(Duration::from_millis(100)));
    assert!(there.is_some(), "nothing resolves with both WANs");
    for (dead, alive) in [(0, 1), (1, 0)] {
        let cut = Instant::now();
        bench.lab.plug(dead, false);
        let first = until(PATIENCE, || client.resolves(Duration::from_millis(50)));
        let took = cut.elapsed();
        assert!(first.is_some() && took <= SOON, "wan{} is dead for {took:?} and nothing resolves", dead + 1);
        // A question that is under way while dnsmasq reads its list anew is lost in it, and its own tries may have led the
        // first one to the living resolver before. Once it has read the list, it is the other's resolver that is asked, and
        // none goes astray.
        let told = until(PATIENCE, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let read = text.rsplit("reading ").next().unwrap_or_default();
            let names = |n: usize| read.contains(&format!("using nameserver {}#53", gateway(n)));
            text.contains("reading ") && names(alive) && !names(dead)
        });
        assert!(told.is_some(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
        let before = usize::from(client.next);
        assert!(until(PATIENCE, || client.resolves(SOON)).is_some());
        let lost = (0..30).filter(|_| !client.resolves(SOON)).count();
        assert_eq!(lost, 0, "of 30 questions");
        assert!(resolvers[dead].newest() <= before, "the dead one was asked");
        assert_eq!(resolvers[alive].newest(), usize::from(client.next));
        println!("  wan{} dead: the first name resolved after {} ms, then 30 of 30", dead + 1, took.as_millis());
        bench.lab.plug(dead, true);
        let whole = until(PATIENCE, || std::fs::read_to_string(&target).is_ok_and(|t| t == list));
        assert!(whole.is_some(), "{:#?}", bench.daemon.lines());
    }
    let _ = server.kill();
    let _ = server.wait();
}
