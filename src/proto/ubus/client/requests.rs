//! Decides what to ask the bus for next, and what its answers mean: the half of the client that speaks first.

use super::{Client, ITEMS, Incoming, Item, News, OBJECT_EVENTS, Object, Phase, REQUEST_TIMEOUT};
use crate::proto::blobmsg::write::{Fill, Writer};
use crate::proto::ubus::Status;
use crate::proto::ubus::message::{self, Kind, Message, attr};
use crate::time::Instant;

/// A request that waits for its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) seq: u16,
    pub(super) peer: u32,
    pub(super) what: What,
    pub(super) until: Instant,
    /// The object that its data named; of a subscription the one subscribed to.
    id: Option<u32>,
    /// The data gave the object a type; without one nobody can find it.
    typed: bool,
    /// Data came that was too long for us.
    pub(super) too_long: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Our object without a path.
    Receiver,
    /// An object of ours.
    Object(usize),
    /// News of objects.
    ObjectEvents,
    /// An event.
    Event(usize),
    /// Somebody else's object.
    Path(usize),
    /// Its notifications.
    Subscription(usize),
    /// Call of a method, by the caller's mark.
    Call(u32),
}

/// A call that could not be made: the object is not there, or too many requests are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotCalled;

impl Client {
    /// Calls a method of somebody else's object; [`Incoming::Answer`] and [`News::Done`] with the same tag follow.
    ///
    /// # Errors
    /// [`NotCalled`]; try again when something has happened.
    pub fn call(&mut self, path: usize, method: &str, tag: u32, now: Instant, fill: Fill<'_>) -> Result<(), NotCalled> {
        let id = self.paths.get(path).and_then(|p| p.object.id()).ok_or(NotCalled)?;
        let made = self.ask(What::Call(tag), Kind::Invoke, id, now, &mut |w| {
            w.attribute_u32(attr::OBJID, id);
            w.attribute_str(attr::METHOD, method);
            w.nest(attr::DATA, &mut *fill);
        });
        if made { Ok(()) } else { Err(NotCalled) }
    }

    /// Whether somebody else's object is there.
    pub fn has(&self, path: usize) -> bool {
        self.phase == Phase::Up && self.paths.get(path).is_some_and(|p| p.object.id().is_some())
    }

    fn ask(&mut self, what: What, kind: Kind, peer: u32, now: Instant, fill: Fill<'_>) -> bool {
        if self.phase != Phase::Up || self.requests.is_full() {
            return false;
        }
        // 0 is for what is not matched: notifications and events.
        let seq = self.seq.checked_add(1).unwrap_or(1);
        if self.out.send(kind, seq, peer, fill).is_err() {
            return false;
        }
        self.seq = seq;
        let until = now.after(REQUEST_TIMEOUT);
        let request = Request { seq, peer, what, until, id: None, typed: false, too_long: false };
        // Cannot fail: it is not full.
        let _ = self.requests.push(request);
        true
    }

    /// Asks for the next things that are wanted and not there. Pipelined: the bus answers in order.
    pub(super) fn progress(&mut self, now: Instant) {
        if self.phase != Phase::Up {
            return;
        }
        if self.receiver.is_due(now) && self.ask(What::Receiver, Kind::AddObject, 0, now, &mut |_| {}) {
            self.receiver = Item::Asked;
        }
        for at in 0..self.objects.len() {
            let due = self.ready && self.objects.get(at).is_some_and(|o| o.object.is_due(now));
            let Some(setup) = self.setup.objects.get(at).filter(|_| due) else { continue };
            let asked = self.ask(What::Object(at), Kind::AddObject, 0, now, &mut |w| sign(w, setup));
            if let (true, Some(object)) = (asked, self.objects.get_mut(at)) {
                object.object = Item::Asked;
            }
        }
        let Some(receiver) = self.receiver.id() else { return };
        if self.object_events.is_due(now) && self.listen(What::ObjectEvents, receiver, OBJECT_EVENTS, now) {
            self.object_events = Item::Asked;
        }
        for at in 0..self.events.len().min(ITEMS) {
            let due = self.events.get(at).is_some_and(|e| e.is_due(now));
            let Some(pattern) = self.setup.events.get(at).filter(|_| due) else { continue };
            if self.listen(What::Event(at), receiver, pattern, now)
                && let Some(event) = self.events.get_mut(at)
            {
                *event = Item::Asked;
            }
        }
        // Only now: what appears after the look is told by an event.
        if self.object_events == Item::Wanted {
            return;
        }
        for at in 0..self.paths.len() {
            let (Some(followed), Some(setup)) = (self.paths.get(at).copied(), self.setup.paths.get(at).copied()) else {
                continue;
            };
            let path = setup.path;
            if followed.object.is_due(now) {
                if self.ask(What::Path(at), Kind::Lookup, 0, now, &mut |w| w.attribute_str(attr::OBJPATH, path)) {
                    self.set_path(at, Item::Asked);
                }
            } else if let Some(target) = followed.object.id().filter(|_| setup.subscribe)
                && followed.subscription.is_due(now)
            {
                let asked = self.ask(What::Subscription(at), Kind::Subscribe, 0, now, &mut |w| {
                    w.attribute_u32(attr::OBJID, receiver);
                    w.attribute_u32(attr::TARGET, target);
                });
                if let (true, Some(followed)) = (asked, self.paths.get_mut(at)) {
                    followed.subscription = Item::Asked;
                    self.requests.iter_mut().last().into_iter().for_each(|r| r.id = Some(target));
                }
            }
        }
    }

