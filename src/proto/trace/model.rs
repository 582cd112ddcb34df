//! What is likely in a recorded run: the description of every step, once for writing and reading.
//!
//! Nearly all of a quiet day are wake-ups, probes and their answers, four or five steps a probe. So those have steps of
//! their own, and what can be foretold costs next to nothing: which target comes next (the one that came next last time),
//! its number (one more), when it is due (a period after the last), when the answer is in (after the usual time).
//! What is left is chance. Everything else is written as bytes, each told as its difference from the byte at the same
//! place of the last step of that kind: what stays is 0, what counts is 1.
//!
//! Times of wake-ups, probes and answers are whole [`GRAIN`]s: their microseconds are noise, and a day of it would be a
//! megabyte. [`Model`] rounds, and says what it made of a time; the engine is told that and nothing else, so that what is
//! recorded is what the engine knew. Times of all other events stay as they are, unless they would be before the last.

use super::coder::{Bit, Coder, Number, tree};
use crate::engine::action::ProbeRequest;
use crate::engine::event::{ProbeId, ProbeOutcome};
use crate::limits;
use crate::proto::pack::Pack;
use crate::time::Instant;
use crate::types::UplinkSlot;

/// Microseconds in a grain: well below what differs from one round trip to the next.
pub const GRAIN: u64 = 128;
/// Bytes of something long at most, in its parts; and of a part.
pub const LONG: usize = 1 << 22;
pub const PART: usize = 16_384;
/// What is due within this, in microseconds, is due now.
const NEAR: u64 = 500;
/// A probe that is out by more is late; the second in a row begins another rhythm.
const RHYTHM: u64 = 3_000;
/// Models of bytes, as a power of two.
const BYTES: u32 = 13;
/// Kinds and variants that are told apart; some share a place by chance.
const SLOTS: usize = 64;
/// Places of a step that are told from those of the last.
const PLACES: usize = 96;

/// Kinds of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The row of bits ends here.
    End = 0,
    /// The engine as it was.
    State,
    /// Another configuration.
    Config,
    /// A datagram that was not from the kernel.
    Foreign,
    /// An event.
    Event,
    /// A wake-up.
    Timeout,
    /// News of a probe.
    Answer,
    /// Counters of a link.
    Traffic,
    /// A wish of the engine.
    Action,
    /// The wish for a probe.
    Probe,
    /// No more wishes.
    Done,
    /// A link as it was asked for.
    Link,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::End,
        Self::State,
        Self::Config,
        Self::Foreign,
        Self::Event,
        Self::Timeout,
        Self::Answer,
        Self::Traffic,
        Self::Action,
        Self::Probe,
        Self::Done,
        Self::Link,
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// What is known of a target.
#[derive(Clone, Copy, Debug)]
struct Track {
    /// Its last probe.
    request: ProbeRequest,
    /// When that was sent, microseconds.
    sent: u64,
    /// When the next one is due, and how far they are apart.
    due: u64,
    period: u64,
    /// The usual round trip.
    usual: u64,
    /// Its answer has not come in.
    open: bool,
    /// The last one was out of the rhythm.
    late: bool,
}

/// The last counters of a link, as they were and as they were told.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    ifindex: u32,
    raw: [u32; 2],
    told: [u32; 2],
}

/// The last step of a kind, as bytes.
#[derive(Clone, Copy, Debug)]
struct Last {
    len: u16,
    bytes: [u8; PLACES],
}

/// Everything that is learnt; both ends learn the same.
pub struct Model {
    last: u64,
    kinds: Vec<[Bit; 16]>,
    before: [u8; 2],
    /// Whether a time is that of before, and whether it is one soon after; by kinds.
    times: Vec<[Bit; 2]>,
    near: Number,
    far: Number,
    exact: Number,
    trips: [Number; 8],
    misc: Number,
    growth: [Number; 2],
    flags: [Bit; 16],
    slots: [Bit; 64],
    len: Number,
    bytes: Vec<Bit>,
    /// By kind and variant: the last of them.
    lasts: Vec<Last>,
    /// What was coded last was long.
    alone: bool,
    /// The bytes that were read last; room for those to be written.
    read: Vec<u8>,
    pack: Vec<u8>,
    /// By uplink and target; those beyond the highest in use are not there.
    tracks: Vec<Option<Track>>,
    counted: Vec<Counted>,
}

