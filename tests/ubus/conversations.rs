//! The recorded conversations with our client in the place of the one that was recorded.

use linkwatch::proto::blobmsg::write::Writer;
use linkwatch::proto::blobmsg::{Attributes, Kind as Type, List};
use linkwatch::proto::ubus::Status;
use linkwatch::proto::ubus::client::{Client, Follow, Incoming, Method, News, Object, Setup};
use linkwatch::proto::ubus::message::{Head, Kind, Message, attr};
use linkwatch::proto::ubus::receiver::{Next, Receiver};
use linkwatch::time::Instant;

use super::capture::{Line, Way, names, read};
use super::fields::rewrite;
use super::session::Session;

const DEMO: Setup = Setup {
    objects: &[Object {
        path: "cap.demo",
        methods: &[
            Method { name: "get", args: &[] },
            Method {
                name: "set",
                args: &[
                    ("name", Type::Str),
                    ("value", Type::Int32),
                    ("big", Type::Int64),
                    ("flag", Type::Bool),
                    ("ratio", Type::Double),
                    ("list", Type::Array),
                    ("opts", Type::Table),
                ],
            },
        ],
    }],
    paths: &[],
    events: &[],
};

#[test]
fn every_recorded_message_is_written_again_byte_for_byte() {
    let mut count = 0;
    for name in names() {
        for line in read(&name).into_iter().filter(|l| !l.odd) {
            let head = Head::new(&line.bytes).expect("a head");
            assert_eq!(head.len, line.bytes.len(), "{name}");
            let message = Message::new(&line.bytes).expect("whole");
            let mut buf = vec![0; 1 << 17];
            // Somebody tried a type that nobody knows.
            let Some(kind) = message.kind else { continue };
            let len = linkwatch::proto::ubus::message::write(&mut buf, kind, message.seq, message.peer, &mut |w| {
                for a in Attributes::of(&line.bytes[12..]) {
                    let payload = a.payload.expect("well-formed");
                    // Some carry what is no blobmsg: as it is.
                    let list = List::new(payload);
                    let fields = Attributes::of(payload).all(|a| a.extended) && list.check().is_ok();
                    match a.id {
                        attr::DATA | attr::SIGNATURE if fields && kind != Kind::Monitor => {
                            w.nest(a.id, |w| rewrite(list, w));
                        }
                        _ => w.attribute(a.id, payload),
                    }
                }
            })
            .expect("it fits");
            assert_eq!(&buf[..len], line.bytes, "{name}");
            count += 1;
        }
    }
    assert!(count > 300, "only {count} messages");
}

#[test]
fn pieces_and_joined_messages_are_the_same_stream() {
    let lines = read("11");
    let stream = lines.iter().find(|l| l.odd && l.way == Way::FromBus).expect("one");
    let mut receiver = Receiver::new(1024);
    for byte in &stream.bytes {
        receiver.space()[0] = *byte;
        receiver.filled(1);
    }
    let mut kinds = Vec::new();
    while let Next::Message(message) = receiver.poll_message() {
        kinds.push(message.kind);
    }
    assert_eq!(kinds, [Some(Kind::Data), Some(Kind::Status)]);
}

/// A conversation of one connection with our client in its place.
struct Replay {
    session: Session,
    lines: Vec<Line>,
    at: usize,
    /// Numbers of the recording and ours.
    seqs: Vec<(u16, u16)>,
    handler: fn(&mut Client, Incoming<'_>, Instant),
}

fn set_seq(bytes: &mut [u8], seq: u16) {
    bytes[2..4].copy_from_slice(&seq.to_be_bytes());
}

impl Replay {
    fn new(recordings: &[&str], conn: &str, setup: Setup, handler: fn(&mut Client, Incoming<'_>, Instant)) -> Self {
        let lines = recordings.iter().flat_map(|r| read(r)).filter(|l| l.conn == conn && !l.odd).collect();
        let mut session = Session::new(setup);
        session.client.connected(session.now);
        session.client.publish(session.now);
        Self { session, lines, at: 0, seqs: Vec::new(), handler }
    }

    fn hello(&mut self) {
        let hello = [0, 0, 0, 0, 0x8f, 0x1b, 0x18, 0xae, 0, 0, 0, 4];
        self.session.feed(&hello, &mut self.handler);
    }

    /// Gives each request of ours the recorded answer to the same request, wherever in the recording that is; others are
    /// told that all is fine. The requests that the recording knows.
    fn answer(&mut self) -> usize {
        let mut known = 0;
        loop {
            let written = self.session.written();
            if written.is_empty() {
                return known;
            }
            for bytes in written {
                let head = Head::new(&bytes).expect("a head");
                let same = |line: &&Line| {
                    let mut twin = line.bytes.clone();
                    set_seq(&mut twin, head.seq);
                    line.way == Way::ToBus && twin == bytes
                };
                let Some(twin) = self.lines.iter().find(same) else {
                    let mut status = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 1, 0, 0, 8, 0, 0, 0, 0];
                    set_seq(&mut status, head.seq);
                    status[4..8].copy_from_slice(&head.peer.to_be_bytes());
                    self.session.feed(&status, &mut self.handler);
                    continue;
                };
                known += 1;
                let recorded = Head::new(&twin.bytes).expect("a head");
                self.seqs.push((recorded.seq, head.seq));
                let answers: Vec<Vec<u8>> = self
                    .lines
                    .iter()
                    .filter(|l| l.way == Way::FromBus && matches!(l.bytes[1], 1 | 2))
                    .filter(|l| Head::new(&l.bytes).is_some_and(|h| h.seq == recorded.seq && h.peer == recorded.peer))
                    .map(|l| l.bytes.clone())
                    .collect();
                for mut answer in answers {
                    set_seq(&mut answer, head.seq);
                    self.session.feed(&answer, &mut self.handler);
                }
            }
        }
    }

