use serde_json::Value;

/// A pod, as far as we read it. Every reader takes what is there and never fails: the API server has checked the types.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a>(pub(super) &'a Value);

impl<'a> Pod<'a> {
    pub(super) fn is_pod(self) -> bool {
        self.0.pointer("/spec/containers").is_some_and(Value::is_array)
    }

    pub(super) fn label(self, key: &str) -> Option<&'a str> {
        self.0.pointer("/metadata/labels")?.get(key)?.as_str()
    }

    pub(super) fn annotation(self, key: &str) -> Option<&'a str> {
        self.0.pointer("/metadata/annotations")?.get(key)?.as_str()
    }

    pub(super) fn annotations(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let map = self.0.pointer("/metadata/annotations").and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    pub(super) fn service_account(self) -> &'a str {
        self.text("/spec/serviceAccountName").filter(|name| !name.is_empty()).unwrap_or("default")
    }

    pub(super) fn text(self, pointer: &str) -> Option<&'a str> {
        self.0.pointer(pointer)?.as_str()
    }

    pub(super) fn flag(self, pointer: &str) -> Option<bool> {
        self.0.pointer(pointer)?.as_bool()
    }

    pub(super) fn id(self, pointer: &str) -> Option<u64> {
        self.0.pointer(pointer)?.as_u64()
    }

    pub(super) fn list(self, pointer: &str) -> &'a [Value] {
        self.0.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub(super) fn containers(self) -> &'a [Value] {
        self.list("/spec/containers")
    }

    pub(super) fn init_containers(self) -> &'a [Value] {
        self.list("/spec/initContainers")
    }

    pub(super) fn volumes(self) -> &'a [Value] {
        self.list("/spec/volumes")
    }

    /// Jobs and their like: containers that end for good.
    pub(super) fn ends(self) -> bool {
        self.text("/spec/restartPolicy").is_some_and(|policy| policy != "Always")
    }
}

/// The name of a container or volume.
pub(super) fn name(item: &Value) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Containers that belong to a service mesh, or to the workload identity webhook, and never want our secrets.
pub(super) fn is_helper(container: &Value) -> bool {
    MESH.contains(&name(container)) || name(container) == "azwi-proxy"
}

/// Whether this init container is a mesh's proxy, or sets up its redirection: before it there may be no network.
pub(super) fn is_mesh(container: &Value) -> bool {
    MESH.contains(&name(container))
}

/// Names that Istio, Linkerd, Consul, Kuma, Open Service Mesh and AWS App Mesh give to what they inject.
const MESH: &[&str] = &[
    "istio-proxy",
    "istio-init",
    "istio-validation",
    "linkerd-proxy",
    "linkerd-init",
    "linkerd-network-validator",
    "consul-dataplane",
    "consul-connect-inject-init",
    "kuma-sidecar",
    "kuma-init",
    "kuma-validation",
    "envoy",
    "osm-init",
];
