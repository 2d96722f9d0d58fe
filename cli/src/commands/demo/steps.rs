use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyward_core::Result;
use keyward_emulator::{Effect, Fault};
use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use keyward_proto::secrets::v1::watch_secrets_response::Event;
use keyward_proto::secrets::v1::{GetSecretRequest, Secret, WatchSecretsRequest};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use super::rig::{Rig, VAULT, failed};
use super::story::{Story, show};

const NEW_PASSWORD: &str = "rotated-while-you-watched";

/// The story from start to end.
pub(super) async fn tell(story: &mut Story, hold: bool) -> Result<()> {
    let mut rig = story
        .step("A vault, a token endpoint, a workload that may read", async {
            let rig = Rig::start().await?;
            Ok((format!("{VAULT} and Entra answer on {} over TLS 1.3", rig.emulator.vault_addr()), rig))
        })
        .await?;
    story
        .step("The sidecar starts: federated token → Entra → Key Vault", async {
            let ready = rig.launch().await?;
            let vault = rig.emulator.counters();
            let requests = vault.requests("secrets.*") + vault.requests("certificates.*");
            Ok((format!("ready after {} with {requests} vault requests", show(ready)), ()))
        })
        .await?;
    files(story, &rig).await?;
    let mut client = story
        .step("A lookup over gRPC on a Unix socket", async {
            let channel = keyward_local_api::connect(&rig.socket()).await?;
            let mut client = SecretServiceClient::new(channel);
            let secret = get(&mut client, "redis-password").await?;
            check(secret.value.as_ref() == b"r3d1s", "the value picked by JSON Pointer is wrong")?;
            let start = Instant::now();
            for _ in 0..200 {
                get(&mut client, "redis-password").await?;
            }
            Ok((
                format!(
                    "`redis#/password` by name; 200 more lookups took {} each",
                    show(start.elapsed() / 200)
                ),
                client,
            ))
        })
        .await?;
    rotation(story, &rig, &mut client).await?;
    outage(story, &rig, &mut client).await?;
    restart(story, &mut rig).await?;
    if hold {
        wait_for_ctrl_c(story, &rig).await;
    }
    audit(story, &mut rig).await
}

async fn files(story: &mut Story, rig: &Rig) -> Result<()> {
    let listed = story
        .step("Files on tmpfs, byte for byte", async {
            check(
                rig.read("db/password")? == "correct-horse-battery-staple",
                "db/password differs from the vault",
            )?;
            check(
                rig.read("db/pgpass")?.contains("correct\\-horse")
                    || rig.read("db/pgpass")?.contains("correct-horse"),
                "pgpass lacks the password",
            )?;
            check(rig.read("tls/web.key")?.contains("PRIVATE KEY"), "tls/web.key holds no key")?;
            let mut listed = Vec::new();
            for path in ["db/password", "db/pgpass", "redis-password", "tls/web.crt", "tls/web.key"] {
                let metadata = std::fs::metadata(rig.file(path)).map_err(|error| failed(path, error))?;
                listed.push(format!(
                    "{:o}  {:>5} B  {path}",
                    metadata.permissions().mode() & 0o777,
                    metadata.len()
                ));
            }
            Ok((format!("{} files from 3 objects and a template", listed.len()), listed))
        })
        .await?;
    listed.iter().for_each(|line| story.note(line));
    Ok(())
}

async fn rotation(story: &mut Story, rig: &Rig, client: &mut SecretServiceClient<Channel>) -> Result<()> {
    story
        .step("A rotation reaches the file and a watching client", async {
            let request = WatchSecretsRequest { names: vec!["db-password".to_owned()] };
            let mut watch = client
                .watch_secrets(request)
                .await
                .map_err(|status| failed("the watch is refused", status.message()))?
                .into_inner();
            watch.message().await.map_err(|status| failed("the watch ended", status.message()))?;
            let start = Instant::now();
            rig.emulator.vault("shop").rotate_secret("db-password", NEW_PASSWORD);
            let seen = timeout(Duration::from_secs(15), async {
                loop {
                    let message = watch
                        .message()
                        .await
                        .map_err(|status| failed("the watch ended", status.message()))?;
                    let Some(event) = message.and_then(|message| message.event) else { continue };
                    if let Event::Current(secret) = event
                        && secret.value.as_ref() == NEW_PASSWORD.as_bytes()
                    {
                        return Ok(start.elapsed());
                    }
                }
            });
            let watcher =
                seen.await.map_err(|_| failed("rotation", "the watcher saw nothing within 15 s"))??;
            let file = until(Duration::from_secs(15), || {
                rig.read("db/password").is_ok_and(|text| text == NEW_PASSWORD)
            })
            .await?;
            check(rig.read("db/pgpass")?.contains("rotated"), "the template was not rendered again")?;
            Ok((
                format!(
                    "watcher after {}, file {} later, checked every second, no restart",
                    show(watcher),
                    show(file)
                ),
                (),
            ))
        })
        .await
}

