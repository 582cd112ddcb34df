//! What netifd has said about the logical interfaces behind our uplinks, and what that means for the configuration.
//!
//! An uplink named `wan` is carried by netifd's `wan`, or by `wan_4` and `wan_6`, which modems and tunnels make beside it.
//! The device that was last heard of stays until another is named: that an interface is down is the kernel's to say.

use std::net::IpAddr;

use crate::config::Config;
use crate::limits;
use crate::proto::blobmsg::List;
use crate::proto::ubus::mwan3;
use crate::proto::ubus::netifd::Interface;
use crate::sys::store::Named;
use crate::time::{Duration, Instant};
use crate::types::{IfName, Prefix, UplinkSlot};

/// What netifd said, and when.
#[derive(Debug)]
struct Known {
    name: String,
    interface: Interface,
    /// The device of the last time that it was up.
    device: Option<IfName>,
    at: Instant,
}

impl Known {
    fn as_now(&self, now: Instant) -> mwan3::Interface {
        let Interface { up, uptime, .. } = self.interface;
        let since = if up { now.since(self.at).as_secs() } else { 0 };
        mwan3::Interface { up, uptime: uptime.saturating_add(u32::try_from(since).unwrap_or(u32::MAX)) }
    }
}

/// All that is known of the interfaces that matter.
#[derive(Debug, Default)]
pub struct Logical {
    known: Vec<Known>,
}

/// An uplink's own interface, and the endings of those that netifd makes beside one: for IPv4, for IPv6.
const ENDINGS: [&str; 3] = ["", "_4", "_6"];

impl Logical {
    /// One of the names that netifd can be asked for one by one: an uplink's own and its two children's.
    pub fn name(config: &Config, at: usize) -> Option<String> {
        let uplink = config.uplinks.get(at / ENDINGS.len())?;
        Some(format!("{}{}", uplink.name, ENDINGS.get(at % ENDINGS.len())?))
    }

    /// Whether an interface belongs to an uplink of ours; which.
    pub fn uplink(config: &Config, name: &str) -> Option<UplinkSlot> {
        ENDINGS.iter().find_map(|ending| config.uplink_slot(name.strip_suffix(ending)?))
    }

    /// Whether an interface is that of a section that is not enabled: it is only shown.
    fn is_shown(config: &Config, name: &str) -> bool {
        config.disabled.iter().any(|section| section == name)
    }

    /// Takes in a status; whether the interface matters.
    pub fn take(&mut self, config: &Config, name: &str, status: List<'_>, now: Instant) -> bool {
        let matters = Self::uplink(config, name).is_some();
        if !matters && !Self::is_shown(config, name) {
            return false;
        }
        let interface = Interface::new(status);
        let device = interface.device;
        match self.known.iter_mut().find(|k| k.name == name) {
            Some(known) => {
                known.interface = interface;
                known.device = device.or(known.device);
                known.at = now;
            }
            // At most three for each uplink and one for each section that is not enabled: no other names come here.
            None => self.known.push(Known { name: name.to_owned(), interface, device, at: now }),
        }
        matters
    }

    /// Forgets what belongs to uplinks that are no more.
    pub fn keep(&mut self, config: &Config) {
        self.known.retain(|k| Self::uplink(config, &k.name).is_some() || Self::is_shown(config, &k.name));
    }

    fn get(&self, name: &str, ending: &str) -> Option<&Known> {
        self.known.iter().find(|k| k.name.strip_suffix(ending) == Some(name))
    }

    /// The interfaces of an uplink, those that know best first: the child of its only family, itself, its children.
    fn of(&self, config: &Config, slot: UplinkSlot) -> heapless::Vec<&Known, 3> {
        let mut found = heapless::Vec::new();
        if let Some(uplink) = config.uplinks.get(usize::from(slot.0)) {
            let order: &[&str] = match uplink.families {
                [true, false] => &["_4", ""],
                [false, true] => &["_6", ""],
                _ => &ENDINGS,
            };
            found.extend(order.iter().filter_map(|ending| self.get(&uplink.name, ending)));
        }
        found
    }

    /// What an uplink's interface is like now.
    pub fn interface(&self, config: &Config, slot: UplinkSlot, now: Instant) -> Option<mwan3::Interface> {
        best(&self.of(config, slot)).map(|known| known.as_now(now))
    }

    /// What the interface of this name is like now.
    pub fn named(&self, name: &str, now: Instant) -> Option<mwan3::Interface> {
        self.get(name, "").map(|known| known.as_now(now))
    }

