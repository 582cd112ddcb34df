//! The client on our own bus: everything is registered again whatever happens, nothing waits for ever, nothing is spun on.

use linkwatch::proto::blobmsg::Kind as Type;
use linkwatch::proto::ubus::Status;
use linkwatch::proto::ubus::client::{Client, Follow, Incoming, Method, News, Object, Setup};
use linkwatch::proto::ubus::message::{Head, Kind, Message, attr, write};
use linkwatch::time::{Duration, Instant};

use super::bus::{Bus, Denied};
use super::session::Session;

const WATCHER: Setup = Setup {
    objects: &[
        Object {
            path: "linkwatch",
            methods: &[Method { name: "status", args: &[] }, Method { name: "up", args: &[("uplink", Type::Str)] }],
        },
        Object { path: "mwan3", methods: &[] },
    ],
    paths: &[Follow { path: "network.interface", subscribe: true }, Follow { path: "hotplug.iface", subscribe: false }],
    events: &["network.interface"],
};

const NETIFD: Setup = Setup {
    objects: &[
        Object { path: "network.interface", methods: &[Method { name: "dump", args: &[] }] },
        Object { path: "hotplug.iface", methods: &[Method { name: "call", args: &[("env", Type::Array)] }] },
    ],
    paths: &[Follow { path: "linkwatch", subscribe: true }],
    events: &["linkwatch.*"],
};

