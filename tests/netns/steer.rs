//! Steering that needs a real kernel to be seen: translated and delegated IPv6, hardware addresses, further tables, marks of
//! others, traffic that must not be steered, and what a flow loses when a verdict moves it. Needs nft and conntrack.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::bed::far::{Far, flows, receive, with_interface};
use crate::bed::lab::{INET, LAN, wan_addresses};
use crate::bed::live::Live;
use crate::bed::rtnl::Route;
use crate::flows::{EVERYTHING, PORT, balanced, nft, nft_text, setup};
use crate::{Case, PATIENCE, Setup, bed, two_wans};

pub const CASES: &[Case] = &[
    ("steer::ipv6_that_leaves_by_another_wan_is_masqueraded", masquerade),
    ("steer::one_ipv6_prefix_takes_the_place_of_the_other", translate),
    ("steer::a_delegated_prefix_leaves_by_its_wan_as_long_as_that_lives", source),
    ("steer::a_rule_knows_a_hardware_address", hardware),
    ("steer::a_logged_rule_logs_and_counts", logged),
    ("steer::specific_routes_of_a_further_table_win", further_table),
    ("steer::marks_of_others_stay_as_they_are", foreign_marks),
    ("steer::probes_dhcp_and_neighbours_are_never_steered", unsteered),
    ("steer::tcp_passed_on_to_the_lan_answers_by_the_wan_it_came_in", passed_on),
    ("steer::what_the_router_sends_itself_has_the_right_source", own_traffic),
    ("steer::the_last_resort_is_what_the_policy_says", last_resort),
    ("steer::a_verdict_costs_a_flow_one_datagram_at_most_and_others_none", verdict),
];

/// What the far host sees as the sender of a datagram from the LAN, and whether its answer arrives there.
fn seen_from(setup: &Setup, family: usize) -> (IpAddr, bool) {
    let far = setup.lab.inet.run(|| UdpSocket::bind((INET[family], 7300)).expect("a port"));
    far.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let near = flows(&setup.lab, family, 1).remove(0);
    near.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut from = None;
    let came = bed::until(PATIENCE, || {
        let _ = near.send_to(b"who am I", (INET[family], 7300));
        from = far.recv_from(&mut [0; 16]).ok().map(|(_, from)| from);
        from.is_some()
    });
    assert!(came.is_some(), "nothing arrives: {:#?}", setup.daemon.lines());
    let from = from.expect("it came");
    // The far host knows no way to the LAN's own addresses.
    let answered = far.send_to(b"this", from).is_ok() && near.recv(&mut [0; 16]).is_ok();
    (from.ip(), answered)
}

fn masquerade() {
    let Some(setup) = setup("masquerade", &two_wans("\toption snat6 '1'\n")) else { return };
    for n in [0, 1] {
        setup.wait_way(n);
        assert_eq!(seen_from(&setup, 1), (wan_addresses(n)[1].0, true), "WAN {n}");
        assert_eq!(seen_from(&setup, 0), (LAN[0].1, false), "IPv4 is none of its business");
        setup.lab.plug(0, false);
    }
}

fn translate() {
    let to = Ipv6Addr::new(0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 0);
    let Some(setup) = setup("translate", &two_wans(&format!("\toption snat6 'fd00:77::/64 {to}/64'\n"))) else {
        return;
    };
    // The providers know whose prefix it is.
    setup.lab.inet.rtnl(|r| {
        let dev = r.index("isp0").expect("a port");
        let via = IpAddr::from([0x2001, 0xdb8, 0x101, 0, 0, 0, 0, 1]);
        r.replace_route(&Route { dst: Some((to.into(), 64)), ..Route::default(via, dev, 1) }).expect("a route");
    });
    setup.lab.isps[0].rtnl(|r| {
        let dev = r.index("near").expect("a port");
        let via = wan_addresses(0)[1].0;
        r.replace_route(&Route { dst: Some((to.into(), 64)), ..Route::default(via, dev, 1) }).expect("a route");
    });
    // The host's part of the address stays.
    assert_eq!(seen_from(&setup, 1), (IpAddr::from([0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 2]), true));
    assert_eq!(seen_from(&setup, 0), (LAN[0].1, false));
}

/// New flows of the LAN host from one of its addresses.
fn flows_from(setup: &Setup, addr: IpAddr, count: usize) -> Vec<UdpSocket> {
    let bind = || -> std::io::Result<Vec<UdpSocket>> { (0..count).map(|_| UdpSocket::bind((addr, 0))).collect() };
    let mut sockets = Vec::new();
    let bound = bed::until(PATIENCE, || setup.lab.lan.run(bind).map(|s| sockets = s).is_ok());
    assert!(bound.is_some(), "{addr} is not there");
    sockets
}

