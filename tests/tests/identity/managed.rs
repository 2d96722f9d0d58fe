use std::time::Duration;

use keyward_core::{Code, SecretBytes};
use keyward_emulator::{Effect, Fault, Registration};
use keyward_identity::{IdentitySettings, ManagedEndpoint, Selector};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::setup::World;

const RESOURCE_ID: &str =
    "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/web";

fn app_service(world: &World, selector: Selector) -> IdentitySettings {
    let header = SecretBytes::from(world.emulator.app_service_secret().to_owned());
    let endpoint = ManagedEndpoint::AppService { endpoint: world.emulator.app_service_url(), header };
    IdentitySettings::ManagedIdentity { selector, endpoint }
}

#[tokio::test]
async fn limit_3_every_selector_works_on_imds_and_on_app_service() {
    let world = World::new().await;
    let registration =
        Registration::user_assigned(RESOURCE_ID).object_id("0b0b0b0b-0000-4000-8000-000000000001");
    let client_id = world.register(registration);
    world.register(Registration::user_assigned("/subscriptions/s/other"));
    for selector in [
        Selector::ClientId(client_id),
        Selector::ObjectId("0b0b0b0b-0000-4000-8000-000000000001".to_owned()),
        Selector::ResourceId(RESOURCE_ID.to_owned()),
    ] {
        world.works(world.imds(selector.clone())).await;
        world.works(app_service(&world, selector)).await;
    }
    assert_eq!((world.requests("token.imds"), world.requests("token.app-service")), (3, 3));
}

#[tokio::test]
async fn the_system_assigned_identity_needs_no_selector() {
    let world = World::new().await;
    world.register(Registration::system_assigned());
    world.works(world.imds(Selector::System)).await;
    world.works(app_service(&world, Selector::System)).await;
}

#[tokio::test]
async fn an_identity_that_is_not_assigned_is_a_clear_error_and_not_asked_for_again() {
    let world = World::new().await;
    let error = world.token(world.imds(Selector::ClientId("11111111-0000".to_owned()))).await.err().unwrap();
    assert_eq!(error.code(), Code::IdentityNotAssigned);
    assert!(error.to_string().contains("11111111-0000") && error.message().contains("client_id"), "{error}");
    assert_eq!(world.requests("token.imds"), 1);
}

#[tokio::test]
async fn several_identities_without_a_selector_are_told_apart_from_none() {
    let world = World::new().await;
    world.register(Registration::user_assigned(RESOURCE_ID));
    world.register(Registration::user_assigned("/subscriptions/s/other"));
    let error = world.token(world.imds(Selector::System)).await.err().unwrap();
    assert_eq!(error.code(), Code::IdentityNotAssigned);
    assert!(error.message().contains("client id"), "{error}");
}

#[tokio::test]
async fn limit_5_a_404_of_imds_is_tried_again_after_at_least_a_second() {
    let world = World::new().await;
    world.register(Registration::system_assigned());
    let once = Fault::on("token.imds", Effect::Status { status: 404, retry_after: None }).times(1);
    world.emulator.faults().set(once);
    let start = Instant::now();
    world.works(world.imds(Selector::System)).await;
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(world.requests("token.imds"), 2);
}

#[tokio::test]
async fn a_429_of_imds_is_tried_again_after_the_wait_that_it_asks_for() {
    let world = World::new().await;
    world.register(Registration::system_assigned());
    let once = Fault::on("token.imds", Effect::Throttle { retry_after: Some("3".to_owned()) }).times(1);
    world.emulator.faults().set(once);
    let start = Instant::now();
    world.works(world.imds(Selector::System)).await;
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn limit_5_where_there_is_no_metadata_service_the_answer_comes_fast_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let world = World::new().await;
    let endpoint = ManagedEndpoint::Imds { base_url };
    let start = Instant::now();
    let error = world
        .token(IdentitySettings::ManagedIdentity { selector: Selector::System, endpoint })
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::TokenUnavailable);
    assert!(error.message().contains("no Azure machine"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_wrong_identity_header_is_refused_and_not_shown() {
    let world = World::new().await;
    world.register(Registration::system_assigned());
    let header = SecretBytes::copy_from(b"not-the-header");
    let endpoint = ManagedEndpoint::AppService { endpoint: world.emulator.app_service_url(), header };
    let settings = IdentitySettings::ManagedIdentity { selector: Selector::System, endpoint };
    let error = world.token(settings).await.err().unwrap();
    assert_eq!(error.code(), Code::TokenRefused);
    assert!(
        error.message().contains("IDENTITY_HEADER") && !error.to_string().contains("not-the-header"),
        "{error}"
    );
}

#[tokio::test]
async fn limit_1_a_metadata_service_further_away_than_the_next_network_is_refused() {
    let world = World::new().await;
    let endpoint = ManagedEndpoint::Imds { base_url: "http://imds.example".to_owned() };
    let settings = IdentitySettings::ManagedIdentity { selector: Selector::System, endpoint };
    assert_eq!(world.token(settings).await.err().unwrap().code(), Code::AddressRefused);
}
