use std::time::Duration;

use crate::document::Fields;
use crate::ledger::{self, Kind, Limit, PODS};

/// What volumes and pods may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Volumes at a time.
    pub volumes: usize,
    /// Volumes of one pod at a time.
    pub volumes_per_pod: usize,
    /// Objects in one volume.
    pub objects_per_volume: usize,
    /// Payload of one volume.
    pub bytes_per_volume: u64,
    /// Bytes held for one pod, of every kind together.
    pub bytes_per_pod: usize,
    /// Bytes held for all pods of the node together.
    pub bytes_per_node: usize,
    /// How long one publish may take; kubelet gives up after two minutes.
    pub publish_deadline: Duration,
    /// How long the conversions of one volume may take.
    pub conversion_deadline: Duration,
    /// Values in the cache that no volume watches; `None` is the broker's own limit.
    pub cache_bytes: Option<u64>,
    /// Connections to the local API, of all pods.
    pub connections: usize,
    /// Connections of one pod.
    pub connections_per_pod: usize,
    /// Calls and watches under way on the local API, of all pods.
    pub streams: usize,
    /// Calls and watches of one pod.
    pub streams_per_pod: usize,
    /// Versions that pods asked for and that the cache keeps, of all pods.
    pub pinned_versions: usize,
    /// Such versions of one pod.
    pub pinned_versions_per_pod: usize,
    /// Distinct vault hosts of one pod.
    pub hosts_per_pod: usize,
    /// File descriptors held for one pod.
    pub descriptors_per_pod: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            volumes: 512,
            volumes_per_pod: 32,
            objects_per_volume: 1000,
            bytes_per_volume: 32 << 20,
            bytes_per_pod: BYTES_PER_NODE / POD_SHARE,
            bytes_per_node: BYTES_PER_NODE,
            publish_deadline: Duration::from_secs(100),
            conversion_deadline: Duration::from_secs(20),
            cache_bytes: None,
            connections: 4096,
            connections_per_pod: 256,
            streams: 16_384,
            streams_per_pod: 1024,
            pinned_versions: 4096,
            pinned_versions_per_pod: 256,
            hosts_per_pod: 16,
            descriptors_per_pod: 512,
        }
    }
}

/// Twice the payload that the chart allows by default.
const BYTES_PER_NODE: usize = 2 * (192 << 20);
/// A pod's share of the node's bytes, where none is set: one of so many.
const POD_SHARE: usize = 3;

/// Kept back for each pod, where the node has at least twice that for all: what a pod with some ten values, its files, a
/// key store to convert and a few watches needs.
const OWN_BYTES: usize = 512 << 10;
const OWN_VOLUMES: usize = 1;
const OWN_CONNECTIONS: usize = 4;
const OWN_STREAMS: usize = 16;
const OWN_PINNED_VERSIONS: usize = 4;
const OWN_DESCRIPTORS: usize = 16;

impl Limits {
    /// What a ledger holds pods to. `descriptors` is how many file descriptors the process may give to pods.
    #[must_use]
    pub fn ledger(&self, descriptors: usize) -> ledger::Limits {
        let limit = |own: usize, (pod, pod_setting), (node, node_setting)| {
            // No more than half of the budget is kept back, and no more than a pod may have.
            let own = own.min(node / (2 * PODS)).min(pod);
            Limit { pod, node, own, pod_setting, node_setting }
        };
        let bytes = limit(
            OWN_BYTES,
            (self.bytes_per_pod, "limits.bytesPerPod"),
            (self.bytes_per_node, "limits.bytesPerNode"),
        );
        let counted = [
            (
                Kind::Volumes,
                OWN_VOLUMES,
                (self.volumes_per_pod, "limits.volumesPerPod"),
                (self.volumes, "limits.volumes"),
            ),
            (
                Kind::Connections,
                OWN_CONNECTIONS,
                (self.connections_per_pod, "limits.connectionsPerPod"),
                (self.connections, "limits.connections"),
            ),
            (
                Kind::Streams,
                OWN_STREAMS,
                (self.streams_per_pod, "limits.streamsPerPod"),
                (self.streams, "limits.streams"),
            ),
            (
                Kind::PinnedVersions,
                OWN_PINNED_VERSIONS,
                (self.pinned_versions_per_pod, "limits.pinnedVersionsPerPod"),
                (self.pinned_versions, "limits.pinnedVersions"),
            ),
            (Kind::Hosts, 0, (self.hosts_per_pod, "limits.hostsPerPod"), (usize::MAX, "")),
            (
                Kind::Descriptors,
                OWN_DESCRIPTORS,
                (self.descriptors_per_pod, "limits.descriptorsPerPod"),
                (descriptors, "RLIMIT_NOFILE"),
            ),
        ];
        let none = ledger::Limits::default().with_bytes(bytes);
        counted
            .into_iter()
            .fold(none, |limits, (kind, own, pod, node)| limits.with(kind, limit(own, pod, node)))
    }
}

/// Reads the section; absent settings have their defaults.
pub(super) fn read(fields: Option<Fields<'_>>) -> Limits {
    let mut limits = Limits::default();
    let Some(mut fields) = fields else { return limits };
    let seconds = Duration::from_secs;
    limits.bytes_per_volume =
        fields.number("bytesPerVolume", 4096..=1 << 34).unwrap_or(limits.bytes_per_volume);
    count(&mut fields, "bytesPerNode", 1 << 20..=1 << 40, &mut limits.bytes_per_node);
    limits.bytes_per_pod = limits.bytes_per_node / POD_SHARE;
    count(&mut fields, "bytesPerPod", 1 << 16..=1 << 40, &mut limits.bytes_per_pod);
    for (key, most, limit) in [
        ("volumes", 10_000, &mut limits.volumes),
        ("volumesPerPod", 10_000, &mut limits.volumes_per_pod),
        ("objectsPerVolume", 1000, &mut limits.objects_per_volume),
        ("connections", 1 << 20, &mut limits.connections),
        ("connectionsPerPod", 1 << 20, &mut limits.connections_per_pod),
        ("streams", 1 << 20, &mut limits.streams),
        ("streamsPerPod", 1 << 20, &mut limits.streams_per_pod),
        ("pinnedVersions", 1 << 20, &mut limits.pinned_versions),
        ("pinnedVersionsPerPod", 1 << 20, &mut limits.pinned_versions_per_pod),
        ("hostsPerPod", 1000, &mut limits.hosts_per_pod),
        ("descriptorsPerPod", 1 << 20, &mut limits.descriptors_per_pod),
    ] {
        count(&mut fields, key, 1..=most, limit);
    }
    limits.publish_deadline =
        fields.duration("publishDeadline", seconds(1)..=seconds(115)).unwrap_or(limits.publish_deadline);
    limits.conversion_deadline = fields
        .duration("conversionDeadline", seconds(1)..=seconds(115))
        .unwrap_or(limits.conversion_deadline);
    limits.cache_bytes = fields.number("cacheBytes", 1 << 20..=1 << 36);
    if limits.conversion_deadline > limits.publish_deadline {
        fields.mistake("conversionDeadline", "must not be longer than limits.publishDeadline");
    }
    if limits.bytes_per_pod > limits.bytes_per_node {
        fields.mistake("bytesPerPod", "must not be larger than limits.bytesPerNode");
    }
    fields.finish();
    limits
}

fn count(
    fields: &mut Fields<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u64>,
    limit: &mut usize,
) {
    let number = fields.number(key, range).and_then(|number| usize::try_from(number).ok());
    *limit = number.unwrap_or(*limit);
}
