//! Faults of listings and of versions.

use std::sync::Arc;
use std::time::Duration;

use keyward_emulator::{Effect, Emulator, Fault, TokioClock};
use serde_json::Value;

use crate::client::{World, in_process, world};

async fn names(world: &World) -> Vec<String> {
    let reply = world.handle("/secrets").await.reply().expect("reply");
    let page: Value = serde_json::from_slice(reply.complete_body().expect("whole")).expect("JSON");
    let name = |entry: &Value| entry["id"].as_str().and_then(|id| id.rsplit('/').next()).map(str::to_owned);
    page["value"].as_array().expect("entries").iter().filter_map(name).collect()
}

async fn next_link(world: &World) -> String {
    world.get("/secrets").await.json()["nextLink"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_next_page_may_be_at_a_foreign_origin() {
    let world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    assert_eq!(next_link(&world).await, "");
    let origin = "https://evil.example".to_owned();
    world.emulator.faults().set(Fault::on("secrets.list", Effect::ForeignNextLink { origin }));
    assert!(next_link(&world).await.starts_with("https://evil.example/secrets?"));
}

#[tokio::test]
async fn an_endless_listing_always_names_the_same_next_page() {
    let world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    world.emulator.faults().set(Fault::on("secrets.list", Effect::EndlessNextLink));
    let first = next_link(&world).await;
    let path = first
        .strip_prefix("https://shop.vault.azure.net:443")
        .expect("own origin")
        .replace("api-version=7.4&", "");
    assert_eq!(world.get(&path).await.json()["nextLink"], first.as_str());
}

#[tokio::test(start_paused = true)]
async fn a_lagging_listing_shows_the_past_while_gets_do_not() {
    let clock = Arc::new(TokioClock::starting_at(1_800_000_000));
    let world = in_process(Emulator::builder().clock(clock));
    let shop = world.emulator.vault("shop");
    shop.set_secret("old", "x");
    tokio::time::sleep(Duration::from_secs(60)).await;
    shop.set_secret("new", "x");
    shop.delete_secret("old");
    assert_eq!(names(&world).await, ["new"]);
    world.emulator.faults().set(Fault::on("*.list", Effect::LaggingList { millis: 30_000 }));
    assert_eq!(names(&world).await, ["new"], "the pattern names no operation");
    world.emulator.faults().set(Fault::on("secrets.list", Effect::LaggingList { millis: 30_000 }));
    assert_eq!(names(&world).await, ["old"]);
    assert_eq!((world.status("/secrets/new").await, world.status("/secrets/old").await), (200, 404));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(names(&world).await, ["new"]);
}

#[tokio::test(start_paused = true)]
async fn versions_written_while_time_stands_still_share_their_second() {
    let clock = Arc::new(TokioClock::starting_at(1_800_000_000));
    let world = in_process(Emulator::builder().clock(clock));
    let shop = world.emulator.vault("shop");
    let fault = world.emulator.faults().set(Fault::on("secrets.set", Effect::FrozenSecond));
    let mut seen = Vec::new();
    for value in ["one", "two"] {
        let version = shop.rotate_secret("db", value);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let reply = world.handle("/secrets/db").await.reply().expect("reply");
        let body: Value = serde_json::from_slice(reply.complete_body().expect("whole")).expect("JSON");
        assert_eq!(body["value"], value);
        seen.push((version, body["attributes"]["updated"].as_i64()));
    }
    assert_ne!(seen[0].0, seen[1].0);
    assert_eq!(seen[0].1, seen[1].1);
    world.emulator.faults().clear(fault);
    shop.rotate_secret("db", "three");
    let reply = world.handle("/secrets/db").await.reply().expect("reply");
    let body: Value = serde_json::from_slice(reply.complete_body().expect("whole")).expect("JSON");
    assert_eq!(body["attributes"]["updated"], 1_800_000_010);
}
