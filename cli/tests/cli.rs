//! The program as users and scripts run it, against a server in this process.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use keyward_core::audit::Actor;
use keyward_core::observe::Silent;
use keyward_core::{Code, Error, State, SystemClock};
use keyward_local_api::{ApiSettings, Parts, Server};
use keyward_test_support::{HandView, Kept};
use tokio::sync::{oneshot, watch};

/// A server on a thread of its own.
struct Rig {
    view: Arc<HandView>,
    kept: Arc<Kept>,
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut ApiSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("keyward.sock");
        let mut settings = ApiSettings { mode: 0o600, ..ApiSettings::new(&socket) };
        adjust(&mut settings);
        let (view, kept) = (Arc::<HandView>::default(), Arc::<Kept>::default());
        let (stop, stopped) = oneshot::channel();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let (served, audit) = (view.clone(), kept.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let ready = watch::Sender::new(true);
                let parts = Parts {
                    view: served,
                    audit,
                    observer: Arc::new(Silent),
                    clock: Arc::new(SystemClock),
                    ready: ready.subscribe(),
                    account: keyward_core::ledger::Account::unlimited(),
                };
                let server = Server::bind(settings, parts).unwrap();
                bound.send(()).unwrap();
                server
                    .serve(async {
                        let _ = stopped.await;
                    })
                    .await
                    .unwrap();
            });
        });
        is_bound.recv().unwrap();
        Self { view, kept, socket, stop: Some(stop), thread: Some(thread), dir }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = keyward(arguments);
        command.env("KEYWARD_SOCKET", &self.socket);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn keyward(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command.args(arguments).env_remove("KEYWARD_SOCKET").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Exit code and standard error.
fn refused(output: &Output) -> (i32, &str) {
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    (output.status.code().unwrap(), text(&output.stderr))
}

#[test]
fn a_value_comes_out_byte_for_byte() {
    let rig = Rig::start();
    rig.view.set("db", b"\x00\xffno newline");
    let output = rig.run(&["get", "db"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"\x00\xffno newline"[..]));
    let output = rig.run(&["get", "db", "--version", &"a".repeat(32)]);
    assert_eq!(output.stdout, b"an older value");
}

#[test]
fn json_has_the_value_and_what_is_known_about_it() {
    let rig = Rig::start();
    rig.view.set("db", b"secret");
    let output = rig.run(&["get", "db", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["value"], serde_json::json!({"base64": "c2VjcmV0", "utf8": "secret"}));
    assert_eq!(shown["source"], "https://shop.vault.azure.net/secrets/db");
    assert_eq!(shown["createdAt"], "2023-11-14T22:13:20.000000005Z");
    assert!(shown.get("expiresAt").is_none());
}

#[test]
fn a_terminal_gets_a_secret_only_when_it_is_revealed() {
    let rig = Rig::start();
    rig.view.set("db", b"canary-5f1e");
    rig.view.set("hostile", b"\x1b]0;canary\x07");
    let on_terminal = |arguments: &[&str]| {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mut child = rig.command(arguments).stdout(terminal.slave).stderr(Stdio::piped()).spawn().unwrap();
        let status = child.wait().unwrap().code().unwrap();
        let mut shown = vec![0; 4096];
        let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&terminal.master, flags).unwrap();
        let count = nix::unistd::read(&terminal.master, &mut shown).unwrap_or(0);
        let mut errors = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut errors).unwrap();
        (status, text(&shown[..count]).to_owned(), errors)
    };
    for arguments in [&["get", "db"][..], &["get", "db", "-o", "json"], &["watch", "db", "-o", "raw"]] {
        let (status, shown, errors) = on_terminal(arguments);
        assert_eq!((status, shown.as_str()), (64, ""));
        assert!(errors.contains("--reveal"), "{errors}");
    }
    assert_eq!(on_terminal(&["get", "db", "--reveal"]).1, "canary-5f1e\r\n");
    let (status, shown, errors) = on_terminal(&["get", "hostile", "--reveal"]);
    assert_eq!((status, shown.as_str()), (64, ""));
    assert!(errors.contains("-o json"), "{errors}");
    let (_, shown, _) = on_terminal(&["get", "hostile", "-o", "json", "--reveal"]);
    assert!(shown.contains("\"utf8\":null") && !shown.contains('\x1b'), "{shown}");
}

