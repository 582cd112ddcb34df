//! Any rtnetlink notification as one line for people or programs: what `linkwatch monitor` prints.
//!
//! Unlike the decoder beside it, this one leaves out nothing that belongs to others. Text is `WHAT ACTION key=value...`,
//! JSON is one object with the same keys. Names are shown escaped: a device name may hold any byte but '/' and white space.

use core::fmt::{self, Display, Write as _};
use core::net::{Ipv4Addr, Ipv6Addr};

use super::netlink::{Bytes, Malformed, Message};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `link new name=wan ifindex=3 carrier=on`
    Text,
    /// `{"event":"link","action":"new","name":"wan","ifindex":3,"carrier":true}`
    Json,
}

/// A line under construction.
struct Line {
    style: Style,
    text: String,
}

impl Line {
    fn put(&mut self, key: &str, json: &dyn Display, text: &dyn Display) {
        // Writing into a String cannot fail.
        let _ = match self.style {
            Style::Text => write!(self.text, " {key}={text}"),
            Style::Json => write!(self.text, ",\"{key}\":{json}"),
        };
    }

    fn number(&mut self, key: &str, value: u32) {
        self.put(key, &value, &value);
    }

    /// The number that an attribute holds.
    // A dozen attributes hold one.
    #[inline(never)]
    fn attribute(&mut self, key: &str, value: &Bytes<'_>, what: &'static str) -> Result<(), Malformed> {
        self.number(key, value.u32(0, what)?);
        Ok(())
    }

    fn switch(&mut self, key: &str, on: bool) {
        self.put(key, &on, &if on { "on" } else { "off" });
    }

    fn string(&mut self, key: &str, value: &str) {
        self.put(key, &Quoted(value), &value.escape_default());
    }

    /// One of some words, by its number.
    fn word(&mut self, key: &str, words: &[&str], at: u8) {
        self.string(key, words.get(usize::from(at)).copied().unwrap_or("?"));
    }

    /// A name that ends with a zero.
    fn name(&mut self, key: &str, value: &Bytes<'_>) {
        let name = value.bytes.split(|b| *b == 0).next().unwrap_or(&[]);
        self.string(key, &String::from_utf8_lossy(name));
    }

    fn family(&mut self, family: u8) {
        self.string(
            "family",
            match family {
                2 => "IPv4",
                10 => "IPv6",
                _ => "?",
            },
        );
    }
}

/// A JSON string (RFC 8259 section 7).
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                // Those from 0x80 on as well: JSON allows them, terminals obey them.
                c if c.is_control() => write!(f, "\\u{:04x}", c as u32)?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// The line for a message; `None` for kinds that are none of ours to tell.
