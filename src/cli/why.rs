//! `why ADDRESS`: which rule a packet meets, and where the kernel would send it now, in the words of the configuration.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::client::Client;
use super::tree::{Builder, Value};
use crate::engine::explain::Packet;
use crate::proto::report::Sink as _;
use crate::proto::rtnl::Journey;
use crate::sys::lookup::{self, Lookup};
use crate::types::{Family, IfIndex, IfName};

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
    let (packet, iif) = packet(dst, details)?;
    // Without a daemon the kernel's answer stands alone.
    let status = client.status_tree().unwrap_or(Value::Table(Vec::new()));
    let met = client.explain(&packet).unwrap_or(Value::Table(Vec::new()));
    let surely = met.values("rules").iter().find(|r| r.flag("surely"));
    // A new connection gets its mark from the rule, by nft, before the kernel looks for a route.
    let given = surely.and_then(|rule| u32::try_from(rule.number("mark")).ok());
    let journey = Journey { packet, mark: said.or(given).unwrap_or(0), iif };
    let found = lookup::lookup(&journey).map_err(|error| error.to_string())?;
    let uplinks = status.fields("uplinks").iter();
    let oif = found.oif.map_or(-1, |i| i64::from(i.0));
    let uplink = uplinks.filter(|(_, u)| u.number("ifindex") == oif).map(|(name, _)| name.as_str()).next();
    if client.json {
        return client.show(&tree(&journey, &met, &found, uplink));
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
    if let Some(source) = found.source.filter(|_| iif.is_none()) {
        let _ = writeln!(text, "Packets of the router itself leave with the address {source}.");
    }
    client.say(text)
}

fn mark(text: Option<&str>) -> Result<Option<u32>, String> {
    let Some(text) = text else { return Ok(None) };
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let radix = if digits.len() < text.len() { 16 } else { 10 };
    u32::from_str_radix(digits, radix).map(Some).map_err(|_| format!("'{text}' is no mark: want 0x100"))
}

/// The packet, and the link that it comes in by: the one that leads back to where it comes from.
fn packet(dst: IpAddr, details: &Details) -> Result<(Packet, Option<IfIndex>), String> {
    let family = Family::of(dst);
    let proto = match details.proto.as_deref() {
        None => None,
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some("icmp") if family == Family::V6 => Some(58),
        Some("icmp") => Some(1),
        Some(text) => {
            Some(text.parse().map_err(|_| format!("'{text}' is no protocol: want tcp, udp, icmp or a number"))?)
        }
    };
    if (details.port.is_some() || details.sport.is_some()) && !matches!(proto, Some(6 | 17)) {
        return Err("a port needs --proto tcp or --proto udp".to_owned());
    }
    let (sport, dport) = (details.sport, details.port);
    let own = Packet { dst, src: None, iif: IfName::NONE, proto, sport, dport };
    let Some(text) = &details.from else { return Ok((own, None)) };
    let src: IpAddr = text.parse().map_err(|_| format!("'{text}' is no address"))?;
    if Family::of(src) != family {
        return Err(format!("{src} and {dst} are of different families"));
    }
    let back = Packet { dst: src, src: None, iif: IfName::NONE, proto: None, sport: None, dport: None };
    let back = lookup::lookup(&Journey { packet: back, mark: 0, iif: None }).map_err(|error| error.to_string())?;
    if back.table == LOCAL {
        return Ok((Packet { src: Some(src), ..own }, None));
    }
    let name = back.device.as_ref().and_then(|name| IfName::new(name.as_bytes()));
    let (Some(iif), Some(name)) = (back.oif, name) else { return Err(format!("nothing leads to {src}")) };
    Ok((Packet { src: Some(src), iif: name, ..own }, Some(iif)))
}

/// The rules that the packet meets, a line each.
fn rules(met: &Value, text: &mut String) {
    let target = |name: &str| match name {
        "default" => "table main".to_owned(),
        "unreachable" | "blackhole" => name.to_owned(),
        policy => format!("policy '{policy}'"),
    };
    let list = met.values("rules");
    for rule in list {
        let (name, to) = (rule.text("rule"), target(rule.text("target")));
        let name = if name.is_empty() { format!("number {}", rule.number("place") + 1) } else { format!("'{name}'") };
        let _ = match rule.flag("surely") {
            true => write!(text, "A new connection meets rule {name}: {to}"),
            false => write!(text, "Rule {name} comes first and may take it, by what is not said or a set: {to}"),
        };
        text.push_str(if rule.flag("sticky") { "; its source stays where it is for a while.\n" } else { ".\n" });
    }
    if met.number("more") > 0 {
        let _ = writeln!(text, "{} more rules may take it.", met.number("more"));
    }
    if !list.iter().any(|r| r.flag("surely")) && met.field("default").is_some() {
        let _ =
            writeln!(text, "No rule surely takes a new connection; then it goes by {}.", target(met.text("default")));
    }
}

fn table(table: u32, status: &Value) -> String {
    match table {
        MAIN => "main: no rule or policy sends it elsewhere".to_owned(),
        LOCAL => "local: the address is the router's own".to_owned(),
        table => {
            let policies = status.fields("policies").iter();
            let named = policies.map(|(name, p)| (p.number("table"), format!("{table}: policy '{name}'")));
            let uplinks = status.fields("uplinks").iter();
            let own = uplinks.map(|(name, u)| (u.number("id"), format!("{table}: uplink '{name}' itself")));
            let mut all = named.chain(own);
            all.find(|(n, _)| *n == i64::from(table)).map_or_else(|| table.to_string(), |(_, text)| text)
        }
    }
}

/// All of it for machines.
fn tree(journey: &Journey, met: &Value, found: &Lookup, uplink: Option<&str>) -> Value {
    let mut out = Builder::default();
    let shown = |addr: Option<IpAddr>| addr.map_or(String::new(), |a| a.to_string());
    out.text("destination", &journey.packet.dst.to_string());
    out.text("from", &shown(journey.packet.src));
    out.number("mark", journey.mark.into());
    out.number("table", found.table.into());
    out.text("device", found.device.as_deref().unwrap_or(""));
    out.text("uplink", uplink.unwrap_or(""));
    out.text("gateway", &shown(found.gateway));
    out.text("source", &shown(found.source));
    out.text("refused", found.refused.as_deref().unwrap_or(""));
    let Value::Table(mut fields) = out.finish() else { return met.clone() };
    if let Value::Table(rules) = met {
        fields.extend(rules.iter().cloned());
    }
    Value::Table(fields)
}
