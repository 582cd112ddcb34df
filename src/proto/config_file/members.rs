//! Whether the members of all policies fit into the board's tables, and those that share into one nexthop group.

use crate::config::{Config, PolicyConfig};
use crate::limits;
use crate::proto::uci::Section;
use crate::types::Family;

/// What does not fit, with the policy's section.
pub fn check<'a>(config: &Config, sections: &'a [Section]) -> Vec<(&'a Section, String)> {
    let (mut all, mut errors) = (0_usize, Vec::new());
    for policy in &config.policies {
        let Some(section) = sections.iter().find(|s| s.kind == "policy" && s.name == policy.name.as_str()) else {
            continue;
        };
        let before = all;
        all = all.saturating_add(policy.members.len());
        if before <= limits::MEMBERS_IN_ALL && all > limits::MEMBERS_IN_ALL {
            let most = limits::MEMBERS_IN_ALL;
            errors.push((section, format!("too many members of all policies: this board's build holds {most}")));
        }
        let share = Family::BOTH.map(|family| most_sharing(config, policy, family)).into_iter().max().unwrap_or(0);
        if share > limits::SHARES {
            let most = limits::SHARES;
            errors.push((section, format!("{share} members of equal metric: this board's build balances over {most}")));
        }
    }
    errors
}

/// The most members of one metric that serve a family.
fn most_sharing(config: &Config, policy: &PolicyConfig, family: Family) -> usize {
    let serves = |slot: crate::types::UplinkSlot| {
        config.uplinks.get(usize::from(slot.0)).is_some_and(|uplink| uplink.serves(family))
    };
    let metrics: Vec<u32> = policy.members.iter().filter(|m| serves(m.uplink)).map(|m| m.metric).collect();
    metrics.iter().map(|metric| metrics.iter().filter(|other| *other == metric).count()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::config_file::{Dialect, read};

    /// `policies` policies, each with `members` members; `metric` says each member's metric.
    fn file(uplinks: usize, policies: usize, members: usize, metric: impl Fn(usize) -> usize) -> String {
        let mut text = String::new();
        for n in 0..uplinks {
            text += &format!("config interface 'w{n}'\n option family 'ipv4'\n option device 'eth{n}'\n");
            text += &format!("config member 'm{n}'\n option interface 'w{n}'\n option metric '{}'\n", metric(n));
        }
        for p in 0..policies {
            text += &format!("config policy 'p{p}'\n");
            (0..members).for_each(|n| text += &format!(" list use_member 'm{n}'\n"));
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
        assert_eq!(errors(&file(members, fitting, members, |n| n + 1)), Vec::<String>::new());
        if fitting + 1 > limits::POLICIES {
            // This board's policies fill up first.
            return;
        }
        let text = format!("too many members of all policies: this board's build holds {}", limits::MEMBERS_IN_ALL);
        assert_eq!(errors(&file(members, fitting + 1, members, |n| n + 1)), [text]);
    }

    #[test]
    fn sharing_members_are_counted_by_metric() {
        assert_eq!(errors(&file(limits::SHARES, 1, limits::SHARES, |_| 1)), Vec::<String>::new());
        if limits::SHARES == limits::UPLINKS {
            // This board's uplinks run out first.
            return;
        }
        let many = limits::SHARES + 1;
        let text = format!("{many} members of equal metric: this board's build balances over {}", limits::SHARES);
        assert_eq!(errors(&file(many, 1, many, |_| 1)), [text]);
        assert_eq!(errors(&file(many, 1, many, |n| 1 + n % 2)), Vec::<String>::new());
    }
}
