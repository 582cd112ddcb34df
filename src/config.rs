//! What the daemon is told to do: valid by construction, no text and no parsing.
//!
//! [`crate::proto::uci`] makes one from a file; the engine reads it. Every table has the board's capacity.

pub mod probe;

use core::net::{Ipv4Addr, Ipv6Addr};

use heapless::Vec;
use serde::{Deserialize, Serialize};

pub use probe::ProbeConfig;

use crate::limits;
use crate::time::Duration;
use crate::types::{
    Family, IfName, Mac, Name, Permille, PolicySlot, PortRange, Prefix, SetName, UplinkId, UplinkSet, UplinkSlot,
};

/// A whole configuration.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// The names of interfaces that are configured and not enabled, in file order, for whoever lists them; what is
    /// beyond [`limits::UPLINKS`] is left out.
    pub disabled: Vec<Name, { limits::UPLINKS }>,
    /// Who gets what no rule names: the implicit policy. `None` leaves that traffic to table main.
    pub default_policy: Option<PolicySlot>,
    /// The sets that rules name, in order of appearance; at most [`limits::SETS`].
    pub sets: Vec<SetConfig, { limits::SETS }>,
    /// The prefixes of all rules, sets and uplinks, which hold a [`Span`] of them; at most [`limits::PREFIXES`].
    pub prefixes: Vec<Prefix, { limits::PREFIXES }>,
    /// The ports of all rules, which hold a [`Span`] of them; at most [`limits::PORTS`].
    pub ports: Vec<PortRange, { limits::PORTS }>,
}

/// A part of a list that many share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Place of the first one.
    pub first: u16,
    /// How many.
    pub len: u16,
}

impl Span {
    /// Nothing.
    pub const EMPTY: Self = Self { first: 0, len: 0 };

    /// Whether it names nothing.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    fn of<T>(self, all: &[T]) -> &[T] {
        let first = usize::from(self.first);
        all.get(first..first.saturating_add(usize::from(self.len))).unwrap_or(&[])
    }
}

impl Config {
    /// The place of the uplink of this name.
    #[inline(never)] // Several ask by name.
    pub fn uplink_slot(&self, name: &str) -> Option<UplinkSlot> {
        self.uplinks.iter().position(|u| u.name == name).map(|at| UplinkSlot(at as u8))
    }

    /// The place of the policy of this name.
    #[inline(never)]
    pub fn policy_slot(&self, name: &str) -> Option<PolicySlot> {
        self.policies.iter().position(|p| p.name == name).map(|at| PolicySlot(at as u8))
    }

    /// The prefixes that a rule, a set or an uplink names.
    pub fn prefixes(&self, span: Span) -> &[Prefix] {
        span.of(&self.prefixes)
    }

    /// Adds source prefixes to an uplink's, up to [`limits::SOURCES`]; whether all had room.
    pub fn add_sources(&mut self, uplink: UplinkSlot, more: &[Prefix]) -> bool {
        let Some(config) = self.uplinks.get_mut(usize::from(uplink.0)) else { return false };
        let before = config.sources.of(&self.prefixes);
        let new = more.iter().filter(|p| !before.contains(p));
        let mut all: Vec<Prefix, { limits::SOURCES }> = Vec::new();
        let fits = before.iter().chain(new).all(|p| all.push(*p).is_ok());
        // A span is one piece, so all of them are written anew behind the others.
        let (first, len) = (self.prefixes.len() as u16, all.len() as u16);
        if len == config.sources.len {
            return fits;
        }
        if self.prefixes.extend_from_slice(&all).is_err() {
            return false;
        }
        config.sources = Span { first, len };
        fits
    }

    /// The ports that a rule names.
    pub fn ports(&self, span: Span) -> &[PortRange] {
        span.of(&self.ports)
    }

    /// Whether ip rules cannot say all that a rule says: lists, sets, hardware addresses, sticky sources, logging.
    pub fn needs_nft(&self, rule: &RuleConfig) -> bool {
        !self.fits_ip_rule(rule) || rule.sticky.is_some() || (rule.log && self.globals.log.is_some())
    }

    /// Whether an ip rule can say which packets a rule is about.
    pub fn fits_ip_rule(&self, rule: &RuleConfig) -> bool {
        let one = |span: Span| span.len <= 1;
        one(rule.src)
            && one(rule.dst)
            && one(rule.sport)
            && one(rule.dport)
            && rule.src_set.is_none()
            && rule.dst_set.is_none()
            && rule.mac.is_none()
    }

