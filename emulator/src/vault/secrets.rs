//! What a secret holds.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::attributes::{AttributeChanges, Tags, check_tags};
use super::error::VaultError;
use super::objects::Content;
use crate::operation::Collection;

/// Longest value, in bytes.
pub(crate) const LONGEST_VALUE: usize = 25 * 1024;
/// Longest content type, in characters.
const LONGEST_CONTENT_TYPE: usize = 255;

/// A secret's own part. No `Debug`: it holds the value.
#[derive(Clone)]
pub(crate) struct SecretContent {
    pub(crate) value: String,
    pub(crate) content_type: Option<String>,
    /// Name and version of the certificate (and key) behind it.
    pub(crate) certificate: Option<(String, String)>,
}

impl Content for SecretContent {
    const COLLECTION: Collection = Collection::Secrets;

    fn summary(&self, members: &mut Map<String, Value>) {
        if let Some(content_type) = &self.content_type {
            members.insert("contentType".to_owned(), content_type.as_str().into());
        }
        if self.certificate.is_some() {
            members.insert("managed".to_owned(), true.into());
        }
    }

    fn is_managed(&self) -> bool {
        self.certificate.is_some()
    }

    fn update(&mut self, body: &Map<String, Value>) -> Result<(), VaultError> {
        if let Some(content_type) = body.get("contentType").and_then(Value::as_str) {
            check_content_type(content_type)?;
            self.content_type = Some(content_type.to_owned());
        }
        Ok(())
    }
}

/// The body of a set.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SetSecret {
    pub(crate) value: String,
    pub(crate) content_type: Option<String>,
    #[serde(default)]
    pub(crate) attributes: Option<AttributeChanges>,
    #[serde(default)]
    pub(crate) tags: Option<Tags>,
}

impl SetSecret {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, VaultError> {
        // The parser's own message may quote the value; it must not come back in an error.
        let set: Self = serde_json::from_slice(body).map_err(|_| {
            VaultError::bad_parameter("Property  has invalid value: the request body is malformed.")
        })?;
        if set.value.len() > LONGEST_VALUE {
            return Err(VaultError::bad_parameter("The secret value exceeds the maximum size of 25 KB."));
        }
        if let Some(content_type) = &set.content_type {
            check_content_type(content_type)?;
        }
        if let Some(tags) = &set.tags {
            check_tags(tags)?;
        }
        Ok(set)
    }
}

fn check_content_type(content_type: &str) -> Result<(), VaultError> {
    if content_type.chars().count() > LONGEST_CONTENT_TYPE {
        return Err(VaultError::bad_parameter("The content type exceeds the maximum of 255 characters."));
    }
    Ok(())
}
