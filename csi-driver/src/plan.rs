//! From what was asked to what is delivered: which objects, as whom. A pure function of a [`Basis`], so that a restart
//! plans the same without asking anybody.

mod basis;
mod identity;

use std::collections::BTreeSet;
use std::sync::Arc;

use keyward_compat::{ClassInput, ClassObject, parse_class};
use keyward_core::cloud::Cloud;
use keyward_core::config::node::NodeConfig;
use keyward_core::spec::{Context, ObjectSpec, Source as From, parse_objects_text};
use keyward_core::{Code, Error, ObjectRef, Result, VaultHost, VersionInfo};
use keyward_delivery::projection::Defaults;

pub(crate) use basis::{Account, Basis, ClassText};
pub(crate) use identity::Way;

use crate::request::{Pod, Source};

/// What to deliver, and as whom.
pub(crate) struct Plan {
    /// How the identity is proved.
    pub(crate) way: Way,
    /// Where tokens come from and vaults live.
    pub(crate) cloud: Cloud,
    /// The objects, a history not yet taken apart.
    pub(crate) objects: Vec<ClassObject>,
    /// Modes and owners.
    pub(crate) defaults: Defaults,
    /// `limits.objectsPerVolume`
    most: usize,
}

/// A plan of which every entry is one version of one object.
pub(crate) struct Expanded {
    pub(crate) specs: Vec<ObjectSpec>,
    /// What each entry is called in a status, by the entry's name.
    pub(crate) ids: Vec<(String, String)>,
}

impl Plan {
    /// Plans a volume.
    ///
    /// # Errors
    /// `KW_VOLUME_INVALID`, `KW_OBJECT_INVALID`, `KW_NOTIFY_NOT_HERE` or `KW_CLASS_INVALID` with every mistake;
    /// `KW_IDENTITY_MISSING` or `KW_NODE_IDENTITY_REFUSED` with the next step.
    pub(crate) fn make(basis: &Basis, pod: &Pod, config: &NodeConfig) -> Result<Self> {
        let plan = match (&basis.source, &basis.class) {
            (Source::Objects(text), _) => Self::of_objects(text, basis, pod, config),
            (Source::Class(_), Some(class)) => Self::of_class(class, basis, pod, config),
            (Source::Class(name), None) => {
                Err(Error::new(Code::Internal, format!("the class {name} was not looked up")))
            }
        }?;
        plan.check_count(plan.objects.len())?;
        plan.check_hosts(config)?;
        Ok(plan)
    }

    fn of_objects(text: &str, basis: &Basis, pod: &Pod, config: &NodeConfig) -> Result<Self> {
        let cloud = match &basis.asked.cloud {
            None => config.default_cloud.clone(),
            Some(name) => config.cloud(name).ok_or_else(|| {
                let known: Vec<_> =
                    config.clouds.iter().map(|cloud| cloud.name.as_str()).chain(Cloud::BUILT_IN).collect();
                invalid(format!("cloud must be one of {}", known.join(", ")))
            })?,
        };
        let listed: Vec<_> = config.vaults.iter().map(|vault| vault.host.clone()).collect();
        let context = Context { cloud: &cloud, listed_hosts: &listed, notify: false };
        let specs = parse_objects_text(text.as_bytes(), context)?;
        if specs.is_empty() {
            return Err(invalid("objects is an empty list".to_owned()));
        }
        let way = identity::of_attributes(basis, pod, &cloud)?;
        let defaults =
            Defaults { mode: if basis.group.is_some() { 0o440 } else { 0o444 }, uid: None, gid: None };
        let objects = specs.into_iter().map(plain).collect();
        Ok(Self { way, cloud, objects, defaults, most: config.limits.objects_per_volume })
    }

