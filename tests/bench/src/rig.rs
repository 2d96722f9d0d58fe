use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_emulator::{Emulator, Identity, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::Outcome;
use crate::load::{self, Client};
use crate::process::Process;

const VAULT: &str = "bench.vault.azure.net";

/// A vault with secrets in the emulator, and a place on tmpfs for the sidecar.
pub(crate) struct Rig {
    pub(crate) emulator: Emulator,
    pub(crate) place: TempDir,
    identity: Identity,
    program: PathBuf,
}

/// What the sidecar is told.
pub(crate) struct Setup {
    pub(crate) objects: usize,
    pub(crate) interval: &'static str,
    pub(crate) files: bool,
}

impl Rig {
    /// A vault of `secrets` secrets with 64 bytes each.
    pub(crate) async fn start(program: &Path, secrets: usize, http2: bool) -> Outcome<Self> {
        let emulator = Emulator::builder().vault("bench").http2(http2).rate_limits(None).start().await?;
        let subject = "system:serviceaccount:bench:web";
        let registration =
            Registration::application().federated(emulator.issuer().url(), subject, TOKEN_EXCHANGE_AUDIENCE);
        let identity = emulator.identities().register(registration);
        let vault = emulator.vault("bench");
        vault.assign(&identity, [Permission::SECRETS_GET, Permission::SECRETS_LIST]);
        for number in 0..secrets {
            vault.set_secret(&format!("secret-{number:03}"), [b'v'; 64]);
        }
        let place = tempfile::Builder::new().prefix("keyward-bench-").tempdir_in("/dev/shm")?;
        let rig = Self { emulator, place, identity, program: program.to_owned() };
        std::fs::write(rig.path("ca.pem"), rig.emulator.ca_pem())?;
        let token = rig.emulator.issuer().mint_service_account_token(
            "bench",
            "web",
            TOKEN_EXCHANGE_AUDIENCE,
            Duration::from_secs(3600),
        );
        std::fs::write(rig.path("token"), token)?;
        std::fs::create_dir(rig.path("files"))?;
        Ok(rig)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Starts the sidecar; it is not ready yet.
    pub(crate) fn launch(&self, setup: &Setup) -> Outcome<Process> {
        let place = self.place.path().display();
        let address = self.emulator.vault_addr();
        let objects: String = (0..setup.objects)
            .map(|number| format!("- https://{VAULT}/secrets/secret-{number:03}\n"))
            .collect();
        let files = if setup.files {
            format!("files: {{path: {place}/files, tmpfs: require, allowSwap: true}}\n")
        } else {
            String::new()
        };
        let config = format!(
            "identity: {{method: workload-identity, clientId: {}, tenantId: {}, tokenFile: {place}/token, authorityHost: '{}'}}\n\
             vaults: [{{host: {VAULT}, address: '{address}'}}]\n\
             tls: {{extraRootsFile: {place}/ca.pem}}\n\
             objects:\n{objects}{files}\
             grpc: {{socket: {place}/keyward.sock}}\n\
             rotation: {{interval: {}, jitter: 0}}\n\
             audit: {{file: {place}/audit.jsonl}}\n\
             log: {{level: warn}}\n",
            self.identity.client_id,
            self.emulator.tenant_id(),
            self.emulator.authority_url(),
            setup.interval,
        );
        std::fs::write(self.path("config.yaml"), config)?;
        Process::start(&self.program, &["--config".as_ref(), self.path("config.yaml").as_os_str()])
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("keyward.sock")
    }

    /// Waits for the readiness probe; returns the time since `start`.
    pub(crate) async fn ready(&self, start: Instant) -> Outcome<Duration> {
        let wait = async {
            while keyward_local_api::probe(&self.socket()).await.is_err() {
                sleep(Duration::from_micros(500)).await;
            }
            start.elapsed()
        };
        Ok(timeout(Duration::from_secs(30), wait).await.map_err(|_| "the sidecar did not get ready")?)
    }

    /// Waits until one secret was served; returns the time since `start`.
    pub(crate) async fn first_secret(&self, start: Instant) -> Outcome<Duration> {
        let wait = async {
            loop {
                if let Ok(mut client) = load::client(&self.socket()).await
                    && load::get(&mut client, "secret-000").await.is_ok()
                {
                    return start.elapsed();
                }
                sleep(Duration::from_micros(200)).await;
            }
        };
        Ok(timeout(Duration::from_secs(30), wait).await.map_err(|_| "no secret was served")?)
    }

    pub(crate) async fn client(&self) -> Outcome<Client> {
        load::client(&self.socket()).await
    }
}
