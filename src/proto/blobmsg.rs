//! Decides what the bytes of libubox's blob and blobmsg mean: tagged values, big-endian, padded to four bytes.
//!
//! An attribute is a word (one bit "extended", seven of id, 24 of length) and a payload; in blobmsg the extended bit is
//! set, the id is a type and the payload begins with a name. Verdicts are those of the C parser, odd ones included: what
//! it does not see is not seen here, where it stops this stops. [`write::Writer`] makes such bytes.
//!
//! Everything borrows from what was received; nothing is allocated, and nesting ends at [`DEPTH`].

pub mod write;

use core::fmt;

/// Tables within tables that are followed. The deepest that netifd sends is 6; 500 would fit into 4 kB.
pub const DEPTH: u8 = 16;

/// Bytes of the word in front of each attribute.
pub(super) const WORD: usize = 4;
const EXTENDED: u32 = 1 << 31;
const LEN: u32 = (1 << 24) - 1;

/// What an attribute claims to be and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What.
    pub what: &'static str,
    /// At which byte of the list.
    pub at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blobmsg {} at {}", self.what, self.at)
    }
}

/// Types of blobmsg (`BLOBMSG_TYPE_*`, `libubox/blobmsg.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON's null; in a signature "any type".
    Unspec = 0,
    /// A list of unnamed values.
    Array = 1,
    /// A list of named values.
    Table = 2,
    /// Text.
    Str = 3,
    /// 64 bits, signed.
    Int64 = 4,
    /// 32 bits, signed.
    Int32 = 5,
    /// 16 bits, signed.
    Int16 = 6,
    /// 8 bits, a boolean.
    Bool = 7,
    /// An IEEE 754 number of 64 bits.
    Double = 8,
}

/// One attribute, payload unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Seven bits.
    pub id: u8,
    /// Whether the payload begins with a blobmsg header.
    pub extended: bool,
    /// What follows the word; `None` when the length is less than the word's own (the C iterator visits those).
    pub payload: Option<&'a [u8]>,
    /// At which byte of the list it begins.
    pub at: usize,
}

/// The attributes of a list, in order. Ends without an error where the C iterator does: at a length of zero, and at a
/// padded length that is more than what is left; so a last attribute without its padding is not there.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    /// Of the payload of a container.
    pub fn of(payload: &'a [u8]) -> Self {
        Self { rest: payload, at: 0 }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let word = be_u32(self.rest)?;
        let len = (word & LEN) as usize;
        let step = pad(len);
        if len == 0 || step > self.rest.len() {
            self.rest = &[];
            return None;
        }
        let attribute = Attribute {
            id: (word >> 24 & 0x7f) as u8,
            extended: word & EXTENDED != 0,
            payload: self.rest.get(WORD..len),
            at: self.at,
        };
        self.rest = self.rest.get(step..).unwrap_or(&[]);
        self.at = self.at.saturating_add(step);
        Some(attribute)
    }
}

/// Values of blobmsg side by side: the content of a message, a table or an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<'a> {
    bytes: &'a [u8],
    depth: u8,
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Null; its bytes mean nothing.
    Unspec(&'a [u8]),
    /// Unnamed values (a name is tolerated).
    Array(List<'a>),
    /// Named values.
    Table(List<'a>),
    /// Text, without the NUL at its end; it may hold others.
    Str(&'a [u8]),
    /// 64 bits.
    Int64(i64),
    /// 32 bits.
    Int32(i32),
    /// 16 bits.
    Int16(i16),
    /// 8 bits: anything but 0 is true.
    Bool(u8),
    /// The bits of a number of 64 bits: we have no floating point and need none.
    Double(u64),
}

impl<'a> Value<'a> {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unspec(_) => Kind::Unspec,
            Self::Array(_) => Kind::Array,
            Self::Table(_) => Kind::Table,
            Self::Str(_) => Kind::Str,
            Self::Int64(_) => Kind::Int64,
            Self::Int32(_) => Kind::Int32,
            Self::Int16(_) => Kind::Int16,
            Self::Bool(_) => Kind::Bool,
            Self::Double(_) => Kind::Double,
        }
    }

    /// An integer of any width.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int64(n) => Some(*n),
            Self::Int32(n) => Some(i64::from(*n)),
            Self::Int16(n) => Some(i64::from(*n)),
            _ => None,
        }
    }

    /// Text as C sees it: up to its first NUL; `None` when it is no UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        match self {
            Self::Str(bytes) => core::str::from_utf8(bytes.split(|b| *b == 0).next().unwrap_or(&[])).ok(),
            _ => None,
        }
    }
}

