use async_trait::async_trait;

use crate::{Collection, ObjectRef, Result, SecretBytes, UnixTime, VaultHost, Version};

/// How much of a certificate is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Parts {
    /// What the object's own collection returns: the value, the public key, the leaf certificate.
    #[default]
    Object,
    /// Certificates only: the chain and private key too, through the backing secret (needs `secrets/get`).
    Bundle,
}

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchRequest {
    /// The object, at its pinned or current version.
    pub object: ObjectRef,
    /// How much of it.
    pub parts: Parts,
}

/// How the backing secret of a certificate is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleType {
    /// `application/x-pkcs12`: standard base64 of a PFX with an empty password.
    Pfx,
    /// `application/x-pem-file`: PKCS#8 private key and certificates.
    Pem,
}

/// A certificate's content.
#[derive(Clone)]
pub struct CertificateContent {
    /// The leaf certificate, DER.
    pub leaf_der: Vec<u8>,
    /// The backing secret's value as the vault returned it, when [`Parts::Bundle`] was asked for.
    pub bundle: Option<(BundleType, SecretBytes)>,
}

/// What an object holds, byte for byte as the provider returned it.
#[derive(Clone)]
pub enum Content {
    /// A secret's value. `bundle` tells that it backs a certificate (`kid` present) and how it is written.
    Secret {
        /// The value.
        value: SecretBytes,
        /// Set when the secret backs a certificate.
        bundle: Option<BundleType>,
    },
    /// A public key: JSON Web Key with its public members only (RFC 7517), as compact JSON.
    Key {
        /// The JWK.
        jwk: String,
    },
    /// A certificate.
    Certificate(CertificateContent),
}

impl Content {
    /// Whether both hold the same bytes, whatever version they come from.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Secret { value: a, bundle: x }, Self::Secret { value: b, bundle: y }) => {
                x == y && a.same_as(b)
            }
            (Self::Key { jwk: a }, Self::Key { jwk: b }) => a == b,
            (Self::Certificate(a), Self::Certificate(b)) => {
                a.leaf_der == b.leaf_der
                    && match (&a.bundle, &b.bundle) {
                        (None, None) => true,
                        (Some((x, a)), Some((y, b))) => x == y && a.same_as(b),
                        _ => false,
                    }
            }
            _ => false,
        }
    }
}

/// One successful read of one object.
#[derive(Clone)]
pub struct Fetched {
    /// The object with the version that was returned.
    pub object: ObjectRef,
    /// The version that was returned.
    pub version: Version,
    /// The content.
    pub content: Content,
    /// The provider's content type, at most 255 characters.
    pub content_type: Option<String>,
    /// When this version was created.
    pub created: Option<UnixTime>,
    /// When this version was last changed, whole seconds.
    pub updated: Option<UnixTime>,
    /// When it expires by its owner's word. Key Vault returns expired secrets all the same.
    pub expires: Option<UnixTime>,
    /// When it begins to be valid by its owner's word.
    pub not_before: Option<UnixTime>,
    /// The `x-ms-client-request-id` of the read, to find it in the provider's own log.
    pub request_id: Option<String>,
}

impl Fetched {
    /// Whether readers would see the same: same version and same bytes.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.version == other.version
            && self.content_type == other.content_type
            && (self.created, self.updated, self.expires, self.not_before)
                == (other.created, other.updated, other.expires, other.not_before)
            && self.content.same_as(&other.content)
    }

    /// Bytes that a cached copy costs, roughly, for the cache's bound.
    #[must_use]
    pub fn weight(&self) -> usize {
        let content = match &self.content {
            Content::Secret { value, .. } => value.len(),
            Content::Key { jwk } => jwk.len(),
            Content::Certificate(c) => {
                let bundle = c.bundle.as_ref().map_or(0, |(_, bundle)| bundle.len());
                c.leaf_der.len().saturating_add(bundle)
            }
        };
        content.saturating_add(512)
    }
}

/// One line of a vault's listing: enough to see that something changed, never a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMetadata {
    /// The object, without a version.
    pub object: ObjectRef,
    /// Whether its current version is enabled.
    pub enabled: bool,
    /// When it was last changed, whole seconds; old objects may have none.
    pub updated: Option<UnixTime>,
}

/// One line of a version listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// The version.
    pub version: Version,
    /// Whether it is enabled.
    pub enabled: bool,
    /// When it was created.
    pub created: Option<UnixTime>,
    /// When it was last changed.
    pub updated: Option<UnixTime>,
}

/// Reads objects for one identity. Implementations validate names before any request, bound every answer, map every
/// failure to the closed kinds, retry within their own budget, and never cache. How urgent a call is says its
/// [`Priority`](crate::Priority).
#[async_trait]
pub trait Provider: Send + Sync {
    /// `azure-key-vault`, `memory`, …: for metrics and audit.
    fn name(&self) -> &'static str;

    /// Reads one object.
    ///
    /// # Errors
    /// Names the object and the identity tried.
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched>;

    /// Lists a collection of a vault: every page, as one answer; `limit` entries at most.
    ///
    /// # Errors
    /// `KW_VAULT_FORBIDDEN` when this identity may read but not list.
    async fn list(
        &self,
        host: &VaultHost,
        collection: Collection,
        limit: usize,
    ) -> Result<Vec<ObjectMetadata>>;

    /// Lists the versions of an object, newest first, `limit` entries at most.
    ///
    /// # Errors
    /// As [`Self::list`].
    async fn versions(&self, object: &ObjectRef, limit: usize) -> Result<Vec<VersionInfo>>;

    /// How many requests a listing of a collection with `count` objects costs; Key Vault pages by 25.
    fn list_cost(&self, count: usize) -> usize;

    /// Gets as far as it can without a token (connection, challenge), while whoever is to read still proves who it is.
    /// Failing is no error.
    async fn prepare(&self, _host: &VaultHost) {}

    /// Gets ready to read from `host` (connection, challenge, token) so that the first reads need not queue behind it.
    /// Failing is no error: the reads will say what is wrong.
    async fn warm_up(&self, host: &VaultHost);
}
