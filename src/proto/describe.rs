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

    /// An address with the length of its prefix, if there is one.
    fn prefix(&mut self, key: &str, addr: Option<String>, len: u8) {
        if let Some(addr) = addr {
            self.string(key, &format!("{addr}/{len}"));
        }
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

/// What a message is about, by the first of its types (`linux/rtnetlink.h`).
const LINK: u16 = 16;
const ADDRESS: u16 = 20;
const ROUTE: u16 = 24;
const RULE: u16 = 32;
const NEXTHOP: u16 = 104;

/// Attributes that are a number: of what, their own number and name, and the key.
const NUMBERS: [(u16, u16, &str, &str); 12] = [
    (LINK, 4, "IFLA_MTU", "mtu"),
    (LINK, 10, "IFLA_MASTER", "master"),
    (LINK, 47, "IFLA_CARRIER_UP_COUNT", "carrier_up_count"),
    (LINK, 48, "IFLA_CARRIER_DOWN_COUNT", "carrier_down_count"),
    (ROUTE, 4, "RTA_OIF", "ifindex"),
    (ROUTE, 6, "RTA_PRIORITY", "metric"),
    (ROUTE, 30, "RTA_NH_ID", "nexthop"),
    (RULE, 6, "FRA_PRIORITY", "priority"),
    (RULE, 10, "FRA_FWMARK", "mark"),
    (RULE, 16, "FRA_FWMASK", "mask"),
    (NEXTHOP, 1, "NHA_ID", "id"),
    (NEXTHOP, 5, "NHA_OIF", "ifindex"),
];

const LINK_STATES: [&str; 7] = ["unknown", "not-present", "down", "lower-layer-down", "testing", "dormant", "up"];
const ROUTE_TYPES: [&str; 10] = [
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
const RULE_TYPES: [&str; 9] =
    ["unspec", "lookup", "goto", "nop", "res3", "res4", "blackhole", "unreachable", "prohibit"];

/// The line for a message; `None` for kinds that are none of ours to tell.
///
/// # Errors
/// [`Malformed`]: something in it is cut off.
pub fn describe(message: &Message<'_>, style: Style) -> Result<Option<String>, Malformed> {
    // Types come in fours: new, delete, get, set.
    let action = match message.kind % 4 {
        0 => "new",
        1 => "delete",
        _ => return Ok(None),
    };
    let what = message.kind / 4 * 4;
    // The structures that attributes follow: their names and their bytes. Families, lengths of prefixes and types of
    // routes and rules are at the same place in all that have them.
    let (event, header, len) = match what {
        LINK => ("link", "ifinfomsg", 16),
        ADDRESS => ("address", "ifaddrmsg", 8),
        ROUTE => ("route", "rtmsg", 12),
        RULE => ("rule", "fib_rule_hdr", 12),
        NEXTHOP => ("nexthop", "nhmsg", 8),
        _ => return Ok(None),
    };
    let body = &message.body;
    let attributes = body.attributes(len, header)?;
    let byte = |at: usize| body.bytes.get(at).copied().unwrap_or(0);
    let (family, dst_len, src_len, kind) = (byte(0), byte(1), byte(2), byte(7));
    let text = match style {
        Style::Text => format!("{event} {action}"),
        Style::Json => format!("{{\"event\":\"{event}\",\"action\":\"{action}\""),
    };
    let mut line = Line { style, text };
    let mut table = u32::from(byte(4));
    let mut flags = u32::from(byte(2));
    if what == LINK {
        line.number("ifindex", body.u32(4, header)?);
        flags = body.u32(8, header)?;
    }
    // Where it leads to, or whose address it is; and by what gateway, or which address of its own is there.
    let (mut first, mut second) = (None, None);
    for attribute in attributes {
        let (number, value) = attribute?;
        if let Some((.., name, key)) = NUMBERS.iter().find(|n| (n.0, n.1) == (what, number)) {
            line.number(key, value.u32(0, name)?);
            continue;
        }
        match (what, number) {
            (LINK, 3) => line.name("name", &value),
            (LINK, 16) => line.word("operstate", &LINK_STATES, value.u8(0, "IFLA_OPERSTATE")?),
            (ADDRESS | ROUTE, 1) => first = ip(family, &value),
            (ADDRESS, 2) => second = ip(family, &value),
            (ROUTE, 5) => second = Some(ip(family, &value).unwrap_or_default()),
            (ADDRESS, 8) => flags = value.u32(0, "IFA_FLAGS")?,
            (ROUTE, 15) => table = value.u32(0, "RTA_TABLE")?,
            (RULE, 1) => line.prefix("to", ip(family, &value), dst_len),
            (RULE, 2) => line.prefix("from", ip(family, &value), src_len),
            (RULE, 3) => line.name("iif", &value),
            (RULE, 17) => line.name("oif", &value),
            (RULE, 15) => table = value.u32(0, "FRA_TABLE")?,
            (RULE, 21) => line.number("protocol", value.u8(0, "FRA_PROTOCOL")?.into()),
            (NEXTHOP, 2) => line.number("members", value.bytes.len() as u32 / 8),
            (NEXTHOP, 6) => ip(family, &value).iter().for_each(|addr| line.string("gateway", addr)),
            _ => {}
        }
    }
    match what {
        LINK => {
            line.switch("admin", flags & 0x1 != 0);
            line.switch("carrier", flags & 0x1_0000 != 0);
            line.switch("running", flags & 0x40 != 0);
        }
        ADDRESS => {
            line.number("ifindex", body.u32(4, header)?);
            let peer = first.clone().filter(|peer| second.as_ref().is_some_and(|local| local != peer));
            line.prefix("address", second.or(first), dst_len);
            peer.iter().for_each(|peer| line.string("peer", peer));
            line.switch("tentative", flags & 0x40 != 0);
        }
        ROUTE => {
            match first {
                None => line.string("destination", "default"),
                dst => line.prefix("destination", dst, dst_len),
            }
            second.iter().for_each(|gateway| line.string("gateway", gateway));
            line.family(family);
            line.number("table", table);
            line.number("protocol", byte(5).into());
            line.word("type", &ROUTE_TYPES, kind);
        }
        RULE => {
            line.family(family);
            line.word("type", &RULE_TYPES, kind);
            line.number("table", table);
        }
        _ => line.number("protocol", byte(2).into()),
    }
    if style == Style::Json {
        line.text.push('}');
    }
    Ok(Some(line.text))
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
