//! Netlink's framing: messages and attributes, read in place and written into a fixed buffer.
//!
//! Reading borrows, allocates nothing, checks every length before it is used, and says what was wrong at which byte.
//! Sources: `linux/netlink.h`, RFC 3549.

use core::fmt;

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// `NLM_F_REQUEST`
pub const F_REQUEST: u16 = 0x1;
/// `NLM_F_ACK`
pub const F_ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`
pub const F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_DUMP`
pub const F_DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`
pub const F_REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`
pub const F_EXCL: u16 = 0x200;
/// `NLM_F_CREATE`
pub const F_CREATE: u16 = 0x400;
/// `NLMSG_ERROR`
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`
pub const DONE: u16 = 3;
/// `NLMSG_OVERRUN`
pub const OVERRUN: u16 = 4;
/// The bits of an attribute's type that are its number (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;

/// Bytes that are not what they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
    /// Its place in the datagram, in bytes.
    pub at: usize,
    /// How many bytes were there.
    pub have: usize,
    /// How many it takes.
    pub want: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {} bytes, want {}", self.what, self.at, self.have, self.want)
    }
}

impl core::error::Error for Malformed {}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_seq`
    pub seq: u32,
    /// `nlmsg_pid`: in a notification the port whose request caused it
    pub port: u32,
    /// What follows the header.
    pub body: Bytes<'a>,
}

/// A slice that knows its place in the datagram.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Their place.
    pub at: usize,
}

impl<'a> Bytes<'a> {
    fn slice<const N: usize>(&self, from: usize, what: &'static str) -> Result<[u8; N], Malformed> {
        let found = self.bytes.get(from..).and_then(|b| b.first_chunk::<N>());
        found.copied().ok_or(Malformed { what, at: self.at, have: self.bytes.len(), want: from.saturating_add(N) })
    }

    /// The byte at `from`.
    ///
    /// # Errors
    /// It is beyond the end.
    pub fn u8(&self, from: usize, what: &'static str) -> Result<u8, Malformed> {
        self.slice::<1>(from, what).map(|[b]| b)
    }

    /// Two bytes at `from`, in the machine's order.
    ///
    /// # Errors
    /// They are beyond the end.
    pub fn u16(&self, from: usize, what: &'static str) -> Result<u16, Malformed> {
        self.slice(from, what).map(u16::from_ne_bytes)
    }

    /// Four bytes at `from`, in the machine's order.
    ///
    /// # Errors
    /// They are beyond the end.
    pub fn u32(&self, from: usize, what: &'static str) -> Result<u32, Malformed> {
        self.slice(from, what).map(u32::from_ne_bytes)
    }

    /// Eight bytes at `from`, in the machine's order.
    ///
    /// # Errors
    /// They are beyond the end.
    pub fn u64(&self, from: usize, what: &'static str) -> Result<u64, Malformed> {
        self.slice(from, what).map(u64::from_ne_bytes)
    }

    /// All from `from` on.
    ///
    /// # Errors
    /// It is beyond the end.
    pub fn rest(&self, from: usize, what: &'static str) -> Result<Bytes<'a>, Malformed> {
        match self.bytes.get(from..) {
            Some(bytes) => Ok(Bytes { bytes, at: self.at.saturating_add(from) }),
            None => Err(Malformed { what, at: self.at, have: self.bytes.len(), want: from }),
        }
    }

    /// The attributes that start at `from`, behind a fixed header.
    ///
    /// # Errors
    /// The header is not whole.
    pub fn attributes(&self, from: usize, what: &'static str) -> Result<Attributes<'a>, Malformed> {
        Ok(Attributes { rest: self.rest(from, what)? })
    }
}

/// The messages of a datagram, in order. Ends at the first that makes no sense.
pub struct Messages<'a> {
    rest: Bytes<'a>,
}

/// Reads the messages of a datagram.
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: Bytes { bytes: datagram, at: 0 } }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.bytes.is_empty() {
            return None;
        }
        let message = read_message(self.rest);
        let step = message.as_ref().map_or(usize::MAX, |m| align(m.body.bytes.len().saturating_add(HEADER)));
        self.rest = skip(self.rest, step);
        Some(message)
    }
}

fn read_message(rest: Bytes<'_>) -> Result<Message<'_>, Malformed> {
    const WHAT: &str = "netlink message";
    let len = rest.u32(0, WHAT)? as usize;
    let have = rest.bytes.len();
    if len < HEADER || len > have {
        return Err(Malformed { what: WHAT, at: rest.at, have, want: len.max(HEADER) });
    }
    let whole = Bytes { bytes: rest.bytes.get(..len).unwrap_or(&[]), at: rest.at };
    Ok(Message {
        kind: whole.u16(4, WHAT)?,
        flags: whole.u16(6, WHAT)?,
        seq: whole.u32(8, WHAT)?,
        port: whole.u32(12, WHAT)?,
        body: whole.rest(HEADER, WHAT)?,
    })
}

/// Attributes, in order. Ends at the first that makes no sense.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: Bytes<'a>,
}

