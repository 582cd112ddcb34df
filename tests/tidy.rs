//! House rules that the compiler does not know: who may import whom, where clocks and `unsafe` may be, how files open.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(folder)];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// The code of a file without comments and without its tests.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]").next().unwrap_or("");
    body.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn forbid(folder: &str, words: &[&str], except: &[&str]) {
    let mut broken = Vec::new();
    for (path, text) in sources(folder) {
        let test = path.ends_with("tests.rs") || path.components().any(|c| c.as_os_str() == "tests");
        if except.iter().any(|e| path.ends_with(e)) || test && path.starts_with(root().join("src")) {
            continue;
        }
        let code = code(&text);
        for word in words.iter().filter(|w| code.contains(**w)) {
            broken.push(format!("{}: {word}", path.display()));
        }
    }
    assert!(broken.is_empty(), "not allowed here:\n{}", broken.join("\n"));
}

#[test]
fn the_engine_imports_core_heapless_and_serde_only() {
    let words = [
        "std::",
        "alloc::",
        "neli",
        "smol",
        "libc",
        "postcard",
        "syslog",
        "crate::proto",
        "crate::sys",
        "crate::sim",
        "async ",
    ];
    forbid("src/engine", &words, &[]);
}

#[test]
fn the_engine_has_no_floats_no_panics_and_no_clock() {
    let words = [
        "f32",
        "f64",
        ".unwrap()",
        ".expect(",
        "panic!",
        "unreachable!",
        "todo!",
        "Instant::now",
        "println!",
        "unsafe",
    ];
    forbid("src/engine", &words, &[]);
}

#[test]
fn codecs_do_no_io_and_never_import_the_shell() {
    let words = [
        "crate::sys",
        "crate::sim",
        "smol",
        "std::fs",
        "std::net::Udp",
        "libc::",
        "Instant::now",
        "unsafe",
        ".unwrap()",
        "panic!",
    ];
    forbid("src/proto", &words, &[]);
}

#[test]
fn the_shell_never_imports_the_pretend_world_and_starts_no_process_or_thread() {
    let words = ["crate::sim", "smol::fs", "smol::process", "unblock(", "smol::spawn", "thread::spawn"];
    forbid("src/sys", &words, &[]);
}

#[test]
fn the_loop_waits_with_our_own_means() {
    // smol's reactor and its thread would wake beside us: `sys/wait.rs` says what that costs.
    forbid("src", &["smol::Async", "smol::Timer", "smol::block_on", "smol::{"], &["sys/wait.rs"]);
}

#[test]
fn only_two_files_start_a_program_and_not_on_the_way_to_a_switch() {
    for folder in ["src/engine", "src/proto", "src/sim", "src/sys"] {
        let system = ["process::Command", "Command::new", "libc::fork", "libc::posix_spawn", "libc::exec"];
        forbid(folder, &system, &["sys/process.rs"]);
        let ours = ["process::spawn(", "become_program("];
        forbid(folder, &ours, &["sys/nft.rs", "sys/bind.rs", "sys/process.rs"]);
    }
}

#[test]
fn the_pretend_world_never_imports_the_shell_and_waits_for_nothing() {
    let words = ["crate::sys", "smol", "libc", "thread::sleep", "std::fs"];
    forbid("src/sim", &words, &[]);
}

#[test]
fn only_one_file_reads_the_clock() {
    for folder in ["src/engine", "src/proto", "src/sim", "src/sys"] {
        forbid(folder, &["Instant::now", "SystemTime"], &["sys/clock.rs"]);
    }
}

#[test]
fn nothing_uses_64_bit_atomics() {
    forbid("src", &["AtomicU64", "AtomicI64"], &[]);
    forbid("tests", &["AtomicU64", "AtomicI64"], &["tidy.rs"]);
}

#[test]
fn every_file_opens_with_what_it_decides() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("board")) {
        let first = text.lines().next().unwrap_or("");
        assert!(first.starts_with("//! ") && first.len() > 12, "{} opens with {first:?}", path.display());
    }
}

#[test]
fn no_file_is_longer_than_anybody_reads() {
    let long: Vec<String> = sources("src")
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .map(|(path, lines)| format!("{}: {lines} lines, at most 600", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Everything that is committed, but for what builds leave behind.
fn committed() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root().to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match path.is_dir() {
                true if [".git", "target", "artifacts"].contains(&name.as_str()) => {}
                true => todo.push(path),
                // In a worktree .git is a file.
                false if name == ".git" => {}
                false => found.push(path),
            }
        }
    }
    found
}

#[test]
fn nothing_names_the_place_where_it_was_written() {
    // Put together here, so that this file does not name them either.
    let words =
        ["/wo", "../sh", "/ro", "/ho"].into_iter().zip(["rk/", "ared", "ot/", "me/"]).map(|(a, b)| [a, b].concat());
    let words: Vec<String> = words.collect();
    let mut broken = Vec::new();
    for path in committed() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (at, line) in text.lines().enumerate() {
            for word in words.iter().filter(|w| line.contains(w.as_str())) {
                broken.push(format!("{}:{}: {word}", path.display(), at + 1));
            }
        }
    }
    assert!(broken.is_empty(), "paths of somebody's machine:\n{}", broken.join("\n"));
}

#[test]
fn unsafe_is_explained_each_time() {
    for (path, text) in sources("src") {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if code.contains("unsafe {") || code.contains("unsafe impl") {
                let near = lines[at.saturating_sub(4)..=at].join("\n");
                assert!(near.contains("SAFETY:"), "{}:{}: unsafe without SAFETY", path.display(), at + 1);
            }
        }
    }
}

#[test]
fn every_dependency_has_its_reason_beside_it() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let dependencies = manifest.split("[dependencies]").nth(1).and_then(|t| t.split("\n[").next()).expect("a section");
    let mut reason = false;
    for line in dependencies.lines().filter(|l| !l.is_empty()) {
        assert!(line.starts_with('#') || reason, "no reason above: {line}");
        reason = line.starts_with('#');
    }
}

/// What a reader of options compares with: the words of lines like `"gateway" | "metric" => …`.
fn option_words() -> Vec<String> {
    let readers = sources("src/proto").into_iter().filter(|(path, _)| path.to_string_lossy().contains("config_file"));
    let mut words = Vec::new();
    for (_, text) in readers {
        for line in text.lines().map(str::trim).filter(|l| l.starts_with('"') && l.contains("=>")) {
            let arms = line.split("=>").next().unwrap_or("");
            words.extend(arms.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let flags = ["1", "0", "on", "off", "true", "false", "yes", "no", "enabled", "disabled", "ms", "s", "m", ""];
    words.retain(|w| !flags.contains(&w.as_str()));
    words
}

#[test]
fn the_readme_names_every_option() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let words = option_words();
    assert!(words.len() > 30, "found only {words:?}");
    let missing: Vec<&String> = words.iter().filter(|w| !readme.contains(&format!("`{w}`"))).collect();
    assert!(missing.is_empty(), "README.md does not name: {missing:?}");
}

#[test]
fn the_top_level_is_the_one_that_was_agreed() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "cross.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "src",
        "board",
        "openwrt",
        "tests",
        "target",
    ];
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("a readable folder") {
        let name = entry.expect("a readable folder").file_name().into_string().expect("a plain name");
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name} has no place at the top level");
    }
}
