//! The journal: the last notices in words, with their times. Fixed capacity, oldest forgotten first; survives restarts
//! in the state file.

use std::fmt::Display;

use heapless::{Deque, String};
use serde::Serialize;

use crate::limits;
use crate::proto::report::Sink;
use crate::types::Name;

/// Bytes of a line; a longer one is cut.
const LINE: usize = 200;

/// One notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Counts on over restarts; wraps.
    pub seq: u32,
    /// Seconds since 1970 by the system's clock, which may have been wrong.
    pub time: i64,
    /// The uplink it is about, or empty.
    pub uplink: Name,
    /// What happened.
    pub text: String<LINE>,
}

/// The last [`limits::JOURNAL`] notices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Journal {
    pub(super) entries: Deque<Entry, { limits::JOURNAL }>,
    pub(super) next: u32,
}

impl Journal {
    /// Adds a line, forgetting the oldest when full.
    pub fn push(&mut self, time: i64, uplink: &str, line: impl Display) {
        let mut text = String::new();
        // What does not fit is cut off.
        let _ = std::fmt::write(&mut Cut(&mut text), format_args!("{line}"));
        if self.entries.is_full() {
            self.entries.pop_front();
        }
        let uplink = Name::try_from(uplink).unwrap_or_default();
        // Cannot fail: a place was just made.
        let _ = self.entries.push_back(Entry { seq: self.next, time, uplink, text });
        self.next = self.next.wrapping_add(1);
    }

    /// The number of the next line.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// The first entry with this number or a later one.
    pub fn from(&self, seq: u32) -> Option<&Entry> {
        // A wrapped counter: later means less than half the numbers ahead.
        self.entries.iter().find(|e| e.seq.wrapping_sub(seq) < u32::MAX / 2)
    }
}

/// Takes what fits and refuses nothing.
struct Cut<'a>(&'a mut String<LINE>);

impl std::fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            if self.0.push(c).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl Entry {
    /// As a table of a report.
    pub fn report(&self, out: &mut dyn Sink) {
        out.table("");
        out.number("seq", self.seq.into());
        out.number("time", self.time);
        out.text("uplink", &self.uplink);
        out.text("text", &self.text);
        out.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_numbers_go_on() {
        let mut journal = Journal::default();
        for n in 0..limits::JOURNAL as u32 + 3 {
            journal.push(i64::from(n), "wan", format_args!("line {n}"));
        }
        assert_eq!(journal.from(0).map(|e| e.seq), Some(3));
        assert_eq!(journal.from(5).map(|e| e.seq), Some(5));
        assert_eq!(journal.from(journal.next()), None);
        journal.push(0, "", "x".repeat(500));
        let last = journal.from(journal.next() - 1).map(|e| e.text.len());
        assert_eq!(last, Some(LINE));
    }
}
