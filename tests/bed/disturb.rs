//! Random disturbances, one after the other, and how long the kernel's state takes to be as it should after each.
//!
//! What should be is what a fresh daemon would write: after each disturbance one is asked for its plan, in this process,
//! until the plan is empty and packets leave by the WAN they should.
//!
//! The same table is disturbed at most every 0.6 s: more often is a fight, and the daemon answers a fight by waiting.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use linkwatch::config::Config;
use linkwatch::proto::config_file::{self, Dialect};
use linkwatch::sys::daemon::{Daemon, Options, Ubus};

use super::lab::{Lab, Port, wan_addresses};

/// Between two disturbances of the same table.
const PEACE: Duration = Duration::from_millis(600);

/// A disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unplugged,
    AdminDown,
    Address4Gone,
    Address6Gone,
    DeviceGone,
    Mended,
    Bounced,
    RulesFlushed,
    RulesDeleted,
    RoutesDeleted,
    NexthopsDeleted,
}

/// One that was made good.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub kind: Kind,
    /// The WAN, where it was about one.
    pub wan: usize,
    /// From the end of the disturbance until a look that began after it found everything as it should be.
    pub took: Duration,
}

/// Disturbs a lab with a daemon in it.
pub struct Disturber<'a> {
    lab: &'a Lab,
    config: Config,
    state: PathBuf,
    random: u64,
    broken: Option<(Kind, usize)>,
    /// When rules, routes and nexthops were disturbed last.
    last: [Option<Instant>; 3],
}

impl<'a> Disturber<'a> {
    /// One whose choices follow from `seed`; `state` names a state file of its own.
    pub fn new(lab: &'a Lab, config: &str, state: PathBuf, seed: u64) -> Self {
        let config =
            config_file::read(config.as_bytes(), Dialect::Linkwatch, &[]).config.expect("a good configuration");
        Self { lab, config: *config, state, random: seed, broken: None, last: [None; 3] }
    }