impl<'a> Attributes<'a> {
    /// Attributes inside an attribute.
    pub fn of(nest: Bytes<'a>) -> Self {
        Self { rest: nest }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, Bytes<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.bytes.is_empty() {
            return None;
        }
        let attribute = read_attribute(self.rest);
        let step = attribute.as_ref().map_or(usize::MAX, |(_, value)| align(value.bytes.len().saturating_add(4)));
        self.rest = skip(self.rest, step);
        Some(attribute)
    }
}

fn read_attribute(rest: Bytes<'_>) -> Result<(u16, Bytes<'_>), Malformed> {
    const WHAT: &str = "netlink attribute";
    let len = usize::from(rest.u16(0, WHAT)?);
    let kind = rest.u16(2, WHAT)? & TYPE_MASK;
    match rest.bytes.get(4..len) {
        Some(bytes) => Ok((kind, Bytes { bytes, at: rest.at.saturating_add(4) })),
        None => Err(Malformed { what: WHAT, at: rest.at, have: rest.bytes.len(), want: len.max(4) }),
    }
}

fn skip(rest: Bytes<'_>, step: usize) -> Bytes<'_> {
    Bytes { bytes: rest.bytes.get(step..).unwrap_or(&[]), at: rest.at.saturating_add(step) }
}

const fn align(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// The buffer is too small for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Writes one message into a fixed buffer; nothing is allocated.
pub struct Writer<'a> {
    buf: &'a mut [u8],
    len: usize,
    full: bool,
}

impl<'a> Writer<'a> {
    /// Starts a message of this type.
    pub fn new(buf: &'a mut [u8], kind: u16, flags: u16, seq: u32) -> Self {
        let mut writer = Self { buf, len: 0, full: false };
        writer.put(&0_u32.to_ne_bytes());
        writer.put(&kind.to_ne_bytes());
        writer.put(&(flags | F_REQUEST).to_ne_bytes());
        writer.put(&seq.to_ne_bytes());
        writer.put(&0_u32.to_ne_bytes());
        writer
    }

    /// Starts a run of attributes, to be put into one of another message.
    pub fn nest(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0, full: false }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes of a fixed header.
    #[inline(never)]
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        match self.buf.get_mut(self.len..end) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len = end;
            }
            None => self.full = true,
        }
    }

    /// Appends an attribute, padded.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let Ok(len) = u16::try_from(value.len().saturating_add(4)) else {
            self.full = true;
            return;
        };
        self.put(&len.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(value);
        let pad = align(value.len()) - value.len();
        self.put([0; 3].get(..pad).unwrap_or(&[]));
    }

    /// Appends an attribute of four bytes.
    pub fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Ends the message; its length in bytes.
    ///
    /// # Errors
    /// [`Full`]: it did not fit; nothing of it may be sent.
    pub fn finish(self) -> Result<usize, Full> {
        let len = u32::try_from(self.len).map_err(|_| Full)?;
        match self.buf.get_mut(..4) {
            Some(place) if !self.full => {
                place.copy_from_slice(&len.to_ne_bytes());
                Ok(self.len)
            }
            _ => Err(Full),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut buf = [0; 64];
        let mut writer = Writer::new(&mut buf, 24, F_ACK, 7);
        writer.put(&[1; 12]);
        writer.attribute(3, b"wan\0x");
        writer.attribute_u32(4, 0xdead_beef);
        let len = writer.finish().expect("it fits");
        let message = messages(&buf[..len]).next().expect("one").expect("whole");
        assert_eq!((message.kind, message.flags, message.seq), (24, F_ACK | F_REQUEST, 7));
        let mut attributes = message.body.attributes(12, "test").expect("a header");
        let (kind, value) = attributes.next().expect("one").expect("whole");
        assert_eq!((kind, value.bytes), (3, &b"wan\0x"[..]));
        let (kind, value) = attributes.next().expect("two").expect("whole");
        assert_eq!((kind, value.u32(0, "test")), (4, Ok(0xdead_beef)));
        assert!(attributes.next().is_none());
    }

    #[test]
    fn a_length_that_lies_is_named_with_its_place() {
        let mut buf = [0; 32];
        let len = Writer::new(&mut buf, 1, 0, 1).finish().expect("it fits");
        buf[..4].copy_from_slice(&15_u32.to_ne_bytes());
        let error = messages(&buf[..len]).next().expect("one").expect_err("15 < 16");
        assert_eq!(error.to_string(), "netlink message at 0: 16 bytes, want 16");
        buf[..4].copy_from_slice(&200_u32.to_ne_bytes());
        let error = messages(&buf[..len]).next().expect("one").expect_err("200 > 16");
        assert_eq!(error.to_string(), "netlink message at 0: 16 bytes, want 200");
    }

    #[test]
    fn a_message_that_does_not_fit_is_refused() {
        let mut buf = [0; 20];
        let mut writer = Writer::new(&mut buf, 1, 0, 1);
        writer.attribute_u32(1, 1);
        assert_eq!(writer.finish(), Err(Full));
    }
}
