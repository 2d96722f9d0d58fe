//! Posts finished spans in batches.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts of tries and of a batch that is never longer than its bound, and times a bounded wait ahead"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keyward_core::HttpPost;
use keyward_core::backoff::exponential;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout_at};

use super::layer::Finished;
use super::{Settings, otlp};

/// Spans in one request; about 100 KiB.
const BATCH: usize = 512;
/// The first span of a batch waits at most this long for company.
const LINGER: Duration = Duration::from_secs(5);
const POST_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_TIMEOUT: Duration = Duration::from_secs(2);
const TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The sending half; does nothing until it is run.
pub struct Exporter {
    settings: Settings,
    receiver: Receiver<Finished>,
    dropped: Arc<AtomicU64>,
}

impl Exporter {
    pub(super) fn new(settings: Settings, receiver: Receiver<Finished>, dropped: Arc<AtomicU64>) -> Self {
        Self { settings, receiver, dropped }
    }

    /// A reader of how many spans were lost so far, for a metric.
    pub fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let dropped = Arc::clone(&self.dropped);
        move || dropped.load(Ordering::Relaxed)
    }

    /// Exports until `stop` is done, then what is left in one last try of 2 s.
    pub async fn run(mut self, http: Arc<dyn HttpPost>, stop: impl Future<Output = ()> + Send) {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            () = stop => {}
            () = self.export(&*http, &mut batch) => {}
        }
        while let Ok(span) = self.receiver.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() && !matches!(self.post(&*http, &batch, LAST_TIMEOUT).await, Outcome::Taken) {
            self.lose(batch.len());
        }
    }

    /// Batch after batch, until the layer is gone. Spans leave `batch` when they are sent or given up.
    async fn export(&mut self, http: &dyn HttpPost, batch: &mut Vec<Finished>) {
        let mut working = true;
        while fill(&mut self.receiver, batch).await {
            let sent = self.send(http, batch).await;
            match (sent, working) {
                (false, true) => tracing::warn!(endpoint = %self.settings.endpoint, "traces are not taken"),
                (true, false) => tracing::info!("traces are taken again"),
                _ => {}
            }
            working = sent;
            if !sent {
                self.lose(batch.len());
            }
            batch.clear();
        }
    }

    async fn send(&self, http: &dyn HttpPost, batch: &[Finished]) -> bool {
        for failed in 0..TRIES {
            match self.post(http, batch, POST_TIMEOUT).await {
                Outcome::Taken => return true,
                Outcome::Refused => return false,
                Outcome::Later if failed + 1 < TRIES => {
                    sleep(exponential(FIRST_WAIT, LONGEST_WAIT, failed)).await;
                }
                Outcome::Later => {}
            }
        }
        false
    }

    async fn post(&self, http: &dyn HttpPost, batch: &[Finished], timeout: Duration) -> Outcome {
        let body = Bytes::from(otlp::encode(&self.settings.resource, batch.to_vec()));
        match http.post(&self.settings.endpoint, "application/x-protobuf", body, timeout).await {
            Ok(200..=299) => Outcome::Taken,
            // The statuses that OTLP says to try again.
            Ok(429 | 502 | 503 | 504) | Err(_) => Outcome::Later,
            Ok(_) => Outcome::Refused,
        }
    }

    fn lose(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}

enum Outcome {
    Taken,
    Later,
    Refused,
}

/// Waits for spans; `false` when there will be no more.
async fn fill(receiver: &mut Receiver<Finished>, batch: &mut Vec<Finished>) -> bool {
    if receiver.recv_many(batch, BATCH).await == 0 {
        return false;
    }
    let until = Instant::now() + LINGER;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        match timeout_at(until, receiver.recv_many(batch, room)).await {
            Ok(count) if count > 0 => {}
            _ => break,
        }
    }
    true
}
