//! Many servers in one process, as on a node: what an idle one costs, and how fast one ends. A process of its own, so
//! that nothing else allocates meanwhile.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::SystemClock;
use keyward_local_api::{ApiSettings, Parts, Server, connect};
use keyward_test_support::{HandView, Kept};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

const SERVERS: u64 = 200;
/// For each server, in bytes.
const MOST: u64 = 6 << 10;

#[tokio::test]
async fn an_idle_server_costs_little_and_ends_at_once_though_a_client_is_connected() {
    let dir = tempfile::tempdir().unwrap();
    let (view, kept, ready) = (Arc::<HandView>::default(), Arc::<Kept>::default(), watch::Sender::new(true));
    let stop = CancellationToken::new();
    let mut tasks = Vec::with_capacity(SERVERS as usize);
    let mut before = 0;
    for number in 0..=SERVERS {
        let settings = ApiSettings {
            drain_timeout: Duration::from_millis(200),
            ..ApiSettings::new(dir.path().join(format!("{number}.sock")))
        };
        let parts = Parts {
            view: view.clone(),
            audit: kept.clone(),
            observer: kept.clone(),
            clock: Arc::new(SystemClock),
            ready: ready.subscribe(),
            account: keyward_core::ledger::Account::unlimited(),
        };
        let stopped = stop.clone().cancelled_owned();
        tasks.push(tokio::spawn(Server::bind(settings, parts).unwrap().serve(stopped)));
        tokio::task::yield_now().await;
        if number == 0 {
            before = resident();
        }
    }
    let each = (resident() - before) / SERVERS;
    let _client = connect(&dir.path().join("0.sock")).await.unwrap();
    let began = Instant::now();
    stop.cancel();
    for task in tasks {
        timeout(Duration::from_secs(5), task).await.unwrap().unwrap().unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(each <= MOST, "{each} bytes for each idle server");
}

/// Anonymous memory in use, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}