/// Stands where a reader has nothing to say.
pub const NO_ID: ProbeId = ProbeId { uplink: UplinkSlot(0), track: 0, seq: 0, life: 0 };

/// Whether there can be such a target.
pub fn is_place(id: ProbeId) -> bool {
    place(id).is_some()
}

fn place(id: ProbeId) -> Option<usize> {
    let (uplink, track) = (usize::from(id.uplink.0), usize::from(id.track));
    (uplink < limits::UPLINKS && track < limits::TARGETS).then_some(uplink * limits::TARGETS + track)
}

/// Grains of round trips that usually take so long: about a hundredth.
fn trip_grain(usual: u64) -> u64 {
    let bits = u64::BITS - usual.leading_zeros();
    GRAIN << bits.saturating_sub(14).min(6)
}

/// The grains of a time, rounded up.
fn up(micros: u64) -> u64 {
    micros.div_ceil(GRAIN)
}

impl Model {
    /// A model for a run that begins at `now`.
    pub fn new(now: Instant) -> Self {
        let bit = Bit::default();
        Self {
            last: now.micros(),
            kinds: vec![[bit; 16]; 16 * 24],
            before: [0; 2],
            times: vec![[bit; 2]; 256],
            near: Number::default(),
            far: Number::default(),
            exact: Number::default(),
            trips: std::array::from_fn(|_| Number::default()),
            misc: Number::default(),
            growth: [Number::default(), Number::default()],
            flags: [bit; 16],
            slots: [bit; 64],
            len: Number::default(),
            bytes: vec![bit; 1 << BYTES],
            lasts: vec![Last { len: 0, bytes: [0; PLACES] }; SLOTS],
            alone: false,
            read: Vec::new(),
            pack: Vec::with_capacity(64 + 16 * limits::GROUP),
            tracks: Vec::with_capacity(limits::UPLINKS * limits::TARGETS),
            counted: Vec::with_capacity(limits::UPLINKS),
        }
    }

    /// The last time that was told.
    pub fn now(&self) -> Instant {
        Instant::from_micros(self.last)
    }

    /// What stands next. `None`: a number that no kind has.
    pub fn kind<C: Coder>(&mut self, c: &mut C, kind: Kind) -> Option<Kind> {
        // After what, and in what situation.
        let class = match self.before[0] {
            k if k == Kind::Done as u8 => 0,
            k if k == Kind::Probe as u8 || k == Kind::Action as u8 => 1,
            k if k == Kind::Answer as u8 => 2,
            _ => 3,
        };
        let at = usize::from(self.before[1]) * 24 + class * 6 + self.outlook();
        let models = self.kinds.get_mut(at)?;
        let number = tree(c, models, 4, kind as u32);
        let found = Kind::of(number)?;
        self.before = [self.before[1], found as u8];
        Some(found)
    }

    /// Whether a probe is due now, and whether an answer should be in by the next time that one is: 0 to 5.
    fn outlook(&self) -> usize {
        let soon = self.last.saturating_add(NEAR);
        let known = || self.tracks.iter().flatten();
        let due = known().any(|t| t.due <= soon && t.due.saturating_add(10 * NEAR) > self.last);
        let wake = known().map(|t| t.due).filter(|due| *due > soon).min().filter(|_| !due).unwrap_or(self.last);
        let comes = known().filter(|t| t.open).map(|t| t.sent.saturating_add(t.usual)).min();
        let answer = match comes {
            Some(at) if at.saturating_add(8 * NEAR) < wake => 2,
            Some(at) if at < wake => 1,
            _ => 0,
        };
        answer * 2 + usize::from(due)
    }

    fn flag<C: Coder>(&mut self, c: &mut C, which: usize, flag: bool) -> bool {
        let mut spare = Bit::default();
        c.bit(self.flags.get_mut(which).unwrap_or(&mut spare), flag)
    }

