//! Carrier: lost, found again, bounced, announced late, with and without a daemon.

use std::time::Duration;

use crate::bed::lab::Port;
use crate::bed::stream::Stream;
use crate::bed::tap::Tap;
use crate::{Case, PATIENCE, Setup, bed, two_wans};

pub const CASES: &[Case] = &[
    ("carrier::loss_and_return_move_both_families", loss_and_return),
    ("carrier::a_dead_daemon_still_fails_over_and_back", dead_daemon),
    ("carrier::loss_that_the_kernel_announces_late_is_acted_on", closed_window),
    ("carrier::twenty_bounces_of_a_port_are_all_counted", bounces),
    ("carrier::an_uplink_is_held_down_before_it_is_used_again", hold_down),
    ("carrier::a_tap_device_fails_over_too", tap),
];

fn loss_and_return() {
    // Time for a second question to the neighbour: the first may come before the provider's port is ready.
    let config = two_wans("").replace("hold_down '0'", "hold_down '1500ms'");
    let setup = Setup::new("loss", Port::Virtual, &config);
    setup.wait_way(0);
    let streams = [0, 1].map(|family| Stream::start(&setup.lab, family, 1000));
    for round in 0..2 {
        setup.lab.plug(0, false);
        setup.wait_way(1);
        assert!(streams.iter().all(|s| s.wait_for(100, PATIENCE)), "no traffic by the other WAN in round {round}");
        setup.wait_as_desired();
        setup.lab.plug(0, true);
        setup.wait_way(0);
        assert!(streams.iter().all(|s| s.wait_for(100, PATIENCE)), "no traffic after the return in round {round}");
        setup.wait_as_desired();
    }
    for (family, stream) in ["IPv4", "IPv6"].into_iter().zip(streams) {
        let outcome = stream.stop();
        // 50 ms in all: how few it really are is measured elsewhere.
        assert!(outcome.lost() < 50, "{family}, {} lost: {}", outcome.lost(), outcome.gaps());
    }
}

fn dead_daemon() {
    let mut setup = Setup::new("dead", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    setup.daemon.kill();
    let stream = Stream::start(&setup.lab, 0, 1000);
    setup.lab.plug(0, false);
    setup.wait_way(1);
    assert!(stream.wait_for(100, PATIENCE), "no traffic by the other WAN");
    setup.lab.plug(0, true);
    setup.wait_way(0);
    assert!(stream.wait_for(100, PATIENCE), "no traffic after the return");
    drop(stream.stop());
    setup.start_again();
    setup.wait_steady();
    setup.wait_way(0);
}

fn closed_window() {
    let setup = Setup::new("window", Port::Physical, &two_wans(""));
    // The first loss closes the kernel's window for a second; the second loss falls into it. Twenty times.
    for _ in 0..20 {
        for n in [1, 0] {
            setup.lab.plug(n, false);
            setup.wait_way(1 - n);
            setup.lab.plug(n, true);
            setup.wait_way(0);
        }
    }
    setup.wait_as_desired();
}

fn bounces() {
    let setup = Setup::new("bounces", Port::Physical, &two_wans(""));
    let before = setup.lab.router.rtnl(|r| r.carrier_losses("wan1"));
    for _ in 0..20 {
        setup.lab.plug(0, false);
        std::thread::sleep(Duration::from_millis(10));
        setup.lab.plug(0, true);
        std::thread::sleep(Duration::from_millis(10));
    }
    let counted = setup.lab.router.rtnl(|r| r.carrier_losses("wan1")) - before;
    assert_eq!(counted, 20, "the kernel's own count");
    let said = bed::until(PATIENCE, || setup.daemon.carrier_losses_told("wan1") == counted);
    assert!(
        said.is_some(),
        "told {} of {counted}: {:#?}",
        setup.daemon.carrier_losses_told("wan1"),
        setup.daemon.lines()
    );
    setup.wait_way(0);
    setup.wait_as_desired();
}

fn hold_down() {
    let config = two_wans("").replace("hold_down '0'", "hold_down '1500ms'");
    let setup = Setup::new("hold", Port::Virtual, &config);
    setup.lab.plug(0, false);
    setup.wait_way(1);
    let mark = setup.daemon.mark();
    setup.lab.plug(0, true);
    let held = setup.daemon.wait_line(mark, &["wan1", "in hold-down"], PATIENCE).expect("hold-down begins");
    // Not a moment in between may it be used: the daemon says so itself, and the kernel is asked.
    assert_eq!(setup.lab.way(0), Some(1), "used at once");
    let up = setup.daemon.wait_line(mark, &["wan1", "is now up"], PATIENCE).expect("hold-down ends");
    let took = up.0.duration_since(held.0);
    assert!(took >= Duration::from_millis(1490), "held down for {took:?} only");
    setup.wait_way(0);
}

fn tap() {
    let lab = bed::lab::Lab::build(&["wan1"], Port::Virtual).expect("a lab");
    let tap = match lab.router.run(|| Tap::open("tap0")) {
        Ok(tap) => tap,
        Err(error) => {
            println!("    skipped: no TAP device here ({error})");
            return;
        }
    };
    lab.router.rtnl(|r| {
        r.set_up("tap0", true).expect("up");
        r.add_address("tap0", "100.64.0.2".parse().expect("an address"), 24).expect("an address");
    });
    tap.carrier(true);
    let folder = bed::daemon::Folder::new("tap");
    let config = two_wans("").replace("'wan1'", "'tap0'").replace("'wan2'", "'wan1'");
    let config = config.replacen("\toption metric '10'", "\toption metric '10'\n\toption gateway '100.64.0.1'", 1);
    let config = folder.write("linkwatch", &config);
    let daemon = bed::daemon::Daemon::run(crate::program(), &lab.router, &config, &folder.at("state"), &[]);
    assert!(daemon.wait_line(0, &["IPv4", "leaves by 'tap0'"], PATIENCE).is_some(), "{:?}", daemon.lines());
    for round in 0..5 {
        tap.carrier(false);
        let moved = bed::until(PATIENCE, || lab.way(0) == Some(0));
        assert!(moved.is_some(), "round {round}: {:#?}", daemon.lines());
        tap.carrier(true);
        // `way` knows the WANs of the lab only: none of them is the TAP device.
        assert!(bed::until(PATIENCE, || lab.way(0).is_none()).is_some(), "round {round}: {:#?}", daemon.lines());
    }
}
