//! Attributes and tags, which all objects have.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::VaultError;

pub(crate) type Tags = BTreeMap<String, String>;

/// Days that a deleted object can be recovered.
pub(crate) const RECOVERABLE_DAYS: i64 = 90;

/// Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) enabled: bool,
    pub(crate) not_before: Option<i64>,
    pub(crate) expires: Option<i64>,
    pub(crate) created: i64,
    pub(crate) updated: i64,
}

/// What a request may say about attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct AttributeChanges {
    enabled: Option<bool>,
    nbf: Option<i64>,
    exp: Option<i64>,
}

impl Attributes {
    pub(crate) fn new(changes: &AttributeChanges, now_seconds: i64) -> Self {
        Self {
            enabled: changes.enabled.unwrap_or(true),
            not_before: changes.nbf,
            expires: changes.exp,
            created: now_seconds,
            updated: now_seconds,
        }
    }

    pub(crate) fn change(&mut self, changes: &AttributeChanges, now_seconds: i64) {
        self.enabled = changes.enabled.unwrap_or(self.enabled);
        self.not_before = changes.nbf.or(self.not_before);
        self.expires = changes.exp.or(self.expires);
        self.updated = now_seconds;
    }

    pub(crate) fn render(&self) -> Value {
        let mut members = Map::new();
        members.insert("enabled".to_owned(), self.enabled.into());
        if let Some(not_before) = self.not_before {
            members.insert("nbf".to_owned(), not_before.into());
        }
        if let Some(expires) = self.expires {
            members.insert("exp".to_owned(), expires.into());
        }
        members.insert("created".to_owned(), self.created.into());
        members.insert("updated".to_owned(), self.updated.into());
        members.insert("recoveryLevel".to_owned(), json!("Recoverable+Purgeable"));
        members.insert("recoverableDays".to_owned(), RECOVERABLE_DAYS.into());
        Value::Object(members)
    }
}

/// At most 15 tags, names and values up to 512 characters.
pub(crate) fn check_tags(tags: &Tags) -> Result<(), VaultError> {
    if tags.len() > 15 {
        return Err(VaultError::bad_parameter("The number of tags exceeds the maximum of 15."));
    }
    let too_long = |text: &String| text.chars().count() > 512;
    if tags.iter().any(|(name, value)| too_long(name) || too_long(value)) {
        return Err(VaultError::bad_parameter("A tag name or value exceeds the maximum of 512 characters."));
    }
    Ok(())
}
