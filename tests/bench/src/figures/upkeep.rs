//! What mounted volumes cost.

use std::time::Duration;

use keyward_proto::csi::v1::node_client::NodeClient;
use keyward_proto::registration::InfoRequest;
use keyward_proto::registration::registration_client::RegistrationClient;
use keyward_test_support::kubelet::Kubelet;
use keyward_test_support::node::DRIVER;
use tokio::time::{Instant, sleep};

use super::{Bench, Row};
use crate::Outcome;
use crate::node::{Memory, NodeRig};
use crate::samples::{Samples, millis};

/// Kubelet publishes again what is mounted, each time with a fresh token.
pub(super) async fn republish(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let Some(rig) = NodeRig::start(bench.driver, 10, true).await? else { return Ok(Vec::new()) };
    let mut driver = rig.drive().await;
    let mut calls = Vec::new();
    for number in 0..10 {
        let call = rig.call(&format!("web-{number}"), 10)?;
        rig.publish(&call).await?;
        calls.push(call);
    }
    // What publishing tells Kubernetes follows it.
    sleep(Duration::from_secs(3)).await;
    let (upstream, writes) = (rig.upstream(), rig.node.api.writes());
    let (mut whole, mut kept) = (Samples::default(), Samples::default());
    let mut client = NodeClient::new(Kubelet::channel(&rig.node.kubelet.socket(DRIVER)).await?);
    let rounds = bench.samples(100);
    for _ in 0..rounds {
        for call in &calls {
            let request = rig.call_for(call.volume.clone())?;
            whole.push(rig.publish(&request).await?);
            let start = Instant::now();
            client.node_publish_volume(request.request.clone()).await?;
            kept.push(start.elapsed());
        }
    }
    sleep(Duration::from_secs(1)).await;
    let (vault, tokens) = (rig.upstream().0 - upstream.0, rig.upstream().1 - upstream.1);
    let writes = rig.node.api.writes() - writes;
    driver.stop().await;
    let middle = whole.median();
    Ok(vec![Row {
        what: "republish of a served volume, p50",
        target: "≤ 0.5 ms, 0 upstream requests, 0 Kubernetes writes",
        measured: format!(
            "{:.2} ms with a connection for each call as kubelet makes it (p95 {:.2} ms; {:.2} ms on a kept one), {} upstream requests, {writes} Kubernetes writes in {} calls",
            millis(middle),
            millis(whole.quantile(0.95)),
            millis(kept.median()),
            vault + tokens,
            2 * rounds * calls.len(),
        ),
        reached: middle <= Duration::from_micros(500) && vault + tokens == 0 && writes == 0,
    }])
}

/// How often the vault is asked for what many pods share.
pub(super) async fn requests(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    const OBJECTS: usize = 100;
    const PODS: usize = 10;
    const CHANGED: u64 = 3;
    const INTERVAL: Duration = Duration::from_secs(4);
    let Some(rig) = NodeRig::start(bench.driver, OBJECTS, true).await? else { return Ok(Vec::new()) };
    rig.check_every("4s");
    // What was set less than five seconds before it was read counts as changed at the next check.
    sleep(Duration::from_secs(6)).await;
    let mut driver = rig.drive().await;
    let calls: Vec<_> =
        (0..PODS).map(|number| rig.call(&format!("web-{number}"), OBJECTS)).collect::<Outcome<_>>()?;
    let published = futures::future::join_all(calls.iter().map(|call| rig.publish(call))).await;
    published.into_iter().collect::<Outcome<Vec<_>>>()?;
    let gets = rig.gets();
    // Three intervals hold three checks, wherever they begin.
    let before = rig.upstream().0;
    sleep(3 * INTERVAL).await;
    let quiet = (rig.upstream().0 - before) as f64 / 3.0;
    // The next check finds what has changed.
    let before = rig.upstream().0;
    for number in 0..CHANGED {
        rig.node.vault().rotate_secret(&format!("secret-{number:03}"), [b'w'; 64]);
    }
    for call in &calls {
        for number in 0..CHANGED {
            rig.node.until_file(&call.volume, &format!("secret-{number:03}"), &[b'w'; 64]).await;
        }
    }
    let changed = rig.upstream().0 - before;
    driver.stop().await;
    let allowed = OBJECTS as u64 / 25;
    Ok(vec![
        Row {
            what: "upstream gets, 100 objects × 10 pods of one identity at once, cold node",
            target: "100",
            measured: format!("{gets}"),
            reached: gets == OBJECTS as u64,
        },
        Row {
            what: "requests of one rotation check of these; with 3 objects changed",
            target: "≤ 4; ≤ 4 + 3",
            measured: format!("{quiet:.1} (mean of 3 checks); {changed}"),
            reached: quiet <= allowed as f64 && changed <= allowed + CHANGED,
        },
    ])
}

