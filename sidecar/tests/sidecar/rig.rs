use std::path::PathBuf;
use std::time::Duration;

use keyward_emulator::{
    Builder, Emulator, Fault, Identity, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE, VaultHandle,
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::process::Sidecar;

/// The vault's host, as a pod in Azure would name it.
pub(crate) const VAULT: &str = "shop.vault.azure.net";

/// Whom the federated identity trusts.
pub(crate) const SUBJECT: &str = "system:serviceaccount:shop:web";

/// Nothing in these tests takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An emulated cloud with one vault, an identity that may read it, and a place on tmpfs for one pod.
pub(crate) struct Rig {
    pub(crate) emulator: Emulator,
    pub(crate) identity: Identity,
    place: TempDir,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(build: impl FnOnce(Builder) -> Builder) -> Self {
        let emulator = build(Emulator::builder().vault("shop").rate_limits(None)).start().await.unwrap();
        let registration =
            Registration::application().federated(emulator.issuer().url(), SUBJECT, TOKEN_EXCHANGE_AUDIENCE);
        let identity = emulator.identities().register(registration);
        emulator.vault("shop").assign(&identity, Permission::READ_ALL);
        let place = tempfile::Builder::new().prefix("keyward-test-").tempdir_in("/dev/shm").unwrap();
        let rig = Self { emulator, identity, place };
        rig.write("ca.pem", rig.emulator.ca_pem());
        rig.write("token", rig.token(TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(3600)));
        std::fs::create_dir(rig.path("files")).unwrap();
        std::fs::create_dir(rig.path("state")).unwrap();
        rig
    }

    pub(crate) fn vault(&self) -> VaultHandle {
        self.emulator.vault("shop")
    }

    /// Everything is at fault from now on: vaults and token endpoints.
    pub(crate) fn fail_everything(&self) {
        let effect = keyward_emulator::Effect::Status { status: 503, retry_after: None };
        self.emulator.faults().set(Fault::on("*", effect));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A file of the pod's application.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path("files").join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// Which generation of the files is current.
    pub(crate) fn generation(&self) -> Option<PathBuf> {
        std::fs::read_link(self.file("..data")).ok()
    }

    /// Replaces a file as kubelet and editors do: whole.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let next = self.path(&format!(".{name}.next"));
        std::fs::write(&next, content).unwrap();
        std::fs::rename(&next, &path).unwrap();
        path
    }

    /// A service-account token of [`SUBJECT`].
    pub(crate) fn token(&self, audience: &str, life: Duration) -> String {
        self.emulator.issuer().mint_service_account_token("shop", "web", audience, life)
    }

    pub(crate) fn workload_identity(&self) -> String {
        format!(
            "{{method: workload-identity, clientId: {}, tenantId: {}, tokenFile: {}, authorityHost: '{}'}}",
            self.identity.client_id,
            self.emulator.tenant_id(),
            self.path("token").display(),
            self.emulator.authority_url(),
        )
    }

    /// A configuration with files and socket that looks for new versions every second.
    pub(crate) fn config(&self, objects: &str) -> String {
        self.config_as(&self.workload_identity(), objects)
    }

    pub(crate) fn config_as(&self, identity: &str, objects: &str) -> String {
        let place = self.place.path().display();
        format!(
            "identity: {identity}\n\
             vaults: [{{host: {VAULT}, address: '{}'}}]\n\
             tls: {{extraRootsFile: {place}/ca.pem}}\n\
             objects:\n{objects}\n\
             files: {{path: {place}/files, tmpfs: require, allowSwap: true}}\n\
             grpc: {{socket: {place}/keyward.sock}}\n\
             rotation: {{interval: 1s, jitter: 0}}\n\
             audit: {{file: {place}/audit.jsonl}}\n\
             log: {{format: text, level: debug}}\n",
            self.emulator.vault_addr(),
        )
    }

    /// Starts the sidecar with this configuration; it need not be ready yet.
    pub(crate) fn launch(&self, config: &str) -> Sidecar {
        self.launch_with(config, &[], &[])
    }

    pub(crate) fn launch_with(&self, config: &str, flags: &[&str], variables: &[(&str, String)]) -> Sidecar {
        let file = self.write("config.yaml", config);
        let mut arguments = vec!["--config", file.to_str().unwrap()];
        arguments.extend(flags);
        Sidecar::start(&arguments, variables, &self.path("sidecar.log"), &self.path("keyward.sock"))
    }

    /// Starts the sidecar and waits until it is ready.
    pub(crate) async fn run(&self, config: &str) -> Sidecar {
        let sidecar = self.launch(config);
        sidecar.ready().await;
        sidecar
    }

    /// Requests of `operation` that were answered with a value.
    pub(crate) fn served(&self, operation: &str) -> u64 {
        self.emulator.counters().with_status(operation, 200)
    }

    /// Waits until the vault was asked `more` times from now on, whatever it answered.
    pub(crate) async fn after_checks(&self, more: u64) {
        let requests = || self.emulator.counters().requests("secrets.*");
        let target = requests() + more;
        until("the next checks", || requests() >= target).await;
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "waited in vain for {what}");
}

/// Gives something that must end the time it may take.
pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
