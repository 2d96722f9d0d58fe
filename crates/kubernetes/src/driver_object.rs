//! The CSIDriver object, which says what kubelet passes to the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyward_core::Error;
use serde::Deserialize;
use tokio::sync::watch;

use crate::api::{Api, Metadata};
use crate::mirror::{Item, Mirror, Source, Watching};

/// What is known of the CSIDriver object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DriverState {
    /// The server has not told yet.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// This is what it says.
    Found(DriverFacts),
}

/// What the CSIDriver object says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriverFacts {
    /// kubelet names the pod in the volume context.
    pub pod_info_on_mount: bool,
    /// The audiences of the tokens that kubelet passes.
    pub token_audiences: Vec<String>,
    /// The tokens come in `secrets`, not in the volume context.
    pub tokens_in_secrets: bool,
    /// kubelet calls again with fresh tokens.
    pub requires_republish: bool,
    /// Inline volumes are allowed.
    pub ephemeral: bool,
    /// Pods wait for an attacher, which does not exist.
    pub attach_required: bool,
}

impl DriverFacts {
    /// What is wrong with it, each with the field to set; empty when the driver can work.
    #[must_use]
    pub fn problems(&self) -> Vec<&'static str> {
        let all = [
            (
                !self.pod_info_on_mount,
                "podInfoOnMount must be true: without it no pod can be told from another",
            ),
            (
                self.token_audiences.is_empty(),
                "tokenRequests is empty: without a token no pod can prove its identity",
            ),
            (!self.requires_republish, "requiresRepublish must be true: tokens are not renewed without it"),
            (
                !self.ephemeral,
                "volumeLifecycleModes must contain Ephemeral: inline volumes are refused without it",
            ),
            (self.attach_required, "attachRequired must be false: pods wait for an attacher otherwise"),
        ];
        all.into_iter().filter_map(|(wrong, why)| wrong.then_some(why)).collect()
    }
}

/// The CSIDriver object, watched. What is known stays known while the server is away.
pub struct DriverObject {
    store: Arc<Store>,
    _watching: Watching,
}

impl DriverObject {
    pub(crate) fn start(api: Api, name: &str) -> Self {
        let store = Arc::new(Store::default());
        let source = Source {
            what: "watching the CSIDriver object",
            resource: "csidrivers",
            group: "storage.k8s.io",
            versions: &["v1"],
            name: Some(name.to_owned()),
        };
        let watching = Watching::start(api, source, Arc::clone(&store));
        Self { store, _watching: watching }
    }

    /// What is known now.
    #[must_use]
    pub fn state(&self) -> DriverState {
        self.store.state.borrow().clone()
    }

    /// What is known, and each change of it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<DriverState> {
        self.store.state.subscribe()
    }

    /// Why the server does not tell at this moment.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        self.store.trouble.lock().clone()
    }
}

#[derive(Default)]
struct Store {
    state: watch::Sender<DriverState>,
    /// Whether the list that is under way has had it.
    seen: AtomicBool,
    trouble: parking_lot::Mutex<Option<Error>>,
}

impl Store {
    fn set(&self, state: DriverState) {
        *self.trouble.lock() = None;
        self.state.send_if_modified(|known| {
            let moved = *known != state;
            *known = state;
            moved
        });
    }
}

impl Mirror for Store {
    type Item = DriverItem;

    fn begin(&self) {
        self.seen.store(false, Ordering::Relaxed);
    }

    fn complete(&self) {
        if !self.seen.load(Ordering::Relaxed) {
            self.set(DriverState::Absent);
        }
    }

    fn put(&self, item: DriverItem) {
        self.seen.store(true, Ordering::Relaxed);
        self.set(DriverState::Found(item.facts()));
    }

    fn remove(&self, _item: DriverItem) {
        self.set(DriverState::Absent);
    }

    fn not_installed(&self) {
        self.set(DriverState::Absent);
    }

    fn trouble(&self, error: &Error) {
        *self.trouble.lock() = Some(error.clone());
    }
}

#[derive(Deserialize)]
struct DriverItem {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    attach_required: Option<bool>,
    pod_info_on_mount: Option<bool>,
    requires_republish: Option<bool>,
    service_account_token_in_secrets: Option<bool>,
    token_requests: Option<Vec<TokenRequest>>,
    volume_lifecycle_modes: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct TokenRequest {
    #[serde(default)]
    audience: String,
}

impl Item for DriverItem {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl DriverItem {
    /// Absent fields have the server's defaults.
    fn facts(self) -> DriverFacts {
        let spec = self.spec;
        DriverFacts {
            pod_info_on_mount: spec.pod_info_on_mount.unwrap_or(false),
            token_audiences: spec
                .token_requests
                .unwrap_or_default()
                .into_iter()
                .map(|r| r.audience)
                .collect(),
            tokens_in_secrets: spec.service_account_token_in_secrets.unwrap_or(false),
            requires_republish: spec.requires_republish.unwrap_or(false),
            ephemeral: spec
                .volume_lifecycle_modes
                .is_some_and(|modes| modes.iter().any(|mode| mode == "Ephemeral")),
            attach_required: spec.attach_required.unwrap_or(true),
        }
    }
}