    /// A time that is told to the microsecond, unless it lies before the last.
    pub fn exact_time<C: Coder>(&mut self, c: &mut C, now: Instant) -> Instant {
        let ahead = now.micros().saturating_sub(self.last);
        let ahead = self.exact.code(c, ahead as i64);
        self.last = self.last.saturating_add(ahead as u64);
        self.now()
    }

    /// What a time becomes that is only asked: rounded down, but not before the last.
    pub fn rounded(&self, now: Instant) -> Instant {
        Instant::from_micros((now.micros() / GRAIN * GRAIN).max(self.last))
    }

    /// A time in grains: not before the last, rounded up where something wakes (`wakes`), down where it is only asked.
    pub fn round_time<C: Coder>(&mut self, c: &mut C, now: Instant, wakes: bool) -> Instant {
        let grains = if wakes { up(now.micros()) } else { now.micros() / GRAIN };
        let told = grains.saturating_mul(GRAIN).max(self.last);
        let at = usize::from(self.before[0] & 15) << 4 | usize::from(self.before[1] & 15);
        let mut spare = [Bit::default(); 2];
        let [same, near] = self.times.get_mut(at).unwrap_or(&mut spare);
        if !c.bit(same, told != self.last) {
            return self.now();
        }
        // Soon after the last, or when the next probe is due: nobody sleeps beyond that.
        let soon = self.last.saturating_add(NEAR);
        let (base, number) = match c.bit(near, told > soon.saturating_add(8 * NEAR)) {
            false => (self.last, &mut self.near),
            true => {
                let due = self.tracks.iter().flatten().map(|t| t.due).filter(|due| *due > soon).min();
                (due.unwrap_or(self.last), &mut self.far)
            }
        };
        let base = base / GRAIN;
        let off = number.code(c, ((told / GRAIN) as i64).wrapping_sub(base as i64));
        self.last = base.wrapping_add(off as u64).saturating_mul(GRAIN).max(self.last);
        self.now()
    }

    /// A place; foretold is the one that is due first, or, of answers (`row` 1), the one whose answer is.
    fn track<C: Coder>(&mut self, c: &mut C, row: usize, want: Option<usize>) -> Option<usize> {
        let key = |t: &Track| match row {
            0 => t.due,
            _ => t.sent.saturating_add(t.usual),
        };
        let all = self.tracks.iter().enumerate().filter_map(|(at, t)| t.as_ref().map(|t| (at, t)));
        let foretold = all.filter(|(_, t)| row == 0 || t.open).min_by_key(|(_, t)| key(t)).map(|(at, _)| at);
        let found = if self.flag(c, row, foretold.is_some() && foretold == want) {
            foretold?
        } else {
            let (uplink, track) = want.map_or((0, 0), |at| (at / limits::TARGETS, at % limits::TARGETS));
            let uplink = tree(c, &mut self.slots, 6, uplink as u32) as usize;
            let track = tree(c, &mut self.slots, 6, track as u32) as usize;
            if uplink >= limits::UPLINKS || track >= limits::TARGETS {
                return None;
            }
            uplink * limits::TARGETS + track
        };
        Some(found)
    }

    /// The wish for a probe, at the time told last.
    pub fn probe<C: Coder>(&mut self, c: &mut C, request: Option<&ProbeRequest>) -> Option<ProbeRequest> {
        let now = self.last;
        let want = request.and_then(|r| place(r.id));
        let next = |track: &Track| {
            let mut next = track.request;
            next.id.seq = next.id.seq.wrapping_add(1);
            next
        };
        // Whether it is one more of a row, and not the first of its kind.
        let known = want.and_then(|at| self.tracks.get(at).copied().flatten());
        let usual = known.is_some_and(|k| Some(&next(&k)) == request);
        let found = if self.flag(c, 2, usual) {
            let at = self.track(c, 0, want)?;
            next(&self.tracks.get(at).copied().flatten()?)
        } else {
            self.value(c, Kind::Probe, request)?
        };
        let at = place(found.id)?;
        if self.tracks.len() <= at {
            self.tracks.resize(at + 1, None);
        }
        let slot = self.tracks.get_mut(at)?;
        let mut track =
            slot.unwrap_or(Track { request: found, sent: now, due: now, period: 0, usual: 0, open: true, late: false });
        let off = (now as i64).wrapping_sub(track.due as i64);
        let late = off.unsigned_abs() >= RHYTHM;
        if track.period > 0 && !(late && track.late) {
            // The rhythm is smoother than the wake-ups that follow it, and one that is late does not change it.
            let off = if late { 0 } else { off.clamp(-4 * GRAIN as i64, 4 * GRAIN as i64) };
            track.due = track.due.wrapping_add(track.period).wrapping_add((off / 4) as u64);
            track.period = track.period.saturating_add_signed(off / 16).max(1);
            track.late = late;
        } else {
            // Configurations count in milliseconds.
            track.period = now.saturating_sub(track.sent).saturating_add(500) / 1000 * 1000;
            track.due = now.saturating_add(track.period);
            track.late = false;
        }
        track.sent = now;
        track.open = true;
        track.request = found;
        *slot = Some(track);
        Some(found)
    }

