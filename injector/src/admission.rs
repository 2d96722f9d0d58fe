//! What is done to a pod, as a pure function of the pod, its namespace, the administrator's settings and what was looked
//! up for it. Pods are raw JSON throughout, so that what we do not know survives.

mod annotations;
mod checks;
mod containers;
mod csi;
mod pod;
mod sidecar;
mod wish;

use keyward_core::config::injector::{Injection, Via};
use keyward_core::{Code, Error, Result};
use serde_json::Value;

pub use annotations::{INJECT, KNOWN as ANNOTATIONS, STATUS};
pub use containers::OURS;
pub(crate) use containers::member;
use pod::Pod;
use wish::Wish;

/// What must be looked up before [`decide`] can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The service account whose annotations name the identity.
    pub service_account: Option<String>,
    /// The ConfigMap whose key `config.yaml` is the sidecar's configuration.
    pub config_map: Option<String>,
    /// Whether it matters that the API server knows native sidecars.
    pub version: bool,
}

/// What was looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// `azure.workload.identity/client-id` of the service account.
    pub client_id: Option<String>,
    /// `azure.workload.identity/tenant-id` of the service account.
    pub tenant_id: Option<String>,
    /// `config.yaml` of the ConfigMap.
    pub config: Option<String>,
    /// Whether who asks has sent the ConfigMap too, so that mistakes in it may be quoted.
    pub config_is_askers: bool,
    /// Whether init containers may go on running (`restartPolicy: Always`).
    pub native_sidecars: bool,
    /// Trust anchors that every sidecar is given, PEM.
    pub extra_roots: Option<String>,
}

/// What becomes of a pod.
#[derive(Clone, PartialEq)]
pub enum Decision {
    /// It did not ask for anything.
    Untouched,
    /// It asked, and something speaks against it; the reason stands in its status annotation.
    Skipped {
        /// The pod with the annotation.
        pod: Value,
        /// Why, in a few words.
        reason: String,
    },
    /// It gets its secrets.
    Injected {
        /// The pod with everything added.
        pod: Value,
        /// What was done, as in the status annotation.
        summary: String,
        /// What its author should know, each under 120 characters.
        warnings: Vec<String>,
    },
}

/// Without the pod, which carries what its author put into it.
impl std::fmt::Debug for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Untouched => f.write_str("Untouched"),
            Self::Skipped { reason, .. } => f.debug_tuple("Skipped").field(reason).finish(),
            Self::Injected { summary, .. } => f.debug_tuple("Injected").field(summary).finish(),
        }
    }
}

/// What to look up for a pod; `None` for one that gets no container of ours, or is about to be refused.
#[must_use]
pub fn needs(pod: &Value, namespace: &str, injection: &Injection) -> Option<Needs> {
    let pod = Pod(pod);
    if injection.excludes(namespace)
        || checks::annotations(pod).is_err()
        || !annotations::opted_in(pod)
        || annotations::skipped(pod).is_some()
    {
        return None;
    }
    let via = annotations::via(pod).unwrap_or(injection.via);
    if via == Via::Csi {
        return None;
    }
    let named = |key| pod.annotation(key).is_some();
    Some(Needs {
        service_account: (!named(annotations::CLIENT_ID) || !named(annotations::TENANT_ID))
            .then(|| pod.service_account().to_owned()),
        config_map: pod.annotation(annotations::CONFIG).map(|name| name.trim().to_owned()),
        version: via == Via::Sidecar,
    })
}

/// Decides about one pod. `namespace` is the request's: a pod made by a controller may not name its own.
///
/// # Errors
/// `KW_ANNOTATION_INVALID`, `KW_OBJECT_INVALID`, `KW_NOTIFY_NOT_HERE`, `KW_CONFIG_INVALID`, `KW_IDENTITY_MISSING`,
/// `KW_NODE_IDENTITY_REFUSED` or `KW_POD_UNSUPPORTED`, with what to change.
pub fn decide(pod: &Value, namespace: &str, injection: &Injection, facts: &Facts) -> Result<Decision> {
    let view = Pod(pod);
    if injection.excludes(namespace) || !annotations::opted_in(view) {
        return Ok(Decision::Untouched);
    }
    checks::annotations(view)?;
    if let Some(reason) = annotations::skipped(view) {
        let mut patched = pod.clone();
        containers::annotate(&mut patched, STATUS, &format!("skipped: {reason}"));
        return Ok(Decision::Skipped { pod: patched, reason });
    }
    if !view.is_pod() {
        return Err(Error::new(Code::PodUnsupported, "this is not a pod: spec.containers is missing"));
    }
    let wish = Wish::read(view, injection)?;
    checks::pod(view, &wish, injection)?;
    let mut patched = pod.clone();
    match wish.via {
        Via::Csi => csi::add(&mut patched, &wish, injection),
        Via::Sidecar | Via::Init => sidecar::add(&mut patched, namespace, &wish, injection, facts)?,
    }
    let summary = summary(&wish, facts);
    containers::annotate(&mut patched, STATUS, &format!("injected: {summary}"));
    Ok(Decision::Injected { warnings: checks::warnings(view, &wish), pod: patched, summary })
}

/// `sidecar, 3 objects`
fn summary(wish: &Wish, facts: &Facts) -> String {
    let via = match wish.via {
        // Without a count: a MutatingAdmissionPolicy cannot read YAML, and says the same (docs/adr/0014).
        Via::Csi => return "csi volume".to_owned(),
        Via::Init => "init container",
        Via::Sidecar if facts.native_sidecars => "sidecar",
        Via::Sidecar => "init container and sidecar",
    };
    match (&wish.config_map, wish.objects.len()) {
        (Some(name), _) => format!("{via}, objects of ConfigMap {name}"),
        (None, 1) => format!("{via}, 1 object"),
        (None, count) => format!("{via}, {count} objects"),
    }
}
