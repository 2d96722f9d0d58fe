use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use keyward_core::observe::Silent;
use keyward_core::{AccessToken, Result, SystemClock, TokenSource as _, VaultHost};
use keyward_egress::{Egress, EgressSettings};
use keyward_emulator::{Emulator, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_identity::{IdentitySettings, ManagedEndpoint, Selector, TokenCache, token_source};

pub(crate) const VAULT: &str = "https://vault.azure.net";
pub(crate) const SUBJECT: &str = "system:serviceaccount:shop:web";
pub(crate) const SECRET: &str = "the-applications-own-secret";

/// An emulator with one vault and one secret, and a directory for the files of identities.
pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) egress: Arc<Egress>,
    files: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let emulator = Emulator::builder().vault("shop").start().await.unwrap();
        emulator.vault("shop").set_secret("db", "hunter2");
        let settings = EgressSettings {
            extra_roots_pem: Some(emulator.ca_pem().into_bytes()),
            resolve: vec![("shop.vault.azure.net".to_owned(), emulator.vault_addr())],
            ..EgressSettings::default()
        };
        let egress = Egress::new(settings, Arc::new(SystemClock), Arc::new(Silent)).unwrap();
        Self { emulator, egress, files: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Registers an identity that may read the vault's secrets; its client id.
    pub(crate) fn register(&self, registration: Registration) -> String {
        let identity = self.emulator.identities().register(registration);
        self.emulator.assign(&identity, "shop", [Permission::SECRETS_GET, Permission::SECRETS_LIST]);
        identity.client_id
    }

    pub(crate) fn application(&self) -> String {
        self.register(Registration::application().client_secret(SECRET))
    }

    /// A user-assigned identity that trusts [`SUBJECT`] for `audience`.
    pub(crate) fn federated(&self, audience: &str) -> String {
        let issuer = self.emulator.issuer().url().to_owned();
        self.register(
            Registration::user_assigned("/subscriptions/s/web").federated(&issuer, SUBJECT, audience),
        )
    }

    pub(crate) fn service_account_token(&self, account: &str, audience: &str, life: Duration) -> String {
        self.emulator.issuer().mint_service_account_token("shop", account, audience, life)
    }

    /// Workload identity with a good token in place.
    pub(crate) fn workload(&self) -> IdentitySettings {
        let token = self.service_account_token("web", TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(3600));
        let client_id = self.federated(TOKEN_EXCHANGE_AUDIENCE);
        self.workload_of(client_id, &self.file("token", token))
    }

    pub(crate) fn workload_of(&self, client_id: String, token_file: &Path) -> IdentitySettings {
        IdentitySettings::WorkloadIdentity {
            client_id,
            tenant_id: self.emulator.tenant_id().to_owned(),
            token_file: token_file.to_owned(),
            authority_host: self.emulator.authority_url(),
        }
    }

    pub(crate) fn secret(&self, client_id: String, content: &str) -> IdentitySettings {
        IdentitySettings::ServicePrincipalSecret {
            client_id,
            tenant_id: self.emulator.tenant_id().to_owned(),
            secret_file: self.file("secret", content),
            authority_host: self.emulator.authority_url(),
        }
    }

    pub(crate) fn imds(&self, selector: Selector) -> IdentitySettings {
        let endpoint = ManagedEndpoint::Imds { base_url: self.emulator.imds_url() };
        IdentitySettings::ManagedIdentity { selector, endpoint }
    }

    pub(crate) fn tokens(&self, settings: IdentitySettings) -> Arc<TokenCache> {
        token_source(settings, Arc::clone(&self.egress), Arc::new(SystemClock), Arc::new(Silent)).unwrap()
    }

    pub(crate) async fn token(&self, settings: IdentitySettings) -> Result<AccessToken> {
        self.tokens(settings).token(VAULT).await
    }

    /// The vault's status for a read with this token: 200 only if the vault accepts it.
    pub(crate) async fn read_with(&self, token: &AccessToken) -> u16 {
        let transport = self.egress.vault_transport(&VaultHost::parse("shop.vault.azure.net").unwrap());
        let url = url::Url::parse("https://shop.vault.azure.net/secrets/db/?api-version=7.4").unwrap();
        let mut bearer =
            HeaderValue::try_from(format!("Bearer {}", token.secret.expose_str().unwrap())).unwrap();
        bearer.set_sensitive(true);
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
        transport.send(Method::GET, &url, headers, Bytes::new()).await.ok().unwrap().status
    }

    /// Gets a token and reads the vault with it.
    pub(crate) async fn works(&self, settings: IdentitySettings) {
        let token = self.token(settings).await.expect("a token");
        assert_eq!(self.read_with(&token).await, 200);
    }

    pub(crate) fn requests(&self, operation: &str) -> u64 {
        self.emulator.counters().requests(operation)
    }
}