    /// News of a probe, heard at the time told last.
    pub fn answer<C: Coder>(
        &mut self,
        c: &mut C,
        id: ProbeId,
        outcome: ProbeOutcome,
        at: Instant,
        now: Instant,
    ) -> Option<(ProbeId, ProbeOutcome, Instant)> {
        let place = self.track(c, 1, Some(place(id).unwrap_or(0)))?;
        let answered = self.flag(c, 3, outcome == ProbeOutcome::Answered);
        let outcome = match answered {
            true => ProbeOutcome::Answered,
            false => self.value(c, Kind::Answer, Some(&outcome))?,
        };
        let (uplink, track) = ((place / limits::TARGETS) as u8, (place % limits::TARGETS) as u8);
        let known = self.tracks.get(place).copied().flatten();
        let request = known.map(|k| k.request.id);
        if let Some(Some(track)) = self.tracks.get_mut(place) {
            track.open = false;
        }
        let of_now = self.flag(c, 4, request.is_some_and(|r| (r.seq, r.life) == (id.seq, id.life)));
        let (seq, life, back) = match (of_now, request) {
            (true, Some(r)) => (r.seq, r.life, 0),
            _ => {
                let (newest, age) = request.map_or((0, 0), |r| (r.seq, r.life));
                let back = self.misc.code(c, i64::from(newest.wrapping_sub(id.seq))) as u16;
                let life = self.misc.code(c, i64::from(age.wrapping_sub(id.life))) as u16;
                (newest.wrapping_sub(back), age.wrapping_sub(life), back)
            }
        };
        let id = ProbeId { uplink: UplinkSlot(uplink), track, seq, life };
        if self.flag(c, 5 + usize::from(answered), at >= now) {
            return Some((id, outcome, self.now()));
        }
        let (sent, usual, period) = known.map_or((self.last, 0, 0), |k| (k.sent, k.usual, k.period));
        let sent = sent.wrapping_sub(period.wrapping_mul(back.into()));
        let grain = trip_grain(usual);
        let trip = (at.micros() as i64).wrapping_sub(sent as i64);
        let trips = self.trips.get_mut(usize::from(uplink) % 8)?;
        let base = (usual / grain) as i64;
        let rounded = trip.saturating_add((grain / 2) as i64).div_euclid(grain as i64);
        let trip = base.wrapping_add(trips.code(c, rounded.wrapping_sub(base))).wrapping_mul(grain as i64);
        let at = sent.wrapping_add(trip as u64).min(self.last);
        if let Some(Some(track)) = self.tracks.get_mut(place) {
            let trip = at.saturating_sub(sent).min(1 << 32);
            track.usual = match track.usual {
                0 => trip,
                usual => usual.saturating_sub(usual / 16).saturating_add(trip / 16),
            };
        }
        Some((id, outcome, Instant::from_micros(at)))
    }