    fn of_class(class: &ClassText, basis: &Basis, pod: &Pod, config: &NodeConfig) -> Result<Self> {
        let named = |error: Error| {
            let text = format!("SecretProviderClass {}/{}: {}", pod.namespace, class.name, error.message());
            Error::new(error.code(), text)
        };
        let input = ClassInput { provider: &class.provider, parameters: &class.parameters };
        let default = |name: &str| {
            if name.is_empty() { Some(config.default_cloud.clone()) } else { config.cloud(name) }
        };
        let spec = parse_class(&input, &default).map_err(named)?;
        let way = identity::of_class(&spec, basis, pod, config).map_err(named)?;
        // As the Secrets Store driver does: readable for all, since only the pod's containers can reach the mount.
        let defaults = Defaults { mode: 0o644, uid: None, gid: None };
        let most = config.limits.objects_per_volume;
        Ok(Self { way, cloud: spec.cloud, objects: spec.objects, defaults, most })
    }

    /// The vaults that are asked.
    pub(crate) fn hosts(&self) -> BTreeSet<VaultHost> {
        self.objects
            .iter()
            .filter_map(|object| object.spec.object())
            .map(|object| object.host().clone())
            .collect()
    }

    /// Objects of which several versions are delivered.
    pub(crate) fn histories(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects.iter().filter(|object| object.history > 0).filter_map(|object| object.spec.object())
    }

    /// Takes histories apart by the version lists that `versions_of` gives.
    ///
    /// # Errors
    /// Those of [`ClassObject::expand`]; `KW_OBJECT_NOT_FOUND` for a history without a list.
    pub(crate) fn expand(
        &self,
        versions_of: &dyn Fn(&ObjectRef) -> Option<Arc<Vec<VersionInfo>>>,
    ) -> Result<Expanded> {
        let count = self.objects.len();
        let mut expanded = Expanded { specs: Vec::with_capacity(count), ids: Vec::with_capacity(count) };
        for object in &self.objects {
            let versions = match object.spec.object().filter(|_| object.history > 0) {
                None => Arc::default(),
                Some(of) => versions_of(of).ok_or_else(|| {
                    Error::new(Code::VaultUnavailable, "the versions of the object were not listed yet")
                        .object(of)
                })?,
            };
            for (spec, id) in object.expand(&versions)? {
                expanded.ids.push((spec.name.clone(), id));
                expanded.specs.push(spec);
            }
            // Before the next one: a history may stand for hundreds.
            self.check_count(expanded.specs.len())?;
        }
        Ok(expanded)
    }

    /// What a volume keeps of it: objects without a history are in the expansion, and need not be kept twice.
    #[must_use]
    pub(crate) fn expanded(mut self) -> Self {
        self.objects.retain(|object| object.history > 0);
        self.objects.shrink_to_fit();
        self
    }

    fn check_count(&self, count: usize) -> Result<()> {
        if count <= self.most {
            return Ok(());
        }
        Err(invalid(format!(
            "{count} objects are more than `limits.objectsPerVolume` ({}) allows",
            self.most
        )))
    }

    /// Promise 8: pods do not choose where a privileged process connects.
    fn check_hosts(&self, config: &NodeConfig) -> Result<()> {
        for host in self.hosts() {
            let listed = config.vaults.iter().any(|vault| vault.host == host);
            if !listed && !self.cloud.owns(host.name()) {
                return Err(Error::new(
                    Code::ObjectInvalid,
                    format!(
                        "{host} is not a vault of {}: its name does not end in .{}; an administrator may list it under `vaults` of the node plugin",
                        self.cloud.name, self.cloud.vault_dns_suffix
                    ),
                ));
            }
            if let Way::Managed { vaults, .. } = &self.way
                && !vaults.contains(&host)
            {
                return Err(Error::new(
                    Code::NodeIdentityRefused,
                    format!(
                        "the node's identity may not be used for {host}; an administrator may add it to the `vaults` of the `nodeIdentity` entry"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// An object declared in the volume's own attributes, as a status names it.
fn plain(spec: ObjectSpec) -> ClassObject {
    let uid = match (&spec.source, spec.object()) {
        (From::Object(_), Some(object)) => {
            let collection = match object.collection() {
                keyward_core::Collection::Secrets => "secret",
                keyward_core::Collection::Keys => "key",
                keyward_core::Collection::Certificates => "cert",
            };
            format!("{collection}/{}", object.name())
        }
        _ => format!("template/{}", spec.name),
    };
    ClassObject { spec, history: 0, uid }
}

fn invalid(message: String) -> Error {
    Error::new(Code::VolumeInvalid, message)
}
