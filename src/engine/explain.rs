//! Decides which rule of the configuration a packet meets, in the words of the configuration: for people who ask why their
//! traffic goes where it goes. The kernel says by which table it then leaves; this says how it came there.
//!
//! What a question leaves open, and what only nft knows (who is in a set, hardware addresses), makes a rule fit *perhaps*.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::marks::{self, Meaning};
use crate::config::{Config, RuleConfig};
use crate::types::{Family, IfName, PortRange, Prefix};

/// The first packet of a connection, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Where it goes.
    pub dst: IpAddr,
    /// Where it comes from; `None` when that is not said.
    pub src: Option<IpAddr>,
    /// The device that it comes in by; [`IfName::NONE`] for what the router itself sends.
    pub iif: IfName,
    /// IP protocol.
    pub proto: Option<u8>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
}

/// Whether a rule is about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It is not.
    No,
    /// It depends on what is not known here.
    Perhaps,
    /// It is.
    Yes,
}

/// The rules that a packet may meet, by their places in the configuration and in its order; the first that surely fits ends
/// them.
pub fn rules<'a>(config: &'a Config, packet: &'a Packet) -> impl Iterator<Item = (usize, Fit)> + 'a {
    let mut over = false;
    config.rules.iter().enumerate().filter_map(move |(at, rule)| {
        let fit = if over { Fit::No } else { fit(config, rule, packet) };
        over |= fit == Fit::Yes;
        (fit != Fit::No).then_some((at, fit))
    })
}

/// The mark that a rule gives to a connection; `None` while ip rules say everything and nothing is marked.
pub fn mark(config: &Config, at: usize) -> Option<u32> {
    let rule = config.rules.get(at).filter(|_| config.rules_need_nft())?;
    let mut value = marks::target(config, rule.target);
    marks::each(config, |own, meaning| {
        if matches!(meaning, Meaning::Sticky { rule, .. } if rule == at) {
            value = own;
        }
    });
    Some(marks::mark(config, value).value)
}

fn fit(config: &Config, rule: &RuleConfig, packet: &Packet) -> Fit {
    let family = Family::of(packet.dst);
    let known = |yes: bool| if yes { Fit::Yes } else { Fit::No };
    let said = |said: Option<bool>| said.map_or(Fit::Perhaps, known);
    let prefixes = |list: &[Prefix], addr: Option<IpAddr>| match list {
        [] => Fit::Yes,
        list => said(addr.map(|addr| list.iter().any(|p| p.contains(addr)))),
    };
    let ports = |list: &[PortRange], port: Option<u16>| match list {
        [] => Fit::Yes,
        list => said(port.map(|port| list.iter().any(|r| (r.first..=r.last).contains(&port)))),
    };
    let unknown = rule.src_set.is_some() || rule.dst_set.is_some() || rule.mac.is_some();
    [
        known(rule.serves(family)),
        known(rule.iif.is_none() || rule.iif == packet.iif),
        prefixes(config.prefixes(rule.src), packet.src),
        prefixes(config.prefixes(rule.dst), Some(packet.dst)),
        rule.proto_in(family).map_or(Fit::Yes, |proto| said(packet.proto.map(|p| p == proto))),
        ports(config.ports(rule.sport), packet.sport),
        ports(config.ports(rule.dport), packet.dport),
        if unknown { Fit::Perhaps } else { Fit::Yes },
    ]
    .into_iter()
    .min()
    .unwrap_or(Fit::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RuleTarget;

    fn packet() -> Packet {
        let dst = [192, 0, 2, 1].into();
        Packet { dst, src: None, iif: IfName::NONE, proto: Some(6), sport: None, dport: None }
    }

    fn config(change: impl FnOnce(&mut RuleConfig)) -> Config {
        let mut config = Config::default();
        let mut first = RuleConfig::new(RuleTarget::Unreachable);
        change(&mut first);
        config.rules.push(first).expect("room");
        config.rules.push(RuleConfig::new(RuleTarget::Default)).expect("room");
        config.rules.push(RuleConfig::new(RuleTarget::Blackhole)).expect("room");
        config
    }

    fn met(config: &Config, packet: &Packet) -> std::vec::Vec<(usize, Fit)> {
        rules(config, packet).collect()
    }

    #[test]
    fn the_first_rule_that_surely_fits_ends_the_search() {
        assert_eq!(met(&config(|_| {}), &packet()), [(0, Fit::Yes)]);
        assert_eq!(met(&config(|r| r.proto = Some(17)), &packet()), [(1, Fit::Yes)]);
        let other = config(|r| r.families = [false, true]);
        assert_eq!(met(&other, &packet()), [(1, Fit::Yes)]);
    }

    #[test]
    fn what_is_not_said_or_not_known_makes_it_perhaps() {
        let sets = config(|r| r.dst_set = Some(0));
        assert_eq!(met(&sets, &packet()), [(0, Fit::Perhaps), (1, Fit::Yes)]);
        let proto = config(|r| r.proto = Some(17));
        assert_eq!(met(&proto, &Packet { proto: None, ..packet() }), [(0, Fit::Perhaps), (1, Fit::Yes)]);
        // Whatever else is open, one thing that surely does not fit is enough.
        let both = config(|r| (r.dst_set, r.proto) = (Some(0), Some(17)));
        assert_eq!(met(&both, &packet()), [(1, Fit::Yes)]);
    }

    #[test]
    fn icmp_is_another_protocol_in_ipv6() {
        let icmp = config(|r| r.proto = Some(1));
        let six = Packet { dst: "2001:db8::1".parse().expect("an address"), proto: Some(58), ..packet() };
        assert_eq!(met(&icmp, &six), [(0, Fit::Yes)]);
    }

    #[test]
    fn without_nft_nothing_is_marked() {
        assert_eq!(mark(&config(|_| {}), 0), None);
        assert_eq!(mark(&config(|r| r.dst_set = Some(0)), 0), Some(0x3e00));
    }
}
