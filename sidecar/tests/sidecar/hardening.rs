//! What the kernel says about the process, and whom it answers.

use std::fs::read_to_string;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::process::{PROGRAM, Sidecar};
use crate::rig::{Rig, in_time};

/// A user that owns nothing here.
const NOBODY: u32 = 65_534;

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[tokio::test]
async fn the_process_leaves_no_core_is_not_dumpable_and_can_gain_no_privileges() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/db")).await;
    let proc = |name: &str| PathBuf::from(format!("/proc/{}/{name}", sidecar.pid()));
    let limits = read_to_string(proc("limits")).unwrap();
    let core: Vec<_> = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(core[4..6], ["0", "0"]);
    let status = read_to_string(proc("status")).unwrap();
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"));
    // What belongs to a process that may be dumped belongs to its user; else it belongs to root, whatever the user.
    if root() {
        let copy = rig.write("program", std::fs::read(PROGRAM).unwrap());
        open_to_everyone(&rig, &copy);
        let mut child = as_nobody(&copy, &["--config", rig.path("config.yaml").to_str().unwrap()]);
        let pid = child.id().unwrap();
        in_time("the hardening", async {
            while !read_to_string(format!("/proc/{pid}/status"))
                .unwrap_or_default()
                .contains("NoNewPrivs:\t1")
            {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(std::fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
        child.kill().await.unwrap();
    }
}

#[tokio::test]
async fn cached_values_lie_in_locked_memory_that_no_core_holds() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "a value in the arena");
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/db")).await;
    let maps = read_to_string(format!("/proc/{}/smaps", sidecar.pid())).unwrap();
    let flags: Vec<_> = maps.lines().filter_map(|line| line.strip_prefix("VmFlags:")).collect();
    let arena = flags.iter().filter(|flags| flags.contains(" lo") && flags.contains(" dd"));
    assert_eq!(arena.count(), 1, "one mapping is locked and left out of cores");
}

#[tokio::test]
async fn the_socket_appears_with_its_mode_and_serves_only_the_users_that_are_allowed() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    let own = nix::unistd::geteuid().as_raw();
    let socket = format!("grpc: {{socket: {}", rig.path("keyward.sock").display());
    let config = rig
        .config("- kv://shop/secrets/db")
        .replace(&socket, &format!("{socket}, allowUids: [{own}], mode: '0666'"));
    let sidecar = rig.run(&config).await;
    let meta = std::fs::symlink_metadata(rig.path("keyward.sock")).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o666);
    assert_eq!(sidecar.client().await.text("db").await, "hunter2");
    if !root() {
        return;
    }
    let copy = rig.write("program", std::fs::read(PROGRAM).unwrap());
    open_to_everyone(&rig, &copy);
    let probe = ["--probe", "--grpc-socket", rig.path("keyward.sock").to_str().unwrap()].map(str::to_owned);
    let probe: Vec<&str> = probe.iter().map(String::as_str).collect();
    let ask =
        async || -> Output { in_time("a probe", as_nobody(&copy, &probe).wait_with_output()).await.unwrap() };
    assert!(!ask().await.status.success(), "another user was answered");
    assert!(sidecar.stop().await.success());
    let audit = read_to_string(rig.path("audit.jsonl")).unwrap();
    let refused =
        audit.lines().any(|line| line.contains("KW_CALLER_REFUSED") && line.contains(&NOBODY.to_string()));
    assert!(refused, "the refusal left no record of the user");

    let sidecar = rig.run(&config.replace(&format!("[{own}]"), &format!("[{own}, {NOBODY}]"))).await;
    let answer = ask().await;
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    drop(sidecar);
}

#[tokio::test]
async fn files_that_are_not_on_tmpfs_are_refused_with_the_remedy() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    // Where the tests' own build lies is no tmpfs; if it is here, there is nothing to refuse.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let kind = nix::sys::statfs::statfs(disk.path()).unwrap().filesystem_type();
    if kind == nix::sys::statfs::TMPFS_MAGIC {
        return;
    }
    let files = rig.path("files").display().to_string();
    let config = rig.config("- kv://shop/secrets/db").replace(&files, &disk.path().display().to_string());
    assert_eq!(rig.launch(&config).ends_with().await, 1);
    let said = read_to_string(rig.path("sidecar.log")).unwrap();
    assert!(
        said.contains("KW_TMPFS_REQUIRED") && said.contains(&disk.path().display().to_string()),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn settings_come_from_flags_alone_when_there_is_no_file() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "by flags");
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let flags = [
        ("--objects", "[kv://shop/secrets/db]".to_owned()),
        ("--identity-client-id", rig.identity.client_id.clone()),
        ("--vaults", format!("[{{host: {}, address: '{}'}}]", crate::rig::VAULT, rig.emulator.vault_addr())),
        ("--tls-extra-roots-file", text(rig.path("ca.pem"))),
        ("--files-path", text(rig.path("files"))),
        ("--files-tmpfs", "require".to_owned()),
        ("--files-allow-swap", "true".to_owned()),
    ];
    let mut words: Vec<&str> = flags.iter().flat_map(|(name, value)| [*name, value.as_str()]).collect();
    words.push("--once");
    let variables = [
        ("AZURE_TENANT_ID", rig.emulator.tenant_id().to_owned()),
        ("AZURE_FEDERATED_TOKEN_FILE", text(rig.path("token"))),
        ("AZURE_AUTHORITY_HOST", rig.emulator.authority_url()),
    ];
    let sidecar = Sidecar::start(&words, &variables, &rig.path("sidecar.log"), &rig.path("none"));
    assert_eq!(sidecar.ends_with().await, 0);
    assert_eq!(rig.text("db"), "by flags");
}

/// The pod's volumes as another user finds them.
fn open_to_everyone(rig: &Rig, program: &std::path::Path) {
    let open = |path: PathBuf, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(program.to_owned(), 0o755);
    open(rig.path("."), 0o777);
    for name in ["config.yaml", "token", "ca.pem"] {
        open(rig.path(name), 0o644);
    }
}

fn as_nobody(program: &std::path::Path, arguments: &[&str]) -> tokio::process::Child {
    Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .uid(NOBODY)
        .gid(NOBODY)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
