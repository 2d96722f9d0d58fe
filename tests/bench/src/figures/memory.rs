use std::time::Duration;

use keyward_emulator::{Effect, Fault};
use keyward_proto::secrets::v1::RefreshSecretRequest;
use tokio::time::{Instant, sleep};

use super::{Bench, Row};
use crate::Outcome;
use crate::load;
use crate::rig::{Rig, Setup};

/// Resident memory, idle with one object and after serving a hundred under load.
pub(super) async fn resident(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let rig = Rig::start(bench.sidecar, 100, true).await?;
    let sidecar = rig.launch(&Setup { objects: 1, interval: "60s", files: true })?;
    rig.ready(Instant::now()).await?;
    sleep(Duration::from_secs(2)).await;
    let (idle, idle_anonymous) = (mib(sidecar.status_kib("VmRSS")?), mib(sidecar.anonymous_kib()?));
    sidecar.stop().await?;
    let sidecar = rig.launch(&Setup { objects: 100, interval: "60s", files: true })?;
    rig.ready(Instant::now()).await?;
    let client = rig.client().await?;
    let rate = load::many_callers(&client, 64, Duration::from_secs(if bench.quick { 3 } else { 10 })).await?;
    let at_once = mib(sidecar.status_kib("VmRSS")?);
    sleep(Duration::from_secs(2)).await;
    let (busy, busy_anonymous) = (mib(sidecar.status_kib("VmRSS")?), mib(sidecar.anonymous_kib()?));
    sidecar.stop().await?;
    Ok(vec![
        Row {
            what: "resident memory, idle",
            target: "≤ 6 MiB",
            measured: format!("{idle:.1} MiB (anonymous {idle_anonymous:.1})"),
            reached: idle <= 6.0,
        },
        Row {
            what: "resident memory after serving 100 objects over TLS under load",
            target: "≤ 8 MiB, of which anonymous ≤ 4 MiB",
            measured: format!(
                "{busy:.1} MiB, anonymous {busy_anonymous:.1} MiB (2 s after {rate:.0} lookups/s; at once {at_once:.1} MiB)"
            ),
            reached: busy <= 8.0 && busy_anonymous <= 4.0,
        },
    ])
}

/// The vault answers with 200 MiB.
pub(super) async fn huge_response(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let rig = Rig::start(bench.sidecar, 1, true).await?;
    let sidecar = rig.launch(&Setup { objects: 1, interval: "60s", files: true })?;
    rig.ready(Instant::now()).await?;
    rig.emulator.faults().set(Fault::on("secrets.get", Effect::HugeBody { bytes: 200 << 20 }));
    let mut client = rig.client().await?;
    let refused =
        client.refresh_secret(RefreshSecretRequest { name: "secret-000".to_owned() }).await.is_err();
    let still = load::get(&mut client, "secret-000").await.is_ok();
    let peak = mib(sidecar.status_kib("VmHWM")?);
    sidecar.stop().await?;
    Ok(vec![Row {
        what: "a 200 MiB response",
        target: "refused, peak resident memory < 24 MiB",
        measured: format!(
            "{}, old value {}, peak {peak:.1} MiB",
            if refused { "refused" } else { "accepted" },
            if still { "served" } else { "lost" }
        ),
        reached: refused && still && peak < 24.0,
    }])
}

/// The file that is shipped.
pub(super) async fn size(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let bytes = std::fs::metadata(bench.sidecar)?.len();
    let megabytes = bytes as f64 / 1e6;
    Ok(vec![Row {
        what: "stripped release binary, static musl",
        target: "≤ 11 MB",
        measured: format!("{megabytes:.1} MB"),
        reached: megabytes <= 11.0,
    }])
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
