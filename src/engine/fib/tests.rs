//! The tables told what the kernel did, step by step.

use super::super::object::{RouteSpec, RouteTarget, TABLE_MAIN};
use super::*;
use crate::types::Family;

type Routes = Table<RouteSpec, 4>;

fn route(metric: u32, nhid: u32) -> RouteSpec {
    RouteSpec { family: Family::V4, table: TABLE_MAIN + 1, metric, target: RouteTarget::Nexthop(nhid) }
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn want(table: &mut Routes, specs: &[RouteSpec]) {
    table.want_begin();
    for spec in specs {
        table.want(*spec);
    }
    table.want_end();
    assert!(!table.is_full());
}

fn poll(table: &mut Routes, now: Instant, token: u32) -> Option<(Op, RouteSpec)> {
    table.poll(now, Token(token), &|_, _, _| true)
}

#[test]
fn a_thousand_changes_in_flight_cost_one_follow_up() {
    let mut table = Routes::default();
    want(&mut table, &[route(1, 0)]);
    assert_eq!(poll(&mut table, at(0), 1), Some((Op::Add, route(1, 0))));
    for nhid in 1..=1000 {
        want(&mut table, &[route(1, nhid)]);
        assert_eq!(poll(&mut table, at(0), 2), None);
    }
    assert_eq!(table.acked(Token(1), Errno::OK, at(1)), Some(Answer::Done));
    assert_eq!(poll(&mut table, at(1), 2), Some((Op::Replace, route(1, 1000))));
    table.acked(Token(2), Errno::OK, at(2));
    assert_eq!(poll(&mut table, at(2), 3), None);
    assert!(table.is_settled());
}

#[test]
fn a_refused_request_is_retried_later_and_later() {
    let mut table = Routes::default();
    want(&mut table, &[route(1, 0)]);
    poll(&mut table, at(0), 1);
    table.acked(Token(1), Errno::EINVAL, at(0));
    assert_eq!(poll(&mut table, at(0), 2), None);
    table.rest(at(0));
    assert_eq!(table.next(), Some(at(40)));
    assert!(poll(&mut table, at(40), 2).is_some());
    table.acked(Token(2), Errno::EINVAL, at(40));
    assert_eq!(poll(&mut table, at(119), 3), None);
    assert!(poll(&mut table, at(120), 3).is_some());
}

#[test]
fn a_refusal_whose_reason_went_away_meanwhile_is_no_reason_to_wait() {
    let mut table = Routes::default();
    want(&mut table, &[route(1, 0)]);
    poll(&mut table, at(0), 1);
    table.hurry(at(1), &|_| true);
    table.acked(Token(1), Errno::EINVAL, at(2));
    assert!(poll(&mut table, at(2), 2).is_some());
}

#[test]
fn what_was_refused_because_it_is_there_does_not_wait_when_it_goes() {
    let mut table = Routes::default();
    want(&mut table, &[route(1, 1)]);
    poll(&mut table, at(0), 1);
    table.acked(Token(1), Errno::EEXIST, at(0));
    table.seen(&route(1, 1)).expect("it is known");
    table.doubt(Have::Unknown, &|_| true);
    assert!(poll(&mut table, at(1), 2).is_some());
}

#[test]
fn what_is_ours_and_not_wanted_goes_and_what_a_dump_misses_comes_back() {
    let mut table = Routes::default();
    table.seen(&route(9, 9)).expect("the table has room");
    want(&mut table, &[route(1, 1)]);
    assert_eq!(poll(&mut table, at(0), 1), Some((Op::Delete, route(9, 9))));
    assert_eq!(poll(&mut table, at(0), 2), Some((Op::Add, route(1, 1))));
    table.acked(Token(1), Errno::ESRCH, at(0));
    table.acked(Token(2), Errno::OK, at(0));
    table.sweep_begin(&|_| true);
    assert_eq!(table.sweep_end(&|_| true), 1);
    assert_eq!(poll(&mut table, at(0), 3), Some((Op::Add, route(1, 1))));
}

#[test]
fn a_rival_is_met_with_growing_patience() {
    let mut table = Routes::default();
    want(&mut table, &[route(1, 1)]);
    let (mut adds, mut token) = (0, 0);
    for now in (0..60_000).step_by(20) {
        token += 1;
        if poll(&mut table, at(now), token).is_some() {
            table.acked(Token(token), Errno::OK, at(now));
            adds += 1;
            table.lost(&route(1, 1), 4711, at(now));
        }
    }
    assert!((8..=16).contains(&adds), "{adds} repairs in a minute");
}

#[test]
fn a_loss_now_and_then_is_no_fight_though_the_object_changes_in_between() {
    let mut table = Routes::default();
    for round in 0..100 {
        let (now, loss) = (600 * round, 600 * round + 10);
        want(&mut table, &[route(1, round as u32)]);
        assert!(poll(&mut table, at(now), 1).is_some(), "round {round}");
        table.acked(Token(1), Errno::OK, at(now));
        assert_eq!(table.lost(&route(1, round as u32), 4711, at(loss)), None, "round {round}");
        assert!(poll(&mut table, at(loss), 2).is_some(), "round {round}");
        table.acked(Token(2), Errno::OK, at(loss));
    }
}

#[test]
fn a_verdict_does_not_wait_for_a_rival_to_tire() {
    let mut table = Routes::default();
    want(&mut table, &[route(1, 1)]);
    let mut token = 0;
    let mut waits = false;
    for _ in 0..20 {
        token += 1;
        waits = poll(&mut table, at(0), token).is_none();
        table.acked(Token(token), Errno::OK, at(0));
        table.lost(&route(1, 1), 4711, at(0));
    }
    assert!(waits, "a fight");
    want(&mut table, &[route(1, 2)]);
    assert_eq!(poll(&mut table, at(1), 99), Some((Op::Add, route(1, 2))));
}

#[test]
fn a_full_table_refuses_and_remembers_that_it_did() {
    let mut table = Routes::default();
    table.want_begin();
    let four: Vec<RouteSpec, 4> = (10..14).map(|metric| route(metric, 1)).collect();
    for spec in &four {
        table.want(*spec);
    }
    assert!(!table.is_full(), "four fit");
    // What has no room leaves those alone at whose places it would stand.
    for metric in [14, 9, 0] {
        table.want(route(metric, 2));
    }
    assert!(table.is_full());
    table.want_end();
    assert!(table.objects().iter().map(|(spec, _)| spec).eq(&four));
    assert!(table.objects().iter().all(|(_, story)| story.wanted));
    table.want_begin();
    assert!(!table.is_full(), "the next time may be another");
}
