//! Decides what a message from the bus means: the half of the client that is spoken to.

use super::requests::Request;
use super::{Call, Client, Followed, Incoming, Item, News, Phase};
use crate::proto::blobmsg::{self, List};
use crate::proto::ubus::Status;
use crate::proto::ubus::message::{Kind, Message};
use crate::time::Instant;

impl Client {
    /// Takes in a message.
    pub fn handle<'a>(&mut self, message: &Message<'a>, now: Instant) -> Option<Incoming<'a>> {
        let incoming = match (self.phase, message.kind) {
            (Phase::Greeting { .. }, Some(Kind::Hello)) => {
                self.phase = Phase::Up;
                self.up_since = now;
                self.tell(News::Up);
                None
            }
            (Phase::Greeting { .. }, _) => {
                self.close("no greeting first");
                None
            }
            (Phase::Up, Some(Kind::Status)) => {
                self.answered(message, now);
                None
            }
            (Phase::Up, Some(Kind::Data)) => self.answer(message),
            (Phase::Up, Some(Kind::Invoke)) => self.invoked(message),
            (Phase::Up, Some(Kind::Unsubscribe)) => {
                let target = message.body.target;
                if let Some(at) = self.paths.iter().position(|p| target.is_some() && p.object.id() == target) {
                    self.path_gone(at);
                }
                None
            }
            (Phase::Up, Some(Kind::Notify)) => {
                let about = message.body.object;
                for object in self.objects.iter_mut().filter(|o| about.is_some() && o.object.id() == about) {
                    object.active = message.body.active.unwrap_or(object.active);
                }
                None
            }
            // Newer buses may say more.
            _ => None,
        };
        self.progress(now);
        incoming
    }

    /// Takes in the begin of a message that was too long for the receive buffer.
    pub fn handle_too_long(&mut self, message: &Message<'_>) {
        if self.phase != Phase::Up {
            self.close("no greeting first");
            return;
        }
        match message.kind {
            Some(Kind::Data) => {
                let same = |r: &&mut Request| (r.seq, r.peer) == (message.seq, message.peer);
                if let Some(request) = self.requests.iter_mut().find(same) {
                    request.too_long = true;
                }
            }
            Some(Kind::Invoke) if !message.body.no_reply => {
                if let Some(object) = message.body.object {
                    self.reply(self.call_of(message, object), Status::INVALID_ARGUMENT, None);
                }
            }
            _ => {}
        }
    }

    fn call_of(&self, message: &Message<'_>, object: u32) -> Call {
        // Peer 0 is the bus itself: it wants no answer.
        let silent = message.body.no_reply || message.peer == 0;
        Call { seq: message.seq, peer: message.peer, object, silent, connection: self.connection }
    }

    fn invoked<'a>(&mut self, message: &Message<'a>) -> Option<Incoming<'a>> {
        let body = &message.body;
        let object = body.object?;
        let call = self.call_of(message, object);
        if self.receiver.id() == Some(object) {
            return self.told(message, call);
        }
        let Some(at) = self.objects.iter().position(|o| o.object.id() == Some(object)) else {
            self.reply(call, Status::NOT_FOUND, None);
            return None;
        };
        let methods = self.setup.objects.get(at).map_or(&[][..], |o| o.methods);
        let (Some(name), Some(args)) = (body.method, body.data) else {
            self.reply(call, Status::INVALID_ARGUMENT, None);
            return None;
        };
        let Some(method) = methods.iter().position(|m| m.name.as_bytes() == name) else {
            self.reply(call, Status::METHOD_NOT_FOUND, None);
            return None;
        };
        let fits = |(name, kind): &(&str, blobmsg::Kind)| {
            args.get(name).is_none_or(|value| *kind == blobmsg::Kind::Unspec || value.kind() == *kind)
        };
        if args.check().is_err() || !methods.get(method).is_some_and(|m| m.args.iter().all(fits)) {
            self.reply(call, Status::INVALID_ARGUMENT, None);
            return None;
        }
        Some(Incoming::Call { object: at, method, args, call })
    }

    /// Events and notifications.
    fn told<'a>(&mut self, message: &Message<'a>, call: Call) -> Option<Incoming<'a>> {
        let name = message.body.method.and_then(|m| core::str::from_utf8(m).ok())?;
        let data = message.body.data.unwrap_or(List::new(&[]));
        if message.peer == 0 {
            if let Some(path) = data.str("path")
                && let Some(what) = name.strip_prefix("ubus.object.")
            {
                self.object_moved(what == "add", path, data.u32("id"));
                return None;
            }
            return Some(Incoming::Event { name, data });
        }
        // Whoever knows our number can call us; what we follow runs as root.
        if message.body.user != Some(b"root") {
            self.reply(call, Status::PERMISSION_DENIED, None);
            return None;
        }
        self.reply(call, Status::OK, None);
        Some(Incoming::Notification { name, data })
    }

    fn object_moved(&mut self, added: bool, path: &str, id: Option<u32>) {
        if let Some(at) = self.setup.paths.iter().position(|p| p.path == path) {
            self.path_gone(at);
            if let (true, Some(id), Some(followed)) = (added, id, self.paths.get_mut(at)) {
                *followed = Followed { object: Item::Have(id), subscription: Item::Wanted };
                if !self.setup.paths.get(at).is_some_and(|p| p.subscribe) {
                    self.tell(News::PathUp(at));
                }
            }
        }
        // Whoever held a path of ours is gone: it is our turn.
        if let (false, Some(at)) = (added, self.setup.objects.iter().position(|o| o.path == path))
            && let Some(object) = self.objects.get_mut(at).filter(|o| matches!(o.object, Item::Not(_)))
        {
            object.object = Item::Wanted;
        }
    }

    pub(super) fn path_gone(&mut self, at: usize) {
        let Some(followed) = self.paths.get_mut(at) else { return };
        let was = core::mem::replace(followed, Followed { object: Item::Not(None), subscription: Item::Wanted });
        if was.object.id().is_some() {
            self.tell(News::PathDown(at));
        }
    }
}