fn source() {
    let delegated = [IpAddr::from([192, 168, 77, 130]), IpAddr::from([0x2001, 0xdb8, 0xbbbb, 0, 0, 0, 0, 2])];
    let config = two_wans("") + "\tlist source '2001:db8:bbbb::/64'\n\tlist source '192.168.77.128/25'\n";
    let Some(setup) = setup("source", &config) else { return };
    let far = Far::listen(&setup.lab, PORT);
    for (family, addr) in delegated.into_iter().enumerate() {
        setup.lab.lan.rtnl(|r| r.add_address("lan", addr, LAN[family].2)).expect("an address");
        setup.wait_way(0);
        assert_eq!(far.ways(&flows(&setup.lab, family, 10), PORT), [0; 10], "others leave as ever");
        assert_eq!(far.ways(&flows_from(&setup, addr, 10), PORT), [1; 10], "{addr}");
        setup.lab.plug(1, false);
        let moved = bed::until(PATIENCE, || far.ways(&flows_from(&setup, addr, 1), PORT) == [0]);
        assert!(moved.is_some(), "{addr} does not leave while its WAN is dead");
        setup.lab.plug(1, true);
        let back = bed::until(PATIENCE, || far.ways(&flows_from(&setup, addr, 1), PORT) == [1]);
        assert!(back.is_some(), "{addr} does not return to its WAN");
    }
}

/// The hardware address by which the router knows the LAN host.
fn hardware_address(setup: &Setup) -> String {
    let table = || std::fs::read_to_string("/proc/thread-self/net/arp").expect("a table of neighbours");
    let table = setup.lab.router.run(table);
    let host = LAN[0].1.to_string();
    let line = table.lines().find(|l| l.split_whitespace().next() == Some(host.as_str()));
    let line = line.unwrap_or_else(|| panic!("{host} is not in {table}"));
    line.split_whitespace().nth(3).expect("the fourth column").to_owned()
}

fn hardware() {
    let policy = |mac: &str| {
        balanced(&format!(
            "config policy 'first'\n\tlist use_member 'm1'\n\nconfig policy 'second'\n\tlist use_member 'm2'\n\n\
             config rule 'host'\n\toption src_mac '{mac}'\n\toption use_policy 'second'\n\n\
             config rule 'all'\n\toption use_policy 'first'\n"
        ))
    };
    let Some(setup) = setup("hardware", &policy("02:00:5e:00:53:01")) else { return };
    let far = Far::listen(&setup.lab, PORT);
    for family in [0, 1] {
        assert_eq!(far.ways(&flows(&setup.lab, family, 5), PORT), [0; 5], "another's address");
    }
    std::fs::write(&setup.config, policy(&hardware_address(&setup))).expect("the file is ours");
    setup.daemon.signal(libc::SIGHUP);
    for family in [0, 1] {
        let steered = bed::until(PATIENCE, || far.ways(&flows(&setup.lab, family, 1), PORT) == [1]);
        assert!(steered.is_some(), "{:#?}", setup.daemon.lines());
        assert_eq!(far.ways(&flows(&setup.lab, family, 5), PORT), [1; 5]);
    }
}

