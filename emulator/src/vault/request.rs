//! From method and path to an operation.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::operation::{Action, Collection};

/// What a request asks of a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultPath {
    /// Secrets, keys or certificates.
    pub collection: Collection,
    /// What to do.
    pub action: Action,
    /// The object, unless a whole collection is meant.
    pub name: Option<String>,
    /// The version, if one is named.
    pub version: Option<String>,
}

/// Why a path means nothing to a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathError {
    /// There is no such operation.
    Unknown,
    /// The object's name has characters other than `[0-9A-Za-z-]`, or more than 127.
    BadName(String),
}

/// Reads a path. Empty segments count for nothing, so `/secrets/db/` is the current version of `db`, as SDKs ask
/// for it.
///
/// # Errors
/// See [`PathError`].
pub fn parse_vault_path(method: &Method, path: &str) -> Result<VaultPath, PathError> {
    let mut segments = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| PathError::Unknown)?;
        segments.push(decoded.into_owned());
    }
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (first, rest) = segments.split_first().ok_or(PathError::Unknown)?;
    let (collection, deleted) = Collection::from_segment(first).ok_or(PathError::Unknown)?;
    let (action, version) =
        if deleted { (deleted_action(method, rest)?, None) } else { live_action(collection, method, rest)? };
    let name = rest.first().map(|name| (*name).to_owned());
    if let Some(name) = &name {
        let fits = name.len() <= 127 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !fits {
            return Err(PathError::BadName(name.clone()));
        }
    }
    Ok(VaultPath { collection, action, name, version })
}

fn live_action(
    collection: Collection,
    method: &Method,
    rest: &[&str],
) -> Result<(Action, Option<String>), PathError> {
    let version = |id: &str| Some(id.to_owned());
    let is_certificate = collection == Collection::Certificates;
    Ok(match (method.as_str(), rest) {
        ("GET", []) => (Action::List, None),
        ("GET", [_]) => (Action::Get, None),
        ("GET", [_, "versions"]) => (Action::Versions, None),
        ("GET", [_, "policy"]) if is_certificate => (Action::Policy, None),
        ("GET", [_, "pending"]) if is_certificate => (Action::Pending, None),
        ("GET", [_, id]) => (Action::Get, version(id)),
        ("PUT", [_]) if collection == Collection::Secrets => (Action::Set, None),
        ("POST", [_, "create"]) if collection != Collection::Secrets => (Action::Create, None),
        ("POST", [_, "import"]) if is_certificate => (Action::Import, None),
        ("PATCH", [_]) => (Action::Update, None),
        ("PATCH", [_, id]) => (Action::Update, version(id)),
        ("DELETE", [_]) => (Action::Delete, None),
        _ => return Err(PathError::Unknown),
    })
}

fn deleted_action(method: &Method, rest: &[&str]) -> Result<Action, PathError> {
    match (method.as_str(), rest) {
        ("GET", []) => Ok(Action::ListDeleted),
        ("GET", [_]) => Ok(Action::GetDeleted),
        ("POST", [_, "recover"]) => Ok(Action::Recover),
        ("DELETE", [_]) => Ok(Action::Purge),
        _ => Err(PathError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_means_the_current_version() {
        let with = parse_vault_path(&Method::GET, "/secrets/db/");
        assert_eq!(with, parse_vault_path(&Method::GET, "/secrets/db"));
        assert_eq!(with.map(|p| p.action), Ok(Action::Get));
    }

    #[test]
    fn an_encoded_slash_does_not_split_a_name() {
        let path = parse_vault_path(&Method::GET, "/secrets/a%2Fversions");
        assert_eq!(path, Err(PathError::BadName("a/versions".to_owned())));
    }

    #[test]
    fn names_with_underscores_or_of_128_characters_are_bad() {
        for name in ["a_b".to_owned(), "a.b".to_owned(), "x".repeat(128)] {
            let path = parse_vault_path(&Method::GET, &format!("/secrets/{name}"));
            assert_eq!(path, Err(PathError::BadName(name)));
        }
        assert!(parse_vault_path(&Method::GET, &format!("/secrets/{}", "x".repeat(127))).is_ok());
    }

    #[test]
    fn only_certificates_have_policies_and_only_secrets_are_set() {
        assert_eq!(parse_vault_path(&Method::PUT, "/keys/k"), Err(PathError::Unknown));
        let policy = parse_vault_path(&Method::GET, "/secrets/s/policy").expect("a version called policy");
        assert_eq!(policy.version.as_deref(), Some("policy"));
        let policy = parse_vault_path(&Method::GET, "/certificates/c/policy").expect("known");
        assert_eq!(policy.action, Action::Policy);
    }
}
