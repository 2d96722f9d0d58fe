//! Single flight: one read of an object at a time, whoever waits for it and whoever stops waiting.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, Error, Priority, Result, Snapshot, Urgency};
use tokio::sync::watch;

use crate::entry::Entry;
use crate::record::Finding;
use crate::shared::Shared;

/// A read under way. It belongs to a task of its own, so that a caller who goes away takes nobody's answer along.
pub(crate) type Flight = watch::Receiver<Option<Result<Arc<Snapshot>>>>;

/// Providers keep their own deadlines; this one only keeps a defect of theirs from freezing an object for ever.
const LIMIT: Duration = Duration::from_secs(120);

impl Shared {
    /// Reads the object, or joins the read under way.
    pub(crate) async fn read(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        urgency: Urgency,
    ) -> Result<Arc<Snapshot>> {
        land(self.fly(entry, urgency)).await
    }

    /// Reads the object by a read that began after this call: one under way may have seen the old value already.
    /// Callers that arrive during the same older read share the next one.
    pub(crate) async fn read_afresh(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        urgency: Urgency,
    ) -> Result<Arc<Snapshot>> {
        let older = entry.memory().join(urgency);
        if let Some(older) = older {
            let _ = land(older).await;
        }
        self.read(entry, urgency).await
    }

    /// Starts a read unless one is under way, which becomes as urgent as the one asked for.
    pub(crate) fn fly(self: &Arc<Self>, entry: &Arc<Entry>, urgency: Urgency) -> Flight {
        let mut memory = entry.memory();
        if let Some(flight) = memory.join(urgency) {
            return flight;
        }
        let (sender, flight) = watch::channel(None);
        let priority = Priority::new(urgency).asked_by(entry.key.identity.to_string().into());
        memory.flight = Some((flight.clone(), priority.clone()));
        memory.passed_over = 0;
        entry.set_flying(true);
        drop(memory);
        let landing = Landing { entry: entry.clone(), sender };
        let shared = self.clone();
        tokio::spawn(async move {
            let (began, asked) = (shared.clock.wall(), shared.clock.boot());
            let fetched = match shared.provider(&landing.entry.key.identity) {
                Some(provider) => {
                    let fetch = provider.fetch(&landing.entry.key.request);
                    priority.scope(within_limit(fetch)).await.and_then(|fetched| fetched)
                }
                None => Err(no_provider()),
            };
            let finding = match fetched {
                Ok(fetched) => Finding::Read { fetched: Arc::new(fetched), began, asked },
                Err(error) => Finding::Failed(error),
            };
            let result = shared.record(&landing.entry, finding);
            landing.land(result);
        });
        flight
    }
}

/// Runs a provider's call under the last deadline.
pub(crate) async fn within_limit<F: Future>(call: F) -> Result<F::Output> {
    tokio::time::timeout(LIMIT, call)
        .await
        .map_err(|_| Error::new(Code::Timeout, "the provider gave no answer within two minutes"))
}

/// What is said when nobody can read for an identity.
pub(crate) fn no_provider() -> Error {
    Error::new(Code::ConfigInvalid, "nothing is configured to read with this identity")
}

/// Frees the entry's place when the read ends, also when it ends by a panic.
struct Landing {
    entry: Arc<Entry>,
    sender: watch::Sender<Option<Result<Arc<Snapshot>>>>,
}

impl Landing {
    fn land(self, result: Result<Arc<Snapshot>>) {
        self.clear();
        self.sender.send_replace(Some(result));
    }

    /// Before the answer is given: who hears it and asks again must not meet the old read.
    fn clear(&self) {
        let mut memory = self.entry.memory();
        if memory.flight.as_ref().is_some_and(|(flight, _)| flight.same_channel(&self.sender.subscribe())) {
            memory.flight = None;
            self.entry.set_flying(false);
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Waits for a read to end.
pub(crate) async fn land(mut flight: Flight) -> Result<Arc<Snapshot>> {
    match flight.wait_for(Option::is_some).await {
        Ok(result) => result.clone().unwrap_or_else(|| Err(lost())),
        Err(_) => Err(lost()),
    }
}

fn lost() -> Error {
    Error::new(Code::Internal, "a read ended without an answer")
}
