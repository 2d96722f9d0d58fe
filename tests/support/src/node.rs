//! A node with everything around the driver: kubelet, Kubernetes API, Key Vault and Entra, and the real binary between.

mod driver;

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_emulator::{
    Builder, Emulator, Identity, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE, VaultHandle,
};
use serde_json::json;

use crate::fake_api::FakeApi;
use crate::kubelet::{Context, Kubelet, Pod, PodVolume};
pub use driver::{CommandLine, Driver};

/// The driver's name.
pub const DRIVER: &str = "csi.keyward.dev";
/// The vault's host, as a pod in Azure would name it.
pub const VAULT: &str = "shop.vault.azure.net";
/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A node whose pods of service account `shop/web` may read the vault `shop`.
pub struct Node {
    /// The kubelet.
    pub kubelet: Kubelet,
    /// The Kubernetes API.
    pub api: FakeApi,
    /// Key Vault, Entra, IMDS.
    pub emulator: Emulator,
    /// What `shop/web` may become.
    pub identity: Identity,
    binary: PathBuf,
}

impl Node {
    /// Everything but the driver; `None` without the right to mount.
    pub async fn start(binary: &str) -> Option<Self> {
        Self::with(binary, |builder| builder).await
    }

    /// The same with another emulator.
    pub async fn with(binary: &str, build: impl FnOnce(Builder) -> Builder) -> Option<Self> {
        let kubelet = Kubelet::start()?;
        let emulator =
            build(Emulator::builder().vault("shop").rate_limits(None)).start().await.expect("an emulator");
        let identity = emulator.identities().register(Registration::application().federated(
            emulator.issuer().url(),
            "system:serviceaccount:shop:web",
            TOKEN_EXCHANGE_AUDIENCE,
        ));
        emulator.vault("shop").assign(&identity, Permission::READ_ALL);
        let api = FakeApi::start();
        api.put_usual_driver(DRIVER, &[TOKEN_EXCHANGE_AUDIENCE]);
        let etc = kubelet.dir().join("etc");
        std::fs::create_dir(&etc).expect("a directory");
        api.write_kubeconfig(&etc.join("kubeconfig"));
        std::fs::write(etc.join("ca.pem"), emulator.ca_pem()).expect("a file");
        std::fs::create_dir_all(kubelet.dir().join("plugins").join(DRIVER)).expect("a directory");
        std::fs::create_dir_all(kubelet.dir().join("audit")).expect("a directory");
        let node = Self { kubelet, api, emulator, identity, binary: PathBuf::from(binary) };
        node.configure("");
        Some(node)
    }

    /// The vault.
    #[must_use]
    pub fn vault(&self) -> VaultHandle {
        self.emulator.vault("shop")
    }

