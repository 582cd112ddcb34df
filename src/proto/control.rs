//! The control socket's language: frames of postcard over a UNIX stream.
//!
//! A frame is one byte of version, two bytes of length (big-endian), and so many bytes of postcard. A client sends one
//! [`Request`]; it gets frames of [`Item`]s, a report in the order in which `super::report` writes it, and in the end
//! [`Item::Done`] or [`Item::Failed`]. Another version is answered by a frame of our version that says so.
//!
//! Decoding borrows from the frame, allocates nothing, and refuses what is left over behind a request.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::pack::Pack;
use super::report::Sink;
use super::unpack::{Packed, Unpack, fields};
use crate::engine::Hold;
use crate::engine::explain::Packet;

/// The version of everything below; it changes when a variant does. New variants come at the end and do not count.
pub const VERSION: u8 = 1;
/// Bytes before a frame's content.
pub const HEAD: usize = 3;
/// Bytes of the longest request with its head.
pub const REQUEST_MAX: usize = 512;
/// Bytes of the longest item.
pub const ITEM_MAX: usize = 600;

/// What a client wants. Names are those of sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Everything.
    Status,
    /// The journal from this number on; `follow` goes on for ever.
    Events { since: u32, follow: bool },
    /// The last hour of an uplink, minute by minute.
    Graph { uplink: &'a str },
    /// An operator's judgement of an uplink.
    Hold { uplink: &'a str, hold: Hold },
    /// An operator's choice for a policy; `None` ends it.
    Prefer { policy: &'a str, uplink: Option<&'a str> },
    /// A probe now.
    Probe { uplink: &'a str, target: Option<&'a str> },
    /// Read the configuration again; with a time, go back to the one before unless confirmed by then.
    Reload { confirm_ms: Option<u32> },
    /// Keep what was loaded.
    Confirm,
    /// Forget the flows of an uplink.
    FlushFlows { uplink: &'a str },
    /// Which rules of the configuration the first packet of a connection meets.
    Explain(Packet),
    /// Record into a new file of at most so many bytes; without a path, stop.
    Trace { path: Option<&'a str>, size: u32 },
}

impl Request<'_> {
    /// Whether it changes anything: then not everybody may.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Status | Self::Events { .. } | Self::Graph { .. } | Self::Explain(_))
    }
}

/// A piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item<'a> {
    /// Opens a table.
    Table(&'a str),
    /// Opens an array.
    Array(&'a str),
    /// Closes what was opened last.
    End,
    /// A text.
    Text(&'a str, &'a str),
    /// A number.
    Number(&'a str, i64),
    /// A truth value.
    Flag(&'a str, bool),
    /// That was all.
    Done,
    /// It was not done, and why.
    Failed(&'a str),
}

fields! {
    Packet { dst, src, iif, proto, sport, dport }
}

impl<'a> Packed<'a> for Request<'a> {
    fn unpack(from: &mut Unpack<'a>) -> Self {
        match from.variant(11) {
            0 => Self::Status,
            1 => Self::Events { since: from.value(), follow: from.value() },
            2 => Self::Graph { uplink: from.value() },
            3 => Self::Hold { uplink: from.value(), hold: from.value() },
            4 => Self::Prefer { policy: from.value(), uplink: from.value() },
            5 => Self::Probe { uplink: from.value(), target: from.value() },
            6 => Self::Reload { confirm_ms: from.value() },
            7 => Self::Confirm,
            8 => Self::FlushFlows { uplink: from.value() },
            9 => Self::Explain(from.value()),
            _ => Self::Trace { path: from.value(), size: from.value() },
        }
    }
}

impl<'a> Packed<'a> for Item<'a> {
    fn unpack(from: &mut Unpack<'a>) -> Self {
        match from.variant(8) {
            0 => Self::Table(from.value()),
            1 => Self::Array(from.value()),
            2 => Self::End,
            3 => Self::Text(from.value(), from.value()),
            4 => Self::Number(from.value(), from.value()),
            5 => Self::Flag(from.value(), from.value()),
            6 => Self::Done,
            _ => Self::Failed(from.value()),
        }
    }
}

/// What is wrong with bytes from the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The other side speaks this version.
    Version(u8),
    /// A frame longer than any request.
    TooLong(usize),
    /// The content makes no sense.
    Content,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(theirs) => write!(f, "version {theirs} of the control protocol, this is version {VERSION}"),
            Self::TooLong(len) => write!(f, "a frame of {len} bytes, at most {} are taken", REQUEST_MAX - HEAD),
            Self::Content => f.write_str("a frame that makes no sense"),
        }
    }
}

