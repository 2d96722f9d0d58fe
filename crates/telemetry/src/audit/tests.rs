use std::collections::VecDeque;
use std::io::{self, Cursor, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use keyward_core::SystemClock;
use keyward_core::audit::{Action, Actor};
use keyward_core::observe::{Event, Silent};

use super::*;

mod tampering;

fn event(object: &str, action: Action) -> AuditEvent {
    AuditEvent {
        at: Duration::from_secs(1_795_416_011),
        actor: Actor::Peer { uid: 1000, gid: 1000, pid: 1 },
        action,
        object: object.to_owned(),
        version: Some("v1".to_owned()),
        identity: Some("workload-identity client 1111".to_owned()),
        error: None,
        trace_id: None,
        request_id: None,
    }
}

fn settings(destination: Destination, on_failure: OnFailure) -> Settings {
    static START: AtomicU64 = AtomicU64::new(0);
    let start = START.fetch_add(1, Ordering::Relaxed);
    Settings {
        destination,
        fsync: false,
        on_failure,
        origin: format!("keyward/node/{start}"),
        queue: 8,
        key: None,
    }
}

fn open(path: &Path) -> AuditLog {
    let settings = settings(Destination::File(path.to_owned()), OnFailure::Allow);
    AuditLog::open(settings, Arc::new(SystemClock), Arc::new(Silent)).unwrap()
}

fn lines(bytes: &[u8]) -> Vec<serde_json::Value> {
    bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect()
}

fn check(bytes: &[u8]) -> Result<VerifyReport> {
    verify(bytes, &VerifyOptions::default())
}

#[tokio::test]
async fn what_was_recorded_is_in_a_log_that_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let log = open(&path);
    log.record(event("a", Action::Fetch)).unwrap();
    log.record(event("b", Action::Fetch)).unwrap();
    log.close().await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let report = check(&bytes).unwrap();
    assert_eq!(report.logs.len(), 1);
    let first = &report.logs[0];
    assert_eq!((first.records, first.signed, first.closed), (4, 4, true), "open, two acts, close");
    assert_eq!(first.key, log.verifier());
    let actions: Vec<_> =
        lines(&bytes).iter().filter_map(|l| l["action"].as_str().map(str::to_owned)).collect();
    assert_eq!(actions, ["open", "fetch", "fetch", "close"]);
    assert!(log.last_checkpoint() > Duration::ZERO && log.is_healthy());
    log.record(event("c", Action::Fetch)).unwrap();
    assert_eq!(log.lost(), 1, "after the end, records are lost, and counted");
}

#[tokio::test]
async fn a_file_of_audit_records_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    open(&path).close().await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn reads_from_many_threads_are_counted_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let log = Arc::new(open(&path));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for _ in 0..1000 {
                    let read = event("a", Action::Read);
                    let act = Act {
                        actor: &read.actor,
                        action: read.action,
                        object: &read.object,
                        version: read.version.as_deref(),
                    };
                    if !log.repeat(&act).unwrap() {
                        log.record(read).unwrap();
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    log.checkpoint().await.unwrap();
    log.close().await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    check(&bytes).unwrap();
    let reads: Vec<_> = lines(&bytes).into_iter().filter(|l| l["action"] == "read").collect();
    assert_eq!(reads.len(), 2, "the first at once, the rest as one record");
    assert_eq!(reads.iter().map(|l| l["count"].as_u64().unwrap_or(1)).sum::<u64>(), 4000);
}

#[tokio::test]
async fn each_start_names_the_head_of_its_predecessor_and_what_followed_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let first = open(&path);
    first.record(event("a", Action::Fetch)).unwrap();
    first.close().await.unwrap();
    drop(first);
    // Not closed: the writer ends in its own time, and lets go of the file.
    let second = open(&path);
    drop(second);
    drop(wait_for_lock(&path));
    open(&path).close().await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let report = check(&bytes).unwrap();
    assert_eq!(report.logs.len(), 3);
    assert_eq!(report.continues, None);
    let opened: Vec<_> = lines(&bytes).into_iter().filter(|l| l["action"] == "open").collect();
    assert_eq!(opened[1]["predecessor"]["head"]["log"], report.logs[0].log);
    assert_eq!(opened[2]["predecessor"]["head"]["log"], report.logs[1].log);
}

fn wait_for_lock(path: &Path) -> file::Opened {
    loop {
        match file::open(path) {
            Ok(opened) => return opened,
            Err(_) => std::thread::yield_now(),
        }
    }
}

