//! The few words of nfnetlink that we speak to nf_tables ourselves: is our table there, what is in it, delete it, let strays
//! be rejected.
//!
//! Sources: `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`.

use super::netlink::{F_ACK, F_CREATE, F_DUMP, Full, Malformed, Message, Writer, messages};
use super::nft::{STAMP, STRAYS};

/// `NFNLGRP_NFTABLES`
pub const GROUP_NFTABLES: u32 = 7;
/// Bytes of the longest request.
pub const REQUEST: usize = 256;

/// `NFNL_SUBSYS_NFTABLES`
const NFTABLES: u16 = 10;
/// `NFPROTO_INET`
const INET: u8 = 1;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const GETSET: u16 = 10;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
const NEWGEN: u16 = 15;
/// `NFTA_TABLE_NAME`, and the first attribute of everything in a table
const TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
/// `NFT_SET_ANONYMOUS`: a part of a rule
const ANONYMOUS: u32 = 1;
const SET_KEY_LEN: u16 = 5;
const SET_TIMEOUT: u16 = 11;
const ELEM_LIST_SET: u16 = 2;
const ELEM_LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_TIMEOUT: u16 = 4;
const DATA_VALUE: u16 = 1;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// The table's name with its NUL.
const NAME: &[u8] = b"linkwatch\0";

const fn kind(message: u16) -> u16 {
    NFTABLES << 8 | message
}

/// `struct nfgenmsg`
fn header(writer: &mut Writer<'_>, family: u8, resource: u16) {
    writer.put(&[family, 0]);
    writer.put(&resource.to_be_bytes());
}

fn element(writer: &mut Writer<'_>, set: &str, key: &[u8], timeout_ms: Option<u64>) {
    let mut bufs = [[0; 64]; 4];
    let [data, elem, list, name] = &mut bufs;
    let put = |buf: &mut [u8; 64], attributes: &[(u16, &[u8])]| {
        let mut nest = Writer::nest(buf);
        attributes.iter().for_each(|(kind, value)| nest.attribute(*kind, value));
        nest.len()
    };
    let len = put(data, &[(DATA_VALUE, key)]);
    let data = data.get(..len).unwrap_or(&[]);
    let timeout = timeout_ms.unwrap_or(0).to_be_bytes();
    let all: [(u16, &[u8]); 2] = [(ELEM_KEY | NESTED, data), (ELEM_TIMEOUT, &timeout)];
    let len = put(elem, all.get(..1 + usize::from(timeout_ms.is_some())).unwrap_or(&all));
    let elem = elem.get(..len).unwrap_or(&[]);
    let len = put(list, &[(LIST_ELEM | NESTED, elem)]);
    let list = list.get(..len).unwrap_or(&[]);
    let named = name.get_mut(..=set.len()).unwrap_or(&mut []);
    named.iter_mut().zip(set.bytes()).for_each(|(place, byte)| *place = byte);
    writer.attribute(TABLE, NAME);
    writer.attribute(ELEM_LIST_SET, named);
    writer.attribute(ELEM_LIST_ELEMENTS | NESTED, list);
}

/// Asks whether our table is there with this stamp: answered with an error if it is not.
///
/// # Errors
/// [`Full`]
pub fn encode_ask(stamp: u32, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(buf, kind(GETSETELEM), F_ACK, seq);
    header(&mut writer, INET, 0);
    element(&mut writer, STAMP, &stamp.to_ne_bytes(), None);
    writer.finish()
}

