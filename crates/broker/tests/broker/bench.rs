use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, BrokerSettings, Watch, WatchItem};
use keyward_core::observe::{Event, Observer};
use keyward_core::{Content, ErrorKind, IdentityKey, ObjectKey, Result, Snapshot, State};
use keyward_test_support::{ModelVault, TokioClock};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// A broker at work over a model vault, with every event noted.
pub(crate) struct Bench {
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) vault: Arc<ModelVault>,
    pub(crate) identity: Arc<IdentityKey>,
    pub(crate) events: Arc<Events>,
    pub(crate) broker: Arc<Broker>,
    run: JoinHandle<()>,
}

#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<Event>>);

impl Observer for Events {
    fn event(&self, event: &Event) {
        self.0.lock().push(*event);
    }
}

impl Events {
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock())
    }
}

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn settings() -> BrokerSettings {
    BrokerSettings { jitter: 0.0, ..BrokerSettings::default() }
}

impl Bench {
    pub(crate) fn new(settings: BrokerSettings) -> Self {
        let clock = Arc::new(TokioClock::new());
        let vault = ModelVault::new("shop", clock.clone(), 1);
        Self::over(settings, clock, vault)
    }

    /// Another Keyward process over the same vault.
    pub(crate) fn over(settings: BrokerSettings, clock: Arc<TokioClock>, vault: Arc<ModelVault>) -> Self {
        let events = Arc::new(Events::default());
        let identity = ModelVault::identity("client");
        let broker = Broker::new(settings, clock.clone(), events.clone(), 7);
        broker.attach(identity.clone(), vault.clone());
        let run = tokio::spawn(broker.clone().run());
        Self { clock, vault, identity, events, broker, run }
    }

    pub(crate) fn key(&self, name: &str) -> ObjectKey {
        self.vault.key(&self.identity, name)
    }

    /// Writes `names` and, when that was long enough ago not to be in doubt, watches them until each was tried.
    pub(crate) async fn watch(&self, names: &[&str]) -> Watch {
        for name in names {
            self.vault.set(name, "first");
        }
        wait(Duration::from_secs(10)).await;
        let watch = self.broker.watch(self.items(names));
        watch.ready().await;
        watch
    }

    pub(crate) fn items(&self, names: &[&str]) -> Vec<WatchItem> {
        names.iter().map(|name| WatchItem { key: self.key(name), refresh: None }).collect()
    }

    pub(crate) async fn value(&self, name: &str) -> std::result::Result<(String, State), ErrorKind> {
        shown(self.broker.get(&self.key(name)).await)
    }

    pub(crate) fn state(&self, name: &str) -> State {
        self.broker.peek(&self.key(name)).expect("the object is known").state
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.run.abort();
    }
}

pub(crate) fn shown(result: Result<Arc<Snapshot>>) -> std::result::Result<(String, State), ErrorKind> {
    result.map(|snapshot| (text(&snapshot), snapshot.state)).map_err(|error| error.kind())
}

pub(crate) fn text(snapshot: &Snapshot) -> String {
    match &snapshot.fetched.as_ref().expect("there is a value").content {
        Content::Secret { value, .. } => value.expose_str().expect("tests write text").to_owned(),
        _ => panic!("tests write secrets"),
    }
}

pub(crate) async fn wait(duration: Duration) {
    tokio::time::sleep(duration).await;
}

pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("object-{index:03}")).collect()
}

pub(crate) fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
