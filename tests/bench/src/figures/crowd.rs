//! Many publishes at once, little CPU, and a neighbour who means ill.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use keyward_emulator::VaultHandle;
use keyward_test_support::node::VAULT;
use tokio::time::Instant;

use super::{Bench, Row};
use crate::Outcome;
use crate::cgroup::CpuLimit;
use crate::node::{Call, NodeRig, both};
use crate::samples::{Samples, median, millis};

const OBJECTS: usize = 10;

/// A hundred pods start at the same time.
pub(super) async fn at_once(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    const PODS: usize = 100;
    let Some(rig) = NodeRig::start(bench.driver, OBJECTS, true).await? else { return Ok(Vec::new()) };
    let mut driver = rig.drive().await;
    rig.publish(&rig.call("first", OBJECTS)?).await?;
    let gets = rig.gets();
    let (mut rates, mut tails) = (Vec::new(), Vec::new());
    for round in 0..bench.samples(8).min(5) {
        let calls = calls(&rig, &format!("round-{round}"), PODS)?;
        let (samples, length) = all(&rig, &calls).await?;
        rates.push(PODS as f64 / length.as_secs_f64());
        tails.push(millis(samples.quantile(0.95)));
        for call in &calls {
            rig.unpublish(call).await?;
        }
    }
    let gets = rig.gets() - gets;
    driver.stop().await;
    let (rate, tail) = (median(rates), median(tails));
    Ok(vec![Row {
        what: "100 publishes of 10 objects at once, values cached, each token exchanged",
        target: "≥ 250 a second, p95 ≤ 400 ms",
        measured: format!("{rate:.0} a second, p95 {tail:.0} ms, {gets} gets"),
        reached: rate >= 250.0 && tail <= 400.0,
    }])
}

/// Twenty pods start at the same time, and both processes together have a twentieth of a core.
pub(super) async fn limited(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    const PODS: usize = 20;
    let Some(rig) = NodeRig::start(bench.driver, OBJECTS, true).await? else { return Ok(Vec::new()) };
    let mut driver = rig.drive().await;
    rig.publish(&rig.call("first", OBJECTS)?).await?;
    let limit = CpuLimit::fifty_millicores(&both(&driver)?)?;
    let (mut middles, mut lasts) = (Vec::new(), Vec::new());
    for round in 0..3 {
        // What the last round cost is paid back.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let calls = calls(&rig, &format!("round-{round}"), PODS)?;
        let (samples, length) = all(&rig, &calls).await?;
        middles.push(millis(samples.median()));
        lasts.push(length);
        for call in &calls {
            rig.unpublish(call).await?;
        }
    }
    driver.stop().await;
    drop(limit);
    let last = lasts.into_iter().max().unwrap_or_default();
    Ok(vec![Row {
        what: "20 publishes of 10 objects at once under a CPU limit of 50m, values cached",
        target: "all within 2 s",
        measured: format!(
            "last after {:.2} s in the worst of 3 rounds (p50 {:.0} ms)",
            last.as_secs_f64(),
            median(middles)
        ),
        reached: last <= Duration::from_secs(2),
    }])
}

/// One volume whose every publish costs as much as the driver lets it, sent again as soon as it was answered, which no
/// kubelet would do; in turns with peace.
pub(super) async fn beside_a_hostile_volume(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let Some(rig) = NodeRig::start(bench.driver, OBJECTS, true).await? else { return Ok(Vec::new()) };
    plant(&rig.node.vault());
    let mut driver = rig.drive().await;
    rig.publish(&rig.call("first", OBJECTS)?).await?;
    let objects = format!("[{{from: 'https://{VAULT}/secrets/hostile', name: hostile, format: pem}}]");
    // A pod that was refused for its cost waits longer at each try, so each round has one of its own.
    let pod = |name: String| rig.call_for(rig.node.volume_of(&rig.node.pod(&name), &objects, &[]));
    let hostile = pod("hostile".to_owned())?;
    let start = Instant::now();
    refused(&rig, &hostile).await?;
    let cost = start.elapsed();
    let (mut alone, mut beside, mut tries) = (Vec::new(), Vec::new(), 0);
    let pods = bench.samples(400);
    for round in 0..bench.samples(20).min(8) {
        alone.push(millis(one_by_one(&rig, &format!("alone-{round}"), pods).await?.quantile(0.95)));
        let hostile = pod(format!("hostile-{round}"))?;
        let attack = async {
            loop {
                if let Err(error) = refused(&rig, &hostile).await {
                    return error;
                }
                tries += 1;
            }
        };
        let name = format!("beside-{round}");
        tokio::select! {
            measured = one_by_one(&rig, &name, pods) => beside.push(millis(measured?.quantile(0.95))),
            error = attack => return Err(error),
        }
        // Ends what is still under way, before there is peace again.
        rig.unpublish(&hostile).await?;
    }
    let hostile = pod("hostile-paced".to_owned())?;
    let as_kubelet = paced(bench, &rig, &hostile).await?;
    driver.stop().await;
    let (alone, beside) = (median(alone), median(beside));
    let rise = (beside / alone - 1.0) * 100.0;
    Ok(vec![
        Row {
            what: "others' publish p95 beside one hostile volume (2 million key-derivation iterations for each try), tried again without any pause",
            target: "≤ 20 % more than without",
            measured: format!(
                "{rise:+.0} % ({beside:.1} ms; without {alone:.1} ms; {tries} tries answered, the first after {:.0} ms)",
                millis(cost)
            ),
            reached: rise <= 20.0,
        },
        as_kubelet,
    ])
}

