//! A kernel that says no: a counter, a notice, tries that become rarer, and all is well once it says yes.

use linkwatch::engine::{Event, Notice};
use linkwatch::sim::model::compare;
use linkwatch::types::{Errno, Family};

use crate::{at, ifname, two_wans};

const ERRNOS: [Errno; 7] = [
    Errno::EPERM,
    Errno::EBUSY,
    Errno::ENODEV,
    Errno::EINVAL,
    Errno::ENETDOWN,
    Errno::ENETUNREACH,
    // ENOMEM
    Errno(12),
];

#[test]
fn a_minute_of_refusals_is_told_tried_again_ever_more_rarely_and_mended_after() {
    for errno in ERRNOS {
        let mut world = two_wans();
        world.kernel.faults.refuse = vec![errno; 100_000];
        world.start();
        world.run_until(at(30));
        let first = world.kernel.requests;
        world.run_until(at(60));
        let second = world.kernel.requests - first;
        let told = world.take_notices();
        let refusals = told.iter().filter(|(_, n)| matches!(n, Notice::Refused { errno: e, .. } if *e == errno));
        assert!(refusals.count() > 0, "{errno}: not told: {told:?}");
        assert!(second < first && second <= 100, "{errno}: {first} tries in the first half minute, then {second}");
        let engine = world.engine.as_ref().expect("it runs");
        assert!(engine.counters().refused > 0, "{errno}: {:?}", engine.counters());
        world.kernel.faults.refuse.clear();
        world.run_until(at(120));
        compare(&world.kernel, &world.config).unwrap_or_else(|e| panic!("{errno}: {e}"));
        assert_eq!(world.violations, Vec::<String>::new(), "{errno}");
    }
}

#[test]
fn dumps_that_fail_for_a_minute_are_asked_for_ever_more_rarely() {
    let mut world = two_wans();
    world.kernel.faults.fail_dumps = 1_000;
    world.start();
    world.run_until(at(60));
    let failed = 1_000 - world.kernel.faults.fail_dumps;
    assert!((5..=250).contains(&failed), "{failed} dumps in a minute");
    assert_eq!(world.kernel.requests, 0, "nothing is changed before everything was read");
    world.kernel.faults.fail_dumps = 0;
    world.run_until(at(120));
    compare(&world.kernel, &world.config).expect("mended");
}

#[test]
fn a_sysctl_that_is_not_there_is_told_and_failover_goes_on() {
    for errno in [Errno::ENOENT, Errno::EPERM, Errno(30)] {
        let mut world = two_wans();
        world.start();
        world.run_until(at(2));
        world.take_notices();
        let engine = world.engine.as_mut().expect("it runs");
        engine.handle_event(Event::SysctlWritten { device: ifname("wan"), family: Family::V4, errno }, at(2));
        // The next thing that happens lets it speak.
        world.kernel.add_address(ifname("wanb"), [192, 0, 3, 77].into(), 24, true);
        world.collect();
        world.run_until(at(3));
        let told = world.take_notices();
        assert!(matches!(told[..], [(_, Notice::SysctlFailed { errno: e, .. })] if e == errno), "{errno}: {told:?}");
        world.kernel.set_carrier(ifname("wan"), false, at(3));
        world.collect();
        world.run_until(at(4));
        assert_eq!(world.default_via(Family::V4), Some(ifname("wanb")), "{errno}");
    }
}
