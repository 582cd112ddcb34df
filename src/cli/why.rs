//! `why ADDRESS`: which rule a packet meets, and where the kernel would send it now, in the words of the configuration.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::client::{Client, json, told, write_value};
use super::tree::Value;
use crate::engine::explain::Packet;
use crate::proto::report::Sink as _;
use crate::proto::rtnl::Journey;
use crate::sys::lookup::{self, Lookup};
use crate::types::{Family, IfName};

/// Table main.
const MAIN: u32 = 254;
/// Table local.
const LOCAL: u32 = 255;

/// What the words say of the packet, besides where it goes.
#[derive(Debug, Default)]
pub struct Details {
    /// `--from`: an address; without it the router itself sends the packet.
    pub from: Option<String>,
    /// `--mark`.
    pub mark: Option<String>,
    /// `--proto`: tcp, udp, icmp or a number.
    pub proto: Option<String>,
    /// `--port`: the destination port.
    pub port: Option<u16>,
    /// `--sport`: the source port.
    pub sport: Option<u16>,
}

/// Says it all.
pub fn destination(client: &Client<'_>, dst: IpAddr, details: &Details) -> Result<(), String> {
    let said = mark(details.mark.as_deref())?;
    let mut journey = Journey { packet: packet(dst), mark: 0, iif: None };
    take(details, &mut journey)?;
    // Without a daemon the kernel's answer stands alone.
    let status = client.status_tree().unwrap_or(Value::Table(Vec::new()));
    let met = client.explain(&journey.packet).unwrap_or(Value::Table(Vec::new()));
    let surely = met.values("rules").iter().find(|r| r.flag("surely"));
    // A new connection gets its mark from the rule, by nft, before the kernel looks for a route.
    let given = surely.and_then(|rule| u32::try_from(rule.number("mark")).ok());
    journey.mark = said.or(given).unwrap_or(0);
    let found = ask(&journey)?;
    let oif = found.oif.map_or(-1, |i| i64::from(i.0));
    let uplink = status.fields("uplinks").iter().find(|(_, u)| u.number("ifindex") == oif);
    let uplink = uplink.map(|(name, _)| name.as_str());
    if client.json {
        return client.show(&machines(&journey, &met, &found, uplink));
    }
    let mut text = String::new();
    if said.is_none() {
        rules(&met, &mut text);
    }
    let _ = writeln!(text, "{dst} is found in table {}.", table(found.table, &status));
    let _ = match (&found.device, &found.refused) {
        (_, Some(why)) => writeln!(text, "The kernel refuses it: {why}."),
        (Some(device), None) => {
            let by = uplink.map_or(String::new(), |name| format!(", which is uplink '{name}'"));
            writeln!(text, "It leaves by {device}{by}.")
        }
        (None, None) => writeln!(text, "It does not leave."),
    };
    if let Some(gateway) = found.gateway {
        let _ = writeln!(text, "The next hop is {gateway}.");
    }
    if let Some(source) = found.source.filter(|_| journey.iif.is_none()) {
        let _ = writeln!(text, "Packets of the router itself leave with the address {source}.");
    }
    client.say(text)
}

/// Asks the kernel.
fn ask(journey: &Journey) -> Result<Lookup, String> {
    lookup::lookup(journey).map_err(told)
}

fn mark(text: Option<&str>) -> Result<Option<u32>, String> {
    let Some(text) = text else { return Ok(None) };
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let radix = if digits.len() < text.len() { 16 } else { 10 };
    u32::from_str_radix(digits, radix).map(Some).map_err(|_| format!("'{text}' is no mark: want 0x100"))
}

/// A packet of which nothing else is known, from the router itself.
fn packet(dst: IpAddr) -> Packet {
    Packet { dst, src: None, iif: IfName::NONE, proto: None, sport: None, dport: None }
}

