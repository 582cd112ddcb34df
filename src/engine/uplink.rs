//! Decides when an uplink may carry traffic, for each address family by itself.
//!
//! Good news is believed slowly ([`State::HoldDown`]), bad news at once. Flaps are charged to [`Damping`]. The table of
//! transitions is the `match` in [`Leg::next_state`]; conditions are levels, read anew after every event.
//!
//! Holds one [`Uplink`] per enabled `interface` section, at most [`limits::UPLINKS`].
//! Sources: operational states (RFC 2863), flap damping (RFC 2439).

use core::net::IpAddr;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use super::command::Hold;
use super::damping::Damping;
use super::event::{AddressInfo, MainDefault};
use super::link::Watch;
use super::object::Hop;
use super::probe::Probing;
use crate::config::UplinkConfig;
use crate::limits;
use crate::time::{Duration, Instant, micros};
use crate::types::{Family, IfIndex, Prefix};

/// How long before the end of a hold-down the gateway is resolved: an entry left FAILED by the outage would cost up to
/// 0.8 s of packets otherwise.
const RESOLVE_AHEAD: Duration = Duration::from_millis(900);

/// How long a link may take to send after it got its carrier: the kernel's second, and some. Whatever shows longer that
/// it does not is a driver's whim, and asked all the same.
const SEND_WAIT: Duration = Duration::from_millis(1200);

/// State of one family of an uplink, best last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// The device does not exist.
    #[default]
    Absent,
    /// It cannot carry traffic; the [`Reason`] says why.
    Down,
    /// It flapped too much and is kept out until its penalty has decayed; used only if nothing better is there.
    Damped,
    /// It must stay good for a while first; used only if nothing better is there.
    HoldDown,
    /// It answers, but loses too much or takes too long; policies say what that means to them.
    Degraded,
    /// It carries traffic if a policy wants it.
    Up,
}

impl State {
    /// Whether traffic could leave by it: the four last ones.
    pub fn is_usable(self) -> bool {
        self >= Self::Damped
    }
}

/// Why a state is as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// No device of that name.
    #[default]
    NoDevice,
    /// The device is administratively down.
    AdminDown,
    /// No carrier.
    NoCarrier,
    /// No usable address of the family.
    NoAddress,
    /// No gateway: none configured, none in table main.
    NoGateway,
    /// All it needs is there again.
    Usable,
    /// It stayed good for its hold-down.
    HeldDown,
    /// It was usable when the daemon started.
    AtStart,
    /// An operator said so.
    Operator,
    /// Too many flaps.
    Flapping,
    /// The kernel refuses its default route.
    NoRoute,
    /// Too few probe targets answer.
    NoAnswer,
    /// Probe targets refuse.
    Refused,
    /// Probes cannot be sent.
    CannotSend,
    /// The names of its probe targets are not resolved.
    NoName,
    /// Too many probes are lost.
    Lossy,
    /// Probes take too long.
    Slow,
    /// Loss and latency are below their limits again.
    Recovered,
}

/// One family of an uplink.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Leg {
    /// What it is.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Since when in this life of the daemon.
    pub since: Instant,
    /// For how long it had been so in earlier lives.
    earlier: Duration,
    /// What it was in an earlier life, and for how long: until it is so again, or shows itself worse.
    kept: Option<(State, Duration)>,
    /// Its falls by probes: one family that comes and goes is kept out without the other.
    pub damping: Damping,
    /// Since when everything has been there.
    usable_since: Option<Instant>,
    /// Since when loss and latency have been below their limits; `None` while they are not.
    clean_since: Option<Instant>,
    /// The hold-down is over, but no target has answered yet.
    unproven: bool,
    /// When the gateway is to be resolved.
    pub(super) resolve_at: Option<Instant>,
    /// The family had a global address since the link came up.
    had_global: bool,
}

/// What a family of an uplink is to be judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    /// An operator holds it up: only what is missing keeps it down.
    pub held_up: bool,
    /// The first thing that is missing.
    pub missing: Option<Reason>,
    /// It flapped too much.
    pub suppressed: bool,
    /// It may be used without waiting for an answer, or one came.
    pub proven: bool,
    /// It loses too much, or takes too long.
    pub poor: Option<Reason>,
}

