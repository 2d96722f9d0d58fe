//! Time that no test of the whole driver can wait for: proofs lapse after ten minutes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use keyward_broker::BrokerSettings;
use keyward_core::audit::Unaudited;
use keyward_core::config::node::{CsiDriverFacts, NodeConfig, parse};
use keyward_core::observe::Silent;
use keyward_core::{Clock, SecretView, SystemClock, UnixTime};
use keyward_delivery::conversions::{self, Conversions};
use keyward_egress::{Egress, EgressSettings};
use keyward_emulator::{Emulator, Identity, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_local_api::Crowd;
use keyward_proto::csi::v1::volume_capability::{AccessType, MountVolume};
use keyward_proto::csi::v1::{NodePublishVolumeRequest, VolumeCapability};
use keyward_telemetry::health::Health;
use keyward_volume::{Declared, View};
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::facts::Facts;
use crate::identities::{self, Identities};
use crate::mounts::{Mounts, Place};
use crate::node;
use crate::plan::Expanded;
use crate::request::{Pod, Wanted};
use crate::shares::{OfVolume, Shares};
use crate::snapshots::Snapshots;
use crate::state::State as Records;
use crate::volume::Presented;

const UID: &str = "0f3c9a52-7a55-4d1c-b5a5-5a4b1b0c7c11";
const MINUTE: Duration = Duration::from_secs(60);

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

/// A keeper over an emulated vault. It writes no files: what it would write, its view shows.
struct Rig {
    emulator: Emulator,
    identity: Identity,
    clock: Arc<Ahead>,
    view: Arc<View>,
    volume: Arc<Volume>,
    pool: Conversions,
    crowd: Arc<Crowd>,
    _state: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with("[kv://shop/secrets/a]").await
    }

    async fn start_with(objects: &str) -> Self {
        let emulator = Emulator::builder().vault("shop").rate_limits(None).start().await.unwrap();
        let identity = emulator.identities().register(Registration::application());
        trust(&emulator, &identity);
        let vault = emulator.vault("shop");
        vault.assign(&identity, Permission::READ_ALL);
        vault.set_secret("a", "1");
        let clock = Arc::<Ahead>::default();
        let state = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = config(&emulator);
        let (node, broker) = node(&emulator, &config, &clock, state.path());
        tokio::spawn(broker.run());

        let wanted = wanted_with(&emulator, &identity, objects);
        let basis = Basis::of(&wanted);
        let plan = Plan::make(&basis, &wanted.pod, &config).unwrap();
        let tenant = node.identities.join(plan.way.settings(), &plan.cloud).unwrap();
        let presented = Presented::of(&wanted, true).unwrap();
        let proof = credential(&plan.way, &presented, &wanted.pod).unwrap();
        node.identities.prove(&tenant, &proof, &wanted.pod).await.unwrap();
        node.identities.lend(&tenant, wanted.place.volume_id(), proof);
        let Expanded { specs, ids } = plan.expand(&|_| None).unwrap();
        let declared = Declared { specs, defaults: plan.defaults, identity: Arc::clone(&tenant.key) };
        let mut engine = Engine::new(node.parts(&wanted.pod), declared, None);
        engine.ready().await;
        assert!(engine.pass().await.missing.is_empty());
        let view = Arc::clone(engine.view());

        let record =
            Record::new("secrets".to_owned(), wanted.target.clone(), wanted.pod.clone(), basis, false);
        let root = OwnedFd::from(std::fs::File::open(state.path()).unwrap());
        let kept = node.snapshots.of(&wanted.place, node.account(&wanted.pod));
        engine.set_kept(kept.clone());
        let (volume, orders) = Volume::new(
            wanted.place.clone(),
            wanted.target.clone(),
            wanted.pod.clone(),
            root,
            kept,
            Shares::mounted(&node.account(&wanted.pod), 0),
            presented,
        );
        let teller = node.teller(&wanted.pod, "secrets", None, &wanted.target);
        let (pool, crowd) = (node.conversions.clone(), Arc::clone(&node.crowd));
        let keeper = Keeper {
            node,
            volume: Arc::clone(&volume),
            engine,
            tenant,
            plan,
            ids,
            histories: Histories::default(),
            record,
            serving: None,
            teller,
            unkept: None,
            hosts: OfVolume::default(),
        };
        tokio::spawn(Box::new(keeper).run(orders));
        Self { emulator, identity, clock, view, volume, pool, crowd, _state: state }
    }

    fn rotate(&self, value: &str) {
        self.emulator.vault("shop").rotate_secret("a", value);
    }

    fn advance(&self, by: Duration) {
        *self.clock.0.lock() += by;
    }

    /// Waits until readers see this value in this state.
    async fn until(&self, value: &str, state: State) {
        let end = Instant::now() + Duration::from_secs(20);
        let seen = || self.view.get("a").unwrap();
        while seen().state != state || seen().value.as_ref().unwrap().expose() != value.as_bytes() {
            assert!(Instant::now() < end, "{:?} and not {value} {state:?}", seen().state);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn read_upstream(&self) {
        let before = self.emulator.counters().with_status("secrets.*", 200);
        while self.emulator.counters().with_status("secrets.*", 200) < before + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn config(emulator: &Emulator) -> NodeConfig {
    let text = format!(
        "clouds: [{{name: Emulated, authorityHost: '{}', vaultDnsSuffix: vault.azure.net, audience: 'https://vault.azure.net'}}]\n\
         defaultCloud: Emulated\nrotation: {{interval: 1s, jitter: 0}}\n",
        emulator.authority_url()
    );
    parse(text.as_bytes()).unwrap()
}

/// Registers the identity (again), trusting the pods of `shop/web`.
fn trust(emulator: &Emulator, identity: &Identity) {
    emulator.identities().register(
        Registration::application()
            .client_id(&identity.client_id)
            .object_id(&identity.object_id)
            .tenant(&identity.tenant_id)
            .federated(emulator.issuer().url(), "system:serviceaccount:shop:web", TOKEN_EXCHANGE_AUDIENCE),
    );
}

fn node(
    emulator: &Emulator,
    config: &NodeConfig,
    clock: &Arc<Ahead>,
    state: &Path,
) -> (Arc<Node>, Arc<keyward_broker::Broker>) {
    let clock: Arc<dyn Clock> = Arc::<Ahead>::clone(clock);
    let settings = EgressSettings {
        extra_roots_pem: Some(emulator.ca_pem().into_bytes()),
        resolve: vec![("shop.vault.azure.net".to_owned(), emulator.vault_addr())],
        ..EgressSettings::default()
    };
    let egress = Egress::new(settings, Arc::clone(&clock), Arc::new(Silent)).unwrap();
    let settings =
        BrokerSettings { interval: Duration::from_millis(50), jitter: 0.0, ..BrokerSettings::default() };
    let broker = keyward_broker::Broker::new(settings, Arc::clone(&clock), Arc::new(Silent), 1);
    let identities = Identities::new(identities::Parts {
        broker: Arc::clone(&broker),
        egress,
        vaults: Vec::new(),
        audit: Arc::new(Unaudited),
        observer: Arc::new(Silent),
        clock: Arc::clone(&clock),
    });
    let stated = CsiDriverFacts::Stated { pod_info_on_mount: true, tokens_in_secrets: true };
    let node = Node::new(node::Parts {
        settings: node::Settings {
            node_id: "node-0".to_owned(),
            driver_name: "csi.keyward.dev".to_owned(),
            kubelet_dir: "/var/lib/kubelet".into(),
            config: config.clone(),
        },
        // Nobody asks the mounter for anything.
        mounts: Mounts::new(UnixStream::pair().unwrap().0.into()),
        state: Records::new(std::fs::File::open(state).unwrap().into()),
        snapshots: Snapshots::new(std::fs::File::open(state).unwrap().into()).unwrap(),
        broker: Arc::clone(&broker),
        identities,
        cluster: None,
        facts: Facts::new(stated, "csi.keyward.dev", || None).unwrap(),
        audit: Arc::new(Unaudited),
        observer: Arc::new(Silent),
        conversions: Conversions::new(conversions::Settings::new(None, Arc::clone(&clock))),
        clock,
        health: Health::new(&[]),
        crowd: Crowd::new(),
        ledger: keyward_core::ledger::Ledger::new(config.limits.ledger(usize::MAX)),
    });
    (node, broker)
}

/// A publish with a fresh token.
fn wanted(emulator: &Emulator, identity: &Identity) -> Wanted {
    wanted_with(emulator, identity, "[kv://shop/secrets/a]")
}

fn wanted_with(emulator: &Emulator, identity: &Identity, objects: &str) -> Wanted {
    let pod = Pod {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: UID.to_owned(),
        service_account: "web".to_owned(),
    };
    let now = emulator.now();
    let token = emulator.issuer().mint(&json!({
        "iss": emulator.issuer().url(), "sub": "system:serviceaccount:shop:web", "aud": [TOKEN_EXCHANGE_AUDIENCE],
        "iat": now, "nbf": now, "exp": now + 24 * 3600, "jti": fastrand::u64(..).to_string(),
        "kubernetes.io": {
            "namespace": pod.namespace, "serviceaccount": {"name": "web", "uid": "sa"},
            "pod": {"name": pod.name, "uid": pod.uid},
        },
    }));
    let tokens =
        json!({TOKEN_EXCHANGE_AUDIENCE: {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}});
    let place = Place::new(UID, "secrets").unwrap();
    let context = [
        ("csi.storage.k8s.io/pod.name", pod.name.as_str()),
        ("csi.storage.k8s.io/pod.namespace", &pod.namespace),
        ("csi.storage.k8s.io/pod.uid", UID),
        ("csi.storage.k8s.io/serviceAccount.name", "web"),
        ("objects", objects),
        ("clientID", &identity.client_id),
        ("tenantID", emulator.tenant_id()),
    ];
    let pairs =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let request = NodePublishVolumeRequest {
        volume_id: place.volume_id().to_owned(),
        target_path: place.target(Path::new("/var/lib/kubelet")).display().to_string(),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: None,
        }),
        readonly: true,
        secrets: pairs(&[("csi.storage.k8s.io/serviceAccount.tokens", &tokens.to_string())]),
        volume_context: pairs(&context),
        ..NodePublishVolumeRequest::default()
    };
    Wanted::read(Path::new("/var/lib/kubelet"), request).ok().unwrap()
}

#[tokio::test]
async fn a_proof_that_lapsed_after_a_revocation_brings_nothing_new_until_the_pod_proves_itself_again() {
    let rig = Rig::start().await;
    rig.until("1", State::Fresh).await;
    rig.rotate("2");
    rig.until("2", State::Fresh).await;
    // The identity trusts the pod no more. What it proved holds for ten minutes.
    assert!(rig.emulator.identities().remove(&rig.identity.client_id));
    rig.advance(9 * MINUTE);
    rig.rotate("3");
    rig.until("3", State::Fresh).await;
    rig.advance(2 * MINUTE);
    rig.rotate("4");
    // The identity's token still reads; the value is on the node, and not for this pod.
    rig.until("3", State::Stale).await;
    rig.read_upstream().await;
    rig.until("3", State::Stale).await;
    // A fresh token of the pod that is not trusted changes nothing, and one that is, does at once.
    rig.volume.present(Presented::of(&wanted(&rig.emulator, &rig.identity), true).unwrap());
    rig.read_upstream().await;
    rig.until("3", State::Stale).await;
    trust(&rig.emulator, &rig.identity);
    rig.volume.present(Presented::of(&wanted(&rig.emulator, &rig.identity), true).unwrap());
    rig.until("4", State::Fresh).await;
}

#[tokio::test]
async fn a_proof_that_lapsed_is_made_again_with_the_newest_token_when_something_changes() {
    let rig = Rig::start().await;
    rig.until("1", State::Fresh).await;
    let exchanges = rig.emulator.counters().requests("token.federated");
    rig.rotate("2");
    rig.until("2", State::Fresh).await;
    assert_eq!(rig.emulator.counters().requests("token.federated"), exchanges, "the proof holds");
    rig.advance(11 * MINUTE);
    rig.rotate("3");
    rig.until("3", State::Fresh).await;
    assert_eq!(rig.emulator.counters().requests("token.federated"), exchanges + 1, "one more");
}

#[tokio::test]
async fn a_mounted_volume_that_kubelet_calls_for_is_not_swept_although_nothing_is_known_of_it() {
    let emulator = Emulator::builder().vault("shop").start().await.unwrap();
    let state = tempfile::tempdir_in("/dev/shm").unwrap();
    let (node, _) = node(&emulator, &config(&emulator), &Arc::default(), state.path());
    let [running, gone] = ["running", "gone"].map(|name| Place::new(UID, name).unwrap());
    node.asked_for(&running);
    assert_eq!(node.abandoned(vec![running, gone.clone()]), [gone]);
}

/// Work of other pods that holds every place of a pool until it is dropped.
struct Held(Vec<std::sync::mpsc::Sender<()>>);

impl Held {
    async fn all_places(pool: &Conversions) -> Self {
        let mut held = Vec::new();
        // At most four places; the fifth pod waits for one.
        for pod in 0..5 {
            let payer = pool.payer(&format!("other-{pod}"));
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let (began, has_begun) = oneshot::channel();
            tokio::spawn(async move {
                payer
                    .run(move |_| {
                        let _ = began.send(());
                        let _ = gate.recv();
                    })
                    .await
            });
            held.push(open);
            // Whoever does not begin while the others work has found all places taken.
            if timeout(Duration::from_millis(200), has_begun).await.is_err() {
                break;
            }
        }
        Self(held)
    }
}

#[tokio::test]
async fn a_volume_ends_at_once_while_its_conversion_waits_for_a_turn() {
    let rig = Rig::start_with("[{from: kv://shop/secrets/a, key: ''}]").await;
    rig.until("1", State::Fresh).await;
    let held = Held::all_places(&rig.pool).await;
    let converted = rig.pool.converted();
    rig.rotate("2");
    rig.read_upstream().await;
    // The places are taken for as long as the test wants: only what does not wait for one can return.
    rig.volume.stop().await;
    assert_eq!(rig.pool.converted(), converted);
    assert_eq!(rig.view.get("a").unwrap().value.as_ref().unwrap().expose(), b"1");
    drop(held.0);
}

#[tokio::test]
async fn a_volume_takes_credentials_along_and_repairs_files_while_its_conversion_waits_for_a_turn() {
    let rig = Rig::start_with("[{from: kv://shop/secrets/a, key: ''}]").await;
    rig.until("1", State::Fresh).await;
    let held = Held::all_places(&rig.pool).await;
    rig.rotate("2");
    rig.read_upstream().await;
    rig.volume.repair().await;
    let fresh = wanted_with(&rig.emulator, &rig.identity, "[{from: kv://shop/secrets/a, key: ''}]");
    rig.volume.present(Presented::of(&fresh, true).unwrap());
    assert_eq!(rig.view.get("a").unwrap().value.as_ref().unwrap().expose(), b"1");
    drop(held.0);
    rig.until("2", State::Fresh).await;
}

/// Uses the thread for longer than the pod of the tests may, twice: its share, and what it has in reserve.
async fn hog(crowd: &Crowd) {
    for _ in 0..2 {
        let hold = async {
            let end = SystemClock.boot() + Duration::from_millis(100);
            while SystemClock.boot() < end {
                std::hint::spin_loop();
            }
        };
        crowd.pace(UID).measured(hold).await;
    }
}

#[tokio::test]
async fn a_volume_whose_pod_used_more_than_its_share_is_put_off_and_goes_on() {
    let rig = Rig::start().await;
    rig.until("1", State::Fresh).await;
    assert_eq!(rig.crowd.put_off(), Duration::ZERO);
    hog(&rig.crowd).await;
    rig.rotate("2");
    let end = Instant::now() + Duration::from_secs(20);
    while rig.crowd.put_off().is_zero() {
        assert!(Instant::now() < end, "it was never put off");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.until("2", State::Fresh).await;
    rig.rotate("3");
    rig.until("3", State::Fresh).await;
    rig.volume.stop().await;
}

#[tokio::test]
async fn a_large_declaration_is_read_off_the_thread_that_answers_and_a_small_one_at_once() {
    let emulator = Emulator::builder().vault("shop").start().await.unwrap();
    let identity = emulator.identities().register(Registration::application());
    let state = tempfile::tempdir_in("/dev/shm").unwrap();
    let (node, _) = node(&emulator, &config(&emulator), &Arc::default(), state.path());
    let plan = async |objects: String| {
        let wanted = wanted_with(&emulator, &identity, &objects);
        node.plan(&Basis::of(&wanted), &wanted.pod).await.map(|plan| plan.objects.len())
    };
    let many = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("kv://shop/secrets/s{number}")).collect();
        format!("[{}]", names.join(","))
    };
    assert_eq!(plan(many(1000)).await.unwrap(), 1000);
    // What needs the pool does not find it any more.
    node.conversions.close();
    assert_eq!(plan(many(100)).await.unwrap(), 100);
    assert_eq!(plan(many(1000)).await.unwrap_err().code(), Code::ShuttingDown);
}