impl core::error::Error for Error {}

/// Writes a request with its head; its length.
///
/// # Errors
/// [`Error::TooLong`] when the names are.
pub fn encode_request(request: &Request<'_>, buf: &mut [u8; REQUEST_MAX]) -> Result<usize, Error> {
    let (head, body) = buf.split_at_mut(HEAD);
    let too_long = Error::TooLong(REQUEST_MAX);
    let len = Pack::fit(request, body).ok_or(too_long)?;
    write_head(head, len);
    Ok(HEAD + len)
}

fn write_head(head: &mut [u8], len: usize) {
    let [high, low] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    head.copy_from_slice(&[VERSION, high, low]);
}

/// Finds the first frame in `bytes`: its content and its whole length; `None` while it is not complete.
///
/// # Errors
/// Another version, or a length over `most`.
pub fn split_frame(bytes: &[u8], most: usize) -> Result<Option<(&[u8], usize)>, Error> {
    let Some((version, rest)) = bytes.split_first() else { return Ok(None) };
    if *version != VERSION {
        return Err(Error::Version(*version));
    }
    let Some(len) = rest.first_chunk::<2>().map(|l| usize::from(u16::from_be_bytes(*l))) else { return Ok(None) };
    if HEAD + len > most {
        return Err(Error::TooLong(len));
    }
    Ok(bytes.get(HEAD..HEAD + len).map(|content| (content, HEAD + len)))
}

/// Reads a request out of a frame's content.
///
/// # Errors
/// [`Error::Content`], also when anything is left over.
pub fn decode_request(content: &[u8]) -> Result<Request<'_>, Error> {
    match Unpack::first(content) {
        Some((request, [])) => Ok(request),
        _ => Err(Error::Content),
    }
}

/// The items in a frame's content; ends early with an error where they make no sense.
pub fn items(mut content: &[u8]) -> impl Iterator<Item = Result<Item<'_>, Error>> {
    core::iter::from_fn(move || {
        if content.is_empty() {
            return None;
        }
        match Unpack::first(content) {
            Some((item, rest)) => {
                content = rest;
                Some(Ok(item))
            }
            None => {
                content = &[];
                Some(Err(Error::Content))
            }
        }
    })
}

/// Writes one frame of items into a buffer.
pub struct FrameWriter<'a> {
    buf: &'a mut [u8],
    len: usize,
    /// An item did not fit: the frame is not whole.
    pub overflowed: bool,
}

impl<'a> FrameWriter<'a> {
    /// Begins a frame at the start of `buf`.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: HEAD, overflowed: false }
    }

    /// Adds an item.
    pub fn item(&mut self, item: Item<'_>) {
        match self.buf.get_mut(self.len..).and_then(|room| Pack::fit(&item, room)) {
            Some(len) => self.len += len,
            None => self.overflowed = true,
        }
    }

    /// Ends the frame; its length, 0 when there is nothing in it.
    pub fn finish(self) -> usize {
        if self.len <= HEAD {
            return 0;
        }
        if let Some(head) = self.buf.get_mut(..HEAD) {
            write_head(head, self.len - HEAD);
        }
        self.len
    }
}

