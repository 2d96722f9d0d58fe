use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number as Go reads it into an `int32`: a plain scalar only, fractions cut off; a text in quotes is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Int32(pub(crate) i32);

impl<'de> Deserialize<'de> for Int32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Number)
    }
}

struct Number;

impl Visitor<'_> for Number {
    type Value = Int32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Int32, E> {
        i32::try_from(number).map(Int32).map_err(|_| E::custom("too large"))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Int32, E> {
        i32::try_from(number).map(Int32).map_err(|_| E::custom("too large"))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Int32, E> {
        let whole = number.trunc();
        if whole >= f64::from(i32::MIN) && whole <= f64::from(i32::MAX) {
            Ok(Int32(whole as i32))
        } else {
            Err(E::custom("too large"))
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Int32, E> {
        Ok(Int32::default())
    }
}
