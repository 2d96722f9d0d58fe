//! The three incidents that come with the emulator, over their full length.

use keyward_core::{ErrorKind, State};
use keyward_emulator::Schedule;
use tokio::time::sleep;

use crate::world::{HOUR, MINUTE, NAMES, Proof, World, text};

/// What readers saw of an incident.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    lookups: u64,
    failed: u64,
    denied: u64,
    stale: u64,
    files_lost: u64,
    /// Requests that were refused, failed or left without an answer.
    felt: u64,
    /// Minutes from the last write until it was seen, at the most.
    slowest_rotation: u64,
}

#[tokio::test(start_paused = true)]
async fn five_days_of_intermittent_403_and_four_hours_of_refusals_take_nothing_from_anyone() {
    let seen = replay("lt7p-9w0", Proof::Federated, "westeurope", MINUTE).await;
    assert!(seen.stale > 0 && seen.slowest_rotation < 60, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_region_without_tokens_for_managed_identities_takes_nothing_from_anyone() {
    // Half of a machine's token's life is over in the middle of the incident.
    replay("ftvr-l9z", Proof::Machine, "eastus", HOUR * 10).await;
}

#[tokio::test(start_paused = true)]
async fn six_hours_of_failing_token_service_take_nothing_from_anyone() {
    replay("m5b-9rz", Proof::Federated, "westeurope", MINUTE).await;
}

/// Runs for `before`, then through the incident and an hour beyond, one rotation each hour and nobody restarted.
#[expect(clippy::print_stdout, reason = "the summary is what the test is for")]
async fn replay(name: &str, proof: Proof, region: &str, before: std::time::Duration) -> Seen {
    let world = World::new(proof, region, 0).await;
    world.watch().ready().await;
    sleep(before).await;
    assert!(world.all_are(State::Fresh, "first").await, "the world begins well");
    let schedule = Schedule::named(name).unwrap();
    let hours = schedule.hours();
    world.emulator.counters().reset();
    world.emulator.play(schedule, 1.0);

    let mut seen = Seen::default();
    let mut written = ("first".to_owned(), 0);
    let mut minute = 0;
    while !world.emulator.playing().is_empty() || minute < (hours * 60.0) as u64 {
        if minute % 60 == 30 {
            written = (format!("written in minute {minute}"), minute);
            NAMES.iter().for_each(|object| drop(world.vault().rotate_secret(object, &written.0)));
        }
        sleep(MINUTE).await;
        minute += 1;
        for object in NAMES {
            seen.lookups += 1;
            match world.lookup(object).await {
                Ok(snapshot) => {
                    seen.stale += u64::from(snapshot.state == State::Stale);
                    if text(&snapshot) != written.0 {
                        seen.slowest_rotation = seen.slowest_rotation.max(minute - written.1);
                    }
                }
                Err(error) => {
                    seen.failed += 1;
                    seen.denied += u64::from(error.kind() == ErrorKind::Forbidden);
                }
            }
            seen.files_lost += u64::from(world.pod.file(object).is_none());
        }
    }
    // By itself: nobody restarts anything.
    sleep(MINUTE * 20).await;
    assert!(world.all_are(State::Fresh, &written.0).await, "{name}: no recovery");
    assert!(NAMES.iter().all(|object| world.pod.file(object).as_ref() == Some(&written.0)), "{name}");
    let rows = world.emulator.counters().rows();
    let asked: u64 = rows.iter().map(|row| row.count).sum();
    let bad = |status| matches!(status, 0 | 403 | 429 | 500..);
    seen.felt = rows.iter().filter(|row| bad(row.status)).map(|row| row.count).sum();
    println!(
        "{name}: {hours} h, {} lookups: {} failed, {} denied, {} stale; {} files lost; slowest rotation seen after \
         {} min; {asked} requests, {} of them in vain; 0 restarts",
        seen.lookups, seen.failed, seen.denied, seen.stale, seen.files_lost, seen.slowest_rotation, seen.felt,
    );
    assert!(seen.felt > 0, "{name} was felt");
    assert_eq!((seen.failed, seen.denied, seen.files_lost), (0, 0, 0), "{name}: {seen:?}");
    seen
}
