use serde_json::json;

use crate::azure::VAULT;
use crate::manifest::{spec, volume};
use crate::wait::{ensure, until};
use crate::{Outcome, World};

pub(super) fn one_to_thirty(world: &World) -> Outcome {
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
    // A value that is as young as its read is read once more, since a listing has seconds only.
    let second = || std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
    let set = second();
    until(5, "older", || ensure(second() > set + 1, || "the values were set in this second".into()))?;
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
