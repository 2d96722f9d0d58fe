//! One list, then a watch that goes on from it, for as long as anybody holds the result.

#![expect(clippy::arithmetic_side_effects, reason = "counts of tries, and times a bounded wait ahead")]

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use keyward_core::Error;
use keyward_core::backoff::exponential;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::api::{Api, Ask, Failure, refused};
use crate::quiet::Quiet;

/// How long a page of a list, or the head of a watch, may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the server is asked to keep one watch open.
const WATCH: Duration = Duration::from_secs(290);

/// Waits after failures: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// How often a kind that is not installed is looked for.
const NOT_INSTALLED: Duration = Duration::from_secs(60);

/// The shortest wait between two questions, whatever wakes us.
const SHORTEST: Duration = Duration::from_millis(500);

/// Objects of one page, to begin with.
const PAGE: usize = 64;

/// An object as it is watched: as little of it as is needed, and never a reason to refuse its neighbours.
pub(crate) trait Item: DeserializeOwned + Send + 'static {
    fn resource_version(&self) -> &str;
}

/// Who keeps what is watched.
pub(crate) trait Mirror: Send + Sync + 'static {
    type Item: Item;

    /// A list begins: what is not put again before it is complete does not exist.
    fn begin(&self);
    /// The list is complete.
    fn complete(&self);
    /// This one is new or has changed.
    fn put(&self, item: Self::Item);
    /// This one is gone.
    fn remove(&self, item: Self::Item);
    /// The server does not know the kind.
    fn not_installed(&self);
    /// The server does not answer, or refuses; what is known stays.
    fn trouble(&self, error: &Error);
}

/// What is watched.
pub(crate) struct Source {
    /// For logs.
    pub(crate) what: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) group: &'static str,
    /// Served versions, the preferred one first.
    pub(crate) versions: &'static [&'static str],
    /// `metadata.name`, when only one object matters.
    pub(crate) name: Option<String>,
}

/// A running watch; it ends when this is dropped.
pub(crate) struct Watching {
    task: AbortHandle,
    poke: Arc<Notify>,
}

impl Watching {
    pub(crate) fn start<M: Mirror>(api: Api, source: Source, mirror: Arc<M>) -> Self {
        let poke = Arc::new(Notify::new());
        let run = Run { api, quiet: Quiet::new(source.what), source, mirror, poke: Arc::clone(&poke) };
        Self { task: tokio::spawn(run.forever()).abort_handle(), poke }
    }

