//! A pretend kernel: links, addresses, routes, rules and nexthops that behave as Linux does where it matters to us.
//!
//! What it shows, and where that was seen:
//! - A physical port's carrier *loss* reaches the network stack and the listeners at most once a second, kernel-wide
//!   (`net/core/link_watch.c`): the first after a quiet second at once, later ones up to 1 s late, a short bounce as a
//!   single "up". Asking for the link tells the truth and flushes what was pending for it (Linux 6.8 and later). Until the
//!   stack has noticed, routes and nexthops on the port stay as they were.
//! - When it has noticed, the nexthops on the port go without a message, then groups left empty, then the routes that
//!   used them. Plain routes stay and are passed over if `ignore_routes_with_linkdown` is set on the device.
//! - IPv4 routes go without a message when the device goes down or away or loses its last address; IPv6 routes go with a
//!   message when the device goes down or away, and stay when the address goes.
//! - `EEXIST`, `ESRCH`, `EINVAL`, `ENODEV`, `ENETDOWN` and `ENETUNREACH` come where Linux 6.18 gives them.
//!
//! It never tells us of our own changes, and tells of everybody else's, unless told to be deaf, slow or forgetful
//! ([`Faults`]). Everything it says is left in [`FakeKernel::take_output`]; when that arrives is the world's business.

mod flows;
mod lookup;
mod requests;

use std::net::IpAddr;

pub use flows::FakeFlows;

use crate::engine::event::{AddressInfo, Event, Feed, LinkInfo, LinkSource, MainDefault};
use crate::engine::object::{Group, NexthopBody, NexthopSpec, RouteSpec, RouteTarget, RuleSpec, TABLE_MAIN};
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, IfIndex, IfName};

/// 1 s: `HZ` in `link_watch.c`, the shortest time between two batches of announcements.
const WINDOW: Duration = Duration::from_secs(1);

/// The way by which something reaches the daemon; each keeps its order, none waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The socket of link announcements.
    Links,
    /// The socket of all other announcements.
    State,
    /// The socket of requests and answers.
    Requests,
    /// No socket: the answer of a file write, or what the daemon does to itself.
    Local,
}

impl Channel {
    /// The place in a four-element array.
    pub fn index(self) -> usize {
        match self {
            Self::Links => 0,
            Self::State => 1,
            Self::Requests => 2,
            Self::Local => 3,
        }
    }
}

impl From<Feed> for Channel {
    fn from(feed: Feed) -> Self {
        match feed {
            Feed::Links => Self::Links,
            Feed::State => Self::State,
            Feed::Requests => Self::Requests,
        }
    }
}

/// What goes wrong, and how often still.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The next change requests are refused with these.
    pub refuse: Vec<Errno>,
    /// This many answers to change requests get lost; the change itself is made.
    pub lose_acks: u32,
    /// This many dumps end as interrupted.
    pub interrupt_dumps: u32,
    /// This many dumps end as failed with `EBUSY`.
    pub fail_dumps: u32,
    /// Channels whose messages get lost, by [`Channel::index`].
    pub deaf: [bool; 4],
}

/// A link as it truly is.
#[derive(Clone, Debug)]
pub struct Link {
    /// Unique for ever, whatever happens to names and numbers.
    pub generation: u64,
    /// `ifi_index`
    pub ifindex: IfIndex,
    /// `IFLA_IFNAME`
    pub name: IfName,
    /// `IFF_UP`
    pub admin_up: bool,
    /// The carrier, as the driver knows it.
    pub carrier: bool,
    /// The carrier, as the network stack has noticed it.
    noticed: bool,
    /// Whether it is a port, with late announcements, or a stacked device, announced at once.
    pub physical: bool,
    /// A change of carrier waits for the next batch.
    pending: bool,
    up_count: u32,
    down_count: u32,
    /// `ignore_routes_with_linkdown`, by [`Family::index`].
    pub ignore_linkdown: [bool; 2],
}

impl Link {
    /// Whether it can carry a packet, in truth.
    pub fn is_live(&self) -> bool {
        self.admin_up && self.carrier
    }

    fn info(&self) -> LinkInfo {
        let running = self.admin_up && self.noticed;
        LinkInfo {
            ifindex: self.ifindex,
            name: self.name,
            admin_up: self.admin_up,
            carrier: self.is_live(),
            running,
            operstate: if running { 6 } else { 2 },
            up_count: self.up_count,
            down_count: self.down_count,
        }
    }
}

/// A route and whether it is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The route.
    pub spec: RouteSpec,
    /// Whether it carries our protocol.
    pub own: bool,
}

