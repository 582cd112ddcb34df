//! The probes sent last, for answers that cannot say themselves which probe they answer.
//!
//! Echo replies need no memory, ARP and neighbour discovery need the addresses, DNS its number, and ICMP errors with a
//! short quote what they quote. The oldest is forgotten; its answer counts for nothing then.

use std::net::IpAddr;

use heapless::Deque;

use crate::engine::event::ProbeId;
use crate::limits;
use crate::time::Instant;

/// Probes remembered: several rounds to all targets.
const ROOM: usize = if limits::UPLINKS * limits::TARGETS > 32 { 2 * limits::UPLINKS * limits::TARGETS } else { 64 };

/// What kind of answer a probe waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// An error that quotes this identifier and checksum; the reply knows its way.
    Echo { id: u16, checksum: u16 },
    /// An ARP reply.
    Arp,
    /// A neighbour advertisement.
    Ndp,
    /// A DNS answer with this number.
    Dns { id: u16 },
}

/// A probe that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// What it waits for.
    pub wait: Wait,
    /// Which it is.
    pub probe: ProbeId,
    /// When it left.
    pub sent: Instant,
    /// By which device.
    pub ifindex: u32,
    /// From where.
    pub source: IpAddr,
    /// To whom.
    pub target: IpAddr,
}

/// The probes sent last.
#[derive(Default)]
pub struct Ring {
    probes: Deque<Pending, ROOM>,
}

impl Ring {
    /// Remembers one, and forgets the oldest if there is no room.
    pub fn push(&mut self, pending: Pending) {
        if self.probes.is_full() {
            self.probes.pop_front();
        }
        let _ = self.probes.push_back(pending);
    }

    /// The newest that fits.
    pub fn find(&self, fits: impl Fn(&Pending) -> bool) -> Option<&Pending> {
        self.probes.iter().rev().find(|p| fits(p))
    }

    /// Of each target the newest that fits: two targets may be the same neighbour.
    pub fn each_newest(&self, fits: impl Fn(&Pending) -> bool, mut sink: impl FnMut(&Pending)) {
        let same = |a: &Pending, b: &Pending| (a.probe.uplink, a.probe.track) == (b.probe.uplink, b.probe.track);
        for (at, pending) in self.probes.iter().enumerate().filter(|(_, p)| fits(p)) {
            let newer = self.probes.iter().skip(at.saturating_add(1));
            if !newer.into_iter().any(|n| same(n, pending) && fits(n)) {
                sink(pending);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::UplinkSlot;

    fn sent(track: u8, seq: u16) -> Pending {
        let addr = IpAddr::from([192, 0, 2, 1]);
        let probe = ProbeId { uplink: UplinkSlot(0), track, seq, life: 0 };
        let sent = Instant::from_millis(u64::from(seq));
        Pending { wait: Wait::Arp, probe, sent, ifindex: 1, source: addr, target: addr }
    }

    #[test]
    fn each_target_gets_the_newest_that_fits() {
        let mut ring = Ring::default();
        for (track, seq) in [(0, 1), (1, 1), (0, 2), (0, 3), (1, 2)] {
            ring.push(sent(track, seq));
        }
        let mut found = Vec::new();
        ring.each_newest(|p| p.sent <= Instant::from_millis(2), |p| found.push((p.probe.track, p.probe.seq)));
        assert_eq!(found, [(0, 2), (1, 2)]);
        assert_eq!(ring.find(|p| p.probe.track == 0).map(|p| p.probe.seq), Some(3));
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut ring = Ring::default();
        (0..=ROOM as u16).for_each(|seq| ring.push(sent(0, seq)));
        assert!(ring.find(|p| p.probe.seq == 0).is_none());
        assert!(ring.find(|p| p.probe.seq == 1).is_some());
    }
}
