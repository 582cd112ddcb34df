//! Recorded runs of a real daemon on a real kernel: each replays to the same wishes, and recording harms nothing.

use std::path::Path;
use std::process::Output;

use linkwatch::proto::trace::Ending;
use linkwatch::proto::trace::replay::{Line, replay};

use crate::bed::lab::Port;
use crate::{Case, PATIENCE, Setup, bed, program, two_wans};

pub const CASES: &[Case] = &[
    ("trace::a_recorded_run_replays_to_the_same_wishes", recorded),
    ("trace::recording_ends_at_its_size_and_never_writes_over_anything", size),
    ("trace::a_full_disk_ends_the_recording_and_nothing_else", full_disk),
    ("trace::an_exit_ends_the_recording_whole", exit),
];

fn ask(setup: &Setup, words: &[&str]) -> Output {
    let mut command = setup.lab.router.command(program());
    command.args(words).arg("--control").arg(setup.folder.at("control"));
    command.output().expect("the program runs")
}

fn done(setup: &Setup, words: &[&str]) {
    let output = ask(setup, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn refused(setup: &Setup, words: &[&str], why: &str) {
    let output = ask(setup, words);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
    assert!(text.contains(why), "{words:?}: {text}");
}

/// Replays within this program; the number of events, and why it ended.
fn same(path: &Path) -> (u64, Ending) {
    let bytes = std::fs::read(path).expect("a readable file");
    let mut differing = Vec::new();
    let summary = replay(&bytes, &mut |line, _| {
        if let Line::Differs { at, then, now } = line
            && differing.len() < 3
        {
            differing.push(format!("{at:?}: then {then:?}, now {now:?}"));
        }
    });
    let summary = summary.expect("a recorded run");
    assert_eq!((summary.differences, &summary.damage), (0, &None), "{differing:#?}");
    assert_eq!(summary.digests[0], summary.digests[1]);
    println!(
        "    {} bytes: {} events, {} actions in {:?}, digest {:016x}",
        bytes.len(),
        summary.events,
        summary.actions,
        summary.span,
        summary.digests[0]
    );
    (summary.events, summary.ending)
}

const PROBED: &str = "\tlist track_ip '203.0.113.10'\n\tlist track_ip '2001:db8:ffff::10'\n\toption interval '50ms'\n";

fn recorded() {
    let setup = Setup::new("trace", Port::Virtual, &two_wans(PROBED));
    setup.wait_way(0);
    let file = setup.folder.at("run.lwt");
    let name = file.to_str().expect("text");
    done(&setup, &["trace", "start", name]);
    refused(&setup, &["trace", "start", name], "already");
    let told = |words: &[&str]| String::from_utf8_lossy(&ask(&setup, words).stdout).into_owned();
    let status = told(&["status"]);
    assert!(status.contains(&format!("recording into {name}: ")) && status.contains(" of 1048576 bytes"), "{status}");
    assert!(told(&["status", "--json"]).contains("\"recording\":{\"file\":"));
    // A carrier, an upstream that dies silently, an operator, another configuration, and somebody who cleans up.
    setup.lab.plug(0, false);
    setup.wait_way(1);
    setup.lab.plug(0, true);
    setup.wait_way(0);
    let forwarding = |on: &str| {
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            setup.lab.isps[0].sysctl(name, on).expect("a sysctl");
        }
    };
    forwarding("0");
    setup.wait_way(1);
    forwarding("1");
    setup.wait_way(0);
    done(&setup, &["down", "wan1"]);
    setup.wait_way(1);
    done(&setup, &["auto", "wan1"]);
    setup.wait_way(0);
    setup.folder.write("linkwatch", &two_wans(&PROBED.replace("50ms", "80ms")));
    done(&setup, &["reload"]);
    setup.wait_as_desired();
    let mut flush = setup.lab.router.command("ip");
    if flush.args(["route", "flush", "table", "1"]).output().is_ok() {
        setup.wait_as_desired();
    }
    done(&setup, &["trace", "stop"]);
    refused(&setup, &["trace", "stop"], "nothing is being recorded");
    assert!(!told(&["status"]).contains("recording into"));
    let (events, ending) = same(&file);
    assert!(events > 100 && ending == Ending::Stopped, "{events} events, {ending}");
    // The program says the same, in words and for machines.
    let shown = setup.lab.router.command(program()).args(["replay", name]).output().expect("the program runs");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success(), "{text}");
    for part in
        ["Uplink 'wan1' is now down: carrier lost", "down wan1", "another configuration", "No action differs. Digest "]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let shown = setup.lab.router.command(program()).args(["replay", "--json", "--all", name]).output();
    let lines = String::from_utf8(shown.expect("the program runs").stdout).expect("text");
    let values: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let last = values.last().expect("a summary");
    assert_eq!((last["kind"].as_str(), last["differences"].as_i64()), (Some("summary"), Some(0)));
    if std::env::var_os("LINKWATCH_BLESS").is_some() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces/real-kernel.lwt");
        std::fs::copy(&file, kept).expect("a copy");
    }
}

