//! Flows: where they start, that they stay there, what becomes of them when their WAN dies. Needs nft and conntrack.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bed::far::{Far, flows};
use crate::bed::lab::{INET, LAN, Lab, Port, wan_addresses};
use crate::bed::netns::Netns;
use crate::{Case, PATIENCE, Setup, bed, program, two_wans};

pub const CASES: &[Case] = &[
    ("flows::old_flows_stay_when_a_wan_returns_and_new_ones_take_it", graceful),
    ("flows::with_immediate_failback_old_flows_follow", immediate),
    ("flows::without_failback_nothing_returns", never),
    ("flows::shares_are_as_the_weights_say", shares),
    ("flows::a_sticky_source_keeps_its_wan_as_long_as_it_lives", sticky),
    ("flows::rules_match_in_file_order_whoever_says_them", rules),
    ("flows::an_answer_leaves_where_the_question_came_in", answers),
    ("flows::a_tcp_client_of_a_dead_wan_is_told", reset),
    ("flows::only_the_dead_wans_connections_are_forgotten", only_dead),
    ("flows::nothing_is_forgotten_when_nobody_can_take_over", alone),
    ("flows::the_nft_table_comes_back", table_back),
    ("flows::a_reload_touches_only_what_changed", reload),
    ("flows::without_nft_failover_goes_on", without_nft),
    ("flows::a_command_is_bound_to_a_wan", bound),
    ("flows::flush_takes_the_table_and_the_sysctl_along", flush),
];

/// Whether nft works here; if not, says so.
pub fn has_nft(lab: &Netns) -> bool {
    let works = |program: &str, words: &[&str]| {
        lab.command(program).args(words).output().is_ok_and(|output| output.status.success())
    };
    let ok = works("nft", &["list", "tables"]) && works("conntrack", &["-C"]);
    if !ok {
        println!("    skipped: nft or conntrack does not work here");
    }
    ok
}

pub fn nft(netns: &Netns, words: &str) -> String {
    let output = netns.command("nft").args(words.split(' ')).output().expect("nft runs");
    assert!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn nft_text(netns: &Netns, text: &str) {
    let mut command = netns.command("nft");
    let mut child = command.args(["-f", "-"]).stdin(std::process::Stdio::piped()).spawn().expect("nft runs");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("nft reads");
    assert!(child.wait().expect("nft ends").success(), "{text}");
}

/// A lab with a daemon and its nft table in place; `None` where that cannot be.
pub fn setup(name: &str, config: &str) -> Option<Setup> {
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    if !has_nft(&lab.router) {
        return None;
    }
    drop(lab);
    let setup = Setup::new(name, Port::Virtual, config);
    wait_table(&setup);
    Some(setup)
}

pub fn has_table(netns: &Netns) -> bool {
    let output = netns.command("nft").args(["list", "chain", "inet", "linkwatch", "postrouting"]).output();
    output.is_ok_and(|o| o.status.success() && String::from_utf8_lossy(&o.stdout).contains("oifname vmap"))
}

pub fn wait_table(setup: &Setup) {
    let there = bed::until(PATIENCE, || has_table(&setup.lab.router));
    assert!(there.is_some(), "no nft table: {:#?}", setup.daemon.lines());
}

/// Lets a socket hear of networks that cannot be reached, too.
fn with_errors(socket: &UdpSocket) {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the value lives until the call returns, and its size is passed with it.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, (&raw const on).cast(), 4) };
    bed::checked(answer, "errors").expect("every kernel has it");
}

pub fn on(ways: &[usize], way: usize) -> usize {
    ways.iter().filter(|w| **w == way).count()
}

pub const PORT: u16 = 7100;

