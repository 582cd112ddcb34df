//! What netifd has said about the logical interfaces behind our uplinks, and what that means for the configuration.
//!
//! An uplink named `wan` is carried by netifd's `wan`, or by `wan_4` and `wan_6`, which modems and tunnels make beside it.
//! The device that was last heard of stays until another is named: that an interface is down is the kernel's to say.

use crate::config::Config;
use crate::limits;
use crate::proto::blobmsg::List;
use crate::proto::ubus::netifd::Interface;
use crate::sys::store::Named;
use crate::time::{Duration, Instant};
use crate::types::{Family, IfName, Prefix, UplinkSlot};

/// What netifd said, and when.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    interface: Interface,
    /// The device of the last time that it was up.
    device: Option<IfName>,
    at: Instant,
}

impl Known {
    fn as_now(&self, now: Instant) -> Interface {
        let since = u32::try_from(now.since(self.at).as_secs()).unwrap_or(u32::MAX);
        let mut interface = self.interface.clone();
        if interface.up {
            interface.uptime = interface.uptime.saturating_add(since);
        }
        interface
    }
}

/// All that is known of the interfaces that matter.
#[derive(Clone, Debug, Default)]
pub struct Logical {
    known: Vec<Known>,
}

/// The endings of the interfaces that netifd makes beside one: for IPv4, for IPv6.
const ENDINGS: [&str; 2] = ["_4", "_6"];

