use serde_json::{Value, json};

use crate::azure::VAULT;
use crate::manifest::{self, FILES, csi, pod, spec, volume, watcher};
use crate::wait::{ensure, until};
use crate::{Outcome, World};

fn two_objects() -> String {
    format!("- {VAULT}/db-password\n- from: {VAULT}/api-key\n  file: keys/api\n")
}

pub(super) fn inline(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("inline", &["web"])?;
    azure.vault().set_secret("db-password", "before");
    azure.vault().set_secret("api-key", "key");
    let identity = azure.reader("inline", "web");
    let mut pod = pod("inline", "web", "web", volume(azure, &identity.client_id, &two_objects()));
    pod["spec"]["containers"].as_array_mut().ok_or("no containers")?.push(watcher(&cluster.image));
    cluster.apply(&[pod])?;
    cluster.ready("inline", "web", 60)?;

    // keyward.sock, db-password, keys
    let first = cluster.logs("inline", "web", "app")?;
    ensure(first.contains("I see 3 files"), || format!("at its start the application said: {first}"))?;
    let read = |file: &str| cluster.exec("inline", "web", "app", &["cat", &format!("{FILES}/{file}")]);
    ensure(read("db-password")? == "before" && read("keys/api")? == "key", || {
        "the files hold something else".into()
    })?;
    let socket = format!("{FILES}/keyward.sock");
    let get = || {
        cluster.exec(
            "inline",
            "web",
            "watcher",
            &["/keyward", "get", "db-password", "--reveal", "--socket", &socket],
        )
    };
    ensure(get()?.trim_end() == "before", || "a lookup gives something else".into())?;

    let version = azure.vault().rotate_secret("db-password", "after");
    until(30, "rotated", || ensure(read("db-password")? == "after", || "the file has the old value".into()))?;
    until(10, "rotated", || ensure(get()?.trim_end() == "after", || "a lookup gives the old value".into()))?;
    until(10, "told", || {
        let told = cluster.logs("inline", "web", "watcher")?;
        ensure(told.contains(&version), || format!("the watcher has not heard of {version}: {told}"))
    })?;
    no_restarts(world, "inline", "web")?;
    cluster.end("inline")
}

fn no_restarts(world: &World, namespace: &str, pod: &str) -> Outcome {
    let pod = world.cluster.get(&["pod", pod, "-n", namespace])?;
    let mut statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    ensure(statuses.all(|status| status["restartCount"] == 0), || "a container was restarted".into())
}

pub(super) fn class(world: &World) -> Outcome {
    through_class(world, "class", "csi.keyward.dev")
}

/// The same pod and class under the other driver's name, served by a second release.
pub(super) fn stand_in(world: &World) -> Outcome {
    let mut values = world.values();
    values["crds"] = json!({"secretProviderClass": false});
    values["injector"] = json!({"enabled": false});
    values["driver"]["name"] = json!("secrets-store.csi.k8s.io");
    values["driver"]["stateDir"] = json!("/run/keyward/stand-in");
    world.cluster.install("stand-in", "stand-in-system", &values)?;
    let outcome = through_class(world, "standin", "secrets-store.csi.k8s.io");
    // Pods before their driver: without it kubelet cannot unmount.
    let unmounted = world.cluster.no_mount_left();
    world.cluster.uninstall("stand-in", "stand-in-system")?;
    outcome.and(unmounted)
}

fn through_class(world: &World, namespace: &str, driver: &str) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace(namespace, &["web"])?;
    azure.vault().set_secret("db-password", "before");
    azure.vault().set_secret("api-key", "key");
    let identity = azure.reader(namespace, "web");
    let attributes = json!({"secretProviderClass": "web"});
    cluster.apply(&[
        class_of(world, namespace, &identity.client_id, &["db-password"]),
        pod(namespace, "web", "web", csi(driver, attributes)),
    ])?;
    cluster.ready(namespace, "web", 60)?;
    let read = |file: &str| cluster.exec(namespace, "web", "app", &["cat", &format!("{FILES}/{file}")]);
    ensure(read("db-password")? == "before", || "the file holds something else".into())?;
    azure.vault().rotate_secret("db-password", "after");
    until(30, "rotated", || ensure(read("db-password")? == "after", || "the file has the old value".into()))?;
    cluster.apply(&[class_of(world, namespace, &identity.client_id, &["db-password", "api-key"])])?;
    until(30, "edited", || ensure(read("api-key")? == "key", || "the new object has another value".into()))?;
    let statuses = cluster.get(&["secretproviderclasspodstatuses", "-n", namespace])?;
    ensure(statuses["items"].as_array().is_some_and(|items| items.len() == 1), || {
        "there is no status".into()
    })?;
    no_restarts(world, namespace, "web")?;
    cluster.end(namespace)
}

fn class_of(world: &World, namespace: &str, client_id: &str, secrets: &[&str]) -> Value {
    manifest::class(namespace, "web", client_id, world.azure.tenant(), secrets)
}

pub(super) fn jobs(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("jobs", &["batch"])?;
    azure.vault().set_secret("db-password", "value");
    let identity = azure.reader("jobs", "batch");
    let objects = format!("- {VAULT}/db-password\n");
    let mut spec =
        spec("batch", volume(azure, &identity.client_id, &objects), &format!("cat {FILES}/db-password"));
    spec["restartPolicy"] = json!("Never");
    let template = json!({"spec": {"template": {"spec": spec}, "backoffLimit": 0}});
    let mut job = template.clone();
    job["apiVersion"] = json!("batch/v1");
    job["kind"] = json!("Job");
    job["metadata"] = json!({"name": "once", "namespace": "jobs"});
    let cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly", "namespace": "jobs"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": template},
    });
    cluster.apply(&[job, cron])?;
    cluster.kubectl(&["create", "job", "-n", "jobs", "by-hand", "--from=cronjob/nightly"])?;
    for job in ["once", "by-hand"] {
        cluster.kubectl(&[
            "wait",
            "-n",
            "jobs",
            &format!("job/{job}"),
            "--for=condition=Complete",
            "--timeout=60s",
        ])?;
        let said = cluster.kubectl(&["logs", "-n", "jobs", &format!("job/{job}")])?;
        ensure(said.contains("value"), || format!("{job} read no secret: {said}"))?;
    }
    cluster.end("jobs")
}

pub(super) fn stateful(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("stateful", &["db"])?;
    azure.vault().set_secret("db-password", "value");
    let identity = azure.reader("stateful", "db");
    let objects = format!("- {VAULT}/db-password\n");
    let set = |then: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "stateful"},
            "spec": {
                "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {
                    "metadata": {"labels": {"app": "db"}},
                    "spec": spec("db", volume(azure, &identity.client_id, &objects), then),
                },
            },
        })
    };
    for then in ["exec sleep 100000", "exec sleep 200000"] {
        cluster.apply(&[set(then)])?;
        cluster.kubectl(&["rollout", "status", "-n", "stateful", "statefulset/db", "--timeout=120s"])?;
    }
    for pod in ["db-0", "db-1", "db-2"] {
        let said = cluster.logs("stateful", pod, "app")?;
        ensure(said.contains("I see 2 files"), || format!("{pod} said: {said}"))?;
    }
    cluster.end("stateful")
}
