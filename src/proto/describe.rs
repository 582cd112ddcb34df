//! Any rtnetlink notification as one line for people or programs: what `linkwatch monitor` prints.
//!
//! Unlike the decoder beside it, this one leaves out nothing that belongs to others. Text is `WHAT ACTION key=value...`,
//! JSON is one object with the same keys. Names are shown escaped: a device name may hold any byte but '/' and white space.

use core::fmt::{self, Display, Write as _};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    fn new(style: Style, event: &str, action: &str) -> Self {
        let text = match style {
            Style::Text => format!("{event} {action}"),
            Style::Json => format!("{{\"event\":\"{event}\",\"action\":\"{action}\""),
        };
        Self { style, text }
    }

    fn put(&mut self, key: &str, json: &dyn Display, text: &dyn Display) {
        // Writing into a String cannot fail.
        let _ = match self.style {
            Style::Text => write!(self.text, " {key}={text}"),
            Style::Json => write!(self.text, ",\"{key}\":{json}"),
        };
    }

    fn number(&mut self, key: &str, value: impl Display) {
        self.put(key, &value, &value);
    }

    fn switch(&mut self, key: &str, on: bool) {
        self.put(key, &on, &if on { "on" } else { "off" });
    }

    fn string(&mut self, key: &str, value: impl Display) {
        let value = value.to_string();
        self.put(key, &Quoted(&value), &value.escape_default());
    }

    fn end(mut self) -> String {
        if self.style == Style::Json {
            self.text.push('}');
        }
        self.text
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
    let line = |event| Line::new(style, event, action);
    let body = &message.body;
    match message.kind / 4 * 4 {
        16 => link(body, line("link")),
        20 => address(body, line("address")),
        24 => route(body, line("route")),
        32 => rule(body, line("rule")),
        104 => nexthop(body, line("nexthop")),
        _ => return Ok(None),
    }
    .map(Some)
}

/// `struct ifinfomsg`: family, pad, type, index, flags, change.
fn link(body: &Bytes<'_>, mut line: Line) -> Result<String, Malformed> {
    const STATES: [&str; 7] = ["unknown", "not-present", "down", "lower-layer-down", "testing", "dormant", "up"];
    let flags = body.u32(8, "ifinfomsg")?;
    line.number("ifindex", body.u32(4, "ifinfomsg")?);
    for attribute in body.attributes(16, "ifinfomsg")? {
        let (kind, value) = attribute?;
        match kind {
            3 => line.string("name", name(&value)),
            4 => line.number("mtu", value.u32(0, "IFLA_MTU")?),
            16 => {
                let state = value.u8(0, "IFLA_OPERSTATE")?;
                line.string("operstate", STATES.get(usize::from(state)).copied().unwrap_or("?"));
            }
            10 => line.number("master", value.u32(0, "IFLA_MASTER")?),
            47 => line.number("carrier_up_count", value.u32(0, "IFLA_CARRIER_UP_COUNT")?),
            48 => line.number("carrier_down_count", value.u32(0, "IFLA_CARRIER_DOWN_COUNT")?),
            _ => {}
        }
    }
    line.switch("admin", flags & 0x1 != 0);
    line.switch("carrier", flags & 0x1_0000 != 0);
    line.switch("running", flags & 0x40 != 0);
    Ok(line.end())
}

/// `struct ifaddrmsg`: family, prefixlen, flags, scope, index.
fn address(body: &Bytes<'_>, mut line: Line) -> Result<String, Malformed> {
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
    if let Some(address) = local.or(peer) {
        line.string("address", format_args!("{address}/{len}"));
    }
    if let (Some(peer), Some(local)) = (peer, local)
        && peer != local
    {
        line.string("peer", peer);
    }
    line.switch("tentative", flags & 0x40 != 0);
    Ok(line.end())
}

