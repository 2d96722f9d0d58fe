//! A vault that is not there: the same words, answers and oddities as Key Vault, in memory.
//!
//! For the tests of everything behind [`Provider`], and for simulation. Times are whole seconds of the injected clock,
//! a disabled current version hides the older ones, a deleted name is occupied, and a listing may lag behind.

mod store;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::cloud::Cloud;
use keyward_core::{
    BundleType, CertificateContent, Clock, Code, Collection, Content, Error, FetchRequest, Fetched,
    ObjectMetadata, ObjectRef, Parts, Provider, Result, SecretBytes, VaultHost, Version, VersionInfo,
};
use parking_lot::Mutex;

use store::{Store, Value};

/// The fake. Methods take a bare name, which means a secret of [`MemoryProvider::HOST`], or a whole reference such as
/// `kv://shop/keys/signing`; they panic on a name that no vault would take, as only a test can be wrong there.
pub struct MemoryProvider {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    store: Store,
    gets_forbidden: bool,
    lists_forbidden: bool,
    failure: Option<Error>,
    next: VecDeque<Error>,
    of_objects: Vec<(ObjectRef, Error)>,
    latency: Duration,
    lag: Duration,
    counters: Counters,
}

/// How often the provider was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Calls of `fetch`.
    pub gets: usize,
    /// Calls of `list`.
    pub lists: usize,
    /// Calls of `versions`.
    pub versions: usize,
    /// Calls of `warm_up`.
    pub warm_ups: usize,
    /// Calls in flight now.
    pub in_flight: usize,
    /// The most calls that were ever in flight at once.
    pub peak: usize,
}

impl MemoryProvider {
    /// Where bare names live.
    pub const HOST: &'static str = "memory.vault.azure.net";

    /// An empty vault.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, inner: Mutex::default() })
    }

    /// The object that `name` means.
    #[must_use]
    pub fn object(name: &str) -> ObjectRef {
        let text = if name.contains("://") { name.to_owned() } else { format!("kv://memory/secrets/{name}") };
        ObjectRef::parse(&text, &Cloud::public()).expect("the test names a possible object").0
    }

    /// Sets a secret: a new version, which becomes the current one.
    pub fn set(&self, name: &str, value: impl AsRef<[u8]>) -> Version {
        let value = SecretBytes::copy_from(value.as_ref());
        self.put(&Self::object(name), Value::Secret { value, bundle: None }, None)
    }

    /// The same with a content type.
    pub fn set_with_type(&self, name: &str, value: impl AsRef<[u8]>, content_type: &str) -> Version {
        let value = SecretBytes::copy_from(value.as_ref());
        self.put(&Self::object(name), Value::Secret { value, bundle: None }, Some(content_type.to_owned()))
    }

    /// Makes a key, given as a public JSON Web Key. `name` is a reference into `keys`.
    pub fn set_key(&self, name: &str, jwk: &str) -> Version {
        self.put(&Self::object(name), Value::Key { jwk: jwk.to_owned() }, None)
    }

    /// Imports a certificate: its leaf, and its backing secret under the same name and version. `name` is a reference
    /// into `certificates`.
    pub fn set_certificate(&self, name: &str, leaf_der: &[u8], form: BundleType, bundle: &[u8]) -> Version {
        let object = Self::object(name);
        let version = self.put(&object, Value::Certificate { leaf_der: leaf_der.to_vec() }, None);
        let content_type = match form {
            BundleType::Pfx => "application/x-pkcs12",
            BundleType::Pem => "application/x-pem-file",
        };
        let value = Value::Secret { value: SecretBytes::copy_from(bundle), bundle: Some(form) };
        let now = self.clock.wall();
        let boot = self.clock.boot();
        let secret = object.sibling(Collection::Secrets);
        self.inner.lock().store.put(
            &secret,
            value,
            Some(content_type.to_owned()),
            version.clone(),
            now,
            boot,
        );
        version
    }

    /// Sets when the current version expires, by its owner's word only.
    pub fn set_expiry(&self, name: &str, expires: Option<Duration>) {
        self.change(name, None, |version| version.expires = expires);
    }

    /// Switches the current version, or the one that `name` pins, on or off.
    pub fn enable(&self, name: &str, enabled: bool) {
        let object = Self::object(name);
        let pinned = object.version().cloned();
        self.change(name, pinned.as_ref(), |version| version.enabled = enabled);
    }

    /// Deletes the object. Its name stays occupied until it is recovered.
    pub fn delete(&self, name: &str) {
        let boot = self.clock.boot();
        self.inner.lock().store.set_deleted(&Self::object(name), true, boot);
    }

    /// Brings back a deleted object with all its versions.
    pub fn recover(&self, name: &str) {
        let boot = self.clock.boot();
        self.inner.lock().store.set_deleted(&Self::object(name), false, boot);
    }

    /// Whether values may be read.
    pub fn forbid_gets(&self, forbidden: bool) {
        self.inner.lock().gets_forbidden = forbidden;
    }

    /// Whether the vault may be listed.
    pub fn forbid_lists(&self, forbidden: bool) {
        self.inner.lock().lists_forbidden = forbidden;
    }

    /// Makes the next call fail; several are used up in turn.
    pub fn fail_next(&self, error: Error) {
        self.inner.lock().next.push_back(error);
    }

    /// Makes every call fail, or none.
    pub fn set_failure(&self, error: Option<Error>) {
        self.inner.lock().failure = error;
    }

    /// Makes every read of one object fail, or none.
    pub fn set_failure_of(&self, name: &str, error: Option<Error>) {
        let object = Self::object(name);
        let mut inner = self.inner.lock();
        inner.of_objects.retain(|(other, _)| *other != object);
        inner.of_objects.extend(error.map(|error| (object, error)));
    }

    /// How long each call takes, in tokio's time.
    pub fn set_latency(&self, latency: Duration) {
        self.inner.lock().latency = latency;
    }

    /// How far listings lag behind.
    pub fn set_listing_lag(&self, lag: Duration) {
        self.inner.lock().lag = lag;
    }

    /// How often the provider was asked so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.lock().counters
    }

    /// How often an object was read so far.
    #[must_use]
    pub fn gets(&self) -> usize {
        self.counters().gets
    }

    /// How often a vault was listed so far.
    #[must_use]
    pub fn lists(&self) -> usize {
        self.counters().lists
    }

    fn put(&self, object: &ObjectRef, value: Value, content_type: Option<String>) -> Version {
        let (now, boot) = (self.clock.wall(), self.clock.boot());
        let mut inner = self.inner.lock();
        let version = inner.store.new_version();
        inner.store.put(object, value, content_type, version.clone(), now, boot);
        version
    }

    fn change(&self, name: &str, version: Option<&Version>, change: impl FnOnce(&mut store::Stored)) {
        let (now, boot) = (self.clock.wall(), self.clock.boot());
        self.inner.lock().store.change(&Self::object(name), version, now, boot, change);
    }

    /// Counts a call, takes its time, and says how it ends unless it reaches the store.
    async fn begin(
        &self,
        count: impl FnOnce(&mut Counters),
        object: Option<&ObjectRef>,
        forbidden: impl FnOnce(&Inner) -> Option<&'static str> + Send,
    ) -> Result<()> {
        let latency = {
            let mut inner = self.inner.lock();
            count(&mut inner.counters);
            inner.counters.in_flight += 1;
            inner.counters.peak = inner.counters.peak.max(inner.counters.in_flight);
            inner.latency
        };
        let _landed = Landing(&self.inner);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut inner = self.inner.lock();
        if let Some(error) = inner.next.pop_front().or_else(|| inner.failure.clone()) {
            return Err(error);
        }
        let own = object.and_then(|object| {
            inner
                .of_objects
                .iter()
                .find(|(other, _)| same_name(other, object))
                .map(|(_, error)| error.clone())
        });
        if let Some(error) = own {
            return Err(error);
        }
        match forbidden(&inner) {
            Some(what) => Err(Error::new(Code::VaultForbidden, format!("this identity may not {what}"))),
            None => Ok(()),
        }
    }
}

