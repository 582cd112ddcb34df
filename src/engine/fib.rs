//! Decides what to ask the kernel for, from what we want and what it has: one table per kind of object.
//!
//! Nothing is queued. Each object has a [`Story`]: whether it is wanted, what is there, a request in flight and a time
//! before which nothing is tried; [`Table::poll`] derives the next request. A thousand changes while a request is in
//! flight cost one follow-up. Refusals are retried with back-off. Whoever keeps deleting an object of ours is met with
//! [`Contention`].
//!
//! Stories do not know what their objects look like, and lie apart from them: what they decide is one piece of code for
//! routes, rules and nexthops.

use heapless::{Vec, VecView};
use serde::{Deserialize, Serialize};

use super::action::{Op, Token};
use super::contention::{Contention, RETRY_MAX, wait_after};
use super::object::Object;
use crate::time::{Duration, Instant};
use crate::types::Errno;

/// First wait after a refusal; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(20);

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

/// What became of an object so far: all but how it should look.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Story {
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

impl Story {
    fn new(have: Have) -> Self {
        Self {
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
        }
    }

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

    /// Whether nothing is left of it.
    fn is_over(&self) -> bool {
        !self.wanted && self.have == Have::Missing && self.flight.is_none()
    }

    fn op(&self, replace_unknown: bool) -> Option<Op> {
        match (self.wanted, self.have) {
            (true, Have::Same) | (false, Have::Missing) => None,
            (true, Have::Unknown) if replace_unknown => Some(Op::Replace),
            (true, Have::Missing | Have::Unknown) => Some(Op::Add),
            (true, Have::Different) => Some(Op::Replace),
            (false, _) => Some(Op::Delete),
        }
    }

    /// A wait for a refusal or for a rival is over.
    fn try_anew(&mut self) {
        self.refusals = 0;
        self.retry_at = Instant::ZERO;
    }

    fn outdate(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.outdated = true;
        }
    }

    /// It should look different from now on.
    fn changed(&mut self) {
        if self.have == Have::Same {
            self.have = Have::Different;
        }
        self.outdate();
        // News is a reason to try again at once, also in a fight: a verdict must not wait for a rival to tire.
        self.try_anew();
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// Done, or it was so already.
    Done,
    /// The object at this place was refused; `tell` when it is the second refusal in a row: the first may be a race with
    /// the kernel.
    Refused { at: usize, retry: Duration, tell: bool },
}

/// What is known of all objects of one kind together.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Head {
    /// When the next retry is due, if nothing is before.
    next: Option<Instant>,
    flights: u16,
    /// Something may be due.
    busy: bool,
    /// Something that is wanted had no room.
    full: bool,
}

impl Head {
    fn rests(&self, now: Instant) -> bool {
        !self.busy && self.next.is_none_or(|next| next > now)
    }

    fn insert(&mut self, stories: &mut VecView<Story>, at: usize, have: Have) {
        // Cannot fail: there is one for each object, and the object had room.
        let _ = stories.insert(at, Story::new(have));
        self.busy = true;
    }

    fn want_end(&mut self, stories: &mut [Story]) {
        for story in stories {
            if story.wanted != story.marked {
                story.wanted = story.marked;
                story.try_anew();
            }
        }
        self.busy = true;
    }

    fn poll(
        &mut self,
        stories: &mut [Story],
        replace_unknown: bool,
        now: Instant,
        token: Token,
        pick: &dyn Fn(&[Story], usize, Op) -> bool,
    ) -> Option<(usize, Op)> {
        if self.rests(now) {
            return None;
        }
        for at in (0..stories.len()).rev() {
            let story = stories.get(at)?;
            let Some(op) = story.op(replace_unknown) else { continue };
            if story.flight.is_some() || story.retry_at > now || !pick(stories, at, op) {
                continue;
            }
            stories.get_mut(at)?.flight = Some(Flight { token, op, since: now, outdated: false, hurried: false });
            self.flights = self.flights.saturating_add(1);
            return Some((at, op));
        }
        None
    }

