//! What can be asked of the pretend kernel: where a packet would go, and what it holds.

use super::*;
use crate::engine::action::RouteQuestion;
use crate::engine::event::{AddressInfo, MainDefault};
use crate::engine::object::{NexthopBody, NexthopSpec, RouteTarget, RuleAction, RuleSpec, Selector, TABLE_MAIN};
use crate::types::{Family, IfIndex, IfName, Prefix};

impl FakeKernel {
    /// Where a packet would go: rules by priority, each to its table (`fib_rules_lookup`).
    pub fn lookup(&self, question: &RouteQuestion) -> Option<IfIndex> {
        let family = Family::of(question.dst);
        let built_in = |priority, table| RuleSpec {
            family,
            priority,
            select: Selector::default(),
            action: RuleAction::Lookup { table, suppress: None },
        };
        let mut rules = vec![built_in(32766, TABLE_MAIN)];
        rules.extend(self.rules.iter().filter(|r| r.family == family));
        rules.sort_by_key(|r| r.priority);
        for rule in rules.iter().filter(|r| selects(&r.select, question)) {
            match rule.action {
                RuleAction::Unreachable | RuleAction::Blackhole => return None,
                RuleAction::Lookup { table, suppress } => match self.lookup_table(family, table, suppress, question) {
                    Some(Found::Out(ifindex)) => return Some(ifindex),
                    Some(Found::Stop) => return None,
                    None => {}
                },
            }
        }
        None
    }

    pub(super) fn lookup_table(
        &self,
        family: Family,
        table: u32,
        suppress: Option<u8>,
        q: &RouteQuestion,
    ) -> Option<Found> {
        if table == TABLE_MAIN {
            let connected = self
                .addresses
                .iter()
                .filter(|a| Family::of(a.addr) == family && self.usable(a.ifindex, family))
                .filter(|a| suppress.is_none_or(|s| a.prefix_len > s))
                .filter(|a| Prefix::new(a.addr, a.prefix_len).is_some_and(|p| p.contains(q.dst)))
                .max_by_key(|a| a.prefix_len);
            if let Some(address) = connected {
                return Some(Found::Out(address.ifindex));
            }
        }
        if suppress.is_some() {
            // All other routes here are default routes, and those are what suppressing is for.
            return None;
        }
        let mut routes: Vec<_> =
            self.routes.iter().filter(|r| r.spec.family == family && r.spec.table == table).collect();
        routes.sort_by_key(|r| r.spec.metric);
        routes.iter().find_map(|r| match r.spec.target {
            RouteTarget::Unreachable | RouteTarget::Blackhole => Some(Found::Stop),
            RouteTarget::Via(hop) => self.usable(hop.ifindex, family).then_some(Found::Out(hop.ifindex)),
            RouteTarget::Nexthop(id) => self.usable_member(id, family).map(Found::Out),
        })
    }

    pub(super) fn usable_member(&self, id: u32, family: Family) -> Option<IfIndex> {
        match &self.nexthops.iter().find(|n| n.id == id)?.body {
            NexthopBody::Leaf { hop, .. } => self.usable(hop.ifindex, family).then_some(hop.ifindex),
            NexthopBody::Group(group) => group.members().iter().find_map(|m| self.usable_member(m.id, family)),
        }
    }

    /// The devices that a route leads to.
    pub fn ways(&self, target: &RouteTarget) -> Vec<IfIndex> {
        let leaf = |id: u32| match self.nexthops.iter().find(|n| n.id == id).map(|n| &n.body) {
            Some(NexthopBody::Leaf { hop, .. }) => Some(hop.ifindex),
            _ => None,
        };
        match target {
            RouteTarget::Via(hop) => vec![hop.ifindex],
            RouteTarget::Nexthop(id) => match self.nexthops.iter().find(|n| n.id == *id).map(|n| &n.body) {
                Some(NexthopBody::Group(group)) => group.members().iter().filter_map(|m| leaf(m.id)).collect(),
                _ => leaf(*id).into_iter().collect(),
            },
            RouteTarget::Unreachable | RouteTarget::Blackhole => Vec::new(),
        }
    }

    /// Whether routes out of a link count.
    pub(super) fn usable(&self, ifindex: IfIndex, family: Family) -> bool {
        self.links
            .iter()
            .any(|l| l.ifindex == ifindex && l.admin_up && (l.noticed || !l.ignore_linkdown[family.index()]))
    }

    /// The name of the device by which a packet would leave.
    pub fn goes_via(&self, question: &RouteQuestion) -> Option<IfName> {
        let ifindex = self.lookup(question)?;
        self.links.iter().find(|l| l.ifindex == ifindex).map(|l| l.name)
    }

    /// A link by name.
    pub fn link(&self, name: IfName) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }

    /// All links.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// All addresses.
    pub fn addresses(&self) -> &[AddressInfo] {
        &self.addresses
    }

    /// All routes, ours and others'.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Our rules.
    pub fn rules(&self) -> &[RuleSpec] {
        &self.rules
    }

    /// Our nexthops.
    pub fn nexthops(&self) -> &[NexthopSpec] {
        &self.nexthops
    }

    /// Somebody's default routes in table main.
    pub fn main_defaults(&self) -> Vec<MainDefault> {
        self.routes.iter().filter(|r| !r.own).filter_map(|r| main_default(&r.spec)).collect()
    }

    pub(super) fn ifindex_of(&self, name: IfName) -> Option<IfIndex> {
        self.link(name).map(|l| l.ifindex)
    }

    pub(super) fn family_of(&self, nexthop: &NexthopSpec) -> Option<Family> {
        match &nexthop.body {
            NexthopBody::Leaf { family, .. } => Some(*family),
            NexthopBody::Group(group) => {
                let first = group.members().first()?;
                self.nexthops.iter().find(|n| n.id == first.id).and_then(|n| self.family_of(n))
            }
        }
    }
}

/// Whether a rule is about a packet of which only destination and mark are known.
fn selects(select: &Selector, question: &RouteQuestion) -> bool {
    let mark = question.mark.map_or(0, |m| m.value);
    select.src.is_none()
        && select.iif.is_none()
        && select.oif.is_none()
        && select.proto.is_none()
        && select.sport.is_none()
        && select.dport.is_none()
        && select.dst.is_none_or(|p| p.contains(question.dst))
        && select.mark.is_none_or(|m| mark & m.mask == m.value)
}
