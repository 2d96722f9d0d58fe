//! What a key holds, and how one is asked for.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::attributes::{AttributeChanges, Tags, check_tags};
use super::error::VaultError;
use super::objects::Content;
use crate::key_material::{Curve, KeyKind, KeyMaterial};
use crate::operation::Collection;

/// A key's own part. No `Debug`: it holds the private key.
#[derive(Clone)]
pub(crate) struct KeyContent {
    pub(crate) material: KeyMaterial,
    pub(crate) operations: Vec<String>,
    /// Made for a certificate, which owns its life.
    pub(crate) managed: bool,
}

impl Content for KeyContent {
    const COLLECTION: Collection = Collection::Keys;

    fn summary(&self, members: &mut Map<String, Value>) {
        if self.managed {
            members.insert("managed".to_owned(), true.into());
        }
    }

    fn is_managed(&self) -> bool {
        self.managed
    }

    fn update(&mut self, body: &Map<String, Value>) -> Result<(), VaultError> {
        if let Some(operations) = body.get("key_ops").and_then(Value::as_array) {
            self.operations = operations.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
        Ok(())
    }
}

impl KeyContent {
    pub(crate) fn new(material: KeyMaterial, operations: Option<Vec<String>>, managed: bool) -> Self {
        let usual: &[&str] = match material.kind {
            KeyKind::Rsa(_) => &["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
            KeyKind::Ec(_) => &["sign", "verify"],
        };
        let operations = operations.unwrap_or_else(|| usual.iter().map(|name| (*name).to_owned()).collect());
        Self { material, operations, managed }
    }
}

/// The body of a creation.
#[derive(Deserialize)]
pub(crate) struct CreateKey {
    kty: String,
    key_size: Option<u16>,
    crv: Option<String>,
    pub(crate) key_ops: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) attributes: Option<AttributeChanges>,
    #[serde(default)]
    pub(crate) tags: Option<Tags>,
}

impl CreateKey {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, VaultError> {
        let create: Self = serde_json::from_slice(body)
            .map_err(|e| VaultError::bad_parameter(format!("Malformed request body: {e}")))?;
        if let Some(tags) = &create.tags {
            check_tags(tags)?;
        }
        Ok(create)
    }

    pub(crate) fn kind(&self) -> Result<KeyKind, VaultError> {
        key_kind(&self.kty, self.key_size, self.crv.as_deref())
    }
}

/// Reads `kty`, `key_size` and `crv` as keys and certificate policies write them.
pub(crate) fn key_kind(kty: &str, size: Option<u16>, curve: Option<&str>) -> Result<KeyKind, VaultError> {
    match kty {
        "RSA" => match size.unwrap_or(2048) {
            bits @ (2048 | 3072 | 4096) => Ok(KeyKind::Rsa(bits)),
            bits => Err(VaultError::bad_parameter(format!("Property key_size has invalid value {bits}."))),
        },
        "EC" => Curve::from_name(curve.unwrap_or("P-256"))
            .map(KeyKind::Ec)
            .ok_or_else(|| VaultError::bad_parameter("Property crv has an invalid value.")),
        _ => Err(VaultError::bad_parameter("Property kty has an invalid value; this vault is not an HSM.")),
    }
}
