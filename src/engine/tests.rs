//! The engine told stories by hand: literal times, literal numbers. Longer ones are in `tests/scenarios`.

use core::net::{IpAddr, Ipv4Addr};

use super::event::{AddressInfo, MainDefault};
use super::event::{DumpOutcome, LinkInfo, LinkSource};
use super::fib::Have;
use super::object::{Group, Hop};
use super::object::{NexthopBody, NexthopSpec, RouteTarget};
use super::*;
use crate::config::{Failback, FlushConfig, LastResort, Member, PolicyConfig, Snat6, Span, UplinkConfig};
use crate::types::{IfIndex, PolicySlot, UplinkSet};
use crate::types::{IfName, Name, UplinkId};

const WAN: IfIndex = IfIndex(2);
const WANB: IfIndex = IfIndex(3);

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn name(text: &str) -> Name {
    Name::try_from(text).expect("a short name")
}

fn ifname(text: &str) -> IfName {
    IfName::new(text.as_bytes()).expect("a device name")
}

fn uplink(device: &str, id: u8, gateway: [u8; 4]) -> UplinkConfig {
    UplinkConfig {
        name: name(device),
        id: UplinkId(id),
        device: ifname(device),
        families: [true, false],
        gateway: Some(Ipv4Addr::from(gateway)),
        gateway6: None,
        metric: u32::from(id) * 10,
        hold_down: Duration::from_secs(5),
        damping: None,
        probe: Default::default(),
        flush: FlushConfig::default(),
        sources: Span::EMPTY,
        delegated: false,
        snat6: Snat6::Off,
    }
}

fn two_wans() -> Config {
    let mut config = Config::default();
    for uplink in [uplink("wan", 1, [192, 0, 2, 1]), uplink("wanb", 2, [198, 51, 100, 1])] {
        config.uplinks.push(uplink).expect("two uplinks fit");
    }
    let member = |slot| Member { uplink: UplinkSlot(slot), metric: 1 + u32::from(slot), weight: 1 };
    let members = [member(0), member(1)].into_iter().collect();
    let policy = PolicyConfig {
        name: name("default"),
        members,
        use_degraded: false,
        last_resort: LastResort::Default,
        failback: Failback::default(),
    };
    config.policies.push(policy).expect("one policy fits");
    config.default_policy = Some(PolicySlot(0));
    config
}

fn link(ifindex: IfIndex, carrier: bool, downs: u32) -> LinkInfo {
    LinkInfo {
        ifindex,
        name: ifname(if ifindex == WAN { "wan" } else { "wanb" }),
        admin_up: true,
        carrier,
        running: carrier,
        operstate: 6,
        up_count: downs + u32::from(carrier),
        down_count: downs,
    }
}

fn announce(ifindex: IfIndex, carrier: bool, downs: u32) -> Event {
    Event::Link { link: link(ifindex, carrier, downs), source: LinkSource::Announced }
}

fn address(ifindex: IfIndex, addr: [u8; 4]) -> Event {
    Event::Address(AddressInfo { ifindex, addr: IpAddr::from(addr), prefix_len: 24, usable: true })
}

#[test]
fn a_gateway_is_asked_once_the_link_sends() {
    let mut config = two_wans();
    config.uplinks[0].hold_down = Duration::ZERO;
    let mut engine = Engine::new(&config, at(0));
    obey(&mut engine, at(0));
    engine.handle_event(announce(WAN, false, 1), at(5000));
    obey(&mut engine, at(5000));
    let asks = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::UseNeighbour { ifindex: WAN, .. }));
    // The carrier is there, the kernel has not taken note of it: what is sent now is dropped.
    let mut news = link(WAN, true, 1);
    news.operstate = 2;
    engine.handle_event(Event::Link { link: news, source: LinkSource::Answered }, at(5100));
    assert!(!asks(&obey(&mut engine, at(5100))));
    engine.handle_event(announce(WAN, true, 1), at(5200));
    assert!(asks(&obey(&mut engine, at(5200))));
}