#[test]
fn a_list_has_a_row_for_each_name_and_no_values() {
    let rig = Rig::start();
    rig.view.set("db", b"canary-5f1e");
    rig.view.set("web/tls", b"canary-5f1e");
    rig.view.stand("db", State::Stale, Some(Error::new(Code::VaultThrottled, "slow down")));
    let output = rig.run(&["list"]);
    let version = |turn: u8| format!("{turn:032x}");
    assert_eq!(
        text(&output.stdout),
        format!(
            "NAME     STATE  VERSION                           CONFIRMED             REASON\n\
             db       stale  {}  2023-11-14T22:15:20Z  KW_VAULT_THROTTLED\n\
             web/tls  fresh  {}  2023-11-14T22:15:20Z\n",
            version(1),
            version(1)
        )
    );
    let output = rig.run(&["list", "web", "-o", "json"]);
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&line["name"], &line["state"]), (&"web/tls".into(), &"fresh".into()));
    assert!(!text(&output.stdout).contains("canary"));
}

#[test]
fn a_watch_shows_each_change_and_ends_with_the_server() {
    let mut rig = Rig::start();
    rig.view.set("db", b"one");
    let mut child = rig
        .command(&["watch", "db", "-o", "raw"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    rig.view.set("db", b"two");
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    rig.stop.take().unwrap().send(()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).starts_with("keyward: KW_SHUTTING_DOWN: "), "{}", text(&output.stderr));
}

#[test]
fn refusals_name_the_code_and_the_next_step_and_have_exit_codes_of_their_own() {
    let rig = Rig::start();
    rig.view.set("db", b"x");
    let unknown = rig.run(&["get", "nothing"]);
    let (code, message) = refused(&unknown);
    assert_eq!(code, 1);
    assert!(
        message.starts_with("keyward: KW_UNKNOWN_NAME: ") && message.contains("ListSecrets"),
        "{message}"
    );

    rig.view.stand("db", State::Revoked, Some(Error::new(Code::VaultForbidden, "assign a role")));
    assert_eq!(refused(&rig.run(&["get", "db"])).0, 77);
    rig.view.stand("db", State::Expired, None);
    assert_eq!(refused(&rig.run(&["get", "db"])).0, 69);
    assert_eq!(refused(&rig.run(&["get", "db", "--version", "zz"])).0, 64);

    let nobody = rig.run(&["get", "db", "--socket", "/nonexistent/keyward.sock"]);
    let (code, message) = refused(&nobody);
    assert_eq!(code, 69);
    assert!(message.contains("is the sidecar running"), "{message}");
    for arguments in [&["get"][..], &["unknown"], &["get", "db", "--nonsense"], &["watch", "-o", "raw"]] {
        assert_eq!(refused(&rig.run(arguments)).0, 64, "{arguments:?}");
    }
}

#[test]
fn another_user_is_known_by_the_kernels_word_and_refused() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const STRANGER: u32 = 54321;
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can become somebody else; what is decided is tested in crates/local-api.
    }
    let rig = Rig::with(|settings| (settings.mode, settings.allow_uids) = (0o666, Some(vec![0])));
    rig.view.set("db", b"canary-5f1e");
    // A place that the stranger can reach, with the program in it.
    std::fs::set_permissions(rig.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = rig.dir.path().join("keyward");
    // By a process of its own: a test beside this one that forks meanwhile would hold the copy open for writing.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_keyward")).arg(&program).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(program);
    command.args(["get", "db"]).env("KEYWARD_SOCKET", &rig.socket).uid(STRANGER).gid(STRANGER);
    let output = command.output().unwrap();
    let (code, message) = refused(&output);
    assert_eq!(code, 77);
    assert!(message.starts_with("keyward: KW_CALLER_REFUSED: user id 54321 may not call"), "{message}");
    assert_eq!(rig.run(&["get", "db"]).stdout, b"canary-5f1e");
    let audit = rig.kept.audit.lock();
    let refusal = audit.iter().find(|event| event.error == Some(Code::CallerRefused)).unwrap();
    assert!(matches!(refusal.actor, Actor::Peer { uid: STRANGER, gid: STRANGER, pid } if pid > 0));
}

