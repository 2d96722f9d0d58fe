use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::config::Setting;
use crate::config::read::set;
use crate::document;

#[test]
fn an_empty_document_is_a_whole_configuration() {
    let config = parse(b"").unwrap();
    assert_eq!(config.default_cloud.name, "AzurePublicCloud");
    assert_eq!((config.limits.volumes, config.limits.objects_per_volume), (512, 1000));
    assert!(config.grpc.enabled && !config.grpc.host_pid && config.registration.enabled);
    assert!(config.node_identity.is_empty() && config.identity_binding.is_none() && config.admin.is_none());
    assert_eq!(config.csi_driver, CsiDriverFacts::Check);
}
