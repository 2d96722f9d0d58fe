//! What readers have after a restart: never anything older than what they were given.

use keyward_core::State;
use keyward_core::ledger::{Account, Ledger, Limit, Limits};
use keyward_delivery::saved;
use keyward_test_support::Fault;

use super::*;
use crate::{Found, Kept};

const AWAY: Option<Fault> = Some(Fault::Code(Code::VaultUnavailable));

/// A volume: what the pod sees, and what only Keyward does.
struct Place {
    files: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { files: directory(), state: directory() }
    }

    /// An engine that goes on with whatever an earlier one left here.
    fn engine(&self, world: &World, names: &[&str]) -> Engine {
        let (kept, found) = Kept::open(self.state.path(), &world.identity).unwrap();
        let found = Found { objects: world.parts.broker.restore(found.objects), ..found };
        let outputs = outputs(self.files.path());
        let mut engine = Engine::resume(world.parts.clone(), world.declared(names), Some(outputs), found);
        engine.set_kept(kept);
        engine
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.files.path().join(name)).unwrap()
    }

    /// The file that only Keyward reads.
    fn kept(&self) -> std::path::PathBuf {
        self.state.path().join(saved::ONLY)
    }
}

impl World {
    /// Another process over the same vault.
    fn again(&self) -> Self {
        let vault = Arc::clone(&self.vault);
        Self::over(vault, Arc::clone(&self.parts.clock))
    }
}

/// The value and state that the API gives, or the code of its refusal.
fn served(engine: &Engine, name: &str) -> std::result::Result<(String, State), Code> {
    let served = engine.view().get(name).unwrap();
    let text = |value: &keyward_core::SecretBytes| value.expose_str().unwrap().to_owned();
    served.value.as_ref().map(|value| (text(value), served.state)).map_err(Error::code)
}

fn stale(value: &str) -> std::result::Result<(String, State), Code> {
    Ok((value.to_owned(), State::Stale))
}

fn fresh(value: &str) -> std::result::Result<(String, State), Code> {
    Ok((value.to_owned(), State::Fresh))
}

async fn until(engine: &mut Engine, what: &str, is_so: impl Fn(&Engine) -> bool) {
    let begun = Instant::now();
    while !is_so(engine) {
        engine.changed().await;
        engine.pass().await;
        assert!(begun.elapsed() < Duration::from_secs(3600), "never: {what}");
    }
}