    /// The device of an uplink whose device nobody has named.
    fn device(&self, config: &Config, slot: UplinkSlot) -> Option<IfName> {
        let mut known = self.of(config, slot);
        known.retain(|k| k.device.is_some());
        best(&known)?.device
    }

    /// The prefixes that were delegated to an uplink; those that are remembered as long as netifd has said nothing of it.
    fn delegated(&self, config: &Config, slot: UplinkSlot, remembered: &Named) -> Vec<Prefix> {
        let mut prefixes = Vec::new();
        let known = self.of(config, slot);
        for known in &known {
            prefixes.extend_from_slice(&known.interface.delegated);
        }
        if known.is_empty() {
            for (name, prefix) in &remembered.delegated {
                if config.uplink_slot(name) == Some(slot) {
                    prefixes.push(*prefix);
                }
            }
        }
        prefixes
    }

    /// What is to be remembered of a configuration that all of it was put into.
    pub fn remember(&self, config: &Config, before: &Named) -> Named {
        let mut remembered = Named::default();
        for slot in &config.logical {
            if let Some(uplink) = config.uplinks.get(usize::from(slot.0)) {
                let _ = remembered.devices.push((uplink.name.clone(), uplink.device));
            }
        }
        for (slot, uplink) in slots(config).zip(&config.uplinks).filter(|(_, u)| u.delegated) {
            for prefix in self.delegated(config, slot, before).iter().take(limits::SOURCES) {
                // Cannot fail: there is room for so many of each uplink.
                let _ = remembered.delegated.push((uplink.name.clone(), *prefix));
            }
        }
        remembered
    }

    /// Puts into a configuration what netifd knows: devices, delegated prefixes, and gateways that are in no table of
    /// main's. `remembered` is from before a restart. A device that another uplink has in the same family is left out and
    /// named.
    pub fn apply(&self, config: &mut Config, remembered: &Named) {
        for slot in slots(config) {
            if config.logical.contains(&slot) {
                self.apply_device(config, slot, remembered);
            }
        }
        for slot in slots(config) {
            self.apply_hints(config, slot, remembered);
        }
    }

    fn apply_device(&self, config: &mut Config, slot: UplinkSlot, remembered: &Named) {
        let Some(uplink) = config.uplinks.get(usize::from(slot.0)) else { return };
        let old = remembered.devices.iter().find(|(name, _)| *name == uplink.name).map(|(_, device)| *device);
        let Some(device) = self.device(config, slot).or(old) else { return };
        for (at, other) in config.uplinks.iter().enumerate() {
            let same_family = other.families.iter().zip(uplink.families).any(|(a, b)| *a && b);
            if at != usize::from(slot.0) && other.device == device && same_family {
                let (one, two) = (&other.name, &uplink.name);
                log!(Warn, "'{one}' and '{two}' are both carried by {device}: the second is left out");
                return;
            }
        }
        if let Some(uplink) = config.uplinks.get_mut(usize::from(slot.0)) {
            uplink.device = device;
        }
    }

    fn apply_hints(&self, config: &mut Config, slot: UplinkSlot, remembered: &Named) {
        let at = usize::from(slot.0);
        if config.uplinks.get(at).is_some_and(|u| u.delegated) {
            let delegated = self.delegated(config, slot, remembered);
            if !config.add_sources(slot, &delegated) {
                let name = config.uplinks.get(at).map_or("", |u| &u.name);
                log!(Warn, "'{name}' has more source prefixes than fit: some are left out");
            }
        }
        let known = self.of(config, slot);
        let Some(uplink) = config.uplinks.get_mut(at) else { return };
        for hint in known.iter().flat_map(|k| k.interface.gateways).flatten() {
            match hint {
                IpAddr::V4(gateway) => {
                    uplink.gateway.get_or_insert(gateway);
                }
                IpAddr::V6(gateway) => {
                    uplink.gateway6.get_or_insert(gateway);
                }
            }
        }
    }
}

/// The first that is set up, or the first.
fn best<'k>(known: &[&'k Known]) -> Option<&'k Known> {
    known.iter().find(|k| k.interface.up).or(known.first()).copied()
}

/// The places of all uplinks.
fn slots(config: &Config) -> impl Iterator<Item = UplinkSlot> + use<> {
    (0..config.uplinks.len() as u8).map(UplinkSlot)
}

/// At most one look at the kernel in this time, however much netifd says.
pub const HINT_EVERY: Duration = Duration::from_millis(200);
