use crate::azure::VAULT;
use crate::manifest::{FILES, class, csi, pod, volume};
use crate::wait::{ensure, throughout, until};
use crate::{Outcome, World};

pub(super) fn one_of_ten(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("ten", &["web"])?;
    let identity = azure.reader("ten", "web");
    let mut objects = String::new();
    for index in 0..10 {
        azure.vault().set_secret(&format!("ten-{index}"), "before");
        objects.push_str(&format!("- {VAULT}/ten-{index}\n"));
    }
    cluster.apply(&[pod("ten", "web", "web", volume(azure, &identity.client_id, &objects))])?;
    cluster.ready("ten", "web", 60)?;
    azure.vault().disable_secret("ten-3");
    for index in (0..10).filter(|index| *index != 3) {
        azure.vault().rotate_secret(&format!("ten-{index}"), "after");
    }
    let all = || cluster.exec("ten", "web", "app", &["sh", "-c", &format!("cat {FILES}/ten-*")]);
    let expected = "after".repeat(3) + "before" + &"after".repeat(6);
    until(30, "rotated", || {
        ensure(all()? == expected, || format!("the files hold {}", all().unwrap_or_default()))
    })?;
    until(30, "told", || {
        let events = cluster.events("ten", "web")?;
        ensure(events.contains("KW_OBJECT_DISABLED") && events.contains("ten-3"), || {
            format!("its events: {events}")
        })
    })?;
    cluster.end("ten")
}

pub(super) fn bad_edit(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("edited", &["web"])?;
    azure.vault().set_secret("kept", "before");
    let identity = azure.reader("edited", "web");
    let mut class = class("edited", "web", &identity.client_id, azure.tenant(), &["kept"]);
    let volume = csi("csi.keyward.dev", serde_json::json!({"secretProviderClass": "web"}));
    cluster.apply(&[class.clone(), pod("edited", "web", "web", volume)])?;
    cluster.ready("edited", "web", 60)?;
    let objects = "array:\n  - |\n    objectName: kept\n    objectType: secret\n    objectAlias: ..\n";
    class["spec"]["parameters"]["objects"] = objects.into();
    cluster.apply(&[class])?;
    until(30, "told", || {
        let events = cluster.events("edited", "web")?;
        ensure(events.contains("KW_CLASS_INVALID"), || format!("its events: {events}"))
    })?;
    // What was right goes on.
    azure.vault().rotate_secret("kept", "after");
    let read = || cluster.exec("edited", "web", "app", &["cat", &format!("{FILES}/kept")]);
    until(30, "rotated", || ensure(read()? == "after", || "the old value".into()))?;
    cluster.end("edited")
}

pub(super) fn azure_down(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("azure-down", &["web"])?;
    azure.vault().set_secret("steady", "before");
    let identity = azure.reader("azure-down", "web");
    let objects = format!("- {VAULT}/steady\n");
    cluster.apply(&[pod("azure-down", "web", "web", volume(azure, &identity.client_id, &objects))])?;
    cluster.ready("azure-down", "web", 60)?;
    let read = || cluster.exec("azure-down", "web", "app", &["cat", &format!("{FILES}/steady")]);
    // The vault, the token endpoint, both. Each time there is a new version, which comes once it is over.
    for (outage, operations) in [("vault", "secrets.*"), ("token", "token.*"), ("both", "*")] {
        let before = read()?;
        azure.fail(operations);
        // A token that is at hand goes on working while only the endpoint is away: then the new version may come.
        azure.vault().rotate_secret("steady", outage);
        throughout(5, || {
            let now = read()?;
            ensure(now == before || now == outage, || format!("{outage} down: the file holds {now}"))
        })?;
        azure.heal();
        until(60, "rotated", || ensure(read()? == outage, || "the old value".into()))?;
    }
    cluster.end("azure-down")
}

/// Kubelet gives up a call after two minutes and calls again; no try may leave something half done.
pub(super) fn hanging(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("hanging", &["web"])?;
    azure.vault().set_secret("late", "value");
    let identity = azure.reader("hanging", "web");
    azure.hang();
    let objects = format!("- {VAULT}/late\n");
    cluster.apply(&[pod("hanging", "web", "web", volume(azure, &identity.client_id, &objects))])?;
    throughout(130, || {
        let pod = cluster.get(&["pod", "web", "-n", "hanging"])?;
        let running = pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
        ensure(!running, || "the pod runs without its volume".into())
    })?;
    let events = cluster.events("hanging", "web")?;
    ensure(events.contains("KW_TIMEOUT"), || format!("its events: {events}"))?;
    azure.heal();
    cluster.ready("hanging", "web", 150)?;
    let said = cluster.logs("hanging", "web", "app")?;
    ensure(said.contains("I see 2 files"), || format!("it began with: {said}"))?;
    cluster.end("hanging")
}