fn quiet(_: &mut Client, _: Incoming<'_>, _: Instant) {}

/// Answers calls with a field, as netifd or as linkwatch.
fn polite(client: &mut Client, incoming: Incoming<'_>, _: Instant) {
    if let Incoming::Call { call, method, .. } = incoming {
        client.reply(call, Status::OK, Some(&mut |w| w.int("method", method as i64)));
    }
}

fn ready(setup: Setup) -> Session {
    let mut session = Session::new(setup);
    session.client.publish(session.now);
    session
}

fn both(bus: &mut Bus, one: &mut Session, other: &mut Session) {
    for _ in 0..8 {
        one.pump(bus, &mut polite);
        other.pump(bus, &mut polite);
    }
}

fn seconds(session: &Session, seconds: u64) -> Instant {
    session.now.after(Duration::from_secs(seconds))
}

#[test]
fn what_appears_late_goes_and_comes_back_is_followed() {
    let mut bus = Bus::new(1);
    let mut us = ready(WATCHER);
    us.pump(&mut bus, &mut polite);
    assert_eq!(us.news, [News::Up, News::Published(0), News::Published(1)]);
    for _ in 0..3 {
        us.news.clear();
        let mut netifd = ready(NETIFD);
        both(&mut bus, &mut netifd, &mut us);
        us.news.sort_by_key(|n| format!("{n:?}"));
        assert_eq!(us.news, [News::PathUp(0), News::PathUp(1)]);
        us.news.clear();
        bus.disconnect(netifd.id.expect("it was connected"));
        us.pump(&mut bus, &mut polite);
        assert_eq!(us.news, [News::PathDown(0), News::PathDown(1)]);
        assert_eq!(us.client.call(0, "dump", 1, us.now, &mut |_| {}), Err(linkwatch::proto::ubus::client::NotCalled));
    }
}

#[test]
fn notifications_and_events_reach_who_wants_them() {
    let mut bus = Bus::new(2);
    let (mut us, mut netifd) = (ready(WATCHER), ready(NETIFD));
    both(&mut bus, &mut us, &mut netifd);
    assert!(us.client.is_subscribed(0) && !us.client.is_subscribed(1));
    us.client.notify(0, 7, "uplink", &mut |w| w.str("uplink", "wan"));
    us.client.notify(1, 7, "uplink", &mut |w| w.str("uplink", "nobody hears it"));
    us.client.send(7, "linkwatch.uplink", &mut |w| w.str("uplink", "wan"));
    us.client.send(8, "other.uplink", &mut |w| w.str("uplink", "nobody listens"));
    us.pump(&mut bus, &mut quiet);
    let mut heard = Vec::new();
    netifd.pump(&mut bus, &mut |_, incoming, _| match incoming {
        Incoming::Notification { name, data } => {
            heard.push(format!("notified {name} {}", data.str("uplink").unwrap_or("?")))
        }
        Incoming::Event { name, data } => heard.push(format!("event {name} {}", data.str("uplink").unwrap_or("?"))),
        other => panic!("{other:?}"),
    });
    assert_eq!(heard, ["notified uplink wan", "event linkwatch.uplink wan"]);
}

/// Sends a raw call to our first object; the status that comes back.
fn raw_call(
    bus: &mut Bus,
    us: &mut Session,
    fill: impl Fn(&mut linkwatch::proto::blobmsg::write::Writer<'_>, u32),
) -> Option<u32> {
    let caller = bus.connect("root");
    let hello = bus.take(caller, 12);
    assert_eq!(hello.len(), 12);
    let mut buf = vec![0; 1 << 18];
    let len =
        write(&mut buf, Kind::Lookup, 1, 0, &mut |w| w.attribute_str(attr::OBJPATH, "linkwatch")).expect("it fits");
    bus.write(caller, &buf[..len]);
    let found = bus.take(caller, 4096);
    let object =
        Message::new(&found[..Head::new(&found).expect("a head").len]).and_then(|m| m.body.object).expect("found");
    let len = write(&mut buf, Kind::Invoke, 2, object, &mut |w| fill(w, object)).expect("it fits");
    bus.write(caller, &buf[..len]);
    us.pump(bus, &mut polite);
    let answer = bus.take(caller, 1 << 16);
    bus.disconnect(caller);
    let mut rest = &answer[..];
    let mut statuses = Vec::new();
    while let Some(head) = Head::new(rest) {
        let message = Message::new(&rest[..head.len]).expect("whole");
        statuses.extend(message.body.status);
        rest = &rest[head.len..];
    }
    assert!(statuses.len() <= 1, "answered {} times", statuses.len());
    statuses.first().copied()
}

#[test]
fn bad_calls_get_their_status_and_exactly_one() {
    let mut bus = Bus::new(3);
    let mut us = ready(WATCHER);
    us.pump(&mut bus, &mut polite);
    let mut call = |fill: &dyn Fn(&mut linkwatch::proto::blobmsg::write::Writer<'_>)| {
        raw_call(&mut bus, &mut us, |w, object| {
            w.attribute_u32(attr::OBJID, object);
            fill(w);
        })
    };
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "status");
            w.nest(attr::DATA, |_| {})
        }),
        Some(0)
    );
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "no such");
            w.nest(attr::DATA, |_| {})
        }),
        Some(3)
    );
    assert_eq!(call(&|w| w.attribute_str(attr::METHOD, "status")), Some(2), "without data");
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "up");
            w.nest(attr::DATA, |w| w.int("uplink", 1))
        }),
        Some(2)
    );
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "up");
            w.nest(attr::DATA, |w| w.str("uplink", "wan"))
        }),
        Some(0)
    );
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "up");
            w.nest(attr::DATA, |w| w.int("more", 1))
        }),
        Some(0)
    );
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "status");
            w.attribute(attr::DATA, b"\x85\0\0\x0b\0\x01a\0\0\0\0\0")
        }),
        Some(2)
    );
    let deep = (0..500).fold(Vec::new(), |inner, _| {
        let len = u32::try_from(inner.len() + 8).expect("small") | 0x8200_0000;
        [&len.to_be_bytes()[..], b"\0\x01t\0", &inner].concat()
    });
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "status");
            w.attribute(attr::DATA, &deep)
        }),
        Some(2)
    );
    // Longer than the whole receive buffer.
    let long = vec![b'x'; 100_000];
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "status");
            w.nest(attr::DATA, |w| w.raw(Type::Str, b"s", &long))
        }),
        Some(2)
    );
    assert_eq!(
        call(&|w| {
            w.attribute_str(attr::METHOD, "status");
            w.nest(attr::DATA, |_| {})
        }),
        Some(0),
        "still there"
    );
}

