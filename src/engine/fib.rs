//! Decides what to ask the kernel for, from what we want and what it has: one table per kind of object.
//!
//! Nothing is queued. Each object holds `wanted`, `have`, a request in flight and a time before which nothing is tried;
//! [`Table::poll`] derives the next request. A thousand changes while a request is in flight cost one follow-up.
//! Refusals are retried with back-off. Whoever keeps deleting an object of ours is met with [`Contention`].

use core::cmp::Ordering;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use super::action::{Op, Token};
use super::contention::{Contention, RETRY_MAX};
use super::object::{NexthopSpec, RouteSpec, RuleSpec};
use crate::time::{Duration, Instant};
use crate::types::Errno;

/// First wait after a refusal; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(20);

/// An object with an identity.
pub trait Object: Copy + PartialEq {
    /// Whether an object that the kernel may have deleted is asked for with [`Op::Replace`] (only where the identity
    /// is ours alone), else with [`Op::Add`]: what sits there now might be somebody else's.
    const REPLACE_UNKNOWN: bool = false;

    /// Orders by identity: two specs with equal identity cannot both be installed.
    fn order(&self, other: &Self) -> Ordering;
}

impl Object for RouteSpec {
    fn order(&self, other: &Self) -> Ordering {
        (self.table, self.metric, self.family).cmp(&(other.table, other.metric, other.family))
    }
}

impl Object for RuleSpec {
    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }
}

impl Object for NexthopSpec {
    const REPLACE_UNKNOWN: bool = true;

    fn order(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

/// What the kernel has at an object's place, as far as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Have {
    /// Nothing.
    Missing,
    /// Our object as it should be.
    Same,
    /// An object of ours that should look different.
    Different,
    /// The kernel may have deleted it without a word.
    Unknown,
}

/// A request that has not been answered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Flight {
    token: Token,
    op: Op,
    since: Instant,
    /// The spec changed after the request was sent.
    outdated: bool,
    /// The reason for which it may be refused went away after it was sent.
    hurried: bool,
}

/// An object and its story.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Entry<T> {
    /// How it should look, or how it was seen when it is not wanted.
    pub spec: T,
    /// Whether it should be there.
    pub wanted: bool,
    /// What is there.
    pub have: Have,
    flight: Option<Flight>,
    retry_at: Instant,
    refusals: u8,
    /// The last refusal was that something is there: only a look tells whether that is ours.
    occupied: bool,
    marked: bool,
    seen: bool,
    contention: Contention,
    /// Since when the kernel has had it again after somebody took it away: our own changes to it are no war.
    since: Instant,
    /// Somebody took it away, and it is not back yet.
    taken: bool,
}

impl<T: Object> Entry<T> {
    /// Whether the kernel has it, or will once the request in flight is through.
    pub fn is_coming(&self) -> bool {
        match self.flight {
            Some(flight) => flight.op != Op::Delete,
            None => matches!(self.have, Have::Same | Have::Different),
        }
    }

    /// Whether the kernel has exactly what is wanted and nothing is under way.
    pub fn is_settled(&self) -> bool {
        self.flight.is_none() && if self.wanted { self.have == Have::Same } else { self.have == Have::Missing }
    }

    /// Whether the kernel has refused it more than once: the first refusal may be a race.
    pub fn is_refused(&self) -> bool {
        self.refusals >= 2
    }

