use serde_json::{Value, json};

use super::processes;
use crate::azure::VAULT;
use crate::manifest::{FILES, pod, spec, volume};
use crate::wait::{ensure, throughout, until};
use crate::{Outcome, World};

/// A Deployment whose pods all read one secret.
fn deployment(world: &World, namespace: &str, replicas: usize) -> Value {
    let identity = world.azure.reader(namespace, "web");
    let objects = format!("- {VAULT}/restart\n");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": spec("web", volume(&world.azure, &identity.client_id, &objects), "exec sleep 100000"),
            },
        },
    })
}

/// One pod that is ready and has read `before`.
fn start(world: &World, namespace: &str) -> Outcome {
    world.cluster.namespace(namespace, &["web"])?;
    world.azure.vault().set_secret("restart", "before");
    let identity = world.azure.reader(namespace, "web");
    let objects = format!("- {VAULT}/restart\n");
    let pod = pod(namespace, "web", "web", volume(&world.azure, &identity.client_id, &objects));
    world.cluster.apply(&[pod])?;
    world.cluster.ready(namespace, "web", 60)
}

fn read(world: &World, namespace: &str, pod: &str) -> Outcome<String> {
    world.cluster.exec(namespace, pod, "app", &["cat", &format!("{FILES}/restart")])
}

fn rotates(world: &World, namespace: &str) -> Outcome {
    world.azure.vault().rotate_secret("restart", "after");
    until(60, "rotated", || ensure(read(world, namespace, "web")? == "after", || "the old value".into()))
}

/// Kills every process of the driver's container, as the kernel would.
fn kill_driver(world: &World) -> Outcome {
    let driver = world.cluster.driver_pod()?;
    let pod = world.cluster.get(&["pod", &driver, "-n", "keyward-system"])?;
    kill_processes(pod["metadata"]["uid"].as_str().ok_or("the driver's pod has no uid")?)
}

fn kill_processes(uid: &str) -> Outcome {
    let pids =
        processes(|cgroup, command| cgroup.contains(uid) && command.starts_with("/keyward-csi-driver"))?;
    ensure(!pids.is_empty(), || "the driver has no process".into())?;
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let killed = std::process::Command::new("kill").arg("-KILL").args(&pids).status();
    ensure(killed.is_ok_and(|status| status.success()), || "the driver cannot be killed".into())
}

pub(super) fn driver_killed(world: &World) -> Outcome {
    let cluster = &world.cluster;
    cluster.namespace("killed", &["web"])?;
    world.azure.vault().set_secret("restart", "value");
    world.azure.latency(std::time::Duration::from_millis(200));
    cluster.apply(&[deployment(world, "killed", 15)])?;
    // In the middle of their publishes.
    until(30, "bound", || {
        let pods = cluster.get(&["pods", "-n", "killed"])?;
        ensure(pods["items"].as_array().is_some_and(|pods| pods.len() == 15), || "not all pods exist".into())
    })?;
    kill_driver(world)?;
    cluster.all_ready("killed", "app=web", 15, 150)?;
    world.azure.heal();
    let pods = cluster.get(&["pods", "-n", "killed"])?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let said = cluster.logs("killed", name, "app")?;
        // The file and the socket.
        ensure(said.contains("I see 2 files"), || format!("{name} began with: {said}"))?;
    }
    cluster.end("killed")?;
    world.cluster.no_mount_left()
}

pub(super) fn driver_in_outage(world: &World) -> Outcome {
    start(world, "outage")?;
    world.azure.down();
    kill_driver(world)?;
    throughout(5, || {
        ensure(read(world, "outage", "web")? == "before", || "the file changed or is gone".into())
    })?;
    until(60, "back", || world.cluster.driver_pod().map(drop))?;
    world.azure.heal();
    rotates(world, "outage")?;
    world.cluster.end("outage")?;
    world.cluster.no_mount_left()
}

