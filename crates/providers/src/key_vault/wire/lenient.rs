//! Times as Key Vault and its imitations write them.

use std::fmt;
use std::time::Duration;

use keyward_core::UnixTime;
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

/// 9999-12-31T23:59:59Z; what lies beyond is no time.
const END: u64 = 253_402_300_799;

/// Whole seconds since 1970 from a number, a number in quotes, or nothing. What is none of these counts as absent:
/// very old objects have null, and a wrong time must not cost the value.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UnixTime>, D::Error> {
    deserializer.deserialize_any(Seconds)
}

struct Seconds;

fn time(seconds: u64) -> Option<UnixTime> {
    (seconds <= END).then(|| Duration::from_secs(seconds))
}

impl<'de> Visitor<'de> for Seconds {
    type Value = Option<UnixTime>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seconds since 1970")
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(time(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(value).ok().and_then(time))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Duration::try_from_secs_f64(value.trunc()).ok().and_then(|value| time(value.as_secs())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(value.trim().parse().ok().and_then(time))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
