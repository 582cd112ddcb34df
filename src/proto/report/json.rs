//! A report as JSON (RFC 8259): always valid, whatever the names hold.

use core::fmt::Write;

use super::Sink;

/// Writes JSON into any text. What the text does not take is lost and counted.
pub struct Json<'a> {
    out: &'a mut dyn Write,
    /// Whether each open level has had a field, innermost last, one bit each; deeper than 32 levels nothing nests here.
    comma: u32,
    /// Which levels are arrays, likewise.
    arrays: u32,
    depth: u32,
    failed: bool,
}

impl<'a> Json<'a> {
    /// A writer whose first field opens the text.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out, comma: 0, arrays: 0, depth: 0, failed: false }
    }

    /// Whether everything was taken.
    pub fn is_whole(&self) -> bool {
        !self.failed
    }

    fn put(&mut self, text: impl core::fmt::Display) {
        self.failed |= write!(self.out, "{text}").is_err();
    }

    fn name(&mut self, name: &str) {
        if self.comma & 1 != 0 {
            self.put(',');
        }
        self.comma |= 1;
        if self.depth > 0 && self.arrays & 1 == 0 {
            self.string(name);
            self.put(':');
        }
    }

    fn string(&mut self, text: &str) {
        self.put('"');
        for c in text.chars() {
            match c {
                '"' => self.put("\\\""),
                '\\' => self.put("\\\\"),
                c if c < ' ' => self.put(format_args!("\\u{:04x}", u32::from(c))),
                c => self.put(c),
            }
        }
        self.put('"');
    }

    fn open(&mut self, name: &str, bracket: char, array: bool) {
        self.name(name);
        self.put(bracket);
        self.comma <<= 1;
        self.arrays = self.arrays << 1 | u32::from(array);
        self.depth += 1;
    }
}

impl Sink for Json<'_> {
    fn table(&mut self, name: &str) {
        self.open(name, '{', false);
    }

    fn array(&mut self, name: &str) {
        self.open(name, '[', true);
    }

    fn end(&mut self) {
        let array = self.arrays & 1 != 0;
        self.put(if array { ']' } else { '}' });
        self.comma >>= 1;
        self.arrays >>= 1;
        self.depth = self.depth.saturating_sub(1);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.string(value);
    }

    fn number(&mut self, name: &str, value: i64) {
        self.name(name);
        self.put(value);
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        self.put(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_arrays_and_odd_texts_are_valid() {
        let mut text = String::new();
        let mut json = Json::new(&mut text);
        json.table("");
        json.text("a\"b", "x\n\\y");
        json.array("list");
        json.number("", -1);
        json.table("");
        json.flag("t", true);
        json.end();
        json.end();
        json.table("empty");
        json.end();
        json.end();
        assert_eq!(text, r#"{"a\"b":"x\u000a\\y","list":[-1,{"t":true}],"empty":{}}"#);
    }
}
