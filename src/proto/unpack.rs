//! What [`super::pack`] wrote, read again with little code: the saved state and the control socket's requests and items.
//!
//! serde's derived readers ask after each field whether it was there, and move what they have from hand to hand: for the
//! saved state alone 6 KB more on MIPS. Here a reader that has met nonsense goes on with zeros, and is asked once, at the
//! end. A type says the order of its fields (`fields!`, `words!`); that it is the order in which it is written, a test beside
//! it shows. Recorded runs, which routers only write, are read by postcard.

use core::net::IpAddr;

use heapless::{Deque, String, Vec};

use crate::engine::{Hold, Preference, Snapshot, Standing, State, UplinkHistory};
use crate::types::{Family, IfName, Prefix, UplinkId};

/// Bytes being read.
pub struct Unpack<'a> {
    rest: &'a [u8],
    failed: bool,
}

/// A type that can be read again.
pub trait Packed<'a>: Sized {
    /// Reads one; anything where the bytes make no sense, which the reader remembers.
    fn unpack(from: &mut Unpack<'a>) -> Self;
}

impl<'a> Unpack<'a> {
    /// Reads one from the beginning of the bytes, and what stands behind it; `None` when they make no sense.
    pub fn first<T: Packed<'a>>(bytes: &'a [u8]) -> Option<(T, &'a [u8])> {
        let mut from = Self { rest: bytes, failed: false };
        let value = T::unpack(&mut from);
        (!from.failed).then_some((value, from.rest))
    }

    /// What comes next.
    pub fn value<T: Packed<'a>>(&mut self) -> T {
        T::unpack(self)
    }

    /// The bytes make no sense.
    #[inline(never)]
    pub fn fail(&mut self) {
        self.failed = true;
        self.rest = &[];
    }

    #[inline(never)]
    fn take(&mut self, len: usize) -> &'a [u8] {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                taken
            }
            None => {
                self.fail();
                &[]
            }
        }
    }

    #[inline(never)]
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// A number of at most `most`, seven bits at a time, lowest first.
    #[inline(never)]
    fn number(&mut self, most: u64) -> u64 {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                if number > most {
                    break;
                }
                return number;
            }
        }
        self.fail();
        0
    }

    /// Which of some variants.
    pub fn variant(&mut self, count: u8) -> u8 {
        self.number(u64::from(count.saturating_sub(1))) as u8
    }

    /// A length; a number of bytes can say no more things than there are bytes.
    fn len(&mut self) -> usize {
        self.number(self.rest.len() as u64) as usize
    }
}

macro_rules! numbers {
    ($($kind:ident)*) => {
        $(impl Packed<'_> for $kind {
            fn unpack(from: &mut Unpack<'_>) -> Self {
                from.number($kind::MAX.into()) as Self
            }
        })*
    };
}

numbers! { u16 u32 u64 }

impl Packed<'_> for u8 {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        from.byte()
    }
}

impl Packed<'_> for i64 {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        let n = from.number(u64::MAX);
        (n >> 1) as i64 ^ -((n & 1) as i64)
    }
}

impl Packed<'_> for bool {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        from.variant(2) != 0
    }
}

impl<'a> Packed<'a> for &'a str {
    #[inline(never)]
    fn unpack(from: &mut Unpack<'a>) -> Self {
        let len = from.len();
        core::str::from_utf8(from.take(len)).unwrap_or_else(|_| {
            from.fail();
            ""
        })
    }
}

impl<const N: usize> Packed<'_> for String<N> {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        Self::try_from(<&str>::unpack(from)).unwrap_or_else(|_| {
            from.fail();
            Self::new()
        })
    }
}

impl<'a, T: Packed<'a>> Packed<'a> for Option<T> {
    fn unpack(from: &mut Unpack<'a>) -> Self {
        bool::unpack(from).then(|| T::unpack(from))
    }
}

impl<'a, A: Packed<'a>, B: Packed<'a>> Packed<'a> for (A, B) {
    fn unpack(from: &mut Unpack<'a>) -> Self {
        (A::unpack(from), B::unpack(from))
    }
}

impl<'a, T: Packed<'a>, const N: usize> Packed<'a> for [T; N] {
    fn unpack(from: &mut Unpack<'a>) -> Self {
        core::array::from_fn(|_| T::unpack(from))
    }
}

macro_rules! lists {
    ($($kind:ident :: $push:ident)*) => {
        $(impl<'a, T: Packed<'a>, const N: usize> Packed<'a> for $kind<T, N> {
            fn unpack(from: &mut Unpack<'a>) -> Self {
                let mut list = Self::new();
                for _ in 0..from.len() {
                    if list.$push(T::unpack(from)).is_err() {
                        from.fail();
                    }
                }
                list
            }
        })*
    };
}

lists! { Vec::push Deque::push_back }

impl Packed<'_> for IpAddr {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        match bool::unpack(from) {
            false => from.take(4).first_chunk::<4>().copied().unwrap_or_default().into(),
            true => from.take(16).first_chunk::<16>().copied().unwrap_or_default().into(),
        }
    }
}

