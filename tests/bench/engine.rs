//! How many link events a second pass through decoder, engine and encoder, and how long a dump of the kernel's takes to
//! be read.
//!
//! `cargo bench --bench engine [-- MILLISECONDS]` per figure; 500 unless told otherwise. On a slow machine the ratio to
//! a plain walk over the same bytes is what can be compared.

#[path = "../bed/mod.rs"]
mod bed;

use std::time::{Duration, Instant as Clock};

use linkwatch::config::Config;
use linkwatch::engine::event::{DumpOutcome, LinkInfo, LinkSource};
use linkwatch::engine::{Action, Dump, Engine, Event, Op};
use linkwatch::proto::config_file::{self, Dialect};
use linkwatch::proto::netlink::{F_DUMP, Writer, messages};
use linkwatch::proto::rtnl::{Answers, decode_notification};
use linkwatch::sys::netlink::{Received, Socket};
use linkwatch::time::Instant;
use linkwatch::types::{Errno, IfIndex, IfName};

fn main() {
    let millis = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(500);
    let time = Duration::from_millis(millis);
    println!("| what | figure |\n|---|---|");
    for uplinks in [2, 8.min(linkwatch::limits::UPLINKS)] {
        strangers(uplinks, time);
        flaps(uplinks, time);
    }
    dumps(time);
}

fn row(what: &str, per_second: f64) {
    let nanos = 1e9 / per_second;
    println!("| {what} | {per_second:.0} a second, {nanos:.0} ns each |");
}

/// Repeats `turn`, which does so many things, for a while; things a second.
fn rate(time: Duration, mut turn: impl FnMut() -> usize) -> f64 {
    turn();
    let (start, mut done) = (Clock::now(), 0);
    while start.elapsed() < time {
        done += turn();
    }
    done as f64 / start.elapsed().as_secs_f64()
}

fn config(uplinks: usize) -> Config {
    let section = |n| {
        format!(
            "config interface 'wan{n}'\n\toption metric '{n}'\n\toption hold_down '0'\n\toption damping '0'\n\
             \toption family 'any'\n\toption gateway '192.0.2.{n}'\n"
        )
    };
    let text: String = (0..uplinks).map(section).collect();
    *config_file::read(text.as_bytes(), Dialect::Linkwatch, &[]).config.expect("a good configuration")
}

fn link(n: usize, carrier: bool, losses: u32) -> LinkInfo {
    LinkInfo {
        ifindex: IfIndex(n as u32 + 2),
        name: IfName::new(format!("wan{n}").as_bytes()).expect("a device's name"),
        admin_up: true,
        carrier,
        running: carrier,
        operstate: if carrier { 6 } else { 2 },
        up_count: losses + u32::from(carrier),
        down_count: losses,
    }
}

/// A link message as the kernel writes it, without what nobody reads.
fn message(link: &LinkInfo) -> Vec<u8> {
    let mut out = vec![0; 256];
    let mut w = Writer::new(&mut out, 16, 0, 0);
    w.put(&[0; 4]);
    w.put(&link.ifindex.0.to_ne_bytes());
    let flags: u32 = if link.carrier { 0x1_1043 } else { 0x1003 };
    w.put(&flags.to_ne_bytes());
    w.put(&[0; 4]);
    w.attribute(3, &[link.name.as_bytes(), &[0]].concat());
    w.attribute(16, &[link.operstate]);
    w.attribute_u32(47, link.up_count);
    w.attribute_u32(48, link.down_count);
    let len = w.finish().expect("short");
    out.truncate(len);
    out
}

fn address(n: usize) -> Vec<u8> {
    let mut out = vec![0; 64];
    let mut w = Writer::new(&mut out, 20, 0, 0);
    w.put(&[2, 24, 0, 0]);
    w.put(&(n as u32 + 2).to_ne_bytes());
    w.attribute(2, &[192, 0, 2, 100 + n as u8]);
    let len = w.finish().expect("short");
    out.truncate(len);
    out
}

