use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::SecretBytes;
use keyward_core::spec::FilePath;
use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::tree::{File, Tree};
use keyward_emulator::{Effect, Fault};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use super::{Bench, Row};
use crate::Outcome;
use crate::cores;
use crate::load;
use crate::process::Process;
use crate::rig::{Rig, Setup};
use crate::samples::{Samples, median, micros, millis};

const ALL: Setup = Setup { objects: 100, interval: "60s", files: true };

/// One caller's lookups beside a raw ping-pong, in turns, so that both meet the same machine: with client and server on
/// one core, and with a core for each. Left to the scheduler, one pair may share a core while the other does not.
pub(super) async fn one_caller(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for (server_core, what) in [
        (0, "lookup hit over the socket, one caller, p50, client and server on one core"),
        (1, "the same, client and server on a core each"),
    ] {
        let rig = Rig::start(bench.sidecar, 100, true).await?;
        // Children inherit the core that this thread is bound to when they start.
        cores::bind(server_core)?;
        let sidecar = rig.launch(&ALL)?;
        let (peer, socket) = peer(&rig, "raw").await?;
        cores::bind(0)?;
        rig.ready(Instant::now()).await?;
        let mut stream = UnixStream::connect(&socket).await?;
        let mut client = rig.client().await?;
        let calls = bench.samples(4000) / 4;
        load::one_caller(&mut client, calls).await?;
        load::raw_caller(&mut stream, calls).await?;
        let (mut ratios, mut lookups, mut raws, mut tails) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bench.samples(12).max(5) {
            let raw = load::raw_caller(&mut stream, calls).await?;
            let lookup = load::one_caller(&mut client, calls).await?;
            ratios.push(micros(lookup.median()) / micros(raw.median()));
            lookups.push(micros(lookup.median()));
            tails.push(micros(lookup.quantile(0.99)));
            raws.push(micros(raw.median()));
        }
        peer.stop().await?;
        sidecar.stop().await?;
        let ratio = median(ratios);
        rows.push(Row {
            what,
            target: "≤ 2.5 × a raw ping-pong in the same run",
            measured: format!(
                "{ratio:.2} × ({:.0} µs; raw {:.0} µs; p99 {:.0} µs)",
                median(lookups),
                median(raws),
                median(tails)
            ),
            reached: ratio <= 2.5,
        });
    }
    cores::release()?;
    Ok(rows)
}

/// 64 callers on one connection, beside a bare tonic echo, in turns.
pub(super) async fn many_callers(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let rig = Rig::start(bench.sidecar, 100, true).await?;
    let sidecar = rig.launch(&ALL)?;
    rig.ready(Instant::now()).await?;
    let (peer, socket) = peer(&rig, "echo").await?;
    let echo = load::client(&socket).await?;
    let client = rig.client().await?;
    let length = Duration::from_millis(if bench.quick { 700 } else { 2000 });
    load::many_callers(&echo, 64, length / 4).await?;
    load::many_callers(&client, 64, length / 4).await?;
    let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.samples(9).max(5) {
        let bare = load::many_callers(&echo, 64, length).await?;
        let lookups = load::many_callers(&client, 64, length).await?;
        ratios.push(lookups / bare);
        ours.push(lookups);
        theirs.push(bare);
    }
    peer.stop().await?;
    sidecar.stop().await?;
    let (ratio, rate) = (median(ratios), median(ours));
    Ok(vec![Row {
        what: "lookup hits, 64 callers",
        target: "≥ 0.9 × a bare tonic echo in the same run, ≥ 40,000/s",
        measured: format!("{ratio:.2} ×, {rate:.0}/s (echo {:.0}/s)", median(theirs)),
        reached: ratio >= 0.9 && rate >= 40_000.0,
    }])
}

/// From exec to the first secret in a caller's hands, without emulated latency.
pub(super) async fn exec_to_first(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let rig = Rig::start(bench.sidecar, 1, true).await?;
    let mut samples = Samples::default();
    for _ in 0..bench.samples(40) {
        let start = Instant::now();
        let sidecar = rig.launch(&Setup { objects: 1, interval: "60s", files: true })?;
        samples.push(rig.first_secret(start).await?);
        sidecar.stop().await?;
    }
    Ok(vec![Row {
        what: "exec to first secret served, no emulated latency",
        target: "≤ 15 ms",
        measured: format!(
            "p50 {:.1} ms, p90 {:.1} ms",
            millis(samples.median()),
            millis(samples.quantile(0.9))
        ),
        reached: samples.median() <= Duration::from_millis(15),
    }])
}

/// 50 objects with 20 ms on every answer, counted in round trips.
pub(super) async fn start_to_ready(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    const LATENCY: Duration = Duration::from_millis(20);
    let mut rows = Vec::new();
    for (http2, limit, what, target) in [
        (false, 7.0, "start to ready, 50 objects, 20 ms, HTTP/1.1", "≤ 7 round trips"),
        (true, 4.0, "start to ready, 50 objects, 20 ms, HTTP/2", "≤ 4 round trips"),
    ] {
        let rig = Rig::start(bench.sidecar, 50, http2).await?;
        rig.emulator.faults().set(Fault::on("*", Effect::Latency { millis: 20, jitter_millis: 0 }));
        let mut samples = Samples::default();
        for _ in 0..bench.samples(12) {
            let start = Instant::now();
            let sidecar = rig.launch(&Setup { objects: 50, interval: "60s", files: true })?;
            samples.push(rig.ready(start).await?);
            sidecar.stop().await?;
        }
        let trips = samples.median().as_secs_f64() / LATENCY.as_secs_f64();
        let measured =
            format!("{trips:.1} (p50 {:.0} ms from exec, process start included)", millis(samples.median()));
        rows.push(Row { what, target, measured, reached: trips <= limit });
    }
    Ok(rows)
}

/// One generation of 100 files after the other on tmpfs.
pub(super) async fn swap(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let place = tempfile::Builder::new().prefix("keyward-bench-").tempdir_in("/dev/shm")?;
    let mut directory = AtomicDirectory::open(std::fs::File::open(place.path())?.into())?;
    let mut samples = Samples::default();
    for round in 0..bench.samples(400) {
        let files: BTreeMap<_, _> = (0..100)
            .map(|number| {
                let content = SecretBytes::new(format!("{round:032}{number:032}").into_bytes());
                Ok((
                    FilePath::parse(&format!("secret-{number:03}"))?,
                    File { content, mode: 0o444, uid: None, gid: None },
                ))
            })
            .collect::<Result<_, String>>()?;
        let tree = Tree { files };
        let start = Instant::now();
        directory.commit(&tree)?;
        samples.push(start.elapsed());
        directory.sweep_old();
    }
    Ok(vec![Row {
        what: "swap of 100 files, p50",
        target: "≤ 3 ms",
        measured: format!(
            "{:.2} ms (p99 {:.2} ms)",
            millis(samples.median()),
            millis(samples.quantile(0.99))
        ),
        reached: samples.median() <= Duration::from_millis(3),
    }])
}

/// Starts this program as a peer and waits for its socket.
async fn peer(rig: &Rig, kind: &str) -> Outcome<(Process, std::path::PathBuf)> {
    let socket = rig.path(&format!("{kind}.sock"));
    let peer = Process::start(&std::env::current_exe()?, &[kind.as_ref(), socket.as_os_str()])?;
    while UnixStream::connect(&socket).await.is_err() {
        sleep(Duration::from_millis(1)).await;
    }
    Ok((peer, socket))
}
