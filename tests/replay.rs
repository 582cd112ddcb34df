//! Recorded runs: what was recorded replays to the same wishes on every machine, a day is small, and what is damaged is
//! said to be.
//!
//! `tests/traces` holds runs with the digests of what was wished in them. Whatever changes the engine's state or its
//! decisions changes them: `LINKWATCH_BLESS=1 cargo test --test replay` makes those of the pretend world anew, and
//! `LINKWATCH_BLESS=1 cargo test --test netns trace::a_recorded` the one of a real kernel (before, since the digests are
//! written here). The new digests are then the review. Raise `proto::trace::VERSION` when old files cannot be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use linkwatch::cli::replay::{self as show, Show};
use linkwatch::engine::{Action, Engine};
use linkwatch::limits;
use linkwatch::proto::trace::replay::{Line, Summary, replay};
use linkwatch::proto::trace::{Ending, Error, Reader, Step, VERSION, Writer, sum};
use linkwatch::sim::day::{self, Day};
use linkwatch::sim::random;
use linkwatch::time::Duration;

/// Replays, and fails with the first differences.
fn same(name: &str, bytes: &[u8]) -> Summary {
    let mut differing = Vec::new();
    let summary = replay(bytes, &mut |line, _| {
        if let Line::Differs { at, then, now } = line
            && differing.len() < 3
        {
            differing.push(format!("{at:?}: then {then:?}, now {now:?}"));
        }
    });
    let summary = summary.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(summary.differences, 0, "{name}: {differing:#?}");
    assert_eq!(summary.digests[0], summary.digests[1], "{name}");
    assert_eq!(summary.damage, None, "{name}");
    summary
}

const HOUR: Duration = Duration::from_secs(3600);
/// One target each at our own default pace, a mishap every two hours.
const DAY: Day = Day {
    targets: 1,
    interval: Duration::from_millis(500),
    length: Duration::from_secs(24 * 3600),
    mishaps: Duration::from_secs(2 * 3600),
    traffic: false,
};

/// Some minutes of four uplinks with a mishap in each: short enough for a repository.
fn short() -> Vec<u8> {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    day::record(&Day { targets: 2, length: minutes(12), mishaps: minutes(2), traffic: true, ..DAY }).0
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces")
}

#[test]
fn the_committed_runs_replay_to_the_same_digests_on_every_machine() {
    if limits::BOARD != "host" {
        println!("skipped: they were recorded on board host, this is {}", limits::BOARD);
        return;
    }
    let bless = std::env::var_os("LINKWATCH_BLESS").is_some();
    let list = folder().join("digests");
    if bless {
        std::fs::write(folder().join("four-uplinks.lwt"), short()).expect("a writable folder");
        for seed in [3, 14, 159] {
            let longest = random::record(seed).expect("a good world").into_iter().max_by_key(Vec::len);
            let path = folder().join(format!("random-world-{seed}.lwt"));
            std::fs::write(path, longest.expect("a daemon")).expect("a writable folder");
        }
    }
    if bless {
        // Small ones for the fuzzers.
        let corpus = folder().join("../fuzz/corpus/trace");
        for seed in 0..6 {
            let run = random::record(seed).expect("a good world").into_iter().min_by_key(Vec::len);
            std::fs::write(corpus.join(format!("run-{seed}")), run.expect("a daemon")).expect("a writable folder");
        }
    }
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder()).expect("a folder") {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_some_and(|e| e == "lwt") {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let summary = same(&name, &std::fs::read(&path).expect("a readable file"));
            assert!(summary.actions > 50, "{name}: {} actions", summary.actions);
            found.insert(name, format!("{:016x} {} actions", summary.digests[0], summary.actions));
        }
    }
    let text: String = found.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
    if bless {
        std::fs::write(&list, &text).expect("a writable folder");
    }
    assert!(found.len() >= 5, "{found:?}");
    assert_eq!(std::fs::read_to_string(&list).expect("the digests"), text);
}

#[test]
fn random_worlds_replay_to_the_same_wishes() {
    let seeds = std::env::var("LINKWATCH_SEEDS").map_or(300, |n| n.parse().expect("LINKWATCH_SEEDS is a number"));
    let (mut runs, mut actions) = (0, 0);
    for seed in 0..seeds {
        for bytes in random::record(seed).expect("a good world") {
            actions += same(&format!("seed {seed}"), &bytes).actions;
            runs += 1;
        }
    }
    assert!(runs >= seeds && actions > 100 * seeds, "{runs} runs, {actions} actions");
}

