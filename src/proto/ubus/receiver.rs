//! Cuts the stream from the bus into messages, however it was split or joined on its way.
//!
//! The buffer has a fixed size. A message that is longer is passed over byte by byte and reported by its begin, so that
//! a request whose answer it was can end, and a call can be answered; a length that no bus sends is the end of the
//! connection, as there is no way to find the next message.

use super::message::{HEAD, HEADER, Head, LONGEST, Message};

/// Bytes of a message too long that are looked at: the bus writes object and method first.
const PEEK: usize = 64;

/// What is next in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Not enough bytes yet.
    More,
    /// A whole message.
    Message(Message<'a>),
    /// A message longer than the buffer: its head and the attributes in its first bytes.
    TooLong(Message<'a>),
    /// This is no bus; says what is wrong.
    Broken(&'static str),
}

/// The stream.
#[derive(Debug)]
pub struct Receiver {
    buf: Box<[u8]>,
    /// What was read and not yet given out is `buf[start..end]`.
    start: usize,
    end: usize,
    /// Bytes of a message that is passed over.
    skip: usize,
}

impl Receiver {
    /// With a buffer of so many bytes, at least [`HEAD`]; nothing is allocated after this.
    pub fn new(capacity: usize) -> Self {
        Self { buf: vec![0; capacity.max(HEAD)].into_boxed_slice(), start: 0, end: 0, skip: 0 }
    }

    /// Forgets everything: another connection begins.
    pub fn reset(&mut self) {
        (self.start, self.end, self.skip) = (0, 0, 0);
    }

    /// Where to read into; never empty once [`Receiver::poll_message`] has said [`Next::More`].
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buf.get_mut(self.end..).unwrap_or(&mut [])
    }

    /// So many bytes were read into [`Receiver::space`].
    pub fn filled(&mut self, len: usize) {
        self.end = self.end.saturating_add(len).min(self.buf.len());
    }

    /// Gives out the next message.
    pub fn poll_message(&mut self) -> Next<'_> {
        let skipped = self.skip.min(self.end - self.start);
        self.skip -= skipped;
        self.start += skipped;
        let waiting = self.buf.get(self.start..self.end).unwrap_or(&[]);
        let Some(head) = Head::new(waiting) else { return Next::More };
        if head.version != 0 {
            return Next::Broken("message of another version");
        }
        if head.len < HEAD || head.len > LONGEST + HEADER {
            return Next::Broken("message of a length that no bus sends");
        }
        if head.len > self.buf.len() {
            if waiting.len() < PEEK.min(self.buf.len()) {
                return Next::More;
            }
            let begin = self.start;
            self.start = self.end;
            self.skip = head.len - (self.end - begin);
            return match self.buf.get(begin..self.end).and_then(Message::new) {
                Some(message) => Next::TooLong(message),
                None => Next::More,
            };
        }
        if waiting.len() < head.len {
            return Next::More;
        }
        let begin = self.start;
        self.start += head.len;
        match self.buf.get(begin..self.start).and_then(Message::new) {
            Some(message) => Next::Message(message),
            None => Next::More,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ubus::message::{Kind, attr, write};

    fn status(seq: u16) -> Vec<u8> {
        let mut buf = [0; 64];
        let len = write(&mut buf, Kind::Status, seq, 0, &mut |w| w.attribute_u32(attr::STATUS, 0)).expect("it fits");
        buf[..len].to_vec()
    }

    fn feed(receiver: &mut Receiver, bytes: &[u8], seen: &mut Vec<u16>, too_long: &mut usize) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = receiver.space();
            let len = space.len().min(rest.len());
            space[..len].copy_from_slice(&rest[..len]);
            receiver.filled(len);
            rest = &rest[len..];
            loop {
                match receiver.poll_message() {
                    Next::More => break,
                    Next::Message(message) => seen.push(message.seq),
                    Next::TooLong(_) => *too_long += 1,
                    Next::Broken(why) => panic!("{why}"),
                }
            }
        }
    }

    #[test]
    fn every_split_of_the_stream_gives_the_same_messages() {
        let stream = [status(1), status(2), status(3)].concat();
        for piece in 1..=stream.len() {
            let (mut receiver, mut seen, mut too_long) = (Receiver::new(32), Vec::new(), 0);
            stream.chunks(piece).for_each(|c| feed(&mut receiver, c, &mut seen, &mut too_long));
            assert_eq!((seen, too_long), (vec![1, 2, 3], 0), "pieces of {piece}");
        }
    }

    #[test]
    fn a_message_longer_than_the_buffer_is_passed_over_and_reported() {
        let mut long = [0; 256];
        let len = write(&mut long, Kind::Data, 2, 0, &mut |w| w.attribute(attr::DATA, &[7; 200])).expect("it fits");
        let stream = [status(1), long[..len].to_vec(), status(3)].concat();
        for piece in 1..=stream.len() {
            let (mut receiver, mut seen, mut too_long) = (Receiver::new(64), Vec::new(), 0);
            stream.chunks(piece).for_each(|c| feed(&mut receiver, c, &mut seen, &mut too_long));
            assert_eq!((seen, too_long), (vec![1, 3], 1), "pieces of {piece}");
        }
    }

    #[test]
    fn a_length_that_no_bus_sends_ends_it() {
        for len in [0_u32, 3, (1 << 20) + 4] {
            let mut receiver = Receiver::new(64);
            receiver.space()[8..12].copy_from_slice(&len.to_be_bytes());
            receiver.filled(12);
            assert!(matches!(receiver.poll_message(), Next::Broken(_)), "{len}");
        }
    }
}
