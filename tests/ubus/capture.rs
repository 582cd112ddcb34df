//! Reads the recordings in `tests/captures/ubus`.

use std::path::PathBuf;

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the bus.
    ToBus,
    /// From the bus.
    FromBus,
}

/// A message of a recording.
#[derive(Clone, Debug)]
pub struct Line {
    /// Whose connection.
    pub conn: String,
    pub way: Way,
    /// A piece of a message, or several messages in one; else one whole message.
    pub odd: bool,
    pub bytes: Vec<u8>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/captures/ubus")
}

/// All recordings of conversations.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("the recordings")
        .map(|e| e.expect("a readable folder").file_name().into_string().expect("a plain name"))
        .filter(|n| n.ends_with(".hex"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 22, "recordings are missing");
    names
}

/// One recording; `name` is its number.
pub fn read(name: &str) -> Vec<Line> {
    let file = names().into_iter().find(|n| n.starts_with(name)).unwrap_or_else(|| panic!("no recording {name}"));
    let text = std::fs::read_to_string(folder().join(&file)).expect("a readable recording");
    let mut lines = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [conn, way, bytes] = words[..] else { panic!("{file}: {line:.60}") };
        let to_bus = way.starts_with('>');
        assert!(to_bus || way.starts_with('<'), "{file}: {line:.60}");
        lines.push(Line {
            conn: conn.to_owned(),
            way: if to_bus { Way::ToBus } else { Way::FromBus },
            odd: way.len() > 1,
            bytes: hex(bytes),
        });
    }
    lines
}

/// Rows of a table, without its comments.
pub fn table(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(folder().join(name)).expect("a readable table");
    let rows = text.lines().filter(|l| !l.starts_with("# ") && !l.is_empty());
    rows.map(|l| l.split('\t').map(str::to_owned).collect()).collect()
}

/// Bytes of hexadecimal text; `{42*3}` is 424242.
pub fn hex(text: &str) -> Vec<u8> {
    let byte = |t: &str| u8::from_str_radix(t, 16).unwrap_or_else(|_| panic!("no hexadecimal: {t:.60}"));
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(run) = rest.strip_prefix('{') {
            let (run, after) = run.split_once('}').expect("a run ends");
            let (value, count) = run.split_once('*').expect("a run counts");
            bytes.extend(std::iter::repeat_n(byte(value), count.parse().expect("a number")));
            rest = after;
        } else {
            bytes.push(byte(&rest[..2]));
            rest = &rest[2..];
        }
    }
    bytes
}