/// The pretend kernel.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel {
    links: Vec<Link>,
    addresses: Vec<AddressInfo>,
    routes: Vec<Route>,
    rules: Vec<RuleSpec>,
    nexthops: Vec<NexthopSpec>,
    generation: u64,
    /// Before this no batch of announcements goes out.
    window_ends: Instant,
    out: Vec<(Channel, Event)>,
    /// What goes wrong.
    pub faults: Faults,
    /// A kernel before 6.8: asking for a link does not flush its announcement.
    pub old_link_watch: bool,
    /// A kernel without nexthop objects (before 5.3).
    pub no_nexthops: bool,
    /// A kernel without resilient nexthop groups (before 5.13).
    pub no_resilient: bool,
    /// nft and connection tracking.
    pub flows: FakeFlows,
    /// A kernel without IPv6.
    pub no_ipv6: bool,
    /// Foreign objects that a request of ours changed or took away: must stay empty.
    pub foreign_harmed: Vec<String>,
    /// How many change requests came.
    pub requests: u64,
}

/// What a lookup in one table found.
enum Found {
    Out(IfIndex),
    Stop,
}

impl FakeKernel {
    /// A kernel with nothing but its own three rules.
    pub fn new() -> Self {
        Self::default()
    }

    // ---- what happens to it ----

    /// Creates a link that is administratively up. A link of that name or number must not be there; then nothing happens.
    pub fn create_link(&mut self, name: IfName, ifindex: IfIndex, carrier: bool, physical: bool) -> bool {
        if self.links.iter().any(|l| l.name == name || l.ifindex == ifindex) {
            return false;
        }
        self.generation += 1;
        let link = Link {
            generation: self.generation,
            ifindex,
            name,
            admin_up: true,
            carrier,
            noticed: carrier,
            physical,
            pending: false,
            up_count: u32::from(carrier),
            down_count: 1,
            ignore_linkdown: [false; 2],
        };
        self.announce(&link);
        self.links.push(link);
        true
    }

    /// Deletes a link with everything on it.
    pub fn delete_link(&mut self, name: IfName) -> bool {
        let Some(ifindex) = self.ifindex_of(name) else { return false };
        self.stack_down(ifindex, true);
        for address in self.addresses.extract_if(.., |a| a.ifindex == ifindex).collect::<Vec<_>>() {
            self.say(Channel::State, Event::AddressGone { ifindex, addr: address.addr });
        }
        self.links.retain(|l| l.ifindex != ifindex);
        self.say(Channel::Links, Event::LinkGone(ifindex));
        true
    }

    /// Gives a link another name.
    pub fn rename_link(&mut self, name: IfName, to: IfName) -> bool {
        if self.links.iter().any(|l| l.name == to) {
            return false;
        }
        let Some(link) = self.links.iter_mut().find(|l| l.name == name) else { return false };
        link.name = to;
        let link = link.clone();
        self.announce(&link);
        true
    }

    /// Plugs or pulls the cable.
    pub fn set_carrier(&mut self, name: IfName, carrier: bool, now: Instant) -> bool {
        let Some(link) = self.links.iter_mut().find(|l| l.name == name && l.carrier != carrier) else { return false };
        link.carrier = carrier;
        match carrier {
            true => link.up_count = link.up_count.wrapping_add(1),
            false => link.down_count = link.down_count.wrapping_add(1),
        }
        if !link.admin_up {
            // A driver that is down reports nothing; the state is taken over when it comes up.
            link.noticed = carrier;
            return true;
        }
        let urgent = !link.physical || (carrier && !link.pending);
        link.pending = true;
        let ifindex = link.ifindex;
        if now >= self.window_ends {
            self.run_link_watch(now);
        } else if urgent {
            self.notice_carrier(ifindex);
        }
        true
    }

    /// `ip link set up` or `down`.
    pub fn set_admin(&mut self, name: IfName, up: bool) -> bool {
        let Some(link) = self.links.iter_mut().find(|l| l.name == name && l.admin_up != up) else { return false };
        link.admin_up = up;
        link.noticed = link.carrier;
        link.pending = false;
        let link = link.clone();
        if !up {
            self.stack_down(link.ifindex, true);
            let gone = |a: &mut AddressInfo| a.ifindex == link.ifindex && a.addr.is_ipv6();
            for address in self.addresses.extract_if(.., gone).collect::<Vec<_>>() {
                self.say(Channel::State, Event::AddressGone { ifindex: link.ifindex, addr: address.addr });
            }
        }
        self.announce(&link);
        true
    }

    /// Gives a link an address, or changes its state.
    pub fn add_address(&mut self, name: IfName, addr: IpAddr, prefix_len: u8, usable: bool) -> bool {
        let Some(link) = self.link(name) else { return false };
        if addr.is_ipv6() && (self.no_ipv6 || !link.admin_up) {
            return false;
        }
        let info = AddressInfo { ifindex: link.ifindex, addr, prefix_len, usable };
        match self.addresses.iter_mut().find(|a| a.ifindex == info.ifindex && a.addr == addr) {
            Some(place) if *place == info => return false,
            Some(place) => *place = info,
            None => self.addresses.push(info),
        }
        self.say(Channel::State, Event::Address(info));
        true
    }

