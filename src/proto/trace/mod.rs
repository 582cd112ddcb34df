//! A recorded run: everything that went into an engine, with its times, and everything that came out.
//!
//! `"LWTR"`, a version, the length of the head and the head ([`Head`], postcard): the board's limits, which must be those
//! of the program that replays it, since full tables decide too. Then frames: two bytes of length, four of a sum over the
//! content, and the content, a row of bits of [`coder`] that says steps as [`model`] has them. The first step is the
//! engine as it was when the recording began. A frame of length 0 ends the run and says why; without it the run was cut
//! off. All numbers are little-endian.
//!
//! A run that was damaged is read up to the damage. Nothing here panics or trusts a length.

pub mod coder;
pub mod model;
pub mod replay;

use core::fmt;

use heapless::{String, Vec as Table};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::engine::event::{LinkSource, ProbeOutcome};
use crate::engine::{Action, Engine, Event};
use crate::limits;
use crate::proto::pack::Pack;
use crate::time::Instant;
use crate::types::IfIndex;
use coder::{Decoder, Encoder};
use model::{Kind, Model, PART};

/// The first bytes of a file.
pub const MAGIC: [u8; 4] = *b"LWTR";
/// The version of everything below. Steps are made of the engine's own types: whatever changes one of those changes it.
pub const VERSION: u8 = 1;
/// Bytes of a frame's content from which on it is ended.
pub const FRAME: usize = 2048;
/// Bytes before a frame's content.
const FRAME_HEAD: usize = 6;

/// The limits that decide, by name; both sides must have the same.
const LIMITS: [(&str, usize); 17] = [
    ("uplinks", limits::UPLINKS),
    ("policies", limits::POLICIES),
    ("members", limits::MEMBERS_IN_ALL),
    ("policy_rules", limits::POLICY_RULES),
    ("targets", limits::TARGETS),
    ("sets", limits::SETS),
    ("prefixes", limits::PREFIXES),
    ("ports", limits::PORTS),
    ("addresses", limits::ADDRESSES),
    ("gateways", limits::GATEWAYS),
    ("probe_slots", limits::PROBE_SLOTS),
    ("buckets", limits::BUCKETS),
    ("notices", limits::NOTICES),
    ("in_flight", limits::IN_FLIGHT),
    ("nexthops", limits::NEXTHOPS),
    ("routes", limits::ROUTES),
    ("rules", limits::RULES),
];

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The program that recorded it.
    pub program: String<32>,
    /// Its board.
    pub board: String<64>,
    /// Seconds since 1970 when it began, by the system's clock.
    pub wall: i64,
    /// Microseconds of the engine's clock when it began.
    pub began: Instant,
    limits: Table<u32, { LIMITS.len() }>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was stopped.
    Stopped,
    /// It was as long as it may be.
    Full,
    /// The daemon ended.
    Exit,
    /// Cut off: no ending was written.
    Cut,
}

impl Ending {
    const ALL: [Self; 3] = [Self::Stopped, Self::Full, Self::Exit];
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Full => "full",
            Self::Exit => "the daemon ended",
            Self::Cut => "cut off",
        })
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is no recorded run.
    Magic,
    /// Another version of this format.
    Version(u8),
    /// The head makes no sense.
    Head,
    /// Another board: the first limit that differs, there and here.
    Limit { board: String<64>, name: &'static str, there: u32, here: usize },
    /// A frame is damaged.
    Frame { at: usize },
    /// A frame is whole, and what it says makes no sense.
    Step { at: usize },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("this is no recorded run"),
            Self::Version(v) => write!(f, "recorded in version {v} of the format, this program reads {VERSION}"),
            Self::Head => f.write_str("the head of the file is damaged"),
            Self::Limit { board, name, there, here } => write!(
                f,
                "recorded on board {board} with {name} = {there}, this program is for board {} with {here}: \
                 build one with LINKWATCH_BOARD={board}",
                limits::BOARD
            ),
            Self::Frame { at } => write!(f, "damaged at byte {at}"),
            Self::Step { at } => write!(f, "the frame at byte {at} makes no sense"),
        }
    }
}

impl core::error::Error for Error {}