impl Logical {
    /// The names that netifd can be asked for one by one: an uplink's own and its two children's.
    pub fn names(config: &Config) -> impl Iterator<Item = String> + '_ {
        let endings = ["", "_4", "_6"];
        config.uplinks.iter().flat_map(move |u| endings.map(|ending| format!("{}{ending}", u.name)))
    }

    /// Whether an interface belongs to an uplink of ours; which.
    pub fn uplink(config: &Config, name: &str) -> Option<UplinkSlot> {
        let at = |name: &str| config.uplinks.iter().position(|u| u.name == name);
        let parent = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
        let at = at(name).or_else(|| parent.and_then(at))?;
        u8::try_from(at).ok().map(UplinkSlot)
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
        let before = self.known.iter().position(|k| k.name == name).map(|at| self.known.swap_remove(at));
        let device = interface.device.or(before.and_then(|k| k.device));
        // At most three for each uplink and one for each section that is not enabled: no other names come here.
        self.known.push(Known { name: name.to_owned(), interface, device, at: now });
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
    fn of<'a>(&'a self, config: &'a Config, slot: UplinkSlot) -> impl Iterator<Item = &'a Known> + 'a {
        let uplink = config.uplinks.get(usize::from(slot.0));
        let order = match uplink.map(|u| u.families) {
            Some([true, false]) => ["_4", "", ""],
            Some([false, true]) => ["_6", "", ""],
            _ => ["", "_4", "_6"],
        };
        uplink.into_iter().flat_map(move |u| order.into_iter().filter_map(move |ending| self.get(&u.name, ending)))
    }

    /// What an uplink's interface is like, as if set up now.
    pub fn interface(&self, config: &Config, slot: UplinkSlot, now: Instant) -> Option<Interface> {
        self.of(config, slot).min_by_key(|k| !k.interface.up).map(|best| best.as_now(now))
    }

    /// What the interface of this name is like, as if set up now.
    pub fn named(&self, name: &str, now: Instant) -> Option<Interface> {
        self.get(name, "").map(|known| known.as_now(now))
    }

    /// The names of the interfaces of an uplink.
    pub fn interfaces(&self, config: &Config, slot: UplinkSlot) -> Vec<String> {
        self.of(config, slot).map(|k| k.name.clone()).collect()
    }

    /// The device of an uplink whose device nobody has named.
    pub fn device(&self, config: &Config, slot: UplinkSlot) -> Option<IfName> {
        self.of(config, slot).filter(|k| k.device.is_some()).min_by_key(|k| !k.interface.up)?.device
    }

    /// The prefixes that were delegated to an uplink; those that are remembered as long as netifd has said nothing of it.
    fn delegated(&self, config: &Config, slot: UplinkSlot, remembered: &Named) -> Vec<Prefix> {
        let mut known = self.of(config, slot).peekable();
        if known.peek().is_some() {
            return known.flat_map(|k| k.interface.delegated.iter().copied()).collect();
        }
        let uplink = config.uplinks.get(usize::from(slot.0));
        let own = remembered.delegated.iter().filter(|(name, _)| uplink.is_some_and(|u| u.name == *name));
        own.map(|(_, prefix)| *prefix).collect()
    }

    /// What is to be remembered of a configuration that all of it was put into.
    pub fn remember(&self, config: &Config, before: &Named) -> Named {
        let named = config.logical.iter().filter_map(|slot| config.uplinks.get(usize::from(slot.0)));
        let mut remembered = Named { devices: named.map(|u| (u.name.clone(), u.device)).collect(), ..Named::default() };
        for (slot, uplink) in slots(config).zip(&config.uplinks).filter(|(_, u)| u.delegated) {
            for prefix in self.delegated(config, slot, before).into_iter().take(limits::SOURCES) {
                // Cannot fail: there is room for so many of each uplink.
                let _ = remembered.delegated.push((uplink.name.clone(), prefix));
            }
        }
        remembered
    }

    /// Puts into a configuration what netifd knows: devices, delegated prefixes, and gateways that are in no table of
    /// main's. `remembered` is from before a restart. A device that another uplink has in the same family is left out and
    /// named.
    pub fn apply(&self, config: &mut Config, remembered: &Named) {
        for slot in config.logical.clone() {
            let Some(uplink) = config.uplinks.get(usize::from(slot.0)) else { continue };
            let old = remembered.devices.iter().find(|(name, _)| *name == uplink.name).map(|(_, device)| *device);
            let Some(device) = self.device(config, slot).or(old) else { continue };
            let clash = |(at, other): (usize, &crate::config::UplinkConfig)| {
                at != usize::from(slot.0)
                    && other.device == device
                    && other.families.iter().zip(uplink.families).any(|(a, b)| *a && b)
            };
            if let Some((_, other)) = config.uplinks.iter().enumerate().find(|pair| clash(*pair)) {
                log::warn!(
                    "'{}' and '{}' are both carried by {device}: the second is left out",
                    other.name,
                    uplink.name
                );
                continue;
            }
            if let Some(uplink) = config.uplinks.get_mut(usize::from(slot.0)) {
                uplink.device = device;
            }
        }
        for slot in slots(config) {
            let at = usize::from(slot.0);
            if config.uplinks.get(at).is_some_and(|u| u.delegated) {
                let delegated = self.delegated(config, slot, remembered);
                if !config.add_sources(slot, &delegated) {
                    let name = config.uplinks.get(at).map_or("", |u| &u.name);
                    log::warn!("'{name}' has more source prefixes than fit: some are left out");
                }
            }
            let mut hints = [None, None];
            for known in self.of(config, slot) {
                for family in Family::BOTH {
                    let hint = known.interface.gateways.get(family.index()).copied().flatten();
                    if let Some(place) = hints.get_mut(family.index()) {
                        *place = place.or(hint);
                    }
                }
            }
            let Some(uplink) = config.uplinks.get_mut(at) else { continue };
            for hint in hints.into_iter().flatten() {
                match hint {
                    std::net::IpAddr::V4(gateway) => {
                        uplink.gateway.get_or_insert(gateway);
                    }
                    std::net::IpAddr::V6(gateway) => {
                        uplink.gateway6.get_or_insert(gateway);
                    }
                }
            }
        }
    }
}

/// The places of all uplinks.
fn slots(config: &Config) -> impl Iterator<Item = UplinkSlot> + use<> {
    (0..config.uplinks.len()).filter_map(|at| u8::try_from(at).ok()).map(UplinkSlot)
}

/// At most one look at the kernel in this time, however much netifd says.
pub const HINT_EVERY: Duration = Duration::from_millis(200);
