//! The identities in use on the node: one token, one vault client and one gate for each, whatever the number of pods.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use keyward_broker::Broker;
use keyward_core::audit::{Action, AuditEvent, AuditSink};
use keyward_core::cloud::Cloud;
use keyward_core::config::Vault;
use keyward_core::observe::Observer;
use keyward_core::{Clock, Error, IdentityKey, Provider, Result, TokenSource, VaultHost};
use keyward_egress::Egress;
use keyward_identity::{Credential, SharedIdentity, SharedSettings};
use keyward_providers::key_vault::{KeyVault, KeyVaultSettings};
use keyward_telemetry::{Observed, ObservedTokens};
use parking_lot::Mutex;

use crate::request::Pod;

/// How long an identity that no volume uses stays, so that a publish that failed finds at its retry what it had.
const LINGER: Duration = Duration::from_secs(300);
/// Identities without a volume that are kept at most: a pod whose proofs fail must not fill memory.
const LINGERING: usize = 64;

/// What identities are made of.
pub(crate) struct Parts {
    pub(crate) broker: Arc<Broker>,
    pub(crate) egress: Arc<Egress>,
    pub(crate) vaults: Vec<Vault>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// All identities.
pub(crate) struct Identities(Arc<Inner>);

struct Inner {
    parts: Parts,
    table: Mutex<HashMap<(IdentityKey, String), Weak<Tenant>>>,
    lingering: Mutex<VecDeque<(Duration, Arc<Tenant>)>>,
}

/// One identity. While anybody holds it, the broker can read with it.
pub(crate) struct Tenant {
    pub(crate) key: Arc<IdentityKey>,
    pub(crate) shared: Arc<SharedIdentity>,
    pub(crate) provider: Arc<dyn Provider>,
    /// What its tokens are for.
    pub(crate) audience: String,
    inner: Weak<Inner>,
}

impl Identities {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner { parts, table: Mutex::default(), lingering: Mutex::default() }))
    }

    /// The identity that `settings` name, for the vaults of `cloud`. Nothing is asked of anybody.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when a setting cannot be right.
    pub(crate) fn join(&self, settings: &SharedSettings, cloud: &Cloud) -> Result<Arc<Tenant>> {
        let inner = &self.0;
        let name = (settings.identity_key(), cloud.audience.clone());
        let tenant = {
            let mut table = inner.table.lock();
            match table.get(&name).and_then(Weak::upgrade) {
                Some(tenant) => tenant,
                None => {
                    let tenant = Arc::new(inner.make(settings, cloud)?);
                    inner.parts.broker.attach(Arc::clone(&tenant.key), Arc::clone(&tenant.provider));
                    table.insert(name, Arc::downgrade(&tenant));
                    tenant
                }
            }
        };
        inner.linger(Arc::clone(&tenant));
        Ok(tenant)
    }

    /// Proves the identity with a pod's own credential, and leaves a record when that took an exchange. Where there is
    /// nothing to bring, the administrator's list has proved it.
    ///
    /// # Errors
    /// `KW_TOKEN_REFUSED` and the other errors of an exchange; `KW_AUDIT_UNAVAILABLE` when nothing may go unrecorded.
    pub(crate) async fn prove(&self, tenant: &Tenant, credential: &Credential, pod: &Pod) -> Result<()> {
        let nothing_to_prove = matches!(credential, Credential::None);
        if nothing_to_prove || tenant.shared.is_proved(credential, &tenant.audience) {
            return Ok(());
        }
        let proved = tenant.shared.prove(credential, &tenant.audience).await;
        let Parts { audit, clock, .. } = &self.0.parts;
        let recorded = audit.record(AuditEvent {
            at: clock.wall(),
            actor: pod.actor(),
            action: Action::Token,
            object: tenant.audience.clone(),
            version: None,
            identity: Some(tenant.key.to_string()),
            error: proved.as_ref().err().map(Error::code),
            trace_id: None,
            request_id: None,
        });
        proved.and(recorded)
    }

    /// Lends a volume's credential to the identity's background refresh. What failed for want of one is tried again.
    pub(crate) fn lend(&self, tenant: &Tenant, volume_id: &str, credential: Credential) {
        if tenant.shared.present(volume_id, credential) {
            self.0.parts.broker.attach(Arc::clone(&tenant.key), Arc::clone(&tenant.provider));
        }
    }

    /// Lets go of identities that nobody has used for a while.
    pub(crate) fn sweep(&self) {
        self.0.let_go(self.0.parts.clock.boot());
    }
}

/// Learns what vaults ask of who reads there. No value is asked for, so the pod need not have proved its identity, and it
/// is the pod that pays.
pub(crate) async fn prepare(provider: &Arc<dyn Provider>, hosts: BTreeSet<VaultHost>, pod: &Pod) {
    let ready = hosts.iter().map(|host| provider.prepare(host));
    pod.asks().scope(join_all(ready)).await;
}

impl Inner {
    fn make(self: &Arc<Self>, settings: &SharedSettings, cloud: &Cloud) -> Result<Tenant> {
        let Parts { egress, audit, observer, clock, .. } = &self.parts;
        let shared = SharedIdentity::new(
            settings.clone(),
            Arc::clone(egress),
            Arc::clone(clock),
            Arc::clone(observer),
        )?;
        let key = Arc::new(shared.identity().clone());
        let tokens = Arc::new(ObservedTokens::new(
            Arc::clone(&shared) as Arc<dyn TokenSource>,
            Arc::clone(audit),
            Arc::clone(clock),
        ));
        let vault = KeyVault::new(
            KeyVaultSettings::for_cloud(cloud, &self.parts.vaults),
            Arc::clone(egress),
            tokens,
            Arc::clone(clock),
        );
        let provider = Observed::new(vault, &key, Arc::clone(audit), Arc::clone(observer), Arc::clone(clock));
        Ok(Tenant {
            key,
            shared,
            provider: Arc::new(provider),
            audience: cloud.audience.clone(),
            inner: Arc::downgrade(self),
        })
    }

    fn linger(&self, tenant: Arc<Tenant>) {
        let now = self.parts.clock.boot();
        {
            let mut lingering = self.lingering.lock();
            lingering.retain(|(_, other)| !Arc::ptr_eq(other, &tenant));
            lingering.push_back((now.checked_add(LINGER).unwrap_or(now), tenant));
        }
        self.let_go(now);
    }

    /// Drops outside the lock, because a tenant's end takes locks of its own.
    fn let_go(&self, now: Duration) {
        let mut gone = Vec::new();
        let mut lingering = self.lingering.lock();
        while lingering.len() > LINGERING || lingering.front().is_some_and(|(until, _)| *until <= now) {
            gone.extend(lingering.pop_front());
        }
        drop(lingering);
        drop(gone);
    }
}

/// The broker cannot read with it any more, unless somebody joined anew meanwhile.
impl Drop for Tenant {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let name = ((*self.key).clone(), self.audience.clone());
        let mut table = inner.table.lock();
        if table.get(&name).is_some_and(|known| known.strong_count() == 0) {
            table.remove(&name);
            inner.parts.broker.detach(&self.key);
        }
    }
}