fn graceful() {
    let Some(setup) = setup("graceful", &two_wans("")) else { return };
    let far = Far::listen(&setup.lab, PORT);
    for family in [0, 1] {
        setup.wait_way(0);
        let old = flows(&setup.lab, family, 50);
        assert_eq!(on(&far.ways(&old, PORT), 0), 50);
        let mark = setup.daemon.mark();
        setup.lab.plug(0, false);
        // Their connections are forgotten: they go on by the other WAN, as new ones.
        let word = ["Forgot", ["IPv4", "IPv6"][family], "'wan1'"];
        assert!(setup.daemon.wait_line(mark, &word, PATIENCE).is_some(), "{:#?}", setup.daemon.lines());
        assert_eq!(on(&far.ways(&old, PORT), 1), 50);
        setup.lab.plug(0, true);
        setup.wait_way(0);
        let new = flows(&setup.lab, family, 50);
        assert_eq!(on(&far.ways(&new, PORT), 0), 50, "new flows take what returned");
        assert_eq!(on(&far.ways(&old, PORT), 1), 50, "old flows stay");
    }
}

fn immediate() {
    let config = format!("config globals\n\toption failback 'immediate'\n\n{}", two_wans(""));
    let Some(setup) = setup("immediate", &config) else { return };
    let far = Far::listen(&setup.lab, PORT);
    let old = flows(&setup.lab, 0, 20);
    setup.lab.plug(0, false);
    setup.wait_way(1);
    assert_eq!(on(&far.ways(&old, PORT), 1), 20);
    let mark = setup.daemon.mark();
    setup.lab.plug(0, true);
    setup.wait_way(0);
    assert!(setup.daemon.wait_line(mark, &["Forgot", "IPv4", "'wan2'"], PATIENCE).is_some());
    assert_eq!(on(&far.ways(&old, PORT), 0), 20);
}

fn never() {
    let config = format!("config globals\n\toption failback 'never'\n\n{}", two_wans(""));
    let Some(mut setup) = setup("never", &config) else { return };
    setup.wait_way(0);
    setup.lab.plug(0, false);
    setup.wait_way(1);
    let mark = setup.daemon.mark();
    setup.lab.plug(0, true);
    assert!(setup.daemon.wait_line(mark, &["Uplink 'wan1' is now up"], PATIENCE).is_some());
    setup.wait_as_desired();
    assert_eq!([setup.lab.way(0), setup.lab.way(1)], [Some(1); 2]);
    // Not even a restart is a reason.
    setup.daemon.kill();
    setup.start_again();
    setup.wait_steady();
    assert_eq!([setup.lab.way(0), setup.lab.way(1)], [Some(1); 2]);
    setup.lab.plug(1, false);
    setup.wait_way(0);
}

/// Two WANs whose shares are 3:1.
pub fn balanced(more: &str) -> String {
    format!(
        "{}\
         config member 'm1'\n\toption interface 'wan1'\n\toption weight '3'\n\n\
         config member 'm2'\n\toption interface 'wan2'\n\toption weight '1'\n\n\
         config policy 'balanced'\n\tlist use_member 'm1'\n\tlist use_member 'm2'\n\n\
         {more}\n",
        two_wans("")
    )
}

pub const EVERYTHING: &str = "config rule 'all'\n\toption use_policy 'balanced'\n";

fn shares() {
    let Some(setup) = setup("shares", &balanced(EVERYTHING)) else { return };
    let far = Far::listen(&setup.lab, PORT);
    for family in [0, 1] {
        let all = flows(&setup.lab, family, 900);
        let before = far.ways(&all, PORT);
        let first = on(&before, 0);
        // Six standard deviations.
        assert!((597..=753).contains(&first), "{first} of 900 by the first, 675 are its share");
        setup.lab.plug(1, false);
        let gone = bed::until(PATIENCE, || on(&far.ways(&flows(&setup.lab, family, 20), PORT), 0) == 20);
        assert!(gone.is_some());
        let meanwhile = far.ways(&all, PORT);
        assert_eq!(on(&meanwhile, 0), 900);
        setup.lab.plug(1, true);
        let back = bed::until(PATIENCE, || on(&far.ways(&flows(&setup.lab, family, 40), PORT), 1) > 0);
        assert!(back.is_some(), "{:#?}", setup.daemon.lines());
        assert_eq!(on(&far.ways(&all, PORT), 0), 900, "nobody moves when a WAN returns");
        setup.wait_as_desired();
    }
}