/// Counts a call out of flight, however it ends.
struct Landing<'a>(&'a Mutex<Inner>);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.lock().counters.in_flight -= 1;
    }
}

fn same_name(failing: &ObjectRef, asked: &ObjectRef) -> bool {
    failing == asked
        || (failing.version().is_none()
            && (failing.host(), failing.collection()) == (asked.host(), asked.collection())
            && failing.name().eq_ignore_ascii_case(asked.name()))
}

#[async_trait]
impl Provider for MemoryProvider {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let object = &request.object;
        let forbidden = |inner: &Inner| inner.gets_forbidden.then_some("get secrets");
        let begun = self.begin(|counters| counters.gets += 1, Some(object), forbidden).await;
        let fetched = begun.and_then(|()| {
            let inner = self.inner.lock();
            let stored = inner.store.get(object)?;
            let content = match &stored.value {
                Value::Secret { value, bundle } => Content::Secret { value: value.clone(), bundle: *bundle },
                Value::Key { jwk } => Content::Key { jwk: jwk.clone() },
                Value::Certificate { leaf_der } => {
                    let secret = object.sibling(Collection::Secrets).at(stored.version.clone());
                    let bundle = match request.parts {
                        Parts::Object => None,
                        Parts::Bundle => match &inner.store.get(&secret)?.value {
                            Value::Secret { value, bundle: Some(form) } => Some((*form, value.clone())),
                            _ => None,
                        },
                    };
                    Content::Certificate(CertificateContent { leaf_der: leaf_der.clone(), bundle })
                }
            };
            Ok(Fetched {
                object: object.at(stored.version.clone()),
                version: stored.version.clone(),
                content,
                content_type: stored.content_type.clone(),
                created: Some(stored.created),
                updated: Some(stored.updated),
                expires: stored.expires,
                not_before: None,
                request_id: None,
            })
        });
        fetched.map_err(|error| error.object(object).identity("memory"))
    }

    async fn list(
        &self,
        host: &VaultHost,
        collection: Collection,
        limit: usize,
    ) -> Result<Vec<ObjectMetadata>> {
        let forbidden = |inner: &Inner| inner.lists_forbidden.then_some("list secrets");
        let begun = self.begin(|counters| counters.lists += 1, None, forbidden).await;
        let place = format!("https://{host}/{}", collection.as_str());
        begun.map_err(|error| error.object(place).identity("memory"))?;
        let inner = self.inner.lock();
        let mut lines = inner.store.list(host, collection, self.clock.boot().saturating_sub(inner.lag));
        lines.truncate(limit);
        Ok(lines)
    }

    async fn versions(&self, object: &ObjectRef, limit: usize) -> Result<Vec<VersionInfo>> {
        let forbidden = |inner: &Inner| inner.lists_forbidden.then_some("list secrets");
        let begun = self.begin(|counters| counters.versions += 1, Some(object), forbidden).await;
        let versions = begun.and_then(|()| self.inner.lock().store.versions(object));
        let mut versions = versions.map_err(|error| error.object(object).identity("memory"))?;
        versions.truncate(limit);
        Ok(versions)
    }

    fn list_cost(&self, count: usize) -> usize {
        count.div_ceil(25).max(1)
    }

    async fn warm_up(&self, _host: &VaultHost) {
        drop(self.begin(|counters| counters.warm_ups += 1, None, |_| None).await);
    }
}

#[cfg(test)]
mod tests;
