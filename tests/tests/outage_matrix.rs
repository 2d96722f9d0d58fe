//! Every kind of failure at start-up, in steady state and during a rotation, at the level of the broker: what readers
//! are given, minute by minute. No reader ever fails because of a transient fault after the first success.

use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, BrokerSettings, Watch, WatchItem};
use keyward_core::observe::Silent;
use keyward_core::{Code, Content, ErrorKind, ObjectKey, Snapshot, State};
use keyward_test_support::{Fault, ModelVault, TokioClock};
use tokio::task::JoinHandle;

const MINUTE: Duration = Duration::from_secs(60);
const LASTS: u32 = 6 * 60;

/// One kind of failure and what a reader is told by it when there is no value yet; `None` when it leaves reads alone.
struct Row {
    name: &'static str,
    switch: fn(&ModelVault, bool),
    first: Option<ErrorKind>,
}

macro_rules! down {
    ($($name:literal: $fault:expr => $kind:ident),+ $(,)?) => {
        [$(Row { name: $name, switch: |vault, on| vault.fail(on.then_some($fault)), first: Some(ErrorKind::$kind) }),+]
    };
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::from(down! {
        "429 without Retry-After": Fault::Code(Code::VaultThrottled) => Throttled,
        "429 with Retry-After of two hours": Fault::RetryAfter(Duration::from_secs(7200)) => Throttled,
        "500 and 503": Fault::Code(Code::VaultUnavailable) => Unavailable,
        "hang": Fault::Hang => Timeout,
        "connection reset": Fault::Code(Code::Connect) => Unavailable,
        "name does not resolve": Fault::Code(Code::Dns) => Unavailable,
        "handshake fails": Fault::Code(Code::Tls) => Unavailable,
        "untrusted certificate": Fault::Code(Code::TlsUntrusted) => Unavailable,
        "garbage, truncated body or wrong content type": Fault::Code(Code::VaultProtocol) => Protocol,
        "200 MiB body": Fault::Code(Code::ResponseTooLarge) => Protocol,
        "foreign redirect or nextLink": Fault::Code(Code::OriginRefused) => Protocol,
        "foreign challenge": Fault::Code(Code::ChallengeMismatch) => Protocol,
        "token endpoint down": Fault::Code(Code::TokenUnavailable) => Unavailable,
        "token endpoint throttles": Fault::Code(Code::TokenThrottled) => Throttled,
        "token endpoint answers nonsense": Fault::Code(Code::TokenProtocol) => Protocol,
        "token refused": Fault::Code(Code::TokenRefused) => Unauthenticated,
        "token not accepted (clock skew)": Fault::Code(Code::VaultUnauthenticated) => Unauthenticated,
        "federated token file missing": Fault::Code(Code::IdentityFile) => Unauthenticated,
        "403 storm over the whole vault": Fault::Code(Code::VaultForbidden) => Forbidden,
    });
    rows.push(Row {
        name: "half of all requests lost",
        switch: |vault, on| vault.lose(if on { 0.5 } else { 0.0 }),
        first: None,
    });
    rows.push(Row {
        name: "403 to listings",
        switch: |vault, on| vault.fail_list(on.then_some(Fault::Code(Code::VaultForbidden))),
        first: None,
    });
    rows.push(Row {
        name: "endless listing",
        switch: |vault, on| vault.fail_list(on.then_some(Fault::Code(Code::VaultProtocol))),
        first: None,
    });
    rows.push(Row {
        name: "listing hangs",
        switch: |vault, on| vault.fail_list(on.then_some(Fault::Hang)),
        first: None,
    });
    rows.push(Row {
        name: "slow answers",
        switch: |vault, on| {
            let most = if on { Duration::from_secs(9) } else { Duration::ZERO };
            vault.delay(most / 2, most);
        },
        first: None,
    });
    rows
}

