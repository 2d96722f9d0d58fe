//! The crate against a Kubernetes API server on loopback.

#[path = "api/classes.rs"]
mod classes;
#[path = "api/lookups.rs"]
mod lookups;
#[path = "api/reports.rs"]
mod reports;
#[path = "api/tls.rs"]
mod tls;

use std::sync::Arc;
use std::time::Duration;

use keyward_core::SystemClock;
use keyward_kubernetes::{ClassLimits, Cluster, ClusterSettings, Lookup};
use keyward_test_support::fake_api::FakeApi;

const NODE: &str = "node-1";
const DRIVER: &str = "csi.keyward.dev";
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster at `api`.
async fn cluster(api: &FakeApi) -> Cluster {
    cluster_with(api, ClassLimits::default()).await
}

async fn cluster_with(api: &FakeApi, limits: ClassLimits) -> Cluster {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("kubeconfig");
    api.write_kubeconfig(&file);
    let settings = ClusterSettings {
        kubeconfig: Some(file),
        node: NODE.to_owned(),
        driver_name: DRIVER.to_owned(),
        limits,
    };
    Cluster::connect(&settings, Arc::new(SystemClock)).await.expect("the kubeconfig is good")
}

/// Waits until the classes answer as `wanted`.
async fn until(cluster: &Cluster, namespace: &str, name: &str, wanted: impl Fn(&Lookup) -> bool) -> Lookup {
    let classes = cluster.classes();
    let mut changed = classes.changed();
    let waiting = async {
        loop {
            changed.borrow_and_update();
            let lookup = classes.get(namespace, name);
            if wanted(&lookup) {
                return lookup;
            }
            changed.changed().await.expect("the watch goes on");
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the class is seen as it is")
}