    /// Takes an address away; with the last IPv4 address of a device its IPv4 routes go, without a message.
    pub fn remove_address(&mut self, name: IfName, addr: IpAddr) -> bool {
        let Some(ifindex) = self.ifindex_of(name) else { return false };
        let before = self.addresses.len();
        self.addresses.retain(|a| a.ifindex != ifindex || a.addr != addr);
        if self.addresses.len() == before {
            return false;
        }
        if addr.is_ipv4() && !self.addresses.iter().any(|a| a.ifindex == ifindex && a.addr.is_ipv4()) {
            // `fib_disable_ip`: routes by nexthop object are not in its list and stay.
            self.routes.retain(|r| r.spec.family != Family::V4 || !via(&r.spec, ifindex));
        }
        self.say(Channel::State, Event::AddressGone { ifindex, addr });
        true
    }

    /// Somebody's default route in table main.
    pub fn add_main_default(&mut self, route: MainDefault) -> bool {
        let target = RouteTarget::Via(route.hop);
        let spec = RouteSpec { family: route.family, table: TABLE_MAIN, metric: route.metric, target };
        if self.check_hop(route.family, &route.hop, false).is_err() {
            return false;
        }
        let same_key = |r: &Route| key(&r.spec) == key(&spec);
        let replaced = match self.routes.iter_mut().find(|r| same_key(r)) {
            Some(place) if place.own => return false,
            Some(place) => {
                place.spec = spec;
                true
            }
            None => {
                self.routes.push(Route { spec, own: false });
                false
            }
        };
        self.say(Channel::State, Event::MainDefault { route, replaced });
        true
    }

    /// Takes somebody's default route in table main away.
    pub fn remove_main_default(&mut self, family: Family, metric: u32) -> bool {
        let gone = |r: &mut Route| !r.own && key(&r.spec) == (family, TABLE_MAIN, metric);
        let gone: Vec<_> = self.routes.extract_if(.., gone).collect();
        for route in &gone {
            self.say_route_gone(route, 0);
        }
        !gone.is_empty()
    }

    /// Somebody at netlink port `by` deletes those of our routes that `which` names; by nobody: they vanish.
    pub fn delete_own_routes(&mut self, by: Option<u32>, which: impl Fn(&RouteSpec) -> bool) -> usize {
        let gone: Vec<_> = self.routes.extract_if(.., |r| r.own && which(&r.spec)).collect();
        if let Some(by) = by {
            for route in &gone {
                self.say_route_gone(route, by);
            }
        }
        gone.len()
    }

    /// As [`FakeKernel::delete_own_routes`] for rules.
    pub fn delete_own_rules(&mut self, by: Option<u32>, which: impl Fn(&RuleSpec) -> bool) -> usize {
        let gone: Vec<_> = self.rules.extract_if(.., |r| which(r)).collect();
        if let Some(by) = by {
            for rule in &gone {
                self.say(Channel::State, Event::OwnRuleGone { rule: *rule, by });
            }
        }
        gone.len()
    }

    /// As [`FakeKernel::delete_own_routes`] for nexthops, with what depends on them.
    pub fn delete_own_nexthop(&mut self, by: Option<u32>, id: u32) -> bool {
        let there = self.nexthops.iter().any(|n| n.id == id);
        self.drop_nexthops(&[id]);
        if let (true, Some(by)) = (there, by) {
            self.say(Channel::State, Event::OwnNexthopGone { id, by });
        }
        there
    }

    /// Somebody puts a route with our protocol there (an old run of ours, or an enemy).
    pub fn plant_own_route(&mut self, spec: RouteSpec) {
        if !self.routes.iter().any(|r| key(&r.spec) == key(&spec)) {
            self.routes.push(Route { spec, own: true });
            self.say(Channel::State, Event::OwnRoute(spec));
        }
    }

    /// Somebody puts a route without our protocol there.
    pub fn plant_foreign_route(&mut self, spec: RouteSpec) {
        if !self.routes.iter().any(|r| key(&r.spec) == key(&spec)) {
            self.routes.push(Route { spec, own: false });
        }
    }

    /// Somebody puts a rule with our protocol there.
    pub fn plant_own_rule(&mut self, spec: RuleSpec) {
        if !self.rules.contains(&spec) {
            self.rules.push(spec);
            self.say(Channel::State, Event::OwnRule(spec));
        }
    }

    /// A channel's queue was full: says so once, and hears again.
    pub fn overrun(&mut self, feed: Feed) {
        self.faults.deaf[Channel::from(feed).index()] = false;
        self.out.push((feed.into(), Event::Overrun(feed)));
    }

