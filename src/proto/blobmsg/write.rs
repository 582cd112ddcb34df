//! Writes blob attributes and blobmsg fields into a buffer of fixed size.
//!
//! What does not fit makes the whole message unfit: [`Writer::finish`] says so, nothing of it may be sent. Every
//! attribute is padded with zeroes, the last one too; a container's length counts the padding of all its members.

use super::{EXTENDED, Kind, LEN, WORD, header, pad};

/// The buffer is too small for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A container that is to be closed.
#[derive(Debug)]
#[must_use]
pub struct Open(usize);

/// Writes what is inside of something.
pub type Fill<'f> = &'f mut dyn FnMut(&mut Writer<'_>);

/// Writes attributes one after the other; containers are closures, so that none stays open.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut [u8],
    len: usize,
    full: bool,
}

impl<'a> Writer<'a> {
    /// At the begin of a buffer.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0, full: false }
    }

    /// Bytes as they are: a message's header.
    #[inline(never)]
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        match self.buf.get_mut(self.len..end) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len = end;
            }
            None => self.full = true,
        }
    }

    fn fill(&mut self) {
        let padding = pad(self.len) - self.len;
        self.put([0; 3].get(..padding).unwrap_or(&[]));
    }

    /// Ends the message; its length in bytes.
    ///
    /// # Errors
    /// [`Full`]: it did not fit.
    pub fn finish(self) -> Result<usize, Full> {
        if self.full { Err(Full) } else { Ok(self.len) }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether something did not fit.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Forgets what was written beyond `len`, also that it did not fit: for lists that may be cut short.
    pub fn rewind(&mut self, len: usize) {
        if len <= self.len {
            self.len = len;
            self.full = false;
        }
    }

    // --- blob --------------------------------------------------------------------------------------------------------

    fn begin(&mut self, word: u32) -> usize {
        let at = self.len;
        self.put(&word.to_be_bytes());
        at
    }

    /// Closes what [`Writer::open_table`] or [`Writer::open_array`] opened; innermost first.
    pub fn close(&mut self, open: Open) {
        self.end(open.0);
    }

    /// Opens a table for whoever cannot use a closure; in an array its name is "".
    pub fn open_table(&mut self, name: &str) -> Open {
        Open(self.open(Kind::Table, name.as_bytes()))
    }

    /// Opens an array for whoever cannot use a closure.
    pub fn open_array(&mut self, name: &str) -> Open {
        Open(self.open(Kind::Array, name.as_bytes()))
    }

    fn end(&mut self, at: usize) {
        let len = u32::try_from(self.len - at).unwrap_or(u32::MAX);
        match self.buf.get_mut(at..).and_then(|b| b.first_chunk_mut::<WORD>()) {
            Some(word) if len <= LEN && !self.full => *word = (u32::from_be_bytes(*word) & !LEN | len).to_be_bytes(),
            _ => self.full = true,
        }
        self.fill();
    }

    /// An attribute.
    pub fn attribute(&mut self, id: u8, payload: &[u8]) {
        let at = self.begin(u32::from(id & 0x7f) << 24);
        self.put(payload);
        self.end(at);
    }

    /// An attribute of four bytes.
    pub fn attribute_u32(&mut self, id: u8, value: u32) {
        self.attribute(id, &value.to_be_bytes());
    }

    /// An attribute of text.
    pub fn attribute_str(&mut self, id: u8, text: &str) {
        let at = self.begin(u32::from(id & 0x7f) << 24);
        self.text(text.as_bytes());
        self.end(at);
    }

    /// A container.
    pub fn nest(&mut self, id: u8, fill: impl FnOnce(&mut Self)) {
        let at = self.begin(u32::from(id & 0x7f) << 24);
        fill(self);
        self.end(at);
    }

    // --- blobmsg -----------------------------------------------------------------------------------------------------

    fn open(&mut self, kind: Kind, name: &[u8]) -> usize {
        let at = self.begin(EXTENDED | (kind as u32) << 24);
        self.put(&u16::try_from(name.len()).unwrap_or(0).to_be_bytes());
        self.full |= u16::try_from(name.len()).is_err();
        self.put(name);
        let padding = header(name.len()).saturating_sub(name.len().saturating_add(2));
        self.put([0; 4].get(..padding).unwrap_or(&[]));
        at
    }

    /// Text is cut at its first NUL: C would not see the rest.
    fn text(&mut self, text: &[u8]) {
        self.put(text.split(|b| *b == 0).next().unwrap_or(&[]));
        self.put(&[0]);
    }

    /// A field of any kind from the bytes of its value.
    pub fn raw(&mut self, kind: Kind, name: &[u8], data: &[u8]) {
        let at = self.open(kind, name);
        self.put(data);
        self.end(at);
    }

    /// A text.
    pub fn str(&mut self, name: &str, text: &str) {
        let at = self.open(Kind::Str, name.as_bytes());
        self.text(text.as_bytes());
        self.end(at);
    }

    /// What a value shows itself as; at most 127 bytes of it.
    pub fn show(&mut self, name: &str, value: &dyn core::fmt::Display) {
        let mut text = heapless::String::<127>::new();
        // What does not fit is left out: these are addresses and names.
        let _ = core::fmt::write(&mut text, format_args!("{value}"));
        self.str(name, &text);
    }

    /// A truth.
    pub fn bool(&mut self, name: &str, value: bool) {
        self.raw(Kind::Bool, name.as_bytes(), &[u8::from(value)]);
    }

    /// An integer: 32 bits if it fits, as JSON becomes blobmsg too, else 64.
    pub fn int(&mut self, name: &str, value: i64) {
        match i32::try_from(value) {
            Ok(value) => self.raw(Kind::Int32, name.as_bytes(), &value.to_be_bytes()),
            Err(_) => self.raw(Kind::Int64, name.as_bytes(), &value.to_be_bytes()),
        }
    }

    /// A number of 32 bits without a sign, as the same bits with one.
    pub fn u32(&mut self, name: &str, value: u32) {
        self.raw(Kind::Int32, name.as_bytes(), &value.to_be_bytes());
    }

    /// A table.
    pub fn table(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        let at = self.open(Kind::Table, name.as_bytes());
        fill(self);
        self.end(at);
    }

    /// An array; its values have the name "".
    pub fn array(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        let at = self.open(Kind::Array, name.as_bytes());
        fill(self);
        self.end(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buf = [0xaa; 256];
        let mut writer = Writer::new(&mut buf);
        fill(&mut writer);
        let len = writer.finish().expect("it fits");
        buf[..len].to_vec()
    }

    #[test]
    fn the_last_attribute_is_padded_too() {
        assert_eq!(written(|w| w.str("a", "x")), b"\x83\0\0\x0a\0\x01a\0x\0\0\0");
        assert_eq!(written(|w| w.attribute_str(2, "ab")), b"\x02\0\0\x07ab\0\0");
        assert_eq!(written(|w| w.table("t", |_| {})), b"\x82\0\0\x08\0\x01t\0");
    }

    #[test]
    fn an_integer_is_as_narrow_as_it_can_be() {
        assert_eq!(written(|w| w.int("i", -1)), b"\x85\0\0\x0c\0\x01i\0\xff\xff\xff\xff");
        assert_eq!(written(|w| w.int("i", 1 << 31)), b"\x84\0\0\x10\0\x01i\0\0\0\0\0\x80\0\0\0");
    }

    #[test]
    fn what_does_not_fit_is_refused_whole_and_can_be_taken_back() {
        let mut buf = [0; 16];
        let mut writer = Writer::new(&mut buf);
        writer.bool("a", true);
        let good = writer.len();
        writer.bool("b", true);
        assert!(writer.is_full());
        writer.rewind(good);
        assert_eq!(writer.finish(), Ok(12));
        let mut writer = Writer::new(&mut buf);
        writer.table("t", |w| w.str("s", "too long for it"));
        assert_eq!(writer.finish(), Err(Full));
    }
}
