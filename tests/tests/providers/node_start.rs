//! How many times the distance to cloud and vault is paid on a node before a pod has its objects, its own proof
//! included.

use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, BrokerSettings, Watch, WatchItem};
use keyward_core::observe::Silent;
use keyward_core::{
    FetchRequest, ObjectKey, Provider as _, SecretBytes, State, SystemClock, TokenSource, VaultHost,
};
use keyward_egress::{Egress, EgressSettings};
use keyward_emulator::{Effect, Emulator, Fault, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_identity::{Credential, SharedIdentity, SharedSettings};
use keyward_providers::{KeyVault, KeyVaultSettings};
use tokio::time::Instant;

use crate::rig::read;

/// Long beside the time that handshakes and parses take on a busy machine.
const LATENCY: Duration = Duration::from_millis(500);

const AUDIENCE: &str = "https://vault.azure.net";

/// A node that has not spoken to anybody yet.
struct Node {
    emulator: Emulator,
    shared: Arc<SharedIdentity>,
    vault: Arc<KeyVault>,
    broker: Arc<Broker>,
}

impl Node {
    async fn cold(http2: bool) -> Self {
        let emulator = Emulator::builder().vault("shop").http2(http2).start().await.expect("it starts");
        let trust = Registration::user_assigned("/subscriptions/s/web").federated(
            emulator.issuer().url(),
            "system:serviceaccount:shop:web",
            TOKEN_EXCHANGE_AUDIENCE,
        );
        let identity = emulator.identities().register(trust);
        emulator.vault("shop").assign(&identity, Permission::READ_ALL);
        for number in 0..50 {
            emulator.vault("shop").set_secret(&format!("s{number}"), "x");
        }
        let settings = EgressSettings {
            extra_roots_pem: Some(emulator.ca_pem().into_bytes()),
            resolve: vec![("shop.vault.azure.net".to_owned(), emulator.vault_addr())],
            ..EgressSettings::default()
        };
        let (clock, observer) = (Arc::new(SystemClock), Arc::new(Silent));
        let egress = Egress::new(settings, clock.clone(), observer.clone()).expect("the roots are good");
        let settings = SharedSettings::WorkloadIdentity {
            client_id: identity.client_id,
            tenant_id: emulator.tenant_id().to_owned(),
            authority_host: emulator.authority_url(),
        };
        let shared = SharedIdentity::new(settings, Arc::clone(&egress), clock.clone(), observer.clone())
            .expect("good");
        let vault = KeyVault::new(KeyVaultSettings::new(AUDIENCE), egress, shared.clone(), clock.clone());
        let broker = Broker::new(BrokerSettings::default(), clock, observer, 7);
        broker.attach(Arc::new(shared.identity().clone()), vault.clone());
        let millis = u64::try_from(LATENCY.as_millis()).expect("short");
        emulator.faults().set(Fault::on("*", Effect::Latency { millis, jitter_millis: 0 }));
        Self { emulator, shared, vault, broker }
    }

    /// As a pod starts: its proof, and meanwhile the vault's challenge; then its objects. How many round trips passed.
    async fn start(&self, objects: usize) -> (Watch, f64) {
        let life = Duration::from_secs(3600);
        let token =
            self.emulator.issuer().mint_service_account_token("shop", "web", TOKEN_EXCHANGE_AUDIENCE, life);
        let pod = Credential::ServiceAccountToken(SecretBytes::from(token));
        let identity = Arc::new(self.shared.identity().clone());
        let items = (0..objects).map(|number| {
            let request: FetchRequest = read(&format!("kv://shop/secrets/s{number}"));
            WatchItem { key: ObjectKey { identity: identity.clone(), request }, refresh: None }
        });
        let host = VaultHost::parse("shop.vault.azure.net").expect("a host");
        let begun = Instant::now();
        let (proved, ()) = tokio::join!(self.shared.prove(&pod, AUDIENCE), self.vault.prepare(&host));
        proved.expect("the pod's token is good");
        let watch = self.broker.watch(items.collect());
        watch.ready().await;
        let passed = begun.elapsed().div_duration_f64(LATENCY);
        assert!(watch.snapshots().iter().all(|snapshot| snapshot.state == State::Fresh));
        (watch, passed)
    }
}

#[tokio::test]
async fn a_cold_node_over_http1_needs_at_most_four_round_trips_for_ten_objects_and_seven_for_fifty() {
    for (objects, limit) in [(10, 4.0), (50, 7.0)] {
        let node = Node::cold(false).await;
        let (_watch, passed) = node.start(objects).await;
        assert!(passed <= limit, "{passed} round trips for {objects} objects");
        assert!(node.emulator.counters().connections().peak <= 17, "sixteen to the vault and one to Entra");
        assert_eq!(node.emulator.counters().requests("vault.*"), objects as u64 + 1);
        assert_eq!(node.emulator.counters().requests("token.*"), 1);
    }
}

#[tokio::test]
async fn a_cold_node_over_http2_needs_at_most_three_and_a_half_round_trips_for_either() {
    for objects in [10, 50] {
        let (_watch, passed) = Node::cold(true).await.start(objects).await;
        assert!(passed <= 3.5, "{passed} round trips for {objects} objects");
    }
}

#[tokio::test]
async fn another_pod_of_an_identity_already_served_pays_for_its_own_proof_and_reads_nothing() {
    let node = Node::cold(false).await;
    let (_first, _) = node.start(10).await;
    let before = node.emulator.counters().requests("vault.*");
    let (_second, passed) = node.start(10).await;
    assert!(passed <= 1.2, "{passed} round trips");
    assert_eq!(node.emulator.counters().requests("vault.*"), before);
    assert_eq!(node.emulator.counters().requests("token.*"), 2);
}
