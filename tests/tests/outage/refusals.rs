//! What is no outage: an owner's definite no.

use keyward_core::{ErrorKind, State};
use keyward_emulator::{Effect, Fault, VaultHandle};
use tokio::time::sleep;

use crate::world::{HOUR, MINUTE, NAMES, Proof, World, text};

async fn settled() -> World {
    let world = World::new(Proof::Federated, "westeurope", 0).await;
    world.watch().ready().await;
    sleep(MINUTE * 2).await;
    assert!(world.all_are(State::Fresh, "first").await, "the world begins well");
    world
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_was_disabled_or_deleted_is_given_up_after_a_quarter_of_an_hour_and_comes_back() {
    type Act = fn(&VaultHandle, &str);
    let ways: [(&str, Act, Act, ErrorKind); 2] = [
        ("disabled", VaultHandle::disable_secret, VaultHandle::enable_secret, ErrorKind::Disabled),
        ("deleted", VaultHandle::delete_secret, VaultHandle::recover_secret, ErrorKind::NotFound),
    ];
    for (way, take, give_back, kind) in ways {
        let world = settled().await;
        take(&world.vault(), "db");
        for minute in 0..14 {
            sleep(MINUTE).await;
            let snapshot =
                world.lookup("db").await.unwrap_or_else(|error| panic!("{way}, {minute}: {error}"));
            assert_eq!((text(&snapshot).as_str(), world.pod.file("db").as_deref()), ("first", Some("first")));
        }
        assert_eq!(world.lookup("db").await.unwrap().state, State::Stale, "{way}");
        sleep(MINUTE * 8).await;
        assert_eq!(world.lookup("db").await.err().map(|error| error.kind()), Some(kind), "{way}");
        assert_eq!(world.pod.file("db"), None, "{way}: `onRevoke: remove` was asked for");
        // Nobody else is touched.
        for other in NAMES.iter().filter(|name| **name != "db") {
            assert_eq!(world.lookup(other).await.unwrap().state, State::Fresh, "{way}: {other}");
            assert_eq!(world.pod.file(other).as_deref(), Some("first"), "{way}: {other}");
        }
        give_back(&world.vault(), "db");
        sleep(MINUTE * 5).await;
        assert!(world.all_are(State::Fresh, "first").await, "{way}: no recovery");
        assert_eq!(world.pod.file("db").as_deref(), Some("first"), "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn forbidden_while_others_succeed_is_never_believed() {
    let world = settled().await;
    let effect = Effect::Forbidden { inner_code: "ForbiddenByRbac".to_owned() };
    world.emulator.faults().set(Fault::on("secrets.get", effect).for_object("db"));
    // A change makes the object be read rather than listed.
    world.vault().rotate_secret("db", "second");
    for _ in 0..(HOUR * 4).as_secs() / 60 {
        sleep(MINUTE).await;
        assert_eq!(text(&world.lookup("db").await.unwrap()), "first");
        assert_eq!(world.pod.file("db").as_deref(), Some("first"));
    }
    assert_eq!(world.lookup("db").await.unwrap().state, State::Stale);
    world.emulator.faults().clear_all();
    sleep(MINUTE * 6).await;
    assert_eq!(text(&world.lookup("db").await.unwrap()), "second");
    assert_eq!(world.pod.file("db").as_deref(), Some("second"));
}
