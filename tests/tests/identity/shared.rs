use std::sync::Arc;
use std::time::Duration;

use keyward_core::observe::Silent;
use keyward_core::{Clock, Code, SecretBytes, SystemClock, TokenSource as _, UnixTime};
use keyward_emulator::{Effect, Fault, IDENTITY_BINDING_AUDIENCE, TOKEN_EXCHANGE_AUDIENCE};
use keyward_identity::{CaSource, Credential, ManagedEndpoint, Selector, SharedIdentity, SharedSettings};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::setup::{SECRET, VAULT, World};

const HOUR: Duration = Duration::from_secs(3600);

/// The system's clocks, moved ahead by hand.
#[derive(Default)]
struct Ahead(Mutex<Duration>);

impl Clock for Ahead {
    fn wall(&self) -> UnixTime {
        SystemClock.wall() + *self.0.lock()
    }

    fn boot(&self) -> Duration {
        SystemClock.boot() + *self.0.lock()
    }
}

impl Ahead {
    fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

/// One shared workload identity that trusts the pods of `shop/web`.
struct Node {
    world: World,
    clock: Arc<Ahead>,
    shared: Arc<SharedIdentity>,
}

impl Node {
    async fn new() -> Self {
        let world = World::new().await;
        let client_id = world.federated(TOKEN_EXCHANGE_AUDIENCE);
        let settings = SharedSettings::WorkloadIdentity {
            client_id,
            tenant_id: world.emulator.tenant_id().to_owned(),
            authority_host: world.emulator.authority_url(),
        };
        Self::of(world, settings)
    }

    fn of(world: World, settings: SharedSettings) -> Self {
        let clock = Arc::<Ahead>::default();
        let shared =
            SharedIdentity::new(settings, Arc::clone(&world.egress), clock.clone(), Arc::new(Silent))
                .unwrap();
        Self { world, clock, shared }
    }

    /// A token of its own for each pod: the life makes it another one.
    fn pod(&self, number: u64) -> Credential {
        self.pod_of("web", HOUR + Duration::from_secs(number))
    }

    fn pod_of(&self, account: &str, life: Duration) -> Credential {
        let token = self.world.service_account_token(account, TOKEN_EXCHANGE_AUDIENCE, life);
        Credential::ServiceAccountToken(SecretBytes::from(token))
    }

    fn exchanges(&self) -> u64 {
        self.world.requests("token.federated")
    }

    async fn reads(&self) {
        let token = self.shared.token(VAULT).await.expect("a token");
        assert_eq!(self.world.read_with(&token).await, 200);
    }
}

#[tokio::test]
async fn a_proof_is_one_exchange_and_its_token_serves_the_reads_that_follow() {
    let node = Node::new().await;
    let pod = node.pod(1);
    assert!(!node.shared.is_proved(&pod, VAULT));
    node.shared.prove(&pod, VAULT).await.unwrap();
    assert!(node.shared.is_proved(&pod, VAULT));
    node.shared.prove(&pod, VAULT).await.unwrap();
    node.reads().await;
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test]
async fn every_pod_proves_itself_although_a_token_is_at_hand() {
    let node = Node::new().await;
    let (first, second) = (node.pod(1), node.pod(2));
    node.shared.prove(&first, VAULT).await.unwrap();
    assert!(!node.shared.is_proved(&second, VAULT));
    node.shared.prove(&second, VAULT).await.unwrap();
    assert_eq!(node.exchanges(), 2);
}

#[tokio::test]
async fn fifty_callers_with_one_credential_cost_one_exchange_which_outlives_them() {
    let node = Node::new().await;
    let slow = Effect::Latency { millis: 200, jitter_millis: 0 };
    node.world.emulator.faults().set(Fault::on("token.federated", slow));
    let pod = node.pod(1);
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let (shared, pod) = (Arc::clone(&node.shared), pod.clone());
        callers.spawn(async move { shared.prove(&pod, VAULT).await });
    }
    while node.exchanges() == 0 {
        tokio::task::yield_now().await;
    }
    callers.shutdown().await;
    node.shared.prove(&pod, VAULT).await.unwrap();
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test]
async fn a_proof_lapses_after_ten_minutes_so_that_a_revocation_takes_effect() {
    let node = Node::new().await;
    let pod = node.pod(1);
    node.shared.prove(&pod, VAULT).await.unwrap();
    node.clock.advance(Duration::from_secs(595));
    assert!(node.shared.is_proved(&pod, VAULT));
    node.clock.advance(Duration::from_secs(6));
    assert!(!node.shared.is_proved(&pod, VAULT));
    let no = Fault::on("token.federated", Effect::TokenError { code: 700_016 });
    node.world.emulator.faults().set(no);
    assert_eq!(node.shared.prove(&pod, VAULT).await.unwrap_err().code(), Code::TokenRefused);
    assert!(node.shared.token(VAULT).await.is_ok(), "what others proved goes on");
}

