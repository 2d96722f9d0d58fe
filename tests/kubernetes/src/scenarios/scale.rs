use serde_json::json;

use crate::azure::VAULT;
use crate::manifest::{spec, volume};
use crate::wait::ensure;
use crate::{Outcome, World};

pub(super) fn one_to_thirty(world: &World) -> Outcome {
    world.with_rare_checks(|| count(world))
}

fn count(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("scale", &["web"])?;
    let identity = azure.reader("scale", "web");
    let mut objects = String::new();
    for index in 0..10 {
        azure.vault().set_secret(&format!("scaled-{index}"), "value");
        objects.push_str(&format!("- {VAULT}/scaled-{index}\n"));
    }
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "scale"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": spec("web", volume(azure, &identity.client_id, &objects), "exec sleep 100000"),
            },
        },
    });
    let before = azure.gets();
    cluster.apply(&[deployment])?;
    cluster.all_ready("scale", "app=web", 1, 60)?;
    ensure(azure.gets() - before == 10, || {
        format!("{} gets for the first pod's 10 objects", azure.gets() - before)
    })?;
    let first = azure.gets();
    cluster.kubectl(&["scale", "-n", "scale", "deployment/web", "--replicas=30"])?;
    cluster.all_ready("scale", "app=web", 30, 120)?;
    ensure(azure.gets() == first, || format!("{} more gets for 29 further pods", azure.gets() - first))?;
    let events = cluster.get(&["events", "-n", "scale", "--field-selector", "reason=FailedMount"])?;
    ensure(events["items"].as_array().is_some_and(Vec::is_empty), || format!("mounts failed: {events}"))?;
    cluster.end("scale")
}