/// A value with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name without a NUL; empty in arrays.
    pub name: &'a [u8],
    /// What it holds.
    pub value: Value<'a>,
}

impl<'a> List<'a> {
    /// The content of a message.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, depth: 0 }
    }

    /// All fields in order; the first that makes no sense is the last. Attributes that are no blobmsg are passed over.
    pub fn fields(self) -> Fields<'a> {
        Fields { attributes: Attributes::of(self.bytes), depth: self.depth, ended: false }
    }

    /// The first field of that name before anything malformed.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        self.fields().map_while(Result::ok).find(|f| f.name == name.as_bytes()).map(|f| f.value)
    }

    /// A text.
    pub fn str(self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    /// An integer of any width.
    pub fn int(self, name: &str) -> Option<i64> {
        self.get(name)?.as_int()
    }

    /// A number of 32 bits without a sign; it travels as a signed one.
    pub fn u32(self, name: &str) -> Option<u32> {
        match self.get(name)? {
            Value::Int32(n) => Some(n.cast_unsigned()),
            _ => None,
        }
    }

    /// A truth; false when absent.
    pub fn bool(self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(n)) if n != 0)
    }

    /// The fields of a table; none when absent.
    pub fn table(self, name: &str) -> List<'a> {
        match self.get(name) {
            Some(Value::Table(list)) => list,
            _ => List { bytes: &[], depth: self.depth },
        }
    }

    /// The values of an array, up to the first that makes no sense; none when absent.
    pub fn array(self, name: &str) -> impl Iterator<Item = Value<'a>> {
        let list = match self.get(name) {
            Some(Value::Array(list)) => list,
            _ => List { bytes: &[], depth: self.depth },
        };
        list.fields().map_while(Result::ok).map(|f| f.value)
    }

    /// Reads everything, at every depth.
    ///
    /// # Errors
    /// The first thing that is not what it claims to be.
    pub fn check(self) -> Result<(), Malformed> {
        // Not a recursion: as deep as DEPTH at most, each level with its own iterator.
        let mut levels: heapless::Vec<Fields<'a>, { DEPTH as usize + 1 }> = heapless::Vec::new();
        let _ = levels.push(self.fields());
        while let Some(level) = levels.last_mut() {
            match level.next() {
                None => {
                    levels.pop();
                }
                Some(field) => {
                    if let Value::Array(list) | Value::Table(list) = field?.value {
                        // Cannot fail: Fields refuses what is deeper than DEPTH.
                        let _ = levels.push(list.fields());
                    }
                }
            }
        }
        Ok(())
    }
}

/// The fields of a list.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    attributes: Attributes<'a>,
    depth: u8,
    ended: bool,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        loop {
            let attribute = self.attributes.next()?;
            let malformed = |what| Malformed { what, at: attribute.at };
            if attribute.extended {
                let field = read_field(&attribute, self.depth).map_err(malformed);
                self.ended = field.is_err();
                return Some(field);
            }
            // No field; but C judges it by its id all the same.
            let payload = attribute.payload.ok_or("attribute shorter than its word");
            if let Err(what) = payload.and_then(|data| read_value(attribute.id, data, 0)) {
                self.ended = true;
                return Some(Err(malformed(what)));
            }
        }
    }
}

