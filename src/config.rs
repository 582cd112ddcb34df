//! What the daemon is told to do: valid by construction, no text and no parsing.
//!
//! [`crate::proto::uci`] makes one from a file; the engine reads it. Every table has the board's capacity.

pub mod probe;

use core::net::{Ipv4Addr, Ipv6Addr};

use heapless::Vec;

pub use probe::ProbeConfig;

use crate::limits;
use crate::time::Duration;
use crate::types::{Family, IfName, Name, PolicySlot, PortRange, Prefix, UplinkId, UplinkSlot};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// What holds for everything.
    pub globals: Globals,
    /// The enabled uplinks, in file order; at most [`limits::UPLINKS`].
    pub uplinks: Vec<UplinkConfig, { limits::UPLINKS }>,
    /// The policies, in file order, or one implicit policy; at most [`limits::POLICIES`].
    pub policies: Vec<PolicyConfig, { limits::POLICIES }>,
    /// The rules, first match wins; at most [`limits::POLICY_RULES`].
    pub rules: Vec<RuleConfig, { limits::POLICY_RULES }>,
    /// The uplinks whose device nobody has named: netifd's interface of the same name says which carries it, and until
    /// it does the name is taken for the device's.
    pub logical: Vec<UplinkSlot, { limits::UPLINKS }>,
    /// The uplinks that are set up anew when they have been down for so long (`option recover`).
    pub recover: Vec<(UplinkSlot, Duration), { limits::UPLINKS }>,
    /// Who gets what no rule names: the implicit policy. `None` leaves that traffic to table main.
    pub default_policy: Option<PolicySlot>,
}

/// Section `globals`.
#[derive(Clone, Debug, PartialEq)]
pub struct Globals {
    /// The bits of fwmark and ctmark that are ours (`mmx_mask`).
    pub mark_mask: u32,
    /// Whether nexthop objects may be used; without them routes are replaced instead.
    pub nexthops: bool,
    /// Whether a clean exit leaves routes and rules in place (`on_exit keep`).
    pub keep_on_exit: bool,
    /// Where the resolvers of living uplinks are written (`option resolvers`); empty for nowhere.
    pub resolvers: probe::Word,
    /// The list that they are chosen from (`option resolvers_from`); empty for where netifd writes it.
    pub resolvers_from: probe::Word,
    /// The group that may change things by the control socket (`control_group`): a name or a number.
    pub control_group: Option<heapless::String<32>>,
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            mark_mask: 0x3F00,
            nexthops: true,
            keep_on_exit: true,
            resolvers: probe::Word::new(),
            resolvers_from: probe::Word::new(),
            control_group: None,
        }
    }
}

/// Section `interface`: one uplink.
#[derive(Clone, Debug, PartialEq)]
pub struct UplinkConfig {
    /// The section's name.
    pub name: Name,
    /// The stable number: routing table and mark.
    pub id: UplinkId,
    /// The kernel device that carries it.
    pub device: IfName,
    /// Which families it serves, by [`Family::index`].
    pub families: [bool; 2],
    /// Fixed IPv4 gateway; learned from table main when absent.
    pub gateway: Option<Ipv4Addr>,
    /// Fixed IPv6 gateway; learned from table main when absent.
    pub gateway6: Option<Ipv6Addr>,
    /// Rank in the implicit policy: lowest first.
    pub metric: u32,
    /// How long it must stay good before it is used again.
    pub hold_down: Duration,
    /// Flap damping; `None` switches it off.
    pub damping: Option<DampingConfig>,
    /// How it is probed.
    pub probe: ProbeConfig,
}

impl UplinkConfig {
    /// Whether it serves `family`.
    pub fn serves(&self, family: Family) -> bool {
        self.families.get(family.index()).copied().unwrap_or(false)
    }
}

/// Flap damping after RFC 2439: each loss adds [`DampingConfig::PENALTY`], which halves every half-life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DampingConfig {
    /// Above this the uplink is suppressed.
    pub suppress: u32,
    /// Below this it is used again.
    pub reuse: u32,
    /// Time in which a penalty halves.
    pub half_life: Duration,
    /// Longest time that flaps can keep an uplink suppressed once they stop.
    pub max_suppress: Duration,
}

impl DampingConfig {
    /// What one flap costs.
    pub const PENALTY: u32 = 1000;
}

impl Default for DampingConfig {
    /// Three flaps within some seconds suppress; 30 s of peace always release.
    fn default() -> Self {
        Self { suppress: 2500, reuse: 1000, half_life: Duration::from_secs(10), max_suppress: Duration::from_secs(30) }
    }
}

/// Section `policy` with its members.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// The section's name, or `default` for the implicit one.
    pub name: Name,
    /// Its members, lowest metric first, file order among equals; at most [`limits::MEMBERS`].
    pub members: Vec<Member, { limits::MEMBERS }>,
    /// Whether a degraded member is as good as any: it is passed over for a better one otherwise.
    pub use_degraded: bool,
    /// What happens to its traffic when no member can take it.
    pub last_resort: LastResort,
}

/// Section `member`: an uplink within a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which uplink.
    pub uplink: UplinkSlot,
    /// Lower is preferred.
    pub metric: u32,
    /// Share among equal metrics.
    pub weight: u16,
}

/// What a policy does when no member is usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastResort {
    /// ICMP "unreachable" to the sender.
    #[default]
    Unreachable,
    /// Silence.
    Blackhole,
    /// Table main decides.
    Default,
}

/// Section `rule`: which new traffic takes which policy.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleConfig {
    /// The section's name.
    pub name: Name,
    /// Families it holds for, by [`Family::index`].
    pub families: [bool; 2],
    /// Source prefix.
    pub src: Option<Prefix>,
    /// Destination prefix.
    pub dst: Option<Prefix>,
    /// IP protocol number.
    pub proto: Option<u8>,
    /// Source ports.
    pub sport: Option<PortRange>,
    /// Destination ports.
    pub dport: Option<PortRange>,
    /// Device the packet came in on; [`IfName::NONE`] for any.
    pub iif: IfName,
    /// Where it goes.
    pub target: RuleTarget,
}

/// What a rule does with its traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleTarget {
    /// A policy.
    Policy(PolicySlot),
    /// Table main (`use_policy default`).
    Default,
    /// ICMP "unreachable".
    Unreachable,
    /// Silence.
    Blackhole,
}
