//! How an uplink is probed: what is asked, how often, and what counts as an answer.
//!
//! The words are mwan3's; where the user wrote nothing, the defaults are ours ([`ProbeConfig::default`] says why).

use core::net::IpAddr;

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::time::Duration;
use crate::types::{Family, Permille};

/// A host name or a path of a probe: at most 63 bytes, printable ASCII.
pub type Word = String<63>;

/// How a target is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// ICMP or ICMPv6 echo (RFC 792, RFC 4443).
    #[default]
    Echo,
    /// ARP request (RFC 826) or neighbour solicitation (RFC 4861): targets on the link only.
    Neighbour,
    /// TCP connect to [`ProbeConfig::port`]; a refused connection is no answer.
    Tcp,
    /// A DNS query over UDP for [`ProbeConfig::name`]; any well-formed answer counts but a refusal.
    Dns,
    /// HTTP GET of [`ProbeConfig::path`]; the status must be [`ProbeConfig::status`].
    Http,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// An address.
    Addr(IpAddr),
    /// The uplink's gateway, whatever it is now.
    Gateway,
    /// A name, resolved through the uplink itself.
    Name(Word),
}

impl core::fmt::Display for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Gateway => f.write_str("gateway"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A target in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Who is asked.
    pub host: Host,
    /// By which family.
    pub family: Family,
}

/// Thresholds with hysteresis: bad at or above `failure_*`, good again at or below `recovery_*`, unchanged between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// Mean round-trip time, microseconds.
    pub failure_latency: u32,
    /// Mean round-trip time, microseconds; not above `failure_latency`.
    pub recovery_latency: u32,
    /// Share of probes lost.
    pub failure_loss: Permille,
    /// Share of probes lost; not above `failure_loss`.
    pub recovery_loss: Permille,
}

/// The probing of one uplink. Without targets it is not probed: it is good while its link is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeConfig {
    /// How all targets are asked.
    pub method: Method,
    /// Who is asked; at most [`limits::TARGETS`]. A name or the gateway on an uplink of both families is two.
    pub targets: Vec<Target, { limits::TARGETS }>,
    /// Port of [`Method::Tcp`] and [`Method::Http`].
    pub port: u16,
    /// What [`Method::Dns`] asks for, empty for the root; the `Host` that [`Method::Http`] names, empty for the target
    /// itself.
    pub name: Word,
    /// What [`Method::Http`] gets.
    pub path: Word,
    /// The status that [`Method::Http`] wants, 100 to 599; 0 takes any.
    pub status: u16,
    /// How many targets of a family must answer; at least 1, at most the targets there are.
    pub reliability: u8,
    /// Probes to a target in one round; a round is good when one of them is answered.
    pub count: u8,
    /// After this an answer is late: it still counts against loss, but not towards a return.
    pub timeout: Duration,
    /// Between rounds while all is well; at least 10 ms.
    pub interval: Duration,
    /// Between rounds while an answer is missing.
    pub failure_interval: Duration,
    /// Between rounds while the way back up is counted.
    pub recovery_interval: Duration,
    /// Whether rounds stay [`ProbeConfig::failure_interval`] apart while the uplink is down.
    pub keep_failure_interval: bool,
    /// Failed rounds in a row until a target is lost (mwan3's `down`).
    pub fall: u8,
    /// Good rounds in a row until it is back (mwan3's `up`).
    pub rise: u8,
    /// Bytes of echo payload; those below 24 are raised, since the cookie needs them.
    pub size: u16,
    /// TTL or hop limit of echo requests.
    pub max_ttl: u8,
    /// Whether the uplink counts as good before the first answer (mwan3's `initial_state`).
    pub initial_online: bool,
    /// Judge by loss and latency too (mwan3's `check_quality`).
    pub quality: Option<Quality>,
    /// Traffic costs money: probe sparingly while it stands by.
    pub metered: bool,
    /// Between probes while a metered uplink stands by; then one target is asked at a time.
    pub standby_interval: Duration,
    /// Two-way traffic holds probes back.
    pub passive: bool,
    /// Resolvers for names, asked through the uplink.
    pub resolvers: Vec<IpAddr, 2>,
}

impl Default for ProbeConfig {
    /// Ours, where the user wrote nothing: half a second between rounds and three in a row finds a silent death within
    /// 1.6 s and lets a stall of 1.1 s pass. mwan3's own defaults (10 s, 5 rounds, 4 s to wait) take two minutes.
    fn default() -> Self {
        Self {
            method: Method::Echo,
            targets: Vec::new(),
            port: 443,
            name: Word::new(),
            path: Word::new(),
            status: 204,
            reliability: 1,
            count: 1,
            timeout: Duration::from_secs(1),
            interval: Duration::from_millis(500),
            failure_interval: Duration::from_millis(500),
            recovery_interval: Duration::from_millis(500),
            keep_failure_interval: false,
            fall: 3,
            rise: 3,
            size: 24,
            max_ttl: 64,
            initial_online: true,
            quality: None,
            metered: false,
            standby_interval: Duration::from_secs(240),
            passive: true,
            resolvers: Vec::new(),
        }
    }
}

impl ProbeConfig {
    /// Whether a family is probed at all.
    pub fn tracks(&self, family: Family) -> bool {
        self.targets.iter().any(|t| t.family == family)
    }
}