///
/// # Errors
/// [`Malformed`]: something in it is cut off.
pub fn describe(message: &Message<'_>, style: Style) -> Result<Option<String>, Malformed> {
    // Types come in fours: new, delete, get, set (`linux/rtnetlink.h`).
    let action = match message.kind % 4 {
        0 => "new",
        1 => "delete",
        _ => return Ok(None),
    };
    let (event, tell): (_, fn(&Bytes<'_>, &mut Line) -> _) = match message.kind / 4 * 4 {
        16 => ("link", link),
        20 => ("address", address),
        24 => ("route", route),
        32 => ("rule", rule),
        104 => ("nexthop", nexthop),
        _ => return Ok(None),
    };
    let text = match style {
        Style::Text => format!("{event} {action}"),
        Style::Json => format!("{{\"event\":\"{event}\",\"action\":\"{action}\""),
    };
    let mut line = Line { style, text };
    tell(&message.body, &mut line)?;
    if style == Style::Json {
        line.text.push('}');
    }
    Ok(Some(line.text))
}

/// `struct ifinfomsg`: family, pad, type, index, flags, change.
fn link(body: &Bytes<'_>, line: &mut Line) -> Result<(), Malformed> {
    const STATES: [&str; 7] = ["unknown", "not-present", "down", "lower-layer-down", "testing", "dormant", "up"];
    let flags = body.u32(8, "ifinfomsg")?;
    line.number("ifindex", body.u32(4, "ifinfomsg")?);
    for attribute in body.attributes(16, "ifinfomsg")? {
        let (kind, value) = attribute?;
        match kind {
            3 => line.name("name", &value),
            4 => line.attribute("mtu", &value, "IFLA_MTU")?,
            16 => line.word("operstate", &STATES, value.u8(0, "IFLA_OPERSTATE")?),
            10 => line.attribute("master", &value, "IFLA_MASTER")?,
            47 => line.attribute("carrier_up_count", &value, "IFLA_CARRIER_UP_COUNT")?,
            48 => line.attribute("carrier_down_count", &value, "IFLA_CARRIER_DOWN_COUNT")?,
            _ => {}
        }
    }
    line.switch("admin", flags & 0x1 != 0);
    line.switch("carrier", flags & 0x1_0000 != 0);
    line.switch("running", flags & 0x40 != 0);
    Ok(())
}

/// `struct ifaddrmsg`: family, prefixlen, flags, scope, index.
fn address(body: &Bytes<'_>, line: &mut Line) -> Result<(), Malformed> {
    let (family, len) = (body.u8(0, "ifaddrmsg")?, body.u8(1, "ifaddrmsg")?);
    let mut flags = u32::from(body.u8(2, "ifaddrmsg")?);
    let (mut peer, mut local) = (None, None);
    for attribute in body.attributes(8, "ifaddrmsg")? {
        let (kind, value) = attribute?;
        match kind {
            1 => peer = ip(family, &value),
            2 => local = ip(family, &value),
            8 => flags = value.u32(0, "IFA_FLAGS")?,
            _ => {}
        }
    }
    line.number("ifindex", body.u32(4, "ifaddrmsg")?);
    if let Some(address) = local.as_ref().or(peer.as_ref()) {
        line.string("address", &format!("{address}/{len}"));
    }
    if let (Some(peer), Some(local)) = (peer, local)
        && peer != local
    {
        line.string("peer", &peer);
    }
    line.switch("tentative", flags & 0x40 != 0);
    Ok(())
}

/// `struct rtmsg`: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
fn route(body: &Bytes<'_>, line: &mut Line) -> Result<(), Malformed> {
    const KINDS: [&str; 10] = [
        "unspec",
        "unicast",
        "local",
        "broadcast",
        "anycast",
        "multicast",
        "blackhole",
        "unreachable",
        "prohibit",
        "throw",
    ];
    let (family, dst_len) = (body.u8(0, "rtmsg")?, body.u8(1, "rtmsg")?);
    let mut table = u32::from(body.u8(4, "rtmsg")?);
    let (mut dst, mut gateway) = (None, None);
    for attribute in body.attributes(12, "rtmsg")? {
        let (kind, value) = attribute?;
        match kind {
            1 => dst = ip(family, &value),
            5 => gateway = Some(ip(family, &value).unwrap_or_default()),
            4 => line.attribute("ifindex", &value, "RTA_OIF")?,
            6 => line.attribute("metric", &value, "RTA_PRIORITY")?,
            15 => table = value.u32(0, "RTA_TABLE")?,
            30 => line.attribute("nexthop", &value, "RTA_NH_ID")?,
            _ => {}
        }
    }
    let dst = dst.map(|dst| format!("{dst}/{dst_len}"));
    line.string("destination", dst.as_deref().unwrap_or("default"));
    if let Some(gateway) = gateway {
        line.string("gateway", &gateway);
    }
    line.family(family);
    line.number("table", table);
    line.number("protocol", body.u8(5, "rtmsg")?.into());
    line.word("type", &KINDS, body.u8(7, "rtmsg")?);
    Ok(())
}

/// `struct fib_rule_hdr`: family, dst_len, src_len, tos, table, res1, res2, action, flags.
fn rule(body: &Bytes<'_>, line: &mut Line) -> Result<(), Malformed> {
    const ACTIONS: [&str; 9] =
        ["unspec", "lookup", "goto", "nop", "res3", "res4", "blackhole", "unreachable", "prohibit"];
    let family = body.u8(0, "fib_rule_hdr")?;
    let (dst_len, src_len) = (body.u8(1, "fib_rule_hdr")?, body.u8(2, "fib_rule_hdr")?);
    let mut table = u32::from(body.u8(4, "fib_rule_hdr")?);
    for attribute in body.attributes(12, "fib_rule_hdr")? {
        let (kind, value) = attribute?;
        match kind {
            1 | 2 => {
                if let Some(addr) = ip(family, &value) {
                    let (key, len) = if kind == 1 { ("to", dst_len) } else { ("from", src_len) };
                    line.string(key, &format!("{addr}/{len}"));
                }
            }
            3 => line.name("iif", &value),
            17 => line.name("oif", &value),
            6 => line.attribute("priority", &value, "FRA_PRIORITY")?,
            10 => line.attribute("mark", &value, "FRA_FWMARK")?,
            15 => table = value.u32(0, "FRA_TABLE")?,
            16 => line.attribute("mask", &value, "FRA_FWMASK")?,
            21 => line.number("protocol", value.u8(0, "FRA_PROTOCOL")?.into()),
            _ => {}
        }
    }
    line.family(family);
    line.word("type", &ACTIONS, body.u8(7, "fib_rule_hdr")?);
    line.number("table", table);
    Ok(())
}

/// `struct nhmsg`: family, scope, protocol, resvd, flags.
fn nexthop(body: &Bytes<'_>, line: &mut Line) -> Result<(), Malformed> {
    let family = body.u8(0, "nhmsg")?;
    for attribute in body.attributes(8, "nhmsg")? {
        let (kind, value) = attribute?;
        match kind {
            1 => line.attribute("id", &value, "NHA_ID")?,
            2 => line.number("members", value.bytes.len() as u32 / 8),
            5 => line.attribute("ifindex", &value, "NHA_OIF")?,
            6 => ip(family, &value).iter().for_each(|addr| line.string("gateway", addr)),
            _ => {}
        }
    }
    line.number("protocol", body.u8(2, "nhmsg")?.into());
    Ok(())
}

/// An address as text.
fn ip(family: u8, value: &Bytes<'_>) -> Option<String> {
    match family {
        2 => value.bytes.first_chunk::<4>().map(|b| Ipv4Addr::from(*b).to_string()),
        10 => value.bytes.first_chunk::<16>().map(|b| Ipv6Addr::from(*b).to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::{Writer, messages};
    use super::*;

    fn told(kind: u16, header: &[u8], attributes: &[(u16, &[u8])], style: Style) -> Option<String> {
        let mut buf = [0; 256];
        let mut writer = Writer::new(&mut buf, kind, 0, 0);
        writer.put(header);
        attributes.iter().for_each(|(kind, value)| writer.attribute(*kind, value));
        let len = writer.finish().expect("it fits");
        let message = messages(&buf[..len]).next().expect("one").expect("whole");
        describe(&message, style).expect("whole")
    }

    #[test]
    fn a_link_in_both_styles() {
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        header[8..12].copy_from_slice(&0x1_0001_u32.to_ne_bytes());
        let attributes: [(u16, &[u8]); 2] = [(3, b"w\"n\n\0"), (16, &[6])];
        assert_eq!(
            told(16, &header, &attributes, Style::Json).expect("a line"),
            r#"{"event":"link","action":"new","ifindex":7,"name":"w\"n\u000a","operstate":"up","admin":true,"carrier":true,"running":false}"#
        );
        assert_eq!(
            told(17, &header, &attributes, Style::Text).expect("a line"),
            r#"link delete ifindex=7 name=w\"n\n operstate=up admin=on carrier=on running=off"#
        );
    }

    #[test]
    fn a_default_route() {
        let header = [2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
        let line = told(24, &header, &[(5, &[192, 0, 2, 1]), (4, &3_u32.to_ne_bytes())], Style::Text);
        let want =
            "route new ifindex=3 destination=default gateway=192.0.2.1 family=IPv4 table=254 protocol=4 type=unicast";
        assert_eq!(line.as_deref(), Some(want));
    }

    #[test]
    fn what_is_cut_off_is_an_error_and_what_is_strange_is_passed_over() {
        let mut buf = [0; 32];
        let len = Writer::new(&mut buf, 16, 0, 0).finish().expect("it fits");
        let message = messages(&buf[..len]).next().expect("one").expect("whole");
        assert!(describe(&message, Style::Text).is_err());
        assert_eq!(told(18, &[0; 16], &[], Style::Text), None);
        assert_eq!(told(500, &[0; 16], &[], Style::Text), None);
    }
}
