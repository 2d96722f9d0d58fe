use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use keyward_core::{Code, Error, Result};
use keyward_emulator::{Emulator, Identity, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

/// The vault's host, as a pod in Azure would name it.
pub(super) const VAULT: &str = "shop.vault.azure.net";

/// An emulator, a directory on tmpfs, and the sidecar as a child process.
pub(super) struct Rig {
    pub(super) emulator: Emulator,
    pub(super) identity: Identity,
    pub(super) place: PathBuf,
    sidecar: Option<Child>,
}

impl Rig {
    /// Starts Key Vault and Entra, fills the vault, and gives one workload the right to read it.
    pub(super) async fn start() -> Result<Self> {
        let place = directory_on_tmpfs()?;
        let emulator = Emulator::builder()
            .vault("shop")
            .start()
            .await
            .map_err(|error| failed("the emulator cannot start", error))?;
        let subject = "system:serviceaccount:shop:web";
        let registration =
            Registration::application().federated(emulator.issuer().url(), subject, TOKEN_EXCHANGE_AUDIENCE);
        let identity = emulator.identities().register(registration);
        let shop = emulator.vault("shop");
        shop.assign(
            &identity,
            [Permission::SECRETS_GET, Permission::SECRETS_LIST, Permission::CERTIFICATES_GET],
        );
        shop.set_secret("db-password", "correct-horse-battery-staple");
        shop.set_secret("redis", r#"{"user":"web","password":"r3d1s"}"#);
        shop.create_certificate("web-tls", "shop.example", "application/x-pkcs12");
        let rig = Self { emulator, identity, place, sidecar: None };
        rig.write("ca.pem", &rig.emulator.ca_pem())?;
        let token = rig.emulator.issuer().mint_service_account_token(
            "shop",
            "web",
            TOKEN_EXCHANGE_AUDIENCE,
            Duration::from_secs(3600),
        );
        rig.write("token", &token)?;
        rig.write("config.yaml", &rig.config())?;
        Ok(rig)
    }

    fn config(&self) -> String {
        let place = self.place.display();
        let address = self.emulator.vault_addr();
        format!(
            r"identity:
  method: workload-identity
  clientId: {client}
  tenantId: {tenant}
  tokenFile: {place}/token
  authorityHost: {authority}
vaults:
- {{host: {VAULT}, address: '{address}'}}
tls: {{extraRootsFile: {place}/ca.pem}}
objects:
- from: https://{VAULT}/secrets/db-password
  file: db/password
  mode: '0400'
- from: https://{VAULT}/secrets/redis#/password
  name: redis-password
- from: https://{VAULT}/certificates/web-tls
  format: pem-pair
  file: tls/web
- name: pgpass
  file: db/pgpass
  mode: '0400'
  template: |
    postgres:5432:shop:web:{{{{ secret('db-password') | pgpass }}}}
files: {{path: {place}/files, tmpfs: auto}}
state: {{path: {place}/state}}
grpc: {{socket: {place}/keyward.sock}}
rotation: {{interval: 1s, jitter: 0}}
audit: {{file: {place}/audit.jsonl}}
log: {{format: text, level: info}}
",
            client = self.identity.client_id,
            tenant = self.emulator.tenant_id(),
            authority = self.emulator.authority_url(),
        )
    }

    /// Starts the sidecar and waits until its readiness probe passes.
    pub(super) async fn launch(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let program =
            std::env::current_exe().map_err(|error| failed("this program cannot be found", error))?;
        let log = std::fs::File::create(self.place.join("sidecar.log"))
            .map_err(|error| failed("the log cannot be made", error))?;
        let child = Command::new(program)
            .arg("sidecar")
            .arg("--config")
            .arg(self.place.join("config.yaml"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("the sidecar cannot be started", error))?;
        self.sidecar = Some(child);
        let ready = async {
            loop {
                if keyward_local_api::probe(&self.socket()).await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(Duration::from_secs(20), ready).await.is_err() {
            return Err(failed("the sidecar did not get ready within 20 s", self.last_log_lines()));
        }
        Ok(start.elapsed())
    }

    /// Asks the sidecar to end, as Kubernetes does, and waits for its drain.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.sidecar.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM)
                .map_err(|error| failed("the sidecar cannot be signalled", error))?;
        }
        let status = timeout(Duration::from_secs(20), child.wait())
            .await
            .map_err(|_| failed("the sidecar did not end within 20 s", self.last_log_lines()))?
            .map_err(|error| failed("the sidecar cannot be waited for", error))?;
        if status.success() {
            Ok(())
        } else {
            Err(failed("the sidecar ended with an error", self.last_log_lines()))
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.place.join("keyward.sock")
    }

    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.place.join("files").join(path)
    }

    /// A file's text as an application reads it.
    pub(super) fn read(&self, path: &str) -> Result<String> {
        let file = self.file(path);
        std::fs::read_to_string(&file)
            .map_err(|error| failed(&format!("{} cannot be read", file.display()), error))
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        std::fs::write(self.place.join(name), content)
            .map_err(|error| failed(&format!("{name} cannot be written"), error))
    }

    fn last_log_lines(&self) -> String {
        let log = std::fs::read_to_string(self.place.join("sidecar.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(child) = &mut self.sidecar {
            // It may have ended by itself.
            let _ = child.start_kill();
        }
        // What remains is on tmpfs and goes with the next boot at the latest.
        let _ = keyward_delivery::tmpfs::unmount(&self.place.join("files"));
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

/// A fresh private directory on a tmpfs that this user may write to.
fn directory_on_tmpfs() -> Result<PathBuf> {
    let candidates = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .into_iter()
        .chain(["/dev/shm", "/run", "/tmp"].map(PathBuf::from));
    for root in candidates {
        if statfs(&root).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
            && let Some(place) = private_directory(&root)
        {
            return Ok(place);
        }
    }
    Err(Error::new(
        Code::TmpfsRequired,
        "no tmpfs was found: tried $XDG_RUNTIME_DIR, /dev/shm, /run and /tmp",
    ))
}

fn private_directory(root: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let place = root.join(format!("keyward-demo-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&place).ok()?;
    for part in ["files", "state"] {
        std::fs::DirBuilder::new().mode(0o700).create(place.join(part)).ok()?;
    }
    Some(place)
}

pub(super) fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Code::Internal, format!("{what}: {why}"))
}