    fn rest(&mut self, stories: &[Story], now: Instant) {
        if self.rests(now) {
            return;
        }
        self.busy = false;
        self.next = None;
        for story in stories {
            if story.flight.is_none() && story.op(false).is_some() && story.retry_at > now {
                self.next = Instant::first(&[self.next, Some(story.retry_at)]);
            }
        }
    }

    fn acked(&mut self, stories: &mut [Story], token: Token, errno: Errno, now: Instant) -> Option<Answer> {
        if self.flights == 0 {
            return None;
        }
        let at = stories.iter().position(|s| s.flight.is_some_and(|f| f.token == token))?;
        let story = stories.get_mut(at)?;
        let flight = story.flight.take()?;
        self.flights = self.flights.saturating_sub(1);
        self.busy = true;
        story.seen = true;
        // What is there in another shape is not found by the shape we know: only a look tells.
        let gone = matches!(errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV) && story.have != Have::Different;
        if errno == Errno::OK || (flight.op == Op::Delete && gone) {
            story.refusals = 0;
            if core::mem::take(&mut story.taken) {
                story.since = now;
            }
            story.have = match flight.op {
                Op::Delete if flight.outdated => Have::Unknown,
                Op::Delete => Have::Missing,
                _ if flight.outdated => Have::Different,
                _ => Have::Same,
            };
            return Some(Answer::Done);
        }
        story.have = Have::Unknown;
        story.refusals = story.refusals.saturating_add(1);
        let retry = wait_after(story.refusals, RETRY_MIN, RETRY_MAX);
        story.occupied = errno == Errno::EEXIST;
        if !flight.outdated && !flight.hurried || story.occupied {
            story.retry_at = now.after(retry);
        }
        Some(Answer::Refused { at, retry, tell: story.refusals == 2 })
    }

    /// An object is there; `same`: it looks as it should.
    fn seen(&mut self, story: &mut Story, same: bool) {
        story.seen = true;
        if let Some(flight) = &mut story.flight {
            // Somebody may have put it there again after our request.
            flight.outdated |= flight.op == Op::Delete;
            return;
        }
        let have = if same { Have::Same } else { Have::Different };
        self.busy |= have != story.have;
        story.have = have;
        if same && story.refusals > 0 {
            // Refused because it is there: nothing is left to wait for when it goes.
            story.try_anew();
        }
    }

    fn lost(&mut self, story: &mut Story, by: u32, now: Instant) -> Option<Duration> {
        if story.have == Have::Missing || story.flight.is_some() {
            // In flight: the answer tells; it comes after what it answers.
            if let Some(flight) = &mut story.flight {
                flight.outdated |= flight.op != Op::Delete && by != 0;
            }
            return None;
        }
        story.have = Have::Missing;
        self.busy = true;
        if !story.wanted || by == 0 {
            return None;
        }
        story.taken = true;
        let wait = story.contention.lost(now.since(story.since));
        if wait == Duration::ZERO {
            return None;
        }
        story.retry_at = now.after(wait);
        Some(wait)
    }

    fn lose_flights(&mut self, stories: &mut [Story]) {
        for story in stories {
            if story.flight.take().is_some() {
                story.have = Have::Unknown;
                self.busy = true;
            }
        }
        self.flights = 0;
    }

    fn oldest_flight(&self, stories: &[Story]) -> Option<Instant> {
        if self.flights == 0 {
            return None;
        }
        stories.iter().filter_map(|s| s.flight.map(|f| f.since)).min()
    }
}

/// Takes out the last story that is over; the place where it was.
fn end_one(stories: &mut VecView<Story>) -> Option<usize> {
    let at = stories.iter().rposition(Story::is_over)?;
    stories.remove(at);
    Some(at)
}

/// All objects of one kind with their stories, in the order of their identities.
#[derive(Debug)]
pub struct Objects<'a, T> {
    specs: &'a [T],
    stories: &'a [Story],
}

impl<T> Clone for Objects<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Objects<'_, T> {}

impl<'a, T> Objects<'a, T> {
    /// Each object: how it should look, or how it was seen when it is not wanted; and its story.
    pub fn iter(self) -> impl Iterator<Item = (&'a T, &'a Story)> {
        self.specs.iter().zip(self.stories)
    }
}

