//! A bus of our own, for tests: what `ubusd` does with each message, no kinder than it. No socket, no clock.
// Each program that stands on it uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;

use linkwatch::proto::blobmsg::write::Writer;
use linkwatch::proto::blobmsg::{Attributes, List};
use linkwatch::proto::ubus::message::{Head, Kind, Message, attr, write};

/// What waits for one client at most; more is dropped without a word, as `ubusd` does.
const QUEUE: usize = 1 << 20;

/// A connection.
#[derive(Default)]
struct Peer {
    user: String,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    closed: bool,
    /// Counts what the bus says by itself.
    seq: u16,
}

struct Object {
    owner: u32,
    path: Option<String>,
    signature: Option<Vec<u8>>,
    object_type: u32,
    subscribers: Vec<u32>,
    patterns: Vec<String>,
}

/// What an access rule forbids everybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Denied {
    pub publish: bool,
    pub subscribe: bool,
    pub listen: bool,
    pub send: bool,
}

/// The bus.
pub struct Bus {
    peers: BTreeMap<u32, Peer>,
    objects: BTreeMap<u32, Object>,
    random: u32,
    pub denied: Denied,
    /// Says nothing at all, not even a greeting.
    pub mute: bool,
}

impl Bus {
    pub fn new(seed: u32) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9) | 1;
        Self { peers: BTreeMap::new(), objects: BTreeMap::new(), random, denied: Denied::default(), mute: false }
    }

    fn number(&mut self) -> u32 {
        loop {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            if self.random >= 1024 && !self.objects.contains_key(&self.random) {
                return self.random;
            }
        }
    }

    /// A client connects; its number.
    pub fn connect(&mut self, user: &str) -> u32 {
        let id = self.number();
        self.peers.insert(id, Peer { user: user.to_owned(), ..Peer::default() });
        self.say(id, Kind::Hello, 0, id, |_| {});
        id
    }

    /// A client is gone.
    pub fn disconnect(&mut self, client: u32) {
        if self.peers.remove(&client).is_none() {
            return;
        }
        let own: Vec<u32> = self.objects.iter().filter(|(_, o)| o.owner == client).map(|(id, _)| *id).collect();
        own.into_iter().for_each(|id| self.remove(id));
    }

    /// Whether the bus has closed a connection.
    pub fn is_closed(&self, client: u32) -> bool {
        self.peers.get(&client).is_none_or(|p| p.closed)
    }

    /// What a client can read now.
    pub fn take(&mut self, client: u32, most: usize) -> Vec<u8> {
        let Some(peer) = self.peers.get_mut(&client) else { return Vec::new() };
        let len = peer.outgoing.len().min(most);
        peer.outgoing.drain(..len).collect()
    }

    /// The objects with a path.
    pub fn paths(&self) -> Vec<&str> {
        self.objects.values().filter_map(|o| o.path.as_deref()).collect()
    }

    /// What a client has written.
    pub fn write(&mut self, client: u32, bytes: &[u8]) {
        let Some(peer) = self.peers.get_mut(&client).filter(|p| !p.closed) else { return };
        peer.incoming.extend_from_slice(bytes);
        while let Some(peer) = self.peers.get_mut(&client) {
            let Some(head) = Head::new(&peer.incoming) else { return };
            if head.len < 12 || head.len > (1 << 20) + 8 {
                peer.closed = true;
                return;
            }
            if peer.incoming.len() < head.len {
                return;
            }
            let bytes: Vec<u8> = peer.incoming.drain(..head.len).collect();
            if !self.mute {
                self.message(client, &bytes);
            }
        }
    }

    fn say(&mut self, client: u32, kind: Kind, seq: u16, peer: u32, mut fill: impl FnMut(&mut Writer<'_>)) {
        if self.mute {
            return;
        }
        let mut buf = vec![0; QUEUE + 64];
        let len = write(&mut buf, kind, seq, peer, &mut fill).expect("shorter than the longest");
        if let Some(to) = self.peers.get_mut(&client)
            && to.outgoing.len() + len <= QUEUE
        {
            to.outgoing.extend_from_slice(&buf[..len]);
        }
    }

    fn by_itself(&mut self, client: u32, kind: Kind, fill: impl FnMut(&mut Writer<'_>)) {
        let seq = self.peers.get_mut(&client).map_or(0, |p| {
            p.seq = p.seq.wrapping_add(1);
            p.seq
        });
        self.say(client, kind, seq, 0, fill);
    }

    fn message(&mut self, client: u32, bytes: &[u8]) {
        let message = Message::new(bytes).expect("whole");
        let (seq, peer, body) = (message.seq, message.peer, message.body);
        let mine = |bus: &Self, id: u32| bus.objects.get(&id).is_some_and(|o| o.owner == client);
        let status = match message.kind {
            Some(Kind::Ping) => {
                self.say(client, Kind::Data, seq, peer, |w| w.put(&bytes[12..]));
                Some(0)
            }
            Some(Kind::Lookup) => Some(self.lookup(client, seq, peer, body.path)),
            Some(Kind::AddObject) => Some(self.add(client, seq, peer, &message)),
            Some(Kind::RemoveObject) => Some(match body.object {
                Some(id) if mine(self, id) => {
                    self.say(client, Kind::Data, seq, peer, |w| w.attribute_u32(attr::OBJID, id));
                    self.remove(id);
                    0
                }
                Some(id) if self.objects.contains_key(&id) => 6,
                _ => 4,
            }),
            Some(Kind::Invoke) => match (body.object, body.method) {
                (Some(1), Some(method)) => Some(self.event_object(client, method, body.data.unwrap_or(List::new(&[])))),
                (Some(id), Some(_)) if self.objects.contains_key(&id) => {
                    self.forward(client, id, seq, bytes);
                    None
                }
                (Some(_), Some(_)) => Some(4),
                _ => Some(2),
            },
            // Answers of an owner: passed on with its object as the peer, or dropped.
            Some(kind @ (Kind::Status | Kind::Data)) => {
                let whole = match kind {
                    Kind::Status => body.status.is_some(),
                    _ => body.data.is_some(),
                };
                if let Some(id) = body.object.filter(|id| whole && mine(self, *id)) {
                    self.say(peer, kind, seq, id, |w| w.put(&bytes[12..]));
                }
                None
            }
            Some(Kind::Subscribe) => Some(match (body.object, body.target) {
                (Some(own), Some(target)) if mine(self, own) && !mine(self, target) => self.subscribe(own, target),
                _ => 2,
            }),
            Some(Kind::Notify) => match (body.object, body.method) {
                (Some(id), Some(_)) if mine(self, id) => {
                    assert!(body.no_reply, "linkwatch wants no replies");
                    for subscriber in self.objects[&id].subscribers.clone() {
                        self.forward(client, subscriber, seq, bytes);
                    }
                    None
                }
                (Some(_), Some(_)) => Some(4),
                _ => Some(2),
            },
            _ => Some(1),
        };
        if let Some(status) = status {
            self.say(client, Kind::Status, seq, peer, |w| w.attribute_u32(attr::STATUS, status));
        }
    }

    fn lookup(&mut self, client: u32, seq: u16, peer: u32, path: Option<&[u8]>) -> u32 {
        let wanted = path.map(|p| String::from_utf8_lossy(p).into_owned());
        if wanted.as_deref() == Some("") {
            return 2;
        }
        let fits = |path: &str| match wanted.as_deref() {
            None => true,
            Some(w) => w.strip_suffix('*').map_or(path == w, |prefix| path.starts_with(prefix)),
        };
        let mut found: Vec<(String, u32)> =
            self.objects.iter().filter_map(|(id, o)| Some((o.path.clone()?, *id))).collect();
        found.retain(|(path, _)| fits(path));
        found.sort();
        let any = !found.is_empty();
        for (path, id) in found {
            let object = &self.objects[&id];
            let (signature, object_type) = (object.signature.clone(), object.object_type);
            if let Some(signature) = signature {
                self.say(client, Kind::Data, seq, peer, |w| {
                    w.attribute_str(attr::OBJPATH, &path);
                    w.attribute_u32(attr::OBJID, id);
                    w.attribute_u32(attr::OBJTYPE, object_type);
                    w.attribute(attr::SIGNATURE, &signature);
                });
            }
        }
        if any { 0 } else { 4 }
    }

    fn add(&mut self, client: u32, seq: u16, peer: u32, message: &Message<'_>) -> u32 {
        let path = message.body.path.map(|p| String::from_utf8_lossy(p).into_owned());
        if path.is_some() && (self.denied.publish || self.objects.values().any(|o| o.path == path)) {
            return 2;
        }
        let signature = message.body.signature.filter(|s| s.check().is_ok());
        // The bytes of the signature: written again, they are the same.
        let signature = signature.map(|s| {
            let mut buf = vec![0; 1 << 16];
            let mut writer = Writer::new(&mut buf);
            super::fields::rewrite(s, &mut writer);
            let len = writer.finish().expect("it came in one message");
            buf.truncate(len);
            buf
        });
        let (id, object_type) = (self.number(), self.number());
        if let Some(path) = path.clone() {
            self.object_event("ubus.object.add", id, &path);
        }
        let has_type = signature.is_some();
        let object =
            Object { owner: client, path, signature, object_type, subscribers: Vec::new(), patterns: Vec::new() };
        self.objects.insert(id, object);
        self.say(client, Kind::Data, seq, peer, |w| {
            w.attribute_u32(attr::OBJID, id);
            if has_type {
                w.attribute_u32(attr::OBJTYPE, object_type);
            }
        });
        0
    }

    fn remove(&mut self, id: u32) {
        let Some(object) = self.objects.remove(&id) else { return };
        for subscriber in object.subscribers {
            if let Some(owner) = self.objects.get(&subscriber).map(|o| o.owner) {
                self.by_itself(owner, Kind::Unsubscribe, |w| {
                    w.attribute_u32(attr::OBJID, subscriber);
                    w.attribute_u32(attr::TARGET, id);
                });
            }
        }
        let mut lonely = Vec::new();
        for (target, other) in &mut self.objects {
            let before = other.subscribers.len();
            other.subscribers.retain(|s| *s != id);
            if before > 0 && other.subscribers.is_empty() {
                lonely.push((other.owner, *target));
            }
        }
        for (owner, target) in lonely {
            self.active(owner, target, 0);
        }
        if let Some(path) = object.path {
            self.object_event("ubus.object.remove", id, &path);
        }
    }

    fn active(&mut self, owner: u32, object: u32, active: u8) {
        self.by_itself(owner, Kind::Notify, |w| {
            w.attribute_u32(attr::OBJID, object);
            w.attribute(attr::ACTIVE, &[active]);
        });
    }

    fn subscribe(&mut self, own: u32, target: u32) -> u32 {
        if self.denied.subscribe {
            return 4;
        }
        let Some(object) = self.objects.get_mut(&target) else { return 4 };
        object.subscribers.push(own);
        let (first, owner) = (object.subscribers.len() == 1, object.owner);
        if first {
            self.active(owner, target, 1);
        }
        0
    }

    /// A call or a notification goes to whoever owns the object, with the sender's names.
    fn forward(&mut self, from: u32, to: u32, seq: u16, bytes: &[u8]) {
        let Some(owner) = self.objects.get(&to).map(|o| o.owner) else { return };
        let user = self.peers.get(&from).map_or(String::new(), |p| p.user.clone());
        let notify = bytes[1] == Kind::Notify as u8;
        let pass: Vec<(u8, Vec<u8>)> = Attributes::of(&bytes[12..])
            .filter(|a| [attr::METHOD, attr::DATA].contains(&a.id))
            .map(|a| (a.id, a.payload.unwrap_or(&[]).to_vec()))
            .collect();
        self.say(owner, Kind::Invoke, seq, from, |w| {
            if notify {
                w.attribute(attr::NO_REPLY, &[1]);
            }
            w.attribute_u32(attr::OBJID, to);
            pass.iter().filter(|(id, _)| *id == attr::METHOD).for_each(|(id, p)| w.attribute(*id, p));
            w.attribute_str(attr::USER, &user);
            w.attribute_str(attr::GROUP, &user);
            pass.iter().filter(|(id, _)| *id == attr::DATA).for_each(|(id, p)| w.attribute(*id, p));
        });
    }

    fn event_object(&mut self, client: u32, method: &[u8], data: List<'_>) -> u32 {
        match method {
            b"register" => {
                let (Some(id), Some(pattern)) = (data.u32("object"), data.str("pattern")) else { return 2 };
                if self.denied.listen || pattern.is_empty() {
                    return 6;
                }
                match self.objects.get_mut(&id) {
                    None => 4,
                    Some(object) if object.owner != client => 6,
                    Some(object) => {
                        object.patterns.push(pattern.to_owned());
                        0
                    }
                }
            }
            b"send" => {
                let (Some(id), true) = (data.str("id"), data.get("data").is_some()) else { return 2 };
                if self.denied.send || id.starts_with("ubus.") {
                    return 6;
                }
                let table = data.table("data");
                self.event(Some(client), id, |w| super::fields::rewrite(table, w));
                0
            }
            _ => 3,
        }
    }

    fn object_event(&mut self, name: &str, id: u32, path: &str) {
        self.event(None, name, |w| {
            w.u32("id", id);
            w.str("path", path);
        });
    }

    /// Tells everybody who listens, but the sender.
    pub fn event(&mut self, sender: Option<u32>, name: &str, fill: impl Fn(&mut Writer<'_>)) {
        let fits = |pattern: &String| pattern.strip_suffix('*').map_or(pattern == name, |p| name.starts_with(p));
        let listeners: Vec<(u32, u32)> = self
            .objects
            .iter()
            .filter(|(_, o)| Some(o.owner) != sender && o.patterns.iter().any(fits))
            .map(|(id, o)| (*id, o.owner))
            .collect();
        for (id, owner) in listeners {
            self.by_itself(owner, Kind::Invoke, |w| {
                w.attribute_u32(attr::OBJID, id);
                w.attribute_str(attr::METHOD, name);
                w.nest(attr::DATA, &fill);
            });
        }
    }
}