/// Both processes, before the first volume and with a hundred.
pub(super) async fn resident(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    const FEW: usize = 20;
    const MANY: usize = 100;
    let Some(rig) = NodeRig::start(bench.driver, 10, true).await? else { return Ok(Vec::new()) };
    let mut driver = rig.drive().await;
    let quiet = Duration::from_secs(3);
    sleep(quiet).await;
    let idle = Memory::of(&driver)?;
    let mut few = idle;
    for number in 0..MANY {
        if number == FEW {
            sleep(quiet).await;
            few = Memory::of(&driver)?;
        }
        rig.publish(&rig.call(&format!("web-{number}"), 10)?).await?;
    }
    sleep(quiet).await;
    let many = Memory::of(&driver)?;
    driver.stop().await;
    let each = |few: u64, many: u64| (many as f64 - few as f64) / (MANY - FEW) as f64;
    let (more, anonymous) = (each(few.rss, many.rss), each(few.anonymous, many.anonymous));
    let mib = |kib: u64| kib as f64 / 1024.0;
    Ok(vec![
        Row {
            what: "resident memory of both processes, idle",
            target: "≤ 12 MiB",
            measured: format!(
                "{:.1} MiB, the code that they share counted twice (Pss {:.1}, anonymous {:.1})",
                mib(idle.rss),
                mib(idle.pss),
                mib(idle.anonymous)
            ),
            reached: idle.rss <= 12 * 1024,
        },
        Row {
            what: "for each further volume of 10 shared objects, tmpfs apart",
            target: "≤ 32 KiB",
            measured: format!(
                "{more:.1} KiB (anonymous {anonymous:.1}; from {:.1} MiB with 20 volumes to {:.1} with 100)",
                mib(few.rss),
                mib(many.rss)
            ),
            reached: more <= 32.0,
        },
    ])
}

/// From exec until the registration socket answers GetInfo.
pub(super) async fn registration(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let Some(rig) = NodeRig::start(bench.driver, 1, true).await? else { return Ok(Vec::new()) };
    let registry = rig.node.kubelet.dir().join("plugins_registry");
    let mut samples = Samples::default();
    for _ in 0..bench.samples(40) {
        let start = Instant::now();
        let mut driver = rig.node.spawn();
        while !answers(&registry).await {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("the driver did not offer itself to kubelet".into());
            }
            sleep(Duration::from_micros(200)).await;
        }
        samples.push(start.elapsed());
        driver.stop().await;
    }
    Ok(vec![Row {
        what: "registration after start: exec until the registration socket answers GetInfo, p50",
        target: "≤ 100 ms",
        measured: format!(
            "{:.0} ms (worst {:.0} ms)",
            millis(samples.median()),
            millis(samples.quantile(1.0))
        ),
        reached: samples.quantile(1.0) <= Duration::from_millis(100),
    }])
}

async fn answers(registry: &std::path::Path) -> bool {
    let Ok(entries) = std::fs::read_dir(registry) else { return false };
    for entry in entries.flatten() {
        if let Ok(channel) = Kubelet::channel(&entry.path()).await
            && RegistrationClient::new(channel).get_info(InfoRequest {}).await.is_ok()
        {
            return true;
        }
    }
    false
}

/// The file that is shipped.
pub(super) async fn size(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let megabytes = std::fs::metadata(bench.driver)?.len() as f64 / 1e6;
    Ok(vec![Row {
        what: "stripped release binary of the node plugin, static musl",
        target: "≤ 14 MB",
        measured: format!("{megabytes:.1} MB"),
        reached: megabytes <= 14.0,
    }])
}
