//! Turns a board profile into constants: `LINKWATCH_BOARD` names `board/NAME.toml`, or a file. Without it a release
//! build takes `large`, so that no small table ships by accident, and a debug build takes `host`. `LINKWATCH_LEAN` set to
//! anything leaves out what a router can do without: `linkwatch replay`, a tenth of the program.
//!
//! A profile holds lines `key = number`, `key = "word"` and comments. `base.toml` has every number; a profile says what
//! it has otherwise, on top of the profile that it inherits. What is wrong stops the build with file and line.
//! `src/limits.rs` says what the numbers mean and how they fit together; every number has a constant there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// What a device says about itself; all of them or none. Tier 1 boots in every CI run, 2 before a release, 3 is built.
const WORDS: [&str; 3] = ["triple", "openwrt", "tier"];
/// Longest chain of `inherit`.
const DEPTH: usize = 4;

/// A profile with everything that it inherits.
#[derive(Debug, Default)]
pub struct Board {
    /// The file's name without `.toml`.
    pub name: String,
    /// Every limit and budget.
    pub numbers: BTreeMap<String, u32>,
    /// [`WORDS`], where the profile itself has them.
    pub words: BTreeMap<String, String>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let usual = if env::var("PROFILE").is_ok_and(|p| p == "release") { "large" } else { "host" };
    let board = env::var("LINKWATCH_BOARD").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| usual.to_owned());
    println!("cargo::rerun-if-env-changed=LINKWATCH_BOARD");
    println!("cargo::rerun-if-env-changed=LINKWATCH_LEAN");
    println!("cargo::rustc-check-cfg=cfg(lean)");
    if env::var("LINKWATCH_LEAN").is_ok_and(|lean| !lean.is_empty()) {
        println!("cargo::rustc-cfg=lean");
    }
    for file in ["board/build.rs", "board/base.toml", "src/limits.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let board = load(&root, &board).unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        process::exit(1);
    });
    for file in &board.files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let mut text = format!("pub const BOARD: &str = {:?};\n", board.name);
    for (key, value) in &board.numbers {
        text += &format!("pub const {}: usize = {value};\n", key.to_uppercase());
    }
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("limits.rs");
    fs::write(out, text).expect("the output folder is writable");
}

/// Reads a board, what it inherits and `base.toml`; `name` is a name or ends in `.toml`.
///
/// # Errors
/// One line, with the file and the line in it.
pub fn load(root: &Path, name: &str) -> Result<Board, String> {
    let boards = root.join("board");
    let file_of = |name: &str| match name.ends_with(".toml") {
        true => PathBuf::from(name),
        false => boards.join(format!("{name}.toml")),
    };
    let base_file = boards.join("base.toml");
    let base = read(&base_file)?;
    if let Some((key, (line, _))) = base.iter().find(|(_, (_, value))| value.is_err()) {
        return Err(format!("{}:{line}: {key} is no number", base_file.display()));
    }
    check_uses(&root.join("src/limits.rs"), &base_file, &base)?;

    let profile = file_of(name);
    let mut board = Board { name: stem(&profile), ..Board::default() };
    let mut next = Some((profile, None));
    while let Some((file, from)) = next.take() {
        let shown = file.display();
        let own = read(&file).map_err(|problem| match &from {
            Some(from) if !file.exists() => format!("{from}: inherits '{}', but {problem}", stem(&file)),
            _ => problem,
        })?;
        board.files.push(file.clone());
        let first = board.files.len() == 1;
        for (key, (line, value)) in own {
            match value {
                Err(parent) if key == "inherit" => {
                    if board.files.len() >= DEPTH {
                        return Err(format!("{shown}:{line}: inherits from itself, or from too far away"));
                    }
                    next = Some((file_of(&parent), Some(format!("{shown}:{line}"))));
                }
                Err(word) if WORDS.contains(&key.as_str()) && first => drop(board.words.insert(key, word)),
                Err(_) if WORDS.contains(&key.as_str()) => {}
                Err(_) => return Err(format!("{shown}:{line}: {key} wants a number")),
                Ok(_) if !base.contains_key(&key) => {
                    return Err(format!("{shown}:{line}: no limit is called '{key}'; base.toml has them all"));
                }
                Ok(number) => drop(board.numbers.entry(key).or_insert(number)),
            }
        }
        let missing = WORDS.iter().find(|word| !board.words.contains_key(**word));
        if let Some(missing) = missing.filter(|_| first && !board.words.is_empty()) {
            return Err(format!("{shown}:1: a device wants {}; '{missing}' is missing", WORDS.join(", ")));
        }
    }
    for (key, (_, value)) in base {
        if let Ok(number) = value {
            board.numbers.entry(key).or_insert(number);
        }
    }
    Ok(board)
}

/// Every number of `base.toml` has a constant in `src/limits.rs`, and the other way round.
fn check_uses(limits: &Path, base_file: &Path, base: &Lines) -> Result<(), String> {
    let text = fs::read_to_string(limits).map_err(|e| format!("{}: {e}", limits.display()))?;
    let mut used = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        for rest in line.split("board::").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            used.entry(rest[..end].to_lowercase()).or_insert(at + 1);
        }
    }
    if let Some((key, line)) = used.iter().find(|(key, _)| !base.contains_key(*key) && *key != "board") {
        return Err(format!("{}: '{key}' is missing; {}:{line} wants it", base_file.display(), limits.display()));
    }
    match base.iter().find(|(key, _)| !used.contains_key(*key)) {
        Some((key, (line, _))) => Err(format!("{}:{line}: nothing in src/limits.rs uses '{key}'", base_file.display())),
        None => Ok(()),
    }
}

/// Keys with their line and their number, or their word as an `Err`.
type Lines = BTreeMap<String, (usize, Result<u32, String>)>;

fn read(path: &Path) -> Result<Lines, String> {
    let file = path.display();
    let text = fs::read_to_string(path).map_err(|e| format!("{file}: {e}"))?;
    let mut lines = Lines::new();
    for (at, line) in text.lines().enumerate() {
        let at = at + 1;
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(format!("{file}:{at}: want key = number or key = \"word\""))?;
        let (key, value) = (key.trim(), value.trim());
        let known_word = key == "inherit" || WORDS.contains(&key);
        let word = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let value = match (word, known_word) {
            (Some(word), true) if !word.is_empty() => Err(word.to_owned()),
            (_, true) => return Err(format!("{file}:{at}: {key}: want a word in quotes")),
            (_, false) => match value.replace('_', "").parse() {
                Ok(number) => Ok(number),
                Err(e) => return Err(format!("{file}:{at}: {key}: '{value}' is not a number: {e}")),
            },
        };
        if let Some((before, _)) = lines.insert(key.to_owned(), (at, value)) {
            return Err(format!("{file}:{at}: {key} is there twice, first in line {before}"));
        }
    }
    Ok(lines)
}

fn stem(path: &Path) -> String {
    path.file_stem().and_then(|s| s.to_str()).unwrap_or("unnamed").to_owned()
}