/// All objects of one kind; at most `N`, further ones are refused by name ([`Full`]).
#[derive(Debug, Serialize, Deserialize)]
#[repr(C)]
pub struct Table<T, const N: usize> {
    head: Head,
    /// One story for each of `specs`, at the same place.
    stories: Vec<Story, N>,
    specs: Vec<T, N>,
}

/// The table had no place for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<T, const N: usize> Default for Table<T, N> {
    fn default() -> Self {
        Self { head: Head::default(), stories: Vec::new(), specs: Vec::new() }
    }
}

impl<T: Object, const N: usize> Table<T, N> {
    fn find(&self, spec: &T) -> Result<usize, usize> {
        self.specs.binary_search_by(|known| known.order(spec))
    }

    fn insert(&mut self, at: usize, spec: T, have: Have) -> Result<(), Full> {
        self.specs.insert(at, spec).map_err(|_| Full)?;
        self.head.insert(&mut self.stories, at, have);
        Ok(())
    }

    /// Starts saying what is wanted.
    pub fn want_begin(&mut self) {
        self.head.full = false;
        self.stories.iter_mut().for_each(|story| story.marked = false);
    }

    /// Wants an object. What has no room will not be installed: [`Table::is_full`] says so.
    pub fn want(&mut self, spec: T) {
        let at = match self.find(&spec) {
            Ok(at) => at,
            Err(at) => {
                if self.insert(at, spec, Have::Missing).is_err() {
                    // What stands at its place is another.
                    self.head.full = true;
                    return;
                }
                at
            }
        };
        if let (Some(known), Some(story)) = (self.specs.get_mut(at), self.stories.get_mut(at)) {
            story.marked = true;
            if !known.looks_like(&spec) {
                *known = spec;
                story.changed();
            }
        }
    }

    /// Ends saying what is wanted: what was not named is not.
    pub fn want_end(&mut self) {
        self.head.want_end(&mut self.stories);
        self.tidy();
    }

    /// Whether something that is wanted had no room.
    pub fn is_full(&self) -> bool {
        self.head.full
    }

    fn tidy(&mut self) {
        while let Some(at) = end_one(&mut self.stories) {
            self.specs.remove(at);
        }
    }