#[tokio::test]
async fn forged_foreign_and_wrong_credentials_prove_nothing_under_a_warm_cache() {
    let node = Node::new().await;
    node.shared.prove(&node.pod(1), VAULT).await.unwrap();
    let Credential::ServiceAccountToken(good) = node.pod(2) else { panic!("a pod brings a token") };
    let parts: Vec<_> = good.expose_str().unwrap().split('.').map(str::to_owned).collect();
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    let resigned = format!("{}.{}.{}", parts[0], parts[1], parts[2].chars().rev().collect::<String>());
    let other_audience = node.world.service_account_token("web", "api://other", HOUR);
    let mut tries = JoinSet::new();
    for (what, token) in [
        ("unsigned", unsigned),
        ("signed by nobody", resigned),
        ("of another audience", other_audience),
        ("no token at all", "hunter2".to_owned()),
    ] {
        let forged = Credential::ServiceAccountToken(SecretBytes::from(token));
        let shared = Arc::clone(&node.shared);
        tries.spawn(async move {
            let error = shared.prove(&forged, VAULT).await.expect_err(what);
            assert_eq!(error.code(), Code::TokenRefused, "{what}: {error}");
            assert!(error.to_string().contains("workload-identity client"), "{error}");
            assert!(!error.to_string().contains("eyJ") && !error.to_string().contains("hunter2"), "{error}");
            assert!(!shared.is_proved(&forged, VAULT), "{what}");
        });
    }
    let error = node.shared.prove(&node.pod_of("intruder", HOUR), VAULT).await.unwrap_err();
    assert!(error.to_string().contains("system:serviceaccount:shop:intruder"), "{error}");
    tries.join_all().await;
    assert_eq!(
        node.shared.prove(&Credential::None, VAULT).await.unwrap_err().code(),
        Code::ConfigInvalid,
        "nothing is no proof"
    );
}

#[tokio::test]
async fn a_proof_of_one_resource_is_none_of_another() {
    let node = Node::new().await;
    let pod = node.pod(1);
    node.shared.prove(&pod, VAULT).await.unwrap();
    assert!(!node.shared.is_proved(&pod, "https://vault.azure.cn"));
    node.shared.forget(&pod);
    assert!(!node.shared.is_proved(&pod, VAULT));
}

#[tokio::test]
async fn without_a_live_token_the_error_is_a_wait_and_the_next_token_ends_it_at_once() {
    let node = Node::new().await;
    let error = node.shared.token(VAULT).await.err().unwrap();
    assert_eq!(error.code(), Code::TokenAwaited);
    assert!(error.kind().is_transient() && !error.kind().is_definite_no(), "{error}");
    assert!(error.to_string().contains("kubelet"), "{error}");
    assert!(node.shared.present("csi-1", node.pod(1)), "there was nothing before");
    node.reads().await;
    assert!(!node.shared.present("csi-1", node.pod(1)), "there was one");
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test]
async fn an_expired_token_is_never_sent() {
    let node = Node::new().await;
    let old = node.pod_of("web", Duration::from_secs(60));
    node.shared.present("csi-1", old.clone());
    node.clock.advance(Duration::from_secs(61));
    assert_eq!(node.shared.prove(&old, VAULT).await.unwrap_err().code(), Code::TokenAwaited);
    assert_eq!(node.shared.token(VAULT).await.err().unwrap().code(), Code::TokenAwaited);
    assert_eq!(node.exchanges(), 0);
}

