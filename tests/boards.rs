//! Board profiles: every one is readable, the table in `board/README.md` tells of each, and what is wrong is named with
//! its file and line.

#[path = "../board/build.rs"]
#[allow(dead_code)]
mod build;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("board"))
        .expect("the folder is there")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    names
}

#[test]
fn every_board_is_readable_and_in_the_table() {
    let table = fs::read_to_string(root().join("board/README.md")).expect("the table is there");
    let names = names();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let board = build::load(root(), &name).unwrap_or_else(|problem| panic!("{problem}"));
        let row = table.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("board/README.md has no row for {name}"));
        for (key, word) in &board.words {
            assert!(row.contains(word.as_str()), "{name}: the row does not say {key} {word}: {row}");
        }
    }
}

#[test]
fn the_memory_classes_keep_their_promise() {
    for (name, [uplinks, targets, policies, rules]) in [("small", [8, 4, 16, 32]), ("large", [60, 8, 60, 256])] {
        let numbers = build::load(root(), name).expect("it is readable").numbers;
        let of = |key: &str| *numbers.get(key).expect("base.toml has it");
        assert!(of("uplinks") >= uplinks && of("targets") >= targets, "{name}: {numbers:?}");
        assert!(of("policies") >= policies && of("policy_rules") >= rules, "{name}: {numbers:?}");
    }
}

#[test]
fn a_device_inherits_and_overrides() {
    let small = build::load(root(), "small").expect("it is readable");
    let device = build::load(root(), "glinet_gl-mt300n-v2").expect("it is readable");
    assert_eq!(device.words.get("openwrt").map(String::as_str), Some("ramips/mt76x8"));
    assert_eq!(device.numbers.get("netlink_rx"), small.numbers.get("netlink_rx"), "inherited");
    assert!(device.numbers.get("uplinks") < small.numbers.get("uplinks"), "overridden");
    assert_eq!(device.numbers.len(), small.numbers.len());
}

/// A repository with two lines in its `base.toml`, and one profile `p`.
fn problem(case: &str, profile: &str) -> String {
    let folder = folder(case, "uplinks = 4\nnotices = 16\n", "board::UPLINKS; board::NOTICES;");
    fs::write(folder.join("board/p.toml"), profile).expect("it can be written");
    let problem = build::load(&folder, "p").expect_err("it is wrong");
    problem.replace(&format!("{}/", folder.display()), "")
}

fn folder(case: &str, base: &str, limits: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boards").join(case);
    for part in ["board", "src"] {
        fs::create_dir_all(folder.join(part)).expect("the folder can be made");
    }
    fs::write(folder.join("board/base.toml"), base).expect("it can be written");
    fs::write(folder.join("src/limits.rs"), limits).expect("it can be written");
    folder
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    for (case, profile, want) in [
        ("typo", "# x\nuplink = 3\n", "board/p.toml:2: no limit is called 'uplink'; base.toml has them all"),
        ("twice", "uplinks = 3\nuplinks = 4\n", "board/p.toml:2: uplinks is there twice, first in line 1"),
        (
            "text",
            "uplinks = three\n",
            "board/p.toml:1: uplinks: 'three' is not a number: invalid digit found in string",
        ),
        ("shape", "\nuplinks 3\n", "board/p.toml:2: want key = number or key = \"word\""),
        ("quotes", "inherit = small\n", "board/p.toml:1: inherit: want a word in quotes"),
        ("itself", "inherit = \"p\"\n", "board/p.toml:1: inherits from itself, or from too far away"),
        (
            "half",
            "triple = \"t\"\ntier = \"1\"\n",
            "board/p.toml:1: a device wants triple, openwrt, tier; 'openwrt' is missing",
        ),
    ] {
        assert_eq!(problem(case, profile), want);
    }
    let missing = problem("parent", "uplinks = 3\ninherit = \"nobody\"\n");
    assert!(missing.starts_with("board/p.toml:2: inherits 'nobody', but board/nobody.toml: "), "{missing}");
}

#[test]
fn base_and_limits_name_the_same_keys() {
    let missing = folder("missing", "uplinks = 4\n", "\nboard::UPLINKS; board::NOTICES;");
    let text = build::load(&missing, "base").expect_err("notices is missing");
    assert!(text.contains("base.toml: 'notices' is missing; ") && text.ends_with("limits.rs:2 wants it"), "{text}");
    let idle = folder("idle", "uplinks = 4\nidle = 1\n", "board::UPLINKS");
    let text = build::load(&idle, "base").expect_err("nothing uses idle");
    assert!(text.ends_with("base.toml:2: nothing in src/limits.rs uses 'idle'"), "{text}");
}

/// A small TOML reader: tables of keys with their values as they stand. cross reads more, but nothing more is there.
fn tables(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            assert!(found.iter().all(|(other, _)| other != name), "[{name}] is there twice");
            found.push((name.to_owned(), Vec::new()));
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no TOML: {line}"));
            let value = value.trim();
            let well = matches!(value, "true" | "false")
                || [("\"", "\""), ("[", "]")].iter().any(|(a, z)| {
                    value.len() >= 2
                        && value.starts_with(a)
                        && value.ends_with(z)
                        && value.matches('"').count() % 2 == 0
                });
            assert!(well, "no value of TOML: {line}");
            let (_, keys) = found.last_mut().expect("a key before any table");
            keys.push((key.trim().to_owned(), value.to_owned()));
        }
    }
    found
}

#[test]
fn cross_is_told_to_build_the_standard_library_for_mips_and_nothing_that_it_does_not_know() {
    // cross-rs 0.2.5, docs/config_file.md. build-std is true or false there, never a list.
    let known = ["xargo", "build-std", "pre-build", "dockerfile", "image", "runner"];
    let file = tables(&std::fs::read_to_string("cross.toml").expect("it is there"));
    for (table, keys) in &file {
        assert!(table.starts_with("target."), "[{table}]");
        for (key, value) in keys {
            assert!(known.contains(&key.as_str()), "{table}: cross knows no {key}");
            assert!(key != "build-std" || matches!(value.as_str(), "true" | "false"), "{table}: {key} = {value}");
        }
    }
    let cargo = tables(&std::fs::read_to_string(".cargo/config.toml").expect("it is there"));
    for triple in ["mipsel-unknown-linux-musl", "mips-unknown-linux-musl"] {
        let name = format!("target.{triple}");
        let of = |file: &[(String, Vec<(String, String)>)], key: &str| {
            let (_, keys) = file.iter().find(|(table, _)| *table == name)?;
            keys.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
        };
        assert_eq!(of(&file, "build-std").as_deref(), Some("true"), "{triple}");
        // cross runs cargo in this folder, so cargo's own file has the flag without which no timer fires.
        assert_eq!(of(&cargo, "rustflags").as_deref(), Some("[\"--cfg=fix_y2038\"]"), "{triple}");
    }
}

#[test]
fn every_flag_of_a_release_is_for_machines_that_there_are() {
    let machines = ["all", "mips", "mipsel", "arm", "aarch64", "x86_64"];
    let text = std::fs::read_to_string("board/release.flags").expect("it is there");
    let mut count = 0;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(words.len() == 2 && words[1].starts_with('-'), "{line}");
        assert!(words[0].split(',').all(|machine| machines.contains(&machine)), "{line}");
        count += 1;
    }
    assert!(count > 10, "{count} flags");
}