    /// The next request that is due and that `pick` agrees to; it is then in flight.
    ///
    /// `pick` sees the whole table, so that a group can wait for its leaves. Later keys come first: groups before leaves.
    pub fn poll(
        &mut self,
        now: Instant,
        token: Token,
        pick: &dyn Fn(Objects<'_, T>, &T, Op) -> bool,
    ) -> Option<(Op, T)> {
        let specs = &self.specs;
        let pick = |stories: &[Story], at: usize, op| {
            specs.get(at).is_some_and(|spec| pick(Objects { specs, stories }, spec, op))
        };
        let (at, op) = self.head.poll(&mut self.stories, T::REPLACE_UNKNOWN, now, token, &pick)?;
        Some((op, *specs.get(at)?))
    }

    /// Nothing more is due now: remember when to look again.
    pub fn rest(&mut self, now: Instant) {
        self.head.rest(&self.stories, now);
    }

    /// The kernel answered; `None` when the token is not of this table.
    pub fn acked(&mut self, token: Token, errno: Errno, now: Instant) -> Option<Answer> {
        let answer = self.head.acked(&mut self.stories, token, errno, now)?;
        if answer == Answer::Done {
            self.tidy();
        }
        Some(answer)
    }

    /// The object that an answer refuses.
    pub fn refused(&self, answer: Answer) -> Option<&T> {
        match answer {
            Answer::Done => None,
            Answer::Refused { at, .. } => self.specs.get(at),
        }
    }

    /// An object of ours is there, as a dump or somebody's change shows.
    ///
    /// # Errors
    /// [`Full`]: it is left alone, since we cannot remember it.
    pub fn seen(&mut self, spec: &T) -> Result<(), Full> {
        let at = match self.find(spec) {
            Ok(at) => at,
            Err(at) => return self.insert(at, *spec, Have::Same),
        };
        if let (Some(known), Some(story)) = (self.specs.get_mut(at), self.stories.get_mut(at)) {
            if !story.wanted && story.flight.is_none() {
                *known = *spec;
            }
            self.head.seen(story, known.looks_like(spec));
        }
        Ok(())
    }

    /// Somebody took an object away. Returns the wait before the repair when it is a fight.
    pub fn lost(&mut self, spec: &T, by: u32, now: Instant) -> Option<(T, Duration)> {
        let at = self.find(spec).ok()?;
        let fight = self.head.lost(self.stories.get_mut(at)?, by, now);
        let fight = fight.and_then(|wait| Some((*self.specs.get(at)?, wait)));
        self.tidy();
        fight
    }

    /// What `which` names and the kernel refused, or is about to, may be tried again at once: the reason is gone.
    pub fn hurry(&mut self, now: Instant, which: &dyn Fn(&T) -> bool) {
        for (_, story) in self.specs.iter().zip(&mut self.stories).filter(|(spec, _)| which(spec)) {
            match &mut story.flight {
                Some(flight) => flight.hurried = true,
                None if story.refusals > 0 && !story.occupied => story.retry_at = now,
                None => {}
            }
        }
        self.head.busy = true;
    }

    /// Something that a request may have waited for has happened.
    pub fn stir(&mut self) {
        self.head.busy = true;
    }

    /// The kernel may have (`Have::Unknown`) or has (`Have::Missing`) deleted what `which` names, without a word.
    pub fn doubt(&mut self, have: Have, which: &dyn Fn(&T) -> bool) {
        for (spec, story) in self.specs.iter().zip(&mut self.stories) {
            if story.have != Have::Missing && which(spec) {
                story.have = have;
                story.outdate();
                self.head.busy = true;
            }
        }
        self.tidy();
    }

    /// A dump begins: what `which` names must be seen again.
    pub fn sweep_begin(&mut self, which: &dyn Fn(&T) -> bool) {
        for (spec, story) in self.specs.iter().zip(&mut self.stories) {
            if which(spec) {
                story.seen = story.flight.is_some();
            }
        }
    }

    /// The dump was whole: what was not seen is gone. Returns how many wanted objects were gone.
    pub fn sweep_end(&mut self, which: &dyn Fn(&T) -> bool) -> u32 {
        let mut gone = 0;
        for (spec, story) in self.specs.iter().zip(&mut self.stories) {
            if !story.seen && story.flight.is_none() && story.have != Have::Missing && which(spec) {
                gone += u32::from(story.wanted && story.have == Have::Same);
                story.have = Have::Missing;
                self.head.busy = true;
            }
        }
        self.tidy();
        gone
    }

    /// All requests in flight count as lost: what they did is unknown.
    pub fn lose_flights(&mut self) {
        self.head.lose_flights(&mut self.stories);
    }

    /// The story of the object with the identity of `spec`.
    pub fn get(&self, spec: &T) -> Option<&Story> {
        self.stories.get(self.find(spec).ok()?)
    }

    /// Whether the kernel has, may have or will have it just like this.
    pub fn is_there(&self, spec: &T) -> bool {
        let Ok(at) = self.find(spec) else { return false };
        let story = self.stories.get(at).is_some_and(|s| s.is_coming() || s.have == Have::Unknown);
        story && self.specs.get(at).is_some_and(|known| known.looks_like(spec))
    }

    /// All objects.
    pub fn objects(&self) -> Objects<'_, T> {
        Objects { specs: &self.specs, stories: &self.stories }
    }

    /// Requests in flight.
    pub fn flights(&self) -> usize {
        usize::from(self.head.flights)
    }

    /// When the oldest request in flight was sent.
    pub fn oldest_flight(&self) -> Option<Instant> {
        self.head.oldest_flight(&self.stories)
    }

    /// When to look again; `Some(now)`-like past instants mean at once.
    pub fn next(&self) -> Option<Instant> {
        self.head.next
    }

    /// Whether the kernel has all that is wanted and nothing else.
    pub fn is_settled(&self) -> bool {
        self.stories.iter().all(Story::is_settled)
    }
}

#[cfg(test)]
mod tests;
