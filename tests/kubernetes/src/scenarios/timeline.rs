//! Figures, not verdicts: from asking for a pod to its container's own "I see n files", beside a pod with an emptyDir of
//! the same moment; many pods at once; memory. docs/benchmarks.md has what they were.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::azure::{Azure, VAULT};
use crate::manifest::{pod, spec, volume};
use crate::wait::{ensure, until};
use crate::{Outcome, World};

const NAMESPACE: &str = "timeline";

pub(super) fn print(world: &World) -> Outcome {
    let cluster = &world.cluster;
    cluster.namespace(NAMESPACE, &["web"])?;
    let repetitions = if world.long { 30 } else { 3 };
    println!(
        "        milliseconds from asking for a pod to its container's first line: p50 / p90 / worst of {repetitions}"
    );
    println!("        objects  vault                       cold                warm            emptyDir");
    for (azure, protocol, latencies) in
        [(&world.azure, "HTTP/2", &[0, 20][..]), (&world.old_azure, "HTTP/1.1", &[20][..])]
    {
        let identity = azure.reader(NAMESPACE, "web");
        for latency in latencies {
            for count in [1, 10, 50] {
                let [cold, warm, empty] =
                    starts(world, azure, &identity.client_id, *latency, count, repetitions)?.map(spread);
                println!("        {count:7}  {protocol:8} {latency:2} ms  {cold} {warm} {empty}");
            }
        }
    }
    let identity = world.azure.reader(NAMESPACE, "web");
    world.with_rare_checks(|| thirty(world, &identity.client_id))?;
    cluster.end(NAMESPACE)
}

/// The median, the 90th percentile (nearest rank) and the worst of some times in milliseconds, as one column.
fn spread(mut times: Vec<u128>) -> String {
    times.sort_unstable();
    let rank = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    format!("{:5} / {:5} / {:5}", rank(50), rank(90), rank(100))
}

/// Start times in milliseconds, each round in turn: of a pod whose objects have not been read yet, of a second pod with
/// the same objects, and of a pod with an emptyDir.
fn starts(
    world: &World,
    azure: &Azure,
    client_id: &str,
    latency: u64,
    count: usize,
    repetitions: usize,
) -> Outcome<[Vec<u128>; 3]> {
    let mut taken = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..repetitions {
        let mut objects = String::new();
        for index in 0..count {
            let name = format!("line-{latency}-{count}-{round}-{index}");
            azure.vault().set_secret(&name, "value");
            objects.push_str(&format!("- {}\n", azure.url(&name)));
        }
        azure.latency(Duration::from_millis(latency));
        let ours = volume(azure, client_id, &objects);
        let empty = json!({"name": "secrets", "emptyDir": {}});
        // Files and the socket.
        for (index, (volume, sees)) in
            [(ours.clone(), count + 1), (ours, count + 1), (empty, 0)].into_iter().enumerate()
        {
            let cloud = azure.cloud.unwrap_or("new").to_lowercase();
            let name = format!("{cloud}-{latency}-{count}-{round}-{index}");
            taken[index].push(first_line(world, &pod(NAMESPACE, &name, "web", volume), sees)?);
        }
        azure.heal();
    }
    Ok(taken)
}

/// Milliseconds from asking until containerd took the container's first line.
fn first_line(world: &World, pod: &Value, sees: usize) -> Outcome<u128> {
    let cluster = &world.cluster;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let asked = SystemTime::now();
    cluster.create(&format!("/api/v1/namespaces/{NAMESPACE}/pods"), pod)?;
    let line = until(60, "started", || {
        let said = cluster.kubectl(&["logs", "-n", NAMESPACE, name, "-c", "app", "--timestamps"])?;
        said.lines().next().map(str::to_owned).ok_or("it said nothing yet".into())
    })?;
    ensure(line.ends_with(&format!("I see {sees} files")), || format!("{name} said: {line}"))?;
    let stamp = line.split(' ').next().unwrap_or_default();
    let output = std::process::Command::new("date").args(["+%s%N", "-d", stamp]).output();
    let output = output.map_err(|error| error.to_string())?;
    let nanos: u128 =
        String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| format!("{stamp} is no time"))?;
    cluster.kubectl(&["delete", "pod", "-n", NAMESPACE, name, "--wait=false"])?;
    let asked = asked.duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
    Ok(nanos.saturating_sub(asked.as_nanos()) / 1_000_000)
}

/// A Deployment from 1 to 30 pods, with our volume and with an emptyDir; then what our containers hold in memory.
fn thirty(world: &World, client_id: &str) -> Outcome {
    let cluster = &world.cluster;
    let mut objects = String::new();
    for index in 0..10 {
        world.azure.vault().set_secret(&format!("thirty-{index}"), "value");
        objects.push_str(&format!("- {VAULT}/thirty-{index}\n"));
    }
    let volumes = [
        ("empty", json!({"name": "secrets", "emptyDir": {}})),
        ("ours", volume(&world.azure, client_id, &objects)),
    ];
    for (name, volume) in volumes {
        cluster.apply(&[json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": spec("web", volume, "exec sleep 100000"),
                },
            },
        })])?;
        cluster.all_ready(NAMESPACE, &format!("app={name}"), 1, 60)?;
        let gets = world.azure.gets();
        let asked = std::time::Instant::now();
        cluster.kubectl(&["scale", "-n", NAMESPACE, &format!("deployment/{name}"), "--replicas=30"])?;
        cluster.all_ready(NAMESPACE, &format!("app={name}"), 30, 120)?;
        println!(
            "        from 1 to 30 pods, {name}: {:.1} s, {} further reads of the vault",
            asked.elapsed().as_secs_f32(),
            world.azure.gets() - gets
        );
        if name == "empty" {
            cluster.kubectl(&["delete", "deployment", "-n", NAMESPACE, name])?;
            cluster.all_ready(NAMESPACE, "app=empty", 0, 60)?;
        }
    }
    for (container, component) in [("driver", "csi-driver"), ("injector", "injector")] {
        let label = format!("app.kubernetes.io/component={component}");
        let pods = cluster.get(&["pods", "-n", "keyward-system", "-l", &label])?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            let (resident, proportional) = memory(uid)?;
            println!(
                "        memory of {container} with 30 pods: {resident} KiB resident, {proportional} KiB in proportion"
            );
        }
    }
    Ok(())
}

/// KiB of all processes of ours in a pod: resident, and with shared pages shared out (`Pss`).
fn memory(uid: &str) -> Outcome<(u64, u64)> {
    // All but the one that holds the pod's namespaces.
    let pids = super::processes(|cgroup, command| cgroup.contains(uid) && !command.starts_with("/pause"))?;
    let sum = |field: &str| -> u64 {
        let of = |pid: &u32| -> Option<u64> {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = rollup.lines().find(|line| line.starts_with(field))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        pids.iter().filter_map(of).sum()
    };
    ensure(!pids.is_empty(), || format!("no process of pod {uid}"))?;
    Ok((sum("Rss:"), sum("Pss:")))
}