/// One step of a run.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// The engine as it was, as postcard has it, is whole in the bytes.
    State(&'a [u8]),
    /// Another configuration, as postcard has it.
    Config(&'a [u8], Instant),
    /// [`Engine::handle_foreign`]
    Foreign,
    /// [`Engine::handle_event`]
    Event(Event, Instant),
    /// [`Engine::handle_timeout`]
    Timeout(Instant),
    /// [`Engine::poll_action`] gave this.
    Action(Action, Instant),
    /// [`Engine::poll_action`] gave nothing more.
    Done(Instant),
}

/// The sum over a frame's content (FNV-1a): against damage, not against malice.
pub fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Writes a run into memory, frame by frame; whoever owns it takes the frames away.
///
/// What it returns of a time is what the engine is to be told.
pub struct Writer {
    model: Model,
    encoder: Encoder,
    /// Where the open frame begins, if there is one; else where everything ends.
    frame: usize,
    /// Something is in it.
    open: bool,
}

impl Writer {
    /// Begins a run with the engine as it is; the head and the first frames are in the buffer then.
    pub fn new(engine: &Engine, wall: i64) -> Self {
        let now = engine.now();
        let program = String::try_from(env!("CARGO_PKG_VERSION")).unwrap_or_default();
        let board = String::try_from(limits::BOARD).unwrap_or_default();
        let numbers = LIMITS.iter().map(|(_, n)| u32::try_from(*n).unwrap_or(u32::MAX)).collect();
        let head = Head { program, board, wall, began: now, limits: numbers };
        let head = Pack::of(&head);
        let mut out = Vec::with_capacity(4 * FRAME);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, u8::try_from(head.len()).unwrap_or(u8::MAX)]);
        out.extend_from_slice(&head);
        let mut new = Self { model: Model::new(now), frame: out.len(), encoder: Encoder::new(out), open: false };
        let state = Pack::of(engine);
        new.long(Kind::State, &state, now);
        new
    }

    /// Something longer than a frame: parts of it, the last one shorter than the others.
    fn long(&mut self, kind: Kind, bytes: &[u8], now: Instant) -> Instant {
        let mut rest = bytes;
        loop {
            let (part, more) = rest.split_at(rest.len().min(PART));
            self.step(kind);
            let told = if kind == Kind::Config { self.model.exact_time(&mut self.encoder, now) } else { now };
            let _ = self.model.bytes(&mut self.encoder, kind, part);
            self.end_frame();
            rest = more;
            if part.len() < PART {
                return told;
            }
        }
    }

    fn step(&mut self, kind: Kind) {
        if !self.open {
            self.open = true;
            self.encoder.out.extend_from_slice(&[0; FRAME_HEAD]);
        }
        let _ = self.model.kind(&mut self.encoder, kind);
    }

    /// The engine gets another configuration.
    pub fn config(&mut self, config: &Config, now: Instant) -> Instant {
        let bytes = Pack::of(config);
        self.long(Kind::Config, &bytes, now)
    }

    /// A datagram that was not from the kernel.
    pub fn foreign(&mut self) {
        self.step(Kind::Foreign);
    }

    /// A wake-up at `now` for what was due at `due`: it is told as the time that was told last if that is late enough.
    pub fn timeout(&mut self, due: Instant, now: Instant) -> Instant {
        self.step(Kind::Timeout);
        let now = if due <= self.model.now() { self.model.now() } else { now };
        self.model.round_time(&mut self.encoder, now, true)
    }

    /// An event.
    pub fn event(&mut self, event: Event, now: Instant) -> (Event, Instant) {
        match event {
            Event::Probe { id, outcome, at } if model::is_place(id) => {
                self.step(Kind::Answer);
                let told = self.model.round_time(&mut self.encoder, now, true);
                match self.model.answer(&mut self.encoder, id, outcome, at, now) {
                    Some((id, outcome, at)) => (Event::Probe { id, outcome, at }, told),
                    None => (event, told),
                }
            }
            Event::Traffic { ifindex, received, sent } => {
                self.step(Kind::Traffic);
                let told = self.model.round_time(&mut self.encoder, now, true);
                let counters = self.model.traffic(&mut self.encoder, ifindex.0, [received, sent]);
                let [received, sent] = counters.map_or([received, sent], |(_, counters)| counters);
                (Event::Traffic { ifindex, received, sent }, told)
            }
            // An answer to our own question has no time of its own.
            Event::Link { source: LinkSource::Answered, .. } => {
                self.step(Kind::Link);
                let told = self.model.round_time(&mut self.encoder, now, true);
                let _ = self.model.value(&mut self.encoder, Kind::Event, Some(&event));
                (event, told)
            }
            event => {
                self.step(Kind::Event);
                let told = self.model.exact_time(&mut self.encoder, now);
                let _ = self.model.value(&mut self.encoder, Kind::Event, Some(&event));
                (event, told)
            }
        }
    }

    /// What time the engine is to be told when it is asked for its next wish.
    pub fn asking(&self, now: Instant) -> Instant {
        self.model.rounded(now)
    }

    /// What the engine wished when it was asked at a time of [`Writer::asking`].
    pub fn action(&mut self, action: Option<&Action>, now: Instant) {
        self.step(match action {
            Some(Action::Probe(_)) => Kind::Probe,
            Some(_) => Kind::Action,
            None => Kind::Done,
        });
        self.model.round_time(&mut self.encoder, now, false);
        match action {
            Some(Action::Probe(request)) => drop(self.model.probe(&mut self.encoder, Some(request))),
            Some(action) => drop(self.model.value(&mut self.encoder, Kind::Action, Some(action))),
            None => {}
        }
    }

    /// Ends the open frame, if there is one.
    pub fn end_frame(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let _ = self.model.kind(&mut self.encoder, Kind::End);
        self.encoder.end();
        let out = &mut self.encoder.out;
        if let Some((head, content)) = out.get_mut(self.frame..).and_then(|f| f.split_at_mut_checked(FRAME_HEAD)) {
            let len = u16::try_from(content.len()).unwrap_or(u16::MAX).to_le_bytes();
            let sum = sum(content).to_le_bytes();
            head.iter_mut().zip(len.into_iter().chain(sum)).for_each(|(place, byte)| *place = byte);
        }
        self.frame = out.len();
    }

    /// Ends the run.
    pub fn finish(&mut self, ending: Ending) {
        self.end_frame();
        let why = Ending::ALL.iter().position(|e| *e == ending).unwrap_or(0) as u8;
        self.encoder.out.extend_from_slice(&[0, 0, why]);
        self.frame = self.encoder.out.len();
    }

    /// Bytes in the open frame so far.
    pub fn open_bytes(&self) -> usize {
        self.encoder.out.len().saturating_sub(self.frame)
    }

    /// What is ready to be written to the file.
    pub fn ready(&self) -> &[u8] {
        self.encoder.out.get(..self.frame).unwrap_or(&[])
    }

    /// It was written.
    pub fn written(&mut self) {
        self.encoder.out.drain(..self.frame);
        self.frame = 0;
    }
}