#[test]
fn a_day_of_four_uplinks_fits_a_megabyte() {
    // Emulated machines live through two hours only.
    let hours = if cfg!(target_pointer_width = "64") { 24 } else { 2 };
    for (name, hours, day) in [
        ("1 target each, every 500 ms", hours, DAY),
        ("the same, with traffic on the one in use", hours.min(6), Day { traffic: true, ..DAY }),
        ("3 targets each, every 5 s", hours, Day { targets: 3, interval: Duration::from_secs(5), ..DAY }),
    ] {
        let (bytes, probes) = day::record(&Day { length: HOUR * hours, ..day });
        let start = std::time::Instant::now();
        let summary = same(name, &bytes);
        let times = summary.span.as_micros() / start.elapsed().as_micros().max(1);
        let bits = bytes.len() * 80 / probes as usize;
        println!(
            "{name}: {hours} h, {probes} probes, {} bytes, {}.{} bits a probe; {} events, {} actions, {times} x real time",
            bytes.len(),
            bits / 10,
            bits % 10,
            summary.events,
            summary.actions
        );
        // The first hours cost more: everything is learnt in them.
        assert!(bytes.len() <= (1 << 20) * (hours as usize + 1) / 24 - (1 << 20) / 24 * usize::from(hours == 24));
    }
}

/// The same run with the nth wish changed by `change`.
fn tampered(bytes: &[u8], change: &mut dyn FnMut(u64, &mut Action)) -> Vec<u8> {
    let mut reader = Reader::new(bytes).expect("a run");
    let mut writer = match reader.next().expect("whole") {
        Some(Step::State(state)) => {
            let engine = Box::new(postcard::from_bytes::<Engine>(state).expect("an engine"));
            Writer::new(&engine, 0)
        }
        other => panic!("{other:?}"),
    };
    let mut count = 0;
    while let Some(step) = reader.next().expect("whole") {
        match step {
            Step::State(_) => panic!("another state"),
            Step::Config(config, now) => {
                let config = postcard::from_bytes(config).expect("a configuration");
                writer.config(&config, now);
            }
            Step::Foreign => writer.foreign(),
            Step::Event(event, now) => drop(writer.event(event, now)),
            Step::Timeout(now) => drop(writer.timeout(now, now)),
            Step::Action(mut action, now) => {
                change(count, &mut action);
                count += 1;
                writer.action(Some(&action), now);
            }
            Step::Done(now) => writer.action(None, now),
        }
    }
    writer.finish(Ending::Stopped);
    writer.ready().to_vec()
}

fn shown(bytes: &[u8], what: Show) -> (bool, String) {
    let mut out = Vec::new();
    let fine = show::run(bytes, what, &mut out).expect("a run");
    (fine, String::from_utf8(out).expect("text"))
}

#[test]
fn a_wish_that_differs_is_shown_from_both_sides() {
    let bytes = short();
    // Written again it is the same run.
    let again = tampered(&bytes, &mut |_, _| {});
    assert_eq!(same("again", &again).digests, same("at first", &bytes).digests);
    let (fine, text) = shown(&again, Show::default());
    assert!(fine && text.contains("No action differs") && !text.contains("DIFFERS"), "{text}");
    let mut changed = 0;
    let other = tampered(&bytes, &mut |_, action| {
        if let Action::Route { route, .. } = action
            && changed == 0
        {
            route.metric += 1;
            changed += 1;
        }
    });
    let (fine, text) = shown(&other, Show::default());
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("DIFFERS")).collect();
    assert!(!fine && lines.len() == 1 && text.contains("1 actions differ"), "{text}");
    let sides: Vec<&str> = lines[0].split("; now: ").collect();
    assert!(sides.len() == 2 && sides.iter().all(|side| side.contains(" route ")) && !sides[0].ends_with(sides[1]));
    // A token is in no sentence: then the bytes are shown.
    let other = tampered(&bytes, &mut |n, action| {
        if let (20.., Action::Rule { token, .. }) = (n, action)
            && changed == 1
        {
            token.0 += 1;
            changed += 1;
        }
    });
    let (fine, text) = shown(&other, Show { json: true, ..Show::default() });
    assert!(changed < 2 || !fine && text.contains("\"kind\":\"differs\"") && text.contains(" = "), "{text}");
}