/// Performs everything the engine asks for as a willing kernel would, with empty dumps but for the two WANs.
fn obey(engine: &mut Engine, now: Instant) -> std::vec::Vec<Action> {
    let mut asked = std::vec::Vec::new();
    while let Some(action) = engine.poll_action(now) {
        assert!(asked.len() < 500, "draining does not end: {asked:?}");
        asked.push(action);
        match action {
            Action::Nexthop { token, .. } | Action::Route { token, .. } | Action::Rule { token, .. } => {
                engine.handle_event(Event::Acked { token, errno: Errno::OK }, now);
            }
            Action::Dump(dump) => {
                engine.handle_event(Event::DumpBegan(dump), now);
                show(engine, dump, now);
                engine.handle_event(Event::DumpEnded { dump, outcome: DumpOutcome::Complete }, now);
            }
            Action::AskRoute { token, .. } => {
                let chosen = engine.ways[0][0].chosen.first().and_then(|u| engine.uplinks[usize::from(u.0)].ifindex());
                engine.handle_event(Event::RouteAnswer { token, oif: chosen }, now);
            }
            Action::AskNft { token } | Action::DeleteNft { token } | Action::AskResilient { token } => {
                engine.handle_event(Event::Acked { token, errno: Errno::OK }, now);
            }
            Action::IgnoreLinkdown { device, family } => {
                engine.handle_event(Event::SysctlWritten { device, family, errno: Errno::OK }, now);
            }
            _ => {}
        }
    }
    asked
}

/// What a dump of a kernel that keeps all it was given shows.
fn show(engine: &mut Engine, dump: Dump, now: Instant) {
    let facts: std::vec::Vec<Event> = match dump {
        Dump::Links => [WAN, WANB]
            .map(|i| {
                let known = engine.uplinks.iter().find_map(|u| u.watch.link().filter(|l| l.ifindex == i)).copied();
                Event::Link { link: known.unwrap_or(link(i, true, 0)), source: LinkSource::Dumped }
            })
            .into(),
        Dump::Addresses => [address(WAN, [192, 0, 2, 2]), address(WANB, [198, 51, 100, 2])].into(),
        Dump::Nexthops => installed(&engine.nexthops).map(Event::OwnNexthop).collect(),
        Dump::OwnRoutes(f) => installed(&engine.routes).filter(|r| r.family == f).map(Event::OwnRoute).collect(),
        Dump::Rules => installed(&engine.rules).map(Event::OwnRule).collect(),
        Dump::MainDefaults(_) => [].into(),
    };
    for fact in facts {
        engine.handle_event(fact, now);
    }
}

fn installed<T: object::Object, const N: usize>(table: &Table<T, N>) -> std::vec::IntoIter<T> {
    let there = table.objects().iter().filter(|(_, story)| story.have == Have::Same);
    there.map(|(spec, _)| *spec).collect::<std::vec::Vec<_>>().into_iter()
}

fn started() -> Engine {
    let mut engine = Engine::new(&two_wans(), at(0));
    obey(&mut engine, at(0));
    assert!(engine.settled());
    engine
}

fn group_of(actions: &[Action]) -> Option<Group> {
    actions.iter().find_map(|a| match a {
        Action::Nexthop { nexthop: NexthopSpec { body: NexthopBody::Group(group), .. }, .. } => Some(*group),
        _ => None,
    })
}

#[test]
fn at_the_start_everything_is_read_before_anything_is_changed() {
    let mut engine = Engine::new(&two_wans(), at(0));
    let actions = obey(&mut engine, at(0));
    let first_change = actions.iter().position(|a| matches!(a, Action::Route { .. } | Action::Rule { .. }));
    let last_dump = actions.iter().take(first_change.expect("changes")).filter(|a| matches!(a, Action::Dump(_)));
    assert_eq!(last_dump.count(), Dump::ALL.len());
    assert_eq!(group_of(&actions), Some(Group::of(761_001)));
    let chosen = engine.policy_way(PolicySlot(0), Family::V4).and_then(|w| w.chosen.first());
    assert_eq!(chosen, Some(UplinkSlot(0)));
}