impl Sink for FrameWriter<'_> {
    fn table(&mut self, name: &str) {
        self.item(Item::Table(name));
    }

    fn array(&mut self, name: &str) {
        self.item(Item::Array(name));
    }

    fn end(&mut self) {
        self.item(Item::End);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.item(Item::Text(name, value));
    }

    fn number(&mut self, name: &str, value: i64) {
        self.item(Item::Number(name, value));
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.item(Item::Flag(name, value));
    }
}

/// Repeats an item into another sink.
pub fn repeat(item: Item<'_>, out: &mut dyn Sink) {
    match item {
        Item::Table(name) => out.table(name),
        Item::Array(name) => out.array(name),
        Item::End => out.end(),
        Item::Text(name, value) => out.text(name, value),
        Item::Number(name, value) => out.number(name, value),
        Item::Flag(name, value) => out.flag(name, value),
        Item::Done | Item::Failed(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::IfName;

    #[test]
    fn requests_survive_the_wire_and_nothing_may_follow_them() {
        for request in [
            Request::Status,
            Request::Events { since: u32::MAX, follow: true },
            Request::Graph { uplink: "wan" },
            Request::Hold { uplink: "wan", hold: Hold::Down },
            Request::Prefer { policy: "p", uplink: None },
            Request::Probe { uplink: "wan", target: Some("192.0.2.1") },
            Request::Reload { confirm_ms: Some(60_000) },
            Request::Confirm,
            Request::FlushFlows { uplink: "wan" },
            Request::Trace { path: Some("/tmp/run"), size: 1 << 20 },
            Request::Explain(Packet {
                dst: [192, 0, 2, 1].into(),
                src: Some("2001:db8::1".parse().expect("an address")),
                iif: IfName::NONE,
                proto: Some(6),
                sport: None,
                dport: Some(443),
            }),
        ] {
            let mut buf = [0; REQUEST_MAX];
            let len = encode_request(&request, &mut buf).expect("it fits");
            let (content, whole) = split_frame(&buf[..len], REQUEST_MAX).expect("our version").expect("complete");
            assert_eq!((decode_request(content), whole), (Ok(request), len));
            assert_eq!(postcard::from_bytes(content), Ok(request));
            let more: Vec<u8> = [content, &[0]].concat();
            assert_eq!(decode_request(&more), Err(Error::Content));
            for cut in 0..len {
                assert_eq!(split_frame(&buf[..cut], REQUEST_MAX), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_understood() {
        for first in 0..=255_u8 {
            for second in [0, 1, 2, 127, 128, 255_u8] {
                let _ = decode_request(&[first, second, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
                let _ = items(&[first, second, 5, 1, 2]).count();
                let _ = split_frame(&[first, second, 0xff], REQUEST_MAX);
            }
        }
        assert_eq!(split_frame(&[1, 255, 255], REQUEST_MAX), Err(Error::TooLong(65535)));
        assert_eq!(split_frame(&[9], REQUEST_MAX), Err(Error::Version(9)));
    }

    #[test]
    fn items_survive_the_wire() {
        let mut buf = [0; 256];
        let mut frame = FrameWriter::new(&mut buf);
        frame.table("");
        frame.text("a", "b");
        frame.number("n", i64::MIN);
        frame.array("l");
        frame.flag("f", true);
        frame.end();
        frame.item(Item::Failed("why"));
        frame.item(Item::Done);
        assert!(!frame.overflowed);
        let len = frame.finish();
        let (content, _) = split_frame(&buf[..len], 1 << 16).expect("fine").expect("complete");
        let found: Vec<Item> = items(content).collect::<Result<_, _>>().expect("fine");
        let (text, number) = (Item::Text("a", "b"), Item::Number("n", i64::MIN));
        let flag = Item::Flag("f", true);
        let wanted =
            [Item::Table(""), text, number, Item::Array("l"), flag, Item::End, Item::Failed("why"), Item::Done];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_full_frame_says_so() {
        let mut buf = [0; 8];
        let mut frame = FrameWriter::new(&mut buf);
        frame.text("a", "0123456789");
        assert!(frame.overflowed);
        assert_eq!(frame.finish(), 0);
    }
}
