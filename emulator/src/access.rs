//! Role assignments: which identity may do what in which vault.

use std::collections::BTreeSet;

use crate::operation::{Action, Collection};

/// What an assignment allows. Written `secrets.get` and so on in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission {
    collection: Collection,
    right: Right,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Right {
    Get,
    List,
    Write,
    Delete,
}

#[expect(missing_docs, reason = "each is the collection and the right its name says")]
impl Permission {
    pub const SECRETS_GET: Self = Self { collection: Collection::Secrets, right: Right::Get };
    pub const SECRETS_LIST: Self = Self { collection: Collection::Secrets, right: Right::List };
    pub const SECRETS_WRITE: Self = Self { collection: Collection::Secrets, right: Right::Write };
    pub const SECRETS_DELETE: Self = Self { collection: Collection::Secrets, right: Right::Delete };
    pub const KEYS_GET: Self = Self { collection: Collection::Keys, right: Right::Get };
    pub const KEYS_LIST: Self = Self { collection: Collection::Keys, right: Right::List };
    pub const KEYS_WRITE: Self = Self { collection: Collection::Keys, right: Right::Write };
    pub const KEYS_DELETE: Self = Self { collection: Collection::Keys, right: Right::Delete };
    pub const CERTIFICATES_GET: Self = Self { collection: Collection::Certificates, right: Right::Get };
    pub const CERTIFICATES_LIST: Self = Self { collection: Collection::Certificates, right: Right::List };
    pub const CERTIFICATES_WRITE: Self = Self { collection: Collection::Certificates, right: Right::Write };
    pub const CERTIFICATES_DELETE: Self = Self { collection: Collection::Certificates, right: Right::Delete };

    /// Everything.
    pub const ALL: [Self; 12] = [
        Self::SECRETS_GET,
        Self::SECRETS_LIST,
        Self::SECRETS_WRITE,
        Self::SECRETS_DELETE,
        Self::KEYS_GET,
        Self::KEYS_LIST,
        Self::KEYS_WRITE,
        Self::KEYS_DELETE,
        Self::CERTIFICATES_GET,
        Self::CERTIFICATES_LIST,
        Self::CERTIFICATES_WRITE,
        Self::CERTIFICATES_DELETE,
    ];

    /// Get and list of all three collections.
    pub const READ_ALL: [Self; 6] = [
        Self::SECRETS_GET,
        Self::SECRETS_LIST,
        Self::KEYS_GET,
        Self::KEYS_LIST,
        Self::CERTIFICATES_GET,
        Self::CERTIFICATES_LIST,
    ];
}

impl Permission {
    /// Reads `secrets.get`, `keys.write`, … .
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.to_string() == text)
    }

    /// What an operation needs.
    pub(crate) fn needed(collection: Collection, action: Action) -> Self {
        let right = match action {
            Action::Get | Action::GetDeleted | Action::Policy | Action::Pending => Right::Get,
            Action::List | Action::Versions | Action::ListDeleted => Right::List,
            Action::Set | Action::Update | Action::Create | Action::Import => Right::Write,
            Action::Delete | Action::Recover | Action::Purge => Right::Delete,
        };
        Self { collection, right }
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let right = match self.right {
            Right::Get => "get",
            Right::List => "list",
            Right::Write => "write",
            Right::Delete => "delete",
        };
        write!(f, "{}.{right}", self.collection.as_str())
    }
}

/// The data action that Azure's refusal names.
pub(crate) fn data_action(collection: Collection, action: Action) -> String {
    let verb = match (collection, action) {
        (Collection::Secrets, Action::Get) => "getSecret/action",
        (Collection::Secrets, Action::List | Action::Versions) => "readMetadata/action",
        (Collection::Secrets, Action::Set) => "setSecret/action",
        (_, Action::Get | Action::List | Action::Versions | Action::Policy | Action::Pending) => "read",
        (_, Action::GetDeleted | Action::ListDeleted) => "read",
        (_, Action::Set | Action::Update) => "update/action",
        (_, Action::Create) => "create/action",
        (_, Action::Import) => "import/action",
        (_, Action::Delete) => "delete",
        (_, Action::Recover) => "recover/action",
        (_, Action::Purge) => "purge/action",
    };
    format!("Microsoft.KeyVault/vaults/{}/{verb}", collection.as_str())
}

/// One role assignment, on a vault or on a single object in it.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub(crate) object_id: String,
    /// Lower-case name of the only object meant.
    pub(crate) object: Option<(Collection, String)>,
    pub(crate) permissions: BTreeSet<Permission>,
}

impl Assignment {
    pub(crate) fn allows(&self, principal: &str, needed: Permission, name: Option<&str>) -> bool {
        let in_scope = match &self.object {
            None => true,
            Some((collection, object)) => {
                *collection == needed.collection && name.is_some_and(|name| name.eq_ignore_ascii_case(object))
            }
        };
        in_scope && self.object_id.eq_ignore_ascii_case(principal) && self.permissions.contains(&needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_as_they_are_written() {
        for permission in Permission::ALL {
            assert_eq!(Permission::parse(&permission.to_string()), Some(permission));
        }
        assert_eq!(Permission::parse("secrets.everything"), None);
    }

    #[test]
    fn an_assignment_on_one_object_does_not_allow_another_or_a_listing() {
        let assignment = Assignment {
            object_id: "o".to_owned(),
            object: Some((Collection::Secrets, "db".to_owned())),
            permissions: Permission::ALL.into_iter().collect(),
        };
        assert!(assignment.allows("O", Permission::SECRETS_GET, Some("DB")));
        assert!(!assignment.allows("o", Permission::SECRETS_GET, Some("other")));
        assert!(!assignment.allows("o", Permission::SECRETS_LIST, None));
        assert!(!assignment.allows("o", Permission::KEYS_GET, Some("db")));
        assert!(!assignment.allows("p", Permission::SECRETS_GET, Some("db")));
    }
}