fn read_field<'a>(attribute: &Attribute<'a>, depth: u8) -> Result<Field<'a>, &'static str> {
    let payload = attribute.payload.ok_or("attribute shorter than its word")?;
    let name_len = match payload.first_chunk::<2>() {
        Some(len) => usize::from(u16::from_be_bytes(*len)),
        None => return Err("attribute without a name"),
    };
    let name = payload.get(2..name_len.saturating_add(2)).ok_or("name past the end")?;
    if payload.get(name_len.saturating_add(2)) != Some(&0) {
        return Err("name without its NUL");
    }
    let data = payload.get(header(name_len)..).ok_or("name past the end")?;
    Ok(Field { name, value: read_value(attribute.id, data, depth)? })
}

fn read_value(id: u8, data: &[u8], depth: u8) -> Result<Value<'_>, &'static str> {
    let nested = || {
        if depth >= DEPTH {
            return Err("table too deep");
        }
        Ok(List { bytes: data, depth: depth.saturating_add(1) })
    };
    Ok(match id {
        0 => Value::Unspec(data),
        1 => Value::Array(nested()?),
        2 => Value::Table(nested()?),
        3 => match data.split_last() {
            Some((0, text)) => Value::Str(text),
            _ => return Err("text without its NUL"),
        },
        4 => Value::Int64(i64::from_be_bytes(data.try_into().map_err(|_| "int64 that is not 8 bytes")?)),
        5 => Value::Int32(i32::from_be_bytes(data.try_into().map_err(|_| "int32 that is not 4 bytes")?)),
        6 => Value::Int16(i16::from_be_bytes(data.try_into().map_err(|_| "int16 that is not 2 bytes")?)),
        7 => match data {
            [n] => Value::Bool(*n),
            _ => return Err("bool that is not 1 byte"),
        },
        // A longer one is tolerated, as in C.
        8 => Value::Double(u64::from_be_bytes(*data.first_chunk().ok_or("double of less than 8 bytes")?)),
        _ => return Err("unknown type"),
    })
}

/// Bytes of a blobmsg header: length, name, NUL, padding.
pub(super) const fn header(name_len: usize) -> usize {
    pad(name_len.saturating_add(3))
}

/// To the next multiple of four.
pub(super) const fn pad(len: usize) -> usize {
    len.saturating_add(3) & !3
}

fn be_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|b| u32::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_name_and_the_first_of_two_wins() {
        let bytes = b"\x83\0\0\x0a\0\x01a\0x\0\0\0\x83\0\0\x0a\0\x01a\0y\0\0\0\x85\0\0\x0c\0\x01b\0\xff\xff\xff\xfe";
        let list = List::new(bytes);
        assert_eq!((list.str("a"), list.int("b"), list.u32("b")), (Some("x"), Some(-2), Some(0xffff_fffe)));
        assert_eq!((list.get("c"), list.int("a"), list.bool("b")), (None, None, false));
    }

    #[test]
    fn an_error_names_the_byte_and_ends_the_list() {
        let bytes = b"\x87\0\0\x09\0\x01a\0\x01\0\0\0\x85\0\0\x0b\0\x01b\0\0\0\0\0\x87\0\0\x09\0\x01c\0\x01\0\0\0";
        let mut fields = List::new(bytes).fields();
        assert!(fields.next().is_some_and(|f| f.is_ok()));
        assert_eq!(fields.next(), Some(Err(Malformed { what: "int32 that is not 4 bytes", at: 12 })));
        assert_eq!(fields.next(), None);
        assert_eq!(List::new(bytes).get("c"), None);
    }

    #[test]
    fn five_hundred_tables_in_each_other_are_refused_at_the_limit() {
        let mut bytes = Vec::new();
        for _ in 0..500 {
            let len = u32::try_from(bytes.len() + 8).expect("small") | 0x8200_0000;
            bytes = [&len.to_be_bytes()[..], b"\0\x01t\0", &bytes].concat();
        }
        assert_eq!(List::new(&bytes).check().map_err(|e| e.what), Err("table too deep"));
        let mut list = List::new(&bytes);
        for _ in 0..DEPTH {
            assert!(list.get("t").is_some());
            list = list.table("t");
        }
        assert_eq!(list.get("t"), None);
    }
}
