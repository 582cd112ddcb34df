//! Many live flows at once from the LAN to the far host: of each numbered packet, whether it came and by which WAN.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::far::{flows, receive, with_interface};
use super::lab::{INET, Lab};
use super::stream::enlarge;

/// What arrived: by flow, by number, when and by which WAN (from 0).
type Arrived = Vec<Vec<Option<(Instant, usize)>>>;

/// Flows under way.
pub struct Live {
    stop: Arc<AtomicBool>,
    arrived: Arc<Mutex<Arrived>>,
    sender: JoinHandle<Vec<Vec<Instant>>>,
    receiver: JoinHandle<()>,
}

/// What became of one flow.
pub struct Track {
    /// When each packet was sent.
    pub sent: Vec<Instant>,
    /// When each arrived and by which WAN, if it did.
    pub arrived: Vec<Option<(Instant, usize)>>,
}

impl Live {
    /// Starts `count` flows of family 0 (IPv4) or 1 (IPv6) to a port of the far host, `per_second` packets of all together,
    /// one flow after the other.
    pub fn start(lab: &Lab, family: usize, port: u16, count: usize, per_second: u32) -> Self {
        let to = SocketAddr::new(INET[family], port);
        let receiving = lab.inet.run(|| UdpSocket::bind(to).expect("the far host's port is free"));
        enlarge(&receiving);
        with_interface(&receiving, family);
        receiving.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let index = |n: usize| lab.inet.rtnl(|r| r.index(&format!("isp{n}"))).expect("a port");
        let indexes: Vec<u32> = (0..lab.isps.len()).map(index).collect();
        let sending = flows(lab, family, count);
        sending.iter().for_each(|s| s.connect(to).expect("a default route in the LAN"));
        let stop = Arc::new(AtomicBool::new(false));
        let arrived: Arc<Mutex<Arrived>> = Arc::new(Mutex::new(vec![Vec::new(); count]));
        let sender = {
            let stop = stop.clone();
            std::thread::spawn(move || send(&sending, per_second, &stop))
        };
        let receiver = {
            let (stop, arrived) = (stop.clone(), arrived.clone());
            std::thread::spawn(move || note(&receiving, &indexes, &stop, &arrived))
        };
        Self { stop, arrived, sender, receiver }
    }

    /// By which WAN each flow's last packet came.
    pub fn ways(&self) -> Vec<Option<usize>> {
        let arrived = self.arrived.lock().expect("nobody panics with it");
        arrived.iter().map(|flow| flow.iter().rev().flatten().next().map(|(_, way)| *way)).collect()
    }

    /// Waits until every flow has had `more` packets through.
    pub fn wait_each(&self, more: usize, within: Duration) -> bool {
        let count = || -> Vec<usize> {
            let arrived = self.arrived.lock().expect("nobody panics with it");
            arrived.iter().map(|flow| flow.iter().flatten().count()).collect()
        };
        let before = count();
        let all = || {
            std::thread::sleep(Duration::from_millis(10));
            count().iter().zip(&before).all(|(now, before)| *now >= before + more)
        };
        super::until(within, all).is_some()
    }

    /// Ends it.
    pub fn stop(self) -> Vec<Track> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        self.receiver.join().expect("the receiver does not panic");
        let arrived = std::mem::take(&mut *self.arrived.lock().expect("nobody panics with it"));
        let track = |(sent, mut arrived): (Vec<Instant>, Vec<_>)| {
            arrived.resize(sent.len(), None);
            Track { sent, arrived }
        };
        sent.into_iter().zip(arrived).map(track).collect()
    }
}

impl Track {
    fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Option<(Instant, usize)>> {
        let all = self.sent.iter().zip(&self.arrived);
        all.filter(move |(sent, _)| **sent >= from && **sent < to).map(|(_, arrived)| arrived)
    }

    /// How many of the packets sent from `from` until `to` never arrived.
    pub fn lost(&self, from: Instant, to: Instant) -> usize {
        self.between(from, to).filter(|a| a.is_none()).count()
    }

    /// By which WANs the packets sent in that time came.
    pub fn ways(&self, from: Instant, to: Instant) -> BTreeSet<usize> {
        self.between(from, to).flatten().map(|(_, way)| *way).collect()
    }
}

fn send(sockets: &[UdpSocket], per_second: u32, stop: &AtomicBool) -> Vec<Vec<Instant>> {
    let mut sent = vec![Vec::new(); sockets.len()];
    let start = Instant::now();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let due = start + Duration::from_nanos(1_000_000_000 / u64::from(per_second) * number);
        let now = Instant::now();
        if due > now {
            std::thread::sleep(due - now);
        }
        let at = number as usize % sockets.len();
        let mut packet = [0; 8];
        packet[..4].copy_from_slice(&(at as u32).to_ne_bytes());
        packet[4..].copy_from_slice(&(sent[at].len() as u32).to_ne_bytes());
        sent[at].push(Instant::now());
        // A refusal is a loss like any other: the packet does not arrive.
        let _ = sockets[at].send(&packet);
    }
    sent
}

fn note(socket: &UdpSocket, indexes: &[u32], stop: &AtomicBool, arrived: &Mutex<Arrived>) {
    let mut last_look = false;
    loop {
        let Some((_, index, data)) = receive(socket) else {
            // Nothing for 50 ms after the end: all that is under way has arrived.
            if last_look {
                return;
            }
            last_look = stop.load(Ordering::Relaxed);
            continue;
        };
        let number = |at: usize| u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]) as usize;
        let Some(way) = indexes.iter().position(|i| *i == index) else { continue };
        let mut arrived = arrived.lock().expect("nobody panics with it");
        let flow = &mut arrived[number(0)];
        if flow.len() <= number(4) {
            flow.resize(number(4) + 1, None);
        }
        flow[number(4)] = Some((Instant::now(), way));
    }
}