/// One change as a batch of its own.
fn batch(
    message: u16,
    flags: u16,
    seq: u32,
    buf: &mut [u8],
    body: impl FnOnce(&mut Writer<'_>),
) -> Result<usize, Full> {
    let mark = |kind, buf: &mut [u8]| {
        let mut writer = Writer::new(buf, kind, 0, seq);
        header(&mut writer, 0, NFTABLES);
        writer.finish()
    };
    let mut len = mark(BATCH_BEGIN, buf)?;
    let mut writer = Writer::new(buf.get_mut(len..).ok_or(Full)?, kind(message), flags | F_ACK, seq);
    header(&mut writer, INET, 0);
    body(&mut writer);
    len += writer.finish()?;
    len += mark(BATCH_END, buf.get_mut(len..).ok_or(Full)?)?;
    Ok(len)
}

/// Deletes our table.
///
/// # Errors
/// [`Full`]
pub fn encode_delete(seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    batch(DELTABLE, 0, seq, buf, |writer| writer.attribute(TABLE, NAME))
}

/// Has segments of TCP without a connection rejected for some milliseconds.
///
/// # Errors
/// [`Full`]
pub fn encode_strays(millis: u64, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    const TCP: [u8; 1] = [6];
    batch(NEWSETELEM, F_CREATE, seq, buf, |writer| element(writer, STRAYS, &TCP, Some(millis)))
}

/// Something in our table, as a dump tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A chain.
    Chain {
        /// Its name.
        name: &'a str,
    },
    /// A set that has a name.
    Set {
        /// Its name.
        name: &'a str,
        /// Bytes of an element: 4 for IPv4 addresses and marks, 16 for IPv6.
        key_len: u32,
        /// After how many seconds an element goes if nothing else is said; 0: never.
        timeout: u64,
    },
}

/// Asks for all chains of our table.
///
/// # Errors
/// [`Full`]
pub fn encode_chains(seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    dump(GETCHAIN, seq, buf)
}

/// Asks for all sets of our table.
///
/// # Errors
/// [`Full`]
pub fn encode_sets(seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    dump(GETSET, seq, buf)
}

fn dump(message: u16, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(buf, kind(message), F_DUMP, seq);
    header(&mut writer, INET, 0);
    // Old kernels tell of other tables all the same.
    writer.attribute(TABLE, NAME);
    writer.finish()
}

/// What a message of such a dump tells; `None`: nothing of our table.
///
/// # Errors
/// [`Malformed`]
pub fn decode_found<'a>(message: &Message<'a>) -> Result<Option<Found<'a>>, Malformed> {
    let is_chain = message.kind == kind(NEWCHAIN);
    if !is_chain && message.kind != kind(NEWSET) || message.body.u8(0, "nfgenmsg")? != INET {
        return Ok(None);
    }
    let (mut ours, mut name) = (false, None);
    let (mut flags, mut key_len, mut timeout) = (0, 0, 0);
    for attribute in message.body.attributes(4, "nfgenmsg")? {
        let (attribute, value) = attribute?;
        match (attribute, is_chain) {
            (TABLE, _) => ours = value.bytes == NAME,
            (CHAIN_NAME, true) | (SET_NAME, false) => {
                name = value.bytes.strip_suffix(b"\0").and_then(|n| core::str::from_utf8(n).ok());
            }
            (SET_FLAGS, false) => flags = u32::from_be(value.u32(0, "NFTA_SET_FLAGS")?),
            (SET_KEY_LEN, false) => key_len = u32::from_be(value.u32(0, "NFTA_SET_KEY_LEN")?),
            (SET_TIMEOUT, false) => timeout = u64::from_be(value.u64(0, "NFTA_SET_TIMEOUT")?),
            _ => {}
        }
    }
    let name = name.filter(|_| ours && flags & ANONYMOUS == 0);
    // The kernel counts in ticks.
    let timeout = timeout.saturating_add(500) / 1000;
    Ok(name.map(|name| if is_chain { Found::Chain { name } } else { Found::Set { name, key_len, timeout } }))
}

