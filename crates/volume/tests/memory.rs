//! What one more volume of objects that are held already costs (promise 16). A process of its own, so that nothing else
//! allocates meanwhile.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::fs;
use std::sync::Arc;

use keyward_broker::{Broker, BrokerSettings};
use keyward_core::audit::{Actor, Unaudited};
use keyward_core::cloud::Cloud;
use keyward_core::observe::Observer;
use keyward_core::spec::{Context, parse_objects_text};
use keyward_core::{Clock, Provider};
use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::conversions::{Conversions, Settings};
use keyward_delivery::projection::Defaults;
use keyward_test_support::{Kept, ModelVault, TokioClock};
use keyward_volume::{Declared, Engine, OnTmpfs, Outputs, Parts};

const VOLUMES: u64 = 300;
const OBJECTS: usize = 10;
/// For each volume, in bytes, leases in the broker included. The promise is 32 KiB with everything else of a volume.
const MOST: u64 = 24 << 10;

#[tokio::test]
async fn a_further_volume_of_objects_held_already_costs_little() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let vault = ModelVault::new("shop", Arc::clone(&clock), 1);
    let names: Vec<_> = (0..OBJECTS).map(|index| format!("object-number-{index}")).collect();
    for name in &names {
        vault.set(name, &"x".repeat(16 << 10));
    }
    let observer: Arc<dyn Observer> = Arc::new(Kept::default());
    let broker = Broker::new(BrokerSettings::default(), Arc::clone(&clock), Arc::clone(&observer), 1);
    let identity = ModelVault::identity("c1");
    broker.attach(Arc::clone(&identity), Arc::clone(&vault) as Arc<dyn Provider>);
    let text: Vec<_> =
        names.iter().map(|name| format!("'https://{}/secrets/{name}'", vault.host())).collect();
    let text = format!("[{}]", text.join(", "));
    let place = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
    let conversions = Conversions::new(Settings::new(None, Arc::clone(&clock)));
    let mut engines = Vec::with_capacity(VOLUMES as usize);
    let mut before = 0;
    for number in 0..=VOLUMES {
        let context =
            Context { cloud: &Cloud::public(), listed_hosts: &[vault.host().clone()], notify: false };
        let specs = parse_objects_text(text.as_bytes(), context).unwrap();
        let declared = Declared {
            specs,
            defaults: Defaults { mode: 0o444, uid: None, gid: None },
            identity: Arc::clone(&identity),
        };
        let actor = Actor::Pod {
            namespace: "shop".to_owned(),
            name: format!("web-{number}"),
            uid: format!("00000000-0000-0000-0000-{number:012}"),
        };
        let parts = Parts {
            broker: Arc::clone(&broker),
            audit: Arc::new(Unaudited),
            observer: Arc::clone(&observer),
            clock: Arc::clone(&clock),
            actor,
            account: keyward_core::ledger::Account::unlimited(),
            conversions: conversions.payer(&number.to_string()),
            most_payload: usize::MAX,
        };
        let mut engine = Engine::new(parts, declared, None);
        engine.ready().await;
        let (pass, tree) = engine.snapshot_tree().await;
        assert!(pass.missing.is_empty() && tree.files.len() == OBJECTS);
        if number < 2 {
            let path = place.path().join(number.to_string());
            fs::create_dir(&path).unwrap();
            let directory = AtomicDirectory::open(fs::File::open(&path).unwrap().into()).unwrap();
            engine.set_outputs(Outputs::new(directory, Arc::new(OnTmpfs)));
        }
        engine.pass().await;
        engines.push(engine);
        if number == 0 {
            before = resident();
        }
    }
    let each = (resident() - before) / VOLUMES;
    assert!(each <= MOST, "{each} bytes for each further volume");
}

/// Anonymous memory in use, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}
