//! Issuers of workload tokens: a built-in one that is like a Kubernetes cluster's, and the keys of others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::clock::OffsetClock;
use crate::jwt::TokenSigner;
use crate::rng::Rng;

/// The audience that Entra wants in an assertion.
pub const TOKEN_EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// The audience that the identity-binding proxy wants.
pub const IDENTITY_BINDING_AUDIENCE: &str = "api://AKSIdentityBinding";

/// The built-in issuer and the registered keys of others.
pub struct Issuer {
    url: String,
    signer: TokenSigner,
    clock: Arc<OffsetClock>,
    rng: Arc<Rng>,
    external: RwLock<BTreeMap<String, JwkSet>>,
}

impl Issuer {
    pub(crate) fn new(url: &str, clock: Arc<OffsetClock>, rng: Arc<Rng>) -> Self {
        Self { url: url.to_owned(), signer: TokenSigner::generate(), clock, rng, external: RwLock::default() }
    }

    /// The `iss` of its tokens; the trailing slash counts.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Mints a service-account token with the claims that the Kubernetes API server sets.
    #[must_use]
    pub fn mint_service_account_token(
        &self,
        namespace: &str,
        service_account: &str,
        audience: &str,
        lifetime: Duration,
    ) -> String {
        let now = self.clock.unix_millis() / 1000;
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 4);
        self.mint(&json!({
            "iss": self.url,
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "aud": [audience],
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": self.rng.uuid(),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": service_account, "uid": self.rng.uuid() },
                "pod": { "name": format!("{service_account}-0"), "uid": self.rng.uuid() },
                "node": { "name": "node-0", "uid": self.rng.uuid() },
            },
        }))
    }

    /// Signs any claims, for tokens that are wrong on purpose.
    #[must_use]
    pub fn mint(&self, claims: &Value) -> String {
        self.signer.sign(claims)
    }

    /// The public key as a JSON Web Key Set.
    #[must_use]
    pub fn jwks(&self) -> Value {
        self.signer.jwks()
    }

    /// Registers (or replaces) the keys of another issuer, such as those of a real API server.
    ///
    /// # Errors
    /// JSON that is not a key set.
    pub fn trust(&self, issuer: &str, jwks: Value) -> Result<(), serde_json::Error> {
        let set: JwkSet = serde_json::from_value(jwks)?;
        self.external.write().insert(issuer.to_owned(), set);
        Ok(())
    }

    /// The keys of an issuer, as Entra would fetch them from its discovery document.
    pub(crate) fn keys_of(&self, issuer: &str) -> Option<JwkSet> {
        if let Some(set) = self.external.read().get(issuer) {
            return Some(set.clone());
        }
        (issuer == self.url).then(|| serde_json::from_value(self.jwks()).expect("own key set"))
    }
}
