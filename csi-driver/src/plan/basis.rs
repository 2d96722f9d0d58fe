use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::request::{Asked, Source, Wanted};

/// Everything that a plan is made from: what kubelet passed and what was looked up for it. No value, no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Basis {
    pub(crate) source: Source,
    pub(crate) asked: Asked,
    /// The pod's fsGroup.
    pub(crate) group: Option<u32>,
    /// The client id of `nodePublishSecretRef`.
    pub(crate) principal: Option<String>,
    /// The class as it was applied last.
    pub(crate) class: Option<ClassText>,
    /// What the service account's annotations say, once they were needed.
    pub(crate) account: Option<Account>,
}

/// A SecretProviderClass as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClassText {
    pub(crate) name: String,
    pub(crate) provider: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// Annotations of a service account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) client_id: Option<String>,
    pub(crate) tenant_id: Option<String>,
}

impl Basis {
    /// What a request alone says.
    pub(crate) fn of(wanted: &Wanted) -> Self {
        Self {
            source: wanted.source.clone(),
            asked: wanted.asked.clone(),
            group: wanted.group,
            principal: wanted.principal.as_ref().map(|principal| principal.client_id.clone()),
            class: None,
            account: None,
        }
    }

    /// Bytes of the declaration.
    pub(crate) fn size(&self) -> usize {
        match (&self.source, &self.class) {
            (Source::Objects(text), _) => text.len(),
            (Source::Class(_), Some(class)) => {
                class.parameters.iter().flat_map(|(key, value)| [key.len(), value.len()]).sum()
            }
            (Source::Class(name), None) => name.len(),
        }
    }

    /// The class that it depends on.
    pub(crate) fn class_name(&self) -> Option<&str> {
        match &self.source {
            Source::Class(name) => Some(name),
            Source::Objects(_) => None,
        }
    }
}
