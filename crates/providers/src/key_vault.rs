//! Azure Key Vault, through the official SDK's clients with our own transport, tokens, retries and parsers.
//!
//! The SDK builds, signs and sends requests. What a long-lived broker cannot leave to it is taken over through its own
//! extension points: it never waits for tokens, never retries, never follows a link, and never sees the body of an
//! answer. See `docs/adr/0002`.

mod challenge;
mod clients;
mod credential;
mod listing;
mod pipeline;
mod refusal;
mod session;
pub mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::{HttpClient, Url};
use keyward_core::backoff::RetryPolicy;
use keyward_core::cloud::Cloud;
use keyward_core::config::Config;
use keyward_core::{
    BundleType, CertificateContent, Clock, Code, Collection, Content, Error, FetchRequest, Fetched,
    ObjectMetadata, ObjectRef, Parts, Priority, Provider, Result, Scoped, TokenSource, VaultHost,
    VersionInfo,
};
use keyward_egress::Egress;
use parking_lot::Mutex;
use tokio::time::Instant;

use clients::{Clients, Listing};
use listing::{Step, Walk};
use pipeline::Answer;
use refusal::disabled;
use session::{Failed, Outcome, Session};
use wire::Attributes;

pub use challenge::{Challenge, parse_challenge};
pub use wire::{parse_certificate, parse_error_body, parse_id, parse_key, parse_page, parse_secret};

/// The API version asked for unless a setting names another: the lowest that every current SDK knows, and so one that
/// every cloud has. Nothing newer is needed.
pub const DEFAULT_API_VERSION: &str = "7.4";

/// Key Vault's page size when none is asked for, which is also the largest.
const PAGE: usize = 25;

/// How to talk to the vaults of one cloud.
#[derive(Debug, Clone)]
pub struct KeyVaultSettings {
    /// Audience of vault tokens, without a trailing slash: `https://vault.azure.net`.
    pub audience: String,
    /// Hosts whose challenge may name any resource, because they are vaults under another name. They get a token for
    /// [`Self::audience`], whatever they ask for.
    pub unverified_challenge_hosts: BTreeSet<VaultHost>,
    /// How often one call is tried. Waits and requests together end within its budget, the last request's own deadline
    /// apart.
    pub retry: RetryPolicy,
    /// `api-version`; [`DEFAULT_API_VERSION`] when `None`.
    pub api_version: Option<String>,
    /// Seed of the jitter, for simulations that replay; random when `None`.
    pub seed: Option<u64>,
}

impl KeyVaultSettings {
    /// Defaults for a cloud's audience.
    #[must_use]
    pub fn new(audience: impl Into<String>) -> Self {
        Self {
            audience: audience.into(),
            unverified_challenge_hosts: BTreeSet::new(),
            retry: RetryPolicy::VAULT,
            api_version: None,
            seed: None,
        }
    }

    /// What a configuration says.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self::for_cloud(&config.cloud, &config.vaults)
    }

    /// For one cloud, with what an administrator says about single vaults.
    #[must_use]
    pub fn for_cloud(cloud: &Cloud, vaults: &[keyward_core::config::Vault]) -> Self {
        let unverified = vaults.iter().filter(|vault| !vault.verify_challenge_resource);
        Self {
            unverified_challenge_hosts: unverified.map(|vault| vault.host.clone()).collect(),
            ..Self::new(&cloud.audience)
        }
    }
}

/// Reads from any number of vaults with one identity.
pub struct KeyVault {
    settings: KeyVaultSettings,
    tokens: Arc<dyn TokenSource>,
    clock: Arc<dyn Clock>,
    transport: Box<Transports>,
    vaults: Mutex<HashMap<VaultHost, Arc<Vault>>>,
    random: Mutex<fastrand::Rng>,
}

/// Makes the transport of a vault.
type Transports = dyn Fn(&VaultHost) -> Arc<dyn HttpClient> + Send + Sync;

/// What is kept for each vault as long as the process lives.
struct Vault {
    session: Arc<Session>,
    clients: Clients,
}

impl KeyVault {
    /// Nothing is sent before the first read or [`Provider::warm_up`].
    #[must_use]
    pub fn new(
        settings: KeyVaultSettings,
        egress: Arc<Egress>,
        tokens: Arc<dyn TokenSource>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Self::with_transport(settings, move |host| egress.vault_transport(host), tokens, clock)
    }

