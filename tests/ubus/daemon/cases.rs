//! Calls, news, orders; a bus that goes, stalls, says nothing or nonsense.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use linkwatch::proto::ubus::Status;

use super::Case;
use super::bed::until;
use super::served::Served;
use super::setup::{Asker, Bench, PATIENCE};

pub const CASES: &[Case] = &[
    ("bus::it_answers_and_its_tables_hold_integers_only", answers),
    ("bus::a_switch_is_told_to_subscribers_and_listeners", news),
    ("bus::an_operator_moves_traffic_and_it_stays_so_over_a_restart", orders),
    ("bus::a_bus_that_dies_twenty_times_has_the_objects_back_each_time", killed),
    ("bus::a_flood_of_calls_is_answered_whole_while_a_wan_flaps", flood),
    ("bus::a_bus_that_stalls_stops_no_switch_and_hears_the_last_state", stalled),
    ("bus::a_bus_that_talks_nonsense_stops_no_switch", nonsense),
    ("bus::a_wrong_file_is_refused_with_its_lines_and_a_good_one_taken", reload),
];

fn answers() {
    let bench = Bench::usual("answers");
    let served = Served::start(&bench.socket, 1);
    let mut asker = Asker::new(&served, &bench);
    let (status, all) = asker.call(&served, 0, "status", |_| {});
    assert_eq!(status, Status::OK);
    for word in
        ["\"uplinks\":{\"wan1\":{\"id\":1,", "\"carrier\":true", "\"policies\":{\"default\":{", "\"counters\":{"]
    {
        assert!(all.contains(word), "{word} is not in {all}");
    }
    assert!(!all.contains('.') || !all.contains(".000000"), "a number with a fraction: {all}");
    let (status, one) = asker.call(&served, 0, "uplink", |w| w.str("uplink", "wan2"));
    assert_eq!(status, Status::OK);
    assert!(one.contains("\"uplink\":\"wan2\"") && one.contains("\"gateway\":\"198.51.100.5\""), "{one}");
    let wrong = [("wan3", Status::NOT_FOUND), ("", Status::NOT_FOUND)];
    for (name, verdict) in wrong {
        assert_eq!(asker.call(&served, 0, "uplink", |w| w.str("uplink", name)).0, verdict);
    }
    assert_eq!(asker.call(&served, 0, "uplink", |_| {}).0, Status::INVALID_ARGUMENT);
    assert_eq!(asker.call(&served, 0, "uplink", |w| w.int("uplink", 1)).0, Status::INVALID_ARGUMENT);
    assert_eq!(asker.call(&served, 0, "nonsense", |_| {}).0, Status::METHOD_NOT_FOUND);
    let (_, mwan3) = asker.call(&served, 1, "status", |_| {});
    let mut keys = Vec::new();
    for key in ["interfaces", "connected", "policies", "ipv4", "ipv6", "interface", "percent"] {
        keys.push(mwan3.contains(&format!("\"{key}\":")));
    }
    for key in [
        "age", "online", "offline", "uptime", "score", "lost", "turn", "status", "enabled", "running", "tracking",
        "up", "track_ip",
    ] {
        keys.push(mwan3.contains(&format!("\"{key}\":")));
    }
    assert!(keys.into_iter().all(|k| k), "{mwan3}");
    let (_, part) = asker.call(&served, 1, "status", |w| w.str("section", "policies"));
    assert_eq!(
        part,
        "{\"policies\":{\"ipv4\":{\"default\":[{\"interface\":\"wan1\",\"percent\":100}]},\
         \"ipv6\":{\"default\":[{\"interface\":\"wan1\",\"percent\":100}]}}}"
    );
    let (_, part) = asker.call(&served, 1, "status", |w| {
        w.str("section", "interfaces");
        w.str("interface", "wan2");
    });
    assert!(part.starts_with("{\"interfaces\":{\"wan2\":{") && !part.contains("wan1"), "{part}");
}

