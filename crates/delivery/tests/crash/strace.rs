//! The system-call injector: strace, which counts the calls of each name and kills at, or fails, the n-th of them.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::scenario::Scenario;

/// A copy of the victim, so that a build that goes on beside the test cannot replace it under its feet.
pub(crate) struct Victim {
    program: PathBuf,
    _directory: TempDir,
}

/// How the victim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    Success,
    /// With an error, by exit code: its own (1), or the loader's and the allocator's, which know nothing better than
    /// to stop.
    Error(Option<i32>),
}

/// Why there is no strace to be used here, if so.
pub(crate) fn missing() -> Option<String> {
    let tried = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    match tried {
        Ok(done) if done.status.success() => None,
        Ok(done) => Some(format!("strace may not trace: {}", String::from_utf8_lossy(&done.stderr).trim())),
        Err(error) => Some(format!("strace cannot be run: {error}")),
    }
}

impl Victim {
    pub(crate) fn new() -> Self {
        // Not in the directories of the scenarios: those may be mounted noexec.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let program = directory.path().join("victim");
        // By a process of its own: a test beside this one that forks meanwhile would hold the copy open for writing.
        let victim = env!("CARGO_BIN_EXE_keyward-crash-victim");
        assert!(Command::new("cp").arg(victim).arg(&program).status().unwrap().success());
        Self { program, _directory: directory }
    }

    /// How often an undisturbed victim makes each call.
    pub(crate) fn count(&self, scenario: Scenario, path: &Path, log: &Path) -> BTreeMap<String, usize> {
        let end = self.run(scenario, path, log, &["-e", "signal=none"]);
        assert_eq!(end, End::Success, "{scenario:?} undisturbed");
        let mut counts = BTreeMap::new();
        for line in std::fs::read_to_string(log).unwrap().lines() {
            let call = line.split_once('(').map_or("", |(call, _)| call);
            if !call.is_empty() && call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                *counts.entry(call.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// Runs the victim with `what` (`signal=KILL`, `error=EIO`) at its `nth` call of `call`.
    pub(crate) fn inject(&self, scenario: Scenario, path: &Path, call: &str, what: &str, nth: usize) -> End {
        let traced = format!("trace={call}");
        let injected = format!("inject={call}:{what}:when={nth}");
        self.run(scenario, path, Path::new("/dev/null"), &["-e", &traced, "-e", &injected])
    }

    fn run(&self, scenario: Scenario, path: &Path, log: &Path, options: &[&str]) -> End {
        let status = Command::new("strace")
            .args(["-qq", "-o"])
            .arg(log)
            .args(options)
            .arg(&self.program)
            .arg(scenario.word())
            .arg(path)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        // strace ends as the victim did.
        match (status.code(), status.signal()) {
            (Some(0), _) => End::Success,
            (_, Some(9)) => End::Killed,
            (code, _) => End::Error(code),
        }
    }
}