#[tokio::test]
async fn the_longest_lived_token_refreshes_and_a_refused_one_gives_way_to_the_next() {
    let node = Node::new().await;
    let intruder = node.pod_of("intruder", HOUR * 2);
    node.shared.present("csi-bad", intruder);
    node.shared.present("csi-good", node.pod(1));
    node.reads().await;
    let with_refusal = node.exchanges();
    assert!(with_refusal > 1, "the longest-lived was tried first");
    let token = node.shared.token(VAULT).await.ok().unwrap();
    node.shared.reject(VAULT, &token);
    node.reads().await;
    assert_eq!(node.exchanges(), with_refusal + 1, "the refused one comes last from then on");
}

#[tokio::test]
async fn a_volume_that_is_gone_lends_nothing_any_more() {
    let node = Node::new().await;
    node.shared.present("csi-1", node.pod(1));
    node.shared.withdraw("csi-1");
    assert_eq!(node.shared.token(VAULT).await.err().unwrap().code(), Code::TokenAwaited);
}

#[tokio::test]
async fn a_proof_refreshes_the_token_in_hand_only_by_one_that_lives_longer() {
    let node = Node::new().await;
    node.shared.prove(&node.pod(1), VAULT).await.unwrap();
    let first = node.shared.expires().unwrap();
    node.clock.advance(Duration::from_secs(300));
    node.shared.prove(&node.pod(2), VAULT).await.unwrap();
    let second = node.shared.expires().unwrap();
    assert!(second >= first + Duration::from_secs(299), "{first:?} {second:?}");
}

#[tokio::test]
async fn a_service_principal_is_proved_by_its_secret() {
    let world = World::new().await;
    let settings = SharedSettings::ServicePrincipal {
        client_id: world.application(),
        tenant_id: world.emulator.tenant_id().to_owned(),
        authority_host: world.emulator.authority_url(),
    };
    let node = Node::of(world, settings);
    let secret = |text: &str| Credential::ClientSecret(SecretBytes::copy_from(text.as_bytes()));
    node.shared.prove(&secret(SECRET), VAULT).await.unwrap();
    node.reads().await;
    let error = node.shared.prove(&secret("hunter2"), VAULT).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenRefused);
    assert!(error.to_string().contains("AADSTS7000215"), "{error}");
}

#[tokio::test]
async fn an_identity_binding_is_proved_at_the_token_proxy() {
    let world = World::new().await;
    let settings = SharedSettings::IdentityBinding {
        client_id: world.federated(IDENTITY_BINDING_AUDIENCE),
        tenant_id: world.emulator.tenant_id().to_owned(),
        authority_host: world.emulator.authority_url(),
        proxy_url: world.emulator.token_proxy_url(),
        ca: Some(CaSource::Data(world.emulator.token_proxy_ca_pem())),
        sni_name: Some(world.emulator.token_proxy_name()),
    };
    let node = Node::of(world, settings);
    let token = node.world.service_account_token("web", IDENTITY_BINDING_AUDIENCE, HOUR);
    let pod = Credential::ServiceAccountToken(SecretBytes::from(token));
    node.shared.prove(&pod, VAULT).await.unwrap();
    node.reads().await;
}

#[tokio::test]
async fn a_managed_identity_needs_nothing_from_the_pod() {
    let world = World::new().await;
    world.register(keyward_emulator::Registration::system_assigned());
    let endpoint = ManagedEndpoint::Imds { base_url: world.emulator.imds_url() };
    let node = Node::of(world, SharedSettings::ManagedIdentity { selector: Selector::System, endpoint });
    node.shared.prove(&Credential::None, VAULT).await.unwrap();
    node.reads().await;
    assert!(node.shared.prove(&node.pod(1), VAULT).await.is_err(), "a token is not what it takes");
}