/// The same volume, tried again as kubelet does: after half a second, then after twice as long each time.
async fn paced(bench: &Bench<'_>, rig: &NodeRig, hostile: &Call) -> Outcome<Row> {
    let pods = bench.samples(4000);
    let start = Instant::now();
    let alone = millis(one_by_one(rig, "calm", pods).await?.quantile(0.95));
    let length = start.elapsed();
    let mut tries = 0;
    let attack = async {
        let mut pause = Duration::from_millis(500);
        loop {
            if let Err(error) = refused(rig, hostile).await {
                return error;
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    };
    let beside = tokio::select! {
        measured = one_by_one(rig, "beside", pods) => millis(measured?.quantile(0.95)),
        error = attack => return Err(error),
    };
    let rise = (beside / alone - 1.0) * 100.0;
    Ok(Row {
        what: "the same, tried again as kubelet does (after 0.5 s, doubling)",
        target: "≤ 20 % more than without",
        measured: format!(
            "{rise:+.0} % ({beside:.1} ms; without {alone:.1} ms; {tries} tries answered within {:.0} s)",
            length.as_secs_f64()
        ),
        reached: rise <= 20.0,
    })
}

/// Publishes what must be refused for its content, once no earlier call for it is under way.
async fn refused(rig: &NodeRig, hostile: &Call) -> Outcome<()> {
    loop {
        match rig.publish(hostile).await {
            Err(error) if error.to_string().contains("CONTENT_INVALID") => return Ok(()),
            Err(error) if error.to_string().contains("VOLUME_BUSY") => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => {
                return Err(format!("the hostile volume was refused for another reason: {error}").into());
            }
            Ok(_) => return Err("the hostile volume was published".into()),
        }
    }
}

async fn one_by_one(rig: &NodeRig, name: &str, pods: usize) -> Outcome<Samples> {
    let mut samples = Samples::default();
    for call in calls(rig, name, pods)? {
        samples.push(rig.publish(&call).await?);
        rig.unpublish(&call).await?;
    }
    Ok(samples)
}

fn calls(rig: &NodeRig, name: &str, pods: usize) -> Outcome<Vec<Call>> {
    (0..pods).map(|number| rig.call(&format!("{name}-{number}"), OBJECTS)).collect()
}

/// Sends them all and waits for the last.
async fn all(rig: &NodeRig, calls: &[Call]) -> Outcome<(Samples, Duration)> {
    let start = Instant::now();
    let answers = join_all(calls.iter().map(|call| rig.publish(call))).await;
    let length = start.elapsed();
    let mut samples = Samples::default();
    for answer in answers {
        samples.push(answer?);
    }
    Ok((samples, length))
}

/// A key store whose checksum takes a million iterations to refuse with the empty password, and another million with
/// none at all.
fn plant(vault: &VaultHandle) {
    let data = element(0x06, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01]]);
    let sha1 = element(0x06, &[&[0x2b, 0x0e, 0x03, 0x02, 0x1a]]);
    let safes = element(0x30, &[&data, &element(0xa0, &[&element(0x04, &[&element(0x30, &[])])])]);
    let digest = element(0x30, &[&element(0x30, &[&sha1, &[0x05, 0x00]]), &element(0x04, &[&[0; 20]])]);
    let mac =
        element(0x30, &[&digest, &element(0x04, &[b"saltsalt"]), &element(0x02, &[&[0x0f, 0x42, 0x40]])]);
    let store = element(0x30, &[&[0x02, 0x01, 0x03], &safes, &mac]);
    vault.set_secret("hostile", STANDARD.encode(store));
}

/// DER, shorter than 128 bytes.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [&[tag, u8::try_from(content.len()).unwrap_or(u8::MAX)], content.as_slice()].concat()
}
