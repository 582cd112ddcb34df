//! A day of four uplinks, as recorded on a router: what a trace must hold.
//!
//! A fibre, a cable, a DSL line and a mobile one, each asking one or more targets at its pace, with round trips that stray
//! as such lines do, late wake-ups, lost probes, and mishaps: a line that dies upstream for some minutes or loses its
//! carrier, again and again, by turns.

use std::fmt::Write as _;

use super::World;
use super::chance::Chance;
use crate::proto::config_file::{self, Dialect};
use crate::time::{Duration, Instant};
use crate::types::{IfIndex, IfName};

/// The lines: round trip, how far it strays, lost probes in a thousand.
const LINES: [(u64, u64, u64); 4] = [(6_000, 300, 0), (14_000, 1_500, 1), (19_000, 900, 2), (42_000, 9_000, 8)];

/// What kind of a day.
#[derive(Clone, Copy, Debug)]
pub struct Day {
    /// Targets of each uplink, at most 4.
    pub targets: usize,
    /// Between probes of a target.
    pub interval: Duration,
    /// How long the day is.
    pub length: Duration,
    /// Between mishaps.
    pub mishaps: Duration,
    /// Whether the uplink in use carries traffic, which then stands for probes.
    pub traffic: bool,
}

/// Lives through the day; what was recorded, and how many probes were sent.
pub fn record(day: &Day) -> (Vec<u8>, u32) {
    let mut text = String::new();
    for n in 0..LINES.len() {
        let millis = day.interval.as_millis();
        let _ =
            writeln!(text, "config interface 'wan{n}'\n\toption metric '{n}'\n\toption gateway '192.0.2.{}'", n + 1);
        let _ = writeln!(text, "\toption interval '{millis}ms'\n\toption failure_interval '{millis}ms'");
        let _ = writeln!(text, "\toption recovery_interval '{millis}ms'");
        for t in 0..day.targets {
            let _ = writeln!(text, "\tlist track_ip '198.51.100.{}'", 1 + t);
        }
    }
    let outcome = config_file::read(text.as_bytes(), Dialect::Linkwatch, &[]);
    let mut world = World::new(*outcome.config.unwrap_or_else(|| panic!("{:?}", outcome.errors)));
    let devices: Vec<IfName> = world.config.uplinks.iter().map(|u| u.device).collect();
    for (n, (device, (rtt, stray, loss))) in devices.iter().zip(LINES).enumerate() {
        world.kernel.create_link(*device, IfIndex(2 + n as u32), true, true);
        world.kernel.set_admin(*device, true);
        world.kernel.set_carrier(*device, true, Instant::ZERO);
        world.kernel.add_address(*device, [192, 0, 2, 100 + n as u8].into(), 24, true);
        let path = world.paths.at(*device);
        (path.rtt, path.stray, path.loss) = (Duration::from_micros(rtt), stray, loss);
        if day.traffic && n == 0 {
            path.traffic = (900, 500);
        }
    }
    world.wobble = Some((Chance::new(7), 240));
    world.records = true;
    world.start();
    let mut chance = Chance::new(11);
    let end = Instant::ZERO.after(day.length);
    let mut next = Instant::ZERO.after(day.mishaps);
    while world.now() < end {
        world.run_until(next.min(end));
        let device = devices[chance.below(4) as usize];
        let time = Duration::from_secs(2 + chance.below(120));
        if chance.one_in(2) {
            world.paths.at(device).dark = [true; 2];
            world.run_until(world.now().after(time));
            world.paths.at(device).dark = [false; 2];
        } else {
            let now = world.now();
            world.kernel.set_carrier(device, false, now);
            world.run_until(now.after(time));
            let now = world.now();
            world.kernel.set_carrier(device, true, now);
        }
        world.collect();
        next = world.now().after(day.mishaps);
    }
    world.stop_recording();
    let sent = world.paths.sent.values().sum();
    (world.recorded.pop().unwrap_or_default(), sent)
}