/// Reads a run.
pub struct Reader<'a> {
    /// What it says of itself.
    pub head: Head,
    bytes: &'a [u8],
    at: usize,
    model: Model,
    decoder: Option<Decoder<'a>>,
    /// Where the frame being read begins.
    frame: usize,
    long: Vec<u8>,
    over: Option<Ending>,
}

impl<'a> Reader<'a> {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// It is none of ours, of another version, or of another board.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(Error::Magic)?;
        let (&[version, len], rest) = rest.split_first_chunk().ok_or(Error::Head)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let content = rest.get(..usize::from(len)).ok_or(Error::Head)?;
        let (head, left) = postcard::take_from_bytes::<Head>(content).map_err(|_| Error::Head)?;
        if !left.is_empty() || head.limits.len() != LIMITS.len() {
            return Err(Error::Head);
        }
        for ((name, here), there) in LIMITS.into_iter().zip(&head.limits) {
            if u32::try_from(here) != Ok(*there) {
                return Err(Error::Limit { board: head.board, name, there: *there, here });
            }
        }
        let at = MAGIC.len() + 2 + usize::from(len);
        let model = Model::new(head.began);
        Ok(Self { head, bytes, at, model, decoder: None, frame: at, long: Vec::new(), over: None })
    }

    /// Why it ended, once it has.
    pub fn ending(&self) -> Option<Ending> {
        self.over
    }

    /// The next step; `None` at the end.
    ///
    /// # Errors
    /// Damage; nothing more can be read then.
    #[allow(clippy::should_implement_trait, reason = "what it returns is borrowed from it")]
    pub fn next(&mut self) -> Result<Option<Step<'_>>, Error> {
        match self.read() {
            Ok(Some(Found::Step(step))) => Ok(Some(step)),
            Ok(Some(Found::State)) => Ok(Some(Step::State(&self.long))),
            Ok(Some(Found::Config(now))) => Ok(Some(Step::Config(&self.long, now))),
            Ok(None) => Ok(None),
            Err(error) => {
                self.over = Some(Ending::Cut);
                Err(error)
            }
        }
    }

    fn read(&mut self) -> Result<Option<Found>, Error> {
        self.long.clear();
        loop {
            if self.over.is_some() {
                return Ok(None);
            }
            if self.decoder.is_none() && !self.next_frame()? {
                return Ok(None);
            }
            let bad = Error::Step { at: self.frame };
            match self.step().ok_or(bad.clone())? {
                Some(found) => return Ok(Some(found)),
                None if self.long.len() > model::LONG => return Err(bad),
                None => {}
            }
        }
    }

    /// Goes on to the next frame; `false` at the end.
    fn next_frame(&mut self) -> Result<bool, Error> {
        self.frame = self.at;
        let damage = Error::Frame { at: self.at };
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        if rest.is_empty() {
            self.over = Some(Ending::Cut);
            return Ok(false);
        }
        let (len, rest) = rest.split_first_chunk::<2>().ok_or(damage.clone())?;
        let len = usize::from(u16::from_le_bytes(*len));
        if len == 0 {
            let why = rest.first().and_then(|why| Ending::ALL.get(usize::from(*why)));
            self.over = Some(*why.ok_or(damage)?);
            return Ok(false);
        }
        let (there, rest) = rest.split_first_chunk::<4>().ok_or(damage.clone())?;
        let content = rest.get(..len).filter(|c| sum(c) == u32::from_le_bytes(*there)).ok_or(damage)?;
        self.at += FRAME_HEAD + len;
        self.decoder = Some(Decoder::new(content));
        Ok(true)
    }

    /// One step; inside `None` when it was the end of a frame or a part of something long, outside when it makes no sense.
    fn step(&mut self) -> Option<Option<Found>> {
        let (model, c) = (&mut self.model, self.decoder.as_mut()?);
        let kind = model.kind(c, Kind::End)?;
        let any = Instant::ZERO;
        let step = match kind {
            Kind::End => {
                let beyond = c.is_beyond();
                self.decoder = None;
                return (!beyond).then_some(None);
            }
            Kind::State | Kind::Config => {
                let now = if kind == Kind::Config { model.exact_time(c, any) } else { any };
                model.bytes(c, kind, &[])?;
                let part = model.read();
                let last = part.len() < PART;
                self.long.extend_from_slice(part);
                let found = if kind == Kind::State { Found::State } else { Found::Config(now) };
                return (!c.is_beyond()).then_some(last.then_some(found));
            }
            Kind::Foreign => Step::Foreign,
            Kind::Timeout => Step::Timeout(model.round_time(c, any, true)),
            Kind::Answer => {
                let now = model.round_time(c, any, true);
                let (id, outcome, at) = model.answer(c, model::NO_ID, ProbeOutcome::Answered, any, any)?;
                Step::Event(Event::Probe { id, outcome, at }, now)
            }
            Kind::Traffic => {
                let now = model.round_time(c, any, true);
                let (ifindex, [received, sent]) = model.traffic(c, 0, [0; 2])?;
                Step::Event(Event::Traffic { ifindex: IfIndex(ifindex), received, sent }, now)
            }
            Kind::Event => {
                let now = model.exact_time(c, any);
                Step::Event(model.value(c, kind, None)?, now)
            }
            Kind::Link => {
                let now = model.round_time(c, any, true);
                Step::Event(model.value(c, Kind::Event, None)?, now)
            }
            Kind::Action => {
                let now = model.round_time(c, any, false);
                Step::Action(model.value(c, kind, None)?, now)
            }
            Kind::Probe => {
                let now = model.round_time(c, any, false);
                Step::Action(Action::Probe(model.probe(c, None)?), now)
            }
            Kind::Done => Step::Done(model.round_time(c, any, false)),
        };
        (!c.is_beyond()).then_some(Some(Found::Step(step)))
    }
}

/// A step, or where its bytes are.
enum Found {
    Step(Step<'static>),
    State,
    Config(Instant),
}