fn size() {
    let setup = Setup::new("trace-size", Port::Virtual, &two_wans(PROBED));
    setup.wait_way(0);
    let file = setup.folder.at("run.lwt");
    let name = file.to_str().expect("text");
    refused(&setup, &["trace", "start", name, "--size", "100"], "more than 100 bytes");
    // What was begun in vain is not left behind.
    assert!(!file.exists());
    done(&setup, &["trace", "start", name, "--size", "9000"]);
    let mut round = 0;
    let over = bed::until(PATIENCE * 3, || {
        round += 1;
        setup.lab.plug(0, round % 2 == 0);
        setup.wait_way(round % 2);
        setup.daemon.lines().iter().any(|(_, line)| line.contains("it has the 9000 bytes it may have"))
    });
    assert!(over.is_some(), "{:#?}", setup.daemon.lines());
    let len = std::fs::metadata(&file).expect("it is there").len();
    assert!(len <= 9000, "{len} bytes");
    assert_eq!(same(&file).1, Ending::Full);
    // It is over, so another may begin, but not there, nor where a link leads elsewhere.
    refused(&setup, &["trace", "stop"], "nothing is being recorded");
    refused(&setup, &["trace", "start", name], "exists");
    let link = setup.folder.at("link.lwt");
    std::os::unix::fs::symlink(setup.folder.at("elsewhere"), &link).expect("a link");
    refused(&setup, &["trace", "start", link.to_str().expect("text")], "exists");
    refused(&setup, &["trace", "start", "/proc/no-such-folder/run.lwt"], "o such file");
}

fn full_disk() {
    let setup = Setup::new("trace-full", Port::Virtual, &two_wans(PROBED));
    setup.wait_way(0);
    let folder = setup.folder.at("small");
    std::fs::create_dir(&folder).expect("a folder");
    let target = std::ffi::CString::new(folder.to_str().expect("text")).expect("no NUL");
    // SAFETY: all are strings that outlive the call.
    let mounted =
        unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=16k".as_ptr().cast()) };
    if mounted != 0 {
        println!("    skipped: no tmpfs can be mounted ({})", std::io::Error::last_os_error());
        return;
    }
    let file = folder.join("run.lwt");
    done(&setup, &["trace", "start", file.to_str().expect("text")]);
    let mut round = 0;
    let over = bed::until(PATIENCE * 3, || {
        round += 1;
        setup.lab.plug(0, round % 2 == 0);
        setup.wait_way(round % 2);
        setup.daemon.lines().iter().any(|(_, line)| line.contains("No space left"))
    });
    let replayed = std::fs::read(&file).map(|bytes| replay(&bytes, &mut |_, _| {}).map(|s| (s.differences, s.ending)));
    // SAFETY: as above.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    assert!(over.is_some(), "{:#?}", setup.daemon.lines());
    assert_eq!(replayed.expect("it is there"), Ok((0, Ending::Cut)));
    setup.lab.plug(0, true);
    setup.wait_way(0);
}

fn exit() {
    let mut setup = Setup::new("trace-exit", Port::Virtual, &two_wans(PROBED));
    setup.wait_way(0);
    let file = setup.folder.at("run.lwt");
    done(&setup, &["trace", "start", file.to_str().expect("text")]);
    setup.lab.plug(0, false);
    setup.wait_way(1);
    setup.daemon.signal(libc::SIGTERM);
    assert!(setup.daemon.wait(PATIENCE).is_some_and(|status| status.success()), "{:#?}", setup.daemon.lines());
    assert_eq!(same(&file).1, Ending::Exit);
}
