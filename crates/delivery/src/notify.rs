//! Telling applications of a change: a signal, an HTTP POST on loopback, or a command of our own container.
//!
//! Nothing that is told holds a value: a signal is a number, a POST holds names, a command gets nothing but its own
//! arguments. Each target is told by a task of its own that lives only while there is something to tell.

mod exec;
mod post;
mod signal;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use keyward_core::audit::{Action, Actor, AuditEvent, AuditSink};
use keyward_core::observe::{Event, Observer};
use keyward_core::spec::{Notify, NotifyAction};
use keyward_core::{Clock, Code, Error, HttpPost, backoff};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Wait before the second try; doubles from there.
const RETRY_BASE: Duration = Duration::from_millis(500);
/// No wait between tries is longer.
const RETRY_CAP: Duration = Duration::from_secs(10);

/// Tells applications of changes. Cheap to clone.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    http: Arc<dyn HttpPost>,
    audit: Arc<dyn AuditSink>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    /// Names still to be told. A target has an entry exactly as long as it has a task.
    waiting: Mutex<HashMap<Notify, BTreeSet<String>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Notifier {
    /// A notifier without targets: they come with the changes.
    #[must_use]
    pub fn new(
        http: Arc<dyn HttpPost>,
        audit: Arc<dyn AuditSink>,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Inner {
            http,
            audit,
            observer,
            clock,
            waiting: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Readers see new content of the objects called `names`: tells `target` after its debounce time, once for all
    /// changes within it. Returns at once; must be called within a tokio runtime. Failures are tried again as the
    /// target says, then logged; every try leaves an audit record.
    pub fn changed<I>(&self, target: &Notify, names: I)
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        if self.0.tasks.is_closed() {
            return;
        }
        let names = names.into_iter().map(Into::into);
        let mut waiting = self.0.waiting.lock();
        if let Some(entry) = waiting.get_mut(target) {
            entry.extend(names);
            return;
        }
        waiting.insert(target.clone(), names.collect());
        let (inner, target) = (Arc::clone(&self.0), target.clone());
        self.0.tasks.spawn(async move {
            let stop = inner.stop.clone();
            stop.run_until_cancelled(inner.serve(&target)).await;
        });
    }

    /// Waits until everything is told, at most `limit`; what is left then is given up, commands included. Later changes
    /// are ignored.
    pub async fn drain(&self, limit: Duration) {
        self.0.tasks.close();
        if tokio::time::timeout(limit, self.0.tasks.wait()).await.is_err() {
            self.0.stop.cancel();
            self.0.tasks.wait().await;
        }
    }
}

impl Inner {
    /// Tells one target until there is nothing left to tell.
    async fn serve(&self, target: &Notify) {
        loop {
            tokio::time::sleep(target.debounce).await;
            let names = self.waiting.lock().get_mut(target).map(std::mem::take).unwrap_or_default();
            self.tell(target, &names.into_iter().collect::<Vec<_>>()).await;
            let mut waiting = self.waiting.lock();
            if waiting.get(target).is_none_or(BTreeSet::is_empty) {
                waiting.remove(target);
                return;
            }
        }
    }

    async fn tell(&self, target: &Notify, names: &[String]) {
        for attempt in 0..=target.retries {
            if let Some(failed) = attempt.checked_sub(1) {
                tokio::time::sleep(backoff::exponential(RETRY_BASE, RETRY_CAP, failed)).await;
            }
            let outcome = tokio::time::timeout(target.timeout, self.act(target, names))
                .await
                .unwrap_or_else(|_| Err(Failed::again(timed_out(target))));
            self.record(target, names, outcome.as_ref().err().map(|failed| &failed.error));
            match outcome {
                Ok(()) => return,
                Err(failed) if failed.permanent || attempt == target.retries => {
                    tracing::warn!(target = %describe(&target.action), tries = attempt.saturating_add(1), error = %failed.error,
                        "an application was not told of a change");
                    return;
                }
                Err(failed) => tracing::debug!(target = %describe(&target.action), error = %failed.error,
                    "will try again to tell an application"),
            }
        }
    }

    async fn act(&self, target: &Notify, names: &[String]) -> Result<(), Failed> {
        match &target.action {
            NotifyAction::Signal { signal, process } => {
                let (signal, process) = (*signal, process.clone());
                // Reading /proc blocks for as long as there are processes.
                tokio::task::spawn_blocking(move || signal::send(signal, &process)).await.unwrap_or_else(
                    |_| Err(Failed::again(Error::new(Code::Internal, "the search for the process panicked"))),
                )
            }
            NotifyAction::Http { url } => post::send(&*self.http, url, names, target.timeout).await,
            NotifyAction::Exec { command } => exec::run(command).await,
        }
    }

    fn record(&self, target: &Notify, names: &[String], error: Option<&Error>) {
        let error = error.map(Error::code);
        let kind = kind(&target.action);
        self.observer.event(&Event::Notified { kind, error });
        let event = AuditEvent {
            at: self.clock.wall(),
            actor: Actor::Keyward,
            action: Action::Notify,
            object: format!("{}: {}", describe(&target.action), names.join(", ")),
            version: None,
            identity: None,
            error,
            trace_id: None,
            request_id: None,
        };
        // Nothing secret was handed over that could be taken back.
        if let Err(error) = self.audit.record(event) {
            tracing::warn!(%error, "a notification has no audit record");
        }
    }
}

/// Why one try failed.
pub(crate) struct Failed {
    error: Error,
    /// Trying again cannot help.
    permanent: bool,
}

impl Failed {
    fn again(error: Error) -> Self {
        Self { error, permanent: false }
    }

    fn for_good(error: Error) -> Self {
        Self { error, permanent: true }
    }
}

fn failed(message: impl Into<String>) -> Error {
    Error::new(Code::NotifyFailed, message)
}

fn timed_out(target: &Notify) -> Error {
    failed(format!("{} took longer than {:?}", describe(&target.action), target.timeout))
}

fn kind(action: &NotifyAction) -> &'static str {
    match action {
        NotifyAction::Signal { .. } => "signal",
        NotifyAction::Http { .. } => "http",
        NotifyAction::Exec { .. } => "exec",
    }
}

/// The target for logs and audit. Arguments and queries are left out: users write credentials there.
fn describe(action: &NotifyAction) -> String {
    match action {
        NotifyAction::Signal { signal, process } => format!("signal {signal} to {process}"),
        NotifyAction::Http { url } => format!("POST {}", url.split(['?', '#']).next().unwrap_or_default()),
        NotifyAction::Exec { command } => format!("exec {}", command.first().map_or("", String::as_str)),
    }
}

#[cfg(test)]
mod tests;
