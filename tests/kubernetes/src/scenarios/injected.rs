//! Pods with the label and annotations: what the webhook makes of them, and what their applications see.

use serde_json::{Value, json};

use crate::azure::VAULT;
use crate::manifest::{BUSYBOX, INJECTED, SOCKET, annotated, annotated_spec};
use crate::wait::{ensure, until};
use crate::{Outcome, World};

/// A service account whose annotations say who it is, as the workload identity webhook wants them.
fn account(world: &World, namespace: &str, name: &str, client_id: &str) -> Outcome {
    let (id, tenant) = ("azure.workload.identity/client-id", "azure.workload.identity/tenant-id");
    world.cluster.apply(&[json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {
            "name": name, "namespace": namespace,
            "annotations": {id: client_id, tenant: world.azure.tenant()},
        },
    })])
}

/// A namespace with one account that may read.
fn prepare(world: &World, namespace: &str, name: &str) -> Outcome {
    world.cluster.namespace(namespace, &[])?;
    let identity = world.azure.reader(namespace, name);
    account(world, namespace, name, &identity.client_id)
}

fn secret(name: &str) -> Value {
    json!({format!("keyward.dev/secret-{name}"): format!("{VAULT}/{name}")})
}

pub(super) fn sidecar(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    prepare(world, "injected", "web")?;
    azure.vault().set_secret("injected", "before");
    let mut pod = annotated("injected", "web", "web", &secret("injected"), "exec sleep 100000");
    pod["spec"]["containers"].as_array_mut().ok_or("no containers")?.push(json!({
        "name": "watcher",
        "image": cluster.image,
        "imagePullPolicy": "Never",
        "command": ["/keyward", "watch", "--socket", SOCKET],
        "securityContext": {"runAsUser": 1001},
    }));
    cluster.apply(&[pod])?;
    cluster.ready("injected", "web", 60)?;
    let first = cluster.logs("injected", "web", "app")?;
    ensure(first.contains("I see 1 files"), || format!("at its start the application said: {first}"))?;
    let status = cluster.get(&["pod", "web", "-n", "injected"])?;
    let said = &status["metadata"]["annotations"]["keyward.dev/status"];
    ensure(*said == "injected: sidecar, 1 object", || format!("the pod's status says {said}"))?;

    let read = || cluster.exec("injected", "web", "app", &["cat", &format!("{INJECTED}/injected")]);
    let command = ["/keyward", "get", "injected", "--reveal", "--socket", SOCKET];
    let get = || cluster.exec("injected", "web", "watcher", &command);
    ensure(read()? == "before" && get()?.trim_end() == "before", || "the file or a lookup differs".into())?;
    let written = cluster.exec("injected", "web", "app", &["sh", "-c", &format!("echo x > {INJECTED}/new")]);
    ensure(written.is_err(), || "the application can write among its files".into())?;

    let version = azure.vault().rotate_secret("injected", "after");
    until(30, "rotated", || ensure(read()? == "after", || "the file has the old value".into()))?;
    until(10, "rotated", || ensure(get()?.trim_end() == "after", || "a lookup gives the old value".into()))?;
    until(10, "told", || {
        let told = cluster.logs("injected", "web", "watcher")?;
        ensure(told.contains(&version), || format!("the watcher has not heard of {version}: {told}"))
    })?;
    let pod = cluster.get(&["pod", "web", "-n", "injected"])?;
    for list in ["containerStatuses", "initContainerStatuses"] {
        let mut statuses = pod["status"][list].as_array().into_iter().flatten();
        ensure(statuses.all(|status| status["restartCount"] == 0), || "a container was restarted".into())?;
    }
    cluster.end("injected")
}

pub(super) fn jobs(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    prepare(world, "injected-jobs", "batch")?;
    azure.vault().set_secret("batch", "value");
    let template = |annotations: &Value| {
        let mut spec = annotated_spec("batch", &format!("cat {INJECTED}/batch"));
        spec["restartPolicy"] = json!("Never");
        json!({
            "metadata": {"labels": {"keyward.dev/inject": "true"}, "annotations": annotations},
            "spec": spec,
        })
    };
    let mut by_init = secret("batch");
    by_init["keyward.dev/via"] = json!("init");
    let mut by_volume = secret("batch");
    by_volume["keyward.dev/via"] = json!("csi");
    let all = [("by-sidecar", secret("batch")), ("by-init", by_init), ("by-volume", by_volume)];
    let jobs: Vec<Value> = all
        .iter()
        .map(|(name, annotations)| {
            json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "injected-jobs"},
                "spec": {"template": template(annotations), "backoffLimit": 0},
            })
        })
        .collect();
    cluster.apply(&jobs)?;
    cluster.apply(&[json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly", "namespace": "injected-jobs"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": template(&secret("batch"))}}},
    })])?;
    cluster.kubectl(&["create", "job", "-n", "injected-jobs", "by-hand", "--from=cronjob/nightly"])?;
    for job in ["by-sidecar", "by-init", "by-volume", "by-hand"] {
        let name = format!("job/{job}");
        let done = cluster.kubectl(&[
            "wait",
            "-n",
            "injected-jobs",
            &name,
            "--for=condition=Complete",
            "--timeout=90s",
        ]);
        let events = || cluster.kubectl(&["get", "events", "-n", "injected-jobs"]).unwrap_or_default();
        done.map_err(|why| format!("{why}: {}", events()))?;
        let said = cluster.kubectl(&["logs", "-n", "injected-jobs", &name, "-c", "app"])?;
        ensure(said.contains("value"), || format!("{job} read no secret: {said}"))?;
    }
    cluster.end("injected-jobs")
}

