//! A token endpoint that fails as it is told to, and the model vault behind the real token cache.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::observe::Silent;
use keyward_core::{
    Clock, Code, Collection, Error, FetchRequest, Fetched, IdentityKey, ObjectMetadata, ObjectRef, Provider,
    Result, SecretBytes, TokenSource, VaultHost, VersionInfo,
};
use keyward_identity::{Exchange, Issued, TokenCache};
use keyward_test_support::{Fault, ModelVault};
use parking_lot::Mutex;

const RESOURCE: &str = "https://vault.azure.net";

/// The token endpoint.
pub(crate) struct Entra {
    lifetime: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    exchanges: usize,
    complaint: Option<&'static str>,
}

impl Entra {
    pub(crate) fn new(lifetime: Duration) -> Arc<Self> {
        Arc::new(Self { lifetime, state: Mutex::default() })
    }

    pub(crate) fn fail(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    pub(crate) fn exchanges(&self) -> usize {
        self.state.lock().exchanges
    }

    /// What went wrong that no reader would notice.
    pub(crate) fn complaint(&self) -> Option<&'static str> {
        self.state.lock().complaint
    }
}

struct Door {
    entra: Arc<Entra>,
    /// Held for the length of an exchange.
    busy: Mutex<bool>,
}

#[async_trait]
impl Exchange for Door {
    async fn exchange(&self, resource: &str) -> Result<Issued> {
        let fault = {
            let mut state = self.entra.state.lock();
            state.exchanges += 1;
            if resource != RESOURCE || std::mem::replace(&mut *self.busy.lock(), true) {
                state.complaint = Some("two exchanges at once, or one for another resource");
            }
            state.fault
        };
        let hangs = fault == Some(Fault::Hang);
        tokio::time::sleep(if hangs { Duration::from_secs(10) } else { Duration::from_millis(80) }).await;
        *self.busy.lock() = false;
        match fault {
            None => {
                let secret = SecretBytes::copy_from(b"token");
                Ok(Issued { secret, lifetime: self.entra.lifetime, refresh_in: None })
            }
            Some(Fault::Code(code)) => Err(Error::new(code, "the token endpoint fails as it was told")),
            Some(Fault::RetryAfter(wait)) => {
                Err(Error::new(Code::TokenThrottled, "the token endpoint throttles").retry_after(Some(wait)))
            }
            Some(Fault::Hang) => Err(Error::new(Code::Timeout, "no answer within the deadline")),
        }
    }
}

/// The vault for those who have a token.
pub(crate) struct Proven {
    vault: Arc<ModelVault>,
    entra: Arc<Entra>,
    tokens: TokenCache,
    clock: Arc<dyn Clock>,
}

impl Proven {
    pub(crate) fn new(
        vault: Arc<ModelVault>,
        entra: Arc<Entra>,
        identity: IdentityKey,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let door = Box::new(Door { entra: entra.clone(), busy: Mutex::new(false) });
        let tokens = TokenCache::new(identity, door, clock.clone(), Arc::new(Silent));
        Arc::new(Self { vault, entra, tokens, clock })
    }

    async fn prove(&self) -> Result<()> {
        let token = self.tokens.token(RESOURCE).await?;
        if token.expires_boot <= self.clock.boot() {
            self.entra.state.lock().complaint = Some("an expired token was given out");
        }
        Ok(())
    }
}

#[async_trait]
impl Provider for Proven {
    fn name(&self) -> &'static str {
        self.vault.name()
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.prove().await?;
        self.vault.fetch(request).await
    }

    async fn list(
        &self,
        host: &VaultHost,
        collection: Collection,
        limit: usize,
    ) -> Result<Vec<ObjectMetadata>> {
        self.prove().await?;
        self.vault.list(host, collection, limit).await
    }

    async fn versions(&self, object: &ObjectRef, limit: usize) -> Result<Vec<VersionInfo>> {
        self.prove().await?;
        self.vault.versions(object, limit).await
    }

    fn list_cost(&self, count: usize) -> usize {
        self.vault.list_cost(count)
    }

    async fn warm_up(&self, host: &VaultHost) {
        let _ = self.prove().await;
        self.vault.warm_up(host).await;
    }
}
