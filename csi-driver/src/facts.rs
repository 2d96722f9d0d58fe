use std::sync::Arc;

use keyward_core::config::node::CsiDriverFacts;
use keyward_core::{Code, Error, Result};
use keyward_kubernetes::{DriverFacts, DriverObject, DriverState};
use tokio::sync::watch;

/// What kubelet passes to the driver, as the CSIDriver object says or the administrator states. The proof of identity
/// rests on it: without `podInfoOnMount` a pod's author could write the names that kubelet else writes over.
pub(crate) enum Facts {
    Stated { pod_info_on_mount: bool, tokens_in_secrets: bool },
    Object { name: String, object: Arc<DriverObject> },
}

impl Facts {
    pub(crate) fn new(
        stated: CsiDriverFacts,
        name: &str,
        object: impl FnOnce() -> Option<Arc<DriverObject>>,
    ) -> Result<Self> {
        match stated {
            CsiDriverFacts::Stated { pod_info_on_mount, tokens_in_secrets } => {
                Ok(Self::Stated { pod_info_on_mount, tokens_in_secrets })
            }
            CsiDriverFacts::Check => {
                let object = object().ok_or_else(|| {
                    Error::new(
                        Code::ConfigInvalid,
                        "the CSIDriver object cannot be read without the Kubernetes API; run in a cluster, set KUBECONFIG, or state its facts with `csiDriver: {check: false, …}`",
                    )
                })?;
                Ok(Self::Object { name: name.to_owned(), object })
            }
        }
    }

    /// Whether tokens come among the secrets, once it is known that identity can be proved at all.
    ///
    /// # Errors
    /// `KW_CSI_DRIVER_OBJECT` naming the field to set; `KW_KUBERNETES_UNAVAILABLE` while nothing is known.
    pub(crate) fn tokens_in_secrets(&self) -> Result<bool> {
        match self {
            Self::Stated { pod_info_on_mount: false, .. } => Err(Error::new(
                Code::DriverObjectInvalid,
                "`csiDriver.podInfoOnMount` is stated to be false: without it no pod can be told from another",
            )),
            Self::Stated { tokens_in_secrets, .. } => Ok(*tokens_in_secrets),
            Self::Object { name, object } => match object.state() {
                DriverState::Found(facts) => check(name, &facts).map(|()| facts.tokens_in_secrets),
                DriverState::Absent => Err(Error::new(
                    Code::DriverObjectInvalid,
                    format!("there is no CSIDriver object {name}; create it, kubelet needs it too"),
                )),
                DriverState::Unknown => Err(object.trouble().unwrap_or_else(|| {
                    Error::new(
                        Code::KubernetesUnavailable,
                        format!("the CSIDriver object {name} was not read yet"),
                    )
                })),
            },
        }
    }
}

/// Waits for what the CSIDriver object says to change.
pub(crate) struct Changes(Option<watch::Receiver<DriverState>>);

impl Changes {
    /// Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        let changed = match &mut self.0 {
            Some(changes) => changes.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }
}

impl Facts {
    pub(crate) fn changes(&self) -> Changes {
        match self {
            Self::Stated { .. } => Changes(None),
            Self::Object { object, .. } => Changes(Some(object.subscribe())),
        }
    }
}

/// Only what the proof rests on stops a volume; the rest is told once, by readiness and log.
fn check(name: &str, facts: &DriverFacts) -> Result<()> {
    if facts.pod_info_on_mount && !facts.token_audiences.is_empty() {
        return Ok(());
    }
    let text = format!("the CSIDriver object {name} is not as it must be: {}", facts.problems().join("; "));
    Err(Error::new(Code::DriverObjectInvalid, text))
}
