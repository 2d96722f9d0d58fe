use serde_json::json;

use crate::azure::VAULT;
use crate::manifest::{pod, volume};
use crate::wait::{ensure, until};
use crate::{Outcome, World};

const TAINT: &str = "keyward.dev/driver-not-ready";

/// A node joins with the start-up taint and pods waiting for it; then the driver comes. No mount ever fails.
pub(super) fn tainted(world: &World) -> Outcome {
    let mut values = world.values();
    values["driver"]["startupTaint"] = json!({"enabled": true});
    world.cluster.install("keyward", "keyward-system", &values)?;
    let outcome = (0..if world.long { 20 } else { 2 }).try_for_each(|_| join(world));
    // Whatever happened: the next scenario finds a node without a taint.
    let _ = world.cluster.kubectl(&["taint", "node", "--all", &format!("{TAINT}-")]);
    place_driver(world, &json!(null))?;
    world.cluster.install("keyward", "keyward-system", &world.values())?;
    outcome
}

/// Lets the driver run only on nodes with a label that none has, or again on all.
fn place_driver(world: &World, nowhere: &serde_json::Value) -> Outcome {
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": {"keyward-tests/none": nowhere}}}}});
    let (set, patch) = ("daemonset/keyward-csi-driver", patch.to_string());
    world.cluster.kubectl(&["patch", "-n", "keyward-system", set, "--type=merge", "-p", &patch]).map(drop)
}

fn join(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("joins", &["web"])?;
    azure.vault().set_secret("joined", "value");
    let identity = azure.reader("joins", "web");
    place_driver(world, &json!("1"))?;
    until(60, "without a driver", || {
        let label = "app.kubernetes.io/component=csi-driver";
        let pods = cluster.get(&["pods", "-n", "keyward-system", "-l", label])?;
        ensure(pods["items"].as_array().is_some_and(Vec::is_empty), || "the driver still runs".into())
    })?;
    cluster.kubectl(&["taint", "node", "--all", "--overwrite", &format!("{TAINT}=true:NoSchedule")])?;
    let objects = format!("- {VAULT}/joined\n");
    let pods: Vec<_> = (0..10)
        .map(|index| {
            let volume = volume(azure, &identity.client_id, &objects);
            let mut pod = pod("joins", &format!("web-{index}"), "web", volume);
            pod["metadata"]["labels"]["group"] = json!("joined");
            pod
        })
        .collect();
    cluster.apply(&pods)?;
    let waiting = cluster.get(&["pods", "-n", "joins", "-o", "json"])?;
    let mut waiting = waiting["items"].as_array().into_iter().flatten();
    ensure(waiting.all(|pod| pod["spec"]["nodeName"].is_null()), || {
        "a pod was bound to a tainted node".into()
    })?;
    place_driver(world, &json!(null))?;
    cluster.all_ready("joins", "group=joined", 10, 90)?;
    let events = cluster.get(&["events", "-n", "joins", "--field-selector", "reason=FailedMount"])?;
    ensure(events["items"].as_array().is_some_and(Vec::is_empty), || format!("mounts failed: {events}"))?;
    cluster.end("joins")?;
    cluster.no_mount_left()
}