/// Takes in what is said of the packet, and the link that it comes in by: the one that leads back to where it comes from.
fn take(details: &Details, journey: &mut Journey) -> Result<(), String> {
    let packet = &mut journey.packet;
    let dst = packet.dst;
    let family = Family::of(dst);
    packet.proto = match details.proto.as_deref() {
        None => None,
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some("icmp") if family == Family::V6 => Some(58),
        Some("icmp") => Some(1),
        Some(text) => {
            let number = text.parse::<u32>().ok().and_then(|number| u8::try_from(number).ok());
            Some(number.ok_or_else(|| format!("'{text}' is no protocol: want tcp, udp, icmp or a number"))?)
        }
    };
    (packet.sport, packet.dport) = (details.sport, details.port);
    if (packet.sport.is_some() || packet.dport.is_some()) && !matches!(packet.proto, Some(6 | 17)) {
        return Err("a port needs --proto tcp or --proto udp".to_owned());
    }
    let Some(text) = &details.from else { return Ok(()) };
    let src: IpAddr = text.parse().map_err(|_| format!("'{text}' is no address"))?;
    if Family::of(src) != family {
        return Err(format!("{src} and {dst} are of different families"));
    }
    packet.src = Some(src);
    let back = Journey { packet: self::packet(src), mark: 0, iif: None };
    let back = ask(&back)?;
    if back.table != LOCAL {
        let name = back.device.as_ref().and_then(|name| IfName::new(name.as_bytes()));
        packet.iif = name.ok_or_else(|| format!("nothing leads to {src}"))?;
        journey.iif = back.oif;
    }
    Ok(())
}

/// Where a rule leads to, in words.
fn target(name: &str) -> String {
    match name {
        "default" => "table main".to_owned(),
        "unreachable" | "blackhole" => name.to_owned(),
        policy => format!("policy '{policy}'"),
    }
}

/// The rules that the packet meets, a line each.
fn rules(met: &Value, text: &mut String) {
    let mut surely = false;
    for rule in met.values("rules") {
        surely |= rule.flag("surely");
        let (before, after) = match rule.flag("surely") {
            true => ("A new connection meets rule ", ""),
            false => ("Rule ", " comes first and may take it, by what is not said or a set"),
        };
        let name = match rule.text("rule") {
            "" => format!("number {}", rule.number("place") + 1),
            name => format!("'{name}'"),
        };
        let end = if rule.flag("sticky") { "; its source stays where it is for a while" } else { "" };
        let _ = writeln!(text, "{before}{name}{after}: {}{end}.", target(rule.text("target")));
    }
    if met.number("more") > 0 {
        let _ = writeln!(text, "{} more rules may take it.", met.number("more"));
    }
    if !surely && met.field("default").is_some() {
        let to = target(met.text("default"));
        let _ = writeln!(text, "No rule surely takes a new connection; then it goes by {to}.");
    }
}

fn table(table: u32, status: &Value) -> String {
    match table {
        MAIN => return "main: no rule or policy sends it elsewhere".to_owned(),
        LOCAL => return "local: the address is the router's own".to_owned(),
        _ => {}
    }
    for (kind, field, before, after) in
        &[("policies", "table", "policy '", "'"), ("uplinks", "id", "uplink '", "' itself")]
    {
        let found = status.fields(kind).iter().find(|(_, it)| it.number(field) == i64::from(table));
        if let Some((name, _)) = found {
            return format!("{table}: {before}{name}{after}");
        }
    }
    table.to_string()
}

/// An address, or nothing.
#[inline(never)]
fn shown(addr: Option<IpAddr>) -> String {
    addr.map_or(String::new(), |addr| addr.to_string())
}

/// All of it for machines.
fn machines(journey: &Journey, met: &Value, found: &Lookup, uplink: Option<&str>) -> String {
    json(&mut |out| {
        out.table("");
        out.text("destination", &shown(Some(journey.packet.dst)));
        out.text("from", &shown(journey.packet.src));
        out.number("mark", journey.mark.into());
        out.number("table", found.table.into());
        out.text("device", found.device.as_deref().unwrap_or(""));
        out.text("uplink", uplink.unwrap_or(""));
        out.text("gateway", &shown(found.gateway));
        out.text("source", &shown(found.source));
        out.text("refused", found.refused.as_deref().unwrap_or(""));
        if let Value::Table(fields) = met {
            fields.iter().for_each(|(name, value)| write_value(out, name, value));
        }
        out.end();
    })
}
