//! Whether the members of all policies fit into the board's tables.

use crate::config::Config;
use crate::limits;
use crate::proto::uci::Section;

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
    }
    errors
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