    /// Whether marks are needed to say the rules: then nft says all of them, in file order.
    pub fn rules_need_nft(&self) -> bool {
        self.rules.iter().any(|r| self.needs_nft(r))
    }

    /// The share of an uplink, in thousandths, when `carriers` carry a policy's traffic together.
    pub fn share(&self, policy: PolicySlot, carriers: UplinkSet, uplink: UplinkSlot) -> Permille {
        let members = self.policies.get(usize::from(policy.0)).map(|p| p.members.as_slice()).unwrap_or(&[]);
        let weight = |slot| members.iter().find(|m| m.uplink == slot).map_or(1, |m| u32::from(m.weight));
        let total: u32 = carriers.iter().map(weight).sum();
        let share = if carriers.contains(uplink) { weight(uplink) } else { 0 };
        Permille((share.saturating_mul(1000).saturating_add(total / 2) / total.max(1)) as u16)
    }

    /// Whether two members of a policy ever share a family's traffic.
    pub fn shares(&self, policy: &PolicyConfig, family: Family) -> bool {
        let serves = |m: &Member| self.uplinks.get(usize::from(m.uplink.0)).is_some_and(|u| u.serves(family));
        let members = || policy.members.iter().filter(|m| serves(m));
        members().enumerate().any(|(at, a)| members().skip(at + 1).any(|b| a.metric == b.metric))
    }
}

impl Config {
    /// Becomes a copy of `other`, piece by piece: `clone_from` would put the whole of it on the stack first.
    pub fn assign(&mut self, other: &Self) {
        let Self {
            globals,
            uplinks,
            policies,
            rules,
            logical,
            recover,
            disabled,
            default_policy,
            sets,
            prefixes,
            ports,
        } = self;
        globals.clone_from(&other.globals);
        assign(uplinks, &other.uplinks);
        assign(policies, &other.policies);
        assign(rules, &other.rules);
        assign(logical, &other.logical);
        assign(recover, &other.recover);
        assign(disabled, &other.disabled);
        assign(sets, &other.sets);
        assign(prefixes, &other.prefixes);
        assign(ports, &other.ports);
        *default_policy = other.default_policy;
    }
}

impl Clone for Config {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.assign(self);
        copy
    }
}

fn assign<T: Clone, const N: usize>(to: &mut Vec<T, N>, from: &Vec<T, N>) {
    to.clear();
    for item in from {
        // Cannot fail: both have the same capacity.
        let _ = to.push(item.clone());
    }
}

/// Section `globals`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Whether flows are pinned to the uplink that they started on (`pinning`), by nft and connection tracking.
    pub pinning: bool,
    /// How shared traffic is spread.
    pub balance: BalanceConfig,
    /// The syslog level (0 to 7) of rules with logging; `None` (the default) logs nothing.
    pub log: Option<u8>,
    /// Further tables whose specific routes win over every policy (`rt_table_lookup`).
    pub tables: Vec<u32, 4>,
}

/// How a resilient nexthop group spreads flows (`Documentation/networking/nexthop-group-resilient.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceConfig {
    /// Buckets of a group: a power of two, 32 to 32768.
    pub buckets: u16,
    /// A bucket without traffic for this long may go to another uplink. `None`: 1 s while flows are pinned, since
    /// then only new flows ever look at a bucket, and 60 s otherwise.
    pub idle: Option<Duration>,
    /// After this long out of balance, buckets move although they are busy; zero: never.
    pub unbalanced: Duration,
}

impl Default for BalanceConfig {
    fn default() -> Self {
        Self { buckets: limits::BUCKETS as u16, idle: None, unbalanced: Duration::from_secs(120) }
    }
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            mark_mask: 0x3F00,
            nexthops: true,
            keep_on_exit: true,
            pinning: true,
            balance: BalanceConfig::default(),
            log: None,
            tables: Vec::new(),
            resolvers: probe::Word::new(),
            resolvers_from: probe::Word::new(),
            control_group: None,
        }
    }
}

/// Section `interface`: one uplink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// When flows of it are forgotten.
    pub flush: FlushConfig,
    /// Source prefixes that leave by it as long as it lives (`source`).
    pub sources: Span,
    /// Those that its provider delegated to it are among them, as netifd names them (`source delegated`).
    pub delegated: bool,
    /// What happens to the source address of IPv6 that leaves by it.
    pub snat6: Snat6,
}

/// Option `flush_conntrack`: when connections are forgotten, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushConfig {
    /// When it goes down (`ifdown`, `disconnected`), once another uplink has taken over.
    pub down: bool,
    /// When it comes up (`ifup`, `connected`).
    pub up: bool,
    /// All connections instead of its own (`all`): what mwan3 does.
    pub all: bool,
}