/// One WAN.
#[derive(Debug, Serialize, Deserialize)]
pub struct Uplink {
    /// Its link.
    pub watch: Watch,
    /// Its families, by [`Family::index`].
    pub legs: [Leg; 2],
    /// What an operator says of it.
    pub hold: Hold,
    /// Its probes.
    pub probing: Probing,
    /// Its flaps.
    pub damping: Damping,
    /// Carrier losses since the start, hidden ones included.
    pub flaps: u32,
    /// Probes sent, those of earlier lives of the daemon among them: what a metered uplink has cost.
    pub probes: u32,
    /// Whether `ignore_routes_with_linkdown` is set on this incarnation of the link, by [`Family::index`].
    pub(super) linkdown: [Setting; 2],
    addresses: Vec<Seen<AddressInfo>, { limits::ADDRESSES }>,
    defaults: Vec<Seen<MainDefault>, { limits::GATEWAYS }>,
    /// Since the last look at all of them some did not fit: when there is room again, another look is due.
    addresses_cut: bool,
    defaults_cut: bool,
}

/// A fact, and whether the dump that is running has shown it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Seen<T> {
    fact: T,
    seen: bool,
}

/// Something to be set once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Setting {
    #[default]
    Wanted,
    Asked,
    Done,
}

impl Uplink {
    /// An uplink of which nothing is known yet.
    pub fn new(config: &UplinkConfig, now: Instant) -> Self {
        let leg = Leg { since: now, ..Leg::default() };
        Self {
            watch: Watch::new(config.device),
            legs: [leg; 2],
            hold: Hold::Auto,
            probing: Probing::new(&config.probe),
            damping: Damping::default(),
            flaps: 0,
            probes: 0,
            linkdown: [Setting::default(); 2],
            addresses: Vec::new(),
            defaults: Vec::new(),
            addresses_cut: false,
            defaults_cut: false,
        }
    }

    /// Forgets what belonged to the link that is gone or was renamed.
    pub fn forget_link(&mut self) {
        self.addresses.clear();
        self.defaults.clear();
        self.linkdown = [Setting::default(); 2];
        for leg in &mut self.legs {
            leg.had_global = false;
        }
    }

    /// Whether an address is known as it is.
    pub fn knows_address(&self, news: &AddressInfo) -> bool {
        self.addresses.iter().any(|a| a.fact == *news)
    }

    /// Whether a default route of table main is known as it is.
    pub fn knows_default(&self, news: &MainDefault) -> bool {
        self.defaults.iter().any(|d| d.fact == *news)
    }

    /// Takes in an address. `false` when the table is full: it goes unwatched.
    pub fn address(&mut self, news: AddressInfo) -> bool {
        if let Some(leg) = self.legs.get_mut(Family::of(news.addr).index()) {
            leg.had_global |= news.usable && is_global(news.addr);
        }
        let news = Seen { fact: news, seen: true };
        match self.addresses.iter_mut().find(|a| a.fact.addr == news.fact.addr) {
            Some(known) => *known = news,
            None => {
                let full = self.addresses.push(news).is_err();
                self.addresses_cut |= full;
                return !full;
            }
        }
        true
    }

    /// Forgets an address. Whether one that did not fit may now have its place.
    pub fn address_gone(&mut self, addr: IpAddr) -> bool {
        self.addresses.retain(|a| a.fact.addr != addr);
        self.addresses_cut && !self.addresses.is_full()
    }

    /// A dump of all addresses begins.
    pub fn sweep_addresses_begin(&mut self) {
        self.addresses.iter_mut().for_each(|a| a.seen = false);
        self.addresses_cut = false;
    }

    /// The dump was whole: addresses that were not in it are gone. Whether one that did not fit may now have a place.
    pub fn sweep_addresses_end(&mut self) -> bool {
        self.addresses.retain(|a| a.seen);
        self.addresses_cut && !self.addresses.is_full()
    }

    /// A dump of one family's default routes begins.
    pub fn sweep_defaults_begin(&mut self, family: Family) {
        self.defaults.iter_mut().filter(|d| d.fact.family == family).for_each(|d| d.seen = false);
    }

    /// The dump was whole: default routes that were not in it are gone. Whether one that did not fit may now have a place.
    pub fn sweep_defaults_end(&mut self, family: Family) -> bool {
        self.defaults.retain(|d| d.seen || d.fact.family != family);
        self.has_room_for_defaults()
    }

    /// Said once: it leads to a look at both families.
    fn has_room_for_defaults(&mut self) -> bool {
        let room = self.defaults_cut && !self.defaults.is_full();
        self.defaults_cut &= !room;
        room
    }

    /// Takes in a default route of table main. When the table is full, the family that has more of them forgets the one
    /// with its worst metric: neither can crowd out the other's best.
    pub fn main_default(&mut self, news: MainDefault) {
        if let Some(known) = self.defaults.iter_mut().find(|d| d.fact == news) {
            known.seen = true;
            return;
        }
        if self.defaults.is_full() {
            self.defaults_cut = true;
            let same = self.defaults.iter().filter(|d| d.fact.family == news.family).count();
            let other = self.defaults.len().saturating_sub(same);
            let crowded = |d: &MainDefault| (d.family == news.family) == (same.saturating_add(1) >= other);
            let all = self.defaults.iter().enumerate().filter(|(_, d)| crowded(&d.fact));
            let worst = all.max_by_key(|(_, d)| d.fact.metric).map(|(at, d)| (at, d.fact));
            match worst {
                Some((at, fact)) if fact.family != news.family || fact.metric > news.metric => {
                    self.defaults.swap_remove(at);
                }
                _ => return,
            }
        }
        // Cannot fail: a place was just made.
        let _ = self.defaults.push(Seen { fact: news, seen: true });
    }