fn news() {
    let bench = Bench::usual("news");
    let served = Served::start(&bench.socket, 2);
    let mut asker = Asker::new(&served, &bench);
    bench.lab.plug(0, false);
    for kind in ["notification uplink", "event linkwatch.uplink"] {
        asker.wait(&served, &[kind, "\"uplink\":\"wan1\"", "\"to\":\"down\"", "\"reason\":\"no-carrier\""]);
    }
    for kind in ["notification policy", "event linkwatch.policy"] {
        for family in ["ipv4", "ipv6"] {
            let heard = asker.wait(&served, &[kind, family, "\"from\":\"wan1\",\"to\":\"wan2\""]);
            assert!(heard.2.contains("\"committed_us\":"), "{heard:?}");
        }
    }
    bench.lab.plug(0, true);
    asker.wait(&served, &["event linkwatch.uplink", "\"to\":\"up\""]);
    // Each piece of news has its number, none is missing.
    let mut serials: Vec<u32> = Vec::new();
    for (kind, _, data) in &asker.heard {
        if *kind == "event" {
            let number = data.split("\"serial\":").nth(1).and_then(|r| r.split(',').next()).expect("a serial");
            serials.push(number.parse().expect("a number"));
        }
    }
    assert!(serials.windows(2).all(|w| w[1] == w[0] + 1), "{serials:?}");
}

fn orders() {
    let mut bench = Bench::usual("orders");
    let served = Served::start(&bench.socket, 3);
    let mut asker = Asker::new(&served, &bench);
    assert_eq!(asker.call(&served, 0, "down", |w| w.str("uplink", "wan1")).0, Status::OK);
    bench.wait_way(1);
    asker.wait(&served, &["\"uplink\":\"wan1\"", "\"reason\":\"operator\""]);
    // What is saved is saved a second later.
    let saved = until(PATIENCE, || bench.folder.at("state").exists());
    assert!(saved.is_some(), "no state file");
    bench.daemon.signal(libc::SIGTERM);
    assert!(bench.daemon.wait(PATIENCE).is_some_and(|s| s.success()));
    bench.start_again(&served);
    let mut asker = Asker::new(&served, &bench);
    bench.wait_way(1);
    assert_eq!(asker.call(&served, 0, "auto", |w| w.str("uplink", "wan1")).0, Status::OK);
    bench.wait_way(0);
}

fn killed() {
    let bench = Bench::usual("killed");
    for seed in 0..20 {
        let served = Served::start(&bench.socket, 100 + seed);
        let mut asker = Asker::new(&served, &bench);
        assert_eq!(asker.call(&served, 0, "status", |_| {}).0, Status::OK, "life {seed}");
    }
    bench.lab.plug(0, false);
    bench.wait_way(1);
}

fn flood() {
    let bench = Bench::usual("flood");
    let served = Served::start(&bench.socket, 5);
    let mut askers: Vec<Asker> = (0..8).map(|_| Asker::new(&served, &bench)).collect();
    let before = bench.daemon.status_number("VmRSS:");
    let (mut made, mut done) = (0_u32, 0_u32);
    let mut plugged = true;
    while made < 4000 {
        if made / 500 % 2 == u32::from(plugged) {
            plugged = !plugged;
            bench.lab.plug(0, plugged);
        }
        for asker in &mut askers {
            let (client, now) = asker.beside.client();
            for method in ["status", "uplink", "status"] {
                let call = client.call(0, method, 7, now, &mut |w| w.str("uplink", "wan1"));
                made += u32::from(call.is_ok());
            }
            asker.turn(&served);
            done += asker.beside.news().iter().filter(|n| is_fine(n)).count() as u32;
        }
    }
    let all = until(PATIENCE, || {
        for asker in &mut askers {
            asker.turn(&served);
            done += asker.beside.news().iter().filter(|n| is_fine(n)).count() as u32;
        }
        done == made
    });
    assert!(all.is_some(), "{done} of {made} calls were answered");
    bench.lab.plug(0, true);
    bench.wait_way(0);
    // Buffers are filled once and then used again: 1.5 MB is what they may have at most on this board.
    let after = bench.daemon.status_number("VmRSS:");
    assert!(after < before + 1500, "VmRSS {before} kB before, {after} kB after");
}

fn is_fine(news: &linkwatch::proto::ubus::client::News) -> bool {
    matches!(news, linkwatch::proto::ubus::client::News::Done(7, Status::OK))
}

fn stalled() {
    let bench = Bench::usual("stalled");
    let served = Served::start(&bench.socket, 6);
    let mut asker = Asker::new(&served, &bench);
    served.stalled.store(true, Ordering::Relaxed);
    for plugged in [false, true, false] {
        bench.lab.plug(0, plugged);
        bench.wait_way(usize::from(!plugged));
    }
    served.stalled.store(false, Ordering::Relaxed);
    let there = until(PATIENCE, || {
        asker.turn(&served);
        asker.heard.iter().any(|h| h.1 == "policy" && h.2.contains("\"to\":\"wan2\""))
    });
    assert!(there.is_some(), "{:#?}", asker.heard);
    assert!(asker.call(&served, 0, "uplink", |w| w.str("uplink", "wan1")).1.contains("\"carrier\":false"));
}

