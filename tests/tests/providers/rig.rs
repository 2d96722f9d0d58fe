use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keyward_core::cloud::Cloud;
use keyward_core::observe::{Event, Observer};
use keyward_core::{
    AccessToken, BundleType, Clock, Error, FetchRequest, IdentityKey, ObjectRef, Parts, Provider, Result,
    SecretBytes, SystemClock, TokenSource, VaultHost, Version,
};
use keyward_egress::{Egress, EgressSettings};
use keyward_emulator::{
    Builder, Emulator, Identity, KeyKind, ListenerKind, Permission, Registration, SecretOptions, VaultHandle,
};
use keyward_providers::conformance::Backend;
use keyward_providers::{KeyVault, KeyVaultSettings};
use parking_lot::Mutex;

/// An emulated vault `shop`, and a provider that reaches it by its real name over TLS.
pub(crate) struct Rig {
    pub(crate) emulator: Emulator,
    pub(crate) identity: Identity,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) provider: Arc<KeyVault>,
    owner: Identity,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(|builder| builder, |_| {}).await
    }

    pub(crate) async fn with(
        build: impl FnOnce(Builder) -> Builder,
        egress: impl FnOnce(&mut EgressSettings),
    ) -> Self {
        let emulator = build(Emulator::builder().vault("shop")).start().await.expect("the emulator starts");
        let identity = emulator.identities().register(Registration::application());
        emulator.vault("shop").assign(&identity, Permission::READ_ALL);
        let owner = emulator.identities().register(Registration::application());
        emulator.vault("shop").assign(&owner, Permission::ALL);
        let tokens = Arc::new(Tokens::new(emulator.clone(), identity.clone()));
        let provider = provider(&emulator, &tokens, egress, |_| {});
        Self { emulator, identity, tokens, provider, owner }
    }

    /// Another provider for the same vault, with changed settings.
    pub(crate) fn again(&self, change: impl FnOnce(&mut KeyVaultSettings)) -> Arc<KeyVault> {
        provider(&self.emulator, &self.tokens, |_| {}, change)
    }

    pub(crate) fn vault(&self) -> VaultHandle {
        self.emulator.vault("shop")
    }

    /// One request to the vault's own API as its owner, without a socket.
    async fn own(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let token = self.emulator.mint_access_token(
            &self.owner,
            "https://vault.azure.net",
            Duration::from_secs(3600),
        );
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://shop.vault.azure.net{path}?api-version=7.4"))
            .header("host", "shop.vault.azure.net")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Bytes::from(body.to_owned()))
            .expect("a request");
        let reply = self.emulator.handle(ListenerKind::Https, request).await.reply().expect("an answer");
        assert!(reply.status.is_success(), "{method} {path}: {}", reply.status);
        let keyward_emulator::ReplyBody::Bytes(body) = reply.body else { panic!("a whole body") };
        serde_json::from_slice(&body).unwrap_or_default()
    }
}

fn provider(
    emulator: &Emulator,
    tokens: &Arc<Tokens>,
    egress: impl FnOnce(&mut EgressSettings),
    change: impl FnOnce(&mut KeyVaultSettings),
) -> Arc<KeyVault> {
    let mut settings = EgressSettings {
        extra_roots_pem: Some(emulator.ca_pem().into_bytes()),
        resolve: ["shop", "other"]
            .map(|vault| (format!("{vault}.vault.azure.net"), emulator.vault_addr()))
            .to_vec(),
        ..EgressSettings::default()
    };
    egress(&mut settings);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let egress = Egress::new(settings, Arc::clone(&clock), Arc::new(Quiet)).expect("the roots are good");
    let mut settings = KeyVaultSettings::new("https://vault.azure.net");
    settings.seed = Some(1);
    change(&mut settings);
    KeyVault::new(settings, egress, Arc::clone(tokens) as _, clock)
}

struct Quiet;

impl Observer for Quiet {
    fn event(&self, _: &Event) {}
}

/// Tokens that the emulator issues without being asked over the network: the token path has tests of its own.
pub(crate) struct Tokens {
    emulator: Emulator,
    identity: Identity,
    key: IdentityKey,
    held: Mutex<Option<AccessToken>>,
    exchanges: AtomicU64,
    latency: Mutex<Duration>,
}

