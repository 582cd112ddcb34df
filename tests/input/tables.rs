//! Each table one over its capacity.

use linkwatch::engine::event::MainDefault;
use linkwatch::engine::object::{Hop, RouteSpec, RouteTarget, RuleAction, RuleSpec, Selector};
use linkwatch::engine::{Action, Dump, Engine, Event, Notice};
use linkwatch::limits;
use linkwatch::sim::World;
use linkwatch::sim::model::compare;
use linkwatch::time::Instant;
use linkwatch::types::{Errno, Family, IfIndex};

use crate::{accepted, at, ifname, refused, two_wans};

/// A default route in table main by WAN `n`, with the gateway's last byte.
pub fn default_route(world: &mut World, n: u32, gateway: u8, metric: u32) {
    let gateway = Some([192, 0, 2 + n as u8, gateway].into());
    let hop = Hop { gateway, ifindex: IfIndex(2 + n), onlink: false };
    assert!(world.kernel.add_main_default(MainDefault { family: Family::V4, metric, hop }));
    world.collect();
}

fn full_notices(world: &mut World) -> Vec<(&'static str, usize)> {
    let of = |(_, notice): (Instant, Notice)| match notice {
        Notice::Full { table, capacity } => Some((table.0, capacity)),
        _ => None,
    };
    world.take_notices().into_iter().filter_map(of).collect()
}

fn numbered(count: usize, line: impl Fn(usize) -> String) -> String {
    (1..=count).map(line).collect()
}

fn interface(n: usize) -> String {
    format!("config interface w{n}\n")
}

#[test]
fn as_many_of_each_section_as_the_board_holds_and_not_one_more() {
    let member = |n| format!("config member m{n}\n\toption interface w1\n\toption metric {}\n", n % 256 + 1);
    let policy = |n| format!("config policy p{n}\n\tlist use_member m1\n");
    let rule = |n| format!("config rule r{n}\n\toption use_policy default\n\toption src_ip 192.0.2.{}\n", n % 256);
    let base = interface(1) + &member(1);
    let base = base.as_str();
    let wan = |count| numbered(count, interface);
    let policies = |count| base.to_owned() + &numbered(count, policy);
    let rules = |count| base.to_owned() + &policy(1) + &numbered(count, rule);
    for (make, capacity, what) in [
        (&wan as &dyn Fn(usize) -> String, limits::UPLINKS, "too many interfaces"),
        (&policies, limits::POLICIES, "too many policies"),
        (&rules, limits::POLICY_RULES, "too many rules"),
    ] {
        accepted(&make(capacity));
        let errors = refused(make(capacity + 1).as_bytes());
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(what) && errors[0].contains(&capacity.to_string()), "{errors:?}");
        let line: usize = errors[0].split(':').nth(1).and_then(|n| n.parse().ok()).expect("FILE:LINE");
        assert!(line > capacity, "{errors:?}");
    }
}

#[test]
fn an_address_too_many_is_told_and_has_its_turn_when_another_goes() {
    let mut world = two_wans();
    world.start();
    world.run_until(at(5));
    let more = |n: usize| [192, 0, 2, 20 + n as u8].into();
    for n in 0..limits::ADDRESSES {
        world.kernel.add_address(ifname("wan"), more(n), 24, true);
        world.collect();
        world.run_until(world.now());
    }
    world.run_until(at(10));
    assert_eq!(full_notices(&mut world), [("addresses of an uplink", limits::ADDRESSES)]);
    assert_eq!(world.default_via(Family::V4), Some(ifname("wan")), "it carries traffic all the same");
    assert!(compare(&world.kernel, &world.config).is_err(), "one address has no rule");
    world.kernel.remove_address(ifname("wan"), more(0));
    world.collect();
    world.run_until(at(11));
    compare(&world.kernel, &world.config).expect("now all have");
}

#[test]
fn of_too_many_default_routes_the_best_is_followed_and_the_forgotten_are_found_again() {
    let mut world = two_wans();
    world.start();
    world.run_until(at(5));
    // Better and better ones: the worst are forgotten.
    let better = limits::GATEWAYS as u32 + 2;
    for n in 0..better {
        default_route(&mut world, 0, 100 + n as u8, 9 - n.min(8));
    }
    world.run_until(at(10));
    compare(&world.kernel, &world.config).expect("the best is followed");
    // One after another goes, down to the one that was there first.
    for n in (0..better).rev() {
        world.kernel.remove_main_default(Family::V4, 9 - n.min(8));
        world.collect();
        world.run_until(world.now().after(std::time::Duration::from_secs(1)));
        compare(&world.kernel, &world.config).unwrap_or_else(|e| panic!("after {n} went: {e}"));
    }
}