fn sticky() {
    let rule = "config rule 'web'\n\toption proto 'udp'\n\toption dest_port '7100'\n\toption sticky '1'\n\
                \toption use_policy 'balanced'\n";
    let Some(setup) = setup("sticky", &balanced(rule)) else { return };
    let far = Far::listen(&setup.lab, PORT);
    for family in [0, 1] {
        let first = far.ways(&flows(&setup.lab, family, 1), PORT)[0];
        let ways = far.ways(&flows(&setup.lab, family, 100), PORT);
        assert_eq!(on(&ways, first), 100);
        setup.lab.plug(first, false);
        let other = 1 - first;
        let moved = bed::until(PATIENCE, || far.ways(&flows(&setup.lab, family, 1), PORT)[0] == other);
        assert!(moved.is_some());
        // That flow's first packet may still have been lost by the dead WAN: only one begun since makes the source move.
        assert_eq!(far.ways(&flows(&setup.lab, family, 1), PORT)[0], other);
        setup.lab.plug(first, true);
        let line = format!("Uplink 'wan{}' is now up", first + 1);
        assert!(setup.daemon.wait_line(0, &[&line], PATIENCE).is_some());
        setup.wait_as_desired();
        assert_eq!(on(&far.ways(&flows(&setup.lab, family, 100), PORT), other), 100, "it stays where it went");
    }
}

fn rules() {
    let more = "config policy 'first'\n\tlist use_member 'm1'\n\n\
                config policy 'second'\n\tlist use_member 'm2'\n\n\
                config rule 'a'\n\toption proto 'udp'\n\toption dest_port '7101'\n\toption use_policy 'second'\n\n\
                config rule 'b'\n\toption proto 'udp'\n\toption dest_port '7100,7101,7104'\n\toption use_policy 'first'\n\n\
                config rule 'c'\n\toption proto 'udp'\n\toption dest_port '7100:7103'\n\toption use_policy 'second'\n\n\
                config rule 'd'\n\toption proto 'udp'\n\toption dest_port '7105'\n\toption use_policy 'unreachable'\n\n\
                config rule 'e'\n\toption use_policy 'first'\n";
    let Some(setup) = setup("rules", &balanced(more)) else { return };
    let wanted = [(7100, 0), (7101, 1), (7102, 1), (7103, 1), (7104, 0), (7106, 0)];
    for (port, way) in wanted {
        let far = Far::listen(&setup.lab, port);
        for family in [0, 1] {
            assert_eq!(far.ways(&flows(&setup.lab, family, 3), port), [way; 3], "port {port}, family {family}");
        }
    }
    let flow = flows(&setup.lab, 0, 1).remove(0);
    flow.connect((INET[0], 7105)).expect("an address");
    flow.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    with_errors(&flow);
    flow.send(b"to nowhere").expect("it leaves the host");
    let refused = flow.recv(&mut [0; 8]).expect_err("nobody is there");
    assert!(matches!(refused.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable), "{refused}");
}

/// Lets the far host reach the router's address on a WAN, through its provider; that address.
fn reach_wan(lab: &Lab, n: usize) -> IpAddr {
    let addr = wan_addresses(n)[0].0;
    lab.inet.rtnl(|r| {
        let dev = r.index(&format!("isp{n}")).expect("a port");
        let via = IpAddr::from([192, 0, 2, n as u8 * 4 + 1]);
        r.replace_route(&bed::rtnl::Route { dst: Some((addr, 32)), ..bed::rtnl::Route::default(via, dev, 1) })
            .expect("a route");
    });
    addr
}

