//! A steady stream of numbered packets from the LAN to the far host, and what became of each of them.
//!
//! What the receiver's own buffer drops is not lost by the network: it is counted and reported apart.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::lab::{INET, Lab};

/// Packets of a flow, where there are several.
pub const PER_FLOW: usize = 150;

/// A stream under way.
pub struct Stream {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU32>,
    sender: JoinHandle<(Vec<Instant>, u32)>,
    receiver: JoinHandle<(Vec<Option<Instant>>, u32)>,
}

/// What became of the packets.
pub struct Outcome {
    /// When each was sent, in order.
    pub sent: Vec<Instant>,
    /// When each arrived, if it did.
    pub arrived: Vec<Option<Instant>>,
    /// How many the receiver's socket dropped.
    pub overflowed: u32,
    /// How many the sender's system refused to send.
    pub refused: u32,
}

/// Losses around an event.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Packets sent in the window that never arrived.
    pub packets: usize,
    /// From the event until the last lost packet was sent.
    pub outage: Duration,
}

impl Stream {
    /// Starts a stream of `per_second` packets of family 0 (IPv4) or 1 (IPv6).
    pub fn start(lab: &Lab, family: usize, per_second: u32) -> Self {
        Self::of_flows(lab, family, per_second, 1)
    }

    /// The same as many flows, one after the other, [`PER_FLOW`] packets each: a flow stays on the WAN that it began on,
    /// the next one shows where new ones go.
    pub fn of_flows(lab: &Lab, family: usize, per_second: u32, flows: usize) -> Self {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let to = SocketAddr::new(INET[family], 7000 + family as u16);
        let receiving = lab.inet.run(|| UdpSocket::bind(to).expect("the far host's port is free"));
        enlarge(&receiving);
        receiving.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let any: IpAddr = if family == 0 { [0; 4].into() } else { [0; 16].into() };
        let sending: Vec<UdpSocket> =
            lab.lan.run(|| (0..flows).map(|_| UdpSocket::bind((any, 0)).expect("a port")).collect());
        sending.iter().for_each(|s| s.connect(to).expect("a default route in the LAN"));
        let sender = {
            let stop = stop.clone();
            std::thread::spawn(move || send(&sending, per_second, &stop))
        };
        let receiver = {
            let (stop, received) = (stop.clone(), received.clone());
            std::thread::spawn(move || receive(&receiving, &stop, &received))
        };
        Self { stop, received, sender, receiver }
    }

    /// How many have arrived so far.
    pub fn received(&self) -> u32 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until `more` packets have arrived.
    pub fn wait_for(&self, more: u32, within: Duration) -> bool {
        let goal = self.received() + more;
        super::until(within, || self.received() >= goal).is_some()
    }

    /// Ends it.
    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, refused) = self.sender.join().expect("the sender does not panic");
        let (mut arrived, overflowed) = self.receiver.join().expect("the receiver does not panic");
        arrived.resize(sent.len(), None);
        Outcome { sent, arrived, overflowed, refused }
    }
}

impl Outcome {
    /// Packets that never arrived, less those that the receiver itself dropped.
    pub fn lost(&self) -> usize {
        let missing = self.arrived.iter().filter(|a| a.is_none()).count();
        missing.saturating_sub(self.overflowed as usize)
    }

    /// The lost packets as runs of numbers, with the seconds of the first: what a failed assertion shows.
    pub fn gaps(&self) -> String {
        let mut text = String::new();
        let mut lost = self.arrived.iter().enumerate().filter(|(_, a)| a.is_none()).map(|(n, _)| n).peekable();
        while let Some(first) = lost.next() {
            let mut last = first;
            while lost.next_if(|n| *n == last + 1).is_some() {
                last += 1;
            }
            let at = self.sent[first].duration_since(self.sent[0]);
            text += &format!("{first}-{last} at {:.3} s; ", at.as_secs_f64());
        }
        text
    }

    /// What was lost of the packets sent between `from` and `to`.
    pub fn loss(&self, from: Instant, to: Instant) -> Loss {
        // One that was under way when the event came belongs to the event.
        let early = from.checked_sub(Duration::from_millis(2)).unwrap_or(from);
        let mut loss = Loss { packets: 0, outage: Duration::ZERO };
        for (sent, _) in self.sent.iter().zip(&self.arrived).filter(|(s, a)| a.is_none() && **s >= early && **s < to) {
            loss.packets += 1;
            loss.outage = sent.saturating_duration_since(from);
        }
        loss
    }
}

fn send(sockets: &[UdpSocket], per_second: u32, stop: &AtomicBool) -> (Vec<Instant>, u32) {
    let (mut sent, mut refused) = (Vec::new(), 0);
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = start + Duration::from_nanos(1_000_000_000 / u64::from(per_second) * sent.len() as u64);
        let now = Instant::now();
        if due > now {
            std::thread::sleep(due - now);
        }
        // Late ones follow each other at once: the rate holds over any longer time.
        let mut packet = [0; 32];
        packet[..4].copy_from_slice(&(sent.len() as u32).to_ne_bytes());
        sent.push(Instant::now());
        let socket = &sockets[sent.len() / PER_FLOW % sockets.len()];
        // A refusal is a loss like any other: the packet does not arrive.
        refused += u32::from(socket.send(&packet).is_err());
    }
    (sent, refused)
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, received: &AtomicU32) -> (Vec<Option<Instant>>, u32) {
    let mut arrived: Vec<Option<Instant>> = Vec::new();
    let mut packet = [0; 64];
    let mut last_look = false;
    loop {
        match socket.recv(&mut packet) {
            Ok(_) => {
                let number = u32::from_ne_bytes([packet[0], packet[1], packet[2], packet[3]]) as usize;
                if arrived.len() <= number {
                    arrived.resize(number + 1, None);
                }
                arrived[number] = Some(Instant::now());
                received.fetch_add(1, Ordering::Relaxed);
            }
            // Nothing for 50 ms after the end: all that is under way has arrived.
            Err(_) if last_look => return (arrived, overflowed(socket)),
            Err(_) => last_look = stop.load(Ordering::Relaxed),
        }
    }
}

/// As large a receive buffer as we may have, so that a moment without the processor costs nothing.
pub fn enlarge(socket: &UdpSocket) {
    use std::os::fd::AsRawFd;
    for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
        let bytes: libc::c_int = 8 << 20;
        // SAFETY: the value lives until the call returns, and its size is passed with it. Failure leaves the old size.
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const bytes).cast(), 4) };
    }
}

/// What the socket dropped: the ninth number of `SO_MEMINFO` (`linux/sock_diag.h`).
fn overflowed(socket: &UdpSocket) -> u32 {
    use std::os::fd::AsRawFd;
    const SO_MEMINFO: libc::c_int = 55;
    let mut numbers = [0_u32; 9];
    let mut len = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: both live until the call returns, and len says how large the array is.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, numbers.as_mut_ptr().cast(), &raw mut len)
    };
    if answer == 0 { numbers[8] } else { 0 }
}