    /// Forgets default routes of table main. Whether one that did not fit may now have a place.
    pub fn main_default_gone(&mut self, which: &dyn Fn(&MainDefault) -> bool) -> bool {
        self.defaults.retain(|d| !which(&d.fact));
        self.has_room_for_defaults()
    }

    /// The addresses that traffic of ours may leave from.
    pub fn sources(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|a| a.fact).filter(|a| a.usable && is_global(a.addr)).map(|a| a.addr)
    }

    /// The address that probes of a family leave from: one in the gateway's network if there is one, else any that is
    /// valid beyond the link, else (IPv6 on PPP with a delegated prefix) one of the link.
    pub fn source(&self, family: Family, hop: Hop) -> Option<IpAddr> {
        let usable = || self.addresses.iter().map(|a| a.fact).filter(|a| a.usable && Family::of(a.addr) == family);
        let near = |a: &AddressInfo| {
            let net = Prefix::new(a.addr, a.prefix_len);
            is_global(a.addr) && hop.gateway.is_some_and(|g| net.is_some_and(|n| n.contains(g)))
        };
        let found = usable().find(near).or_else(|| usable().find(|a| is_global(a.addr)));
        found.or_else(|| usable().next().filter(|_| family == Family::V6)).map(|a| a.addr)
    }

    /// The way out that can be written into the kernel now, carrier or not; or what is missing.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn hop(&self, config: &UplinkConfig, family: Family) -> Result<Hop, Reason> {
        let link = self.watch.link().ok_or(Reason::NoDevice)?;
        if !link.admin_up {
            return Err(Reason::AdminDown);
        }
        let leg = self.legs.get(family.index()).ok_or(Reason::NoDevice)?;
        // A lost global address is news; one that was never there is not: on PPP with a delegated prefix the WAN has
        // nothing but its link-local address.
        let fits = |a: &AddressInfo| {
            a.usable && Family::of(a.addr) == family && (is_global(a.addr) || (family == Family::V6 && !leg.had_global))
        };
        if !self.addresses.iter().any(|a| fits(&a.fact)) {
            return Err(Reason::NoAddress);
        }
        let fixed = match family {
            Family::V4 => config.gateway.map(IpAddr::V4),
            Family::V6 => config.gateway6.map(IpAddr::V6),
        };
        if let Some(gateway) = fixed {
            let onlink = !self.covers(gateway);
            return Ok(Hop { gateway: Some(gateway), ifindex: link.ifindex, onlink });
        }
        let mut learned: Option<&MainDefault> = None;
        for default in self.defaults.iter().map(|d| &d.fact).filter(|d| d.family == family) {
            if learned.is_none_or(|best| default.metric < best.metric) {
                learned = Some(default);
            }
        }
        // The gateway's network may have left the link since; main's route still leads there, and so shall ours.
        let onlink = |hop: Hop| hop.onlink || hop.gateway.is_some_and(|g| !self.covers(g));
        learned.map(|d| Hop { onlink: onlink(d.hop), ..d.hop }).ok_or(Reason::NoGateway)
    }

    fn covers(&self, gateway: IpAddr) -> bool {
        if !is_global(gateway) {
            return true;
        }
        let mut covering = self.addresses.iter().map(|a| a.fact);
        covering.any(|a| Prefix::new(a.addr, a.prefix_len).is_some_and(|p| p.contains(gateway)))
    }

    /// The way out if traffic can take it now.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn usable(&self, config: &UplinkConfig, family: Family) -> Result<Hop, Reason> {
        let link = self.watch.link().ok_or(Reason::NoDevice)?;
        if link.admin_up && !link.carrier {
            return Err(Reason::NoCarrier);
        }
        self.hop(config, family)
    }

    /// The link's number.
    pub fn ifindex(&self) -> Option<IfIndex> {
        self.watch.ifindex()
    }
}

impl Leg {
    /// For how long it has been in its state, restarts of the daemon included.
    pub fn age(&self, now: Instant) -> Duration {
        self.earlier.saturating_add(now.since(self.since))
    }

    /// What it was when the daemon ended, and for how long. Before the first look only.
    pub(super) fn was(&mut self, state: State, age: Duration) {
        self.kept = Some((state, age));
    }

