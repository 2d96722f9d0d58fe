use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward_broker::{Broker, BrokerSettings, Watch, WatchItem};
use keyward_core::cloud::Cloud;
use keyward_core::observe::Silent;
use keyward_core::spec::{Context, ObjectSource, ObjectSpec, Source, parse_objects_text};
use keyward_core::{Content, FetchRequest, IdentityKey, ObjectKey, Result, Snapshot, State, TokenSource};
use keyward_egress::{Duplex, Egress, EgressSettings, Network};
use keyward_emulator::{
    Emulator, ListenerKind, Permission, Registration, SecretOptions, TOKEN_EXCHANGE_AUDIENCE, VaultHandle,
};
use keyward_identity::{IdentitySettings, ManagedEndpoint, Selector, token_source};
use keyward_providers::{KeyVault, KeyVaultSettings};
use keyward_test_support::TokioClock;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::pod::Pod;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// What the pod declares.
pub(crate) const NAMES: [&str; 6] = ["cache", "db", "mail", "queue", "search", "web"];
/// So many other secrets give the vault's listing a second page.
pub(crate) const SECOND_PAGE: usize = 24;

/// How the pod proves who it is.
#[derive(Clone, Copy)]
pub(crate) enum Proof {
    /// A federated token at Entra.
    Federated,
    /// The machine's metadata service.
    Machine,
}

/// A cloud in one region, and one pod with its sidecar's inner parts.
pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) broker: Arc<Broker>,
    pub(crate) pod: Pod,
    identity: Arc<IdentityKey>,
    specs: Vec<ObjectSpec>,
    run: JoinHandle<()>,
    _token: TempDir,
}

impl World {
    /// Everything is well; the pod has not started yet, but its broker is about to.
    pub(crate) async fn new(proof: Proof, region: &str, others: usize) -> Self {
        let clock = Arc::new(TokioClock::new());
        let start = i64::try_from(TokioClock::EPOCH.as_secs()).unwrap();
        let emulator = Emulator::builder()
            .clock(Arc::new(keyward_emulator::TokioClock::starting_at(start)))
            .seed(7)
            .region(region)
            .token_lifetimes(3_600, token_life(proof))
            .vault("shop")
            .start()
            .await
            .unwrap();
        let place = tempfile::tempdir().unwrap();
        let settings = identity(&emulator, proof, &place);
        let vault = emulator.vault("shop");
        for name in NAMES {
            vault.set_secret(name, "first");
        }
        for number in 0..others {
            vault.set_secret_with(&format!("other-{number:02}"), "-", SecretOptions::default());
        }
        let egress = EgressSettings {
            extra_roots_pem: Some(emulator.ca_pem().into_bytes()),
            network: Some(Arc::new(InMemory(emulator.clone()))),
            ..EgressSettings::default()
        };
        let egress = Egress::new(egress, clock.clone(), Arc::new(Silent)).unwrap();
        let tokens = token_source(settings, Arc::clone(&egress), clock.clone(), Arc::new(Silent)).unwrap();
        let identity = Arc::new(tokens.identity().clone());
        let vaults = KeyVaultSettings { seed: Some(7), ..KeyVaultSettings::new("https://vault.azure.net") };
        let provider = KeyVault::new(vaults, egress, tokens, clock.clone());
        let broker = Broker::new(BrokerSettings::default(), clock, Arc::new(Silent), 7);
        broker.attach(Arc::clone(&identity), provider);
        let run = tokio::spawn(Arc::clone(&broker).run());
        let specs = specs();
        let pod = Pod::start(watch(&broker, &specs, &identity), specs.clone());
        Self { emulator, broker, pod, identity, specs, run, _token: place }
    }

    pub(crate) fn vault(&self) -> VaultHandle {
        self.emulator.vault("shop")
    }

    /// A watch of its own over all that the pod declares.
    pub(crate) fn watch(&self) -> Watch {
        watch(&self.broker, &self.specs, &self.identity)
    }

