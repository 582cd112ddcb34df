//! Fields written again, and shown.
// Each program that stands on it uses a part of it.
#![allow(dead_code)]

use std::fmt::Write as _;

use linkwatch::proto::blobmsg::write::Writer;
use linkwatch::proto::blobmsg::{Kind, List, Value};

/// Writes fields again by what they mean.
pub fn rewrite(list: List<'_>, w: &mut Writer<'_>) {
    for field in list.fields() {
        let field = field.expect("well-formed");
        let name = std::str::from_utf8(field.name).expect("UTF-8");
        match field.value {
            Value::Unspec(bytes) => w.raw(Kind::Unspec, field.name, bytes),
            Value::Array(inner) => w.array(name, |w| rewrite(inner, w)),
            Value::Table(inner) => w.table(name, |w| rewrite(inner, w)),
            Value::Str(text) => w.str(name, std::str::from_utf8(text).expect("UTF-8")),
            Value::Int64(n) => w.raw(Kind::Int64, field.name, &n.to_be_bytes()),
            Value::Int32(n) => w.int(name, n.into()),
            Value::Int16(n) => w.raw(Kind::Int16, field.name, &n.to_be_bytes()),
            Value::Bool(n) => w.raw(Kind::Bool, field.name, &[n]),
            Value::Double(n) => w.raw(Kind::Double, field.name, &n.to_be_bytes()),
        }
    }
}

/// JSON as the C library prints it.
pub fn json(list: List<'_>, named: bool) -> String {
    let mut text = String::from(if named { "{" } else { "[" });
    for (at, field) in list.fields().enumerate() {
        let field = field.expect("well-formed");
        if at > 0 {
            text.push(',');
        }
        if named && !field.name.is_empty() {
            write!(text, "\"{}\":", String::from_utf8_lossy(field.name)).expect("a string takes anything");
        }
        text += &match field.value {
            Value::Unspec(_) => "null".to_owned(),
            Value::Array(inner) => json(inner, false),
            Value::Table(inner) => json(inner, true),
            Value::Str(text) => quoted(std::str::from_utf8(text).expect("UTF-8")),
            Value::Bool(n) => (n != 0).to_string(),
            Value::Double(n) => format!("{:.6}", f64::from_bits(n)),
            number => number.as_int().expect("the rest is integers").to_string(),
        };
    }
    text.push(if named { '}' } else { ']' });
    text
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\n' => out += "\\n",
            '\t' => out += "\\t",
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            c if c < ' ' => write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes anything"),
            c => out.push(c),
        }
    }
    out + "\""
}