/// `struct rtmsg`: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
fn route(body: &Bytes<'_>, mut line: Line) -> Result<String, Malformed> {
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
    let (mut dst, mut rest) = (None, Vec::new());
    for attribute in body.attributes(12, "rtmsg")? {
        let (kind, value) = attribute?;
        match kind {
            1 => dst = ip(family, &value),
            5 => rest.push(("gateway", ip(family, &value).map_or(String::new(), |a| a.to_string()))),
            4 => line.number("ifindex", value.u32(0, "RTA_OIF")?),
            6 => line.number("metric", value.u32(0, "RTA_PRIORITY")?),
            15 => table = value.u32(0, "RTA_TABLE")?,
            30 => line.number("nexthop", value.u32(0, "RTA_NH_ID")?),
            _ => {}
        }
    }
    match dst {
        Some(dst) => line.string("destination", format_args!("{dst}/{dst_len}")),
        None => line.string("destination", "default"),
    }
    for (key, value) in rest {
        line.string(key, value);
    }
    line.string("family", family_name(family));
    line.number("table", table);
    line.number("protocol", body.u8(5, "rtmsg")?);
    line.string("type", KINDS.get(usize::from(body.u8(7, "rtmsg")?)).copied().unwrap_or("?"));
    Ok(line.end())
}

/// `struct fib_rule_hdr`: family, dst_len, src_len, tos, table, res1, res2, action, flags.
fn rule(body: &Bytes<'_>, mut line: Line) -> Result<String, Malformed> {
    const ACTIONS: [&str; 9] =
        ["unspec", "lookup", "goto", "nop", "res3", "res4", "blackhole", "unreachable", "prohibit"];
    let family = body.u8(0, "fib_rule_hdr")?;
    let (dst_len, src_len) = (body.u8(1, "fib_rule_hdr")?, body.u8(2, "fib_rule_hdr")?);
    let mut table = u32::from(body.u8(4, "fib_rule_hdr")?);
    for attribute in body.attributes(12, "fib_rule_hdr")? {
        let (kind, value) = attribute?;
        match kind {
            1 => ip(family, &value).into_iter().for_each(|a| line.string("to", format_args!("{a}/{dst_len}"))),
            2 => ip(family, &value).into_iter().for_each(|a| line.string("from", format_args!("{a}/{src_len}"))),
            3 => line.string("iif", name(&value)),
            17 => line.string("oif", name(&value)),
            6 => line.number("priority", value.u32(0, "FRA_PRIORITY")?),
            10 => line.number("mark", value.u32(0, "FRA_FWMARK")?),
            15 => table = value.u32(0, "FRA_TABLE")?,
            16 => line.number("mask", value.u32(0, "FRA_FWMASK")?),
            21 => line.number("protocol", value.u8(0, "FRA_PROTOCOL")?),
            _ => {}
        }
    }
    line.string("family", family_name(family));
    line.string("type", ACTIONS.get(usize::from(body.u8(7, "fib_rule_hdr")?)).copied().unwrap_or("?"));
    line.number("table", table);
    Ok(line.end())
}

/// `struct nhmsg`: family, scope, protocol, resvd, flags.
fn nexthop(body: &Bytes<'_>, mut line: Line) -> Result<String, Malformed> {
    let family = body.u8(0, "nhmsg")?;
    for attribute in body.attributes(8, "nhmsg")? {
        let (kind, value) = attribute?;
        match kind {
            1 => line.number("id", value.u32(0, "NHA_ID")?),
            2 => line.number("members", value.bytes.len() / 8),
            5 => line.number("ifindex", value.u32(0, "NHA_OIF")?),
            6 => ip(family, &value).into_iter().for_each(|a| line.string("gateway", a)),
            _ => {}
        }
    }
    line.number("protocol", body.u8(2, "nhmsg")?);
    Ok(line.end())
}

fn family_name(family: u8) -> &'static str {
    match family {
        2 => "IPv4",
        10 => "IPv6",
        _ => "?",
    }
}

fn ip(family: u8, value: &Bytes<'_>) -> Option<IpAddr> {
    match family {
        2 => value.bytes.first_chunk::<4>().map(|b| IpAddr::V4(Ipv4Addr::from(*b))),
        10 => value.bytes.first_chunk::<16>().map(|b| IpAddr::V6(Ipv6Addr::from(*b))),
        _ => None,
    }
}

fn name<'a>(value: &Bytes<'a>) -> std::borrow::Cow<'a, str> {
    let end = value.bytes.iter().position(|b| *b == 0).unwrap_or(value.bytes.len());
    String::from_utf8_lossy(value.bytes.get(..end).unwrap_or(&[]))
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
