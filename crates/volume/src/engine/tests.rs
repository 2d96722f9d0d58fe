use bytes::Bytes;
use keyward_broker::BrokerSettings;
use keyward_core::config;
use keyward_core::{Code, HttpPost, Provider, SecretView};
use keyward_test_support::{Kept as Recorder, ModelVault, TokioClock};

use super::*;

struct Nowhere;

#[async_trait::async_trait]
impl HttpPost for Nowhere {
    async fn post(&self, _: &str, _: &str, _: Bytes, _: Duration) -> Result<u16> {
        Err(Error::new(Code::Connect, "nobody listens in this test"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_owner_wants_it_gone_is_removed_and_recorded_once_the_refusal_is_believed() {
    let place = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let vault = ModelVault::new("shop", Arc::clone(&clock), 1);
    vault.set("db", "value");
    vault.set("other", "stays");
    let (host, path) = (vault.host(), place.path().display());
    let document = format!(
        "vaults: [{{host: '{host}'}}]\n\
         objects: [{{from: 'https://{host}/secrets/db', onRevoke: remove}}, 'https://{host}/secrets/other']\n\
         files: {{path: {path}, tmpfs: require, allowSwap: true}}\n"
    );
    let config = config::parse(document.as_bytes()).unwrap();
    let recorder = Arc::new(Recorder::default());
    let (audit, observer): (Arc<dyn AuditSink>, Arc<dyn Observer>) = (recorder.clone(), recorder.clone());
    let broker = Broker::new(BrokerSettings::default(), Arc::clone(&clock), Arc::clone(&observer), 1);
    let identity = ModelVault::identity("c1");
    broker.attach(Arc::clone(&identity), Arc::clone(&vault) as Arc<dyn Provider>);
    let rotation = tokio::spawn(Arc::clone(&broker).run());
    let notifier =
        Notifier::new(Arc::new(Nowhere), Arc::clone(&audit), Arc::clone(&observer), Arc::clone(&clock));
    let outputs = Some(Outputs::prepare(config.files.as_ref().unwrap()).unwrap());
    let view = View::new(&broker);
    let parts = Parts { broker, view, outputs, kept: None, notifier, audit, observer, clock };
    let mut engine = Engine::new(parts, &config, identity);

    engine.watch.ready().await;
    assert!(engine.pass().await.missing.is_empty());
    let file = |name: &str| place.path().join(name);
    assert_eq!(std::fs::read(file("db")).unwrap(), b"value");

    vault.present("db", false);
    let deleted = Instant::now();
    while file("db").exists() {
        engine.watch.changed().await;
        engine.pass().await;
        assert!(deleted.elapsed() < Duration::from_secs(3600), "the refusal was never believed");
    }
    assert!(deleted.elapsed() >= Duration::from_secs(15 * 60), "believed after {:?}", deleted.elapsed());
    assert_eq!(std::fs::read(file("other")).unwrap(), b"stays");
    let served = engine.parts.view.get("db").unwrap();
    assert_eq!(served.value.as_ref().err().map(Error::code), Some(Code::ObjectNotFound));
    let removed =
        |event: &&AuditEvent| event.action == Action::Remove && event.object.ends_with("/secrets/db");
    assert_eq!(recorder.audit.lock().iter().filter(removed).count(), 1);
    rotation.abort();
}
