use std::time::Duration;

use crate::document::Fields;
use crate::ledger::{self, Kind, Limit};

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
            hosts_per_pod: 16,
            descriptors_per_pod: 512,
        }
    }
}

/// Twice the payload that the chart allows by default.
const BYTES_PER_NODE: usize = 2 * (192 << 20);
/// A pod's share of the node's bytes, where none is set: one of so many.
const POD_SHARE: usize = 3;

impl Limits {
    /// What a ledger holds pods to. `descriptors` is how many file descriptors the process may give to pods.
    #[must_use]
    pub fn ledger(&self, descriptors: usize) -> ledger::Limits {
        let limit = |(pod, pod_setting), (node, node_setting)| Limit { pod, node, pod_setting, node_setting };
        let bytes =
            limit((self.bytes_per_pod, "limits.bytesPerPod"), (self.bytes_per_node, "limits.bytesPerNode"));
        let counted = [
            (Kind::Volumes, (self.volumes_per_pod, "limits.volumesPerPod"), (self.volumes, "limits.volumes")),
            (
                Kind::Connections,
                (self.connections_per_pod, "limits.connectionsPerPod"),
                (self.connections, "limits.connections"),
            ),
            (Kind::Streams, (self.streams_per_pod, "limits.streamsPerPod"), (self.streams, "limits.streams")),
            (Kind::Hosts, (self.hosts_per_pod, "limits.hostsPerPod"), (usize::MAX, "")),
            (
                Kind::Descriptors,
                (self.descriptors_per_pod, "limits.descriptorsPerPod"),
                (descriptors, "RLIMIT_NOFILE"),
            ),
        ];
        counted.into_iter().fold(ledger::Limits::default().with_bytes(bytes), |limits, (kind, pod, node)| {
            limits.with(kind, limit(pod, node))
        })
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
