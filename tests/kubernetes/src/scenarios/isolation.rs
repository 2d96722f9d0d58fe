use serde_json::json;

use crate::azure::VAULT;
use crate::manifest::{FILES, pod, volume};
use crate::wait::{ensure, until};
use crate::{Outcome, World};

pub(super) fn each(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("isolation", &["owner", "thief"])?;
    azure.vault().set_secret("owned", "value");
    let owner = azure.reader("isolation", "owner");
    let objects = format!("- {VAULT}/owned\n");
    let mut root = pod("isolation", "root", "owner", volume(azure, &owner.client_id, &objects));
    root["spec"]["securityContext"] = json!({"runAsUser": 0});
    // Another service account names the owner's identity, whose values the node has in its cache.
    let thief = pod("isolation", "thief", "thief", volume(azure, &owner.client_id, &objects));
    cluster.apply(&[root, thief])?;
    cluster.ready("isolation", "root", 60)?;

    for attempt in [
        format!("echo x > {FILES}/owned"),
        format!("touch {FILES}/new"),
        format!("ln -s /etc {FILES}/..data_tmp"),
        format!("rm {FILES}/owned"),
        format!("mount -o remount,rw {FILES}"),
    ] {
        let done = cluster.exec("isolation", "root", "app", &["sh", "-c", &attempt]);
        ensure(done.is_err(), || format!("container root could: {attempt}"))?;
    }
    let read = cluster.exec("isolation", "root", "app", &["cat", &format!("{FILES}/owned")])?;
    ensure(read == "value", || "the attempts left something".into())?;
    let elsewhere =
        "ls -d /var/lib/kubelet /run/keyward /run/keyward-cluster; find / -xdev -name keyward.sock";
    let seen =
        cluster.exec("isolation", "root", "app", &["sh", "-c", &format!("{elsewhere} 2>/dev/null; true")])?;
    ensure(seen.trim().is_empty(), || format!("a container sees the host's {seen}"))?;

    until(60, "refused", || {
        let events = cluster.events("isolation", "thief")?;
        ensure(events.contains("KW_TOKEN_REFUSED"), || format!("its events: {events}"))
    })?;
    let thief = cluster.get(&["pod", "thief", "-n", "isolation"])?;
    ensure(thief["status"]["phase"] == "Pending", || format!("the thief is {}", thief["status"]["phase"]))?;
    cluster.end("isolation")
}
