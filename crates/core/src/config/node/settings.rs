use crate::config::settings::{settings, table};

settings! {
    "clouds", "none", "[{name: Corp, authorityHost: 'https://login.corp.example', vaultDnsSuffix: vault.corp.example}]",
        "Clouds that volumes may name beside AzurePublicCloud, AzureUSGovernmentCloud and AzureChinaCloud: name, authorityHost, vaultDnsSuffix, audience (default https:// and the suffix).";
    "defaultCloud", "AzurePublicCloud", "AzureChinaCloud", "The cloud of volumes that name none: built in, or from clouds.";
    "vaults", "none", "[{host: '127.0.0.1:8443', verifyChallengeResource: false, address: '127.0.0.1:8443'}]",
        "Vaults beyond the clouds' suffixes, or with settings of their own: host, verifyChallengeResource (default true), address (connect here instead of resolving the host).";
    "tls.extraRootsFile", "none", "/etc/keyward/ca.pem", "Trust anchors beside the built-in ones, PEM; read again whenever it changes.";
    "tls.extraRoots", "none", "\"-----BEGIN CERTIFICATE-----\\nMA==\\n-----END CERTIFICATE-----\\n\"", "The same, inline; excludes the file.";
    "tls.minimumVersion", "\"1.3\"", "\"1.2\"", "The oldest TLS version that is spoken, \"1.3\" or \"1.2\". Lowering it is logged.";
    "tls.hosts", "none", "[{host: vault.corp.example, minimumVersion: \"1.2\"}]", "Floors for single hosts.";
    "rotation.interval", "60s", "30s", "Time between checks for new versions.";
    "rotation.jitter", "0.1", "0.2", "Spread of the interval, from 0 to 1.";
    "rotation.maxStale", "24h", "6h", "How long a value that cannot be confirmed is served before the API answers KW_STALE_LIMIT.";
    "nodeIdentity", "none",
        "[{namespace: shop, serviceAccount: web, clientId: 11111111-1111-1111-1111-111111111111, vaults: [shop.vault.azure.net]}]",
        "Who may use an identity of the node: namespace, serviceAccount, one of clientId, objectId, resourceId and `system: true`, and the vault hosts that may be asked with it. Nobody who is not listed.";
    "identityBinding.proxy", "useAzureTokenProxy is refused", "https://proxy.kube-system.svc:8443/token", "The cluster's token proxy, where useAzureTokenProxy posts.";
    "identityBinding.caFile", "the trust anchors of everything else", "/etc/keyward/proxy-ca.pem", "Trust anchors of the proxy, PEM.";
    "identityBinding.caData", "none", "\"-----BEGIN CERTIFICATE-----\\nMA==\\n-----END CERTIFICATE-----\\n\"", "The same, inline.";
    "identityBinding.sni", "the host of the URL", "proxy.example", "The name in the handshake with the proxy.";
    "metadataEndpoint", "http://169.254.169.254", "http://127.0.0.1:8081", "Origin of the instance metadata service.";
    "admin.listen", "no admin port", "0.0.0.0:9464", "Address for /livez, /readyz and /metrics. It carries no value, secret name or token.";
    "audit.file", "- (standard output)", "/var/log/keyward/audit.jsonl", "Where the audit log goes.";
    "audit.fsync", "false", "true", "Sync the audit log to the device after every batch.";
    "audit.onFailure", "allow", "deny", "allow serves on and leaves a gap record; deny refuses what cannot be recorded.";
    "audit.keyFile", "a new key at each start", "/etc/keyward/audit.key", "PKCS#8 Ed25519 key that signs checkpoints.";
    "log.format", "json", "text", "json or text, on standard error.";
    "log.level", "info", "debug", "error, warn, info, debug or trace.";
    "traces.endpoint", "no export", "http://127.0.0.1:4318/v1/traces", "OTLP/HTTP collector.";
    "traces.sample", "1.0", "0.05", "Share of traces that are kept, from 0 to 1.";
    "grpc.enabled", "true", "false", "Whether volumes may ask for the local API.";
    "grpc.hostPid", "false", "true", "Demand that the caller's cgroup carries the pod's UID. The driver must run with hostPID and in the host's cgroup namespace.";
    "grpc.allowUids", "anyone who can open the socket", "[1000]", "User ids that may call.";
    "grpc.ratePerCaller", "200000", "1000", "Calls a second that each caller (uid) may make to one volume.";
    "files.allowSwap", "false", "true", "Accept a tmpfs without noswap while swap is on.";
    "registration.enabled", "true", "false", "Whether to register with kubelet.";
    "registration.endpoint", "the CSI socket's own path", "/var/lib/kubelet/plugins/csi.keyward.dev/csi.sock", "The CSI socket as kubelet on the host sees it.";
    "startupTaint.key", "no taint is touched", "keyward.dev/driver-not-ready",
        "Key of the taint that the driver takes from its node once kubelet lists it there and a volume has been made and read back. Looked for again every minute.";
    "limits.volumes", "512", "110", "Volumes at a time on one node.";
    "limits.volumesPerPod", "32", "8", "Volumes at a time of one pod.";
    "limits.objectsPerVolume", "1000", "100", "Objects in one volume.";
    "limits.bytesPerVolume", "33554432", "1048576", "Bytes of all files of one volume.";
    "limits.bytesPerPod", "a third of limits.bytesPerNode", "67108864", "Bytes held for one pod: its values in memory, its files twice (they are replaced as a whole), answers that it does not read, what is kept for a restart.";
    "limits.bytesPerNode", "402653184", "536870912", "Bytes held for all pods of the node together. The chart sets twice driver.payloadMiB.";
    "limits.connections", "4096", "1024", "Connections to the local API, of all pods together.";
    "limits.connectionsPerPod", "256", "64", "Connections of one pod to the local API.";
    "limits.streams", "16384", "4096", "Calls and watches under way on the local API, of all pods together.";
    "limits.streamsPerPod", "1024", "256", "Calls and watches under way of one pod.";
    "limits.pinnedVersions", "4096", "1024", "Versions that pods asked for through the local API and that the cache keeps, of all pods together.";
    "limits.pinnedVersionsPerPod", "256", "64", "Such versions of one pod. One that is not asked for is forgotten after 15 minutes.";
    "limits.hostsPerPod", "16", "4", "Distinct vault hosts of one pod.";
    "limits.descriptorsPerPod", "512", "128", "File descriptors held for one pod.";
    "limits.publishDeadline", "100s", "60s", "How long one publish may take; kubelet gives up after two minutes.";
    "limits.conversionDeadline", "20s", "5s", "How long the conversions of one volume may take.";
    "limits.cacheBytes", "8388608", "67108864", "Bytes of values, watched ones included, beyond which those that no volume watches are dropped.";
    "csiDriver.check", "true", "false", "Read the CSIDriver object and be ready only when it is as it must be. With false, state the two facts below.";
    "csiDriver.podInfoOnMount", "read from the object", "true", "Whether kubelet puts the pod's names into the volume context.";
    "csiDriver.tokensInSecrets", "read from the object", "false", "Whether kubelet puts tokens into `secrets` instead of the volume context (serviceAccountTokenInSecrets).";
}

/// The reference page, Markdown.
#[must_use]
pub fn reference() -> String {
    table(SETTINGS)
}