#[tokio::test]
async fn half_a_line_of_a_crash_is_cut_off_and_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let first = open(&path);
    first.close().await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let half = br#"{"schema":"keyward.audit.v1","lo"#;
    bytes.extend_from_slice(half);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(check(&bytes).unwrap().unfinished, half.len() as u64);
    let second = open(&path);
    second.close().await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(check(&bytes).unwrap().logs.len(), 2);
    let recovery = lines(&bytes).into_iter().find(|l| l["action"] == "recovery").unwrap();
    assert_eq!(recovery["discarded"], half.len());
}

/// A destination that the test holds up or makes fail.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    written: Vec<u8>,
    held: bool,
    /// Results of the next writes: so many bytes, or an error.
    script: VecDeque<Option<usize>>,
    waiting: bool,
}

impl Gate {
    fn hold(&self) {
        self.0.0.lock().unwrap().held = true;
    }

    fn release(&self) {
        self.0.0.lock().unwrap().held = false;
        self.0.1.notify_all();
    }

    fn wait_until_writer_waits(&self) {
        let state = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(state, |state| !state.waiting).unwrap());
    }

    fn written(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().written.clone()
    }
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap();
        if state.held {
            state.waiting = true;
            self.0.1.notify_all();
        }
        let mut state = self.0.1.wait_while(state, |state| state.held).unwrap();
        state.waiting = false;
        let count = match state.script.pop_front() {
            Some(None) => return Err(io::ErrorKind::StorageFull.into()),
            Some(Some(count)) => count.min(bytes.len()),
            None => bytes.len(),
        };
        state.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gated(gate: &Gate, on_failure: OnFailure, observer: Arc<dyn Observer>) -> AuditLog {
    let sink = Sink::new(Box::new(gate.clone()), None);
    AuditLog::start(settings(Destination::Stdout, on_failure), sink, None, 0, Arc::new(SystemClock), observer)
        .unwrap()
}

#[derive(Default)]
struct Count {
    written: AtomicU64,
    lost: AtomicU64,
}

