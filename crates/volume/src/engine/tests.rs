mod restart;

use std::path::Path;
use std::time::Duration;

use keyward_broker::BrokerSettings;
use keyward_core::audit::{Action, AuditEvent};
use keyward_core::cloud::Cloud;
use keyward_core::spec::{Context, parse_objects_text};
use keyward_core::{Code, Provider, SecretView};
use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::conversions::{Conversions, Settings};
use keyward_test_support::{Kept as Recorder, ModelVault, TokioClock};

use super::*;
use crate::OnTmpfs;

/// A vault, a broker that rotates, and what it takes to make engines for one identity.
struct World {
    vault: Arc<ModelVault>,
    recorder: Arc<Recorder>,
    parts: Parts,
    identity: Arc<IdentityKey>,
    rotation: tokio::task::JoinHandle<()>,
    pool: Conversions,
}

impl World {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
        Self::over(ModelVault::new("shop", Arc::clone(&clock), 1), clock)
    }

    fn over(vault: Arc<ModelVault>, clock: Arc<dyn Clock>) -> Self {
        let recorder = Arc::new(Recorder::default());
        let (audit, observer): (Arc<dyn AuditSink>, Arc<dyn Observer>) = (recorder.clone(), recorder.clone());
        let broker = Broker::new(BrokerSettings::default(), Arc::clone(&clock), Arc::clone(&observer), 1);
        let identity = ModelVault::identity("c1");
        broker.attach(Arc::clone(&identity), Arc::clone(&vault) as Arc<dyn Provider>);
        let rotation = tokio::spawn(Arc::clone(&broker).run());
        let actor = Actor::Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u-1".into() };
        let pool = Conversions::new(Settings::new(None, Arc::clone(&clock)));
        Self {
            vault,
            recorder,
            parts: Parts {
                broker,
                audit,
                observer,
                clock,
                actor,
                account: Account::unlimited(),
                conversions: pool.payer("u-1"),
                most_payload: usize::MAX,
            },
            identity,
            rotation,
            pool,
        }
    }

    /// `names` in the vault, as the object grammar has them; each may be followed by further settings.
    fn declared(&self, names: &[&str]) -> Declared {
        let host = self.vault.host();
        let items: Vec<_> = names
            .iter()
            .map(|name| match name.split_once(',') {
                Some((name, more)) => format!("{{from: 'https://{host}/secrets/{name}',{more}}}"),
                None => format!("{{from: 'https://{host}/secrets/{name}'}}"),
            })
            .collect();
        let context =
            Context { cloud: &Cloud::public(), listed_hosts: std::slice::from_ref(host), notify: true };
        let specs = parse_objects_text(format!("[{}]", items.join(", ")).as_bytes(), context).unwrap();
        let defaults = Defaults { mode: 0o444, uid: None, gid: None };
        Declared { specs, defaults, identity: Arc::clone(&self.identity) }
    }

    fn engine(&self, names: &[&str]) -> Engine {
        Engine::new(self.parts.clone(), self.declared(names), None)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.rotation.abort();
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().tempdir_in("/dev/shm").unwrap()
}

