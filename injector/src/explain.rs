//! What would become of a manifest, without a cluster: `--explain`.

use keyward_core::config::injector::{Injection, NativeSidecars};
use keyward_core::{Code, Error, Result, document};
use serde_json::{Value, json};

use crate::admission::{self, Decision, Facts, Needs, member};

/// Where a workload's manifest has the template of its pods.
const TEMPLATES: &[(&str, &str)] = &[
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];

/// A pod of a manifest.
pub struct Explained {
    /// `Deployment web`
    pub of: String,
    /// The pod as its controller would ask for it.
    pub pod: Value,
    /// What becomes of it.
    pub decision: Result<Decision>,
}

/// Decides about every pod of a YAML or JSON manifest. ServiceAccounts and ConfigMaps in it are what is looked up.
///
/// # Errors
/// `KW_CONFIG_INVALID` when the manifest cannot be read or holds no pod.
pub fn explain(manifest: &[u8], injection: &Injection) -> Result<Vec<Explained>> {
    let documents = document::parse_all(manifest)?;
    let pods: Vec<Explained> =
        documents.iter().filter_map(|object| one(object, &documents, injection)).collect();
    if pods.is_empty() {
        return Err(Error::new(
            Code::ConfigInvalid,
            "the manifest holds neither a Pod nor a workload that makes some",
        ));
    }
    Ok(pods)
}

fn one(object: &Value, all: &[Value], injection: &Injection) -> Option<Explained> {
    let kind = object.get("kind")?.as_str()?;
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let pod = if kind == "Pod" {
        object.clone()
    } else {
        let (_, template) = TEMPLATES.iter().find(|(known, _)| *known == kind)?;
        let mut pod = object.pointer(template)?.clone();
        // As controllers ask for pods.
        *member(&mut pod, "apiVersion") = json!("v1");
        *member(&mut pod, "kind") = json!("Pod");
        pod
    };
    let namespace = text("/metadata/namespace").unwrap_or("default");
    let needs = admission::needs(&pod, namespace, injection);
    let facts = needs.map(|needs| facts(&needs, namespace, all, injection)).unwrap_or_default();
    let decision = admission::decide(&pod, namespace, injection, &facts);
    Some(Explained {
        of: format!("{kind} {}", text("/metadata/name").unwrap_or("without a name")),
        pod,
        decision,
    })
}

fn facts(needs: &Needs, namespace: &str, all: &[Value], injection: &Injection) -> Facts {
    let find = |kind: &str, name: &str| {
        all.iter().find(|object| {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
            text("/kind") == Some(kind)
                && text("/metadata/name") == Some(name)
                && text("/metadata/namespace").unwrap_or("default") == namespace
        })
    };
    let account = needs.service_account.as_deref().and_then(|name| find("ServiceAccount", name));
    let says = |key: &str| Some(account?.pointer("/metadata/annotations")?.get(key)?.as_str()?.to_owned());
    let map = needs.config_map.as_deref().and_then(|name| find("ConfigMap", name));
    Facts {
        client_id: says("azure.workload.identity/client-id"),
        tenant_id: says("azure.workload.identity/tenant-id"),
        config: map
            .and_then(|map| map.pointer("/data/config.yaml"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        config_is_askers: true,
        native_sidecars: injection.native_sidecars != NativeSidecars::Never,
        extra_roots: crate::lookups::extra_roots(&injection.tls).ok().flatten(),
    }
}
