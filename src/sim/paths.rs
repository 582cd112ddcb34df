//! Decides what becomes of probes in the pretend world: answered after the path's time, lost, refused, or not sent.
//!
//! Answers wait in the socket, as they do in the shell: the engine reads them when something else wakes it.

use std::collections::HashMap;
use std::net::IpAddr;

use super::chance::Chance;
use super::kernel::FakeKernel;
use crate::engine::action::ProbeRequest;
use crate::engine::event::{Event, ProbeOutcome};
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, IfName};

/// What lies behind an uplink's device.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Nothing comes back, by [`Family::index`].
    pub dark: [bool; 2],
    /// Round-trip time.
    pub rtt: Duration,
    /// How far a round trip strays from that, microseconds; one in fifty strays eight times as far.
    pub stray: u64,
    /// How many of a thousand probes are lost.
    pub loss: u64,
    /// What the device carries between two looks: packets in, packets out.
    pub traffic: (u32, u32),
}

impl Default for Path {
    fn default() -> Self {
        Self { dark: [false; 2], rtt: Duration::from_millis(10), stray: 0, loss: 0, traffic: (0, 0) }
    }
}

/// All paths, and the targets that are dead wherever they are asked from.
#[derive(Debug)]
pub struct Paths {
    by_device: HashMap<IfName, Path>,
    /// Answer nobody.
    pub dead: Vec<IpAddr>,
    /// What names resolve to; those that are not here do not.
    pub names: HashMap<String, IpAddr>,
    /// Counters of packets, by device.
    counters: HashMap<IfName, (u32, u32)>,
    /// Probes sent, by device.
    pub sent: HashMap<IfName, u32>,
    chance: Chance,
}

impl Paths {
    /// Bright ones.
    pub fn new() -> Self {
        Self {
            by_device: HashMap::new(),
            dead: Vec::new(),
            names: HashMap::new(),
            counters: HashMap::new(),
            sent: HashMap::new(),
            chance: Chance::new(1),
        }
    }

    /// The path behind a device.
    pub fn at(&mut self, device: IfName) -> &mut Path {
        self.by_device.entry(device).or_default()
    }

    /// Whether a target would answer by that device now.
    pub fn answers(&self, device: IfName, target: IpAddr) -> bool {
        let dark = self.by_device.get(&device).is_some_and(|p| p.dark[Family::of(target).index()]);
        !dark && !self.dead.contains(&target)
    }

    /// Whether nothing comes back by that device in a family.
    pub fn is_dark(&self, device: IfName, family: Family) -> bool {
        self.by_device.get(&device).is_some_and(|p| p.dark[family.index()])
    }

    /// Whether probes are lost by chance by that device.
    pub fn is_lossy(&self, device: IfName) -> bool {
        self.by_device.get(&device).is_some_and(|p| p.loss > 0)
    }

    /// Sends a probe: when the socket has what, if anything.
    pub fn send(&mut self, kernel: &FakeKernel, request: &ProbeRequest, now: Instant) -> Option<(Instant, Event)> {
        let event = |outcome, at| Event::Probe { id: request.id, outcome, at };
        let Some(device) = kernel.link_name(request.path.hop.ifindex) else {
            return Some((now, event(ProbeOutcome::NotSent(Errno::ENODEV), now)));
        };
        if !kernel.has_address(device, request.path.source) {
            return Some((now, event(ProbeOutcome::NotSent(Errno::EINVAL), now)));
        }
        *self.sent.entry(device).or_default() += 1;
        let path = *self.at(device);
        let lost = self.chance.below(1000) < path.loss;
        if !kernel.has_carrier(device) || lost || !self.answers(device, request.target) {
            return None;
        }
        let mut at = now.after(path.rtt);
        if path.stray > 0 {
            // Three dice: most often near the middle.
            let stray: u64 = (0..3).map(|_| self.chance.below(path.stray)).sum();
            at = at.after(Duration::from_micros(stray * if self.chance.one_in(50) { 8 } else { 1 }));
        }
        Some((at, event(ProbeOutcome::Answered, at)))
    }

    /// What a device has carried, one look further on.
    pub fn count(&mut self, device: IfName) -> (u32, u32) {
        let (received, sent) = self.at(device).traffic;
        let counted = self.counters.entry(device).or_default();
        *counted = (counted.0.wrapping_add(received), counted.1.wrapping_add(sent));
        *counted
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self::new()
    }
}
