//! Applications that want to be told.

use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::lifecycle::verified;
use crate::rig::{Rig, in_time, until};

async fn filled() -> Rig {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "first");
    rig
}

fn records(rig: &Rig) -> Vec<String> {
    let log = std::fs::read_to_string(rig.path("audit.jsonl")).unwrap();
    log.lines().filter(|line| line.contains("\"action\":\"notify\"")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_post_to_loopback_tells_names_but_no_values_after_the_file_was_swapped() {
    let rig = filled().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/-/reload", listener.local_addr().unwrap());
    let objects =
        format!("- {{from: kv://shop/secrets/db, notify: {{http: '{url}', debounce: 10ms, retries: 3}}}}");
    let sidecar = rig.run(&rig.config(&objects)).await;
    rig.vault().rotate_secret("db", "second");
    // The first try is refused by the application, so there is another.
    let mut bodies = Vec::new();
    for status in ["503 Service Unavailable", "204 No Content"] {
        let (mut stream, _) = in_time("a notification", listener.accept()).await.unwrap();
        assert_eq!(rig.text("db"), "second");
        let mut request = vec![0; 4096];
        let length = in_time("its text", stream.read(&mut request)).await.unwrap();
        bodies.push(String::from_utf8_lossy(&request[..length]).into_owned());
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    for body in bodies {
        assert!(
            body.starts_with("POST /-/reload ") && body.contains("db") && !body.contains("second"),
            "{body}"
        );
    }
    assert!(sidecar.stop().await.success());
    let told = records(&rig);
    assert!(
        told.len() == 2 && told[0].contains("KW_NOTIFY_FAILED") && told[1].contains("\"OK\""),
        "{told:?}"
    );
    verified(&rig.path("audit.jsonl"));
}

#[tokio::test]
async fn a_command_runs_without_a_shell_for_each_change_and_not_for_the_first_delivery() {
    let rig = filled().await;
    let copy = rig.path("copied $(touch pwned)");
    let source = rig.file("db");
    let objects = format!(
        "- from: kv://shop/secrets/db\n  notify: {{exec: ['/bin/cp', '{}', '{}'], debounce: 0ms}}",
        source.display(),
        copy.display()
    );
    let _sidecar = rig.run(&rig.config(&objects)).await;
    assert!(!copy.exists());
    for value in ["second", "third"] {
        rig.vault().rotate_secret("db", value);
        until("the command", || std::fs::read_to_string(&copy).is_ok_and(|text| text == value)).await;
    }
    assert!(!rig.path("pwned").exists());
}

#[tokio::test]
async fn a_signal_finds_the_process_by_its_name() {
    let rig = filled().await;
    let name = format!("kwtest{}", std::process::id());
    let mark = rig.path("reloaded");
    let script = format!(
        "trap 'echo again >> {0}' HUP; echo armed > {0}; while :; do sleep 0.05; done",
        mark.display()
    );
    let _application = Command::new("/bin/sh")
        .arg0(&name)
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let marked = || std::fs::read_to_string(&mark).unwrap_or_default();
    until("the application", || marked() == "armed\n").await;
    let objects =
        format!("- {{from: kv://shop/secrets/db, notify: {{signal: HUP, process: {name}, debounce: 0ms}}}}");
    let _sidecar = rig.run(&rig.config(&objects)).await;
    rig.vault().rotate_secret("db", "second");
    until("the signal", || marked() == "armed\nagain\n").await;
    assert_eq!(rig.text("db"), "second");
    until("its record", || records(&rig).iter().any(|record| record.contains("\"OK\""))).await;
}