/// Whether a datagram of announcements tells that something of our table was taken away by anybody but the program at
/// netlink port `but`.
///
/// # Errors
/// [`Malformed`]: what follows the bad place is lost; look whether the table is still there.
pub fn takes_away(datagram: &[u8], but: u32) -> Result<bool, Malformed> {
    for message in messages(datagram) {
        let message = message?;
        let deletes = [DELTABLE, DELCHAIN, DELRULE, DELSET].map(kind).contains(&message.kind);
        if !deletes || (but != 0 && message.port == but) || message.body.u8(0, "nfgenmsg")? != INET {
            continue;
        }
        let mut attributes = message.body.attributes(4, "nfgenmsg")?;
        // The name of the table comes first in all of them.
        if let Some(Ok((TABLE, name))) = attributes.next()
            && name.bytes == NAME
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// For the socket that hears of nf_tables: leaves out datagrams about elements of sets (dnsmasq's, at each answer) and the
/// generation's number, which follows every change.
pub fn filter() -> [super::rtnl::Instruction; 6] {
    let half = |message| u32::from(kind(message).to_be());
    let op = |code, jt, jf, k| super::rtnl::Instruction { code, jt, jf, k };
    [
        op(0x28, 0, 0, 4),
        op(0x15, 3, 0, half(NEWSETELEM)),
        op(0x15, 2, 0, half(DELSETELEM)),
        op(0x15, 1, 0, half(NEWGEN)),
        op(0x06, 0, 0, u32::MAX),
        op(0x06, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: u16, family: u8, name: &[u8]) -> Vec<u8> {
        let mut buf = [0; 64];
        let mut writer = Writer::new(&mut buf, kind(message), 0, 0);
        header(&mut writer, family, 0);
        writer.attribute(TABLE, name);
        let len = writer.finish().expect("it fits");
        buf[..len].to_vec()
    }

    #[test]
    fn only_what_is_taken_from_our_table_counts() {
        assert_eq!(takes_away(&told(DELTABLE, INET, NAME), 0), Ok(true));
        assert_eq!(takes_away(&told(DELTABLE, INET, b"fw4\0"), 0), Ok(false));
        assert_eq!(takes_away(&told(DELTABLE, 2, NAME), 0), Ok(false));
        assert_eq!(takes_away(&told(0, INET, NAME), 0), Ok(false));
        let both = [told(DELRULE, INET, b"fw4\0"), told(DELRULE, INET, NAME)].concat();
        assert_eq!(takes_away(&both, 0), Ok(true));
        assert!(takes_away(&both[..30], 0).is_err());
    }

    #[test]
    fn what_is_in_our_table_is_told_by_name() {
        let found = |message: u16, attributes: &[(u16, &[u8])]| {
            let mut buf = [0; 128];
            let mut writer = Writer::new(&mut buf, kind(message), 0, 0);
            header(&mut writer, INET, 0);
            attributes.iter().for_each(|(kind, value)| writer.attribute(*kind, value));
            let len = writer.finish().expect("it fits");
            let message = messages(&buf[..len]).next().expect("one").expect("whole");
            decode_found(&message).map(|f| f.map(|f| format!("{f:?}")))
        };
        let chain = found(NEWCHAIN, &[(1, NAME), (2, &[0; 8]), (3, b"rules\0")]);
        assert_eq!(chain, Ok(Some(r#"Chain { name: "rules" }"#.to_owned())));
        let timeout = 600_000_u64.to_be_bytes();
        let all: [(u16, &[u8]); 5] =
            [(1, NAME), (2, b"names\0"), (3, &[0, 0, 0, 0x10]), (5, &[0, 0, 0, 4]), (11, &timeout)];
        let set = r#"Set { name: "names", key_len: 4, timeout: 600 }"#;
        assert_eq!(found(NEWSET, &all), Ok(Some(set.to_owned())));
        assert_eq!(found(NEWSET, &[(1, NAME), (2, b"__set0\0"), (3, &[0, 0, 0, 3])]), Ok(None));
        assert_eq!(found(NEWSET, &[(1, b"fw4\0"), (2, b"names\0")]), Ok(None));
        assert_eq!(found(NEWCHAIN, &[(1, NAME), (3, b"no end")]), Ok(None));
        assert!(found(NEWSET, &[(1, NAME), (2, b"names\0"), (3, &[0, 0])]).is_err());
    }

    #[test]
    fn every_request_fits() {
        let mut buf = [0; REQUEST];
        assert!(encode_chains(1, &mut buf).is_ok() && encode_sets(1, &mut buf).is_ok());
        assert!(encode_ask(1, 1, &mut buf).is_ok());
        assert!(encode_delete(1, &mut buf).is_ok());
        assert!(encode_strays(10_000, 1, &mut buf).is_ok());
        assert_eq!(encode_strays(10_000, 1, &mut buf[..80]), Err(Full));
    }
}