    /// The same on any transport of the SDK's kind. It has to bound answers and pin the vault's origin itself.
    #[must_use]
    pub fn with_transport<T: HttpClient + 'static>(
        settings: KeyVaultSettings,
        transport: impl Fn(&VaultHost) -> Arc<T> + Send + Sync + 'static,
        tokens: Arc<dyn TokenSource>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let random = settings.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Arc::new(Self {
            settings,
            tokens,
            clock,
            transport: Box::new(move |host| transport(host)),
            vaults: Mutex::default(),
            random: Mutex::new(random),
        })
    }

    fn vault(&self, host: &VaultHost) -> Result<Arc<Vault>> {
        let mut vaults = self.vaults.lock();
        if let Some(vault) = vaults.get(host) {
            return Ok(Arc::clone(vault));
        }
        let endpoint = Url::parse(&format!("https://{host}/"))
            .map_err(|_| Error::new(Code::ObjectInvalid, "the vault's host cannot be part of a URL"))?;
        let transport = (self.transport)(host);
        let verify = !self.settings.unverified_challenge_hosts.contains(host);
        let api_version = self.settings.api_version.as_deref().unwrap_or(DEFAULT_API_VERSION);
        let session = Arc::new(Session::new(
            host.clone(),
            endpoint,
            self.settings.audience.clone(),
            verify,
            api_version.to_owned(),
            Arc::clone(&self.tokens),
            Arc::clone(&transport),
            Arc::clone(&self.clock),
        ));
        let clients = Clients::new(&session, transport, api_version, verify)?;
        let vault = Arc::new(Vault { session, clients });
        vaults.insert(host.clone(), Arc::clone(&vault));
        Ok(vault)
    }

    /// Runs `attempt` until it succeeds, fails for good, or the budget is used up.
    async fn persist<T, F>(&self, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        let begun = Instant::now();
        let mut failed = 0;
        loop {
            let Failed { error, again } = match self.on_behalf(attempt()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            failed = u32::saturating_add(failed, 1);
            let random = self.random.lock().f64();
            let wait = again.then(|| self.settings.retry.next(&error, failed, begun.elapsed(), random));
            let Some(wait) = wait.flatten() else { return Err(error) };
            tokio::time::sleep(wait).await;
        }
    }

    /// Runs a call on behalf of the current asker, or of the identity when there is none. Pods choose the names of vaults,
    /// so each look-up must count against a share.
    fn on_behalf<F: Future>(&self, call: F) -> Scoped<F> {
        let current = Priority::current();
        match current.asker() {
            Some(_) => current.scope(call),
            None => current.asked_by(self.tokens.identity().to_string().into()).scope(call),
        }
    }

    /// Gets one object and parses it, within one retried call: a body that makes no sense may be a proxy's.
    async fn get<T: Send>(
        &self,
        object: &ObjectRef,
        parse: impl Fn(&[u8]) -> Result<(ObjectRef, T)> + Sync,
    ) -> Result<(ObjectRef, T, Option<String>)> {
        let vault = self.vault(object.host())?;
        let (vault, parse) = (&vault, &parse);
        self.persist(|| async move {
            vault.session.ready().await?;
            let Answer { body, request_id } = vault.clients.get(object).await?;
            let (id, parsed) = parse(&body)?;
            Ok((same_object(object, &id)?, parsed, request_id))
        })
        .await
        .map_err(|error| self.named(error, object))
    }

    async fn secret(&self, object: &ObjectRef) -> Result<Fetched> {
        let (id, body, request_id) = self
            .get(object, |body| wire::parse_secret(body).map(|secret| (secret.id.clone(), secret)))
            .await?;
        let bundle = bundle_type(body.backs_certificate, body.content_type.as_deref());
        let content = Content::Secret { value: body.value, bundle };
        self.fetched(id, content, body.content_type, body.attributes, request_id, "SecretDisabled")
    }

    async fn key(&self, object: &ObjectRef) -> Result<Fetched> {
        let (id, body, request_id) =
            self.get(object, |body| wire::parse_key(body).map(|key| (key.id.clone(), key))).await?;
        self.fetched(id, Content::Key { jwk: body.jwk }, None, body.attributes, request_id, "KeyDisabled")
    }

    async fn certificate(&self, object: &ObjectRef, parts: Parts) -> Result<Fetched> {
        let (id, body, request_id) = self
            .get(object, |body| wire::parse_certificate(body).map(|leaf| (leaf.id.clone(), leaf)))
            .await?;
        let version = id.version().cloned();
        let attributes = body.attributes;
        let content = CertificateContent { leaf_der: body.leaf_der, bundle: None };
        let mut fetched = self.fetched(
            id,
            Content::Certificate(content),
            None,
            attributes,
            request_id,
            "CertificateDisabled",
        )?;
        if parts == Parts::Bundle {
            // The secret of this very version, so that leaf and key belong together even during a rotation.
            let of_leaf = body.secret.as_ref().and_then(ObjectRef::version).cloned().or(version);
            let secret = object.sibling(Collection::Secrets);
            let secret = self.secret(&of_leaf.map_or(secret.clone(), |version| secret.at(version))).await?;
            let Content::Secret { value, bundle: Some(bundle) } = secret.content else {
                let message = "the certificate's backing secret is neither a PFX nor a PEM file";
                return Err(self.named(Error::new(Code::VaultProtocol, message), object));
            };
            if let Content::Certificate(certificate) = &mut fetched.content {
                certificate.bundle = Some((bundle, value));
            }
            fetched.content_type = secret.content_type;
        }
        Ok(fetched)
    }

    fn fetched(
        &self,
        object: ObjectRef,
        content: Content,
        content_type: Option<String>,
        attributes: Attributes,
        request_id: Option<String>,
        disabled_code: &str,
    ) -> Result<Fetched> {
        // Key Vault refuses disabled secrets by itself, but shows disabled keys and certificates.
        if !attributes.is_enabled() {
            return Err(self.named(disabled(disabled_code), &object));
        }
        let version = object.version().cloned().ok_or_else(|| {
            self.named(
                Error::new(Code::VaultProtocol, "the answer does not say which version it is"),
                &object,
            )
        })?;
        Ok(Fetched {
            object,
            version,
            content,
            content_type,
            created: attributes.created,
            updated: attributes.updated,
            expires: attributes.expires,
            not_before: attributes.not_before,
            request_id,
        })
    }

    async fn walk(
        &self,
        host: &VaultHost,
        listing: Listing<'_>,
        limit: usize,
    ) -> Result<Vec<wire::PageItem>> {
        let vault = self.vault(host)?;
        let vault = &vault;
        let mut walk = Walk::new(host, &vault.session.endpoint, listing, limit);
        let mut link: Option<Url> = None;
        loop {
            let at = link.as_ref();
            let page = self
                .persist(|| async move {
                    vault.session.ready().await?;
                    let answer = vault.clients.page(listing, at).await?;
                    Ok(wire::parse_page(&answer.body)?)
                })
                .await?;
            match walk.take(page)? {
                Step::Done => return Ok(walk.items),
                Step::Next(url) => link = Some(url),
            }
        }
    }

    fn named(&self, error: Error, object: &dyn std::fmt::Display) -> Error {
        error.object(object).identity(self.tokens.identity())
    }
}

