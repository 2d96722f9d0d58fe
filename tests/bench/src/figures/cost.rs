use std::time::Duration;

use futures::future::join_all;
use keyward_emulator::{Effect, Fault};
use tokio::time::{Instant, sleep};

use super::{Bench, Row};
use crate::Outcome;
use crate::load;
use crate::rig::{Rig, Setup};

/// 1,000 callers ask for an object that was never read yet.
pub(super) async fn first_reads(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let rig = Rig::start(bench.sidecar, 1, true).await?;
    rig.emulator.faults().set(Fault::on("secrets.get", Effect::Latency { millis: 1500, jitter_millis: 0 }));
    let sidecar = rig.launch(&Setup { objects: 1, interval: "60s", files: false })?;
    let mut clients = Vec::new();
    let start = Instant::now();
    while clients.len() < 10 {
        match rig.client().await {
            Ok(client) => clients.push(client),
            Err(_) if start.elapsed() < Duration::from_secs(10) => sleep(Duration::from_millis(1)).await,
            Err(error) => return Err(error),
        }
    }
    let calls = (0..1000).map(|number: usize| {
        let mut client = clients[number % clients.len()].clone();
        async move { load::get(&mut client, "secret-000").await }
    });
    let answers = join_all(calls).await;
    let answered = answers.iter().filter(|answer| answer.is_ok()).count();
    let refusal =
        answers.into_iter().find_map(Result::err).map(|error| format!(" ({error})")).unwrap_or_default();
    let gets = rig.emulator.counters().with_status("secrets.get", 200);
    sidecar.stop().await?;
    Ok(vec![Row {
        what: "1,000 concurrent first reads of one object",
        target: "exactly 1 upstream get",
        measured: format!("{gets} upstream get, {answered} answered{refusal}"),
        reached: gets == 1 && answered == 1000,
    }])
}

/// What rotation costs while nothing changes: 100 watched objects in a vault of 100.
pub(super) async fn rotation_check(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let rig = Rig::start(bench.sidecar, 100, true).await?;
    // What was set less than five seconds before it was read counts as changed at the next check.
    sleep(Duration::from_secs(6)).await;
    let sidecar = rig.launch(&Setup { objects: 100, interval: "10s", files: false })?;
    rig.ready(Instant::now()).await?;
    let counters = rig.emulator.counters();
    let (vault, tokens) = (counters.requests("secrets.*"), counters.requests("token.*"));
    // The first check follows within one interval of the first read; three intervals hold three checks.
    let checks = if bench.quick { 2 } else { 3 };
    sleep(Duration::from_secs(10 * checks + 5)).await;
    let vault = (counters.requests("secrets.*") - vault) as f64 / checks as f64;
    let tokens = counters.requests("token.*") - tokens;
    sidecar.stop().await?;
    Ok(vec![Row {
        what: "one rotation check of 100 objects in a vault of 100",
        target: "≤ 5 requests when nothing changed, 0 token requests",
        measured: format!("{vault:.1} requests, {tokens} token requests (mean of {checks} checks)"),
        reached: vault <= 5.0 && tokens == 0,
    }])
}

/// CPU time at rest, default interval.
pub(super) async fn idle(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let rig = Rig::start(bench.sidecar, 10, true).await?;
    let sidecar = rig.launch(&Setup { objects: 10, interval: "60s", files: true })?;
    rig.ready(Instant::now()).await?;
    sleep(Duration::from_secs(2)).await;
    let length = Duration::from_secs(if bench.quick { 20 } else { 60 });
    let before = sidecar.cpu()?;
    sleep(length).await;
    let share = (sidecar.cpu()? - before).as_secs_f64() / length.as_secs_f64() * 100.0;
    sidecar.stop().await?;
    Ok(vec![Row {
        what: "idle",
        target: "≤ 0.1 % of a core over 60 s",
        measured: format!("{share:.3} % over {} s (clock ticks of 10 ms)", length.as_secs()),
        reached: share <= 0.1,
    }])
}