#[test]
fn lint_tells_a_configuration_from_a_list_of_objects_and_reports_every_mistake() {
    let rig = Rig::start();
    let lint = |document: &str| {
        let file = rig.dir.path().join("file.yaml");
        std::fs::write(&file, document).unwrap();
        let output = rig.run(&["lint", file.to_str().unwrap()]);
        (output.status.code().unwrap(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    };
    let (code, shown) = lint("- kv://shop/secrets/db\n- from: kv://shop/secrets/web\n  name: web\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.ends_with("no mistakes, 2 objects\n"), "{shown}");
    let (code, shown) = lint("- from: kv://shop/secrets/db\n  mode: 0999\n- from: nonsense\n");
    assert_eq!(code, 64);
    assert!(shown.contains("objects[0].mode: ") && shown.contains("objects[1].from: "), "{shown}");
    let (code, shown) = lint("objects:\n- from: kv://shop/secrets/db\nrotation: {intervall: 5s}\ncluod: x\n");
    assert_eq!(code, 64);
    assert!(shown.contains("rotation.intervall: ") && shown.contains("did you mean cloud?"), "{shown}");
    assert_eq!(lint("a: [").0, 64);
    assert_eq!(refused(&rig.run(&["lint", "/nonexistent"])).0, 64);
}

#[test]
fn standard_input_is_read_where_a_dash_is_given() {
    let mut child = keyward(&["lint", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"- kv://shop/secrets/db\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "-: no mistakes, 1 objects\n");
}

#[test]
fn help_explains_each_command_with_examples() {
    for (arguments, expected) in [
        (&["--help"][..], "Exit codes: 0 it worked"),
        (&["get", "--help"], "keyward get db-password --reveal"),
        (&["list", "--help"], "keyward list web/"),
        (&["watch", "--help"], "keyward watch db-password -o raw"),
        (&["audit", "verify", "--help"], "--skip-foreign"),
        (&["audit", "prove", "--help"], "--record 42"),
        (&["lint", "--help"], "keyward lint keyward.yaml"),
        (&["doctor", "--help"], "--config"),
    ] {
        let output = keyward(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(expected), "{arguments:?}: {}", text(&output.stdout));
    }
}

#[test]
fn an_audit_log_is_verified_and_a_record_proved() {
    use keyward_telemetry::audit;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    write_log(&file);
    let path = file.to_str().unwrap();
    let output = keyward(&["audit", "verify", path]).output().unwrap();
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(shown.contains("keyward/test/1: ") && shown.contains("verified: "), "{shown}");

    let output = keyward(&["audit", "prove", path, "--record", "1"]).output().unwrap();
    let proof: audit::Proof = serde_json::from_slice(&output.stdout).unwrap();
    proof.verify(None).unwrap();
    assert!(proof.leaf.contains("secrets/db"), "{}", proof.leaf);

    let edited = std::fs::read_to_string(&file).unwrap().replacen("secrets/db", "secrets/no", 1);
    std::fs::write(&file, edited).unwrap();
    let broken = keyward(&["audit", "verify", path]).output().unwrap();
    let (code, message) = refused(&broken);
    assert_eq!(code, 1);
    assert!(message.starts_with("keyward: KW_AUDIT_BROKEN: line "), "{message}");
    assert_eq!(refused(&keyward(&["audit", "verify", "/nonexistent"]).output().unwrap()).0, 1);
}

fn write_log(file: &Path) {
    use keyward_core::audit::{Action, AuditEvent, AuditSink};
    use keyward_telemetry::audit::{AuditLog, Destination, OnFailure, Settings};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = Settings {
            destination: Destination::File(file.to_owned()),
            fsync: false,
            on_failure: OnFailure::Allow,
            origin: "keyward/test/1".to_owned(),
            queue: 16,
            key: None,
        };
        let log = AuditLog::open(settings, Arc::new(SystemClock), Arc::new(Silent)).unwrap();
        let event = AuditEvent {
            at: std::time::Duration::from_secs(1_700_000_000),
            actor: Actor::Peer { uid: 1000, gid: 1000, pid: 7 },
            action: Action::Read,
            object: "https://shop.vault.azure.net/secrets/db".to_owned(),
            version: None,
            identity: None,
            error: None,
            trace_id: None,
            request_id: None,
        };
        log.record(event).unwrap();
        log.close().await.unwrap();
    });
}

#[test]
fn any_text_as_an_argument_or_a_file_is_refused_and_ends_nothing_else() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    use proptest::test_runner::TestRunner;
    use std::os::unix::process::ExitStatusExt as _;
    let mut runner = TestRunner::deterministic();
    let mut text = || keyward_test_support::any_text().new_tree(&mut runner).unwrap().current();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("manifest.yaml");
    for round in 0..90 {
        // What an argument can be: no zero byte, and not longer than the kernel takes.
        let word: String = text().chars().filter(|character| *character != '\0').take(20_000).collect();
        std::fs::write(&file, text()).unwrap();
        let path = file.to_str().unwrap();
        let arguments: Vec<&str> = match round % 6 {
            0 => vec!["lint", path],
            1 => vec!["audit", "verify", path],
            2 => vec!["get", "--socket", "/does/not/exist", "--", &word],
            3 => vec!["lint", "--", &word],
            4 => vec!["doctor", "--config", path],
            _ => vec![&word],
        };
        let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
            .args(&arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), None, "{arguments:?}: {output:?}");
        assert!([0, 1, 64, 69, 77].contains(&output.status.code().unwrap()), "{arguments:?}: {output:?}");
    }
}
