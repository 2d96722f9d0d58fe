use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::audit::{Act, AuditEvent, AuditSink};
use keyward_core::observe::{Event, Observer};
use keyward_core::{Code, Error, Result, SecretBytes, SecretView, Served, State, Version};
use parking_lot::Mutex;
use tokio::sync::watch;

/// A view whose objects a test moves about by hand.
pub struct HandView {
    objects: Mutex<BTreeMap<String, Arc<Served>>>,
    generation: watch::Sender<u64>,
    /// Times that all objects were asked for.
    pub lists: AtomicUsize,
    /// Refreshes that were asked for.
    pub refreshes: AtomicUsize,
    /// What a refresh reads; with `None` it waits until there is something.
    pub refresh: watch::Sender<Option<Result<&'static [u8]>>>,
}

impl Default for HandView {
    fn default() -> Self {
        Self {
            objects: Mutex::default(),
            generation: watch::Sender::new(0),
            lists: AtomicUsize::new(0),
            refreshes: AtomicUsize::new(0),
            refresh: watch::Sender::new(Some(Ok(b"refreshed"))),
        }
    }
}

impl HandView {
    /// Declares `name`, or gives it a new value.
    pub fn set(&self, name: &str, value: &[u8]) -> Arc<Served> {
        self.edit(name, |served| {
            let turn = served.sequence + 1;
            served.value = Ok(SecretBytes::copy_from(value));
            served.version = Some(Version::parse(&format!("{turn:032x}")).expect("32 hexadecimal digits"));
            served.state = State::Fresh;
            served.error = None;
        })
    }

    /// Changes how `name` stands.
    pub fn stand(&self, name: &str, state: State, error: Option<Error>) {
        self.edit(name, |served| {
            served.state = state;
            served.error = error;
        });
    }

    /// Declares it no longer.
    pub fn remove(&self, name: &str) {
        self.objects.lock().remove(name);
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Served)) -> Arc<Served> {
        let mut objects = self.objects.lock();
        let mut served = objects.get(name).map_or_else(|| blank(name), |served| (**served).clone());
        change(&mut served);
        served.sequence += 1;
        let served = Arc::new(served);
        objects.insert(name.to_owned(), Arc::clone(&served));
        drop(objects);
        self.generation.send_modify(|generation| *generation += 1);
        served
    }
}

fn blank(name: &str) -> Served {
    Served {
        name: name.to_owned(),
        value: Err(Error::new(Code::VaultUnavailable, "the object was not read yet")),
        version: None,
        source: format!("https://shop.vault.azure.net/secrets/{name}"),
        content_type: Some("text/plain".to_owned()),
        created: Some(Duration::new(1_700_000_000, 5)),
        updated: Some(Duration::from_secs(1_700_000_060)),
        expires: None,
        fetched: Some(Duration::from_millis(1_700_000_120_250)),
        state: State::Pending,
        error: None,
        sequence: 0,
    }
}

#[async_trait]
impl SecretView for HandView {
    fn get(&self, name: &str) -> Option<Arc<Served>> {
        self.objects.lock().get(name).cloned()
    }

    fn list(&self) -> Vec<Arc<Served>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.objects.lock().values().cloned().collect()
    }

    async fn version(&self, name: &str, version: &str) -> Result<Arc<Served>> {
        let version = Version::parse(version)?;
        let current = self.get(name).ok_or_else(|| Error::new(Code::UnknownName, "unknown"))?;
        let value = Ok(SecretBytes::copy_from(b"an older value"));
        Ok(Arc::new(Served { version: Some(version), value, ..(*current).clone() }))
    }

    async fn refresh(&self, name: &str) -> Result<Arc<Served>> {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        let mut outcome = self.refresh.subscribe();
        let outcome = outcome.wait_for(Option::is_some).await.expect("self holds the sender").clone();
        outcome.expect("waited for").map(|value| self.set(name, value))
    }

    fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    async fn changed(&self, seen: u64) {
        let _ = self.generation.subscribe().wait_for(|generation| *generation != seen).await;
    }
}

/// Keeps what it is told.
#[derive(Default)]
pub struct Kept {
    /// Records, in order.
    pub audit: Mutex<Vec<AuditEvent>>,
    /// Acts that were counted rather than recorded.
    pub repeats: AtomicUsize,
    /// Events, in order.
    pub events: Mutex<Vec<Event>>,
    /// Refuses records, as a full disk does under `audit.onFailure: deny`.
    pub deny: AtomicBool,
}

impl AuditSink for Kept {
    fn record(&self, event: AuditEvent) -> Result<()> {
        if self.deny.load(Ordering::Relaxed) {
            return Err(Error::new(Code::AuditUnavailable, "the audit log cannot be written"));
        }
        self.audit.lock().push(event);
        Ok(())
    }

    fn repeat(&self, act: &Act<'_>) -> Result<bool> {
        let known = self.audit.lock().iter().any(|event| {
            event.error.is_none()
                && (&event.actor, event.action, event.object.as_str(), event.version.as_deref())
                    == (act.actor, act.action, act.object, act.version)
        });
        self.repeats.fetch_add(usize::from(known), Ordering::Relaxed);
        Ok(known)
    }
}

impl Observer for Kept {
    fn event(&self, event: &Event) {
        self.events.lock().push(*event);
    }
}
