//! The control socket: what is said there, who may say it, and that nobody there can do harm.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::bed::lab::{INET, LAN, Port};
use crate::{Case, PATIENCE, Setup, bed, program, two_wans};

pub const CASES: &[Case] = &[
    ("control::status_says_the_same_to_people_and_machines", status),
    ("control::why_names_what_a_state_rests_on", why),
    ("control::why_names_the_rule_that_a_packet_meets", rule),
    ("control::an_operator_holds_and_releases", hold),
    ("control::what_is_not_confirmed_is_taken_back", confirm),
    ("control::names_that_do_not_exist_bring_the_nearest", names),
    ("control::hostile_clients_change_nothing", hostile),
    ("control::a_second_daemon_leaves_the_first_alone", second),
    ("control::the_journal_survives_a_restart", journal),
    ("control::a_crash_does_not_begin_the_uptimes_anew", uptimes),
    ("control::what_a_metered_uplink_cost_is_not_forgotten_by_a_crash", quota),
];

/// Runs a subcommand against the daemon of a setup.
fn ask(setup: &Setup, words: &[&str]) -> Output {
    let mut command = setup.lab.router.command(program());
    command.args(words).arg("--control").arg(setup.folder.at("control"));
    command.output().expect("the program runs")
}

fn text(output: &Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn json(setup: &Setup, words: &[&str]) -> Value {
    let words = [words, &["--json"]].concat();
    serde_json::from_str(&text(&ask(setup, &words))).expect("valid JSON")
}

/// What every status has, and of which kind: a change here is a change for every user.
const UPLINK_FIELDS: &[(&str, &str)] = &[
    ("id", "number"),
    ("device", "text"),
    ("ifindex", "number"),
    ("admin_up", "flag"),
    ("carrier", "flag"),
    ("state", "text"),
    ("up", "flag"),
    ("reason", "text"),
    ("because", "text"),
    ("since", "number"),
    ("hold", "text"),
    ("carrier_losses", "number"),
    ("probes_sent", "number"),
    ("metered", "flag"),
    ("sparing", "flag"),
    ("families", "table"),
    ("probes", "array"),
];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "flag",
        Value::Number(n) if n.is_i64() => "number",
        Value::Number(_) => "float",
        Value::String(_) => "text",
        Value::Array(_) => "array",
        Value::Object(_) => "table",
    }
}

