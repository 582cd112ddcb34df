//! What the daemon learns from the kernel: gateways, addresses, whom a host of the LAN may talk to.

use std::net::{IpAddr, UdpSocket};

use crate::bed::lab::{LAN, Port, wan_addresses};
use crate::bed::rtnl::Route;
use crate::{Case, PATIENCE, Setup, bed, two_wans};

pub const CASES: &[Case] = &[
    ("state::a_gateway_is_learned_and_followed", gateway_followed),
    ("state::a_configured_gateway_needs_no_default_in_main", gateway_configured),
    ("state::a_lost_address_takes_the_uplink_and_a_new_one_brings_it_back", address),
    ("state::a_lan_host_reaches_the_routers_wan_address", lan_reaches_wan_address),
    ("state::an_address_that_comes_while_unplugged_gets_its_routes_with_the_carrier", address_while_unplugged),
    ("state::one_family_can_be_without_a_way_while_the_other_has_one", one_family),
];

fn gateway_followed() {
    let setup = Setup::new("gateway", Port::Virtual, &two_wans(""));
    let [(_, first, _), _] = wan_addresses(0);
    let second: IpAddr = "100.64.0.1".parse().expect("an address");
    // A second network on the same link, so that there is another gateway to be reached.
    setup
        .lab
        .router
        .rtnl(|r| r.add_address("wan1", "100.64.0.2".parse().expect("an address"), 24))
        .expect("an address");
    for gateway in [second, first, second] {
        setup.lab.router.rtnl(|r| {
            let dev = r.index("wan1").expect("wan1");
            r.replace_route(&Route::default(gateway, dev, 10)).expect("a new default");
        });
        let follows = bed::until(PATIENCE, || own_gateway(&setup) == Some(gateway));
        assert!(follows.is_some(), "{:?} instead of {gateway}: {:#?}", own_gateway(&setup), setup.daemon.lines());
        setup.wait_as_desired();
    }
}

/// The gateway of our default route in table 1.
fn own_gateway(setup: &Setup) -> Option<IpAddr> {
    let mut found = None;
    setup.lab.router.rtnl(|r| {
        let mut header = [0; 12];
        header[0] = libc::AF_INET as u8;
        r.dump(26, &header, |message| {
            let ours = message.body.u8(5, "protocol") == Ok(76) && message.body.u8(4, "table") == Ok(1);
            let mut attributes = message.body.attributes(12, "route").into_iter().flatten().flatten();
            if let (true, Some((_, via))) = (ours, attributes.find(|(kind, _)| *kind == 5)) {
                found = <[u8; 4]>::try_from(via.bytes).ok().map(IpAddr::from);
            }
        });
    });
    found
}

fn gateway_configured() {
    let lab = bed::lab::Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    for n in [0, 1] {
        for (_, gateway, _) in wan_addresses(n) {
            lab.router.rtnl(|r| {
                let dev = r.index(&format!("wan{}", n + 1)).expect("a WAN");
                r.delete_route(&Route::default(gateway, dev, 10 * (n as u32 + 1))).expect("netifd's route");
            });
        }
    }
    let mut config = String::new();
    for n in [0, 1] {
        let [(_, four, _), (_, six, _)] = wan_addresses(n);
        config += &format!(
            "config interface 'wan{}'\n\toption family 'any'\n\toption metric '{n}'\n\toption hold_down '0'\n\
             \toption gateway '{four}'\n\toption gateway6 '{six}'\n",
            n + 1
        );
    }
    let folder = bed::daemon::Folder::new("configured");
    let (config, state) = (folder.write("linkwatch", &config), folder.at("state"));
    let daemon = bed::daemon::Daemon::run(crate::program(), &lab.router, &config, &state, &[]);
    let setup = Setup { lab, folder, daemon, config, state };
    setup.wait_steady();
    setup.wait_way(0);
    setup.lab.plug(0, false);
    setup.wait_way(1);
}

fn address() {
    let setup = Setup::new("address", Port::Virtual, &two_wans(""));
    let addresses = wan_addresses(0);
    for (address, _, len) in addresses {
        setup.lab.router.rtnl(|r| r.delete_address("wan1", address, len)).expect("it is there");
    }
    // A fresh daemon would take the link-local address that is left for enough; this one has seen that there was more.
    setup.wait_way(1);
    for (address, _, len) in addresses {
        setup.lab.router.rtnl(|r| r.add_address("wan1", address, len)).expect("an address");
    }
    // netifd's routes went with the address, and come with the next lease.
    setup.lab.netifd_routes(0).expect("routes");
    setup.wait_way(0);
    setup.wait_as_desired();
}

/// A port forward's own test: the router answers a host of the LAN from its WAN address, and the answer must not leave
/// by the WAN.
fn lan_reaches_wan_address() {
    let setup = Setup::new("hairpin", Port::Virtual, &two_wans(""));
    for (family, (address, _, _)) in wan_addresses(0).into_iter().enumerate() {
        let server = setup.lab.router.run(|| UdpSocket::bind((address, 7777))).expect("a port");
        server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let client = setup.lab.lan.run(|| UdpSocket::bind((LAN[family].1, 0))).expect("a port");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.send_to(b"hello", (address, 7777)).expect("it leaves the LAN host");
        let mut buf = [0; 16];
        let (_, from) = server.recv_from(&mut buf).expect("it reaches the router");
        server.send_to(b"hello yourself", from).expect("the answer leaves");
        client.recv_from(&mut buf).expect("the answer comes back");
    }
}

fn one_family() {
    let setup = Setup::new("onefamily", Port::Virtual, &two_wans(""));
    let (address, _, len) = wan_addresses(0)[1];
    setup.lab.router.rtnl(|r| r.delete_address("wan1", address, len)).expect("it is there");
    let moved = bed::until(PATIENCE, || setup.lab.way(1) == Some(1));
    assert!(moved.is_some(), "{:#?}", setup.daemon.lines());
    assert_eq!(setup.lab.way(0), Some(0), "IPv4 stays");
}

/// The kernel looks an IPv6 gateway up when it is given a route, and finds none behind a port without carrier.
fn address_while_unplugged() {
    let setup = Setup::new("plugless", Port::Virtual, &two_wans(""));
    let (address, _, len) = wan_addresses(1)[1];
    setup.lab.plug(1, false);
    assert!(setup.daemon.wait_line(0, &["'wan2'", "carrier lost"], PATIENCE).is_some(), "{:#?}", setup.daemon.lines());
    setup.wait_as_desired();
    // The rule of the address shows what the daemon knows of it.
    let own = || setup.lab.router.rtnl(|r| r.own());
    let before = own().rules;
    setup.lab.router.rtnl(|r| r.delete_address("wan2", address, len)).expect("it is there");
    assert!(bed::until(PATIENCE, || own().rules < before).is_some(), "the rule of the address stays");
    setup.lab.router.rtnl(|r| r.add_address("wan2", address, len)).expect("an address");
    assert!(bed::until(PATIENCE, || own().rules == before).is_some(), "the rule of the address does not come back");
    setup.wait_as_desired();
    setup.lab.plug(1, true);
    setup.wait_as_desired();
    let refused: Vec<_> = setup.daemon.lines().into_iter().filter(|(_, l)| l.contains("refused")).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