/// Requests to each WAN's address are passed on to the LAN host, and its answers leave by that WAN, with that address.
fn answers() {
    let Some(setup) = setup("answers", &two_wans("")) else { return };
    let server = setup.lab.lan.run(|| UdpSocket::bind((LAN[0].1, 5353)).expect("a port"));
    server.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let stop = Arc::new(AtomicBool::new(false));
    let answering = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = server.recv_from(&mut buf) {
                    server.send_to(&buf[..len], from).expect("it leaves");
                }
            }
        })
    };
    nft_text(
        &setup.lab.router,
        &format!(
            "table ip test {{\n chain pre {{\n type nat hook prerouting priority dstnat;\n\
             iifname {{ wan1, wan2 }} udp dport 53 dnat to {}:5353\n }}\n}}\n",
            LAN[0].1
        ),
    );
    let mut missing = 0;
    for n in [0, 1] {
        let isp = reach_wan(&setup.lab, n);
        for round in 0..1000_u32 {
            let client = setup.lab.inet.run(|| UdpSocket::bind((INET[0], 0)).expect("a port"));
            client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            client.connect((isp, 53)).expect("an address");
            client.send(&round.to_ne_bytes()).expect("it leaves");
            let mut buf = [0; 8];
            missing += u32::from(client.recv(&mut buf).is_err());
        }
    }
    stop.store(true, Ordering::Relaxed);
    answering.join().expect("it does not panic");
    assert_eq!(missing, 0, "of 2000 answers");
}

fn reset() {
    let Some(setup) = setup("reset", &two_wans("")) else { return };
    // The far end drops segments that it knows no connection for, and so does the provider on the way: nobody tells the
    // client but the router.
    let silent = "table inet fw {\n chain in {\n type filter hook input priority 0;\n ct state new tcp flags & syn == 0 drop\n }\n\
                  chain out {\n type filter hook output priority 0;\n tcp flags & rst == rst drop\n }\n}\n";
    nft_text(&setup.lab.inet, silent);
    // The router translates, as routers do: by another WAN the flow is another one to the far end.
    nft_text(
        &setup.lab.router,
        "table ip test {\n chain post {\n type nat hook postrouting priority srcnat;\n oifname { wan1, wan2 } masquerade\n }\n}\n",
    );
    for n in [0, 1] {
        reach_wan(&setup.lab, n);
    }
    let listener = setup.lab.inet.run(|| TcpListener::bind((INET[0], 80)).expect("a port"));
    let mut client = setup.lab.lan.run(|| TcpStream::connect((INET[0], 80)).expect("a connection"));
    let (mut server, _) = listener.accept().expect("the other end");
    client.write_all(b"hello").expect("it is open");
    server.read_exact(&mut [0; 5]).expect("it arrives");
    let mark = setup.daemon.mark();
    setup.lab.plug(0, false);
    assert!(
        setup.daemon.wait_line(mark, &["Forgot", "IPv4", "'wan1'"], PATIENCE).is_some(),
        "{:#?}",
        setup.daemon.lines()
    );
    let start = Instant::now();
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut error = None;
    let told = bed::until(PATIENCE, || {
        error = client.write_all(b"still there?").err();
        std::thread::sleep(Duration::from_millis(5));
        error.is_some()
    });
    assert!(told.is_some(), "nobody tells the client");
    println!("    told after {:?}: {:?}", start.elapsed(), error.map(|e| e.kind()));
}

fn count(setup: &Setup, mark: &str) -> usize {
    let output = setup.lab.router.command("conntrack").args(["-L", "-m", mark]).output().expect("conntrack runs");
    String::from_utf8_lossy(&output.stdout).lines().filter(|l| l.contains("dport=7100")).count()
}

