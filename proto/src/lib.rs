//! Wire contracts of Keyward: the `keyward.secrets.v1` package, its client, and its descriptors for reflection; and the
//! parts of kubelet's contracts (CSI, plugin registration) that the node plugin answers.
//!
//! Messages that hold a value or a credential have no `Debug`, so that none of them can be logged by accident.

/// Package `keyward.secrets.v1`.
pub mod secrets {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("keyward.secrets.v1");
    }
}

/// Package `csi.v1`: what kubelet asks of a storage plugin.
pub mod csi {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// Package `pluginregistration`: how kubelet learns of a plugin.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// The encoded `google.protobuf.FileDescriptorSet` of every contract and its imports, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Full name of the service, as health checks name it.
pub const SECRET_SERVICE: &str = "keyward.secrets.v1.SecretService";

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_types::{FileDescriptorProto, MethodDescriptorProto};

    #[test]
    fn the_descriptors_hold_the_service_with_its_five_methods_and_its_imports() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let names: Vec<_> = set.file.iter().map(FileDescriptorProto::name).collect();
        assert_eq!(names, ["google/protobuf/timestamp.proto", "keyward/secrets/v1/secrets.proto"]);
        let service = &set.file[1].service[0];
        assert_eq!(format!("{}.{}", set.file[1].package(), service.name()), SECRET_SERVICE);
        let methods: Vec<_> = service.method.iter().map(MethodDescriptorProto::name).collect();
        assert_eq!(methods, ["GetSecret", "BatchGetSecrets", "ListSecrets", "WatchSecrets", "RefreshSecret"]);
    }
}
