//! `via: csi`: a volume of the node plugin. A MutatingAdmissionPolicy of the chart makes the same pod (docs/adr/0014).

use keyward_core::config::injector::Injection;
use serde_json::{Map, Value, json};

use super::containers::{add_volume, mount};
use super::wish::Wish;

/// The volume.
pub(super) const VOLUME: &str = "keyward";

pub(super) fn add(pod: &mut Value, wish: &Wish, injection: &Injection) {
    let mut attributes = Map::new();
    attributes.insert("objects".to_owned(), json!(wish.objects_text));
    attributes.insert("grpc".to_owned(), json!("true"));
    // What is not said here, the driver takes from the service account.
    for (key, value) in [("clientID", &wish.client_id), ("tenantID", &wish.tenant_id)] {
        if let Some(value) = value {
            attributes.insert(key.to_owned(), json!(value));
        }
    }
    let csi = json!({"driver": injection.driver_name, "readOnly": true, "volumeAttributes": attributes});
    add_volume(pod, json!({"name": VOLUME, "csi": csi}));
    mount(pod, wish, VOLUME, &wish.mount_path);
}