    /// The counters of a link: how much they grew, to three bits; what is told grows by that.
    pub fn traffic<C: Coder>(&mut self, c: &mut C, ifindex: u32, counters: [u32; 2]) -> Option<(u32, [u32; 2])> {
        let known = self.counted.iter().position(|k| k.ifindex == ifindex);
        let known = self.misc.code(c, known.map_or(-1, |at| at as i64));
        let at = usize::try_from(known).ok();
        let Some(place) = at.and_then(|at| self.counted.get_mut(at)) else {
            let (ifindex, counters) = self.value(c, Kind::Traffic, Some(&(ifindex, counters)))?;
            if self.counted.len() >= limits::UPLINKS {
                self.counted.remove(0);
            }
            self.counted.push(Counted { ifindex, raw: counters, told: counters });
            return Some((ifindex, counters));
        };
        let [heads, sizes] = &mut self.growth;
        for ((raw, told), new) in place.raw.iter_mut().zip(&mut place.told).zip(counters) {
            let grown = new.wrapping_sub(*raw);
            let below = (32 - grown.leading_zeros()).saturating_sub(3);
            let head = grown >> below;
            let head = heads.code(c, i64::from(head)) as u32;
            let below = sizes.code(c, i64::from(below)) as u32;
            *told = told.wrapping_add(head.checked_shl(below).unwrap_or(0));
            *raw = new;
        }
        Some((place.ifindex, place.told))
    }

    /// Anything else, as postcard has it. `None`: the bytes make no sense.
    pub fn value<C: Coder, T>(&mut self, c: &mut C, kind: Kind, value: Option<&T>) -> Option<T>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Copy,
    {
        if !C::READS {
            let mut pack = std::mem::take(&mut self.pack);
            pack.clear();
            Pack::append(value?, &mut pack);
            let done = self.bytes(c, kind, &pack);
            self.pack = pack;
            done?;
            return value.copied();
        }
        self.bytes(c, kind, &[])?;
        match postcard::take_from_bytes(&self.read) {
            Ok((value, [])) => Some(value),
            _ => None,
        }
    }

    /// Bytes with their length, told from the last of their kind; what is read is in [`Model::read`] afterwards.
    pub fn bytes<C: Coder>(&mut self, c: &mut C, kind: Kind, bytes: &[u8]) -> Option<()> {
        let alone = matches!(kind, Kind::State | Kind::Config);
        if std::mem::replace(&mut self.alone, alone) && !alone {
            // What was learnt from the long says nothing of the short.
            self.bytes.fill(Bit::default());
        }
        self.read.clear();
        let mut first = bytes.first().copied().unwrap_or(0);
        let mut slot = kind as usize;
        if !alone {
            // The variant: it says what the rest is like.
            first = byte_of(c, &mut self.bytes, slot as u32, first);
            slot = (slot * 37 + usize::from(first)) % SLOTS;
        }
        let last = self.lasts.get_mut(slot)?;
        let usual = if alone { PART } else { usize::from(last.len) };
        let len = self.len.code(c, (bytes.len() as i64).wrapping_sub(usual as i64));
        let len = usize::try_from((usual as i64).wrapping_add(len)).ok().filter(|len| *len <= PART)?;
        last.len = len as u16;
        let mut before = 0_u8;
        for at in 0..len {
            let place = last.bytes.get_mut(at).filter(|_| !alone);
            // Long ones have no likeness but that of neighbours.
            let context = if alone { usize::from(before) } else { at.min(PLACES) + 1 } << 6 | slot;
            let told = place.as_deref().copied().unwrap_or(0);
            let byte = bytes.get(at).copied().unwrap_or(0);
            before = match at {
                0 if !alone => first,
                _ => told.wrapping_add(byte_of(c, &mut self.bytes, context as u32, byte.wrapping_sub(told))),
            };
            if let Some(place) = place {
                *place = before;
            }
            if C::READS {
                self.read.push(before);
            }
        }
        Some(())
    }

    /// What [`Model::bytes`] read last.
    pub fn read(&self) -> &[u8] {
        &self.read
    }
}

/// A byte, its bits modelled by a context and the bits before them; contexts share the table by chance.
fn byte_of<C: Coder>(c: &mut C, models: &mut [Bit], context: u32, byte: u8) -> u8 {
    let mut node = 1_u32;
    for at in (0..8).rev() {
        let place = (context << 8 | node).wrapping_mul(0x9e37_79b1) >> (32 - BYTES);
        let mut spare = Bit::default();
        let model = models.get_mut(place as usize).unwrap_or(&mut spare);
        node = node << 1 | u32::from(c.bit(model, byte >> at & 1 != 0));
    }
    node as u8
}