/// The number behind `packets` in the only line of a chain that has all words.
fn counted(setup: &Setup, table: &str, chain: &str, words: &[&str]) -> u64 {
    let text = nft(&setup.lab.router, &format!("list chain {table} {chain}"));
    let lines: Vec<&str> = text.lines().filter(|l| words.iter().all(|w| l.contains(w))).collect();
    let [line] = lines.as_slice() else { panic!("{words:?} in {text}") };
    let number = line.split("packets ").nth(1).and_then(|l| l.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{line} counts nothing"))
}

fn logged() {
    let more = "config globals\n\toption logging '1'\n\toption loglevel 'info'\n\n\
                config rule 'web'\n\toption proto 'udp'\n\toption dest_port '7100'\n\toption logging '1'\n\
                \toption use_policy 'balanced'\n\n\
                config rule 'quiet'\n\toption use_policy 'balanced'\n";
    let Some(setup) = setup("logged", &balanced(more)) else { return };
    let far = Far::listen(&setup.lab, PORT);
    let words = ["log prefix \"MWAN3(web) \"", "level info"];
    assert_eq!(counted(&setup, "inet linkwatch", "rules", &words), 0);
    let all = flows(&setup.lab, 0, 7);
    far.ways(&all, PORT);
    let count = counted(&setup, "inet linkwatch", "rules", &words);
    assert!(count >= 7, "{count} packets of 7 new flows");
    // Packets of a known connection are not steered again, so they are not logged again.
    far.ways(&all, PORT);
    assert_eq!(counted(&setup, "inet linkwatch", "rules", &words), count);
}

fn further_table() {
    let Some(setup) = setup("further", &format!("config globals\n\tlist rt_table_lookup '220'\n\n{}", two_wans("")))
    else {
        return;
    };
    let far = Far::listen(&setup.lab, PORT);
    setup.wait_way(0);
    for family in [0, 1] {
        let route = |dst| {
            setup.lab.router.rtnl(|r| {
                let dev = r.index("wan2").expect("a port");
                let via = wan_addresses(1)[family].1;
                r.replace_route(&Route { dst, table: 220, ..Route::default(via, dev, 1) }).expect("a route");
            });
        };
        // A default route is not specific.
        route(None);
        assert_eq!(far.ways(&flows(&setup.lab, family, 5), PORT), [0; 5]);
        route(Some((INET[family], if family == 0 { 32 } else { 128 })));
        assert_eq!(far.ways(&flows(&setup.lab, family, 5), PORT), [1; 5]);
        assert_eq!(setup.missing(), Vec::<String>::new(), "none of ours is gone");
    }
}

fn foreign_marks() {
    let Some(setup) = setup("foreign", &balanced(&EVERYTHING.replace("'all'\n", "'all'\n\toption sticky '1'\n")))
    else {
        return;
    };
    nft_text(
        &setup.lab.router,
        "table inet test {\n chain before {\n type filter hook prerouting priority -190;\n iifname lan0 meta mark set 0x80ff0042\n\
         iifname lan0 ct mark and 0xffffc0ff == 0 ct mark set ct mark or 0x40ff0021\n }\n\
         chain after {\n type filter hook postrouting priority 300;\n\
         oifname { wan1, wan2 } iifname lan0 meta mark and 0xffffc0ff != 0x80ff0042 counter comment \"packet\"\n\
         oifname { wan1, wan2 } iifname lan0 ct mark and 0xffffc0ff != 0x40ff0021 counter comment \"connection\"\n\
         iifname lan0 meta mark and 0x3f00 != 0 ct mark and 0x3f00 != 0 counter comment \"ours\"\n }\n}\n",
    );
    let far = Far::listen(&setup.lab, PORT);
    for family in [0, 1] {
        let all = flows(&setup.lab, family, 20);
        for _ in 0..3 {
            far.ways(&all, PORT);
        }
    }
    let count = |what: &str| counted(&setup, "inet test", "after", &[&format!("comment \"{what}\"")]);
    assert_eq!((count("packet"), count("connection")), (0, 0), "packets whose foreign bits were changed");
    assert!(count("ours") >= 80, "{} packets with ours beside them", count("ours"));
}

fn unsteered() {
    let targets: String = INET.iter().map(|a| format!("\tlist track_ip '{a}'\n")).collect();
    let config = two_wans(&(targets + "\toption interval '100ms'\n"))
        + "config member 'm2'\n\toption interface 'wan2'\n\nconfig policy 'second'\n\tlist use_member 'm2'\n\n\
           config rule 'all'\n\toption sticky '1'\n\toption use_policy 'second'\n";
    let lab = bed::lab::Lab::build(&["wan1", "wan2"], bed::lab::Port::Virtual).expect("a lab");
    if !crate::flows::has_nft(&lab.router) {
        return;
    }
    nft_text(
        &lab.router,
        "table inet test {\n chain out {\n type filter hook output priority 200;\n\
         udp dport { 67, 68, 546, 547 } meta mark and 0x3f00 != 0 counter comment \"marked dhcp\"\n\
         udp dport { 67, 68, 546, 547 } counter comment \"dhcp\"\n\
         icmpv6 type { 133, 134, 135, 136 } meta mark and 0x3f00 != 0 counter comment \"marked neighbours\"\n\
         icmpv6 type { 133, 134, 135, 136 } counter comment \"neighbours\"\n\
         oifname wan2 ip saddr 198.51.100.2 counter comment \"lost probes\"\n\
         oifname wan1 icmp type echo-request counter comment \"probes\"\n }\n}\n",
    );
    let folder = bed::daemon::Folder::new("unsteered");
    let (config, state) = (folder.write("linkwatch", &config), folder.at("state"));
    let daemon = bed::daemon::Daemon::run(crate::program(), &lab.router, &config, &state, &[]);
    let setup = Setup { lab, folder, daemon, config, state };
    for wan in ["wan1", "wan2"] {
        let up = setup.daemon.wait_line(0, &[&format!("Uplink '{wan}' is now up")], PATIENCE);
        assert!(up.is_some(), "{:#?}", setup.daemon.lines());
    }
    crate::flows::wait_table(&setup);
    // A lease is renewed with a far server, from the first WAN's address and from none.
    let server = setup.lab.inet.run(|| UdpSocket::bind((INET[0], 67)).expect("a port"));
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let client = setup.lab.router.run(|| UdpSocket::bind((wan_addresses(0)[0].0, 68)).expect("a port"));
    client.send_to(b"renew", (INET[0], 67)).expect("it leaves");
    assert_eq!(server.recv_from(&mut [0; 8]).expect("it arrives").1.ip(), wan_addresses(0)[0].0);
    let count = |what: &str| counted(&setup, "inet test", "out", &[&format!("comment \"{what}\"")]);
    assert!(count("dhcp") >= 1);
    assert_eq!(count("marked dhcp"), 0);
    assert!(bed::until(PATIENCE, || count("neighbours") > 0).is_some());
    assert_eq!(count("marked neighbours"), 0);
    // All traffic takes the second WAN, but the first one's probes do not: they live when the second is dead.
    let mark = setup.daemon.mark();
    setup.lab.line(1, false);
    assert!(setup.daemon.wait_line(mark, &["'wan2' is now down"], PATIENCE).is_some(), "{:#?}", setup.daemon.lines());
    let before = count("probes");
    assert!(bed::until(PATIENCE, || count("probes") > before + 5).is_some());
    assert!(setup.daemon.lines().iter().skip(mark).all(|(_, l)| !l.contains("'wan1' is now down")), "its probes live");
    assert_eq!(count("lost probes"), 0);
}

fn passed_on() {
    let Some(setup) = setup("passedon", &balanced(EVERYTHING)) else { return };
    let mut text = String::from("table inet test {\n chain pre {\n type nat hook prerouting priority dstnat;\n");
    for (family, word) in [(0, "ip"), (1, "ip6")] {
        let host = SocketAddr::new(LAN[family].1, 8080);
        text += &format!(
            " iifname {{ wan1, wan2 }} meta nfproto ipv{} tcp dport 80 dnat {word} to {host}\n",
            family * 2 + 4
        );
    }
    nft_text(&setup.lab.router, &(text + " }\n}\n"));
    for family in [0, 1] {
        let server = setup.lab.lan.run(|| TcpListener::bind((LAN[family].1, 8080)).expect("a port"));
        for n in [0, 1] {
            let wan = SocketAddr::new(wan_addresses(n)[family].0, 80);
            for round in 0..25 {
                let client = setup.lab.inet.run(|| TcpStream::connect_timeout(&wan, PATIENCE));
                let client = client.unwrap_or_else(|e| panic!("{wan}, connection {round}: {e}"));
                let (_, peer) = server.accept().expect("the other end");
                assert_eq!(peer, client.local_addr().expect("bound"));
            }
        }
    }
}

fn own_traffic() {
    let more = "config policy 'first'\n\tlist use_member 'm1'\n\nconfig policy 'second'\n\tlist use_member 'm2'\n\n\
                config rule 'a'\n\toption proto 'udp'\n\toption dest_port '7401'\n\toption use_policy 'second'\n\n\
                config rule 'b'\n\toption proto 'udp'\n\toption dest_port '7402,7404'\n\toption use_policy 'second'\n\n\
                config rule 'c'\n\toption use_policy 'first'\n";
    let Some(setup) = setup("own", &balanced(more)) else { return };
    let indexes = [0, 1].map(|n| setup.lab.inet.rtnl(|r| r.index(&format!("isp{n}"))).expect("a port"));
    for family in [0, 1] {
        // What an ip rule says leaves by that WAN with its address. What only nft can say has its source by then.
        for (port, way) in [(7401, 1), (7402, 0), (7403, 0)] {
            let far = setup.lab.inet.run(|| UdpSocket::bind((INET[family], port)).expect("a port"));
            with_interface(&far, family);
            far.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            let any: IpAddr = if family == 0 { [0; 4].into() } else { [0; 16].into() };
            let near = setup.lab.router.run(|| UdpSocket::bind((any, 0)).expect("a port"));
            let mut came = None;
            bed::until(PATIENCE, || {
                let _ = near.send_to(b"mine", (INET[family], port));
                came = receive(&far).map(|(from, index, _)| (from.ip(), indexes.iter().position(|i| *i == index)));
                came.is_some()
            });
            assert_eq!(came, Some((wan_addresses(way)[family].0, Some(way))), "port {port}, family {family}");
        }
    }
}

fn last_resort() {
    let text = |word: &str| {
        balanced(EVERYTHING)
            .replace("list use_member 'm2'\n", &format!("list use_member 'm2'\n\toption last_resort '{word}'\n"))
    };
    let setup = Setup::new("lastresort", bed::lab::Port::Virtual, &text("unreachable"));
    for n in [0, 1] {
        setup.lab.plug(n, false);
    }
    // Another way out that no uplink is: only table main knows it.
    for (_, host, _) in LAN {
        setup.lab.router.rtnl(|r| {
            let dev = r.index("lan0").expect("a port");
            r.replace_route(&Route::default(host, dev, 5)).expect("a route");
        });
    }
    let lan = setup.lab.router.rtnl(|r| r.index("lan0")).expect("a port");
    for (word, wanted) in
        [("unreachable", Err(libc::EHOSTUNREACH)), ("blackhole", Err(libc::EINVAL)), ("default", Ok(lan))]
    {
        std::fs::write(&setup.config, text(word)).expect("the file is ours");
        setup.daemon.signal(libc::SIGHUP);
        for addr in INET {
            let mut found = Ok(0);
            let there = bed::until(PATIENCE, || {
                found = setup.lab.router.rtnl(|r| r.out_by(addr, 0));
                found == wanted
            });
            assert!(there.is_some(), "{word}, {addr}: {found:?} instead of {wanted:?}");
        }
    }
}

/// The targets of one WAN fall silent, the WAN itself still carries everything: what is lost now is lost by the switch.
fn verdict() {
    let targets: String = INET.iter().map(|a| format!("\tlist track_ip '{a}'\n")).collect();
    let config = balanced(EVERYTHING).replace("\toption damping '0'\n", &format!("\toption damping '0'\n{targets}"));
    let config = config.replace("weight '3'", "weight '1'");
    let Some(setup) = setup("verdict", &config) else { return };
    // As routers do: by another WAN the flow is another one to the far end.
    nft_text(
        &setup.lab.router,
        "table ip test {\n chain post {\n type nat hook postrouting priority srcnat;\n oifname { wan1, wan2 } masquerade\n }\n}\n",
    );
    let live = [0, 1].map(|family| Live::start(&setup.lab, family, 7200, 40, 800));
    assert!(live.iter().all(|l| l.wait_each(10, PATIENCE)), "no traffic");
    let before = live.each_ref().map(|l| l.ways());
    let start = Instant::now();
    let mark = setup.daemon.mark();
    nft_text(
        &setup.lab.isps[0],
        "table inet test {\n chain pass {\n type filter hook forward priority 0;\n\
         icmp type echo-request drop\n icmpv6 type echo-request drop\n }\n}\n",
    );
    for family in ["IPv4", "IPv6"] {
        let told = setup.daemon.wait_line(mark, &["Forgot", family, "'wan1'"], PATIENCE);
        assert!(told.is_some(), "{:#?}", setup.daemon.lines());
    }
    assert!(live.iter().all(|l| l.wait_each(20, PATIENCE)), "no traffic");
    let after = live.each_ref().map(|l| l.ways());
    let end = Instant::now();
    for (family, ((live, before), after)) in live.into_iter().zip(before).zip(after).enumerate() {
        assert!(after.iter().all(|way| *way == Some(1)), "family {family}: {after:?}");
        let (mut worst, mut all, mut moved) = (0, 0, 0);
        for (track, before) in live.stop().iter().zip(before) {
            let lost = track.lost(start, end);
            if before == Some(0) {
                (worst, all, moved) = (worst.max(lost), all + lost, moved + 1);
            } else {
                assert_eq!((lost, track.ways(start, end)), (0, [1].into()), "a flow of the other WAN");
            }
        }
        println!("    family {family}: {moved} flows moved, {all} datagrams lost, {worst} of one flow at most");
        assert!(moved > 5 && worst <= 1, "{moved} moved, {worst} lost of one");
    }
}