pub(super) fn refused(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("asks-wrong", &["web", "nobody"])?;
    azure.vault().set_secret("held", "value");
    let stranger = azure.stranger("asks-wrong", "web");
    account(world, "asks-wrong", "web", &stranger.client_id)?;

    // At admission, with the mistake itself.
    let mistake = json!({"keyward.dev/secret-held": "kv://shop/passwords/held"});
    let mistakes = [
        ("web", mistake, "KW_OBJECT_INVALID: keyward.dev/secret-held: after the host comes"),
        (
            "nobody",
            secret("held"),
            "KW_IDENTITY_MISSING: nobody says as whom the pod reads: annotate service account asks-wrong/nobody",
        ),
        (
            "web",
            json!({"keyward.dev/secert-held": "x"}),
            "keyward.dev/secert-held: is not an annotation of Keyward",
        ),
    ];
    for (account, annotations, words) in mistakes {
        let pod = annotated("asks-wrong", "wrong", account, &annotations, "exec sleep 100000");
        let answer = cluster.apply(&[pod]).err().unwrap_or_default();
        ensure(answer.contains(words), || format!("instead of {words} the answer says: {answer}"))?;
    }

    // What only the vault knows holds the application back; an event says why, and nobody touches the pod afterwards.
    cluster.apply(&[annotated("asks-wrong", "held", "web", &secret("held"), "exec sleep 100000")])?;
    until(60, "told", || {
        let events = cluster.events("asks-wrong", "held")?;
        ensure(events.contains("held (KW_VAULT_FORBIDDEN, vault)"), || format!("its events: {events}"))
    })?;
    let pod = cluster.get(&["pod", "held", "-n", "asks-wrong"])?;
    let running = pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
    ensure(!running, || "the application runs without its files".into())?;
    azure.permit(&stranger);
    cluster.ready("asks-wrong", "held", 120)?;
    cluster.end("asks-wrong")
}

/// The injector's replicas, as they are now.
fn scale_injector(world: &World, replicas: usize) -> Outcome {
    let cluster = &world.cluster;
    let (deployment, count) = ("deployment/keyward-injector", format!("--replicas={replicas}"));
    cluster.kubectl(&["scale", "-n", "keyward-system", deployment, &count])?;
    until(60, "scaled", || {
        let pods =
            cluster.get(&["pods", "-n", "keyward-system", "-l", "app.kubernetes.io/component=injector"])?;
        let there = pods["items"].as_array().map_or(0, Vec::len);
        ensure(there == replicas, || format!("{there} injectors instead of {replicas}"))
    })?;
    if replicas > 0 {
        cluster.all_ready("keyward-system", "app.kubernetes.io/component=injector", replicas, 60)?;
    }
    Ok(())
}

pub(super) fn webhook_down(world: &World) -> Outcome {
    let cluster = &world.cluster;
    prepare(world, "webhook-down", "web")?;
    world.azure.vault().set_secret("webhook", "value");
    scale_injector(world, 0)?;
    let plain = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": "webhook-down"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "app", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "100000"],
        }]},
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "webhook-down"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {
                    "labels": {"app": "web", "keyward.dev/inject": "true"},
                    "annotations": secret("webhook"),
                },
                "spec": annotated_spec("web", "exec sleep 100000"),
            },
        },
    });
    cluster.apply(&[plain, deployment])?;
    cluster.ready("webhook-down", "plain", 60)?;
    until(30, "held", || {
        let events = cluster.kubectl(&["get", "events", "-n", "webhook-down"])?;
        ensure(events.contains("inject.keyward.dev"), || format!("nobody is told: {events}"))
    })?;
    let pods = cluster.get(&["pods", "-n", "webhook-down", "-l", "app=web"])?;
    ensure(pods["items"].as_array().is_some_and(Vec::is_empty), || "a pod came without its secrets".into())?;
    scale_injector(world, 2)?;
    cluster.all_ready("webhook-down", "app=web", 2, 120)?;
    cluster.end("webhook-down")
}

