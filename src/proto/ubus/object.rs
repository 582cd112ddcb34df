//! Decides what linkwatch is on the bus: its two objects with their methods, and the objects of others that it follows.

use super::client::{Follow, Method, Object, Setup};
use crate::config::Config;
use crate::engine::{Command, Hold};
use crate::proto::blobmsg::Kind::{self, Str};
use crate::proto::blobmsg::List;
use crate::types::{PolicySlot, UplinkSlot};

/// Everything.
pub const SETUP: Setup = Setup {
    objects: &[
        Object { path: "linkwatch", methods: METHODS },
        Object { path: "mwan3", methods: &[Method { name: "status", args: &[("section", Str), ("interface", Str)] }] },
    ],
    paths: &[
        Follow { path: "network.interface", subscribe: true },
        Follow { path: "hotplug.iface", subscribe: false },
        Follow { path: "service", subscribe: false },
    ],
    events: &[],
};

/// Places in [`SETUP`]: our own object.
pub const LINKWATCH: usize = 0;
/// Places in [`SETUP`]: the object for what knows only mwan3.
pub const MWAN3: usize = 1;
/// Places in [`SETUP`]: netifd's interfaces.
pub const INTERFACES: usize = 0;
/// Places in [`SETUP`]: procd's runner of hotplug scripts.
pub const HOTPLUG: usize = 1;
/// Places in [`SETUP`]: procd's services.
pub const SERVICE: usize = 2;

const UPLINK: &[(&str, Kind)] = &[("uplink", Str)];

const METHODS: &[Method] = &[
    Method { name: "status", args: &[] },
    Method { name: "uplink", args: UPLINK },
    Method { name: "policy", args: &[("policy", Str)] },
    Method { name: "up", args: UPLINK },
    Method { name: "down", args: UPLINK },
    Method { name: "auto", args: UPLINK },
    Method { name: "probe", args: UPLINK },
    Method { name: "prefer", args: &[("policy", Str), ("uplink", Str)] },
    Method { name: "check", args: &[] },
    Method { name: "reload", args: &[] },
    Method { name: "plan", args: &[] },
];

/// What a caller of our own object wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything there is to know.
    Status,
    /// One uplink.
    Uplink(UplinkSlot),
    /// One policy.
    Policy(PolicySlot),
    /// An operator's word.
    Command(Command),
    /// Whether the configuration file is fine.
    Check,
    /// Read the configuration file again.
    Reload,
    /// What reading it again would change in the kernel.
    Plan,
}

/// Why a call cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// An argument is missing.
    Missing,
    /// There is no such uplink or policy.
    Unknown,
}

/// Reads a call. The types of the arguments are right already.
///
/// # Errors
/// [`Refused`]
pub fn wanted(config: &Config, method: usize, args: List<'_>) -> Result<Wanted, Refused> {
    let arg = |name: &str| args.str(name).ok_or(Refused::Missing);
    let uplink = || config.uplink_slot(arg("uplink")?).ok_or(Refused::Unknown);
    let policy = || config.policy_slot(arg("policy")?).ok_or(Refused::Unknown);
    let method = METHODS.get(method).map_or("", |m| m.name);
    Ok(match method {
        "status" => Wanted::Status,
        "check" => Wanted::Check,
        "reload" => Wanted::Reload,
        "plan" => Wanted::Plan,
        "policy" => Wanted::Policy(policy()?),
        "prefer" => {
            let member = if args.str("uplink").is_none_or(str::is_empty) { None } else { Some(uplink()?) };
            Wanted::Command(Command::Prefer { policy: policy()?, uplink: member })
        }
        _ => {
            let uplink = uplink()?;
            let hold = match method {
                "uplink" => return Ok(Wanted::Uplink(uplink)),
                "probe" => return Ok(Wanted::Command(Command::Probe { uplink, track: None })),
                "up" => Hold::Up,
                "down" => Hold::Down,
                "auto" => Hold::Auto,
                _ => return Err(Refused::Unknown),
            };
            Wanted::Command(Command::Hold { uplink, hold })
        }
    })
}