    fn listen(&mut self, what: What, receiver: u32, pattern: &str, now: Instant) -> bool {
        self.ask(what, Kind::Invoke, message::EVENTS, now, &mut |w| {
            w.attribute_u32(attr::OBJID, message::EVENTS);
            w.attribute_str(attr::METHOD, "register");
            w.nest(attr::DATA, |w| {
                w.u32("object", receiver);
                w.str("pattern", pattern);
            });
        })
    }

    fn set_path(&mut self, at: usize, object: Item) {
        if let Some(followed) = self.paths.get_mut(at) {
            followed.object = object;
        }
    }

    /// Data of an answer.
    pub(super) fn answer<'a>(&mut self, message: &Message<'a>) -> Option<Incoming<'a>> {
        let request = self.requests.iter_mut().find(|r| (r.seq, r.peer) == (message.seq, message.peer))?;
        match request.what {
            What::Call(tag) => message.body.data.map(|data| Incoming::Answer { tag, data }),
            _ => {
                request.id = message.body.object.or(request.id);
                request.typed |= message.body.object_type.is_some();
                None
            }
        }
    }

    /// The end of a request.
    pub(super) fn answered(&mut self, message: &Message<'_>, now: Instant) {
        let Some(status) = message.body.status.map(Status) else { return };
        let Some(at) = self.requests.iter().position(|r| (r.seq, r.peer) == (message.seq, message.peer)) else {
            if message.seq == 0 && status != Status::OK {
                self.tell(News::NotSent(status));
            }
            return;
        };
        let request = self.requests.swap_remove(at);
        // "Fine" without the object that was asked for means: you may not see it.
        let got = request.id.filter(|_| status == Status::OK);
        let denied = if status == Status::OK { Status::NOT_FOUND } else { status };
        let later = Item::Not(Some(self.retry_at(now)));
        match request.what {
            What::Receiver => match got {
                Some(id) => self.receiver = Item::Have(id),
                None => self.close("it gives us no object"),
            },
            What::Object(at) => {
                let Some(object) = self.objects.get_mut(at) else { return };
                object.object = got.map_or(later, Item::Have);
                let news = match got {
                    Some(_) if request.typed => News::Published(at),
                    _ => News::NotPublished(at, denied),
                };
                self.tell(news);
            }
            What::ObjectEvents => {
                self.object_events = if status == Status::OK { Item::Have(0) } else { later };
                if status != Status::OK {
                    self.tell(News::NotHeard(None, status));
                }
            }
            What::Event(at) => {
                if let Some(event) = self.events.get_mut(at) {
                    *event = if status == Status::OK { Item::Have(0) } else { later };
                }
                if status != Status::OK {
                    self.tell(News::NotHeard(Some(at), status));
                }
            }
            What::Path(at) => {
                // An event may have been quicker.
                if self.paths.get(at).is_some_and(|p| p.object == Item::Asked) {
                    // Nobody will tell us when it comes: look again.
                    let deaf = matches!(self.object_events, Item::Not(_));
                    self.set_path(at, got.map_or(if deaf { later } else { Item::Not(None) }, Item::Have));
                    if got.is_some() && !self.setup.paths.get(at).is_some_and(|p| p.subscribe) {
                        self.tell(News::PathUp(at));
                    }
                }
            }
            What::Subscription(at) => {
                // Meanwhile it may have gone, or come back as another.
                let same = |p: &&mut super::Followed| p.object.id().is_some() && p.object.id() == request.id;
                let Some(followed) = self.paths.get_mut(at).filter(same) else { return };
                followed.subscription = if status == Status::OK { Item::Have(0) } else { later };
                if status != Status::OK {
                    self.tell(News::NotSubscribed(at, status));
                }
                self.tell(News::PathUp(at));
            }
            What::Call(tag) => {
                let status = if request.too_long { Status::NO_MEMORY } else { status };
                self.tell(News::Done(tag, status));
            }
        }
    }

    /// Requests whose answer never came: a call has failed; when the bus itself is mute it is left.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        while let Some(at) = self.requests.iter().position(|r| r.until <= now) {
            match self.requests.swap_remove(at).what {
                What::Call(tag) => self.tell(News::Done(tag, Status::TIMEOUT)),
                _ => self.close("it does not answer"),
            }
        }
    }
}

/// Path and signature: per method a table, per argument the number of its type.
fn sign(w: &mut Writer<'_>, object: &Object) {
    w.attribute_str(attr::OBJPATH, object.path);
    w.nest(attr::SIGNATURE, |w| {
        for method in object.methods {
            w.table(method.name, |w| {
                for (name, kind) in method.args {
                    w.int(name, *kind as i64);
                }
            });
        }
    });
}