#[async_trait]
impl Provider for KeyVault {
    fn name(&self) -> &'static str {
        "azure-key-vault"
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let object = &request.object;
        match object.collection() {
            Collection::Secrets => self.secret(object).await,
            Collection::Keys => self.key(object).await,
            Collection::Certificates => self.certificate(object, request.parts).await,
        }
    }

    async fn list(
        &self,
        host: &VaultHost,
        collection: Collection,
        limit: usize,
    ) -> Result<Vec<ObjectMetadata>> {
        let place = format!("https://{host}/{}", collection.as_str());
        let items = self.walk(host, Listing::Objects(collection), limit).await;
        items
            .and_then(|items| {
                items
                    .into_iter()
                    .map(|item| {
                        let object = ObjectRef::new(host.clone(), collection, item.id.name(), None)?;
                        let Attributes { updated, .. } = item.attributes;
                        Ok(ObjectMetadata { object, enabled: item.attributes.is_enabled(), updated })
                    })
                    .collect()
            })
            .map_err(|error| self.named(error, &place))
    }

    async fn versions(&self, object: &ObjectRef, limit: usize) -> Result<Vec<VersionInfo>> {
        // The vault lists versions in no useful order, so the newest are known only when all are.
        let items = self.walk(object.host(), Listing::Versions(object), usize::MAX).await;
        let versions = items.and_then(|items| {
            items
                .into_iter()
                .map(|item| {
                    let version = item.id.version().cloned().ok_or_else(|| {
                        Error::new(Code::VaultProtocol, "a line of the listing names no version")
                    })?;
                    let Attributes { created, updated, .. } = item.attributes;
                    Ok(VersionInfo { version, enabled: item.attributes.is_enabled(), created, updated })
                })
                .collect::<Result<Vec<_>>>()
        });
        let mut versions = versions.map_err(|error| self.named(error, object))?;
        versions.sort_by_key(|line| Reverse((line.created, line.updated)));
        versions.truncate(limit);
        Ok(versions)
    }

    fn list_cost(&self, count: usize) -> usize {
        count.div_ceil(PAGE).max(1)
    }

    async fn prepare(&self, host: &VaultHost) {
        if let Ok(vault) = self.vault(host) {
            self.on_behalf(vault.session.prepare()).await;
        }
    }

    async fn warm_up(&self, host: &VaultHost) {
        if let Ok(vault) = self.vault(host) {
            // A failure is told by the reads that follow.
            drop(self.on_behalf(vault.session.ready()).await);
        }
    }
}

/// The asked object at the version that was returned, if the answer is about it at all.
fn same_object(asked: &ObjectRef, got: &ObjectRef) -> Result<ObjectRef> {
    let same = asked.host().name() == got.host().name()
        && asked.collection() == got.collection()
        && asked.name().eq_ignore_ascii_case(got.name())
        && (asked.version().is_none() || asked.version() == got.version());
    match got.version() {
        Some(version) if same => Ok(asked.at(version.clone())),
        _ => Err(Error::new(Code::VaultProtocol, "the vault's answer is about another object")),
    }
}

/// How a certificate's backing secret is written. Only `kid` makes it one: anybody may give an ordinary secret such a
/// content type.
fn bundle_type(backs_certificate: bool, content_type: Option<&str>) -> Option<BundleType> {
    let content_type = content_type.filter(|_| backs_certificate)?;
    match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-pkcs12" => Some(BundleType::Pfx),
        "application/x-pem-file" => Some(BundleType::Pem),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
