//! A report as fields of blobmsg.

use heapless::Vec;

use crate::proto::blobmsg::DEPTH;
use crate::proto::blobmsg::write::{Open, Writer};
use crate::proto::report::Sink;

/// Writes a report into a message.
pub struct Fields<'w, 'b> {
    out: &'w mut Writer<'b>,
    open: Vec<Open, { DEPTH as usize }>,
    /// Containers that were too deep to be opened: none of our reports has any.
    refused: u32,
}

impl<'w, 'b> Fields<'w, 'b> {
    /// Into this message, at the place where it is.
    pub fn new(out: &'w mut Writer<'b>) -> Self {
        Self { out, open: Vec::new(), refused: 0 }
    }

    fn opened(&mut self, open: Open) {
        if let Err(open) = self.open.push(open) {
            self.out.close(open);
            self.refused = self.refused.saturating_add(1);
        }
    }
}

impl Sink for Fields<'_, '_> {
    fn table(&mut self, name: &str) {
        let open = self.out.open_table(name);
        self.opened(open);
    }

    fn array(&mut self, name: &str) {
        let open = self.out.open_array(name);
        self.opened(open);
    }

    fn end(&mut self) {
        if self.refused > 0 {
            self.refused -= 1;
        } else if let Some(open) = self.open.pop() {
            self.out.close(open);
        }
    }

    fn text(&mut self, name: &str, value: &str) {
        self.out.str(name, value);
    }

    fn number(&mut self, name: &str, value: i64) {
        self.out.int(name, value);
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.out.bool(name, value);
    }
}

/// Writes lines as an array of at most `most` bytes. A list that is longer ends with how many lines are missing.
pub fn lines(out: &mut Writer<'_>, name: &str, lines: &[String], most: usize) {
    /// A line's header, its NUL and its padding.
    const EACH: usize = 12;
    /// The last line, when some are missing.
    const LAST: usize = 48;
    out.array(name, |out| {
        let begin = out.len();
        for (at, line) in lines.iter().enumerate() {
            let used = (out.len() - begin).saturating_add(line.len()).saturating_add(EACH);
            let last = if at + 1 == lines.len() { 0 } else { LAST };
            if used.saturating_add(last) > most {
                out.show("", &format_args!("... {} more lines", lines.len() - at));
                return;
            }
            out.str("", line);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_whole_or_ends_with_how_much_is_missing() {
        let all: Vec<String, 100> = (0..100).map(|n| format!("line {n}")).collect();
        let mut buf = [0; 4096];
        let mut shown = |most: usize| -> std::vec::Vec<String> {
            let mut writer = Writer::new(&mut buf);
            lines(&mut writer, "changes", &all, most);
            let len = writer.finish().expect("it fits");
            assert!(len <= most.max(48) + 24, "{len} bytes of {most}");
            let list = List::new(&buf[..len]);
            assert_eq!(list.check(), Ok(()));
            list.array("changes").filter_map(|v| v.as_str()).map(str::to_owned).collect()
        };
        assert_eq!(shown(3000), all[..]);
        let cut = shown(400);
        let (last, whole) = cut.split_last().expect("some");
        assert_eq!(whole, &all[..whole.len()]);
        assert!(whole.len() > 10, "{cut:?}");
        assert_eq!(*last, format!("... {} more lines", 100 - whole.len()));
        assert_eq!(shown(0), ["... 100 more lines"]);
    }
    use crate::proto::blobmsg::List;

    #[test]
    fn tables_and_arrays_nest_and_close() {
        let mut buf = [0; 256];
        let mut writer = Writer::new(&mut buf);
        let mut fields = Fields::new(&mut writer);
        fields.table("wan");
        fields.array("addresses");
        fields.text("", "192.0.2.1");
        fields.end();
        fields.flag("up", true);
        fields.end();
        fields.number("count", 3_000_000_000);
        let len = writer.finish().expect("it fits");
        let list = List::new(&buf[..len]);
        assert_eq!(list.check(), Ok(()));
        assert_eq!(list.table("wan").array("addresses").next().and_then(|v| v.as_str()), Some("192.0.2.1"));
        assert!(list.table("wan").bool("up"));
        assert_eq!(list.int("count"), Some(3_000_000_000));
    }
}
