use std::collections::BTreeMap;

use keyward_core::{Code, Error};
use serde::Deserialize;
use serde_json::Value;

use crate::mirror::Item;

/// A class as the server has it: whatever stands in `spec`, the object is read, and only it is broken.
#[derive(Deserialize)]
pub(super) struct ClassItem {
    pub(super) metadata: Metadata,
    #[serde(default)]
    spec: Value,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) resource_version: String,
}

impl Item for ClassItem {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

/// What a class says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) provider: String,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) secret_objects: bool,
}

impl Spec {
    /// Names and values, bytes.
    pub(super) fn size(&self) -> usize {
        let parameters = self.parameters.iter().flat_map(|(key, value)| [key, value]);
        parameters.chain([&self.provider]).map(String::len).sum()
    }
}

impl ClassItem {
    /// Takes the specification apart.
    pub(super) fn spec(&mut self, limit: usize) -> Result<Spec, Error> {
        let Value::Object(mut spec) = self.spec.take() else { return Err(self.broken("has no `spec`")) };
        let Some(Value::String(provider)) = spec.remove("provider") else {
            return Err(self.broken("has no `spec.provider`"));
        };
        let Some(Value::Object(given)) = spec.remove("parameters") else {
            return Err(self.broken("has no `spec.parameters`"));
        };
        let mut parameters = BTreeMap::new();
        for (key, value) in given {
            let Value::String(value) = value else {
                return Err(self.broken("has a parameter that is not text; put it in quotes"));
            };
            parameters.insert(key, value);
        }
        let secret_objects =
            matches!(spec.get("secretObjects"), Some(Value::Array(items)) if !items.is_empty());
        let spec = Spec { provider, parameters, secret_objects };
        if spec.size() > limit {
            return Err(self.broken(&format!("is larger than {limit} bytes")));
        }
        Ok(spec)
    }

    fn broken(&self, why: &str) -> Error {
        let Metadata { name, namespace, .. } = &self.metadata;
        Error::new(
            Code::ClassInvalid,
            format!("SecretProviderClass `{name}` in namespace `{namespace}` {why}"),
        )
    }
}
