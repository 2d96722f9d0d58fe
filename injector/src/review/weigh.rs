//! How many values a JSON document has, counted while it is read and without keeping any.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The number of values: each object, list, text, number, flag and null is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight(usize);

impl Weight {
    pub(super) fn values(self) -> usize {
        self.0
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Counter)
    }
}

struct Counter;

/// One value without others in it.
const ONE: Weight = Weight(1);

impl<'de> Visitor<'de> for Counter {
    type Value = Weight;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Weight, E> {
        Ok(ONE)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Weight, E> {
        Ok(ONE)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Weight, E> {
        Ok(ONE)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Weight, E> {
        Ok(ONE)
    }

    fn visit_str<E>(self, _: &str) -> Result<Weight, E> {
        Ok(ONE)
    }

    fn visit_unit<E>(self) -> Result<Weight, E> {
        Ok(ONE)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Weight, A::Error> {
        let mut all = ONE;
        while let Some(item) = items.next_element::<Weight>()? {
            all = Weight(all.0.saturating_add(item.0));
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Weight, A::Error> {
        let mut all = ONE;
        while let Some((_, value)) = entries.next_entry::<IgnoredAny, Weight>()? {
            all = Weight(all.0.saturating_add(value.0));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn counted(value: &Value) -> usize {
        let inner: usize = match value {
            Value::Array(items) => items.iter().map(counted).sum(),
            Value::Object(map) => map.values().map(counted).sum(),
            _ => 0,
        };
        inner + 1
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
            "\\PC{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 60, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[a-c\"\u{1}]{0,3}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_counts_once(document in document()) {
            let weight: Weight = serde_json::from_str(&document.to_string()).unwrap();
            prop_assert_eq!(weight.values(), counted(&document));
        }
    }

    #[test]
    fn repeated_keys_count_each_time_and_depth_is_bounded() {
        let weight: Weight = serde_json::from_str(r#"{"a": 1, "a": [2, 3]}"#).unwrap();
        assert_eq!(weight.values(), 5);
        let deep = "[".repeat(100_000);
        assert!(serde_json::from_str::<Weight>(&deep).is_err());
    }
}