/// The CA and the serving certificate change, and the replicas too, while pods are asked for all the time.
pub(super) fn certificate_rotated(world: &World) -> Outcome {
    let cluster = &world.cluster;
    prepare(world, "certificate", "web")?;
    let tls = || -> Outcome<Value> {
        Ok(cluster.get(&["secret", "keyward-injector-tls", "-n", "keyward-system"])?["data"].take())
    };
    let before = tls()?;
    // Without the key of its CA the injector makes a new one.
    let take_key = r#"[{"op": "remove", "path": "/data/ca.key"}]"#;
    let name = "keyward-injector-tls";
    cluster.kubectl(&["patch", "secret", name, "-n", "keyward-system", "--type=json", "-p", take_key])?;
    let restart = ["rollout", "restart", "-n", "keyward-system", "deployment/keyward-injector"];
    cluster.kubectl(&restart)?;
    let pod = annotated("certificate", "web", "web", &secret("certificate"), "exec sleep 100000");
    let (mut asked, mut failed) = (0, Vec::new());
    let mut ask = || {
        for _ in 0..5 {
            asked += 1;
            failed.extend(cluster.try_apply(std::slice::from_ref(&pod)).err());
        }
    };
    until(150, "rotated", || {
        ask();
        let now = tls()?;
        ensure(now["tls.crt"] != before["tls.crt"] && now["ca.crt"] != before["ca.crt"], || {
            "the certificates are the old ones".into()
        })
    })?;
    // Each replica finds the new one within ten seconds.
    for _ in 0..12 {
        ask();
    }
    ensure(failed.is_empty(), || format!("{} of {asked} failed, such as {}", failed.len(), failed[0]))?;
    ensure(asked > 100, || format!("only {asked} pods were asked for"))?;
    cluster.kubectl(&[
        "rollout",
        "status",
        "-n",
        "keyward-system",
        "deployment/keyward-injector",
        "--timeout=60s",
    ])?;
    cluster.end("certificate")
}

/// As on a cluster before 1.29: an init container writes the files, and an ordinary container ends when it is alone.
pub(super) fn without_native_sidecars(world: &World) -> Outcome {
    let cluster = &world.cluster;
    let mut values = world.values();
    values["injector"]["config"]["nativeSidecars"] = json!("never");
    cluster.install("keyward", "keyward-system", &values)?;
    let outcome = old_job(world);
    cluster.install("keyward", "keyward-system", &world.values())?;
    outcome
}

fn old_job(world: &World) -> Outcome {
    let cluster = &world.cluster;
    prepare(world, "old", "batch")?;
    world.azure.vault().set_secret("batch", "value");
    // Long enough for the sidecar to be up, and to see it end.
    let mut spec = annotated_spec("batch", &format!("sleep 8; cat {INJECTED}/batch"));
    spec["restartPolicy"] = json!("Never");
    let template = json!({
        "metadata": {"labels": {"keyward.dev/inject": "true", "app": "batch"}, "annotations": secret("batch")},
        "spec": spec,
    });
    cluster.apply(&[json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "batch", "namespace": "old"},
        "spec": {"template": template, "backoffLimit": 0},
    })])?;
    let complete = ["wait", "-n", "old", "job/batch", "--for=condition=Complete", "--timeout=90s"];
    cluster.kubectl(&complete)?;
    let pods = cluster.get(&["pods", "-n", "old", "-l", "app=batch"])?;
    let pod = &pods["items"][0];
    let status = &pod["metadata"]["annotations"]["keyward.dev/status"];
    ensure(*status == "injected: init container and sidecar, 1 object", || format!("its status: {status}"))?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let said = cluster.logs("old", name, "app")?;
    ensure(said.contains("I see 1 files") && said.contains("value"), || {
        format!("the application said: {said}")
    })?;
    let log = cluster.logs("old", name, "keyward-sidecar")?;
    ensure(log.contains("the application has ended"), || format!("the sidecar's log: {log}"))?;
    cluster.end("old")
}

/// A MutatingAdmissionPolicy in place of the webhook: nothing of ours runs but the driver.
pub(super) fn by_policy(world: &World) -> Outcome {
    let cluster = &world.cluster;
    let mut values = world.values();
    values["injector"]["mode"] = json!("policy");
    values["injector"]["via"] = json!("csi");
    cluster.install("keyward", "keyward-system", &values)?;
    let outcome = policy_pod(world);
    cluster.install("keyward", "keyward-system", &world.values())?;
    outcome
}

fn policy_pod(world: &World) -> Outcome {
    let cluster = &world.cluster;
    let injectors = ["deployments", "-n", "keyward-system", "-l", "app.kubernetes.io/component=injector"];
    let there = cluster.get(&injectors)?;
    ensure(there["items"].as_array().is_some_and(Vec::is_empty), || "the webhook still runs".into())?;
    prepare(world, "by-policy", "web")?;
    world.azure.vault().set_secret("policy", "value");
    cluster.apply(&[annotated("by-policy", "web", "web", &secret("policy"), "exec sleep 100000")])?;
    cluster.ready("by-policy", "web", 60)?;
    // The file and the socket.
    let first = cluster.logs("by-policy", "web", "app")?;
    ensure(first.contains("I see 2 files"), || format!("at its start the application said: {first}"))?;
    let wrong = annotated("by-policy", "wrong", "web", &json!({"keyward.dev/secert-x": "x"}), "exec sleep 1");
    let answer = cluster.apply(&[wrong]).err().unwrap_or_default();
    ensure(answer.contains("KW_ANNOTATION_INVALID"), || format!("a mistake is answered with: {answer}"))?;
    cluster.end("by-policy")
}
