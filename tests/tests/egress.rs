//! The outbound client against the emulator's vaults: pinning, limits, gate, protocols.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use keyward_core::observe::Silent;
use keyward_core::{Code, Result, SystemClock, VaultHost};
use keyward_egress::{Egress, EgressSettings, Response, TlsFloor};
use keyward_emulator::{Builder, Effect, Emulator, Fault, Permission, Registration, TlsVersions};
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

const HOST: &str = "shop.vault.azure.net";

struct World {
    emulator: Emulator,
    egress: Arc<Egress>,
    bearer: HeaderValue,
}

impl World {
    async fn new(builder: Builder, change: impl FnOnce(&mut EgressSettings)) -> Self {
        let emulator = builder.vault("shop").start().await.unwrap();
        let shop = emulator.vault("shop");
        for number in 0..60 {
            shop.set_secret(&format!("s{number}"), "hunter2");
        }
        let app = emulator.identities().register(Registration::application());
        shop.assign(&app, [Permission::SECRETS_GET, Permission::SECRETS_LIST]);
        let token = emulator.mint_access_token(&app, "https://vault.azure.net", Duration::from_secs(3600));
        let mut settings = EgressSettings {
            extra_roots_pem: Some(emulator.ca_pem().into_bytes()),
            resolve: vec![(HOST.to_owned(), emulator.vault_addr())],
            ..EgressSettings::default()
        };
        change(&mut settings);
        let egress = Egress::new(settings, Arc::new(SystemClock), Arc::new(Silent)).unwrap();
        Self { emulator, egress, bearer: HeaderValue::try_from(format!("Bearer {token}")).unwrap() }
    }

    async fn get(&self, url: &str) -> Result<Response> {
        let transport = self.egress.vault_transport(&VaultHost::parse(HOST).unwrap());
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, self.bearer.clone())]);
        transport.send(Method::GET, &Url::parse(url).unwrap(), headers, Bytes::new()).await
    }

    async fn secret(&self, number: usize) -> Result<Response> {
        self.get(&format!("https://{HOST}/secrets/s{number}/?api-version=7.4")).await
    }

    fn fault(&self, effect: Effect) {
        self.emulator.faults().set(Fault::on("vault.*", effect));
    }

    async fn code_under(&self, effect: Effect) -> Code {
        self.fault(effect);
        let code = self.secret(0).await.err().unwrap().code();
        self.emulator.faults().clear_all();
        code
    }
}

async fn fifty_at_once(world: Arc<World>) -> u64 {
    let mut reads = JoinSet::new();
    for number in 0..50 {
        let world = Arc::clone(&world);
        reads.spawn(async move { world.secret(number).await.ok().unwrap().status });
    }
    assert_eq!(reads.join_all().await, vec![200; 50]);
    world.emulator.counters().connections().accepted
}

#[tokio::test]
async fn fifty_first_reads_share_one_http2_connection() {
    let world = World::new(Emulator::builder(), |_| {}).await;
    assert_eq!(fifty_at_once(Arc::new(world)).await, 1);
}

#[tokio::test]
async fn fifty_first_reads_open_at_most_sixteen_http1_connections() {
    let world = World::new(Emulator::builder().http2(false), |_| {}).await;
    world.fault(Effect::Latency { millis: 20, jitter_millis: 0 });
    let connections = fifty_at_once(Arc::new(world)).await;
    assert!((2..=16).contains(&connections), "{connections}");
}

#[tokio::test]
async fn limit_13_a_foreign_next_link_is_not_followed_with_the_token() {
    let world = World::new(Emulator::builder(), |_| {}).await;
    world.fault(Effect::ForeignNextLink { origin: "https://evil.example".to_owned() });
    let page = world.get(&format!("https://{HOST}/secrets?api-version=7.4")).await.ok().unwrap();
    let page: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
    let next = page["nextLink"].as_str().unwrap();
    assert!(next.starts_with("https://evil.example/"), "{next}");
    assert_eq!(world.get(next).await.err().unwrap().code(), Code::OriginRefused);
}

#[tokio::test]
async fn limit_14_a_body_of_200_mib_is_refused() {
    let world = World::new(Emulator::builder(), |_| {}).await;
    assert_eq!(world.code_under(Effect::HugeBody { bytes: 200 << 20 }).await, Code::ResponseTooLarge);
    assert_eq!(world.secret(1).await.ok().unwrap().status, 200);
}

#[tokio::test]
async fn broken_answers_are_protocol_or_connection_errors() {
    for http2 in [true, false] {
        let world = World::new(Emulator::builder().http2(http2), |_| {}).await;
        assert_eq!(world.code_under(Effect::TruncatedBody { keep: 10 }).await, Code::VaultProtocol);
        assert_eq!(world.code_under(Effect::WrongContentType).await, Code::VaultProtocol);
        let reset = world.code_under(Effect::Reset).await;
        assert!(matches!(reset, Code::Connect | Code::VaultProtocol), "{reset:?}");
        assert_eq!(world.secret(1).await.ok().unwrap().status, 200);
    }
}

#[tokio::test]
async fn limit_15_a_vault_that_hangs_meets_the_deadline() {
    let world = World::new(Emulator::builder(), |_| {}).await;
    let start = Instant::now();
    assert_eq!(world.code_under(Effect::Hang).await, Code::Timeout);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert_eq!(world.secret(1).await.ok().unwrap().status, 200);
}

#[tokio::test]
async fn limit_16_a_429_holds_every_caller_of_the_vault() {
    let world = Arc::new(World::new(Emulator::builder(), |_| {}).await);
    let once = Fault::on("vault.*", Effect::Throttle { retry_after: Some("1".to_owned()) }).times(1);
    world.emulator.faults().set(once);
    assert_eq!(world.secret(0).await.ok().unwrap().status, 429);
    let start = Instant::now();
    let mut reads = JoinSet::new();
    for number in 0..20 {
        let world = Arc::clone(&world);
        reads.spawn(async move {
            world.secret(number).await.ok().unwrap();
            start.elapsed()
        });
    }
    let soonest = reads.join_all().await.into_iter().min().unwrap();
    assert!(soonest >= Duration::from_millis(950), "{soonest:?}");
}

#[tokio::test]
async fn a_gateway_with_tls_1_2_only_is_refused_until_an_administrator_lowers_the_floor() {
    let old = || Emulator::builder().tls(TlsVersions::Tls12);
    let world = World::new(old(), |_| {}).await;
    let error = world.secret(0).await.err().unwrap();
    assert_eq!(error.code(), Code::TlsVersion);
    assert!(error.message().contains(HOST) && error.message().contains("minimumVersion"), "{error}");
    let world =
        World::new(old(), |settings| settings.host_floors = vec![(HOST.to_owned(), TlsFloor::Tls12)]).await;
    assert_eq!(world.secret(0).await.ok().unwrap().status, 200);
}

#[tokio::test]
async fn limit_20_a_vault_is_never_asked_without_tls() {
    let world = World::new(Emulator::builder(), |_| {}).await;
    let plain = world.get(&format!("http://{HOST}/secrets/s0/?api-version=7.4")).await.err().unwrap();
    assert_eq!(plain.code(), Code::OriginRefused);
    assert_eq!(world.emulator.counters().requests("*"), 0);
}
