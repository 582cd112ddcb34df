//! Sections `member` and `policy`: who is in it, and whether the members of all policies fit into the board's tables.

use super::{Reader, Section};
use crate::config::{LastResort, Member, PolicyConfig, UplinkConfig};
use crate::limits;
use crate::sort::sort;
use crate::types::{Name, PolicySlot, UplinkSlot};

pub(super) struct NamedMember<'a> {
    name: &'a str,
    interface: &'a str,
    metric: u32,
    weight: u16,
}

impl<'a> Reader<'a> {
    pub(super) fn member(&mut self, section: &'a Section) {
        let mut member = NamedMember { name: &section.name, interface: "", metric: 1, weight: 1 };
        for value in &section.options {
            match self.at(value) {
                "interface" => member.interface = self.text,
                "metric" => member.metric = self.number_or(1, 256, 1),
                "weight" => member.weight = self.number_or(1, 1000, 1) as u16,
                _ => self.unknown(),
            }
        }
        self.value = None;
        let known = self.config.uplinks.iter().any(|u| u.name.as_str() == member.interface);
        if !known && !self.disabled.contains(&member.interface) {
            self.absent("interface", member.interface);
        }
        self.members.push(member);
    }

    pub(super) fn policy(&mut self, section: &'a Section) {
        let Ok(name) = Name::try_from(section.name.as_str()) else { return };
        let mut policy = PolicyConfig {
            name,
            members: heapless::Vec::new(),
            use_degraded: false,
            last_resort: LastResort::default(),
            failback: self.failback,
        };
        for value in &section.options {
            match self.at(value) {
                "use_member" => {
                    for name in self.text.split_ascii_whitespace() {
                        self.use_member(name, &mut policy);
                    }
                }
                "failback" => policy.failback = self.failback_word(),
                "degraded" => policy.use_degraded = self.word(&["avoid", "use"]) == Some(1),
                "last_resort" => {
                    policy.last_resort = match self.word(&["unreachable", "blackhole", "default"]) {
                        Some(0) => LastResort::Unreachable,
                        Some(1) => LastResort::Blackhole,
                        Some(_) => LastResort::Default,
                        None => LastResort::default(),
                    };
                }
                _ => self.unknown(),
            }
        }
        self.value = None;
        by_metric(&mut policy.members);
        let before = self.members_in_all;
        self.members_in_all = before.saturating_add(policy.members.len());
        if self.config.policies.push(policy).is_err() {
            self.full("policies", limits::POLICIES);
        } else if before <= limits::MEMBERS_IN_ALL && self.members_in_all > limits::MEMBERS_IN_ALL {
            self.full("members of all policies", limits::MEMBERS_IN_ALL);
        }
    }

    fn use_member(&mut self, name: &str, policy: &mut PolicyConfig) {
        let Some(member) = self.members.iter().find(|m| m.name == name) else {
            return self.absent("member", name);
        };
        let Some(at) = self.config.uplinks.iter().position(|u| u.name.as_str() == member.interface) else {
            let shown = name.escape_default();
            return self.warn(format_args!("member '{shown}' is left out: its interface is disabled"));
        };
        let uplink = UplinkSlot(u8::try_from(at).unwrap_or(u8::MAX));
        if policy.members.push(Member { uplink, metric: member.metric, weight: member.weight }).is_err() {
            self.full("members", limits::MEMBERS);
        }
    }

    /// Without any policy and rule: all interfaces, lowest metric first.
    pub(super) fn implicit_policy(&mut self) {
        let member = |(at, uplink): (usize, &UplinkConfig)| {
            Some(Member { uplink: UplinkSlot(u8::try_from(at).ok()?), metric: uplink.metric, weight: 1 })
        };
        let mut members: heapless::Vec<Member, { limits::MEMBERS }> =
            self.config.uplinks.iter().enumerate().filter_map(member).collect();
        by_metric(&mut members);
        // Cannot fail: it is the only one.
        let _ = self.config.policies.push(PolicyConfig {
            name: Name::try_from("default").unwrap_or_default(),
            members,
            use_degraded: false,
            last_resort: LastResort::Default,
            failback: self.failback,
        });
        self.config.default_policy = Some(PolicySlot(0));
    }
}

/// Stable: file order among equals.
fn by_metric(members: &mut [Member]) {
    sort(members, |a, b| a.metric < b.metric);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::config_file::{Dialect, read};

    /// `policies` policies, each with all of `uplinks` as members.
    fn file(uplinks: usize, policies: usize) -> String {
        let mut text = String::new();
        for n in 0..uplinks {
            text += &format!("config interface 'w{n}'\n option family 'ipv4'\n option device 'eth{n}'\n");
            text += &format!("config member 'm{n}'\n option interface 'w{n}'\n option metric '{}'\n", n + 1);
        }
        for p in 0..policies {
            text += &format!("config policy 'p{p}'\n");
            (0..uplinks).for_each(|n| text += &format!(" list use_member 'm{n}'\n"));
        }
        text
    }

    fn errors(text: &str) -> Vec<String> {
        read(text.as_bytes(), Dialect::Linkwatch, &[]).errors.iter().map(|e| e.message.clone()).collect()
    }

    #[test]
    fn a_member_more_than_the_tables_hold_is_an_error_that_names_the_limit() {
        let members = limits::UPLINKS;
        let fitting = limits::MEMBERS_IN_ALL / members;
        assert_eq!(errors(&file(members, fitting)), Vec::<String>::new());
        if fitting + 1 > limits::POLICIES {
            // This board's policies fill up first.
            return;
        }
        let text = format!("too many members of all policies: this board's build holds {}", limits::MEMBERS_IN_ALL);
        assert_eq!(errors(&file(members, fitting + 1)), [text]);
    }
}
