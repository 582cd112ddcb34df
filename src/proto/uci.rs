//! UCI text: sections, options and lists, each with its line.
//!
//! `config TYPE ['NAME']`, `option KEY 'VALUE'`, `list KEY 'VALUE'`, `package NAME`, `#` comments; single quotes, double
//! quotes with backslashes, and pieces that touch are one word. Bounded: at most [`SIZE_MAX`] bytes. Runs when the
//! configuration changes, so it may allocate. Source: libuci's `file.c` for what is accepted.

use std::fmt;

/// The longest configuration, in bytes: 60 uplinks with everything said about them take a tenth.
pub const SIZE_MAX: usize = 256 * 1024;

/// A section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Line of its `config`.
    pub line: usize,
    /// `interface`, `policy`, …
    pub kind: String,
    /// Its name; empty when anonymous.
    pub name: String,
    /// Its options and the values of its lists, in order.
    pub options: Vec<Value>,
}

/// A value of an option, or one value of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its line.
    pub line: usize,
    /// The option's name.
    pub key: String,
    /// The value.
    pub value: String,
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line, from 1; 0 for the whole file.
    pub line: usize,
    /// `section.option`, or as much of it as applies.
    pub place: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Diagnostic {
    /// `FILE:LINE: section.option: what is wrong`.
    pub fn show<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            write!(f, "{file}:{}: ", self.line)?;
            if !self.place.is_empty() {
                write!(f, "{}: ", self.place.escape_default())?;
            }
            // What was quoted from the file must not reach a terminal as it is.
            for c in self.message.chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            Ok(())
        })
    }
}

/// Reads the sections of a file; everything that is wrong is named, not just the first.
pub fn sections(text: &[u8]) -> (Vec<Section>, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let mut error = |line, message: String| errors.push(Diagnostic { line, place: String::new(), message });
    if text.len() > SIZE_MAX {
        error(0, format!("longer than {SIZE_MAX} bytes"));
        return (Vec::new(), errors);
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(bad) => {
            let good = text.iter().take(bad.valid_up_to()).filter(|b| **b == b'\n').count();
            error(good.saturating_add(1), "not text: bytes that are no UTF-8".to_owned());
            return (Vec::new(), errors);
        }
    };
    let mut sections: Vec<Section> = Vec::new();
    for (at, line_text) in text.lines().enumerate() {
        let line = at.saturating_add(1);
        let mut words = match words(line_text) {
            Ok(words) => words,
            Err(message) => {
                error(line, message.to_owned());
                continue;
            }
        };
        let count = words.len();
        let Some(first) = words.first_mut().map(std::mem::take) else { continue };
        let mut last = || words.pop().unwrap_or_default();
        match (first.as_str(), count) {
            ("package", 2) => {}
            ("config", 2 | 3) => {
                let name = if count == 3 { last() } else { String::new() };
                sections.push(Section { line, kind: last(), name, options: Vec::new() });
            }
            ("option" | "list", 3) => match sections.last_mut() {
                Some(section) => {
                    let value = last();
                    section.options.push(Value { line, key: last(), value });
                }
                None => error(line, format!("'{first}' before any 'config'")),
            },
            _ => {
                let shown = first.escape_default();
                error(
                    line,
                    format!(
                        "'{shown}' with {count} words: want config TYPE [NAME], option KEY VALUE or list KEY VALUE"
                    ),
                );
            }
        }
    }
    (sections, errors)
}

fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a control character");
    }
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("unterminated '")? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("unterminated \"")? {
                        '"' => break,
                        '\\' => word.push(chars.next().ok_or("unterminated \"")?),
                        c => word.push(c),
                    }
                }
            }
            '#' if word.is_none() => break,
            // What isspace(3) says of ASCII, as uci itself has it.
            ' ' | '\t'..='\r' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_join_and_comments_end_a_line() {
        let text = b"config interface wan # a comment\n\toption a 'x y'\"z\\\"\"\r\n\tlist b '' #no\n";
        let (sections, errors) = sections(text);
        assert_eq!(errors, []);
        assert_eq!(sections[0].name, "wan");
        assert_eq!(sections[0].options[0].value, "x yz\"");
        assert_eq!(sections[0].options[1].value, "");
    }

    #[test]
    fn each_bad_line_is_named() {
        let (_, errors) = sections(b"option a b\nconfig x 'y\nfoo\nconfig\n");
        let shown: Vec<String> = errors.iter().map(|e| e.show("f").to_string()).collect();
        assert_eq!(shown[0], "f:1: 'option' before any 'config'");
        assert_eq!(shown[1], "f:2: unterminated '");
        assert!(shown[2].starts_with("f:3: 'foo' with 1 words"), "{}", shown[2]);
        assert!(shown[3].starts_with("f:4: 'config' with 1 words"), "{}", shown[3]);
    }

    #[test]
    fn a_megabyte_or_binary_junk_is_refused_with_one_line() {
        assert_eq!(sections(&vec![b'x'; 1 << 20]).1.len(), 1);
        assert_eq!(sections(b"config a b\n\xff\xfe\n").1[0].line, 2);
    }
}
