//! A unique value is searched for wherever it must not be: at trace level, after every error that could quote it.

#[path = "canary/collector.rs"]
mod collector;
#[path = "canary/forms.rs"]
mod forms;
#[path = "canary/impostor.rs"]
mod impostor;
#[path = "canary/memory.rs"]
mod memory;

use std::fs::read_to_string;
use std::path::Path;
use std::time::Duration;

use keyward_emulator::{Effect, Fault};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tonic::Status;

use crate::lifecycle::http_get;
use crate::rig::{Rig, until};
use collector::Collector;
use forms::Needles;
use impostor::Impostor;

/// Held in the vault, in many shapes, as long as the test runs.
fn secret_value() -> String {
    format!("c4nary+/=?\"\\<{:032x}>", fastrand::u128(..))
}

#[tokio::test]
async fn no_value_and_no_token_shows_in_logs_audit_metrics_traces_errors_or_the_processes_face() {
    let rig = Rig::start().await;
    let canary = secret_value();
    let impostor = Impostor::start(&canary).await;
    let collector = Collector::start().await;
    rig.write("ca.pem", format!("{}{}", rig.emulator.ca_pem(), impostor.ca_pem));
    let vault = rig.vault();
    vault.set_secret("plain", &canary);
    vault.set_secret("document", serde_json::json!({"deep": {"password": canary}}).to_string());
    vault.set_secret("yaml", format!("password: '{canary}'\n  bad: [indent"));
    let mut objects = String::from(
        "- {from: kv://shop/secrets/plain}\n\
         - {from: 'kv://shop/secrets/document#/deep/password', name: picked}\n\
         - {from: 'kv://shop/secrets/document#/deep/nothing', name: unpicked, optional: true}\n\
         - {from: 'kv://shop/secrets/yaml#/password', name: broken-yaml, optional: true}\n",
    );
    for conversion in
        ["decode: base64", "decode: hex", "format: pfx", "format: pem", "format: jks", "format: pem-pair"]
    {
        let name = conversion.replace(": ", "-");
        objects +=
            &format!("- {{from: kv://shop/secrets/plain, name: {name}, {conversion}, optional: true}}\n");
    }
    for (name, template) in [
        ("failing-filter", "{{ secret('plain') | b64decode }}"),
        ("failing-key", "{{ secret('plain') | json_key('/x') }}"),
        ("failing-attribute", "{{ secret('plain').x.y }}"),
        ("failing-size", "{% for i in range(90000) %}{{ secret('plain') }}{% endfor %}"),
    ] {
        objects += &format!("- {{name: {name}, optional: true, template: \"{template}\"}}\n");
    }
    for path in impostor::PATHS {
        objects += &format!("- {{from: 'https://{}/secrets/{path}', optional: true}}\n", impostor::HOST);
    }
    let config = rig
        .config(&objects)
        .replace(
            "vaults: [",
            &format!("vaults: [{{host: {}, address: '{}'}}, ", impostor::HOST, impostor.address),
        )
        .replace("level: debug", "level: trace")
        + &format!(
            "admin: {{listen: '127.0.0.1:0'}}\ntraces: {{endpoint: 'http://{}/v1/traces'}}\n",
            collector.address
        );
    let sidecar = rig.run(&config).await;
    let (client, admin) = (sidecar.client().await, sidecar.admin().await);
    assert_eq!(client.text("plain").await, canary);
    assert_eq!(client.text("picked").await, canary);

    // Everything that can go wrong is asked for and goes wrong.
    let mut errors = Vec::new();
    let names: Vec<_> = client.list().await.into_iter().map(|item| (item.name, item.reason)).collect();
    for (name, reason) in &names {
        let status = client.get(name).await.err();
        assert_eq!(status.is_some(), !["plain", "picked"].contains(&name.as_str()), "{name} {reason}");
        errors.extend(status);
        errors.extend(client.refresh(name).await.err());
        errors.extend(client.version(name, "0123456789abcdef0123456789abcdef").await.err());
        errors.extend(client.version(name, &canary).await.err());
    }
    errors.extend(client.get(&canary).await.err());
    for effect in [
        Effect::TruncatedBody { keep: canary.len() + 40 },
        Effect::WrongContentType,
        Effect::GarbageJson,
        Effect::Forbidden { inner_code: "ForbiddenByRbac".to_owned() },
        Effect::Unauthorized,
        Effect::Reset,
    ] {
        let fault = rig.emulator.faults().set(Fault::on("secrets.get", effect));
        // One name may be refreshed about once a second.
        sleep(Duration::from_millis(1100)).await;
        errors.push(client.refresh("plain").await.err().unwrap());
        rig.emulator.faults().clear(fault);
    }
    let token_error = rig.emulator.faults().set(Fault::on("token.*", Effect::TokenError { code: 700_213 }));
    let assertion = rig.token("api://wrong", Duration::from_secs(60));
    rig.write("token", &assertion);
    until("the refused exchange", || sidecar.log().contains("a token exchange failed")).await;
    rig.emulator.faults().clear(token_error);
    assert!(errors.len() > 60, "only {} errors", errors.len());

    let mut needles = Needles::of(&canary);
    needles.tokens();
    let metrics = http_get(admin, "/metrics").await.1;
    assert!(metrics.contains("keyward_"));
    needles.absent("metrics", metrics.as_bytes());
    for face in ["cmdline", "environ", "comm", "status"] {
        needles.absent(face, &std::fs::read(format!("/proc/{}/{face}", sidecar.pid())).unwrap());
    }
    for status in &errors {
        needles.absent("an error", &everything_in(status));
    }
    let log = rig.path("sidecar.log");
    assert!(sidecar.stop().await.success());
    let traces = collector.received();
    assert!(traces.len() > 1000, "only {} bytes of traces", traces.len());
    needles.absent("traces", &traces);
    let (said, audit) = (read_to_string(&log).unwrap(), read_to_string(rig.path("audit.jsonl")).unwrap());
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "the log is at its most talkative");
    needles.absent("the log", said.as_bytes());
    needles.absent("the audit log", audit.as_bytes());
    // The search itself finds what is there.
    assert!(needles.found(&rig.read("plain")).is_some());
}