async fn outage(story: &mut Story, rig: &Rig, client: &mut SecretServiceClient<Channel>) -> Result<()> {
    story
        .step("An outage that nobody notices", async {
            let faults = rig.emulator.faults();
            faults.set(Fault::on("*", Effect::Status { status: 503, retry_after: None }));
            let reads = Arc::new(AtomicU64::new(0));
            let stop = Arc::new(AtomicBool::new(false));
            let path = rig.file("db/password");
            let reader = {
                let (reads, stop) = (Arc::clone(&reads), Arc::clone(&stop));
                tokio::task::spawn_blocking(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if std::fs::read_to_string(&path).ok().as_deref() != Some(NEW_PASSWORD) {
                            return false;
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    true
                })
            };
            let start = Instant::now();
            let (mut lookups, mut stale) = (0u64, false);
            while start.elapsed() < Duration::from_secs(60) && !(stale && start.elapsed() > Duration::from_secs(4)) {
                let secret = get(client, "db-password").await?;
                check(secret.value.as_ref() == NEW_PASSWORD.as_bytes(), "a lookup changed during the outage")?;
                stale |= secret.stale;
                lookups += 1;
                sleep(Duration::from_millis(2)).await;
            }
            check(stale, "the value was never marked stale")?;
            stop.store(true, Ordering::Relaxed);
            check(reader.await.unwrap_or(false), "a reader of the file failed during the outage")?;
            let down = start.elapsed();
            faults.clear_all();
            rig.emulator.vault("shop").rotate_secret("db-password", "after-the-outage");
            let start = Instant::now();
            loop {
                let secret = get(client, "db-password").await?;
                if !secret.stale && secret.value.as_ref() == b"after-the-outage" {
                    break;
                }
                check(start.elapsed() < Duration::from_secs(60), "the sidecar did not recover within a minute")?;
                sleep(Duration::from_millis(10)).await;
            }
            Ok((
                format!(
                    "{} of 503 from vault and Entra: {} file reads and {lookups} lookups, 0 failed, marked stale; new value {} after recovery",
                    show(down),
                    reads.load(Ordering::Relaxed),
                    show(start.elapsed())
                ),
                (),
            ))
        })
        .await
}

async fn restart(story: &mut Story, rig: &mut Rig) -> Result<()> {
    story
        .step("A restart during an outage", async {
            rig.stop().await?;
            rig.emulator.faults().set(Fault::on("*", Effect::Status { status: 503, retry_after: None }));
            let before = std::fs::read_link(rig.file("..data")).ok();
            let ready = rig.launch().await?;
            let mut client = SecretServiceClient::new(keyward_local_api::connect(&rig.socket()).await?);
            let secret = get(&mut client, "db-password").await?;
            check(secret.value.as_ref() == b"after-the-outage" && secret.stale, "the restarted sidecar did not serve its last snapshot")?;
            check(std::fs::read_link(rig.file("..data")).ok() == before, "files were rewritten although nothing changed")?;
            rig.emulator.faults().clear_all();
            Ok((format!("served its last snapshot as stale {} after exec, without vault or Entra; files untouched", show(ready)), ()))
        })
        .await
}

async fn audit(story: &mut Story, rig: &mut Rig) -> Result<()> {
    let path = rig.place.join("audit.jsonl");
    story
        .step("An audit trail that verifies, and notices tampering", async {
            rig.stop().await?;
            let log = std::fs::read(&path).map_err(|error| failed("the audit log cannot be read", error))?;
            let (records, checkpoints) = verify(&log)?;
            let mut edited = log.clone();
            let at = find(&edited, b"\"action\":\"read\"")
                .ok_or_else(|| failed("the audit log", "holds no read"))?;
            edited[at + 10] = b'f';
            check(verify(&edited).is_err(), "one edited byte was not noticed")?;
            Ok((
                format!("{records} records under {checkpoints} signed checkpoints; one edited byte is found"),
                (),
            ))
        })
        .await
}

fn verify(log: &[u8]) -> Result<(u64, u64)> {
    let report = keyward_telemetry::audit::verify(log, &keyward_telemetry::audit::VerifyOptions::default())?;
    Ok((report.records(), report.logs.iter().map(|log| log.checkpoints).sum()))
}

async fn wait_for_ctrl_c(story: &Story, rig: &Rig) {
    let place = rig.place.display();
    story.say("");
    story.say("Everything is left running. Try, in another terminal:");
    story.note(format_args!("keyward get db-password --reveal --socket {place}/keyward.sock"));
    story.note(format_args!("keyward watch --socket {place}/keyward.sock"));
    story.note(format_args!("cat {place}/files/db/pgpass; ls -la {place}/files"));
    story.note(format_args!("curl -s {}/counters", rig.emulator.admin_url()));
    story.note("(keyward = cargo run -q -p keyward-cli --)   Ctrl-C ends the demo and removes everything.");
    // Without a handler Ctrl-C ends the process all the same.
    let _ = tokio::signal::ctrl_c().await;
}

async fn get(client: &mut SecretServiceClient<Channel>, name: &str) -> Result<Secret> {
    let request = GetSecretRequest { name: name.to_owned(), version: String::new() };
    let answer = client
        .get_secret(request)
        .await
        .map_err(|status| failed(&format!("the lookup of {name} failed"), status.message()))?;
    answer.into_inner().secret.ok_or_else(|| failed(name, "the answer holds no secret"))
}

/// Waits until `condition` holds, and says for how long.
async fn until(limit: Duration, condition: impl Fn() -> bool) -> Result<Duration> {
    let start = Instant::now();
    while !condition() {
        check(start.elapsed() < limit, "it did not happen in time")?;
        sleep(Duration::from_millis(1)).await;
    }
    Ok(start.elapsed())
}

fn check(condition: bool, what: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(failed("the demo", what)) }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