    /// Hands over what came unasked, in order; after each, what we write must be what was written then.
    fn unasked(&mut self) -> usize {
        let mut count = 0;
        while let Some(line) = self.lines.get(self.at).cloned() {
            self.at += 1;
            if line.way == Way::ToBus
                || !matches!(Kind::new(line.bytes[1]), Some(Kind::Invoke | Kind::Notify | Kind::Unsubscribe))
            {
                continue;
            }
            count += 1;
            self.session.feed(&line.bytes, &mut self.handler);
            for bytes in self.session.written() {
                let known = self.lines.iter().any(|l| l.way == Way::ToBus && l.bytes == bytes);
                assert!(known, "not in the recording: {bytes:02x?}");
            }
        }
        count
    }
}

fn nobody(_: &mut Client, incoming: Incoming<'_>, _: Instant) {
    panic!("unexpected: {incoming:?}");
}

/// Answers as the recorded owner did: with the bytes that it sent.
fn owner(client: &mut Client, incoming: Incoming<'_>, _: Instant) {
    let Incoming::Call { object: 0, method, call, .. } = incoming else { panic!("unexpected: {incoming:?}") };
    let data = read("05").into_iter().filter(|l| l.conn == "c1" && l.way == Way::ToBus && l.bytes[1] == 2);
    let data: Vec<Line> = data.collect();
    let message = Message::new(&data[method].bytes).expect("whole");
    let list = message.body.data.expect("data");
    client.reply(call, Status::OK, Some(&mut |w: &mut Writer<'_>| rewrite(list, w)));
}

#[test]
fn our_object_is_registered_and_answers_with_the_recorded_bytes() {
    let mut replay = Replay::new(&["04", "05"], "c1", DEMO, owner);
    replay.hello();
    assert_eq!(replay.answer(), 2, "the object and the receiver");
    assert!(replay.session.news.contains(&News::Published(0)));
    assert_eq!(replay.unasked(), 2);
}

#[test]
fn notifications_go_out_as_recorded_and_only_while_somebody_listens() {
    let mut replay = Replay::new(&["04", "07"], "c1", DEMO, nobody);
    replay.hello();
    replay.answer();
    let mut fill = |w: &mut Writer<'_>| {
        w.str("interface", "wan");
        w.int("n", 1);
    };
    replay.session.client.notify(0, 1, "link.down", &mut fill);
    assert!(replay.session.written().is_empty(), "nobody listens yet");
    let notify: Vec<Vec<u8>> = replay
        .lines
        .iter()
        .filter(|l| l.way == Way::FromBus && l.bytes[1] == Kind::Notify as u8)
        .map(|l| l.bytes.clone())
        .collect();
    replay.session.feed(&notify[0], &mut nobody);
    assert!(replay.session.client.is_subscribed(0));
    replay.session.client.notify(0, 1, "link.down", &mut fill);
    let mut recorded =
        replay.lines.iter().find(|l| l.way == Way::ToBus && l.bytes[1] == 10).expect("one").bytes.clone();
    set_seq(&mut recorded, 0);
    assert_eq!(replay.session.written(), [recorded]);
    replay.session.feed(&notify[1], &mut nobody);
    replay.session.client.notify(0, 1, "link.down", &mut fill);
    assert!(replay.session.written().is_empty(), "nobody listens any more");
}

#[test]
fn calls_answered_late_and_out_of_order_carry_their_own_numbers() {
    let mut replay = Replay::new(&["04", "17"], "c1", DEMO, nobody);
    replay.hello();
    replay.answer();
    let lines = replay.lines.clone();
    let mut calls = Vec::new();
    for line in lines.iter().filter(|l| l.way == Way::FromBus && l.bytes[1] == Kind::Invoke as u8) {
        replay.session.feed(&line.bytes, &mut |_, incoming, _| match incoming {
            Incoming::Call { call, .. } => calls.push(call),
            other => panic!("{other:?}"),
        });
    }
    // "slow" is no method of ours: that is answered at once.
    let refused = replay.session.written();
    assert_eq!(refused.len() + calls.len(), lines.iter().filter(|l| l.bytes[1] == 5 && l.way == Way::FromBus).count());
    for (bytes, call) in refused.iter().zip(lines.iter().filter(|l| l.bytes[1] == 5)) {
        assert_eq!((&bytes[2..8], bytes[1]), (&call.bytes[2..8], Kind::Status as u8));
        assert_eq!(Message::new(bytes).expect("whole").body.status, Some(3));
    }
}

#[test]
fn what_strangers_say_is_answered_once_or_not_at_all_and_never_believed() {
    for name in names() {
        let lines = read(&name);
        for conn in lines.iter().map(|l| l.conn.clone()).collect::<std::collections::BTreeSet<_>>() {
            let mut session = Session::new(DEMO);
            session.client.connected(session.now);
            session.client.publish(session.now);
            session.feed(&[0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4], &mut nobody);
            session.written();
            for line in lines.iter().filter(|l| l.conn == conn && l.way == Way::FromBus && !l.odd) {
                session.feed(&line.bytes, &mut |client, incoming, _| {
                    if let Incoming::Call { call, .. } = incoming {
                        client.reply(call, Status::OK, None);
                    }
                });
                let mut answers = session.written();
                // Requests of our own may go on meanwhile.
                answers.retain(|a| matches!(Kind::new(a[1]), Some(Kind::Status | Kind::Data)));
                let message = Message::new(&line.bytes).expect("whole");
                let wants = message.kind == Some(Kind::Invoke) && !message.body.no_reply && message.peer != 0;
                assert_eq!(answers.len(), usize::from(wants), "{name} {conn}");
                let news = std::mem::take(&mut session.news);
                // An answer to seq 1 and 2 of somebody else may be taken for ours: then our request has failed.
                let fine = |n: &News| {
                    matches!(n, News::Up | News::Published(0) | News::NotPublished(0, _) | News::NotHeard(None, _))
                };
                assert!(news.iter().all(fine), "{name} {conn}: {news:?}");
            }
        }
    }
}

const NETIFD: Setup = Setup {
    objects: &[],
    paths: &[Follow { path: "network.interface", subscribe: true }, Follow { path: "service", subscribe: true }],
    events: &["network.interface"],
};

#[test]
fn netifd_is_found_asked_and_listened_to() {
    let mut replay = Replay::new(&["18", "19", "20"], "n1", NETIFD, nobody);
    replay.hello();
    replay.answer();
    // The recording knows no "service" on this connection: fine without an object means not there.
    assert_eq!(replay.session.news, [News::Up, News::PathUp(0)]);
    let now = replay.session.now;
    replay.session.client.call(0, "dump", 77, now, &mut |_| {}).expect("it is there");
    let mut interfaces = 0;
    let written = replay.session.written();
    let head = Head::new(&written[0]).expect("a head");
    let recorded = replay.lines.iter().find(|l| {
        let mut twin = l.bytes.clone();
        set_seq(&mut twin, head.seq);
        l.way == Way::ToBus && twin == written[0]
    });
    let recorded = Head::new(&recorded.expect("the same call was recorded").bytes).expect("a head");
    for line in replay.lines.clone().iter().filter(|l| l.way == Way::FromBus && matches!(l.bytes[1], 1 | 2)) {
        let of = Head::new(&line.bytes).expect("a head");
        if (of.seq, of.peer) == (recorded.seq, recorded.peer) {
            let mut bytes = line.bytes.clone();
            set_seq(&mut bytes, head.seq);
            replay.session.feed(&bytes, &mut |_, incoming, _| match incoming {
                Incoming::Answer { tag: 77, data } => interfaces += data.array("interface").count(),
                other => panic!("{other:?}"),
            });
        }
    }
    assert_eq!(interfaces, 4, "loopback, wan, wanb and one more");
    assert_eq!(replay.session.news.last(), Some(&News::Done(77, Status::OK)));
}

#[test]
fn netifds_notifications_are_taken_from_root_only() {
    let mut replay = Replay::new(&["18", "19", "20"], "n1", NETIFD, nobody);
    replay.hello();
    replay.answer();
    let mut names = Vec::new();
    for line in replay.lines.clone().iter().filter(|l| l.way == Way::FromBus && l.bytes[1] == Kind::Invoke as u8) {
        replay.session.feed(&line.bytes, &mut |_, incoming, _| match incoming {
            Incoming::Notification { name, data } => {
                names.push((name.to_owned(), data.str("interface").map(str::to_owned)))
            }
            other => panic!("{other:?}"),
        });
    }
    let count = |n: &str| names.iter().filter(|(name, _)| name == n).count();
    assert!(count("interface.update") > 4 && count("interface.down") > 4, "{names:?}");
    let before = names.len();
    for line in replay.lines.clone().iter().filter(|l| l.way == Way::FromBus && l.bytes[1] == Kind::Invoke as u8) {
        let mut bytes = line.bytes.clone();
        let at = bytes.windows(5).position(|w| w == b"root\0");
        let Some(at) = at else { continue };
        bytes[at] = b'b';
        replay.session.feed(&bytes, &mut |_, incoming, _| panic!("{incoming:?}"));
    }
    assert!(before > 8);
}