#[tokio::test]
async fn once_and_check_config_say_no_value_either() {
    let rig = Rig::start().await;
    let canary = secret_value();
    rig.vault().set_secret("plain", &canary);
    let needles = Needles::of(&canary);
    for objects in [
        "- {from: kv://shop/secrets/plain, decode: hex}",
        "- {from: 'kv://shop/secrets/plain#/x', name: plain}",
        "- {from: kv://shop/secrets/plain, format: pem-pair}",
    ] {
        let config = rig.config(objects).replace("level: debug", "level: trace");
        assert_ne!(rig.launch_with(&config, &["--once"], &[]).ends_with().await, 0, "{objects}");
    }
    let said = read_to_string(rig.path("sidecar.log")).unwrap();
    assert!(said.matches("KW_CONTENT_INVALID").count() >= 3, "{said}");
    needles.absent("the log", said.as_bytes());
}

/// B1, and the other places where an address may carry a password: such an address is refused, a proxy's is not printed.
#[tokio::test]
async fn the_password_of_a_proxy_or_of_an_address_shows_nowhere() {
    let rig = Rig::start().await;
    let canary = format!("c4nary@{:032x}", fastrand::u128(..));
    let needles = Needles::of(&canary);
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let refusing = tokio::spawn(async move {
        while let Ok((mut client, _)) = proxy.accept().await {
            let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        }
    });
    let collector = Collector::start().await;
    rig.vault().set_secret("plain", "value");
    let objects = "- kv://shop/secrets/plain\n\
                   - {from: kv://beyond/secrets/plain, name: beyond, optional: true}";
    let config = rig.config(objects).replace("level: debug", "level: trace")
        + &format!(
            "admin: {{listen: '127.0.0.1:0'}}\ntraces: {{endpoint: 'http://{}/v1/traces'}}\n",
            collector.address
        );
    let variables = [("HTTPS_PROXY", format!("http://user:{canary}@{address}"))];
    let sidecar = rig.launch_with(&config, &[], &variables);
    sidecar.ready().await;
    let (client, admin) = (sidecar.client().await, sidecar.admin().await);
    let error = client.refresh("beyond").await.err().unwrap();
    needles.absent("an error", &everything_in(&error));
    needles.absent("metrics", http_get(admin, "/metrics").await.1.as_bytes());
    assert!(
        sidecar.log().contains(&format!("the proxy {address} did not open a tunnel")),
        "{}",
        sidecar.log()
    );
    assert!(sidecar.stop().await.success());
    refusing.abort();
    needles.absent("traces", &collector.received());
    needles.absent("the audit log", &std::fs::read(rig.path("audit.jsonl")).unwrap());

    let config = rig.config("- kv://shop/secrets/plain").replace("level: debug", "level: trace");
    for (flag, address) in [
        ("--traces-endpoint", "http://{}@127.0.0.1:4318"),
        ("--identity-authorityHost", "https://{}@login.example"),
        ("--vaults", "[{host: '{}@shop.vault.azure.net'}]"),
        ("--objects", "['https://{}@shop.vault.azure.net/secrets/plain']"),
        ("--objects", "[{from: 'kv://shop/secrets/plain', notify: {http: 'http://{}@127.0.0.1/'}}]"),
    ] {
        for user in [format!("user:{canary}"), format!(":{canary}"), canary.clone(), format!("u:1/{canary}")]
        {
            let value = address.replace("{}", &user);
            assert_eq!(
                rig.launch_with(&config, &[flag, &value], &[]).ends_with().await,
                64,
                "{flag} {value}"
            );
        }
    }
    for (name, address) in
        [("AZURE_AUTHORITY_HOST", "https://{}@login.example"), ("IMDS_ENDPOINT", "http://{}@127.0.0.1:1")]
    {
        let identity = match name {
            "IMDS_ENDPOINT" => "{method: managed-identity}".to_owned(),
            _ => rig
                .workload_identity()
                .replace(&format!(", authorityHost: '{}'", rig.emulator.authority_url()), ""),
        };
        let config =
            rig.config_as(&identity, "- kv://shop/secrets/plain").replace("level: debug", "level: trace");
        let variables = [(name, address.replace("{}", &format!("user:{canary}")))];
        assert_eq!(rig.launch_with(&config, &["--once"], &variables).ends_with().await, 64, "{name}");
    }
    let said = read_to_string(rig.path("sidecar.log")).unwrap();
    assert!(said.matches("must not hold a user or a password").count() >= 10, "{said}");
    needles.absent("the log", said.as_bytes());
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figure is worth knowing")]
async fn after_a_rotation_the_old_value_is_gone_from_locked_memory() {
    let rig = Rig::start().await;
    let old = format!("0ld-value-{:032x}", fastrand::u128(..));
    rig.vault().set_secret("db", &old);
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/db")).await;
    let client = sidecar.client().await;
    for _ in 0..100 {
        assert_eq!(client.text("db").await, old);
    }
    let Some(before) = memory::count(sidecar.pid(), old.as_bytes()) else {
        // Only root may read another process's memory.
        return;
    };
    assert!(before.locked >= 1, "the value in use is not in the arena: {before:?}");
    let new = format!("n3w-value-{:032x}", fastrand::u128(..));
    rig.vault().rotate_secret("db", &new);
    until("the rotation", || rig.text("db") == new).await;
    assert_eq!(client.text("db").await, new);
    // The next check and the next swap let go of what the last ones held.
    rig.after_checks(3).await;
    until("the end of the old value in the arena", || {
        memory::count(sidecar.pid(), old.as_bytes()).is_some_and(|count| count.locked == 0)
    })
    .await;
    let after = memory::count(sidecar.pid(), old.as_bytes()).unwrap();
    let current = memory::count(sidecar.pid(), new.as_bytes()).unwrap();
    assert!(current.locked >= 1);
    println!("old value: {before:?} while in use, {after:?} after its rotation; new value: {current:?}");
    assert!(!memory::in_file(Path::new(&format!("/proc/{}/environ", sidecar.pid())), old.as_bytes()));
}

/// What a client can see of an error.
fn everything_in(status: &Status) -> Vec<u8> {
    let mut seen = format!("{status:?} {status}").into_bytes();
    seen.extend_from_slice(status.message().as_bytes());
    seen.extend_from_slice(status.details());
    for entry in status.metadata().iter() {
        seen.extend_from_slice(format!("{entry:?}").as_bytes());
    }
    seen
}