    fn op(&self) -> Option<Op> {
        match (self.wanted, self.have) {
            (true, Have::Same) | (false, Have::Missing) => None,
            (true, Have::Unknown) if T::REPLACE_UNKNOWN => Some(Op::Replace),
            (true, Have::Missing | Have::Unknown) => Some(Op::Add),
            (true, Have::Different) => Some(Op::Replace),
            (false, _) => Some(Op::Delete),
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer<T> {
    /// Done, or it was so already.
    Done,
    /// Refused; `first` when it is the second refusal in a row: the first may be a race with the kernel.
    Refused { spec: T, errno: Errno, retry: Duration, tell: bool },
}

/// All objects of one kind; at most `N`, further ones are refused by name ([`Full`]).
#[derive(Debug, Serialize, Deserialize)]
#[repr(C)]
pub struct Table<T, const N: usize> {
    /// When the next retry is due, if nothing is before.
    next: Option<Instant>,
    flights: u16,
    /// Something may be due.
    busy: bool,
    pub(super) overflowed: bool,
    entries: Vec<Entry<T>, N>,
}

/// The table had no place for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<T, const N: usize> Default for Table<T, N> {
    fn default() -> Self {
        Self { entries: Vec::new(), busy: false, next: None, flights: 0, overflowed: false }
    }
}

impl<T: Object, const N: usize> Table<T, N> {
    fn find(&self, spec: &T) -> Result<usize, usize> {
        self.entries.binary_search_by(|e| e.spec.order(spec))
    }

    fn insert(&mut self, at: usize, spec: T, have: Have) -> Result<&mut Entry<T>, Full> {
        let entry = Entry {
            spec,
            wanted: false,
            have,
            flight: None,
            retry_at: Instant::ZERO,
            refusals: 0,
            occupied: false,
            marked: false,
            seen: true,
            contention: Contention::default(),
            since: Instant::ZERO,
            taken: false,
        };
        if self.entries.insert(at, entry).is_err() {
            self.overflowed = true;
            return Err(Full);
        }
        self.busy = true;
        self.entries.get_mut(at).ok_or(Full)
    }

    /// Starts saying what is wanted.
    pub fn want_begin(&mut self) {
        for entry in &mut self.entries {
            entry.marked = false;
        }
    }

    /// Wants an object.
    ///
    /// # Errors
    /// [`Full`]: it will not be installed; the caller tells.
    pub fn want(&mut self, spec: T) -> Result<(), Full> {
        let entry = match self.find(&spec) {
            Ok(at) => self.entries.get_mut(at).ok_or(Full)?,
            Err(at) => self.insert(at, spec, Have::Missing)?,
        };
        entry.marked = true;
        if entry.spec != spec {
            entry.spec = spec;
            if entry.have == Have::Same {
                entry.have = Have::Different;
            }
            if let Some(flight) = &mut entry.flight {
                flight.outdated = true;
            }
            // News is a reason to try again at once, also in a fight: a verdict must not wait for a rival to tire.
            entry.refusals = 0;
            entry.retry_at = Instant::ZERO;
        }
        Ok(())
    }

    /// Ends saying what is wanted: what was not named is not.
    pub fn want_end(&mut self) {
        for entry in &mut self.entries {
            if entry.wanted != entry.marked {
                entry.wanted = entry.marked;
                entry.refusals = 0;
                entry.retry_at = Instant::ZERO;
            }
        }
        self.tidy();
        self.busy = true;
    }

    fn tidy(&mut self) {
        self.entries.retain(|e| e.wanted || e.have != Have::Missing || e.flight.is_some());
    }

    /// The next request that is due and that `pick` agrees to; it is then in flight.
    ///
    /// `pick` sees the whole table, so that a group can wait for its leaves. Later keys come first: groups before leaves.
    pub fn poll(&mut self, now: Instant, token: Token, pick: impl Fn(&[Entry<T>], &T, Op) -> bool) -> Option<(Op, T)> {
        if !self.busy && self.next.is_none_or(|next| next > now) {
            return None;
        }
        for at in (0..self.entries.len()).rev() {
            let Some(entry) = self.entries.get(at) else { continue };
            let Some(op) = entry.op() else { continue };
            if entry.flight.is_some() || entry.retry_at > now || !pick(&self.entries, &entry.spec, op) {
                continue;
            }
            let entry = self.entries.get_mut(at)?;
            entry.flight = Some(Flight { token, op, since: now, outdated: false, hurried: false });
            self.flights = self.flights.saturating_add(1);
            return Some((op, entry.spec));
        }
        None
    }

    /// Nothing more is due now: remember when to look again.
    pub fn rest(&mut self, now: Instant) {
        if !self.busy && self.next.is_none_or(|next| next > now) {
            return;
        }
        self.busy = false;
        self.next = self
            .entries
            .iter()
            .filter(|e| e.flight.is_none() && e.op().is_some() && e.retry_at > now)
            .map(|e| e.retry_at)
            .min();
    }

    /// The kernel answered; `None` when the token is not of this table.
    pub fn acked(&mut self, token: Token, errno: Errno, now: Instant) -> Option<Answer<T>> {
        if self.flights == 0 {
            return None;
        }
        let entry = self.entries.iter_mut().find(|e| e.flight.is_some_and(|f| f.token == token))?;
        let flight = entry.flight.take()?;
        self.flights = self.flights.saturating_sub(1);
        self.busy = true;
        entry.seen = true;
        // What is there in another shape is not found by the shape we know: only a look tells.
        let gone = matches!(errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV) && entry.have != Have::Different;
        if errno == Errno::OK || (flight.op == Op::Delete && gone) {
            entry.refusals = 0;
            if core::mem::take(&mut entry.taken) {
                entry.since = now;
            }
            entry.have = match flight.op {
                Op::Delete if flight.outdated => Have::Unknown,
                Op::Delete => Have::Missing,
                _ if flight.outdated => Have::Different,
                _ => Have::Same,
            };
            self.tidy();
            return Some(Answer::Done);
        }
        entry.have = Have::Unknown;
        entry.refusals = entry.refusals.saturating_add(1);
        let retry = (RETRY_MIN * (1 << u32::from(entry.refusals.min(12)))).min(RETRY_MAX);
        entry.occupied = errno == Errno::EEXIST;
        if !flight.outdated && !flight.hurried || entry.occupied {
            entry.retry_at = now.after(retry);
        }
        Some(Answer::Refused { spec: entry.spec, errno, retry, tell: entry.refusals == 2 })
    }

    /// An object of ours is there, as a dump or somebody's change shows.
    ///
    /// # Errors
    /// [`Full`]: it is left alone, since we cannot remember it.
    pub fn seen(&mut self, spec: T) -> Result<(), Full> {
        match self.find(&spec) {
            Ok(at) => {
                if let Some(entry) = self.entries.get_mut(at) {
                    entry.seen = true;
                    if let Some(flight) = &mut entry.flight {
                        // Somebody may have put it there again after our request.
                        flight.outdated |= flight.op == Op::Delete;
                    } else {
                        if !entry.wanted {
                            entry.spec = spec;
                        }
                        let have = if entry.spec == spec { Have::Same } else { Have::Different };
                        if have != entry.have {
                            self.busy = true;
                        }
                        entry.have = have;
                        if have == Have::Same && entry.refusals > 0 {
                            // Refused because it is there: nothing is left to wait for when it goes.
                            entry.refusals = 0;
                            entry.retry_at = Instant::ZERO;
                        }
                    }
                }
            }
            Err(at) => {
                self.insert(at, spec, Have::Same)?;
            }
        }
        Ok(())
    }

    /// Somebody took an object away. Returns the wait before the repair when it is a fight.
    pub fn lost(&mut self, spec: &T, by: u32, now: Instant) -> Option<(T, Duration)> {
        let at = self.find(spec).ok()?;
        let entry = self.entries.get_mut(at)?;
        if entry.have == Have::Missing || entry.flight.is_some() {
            // In flight: the answer tells; it comes after what it answers.
            if let Some(flight) = &mut entry.flight {
                flight.outdated |= flight.op != Op::Delete && by != 0;
            }
            return None;
        }
        entry.have = Have::Missing;
        self.busy = true;
        let mut fight = None;
        if entry.wanted && by != 0 {
            entry.taken = true;
            let wait = entry.contention.lost(now.since(entry.since));
            if wait > Duration::ZERO {
                entry.retry_at = now.after(wait);
                fight = Some((entry.spec, wait));
            }
        }
        self.tidy();
        fight
    }

    /// What `which` names and the kernel refused, or is about to, may be tried again at once: the reason is gone.
    pub fn hurry(&mut self, now: Instant, which: impl Fn(&T) -> bool) {
        for entry in self.entries.iter_mut().filter(|e| which(&e.spec)) {
            match &mut entry.flight {
                Some(flight) => flight.hurried = true,
                None if entry.refusals > 0 && !entry.occupied => entry.retry_at = now,
                None => {}
            }
        }
        self.busy = true;
    }

    /// Something that a request may have waited for has happened.
    pub fn stir(&mut self) {
        self.busy = true;
    }

    /// The kernel may have (`Have::Unknown`) or has (`Have::Missing`) deleted what `which` names, without a word.
    pub fn doubt(&mut self, have: Have, which: impl Fn(&T) -> bool) {
        for entry in &mut self.entries {
            if entry.have != Have::Missing && which(&entry.spec) {
                entry.have = have;
                if let Some(flight) = &mut entry.flight {
                    flight.outdated = true;
                }
                self.busy = true;
            }
        }
        self.tidy();
    }

    /// A dump begins: what `which` names must be seen again.
    pub fn sweep_begin(&mut self, which: impl Fn(&T) -> bool) {
        for entry in &mut self.entries {
            if which(&entry.spec) {
                entry.seen = entry.flight.is_some();
            }
        }
    }

    /// The dump was whole: what was not seen is gone. Returns how many wanted objects were gone.
    pub fn sweep_end(&mut self, which: impl Fn(&T) -> bool) -> u32 {
        let mut gone = 0;
        for entry in &mut self.entries {
            if which(&entry.spec) && !entry.seen && entry.flight.is_none() && entry.have != Have::Missing {
                gone += u32::from(entry.wanted && entry.have == Have::Same);
                entry.have = Have::Missing;
                self.busy = true;
            }
        }
        self.tidy();
        gone
    }

    /// All requests in flight count as lost: what they did is unknown.
    pub fn lose_flights(&mut self) {
        for entry in &mut self.entries {
            if entry.flight.take().is_some() {
                entry.have = Have::Unknown;
                self.busy = true;
            }
        }
        self.flights = 0;
    }

    /// The entry with the identity of `spec`.
    pub fn get(&self, spec: &T) -> Option<&Entry<T>> {
        self.entries.get(self.find(spec).ok()?)
    }

    /// All entries, by identity.
    pub fn entries(&self) -> &[Entry<T>] {
        &self.entries
    }

    /// Requests in flight.
    pub fn flights(&self) -> usize {
        usize::from(self.flights)
    }

    /// When the oldest request in flight was sent.
    pub fn oldest_flight(&self) -> Option<Instant> {
        if self.flights == 0 {
            return None;
        }
        self.entries.iter().filter_map(|e| e.flight.map(|f| f.since)).min()
    }

    /// When to look again; `Some(now)`-like past instants mean at once.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether the kernel has all that is wanted and nothing else.
    pub fn is_settled(&self) -> bool {
        self.entries.iter().all(Entry::is_settled)
    }
}

#[cfg(test)]
mod tests;