fn outputs(path: &Path) -> Outputs {
    let directory = AtomicDirectory::open(std::fs::File::open(path).unwrap().into()).unwrap();
    Outputs::new(directory, Arc::new(OnTmpfs))
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_owner_wants_it_gone_is_removed_and_recorded_once_the_refusal_is_believed() {
    let (place, world) = (directory(), World::new());
    world.vault.set("db", "value");
    world.vault.set("other", "stays");
    let mut engine = world.engine(&["db, onRevoke: remove", "other"]);
    engine.set_outputs(outputs(place.path()));

    engine.ready().await;
    assert!(engine.pass().await.missing.is_empty());
    let file = |name: &str| place.path().join(name);
    assert_eq!(std::fs::read(file("db")).unwrap(), b"value");

    world.vault.present("db", false);
    let deleted = Instant::now();
    while file("db").exists() {
        engine.changed().await;
        engine.pass().await;
        assert!(deleted.elapsed() < Duration::from_secs(3600), "the refusal was never believed");
    }
    assert!(deleted.elapsed() >= Duration::from_secs(15 * 60), "believed after {:?}", deleted.elapsed());
    assert_eq!(std::fs::read(file("other")).unwrap(), b"stays");
    let served = engine.view().get("db").unwrap();
    assert_eq!(served.value.as_ref().err().map(Error::code), Some(Code::ObjectNotFound));
    let removed =
        |event: &&AuditEvent| event.action == Action::Remove && event.object.ends_with("/secrets/db");
    assert_eq!(world.recorder.audit.lock().iter().filter(removed).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_delivery_is_sized_before_there_is_a_directory_and_recorded_for_the_pod_once() {
    let (place, world) = (directory(), World::new());
    world.vault.set("db", "value");
    let mut engine = world.engine(&["db"]);
    engine.ready().await;
    let (pass, tree) = engine.snapshot_tree().await;
    assert!(pass.missing.is_empty() && pass.wrote.is_none() && !engine.is_complete());
    assert_eq!((tree.files.len(), tree.payload()), (1, 5));
    assert_eq!(engine.view().get("db").unwrap().value.as_ref().unwrap().expose(), b"value");

    engine.set_outputs(outputs(place.path()));
    let pass = engine.pass().await;
    assert!(matches!(pass.wrote, Some(Committed::Swapped { files: 1, .. })));
    assert_eq!(pass.changed.iter().map(|change| change.name.as_str()).collect::<Vec<_>>(), ["db"]);
    assert_eq!(std::fs::read(place.path().join("db")).unwrap(), b"value");
    assert!(engine.outputs().unwrap().marker_is_intact());
    let pass = engine.pass().await;
    assert_eq!((pass.wrote, pass.changed), (Some(Committed::Unchanged), Vec::new()));
    let records = world.recorder.audit.lock();
    let delivered: Vec<_> = records.iter().filter(|event| event.action == Action::Deliver).collect();
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].actor, world.parts.actor);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_until_everything_required_is_there_once() {
    let (place, world) = (directory(), World::new());
    world.vault.set("db", "value");
    let mut engine = world.engine(&["db", "missing"]);
    engine.set_outputs(outputs(place.path()));
    engine.ready().await;
    let pass = engine.pass().await;
    assert_eq!(pass.missing.len(), 1);
    assert_eq!(pass.missing[0].1.code(), Code::ObjectNotFound);
    assert!(pass.wrote.is_none() && engine.versions().is_empty());
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_the_identity_is_unproved_values_are_stale_and_nothing_new_reaches_the_pod() {
    let (place, world) = (directory(), World::new());
    world.vault.set("db", "one");
    let mut engine = world.engine(&["db"]);
    engine.set_outputs(outputs(place.path()));
    engine.ready().await;
    engine.pass().await;
    let state = |engine: &Engine| engine.view().get("db").unwrap().state;
    assert_eq!(state(&engine), State::Fresh);

    engine.set_unproved(true);
    assert_eq!(state(&engine), State::Stale);
    let calls = world.vault.counts().requests();
    let refused = engine.view().refresh("db").await.err().unwrap();
    assert_eq!(refused.code(), Code::IdentityUnproved);
    assert_eq!(world.vault.counts().requests(), calls);
    world.vault.set("db", "two");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let pass = engine.pass().await;
    assert!(pass.wrote.is_none() && pass.changed.is_empty());
    assert_eq!(std::fs::read(place.path().join("db")).unwrap(), b"one");
    assert_eq!(engine.view().get("db").unwrap().value.as_ref().unwrap().expose(), b"one");

    engine.set_unproved(false);
    engine.pass().await;
    assert_eq!(std::fs::read(place.path().join("db")).unwrap(), b"two");
    assert_eq!(state(&engine), State::Fresh);
}

#[tokio::test(start_paused = true)]
async fn another_declaration_replaces_files_in_one_swap_and_reads_nothing_that_both_declare_again() {
    let (place, world) = (directory(), World::new());
    for name in ["a", "b", "c"] {
        world.vault.set(name, name);
    }
    let mut engine = world.engine(&["a", "b"]);
    engine.set_outputs(outputs(place.path()));
    engine.ready().await;
    engine.pass().await;
    engine.redeclare(world.declared(&["b", "c"]));
    engine.ready().await;
    let pass = engine.pass().await;
    assert!(matches!(pass.wrote, Some(Committed::Swapped { files: 2, .. })));
    let names: Vec<_> = engine.versions().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b", "c"]);
    assert!(!place.path().join("a").exists() && place.path().join("c").exists());
}

/// Work of other pods that holds every place of the pool until it is dropped.
async fn all_places(pool: &Conversions) -> Vec<std::sync::mpsc::Sender<()>> {
    let mut held = Vec::new();
    // At most four places; the fifth pod waits for one.
    for pod in 0..5 {
        let payer = pool.payer(&format!("other-{pod}"));
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let (began, has_begun) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            payer
                .run(move |_| {
                    let _ = began.send(());
                    let _ = gate.recv();
                })
                .await
        });
        held.push(open);
        // Whoever does not begin while the others work has found all places taken.
        if tokio::time::timeout(Duration::from_millis(200), has_begun).await.is_err() {
            break;
        }
    }
    held
}

/// One thread runs this test: whatever it does while the loops convert, it does beside them.
#[tokio::test]
async fn eight_loops_over_an_old_version_leave_the_thread_to_others_and_convert_it_once() {
    let world = World::new();
    let old = world.vault.set("db", "b25l");
    world.vault.set("db", "dHdv");
    world.vault.set("plain", "value");
    let mut engine = world.engine(&["db, decode: base64", "plain"]);
    engine.ready().await;
    assert!(engine.pass().await.missing.is_empty());
    let converted = world.pool.converted();
    let held = all_places(&world.pool).await;
    let loops: Vec<_> = (0..8)
        .map(|_| {
            let (view, old) = (Arc::clone(engine.view()), old.to_string());
            tokio::spawn(async move {
                for _ in 0..20 {
                    assert_eq!(
                        view.version("db", &old).await.unwrap().value.as_ref().unwrap().expose(),
                        b"one"
                    );
                }
                view.refresh("db").await.unwrap();
            })
        })
        .collect();
    // Other volumes are published, looked up and refreshed meanwhile.
    let mut other = world.engine(&["plain"]);
    other.ready().await;
    assert!(other.pass().await.missing.is_empty());
    assert_eq!(other.view().refresh("plain").await.unwrap().value.as_ref().unwrap().expose(), b"value");
    assert_eq!(engine.view().get("db").unwrap().value.as_ref().unwrap().expose(), b"two");
    assert!(loops.iter().all(|one| !one.is_finished()), "they wait for their turn");
    assert_eq!(world.pool.converted(), converted);
    drop(held);
    for one in loops {
        one.await.unwrap();
    }
    assert_eq!(world.pool.converted(), converted + 1, "160 reads of one old version");
}

#[tokio::test]
async fn an_object_with_a_thousand_aliases_is_converted_once() {
    let world = World::new();
    world.vault.set("db", "b25l");
    let names: Vec<_> = (0..1000).map(|number| format!("db, name: a{number}, decode: base64")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut engine = world.engine(&names);
    engine.ready().await;
    assert!(engine.pass().await.missing.is_empty());
    assert_eq!(engine.view().get("a999").unwrap().value.as_ref().unwrap().expose(), b"one");
    assert_eq!(world.pool.converted(), 1);
}

#[tokio::test]
async fn a_pass_that_is_given_up_changes_nothing_and_the_next_one_delivers() {
    let (place, world) = (directory(), World::new());
    world.vault.set("db", "b25l");
    let mut engine = world.engine(&["db, decode: base64"]);
    engine.set_outputs(outputs(place.path()));
    engine.ready().await;
    let held = all_places(&world.pool).await;
    tokio::select! {
        biased;
        _ = engine.pass() => panic!("all places are taken"),
        () = std::future::ready(()) => {}
    }
    // Calls that wait for a conversion end with the volume.
    let refresh = tokio::spawn({
        let view = Arc::clone(engine.view());
        async move { view.refresh("db").await.map(drop) }
    });
    tokio::task::yield_now().await;
    drop(held);
    let pass = engine.pass().await;
    assert!(matches!(pass.wrote, Some(Committed::Swapped { files: 1, .. })));
    assert_eq!(std::fs::read(place.path().join("db")).unwrap(), b"one");
    refresh.await.unwrap().unwrap();
    let held = all_places(&world.pool).await;
    let old = world.vault.set("db", "dHdv");
    let version = tokio::spawn({
        let view = Arc::clone(engine.view());
        async move { view.version("db", old.as_str()).await.map(drop) }
    });
    tokio::task::yield_now().await;
    engine.view().close();
    assert_eq!(version.await.unwrap().unwrap_err().code(), Code::ShuttingDown);
    drop(held);
}

#[tokio::test]
async fn what_was_tampered_with_is_written_again_without_a_conversion() {
    let (place, world) = (directory(), World::new());
    world.vault.set("db", "b25l");
    let mut engine = world.engine(&["db, decode: base64"]);
    assert!(engine.rewrite().await.is_none(), "nothing was delivered yet");
    engine.ready().await;
    engine.snapshot_tree().await;
    engine.set_outputs(outputs(place.path()));
    let held = all_places(&world.pool).await;
    assert!(matches!(engine.deliver().await.wrote, Some(Committed::Swapped { files: 1, .. })));
    std::fs::remove_file(place.path().join("..data")).unwrap();
    engine.distrust().await;
    assert!(matches!(engine.rewrite().await.unwrap().wrote, Some(Committed::Swapped { .. })));
    assert_eq!(std::fs::read(place.path().join("db")).unwrap(), b"one");
    drop(held);
}

/// A world whose pod may hold `bytes`, in volumes of at most `most`.
fn narrow(bytes: usize, most: usize) -> World {
    use keyward_core::ledger::{Ledger, Limit, Limits};

    let limit = Limit {
        pod: bytes,
        node: bytes,
        own: 0,
        pod_setting: "limits.bytesPerPod",
        node_setting: "limits.bytesPerNode",
    };
    let mut world = World::new();
    world.parts.account = Ledger::new(Limits::default().with_bytes(limit)).account("u-1");
    world.parts.most_payload = most;
    world
}

#[tokio::test(start_paused = true)]
async fn a_first_delivery_that_would_hold_too_much_is_refused_and_nothing_is_written() {
    for (bytes, most, setting) in
        [(1 << 20, 99, "limits.bytesPerVolume"), (600, 1 << 20, "limits.bytesPerPod")]
    {
        let (place, world) = (directory(), narrow(bytes, most));
        world.vault.set("db", &"x".repeat(100));
        let mut engine = world.engine(&["db"]);
        engine.set_outputs(outputs(place.path()));
        engine.ready().await;
        let missing = engine.pass().await.missing;
        assert_eq!(missing[0].1.code(), Code::NoSpace);
        assert!(missing[0].1.message().contains(setting), "{}", missing[0].1);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        drop(engine);
        assert_eq!(world.parts.account.held().bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_would_hold_too_much_leaves_the_volume_as_it_is_and_says_so() {
    let (place, world) = (directory(), narrow(1 << 20, 100));
    world.vault.set("db", &"x".repeat(100));
    let mut engine = world.engine(&["db"]);
    engine.set_outputs(outputs(place.path()));
    engine.ready().await;
    assert!(engine.pass().await.failure.is_none());
    let shown = |engine: &Engine| {
        let served = engine.view().get("db").unwrap();
        let length = served.value.as_ref().unwrap().len();
        (length, served.state, served.error.as_ref().map(Error::code))
    };
    assert_eq!(shown(&engine), (100, State::Fresh, None));

    world.vault.set("db", &"y".repeat(101));
    let rotated = Instant::now();
    let failure = loop {
        engine.changed().await;
        if let Some(failure) = engine.pass().await.failure {
            break failure;
        }
        assert!(rotated.elapsed() < Duration::from_secs(3600), "the rotation was never refused");
    };
    assert_eq!(failure.code(), Code::NoSpace);
    assert_eq!(std::fs::read(place.path().join("db")).unwrap(), "x".repeat(100).as_bytes());
    assert_eq!(shown(&engine), (100, State::Stale, Some(Code::NoSpace)));

    world.vault.set("db", "z");
    while engine.pass().await.failure.is_some() {
        engine.changed().await;
        assert!(rotated.elapsed() < Duration::from_secs(3600), "what fits again was never shown");
    }
    assert_eq!(std::fs::read(place.path().join("db")).unwrap(), b"z");
    assert_eq!(shown(&engine), (1, State::Fresh, None));
}

#[tokio::test(start_paused = true)]
async fn a_declaration_that_would_hold_too_much_does_not_replace_the_one_before() {
    let (place, world) = (directory(), narrow(1 << 20, 100));
    for (name, length) in [("a", 60), ("b", 41), ("c", 40)] {
        world.vault.set(name, &"x".repeat(length));
    }
    let _read = world.parts.broker.watch(items(&world.declared(&["a", "b", "c"])));
    let mut engine = world.engine(&["a"]);
    engine.set_outputs(outputs(place.path()));
    engine.ready().await;
    engine.pass().await;
    let error = engine.fits(world.declared(&["a", "b"])).await.unwrap_err();
    assert_eq!(error.code(), Code::NoSpace);
    assert_eq!(engine.declared().specs.len(), 1);
    assert!(engine.pass().await.failure.is_none());
    engine.fits(world.declared(&["a", "c"])).await.unwrap();
    engine.redeclare(world.declared(&["a", "c"]));
    assert!(engine.pass().await.failure.is_none());
    assert!(place.path().join("c").exists() && !place.path().join("b").exists());
}

#[tokio::test(start_paused = true)]
async fn each_pod_pays_for_the_values_that_it_watches_and_gets_back_what_it_lets_go() {
    let world = narrow(1 << 20, 1 << 20);
    world.vault.set("db", &"x".repeat(1000));
    let (mut one, mut two) = (world.engine(&["db"]), world.engine(&["db"]));
    for engine in [&mut one, &mut two] {
        engine.ready().await;
        engine.pass().await;
    }
    let cached = world.parts.account.held().of(Kind::Cached);
    assert!((3000..4000).contains(&cached), "{cached}");
    drop(one);
    assert_eq!(world.parts.account.held().of(Kind::Cached), cached / 2);
    drop(two);
    assert_eq!(world.parts.account.held().of(Kind::Cached), 0);
}
