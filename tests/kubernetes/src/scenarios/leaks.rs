use crate::azure::VAULT;
use crate::manifest::{FILES, annotated, pod, volume};
use crate::wait::{ensure, until};
use crate::{Outcome, World};

/// Values that stand nowhere else.
const CANARIES: [&str; 2] = ["canary-7f3a9c51d2", "canary-b81e06f4aa"];

pub(super) fn nowhere(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("leaks", &["web"])?;
    azure.vault().set_secret("secret", CANARIES[0]);
    let identity = azure.reader("leaks", "web");
    let objects = format!("- {VAULT}/secret\n");
    cluster.apply(&[pod("leaks", "web", "web", volume(azure, &identity.client_id, &objects))])?;
    cluster.ready("leaks", "web", 60)?;
    let mut annotations = serde_json::json!({"keyward.dev/secret-secret": format!("{VAULT}/secret")});
    annotations["keyward.dev/client-id"] = identity.client_id.clone().into();
    annotations["keyward.dev/tenant-id"] = azure.tenant().into();
    cluster.apply(&[annotated("leaks", "beside", "web", &annotations, "exec sleep 100000")])?;
    cluster.ready("leaks", "beside", 60)?;
    azure.vault().rotate_secret("secret", CANARIES[1]);
    let read = || cluster.exec("leaks", "web", "app", &["cat", &format!("{FILES}/secret")]);
    until(30, "rotated", || ensure(read()? == CANARIES[1], || "the old value".into()))?;

    let driver = cluster.driver_pod()?;
    let api = ["get", "--all-namespaces", "-o", "yaml"];
    let kinds = "pods,events,configmaps,secrets,csidrivers,daemonsets,deployments";
    let places = [
        (
            "the application's processes",
            cluster.exec(
                "leaks",
                "web",
                "app",
                &["sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline"],
            )?,
        ),
        ("kubectl describe", cluster.kubectl(&["describe", "pod", "web", "-n", "leaks"])?),
        ("the API's objects", cluster.kubectl(&[&api[..], &[kinds]].concat())?),
        ("classes' statuses", cluster.kubectl(&[&api[..], &["secretproviderclasspodstatuses"]].concat())?),
        ("kubectl describe of the other", cluster.kubectl(&["describe", "pod", "beside", "-n", "leaks"])?),
        ("the sidecar's log", cluster.logs("leaks", "beside", "keyward-sidecar")?),
        (
            "the injectors' logs",
            cluster.kubectl(&[
                "logs",
                "-n",
                "keyward-system",
                "-l",
                "app.kubernetes.io/component=injector",
            ])?,
        ),
        (
            "the other application's processes",
            cluster.exec(
                "leaks",
                "beside",
                "app",
                &["sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline"],
            )?,
        ),
        ("the driver's log", cluster.logs("keyward-system", &driver, "driver")?),
        (
            "the driver's metrics",
            cluster.kubectl(&[
                "get",
                "--raw",
                &format!("/api/v1/namespaces/keyward-system/pods/{driver}:9464/proxy/metrics"),
            ])?,
        ),
    ];
    for (place, text) in &places {
        ensure(!text.is_empty(), || format!("{place}: nothing to look through"))?;
        let token = text.contains("eyJhbGciOi") && *place != "the API's objects";
        ensure(!token && !CANARIES.iter().any(|canary| text.contains(canary)), || {
            format!("{place} hold a secret")
        })?;
    }
    cluster.end("leaks")
}