impl Tokens {
    fn new(emulator: Emulator, identity: Identity) -> Self {
        let key = IdentityKey {
            method: "service-principal",
            authority: emulator.authority_url(),
            tenant: emulator.tenant_id().to_owned(),
            client: identity.client_id.clone(),
        };
        Self {
            emulator,
            identity,
            key,
            held: Mutex::default(),
            exchanges: AtomicU64::new(0),
            latency: Mutex::default(),
        }
    }

    pub(crate) fn of_tenant(emulator: &Emulator, identity: &Identity, tenant: &str) -> Arc<Self> {
        let mut tokens = Self::new(emulator.clone(), identity.clone());
        tenant.clone_into(&mut tokens.key.tenant);
        Arc::new(tokens)
    }

    pub(crate) fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::SeqCst)
    }

    /// How long an exchange takes.
    pub(crate) fn set_latency(&self, latency: Duration) {
        *self.latency.lock() = latency;
    }
}

#[async_trait]
impl TokenSource for Tokens {
    fn identity(&self) -> &IdentityKey {
        &self.key
    }

    async fn token(&self, resource: &str) -> Result<AccessToken> {
        if let Some(held) = self.held.lock().clone() {
            return Ok(held);
        }
        let latency = *self.latency.lock();
        tokio::time::sleep(latency).await;
        let number = self.exchanges.fetch_add(1, Ordering::SeqCst);
        // Another lifetime each time, so that tokens of one second differ too.
        let lifetime = Duration::from_secs(3600 + number);
        let token = AccessToken {
            secret: SecretBytes::from(self.emulator.mint_access_token(&self.identity, resource, lifetime)),
            expires_boot: SystemClock.boot() + lifetime,
            expires_wall: SystemClock.wall() + lifetime,
        };
        Ok(self.held.lock().get_or_insert(token).clone())
    }

    fn reject(&self, _resource: &str, token: &AccessToken) {
        let mut held = self.held.lock();
        if held.as_ref().is_some_and(|held| held.secret.same_as(&token.secret)) {
            *held = None;
        }
    }
}

#[async_trait]
impl Backend for Rig {
    fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    fn host(&self) -> VaultHost {
        VaultHost::parse("shop.vault.azure.net").expect("a host")
    }

    async fn set_secret(&self, name: &str, value: &str, content_type: Option<&str>) -> Version {
        let options = SecretOptions { content_type: content_type.map(str::to_owned), ..Default::default() };
        Version::parse(&self.vault().set_secret_with(name, value, options)).expect("a version")
    }

    async fn enable_secret(&self, secret: &ObjectRef, enabled: bool) {
        let version = secret.version().expect("the suite pins it");
        let body = serde_json::json!({"attributes": {"enabled": enabled}}).to_string();
        self.own("PATCH", &format!("/secrets/{}/{version}", secret.name()), &body).await;
    }

    async fn delete_secret(&self, name: &str) {
        self.vault().delete_secret(name);
    }

    async fn recover_secret(&self, name: &str) {
        self.vault().recover_secret(name);
    }

    async fn create_key(&self, name: &str) -> Version {
        Version::parse(&self.vault().create_key(name, KeyKind::Rsa(2048))).expect("a version")
    }

    async fn import_certificate(&self, name: &str, form: BundleType) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).expect("a certificate");
        let pem = format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem());
        let content_type = match form {
            BundleType::Pfx => "application/x-pkcs12",
            BundleType::Pem => "application/x-pem-file",
        };
        self.vault().import_certificate(name, &pem, "", content_type);
        made.cert.der().to_vec()
    }

    async fn permit(&self, get: bool, list: bool) {
        self.vault().revoke(&self.identity);
        let granted = Permission::READ_ALL.into_iter().filter(|permission| {
            let lists = permission.to_string().ends_with(".list");
            if lists { list } else { get }
        });
        self.vault().assign(&self.identity, granted);
    }

    async fn next_second(&self) {
        self.emulator.advance_clock(Duration::from_secs(1));
    }
}

pub(crate) fn object(text: &str) -> ObjectRef {
    ObjectRef::parse(text, &Cloud::public()).expect("a reference").0
}

pub(crate) fn read(text: &str) -> FetchRequest {
    FetchRequest { object: object(text), parts: Parts::Object }
}

pub(crate) fn error_of<T>(result: Result<T>) -> Error {
    result.err().expect("this has to fail")
}
