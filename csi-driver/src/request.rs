//! What kubelet asks with NodePublishVolume, checked. Nothing here asks anybody.

use std::collections::HashMap;
use std::path::Path;

use keyward_core::audit::Actor;
use keyward_core::{Code, Error, Priority, Result, SecretBytes, Urgency};
use keyward_proto::csi::v1::NodePublishVolumeRequest;
use keyward_proto::csi::v1::volume_capability::AccessType;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::mounts::Place;

/// What kubelet adds to the attributes that the pod's author wrote, over whatever he wrote under the same names.
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
const KUBELET: &str = "csi.storage.k8s.io/";

/// Attributes of a volume that names its objects itself.
const KNOWN: [&str; 5] = ["objects", "clientID", "tenantID", "cloud", "grpc"];
/// A pod object has at most 1.5 MiB in the cluster's store, so nothing honest is larger.
const MAX_CONTEXT: usize = 3 << 19;
/// Names in Kubernetes have at most this many bytes (RFC 1123 subdomain).
const MAX_NAME: usize = 253;

/// A request for a volume. There is no `Debug`: it holds credentials.
pub(crate) struct Wanted {
    /// Where it goes.
    pub(crate) place: Place,
    /// The same as kubelet wrote it.
    pub(crate) target: String,
    /// For whom.
    pub(crate) pod: Pod,
    /// The pod's fsGroup.
    pub(crate) group: Option<u32>,
    /// Which objects.
    pub(crate) source: Source,
    /// What its author says about the identity.
    pub(crate) asked: Asked,
    /// Whether it holds a socket of the local API.
    pub(crate) grpc: bool,
    /// Kubelet's token document, as found in the volume context and among the secrets.
    tokens: [Option<SecretBytes>; 2],
    /// `nodePublishSecretRef`.
    pub(crate) principal: Option<Principal>,
}

/// A pod, as kubelet names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) service_account: String,
}

/// Where the declaration of the objects is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    /// In the volume's own attributes.
    Objects(String),
    /// In a SecretProviderClass of the pod's namespace.
    Class(String),
}

/// What a volume's own attributes say about the identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) client_id: Option<String>,
    pub(crate) tenant_id: Option<String>,
    pub(crate) cloud: Option<String>,
}

/// A service principal from a Secret in the pod's namespace, which kubelet reads for us.
pub(crate) struct Principal {
    pub(crate) client_id: String,
    pub(crate) secret: SecretBytes,
}

impl Wanted {
    /// Checks a request. What the caller may be shown of it is in the error, never a credential.
    ///
    /// # Errors
    /// `KW_REQUEST_INVALID` for what kubelet never sends, `KW_READ_ONLY_REQUIRED`, `KW_VOLUME_INVALID`,
    /// `KW_CSI_DRIVER_OBJECT` when kubelet says nothing about the pod.
    pub(crate) fn read(kubelet_dir: &Path, mut request: NodePublishVolumeRequest) -> Result<Self> {
        let wanted = Self::take(kubelet_dir, &mut request);
        // What was taken was copied into locked memory; what arrived must not stay behind.
        request.secrets.values_mut().for_each(Zeroize::zeroize);
        request.volume_context.values_mut().for_each(Zeroize::zeroize);
        wanted
    }

    fn take(kubelet_dir: &Path, request: &mut NodePublishVolumeRequest) -> Result<Self> {
        let NodePublishVolumeRequest { volume_id, target_path, volume_capability, readonly, .. } = request;
        let place = place(kubelet_dir, volume_id, target_path, "target_path")?;
        let capability = volume_capability.as_ref().and_then(|capability| capability.access_type.as_ref());
        let group = match capability {
            Some(AccessType::Mount(mount)) if !mount.volume_mount_group.is_empty() => {
                let group = mount.volume_mount_group.parse();
                Some(group.map_err(|_| refused("volume_mount_group is not a decimal group id"))?)
            }
            Some(AccessType::Mount(_)) => None,
            Some(AccessType::Block(_)) => {
                return Err(refused("secrets are files: volumes are mounted, not block devices"));
            }
            None => return Err(refused("volume_capability is missing")),
        };
        if !*readonly {
            return Err(Error::new(
                Code::ReadOnlyRequired,
                "the volume must be read-only for the pod; add `readOnly: true` under its `csi:`",
            ));
        }
        let context = &request.volume_context;
        let size: usize = context.iter().flat_map(|(key, value)| [key, value]).map(String::len).sum();
        if size > MAX_CONTEXT {
            return Err(invalid("the volume's attributes are larger than 1.5 MiB"));
        }
        let pod = Pod::read(context)?;
        if pod.uid != place.pod_uid() {
            return Err(refused("the target path belongs to another pod than the volume context"));
        }
        if context.get(EPHEMERAL).is_some_and(|ephemeral| ephemeral != "true") {
            return Err(invalid(
                "only inline volumes are served; declare it under the pod's `volumes:` with `csi:`, not by a PersistentVolume",
            ));
        }
        let own = Attributes(context);
        let (source, asked) = own.declaration()?;
        let grpc = own.flag("grpc")?;
        let token = |from: &HashMap<String, String>| {
            from.get(TOKENS).map(|text| SecretBytes::copy_from(text.as_bytes()))
        };
        Ok(Self {
            target: target_path.clone(),
            tokens: [token(context), token(&request.secrets)],
            principal: principal(&request.secrets)?,
            place,
            pod,
            group,
            source,
            asked,
            grpc,
        })
    }

