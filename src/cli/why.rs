//! `why ADDRESS`: where the kernel would send a packet now, in the words of the configuration.

use std::net::IpAddr;

use super::client::Client;
use super::tree::Value;
use crate::engine::action::RouteQuestion;
use crate::sys::lookup;
use crate::types::FwMark;

/// Asks the kernel, and names the table and the device that it answers with.
pub fn destination(client: &Client<'_>, dst: IpAddr, mark: Option<&str>) -> Result<(), String> {
    let mark = match mark {
        None => None,
        Some(text) => {
            let digits = text.trim_start_matches("0x");
            let radix = if digits.len() < text.len() { 16 } else { 10 };
            let value = u32::from_str_radix(digits, radix).map_err(|_| format!("'{text}' is no mark: want 0x100"))?;
            Some(FwMark { value, mask: u32::MAX })
        }
    };
    let found = lookup::lookup(&RouteQuestion { dst, mark }).map_err(|error| error.to_string())?;
    // Without a daemon the kernel's answer stands alone.
    let status = client.status_tree().unwrap_or(Value::Table(Vec::new()));
    let mut by = String::new();
    for (name, uplink) in status.fields("uplinks") {
        if uplink.number("ifindex") == found.oif.map_or(-1, |i| i64::from(i.0)) {
            by = format!(", which is uplink '{name}'");
        }
    }
    let table = match found.table {
        254 => "main: no rule or policy sends it elsewhere".to_owned(),
        255 => "local: the address is the router's own".to_owned(),
        table => {
            let policies = status.fields("policies").iter();
            let named = policies.map(|(name, p)| (p.number("table"), format!("{table}: policy '{name}'")));
            let uplinks = status.fields("uplinks").iter();
            let own = uplinks.map(|(name, u)| (u.number("id"), format!("{table}: uplink '{name}' itself")));
            let mut all = named.chain(own);
            all.find(|(n, _)| *n == i64::from(table)).map_or_else(|| table.to_string(), |(_, text)| text)
        }
    };
    println!("{dst} is found in table {table}.");
    match (found.device, found.refused) {
        (_, Some(why)) => println!("The kernel refuses it: {why}."),
        (Some(device), None) => println!("It leaves by {device}{by}."),
        (None, None) => println!("It does not leave."),
    }
    if let Some(gateway) = found.gateway {
        println!("The next hop is {gateway}.");
    }
    if let Some(source) = found.source {
        println!("Packets of the router itself leave with the address {source}.");
    }
    Ok(())
}
