//! The system-call injector: strace, which counts the calls of each name and kills at, or fails, the n-th of them.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::scenario::Scenario;

const VICTIM: &str = env!("CARGO_BIN_EXE_keyward-crash-victim");

/// How the victim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    Success,
    /// With an error: its own, or the loader's and the allocator's, which know nothing better than to stop.
    Error,
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

/// How often an undisturbed victim makes each call.
pub(crate) fn count(scenario: Scenario, path: &Path, log: &Path) -> BTreeMap<String, usize> {
    let end = run(scenario, path, log, &["-e", "signal=none"]);
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
pub(crate) fn inject(scenario: Scenario, path: &Path, call: &str, what: &str, nth: usize) -> End {
    let traced = format!("trace={call}");
    let injected = format!("inject={call}:{what}:when={nth}");
    run(scenario, path, Path::new("/dev/null"), &["-e", &traced, "-e", &injected])
}

fn run(scenario: Scenario, path: &Path, log: &Path, options: &[&str]) -> End {
    let status = Command::new("strace")
        .args(["-qq", "-o"])
        .arg(log)
        .args(options)
        .args([VICTIM, scenario.word()])
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
        _ => End::Error,
    }
}
