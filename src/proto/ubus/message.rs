//! One ubus message: eight bytes of header and a container of attributes (`ubusmsg.h`).

use crate::proto::blobmsg::write::{Fill, Full, Writer};
use crate::proto::blobmsg::{Attributes, List};

/// Bytes of a header.
pub const HEADER: usize = 8;
/// Header and the word of the body: what must be there before the length is known.
pub const HEAD: usize = 12;
/// The longest body that ubusd takes or sends, padding included.
pub const LONGEST: usize = 1 << 20;
/// The object that takes event registrations and events.
pub const EVENTS: u32 = 1;

/// Types of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The greeting; its peer is our client id.
    Hello = 0,
    /// The end of a request.
    Status = 1,
    /// An answer's data, any number before the end.
    Data = 2,
    /// Are you there?
    Ping = 3,
    /// Ask for objects by path.
    Lookup = 4,
    /// A call, an event, or a notification.
    Invoke = 5,
    /// Publish an object.
    AddObject = 6,
    /// Withdraw it.
    RemoveObject = 7,
    /// Subscribe to an object.
    Subscribe = 8,
    /// No more; or: the object subscribed to is gone.
    Unsubscribe = 9,
    /// Tell the subscribers; or: an object has its first or has lost its last one.
    Notify = 10,
    /// A copy of traffic, for monitors.
    Monitor = 11,
}

impl Kind {
    /// From its number; `None` for one that we do not know.
    pub fn new(number: u8) -> Option<Self> {
        const ALL: [Kind; 12] = [
            Kind::Hello,
            Kind::Status,
            Kind::Data,
            Kind::Ping,
            Kind::Lookup,
            Kind::Invoke,
            Kind::AddObject,
            Kind::RemoveObject,
            Kind::Subscribe,
            Kind::Unsubscribe,
            Kind::Notify,
            Kind::Monitor,
        ];
        ALL.get(usize::from(number)).copied()
    }
}

/// Attribute ids (`UBUS_ATTR_*`).
pub mod attr {
    /// Status of a request, int32.
    pub const STATUS: u8 = 1;
    /// Path, text.
    pub const OBJPATH: u8 = 2;
    /// Object, int32.
    pub const OBJID: u8 = 3;
    /// Method, text.
    pub const METHOD: u8 = 4;
    /// Type of an object, int32.
    pub const OBJTYPE: u8 = 5;
    /// Methods and their arguments, blobmsg.
    pub const SIGNATURE: u8 = 6;
    /// Arguments or answer, blobmsg.
    pub const DATA: u8 = 7;
    /// The object subscribed to, int32.
    pub const TARGET: u8 = 8;
    /// Whether there are subscribers, int8.
    pub const ACTIVE: u8 = 9;
    /// No answer is wanted, int8.
    pub const NO_REPLY: u8 = 10;
    /// Who was notified.
    pub const SUBSCRIBERS: u8 = 11;
    /// The caller's user, text.
    pub const USER: u8 = 12;
    /// The caller's group, text.
    pub const GROUP: u8 = 13;
}

/// The attributes of a message that we have a use for. As in C, of two with the same id the later counts, and one that
/// fails its type's check counts as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body<'a> {
    /// Status of a request.
    pub status: Option<u32>,
    /// Path.
    pub path: Option<&'a [u8]>,
    /// Object.
    pub object: Option<u32>,
    /// Method, event or notification.
    pub method: Option<&'a [u8]>,
    /// Type of an object.
    pub object_type: Option<u32>,
    /// Methods of an object.
    pub signature: Option<List<'a>>,
    /// Arguments or answer; whoever sends them may send anything.
    pub data: Option<List<'a>>,
    /// The object subscribed to.
    pub target: Option<u32>,
    /// Whether there are subscribers.
    pub active: Option<bool>,
    /// No answer is wanted.
    pub no_reply: bool,
    /// The caller's user.
    pub user: Option<&'a [u8]>,
}