#[test]
fn carrier_loss_moves_the_group_with_the_first_request() {
    let mut engine = started();
    engine.handle_event(announce(WAN, false, 1), at(10_000));
    let first = engine.poll_action(at(10_000));
    let Some(Action::Nexthop { op, nexthop, .. }) = first else { panic!("{first:?}") };
    assert_eq!((op, nexthop.id), (Op::Replace, 763_000));
    assert_eq!(nexthop.body, NexthopBody::Group(Group::of(761_002)));
}

#[test]
fn a_returning_uplink_waits_for_its_hold_down() {
    let mut engine = started();
    engine.handle_event(announce(WAN, false, 1), at(10_000));
    obey(&mut engine, at(10_000));
    engine.handle_event(announce(WAN, true, 1), at(20_000));
    assert_eq!(group_of(&obey(&mut engine, at(20_000))), None);
    engine.handle_timeout(at(24_999));
    assert_eq!(group_of(&obey(&mut engine, at(24_999))), None);
    engine.handle_timeout(at(25_000));
    assert_eq!(group_of(&obey(&mut engine, at(25_000))), Some(Group::of(761_001)));
}

#[test]
fn with_nothing_better_an_uplink_in_hold_down_is_used() {
    let mut engine = started();
    engine.handle_event(announce(WANB, false, 1), at(9_000));
    engine.handle_event(announce(WAN, false, 1), at(10_000));
    obey(&mut engine, at(10_000));
    engine.handle_event(announce(WAN, true, 1), at(20_000));
    assert_eq!(group_of(&obey(&mut engine, at(20_000))), Some(Group::of(761_001)));
}

#[test]
fn in_quiet_times_nothing_wakes_us() {
    let mut engine = started();
    let mut now = at(0);
    let mut wakes = 0;
    while let Some(next) = engine.poll_timeout() {
        assert!(next > now, "{next:?} is not after {now:?}");
        now = next;
        wakes += 1;
        engine.handle_timeout(now);
        while let Some(action) = engine.poll_action(now) {
            if let Action::AskLink { ifindex, .. } = action {
                let answer = Event::Link { link: link(ifindex, true, 0), source: LinkSource::Answered };
                engine.handle_event(answer, now);
            }
        }
        assert!(wakes < 100, "still awake at {now:?}");
    }
    assert!(now < at(3_000), "quiet only at {now:?}");
}

#[test]
fn while_the_window_may_be_closed_each_link_is_asked_every_50_ms() {
    let mut engine = started();
    let asks = engine.counters().asks;
    let mut now = at(10_000);
    engine.handle_event(announce(WANB, true, 0), now);
    let end = at(11_200);
    while now < end {
        while let Some(action) = engine.poll_action(now) {
            if let Action::AskLink { ifindex, .. } = action {
                let answer = Event::Link { link: link(ifindex, true, 0), source: LinkSource::Answered };
                engine.handle_event(answer, now);
            }
        }
        now = engine.poll_timeout().unwrap_or(end);
        engine.handle_timeout(now);
    }
    let asked = engine.counters().asks - asks;
    assert!((40..=48).contains(&asked), "{asked} questions to two links in 1.1 s");
}

#[test]
fn an_answer_of_no_carrier_is_believed_before_the_announcement() {
    let mut engine = started();
    engine.handle_event(Event::Link { link: link(WAN, false, 1), source: LinkSource::Answered }, at(500));
    assert_eq!(group_of(&obey(&mut engine, at(500))), Some(Group::of(761_002)));
}

#[test]
fn a_gateway_is_learned_from_main_and_followed() {
    let mut config = two_wans();
    config.uplinks[0].gateway = None;
    let mut engine = Engine::new(&config, at(0));
    obey(&mut engine, at(0));
    assert_eq!(engine.uplinks[0].legs[0].reason, Reason::NoGateway);
    for last in [1, 254] {
        let hop = Hop { gateway: Some(IpAddr::from([192, 0, 2, last])), ifindex: WAN, onlink: false };
        let route = MainDefault { family: Family::V4, metric: 10, hop };
        engine.handle_event(Event::MainDefault { route, replaced: true }, at(1_000));
        let actions = obey(&mut engine, at(1_000));
        let leaf = actions.iter().find_map(|a| match a {
            Action::Nexthop { nexthop: NexthopSpec { body: NexthopBody::Leaf { hop, .. }, .. }, .. } => Some(*hop),
            _ => None,
        });
        assert_eq!(leaf, Some(hop));
    }
}