    /// What an application gets for one name.
    pub(crate) async fn lookup(&self, name: &str) -> Result<Arc<Snapshot>> {
        let spec = self.specs.iter().find(|spec| spec.name == name).unwrap();
        let Source::Object(source) = &spec.source else { unreachable!("all are objects") };
        let identity = Arc::clone(&self.identity);
        self.broker.get(&ObjectKey { identity, request: request(source) }).await
    }

    pub(crate) async fn all_are(&self, state: State, value: &str) -> bool {
        for name in NAMES {
            let Ok(snapshot) = self.lookup(name).await else { return false };
            if snapshot.state != state || text(&snapshot) != value {
                return false;
            }
        }
        true
    }
}

/// In seconds: the shortest that Entra gives to applications, and the day that managed identities get.
fn token_life(proof: Proof) -> i64 {
    match proof {
        Proof::Federated => 3_600,
        Proof::Machine => 86_400,
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.run.abort();
    }
}

pub(crate) fn request(source: &ObjectSource) -> FetchRequest {
    FetchRequest { object: source.object.clone(), parts: source.parts() }
}

pub(crate) fn text(snapshot: &Snapshot) -> String {
    match &snapshot.fetched.as_ref().expect("there is a value").content {
        Content::Secret { value, .. } => value.expose_str().expect("the vault holds text").to_owned(),
        _ => panic!("the vault holds secrets"),
    }
}

/// The harshest setting: a file goes when its object is believed to be gone.
fn specs() -> Vec<ObjectSpec> {
    let text: String = NAMES
        .iter()
        .map(|name| format!("- {{from: 'kv://shop/secrets/{name}', onRevoke: remove}}\n"))
        .collect();
    let cloud = Cloud::public();
    let context = Context { cloud: &cloud, listed_hosts: &[], notify: false };
    parse_objects_text(text.as_bytes(), context).unwrap()
}

fn watch(broker: &Arc<Broker>, specs: &[ObjectSpec], identity: &Arc<IdentityKey>) -> Watch {
    let items = specs.iter().filter_map(|spec| match &spec.source {
        Source::Object(source) => {
            let key = ObjectKey { identity: Arc::clone(identity), request: request(source) };
            Some(WatchItem { key, refresh: None })
        }
        Source::Template(_) => None,
    });
    broker.watch(items.collect())
}

fn identity(emulator: &Emulator, proof: Proof, place: &TempDir) -> IdentitySettings {
    match proof {
        Proof::Federated => {
            let subject = "system:serviceaccount:shop:web";
            let registration = Registration::application().federated(
                emulator.issuer().url(),
                subject,
                TOKEN_EXCHANGE_AUDIENCE,
            );
            let identity = emulator.identities().register(registration);
            emulator.vault("shop").assign(&identity, Permission::READ_ALL);
            let token_file = place.path().join("token");
            // Kubelet's rotation of this file is another test's matter.
            let life = HOUR * 24 * 30;
            let token =
                emulator.issuer().mint_service_account_token("shop", "web", TOKEN_EXCHANGE_AUDIENCE, life);
            std::fs::write(&token_file, token).unwrap();
            IdentitySettings::WorkloadIdentity {
                client_id: identity.client_id,
                tenant_id: emulator.tenant_id().to_owned(),
                token_file,
                authority_host: emulator.authority_url(),
            }
        }
        Proof::Machine => {
            let identity = emulator.identities().register(Registration::system_assigned());
            emulator.vault("shop").assign(&identity, Permission::READ_ALL);
            let endpoint = ManagedEndpoint::Imds { base_url: emulator.imds_url() };
            IdentitySettings::ManagedIdentity { selector: Selector::System, endpoint }
        }
    }
}

/// Connections to the emulator that no kernel sees.
struct InMemory(Emulator);

#[async_trait]
impl Network for InMemory {
    async fn connect(&self, _host: &str, port: u16) -> io::Result<Box<dyn Duplex>> {
        let imds = self.0.imds_url().ends_with(&format!(":{port}"));
        let kind = if imds { ListenerKind::Imds } else { ListenerKind::Https };
        Ok(Box::new(self.0.connect(kind)))
    }
}
