//! Every fault at start-up, in steady state and during a rotation: what readers get, minute by minute.

use std::collections::BTreeSet;

use keyward_core::State;
use tokio::time::{sleep, timeout};

use crate::rows::{Row, rows};
use crate::world::{MINUTE, NAMES, Proof, SECOND_PAGE, World, text};

#[tokio::test(start_paused = true)]
async fn at_start_up_a_reader_is_told_the_cause_and_served_soon_after_it_ends() {
    for row in rows() {
        let name = row.name();
        let world = World::new(Proof::Federated, "westeurope", SECOND_PAGE).await;
        let fault = world.emulator.faults().set(row.fault.clone());
        let watch = world.watch();
        let answered = timeout(MINUTE * 3, watch.ready()).await;
        assert!(answered.is_ok(), "{name}: start-up must not hang");
        for _ in 0..5 {
            for object in NAMES {
                let result = world.lookup(object).await;
                match row.first {
                    Some(kinds) => {
                        let error = result.err().unwrap_or_else(|| panic!("{name}: a value appeared"));
                        assert!(kinds.contains(&error.kind()), "{name}: {error}");
                        assert_eq!(world.pod.file(object), None, "{name}");
                    }
                    None => assert_eq!(result.map(|snapshot| text(&snapshot)).unwrap(), "first", "{name}"),
                }
            }
            sleep(MINUTE).await;
        }
        world.emulator.faults().clear(fault);
        sleep(MINUTE * 5).await;
        assert!(world.all_are(State::Fresh, "first").await, "{name}: no recovery");
        assert!(NAMES.iter().all(|object| world.pod.file(object).as_deref() == Some("first")), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_steady_state_no_reader_notices_but_by_the_word_stale() {
    for row in rows() {
        let name = row.name();
        let (world, fault) = settled(&row).await;
        let mut stale = BTreeSet::new();
        each_minute(&world, &row, |object, state, value| {
            assert_eq!(value, "first", "{name}: {object}");
            let again = state == State::Fresh && stale.contains(object);
            assert!(!again || row.first.is_none(), "{name}: {object} is fresh again without cause");
            stale.extend((state == State::Stale).then(|| object.to_owned()));
        })
        .await;
        if row.first.is_some() {
            assert!(world.all_are(State::Stale, "first").await, "{name}: nobody was told");
        }
        world.emulator.faults().clear(fault);
        recovered(&world, &row, "first").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_during_a_fault_shows_at_the_latest_after_it_and_the_old_value_until_then() {
    for row in rows() {
        let name = row.name();
        let (world, fault) = settled(&row).await;
        let blocked = row.first.is_some();
        // A token in hand outlives the beginning of its endpoint's failure.
        let held = row.fault.operation.starts_with("token");
        NAMES.iter().for_each(|object| drop(world.vault().rotate_secret(object, "second")));
        let (mut minute, visible) = (0, row.visible);
        each_minute(&world, &row, |object, _, value| {
            minute += u32::from(object == NAMES[0]);
            assert!(
                value == "first" || (value == "second" && (!blocked || held)),
                "{name}: {object} is {value}"
            );
            if visible.is_some_and(|visible| MINUTE * minute > visible) {
                assert_eq!(value, "second", "{name}: {object} in minute {minute}");
            }
        })
        .await;
        world.emulator.faults().clear(fault);
        recovered(&world, &row, "second").await;
    }
}

/// A pod that runs well, and then the fault.
async fn settled(row: &Row) -> (World, u64) {
    let world = World::new(Proof::Federated, "westeurope", SECOND_PAGE).await;
    world.watch().ready().await;
    sleep(MINUTE * 2 + MINUTE / 2).await;
    assert!(world.all_are(State::Fresh, "first").await, "the world begins well");
    let fault = world.emulator.faults().set(row.fault.clone());
    (world, fault)
}

/// Looks at lookups and files once a minute for as long as the fault lasts: none ever fails or is missing.
async fn each_minute(world: &World, row: &Row, mut look: impl FnMut(&str, State, &str)) {
    let name = row.name();
    for minute in 0..row.lasts.as_secs() / 60 {
        sleep(MINUTE).await;
        for object in NAMES {
            let snapshot = world.lookup(object).await;
            let snapshot = snapshot.unwrap_or_else(|error| panic!("{name}, minute {minute}: {error}"));
            look(object, snapshot.state, &text(&snapshot));
            let file = world.pod.file(object);
            assert!(
                file.is_some_and(|file| ["first", "second"].contains(&file.as_str())),
                "{name}: {object} lost"
            );
        }
    }
}

async fn recovered(world: &World, row: &Row, value: &str) {
    let name = row.name();
    let limit = if row.first.is_none() { MINUTE * 12 } else { MINUTE * 6 };
    sleep(limit).await;
    assert!(world.all_are(State::Fresh, value).await, "{name}: no recovery");
    assert!(NAMES.iter().all(|object| world.pod.file(object).as_deref() == Some(value)), "{name}");
}
