//! Values as bytes, in postcard's format, written with little code: the saved state, the control socket, recorded runs.
//!
//! postcard's own writer is meant to be compiled into every place that uses it: fast, and forty kilobytes for an engine. Here
//! every number goes through one function that is a call, and nothing fails on the way: where the room ends, the rest is
//! left out, and that is asked once. What is written is the same (`pack_writes_what_postcard_reads`).

use core::fmt;

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};

/// Where bytes go.
trait Room {
    fn put(&mut self, bytes: &[u8]);
}

impl Room for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A buffer of fixed size.
struct Fixed<'a> {
    buf: &'a mut [u8],
    /// Bytes that were to be written; those beyond the end are not.
    len: usize,
}

impl Room for Fixed<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(place) = self.buf.get_mut(self.len..end) {
            place.copy_from_slice(bytes);
        }
        self.len = end;
    }
}

/// Writes values.
pub struct Pack<'a> {
    room: &'a mut dyn Room,
}

impl Pack<'_> {
    /// The bytes of a value.
    pub fn of(value: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        Self::append(value, &mut bytes);
        bytes
    }

    /// Adds the bytes of a value.
    pub fn append(value: &impl Serialize, bytes: &mut Vec<u8>) {
        let Ok(()) = value.serialize(&mut Pack { room: bytes });
    }

    /// Writes a value into a buffer; its length, or `None` when it is longer than the buffer.
    pub fn fit(value: &impl Serialize, buf: &mut [u8]) -> Option<usize> {
        let most = buf.len();
        let mut room = Fixed { buf, len: 0 };
        let Ok(()) = value.serialize(&mut Pack { room: &mut room });
        Some(room.len).filter(|len| *len <= most)
    }

    /// Most numbers: on 32 bits a long one is handed over in two words.
    #[inline(never)]
    fn number(&mut self, n: u32) {
        self.long(n.into());
    }

    /// Seven bits at a time, lowest first; the highest bit says that more follow.
    #[inline(never)]
    fn long(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.byte(n as u8 | 0x80);
            n >>= 7;
        }
        self.byte(n as u8);
    }

    #[inline(never)]
    fn byte(&mut self, byte: u8) {
        self.room.put(&[byte]);
    }

    #[inline(never)]
    fn bytes(&mut self, bytes: &[u8]) {
        self.long(bytes.len() as u64);
        self.room.put(bytes);
    }
}

/// What can go wrong with values of ours: nothing. So no field's writing needs to be followed by a question.
#[derive(Debug)]
pub enum Never {}

impl fmt::Display for Never {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl core::error::Error for Never {}

impl serde::ser::Error for Never {
    /// No type of ours comes here; serde's own that do are paths, times of day and locks, which nobody saves or sends.
    fn custom<T: fmt::Display>(message: T) -> Self {
        unreachable!("{message}")
    }
}

/// Numbers whose sign is the lowest bit.
fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

type Done = Result<(), Never>;

macro_rules! numbers {
    ($($name:ident $kind:ty => |$pack:ident, $n:ident| $write:expr;)*) => {
        $(fn $name(self, $n: $kind) -> Done {
            let $pack = self;
            $write;
            Ok(())
        })*
    };
}

impl Serializer for &mut Pack<'_> {
    type Ok = ();
    type Error = Never;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    numbers! {
        serialize_bool bool => |pack, n| pack.byte(n.into());
        serialize_u8 u8 => |pack, n| pack.byte(n);
        serialize_u16 u16 => |pack, n| pack.number(n.into());
        serialize_u32 u32 => |pack, n| pack.number(n);
        serialize_u64 u64 => |pack, n| pack.long(n);
        serialize_i8 i8 => |pack, n| pack.byte(n as u8);
        serialize_i16 i16 => |pack, n| pack.long(zigzag(n.into()));
        serialize_i32 i32 => |pack, n| pack.long(zigzag(n.into()));
        serialize_i64 i64 => |pack, n| pack.long(zigzag(n));
        serialize_str &str => |pack, text| pack.bytes(text.as_bytes());
        serialize_bytes &[u8] => |pack, bytes| pack.bytes(bytes);
    }

    fn serialize_f32(self, n: f32) -> Done {
        self.room.put(&n.to_le_bytes());
        Ok(())
    }

    fn serialize_f64(self, n: f64) -> Done {
        self.room.put(&n.to_le_bytes());
        Ok(())
    }

    fn serialize_char(self, c: char) -> Done {
        self.serialize_str(c.encode_utf8(&mut [0; 4]))
    }

    fn serialize_none(self) -> Done {
        self.byte(0);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        self.byte(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Done {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Done {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, at: u32, _: &'static str) -> Done {
        self.number(at);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        at: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        self.number(at);
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Never> {
        // All of ours know their length.
        self.number(len.unwrap_or(0) as u32);
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_tuple_variant(self, _: &'static str, at: u32, _: &'static str, _: usize) -> Result<Self, Never> {
        self.number(at);
        Ok(self)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self, Never> {
        self.serialize_seq(len)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_struct_variant(self, _: &'static str, at: u32, _: &'static str, _: usize) -> Result<Self, Never> {
        self.number(at);
        Ok(self)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, text: &T) -> Done {
        self.serialize_str(&text.to_string())
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! parts {
    ($($part:ident :: $add:ident ($($name:ty)?);)*) => {
        $(impl $part for &mut Pack<'_> {
            type Ok = ();
            type Error = Never;

            fn $add<T: Serialize + ?Sized>(&mut self, $(_: $name,)? value: &T) -> Done {
                value.serialize(&mut **self)
            }

            fn end(self) -> Done {
                Ok(())
            }
        })*
    };
}

parts! {
    SerializeSeq::serialize_element();
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(&'static str);
    SerializeStructVariant::serialize_field(&'static str);
}

impl SerializeMap for &mut Pack<'_> {
    type Ok = ();
    type Error = Never;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut **self)
    }

    fn end(self) -> Done {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::engine::event::{LinkInfo, LinkSource};
    use crate::engine::{Engine, Event};
    use crate::proto::config_file::{self, Dialect};
    use crate::time::Instant;

    #[test]
    fn pack_writes_what_postcard_reads() {
        let text = include_bytes!("../../openwrt/files/linkwatch.config");
        let config = config_file::read(text, Dialect::Linkwatch, &[]).config.expect("the example");
        let bytes = Pack::of(&*config);
        assert_eq!(postcard::from_bytes::<Config>(&bytes).as_ref(), Ok(&*config));
        let engine = Box::new(Engine::new(&config, Instant::from_millis(77)));
        let again = Box::new(postcard::from_bytes::<Engine>(&Pack::of(&*engine)).expect("an engine"));
        assert_eq!((again.now(), Pack::of(&*again)), (engine.now(), Pack::of(&*engine)));
        for n in [0, 1, 127, 128, 16_383, 16_384, u32::MAX] {
            let link = LinkInfo { up_count: n, down_count: !n, admin_up: true, ..LinkInfo::default() };
            let event = Event::Link { link, source: LinkSource::Answered };
            assert_eq!(postcard::from_bytes(&Pack::of(&event)), Ok(event));
        }
        let mixed = (-5_i32, i64::MIN, 'x', "text", Some(3_u16), None::<u8>, [(1_u8, true); 2], i16::MAX, -1_i8);
        let mut room = [0; 64];
        assert_eq!(Pack::of(&mixed), postcard::to_slice(&mixed, &mut room).expect("it fits"));
    }
}
