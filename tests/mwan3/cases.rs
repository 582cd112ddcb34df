//! Reads `cases.txt` and `expected.txt`: configurations that build on a base, and the facts that mwan3 made of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Facts by their kind (`ipv4 rule`), each kind in the order in which mwan3 says it.
pub type Facts = BTreeMap<String, Vec<String>>;

/// A section: its type, its name, its options with whether they are of a list.
struct Section<'a> {
    kind: &'a str,
    name: &'a str,
    options: Vec<(&'a str, &'a str, bool)>,
}

fn blocks(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            Some(name) => all.push((name, Vec::new())),
            None => all.last_mut().expect("a heading comes first").1.push(line),
        }
    }
    all
}

fn find<'a, 's>(sections: &'s mut [Section<'a>], path: &'a str) -> (&'s mut Section<'a>, &'a str) {
    let (name, option) = path.split_once('.').unwrap_or_else(|| panic!("{path}: want NAME.OPTION"));
    let section = sections.iter_mut().find(|s| s.name == name);
    (section.unwrap_or_else(|| panic!("{path}: no such section")), option)
}

fn edit<'a>(sections: &mut Vec<Section<'a>>, line: &'a str) {
    if let Some(section) = line.strip_prefix("+ ") {
        let (kind, name) = section.split_once(' ').expect("+ TYPE NAME");
        sections.push(Section { kind, name, options: Vec::new() });
    } else if let Some(path) = line.strip_prefix("- ") {
        let (section, option) = find(sections, path);
        section.options.retain(|(key, ..)| *key != option);
    } else {
        let (path, value) = line.split_once(' ').expect("NAME.OPTION VALUE");
        let (section, option) = find(sections, path);
        match value.strip_prefix("+= ") {
            Some(more) => section.options.push((option, more, true)),
            None => {
                section.options.retain(|(key, ..)| *key != option);
                section.options.push((option, value, false));
            }
        }
    }
}

fn written(sections: &[Section<'_>]) -> String {
    let mut text = String::new();
    for Section { kind, name, options } in sections {
        let _ = writeln!(text, "config {kind} '{name}'");
        for (key, value, list) in options {
            let _ = writeln!(text, "\t{} {key} '{value}'", if *list { "list" } else { "option" });
        }
    }
    text
}

/// All configurations by name, as UCI text.
pub fn configurations(text: &str) -> Vec<(String, String)> {
    let blocks = blocks(text);
    let base = &blocks.first().expect("the base comes first").1;
    let mut all = Vec::new();
    for (name, lines) in &blocks {
        let mut sections = Vec::new();
        if !["base", "shipped"].contains(name) {
            base.iter().for_each(|line| edit(&mut sections, line));
        }
        lines.iter().for_each(|line| edit(&mut sections, line));
        all.push(((*name).to_owned(), written(&sections)));
    }
    all
}

/// The kind of a fact.
pub fn kind(fact: &str) -> String {
    match fact.split_whitespace().collect::<Vec<_>>().as_slice() {
        [alone @ ("mask" | "bypass"), ..] => (*alone).to_owned(),
        [family, what, ..] => format!("{family} {what}"),
        _ => panic!("{fact:?} is no fact"),
    }
}

/// What mwan3 made of each configuration.
pub fn expected(text: &str) -> BTreeMap<String, Facts> {
    let mut all: BTreeMap<String, Facts> = BTreeMap::new();
    for (name, lines) in blocks(text) {
        let mut own = Facts::new();
        for line in lines {
            match line.strip_prefix("none ") {
                Some(kind) => drop(own.insert(kind.to_owned(), Vec::new())),
                None => own.entry(kind(line)).or_default().push(line.to_owned()),
            }
        }
        let mut facts = all.get("base").cloned().unwrap_or_default();
        facts.extend(own);
        facts.retain(|_, lines| !lines.is_empty());
        all.insert(name.to_owned(), facts);
    }
    all
}