#[test]
fn a_bus_that_closes_at_any_byte_is_registered_with_again() {
    let whole = {
        let (mut bus, mut us, mut netifd) = (Bus::new(4), ready(WATCHER), ready(NETIFD));
        both(&mut bus, &mut netifd, &mut us);
        us.received
    };
    assert!(whole > 300, "{whole}");
    for after in 1..=whole {
        let (mut bus, mut us, mut netifd) = (Bus::new(4), ready(WATCHER), ready(NETIFD));
        netifd.pump(&mut bus, &mut polite);
        us.close_after = Some(after);
        us.pump(&mut bus, &mut polite);
        both(&mut bus, &mut netifd, &mut us);
        let until = us.now.after(Duration::from_millis(900));
        us.run(&mut bus, until, &mut polite);
        both(&mut bus, &mut netifd, &mut us);
        assert_eq!(us.close_after, None, "it was closed");
        let mut paths = bus.paths();
        paths.sort_unstable();
        assert_eq!(paths, ["hotplug.iface", "linkwatch", "mwan3", "network.interface"], "closed after {after} bytes");
        us.client
            .call(0, "dump", after as u32, us.now, &mut |_| {})
            .unwrap_or_else(|_| panic!("closed after {after} bytes"));
        both(&mut bus, &mut netifd, &mut us);
        assert_eq!(us.news.last(), Some(&News::Done(after as u32, Status::OK)));
        assert!(netifd.client.is_subscribed(0), "closed after {after} bytes");
    }
}

#[test]
fn a_mute_bus_is_left_and_tried_again_ever_more_seldom() {
    let mut bus = Bus::new(5);
    bus.mute = true;
    let mut us = ready(WATCHER);
    let (mut tries, start) = (Vec::new(), us.now);
    for _ in 0..4000 {
        us.pump(&mut bus, &mut quiet);
        let Some(next) = us.client.poll_timeout() else { break };
        if us.id.is_none() {
            tries.push(us.now);
        }
        us.now = next.max(us.now.after(Duration::from_micros(1)));
        us.client.handle_timeout(us.now);
        if us.now.since(start) > Duration::from_secs(3600) {
            break;
        }
    }
    let count = |from: u64, to: u64| tries.iter().filter(|t| (from..to).contains(&t.since(start).as_secs())).count();
    assert!((10..=15).contains(&count(0, 60)), "{}", count(0, 60));
    assert!((80..=130).contains(&count(600, 3600)), "{}", count(600, 3600));
}

#[test]
fn calls_that_are_never_answered_end_by_our_own_time_limit() {
    let mut bus = Bus::new(6);
    let (mut us, mut netifd) = (ready(WATCHER), ready(NETIFD));
    both(&mut bus, &mut netifd, &mut us);
    let now = us.now;
    us.client.call(0, "dump", 9, now, &mut |_| {}).expect("it is there");
    let until = seconds(&us, 5);
    us.run(&mut bus, until, &mut quiet);
    assert_eq!(us.news.last(), Some(&News::Done(9, Status::TIMEOUT)));
    assert!(us.client.is_up(), "a slow netifd is no reason to leave the bus");
    bus.mute = true;
    us.client.call(0, "dump", 10, us.now, &mut |_| {}).expect("it is there");
    bus.disconnect(us.id.expect("connected"));
    us.pump(&mut bus, &mut quiet);
    assert!(us.news.contains(&News::Done(10, Status::CONNECTION_FAILED)), "{:?}", us.news);
}

#[test]
fn a_bus_that_takes_nothing_is_left() {
    let mut bus = Bus::new(7);
    let mut us = ready(WATCHER);
    us.pump(&mut bus, &mut quiet);
    us.client.send(1, "linkwatch.uplink", &mut |w| w.str("uplink", "wan"));
    assert!(!us.client.bytes().is_empty());
    us.client.written(0, us.now);
    let at = us.client.poll_timeout().expect("it watches");
    us.client.handle_timeout(at);
    assert!(us.client.wants_close().is_some());
}

