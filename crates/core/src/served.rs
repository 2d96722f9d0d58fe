use std::sync::Arc;

use async_trait::async_trait;

use crate::{Error, Result, SecretBytes, State, UnixTime, Version};

/// One object as the application knows it: the value after key, decode and format, exactly what its file holds.
#[derive(Clone)]
pub struct Served {
    /// The application's name for it.
    pub name: String,
    /// The value, or why there is none (never read, conversion failed, stale limit, revoked).
    pub value: std::result::Result<SecretBytes, Error>,
    /// The version that the value comes from.
    pub version: Option<Version>,
    /// The provider's identifier, without a version.
    pub source: String,
    /// The provider's content type.
    pub content_type: Option<String>,
    /// When the version was created.
    pub created: Option<UnixTime>,
    /// When the version was last changed.
    pub updated: Option<UnixTime>,
    /// When the version expires by its owner's word.
    pub expires: Option<UnixTime>,
    /// When the value was last confirmed by the provider.
    pub fetched: Option<UnixTime>,
    /// How the object stands.
    pub state: State,
    /// Why it is not fresh.
    pub error: Option<Error>,
    /// Moves only on a real change.
    pub sequence: u64,
}

/// What happened to a watched name.
#[derive(Clone)]
pub enum ServedChange {
    /// A first state, a new value, or a new state of failure.
    Current(Arc<Served>),
    /// The name is no longer declared.
    Removed(String),
}

/// What the local API reads from. One per pod; serves only what was declared for that pod.
#[async_trait]
pub trait SecretView: Send + Sync {
    /// One object by name: no lock, no copy, no wait.
    fn get(&self, name: &str) -> Option<Arc<Served>>;

    /// All objects, in the order of their names.
    fn list(&self) -> Vec<Arc<Served>>;

    /// One version of a declared object, read from the provider unless it is the current one.
    ///
    /// # Errors
    /// `KW_UNKNOWN_NAME`, or what the provider says.
    async fn version(&self, name: &str, version: &str) -> Result<Arc<Served>>;

    /// Reads the object afresh and serves the result.
    ///
    /// # Errors
    /// `KW_UNKNOWN_NAME`, or what the provider says; the value in place stays.
    async fn refresh(&self, name: &str) -> Result<Arc<Served>>;

    /// A number that grows with every change of what [`Self::list`] shows.
    fn generation(&self) -> u64;

    /// Returns when [`Self::generation`] is no longer `seen`. Changes coalesce: a slow watcher sees the newest only.
    async fn changed(&self, seen: u64);
}