impl<'a> Body<'a> {
    /// From the payload of the container.
    pub fn new(payload: &'a [u8]) -> Self {
        let mut body = Self::default();
        for attribute in Attributes::of(payload) {
            let Some(bytes) = attribute.payload else { continue };
            let word = bytes.try_into().map(u32::from_be_bytes).ok();
            let byte = bytes.try_into().map(|[b]: [u8; 1]| b != 0).ok();
            let text = bytes.split_last().filter(|(end, _)| **end == 0).map(|(_, text)| cut(text));
            let list = Some(List::new(bytes));
            match attribute.id {
                attr::STATUS => body.status = word.or(body.status),
                attr::OBJPATH => body.path = text.or(body.path),
                attr::OBJID => body.object = word.or(body.object),
                attr::METHOD => body.method = text.or(body.method),
                attr::OBJTYPE => body.object_type = word.or(body.object_type),
                attr::SIGNATURE => body.signature = list,
                attr::DATA => body.data = list,
                attr::TARGET => body.target = word.or(body.target),
                attr::ACTIVE => body.active = byte.or(body.active),
                attr::NO_REPLY => body.no_reply = byte.unwrap_or(body.no_reply),
                attr::USER => body.user = text.or(body.user),
                _ => {}
            }
        }
        body
    }
}

/// Text as C sees it.
fn cut(text: &[u8]) -> &[u8] {
    text.split(|b| *b == 0).next().unwrap_or(&[])
}

/// A whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type; `None` for one that we do not know.
    pub kind: Option<Kind>,
    /// Number of the request, echoed in its answers.
    pub seq: u16,
    /// Who it is about or from, by kind.
    pub peer: u32,
    /// The attributes.
    pub body: Body<'a>,
}

impl<'a> Message<'a> {
    /// From all its bytes; `None` when there are fewer than [`HEAD`].
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let head = Head::new(bytes)?;
        let body = Body::new(bytes.get(HEAD..).unwrap_or(&[]));
        Some(Self { kind: Kind::new(head.kind), seq: head.seq, peer: head.peer, body })
    }
}

/// The first bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Always 0.
    pub version: u8,
    /// Its type's number.
    pub kind: u8,
    /// Number of the request.
    pub seq: u16,
    /// Who it is about or from.
    pub peer: u32,
    /// Bytes of the whole message.
    pub len: usize,
}

impl Head {
    /// `None` when there are fewer than [`HEAD`] bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let [version, kind, s0, s1, p0, p1, p2, p3, l0, l1, l2, l3] = *bytes.first_chunk::<HEAD>()?;
        let _ = l0;
        let body = usize::try_from(u32::from_be_bytes([0, l1, l2, l3])).unwrap_or(usize::MAX);
        Some(Self {
            version,
            kind,
            seq: u16::from_be_bytes([s0, s1]),
            peer: u32::from_be_bytes([p0, p1, p2, p3]),
            len: body.saturating_add(HEADER),
        })
    }
}

/// Writes a message.
///
/// # Errors
/// [`Full`]: it does not fit.
pub fn write(buf: &mut [u8], kind: Kind, seq: u16, peer: u32, fill: Fill<'_>) -> Result<usize, Full> {
    let mut writer = Writer::new(buf);
    let [s0, s1] = seq.to_be_bytes();
    writer.put(&[0, kind as u8, s0, s1]);
    writer.put(&peer.to_be_bytes());
    writer.nest(0, fill);
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reads_as_it_was_written() {
        let mut buf = [0; 128];
        let len = write(&mut buf, Kind::Invoke, 7, 0xdead_beef, &mut |w| {
            w.attribute_u32(attr::OBJID, 0xdead_beef);
            w.attribute_str(attr::METHOD, "status");
            w.nest(attr::DATA, |w| w.str("uplink", "wan"));
        })
        .expect("it fits");
        let message = Message::new(&buf[..len]).expect("whole");
        assert_eq!((message.kind, message.seq, message.peer), (Some(Kind::Invoke), 7, 0xdead_beef));
        assert_eq!((message.body.object, message.body.method), (Some(0xdead_beef), Some(&b"status"[..])));
        assert_eq!(message.body.data.and_then(|d| d.str("uplink")), Some("wan"));
        assert_eq!(Head::new(&buf).expect("a head").len, len);
    }

    #[test]
    fn an_attribute_of_the_wrong_size_is_as_if_absent_and_the_later_of_two_counts() {
        let body = Body::new(b"\x03\0\0\x08\0\0\0\x05\x03\0\0\x07\0\0\0\0\x04\0\0\x06ab\0\0\x03\0\0\x08\0\0\0\x09");
        assert_eq!((body.object, body.method), (Some(9), None));
    }
}
