use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use keyward_core::{Clock, Code, Error, Result, UnixTime};
use keyward_egress::Egress;
use parking_lot::Mutex;

use crate::entra::Entra;
use crate::exchange::{Exchange, Issued};
use crate::managed::Managed;
use crate::settings::SharedSettings;
use crate::{Credential, Fingerprint};

/// So many credentials are tried by one refresh; those that were refused come last next time.
const TRIES: usize = 4;

/// How a shared identity gets its tokens.
pub(super) enum Way {
    /// With service-account tokens.
    Federated(Entra),
    /// With client secrets.
    Principal(Entra),
    Managed(Managed),
}

impl Way {
    pub(super) fn new(settings: SharedSettings, egress: Arc<Egress>, clock: &Arc<dyn Clock>) -> Result<Self> {
        let clock = Arc::clone(clock);
        Ok(match settings {
            SharedSettings::WorkloadIdentity { client_id, tenant_id, authority_host } => {
                Self::Federated(Entra::new(client_id, &tenant_id, &authority_host, egress, clock)?)
            }
            SharedSettings::IdentityBinding {
                client_id,
                tenant_id,
                proxy_url,
                ca,
                sni_name,
                authority_host: _,
            } => {
                let entra = Entra::new(client_id, &tenant_id, &proxy_url, egress, clock)?;
                Self::Federated(entra.through_proxy(ca, sni_name))
            }
            SharedSettings::ServicePrincipal { client_id, tenant_id, authority_host } => {
                Self::Principal(Entra::new(client_id, &tenant_id, &authority_host, egress, clock)?)
            }
            SharedSettings::ManagedIdentity { selector, endpoint } => {
                Self::Managed(Managed::new(selector, endpoint, egress, clock)?)
            }
        })
    }

    /// Whether this kind of credential can prove this kind of identity at all.
    pub(super) fn check(&self, credential: &Credential) -> Result<()> {
        match (self, credential) {
            (Self::Federated(_), Credential::ServiceAccountToken(_))
            | (Self::Principal(_), Credential::ClientSecret(_))
            | (Self::Managed(_), Credential::None) => Ok(()),
            _ => {
                let what = match self {
                    Self::Federated(_) => "a service-account token",
                    Self::Principal(_) => "a client secret",
                    Self::Managed(_) => "no credential",
                };
                Err(Error::new(Code::ConfigInvalid, format!("this identity takes {what}")))
            }
        }
    }

    pub(super) async fn exchange(&self, credential: &Credential, resource: &str) -> Result<Issued> {
        match self {
            Self::Federated(entra) | Self::Principal(entra) => {
                entra.exchange(&credential.source()?, resource).await
            }
            Self::Managed(managed) => managed.exchange(resource).await,
        }
    }
}

/// What pods lend to the background refresh, one credential for each holder.
pub(super) struct Presented {
    pub(super) way: Way,
    clock: Arc<dyn Clock>,
    lent: Mutex<HashMap<String, Lent>>,
}

#[derive(Clone)]
struct Lent {
    credential: Credential,
    fingerprint: Fingerprint,
    expires: Option<UnixTime>,
    refused: bool,
}

impl Lent {
    fn is_live(&self, now: UnixTime) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

impl Presented {
    pub(super) fn new(way: Way, clock: Arc<dyn Clock>) -> Self {
        Self { way, clock, lent: Mutex::default() }
    }

    /// Whether the credential is another than before, and whether nobody had lent a live one.
    pub(super) fn present(&self, holder: &str, credential: Credential) -> (bool, bool) {
        let now = self.clock.wall();
        let fingerprint = credential.fingerprint();
        let mut lent = self.lent.lock();
        let was_empty = !lent.values().any(|lent| lent.is_live(now));
        if lent.get(holder).is_some_and(|known| known.fingerprint == fingerprint) {
            return (false, was_empty);
        }
        let expires = credential.expires();
        let new = Lent { credential, fingerprint, expires, refused: false };
        lent.insert(holder.to_owned(), new);
        (true, was_empty)
    }

    pub(super) fn withdraw(&self, holder: &str) {
        self.lent.lock().remove(holder);
    }

    /// The live ones, those that were refused last, then the longest-lived first, each once.
    fn candidates(&self) -> Vec<Lent> {
        let now = self.clock.wall();
        let mut live: Vec<_> = self.lent.lock().values().filter(|lent| lent.is_live(now)).cloned().collect();
        live.sort_by_key(|lent| (lent.refused, Reverse(lent.expires), lent.fingerprint));
        live.dedup_by_key(|lent| lent.fingerprint);
        live.truncate(TRIES);
        live
    }

    fn mark(&self, fingerprint: Fingerprint, refused: bool) {
        for lent in self.lent.lock().values_mut().filter(|lent| lent.fingerprint == fingerprint) {
            lent.refused = refused;
        }
    }
}

#[async_trait]
impl Exchange for Arc<Presented> {
    async fn exchange(&self, resource: &str) -> Result<Issued> {
        if let Way::Managed(managed) = &self.way {
            return managed.exchange(resource).await;
        }
        let mut refusal = None;
        for Lent { credential, fingerprint, .. } in self.candidates() {
            match self.way.exchange(&credential, resource).await {
                Err(error) if error.kind().is_definite_no() => {
                    self.mark(fingerprint, true);
                    refusal = Some(error);
                }
                result => {
                    self.mark(fingerprint, false);
                    return result;
                }
            }
        }
        Err(refusal.unwrap_or_else(|| awaited("no pod's service-account token is at hand")))
    }
}

/// Nothing is wrong yet: kubelet calls again.
pub(super) fn awaited(why: &str) -> Error {
    Error::new(Code::TokenAwaited, format!("{why}; waiting for kubelet to pass a fresh one"))
}
