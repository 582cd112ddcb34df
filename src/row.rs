//! How rows of fixed length are written and read again in recorded runs: serde itself stops at 32 places.

use core::fmt;
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeTuple, Serializer};

/// Writes the places, one after the other, without a length.
pub fn serialize<S: Serializer, T: Serialize, const N: usize>(row: &[T; N], to: S) -> Result<S::Ok, S::Error> {
    let mut tuple = to.serialize_tuple(N)?;
    row.iter().try_for_each(|item| tuple.serialize_element(item))?;
    tuple.end()
}

/// Reads as many places as there are.
pub fn deserialize<'de, D, T, const N: usize>(from: D) -> Result<[T; N], D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Copy + Default,
{
    from.deserialize_tuple(N, Row(PhantomData))
}

struct Row<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Copy + Default, const N: usize> Visitor<'de> for Row<T, N> {
    type Value = [T; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} places")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut row = [T::default(); N];
        for (at, place) in row.iter_mut().enumerate() {
            *place = from.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &self))?;
        }
        Ok(row)
    }
}
