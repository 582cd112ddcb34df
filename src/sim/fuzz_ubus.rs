//! Fuzz bodies of blobmsg and ubus: any bytes may come; nothing panics, nothing is read beyond them, nothing is answered
//! twice, and what is understood is written again as it was.

use crate::proto::blobmsg::write::Writer;
use crate::proto::blobmsg::{Attributes, Kind as Type, List, Value};
use crate::proto::ubus::Status;
use crate::proto::ubus::client::{Client, Follow, Incoming, Method, Object, Setup};
use crate::proto::ubus::message::{Kind, Message};
use crate::proto::ubus::receiver::{Next, Receiver};
use crate::time::{Duration, Instant};

/// Writes fields again by what they mean; `false` when one makes no sense.
fn rewrite(list: List<'_>, w: &mut Writer<'_>) -> bool {
    list.fields().all(|field| {
        let Ok(field) = field else { return false };
        let mut whole = true;
        let (kind, name) = (field.value.kind(), field.name);
        match field.value {
            Value::Array(inner) | Value::Table(inner) => {
                let mut buf = vec![0; 1 << 17];
                let mut part = Writer::new(&mut buf);
                whole = rewrite(inner, &mut part);
                let len = part.finish().unwrap_or(0);
                w.raw(kind, name, buf.get(..len).unwrap_or(&[]));
            }
            Value::Unspec(bytes) => w.raw(kind, name, bytes),
            Value::Str(text) => w.raw(kind, name, &[text, &[0]].concat()),
            Value::Int64(n) => w.raw(kind, name, &n.to_be_bytes()),
            Value::Int32(n) => w.raw(kind, name, &n.to_be_bytes()),
            Value::Int16(n) => w.raw(kind, name, &n.to_be_bytes()),
            Value::Bool(n) => w.raw(kind, name, &[n]),
            Value::Double(n) => w.raw(kind, name, &n.to_be_bytes()),
        }
        whole
    })
}

/// A list of fields.
pub fn blobmsg(bytes: &[u8]) {
    assert!(Attributes::of(bytes).count() <= bytes.len() / 4 + 1, "more attributes than bytes");
    let list = List::new(bytes);
    let whole = list.check().is_ok();
    for name in ["a", "interface", ""] {
        let _ = (list.str(name), list.int(name), list.u32(name), list.bool(name));
        let _ = (list.table(name).check(), list.array(name).count());
    }
    if whole {
        // What was understood is understood again, and the same, when it is written by what it means.
        let (mut first, mut second) = (vec![0; 1 << 18], vec![0; 1 << 18]);
        let mut writer = Writer::new(&mut first);
        assert!(rewrite(list, &mut writer), "checked, but not whole");
        let len = writer.finish().expect("not longer than it was");
        assert_eq!(List::new(&first[..len]).check(), Ok(()));
        let mut writer = Writer::new(&mut second);
        rewrite(List::new(&first[..len]), &mut writer);
        assert_eq!(writer.finish(), Ok(len));
        assert_eq!(first[..len], second[..len]);
    }
}

const SETUP: Setup = Setup {
    objects: &[Object { path: "linkwatch", methods: &[Method { name: "up", args: &[("uplink", Type::Str)] }] }],
    paths: &[Follow { path: "network.interface", subscribe: true }, Follow { path: "service", subscribe: true }],
    events: &["network.interface"],
};

/// A stream from a bus: the first byte says how it is cut, the greeting comes first by itself.
pub fn ubus(bytes: &[u8]) {
    let Some((cut, stream)) = bytes.split_first() else { return };
    let piece = usize::from(*cut).max(1);
    let mut now = Instant::from_millis(1);
    let mut client = Client::new(SETUP, 4096, 1024, now);
    let mut receiver = Receiver::new(2048);
    client.connected(now);
    client.publish(now);
    let hello = [0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 4];
    let (mut calls, mut answers) = (0_usize, 0_usize);
    for part in [&hello[..]].into_iter().chain(stream.chunks(piece)) {
        let mut rest = part;
        while !rest.is_empty() {
            let space = receiver.space();
            let len = space.len().min(rest.len());
            assert!(len > 0, "no room to read into");
            space[..len].copy_from_slice(&rest[..len]);
            receiver.filled(len);
            rest = &rest[len..];
            loop {
                match receiver.poll_message() {
                    Next::More => break,
                    Next::Message(message) => {
                        calls += usize::from(message.kind == Some(Kind::Invoke) && !message.body.no_reply);
                        match client.handle(&message, now) {
                            Some(Incoming::Call { call, args, .. }) => {
                                let _ = args.str("uplink");
                                client.reply(call, Status::OK, Some(&mut |w: &mut Writer<'_>| w.bool("ok", true)));
                            }
                            Some(Incoming::Notification { data, .. } | Incoming::Event { data, .. }) => {
                                let _ = data.str("interface");
                            }
                            _ => {}
                        }
                    }
                    Next::TooLong(message) => {
                        calls += usize::from(message.kind == Some(Kind::Invoke));
                        client.handle_too_long(&message);
                    }
                    Next::Broken(_) => return,
                }
                if client.wants_close().is_some() {
                    return;
                }
            }
        }
        let out = client.bytes().to_vec();
        client.written(out.len(), now);
        let mut out = &out[..];
        while let Some(head) = crate::proto::ubus::message::Head::new(out) {
            let message = Message::new(&out[..head.len]).expect("we write whole messages");
            answers += usize::from(message.kind == Some(Kind::Status));
            out = &out[head.len..];
        }
        assert!(out.is_empty(), "half a message was written");
        assert!(answers <= calls, "answered more than was asked");
        while client.poll_news().is_some() {}
        now = now.after(Duration::from_millis(10));
        client.handle_timeout(now);
    }
}
