//! What the pretend kernel answers when the daemon asks for something.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::*;
use crate::engine::action::{Action, Dump, Op, Token};
use crate::engine::event::{AddressInfo, DumpOutcome, Event, LinkSource};
use crate::engine::object::{Group, GroupKind, Hop, NexthopBody, NexthopSpec, RouteSpec, RouteTarget, RuleSpec};
use crate::types::{Errno, Family, Prefix};

impl FakeKernel {
    /// Does what was asked, at once as rtnetlink does; the answer is in the output. `ReopenRequests`, `Announce`,
    /// `Save` and `UseNeighbour` are not for the kernel to answer.
    pub fn apply(&mut self, action: &Action) {
        match *action {
            Action::Nexthop { token, op, nexthop } => {
                let result = self.willing().and_then(|()| self.change_nexthop(op, nexthop));
                self.ack(token, result);
            }
            Action::Route { token, op, route } => {
                let result = self.willing().and_then(|()| self.change_route(op, route));
                self.ack(token, result);
            }
            Action::Rule { token, op, rule } => {
                let result = self.willing().and_then(|()| self.change_rule(op, rule));
                self.ack(token, result);
            }
            Action::AskLink { ifindex, .. } => {
                if !self.old_link_watch && self.links.iter().any(|l| l.ifindex == ifindex && l.pending) {
                    self.notice_carrier(ifindex);
                }
                let event = match self.links.iter().find(|l| l.ifindex == ifindex) {
                    Some(link) => Event::Link { link: link.info(), source: LinkSource::Answered },
                    None => Event::LinkGone(ifindex),
                };
                self.say(Channel::Requests, event);
            }
            Action::AskRoute { token, question } => {
                let oif = self.lookup(&question);
                self.say(Channel::Requests, Event::RouteAnswer { token, oif });
            }
            Action::AskResilient { token } => {
                let lacks = self.no_nexthops || self.no_resilient;
                let errno = if lacks { Errno::EOPNOTSUPP } else { Errno::EINVAL };
                self.say(Channel::Requests, Event::Acked { token, errno });
            }
            Action::SpreadFlows { family } => {
                let device = IfName::NONE;
                self.say(Channel::Local, Event::SysctlWritten { device, family, errno: Errno::OK });
            }
            Action::DeleteNft { token } => self.delete_nft(token),
            Action::DropFlows { uplink, family, all } => self.drop_flows(uplink, family, all),
            Action::Dump(dump) => self.dump(dump),
            Action::IgnoreLinkdown { device, family } => {
                let errno = match self.links.iter_mut().find(|l| l.name == device) {
                    Some(link) => {
                        link.ignore_linkdown[family.index()] = true;
                        Errno::OK
                    }
                    None => Errno::ENOENT,
                };
                self.say(Channel::Local, Event::SysctlWritten { device, family, errno });
            }
            Action::AskNft { .. }
            | Action::LoadNft(_)
            | Action::UseNeighbour { .. }
            | Action::Probe(_)
            | Action::Resolve { .. }
            | Action::ReopenRequests
            | Action::Announce(_)
            | Action::Save => {}
        }
    }

    pub(super) fn willing(&mut self) -> Result<(), Errno> {
        self.requests += 1;
        self.faults.refuse.pop().map_or(Ok(()), Err)
    }

    pub(super) fn ack(&mut self, token: Token, result: Result<(), Errno>) {
        if self.faults.lose_acks > 0 {
            self.faults.lose_acks -= 1;
            return;
        }
        self.say(Channel::Requests, Event::Acked { token, errno: result.err().unwrap_or(Errno::OK) });
    }

