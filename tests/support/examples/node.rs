//! A node with everything around the driver, for clients that are not written in Rust: `node BINARY` starts it, writes
//! one line of JSON, answers one line for each that it reads, and ends with its input.
//!
//! It reads `pod NAME`, which asks who that pod is and for a fresh token of it, or `mounts`, which asks what is mounted.
//! It ends with 69 when it may not mount.

use std::io::{Write, stdin};
use std::process::ExitCode;

use keyward_test_support::node::{DRIVER, Node, VAULT};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> ExitCode {
    let Some(binary) = std::env::args().nth(1) else { return ExitCode::from(64) };
    let Some(node) = Node::start(&binary).await else { return ExitCode::from(69) };
    let secrets = ["db-password", "api-key"];
    for name in secrets {
        node.vault().set_secret(name, name);
    }
    let mut driver = node.drive().await;
    let objects: Vec<_> = secrets.iter().map(|name| format!("https://{VAULT}/secrets/{name}")).collect();
    say(&json!({
        "driver": DRIVER,
        "socket": node.kubelet.socket(DRIVER),
        "kubeletDir": node.kubelet.dir(),
        "attributes": {
            "objects": json!(objects).to_string(),
            "clientID": node.identity.client_id,
            "tenantID": node.emulator.tenant_id(),
        },
    }));
    while let Some(line) = tokio::task::block_in_place(|| stdin().lines().next().and_then(Result::ok)) {
        match line.split_once(' ') {
            Some(("pod", name)) => say(&pod(&node, name)),
            _ => say(&json!({ "mounts": node.kubelet.mounts() })),
        }
    }
    if driver.stop().await.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn pod(node: &Node, name: &str) -> Value {
    let pod = node.pod(name);
    json!({
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "serviceAccount": pod.service_account,
        "tokens": node.context(&pod).tokens.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// A client that is gone hears nothing, and its end of the input ends this.
fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