    /// Disturbs once and waits until all is well again.
    ///
    /// # Errors
    /// It was not within `patience`: what was missing then.
    pub fn step(&mut self, patience: Duration) -> Result<Step, String> {
        let (kind, wan) = self.choose();
        self.disturb(kind, wan);
        let done = Instant::now();
        let mut missing = String::new();
        while done.elapsed() < patience {
            missing = self.missing();
            if missing.is_empty() {
                return Ok(Step { kind, wan, took: done.elapsed() });
            }
        }
        Err(format!("{kind:?} of WAN {wan} while {:?}: after {patience:?} still {missing}", self.broken))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn choose(&mut self) -> (Kind, usize) {
        let tables = [Kind::RulesFlushed, Kind::RulesDeleted, Kind::RoutesDeleted, Kind::NexthopsDeleted];
        let rested = |at: &Option<Instant>| at.is_none_or(|at| at.elapsed() >= PEACE);
        let table = tables[self.below(4) as usize];
        if self.below(3) == 0 && rested(&self.last[place(table)]) {
            self.last[place(table)] = Some(Instant::now());
            return (table, 0);
        }
        if let Some((_, wan)) = self.broken {
            return (Kind::Mended, wan);
        }
        let links =
            [Kind::Unplugged, Kind::AdminDown, Kind::Address4Gone, Kind::Address6Gone, Kind::DeviceGone, Kind::Bounced];
        (links[self.below(6) as usize], self.below(2) as usize)
    }

    fn disturb(&mut self, kind: Kind, wan: usize) {
        let (router, name) = (&self.lab.router, &self.lab.wans[wan]);
        let addresses = wan_addresses(wan);
        match kind {
            Kind::Unplugged => self.lab.plug(wan, false),
            Kind::AdminDown => router.rtnl(|r| r.set_up(name, false)).expect("down"),
            Kind::Address4Gone | Kind::Address6Gone => {
                let (address, _, len) = addresses[usize::from(kind == Kind::Address6Gone)];
                router.rtnl(|r| r.delete_address(name, address, len)).expect("it is there");
            }
            Kind::DeviceGone => router.rtnl(|r| r.delete_link(name)).expect("it is there"),
            Kind::Bounced => {
                let pause = Duration::from_micros(self.below(20_000));
                self.lab.plug(wan, false);
                std::thread::sleep(pause);
                self.lab.plug(wan, true);
            }
            Kind::Mended => self.mend(),
            Kind::RulesFlushed => router.rtnl(|r| [2, 10].into_iter().for_each(|family| r.flush_rules(family))),
            Kind::RulesDeleted | Kind::RoutesDeleted | Kind::NexthopsDeleted => {
                // Each by chance, at least one.
                let (chance, sure) = (self.below(u64::MAX), self.below(4) as usize);
                let hit = |n: usize| n == sure || chance >> (n % 64) & 1 == 1;
                let family = if self.below(2) == 0 { 2 } else { 10 };
                router.rtnl(|r| match kind {
                    Kind::RulesDeleted => r.delete_own_rules(family, hit),
                    Kind::RoutesDeleted => r.delete_own_routes(family, hit),
                    _ => r.delete_own_nexthops(|id| hit(id as usize)),
                });
            }
        }
        if matches!(
            kind,
            Kind::Unplugged | Kind::AdminDown | Kind::Address4Gone | Kind::Address6Gone | Kind::DeviceGone
        ) {
            self.broken = Some((kind, wan));
        }
    }

    /// Undoes what is broken, as a person and netifd would.
    fn mend(&mut self) {
        let Some((kind, wan)) = self.broken.take() else { return };
        let (router, name) = (&self.lab.router, &self.lab.wans[wan]);
        let [(v4, _, len4), (v6, _, len6)] = wan_addresses(wan);
        match kind {
            Kind::Unplugged => return self.lab.plug(wan, true),
            Kind::DeviceGone => return self.lab.plug_in(wan, Port::Virtual).expect("a new cable"),
            // IPv6 addresses go when a link goes down.
            Kind::AdminDown => router.rtnl(|r| r.set_up(name, true).and_then(|()| r.add_address(name, v6, len6))),
            Kind::Address6Gone => router.rtnl(|r| r.add_address(name, v6, len6)),
            _ => router.rtnl(|r| r.add_address(name, v4, len4)),
        }
        .expect("up and with its addresses");
        self.lab.netifd_routes(wan).expect("netifd's routes");
    }

    /// What is not as it should be; empty if all is well.
    fn missing(&self) -> String {
        for family in [0, 1] {
            let (way, should) = (self.lab.way(family), self.should(family));
            if way != Some(should) {
                return format!("family {family} leaves by {way:?} instead of {should}");
            }
        }
        // A fresh daemon takes the link-local address that is left for enough; one that has seen more does not.
        if self.broken.is_some_and(|(kind, _)| kind == Kind::Address6Gone) {
            return String::new();
        }
        let options = Options { state: self.state.clone(), control: None, ubus: Ubus::Off, receive_buffer: None };
        let plan = self.lab.router.run(|| {
            let mut daemon = Daemon::open(&self.config, options)?;
            linkwatch::sys::wait::block_on(daemon.plan())
        });
        match plan {
            Ok(changes) => changes.join("; "),
            Err(error) => error.to_string(),
        }
    }

    /// The WAN by which a family should leave.
    fn should(&self, family: usize) -> usize {
        let hits_first = |(kind, wan)| {
            let other = [Kind::Address6Gone, Kind::Address4Gone][family];
            wan == 0 && kind != other
        };
        usize::from(self.broken.is_some_and(hits_first))
    }
}

fn place(table: Kind) -> usize {
    match table {
        Kind::RulesFlushed | Kind::RulesDeleted => 0,
        Kind::RoutesDeleted => 1,
        _ => 2,
    }
}
