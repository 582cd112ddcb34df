//! Turns a board profile into constants: `LINKWATCH_BOARD` names `board/NAME.toml`, or a file.
//!
//! Unless it is set, a release is built for `large` and everything else for `host`: the small tables that tests fill
//! cannot ship by accident.
//!
//! A profile holds lines `key = number` and comments. `base.toml` has every key; a profile says what it has otherwise.
//! What is wrong stops the build with file and line. `src/limits.rs` says what the numbers mean and how they fit together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

fn main() {
    let boards = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("board");
    let release = env::var("PROFILE").is_ok_and(|p| p == "release");
    let unnamed = if release { "large" } else { "host" };
    let board = env::var("LINKWATCH_BOARD").unwrap_or_else(|_| unnamed.to_owned());
    let profile = match board.ends_with(".toml") {
        true => PathBuf::from(&board),
        false => boards.join(format!("{board}.toml")),
    };
    let name = profile.file_stem().and_then(|s| s.to_str()).unwrap_or("unnamed").to_owned();
    let constants = read(&boards.join("base.toml"), None)
        .and_then(|base| read(&profile, Some(&base)).map(|own| (base, own)))
        .map(|(base, own)| {
            let mut text = format!("pub const BOARD: &str = {name:?};\n");
            for (key, value) in base.into_iter().chain(own).collect::<BTreeMap<_, _>>() {
                text += &format!("pub const {}: usize = {value};\n", key.to_uppercase());
            }
            text
        });
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("limits.rs");
    match constants {
        Ok(text) => fs::write(out, text).expect("the output folder is writable"),
        Err(problem) => {
            eprintln!("error: {problem}");
            process::exit(1);
        }
    }
    println!("cargo::rerun-if-env-changed=LINKWATCH_BOARD");
    for file in [&profile, &boards.join("base.toml"), &boards.join("build.rs")] {
        println!("cargo::rerun-if-changed={}", file.display());
    }
}

/// Reads a profile; with `known` no other keys are allowed.
fn read(path: &Path, known: Option<&BTreeMap<String, u32>>) -> Result<BTreeMap<String, u32>, String> {
    let file = path.display();
    let text = fs::read_to_string(path).map_err(|e| format!("board profile {file}: {e}"))?;
    let mut values = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let at = at + 1;
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(format!("{file}:{at}: want key = number"))?;
        let (key, value) = (key.trim().to_owned(), value.trim().replace('_', ""));
        let value = value.parse().map_err(|e| format!("{file}:{at}: {key}: '{value}' is not a number: {e}"))?;
        if known.is_some_and(|known| !known.contains_key(&key)) {
            return Err(format!("{file}:{at}: no limit is called '{key}'; base.toml has them all"));
        }
        if values.insert(key.clone(), value).is_some() {
            return Err(format!("{file}:{at}: {key} is there twice"));
        }
    }
    Ok(values)
}