    /// The name of a link.
    pub fn link_name(&self, ifindex: IfIndex) -> Option<IfName> {
        self.links.iter().find(|l| l.ifindex == ifindex).map(|l| l.name)
    }

    /// Whether a device has carrier and is up.
    pub fn has_carrier(&self, name: IfName) -> bool {
        self.link(name).is_some_and(|l| l.is_live())
    }

    /// Whether a usable address is on a device.
    pub fn has_address(&self, name: IfName, addr: IpAddr) -> bool {
        let Some(link) = self.link(name) else { return false };
        self.addresses().iter().any(|a| a.ifindex == link.ifindex && a.addr == addr && a.usable)
    }

    /// When it wants to be called by itself: the next batch of announcements.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.links.iter().any(|l| l.pending).then_some(self.window_ends)
    }

    /// Sends the batch if it is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.window_ends && self.links.iter().any(|l| l.pending) {
            self.run_link_watch(now);
        }
    }

    /// What it has said since the last call, in order.
    pub fn take_output(&mut self) -> Vec<(Channel, Event)> {
        std::mem::take(&mut self.out)
    }

    // ---- what it does by itself ----

    pub(super) fn run_link_watch(&mut self, now: Instant) {
        self.window_ends = now.after(WINDOW);
        let pending: Vec<_> = self.links.iter().filter(|l| l.pending).map(|l| l.ifindex).collect();
        for ifindex in pending {
            self.notice_carrier(ifindex);
        }
    }

    /// The stack takes note of a link's carrier and says so.
    pub(super) fn notice_carrier(&mut self, ifindex: IfIndex) {
        let Some(link) = self.links.iter_mut().find(|l| l.ifindex == ifindex) else { return };
        link.pending = false;
        link.noticed = link.carrier;
        let link = link.clone();
        if !link.carrier {
            self.stack_down(ifindex, false);
        }
        self.announce(&link);
    }

    /// Nexthops of a dead link go in silence; with `entirely` its routes as well.
    pub(super) fn stack_down(&mut self, ifindex: IfIndex, entirely: bool) {
        let on_link = |n: &&NexthopSpec| matches!(n.body, NexthopBody::Leaf { hop, .. } if hop.ifindex == ifindex);
        let leaves: Vec<u32> = self.nexthops.iter().filter(on_link).map(|n| n.id).collect();
        self.drop_nexthops(&leaves);
        if entirely {
            let gone: Vec<_> = self.routes.extract_if(.., |r| via(&r.spec, ifindex)).collect();
            for route in gone.iter().filter(|r| r.spec.family == Family::V6) {
                self.say_route_gone(route, 0);
            }
        }
    }

    /// Nexthops go; groups shrink, empty ones go, and routes that used what went.
    pub(super) fn drop_nexthops(&mut self, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        self.nexthops.retain(|n| !ids.contains(&n.id));
        for nexthop in &mut self.nexthops {
            if let NexthopBody::Group(group) = &mut nexthop.body {
                let mut left = Group::new(group.kind);
                for member in group.members().iter().filter(|m| !ids.contains(&m.id)) {
                    left.push(*member);
                }
                *group = left;
            }
        }
        self.nexthops.retain(|n| !matches!(&n.body, NexthopBody::Group(g) if g.members().is_empty()));
        let nexthops = &self.nexthops;
        self.routes.retain(|r| match r.spec.target {
            RouteTarget::Nexthop(id) => nexthops.iter().any(|n| n.id == id),
            _ => true,
        });
    }

    pub(super) fn announce(&mut self, link: &Link) {
        self.say(Channel::Links, Event::Link { link: link.info(), source: LinkSource::Announced });
    }

    pub(super) fn say_route_gone(&mut self, route: &Route, by: u32) {
        let event = match main_default(&route.spec) {
            _ if route.own => Event::OwnRouteGone { route: route.spec, by },
            Some(route) => Event::MainDefaultGone(route),
            None => return,
        };
        self.say(Channel::State, event);
    }

    pub(super) fn say(&mut self, channel: Channel, event: Event) {
        if !self.faults.deaf[channel.index()] {
            self.out.push((channel, event));
        }
    }
}

/// What makes a default route the one it is.
pub fn key(route: &RouteSpec) -> (Family, u32, u32) {
    (route.family, route.table, route.metric)
}

fn via(route: &RouteSpec, ifindex: IfIndex) -> bool {
    matches!(route.target, RouteTarget::Via(hop) if hop.ifindex == ifindex)
}

fn main_default(route: &RouteSpec) -> Option<MainDefault> {
    match route.target {
        RouteTarget::Via(hop) if route.table == TABLE_MAIN => {
            Some(MainDefault { family: route.family, metric: route.metric, hop })
        }
        _ => None,
    }
}