struct World {
    engine: Box<Engine>,
    answers: Answers,
    links: Vec<LinkInfo>,
    facts: Vec<Vec<u8>>,
    /// What the engine had put into the kernel, as a dump shows it.
    ours: Vec<Event>,
    now: Instant,
}

impl World {
    fn new(uplinks: usize) -> Self {
        let now = Instant::from_millis(1);
        let engine = Box::new(Engine::new(&config(uplinks), now));
        let links = (0..uplinks).map(|n| link(n, true, 0)).collect();
        let mut world = Self {
            engine,
            answers: Answers::default(),
            links,
            facts: (0..uplinks).map(address).collect(),
            ours: Vec::new(),
            now,
        };
        world.obey();
        world
    }

    fn tell(&mut self, bytes: &[u8]) {
        let (engine, now) = (&mut self.engine, self.now);
        decode_notification(bytes, 0, &mut |event| engine.handle_event(event, now)).expect("a good message");
    }

    /// Encodes what the engine asks for and answers as a willing kernel; how many requests.
    fn obey(&mut self) -> usize {
        let mut out = [0; 2048];
        let mut requests = 0;
        while let Some(action) = self.engine.poll_action(self.now) {
            self.answers.encode(&action, &mut out).expect("it fits");
            requests += 1;
            let now = self.now;
            match action {
                Action::Nexthop { token, .. } | Action::Route { token, .. } | Action::Rule { token, .. } => {
                    self.keep(&action);
                    self.engine.handle_event(Event::Acked { token, errno: Errno::OK }, now);
                }
                Action::AskRoute { token, .. } => {
                    self.engine.handle_event(Event::RouteAnswer { token, oif: None }, now)
                }
                Action::Dump(dump) => {
                    self.engine.handle_event(Event::DumpBegan(dump), now);
                    for link in self.links.clone().into_iter().filter(|_| dump == Dump::Links) {
                        self.engine.handle_event(Event::Link { link, source: LinkSource::Dumped }, now);
                    }
                    for fact in self.facts.clone().into_iter().filter(|_| dump == Dump::Addresses) {
                        self.tell(&fact);
                    }
                    for object in self.ours.clone() {
                        match (object, dump) {
                            (Event::OwnNexthop(_), Dump::Nexthops) => self.engine.handle_event(object, now),
                            (Event::OwnRoute(r), Dump::OwnRoutes(f)) if r.family == f => {
                                self.engine.handle_event(object, now);
                            }
                            (Event::OwnRule(_), Dump::Rules) => self.engine.handle_event(object, now),
                            _ => {}
                        }
                    }
                    self.engine.handle_event(Event::DumpEnded { dump, outcome: DumpOutcome::Complete }, now);
                }
                Action::IgnoreLinkdown { device, family } => {
                    self.engine.handle_event(Event::SysctlWritten { device, family, errno: Errno::OK }, now);
                }
                _ => {}
            }
        }
        requests
    }
}

impl World {
    /// Remembers what was added and forgets what was deleted.
    fn keep(&mut self, action: &Action) {
        let (op, object) = match *action {
            Action::Nexthop { op, nexthop, .. } => (op, Event::OwnNexthop(nexthop)),
            Action::Route { op, route, .. } => (op, Event::OwnRoute(route)),
            Action::Rule { op, rule, .. } => (op, Event::OwnRule(rule)),
            _ => return,
        };
        let same = |other: &Event| match (other, &object) {
            (Event::OwnNexthop(a), Event::OwnNexthop(b)) => a.id == b.id,
            (Event::OwnRoute(a), Event::OwnRoute(b)) => (a.family, a.table, a.metric) == (b.family, b.table, b.metric),
            (Event::OwnRule(a), Event::OwnRule(b)) => a == b,
            _ => false,
        };
        self.ours.retain(|other| !same(other));
        if op != Op::Delete {
            self.ours.push(object);
        }
    }
}