/// A volume of `db` that was given `one` and then `two`, and what was kept of either.
async fn rotated(world: &World, place: &Place) -> [Vec<u8>; 2] {
    world.vault.set("db", "one");
    let mut engine = place.engine(world, &["db"]);
    engine.ready().await;
    assert!(engine.pass().await.unkept.is_none());
    let one = std::fs::read(place.kept()).unwrap();
    world.vault.set("db", "two");
    until(&mut engine, "the second", |_| place.read("db") == "two").await;
    assert_eq!(served(&engine, "db"), fresh("two"));
    [one, std::fs::read(place.kept()).unwrap()]
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_with_the_vault_away_files_and_api_stay_at_what_was_delivered_last() {
    let (place, world) = (Place::new(), World::new());
    let [one, _] = rotated(&world, &place).await;
    world.vault.fail(AWAY);
    // Proved or not, however often, and whatever another pod of this identity had.
    for unproved in [true, false] {
        let world = world.again();
        world.parts.broker.restore(objects(&one));
        let mut engine = place.engine(&world, &["db"]);
        engine.set_unproved(unproved);
        for _ in 0..3 {
            engine.pass().await;
            assert_eq!((place.read("db").as_str(), served(&engine, "db")), ("two", stale("two")));
            engine.set_unproved(false);
            tokio::time::sleep(Duration::from_secs(90)).await;
        }
    }
    let world = world.again();
    let mut engine = place.engine(&world, &["db"]);
    engine.pass().await;
    world.vault.fail(None);
    world.vault.set("db", "one");
    until(&mut engine, "what the vault says now", |_| place.read("db") == "one").await;
    assert_eq!(served(&engine, "db"), fresh("one"), "an old value again, because the vault names it current");
}

/// The objects of a kept snapshot.
fn objects(bytes: &[u8]) -> Vec<keyward_broker::Saved> {
    let saved = saved::parse_all(bytes).unwrap().into_iter();
    let saved = saved.map(|object| keyward_broker::Saved {
        key: object.key,
        fetched: object.fetched,
        confirmed_wall: object.confirmed,
    });
    saved.collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_not_kept_is_not_made_up_from_anything_older() {
    let (place, world) = (Place::new(), World::new());
    let [one, _] = rotated(&world, &place).await;
    std::fs::remove_file(place.kept()).unwrap();
    world.vault.fail(AWAY);
    let world = world.again();
    world.parts.broker.restore(objects(&one));
    let mut engine = place.engine(&world, &["db"]);
    for _ in 0..3 {
        engine.pass().await;
        assert_eq!(place.read("db"), "two");
        assert_eq!(served(&engine, "db"), Err(Code::VaultUnavailable));
        assert!(!engine.is_complete());
        tokio::time::sleep(Duration::from_secs(90)).await;
    }
    world.vault.fail(None);
    until(&mut engine, "complete", Engine::is_complete).await;
    assert_eq!((place.read("db").as_str(), served(&engine, "db")), ("two", fresh("two")));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_release_kept_counts_only_where_the_files_agree() {
    let (place, world) = (Place::new(), World::new());
    let kept = rotated(&world, &place).await;
    world.vault.fail(AWAY);
    for (kept, expected) in kept.iter().zip([Err(Code::VaultUnavailable), stale("two")]) {
        // As that release wrote it: after the files, and under an older number.
        let mut old = kept[..kept.len() - 32].to_vec();
        old[7] = 1;
        let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &old);
        old.extend_from_slice(sum.as_ref());
        std::fs::write(place.kept(), &old).unwrap();
        let world = world.again();
        let mut engine = place.engine(&world, &["db"]);
        engine.pass().await;
        assert_eq!((place.read("db").as_str(), served(&engine, "db")), ("two", expected));
    }
}

#[tokio::test(start_paused = true)]
async fn killed_after_keeping_and_before_the_swap_the_file_waits_for_the_vault_and_the_api_has_what_it_may_have_shown()
 {
    let (place, world) = (Place::new(), World::new());
    world.vault.set("db", "one");
    world.vault.set("other", "1");
    let mut engine = place.engine(&world, &["db", "other"]);
    engine.ready().await;
    engine.pass().await;
    drop(engine);
    // Another volume's snapshot of the next version stands for the one of this volume that was written last.
    let next = Place::new();
    world.vault.set("db", "two");
    let again = world.again();
    let mut engine = next.engine(&again, &["db", "other"]);
    engine.ready().await;
    engine.pass().await;
    std::fs::copy(next.kept(), place.kept()).unwrap();

    world.vault.fail_object("db", AWAY);
    let world = world.again();
    let mut engine = place.engine(&world, &["db", "other"]);
    engine.pass().await;
    assert_eq!((place.read("db").as_str(), served(&engine, "db")), ("one", stale("two")));
    // One object's outage is no other's.
    world.vault.set("other", "2");
    until(&mut engine, "the other object", |_| place.read("other") == "2").await;
    assert_eq!((place.read("db").as_str(), served(&engine, "db")), ("one", stale("two")));
    world.vault.fail_object("db", None);
    until(&mut engine, "the object itself", |_| place.read("db") == "two").await;
    assert_eq!(served(&engine, "db"), fresh("two"));
}

#[tokio::test(start_paused = true)]
async fn two_pods_of_one_identity_go_on_each_with_what_it_was_given() {
    let (ahead, behind, world) = (Place::new(), Place::new(), World::new());
    world.vault.set("db", "one");
    let mut late = behind.engine(&world, &["db"]);
    late.ready().await;
    late.pass().await;
    late.set_unproved(true);
    rotated(&world, &ahead).await;
    late.pass().await;
    assert_eq!(behind.read("db"), "one");
    world.vault.fail(AWAY);
    let world = world.again();
    let (mut late, mut early) = (behind.engine(&world, &["db"]), ahead.engine(&world, &["db"]));
    for engine in [&mut late, &mut early] {
        engine.set_unproved(true);
        engine.pass().await;
    }
    assert_eq!((behind.read("db").as_str(), served(&late, "db")), ("one", stale("one")));
    assert_eq!((ahead.read("db").as_str(), served(&early, "db")), ("two", stale("two")));
    // A pod that proves the identity now, for the first time, is given the newest that is remembered.
    let mut first = world.engine(&["db"]);
    first.ready().await;
    first.pass().await;
    assert_eq!(served(&first, "db"), stale("two"));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_room_to_be_kept_is_delivered_and_told_of_and_a_restart_brings_nothing_older() {
    let (place, world) = (Place::new(), World::new());
    world.vault.set("db", "one");
    let limit = Limit { pod: 1000, pod_setting: "limits.bytesPerPod", ..Limit::NONE };
    let ledger = Ledger::new(Limits::default().with_bytes(limit));
    let account: Account = ledger.account("u-1");
    let kept = Kept::new(Arc::new(saved::open(place.state.path()).unwrap()), saved::ONLY, account.clone());
    let mut engine = world.engine(&["db"]);
    engine.set_outputs(outputs(place.files.path()));
    engine.set_kept(kept.clone());
    engine.ready().await;
    assert!(engine.pass().await.unkept.is_none());
    let held = account.held().of(keyward_core::ledger::Kind::Kept);
    assert_eq!(held as u64, std::fs::metadata(place.kept()).unwrap().len());

    let large = "x".repeat(1000);
    world.vault.set("db", &large);
    let mut unkept = None;
    while place.read("db") != large {
        engine.changed().await;
        unkept = engine.pass().await.unkept;
    }
    let unkept = unkept.unwrap();
    assert_eq!(unkept.code(), Code::NoSpace);
    assert!(unkept.message().contains("limits.bytesPerPod"), "{unkept}");
    assert!(!place.kept().exists());
    assert_eq!(account.held().of(keyward_core::ledger::Kind::Kept), 0);
    assert_eq!(engine.pass().await.unkept.map(|error| error.code()), Some(Code::NoSpace), "tried again");

    world.vault.set("db", "three");
    until(&mut engine, "the third", |_| place.read("db") == "three").await;
    assert!(place.kept().exists() && engine.pass().await.unkept.is_none());
    kept.forget().unwrap();
    assert!(!place.kept().exists());
    assert_eq!(account.held().of(keyward_core::ledger::Kind::Kept), 0);
    world.vault.set("db", "four");
    until(&mut engine, "the fourth", |_| place.read("db") == "four").await;
    assert!(!place.kept().exists(), "what was forgotten is not written again");
}

#[tokio::test(start_paused = true)]
async fn another_identity_takes_nothing_back_until_it_has_asked_for_itself() {
    let (place, world) = (Place::new(), World::new());
    world.vault.set("db", "one");
    let other = ModelVault::identity("c2");
    world.parts.broker.attach(Arc::clone(&other), Arc::clone(&world.vault) as Arc<dyn Provider>);
    let as_other = |refresh: &str| {
        let declared = world.declared(&[&format!("db, refresh: {refresh}")]);
        Declared { identity: Arc::clone(&other), ..declared }
    };
    // Holds the first version, and looks again only in an hour.
    let late = Engine::new(world.parts.clone(), as_other("1h"), None);
    late.ready().await;
    rotated(&world, &place).await;
    let mut engine = place.engine(&world, &["db"]);
    world.vault.set("db", "three");
    until(&mut engine, "the third", |_| place.read("db") == "three").await;
    world.vault.fail(AWAY);
    engine.redeclare(as_other("1h"));
    for _ in 0..5 {
        engine.pass().await;
        assert_eq!((place.read("db").as_str(), served(&engine, "db")), ("three", stale("three")));
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    world.vault.fail(None);
    let begun = Instant::now();
    until(&mut engine, "what it asked for itself", |engine| served(engine, "db") == fresh("three")).await;
    assert!(begun.elapsed() < Duration::from_secs(1200), "it was asked again, not an hour later");
    assert_eq!(place.read("db"), "three");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_new_after_a_restart_is_not_taken_from_what_others_had() {
    let (place, world) = (Place::new(), World::new());
    rotated(&world, &place).await;
    world.vault.set("new", "1");
    let other = Place::new();
    let mut engine = other.engine(&world, &["new"]);
    engine.ready().await;
    engine.pass().await;
    world.vault.fail(AWAY);
    let again = world.again();
    again.parts.broker.restore(objects(&std::fs::read(other.kept()).unwrap()));
    let mut engine = place.engine(&again, &["db"]);
    engine.pass().await;
    let watch = again.parts.broker.watch(items(&again.declared(&["new"])));
    assert!(!engine.would_show(&watch.snapshots()[0]));
    world.vault.fail(None);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(engine.would_show(&watch.snapshots()[0]));
}

#[tokio::test(start_paused = true)]
async fn values_are_kept_again_with_the_time_at_which_they_were_confirmed_last() {
    let (place, world) = (Place::new(), World::new());
    rotated(&world, &place).await;
    let mut engine = place.engine(&world, &["db"]);
    engine.ready().await;
    engine.pass().await;
    let age = || objects(&std::fs::read(place.kept()).unwrap())[0].confirmed_wall;
    let before = age();
    tokio::time::sleep(Duration::from_secs(300)).await;
    let kept = engine.kept().unwrap().clone();
    kept.renew(&world.parts.broker, Duration::from_secs(3600)).unwrap();
    assert_eq!(age(), before, "not worth a write yet");
    kept.renew(&world.parts.broker, Duration::from_secs(60)).unwrap();
    assert!(age() >= before + Duration::from_secs(200), "{:?} after {before:?}", age());
}

#[tokio::test(start_paused = true)]
async fn a_volume_whose_mark_is_gone_is_written_anew_from_what_was_kept_of_it_alone() {
    let (place, world) = (Place::new(), World::new());
    let [one, _] = rotated(&world, &place).await;
    world.vault.fail(AWAY);
    std::fs::remove_file(place.files.path().join("..data")).unwrap();
    let again = world.again();
    again.parts.broker.restore(objects(&one));
    let mut engine = place.engine(&again, &["db"]);
    engine.pass().await;
    assert_eq!((place.read("db").as_str(), served(&engine, "db")), ("two", stale("two")));
}
