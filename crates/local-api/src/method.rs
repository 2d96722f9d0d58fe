/// A method that this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Batch,
    List,
    Watch,
    Refresh,
    /// A method of `grpc.health.v1`.
    Health(&'static str),
    /// Server reflection, version 1.
    Reflection,
    /// Server reflection, its draft version, which many clients still ask for first.
    ReflectionAlpha,
    Other,
}

impl Method {
    /// The method of a request path.
    pub(crate) fn of(path: &str) -> Self {
        let Some(full) = path.strip_prefix('/') else { return Self::Other };
        match full {
            "keyward.secrets.v1.SecretService/GetSecret" => Self::Get,
            "keyward.secrets.v1.SecretService/BatchGetSecrets" => Self::Batch,
            "keyward.secrets.v1.SecretService/ListSecrets" => Self::List,
            "keyward.secrets.v1.SecretService/WatchSecrets" => Self::Watch,
            "keyward.secrets.v1.SecretService/RefreshSecret" => Self::Refresh,
            "grpc.health.v1.Health/Check" => Self::Health("grpc.health.v1.Health/Check"),
            "grpc.health.v1.Health/Watch" => Self::Health("grpc.health.v1.Health/Watch"),
            "grpc.health.v1.Health/List" => Self::Health("grpc.health.v1.Health/List"),
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => Self::Reflection,
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::ReflectionAlpha,
            _ => Self::Other,
        }
    }

    /// The full name, from a closed set, for metrics and spans.
    pub(crate) fn full_name(self) -> &'static str {
        match self {
            Self::Get => "keyward.secrets.v1.SecretService/GetSecret",
            Self::Batch => "keyward.secrets.v1.SecretService/BatchGetSecrets",
            Self::List => "keyward.secrets.v1.SecretService/ListSecrets",
            Self::Watch => "keyward.secrets.v1.SecretService/WatchSecrets",
            Self::Refresh => "keyward.secrets.v1.SecretService/RefreshSecret",
            Self::Health(name) => name,
            Self::Reflection => "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            Self::ReflectionAlpha => "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            Self::Other => "_OTHER",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn every_method_of_the_contract_is_known_by_its_own_name() {
        let set = prost_types::FileDescriptorSet::decode(keyward_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut count = 0;
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let full = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    assert_eq!(Method::of(&format!("/{full}")).full_name(), full);
                    count += 1;
                }
            }
        }
        assert_eq!(count, 5);
        assert_eq!(Method::of("/a.B/C").full_name(), "_OTHER");
        assert_eq!(Method::of("").full_name(), "_OTHER");
    }
}