    pub(super) fn change_nexthop(&mut self, op: Op, nexthop: NexthopSpec) -> Result<(), Errno> {
        if self.no_nexthops {
            return Err(Errno::EOPNOTSUPP);
        }
        let place = self.nexthops.iter().position(|n| n.id == nexthop.id);
        if op == Op::Delete {
            return match place {
                Some(_) => {
                    self.drop_nexthops(&[nexthop.id]);
                    Ok(())
                }
                None => Err(Errno::ENOENT),
            };
        }
        if op == Op::Add && place.is_some() {
            return Err(Errno::EEXIST);
        }
        match &nexthop.body {
            NexthopBody::Leaf { family, hop } => self.check_hop(*family, hop, true)?,
            NexthopBody::Group(group) => self.check_group(group)?,
        }
        if let NexthopBody::Group(Group { kind: GroupKind::Resilient { .. }, .. }) = nexthop.body
            && self.no_resilient
        {
            return Err(Errno::EINVAL);
        }
        match place.and_then(|p| self.nexthops.get_mut(p)) {
            Some(old) => {
                let same_kind = matches!(
                    (&old.body, &nexthop.body),
                    (NexthopBody::Leaf { .. }, NexthopBody::Leaf { .. })
                        | (NexthopBody::Group(_), NexthopBody::Group(_))
                );
                let buckets = |n: &NexthopSpec| match &n.body {
                    NexthopBody::Group(Group { kind: GroupKind::Resilient { buckets, .. }, .. }) => Some(*buckets),
                    _ => None,
                };
                if !same_kind || buckets(old) != buckets(&nexthop) {
                    return Err(Errno::EINVAL);
                }
                *old = nexthop;
            }
            None => self.nexthops.push(nexthop),
        }
        Ok(())
    }

    pub(super) fn check_group(&self, group: &Group) -> Result<(), Errno> {
        let mut seen: Option<Family> = None;
        for member in group.members() {
            let leaf = self.nexthops.iter().find(|n| n.id == member.id).ok_or(Errno::EINVAL)?;
            let NexthopBody::Leaf { family, .. } = leaf.body else { return Err(Errno::EINVAL) };
            if *seen.get_or_insert(family) != family || member.weight == 0 {
                return Err(Errno::EINVAL);
            }
        }
        seen.map(|_| ()).ok_or(Errno::EINVAL)
    }

    pub(super) fn change_route(&mut self, op: Op, route: RouteSpec) -> Result<(), Errno> {
        if self.no_ipv6 && route.family == Family::V6 {
            return Err(Errno::EAFNOSUPPORT);
        }
        let at_key = self.routes.iter().position(|r| key(&r.spec) == key(&route));
        match op {
            Op::Delete => {
                // The kernel compares gateway, device and nexthop id as well as the key and our protocol.
                let own = |r: &Route| r.own && key(&r.spec) == key(&route) && same_way(&r.spec, &route);
                let place = self.routes.iter().position(own).ok_or(Errno::ESRCH)?;
                self.routes.remove(place);
                return Ok(());
            }
            Op::Add if at_key.is_some() => return Err(Errno::EEXIST),
            Op::Add | Op::Replace => {}
        }
        match route.target {
            RouteTarget::Via(hop) => self.check_hop(route.family, &hop, false)?,
            RouteTarget::Nexthop(id) => {
                let known = self.nexthops.iter().find(|n| n.id == id).ok_or(Errno::EINVAL)?;
                if self.family_of(known) != Some(route.family) {
                    return Err(Errno::EINVAL);
                }
            }
            RouteTarget::Unreachable | RouteTarget::Blackhole => {}
        }
        match at_key.and_then(|p| self.routes.get_mut(p)) {
            Some(old) => {
                if !old.own {
                    let mut text = String::new();
                    let _ = write!(text, "{:?} took the place of {:?}", route, old.spec);
                    self.foreign_harmed.push(text);
                }
                *old = Route { spec: route, own: true };
            }
            None => self.routes.push(Route { spec: route, own: true }),
        }
        Ok(())
    }

    pub(super) fn change_rule(&mut self, op: Op, rule: RuleSpec) -> Result<(), Errno> {
        if self.no_ipv6 && rule.family == Family::V6 {
            return Err(Errno::EAFNOSUPPORT);
        }
        let place = self.rules.iter().position(|r| *r == rule);
        match (op, place) {
            (Op::Delete, Some(place)) => {
                self.rules.remove(place);
                Ok(())
            }
            (Op::Delete, None) => Err(Errno::ENOENT),
            (_, Some(_)) => Err(Errno::EEXIST),
            (_, None) => {
                self.rules.push(rule);
                Ok(())
            }
        }
    }