fn only_dead() {
    let Some(setup) = setup("only", &balanced(EVERYTHING)) else { return };
    let far = Far::listen(&setup.lab, PORT);
    let ways = far.ways(&flows(&setup.lab, 0, 200), PORT);
    let before = [count(&setup, "0x100/0x3f00"), count(&setup, "0x200/0x3f00")];
    assert_eq!(before, [on(&ways, 0), on(&ways, 1)]);
    let mark = setup.daemon.mark();
    setup.lab.plug(0, false);
    assert!(setup.daemon.wait_line(mark, &["Forgot", "IPv4", "'wan1'"], PATIENCE).is_some());
    assert_eq!([count(&setup, "0x100/0x3f00"), count(&setup, "0x200/0x3f00")], [0, before[1]]);
    // First the switch, then the connections, then the word.
    let order = ["Forgot", "Uplink 'wan1' is now down", "now leaves by 'wan2'"];
    let lines = setup.daemon.lines();
    let place = |word: &str| lines.iter().skip(mark).position(|(_, l)| l.contains(word));
    assert!(place(order[2]).is_some(), "{lines:#?}");
}

fn alone() {
    let config = two_wans("").split("config interface 'wan2'").next().expect("a part").to_owned();
    let Some(setup) = setup("alone", &config) else { return };
    let far = Far::listen(&setup.lab, PORT);
    let old = flows(&setup.lab, 0, 20);
    assert_eq!(on(&far.ways(&old, PORT), 0), 20);
    for _ in 0..5 {
        let mark = setup.daemon.mark();
        setup.lab.plug(0, false);
        assert!(setup.daemon.wait_line(mark, &["no uplink left"], PATIENCE).is_some());
        assert_eq!(count(&setup, "0x100/0x3f00"), 20);
        setup.lab.plug(0, true);
        assert!(setup.daemon.wait_line(mark, &["IPv4 leaves by 'wan1'"], PATIENCE).is_some());
    }
    assert_eq!(count(&setup, "0x100/0x3f00"), 20);
}

fn table_back() {
    let Some(setup) = setup("tableback", &two_wans("")) else { return };
    for words in [
        "delete table inet linkwatch",
        "flush ruleset",
        "flush table inet linkwatch",
        "flush chain inet linkwatch postrouting",
    ] {
        nft(&setup.lab.router, words);
        let start = Instant::now();
        wait_table(&setup);
        println!("    nft {words}: right again after {:?}", start.elapsed());
    }
    // What others do to their own tables is nothing to us.
    let runs = |setup: &Setup| setup.daemon.status_number("voluntary_ctxt_switches");
    nft_text(&setup.lab.router, "table inet fw4 {\n chain a {\n type filter hook input priority 0;\n }\n}\n");
    let before = nft(&setup.lab.router, "-a list table inet linkwatch");
    nft(&setup.lab.router, "delete table inet fw4");
    let _ = runs(&setup);
    assert_eq!(nft(&setup.lab.router, "-a list table inet linkwatch"), before);
}

fn reload() {
    let more = |ports: &str| {
        balanced(&format!(
            "config rule 'a'\n\toption proto 'udp'\n\toption dest_port '7100'\n\toption sticky '1'\n\
             \toption use_policy 'balanced'\n\n\
             config rule 'b'\n\toption proto 'udp'\n\toption dest_port '{ports}'\n\toption use_policy 'balanced'\n\n\
             config rule 'c'\n\toption ipset 'names'\n\toption use_policy 'balanced'\n"
        ))
    };
    let Some(setup) = setup("touch", &more("1,2")) else { return };
    nft(&setup.lab.router, "add element inet linkwatch names { 198.18.0.1 }");
    let handles = |chain: &str| nft(&setup.lab.router, &format!("-a list chain inet linkwatch {chain}"));
    let chains = ["prerouting", "postrouting", "sticky_a", "out_1", "pin_1"];
    let before = chains.map(handles);
    let rules = handles("rules");
    let groups = setup.lab.router.rtnl(|r| r.own());
    // The same file again.
    let mark = setup.daemon.mark();
    setup.daemon.signal(libc::SIGHUP);
    assert!(setup.daemon.wait_line(mark, &["read again"], PATIENCE).is_some());
    setup.wait_as_desired();
    assert_eq!((chains.map(handles), handles("rules")), (before.clone(), rules.clone()));
    // One rule changes.
    std::fs::write(&setup.config, more("1,2,3")).expect("the file is ours");
    setup.daemon.signal(libc::SIGHUP);
    let changed = bed::until(PATIENCE, || handles("rules").contains("1-3") || handles("rules").contains("1, 2, 3"));
    assert!(changed.is_some(), "{}", handles("rules"));
    setup.wait_as_desired();
    assert_eq!(chains.map(handles), before);
    assert_eq!(setup.lab.router.rtnl(|r| r.own()), groups);
    assert!(nft(&setup.lab.router, "list set inet linkwatch names").contains("198.18.0.1"), "sets keep their elements");
}