/// A name that no device can have is none: it becomes part of a path.
impl Packed<'_> for IfName {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        let (len, bytes) = (usize::from(from.byte()), from.take(15));
        match bytes.get(..len) {
            Some([]) => Self::NONE,
            name => name.and_then(Self::new).unwrap_or_else(|| {
                from.fail();
                Self::NONE
            }),
        }
    }
}

impl Packed<'_> for Prefix {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        let (addr, len) = (IpAddr::unpack(from), from.byte());
        Self::new(addr, len).unwrap_or_else(|| {
            from.fail();
            Self { addr, len: 0 }
        })
    }
}

/// The fields of types, in the order in which they are written.
macro_rules! fields {
    ($($kind:ident { $($field:ident),* })*) => {
        $(impl<'a> $crate::proto::unpack::Packed<'a> for $kind {
            fn unpack(from: &mut $crate::proto::unpack::Unpack<'a>) -> Self {
                Self { $($field: $crate::proto::unpack::Packed::unpack(from)),* }
            }
        })*
    };
}

/// The variants of types without content, in the order in which they are numbered.
macro_rules! words {
    ($($kind:ident { $($variant:ident),* })*) => {
        $(impl $crate::proto::unpack::Packed<'_> for $kind {
            fn unpack(from: &mut $crate::proto::unpack::Unpack<'_>) -> Self {
                const ALL: &[$kind] = &[$($kind::$variant),*];
                let at = from.variant(ALL.len() as u8);
                ALL.get(usize::from(at)).copied().unwrap_or(ALL[0])
            }
        })*
    };
}

pub(crate) use fields;

fields! {
    Preference { policy, uplink }
    Snapshot { uplinks, preferred }
    Standing { state, seconds }
    UplinkHistory { name, id, penalty, flaps, hold, legs, probes }
}

words! {
    Family { V4, V6 }
    Hold { Auto, Up, Down }
    State { Absent, Down, Damped, HoldDown, Degraded, Up }
}

impl Packed<'_> for UplinkId {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        Self(from.byte())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pack::Pack;

    /// What is written is read again, the same, and whatever is cut off or changed is refused or is something else, never a
    /// panic.
    fn survives<T: for<'a> Packed<'a> + serde::Serialize + PartialEq + core::fmt::Debug>(value: &T) {
        let mut bytes = Pack::of(value);
        let (again, rest) = Unpack::first::<T>(&bytes).expect("whole");
        assert_eq!((&again, rest), (value, &[][..]));
        for cut in 0..bytes.len() {
            assert_eq!(Unpack::first::<T>(&bytes[..cut]), None, "cut at {cut} of {bytes:?}");
        }
        for at in 0..bytes.len() {
            for flip in [1, 0x7f, 0x80, 0xff] {
                bytes[at] ^= flip;
                let _ = Unpack::first::<T>(&bytes);
                bytes[at] ^= flip;
            }
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        for n in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            survives(&n);
            survives(&(n as u32));
            survives(&(n as u16));
            survives(&(n as i64));
            survives(&(n as i64).wrapping_neg());
        }
        survives(&[Some(true), None, Some(false)]);
        survives(&IfName::new(b"wan.2"));
        for (addr, len) in [("0.0.0.0", 0), ("192.0.2.0", 24), ("2001:db8::", 48)] {
            survives(&Prefix::new(addr.parse().expect("an address"), len).expect("a prefix"));
        }
        let history = UplinkHistory {
            name: "wan".try_into().expect("it fits"),
            id: UplinkId(3),
            penalty: 70_000,
            flaps: 3,
            hold: Hold::Down,
            legs: [State::Up, State::Damped].map(|state| Standing { state, seconds: 300 }),
            probes: 1 << 20,
        };
        let preference = Preference { policy: history.name.clone(), uplink: history.name.clone() };
        let uplinks = [history].into_iter().collect();
        survives(&Snapshot { uplinks, preferred: [preference].into_iter().collect() });
        for state in [State::Absent, State::Down, State::Damped, State::HoldDown, State::Degraded, State::Up] {
            survives(&state);
        }
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        assert_eq!(Unpack::first::<String<3>>(&Pack::of(&"four")), None);
        assert_eq!(Unpack::first::<Vec<u8, 2>>(&[3, 1, 2, 3]), None);
        assert_eq!(Unpack::first::<Deque<u8, 2>>(&[3, 1, 2, 3]).map(|(list, _)| list.len()), None);
        assert_eq!(Unpack::first::<u16>(&[0xff, 0xff, 4]), None);
        assert_eq!(Unpack::first::<&str>(&[0xff; 20]), None);
        assert_eq!(Unpack::first::<Prefix>(&[0, 192, 0, 2, 0, 33]), None);
        let mut name = Pack::of(&IfName::new(b"wan"));
        name[2] = b'/';
        assert_eq!(Unpack::first::<Option<IfName>>(&name), None);
    }
}
