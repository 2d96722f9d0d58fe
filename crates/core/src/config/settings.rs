use std::fmt::Write as _;

/// One setting as users know it.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its path in the document; the flag is the path with dashes: `--rotation-interval`.
    pub path: &'static str,
    /// What is taken when it is absent, in words.
    pub default: &'static str,
    /// An example value that is valid by itself.
    pub example: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl Setting {
    /// The command-line flag, without the leading dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        let mut flag = String::new();
        for c in self.path.chars() {
            match c {
                '.' => flag.push('-'),
                c if c.is_ascii_uppercase() => {
                    flag.push('-');
                    flag.push(c.to_ascii_lowercase());
                }
                c => flag.push(c),
            }
        }
        flag
    }
}

macro_rules! settings {
    ($($path:literal, $default:literal, $example:literal, $help:literal;)+) => {
        /// Every setting, in the order of the reference page.
        pub const SETTINGS: &[$crate::config::Setting] = &[$($crate::config::Setting { path: $path, default: $default, example: $example, help: $help },)+];
    };
}

pub(super) use settings;

settings! {
    "cloud", "AzurePublicCloud", "AzureUSGovernmentCloud",
        "AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, or a mapping {name, authorityHost, vaultDnsSuffix, audience} for another cloud.";
    "identity.method", "figured out from the environment", "workload-identity",
        "workload-identity, managed-identity or service-principal. With AZURE_KUBERNETES_TOKEN_PROXY in the environment, workload-identity posts the token to the cluster's proxy (identity binding).";
    "identity.clientId", "AZURE_CLIENT_ID", "11111111-1111-1111-1111-111111111111", "Client id of the application or user-assigned identity.";
    "identity.objectId", "none", "33333333-3333-3333-3333-333333333333", "Object id of a user-assigned managed identity.";
    "identity.resourceId", "none", "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop", "Azure resource id of a user-assigned managed identity.";
    "identity.tenantId", "AZURE_TENANT_ID", "22222222-2222-2222-2222-222222222222", "Tenant id or domain.";
    "identity.tokenFile", "AZURE_FEDERATED_TOKEN_FILE", "/var/run/secrets/azure/wi/token/azure-identity-token", "The federated service account token; read again whenever it changes.";
    "identity.authorityHost", "AZURE_AUTHORITY_HOST, else the cloud's", "https://login.microsoftonline.com", "Origin of the token endpoint.";
    "identity.secretFile", "none", "/etc/keyward/client-secret", "File with a service principal's secret.";
    "identity.certificateFile", "none", "/etc/keyward/client.pem", "File with a service principal's certificate and private key, PEM or PFX.";
    "identity.certificatePasswordFile", "none", "/etc/keyward/client.password", "File with the PFX's password.";
    "identity.sendChain", "false", "true", "Send the certificate chain, for subject name and issuer authentication.";
    "identity.metadataEndpoint", "http://169.254.169.254", "http://127.0.0.1:8081", "Origin of the instance metadata service.";
    "vaults", "none", "[{host: '127.0.0.1:8443', verifyChallengeResource: false, address: '127.0.0.1:8443'}]",
        "Vaults beyond the cloud's suffix, or with settings of their own: host, verifyChallengeResource (default true), address (connect here instead of resolving the host).";
    "tls.extraRootsFile", "none", "/etc/keyward/ca.pem", "Trust anchors beside the built-in ones, PEM; read again whenever it changes.";
    "tls.extraRoots", "none", "\"-----BEGIN CERTIFICATE-----\\nMA==\\n-----END CERTIFICATE-----\\n\"", "The same, inline; excludes the file.";
    "tls.minimumVersion", "\"1.3\"", "\"1.2\"", "The oldest TLS version that is spoken, \"1.3\" or \"1.2\". Lowering it is logged.";
    "tls.hosts", "none", "[{host: vault.corp.example, minimumVersion: \"1.2\"}]", "Floors for single hosts.";
    "objects", "none", "['kv://shop/secrets/db-password']", "What to fetch; see the object grammar.";
    "files.path", "no files are written", "/var/run/keyward", "Directory for the files.";
    "files.tmpfs", "auto", "require", "auto mounts tmpfs when permitted and else requires that the path already is tmpfs; mount always mounts; require never does.";
    "files.size", "follows the payload", "1048576", "Size in bytes of a tmpfs that Keyward mounts.";
    "files.mode", "\"0440\" with a gid, else \"0444\"", "\"0400\"", "Permission bits of files that state none.";
    "files.uid", "the process's", "1000", "Owner of files that state none.";
    "files.gid", "the process's", "1000", "Group of files that state none.";
    "files.allowSwap", "false", "true", "Accept a tmpfs without noswap while swap is on.";
    "state.path", "none", "/var/run/keyward-state", "Directory on tmpfs, not mounted by the application, that keeps the last snapshot across restarts of Keyward.";
    "grpc.socket", "no local API", "/var/run/keyward-api/keyward.sock", "Unix socket of the local API.";
    "grpc.allowUids", "anyone who can open the socket", "[1000]", "User ids that may call.";
    "grpc.mode", "\"0660\" with a gid, else \"0666\"", "\"0660\"", "Permission bits of the socket.";
    "grpc.gid", "the process's", "1000", "Group of the socket.";
    "grpc.ratePerCaller", "200000", "1000", "Calls a second that each caller (uid) may make.";
    "rotation.interval", "60s", "30s", "Time between checks for new versions.";
    "rotation.jitter", "0.1", "0.2", "Spread of the interval, from 0 to 1.";
    "rotation.maxStale", "24h", "6h", "How long a value that cannot be confirmed is served before the API answers KW_STALE_LIMIT.";
    "admin.listen", "no admin port", "127.0.0.1:9464", "Address for /livez, /readyz and /metrics.";
    "audit.file", "- (standard output)", "/var/log/keyward/audit.jsonl", "Where the audit log goes.";
    "audit.fsync", "false", "true", "Sync the audit log to the device after every batch.";
    "audit.onFailure", "allow", "deny", "allow serves on and leaves a gap record; deny refuses what cannot be recorded.";
    "audit.keyFile", "a new key at each start", "/etc/keyward/audit.key", "PKCS#8 Ed25519 key that signs checkpoints.";
    "log.format", "json", "text", "json or text, on standard error.";
    "log.level", "info", "debug", "error, warn, info, debug or trace.";
    "traces.endpoint", "no export", "http://127.0.0.1:4318/v1/traces", "OTLP/HTTP collector.";
    "traces.sample", "1.0", "0.05", "Share of traces that are kept, from 0 to 1.";
}

/// The reference page, Markdown.
#[must_use]
pub fn reference() -> String {
    table(SETTINGS)
}

/// Settings as a Markdown table.
pub(super) fn table(settings: &[Setting]) -> String {
    let mut page = String::from("| Setting | Flag | Default | What it does |\n| --- | --- | --- | --- |\n");
    for setting in settings {
        let _ = writeln!(
            page,
            "| `{}` | `--{}` | {} | {} |",
            setting.path,
            setting.flag(),
            setting.default,
            setting.help
        );
    }
    page
}
