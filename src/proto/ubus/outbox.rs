//! Decides what is written to the bus next: answers and requests first, news after them, of each thing only the latest.
//!
//! Both queues have a fixed size. An answer or request that does not fit is refused, so whoever reads calls asks for
//! room first ([`Outbox::room`]). News that waits is replaced by later news of the same thing; when there is no room at
//! all the oldest goes and is counted.

use heapless::Vec as Table;

use super::message::{self, Kind};
use crate::proto::blobmsg::write::{Fill, Full};

/// News of different things that may wait.
const NEWS: usize = 64;

/// What is to be written.
#[derive(Debug)]
pub struct Outbox {
    wire: Fifo,
    news: Fifo,
    waiting: Table<Waiting, NEWS>,
    dropped: u32,
    replaced: u32,
}

#[derive(Debug)]
struct Waiting {
    key: u32,
    len: usize,
}

/// Bytes in order, in a buffer that never grows.
#[derive(Debug)]
struct Fifo {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Fifo {
    fn new(capacity: usize) -> Self {
        Self { buf: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn bytes(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or(&[])
    }

    /// Takes bytes off the front.
    fn take(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Takes bytes out of the middle.
    fn cut(&mut self, at: usize, len: usize) {
        let (from, to) = (self.start + at, self.start + at + len);
        if to <= self.end {
            self.buf.copy_within(to..self.end, from);
            self.end -= len;
        }
    }

    fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buf.get_mut(self.end..).unwrap_or(&mut [])
    }
}

impl Outbox {
    /// With room for so many bytes of answers and requests, and of news; nothing is allocated after this.
    pub fn new(wire: usize, news: usize) -> Self {
        Self { wire: Fifo::new(wire), news: Fifo::new(news), waiting: Table::new(), dropped: 0, replaced: 0 }
    }

    /// Forgets everything: the connection it was meant for is gone.
    pub fn reset(&mut self) {
        self.wire.take(usize::MAX);
        self.news.take(usize::MAX);
        self.waiting.clear();
    }

    /// Bytes of answers and requests that still fit.
    pub fn room(&self) -> usize {
        self.wire.buf.len() - self.wire.len()
    }

    /// Whether all answers and requests were written.
    pub fn is_empty(&self) -> bool {
        self.wire.len() == 0 && self.waiting.is_empty()
    }

    /// News that was forgotten because there was no room.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// News that gave way to later news of the same thing.
    pub fn replaced(&self) -> u32 {
        self.replaced
    }

    /// Adds an answer or a request.
    ///
    /// # Errors
    /// [`Full`]: it does not fit; nothing was added.
    pub fn send(&mut self, kind: Kind, seq: u16, peer: u32, fill: Fill<'_>) -> Result<(), Full> {
        let len = message::write(self.wire.space(), kind, seq, peer, fill)?;
        self.wire.end += len;
        Ok(())
    }

    /// Adds news of the thing with this key.
    pub fn tell(&mut self, key: u32, kind: Kind, peer: u32, fill: Fill<'_>) {
        if let Some(at) = self.waiting.iter().position(|w| w.key == key) {
            self.forget(at);
            self.replaced = self.replaced.saturating_add(1);
        }
        loop {
            if !self.waiting.is_full()
                && let Ok(len) = message::write(self.news.space(), kind, 0, peer, fill)
            {
                self.news.end += len;
                // Cannot fail: there is room.
                let _ = self.waiting.push(Waiting { key, len });
                return;
            }
            self.dropped = self.dropped.saturating_add(1);
            if self.waiting.is_empty() {
                // Longer than the whole queue: this one is forgotten.
                return;
            }
            self.forget(0);
        }
    }

    fn forget(&mut self, at: usize) {
        let before = self.waiting.iter().take(at).map(|w| w.len).sum();
        let gone = self.waiting.remove(at);
        self.news.cut(before, gone.len);
    }

    /// The bytes to write next; empty when there are none. News only begins when no answer and no request waits.
    pub fn bytes(&mut self) -> &[u8] {
        if self.wire.len() == 0
            && let Some(first) = self.waiting.first()
        {
            let len = first.len;
            let next = self.news.bytes().get(..len).unwrap_or(&[]);
            if let Some(place) = self.wire.space().get_mut(..len) {
                place.copy_from_slice(next);
                self.wire.end += len;
            }
            self.waiting.remove(0);
            self.news.take(len);
        }
        self.wire.bytes()
    }

    /// So many of [`Outbox::bytes`] were written.
    pub fn written(&mut self, len: usize) {
        self.wire.take(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ubus::message::{Message, attr};

    fn outbox() -> Outbox {
        Outbox::new(256, 128)
    }

    /// Writes `count` bytes at a time; the messages that came out, as (kind, status or object).
    fn drain(outbox: &mut Outbox, count: usize) -> Vec<(Kind, u32)> {
        let mut all = Vec::new();
        loop {
            let bytes = outbox.bytes();
            if bytes.is_empty() {
                break;
            }
            let len = bytes.len().min(count);
            all.extend_from_slice(&bytes[..len]);
            outbox.written(len);
        }
        let mut seen = Vec::new();
        while !all.is_empty() {
            let len = message::Head::new(&all).expect("a head").len;
            let message = Message::new(&all[..len]).expect("whole");
            seen.push((message.kind.expect("known"), message.body.status.or(message.body.object).expect("one")));
            all.drain(..len);
        }
        seen
    }

    fn tell(outbox: &mut Outbox, key: u32, value: u32) {
        outbox.tell(key, Kind::Notify, 0, &mut |w| w.attribute_u32(attr::OBJID, value));
    }

    #[test]
    fn answers_overtake_news_but_never_cut_it() {
        let mut outbox = outbox();
        tell(&mut outbox, 1, 10);
        tell(&mut outbox, 2, 20);
        assert_eq!(outbox.bytes().len(), 20);
        outbox.written(5);
        outbox.send(Kind::Status, 1, 0, &mut |w| w.attribute_u32(attr::STATUS, 0)).expect("room");
        let rest: Vec<u8> = outbox.bytes().to_vec();
        assert_eq!(rest.len(), 15 + 20);
        assert_eq!(&rest[15..17], &[0, Kind::Status as u8]);
        outbox.written(35);
        assert_eq!(drain(&mut outbox, 3), [(Kind::Notify, 20)]);
    }

    #[test]
    fn a_thousand_changes_of_one_thing_wait_as_the_last_of_them() {
        let mut outbox = outbox();
        for value in 0..1000 {
            tell(&mut outbox, 1, value);
            tell(&mut outbox, 2, value + 5000);
        }
        assert_eq!(drain(&mut outbox, 7), [(Kind::Notify, 999), (Kind::Notify, 5999)]);
        assert_eq!((outbox.dropped(), outbox.replaced()), (0, 1998));
    }

    #[test]
    fn without_room_the_oldest_news_goes_and_is_counted() {
        let mut outbox = outbox();
        for key in 0..10 {
            tell(&mut outbox, key, key);
        }
        let left: Vec<u32> = drain(&mut outbox, 1).into_iter().map(|(_, v)| v).collect();
        assert_eq!((left, outbox.dropped()), (vec![4, 5, 6, 7, 8, 9], 4));
    }

    #[test]
    fn an_answer_without_room_is_refused_and_leaves_the_rest_whole() {
        let mut outbox = Outbox::new(24, 0);
        outbox.send(Kind::Status, 1, 0, &mut |w| w.attribute_u32(attr::STATUS, 0)).expect("room");
        assert_eq!(outbox.send(Kind::Status, 2, 0, &mut |w| w.attribute_u32(attr::STATUS, 0)), Err(Full));
        tell(&mut outbox, 1, 1);
        assert_eq!((drain(&mut outbox, 9), outbox.dropped()), (vec![(Kind::Status, 0)], 1));
    }
}
