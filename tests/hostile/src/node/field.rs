//! A node with the shipped node plugin, twenty peaceful pods' surroundings, and a vault that belongs to the attacker.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyward_emulator::{Emulator, Identity, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE, VaultHandle};
use keyward_proto::csi::v1::ProbeRequest;
use keyward_test_support::kubelet::{Context, Pod, PodVolume};
use keyward_test_support::node::{DRIVER, Node, VAULT};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::Outcome;
use crate::group::Group;
use crate::program::{Line, Program};

/// The attacker's vault.
pub(crate) const HOSTILE: &str = "hostile.vault.azure.net";
/// The chart's limit of the node plugin: memory beside the payload, and twice the payload.
const LIMIT: u64 = 512 << 20;

/// Everything around the node plugin. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Field {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    /// Short paths, and what must not count as the plugin's memory: log and audit.
    place: TempDir,
}

/// What is the attacker's own: an Azure on a thread that stands back.
#[derive(Clone)]
pub(crate) struct Hostile {
    pub(crate) emulator: Emulator,
    pub(crate) identity: Identity,
}

impl Hostile {
    /// Must be called on the attacker's thread, which it then works on.
    pub(crate) async fn start() -> Outcome<Self> {
        let emulator = Emulator::builder().vault("hostile").rate_limits(None).start().await?;
        let identity = emulator.identities().register(Registration::application().federated(
            emulator.issuer().url(),
            "system:serviceaccount:evil:evil",
            TOKEN_EXCHANGE_AUDIENCE,
        ));
        emulator.vault("hostile").assign(&identity, Permission::READ_ALL);
        Ok(Self { emulator, identity })
    }

    pub(crate) fn vault(&self) -> VaultHandle {
        self.emulator.vault("hostile")
    }
}