/// Links that are no uplink: what a crowd of veths costs.
fn strangers(uplinks: usize, time: Duration) {
    let mut world = World::new(uplinks);
    let news =
        message(&LinkInfo { ifindex: IfIndex(9999), name: IfName::new(b"veth0").expect("a name"), ..link(0, true, 0) });
    let per_second = rate(time, || {
        for _ in 0..1000 {
            world.tell(&news);
            world.obey();
        }
        1000
    });
    row(&format!("events of links that are no uplink, {uplinks} uplinks"), per_second);
}

/// The first uplink loses and finds its carrier: each time the whole way to the requests and their answers, dumps included.
fn flaps(uplinks: usize, time: Duration) {
    let mut world = World::new(uplinks);
    let mut losses = 0;
    let mut requests = 0;
    let mut events = 0;
    let per_second = rate(time, || {
        losses += 1;
        for carrier in [false, true] {
            world.now = Instant::from_micros(world.now.micros() + 5_000_000);
            world.links[0] = link(0, carrier, losses);
            let news = message(&world.links[0].clone());
            world.tell(&news);
            requests += world.obey();
            events += 1;
        }
        2
    });
    row(&format!("carrier events of an uplink with all that follows, {uplinks} uplinks"), per_second);
    println!("| actions for each of them | {:.1} |", requests as f64 / f64::from(events));
}

/// The datagrams of a dump, as the kernel sent them.
fn dump(kind: u16, header: &[u8]) -> Vec<Vec<u8>> {
    let socket = Socket::open(&[], Some(1 << 20)).expect("a netlink socket");
    let mut request = [0; 64];
    let mut writer = Writer::new(&mut request, kind, F_DUMP, 7);
    writer.put(header);
    let len = writer.finish().expect("short");
    socket.send(&request[..len]).expect("a dump request");
    let (mut buf, mut all) = (vec![0; 65_536], Vec::new());
    while let Received::Datagram(len) = socket.receive(&mut buf).expect("the kernel answers") {
        all.push(buf[..len].to_vec());
    }
    all
}

fn dumps(time: Duration) {
    let collect = || {
        let route = [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        [("links", dump(18, &[0; 16])), ("routes", dump(26, &route))]
    };
    let sets = match bed::netns::become_able() {
        Ok(()) => {
            let router = bed::netns::Netns::new().expect("a namespace");
            let other = bed::netns::Netns::new().expect("a namespace");
            router.rtnl(|r| {
                for n in 0..100 {
                    r.add_veth(&format!("port{n}"), None, &other, &format!("port{n}"), None).expect("a port");
                }
                r.set_up("port0", true).expect("up");
                r.add_address("port0", [192, 0, 2, 1].into(), 24).expect("an address");
                let dev = r.index("port0").expect("it is there");
                let many: Vec<_> = (0..10_000_u32)
                    .map(|n| bed::rtnl::Route {
                        dst: Some((std::net::Ipv4Addr::from(0x0a00_0000 | n << 8).into(), 24)),
                        ..bed::rtnl::Route::default([192, 0, 2, 254].into(), dev, 0)
                    })
                    .collect();
                r.add_many(&many);
            });
            router.run(collect)
        }
        Err(error) => {
            println!("no namespaces here ({error}): the machine's own dumps are read");
            collect()
        }
    };
    for (what, datagrams) in sets {
        let count: usize = datagrams.iter().map(|d| messages(d).flatten().count()).sum();
        let bytes: usize = datagrams.iter().map(Vec::len).sum();
        let decoded = rate(time, || {
            for datagram in &datagrams {
                let mut events = 0_u32;
                // The end of a dump is no notification: passed over.
                let _ = decode_notification(datagram, 0, &mut |event| {
                    std::hint::black_box(&event);
                    events += 1;
                });
                std::hint::black_box(events);
            }
            count
        });
        let walked = rate(time, || {
            for datagram in &datagrams {
                std::hint::black_box(messages(datagram).flatten().count());
            }
            count
        });
        let (per, walk) = (1e9 / decoded, 1e9 / walked);
        row(&format!("{what} of a real dump decoded ({count} messages, {bytes} bytes)"), decoded);
        println!("| against a walk over the same messages | {walk:.0} ns each, {:.1} times as long |", per / walk);
    }
}
