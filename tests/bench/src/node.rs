use std::path::Path;
use std::time::Duration;

use keyward_emulator::{Effect, Fault};
use keyward_proto::csi::v1::NodePublishVolumeRequest;
use keyward_proto::csi::v1::node_client::NodeClient;
use keyward_test_support::kubelet::{Kubelet, PodVolume};
use keyward_test_support::node::{DRIVER, Driver, Node};
use tokio::time::Instant;

use crate::Outcome;
use crate::process;

/// A node of the test rig around the shipped driver: kubelet's directories and calls, a Kubernetes API, a vault with
/// secrets. Client and emulator share one thread, the API has another.
pub(crate) struct NodeRig {
    pub(crate) node: Node,
    secrets: Vec<String>,
}

/// A publish that has only to be sent: directories made, token minted.
pub(crate) struct Call {
    pub(crate) volume: PodVolume,
    pub(crate) request: NodePublishVolumeRequest,
}

impl NodeRig {
    /// A vault of `secrets` secrets with 64 bytes each; nothing without the right to mount.
    pub(crate) async fn start(program: &Path, secrets: usize, http2: bool) -> Outcome<Option<Self>> {
        let program = program.to_str().ok_or("the driver's path is not text")?;
        let Some(node) = Node::with(program, |builder| builder.http2(http2)).await else { return Ok(None) };
        let secrets: Vec<_> = (0..secrets).map(|number| format!("secret-{number:03}")).collect();
        for name in &secrets {
            node.vault().set_secret(name, [b'v'; 64]);
        }
        let rig = Self { node, secrets };
        rig.check_every("10m");
        Ok(Some(rig))
    }

    /// Rotation checks come this often.
    pub(crate) fn check_every(&self, interval: &str) {
        self.node
            .configure(&format!("rotation: {{interval: {interval}, jitter: 0}}\nlog: {{level: warn}}\n"));
    }

    /// Every answer takes 20 ms longer.
    pub(crate) fn far_away(&self) {
        self.node.emulator.faults().set(Fault::on("*", Effect::Latency { millis: 20, jitter_millis: 0 }));
    }

    pub(crate) async fn drive(&self) -> Driver {
        self.node.drive().await
    }

    /// A publish of the vault's first `objects` secrets for a pod of this name.
    pub(crate) fn call(&self, pod: &str, objects: usize) -> Outcome<Call> {
        let names: Vec<_> = self.secrets.iter().take(objects).map(String::as_str).collect();
        self.call_for(self.node.volume(pod, &names))
    }

    pub(crate) fn call_for(&self, volume: PodVolume) -> Outcome<Call> {
        self.node.kubelet.prepare(&volume);
        let request = self.node.kubelet.request(&volume, &self.node.context(&volume.pod));
        Ok(Call { volume, request })
    }

    /// Sends it as kubelet does, on a connection of its own. Returns how long that took.
    pub(crate) async fn publish(&self, call: &Call) -> Outcome<Duration> {
        let (request, socket) = (call.request.clone(), self.node.kubelet.socket(DRIVER));
        let start = Instant::now();
        NodeClient::new(Kubelet::channel(&socket).await?).node_publish_volume(request).await?;
        Ok(start.elapsed())
    }

    pub(crate) async fn unpublish(&self, call: &Call) -> Outcome<()> {
        Ok(self.node.kubelet.unpublish(&call.volume).await?)
    }

    /// Requests to the vault and to the token endpoint so far.
    pub(crate) fn upstream(&self) -> (u64, u64) {
        let counters = self.node.emulator.counters();
        (counters.requests("secrets.*"), counters.requests("token.*"))
    }

    /// Values that the vault handed out so far.
    pub(crate) fn gets(&self) -> u64 {
        self.node.emulator.counters().with_status("secrets.get", 200)
    }
}

/// Memory of both processes in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    pub(crate) anonymous: u64,
}

impl Memory {
    pub(crate) fn of(driver: &Driver) -> Outcome<Self> {
        let pids = both(driver)?;
        let sum = |field: &str| -> Outcome<u64> {
            let mut sum = 0;
            for pid in pids {
                sum += process::rollup_kib(pid, field)?;
            }
            Ok(sum)
        };
        Ok(Self { rss: sum("Rss")?, pss: sum("Pss")?, anonymous: sum("Anonymous")? })
    }
}

/// The mounter and the broker.
pub(crate) fn both(driver: &Driver) -> Outcome<[u32; 2]> {
    Ok([driver.mounter(), driver.broker().ok_or("the broker does not run")?])
}
