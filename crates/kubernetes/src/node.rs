//! The node that the driver runs on: whether kubelet has registered the driver there, and its taints.

use std::time::Duration;

use keyward_core::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{Api, Ask, Metadata};
use crate::names;
use crate::own::Change;

/// Nobody waits for these answers.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(default)]
    taints: Vec<Value>,
}

#[derive(Deserialize)]
struct CsiNode {
    spec: CsiNodeSpec,
}

#[derive(Deserialize)]
struct CsiNodeSpec {
    #[serde(default)]
    drivers: Vec<CsiNodeDriver>,
}

#[derive(Deserialize)]
struct CsiNodeDriver {
    name: String,
}

/// Taints of one node.
pub struct Taints {
    all: Vec<Value>,
    resource_version: String,
}

impl Taints {
    /// Whether there is one with this key, whatever its value and effect.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.all.iter().any(|taint| is(taint, key))
    }
}

fn is(taint: &Value, key: &str) -> bool {
    taint.get("key").and_then(Value::as_str) == Some(key)
}

pub(crate) async fn taints(api: &Api, node: &str) -> Result<Taints> {
    names::check("node", node)?;
    let ask = Ask { verb: "get", resource: "nodes", group: "" };
    let read: Node = api.get(ask, &format!("/api/v1/nodes/{node}"), PATIENCE).await?;
    Ok(Taints { all: read.spec.taints, resource_version: read.metadata.resource_version })
}

/// Takes away what has this key, if the node still is as it was read.
pub(crate) async fn remove_taint(api: &Api, node: &str, read: &Taints, key: &str) -> Result<Change> {
    names::check("node", node)?;
    let rest: Vec<&Value> = read.all.iter().filter(|taint| !is(taint, key)).collect();
    // null removes the field: an empty list would not be what the server keeps.
    let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
    let body = json!({"metadata": {"resourceVersion": read.resource_version}, "spec": {"taints": rest}});
    let ask = Ask { verb: "patch", resource: "nodes", group: "" };
    match api.patch(ask, &format!("/api/v1/nodes/{node}"), &body, PATIENCE).await {
        Ok(_) => Ok(Change::Done),
        Err(failure) if failure.is_conflict() => Ok(Change::Overtaken),
        Err(failure) => Err(failure.into()),
    }
}

/// Whether kubelet lists a driver for the node.
pub(crate) async fn is_registered(api: &Api, node: &str, driver: &str) -> Result<bool> {
    names::check("node", node)?;
    let ask = Ask { verb: "get", resource: "csinodes", group: "storage.k8s.io" };
    let path = format!("/apis/storage.k8s.io/v1/csinodes/{node}");
    match api.get::<CsiNode>(ask, &path, PATIENCE).await {
        Ok(read) => Ok(read.spec.drivers.iter().any(|listed| listed.name == driver)),
        Err(failure) if failure.is_absent() => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}