impl Observer for Count {
    fn event(&self, event: &Event) {
        if let Event::Audit { lost } = event {
            let counter = if *lost { &self.lost } else { &self.written };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn a_stalled_destination_holds_up_nobody_and_the_gap_is_recorded() {
    let gate = Gate::default();
    gate.hold();
    let count = Arc::new(Count::default());
    let log = gated(&gate, OnFailure::Allow, Arc::clone(&count) as _);
    gate.wait_until_writer_waits();
    for _ in 0..20 {
        log.record(event("a", Action::Fetch)).unwrap();
    }
    assert_eq!(log.lost(), 12, "the queue holds eight");
    assert!(!log.is_healthy());
    gate.release();
    log.close().await.unwrap();
    let bytes = gate.written();
    check(&bytes).unwrap();
    let gap = lines(&bytes).into_iter().find(|l| l["action"] == "gap").unwrap();
    assert_eq!(gap["count"], 12);
    assert_eq!(count.lost.load(Ordering::Relaxed), 12);
    assert_eq!(count.written.load(Ordering::Relaxed), 8);
}

#[tokio::test]
async fn with_deny_an_act_that_cannot_be_recorded_is_refused() {
    let gate = Gate::default();
    gate.hold();
    let log = gated(&gate, OnFailure::Deny, Arc::new(Silent));
    gate.wait_until_writer_waits();
    for _ in 0..8 {
        log.record(event("a", Action::Fetch)).unwrap();
    }
    let read = event("new", Action::Read);
    assert_eq!(log.record(read.clone()).unwrap_err().code(), Code::AuditUnavailable);
    assert_eq!(
        log.record(read.clone()).unwrap_err().code(),
        Code::AuditUnavailable,
        "and not counted as known"
    );
    gate.release();
    log.checkpoint().await.unwrap();
    log.record(read).unwrap();
    log.close().await.unwrap();
    assert_eq!(log.record(event("a", Action::Fetch)).unwrap_err().code(), Code::AuditUnavailable);
    let bytes = gate.written();
    assert_eq!(check(&bytes).unwrap().records(), 11);
    assert!(lines(&bytes).iter().all(|l| l["action"] != "gap"));
}

#[tokio::test]
async fn a_full_disk_is_survived_and_the_broken_line_is_completed() {
    let gate = Gate::default();
    // The opening record goes in two parts with a failure between, and another one after it.
    gate.0.0.lock().unwrap().script = [Some(100), None, None].into();
    let log = gated(&gate, OnFailure::Deny, Arc::new(Silent));
    while log.is_healthy() && gate.written().is_empty() {
        std::thread::yield_now();
    }
    // Asking makes the writer try at once: the first may still find the disk full.
    while log.checkpoint().await.is_err() {}
    log.record(event("a", Action::Fetch)).unwrap();
    log.close().await.unwrap();
    assert_eq!(check(&gate.written()).unwrap().records(), 3);
}

#[tokio::test]
async fn a_persistent_key_is_the_one_that_verification_pins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    // openssl genpkey -algorithm ed25519
    let pem = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIBlvP4+vFLFTCa8dl1Jlnr79Zuk3gl8mmVnFyGAGnXHE\n-----END PRIVATE KEY-----\n";
    let key = SigningKey::from_pem(pem).unwrap();
    let public = key.public();
    let settings = Settings { key: Some(key), ..settings(Destination::File(path.clone()), OnFailure::Allow) };
    let log = AuditLog::open(settings, Arc::new(SystemClock), Arc::new(Silent)).unwrap();
    log.close().await.unwrap();
    drop(log);
    let bytes = std::fs::read(&path).unwrap();
    let pinned = VerifyOptions { key: Some(public), ..VerifyOptions::default() };
    assert!(verify(&*bytes, &pinned).is_ok());
    let other = VerifyOptions { key: Some(SigningKey::generate().unwrap().public()), ..pinned };
    assert_eq!(verify(&*bytes, &other).unwrap_err().code(), Code::AuditBroken);
}

#[tokio::test]
async fn every_record_is_proved_and_a_proof_of_another_record_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let log = open(&path);
    let mut older = None;
    for i in 0..20 {
        log.record(event(&format!("object-{i}"), Action::Fetch)).unwrap();
        if i % 7 == 6 {
            log.checkpoint().await.unwrap();
            let bytes = std::fs::read(&path).unwrap();
            older = check(&bytes).unwrap().logs[0].checkpoint.clone();
        }
    }
    log.close().await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for seq in 0..22 {
        let proof = prove(Cursor::new(&bytes), None, seq).unwrap();
        proof.verify(None).unwrap();
        let read_back: Proof = serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap();
        assert_eq!(read_back, proof);
        assert!(Proof { index: (seq + 1) % 22, ..proof.clone() }.verify(None).is_err());
        assert!(
            Proof { leaf: proof.leaf.replace("fetch", "lists") + " ", ..proof.clone() }.verify(None).is_err()
        );
        assert!(proof.verify(Some(&SigningKey::generate().unwrap().public())).is_err());
    }
    assert_eq!(prove(Cursor::new(&bytes), None, 22).unwrap_err().code(), Code::AuditBroken);
    assert!(prove(Cursor::new(&bytes), Some("keyward/other"), 0).is_err());
    let consistency = prove_consistency(Cursor::new(&bytes), &older.unwrap()).unwrap();
    consistency.verify(None).unwrap();
    assert!(ConsistencyProof { hashes: Vec::new(), ..consistency }.verify(None).is_err());
}

#[tokio::test]
async fn lines_of_other_programs_are_skipped_only_when_asked() {
    let gate = Gate::default();
    let log = gated(&gate, OnFailure::Allow, Arc::new(Silent));
    log.close().await.unwrap();
    let mixed = [b"starting\n".as_slice(), &gate.written(), b"{\"level\":\"INFO\"}\n"].concat();
    assert!(check(&mixed).is_err());
    let options = VerifyOptions { skip_foreign: true, ..VerifyOptions::default() };
    assert_eq!(verify(&*mixed, &options).unwrap().records(), 2);
}

#[test]
fn an_origin_that_tools_cannot_read_is_refused() {
    for origin in ["", "a b", "a+b", "a\nb"] {
        let settings =
            Settings { origin: origin.to_owned(), ..settings(Destination::Stdout, OnFailure::Allow) };
        let sink = Sink::new(Box::new(io::sink()), None);
        let error =
            AuditLog::start(settings, sink, None, 0, Arc::new(SystemClock), Arc::new(Silent)).err().unwrap();
        assert_eq!(error.code(), Code::ConfigInvalid, "{origin:?}");
    }
}