    /// Goes on with the age that was kept: a restart interrupts nothing. Who waits for its hold-down may still come back
    /// to what it was; whoever is found worse has begun anew.
    fn go_on(&mut self) {
        match self.kept {
            Some((state, age)) if state == self.state => {
                self.earlier = age.saturating_add(self.since.since(Instant::ZERO));
                self.kept = None;
            }
            Some(_) if self.state != State::HoldDown => self.kept = None,
            _ => {}
        }
    }

    /// Moves to the state that the facts call for; returns the state before, if it was another.
    pub(super) fn review(
        &mut self,
        health: Health,
        hold_down: Duration,
        trusted: Option<bool>,
        now: Instant,
    ) -> Option<State> {
        match health.missing {
            Some(_) => self.usable_since = None,
            None if self.usable_since.is_none() => {
                self.usable_since = Some(now);
                // At once, and again when the hold-down ends.
                self.resolve_at = Some(now);
            }
            None => {}
        }
        self.clean_since = if health.poor.is_some() { None } else { self.clean_since.or(Some(now)) };
        let held = self.hold_until(hold_down).is_some_and(|until| until <= now);
        let clean = self.clean_since.is_some_and(|since| since.after(hold_down) <= now);
        let (state, reason) = self.next_state(health, held, clean, trusted);
        self.unproven = held && state == State::HoldDown;
        let before = self.state;
        // Why it is down may change while it is; why it is up is why it came up.
        if state != before || !state.is_usable() {
            self.reason = reason;
        }
        if state != before {
            self.state = state;
            self.since = now;
            self.earlier = Duration::ZERO;
        }
        self.go_on();
        (state != before).then_some(before)
    }

    /// The table of transitions. `held`: the hold-down is over; `clean`: it was neither lossy nor slow for as long.
    /// `trusted` is said once, at the first look after a start: whether the kernel already used this uplink, or nothing
    /// was used at all.
    fn next_state(&self, health: Health, held: bool, clean: bool, trusted: Option<bool>) -> (State, Reason) {
        let Health { held_up, missing, suppressed, proven, poor } = health;
        match (missing, suppressed, self.state, poor) {
            (Some(Reason::NoDevice), ..) => (State::Absent, Reason::NoDevice),
            (Some(reason), ..) => (State::Down, reason),
            _ if held_up => (State::Up, Reason::Operator),
            (None, true, ..) => (State::Damped, Reason::Flapping),
            (None, false, State::Up | State::Degraded, Some(poor)) => (State::Degraded, poor),
            (None, false, State::Degraded, None) if clean => (State::Up, Reason::Recovered),
            (None, false, State::Up | State::Degraded, None) => (self.state, self.reason),
            (None, false, ..) if trusted == Some(true) && proven => (State::Up, Reason::AtStart),
            (None, false, _, Some(poor)) if held && proven => (State::Degraded, poor),
            (None, false, _, None) if held && proven => (State::Up, Reason::HeldDown),
            (None, false, ..) => (State::HoldDown, Reason::Usable),
        }
    }

    fn hold_until(&self, hold_down: Duration) -> Option<Instant> {
        self.usable_since.map(|since| since.after(hold_down))
    }

    /// When to look again though nothing happens: the end of the hold-down, or of a clean time.
    pub fn next(&self, hold_down: Duration) -> Option<Instant> {
        let waits = match self.state {
            State::HoldDown if !self.unproven => self.hold_until(hold_down),
            State::Degraded => self.clean_since.map(|since| since.after(hold_down)),
            _ => None,
        };
        Instant::first(&[waits, self.resolve_at])
    }

    /// The gateway is to be resolved, but the link does not send yet: whether to wait for that. The question would be
    /// dropped, and the kernel would not ask again for a second.
    pub(super) fn wait_to_send(&mut self, now: Instant) -> bool {
        let Some(until) = self.usable_since.map(|since| since.after(SEND_WAIT)).filter(|until| *until > now) else {
            return false;
        };
        self.resolve_at = Some(until);
        true
    }

    /// The gateway was asked to be resolved: when to do it once more.
    pub(super) fn resolved(&mut self, hold_down: Duration, now: Instant) {
        let again = self
            .hold_until(hold_down)
            .map(|until| Instant::from_micros(until.micros().saturating_sub(micros(RESOLVE_AHEAD))));
        self.resolve_at = again.filter(|again| *again > now && self.state == State::HoldDown);
    }
}

/// Whether an address can be a source beyond its link.
fn is_global(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => !a.is_link_local() && !a.is_loopback() && !a.is_unspecified(),
        IpAddr::V6(a) => !a.is_unicast_link_local() && !a.is_loopback() && !a.is_unspecified() && !a.is_multicast(),
    }
}