    /// The directory of configuration, trust anchors and kubeconfig.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.kubelet.dir().join("etc")
    }

    /// Writes the administrator's configuration: the emulator as a cloud of its own, checks every second, and `more`.
    pub fn configure(&self, more: &str) {
        let log = if more.contains("log:") { "" } else { "log: {format: text, level: debug}\n" };
        let rotation = if more.contains("rotation:") { "" } else { "rotation: {interval: 1s, jitter: 0}\n" };
        let text = format!(
            "clouds: [{{name: Emulated, authorityHost: '{}', vaultDnsSuffix: vault.azure.net, audience: 'https://vault.azure.net'}}]\n\
             defaultCloud: Emulated\n\
             vaults: [{{host: {VAULT}, address: '{}'}}]\n\
             tls: {{extraRootsFile: {}}}\n\
             audit: {{file: {}}}\n\
             {log}{rotation}{more}",
            self.emulator.authority_url(),
            self.emulator.vault_addr(),
            self.etc().join("ca.pem").display(),
            self.kubelet.dir().join("audit/audit.jsonl").display(),
        );
        let next = self.etc().join("config.next");
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(&next, self.etc().join("config.yaml")).expect("a file");
    }

    /// Starts the driver and registers it.
    pub async fn drive(&self) -> Driver {
        self.drive_with(&self.command()).await
    }

    /// The same with another command line.
    pub async fn drive_with(&self, line: &driver::CommandLine) -> Driver {
        let driver = Driver::spawn(line);
        let registered = self.kubelet.register(DRIVER, PATIENCE).await;
        assert!(registered.is_some(), "the driver did not register:\n{}", driver.log());
        driver.until_ready(self).await;
        driver
    }

    /// Starts the driver.
    #[must_use]
    pub fn spawn(&self) -> Driver {
        Driver::spawn(&self.command())
    }

    /// The driver's command line, program first.
    #[must_use]
    pub fn command(&self) -> driver::CommandLine {
        let path = |path: &Path| path.display().to_string();
        driver::CommandLine {
            program: self.binary.clone(),
            arguments: vec![
                "--endpoint".to_owned(),
                format!("unix://{}", path(&self.kubelet.socket(DRIVER))),
                "--node-id".to_owned(),
                "node-0".to_owned(),
                "--kubelet-dir".to_owned(),
                path(self.kubelet.dir()),
                "--state-dir".to_owned(),
                path(&self.kubelet.dir().join("state")),
                "--config".to_owned(),
                path(&self.etc().join("config.yaml")),
            ],
            kubeconfig: self.etc().join("kubeconfig"),
            variables: Vec::new(),
            log: self.kubelet.dir().join("audit/driver.log"),
        }
    }

    /// A pod of `shop/web`.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        Pod::new("shop", name, "web")
    }

    /// A volume of it with these secrets of the vault, each a file of its own name.
    #[must_use]
    pub fn volume(&self, name: &str, secrets: &[&str]) -> PodVolume {
        let objects: Vec<_> = secrets.iter().map(|name| format!("https://{VAULT}/secrets/{name}")).collect();
        self.volume_of(&self.pod(name), &json!(objects).to_string(), &[])
    }

    /// A volume of `pod` with these objects and attributes.
    #[must_use]
    pub fn volume_of(&self, pod: &Pod, objects: &str, more: &[(&str, &str)]) -> PodVolume {
        let mut attributes = vec![
            ("objects", objects),
            ("clientID", self.identity.client_id.as_str()),
            ("tenantID", self.emulator.tenant_id()),
        ];
        attributes.extend_from_slice(more);
        pod.volume(DRIVER, &attributes)
    }

    /// A token that the API server would give to this pod.
    #[must_use]
    pub fn token(&self, pod: &Pod) -> String {
        self.token_for(pod, Duration::from_secs(3600))
    }

    /// The same with another life.
    #[must_use]
    pub fn token_for(&self, pod: &Pod, life: Duration) -> String {
        let now = self.emulator.now();
        self.emulator.issuer().mint(&json!({
            "iss": self.emulator.issuer().url(),
            "sub": format!("system:serviceaccount:{}:{}", pod.namespace, pod.service_account),
            "aud": [TOKEN_EXCHANGE_AUDIENCE],
            "iat": now,
            "nbf": now,
            "exp": now + i64::try_from(life.as_secs()).expect("a life"),
            "jti": format!("{}-{now}-{}", pod.uid, fastrand::u64(..)),
            "kubernetes.io": {
                "namespace": pod.namespace,
                "serviceaccount": {"name": pod.service_account, "uid": "sa-uid"},
                "pod": {"name": pod.name, "uid": pod.uid},
            },
        }))
    }

    /// What kubelet adds for this pod: one fresh token.
    #[must_use]
    pub fn context(&self, pod: &Pod) -> Context {
        Context {
            tokens: vec![(TOKEN_EXCHANGE_AUDIENCE.to_owned(), self.token(pod))],
            tokens_in_secrets: true,
            ..Context::default()
        }
    }

    /// Publishes with a fresh token.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn publish(&self, volume: &PodVolume) -> Result<(), tonic::Status> {
        self.kubelet.publish(volume, &self.context(&volume.pod)).await
    }

    /// A file of a volume.
    #[must_use]
    pub fn read(&self, volume: &PodVolume, file: &str) -> Option<Vec<u8>> {
        std::fs::read(self.kubelet.target(volume).join(file)).ok()
    }

    /// Waits until a file holds `content`.
    pub async fn until_file(&self, volume: &PodVolume, file: &str, content: &[u8]) {
        self.until_file_within(PATIENCE, volume, file, content).await;
    }

    /// The same with a patience of its own.
    pub async fn until_file_within(&self, limit: Duration, volume: &PodVolume, file: &str, content: &[u8]) {
        let end = tokio::time::Instant::now() + limit;
        while self.read(volume, file).as_deref() != Some(content) {
            assert!(tokio::time::Instant::now() < end, "{file} did not become what it should");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
