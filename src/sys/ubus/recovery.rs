//! Decides when an uplink that stays down is set up anew: netifd's interface down and up, which makes a modem attach again;
//! and if that does not help, a script of the board.
//!
//! Off unless `option recover` says after how long. After each try it waits as long again, and after each pair of tries
//! twice as long, up to an hour: what is broken for good is left in peace.

use crate::engine::{Engine, Hold, Reason};
use crate::proto::report::best_leg;
use crate::proto::ubus::mwan3::Standing;
use crate::time::{Duration, Instant};
use crate::types::{Name, UplinkSlot};

/// The longest wait between two tries.
const LONGEST: Duration = Duration::from_secs(3600);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Take netifd's interface down and up, both at once as `ifup` does: an end of ours in between must not leave it down.
    Interface(UplinkSlot),
    /// Run the board's script.
    Board(UplinkSlot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Interface,
    Board,
}

#[derive(Clone, Debug)]
struct Case {
    name: Name,
    next: Next,
    at: Instant,
    wait: Duration,
}

/// The uplinks that are down and looked after.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    cases: Vec<Case>,
}

impl Recovery {
    /// The next thing to do now.
    pub fn poll(&mut self, engine: &Engine, now: Instant) -> Option<Act> {
        let config = engine.config();
        self.cases.retain(|case| config.uplink_slot(&case.name).is_some_and(|slot| is_down(engine, slot).is_some()));
        for (slot, after) in &config.recover {
            let Some(since) = is_down(engine, *slot) else { continue };
            let Some(uplink) = config.uplinks.get(usize::from(slot.0)) else { continue };
            if !self.cases.iter().any(|c| c.name == uplink.name) {
                let at = since.after(*after).max(now);
                self.cases.push(Case { name: uplink.name.clone(), next: Next::Interface, at, wait: *after });
            }
        }
        let case = self.cases.iter_mut().find(|c| c.at <= now)?;
        let slot = config.uplink_slot(&case.name)?;
        let act = match case.next {
            Next::Interface => {
                case.next = Next::Board;
                Act::Interface(slot)
            }
            Next::Board => {
                case.next = Next::Interface;
                case.wait = case.wait.saturating_mul(2).min(LONGEST);
                Act::Board(slot)
            }
        };
        case.at = now.after(case.wait);
        Some(act)
    }

    /// When [`Recovery::poll`] is to be asked again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.cases.iter().map(|c| c.at).min()
    }
}

/// Since when it is down, unless an operator wants it so.
fn is_down(engine: &Engine, slot: UplinkSlot) -> Option<Instant> {
    let (config, uplink) = engine.uplinks().nth(usize::from(slot.0))?;
    let leg = best_leg(config, uplink);
    let wanted = uplink.hold == Hold::Down || leg.reason == Reason::Operator;
    (Standing::of(config, uplink) == Standing::Offline && !wanted).then_some(leg.since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, UplinkConfig};
    use crate::types::{IfName, UplinkId};

    fn engine() -> Engine {
        let mut config = Config::default();
        let uplink = UplinkConfig {
            name: Name::try_from("lte").expect("short"),
            id: UplinkId(1),
            device: IfName::new(b"wwan0").expect("a device name"),
            families: [true, false],
            gateway: None,
            gateway6: None,
            metric: 1,
            hold_down: Duration::ZERO,
            damping: None,
            probe: crate::config::ProbeConfig::default(),
            flush: Default::default(),
            sources: Default::default(),
            delegated: false,
            snat6: Default::default(),
        };
        config.uplinks.push(uplink).expect("room");
        config.recover.push((UplinkSlot(0), Duration::from_secs(300))).expect("room");
        Engine::new(&config, Instant::ZERO)
    }

    #[test]
    fn what_stays_down_is_set_up_anew_then_left_to_the_board_ever_more_seldom() {
        let engine = engine();
        let mut recovery = Recovery::default();
        let mut acts = Vec::new();
        let mut now = Instant::from_millis(1000);
        while now < Instant::from_millis(7_200_000) {
            while let Some(act) = recovery.poll(&engine, now) {
                acts.push((now.micros() / 1_000_000, act));
            }
            now = recovery.poll_timeout().expect("it goes on");
        }
        let (interface, board) = (Act::Interface(UplinkSlot(0)), Act::Board(UplinkSlot(0)));
        let times =
            [(300, interface), (600, board), (1200, interface), (1800, board), (3000, interface), (4200, board)];
        assert_eq!(acts[..6], times);
        assert_eq!(acts.len(), 7, "{acts:?}");
    }
}