    /// Whether a new route is refused because its gateway is looked up behind a port without carrier: IPv6 only, and
    /// what is there stays (`ip6_route_check_nh`).
    pub fn looks_in_vain(&self, family: Family, hop: &Hop) -> bool {
        let looked_up = match hop.gateway {
            Some(IpAddr::V6(gateway)) => family == Family::V6 && !hop.onlink && !gateway.is_unicast_link_local(),
            _ => false,
        };
        let link = self.links.iter().find(|l| l.ifindex == hop.ifindex);
        looked_up && link.is_some_and(|l| !l.carrier && l.ignore_linkdown[Family::V6.index()])
    }

    /// Whether a route or nexthop may lead there (`fib_check_nh`, `ip6_route_check_nh`).
    pub(super) fn check_hop(&self, family: Family, hop: &Hop, nexthop: bool) -> Result<(), Errno> {
        if self.no_ipv6 && family == Family::V6 {
            return Err(Errno::EAFNOSUPPORT);
        }
        let link = self.links.iter().find(|l| l.ifindex == hop.ifindex).ok_or(Errno::ENODEV)?;
        if !link.admin_up || (nexthop && !link.carrier) {
            return Err(Errno::ENETDOWN);
        }
        let Some(gateway) = hop.gateway else { return Ok(()) };
        let link_local = matches!(gateway, IpAddr::V6(a) if a.is_unicast_link_local());
        let covered = |a: &AddressInfo| {
            a.ifindex == hop.ifindex && Prefix::new(a.addr, a.prefix_len).is_some_and(|p| p.contains(gateway))
        };
        if self.looks_in_vain(family, hop) {
            return Err(Errno(113));
        }
        if hop.onlink || link_local || self.addresses.iter().any(covered) {
            return Ok(());
        }
        Err(if family == Family::V4 { Errno::ENETUNREACH } else { Errno(113) })
    }

    pub(super) fn dump(&mut self, dump: Dump) {
        self.say(Channel::Local, Event::DumpBegan(dump));
        let family_missing = match dump {
            Dump::MainDefaults(f) | Dump::OwnRoutes(f) => self.no_ipv6 && f == Family::V6,
            _ => false,
        };
        let mut facts: Vec<Event> = Vec::new();
        match dump {
            Dump::Links => {
                facts.extend(self.links.iter().map(|l| Event::Link { link: l.info(), source: LinkSource::Dumped }));
            }
            Dump::Addresses => facts.extend(self.addresses.iter().map(|a| Event::Address(*a))),
            Dump::MainDefaults(family) => facts.extend(
                self.routes
                    .iter()
                    .filter(|r| !r.own && r.spec.family == family)
                    .filter_map(|r| main_default(&r.spec))
                    .map(|route| Event::MainDefault { route, replaced: false }),
            ),
            Dump::Nexthops => facts.extend(self.nexthops.iter().map(|n| Event::OwnNexthop(*n))),
            Dump::OwnRoutes(family) => facts.extend(
                self.routes.iter().filter(|r| r.own && r.spec.family == family).map(|r| Event::OwnRoute(r.spec)),
            ),
            Dump::Rules => facts.extend(self.rules.iter().map(|r| Event::OwnRule(*r))),
        }
        let outcome = if family_missing {
            DumpOutcome::Failed(Errno::EAFNOSUPPORT)
        } else if self.no_nexthops && dump == Dump::Nexthops {
            DumpOutcome::Failed(Errno::EOPNOTSUPP)
        } else if self.faults.fail_dumps > 0 {
            self.faults.fail_dumps -= 1;
            DumpOutcome::Failed(Errno::EBUSY)
        } else if self.faults.interrupt_dumps > 0 {
            self.faults.interrupt_dumps -= 1;
            // Half of the truth, as when the table changed under the dump.
            facts.truncate(facts.len() / 2);
            DumpOutcome::Interrupted
        } else {
            DumpOutcome::Complete
        };
        if !matches!(outcome, DumpOutcome::Failed(_)) {
            for fact in facts {
                self.say(Channel::Requests, fact);
            }
        }
        self.say(Channel::Requests, Event::DumpEnded { dump, outcome });
    }
}

fn same_way(a: &RouteSpec, b: &RouteSpec) -> bool {
    match (a.target, b.target) {
        (RouteTarget::Via(a), RouteTarget::Via(b)) => a.gateway == b.gateway && a.ifindex == b.ifindex,
        (a, b) => a == b,
    }
}