pub(super) fn driver_upgraded(world: &World) -> Outcome {
    let cluster = &world.cluster;
    cluster.namespace("upgrade", &["web"])?;
    world.azure.vault().set_secret("restart", "before");
    cluster.apply(&[deployment(world, "upgrade", 30)])?;
    cluster.all_ready("upgrade", "app=web", 30, 120)?;
    cluster.kubectl(&["rollout", "restart", "-n", "keyward-system", "daemonset/keyward-csi-driver"])?;
    cluster.kubectl(&[
        "rollout",
        "status",
        "-n",
        "keyward-system",
        "daemonset/keyward-csi-driver",
        "--timeout=60s",
    ])?;
    world.azure.vault().rotate_secret("restart", "after");
    let pods = cluster.get(&["pods", "-n", "upgrade"])?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        until(60, "rotated", || {
            ensure(read(world, "upgrade", name)? == "after", || format!("{name}: the old value"))
        })?;
        ensure(pod["status"]["containerStatuses"][0]["restartCount"] == 0, || {
            format!("{name} was restarted")
        })?;
    }
    cluster.end("upgrade")?;
    world.cluster.no_mount_left()
}

pub(super) fn namespace_deleted(world: &World) -> Outcome {
    let cluster = &world.cluster;
    cluster.namespace("gone", &["web"])?;
    world.azure.vault().set_secret("restart", "before");
    cluster.apply(&[deployment(world, "gone", 10)])?;
    cluster.all_ready("gone", "app=web", 10, 60)?;
    world.azure.down();
    cluster.end("gone")?;
    world.cluster.no_mount_left()
}

pub(super) fn kubelet(world: &World) -> Outcome {
    start(world, "kubelet")?;
    world.azure.down();
    world.cluster.control("kubelet", "stop")?;
    world.cluster.control("kubelet", "start")?;
    // The API still calls the pod ready from before: kubelet knows it again when one can look into it.
    until(60, "back", || read(world, "kubelet", "web").map(drop))?;
    throughout(5, || {
        ensure(read(world, "kubelet", "web")? == "before", || "the file changed or is gone".into())
    })?;
    world.azure.heal();
    rotates(world, "kubelet")?;
    world.cluster.end("kubelet")?;
    world.cluster.no_mount_left()
}

pub(super) fn api_server(world: &World) -> Outcome {
    start(world, "api-server")?;
    let pod = world.cluster.get(&["pod", "web", "-n", "api-server"])?;
    let uid = pod["metadata"]["uid"].as_str().ok_or("the pod has no uid")?;
    let driver = world.cluster.driver_pod()?;
    let driver = world.cluster.get(&["pod", &driver, "-n", "keyward-system"])?;
    let uid_of_driver = driver["metadata"]["uid"].as_str().ok_or("the driver's pod has no uid")?;
    // Without the API server nobody can exec: the pod's mount is read where the node sees it.
    let at =
        world.cluster.kubelet_dir.join(format!("pods/{uid}/volumes/kubernetes.io~csi/secrets/mount/restart"));
    let read = || std::fs::read_to_string(&at).map_err(|error| format!("{}: {error}", at.display()));
    world.cluster.control("kube-apiserver", "stop")?;
    world.azure.vault().rotate_secret("restart", "after");
    let rotated = until(30, "rotated", || ensure(read()? == "after", || "the old value".into()));
    world.cluster.control("kube-apiserver", "start")?;
    rotated?;
    world.cluster.ready("api-server", "web", 60)?;
    // Everything at once, and the driver killed besides: the files stay, and rotate once it is over.
    world.azure.down();
    world.cluster.control("kube-apiserver", "stop")?;
    let killed = kill_processes(uid_of_driver);
    let kept = throughout(5, || ensure(read()? == "after", || "the file changed or is gone".into()));
    world.azure.heal();
    world.cluster.control("kube-apiserver", "start")?;
    killed.and(kept)?;
    world.azure.vault().rotate_secret("restart", "last");
    until(90, "rotated", || ensure(read()? == "last", || "the old value".into()))?;
    world.cluster.end("api-server")
}

pub(super) fn node(world: &World) -> Outcome {
    let cluster = &world.cluster;
    cluster.namespace("reboot", &["web"])?;
    world.azure.vault().set_secret("restart", "before");
    cluster.apply(&[deployment(world, "reboot", 5)])?;
    cluster.all_ready("reboot", "app=web", 5, 60)?;
    cluster.control("node", "stop")?;
    world.azure.vault().rotate_secret("restart", "after");
    cluster.control("node", "start")?;
    until(120, "back", || cluster.driver_pod().map(drop))?;
    cluster.all_ready("reboot", "app=web", 5, 150)?;
    let pods = cluster.get(&["pods", "-n", "reboot"])?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        until(60, "back", || {
            let value = read(world, "reboot", name)?;
            ensure(value == "after", || format!("{name} reads {value}"))
        })?;
    }
    cluster.end("reboot")?;
    world.cluster.no_mount_left()
}
