use std::fmt;
use std::sync::Arc;

use crate::cloud::Cloud;
use crate::{Code, Error, Result};

/// Host of a vault, lower case, with a port when it is not 443: `shop.vault.azure.net`, `127.0.0.1:8443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VaultHost(String);

impl VaultHost {
    /// Checks the form (`name[:port]`), not whether the host may be used.
    ///
    /// # Errors
    /// `KW_OBJECT_INVALID` when it is not a DNS name or IPv4 address with an optional port.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(
                Code::ObjectInvalid,
                "a vault host is a DNS name with an optional port, such as shop.vault.azure.net",
            )
        };
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => {
                (name, Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad)?))
            }
            None => (text, None),
        };
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label_ok) {
            return Err(bad());
        }
        let name = name.to_ascii_lowercase();
        Ok(Self(match port {
            Some(port) if port != 443 => format!("{name}:{port}"),
            _ => name,
        }))
    }

    /// `name[:port]`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the port.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split(':').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for VaultHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collection of a vault that an object lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collection {
    /// `secrets`
    Secrets,
    /// `keys`
    Keys,
    /// `certificates`
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

    fn parse(text: &str) -> Option<Self> {
        [Self::Secrets, Self::Keys, Self::Certificates]
            .into_iter()
            .find(|c| c.as_str().eq_ignore_ascii_case(text))
    }
}

/// A version id as the provider made it: 32 lower-case hex digits in Key Vault.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(Arc<str>);