#[test]
fn access_rules_that_forbid_are_said_once_and_the_rest_goes_on() {
    for denied in [
        Denied { publish: true, ..Denied::default() },
        Denied { subscribe: true, ..Denied::default() },
        Denied { listen: true, ..Denied::default() },
        Denied { send: true, ..Denied::default() },
    ] {
        let mut bus = Bus::new(8);
        let (mut us, mut netifd) = (ready(WATCHER), ready(NETIFD));
        netifd.pump(&mut bus, &mut polite);
        bus.denied = denied;
        us.pump(&mut bus, &mut polite);
        us.client.send(1, "linkwatch.uplink", &mut |w| w.str("uplink", "wan"));
        us.pump(&mut bus, &mut polite);
        let said = |news: News| us.news.iter().filter(|n| **n == news).count();
        assert_eq!(said(News::NotPublished(0, Status::INVALID_ARGUMENT)), usize::from(denied.publish));
        assert_eq!(said(News::NotSubscribed(0, Status::NOT_FOUND)), usize::from(denied.subscribe));
        assert_eq!(said(News::NotHeard(None, Status::PERMISSION_DENIED)), usize::from(denied.listen));
        assert_eq!(said(News::NotHeard(Some(0), Status::PERMISSION_DENIED)), usize::from(denied.listen));
        assert_eq!(said(News::NotSent(Status::PERMISSION_DENIED)), usize::from(denied.send));
        assert!(us.news.contains(&News::PathUp(0)), "{denied:?}: {:?}", us.news);
        us.client.call(0, "dump", 1, us.now, &mut |_| {}).expect("it can be asked");
        for _ in 0..4 {
            us.pump(&mut bus, &mut polite);
            netifd.pump(&mut bus, &mut polite);
        }
        us.pump(&mut bus, &mut polite);
        assert_eq!(us.news.last(), Some(&News::Done(1, Status::OK)));
        // Forgiven, as when a package's rules are read after its daemon has started: all comes by itself, soon.
        bus.denied = Denied::default();
        let until = seconds(&us, 2);
        us.run(&mut bus, until, &mut polite);
        assert!(bus.paths().contains(&"linkwatch"), "{denied:?}");
        netifd.pump(&mut bus, &mut polite);
        assert!(netifd.client.is_subscribed(0), "{denied:?}");
        us.news.clear();
        let until = seconds(&us, 100);
        us.run(&mut bus, until, &mut polite);
        assert_eq!(us.news, [], "{denied:?}");
    }
}

#[test]
fn a_path_held_by_somebody_else_is_taken_when_it_is_free() {
    let mut bus = Bus::new(9);
    let (mut rival, mut us) = (ready(WATCHER), ready(WATCHER));
    rival.pump(&mut bus, &mut polite);
    us.pump(&mut bus, &mut polite);
    assert!(us.news.contains(&News::NotPublished(0, Status::INVALID_ARGUMENT)));
    bus.disconnect(rival.id.expect("connected"));
    us.pump(&mut bus, &mut polite);
    assert!(us.news.contains(&News::Published(0)));
}

#[test]
fn a_storm_of_news_on_a_stalled_connection_keeps_its_memory_and_the_last_word() {
    let mut bus = Bus::new(10);
    let (mut us, mut netifd) = (ready(WATCHER), ready(NETIFD));
    both(&mut bus, &mut us, &mut netifd);
    for n in 0..100_000 {
        us.client.notify(0, n % 3, "uplink", &mut |w| w.int("serial", n.into()));
    }
    us.pump(&mut bus, &mut quiet);
    let mut heard = Vec::new();
    netifd.pump(&mut bus, &mut |_, incoming, _| match incoming {
        Incoming::Notification { data, .. } => heard.extend(data.int("serial")),
        other => panic!("{other:?}"),
    });
    assert_eq!(heard, [99_997, 99_998, 99_999]);
}