impl Default for FlushConfig {
    fn default() -> Self {
        Self { down: true, up: false, all: false }
    }
}

/// Option `snat6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Snat6 {
    /// Nothing.
    #[default]
    Off,
    /// The uplink's address takes its place.
    Masquerade,
    /// One prefix takes the place of another of the same length (NPTv6, RFC 6296, without its checksum neutrality).
    Prefix { from: Prefix, to: Prefix },
}

impl UplinkConfig {
    /// Whether it serves `family`.
    pub fn serves(&self, family: Family) -> bool {
        self.families.get(family.index()).copied().unwrap_or(false)
    }
}

/// Flap damping after RFC 2439: each loss adds [`DampingConfig::PENALTY`], which halves every half-life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyConfig {
    /// The section's name, or `default` for the implicit one.
    pub name: Name,
    /// Its members, lowest metric first, file order among equals; at most [`limits::MEMBERS`].
    pub members: Vec<Member, { limits::MEMBERS }>,
    /// Whether a degraded member is as good as any: it is passed over for a better one otherwise.
    pub use_degraded: bool,
    /// What happens to its traffic when no member can take it.
    pub last_resort: LastResort,
    /// What happens when a better member returns.
    pub failback: Failback,
}

/// What happens when a better member of a policy returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failback {
    /// New flows take it, old ones end where they are.
    #[default]
    Graceful,
    /// Old flows are forgotten, so that they take it as well.
    Immediate,
    /// It waits until the one in use fails.
    Never,
}

/// Section `member`: an uplink within a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which uplink.
    pub uplink: UplinkSlot,
    /// Lower is preferred.
    pub metric: u32,
    /// Share among equal metrics.
    pub weight: u16,
}

/// What a policy does when no member is usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleConfig {
    /// The section's name; may be empty.
    pub name: Name,
    /// Families it holds for, by [`Family::index`].
    pub families: [bool; 2],
    /// Source prefixes; none means any.
    pub src: Span,
    /// Destination prefixes; none means any.
    pub dst: Span,
    /// IP protocol number; see [`RuleConfig::proto_in`].
    pub proto: Option<u8>,
    /// Source ports; none means any.
    pub sport: Span,
    /// Destination ports; none means any.
    pub dport: Span,
    /// Device the packet came in on; [`IfName::NONE`] for any.
    pub iif: IfName,
    /// The source is in this set, a place in [`Config::sets`].
    pub src_set: Option<u8>,
    /// The destination is in this set, a place in [`Config::sets`].
    pub dst_set: Option<u8>,
    /// Hardware source address.
    pub mac: Option<Mac>,
    /// A source keeps its uplink until it has begun no flow for this long.
    pub sticky: Option<Duration>,
    /// Log what matches, if [`Globals::log`] says so as well.
    pub log: bool,
    /// Where it goes.
    pub target: RuleTarget,
}

impl RuleConfig {
    /// A rule for everything, in both families.
    pub fn new(target: RuleTarget) -> Self {
        Self {
            name: Name::new(),
            families: [true, true],
            src: Span::EMPTY,
            dst: Span::EMPTY,
            proto: None,
            sport: Span::EMPTY,
            dport: Span::EMPTY,
            iif: IfName::NONE,
            src_set: None,
            dst_set: None,
            mac: None,
            sticky: None,
            log: false,
            target,
        }
    }

    /// Whether it holds for `family`.
    pub fn serves(&self, family: Family) -> bool {
        self.families.get(family.index()).copied().unwrap_or(false)
    }

    /// The protocol in a family: ICMP is another one in IPv6.
    pub fn proto_in(&self, family: Family) -> Option<u8> {
        match (self.proto, family) {
            (Some(1), Family::V6) => Some(58),
            (proto, _) => proto,
        }
    }
}

/// A set of addresses that rules name and others fill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetConfig {
    /// Its name in nft, as written; the one for IPv6 of a rule for both families has a `6` behind it.
    pub name: SetName,
    /// Which families it has a set for, by [`Family::index`].
    pub families: [bool; 2],
    /// What it holds from the start (`config ipset`).
    pub entries: Span,
}

impl SetConfig {
    /// Whether the set for IPv6 has a `6` behind its name: only if there is one for IPv4 too.
    pub fn is_double(&self) -> bool {
        self.families == [true, true]
    }
}

/// What a rule does with its traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