impl Version {
    /// Accepts only what [`is_version`] accepts, in either case; held in lower case.
    ///
    /// # Errors
    /// `KW_OBJECT_INVALID` otherwise.
    pub fn parse(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        if is_version(&lower) {
            Ok(Self(lower.into()))
        } else {
            Err(Error::new(Code::ObjectInvalid, "a version is 32 hexadecimal digits as the vault shows it"))
        }
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Key Vault's rule for object names: 1 to 127 of `[0-9A-Za-z-]`
/// ([about keys, secrets and certificates](https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates)).
#[must_use]
pub fn is_object_name(text: &str) -> bool {
    (1..=127).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// 32 lower-case hexadecimal digits.
#[must_use]
pub fn is_version(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Which object of which vault, and whether one version is pinned. Compared without regard to case, as Key Vault does:
/// host, name and version are held in lower case only where the vault ignores case, and the name as written for show.
#[derive(Debug, Clone)]
pub struct ObjectRef {
    host: VaultHost,
    collection: Collection,
    name: String,
    version: Option<Version>,
}

/// Longest reference that is looked at, in bytes.
const MAX_REFERENCE: usize = 1024;

impl ObjectRef {
    /// Builds a reference from parts.
    ///
    /// # Errors
    /// `KW_OBJECT_INVALID` when the name breaks [`is_object_name`].
    pub fn new(
        host: VaultHost,
        collection: Collection,
        name: &str,
        version: Option<Version>,
    ) -> Result<Self> {
        if !is_object_name(name) {
            return Err(Error::new(
                Code::ObjectInvalid,
                "an object name has 1 to 127 letters, digits and hyphens, nothing else",
            ));
        }
        Ok(Self { host, collection, name: name.to_owned(), version })
    }

    /// Parses `https://<host>/<collection>/<name>[/<version>]` or the short form
    /// `kv://<vault>/<collection>/<name>[/<version>]`, whose DNS suffix comes from `cloud`. A fragment
    /// (`#/password`) is returned beside the reference.
    ///
    /// # Errors
    /// `KW_OBJECT_INVALID` naming what is wrong.
    pub fn parse<'a>(text: &'a str, cloud: &Cloud) -> Result<(Self, Option<&'a str>)> {
        let bad = |message: &str| Error::new(Code::ObjectInvalid, message);
        if text.len() > MAX_REFERENCE {
            return Err(bad("the reference is longer than 1024 bytes"));
        }
        let (reference, fragment) = match text.split_once('#') {
            Some((reference, fragment)) => (reference, Some(fragment)),
            None => (text, None),
        };
        if reference.starts_with("arn:") {
            return Err(bad(
                "AWS Secrets Manager is not available yet; use https://<vault host>/secrets/<name>",
            ));
        }
        let (short, rest) = if let Some(rest) = reference.strip_prefix("https://") {
            (false, rest)
        } else if let Some(rest) = reference.strip_prefix("kv://") {
            (true, rest)
        } else {
            return Err(bad(
                "write https://<vault host>/<secrets|keys|certificates>/<name>[/<version>], or kv://<vault>/… for short",
            ));
        };
        if rest.contains(['?', '%', '\\', '@']) {
            return Err(bad("a reference holds no query, escapes or user name"));
        }
        let mut parts = rest.split('/');
        let host = parts.next().unwrap_or_default();
        let host = if short {
            if !is_vault_name(host) {
                return Err(bad(
                    "a vault name has 3 to 24 letters, digits and single hyphens, beginning with a letter",
                ));
            }
            VaultHost::parse(&format!("{host}.{}", cloud.vault_dns_suffix))?
        } else {
            VaultHost::parse(host)?
        };
        let collection = parts
            .next()
            .and_then(Collection::parse)
            .ok_or_else(|| bad("after the host comes secrets, keys or certificates"))?;
        let name = parts
            .next()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| bad("the object's name is missing"))?;
        let version = match parts.next() {
            None | Some("") => None,
            Some(version) => Some(Version::parse(version)?),
        };
        if parts.next().is_some() {
            return Err(bad("nothing may follow the version"));
        }
        Ok((Self::new(host, collection, name, version)?, fragment))
    }

    /// Host of the vault.
    #[must_use]
    pub fn host(&self) -> &VaultHost {
        &self.host
    }

    /// Collection.
    #[must_use]
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// The object's name as written.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pinned version, or `None` for the current one.
    #[must_use]
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// The same object with `version` pinned.
    #[must_use]
    pub fn at(&self, version: Version) -> Self {
        Self { version: Some(version), ..self.clone() }
    }

    /// The same name in another collection: a certificate's backing secret.
    #[must_use]
    pub fn sibling(&self, collection: Collection) -> Self {
        Self { collection, ..self.clone() }
    }

    fn identity(&self) -> (&VaultHost, Collection, String, Option<&Version>) {
        (&self.host, self.collection, self.name.to_ascii_lowercase(), self.version.as_ref())
    }
}

impl PartialEq for ObjectRef {
    fn eq(&self, other: &Self) -> bool {
        self.host == other.host
            && self.collection == other.collection
            && self.name.eq_ignore_ascii_case(&other.name)
            && self.version == other.version
    }
}

impl Eq for ObjectRef {}

impl std::hash::Hash for ObjectRef {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for ObjectRef {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ObjectRef {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}/{}/{}", self.host, self.collection.as_str(), self.name)?;
        self.version.iter().try_for_each(|version| write!(f, "/{version}"))
    }
}

fn is_vault_name(text: &str) -> bool {
    (3..=24).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !text.ends_with('-')
        && !text.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<(ObjectRef, Option<&str>)> {
        ObjectRef::parse(text, &Cloud::public())
    }

    #[test]
    fn the_portal_form_and_the_short_form_name_the_same_object() {
        let (long, key) = parse("https://shop.vault.azure.net/secrets/db-password#/password").unwrap();
        let (short, none) = parse("kv://Shop/secrets/DB-password").unwrap();
        assert_eq!(long, short);
        assert_eq!((key, none), (Some("/password"), None));
        assert_eq!(long.to_string(), "https://shop.vault.azure.net/secrets/db-password");
    }

    #[test]
    fn a_trailing_slash_is_no_version_and_the_default_port_is_no_port() {
        let (reference, _) = parse("https://shop.vault.azure.net:443/keys/k/").unwrap();
        assert_eq!(reference.to_string(), "https://shop.vault.azure.net/keys/k");
    }

    #[test]
    fn names_that_would_change_the_path_are_refused() {
        for name in ["..", ".", "../keys/k", "a%2fb", "a?b", "a b", "ä", "a_b", "", "{secret-version}"] {
            assert!(parse(&format!("https://shop.vault.azure.net/secrets/{name}")).is_err(), "{name}");
        }
        assert!(parse("https://user@shop.vault.azure.net/secrets/a").is_err());
        assert!(parse("https://shop.vault.azure.net/secrets/a/b/c").is_err());
        assert!(parse("http://shop.vault.azure.net/secrets/a").is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_to_a_reference_that_prints_and_parses_to_itself_or_is_refused(text in "\\PC{0,80}") {
            if let Ok((reference, _)) = parse(&text) {
                let printed = reference.to_string();
                prop_assert_eq!(parse(&printed).unwrap().0, reference);
            }
        }

        #[test]
        fn every_legal_reference_round_trips(name in "[0-9A-Za-z-]{1,127}", version in proptest::option::of("[0-9a-f]{32}"), port in proptest::option::of(1u16..)) {
            let host = port.map_or("shop.vault.azure.net".to_owned(), |port| format!("shop.vault.azure.net:{port}"));
            let text = format!("https://{host}/certificates/{name}{}", version.as_ref().map_or(String::new(), |v| format!("/{v}")));
            let (reference, _) = parse(&text).unwrap();
            prop_assert_eq!(reference.name(), name);
            prop_assert_eq!(reference.version().map(Version::as_str), version.as_deref());
            prop_assert_eq!(parse(&reference.to_string()).unwrap().0, reference);
        }
    }
}
