//! Connection tracking by netlink: forget connections by mark, count what is there.
//!
//! One message forgets all connections of a mark in a family, however many there are; the kernel is done when the
//! request has been sent. It does not say how many it were: the number of all connections before and after tells, and
//! costs nothing, whereas a filtered dump would read each of them.
//! Sources: `linux/netfilter/nfnetlink_conntrack.h`.

use super::netlink::{F_ACK, Full, Message, Writer};
use crate::types::{Family, FwMark};

/// `NFNL_SUBSYS_CTNETLINK`
const CTNETLINK: u16 = 1;
/// `IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = 2;
/// `IPCTNL_MSG_CT_GET_STATS`
const GET_STATS: u16 = 5;
const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

/// Forgets a family's connections: those with a mark, or all.
///
/// # Errors
/// [`Full`]
pub fn encode_delete(family: Family, mark: Option<FwMark>, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(buf, CTNETLINK << 8 | DELETE, F_ACK, seq);
    // Version 1: with 0 the kernel takes any family for all of them, since old programs always sent one.
    writer.put(&[if family == Family::V4 { 2 } else { 10 }, 1, 0, 0]);
    if let Some(mark) = mark {
        writer.attribute(CTA_MARK, &mark.value.to_be_bytes());
        writer.attribute(CTA_MARK_MASK, &mark.mask.to_be_bytes());
    }
    writer.finish()
}

/// Asks how many connections there are.
///
/// # Errors
/// [`Full`]
pub fn encode_count(seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(buf, CTNETLINK << 8 | GET_STATS, F_ACK, seq);
    writer.put(&[0; 4]);
    writer.finish()
}

/// The number in an answer to [`encode_count`]; `None` when it is none.
pub fn decode_count(message: &Message<'_>) -> Option<u32> {
    if message.kind != CTNETLINK << 8 | GET_STATS {
        return None;
    }
    let mut attributes = message.body.attributes(4, "nfgenmsg").ok()?.flatten();
    let (_, value) = attributes.find(|(kind, _)| *kind == CTA_STATS_GLOBAL_ENTRIES)?;
    value.bytes.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::messages;
    use super::*;

    #[test]
    fn marks_are_written_in_network_order() {
        let mut buf = [0; 64];
        let mark = FwMark { value: 0x200, mask: 0x3f00 };
        let len = encode_delete(Family::V6, Some(mark), 7, &mut buf).expect("it fits");
        let message = messages(&buf[..len]).next().expect("one").expect("whole");
        assert_eq!((message.kind, message.seq, message.body.u8(0, "family")), (0x102, 7, Ok(10)));
        let attributes: Vec<_> = message.body.attributes(4, "nfgenmsg").expect("some").flatten().collect();
        let shown: Vec<_> = attributes.iter().map(|(kind, value)| (*kind, value.bytes)).collect();
        assert_eq!(shown, [(8, &[0, 0, 2, 0][..]), (21, &[0, 0, 0x3f, 0][..])]);
    }

    #[test]
    fn a_count_is_read() {
        let mut buf = [0; 64];
        let mut writer = Writer::new(&mut buf, 0x105, 0, 1);
        writer.put(&[0; 4]);
        writer.attribute(1, &[0, 1, 0xd4, 0xc0]);
        let len = writer.finish().expect("it fits");
        let message = messages(&buf[..len]).next().expect("one").expect("whole");
        assert_eq!(decode_count(&message), Some(120_000));
    }
}
