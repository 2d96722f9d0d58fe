//! One publish at a time.

use std::time::Duration;

use super::{Bench, Row};
use crate::Outcome;
use crate::node::NodeRig;
use crate::samples::{Samples, millis};

/// One object, cached; the pod's own token is new and must be exchanged.
pub(super) async fn warm(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let Some(rig) = NodeRig::start(bench.driver, 1, true).await? else { return Ok(Vec::new()) };
    let mut driver = rig.drive().await;
    rig.publish(&rig.call("first", 1)?).await?;
    let (gets, (_, tokens)) = (rig.gets(), rig.upstream());
    let mut samples = Samples::default();
    let count = bench.samples(200);
    for number in 0..count {
        let call = rig.call(&format!("web-{number}"), 1)?;
        samples.push(rig.publish(&call).await?);
        rig.unpublish(&call).await?;
    }
    let (gets, tokens) = (rig.gets() - gets, rig.upstream().1 - tokens);
    driver.stop().await;
    Ok(vec![Row {
        what: "publish, 1 object, values cached, the pod's own token exchanged, p50",
        target: "≤ 5 ms",
        measured: format!(
            "{:.1} ms (p95 {:.1} ms; {gets} gets and {tokens} exchanges for {count} pods)",
            millis(samples.median()),
            millis(samples.quantile(0.95))
        ),
        reached: samples.median() <= Duration::from_millis(5),
    }])
}

/// A node that has just started, everything 20 ms away; then another pod of the same identity.
pub(super) async fn cold(bench: &Bench<'_>) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for (objects, http2, limit, what, target, again) in [
        (
            10,
            false,
            90,
            "publish, 10 objects, cold node, 20 ms, HTTP/1.1, p50",
            "≤ 90 ms (4 round trips + 10 ms)",
            "the same, another pod of the same identity",
        ),
        (
            50,
            false,
            150,
            "publish, 50 objects, cold node, 20 ms, HTTP/1.1, p50",
            "≤ 150 ms (7 round trips + 10 ms)",
            "the same, another pod of the same identity",
        ),
        (
            10,
            true,
            80,
            "publish, 10 objects, cold node, 20 ms, HTTP/2, p50",
            "≤ 80 ms (3.5 round trips + 10 ms)",
            "the same, another pod of the same identity",
        ),
        (
            50,
            true,
            80,
            "publish, 50 objects, cold node, 20 ms, HTTP/2, p50",
            "≤ 80 ms (3.5 round trips + 10 ms)",
            "the same, another pod of the same identity",
        ),
    ] {
        let (mut first, mut second) = (Samples::default(), Samples::default());
        let (mut gets, mut peak) = (0, 0);
        for _ in 0..bench.samples(12) {
            let Some(rig) = NodeRig::start(bench.driver, objects, http2).await? else {
                return Ok(Vec::new());
            };
            let mut driver = rig.drive().await;
            rig.far_away();
            first.push(rig.publish(&rig.call("web-0", objects)?).await?);
            let before = rig.gets();
            second.push(rig.publish(&rig.call("web-1", objects)?).await?);
            gets += rig.gets() - before;
            peak = peak.max(rig.node.emulator.counters().connections().peak);
            driver.stop().await;
        }
        rows.push(Row {
            what,
            target,
            measured: format!(
                "{:.0} ms (worst {:.0} ms; at most {peak} connections in all)",
                millis(first.median()),
                millis(first.quantile(1.0))
            ),
            reached: first.median() <= Duration::from_millis(limit),
        });
        rows.push(Row {
            what: again,
            target: "≤ 30 ms (1 round trip + 10 ms), 0 gets",
            measured: format!(
                "{:.0} ms (worst {:.0} ms), {gets} gets",
                millis(second.median()),
                millis(second.quantile(1.0))
            ),
            reached: second.median() <= Duration::from_millis(30) && gets == 0,
        });
    }
    Ok(rows)
}
