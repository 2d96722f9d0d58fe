//! The `objects` parameter: a YAML list of YAML texts under `array`, or plain lists of mappings.

use std::fmt;

use keyward_core::document::Mistakes;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::scalar::Int32;
use crate::yaml;

/// Most objects of one class.
pub const MAX_OBJECTS: usize = 1000;

/// One object as written; fields that nobody knows are passed over, as the provider does.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Fields {
    pub(crate) object_name: Option<String>,
    pub(crate) object_alias: Option<String>,
    pub(crate) object_version: Option<String>,
    pub(crate) object_version_history: Option<Int32>,
    pub(crate) object_type: Option<String>,
    pub(crate) object_format: Option<String>,
    pub(crate) object_encoding: Option<String>,
    pub(crate) file_permission: Option<String>,
    /// Not the provider's, but one that people may expect to work here, too.
    pub(crate) notify: Option<IgnoredAny>,
}

/// Reads the parameter; each object comes with its place in the list.
pub(crate) fn read(text: &str, mistakes: &Mistakes) -> Vec<(usize, Fields)> {
    if text.is_empty() {
        mistakes.note("objects", "is missing: say what to fetch");
        return Vec::new();
    }
    let list = match yaml::read::<List>(text, "a YAML list of objects, alone or under `array`") {
        Ok(list) => list.map(List::items).unwrap_or_default(),
        Err(message) => {
            mistakes.note("objects", message);
            return Vec::new();
        }
    };
    // Null items vanish, in the provider too, before anything is counted.
    let items: Vec<Item> = list.into_iter().flatten().collect();
    if items.is_empty() {
        mistakes.note("objects", "is empty: a volume needs at least one object");
    } else if items.len() > MAX_OBJECTS {
        mistakes.note("objects", format!("has {} entries, more than the {MAX_OBJECTS} allowed", items.len()));
        return Vec::new();
    }
    items
        .into_iter()
        .enumerate()
        .filter_map(|(index, item)| {
            let fields = match item {
                Item::Fields(fields) => Ok(*fields),
                Item::Text(text) => yaml::read::<Fields>(&text, "the fields of an object as YAML")
                    .map(Option::unwrap_or_default),
            };
            fields.map(|fields| (index, fields)).map_err(|message| mistakes.note(place(index), message)).ok()
        })
        .collect()
}

/// How an object is named in messages.
pub(crate) fn place(index: usize) -> String {
    format!("objects[{index}]")
}

/// The parameter's document.
enum List {
    Bare(Vec<Option<Item>>),
    Under(Array),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Array {
    array: Option<Vec<Option<Item>>>,
}

impl List {
    fn items(self) -> Vec<Option<Item>> {
        match self {
            Self::Bare(items) => items,
            Self::Under(list) => list.array.unwrap_or_default(),
        }
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of objects, alone or under `array`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<List, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(items)).map(List::Bare)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(List::Under)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// One item: a YAML text, or the mapping itself.
enum Item {
    Text(String),
    Fields(Box<Fields>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Item, A::Error> {
                Fields::deserialize(MapAccessDeserializer::new(map))
                    .map(|fields| Item::Fields(Box::new(fields)))
            }
        }
        deserializer.deserialize_any(Form)
    }
}
