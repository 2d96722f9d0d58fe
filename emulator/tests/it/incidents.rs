//! The shipped schedules, replayed in paused time.

use std::sync::Arc;
use std::time::Duration;

use keyward_emulator::{Emulator, HandlerOutcome, ListenerKind, Registration, Schedule, TokioClock};

use crate::client::{World, in_process};

fn at_rest(region: &str) -> World {
    let clock = Arc::new(TokioClock::starting_at(1_800_000_000));
    let world = in_process(Emulator::builder().clock(clock).seed(3).region(region));
    world.emulator.identities().register(Registration::system_assigned());
    world.emulator.vault("shop").set_secret("db", "x");
    world
}

/// Asks every minute of the incident's own time, at 60 times its speed; the shares of each hour that failed.
async fn replay(world: &mut World, name: &str, managed_identity: bool) -> Vec<f64> {
    let schedule = Schedule::named(name).expect("shipped");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred hours")]
    let hours = schedule.hours().ceil() as u32;
    world.emulator.play(schedule, 60.0);
    let mut shares = Vec::new();
    let mut minutes = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..=hours {
        let mut failed = 0;
        for _ in 0..60 {
            minutes.tick().await;
            world.token = world.emulator.mint_access_token(
                &world.identity,
                "https://vault.azure.net",
                Duration::from_secs(3600),
            );
            let ok =
                if managed_identity { imds(world).await } else { world.status("/secrets/db").await == 200 };
            failed += u32::from(!ok);
        }
        shares.push(f64::from(failed) / 60.0);
    }
    shares
}

async fn imds(world: &World) -> bool {
    let request = http::Request::get(
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net",
    )
    .header("metadata", "true")
    .body(bytes::Bytes::new())
    .expect("request");
    // Whoever is left hanging gives up in the end.
    match tokio::time::timeout(Duration::from_millis(500), world.emulator.handle(ListenerKind::Imds, request))
        .await
    {
        Ok(HandlerOutcome::Reply(reply)) => reply.status.is_success(),
        Ok(HandlerOutcome::Hang | HandlerOutcome::Reset) | Err(_) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn lt7p_9w0_refuses_a_few_requests_for_five_days_and_most_for_four_hours() {
    let mut world = at_rest("anywhere");
    let shares = replay(&mut world, "LT7P-9W0", false).await;
    let days: f64 = shares[..120].iter().sum::<f64>() / 120.0;
    let storm: f64 = shares[120..124].iter().sum::<f64>() / 4.0;
    assert!((0.01..0.06).contains(&days), "{days}");
    assert!((0.5..0.9).contains(&storm), "{storm}");
    assert!(shares[124] < f64::EPSILON);
    assert_eq!(world.emulator.playing(), Vec::<String>::new());
    let counters = world.emulator.counters();
    assert_eq!(counters.with_status("secrets.get", 403) + counters.with_status("secrets.get", 200), 125 * 60);
}

#[tokio::test(start_paused = true)]
async fn ftvr_l9z_takes_managed_identity_tokens_from_one_region_and_no_vault() {
    let mut world = at_rest("eastus");
    let shares = replay(&mut world, "ftvr-l9z", true).await;
    assert!(shares[1..4].iter().all(|share| *share > 0.85), "{shares:?}");
    assert!(shares[6] < f64::EPSILON);
    let mut vault = at_rest("eastus");
    assert!(replay(&mut vault, "ftvr-l9z", false).await.iter().all(|share| *share < f64::EPSILON));
    let mut elsewhere = at_rest("westeurope");
    assert!(replay(&mut elsewhere, "ftvr-l9z", true).await.iter().all(|share| *share < f64::EPSILON));
}

#[tokio::test(start_paused = true)]
async fn m5b_9rz_takes_most_tokens_for_four_of_six_hours() {
    let mut world = at_rest("anywhere");
    let shares = replay(&mut world, "m5b-9rz", true).await;
    assert!(shares[1..5].iter().all(|share| *share > 0.75), "{shares:?}");
    assert!((0.05..0.6).contains(&shares[0]) && shares[6] < f64::EPSILON);
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_give_equal_versions_draws_and_outcomes() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mut world = at_rest("eastus");
        let version = world.emulator.vault("shop").set_secret("db", "y");
        runs.push((version, replay(&mut world, "m5b-9rz", true).await));
    }
    assert_eq!(runs[0], runs[1]);
}