fn status() {
    let setup = Setup::new("status", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    let status = json(&setup, &["status"]);
    for (name, want) in [("version", "text"), ("board", "text"), ("uptime", "number"), ("synced", "flag")] {
        assert_eq!(kind(&status[name]), want, "{name}");
    }
    for name in ["wan1", "wan2"] {
        let uplink = &status["uplinks"][name];
        for (field, want) in UPLINK_FIELDS {
            assert_eq!(kind(&uplink[field]), *want, "{name}.{field}");
        }
        assert_eq!(uplink["state"], "up");
        assert_eq!(uplink["families"]["ipv4"]["state"], "up");
    }
    assert_eq!(status["policies"]["default"]["ipv4"][0]["uplink"], "wan1");
    let people = text(&ask(&setup, &["status"]));
    assert!(people.contains("wan1 on wan1: up"), "{people}");
    assert!(people.contains("policy default"), "{people}");
    let metrics = text(&ask(&setup, &["metrics"]));
    assert!(metrics.contains("mwan3_interface_up{interface=\"wan1\"} 1"), "{metrics}");
    assert!(metrics.contains("linkwatch_failover_seconds_count"), "{metrics}");
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').expect("a value");
        value.parse::<f64>().unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

fn why() {
    let setup = Setup::new("why", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    setup.lab.plug(0, false);
    setup.wait_way(1);
    let said = bed::until(PATIENCE, || text(&ask(&setup, &["why", "wan1"])).contains("carrier: NO"));
    let why = text(&ask(&setup, &["why", "wan1"]));
    assert!(said.is_some() && why.contains("carrier lost") && why.contains("What happened"), "{why}");
    let there = text(&ask(&setup, &["why", "203.0.113.10"]));
    assert!(there.contains("policy 'default'") && there.contains("uplink 'wan2'"), "{there}");
    let marked = text(&ask(&setup, &["why", "203.0.113.10", "--mark", "0x200"]));
    assert!(marked.contains("uplink 'wan2' itself"), "{marked}");
}

/// With one rule that takes nft the mark decides; without it the kernel's own rules do. The answers are the same.
fn rule() {
    for more in ["", "\toption sticky '1'\n"] {
        let policy = |name: &str, member| format!("config policy '{name}'\n\tlist use_member '{member}'\n\n");
        let config = two_wans("")
            + "config member 'm1'\n\toption interface 'wan1'\n\nconfig member 'm2'\n\toption interface 'wan2'\n\n"
            + &policy("first", "m1")
            + &policy("second", "m2")
            + "config rule 'web'\n\toption proto 'tcp'\n\toption dest_port '443'\n\toption use_policy 'second'\n"
            + more
            + "\nconfig rule 'all'\n\toption family 'any'\n\toption use_policy 'first'\n";
        let setup = Setup::new("why-rule", Port::Virtual, &config);
        setup.wait_way(0);
        let (to, from) = (INET[0].to_string(), LAN[0].1.to_string());
        let asked = |words: &[&str]| text(&ask(&setup, &[&["why", &to, "--from", &from], words].concat()));
        let web = asked(&["--proto", "tcp", "--port", "443"]);
        assert!(web.contains("meets rule 'web': policy 'second'") && web.contains("leaves by wan2"), "{web}");
        let other = asked(&["--proto", "udp", "--port", "443"]);
        assert!(other.contains("meets rule 'all': policy 'first'") && other.contains("leaves by wan1"), "{other}");
        let open = asked(&[]);
        assert!(open.contains("Rule 'web' comes first and may take it"), "{open}");
        assert!(open.contains("meets rule 'all'"), "{open}");
        let machine = json(&setup, &["why", &to, "--proto", "tcp", "--port", "443"]);
        assert_eq!((&machine["uplink"], &machine["rules"][0]["rule"]), (&"wan2".into(), &"web".into()), "{machine}");
        for wrong in [&["--port", "443"][..], &["--proto", "quic"], &["--from", "2001:db8::1"]] {
            let output = ask(&setup, &[&["why", &to], wrong].concat());
            assert!(!output.status.success(), "{wrong:?}");
        }
    }
}

fn hold() {
    let setup = Setup::new("hold-operator", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    text(&ask(&setup, &["down", "wan1"]));
    setup.wait_way(1);
    assert_eq!(json(&setup, &["status"])["uplinks"]["wan1"]["reason"], "operator");
    text(&ask(&setup, &["auto", "wan1"]));
    setup.wait_way(0);
    text(&ask(&setup, &["switch", "default", "wan2"]));
    setup.wait_way(1);
    text(&ask(&setup, &["switch", "default", "auto"]));
    setup.wait_way(0);
}

fn confirm() {
    let setup = Setup::new("confirm", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    let other = two_wans("").replace("metric '10'", "metric '30'");
    std::fs::write(&setup.config, &other).expect("the file is ours");
    text(&ask(&setup, &["apply", "--confirm", "1s"]));
    setup.wait_way(1);
    setup.wait_way(0);
    text(&ask(&setup, &["apply", "--confirm", "60s"]));
    text(&ask(&setup, &["confirm"]));
    setup.wait_way(1);
    assert!(!ask(&setup, &["confirm"]).status.success(), "nothing waits any more");
    std::fs::write(&setup.config, "nonsense").expect("the file is ours");
    assert!(!ask(&setup, &["reload"]).status.success(), "a wrong file is refused");
    setup.wait_way(1);
}

fn names() {
    let setup = Setup::new("names", Port::Virtual, &two_wans(""));
    let output = ask(&setup, &["down", "wam1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("did you mean 'wan1'?"), "{said}");
    let words = ask(&setup, &["down"]);
    assert!(String::from_utf8_lossy(&words.stderr).contains("want: linkwatch down UPLINK"));
}

/// Connects as often as asked and says what each of them says; nobody reads.
fn crowd(path: &Path, count: usize, bytes: &[u8]) -> Vec<UnixStream> {
    let mut crowd = Vec::new();
    for _ in 0..count {
        let Ok(mut stream) = UnixStream::connect(path) else { continue };
        let _ = stream.set_nonblocking(true);
        let _ = stream.write(bytes);
        crowd.push(stream);
    }
    crowd
}

fn hostile() {
    let setup = Setup::new("hostile", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    let path = setup.folder.at("control");
    text(&ask(&setup, &["status"]));
    let memory = setup.daemon.status_number("VmRSS");
    let follow = [1, 0, 3, 1, 0, 1];
    let crowds: Vec<Vec<UnixStream>> = [&b""[..], &[0xff; 300], &[1, 1], &follow, &[1, 0xff, 0xff], &[1, 0, 1, 0]]
        .into_iter()
        .map(|bytes| crowd(&path, 11, bytes))
        .collect();
    for round in 0..3 {
        setup.lab.plug(0, false);
        setup.wait_way(1);
        setup.lab.plug(0, true);
        setup.wait_way(0);
        assert!(setup.daemon.id() > 0, "round {round}");
    }
    // An honest client gets its turn once the idle ones have used up the patience they are given.
    let answered = bed::until(PATIENCE, || ask(&setup, &["status"]).status.success());
    assert!(answered.is_some(), "nobody answers any more");
    drop(crowds);
    let grown = setup.daemon.status_number("VmRSS").saturating_sub(memory);
    assert!(grown <= 256, "{grown} KiB more than before");
}

fn second() {
    let setup = Setup::new("second", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    let mut command = setup.lab.router.command(program());
    command.arg("run").arg("-c").arg(&setup.config).arg("--state").arg(setup.folder.at("other-state"));
    let output = command.arg("--control").arg(setup.folder.at("control")).output().expect("the program runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("another linkwatch"), "{output:?}");
    assert!(text(&ask(&setup, &["status"])).contains("wan1"));
}

fn journal() {
    let mut setup = Setup::new("journal", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    let mut follower = UnixStream::connect(setup.folder.at("control")).expect("it listens");
    follower.write_all(&[1, 0, 3, 1, 0, 1]).expect("a request");
    setup.lab.plug(0, false);
    setup.wait_way(1);
    follower.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    let mut heard = Vec::new();
    let mut chunk = [0; 512];
    while !String::from_utf8_lossy(&heard).contains("carrier lost") {
        let read = follower.read(&mut chunk).expect("news for a follower");
        assert!(read > 0, "hung up");
        heard.extend_from_slice(&chunk[..read]);
    }
    setup.daemon.signal(libc::SIGTERM);
    setup.daemon.wait(PATIENCE).expect("it ends");
    setup.start_again();
    let kept = bed::until(PATIENCE, || {
        let output = ask(&setup, &["events"]);
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("carrier lost")
    });
    assert!(kept.is_some(), "forgotten");
    let events = text(&ask(&setup, &["events", "--json"]));
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).expect("valid JSON");
        assert_eq!((kind(&event["seq"]), kind(&event["time"]), kind(&event["text"])), ("number", "number", "text"));
    }
}

/// How long the daemon says that an uplink has been in its state, seconds, once it is up.
fn age(setup: &Setup, uplink: &str) -> u64 {
    let mut age = None;
    bed::until(PATIENCE, || {
        let output = ask(setup, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let uplink = &status["uplinks"][uplink];
        age = uplink["since"].as_u64().filter(|_| uplink["state"] == "up");
        age.is_some()
    });
    age.unwrap_or_else(|| panic!("{uplink} is not up: {:?}", setup.daemon.lines()))
}

fn uptimes() {
    let config = two_wans("").replace("hold_down '0'", "hold_down '500ms'");
    let mut setup = Setup::new("uptimes", Port::Virtual, &config);
    setup.wait_way(0);
    let old = bed::until(PATIENCE, || age(&setup, "wan1") >= 3 && age(&setup, "wan2") >= 3);
    assert!(old.is_some());
    // It was saved when something changed, and not since.
    setup.daemon.kill();
    setup.start_again();
    // One carries traffic and is up at once; the other waits for its hold-down first.
    assert!(age(&setup, "wan1") >= 3);
    assert!(age(&setup, "wan2") >= 3);
    let mark = setup.daemon.mark();
    setup.lab.plug(1, false);
    // Plugged back at once, the kernel might tell of neither.
    assert!(setup.daemon.wait_line(mark, &["'wan2' is now down"], PATIENCE).is_some());
    setup.lab.plug(1, true);
    let anew = bed::until(PATIENCE, || age(&setup, "wan2") < 3);
    assert!(anew.is_some(), "a real fall begins it anew");
}

fn quota() {
    let config =
        two_wans("\toption metered '1'\n\toption interval '10ms'\n\toption passive '0'\n\tlist track_ip 'gateway'\n");
    let mut setup = Setup::new("quota", Port::Virtual, &config);
    setup.wait_way(0);
    let sent = |setup: &Setup| {
        let output = ask(setup, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["uplinks"]["wan1"]["probes_sent"].as_u64().unwrap_or(0)
    };
    let many = bed::until(PATIENCE, || sent(&setup) >= 400);
    assert!(many.is_some(), "{} probes", sent(&setup));
    // A second after each 64th it is saved: at 200 probes a second those of some two seconds may be lost.
    setup.daemon.kill();
    setup.start_again();
    let kept = bed::until(PATIENCE, || sent(&setup) > 0).map(|_| sent(&setup));
    assert!(kept.is_some_and(|kept| kept >= 64), "{kept:?}");
}
