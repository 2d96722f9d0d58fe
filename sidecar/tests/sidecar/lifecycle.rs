//! Start, probe, end.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use keyward_emulator::{Effect, Fault, Permission};
use keyward_telemetry::audit::{VerifyOptions, VerifyReport, verify};

use crate::process::Sidecar;
use crate::rig::{Rig, until};

pub(crate) fn verified(log: &Path) -> VerifyReport {
    verify(BufReader::new(File::open(log).unwrap()), &VerifyOptions::default()).unwrap()
}

#[tokio::test]
async fn once_writes_the_files_and_ends_with_0() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    let sidecar = rig.launch_with(&rig.config("- kv://shop/secrets/db"), &["--once"], &[]);
    assert_eq!(sidecar.ends_with().await, 0);
    assert_eq!(rig.text("db"), "hunter2");
    assert!(!rig.path("keyward.sock").exists());
    assert!(verified(&rig.path("audit.jsonl")).logs[0].closed);
}

#[tokio::test]
async fn once_ends_with_77_when_access_is_refused_and_names_object_and_remedy() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    rig.vault().revoke(&rig.identity);
    let sidecar = rig.launch_with(&rig.config("- kv://shop/secrets/db"), &["--once"], &[]);
    let log = rig.path("sidecar.log");
    assert_eq!(sidecar.ends_with().await, 77);
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("KW_VAULT_FORBIDDEN") && said.contains("secrets/db"), "{said}");
    assert!(rig.generation().is_none());
}

#[tokio::test]
async fn once_ends_with_69_when_the_vault_cannot_be_had() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    rig.emulator.faults().set(Fault::on("secrets.get", Effect::Status { status: 503, retry_after: None }));
    let sidecar = rig.launch_with(&rig.config("- kv://shop/secrets/db"), &["--once"], &[]);
    assert_eq!(sidecar.ends_with().await, 69);
    assert!(rig.generation().is_none());
}

#[tokio::test]
async fn once_leaves_out_an_optional_object_and_fails_for_a_required_one() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    let objects = "- kv://shop/secrets/db\n- {from: kv://shop/secrets/ghost, optional: true}";
    assert_eq!(rig.launch_with(&rig.config(objects), &["--once"], &[]).ends_with().await, 0);
    let objects = "- kv://shop/secrets/db\n- kv://shop/secrets/ghost";
    assert_ne!(rig.launch_with(&rig.config(objects), &["--once"], &[]).ends_with().await, 0);
}

#[tokio::test]
async fn check_config_reports_every_mistake_with_64_and_a_good_one_with_0_without_a_request() {
    let rig = Rig::start().await;
    let config = rig.config("- kv://shop/secrets/db");
    assert_eq!(rig.launch_with(&config, &["--check-config"], &[]).ends_with().await, 0);
    let bad = config.replace("interval: 1s", "intervall: 1s").replace("tmpfs: require", "tmpfs: perhaps");
    assert_eq!(rig.launch_with(&bad, &["--check-config"], &[]).ends_with().await, 64);
    let said = std::fs::read_to_string(rig.path("sidecar.log")).unwrap();
    assert!(said.contains("intervall") && said.contains("files.tmpfs"), "{said}");
    assert_eq!(rig.emulator.counters().requests("*"), 0);
    assert_eq!(rig.emulator.counters().connections().accepted, 0);
}

#[tokio::test]
async fn the_probe_tells_absent_not_ready_and_ready_apart_by_its_exit_code() {
    let rig = Rig::start().await;
    let config = rig.config("- kv://shop/secrets/late");
    let socket = rig.path("keyward.sock");
    let probe = async || {
        let flags = ["--probe", "--grpc-socket", socket.to_str().unwrap()];
        Sidecar::start(&flags, &[], &rig.path("probe.log"), &socket).ends_with().await
    };
    assert_ne!(probe().await, 0);
    let sidecar = rig.launch(&config);
    sidecar.client().await;
    assert_ne!(probe().await, 0);
    rig.vault().set_secret("late", "now");
    sidecar.ready().await;
    assert_eq!(probe().await, 0);
    assert!(sidecar.stop().await.success());
    assert_ne!(probe().await, 0);
}

#[tokio::test]
async fn sigterm_drains_ends_with_0_and_leaves_a_log_that_verifies() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "first");
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/db")).await;
    let client = sidecar.client().await;
    for _ in 0..50 {
        client.text("db").await;
    }
    rig.vault().rotate_secret("db", "second");
    until("the rotation", || rig.text("db") == "second").await;
    assert!(sidecar.stop().await.success());
    assert!(!rig.path("keyward.sock").exists());
    // The application outlives its sidecar by some moments: its files stay.
    assert_eq!(rig.text("db"), "second");

    let log = rig.path("audit.jsonl");
    let report = verified(&log);
    assert_eq!((report.logs.len(), report.unfinished), (1, 0));
    assert!(report.logs[0].closed && report.logs[0].signed == report.logs[0].records);
    let text = std::fs::read_to_string(&log).unwrap();
    for action in ["open", "configure", "token", "fetch", "deliver", "read", "close"] {
        assert!(text.contains(&format!("\"action\":\"{action}\"")), "no record of {action}");
    }
    // Fifty reads by one caller: the first singly, the others counted.
    let reads: u64 = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|record| record["action"] == "read")
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(reads, 50);
    // One changed byte is found.
    let forged = text.replacen("\"action\":\"read\"", "\"action\":\"list\"", 1);
    assert!(verify(forged.as_bytes(), &VerifyOptions::default()).is_err());
}

#[tokio::test]
async fn the_admin_port_tells_liveness_readiness_and_metrics_and_no_names() {
    let rig = Rig::start().await;
    let config =
        format!("{}admin: {{listen: '127.0.0.1:0'}}\n", rig.config("- kv://shop/secrets/dbsecretname"));
    let sidecar = rig.launch(&config);
    sidecar.client().await;
    let admin = sidecar.admin().await;
    assert_eq!(http_get(admin, "/livez").await.0, 200);
    assert_eq!(http_get(admin, "/readyz").await.0, 503);
    rig.vault().set_secret("dbsecretname", "value-of-it");
    sidecar.ready().await;
    assert_eq!(http_get(admin, "/readyz").await.0, 200);
    let (status, metrics) = http_get(admin, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("keyward_memory_locked_bytes") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(!metrics.contains("dbsecretname") && !metrics.contains("value-of-it"));
}

#[tokio::test]
async fn an_identity_without_any_right_is_told_so_and_starts_to_work_when_it_gets_one() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    rig.vault().revoke(&rig.identity);
    let sidecar = rig.launch(&rig.config("- kv://shop/secrets/db"));
    until("the refusal", || rig.emulator.counters().with_status("secrets.get", 403) >= 1).await;
    until("the word of it", || sidecar.log().contains("KW_VAULT_FORBIDDEN")).await;
    assert!(!sidecar.is_ready().await);
    rig.vault().assign(&rig.identity, [Permission::SECRETS_GET]);
    sidecar.ready().await;
    assert_eq!(rig.text("db"), "hunter2");
}

pub(crate) async fn http_get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}