fn without_nft() {
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let folder = bed::daemon::Folder::new("withoutnft");
    let (config, state) = (folder.write("linkwatch", &two_wans("")), folder.at("state"));
    let mut command = lab.router.command(program());
    command.env("PATH", "/nowhere").arg("run").arg("-c").arg(&config).arg("--state").arg(&state);
    let daemon = bed::daemon::Daemon::spawn(command);
    let setup = Setup { lab, folder, daemon, config, state };
    let told = setup.daemon.wait_line(0, &["no program nft", "failover goes on"], PATIENCE);
    assert!(told.is_some(), "{:#?}", setup.daemon.lines());
    setup.wait_way(0);
    setup.lab.plug(0, false);
    setup.wait_way(1);
    setup.lab.plug(0, true);
    setup.wait_way(0);
    let lines = setup.daemon.lines();
    assert_eq!(lines.iter().filter(|(_, l)| l.contains("nft")).count(), 1, "said once: {lines:#?}");
}

fn bound() {
    let Some(setup) = setup("bound", &two_wans("")) else { return };
    let far = Far::listen(&setup.lab, PORT);
    for (n, name) in ["wan1", "wan2"].into_iter().enumerate() {
        let mut command = setup.lab.router.command(program());
        // bash opens sockets by itself, and its children inherit the binding.
        let script = format!("for i in 1 2 3 4 5; do (echo > /dev/udp/{}/{PORT}); sleep 0.05; done", INET[0]);
        command.arg("use").arg("-c").arg(&setup.config).arg(name).args(["bash", "-c", &script]);
        let output = command.output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let lacks = ["cgroup", "CONFIG_CGROUP_BPF", "No such file"].iter().any(|w| said.contains(w));
        if !output.status.success() && lacks {
            println!("    skipped: {said}");
            return;
        }
        assert!(output.status.success(), "{said}");
        let came = bed::until(PATIENCE, || far.last() == Some(n));
        assert!(came.is_some(), "{name}: {:?}", far.last());
    }
}

fn flush() {
    let Some(mut setup) = setup("flushnft", &balanced(EVERYTHING)) else { return };
    assert_eq!(setup.lab.router.read_sysctl("ipv4/fib_multipath_hash_policy").expect("a sysctl"), "1");
    setup.daemon.signal(libc::SIGTERM);
    assert!(setup.daemon.wait(PATIENCE).is_some(), "it ends");
    let mut command = setup.lab.router.command(program());
    // No nft is needed to take its table away.
    command.env("PATH", "/nowhere").arg("flush").arg("--state").arg(&setup.state);
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(setup.lab.router.rtnl(|r| r.own()), bed::rtnl::Own::default());
    assert_eq!(nft(&setup.lab.router, "list ruleset"), "");
    for version in ["ipv4", "ipv6"] {
        let name = format!("{version}/fib_multipath_hash_policy");
        assert_eq!(setup.lab.router.read_sysctl(&name).expect("a sysctl"), "0");
    }
}
