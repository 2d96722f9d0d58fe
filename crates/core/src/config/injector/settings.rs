use crate::config::settings::{settings, table};

settings! {
    "listen", "0.0.0.0:9443", "127.0.0.1:9443", "Address of the webhook, TLS 1.3.";
    "admin.listen", "no admin port", "0.0.0.0:9464", "Address for /livez, /readyz and /metrics. It carries no value, secret name or token.";
    "certificates.mode", "own", "files", "own: a CA and a serving certificate that the injector makes, renews and shares through a Secret. files: someone else renews them, such as cert-manager.";
    "certificates.namespace", "none", "keyward-system", "The injector's own namespace, which is never touched.";
    "certificates.secret", "keyward-injector-tls; files: keyward-injector-path", "webhook-tls", "The Secret with the webhook's path and, with own, CA and certificate. It must exist; it may be empty.";
    "certificates.service", "keyward-injector", "webhook", "own: the Service by which the API server calls, whose name the certificate carries.";
    "certificates.webhook", "keyward-injector", "webhook", "The MutatingWebhookConfiguration whose path and, with own, caBundle are kept current.";
    "certificates.lease", "keyward-injector", "webhook", "The Lease that decides which replica renews; it must exist.";
    "certificates.directory", "none", "/etc/keyward-tls", "files: the directory with tls.crt and tls.key, read again whenever they change.";
    "via", "sidecar", "csi", "How a pod that does not say gets its secrets: sidecar, init or csi.";
    "image", "none: only CSI volumes can be given", "ghcr.io/keyward/keyward:0.1.0", "The image of sidecars and init containers.";
    "imagePullPolicy", "left to Kubernetes", "IfNotPresent", "Its pull policy: Always, IfNotPresent or Never.";
    "nativeSidecars", "auto", "never", "Whether a sidecar is an init container with restartPolicy Always: auto asks the API server for its version (1.29 and later have them), always, never.";
    "position", "auto", "last", "Where our container stands among the pod's init containers: auto is after a service mesh's proxy and before all others, first, last.";
    "requests", "{cpu: 10m, memory: 16Mi}", "{cpu: 20m, memory: 24Mi}", "Requests of sidecars and init containers.";
    "limits", "{memory: 64Mi}", "{cpu: 500m, memory: 128Mi}", "Their limits. The pages of the memory-backed volume count towards memory.";
    "volumeSize", "16777216", "1048576", "Size limit of the memory-backed volume, in bytes.";
    "mountPath", "/var/run/keyward", "/var/run/secrets/app", "Where application containers see their files when the pod does not say.";
    "driverName", "csi.keyward.dev", "secrets-store.csi.k8s.io", "The CSI driver's name, for volumes.";
    "cloud", "AzurePublicCloud", "AzureUSGovernmentCloud",
        "AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, or a mapping {name, authorityHost, vaultDnsSuffix, audience} for another cloud.";
    "tokenAudience", "api://AzureADTokenExchange, or as the cloud has it", "api://AzureADTokenExchangeChina", "Audience of the pod's token for Entra.";
    "vaults", "none", "[{host: '127.0.0.1:8443', verifyChallengeResource: false, address: '127.0.0.1:8443'}]",
        "Vaults beyond the cloud's suffix, or with settings of their own, as every sidecar gets them: host, verifyChallengeResource (default true), address (connect here instead of resolving the host).";
    "tls.extraRootsFile", "none", "/etc/keyward/ca.pem", "Trust anchors that every sidecar is given beside the built-in ones, PEM; read for each pod.";
    "tls.extraRoots", "none", "\"-----BEGIN CERTIFICATE-----\\nMA==\\n-----END CERTIFICATE-----\\n\"", "The same, inline; excludes the file.";
    "tls.minimumVersion", "\"1.3\"", "\"1.2\"", "The oldest TLS version that sidecars speak, \"1.3\" or \"1.2\".";
    "tls.hosts", "none", "[{host: vault.corp.example, minimumVersion: \"1.2\"}]", "Floors for single hosts.";
    "rotation.interval", "60s", "30s", "Time between a sidecar's checks for new versions.";
    "rotation.jitter", "0.1", "0.2", "Spread of the interval, from 0 to 1.";
    "rotation.maxStale", "24h", "6h", "How long a value that cannot be confirmed is served before the API answers KW_STALE_LIMIT.";
    "managedIdentity", "none",
        "[{namespace: shop, serviceAccount: web, clientId: 11111111-1111-1111-1111-111111111111}]",
        "Who may use a managed identity from a sidecar: namespace, serviceAccount and clientId (absent: the system-assigned one). Nobody who is not listed.";
    "excludedNamespaces", "[kube-system]", "[kube-system, gatekeeper-system]",
        "Namespaces whose pods are left alone whatever they ask for, and about which nothing is looked up; certificates.namespace always is.";
    "log.format", "json", "text", "json or text, on standard error.";
    "log.level", "info", "debug", "error, warn, info, debug or trace.";
}

/// The reference page, Markdown.
#[must_use]
pub fn reference() -> String {
    table(SETTINGS)
}
