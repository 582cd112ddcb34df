//! Decides what to say to the bus and what its words mean for us: a state machine without socket and clock.
//!
//! It is told what should be ([`Setup`]: our objects, others' objects, events) and works towards it after every
//! greeting, so a restarted bus needs no special case: everything is asked for anew, nothing remembered is trusted.
//! Answers are matched by number and peer. What arrives unasked (calls, notifications, events) is sorted here; a call
//! with an unknown method or an argument of the wrong type is answered here.
//!
//! The shell connects when [`Client::wants_connection`], closes when [`Client::wants_close`], writes [`Client::bytes`],
//! and drains [`Client::poll_news`] after everything.

mod incoming;
mod requests;

use heapless::{Deque, Vec};

use super::Status;
use super::message::{self, Kind, attr};
use super::outbox::Outbox;
use crate::proto::blobmsg::write::Fill;
use crate::proto::blobmsg::{self, List};
use crate::time::{Duration, Instant};
pub use requests::NotCalled;
use requests::{Request, What};

/// Our own requests that wait for an answer. One more waits itself.
pub const REQUESTS: usize = 16;
/// Objects of ours, objects of others, and events: at most so many of each.
pub const ITEMS: usize = 8;
/// An answer that has not come by then never will: the bus answers within milliseconds, netifd within tens of them.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// A bus that takes nothing for so long is dead.
pub const STALL: Duration = Duration::from_secs(5);
/// What the bus refuses is tried again. Soon at first: the access rules of a package that was just installed are read
/// only when somebody tells the bus to; later seldom.
const REFUSED_RETRY: [(Duration, Duration); 2] =
    [(Duration::from_secs(10), Duration::from_secs(1)), (Duration::from_secs(60), Duration::from_secs(5))];
/// And for ever.
const REFUSED_LATER: Duration = Duration::from_secs(30);
/// The event that tells of objects coming and going.
const OBJECT_EVENTS: &str = "ubus.object.*";

/// What we want from the bus.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Objects of ours; at most [`ITEMS`].
    pub objects: &'static [Object],
    /// Objects of others; at most [`ITEMS`].
    pub paths: &'static [Follow],
    /// Events, exact or with a `*` at the end; at most [`ITEMS`].
    pub events: &'static [&'static str],
}

/// An object of ours.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// Its path.
    pub path: &'static str,
    /// Its methods.
    pub methods: &'static [Method],
}

/// A method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// Its arguments; all may be left out.
    pub args: &'static [(&'static str, blobmsg::Kind)],
}

/// An object of somebody else.
#[derive(Clone, Copy, Debug)]
pub struct Follow {
    /// Its path.
    pub path: &'static str,
    /// Whether its notifications are wanted.
    pub subscribe: bool,
}

/// What came in and borrows from the message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Incoming<'a> {
    /// Somebody calls a method of ours; must be answered by [`Client::reply`], now or later.
    Call { object: usize, method: usize, args: List<'a>, call: Call },
    /// An object that we subscribed to tells something.
    Notification { name: &'a str, data: List<'a> },
    /// An event.
    Event { name: &'a str, data: List<'a> },
    /// Part of the answer to a call of ours; [`News::Done`] ends it.
    Answer { tag: u32, data: List<'a> },
}

/// A call that wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    seq: u16,
    peer: u32,
    object: u32,
    silent: bool,
    /// Which connection it came by.
    connection: u32,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The bus has greeted us.
    Up,
    /// An object of ours is there.
    Published(usize),
    /// An object of ours may not be published: the path is taken, or an access rule forbids it.
    NotPublished(usize, Status),
    /// Somebody else's object is there, and subscribed to if wanted.
    PathUp(usize),
    /// Somebody else's object is gone.
    PathDown(usize),
    /// Its notifications are refused: an access rule forbids it.
    NotSubscribed(usize, Status),
    /// An event may not be heard: an access rule forbids it. `None` is the coming and going of objects.
    NotHeard(Option<usize>, Status),
    /// An event of ours may not be sent.
    NotSent(Status),
    /// A call of ours has ended.
    Done(u32, Status),
}