#[test]
fn neither_family_crowds_out_the_gateway_of_the_other() {
    let mut world = two_wans();
    world.config = accepted("config interface wan\n\toption hold_down 0\n\toption damping 0\n");
    world.kernel.add_address(ifname("wan"), "2001:db8::2".parse().expect("an address"), 64, true);
    let hop = Hop { gateway: Some("fe80::1".parse().expect("an address")), ifindex: IfIndex(2), onlink: false };
    assert!(world.kernel.add_main_default(MainDefault { family: Family::V6, metric: 1024, hop }));
    for n in 0..limits::GATEWAYS as u32 + 1 {
        default_route(&mut world, 0, 100 + n as u8, n);
    }
    world.start();
    world.run_until(at(5));
    assert_eq!(world.default_via(Family::V6), Some(ifname("wan")));
    compare(&world.kernel, &world.config).expect("both families as they should be");
}

#[test]
fn strays_beyond_the_tables_are_told_and_go_in_the_end() {
    let mut world = two_wans();
    for n in 0..limits::ROUTES as u32 + 40 {
        let target = RouteTarget::Blackhole;
        world.kernel.plant_own_route(RouteSpec { family: Family::V4, table: 9, metric: n, target });
    }
    for n in 0..limits::RULES as u32 + 40 {
        let action = RuleAction::Lookup { table: 9, suppress: None };
        let (family, select) = (Family::V4, Selector::default());
        world.kernel.plant_own_rule(RuleSpec { family, priority: 10_000 + n, select, action });
    }
    world.start();
    world.run_until(at(60));
    let told = full_notices(&mut world);
    assert!(told.iter().any(|(table, _)| *table == "routes"), "{told:?}");
    compare(&world.kernel, &world.config).expect("nothing of ours is left over");
    let engine = world.engine.as_ref().expect("it runs");
    assert!(engine.settled() && engine.counters().full >= 80, "{:?}", engine.counters());
}

#[test]
fn notices_beyond_the_ring_push_out_the_oldest_and_are_counted() {
    let mut engine = Engine::new(&accepted(&interface(1)), at(0));
    for n in 0..limits::NOTICES + 5 {
        let errno = Errno(n as u16 + 1);
        engine.handle_event(Event::SysctlWritten { device: ifname("w1"), family: Family::V4, errno }, at(1));
    }
    assert_eq!(engine.counters().notices_dropped, 5);
    let mut told = Vec::new();
    while let Some(action) = engine.poll_action(at(1)) {
        if let Action::Announce(Notice::SysctlFailed { errno, .. }) = action {
            told.push(errno.0);
        }
    }
    let want: Vec<u16> = (6..=limits::NOTICES as u16 + 5).collect();
    assert_eq!(told, want, "the newest, in order");
}

#[test]
fn no_more_requests_are_in_flight_than_the_board_allows_and_none_is_forgotten() {
    let mut engine = Engine::new(&two_wans().config, at(0));
    let (mut flying, mut most, mut all) = (std::collections::VecDeque::new(), 0, 0);
    loop {
        while let Some(action) = engine.poll_action(at(0)) {
            match action {
                Action::Dump(dump) => {
                    engine.handle_event(Event::DumpBegan(dump), at(0));
                    if dump == Dump::Rules {
                        // Something to delete as well.
                        for n in 0..10 {
                            let action = RuleAction::Lookup { table: 9, suppress: None };
                            let (family, select) = (Family::V4, Selector::default());
                            let rule = RuleSpec { family, priority: 20_000 + n, select, action };
                            engine.handle_event(Event::OwnRule(rule), at(0));
                        }
                    }
                    let outcome = linkwatch::engine::event::DumpOutcome::Complete;
                    engine.handle_event(Event::DumpEnded { dump, outcome }, at(0));
                }
                Action::Route { token, .. } | Action::Rule { token, .. } | Action::Nexthop { token, .. } => {
                    flying.push_back(token);
                    all += 1;
                }
                Action::AskNft { token } => engine.handle_event(Event::Acked { token, errno: Errno::OK }, at(0)),
                Action::LoadNft(_) => engine.handle_event(Event::NftLoaded(Ok(())), at(0)),
                _ => {}
            }
            most = most.max(flying.len());
        }
        let Some(token) = flying.pop_front() else { break };
        engine.handle_event(Event::Acked { token, errno: Errno::OK }, at(0));
    }
    assert_eq!(most, limits::IN_FLIGHT.min(all), "of {all} requests");
    assert!(engine.settled() && all > 10, "{all} requests");
}