#[test]
fn from_and_to_choose_a_part() {
    let bytes = short();
    let (_, all) = shown(&bytes, Show::default());
    let (_, part) = shown(&bytes, Show { from: Some(100), to: Some(200), ..Show::default() });
    let seconds = |line: &str| line.trim_start().split('.').next().and_then(|s| s.parse::<u64>().ok());
    let times: Vec<u64> = part.lines().take(part.lines().count() - 3).filter_map(seconds).collect();
    assert!(!times.is_empty() && times.iter().all(|s| (100..200).contains(s)), "{part}");
    assert!(all.lines().count() > part.lines().count() && all.lines().last() == part.lines().last());
}

#[test]
fn what_is_no_run_of_ours_is_refused_by_name() {
    let bytes = short();
    let fails = |bytes: &[u8]| replay(bytes, &mut |_, _| {}).expect_err("refused");
    assert_eq!(fails(b""), Error::Magic);
    assert_eq!(fails(b"LWT"), Error::Magic);
    assert_eq!(fails(&bytes[1..]), Error::Magic);
    assert_eq!(fails(b"LWTR"), Error::Head);
    let mut other = bytes.clone();
    other[4] = VERSION + 1;
    assert_eq!(fails(&other), Error::Version(VERSION + 1));
    assert!(fails(&other).to_string().contains(&format!("reads {VERSION}")));
    // The head: program, board, time, start, and the limits behind their count.
    let mut other = bytes.clone();
    let board = other.windows(4).position(|w| w == b"host").unwrap_or_else(|| panic!("no board"));
    if limits::BOARD == "host" {
        other[board..board + 4].copy_from_slice(b"tiny");
        let limits = other.windows(2).position(|w| w == [17, limits::UPLINKS as u8]).expect("the limits");
        other[limits + 1] += 1;
        let text = fails(&other).to_string();
        let want = format!("board tiny with uplinks = {}", limits::UPLINKS + 1);
        assert!(text.contains(&want) && text.contains("LINKWATCH_BOARD=tiny"), "{text}");
    }
    for len in 5..6 + usize::from(bytes[5]) {
        assert_eq!(fails(&bytes[..len]), Error::Head, "cut at {len}");
    }
}

#[test]
fn a_run_that_was_cut_or_damaged_is_read_up_to_there() {
    let bytes = short();
    let whole = same("whole", &bytes);
    assert_eq!(whole.ending, Ending::Stopped);
    let head = 6 + usize::from(bytes[5]);
    let mut frames = vec![head];
    while let Some([a, b]) = bytes.get(frames[frames.len() - 1]..).and_then(|rest| rest.first_chunk::<2>()) {
        let len = usize::from(u16::from_le_bytes([*a, *b]));
        let next = frames[frames.len() - 1] + if len == 0 { 3 } else { 6 + len };
        frames.push(next);
    }
    assert_eq!((frames.pop(), frames.len() > 3), (Some(bytes.len()), true));
    // Cut between frames: everything before counts, and it is said that the end is missing.
    for at in &frames[1..] {
        let cut = replay(&bytes[..*at], &mut |_, _| {}).expect("it begins well");
        assert_eq!((cut.differences, cut.ending, cut.damage), (0, Ending::Cut, None), "cut at {at}");
    }
    // Cut or damaged within one: the same, and where.
    for at in (frames[1]..bytes.len()).step_by(487) {
        let frame = *frames.iter().rev().find(|f| **f <= at).expect("a frame");
        let cut = replay(&bytes[..at], &mut |_, _| {}).expect("it begins well");
        assert_eq!((cut.differences, cut.ending), (0, Ending::Cut), "cut at {at}");
        assert!(at == frame || cut.damage == Some(Error::Frame { at: frame }), "cut at {at}: {:?}", cut.damage);
        if at % 2 == 0 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            if let Ok(summary) = replay(&damaged, &mut |_, _| {}) {
                assert_eq!(summary.differences, 0, "damaged at {at}");
                assert!(summary.damage.is_some() || at + 3 >= bytes.len(), "damaged at {at}");
            }
        }
    }
    let (fine, text) = shown(&bytes[..bytes.len() - 10], Show::default());
    assert!(!fine && text.contains("cut off (damaged at byte "), "{text}");
    // A sum that fits over nonsense is found by what it says, or shows as differences; it never breaks anything.
    let mut nonsense = bytes.clone();
    let (from, to) = (frames[2] + 6, frames[3]);
    nonsense[from..to].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(37));
    let sum = sum(&nonsense[from..to]).to_le_bytes();
    nonsense[frames[2] + 2..frames[2] + 6].copy_from_slice(&sum);
    let _ = replay(&nonsense, &mut |_, _| {});
}