impl Field {
    /// Everything but the plugin; nothing without the right to mount.
    pub(crate) async fn lay() -> Outcome<Option<Self>> {
        let Some(node) = Node::start("").await else { return Ok(None) };
        let place = tempfile::Builder::new().prefix("kwh-").tempdir()?;
        // Attackers of any user pass through it.
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Some(Self { inner: Arc::new(Inner { node, place }) }))
    }

    pub(crate) fn node(&self) -> &Node {
        &self.inner.node
    }

    /// A directory on a disk, with a short path.
    pub(crate) fn place(&self) -> &Path {
        self.inner.place.path()
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.place().join("audit.jsonl")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.place().join("log")
    }

    /// Starts the plugin as the chart does and waits until it is ready.
    pub(crate) async fn start(
        &self,
        program: &Path,
        hostile: &Hostile,
        silent_dns: bool,
    ) -> Outcome<Program> {
        let node = self.node();
        std::fs::write(
            node.etc().join("ca.pem"),
            format!("{}{}", node.emulator.ca_pem(), hostile.emulator.ca_pem()),
        )?;
        let config = format!(
            "clouds:\n\
             - {{name: Peace, authorityHost: '{}', vaultDnsSuffix: vault.azure.net, audience: 'https://vault.azure.net'}}\n\
             - {{name: War, authorityHost: '{}', vaultDnsSuffix: vault.azure.net, audience: 'https://vault.azure.net'}}\n\
             defaultCloud: Peace\n\
             vaults:\n\
             - {{host: {VAULT}, address: '{}'}}\n\
             - {{host: {HOSTILE}, address: '{}'}}\n\
             tls: {{extraRootsFile: {}}}\n\
             audit: {{file: {}}}\n\
             log: {{level: warn}}\n\
             rotation: {{interval: 1s, jitter: 0}}\n",
            node.emulator.authority_url(),
            hostile.emulator.authority_url(),
            node.emulator.vault_addr(),
            hostile.emulator.vault_addr(),
            node.etc().join("ca.pem").display(),
            self.audit().display(),
        );
        std::fs::write(node.etc().join("config.yaml"), config)?;
        let command = node.command();
        let kubelet = node.kubelet.dir().to_owned();
        let volumes = move || mounts_below(&kubelet);
        let mut running = Program::start(
            &Line {
                program,
                arguments: &command.arguments,
                kubeconfig: &command.kubeconfig,
                log: &self.log(),
                mounts_first: if silent_dns { Some(self.silent_dns()?) } else { None },
            },
            Group::with_limit(LIMIT),
            volumes,
        )?;
        let registered = node.kubelet.register(DRIVER, Duration::from_secs(30));
        let end = Instant::now() + Duration::from_secs(30);
        if registered.await.is_none() {
            return Err(format!("the node plugin did not register:\n{}", self.last_words()).into());
        }
        while self.probe().await.is_err() {
            if Instant::now() > end || !running.is_alive() {
                return Err(format!("the node plugin is not ready:\n{}", self.last_words()).into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(running)
    }

    /// Commands that give the plugin, and nobody else, a name server that never answers.
    fn silent_dns(&self) -> Outcome<String> {
        let file = self.place().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.83.7.1\n")?;
        // Only the mount that /etc lies on is made private: kubelet's must propagate as ever.
        Ok(format!(
            "mount --make-private \"$(findmnt --noheadings --output TARGET --target /etc/resolv.conf)\" && \
             mount --bind '{}' \"$(readlink -f /etc/resolv.conf)\"",
            file.display()
        ))
    }

    /// The end of the plugin's log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// What kubelet's liveness probe asks.
    pub(crate) async fn probe(&self) -> Result<(), Status> {
        let mut client = self.node().kubelet.identity(DRIVER).await?;
        let answer = tokio::time::timeout(Duration::from_secs(5), client.probe(ProbeRequest {})).await;
        let ready = answer.map_err(|_| Status::deadline_exceeded("no answer to the probe within 5 s"))??;
        if ready.into_inner().ready == Some(true) { Ok(()) } else { Err(Status::unavailable("not ready")) }
    }

    /// A short path to the socket in a volume, as a container's own mount is.
    pub(crate) fn socket(&self, volume: &PodVolume) -> PathBuf {
        let door = self.place().join(&volume.pod.uid[..13]);
        if std::fs::symlink_metadata(&door).is_err() {
            let _ = std::os::unix::fs::symlink(self.node().kubelet.target(volume), &door);
        }
        door.join("keyward.sock")
    }

    /// A pod of the attacker.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        Pod::new("evil", name, "evil")
    }

    /// A volume of the attacker with these objects and attributes, read from its own vault.
    pub(crate) fn volume(
        &self,
        hostile: &Hostile,
        name: &str,
        objects: &str,
        more: &[(&str, &str)],
    ) -> PodVolume {
        let mut attributes = vec![
            ("objects", objects),
            ("clientID", hostile.identity.client_id.as_str()),
            ("tenantID", hostile.emulator.tenant_id()),
            ("cloud", "War"),
        ];
        attributes.extend_from_slice(more);
        self.pod(name).volume(DRIVER, &attributes)
    }

    /// What kubelet adds for a pod of the attacker.
    pub(crate) fn context(&self, hostile: &Hostile, pod: &Pod) -> Context {
        let now = hostile.emulator.now();
        let token = hostile.emulator.issuer().mint(&json!({
            "iss": hostile.emulator.issuer().url(),
            "sub": format!("system:serviceaccount:{}:{}", pod.namespace, pod.service_account),
            "aud": [TOKEN_EXCHANGE_AUDIENCE],
            "iat": now, "nbf": now, "exp": now + 3600,
            "jti": format!("{}-{now}", pod.uid),
            "kubernetes.io": {
                "namespace": pod.namespace,
                "serviceaccount": {"name": pod.service_account, "uid": "sa-uid"},
                "pod": {"name": pod.name, "uid": pod.uid},
            },
        }));
        Context {
            tokens: vec![(TOKEN_EXCHANGE_AUDIENCE.to_owned(), token)],
            tokens_in_secrets: true,
            ..Context::default()
        }
    }

    /// Publishes a volume of the attacker.
    pub(crate) async fn publish(&self, hostile: &Hostile, volume: &PodVolume) -> Result<(), Status> {
        self.node().kubelet.publish(volume, &self.context(hostile, &volume.pod)).await
    }

    /// Unpublishes a volume of the attacker, which may not be there.
    pub(crate) async fn unpublish(&self, volume: &PodVolume) {
        let _ = self.node().kubelet.unpublish(volume).await;
    }

    /// Publishes a volume of the attacker until it is there; gives up after a while.
    pub(crate) async fn publish_until_there(&self, hostile: &Hostile, volume: &PodVolume) -> Outcome<()> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.publish(hostile, volume).await {
                Ok(()) => return Ok(()),
                Err(status) if Instant::now() > end => {
                    return Err(format!("not published: {}", status.message()).into());
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Mounts below a directory, as the kernel shows them.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(directory) && path != directory)
        .collect()
}
