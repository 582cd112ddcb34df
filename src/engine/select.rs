//! Decides which ip rules lead packets to the tables: main's specific routes, marks, the configuration's rules.
//!
//! Rules that nft must say mark their packets (`super::marks`). Order among the rules of the configuration is kept in the
//! simplest way there is: as soon as one rule needs nft, nft says all of them, in file order, and its mark decides
//! before any of their ip rules is asked. The ip rules stay as they would be without nft, so that a missing or deleted
//! nft table costs only what ip rules cannot say.

use super::object::{RuleAction, RuleSpec, Selector, TABLE_MAIN};
use super::{Engine, layout, marks};
use crate::config::{RuleConfig, RuleTarget};
use crate::types::{Family, IfName, PortRange, Prefix, UplinkSlot};

impl Engine {
    pub(super) fn want_common_rules(&mut self, family: Family) {
        let everything = Selector::default();
        let lookup = |priority, table, suppress| RuleSpec {
            family,
            priority,
            select: everything,
            action: RuleAction::Lookup { table, suppress: Some(suppress) },
        };
        self.rules.want(lookup(layout::RULE_MAIN_SPECIFIC, TABLE_MAIN, 1));
        self.rules.want(lookup(layout::RULE_MAIN, TABLE_MAIN, 0));
        for (at, table) in self.config.globals.tables.iter().enumerate() {
            self.rules.want(lookup(layout::RULE_TABLES + at as u32, *table, 0));
        }
        let main = RuleAction::Lookup { table: TABLE_MAIN, suppress: None };
        let reserved = [
            (marks::blackhole(&self.config), RuleAction::Blackhole),
            (marks::unreachable(&self.config), RuleAction::Unreachable),
            (marks::main(&self.config), main),
        ];
        for (value, action) in reserved {
            let select = Selector { mark: Some(marks::mark(&self.config, value)), ..everything };
            self.rules.want(RuleSpec { family, priority: layout::rule_reserved(value), select, action });
        }
    }

    /// The marks of policies and of sticky sources.
    pub(super) fn want_mark_rules(&mut self, family: Family) {
        let (config, rules) = (&self.config, &mut self.rules);
        marks::each(config, |value, meaning| {
            let select = Selector { mark: Some(marks::mark(config, value)), ..Selector::default() };
            let mut want = |priority, table| {
                let action = RuleAction::Lookup { table, suppress: None };
                rules.want(RuleSpec { family, priority, select, action });
            };
            if let Some(uplink) = meaning.uplink().and_then(|u| config.uplinks.get(usize::from(u.0))) {
                if !uplink.serves(family) {
                    return;
                }
                want(layout::RULE_SOFT, layout::soft_table(uplink.id));
            }
            if let Some(policy) = meaning.policy() {
                want(layout::RULE_POLICY_MARK, layout::policy_table(policy));
            }
        });
    }

    pub(super) fn want_policy_rules(&mut self, family: Family) {
        for (n, rule) in self.config.rules.iter().enumerate() {
            if !rule.serves(family) || !self.config.fits_ip_rule(rule) {
                continue;
            }
            let action = match rule.target {
                RuleTarget::Policy(slot) => RuleAction::Lookup { table: layout::policy_table(slot), suppress: None },
                RuleTarget::Default => RuleAction::Lookup { table: TABLE_MAIN, suppress: None },
                RuleTarget::Unreachable => RuleAction::Unreachable,
                RuleTarget::Blackhole => RuleAction::Blackhole,
            };
            let prefix = |span| self.config.prefixes(span).first().copied();
            let ports = |span| self.config.ports(span).first().copied();
            let select =
                selector(rule, family, [prefix(rule.src), prefix(rule.dst)], [ports(rule.sport), ports(rule.dport)]);
            self.rules.want(RuleSpec { family, priority: layout::rule_policy(n), select, action });
        }
        if let Some(slot) = self.config.default_policy {
            let action = RuleAction::Lookup { table: layout::policy_table(slot), suppress: None };
            let select = Selector::default();
            self.rules.want(RuleSpec { family, priority: layout::RULE_DEFAULT, select, action });
        }
    }

    /// Whether packets may prefer an uplink and go elsewhere while it is dead: pinned ones, and those of sticky sources.
    pub(super) fn is_preferred(&self, slot: UplinkSlot) -> bool {
        let mut found = false;
        marks::each(&self.config, |_, meaning| found |= meaning.uplink() == Some(slot));
        found
    }
}

fn selector(
    rule: &RuleConfig,
    family: Family,
    [src, dst]: [Option<Prefix>; 2],
    [sport, dport]: [Option<PortRange>; 2],
) -> Selector {
    // A prefix of length 0 is all there is; the kernel has no such rule.
    let some = |prefix: Option<Prefix>| prefix.filter(|p| p.len > 0);
    Selector {
        src: some(src),
        dst: some(dst),
        iif: rule.iif,
        oif: IfName::NONE,
        mark: None,
        proto: rule.proto_in(family),
        sport,
        dport,
    }
}
