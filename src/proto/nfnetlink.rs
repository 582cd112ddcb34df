//! The few words of nfnetlink that we speak to nf_tables ourselves: is our table there, delete it, let strays be rejected.
//!
//! Sources: `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`.

use super::netlink::{F_ACK, F_CREATE, Full, Malformed, Writer, messages};
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
const DELCHAIN: u16 = 5;
const DELRULE: u16 = 8;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
const NEWGEN: u16 = 15;
/// `NFTA_TABLE_NAME`, and the first attribute of everything in a table
const TABLE: u16 = 1;
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
    fn every_request_fits() {
        let mut buf = [0; REQUEST];
        assert!(encode_ask(1, 1, &mut buf).is_ok());
        assert!(encode_delete(1, &mut buf).is_ok());
        assert!(encode_strays(10_000, 1, &mut buf).is_ok());
        assert_eq!(encode_strays(10_000, 1, &mut buf[..80]), Err(Full));
    }
}
