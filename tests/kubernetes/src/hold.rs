//! A cluster to try things on.

use std::process::ExitCode;

use serde_json::json;

use crate::azure::ADMIN_PORT;
use crate::{Outcome, World};

/// Prepares the namespace `shop`, says what can be done there, and waits to be ended.
pub(crate) fn hold(world: &World) -> ExitCode {
    if let Err(why) = prepare(world) {
        println!("FAILED  preparation: {why}");
        return ExitCode::FAILURE;
    }
    println!(
        "\nNamespace shop has a service account `web`, whose identity may read the vault `shop`.\n\
         kubectl, in another shell:\n\n  {}\n\n\
         A new version of a secret:\n\n  \
         curl -X PUT http://127.0.0.1:{ADMIN_PORT}/vaults/shop/secrets/db-password -d '{{\"value\": \"second\"}}'\n\n\
         Ctrl-C ends it all.",
        world.cluster.shell()
    );
    loop {
        std::thread::park();
    }
}

fn prepare(world: &World) -> Outcome {
    world.cluster.namespace("shop", &[])?;
    let identity = world.azure.reader("shop", "web");
    world.azure.vault().set_secret("db-password", "first");
    let (id, tenant) = ("azure.workload.identity/client-id", "azure.workload.identity/tenant-id");
    world.cluster.apply(&[json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {
            "name": "web", "namespace": "shop",
            "annotations": {id: identity.client_id, tenant: world.azure.tenant()},
        },
    })])
}
