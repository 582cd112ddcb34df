//! What netifd says about a logical interface, as far as it helps: the device that carries it, resolvers, prefixes that were
//! delegated to it, and a default route that is not in table main.
//!
//! These are hints. Carrier, addresses and routes are taken from the kernel; netifd is only asked for what the kernel
//! does not know: names.

use core::net::IpAddr;

use heapless::Vec;

use crate::limits;
use crate::proto::blobmsg::List;
use crate::types::{Family, IfName, Prefix};

/// Resolvers remembered per interface; resolv.conf takes three.
pub const RESOLVERS: usize = 4;

/// A logical interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// It is set up.
    pub up: bool,
    /// The device that traffic leaves by (`l3_device`): for PPP and tunnels not the one that is plugged in.
    pub device: Option<IfName>,
    /// Seconds since it is set up.
    pub uptime: u32,
    /// Gateways that netifd knows and keeps out of table main (`defaultroute 0`, `ip4table`, `ip6table`), by
    /// [`Family::index`].
    pub gateways: [Option<IpAddr>; 2],
    /// Its resolvers.
    pub resolvers: Vec<IpAddr, RESOLVERS>,
    /// IPv6 prefixes that its provider delegated to it (RFC 8415).
    pub delegated: Vec<Prefix, { limits::SOURCES }>,
}

impl Interface {
    /// From the table of `status`, of an element of `dump`, or of a notification.
    pub fn new(status: List<'_>) -> Self {
        let up = status.bool("up");
        let mut interface = Self {
            up,
            device: status.str("l3_device").filter(|_| up).and_then(|d| IfName::new(d.as_bytes())),
            uptime: status.int("uptime").and_then(|s| u32::try_from(s).ok()).unwrap_or(0),
            ..Self::default()
        };
        let tables = [status.get("ip4table").is_some(), status.get("ip6table").is_some()];
        for (inactive, list) in [(false, status), (true, status.table("inactive"))] {
            for route in list.array("route").filter_map(as_table) {
                let Some(gateway) = default_gateway(route) else { continue };
                let index = Family::of(gateway).index();
                let elsewhere = inactive || tables.get(index).is_some_and(|t| *t) || route.get("table").is_some();
                if let (true, Some(place)) = (elsewhere && up, interface.gateways.get_mut(index)) {
                    place.get_or_insert(gateway);
                }
            }
            let servers = list.array("dns-server").filter_map(|v| v.as_str()).filter_map(|s| s.parse().ok());
            for server in servers.filter(|_| up && !inactive) {
                // What does not fit would not be asked either.
                let _ = interface.resolvers.push(server);
            }
        }
        for prefix in status.array("ipv6-prefix").filter_map(as_table).filter_map(prefix).filter(|_| up) {
            // What does not fit is not steered by its source.
            let _ = interface.delegated.push(prefix);
        }
        interface
    }
}

fn prefix(table: List<'_>) -> Option<Prefix> {
    let addr: IpAddr = table.str("address")?.parse().ok()?;
    let len = table.int("mask").and_then(|len| u8::try_from(len).ok()).filter(|len| *len > 0)?;
    Prefix::new(addr, len).filter(|_| addr.is_ipv6())
}

fn as_table(value: crate::proto::blobmsg::Value<'_>) -> Option<List<'_>> {
    match value {
        crate::proto::blobmsg::Value::Table(list) => Some(list),
        _ => None,
    }
}

fn default_gateway(route: List<'_>) -> Option<IpAddr> {
    let target: IpAddr = route.str("target")?.parse().ok()?;
    let gateway: IpAddr = route.str("nexthop")?.parse().ok()?;
    let is_default = target.is_unspecified() && route.int("mask") == Some(0);
    (is_default && !gateway.is_unspecified() && gateway.is_ipv4() == target.is_ipv4()).then_some(gateway)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::blobmsg::write::Writer;

    fn interface(up: bool, prefixes: &[(&str, u32)]) -> Interface {
        let mut buf = [0; 1024];
        let mut writer = Writer::new(&mut buf);
        writer.bool("up", up);
        writer.array("ipv6-prefix", |w| {
            for (address, mask) in prefixes {
                w.table("", |w| {
                    w.str("address", address);
                    w.int("mask", (*mask).into());
                });
            }
        });
        let len = writer.finish().expect("it fits");
        Interface::new(List::new(&buf[..len]))
    }

    #[test]
    fn delegated_prefixes_are_taken_while_it_is_up_and_make_sense() {
        let said = [("2001:db8:1::", 56), ("2001:db8:2::", 129), ("192.0.2.0", 24), ("nonsense", 64), ("::", 0)];
        let found = interface(true, &said).delegated;
        assert_eq!(found.as_slice(), [Prefix::new("2001:db8:1::".parse().expect("an address"), 56).expect("a prefix")]);
        assert!(interface(false, &said).delegated.is_empty());
        assert_eq!(interface(true, &[("2001:db8::", 64); 9]).delegated.len(), limits::SOURCES);
    }
}