    /// Kubelet's token document, from the one place where the CSIDriver object says that kubelet puts it.
    pub(crate) fn tokens(&self, in_secrets: bool) -> Option<&SecretBytes> {
        let [in_context, secret] = &self.tokens;
        if in_secrets { secret.as_ref() } else { in_context.as_ref() }
    }
}

/// The place of a volume, for every call that names one.
///
/// # Errors
/// `KW_REQUEST_INVALID` naming the field.
pub(crate) fn place(kubelet_dir: &Path, volume_id: &str, path: &str, field: &str) -> Result<Place> {
    required(&[("volume_id", volume_id), (field, path)])?;
    Place::from_target(kubelet_dir, path, volume_id)
}

/// Refuses empty fields.
///
/// # Errors
/// `KW_REQUEST_INVALID` naming the first.
pub(crate) fn required(fields: &[(&str, &str)]) -> Result<()> {
    match fields.iter().find(|(_, value)| value.is_empty()) {
        Some((name, _)) => Err(refused(&format!("{name} is missing"))),
        None => Ok(()),
    }
}

impl Pod {
    /// As audit records name it.
    pub(crate) fn actor(&self) -> Actor {
        Actor::Pod { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }

    /// For what is asked upstream on its behalf: look-ups of names take its share.
    pub(crate) fn asks(&self) -> Priority {
        Priority::new(Urgency::Start).asked_by(format!("pod {}", self.uid).into())
    }

    fn read(context: &HashMap<String, String>) -> Result<Self> {
        let get = |key: &str| {
            let value = context.get(key).filter(|value| !value.is_empty()).ok_or_else(|| {
                Error::new(
                    Code::DriverObjectInvalid,
                    format!("kubelet does not say for which pod the volume is ({key}); set `podInfoOnMount: true` in the CSIDriver object"),
                )
            })?;
            let named = value.len() <= MAX_NAME
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
            if named { Ok(value.clone()) } else { Err(refused(&format!("{key} is no Kubernetes name"))) }
        };
        Ok(Self {
            namespace: get(POD_NAMESPACE)?,
            name: get(POD_NAME)?,
            uid: get(POD_UID)?,
            service_account: get(SERVICE_ACCOUNT)?,
        })
    }
}

struct Attributes<'a>(&'a HashMap<String, String>);

impl Attributes<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.text(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(invalid(&format!("{key} must be \"true\" or \"false\""))),
        }
    }

    /// Other attributes are ignored beside a class, whose volumes may carry those of another driver, and refused
    /// beside `objects`, where they can only be mistakes.
    fn declaration(&self) -> Result<(Source, Asked)> {
        let objects = self.0.get("objects").filter(|text| !text.trim().is_empty());
        match (objects, self.text("secretProviderClass")) {
            (Some(_), Some(_)) => {
                Err(invalid("objects and secretProviderClass exclude each other; keep one"))
            }
            (None, None) => Err(invalid(
                "say what the volume holds: `objects` (a YAML list) or `secretProviderClass` under volumeAttributes",
            )),
            (None, Some(class)) => {
                let named = class.len() <= MAX_NAME
                    && class.bytes().all(|byte| {
                        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)
                    });
                if !named {
                    return Err(invalid("secretProviderClass is no name of a Kubernetes object"));
                }
                Ok((Source::Class(class.to_owned()), Asked::default()))
            }
            (Some(objects), None) => {
                let unknown = self
                    .0
                    .keys()
                    .filter(|key| !key.starts_with(KUBELET))
                    .find(|key| !KNOWN.contains(&key.as_str()));
                if let Some(unknown) = unknown {
                    let shown: String = unknown.chars().filter(char::is_ascii_graphic).take(60).collect();
                    return Err(invalid(&format!(
                        "`{shown}` is no attribute of a volume; known are {}",
                        KNOWN.join(", ")
                    )));
                }
                let own = |key| self.text(key).map(str::to_owned);
                let asked =
                    Asked { client_id: own("clientID"), tenant_id: own("tenantID"), cloud: own("cloud") };
                Ok((Source::Objects(objects.clone()), asked))
            }
        }
    }
}

/// `nodePublishSecretRef` as the Azure provider reads it: keys `clientid` and `clientsecret`.
fn principal(secrets: &HashMap<String, String>) -> Result<Option<Principal>> {
    let get = |key: &str| secrets.get(key).filter(|value| !value.is_empty());
    match (get("clientid"), get("clientsecret")) {
        (Some(id), Some(secret)) => Ok(Some(Principal {
            client_id: id.trim().to_owned(),
            secret: SecretBytes::copy_from(secret.as_bytes()),
        })),
        (None, None) => Ok(None),
        (id, _) => {
            let missing = if id.is_none() { "clientid" } else { "clientsecret" };
            let text = format!(
                "the Secret of nodePublishSecretRef has no key `{missing}`; it needs clientid and clientsecret"
            );
            Err(Error::new(Code::IdentityMissing, text))
        }
    }
}

fn invalid(message: &str) -> Error {
    Error::new(Code::VolumeInvalid, message)
}

fn refused(message: &str) -> Error {
    Error::new(Code::RequestInvalid, message)
}

#[cfg(test)]
mod tests;