/// A thing that is worked towards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Item {
    #[default]
    Wanted,
    Asked,
    Have(u32),
    /// Not to be had before then, or before something happens.
    Not(Option<Instant>),
}

impl Item {
    fn is_due(self, now: Instant) -> bool {
        match self {
            Self::Wanted => true,
            Self::Not(retry) => retry.is_some_and(|at| at <= now),
            Self::Asked | Self::Have(_) => false,
        }
    }

    fn id(self) -> Option<u32> {
        match self {
            Self::Have(id) => Some(id),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Followed {
    object: Item,
    subscription: Item,
}

#[derive(Clone, Copy, Debug, Default)]
struct Published {
    object: Item,
    /// Somebody is subscribed.
    active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not connected; when to try.
    Down { retry_at: Instant },
    /// Connected; until when the greeting is waited for.
    Greeting { until: Instant },
    /// Greeted.
    Up,
    /// To be closed, for this reason.
    Closing(&'static str),
}

/// The conversation.
#[derive(Debug)]
pub struct Client {
    setup: Setup,
    phase: Phase,
    out: Outbox,
    seq: u16,
    requests: Vec<Request, REQUESTS>,
    /// Our object without a path: events and notifications come to it.
    receiver: Item,
    objects: Vec<Published, ITEMS>,
    paths: Vec<Followed, ITEMS>,
    object_events: Item,
    events: Vec<Item, ITEMS>,
    /// Whether our objects may be there: they are the sign that we can answer.
    ready: bool,
    news: Deque<News, { 2 * REQUESTS + 4 * ITEMS }>,
    connection: u32,
    /// Since when the bus listens to us.
    up_since: Instant,
    /// Since when nothing of what waits could be written.
    stalled_since: Option<Instant>,
    tries: u32,
    lost_at: Instant,
    /// There was a good connection once: then there is a bus, and it comes back.
    was_good: bool,
}

impl Client {
    /// Not connected yet. `wire` and `news` are the bytes of its two queues; nothing is allocated after this.
    pub fn new(setup: Setup, wire: usize, news: usize, now: Instant) -> Self {
        let mut client = Self {
            setup,
            phase: Phase::Down { retry_at: now },
            out: Outbox::new(wire.max(news), news),
            seq: 0,
            requests: Vec::new(),
            receiver: Item::Wanted,
            objects: Vec::new(),
            paths: Vec::new(),
            object_events: Item::Wanted,
            events: Vec::new(),
            ready: false,
            news: Deque::new(),
            connection: 0,
            up_since: now,
            stalled_since: None,
            tries: 0,
            lost_at: now,
            was_good: false,
        };
        client.forget();
        client
    }

    /// Nothing of the last connection holds.
    fn forget(&mut self) {
        self.out.reset();
        self.requests.clear();
        self.receiver = Item::Wanted;
        self.object_events = Item::Wanted;
        self.stalled_since = None;
        self.objects.clear();
        self.paths.clear();
        self.events.clear();
        let _ = self.objects.resize_default(self.setup.objects.len().min(ITEMS));
        let _ = self.paths.resize_default(self.setup.paths.len().min(ITEMS));
        let _ = self.events.resize_default(self.setup.events.len().min(ITEMS));
    }

    // --- the connection ----------------------------------------------------------------------------------------------

    /// Whether it is time to connect.
    pub fn wants_connection(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Down { retry_at } if retry_at <= now)
    }

    /// Whether the connection is to be closed, and why.
    pub fn wants_close(&self) -> Option<&'static str> {
        match self.phase {
            Phase::Closing(why) => Some(why),
            _ => None,
        }
    }

    /// The connection stands; the bus speaks first.
    pub fn connected(&mut self, now: Instant) {
        self.forget();
        self.connection = self.connection.wrapping_add(1);
        self.phase = Phase::Greeting { until: now.after(REQUEST_TIMEOUT) };
    }

    /// The connection could not be made, or is closed. Calls of ours under way have failed.
    pub fn closed(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Up | Phase::Closing(_)) && self.connection_was_good() {
            self.tries = 0;
            self.lost_at = now;
            self.was_good = true;
        }
        let requests = core::mem::take(&mut self.requests);
        for request in &requests {
            if let What::Call(tag) = request.what {
                self.tell(News::Done(tag, Status::CONNECTION_FAILED));
            }
        }
        for at in 0..self.paths.len() {
            self.path_gone(at);
        }
        self.forget();
        self.phase = Phase::Down { retry_at: now.after(self.pause(now)) };
        self.tries = self.tries.saturating_add(1);
    }

    fn connection_was_good(&self) -> bool {
        self.receiver.id().is_some()
    }

    /// How long to wait before the next try: twice as long each time, but not longer than half a second in the first
    /// minute after a good connection (procd has a dead bus back within two seconds), 5 s in the first ten, and 30 s
    /// after those; less a quarter that differs each time, so that not all clients of a bus come back at once.
    fn pause(&self, now: Instant) -> Duration {
        let lost = now.since(self.lost_at).as_secs();
        let most = match lost {
            0..60 if self.was_good => 500,
            0..600 => 5000,
            _ => 30_000,
        };
        let millis = 50_u64.checked_shl(self.tries.min(10)).unwrap_or(most).min(most);
        let spread = (now.micros() ^ now.micros() >> 7).wrapping_mul(0x9e37_79b9) >> 8 & 0xff;
        Duration::from_millis(millis - millis * spread / 1024)
    }

    /// When what was refused now is tried again.
    fn retry_at(&self, now: Instant) -> Instant {
        let up = now.since(self.up_since);
        let pause = REFUSED_RETRY.iter().find(|(until, _)| up < *until).map_or(REFUSED_LATER, |(_, pause)| *pause);
        now.after(pause)
    }

    fn close(&mut self, why: &'static str) {
        self.phase = Phase::Closing(why);
    }

    /// Whether the bus has greeted us and the connection stands.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// We can answer: from now on our objects are published.
    pub fn publish(&mut self, now: Instant) {
        self.ready = true;
        self.progress(now);
    }

    // --- what goes out -----------------------------------------------------------------------------------------------

    /// The bytes to write next.
    pub fn bytes(&mut self) -> &[u8] {
        match self.phase {
            Phase::Up => self.out.bytes(),
            _ => &[],
        }
    }

    /// Whether there are bytes to write.
    pub fn wants_write(&self) -> bool {
        self.phase == Phase::Up && !self.out.is_empty()
    }

    /// So many of [`Client::bytes`] could be written; 0 when the socket took none.
    pub fn written(&mut self, len: usize, now: Instant) {
        self.out.written(len);
        if len > 0 || self.out.is_empty() {
            self.stalled_since = None;
        }
        if !self.out.is_empty() {
            self.stalled_since.get_or_insert(now);
        }
    }

    /// Bytes that an answer may still have; calls are read only while it is enough.
    pub fn room(&self) -> usize {
        self.out.room()
    }

    /// News that had no room, and news that gave way to later news.
    pub fn losses(&self) -> (u32, u32) {
        (self.out.dropped(), self.out.replaced())
    }

    /// Answers a call: data if there is any, and the end. Late answers to a connection that is gone are dropped. An
    /// answer without room becomes [`Status::NO_MEMORY`].
    pub fn reply(&mut self, call: Call, status: Status, fill: Option<Fill<'_>>) {
        if call.silent || call.connection != self.connection || self.phase != Phase::Up {
            return;
        }
        let mut status = status;
        if let Some(fill) = fill {
            let sent = self.out.send(Kind::Data, call.seq, call.peer, &mut |w| {
                w.attribute_u32(attr::OBJID, call.object);
                w.nest(attr::DATA, &mut *fill);
            });
            if sent.is_err() {
                status = Status::NO_MEMORY;
            }
        }
        let sent = self.out.send(Kind::Status, call.seq, call.peer, &mut |w| {
            w.attribute_u32(attr::STATUS, status.0);
            w.attribute_u32(attr::OBJID, call.object);
        });
        if sent.is_err() {
            // The caller's own time limit ends it; whoever reads calls only when there is room never gets here.
            log!(Debug, "ubus: no room for an answer");
        }
    }

    /// Whether an object of ours has subscribers: if not, nothing need be made for them.
    pub fn is_subscribed(&self, object: usize) -> bool {
        self.objects.get(object).is_some_and(|o| o.active && o.object.id().is_some())
    }

    /// Tells the subscribers of an object of ours, if there are any. Of news with the same `key` only the last waits.
    pub fn notify(&mut self, object: usize, key: u32, name: &str, fill: Fill<'_>) {
        let Some(id) = self.objects.get(object).filter(|o| o.active).and_then(|o| o.object.id()) else { return };
        if self.phase != Phase::Up {
            return;
        }
        self.out.tell(key << 1, Kind::Notify, id, &mut |w| {
            w.attribute_u32(attr::OBJID, id);
            w.attribute_str(attr::METHOD, name);
            w.nest(attr::DATA, &mut *fill);
            w.attribute(attr::NO_REPLY, &[1]);
        });
    }

    /// Sends an event to whoever listens. Of news with the same `key` only the last waits.
    pub fn send(&mut self, key: u32, name: &str, fill: Fill<'_>) {
        if self.phase != Phase::Up {
            return;
        }
        self.out.tell(key << 1 | 1, Kind::Invoke, message::EVENTS, &mut |w| {
            w.attribute_u32(attr::OBJID, message::EVENTS);
            w.attribute_str(attr::METHOD, "send");
            w.nest(attr::DATA, |w| {
                w.str("id", name);
                w.table("data", &mut *fill);
            });
        });
    }

    // --- time --------------------------------------------------------------------------------------------------------

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Greeting { until } if until <= now) {
            self.close("no greeting");
        }
        if self.stalled_since.is_some_and(|since| since.after(STALL) <= now) {
            self.close("it reads nothing");
        }
        self.end_overdue(now);
        self.progress(now);
    }

    /// When [`Client::handle_timeout`] or [`Client::wants_connection`] is to be asked next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Down { retry_at } => Some(retry_at),
            Phase::Greeting { until } => Some(until),
            Phase::Closing(_) => None,
            Phase::Up => {
                let stall = self.stalled_since.map_or(Instant::END, |since| since.after(STALL));
                let mut first = self.requests.iter().fold(stall, |first, r| first.min(r.until));
                // Without room for a request, an answer or a write comes first.
                if !self.requests.is_full() && self.stalled_since.is_none() {
                    let mut retry = |item: &Item| {
                        if let Item::Not(Some(at)) = item {
                            first = first.min(*at);
                        }
                    };
                    retry(&self.object_events);
                    self.events.iter().for_each(&mut retry);
                    self.objects.iter().for_each(|o| retry(&o.object));
                    for path in &self.paths {
                        retry(&path.object);
                        retry(&path.subscription);
                    }
                }
                Some(first).filter(|at| *at < Instant::END)
            }
        }
    }

    // --- what became of it -------------------------------------------------------------------------------------------

    fn tell(&mut self, news: News) {
        if self.news.is_full() {
            self.news.pop_front();
        }
        // Cannot fail: a place was just made.
        let _ = self.news.push_back(news);
    }

    /// The next news.
    pub fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }
}