#[test]
fn a_lost_answer_costs_a_new_socket_and_a_dump() {
    let mut engine = started();
    engine.handle_event(announce(WAN, false, 1), at(10_000));
    while engine.poll_action(at(10_000)).is_some() {}
    engine.handle_timeout(at(10_500));
    assert_eq!(engine.poll_action(at(10_500)), Some(Action::ReopenRequests));
    obey(&mut engine, at(10_500));
    assert!(engine.nexthops.is_settled() && engine.routes.is_settled() && engine.rules.is_settled());
}

#[test]
fn without_nexthop_objects_the_route_is_replaced() {
    let mut config = two_wans();
    config.globals.nexthops = false;
    let mut engine = Engine::new(&config, at(0));
    let actions = obey(&mut engine, at(0));
    assert_eq!(group_of(&actions), None);
    engine.handle_event(announce(WAN, false, 1), at(10_000));
    let first = engine.poll_action(at(10_000));
    let Some(Action::Route { op: Op::Replace, route, .. }) = first else { panic!("{first:?}") };
    assert_eq!((route.table, route.metric), (7600, 10));
    assert!(matches!(route.target, RouteTarget::Via(Hop { ifindex: WANB, .. })));
}

#[test]
fn flapping_is_damped_and_peace_releases() {
    let mut config = two_wans();
    config.uplinks[0].damping = Some(crate::config::DampingConfig::default());
    let mut engine = Engine::new(&config, at(0));
    obey(&mut engine, at(0));
    for flap in 1..=5_u32 {
        let now = at(10_000 + u64::from(flap) * 200);
        engine.handle_event(announce(WAN, false, flap), now);
        obey(&mut engine, now);
        engine.handle_event(announce(WAN, true, flap), now);
        obey(&mut engine, now);
    }
    assert_eq!(engine.uplinks[0].legs[0].state, State::Damped);
    engine.handle_timeout(at(42_000));
    obey(&mut engine, at(42_000));
    assert_eq!(engine.uplinks[0].legs[0].state, State::Up);
}

#[test]
fn a_switch_is_told_once_verified_with_its_four_times() {
    let mut engine = started();
    engine.handle_event(announce(WAN, false, 1), at(10_000));
    let mut notices = std::vec::Vec::new();
    let mut now = at(10_000);
    while let Some(action) = engine.poll_action(now) {
        match action {
            Action::Nexthop { token, .. } | Action::Route { token, .. } | Action::Rule { token, .. } => {
                now = now.after(Duration::from_micros(100));
                engine.handle_event(Event::Acked { token, errno: Errno::OK }, now);
            }
            Action::AskRoute { token, .. } => {
                engine.handle_event(Event::RouteAnswer { token, oif: Some(WANB) }, now);
            }
            Action::Dump(dump) => {
                engine.handle_event(Event::DumpBegan(dump), now);
                show(&mut engine, dump, now);
                engine.handle_event(Event::DumpEnded { dump, outcome: DumpOutcome::Complete }, now);
            }
            Action::Announce(notice) => notices.push(notice),
            _ => {}
        }
    }
    let switched = notices.iter().find_map(|n| match n {
        Notice::Switched { from, to, times, .. } => Some((*from, *to, *times)),
        _ => None,
    });
    let (from, to, times) = switched.expect("a switch");
    assert_eq!((from, to), (UplinkSet::of(UplinkSlot(0)), UplinkSet::of(UplinkSlot(1))));
    assert!(times.committed >= Duration::from_micros(100) && times.verified.is_some(), "{times:?}");
}

#[test]
fn the_engine_keeps_its_promise_of_memory() {
    assert!(size_of::<Engine>() <= limits::ENGINE_BYTES, "{} bytes", size_of::<Engine>());
    // A nexthop group is the largest thing in an event: eight bytes a member.
    let most = 104 + 8 * limits::GROUP;
    assert!(size_of::<Event>() <= most, "{} bytes, want at most {most}", size_of::<Event>());
}
