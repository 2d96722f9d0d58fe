//! Names for everything that can be asked of the emulator; faults and counters speak in them.

use std::fmt;

/// The three collections of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collection {
    /// `/secrets`
    Secrets,
    /// `/keys`
    Keys,
    /// `/certificates`
    Certificates,
}

impl Collection {
    /// The path segment.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::Keys => "keys",
            Self::Certificates => "certificates",
        }
    }

    /// `Secret`, `Key` or `Certificate`, as in error codes such as `SecretNotFound`.
    pub(crate) fn singular(self) -> &'static str {
        match self {
            Self::Secrets => "Secret",
            Self::Keys => "Key",
            Self::Certificates => "Certificate",
        }
    }

    /// Reads a path segment; `true` beside it when it names the soft-deleted twin, as in `deletedsecrets`.
    pub(crate) fn from_segment(segment: &str) -> Option<(Self, bool)> {
        let lower = segment.to_ascii_lowercase();
        let (name, deleted) = match lower.strip_prefix("deleted") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        [Self::Secrets, Self::Keys, Self::Certificates]
            .into_iter()
            .find(|c| c.as_str() == name)
            .map(|c| (c, deleted))
    }
}

/// What is done to an object of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is named after the Key Vault operation it stands for")]
pub enum Action {
    Get,
    List,
    Versions,
    Set,
    Update,
    Delete,
    GetDeleted,
    ListDeleted,
    Recover,
    Purge,
    Create,
    Import,
    Pending,
    Policy,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Versions => "versions",
            Self::Set => "set",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::GetDeleted => "get-deleted",
            Self::ListDeleted => "list-deleted",
            Self::Recover => "recover",
            Self::Purge => "purge",
            Self::Create => "create",
            Self::Import => "import",
            Self::Pending => "pending",
            Self::Policy => "policy",
        }
    }
}

/// One kind of request. Its text, such as `secrets.get` or `token.imds`, is what fault patterns and counters use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// `secrets.get`, `keys.create`, `certificates.list`, …
    Vault(Collection, Action),
    /// `vault.unknown`: a vault was asked for something that Key Vault does not have.
    UnknownVaultRequest,
    /// `token.client-secret`
    ClientSecretToken,
    /// `token.client-certificate`
    ClientCertificateToken,
    /// `token.federated`
    FederatedToken,
    /// `token.proxy`: a federated assertion posted to the identity-binding proxy.
    ProxyToken,
    /// `token.imds`
    ImdsToken,
    /// `token.app-service`
    AppServiceToken,
    /// `entra.discovery`: OpenID configuration, instance discovery and signing keys.
    Discovery,
    /// `entra.unknown`: anything else asked of Entra, a malformed token request included.
    UnknownEntraRequest,
    /// `admin`
    Admin,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vault(collection, action) => {
                return write!(f, "{}.{}", collection.as_str(), action.as_str());
            }
            Self::UnknownVaultRequest => "vault.unknown",
            Self::ClientSecretToken => "token.client-secret",
            Self::ClientCertificateToken => "token.client-certificate",
            Self::FederatedToken => "token.federated",
            Self::ProxyToken => "token.proxy",
            Self::ImdsToken => "token.imds",
            Self::AppServiceToken => "token.app-service",
            Self::Discovery => "entra.discovery",
            Self::UnknownEntraRequest => "entra.unknown",
            Self::Admin => "admin",
        })
    }
}

impl Operation {
    /// Whether this is asked of a vault.
    pub(crate) fn is_vault(self) -> bool {
        matches!(self, Self::Vault(..) | Self::UnknownVaultRequest)
    }

    /// Whether `pattern` covers this operation. A pattern is a list separated by `|`; each entry is an exact name,
    /// a prefix that ends in `*`, or `vault.*` for everything asked of a vault.
    #[must_use]
    pub fn matches(self, pattern: &str) -> bool {
        matches_name(pattern, &self.to_string(), self.is_vault())
    }
}

pub(crate) fn matches_name(pattern: &str, name: &str, of_vault: bool) -> bool {
    pattern.split('|').map(str::trim).any(|entry| match entry.strip_suffix('*') {
        Some("vault.") => of_vault,
        Some(prefix) => name.starts_with(prefix),
        None => entry == name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_one_operation_a_family_or_everything() {
        let get = Operation::Vault(Collection::Secrets, Action::Get);
        assert!(get.matches("secrets.get"));
        assert!(get.matches("keys.get|secrets.*"));
        assert!(get.matches("*"));
        assert!(get.matches("vault.*"));
        assert!(!get.matches("secrets.list"));
        assert!(!get.matches("token.*"));
        assert!(Operation::ImdsToken.matches("token.*"));
        assert!(!Operation::ImdsToken.matches("vault.*"));
    }
}