fn nonsense() {
    let bench = Bench::usual("nonsense");
    let listener = UnixListener::bind(&bench.socket).expect("the folder is ours");
    listener.set_nonblocking(true).expect("a socket");
    let hello: &[u8] = &[0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4];
    let lies: [&[u8]; 7] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0, 0, 0, 0, 0, 0, 4, 0, 0xff, 0xff, 0xff, 0xff],
        &[0, 1, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4],
        hello,
        &[hello, &[0; 4096]].concat(),
        &[hello, &[0xff; 4096]].concat(),
    ];
    for (n, lie) in lies.into_iter().enumerate() {
        let mut stream = None;
        let came = until(PATIENCE, || {
            stream = listener.accept().ok().map(|(stream, _)| stream);
            stream.is_some()
        });
        assert!(came.is_some(), "it did not come back after lie {n}");
        let mut stream = stream.expect("it came");
        stream.write_all(lie).expect("it is open");
        bench.lab.plug(0, n % 2 == 1);
        bench.wait_way(usize::from(n % 2 == 0));
        let _ = stream.set_read_timeout(Some(Duration::from_millis(10)));
        let _ = stream.read(&mut [0; 4096]);
    }
    drop(listener);
    let served = Served::start(&bench.socket, 7);
    let mut asker = Asker::new(&served, &bench);
    assert_eq!(asker.call(&served, 0, "status", |_| {}).0, Status::OK);
}

fn reload() {
    let bench = Bench::usual("reload");
    let served = Served::start(&bench.socket, 8);
    let mut asker = Asker::new(&served, &bench);
    let good = std::fs::read_to_string(&bench.config).expect("it is ours");
    std::fs::write(&bench.config, good.clone() + "\toption metric 'x'\n").expect("it is ours");
    for method in ["check", "reload", "plan"] {
        let (status, said) = asker.call(&served, 0, method, |_| {});
        assert_eq!(status, Status::OK);
        assert!(said.starts_with("{\"ok\":false,\"errors\":[\"") && said.contains("linkwatch:9:"), "{method}: {said}");
    }
    // Whole, however long: a list of 300 errors.
    let many: String = (0..300).map(|n| format!("\toption metric 'x{n}'\n")).collect();
    std::fs::write(&bench.config, good.clone() + &many).expect("it is ours");
    let (_, said) = asker.call(&served, 0, "check", |_| {});
    assert!(said.contains("'x0'") && said.contains("'x299'") && !said.contains("more lines"), "{said}");
    // A section that is not enabled is shown as mwan3 shows it, and nothing else comes of it.
    let off = "config interface 'wan9'\n\toption enabled '0'\n";
    std::fs::write(&bench.config, good.clone() + off).expect("it is ours");
    assert!(asker.call(&served, 0, "reload", |_| {}).1.starts_with("{\"ok\":true,"));
    let (_, shown) = asker.call(&served, 1, "status", |w| w.str("interface", "wan9"));
    let fields = "\"age\":0,\"online\":0,\"offline\":0,\"uptime\":0,\"score\":0,\"lost\":0,\"turn\":0,\
                  \"status\":\"unknown\",\"enabled\":false,\"running\":false,\"tracking\":\"disabled\",\
                  \"up\":false,\"track_ip\":[]";
    assert!(shown.starts_with(&format!("{{\"interfaces\":{{\"wan9\":{{{fields}}}}}")), "{shown}");
    let swapped = good.replace("metric '1'", "metric '9'");
    std::fs::write(&bench.config, swapped).expect("it is ours");
    let (status, plan) = asker.call(&served, 0, "plan", |_| {});
    assert_eq!(status, Status::OK);
    assert!(plan.contains("\"ok\":true") && plan.contains("ip nexthop replace"), "{plan}");
    bench.wait_way(0);
    let (_, said) = asker.call(&served, 0, "reload", |_| {});
    assert!(said.starts_with("{\"ok\":true,"), "{said}");
    bench.wait_way(1);
    let settled = until(PATIENCE, || asker.call(&served, 0, "plan", |_| {}).1.contains("\"count\":0,"));
    assert!(settled.is_some());
}
