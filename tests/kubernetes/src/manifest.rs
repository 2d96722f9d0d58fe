//! Pods as their authors would write them.

use serde_json::{Value, json};

use crate::azure::Azure;

/// The application's image.
pub(crate) const BUSYBOX: &str = "localhost/busybox:test";
/// Where volumes are mounted.
pub(crate) const FILES: &str = "/var/run/secrets/app";

/// Where the injector mounts files, and the local API's socket, in pods that do not say.
pub(crate) const INJECTED: &str = "/var/run/keyward";
pub(crate) const SOCKET: &str = "/var/run/keyward-api/keyward.sock";

/// A pod that asks the injector.
pub(crate) fn annotated(
    namespace: &str,
    name: &str,
    account: &str,
    annotations: &Value,
    then: &str,
) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"app": name, "keyward.dev/inject": "true"},
            "annotations": annotations,
        },
        "spec": annotated_spec(account, then),
    })
}

/// Its specification, as its author writes it: nothing in it speaks of secrets.
pub(crate) fn annotated_spec(account: &str, then: &str) -> Value {
    let script = format!("echo I see $(ls {INJECTED} | wc -l) files; {then}");
    json!({
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "runAsNonRoot": true},
        "containers": [
            {"name": "app", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", script]},
        ],
    })
}

/// A pod whose application says at its start what it sees, and then runs on.
pub(crate) fn pod(namespace: &str, name: &str, account: &str, volume: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": spec(account, volume, "exec sleep 100000"),
    })
}

/// The pod's specification: a non-root application that lists its files, then goes on with `then`.
pub(crate) fn spec(account: &str, volume: Value, then: &str) -> Value {
    let script = format!("echo I see $(ls {FILES} | wc -l) files; {then}");
    json!({
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "runAsNonRoot": true},
        "containers": [{
            "name": "app",
            "image": BUSYBOX,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "secrets", "mountPath": FILES, "readOnly": true}],
        }],
        "volumes": [volume],
    })
}

/// A container that watches the socket, from our image and as another user.
pub(crate) fn watcher(image: &str) -> Value {
    json!({
        "name": "watcher",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["/keyward", "watch", "--socket", format!("{FILES}/keyward.sock")],
        "volumeMounts": [{"name": "secrets", "mountPath": FILES, "readOnly": true}],
    })
}

/// A CSI volume with these objects, read as this identity.
pub(crate) fn volume(azure: &Azure, client_id: &str, objects: &str) -> Value {
    let mut attributes =
        json!({"clientID": client_id, "tenantID": azure.tenant(), "objects": objects, "grpc": "true"});
    if let Some(cloud) = azure.cloud {
        attributes["cloud"] = json!(cloud);
    }
    csi("csi.keyward.dev", attributes)
}

pub(crate) fn csi(driver: &str, attributes: Value) -> Value {
    json!({"name": "secrets", "csi": {"driver": driver, "readOnly": true, "volumeAttributes": attributes}})
}

/// A SecretProviderClass for these secrets.
pub(crate) fn class(namespace: &str, name: &str, client_id: &str, tenant: &str, secrets: &[&str]) -> Value {
    let objects: String =
        secrets.iter().map(|s| format!("  - |\n    objectName: {s}\n    objectType: secret\n")).collect();
    json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"provider": "azure", "parameters": {
            "clientID": client_id, "tenantId": tenant, "keyvaultName": "shop", "objects": format!("array:\n{objects}"),
        }},
    })
}