    /// Somebody waits: a kind that was not installed is looked for now.
    pub(crate) fn hurry(&self) {
        self.poke.notify_one();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Run<M> {
    api: Api,
    source: Source,
    mirror: Arc<M>,
    quiet: Quiet,
    poke: Arc<Notify>,
}

impl<M: Mirror> Run<M> {
    async fn forever(self) {
        let mut failed = 0;
        loop {
            match self.list().await {
                Ok((version, from)) => {
                    failed = 0;
                    self.quiet.worked();
                    self.follow(version, from).await;
                    pause(SHORTEST).await;
                }
                Err(failure) if failure.is_absent() => {
                    self.quiet.worked();
                    self.mirror.not_installed();
                    self.pause_unless_hurried(NOT_INSTALLED).await;
                }
                Err(failure) => {
                    self.tell(&failure);
                    failed += 1;
                    pause(exponential(BACKOFF.0, BACKOFF.1, failed)).await;
                }
            }
        }
    }

    fn tell(&self, failure: &Failure) {
        self.quiet.failed(&failure.error);
        self.mirror.trouble(&failure.error);
    }

    /// Everything, from the first version that the server knows.
    async fn list(&self) -> Result<(&'static str, String), Failure> {
        let mut last = None;
        for version in self.source.versions {
            match self.pages(version).await {
                Ok(from) => {
                    self.mirror.complete();
                    return Ok((version, from));
                }
                Err(failure) if failure.is_absent() => last = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        Err(last.unwrap_or_else(|| refused(self.ask("list"), StatusCode::NOT_FOUND, b"")))
    }

    /// Puts page after page, so that there is never more than one in memory.
    async fn pages(&self, version: &str) -> Result<String, Failure> {
        let (mut next, mut limit) = (String::new(), PAGE);
        self.mirror.begin();
        loop {
            let query = format!("?limit={limit}{}{}", self.only(), query_continue(&next));
            let page: Page<M::Item> =
                match self.api.get(self.ask("list"), &(self.path(version) + &query), PATIENCE).await {
                    Err(failure) if failure.is_too_large() && limit > 1 => {
                        limit = (limit / 4).max(1);
                        continue;
                    }
                    answer => answer?,
                };
            for item in page.items {
                self.mirror.put(item);
            }
            if page.metadata.next.is_empty() {
                return Ok(page.metadata.resource_version);
            }
            next = page.metadata.next;
        }
    }

    /// Follows changes until a new list is needed. A watch that ends or breaks goes on where it was.
    async fn follow(&self, version: &'static str, mut from: String) {
        let mut failed = 0;
        loop {
            let began = Instant::now();
            match self.watch(version, &mut from).await {
                Ok(()) => {
                    failed = 0;
                    self.quiet.worked();
                    tokio::time::sleep_until(began + SHORTEST).await;
                }
                Err(failure) if failure.is_gone() || failure.is_absent() => return,
                Err(failure) => {
                    if began.elapsed() > BACKOFF.1 {
                        failed = 0;
                    }
                    // A connection that is cut once is how load balancers work.
                    if failed > 0 || failure.status.is_some() {
                        self.tell(&failure);
                    }
                    pause(exponential(BACKOFF.0, BACKOFF.1, failed)).await;
                    failed += 1;
                }
            }
        }
    }

    async fn watch(&self, version: &str, from: &mut String) -> Result<(), Failure> {
        let ask = self.ask("watch");
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={}{}",
            self.path(version),
            WATCH.as_secs(),
            self.only(),
        );
        let mut lines = self.api.watch(ask, &path, PATIENCE).await?;
        self.quiet.worked();
        let end = Instant::now() + WATCH + PATIENCE;
        while let Ok(line) = tokio::time::timeout_at(end, lines.next()).await {
            let Some(line) = line? else { return Ok(()) };
            self.apply(&line, from, ask)?;
        }
        Ok(())
    }

    fn apply(&self, line: &[u8], from: &mut String, ask: Ask) -> Result<(), Failure> {
        match serde_json::from_slice::<Event<M::Item>>(line) {
            Ok(Event::Added(item) | Event::Modified(item)) => {
                item.resource_version().clone_into(from);
                self.mirror.put(item);
            }
            Ok(Event::Deleted(item)) => {
                item.resource_version().clone_into(from);
                self.mirror.remove(item);
            }
            Ok(Event::Bookmark(mark)) => *from = mark.metadata.resource_version,
            Ok(Event::Error(status)) => {
                let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return Err(refused(ask, code, b""));
            }
            Err(_) => tracing::debug!(what = self.source.what, "a line of the watch makes no sense"),
        }
        Ok(())
    }

    async fn pause_unless_hurried(&self, wait: Duration) {
        let earliest = Instant::now() + SHORTEST;
        tokio::select! {
            () = pause(wait) => {}
            () = self.poke.notified() => tokio::time::sleep_until(earliest).await,
        }
    }

    fn ask(&self, verb: &'static str) -> Ask {
        Ask { verb, resource: self.source.resource, group: self.source.group }
    }

    fn path(&self, version: &str) -> String {
        format!("/apis/{}/{version}/{}", self.source.group, self.source.resource)
    }

    fn only(&self) -> String {
        self.source
            .name
            .as_ref()
            .map(|name| format!("&fieldSelector=metadata.name%3D{name}"))
            .unwrap_or_default()
    }
}

/// Waits between half and all of `wait`, so that a thousand nodes do not ask at once.
async fn pause(wait: Duration) {
    tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
}

/// Tokens of continuation are base64 without `+` and `/`, but that is the server's business: everything else is escaped.
fn query_continue(token: &str) -> String {
    if token.is_empty() {
        return String::new();
    }
    let mut query = String::from("&continue=");
    for byte in token.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => query.push(char::from(byte)),
            _ => query.push_str(&format!("%{byte:02X}")),
        }
    }
    query
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum Event<T> {
    Added(T),
    Modified(T),
    Deleted(T),
    Bookmark(Mark),
    Error(Refusal),
}

#[derive(Deserialize)]
struct Mark {
    metadata: ListMetadata,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u16,
}