#[tokio::test(start_paused = true)]
async fn at_start_up_readers_are_told_the_cause_and_served_soon_after_it_ends() {
    for row in rows() {
        let world = World::new();
        (row.switch)(&world.vault, true);
        let watch = world.watch();
        let ready = tokio::time::timeout(MINUTE, watch.ready()).await;
        assert!(ready.is_ok(), "{}: start-up must not hang", row.name);
        for _ in 0..LASTS {
            for name in NAMES {
                let result = world.broker.get(&world.key(name)).await;
                if let Some(kind) = row.first {
                    assert_eq!(result.err().map(|error| error.kind()), Some(kind), "{}", row.name);
                }
            }
            tokio::time::sleep(MINUTE).await;
        }
        if row.first.is_none() {
            assert!(watch.snapshots().iter().all(|snapshot| snapshot.fetched.is_some()), "{}", row.name);
        }
        (row.switch)(&world.vault, false);
        tokio::time::sleep(MINUTE * 5).await;
        assert!(watch.snapshots().iter().all(|snapshot| snapshot.state == State::Fresh), "{}", row.name);
    }
}

#[tokio::test(start_paused = true)]
async fn in_steady_state_no_reader_notices_but_by_the_word_stale() {
    for row in rows() {
        let world = World::new();
        let watch = world.watch();
        watch.ready().await;
        tokio::time::sleep(MINUTE / 2).await;
        (row.switch)(&world.vault, true);
        for minute in 0..LASTS {
            tokio::time::sleep(MINUTE).await;
            for name in NAMES {
                let snapshot = world.read(row.name, name).await;
                assert_eq!(text(&snapshot), "first", "{}", row.name);
                if row.first.is_some() {
                    let expected = if minute == 0 { snapshot.state } else { State::Stale };
                    assert_eq!(snapshot.state, expected, "{} in minute {minute}", row.name);
                }
            }
        }
        (row.switch)(&world.vault, false);
        tokio::time::sleep(MINUTE * 5).await;
        assert!(watch.snapshots().iter().all(|snapshot| snapshot.state == State::Fresh), "{}", row.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_during_a_failure_is_given_once_it_ends_and_the_old_value_until_then() {
    for row in rows() {
        let world = World::new();
        let watch = world.watch();
        watch.ready().await;
        tokio::time::sleep(MINUTE / 2).await;
        (row.switch)(&world.vault, true);
        for name in NAMES {
            world.vault.set(name, "second");
        }
        for _ in 0..LASTS {
            tokio::time::sleep(MINUTE).await;
            for name in NAMES {
                let snapshot = world.read(row.name, name).await;
                let value = text(&snapshot);
                let blocked = row.first.is_some();
                assert!(value == "first" || (!blocked && value == "second"), "{}", row.name);
            }
        }
        if row.first.is_none() {
            assert!(watch.snapshots().iter().all(|snapshot| text(snapshot) == "second"), "{}", row.name);
        }
        (row.switch)(&world.vault, false);
        tokio::time::sleep(MINUTE * 5).await;
        assert!(watch.snapshots().iter().all(|snapshot| text(snapshot) == "second"), "{}", row.name);
    }
}

const NAMES: [&str; 3] = ["db", "mail", "web"];

struct World {
    vault: Arc<ModelVault>,
    broker: Arc<Broker>,
    run: JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(TokioClock::new());
        let vault = ModelVault::new("shop", clock.clone(), 1);
        NAMES.iter().for_each(|name| drop(vault.set(name, "first")));
        let broker = Broker::new(BrokerSettings::default(), clock, Arc::new(Silent), 1);
        broker.attach(ModelVault::identity("client"), vault.clone());
        let run = tokio::spawn(broker.clone().run());
        Self { vault, broker, run }
    }

    fn key(&self, name: &str) -> ObjectKey {
        self.vault.key(&ModelVault::identity("client"), name)
    }

    fn watch(&self) -> Watch {
        self.broker.watch(NAMES.iter().map(|name| WatchItem { key: self.key(name), refresh: None }).collect())
    }

    async fn read(&self, row: &str, name: &str) -> Arc<Snapshot> {
        match self.broker.get(&self.key(name)).await {
            Ok(snapshot) => snapshot,
            Err(error) => panic!("{row}: a reader of {name} failed: {error}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.run.abort();
    }
}

fn text(snapshot: &Snapshot) -> String {
    match &snapshot.fetched.as_ref().expect("there is a value").content {
        Content::Secret { value, .. } => value.expose_str().expect("the vault holds text").to_owned(),
        _ => panic!("the vault holds secrets"),
    }
}
