//! Others in the kernel's tables: what they delete of ours comes back, what is theirs stays.

use crate::bed::lab::{Port, wan_addresses};
use crate::bed::rtnl::Route;
use crate::{Case, PATIENCE, Setup, bed, two_wans};

pub const CASES: &[Case] = &[
    ("repair::deleted_rules_routes_and_nexthops_come_back", deleted),
    ("repair::ip_rule_flush_is_survived", rule_flush),
    ("repair::what_is_not_ours_is_never_touched", foreign),
    ("repair::a_stranger_in_our_place_is_named_and_left_alone", stranger),
    ("repair::a_device_deleted_and_made_again_is_found_again", device_again),
    ("repair::a_renamed_device_is_no_longer_the_uplink", renamed),
];

const V4: u8 = libc::AF_INET as u8;
const V6: u8 = libc::AF_INET6 as u8;

fn deleted() {
    let setup = Setup::new("deleted", Port::Virtual, &two_wans(""));
    let before = setup.lab.router.rtnl(|r| r.own());
    let same = || bed::until(PATIENCE, || setup.lab.router.rtnl(|r| r.own()) == before).is_some();
    for family in [V4, V6] {
        assert!(setup.lab.router.rtnl(|r| r.delete_own_routes(family, |_| true)) > 0);
        assert!(same(), "routes of family {family}: {:#?}", setup.daemon.lines());
        assert!(setup.lab.router.rtnl(|r| r.delete_own_rules(family, |_| true)) > 0);
        assert!(same(), "rules of family {family}: {:#?}", setup.daemon.lines());
    }
    assert!(setup.lab.router.rtnl(|r| r.delete_own_nexthops(|_| true)) > 0);
    assert!(same(), "nexthops: {:#?}", setup.daemon.lines());
    setup.wait_as_desired();
    setup.wait_way(0);
}

fn rule_flush() {
    let setup = Setup::new("flushed", Port::Virtual, &two_wans(""));
    let before = setup.lab.router.rtnl(|r| r.own());
    setup.lab.router.rtnl(|r| {
        r.flush_rules(V4);
        r.flush_rules(V6);
    });
    let same = bed::until(PATIENCE, || setup.lab.router.rtnl(|r| r.own()) == before);
    assert!(same.is_some(), "{:#?}", setup.daemon.lines());
    setup.wait_way(0);
}

fn foreign() {
    let setup = Setup::new("foreign", Port::Virtual, &two_wans(""));
    setup.lab.router.rtnl(|r| {
        let dev = r.index("wan2").expect("wan2");
        let dst = Some(("192.0.2.200".parse().expect("an address"), 32));
        let via = wan_addresses(1)[0].1;
        r.add_route(&Route { dst, table: 1, ..Route::default(via, dev, 77) }).expect("a route in our table");
        r.add_route(&Route { table: 7600, ..Route::default(via, dev, 5000) }).expect("another in the policy's");
    });
    let before = setup.lab.router.rtnl(|r| r.foreign());
    setup.lab.plug(0, false);
    setup.wait_way(1);
    setup.lab.plug(0, true);
    setup.wait_way(0);
    setup.daemon.signal(libc::SIGHUP);
    setup.wait_as_desired();
    let mut command = setup.lab.router.command(crate::program());
    let output = command.arg("flush").arg("--state").arg(&setup.state).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(setup.lab.router.rtnl(|r| r.foreign()), before);
}

fn stranger() {
    let setup = Setup::new("stranger", Port::Virtual, &two_wans(""));
    let via = wan_addresses(1)[0].1;
    let theirs = setup.lab.router.rtnl(|r| {
        let dev = r.index("wan2").expect("wan2");
        // Table 1, metric 10 is where wan1's default of ours is: delete ours and be faster than its repair.
        let theirs = Route { table: 1, metric: 10, ..Route::default(via, dev, 10) };
        r.replace_route(&theirs).expect("taking the place");
        theirs
    });
    let said = setup.daemon.wait_line(0, &["somebody else's object is in the way"], PATIENCE);
    assert!(said.is_some(), "{:#?}", setup.daemon.lines());
    assert_eq!(setup.lab.router.rtnl(|r| r.delete_route(&theirs)), Ok(()), "it was still there");
    setup.wait_as_desired();
}

fn device_again() {
    let setup = Setup::new("again", Port::Virtual, &two_wans(""));
    for round in 0..3 {
        setup.lab.router.rtnl(|r| r.delete_link("wan1")).expect("it is there");
        setup.wait_way(1);
        setup.wait_as_desired();
        setup.lab.plug_in(0, Port::Virtual).expect("a new cable");
        setup.wait_way(0);
        setup.wait_as_desired();
        let on = setup.lab.router.read_sysctl("ipv4/conf/wan1/ignore_routes_with_linkdown").expect("a sysctl");
        assert_eq!(on, "1", "round {round}");
    }
}

fn renamed() {
    let setup = Setup::new("renamed", Port::Virtual, &two_wans(""));
    let rename = |from: &str, to: &str| {
        setup.lab.router.rtnl(|r| {
            r.set_up(from, false).expect("down");
            r.rename(from, to).expect("renamed");
            r.set_up(to, true).expect("up");
        });
    };
    rename("wan1", "spare");
    setup.wait_way(1);
    setup.wait_as_desired();
    rename("spare", "wan1");
    // IPv6 addresses and all routes went when it was down.
    let (address, _, len) = wan_addresses(0)[1];
    setup.lab.router.rtnl(|r| r.add_address("wan1", address, len)).expect("an address");
    setup.lab.netifd_routes(0).expect("routes");
    setup.wait_way(0);
    setup.wait_as_desired();
}
