//! Each scenario asserts what an application's container sees.

mod injected;
mod isolation;
mod joins;
mod leaks;
mod outages;
mod refusals;
mod restarts;
mod scale;
mod timeline;
mod volumes;

use crate::{Outcome, World};

/// A scenario.
pub(crate) type Scenario = fn(&World) -> Outcome;

/// All of them, in the order in which they run: those that break the node come last.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("the chart's own test", |world| world.cluster.helm_test("keyward", "keyward-system")),
    ("an inline volume is complete before the application starts, and rotates under it", volumes::inline),
    ("an existing class works as it is", volumes::class),
    ("a second driver stands in under the name of the secrets-store driver", volumes::stand_in),
    ("an annotated pod has its files first, answers lookups, and rotates", injected::sidecar),
    ("annotated jobs and cron jobs complete, by sidecar, init container and volume", injected::jobs),
    ("a job on a cluster without native sidecars", injected::without_native_sidecars),
    ("what an annotated pod asks wrongly is told at admission, or by an event", injected::refused),
    ("without the webhook other pods start, and those that asked wait", injected::webhook_down),
    (
        "the webhook's certificates and replicas change under a stream of admissions",
        injected::certificate_rotated,
    ),
    ("an admission policy in place of the webhook", injected::by_policy),
    ("jobs and cron jobs with a volume complete", volumes::jobs),
    ("a stateful set rolls over", volumes::stateful),
    ("from 1 to 30 pods in one go with one get for each object", scale::one_to_thirty),
    ("a wrong client id, a missing credential, a forbidden, missing or optional object", refusals::each),
    ("a vault out of reach holds the pod, which then starts by itself", refusals::unreachable),
    ("a container's root cannot write, and no pod reaches another's", isolation::each),
    ("nothing sensitive is anywhere", leaks::nowhere),
    ("one of ten objects disabled while another rotates", outages::one_of_ten),
    ("a class edited to a bad alias changes nothing", outages::bad_edit),
    ("vault and token endpoint down", outages::azure_down),
    ("pods wait for the driver of a node that joins with the start-up taint", joins::tainted),
    ("a time line", timeline::print),
    ("the driver killed while pods start", restarts::driver_killed),
    ("the driver killed and started anew during an outage", restarts::driver_in_outage),
    ("a rolling update of the driver under 30 pods", restarts::driver_upgraded),
    ("a namespace with running pods is deleted", restarts::namespace_deleted),
    ("kubelet restarted during an outage", restarts::kubelet),
    ("the API server down", restarts::api_server),
    ("the node rebooted", restarts::node),
];

/// Those that take minutes, with `--long`; they break nothing, and run first.
pub(crate) const LONG: &[(&str, Scenario)] =
    &[("a vault that hangs past kubelet's patience", outages::hanging)];

/// Processes of the node by their control group and command line.
fn processes(wanted: impl Fn(&str, &str) -> bool) -> Outcome<Vec<u32>> {
    let entries = std::fs::read_dir("/proc").map_err(|error| error.to_string())?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids
        .filter(|pid| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            wanted(&String::from_utf8_lossy(&read("cgroup")), &String::from_utf8_lossy(&read("cmdline")))
        })
        .collect())
}
