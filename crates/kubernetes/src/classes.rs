//! SecretProviderClasses, watched.

mod item;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, Error, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::{Api, Ask};
use crate::mirror::{Source, Watching};
use crate::names;

use item::ClassItem;
use store::Store;

const GROUP: &str = "secrets-store.csi.x-k8s.io";
const RESOURCE: &str = "secretproviderclasses";
const VERSIONS: &[&str] = &["v1", "v1alpha1"];

/// How long one class may take that is asked for by name.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of the classes is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassLimits {
    /// Classes kept that no volume has asked for; one beyond that is fetched when a volume asks.
    pub count: usize,
    /// Names and values of one class together, bytes; a larger class is broken.
    pub bytes: usize,
    /// All classes kept that no volume has asked for, bytes.
    pub total_bytes: usize,
}

impl Default for ClassLimits {
    fn default() -> Self {
        Self { count: 2_000, bytes: 1024 * 1024, total_bytes: 4 * 1024 * 1024 }
    }
}

/// A SecretProviderClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The server's version of the object when provider or parameters changed last.
    pub resource_version: String,
    /// Moves when provider or parameters change, and only then; never repeats within a process.
    pub revision: u64,
    /// `spec.provider`.
    pub provider: String,
    /// `spec.parameters`.
    pub parameters: BTreeMap<String, String>,
    /// Whether it has `spec.secretObjects`, which asks for Kubernetes Secrets.
    pub secret_objects: bool,
}

/// What is known of a class.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// This is it, as far as the server has told.
    Found(Arc<Class>),
    /// There is none.
    Absent,
    /// The server has not answered yet.
    NotSynced,
    /// It exists and cannot be used.
    Broken(Error),
}

/// The classes of all namespaces. What is known stays known while the server is away.
pub struct Classes {
    store: Arc<Store>,
    watching: Watching,
    api: Api,
}

impl Classes {
    pub(crate) fn start(api: Api, limits: ClassLimits) -> Self {
        let store = Arc::new(Store::new(limits));
        let source = Source {
            what: "watching SecretProviderClasses",
            resource: RESOURCE,
            group: GROUP,
            versions: VERSIONS,
            name: None,
        };
        let watching = Watching::start(api.clone(), source, Arc::clone(&store));
        Self { store, watching, api }
    }

    /// The class, as it is known now. One that there was no room for is fetched behind the scenes and kept from here on,
    /// which [`changed`](Self::changed) tells. Must be called within a runtime.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Lookup {
        let known = self.store.get(namespace, name);
        if matches!(known, Lookup::Absent)
            && self.store.was_passed_over()
            && names::is_name(namespace)
            && names::is_name(name)
            && self.store.want(namespace, name)
        {
            let (api, store) = (self.api.clone(), Arc::clone(&self.store));
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            tokio::spawn(async move {
                if let Err(error) = fetch(&api, &store, &namespace, &name).await {
                    tracing::debug!(%error, "a SecretProviderClass was not fetched");
                }
            });
        }
        known
    }

    /// The class, waiting up to `patience` for it to appear and for the server to answer. From here on this class is
    /// kept whatever the limits say.
    ///
    /// # Errors
    /// `KW_CLASS_NOT_FOUND` when it did not appear, `KW_CLASS_INVALID` at once when it cannot be used,
    /// `KW_CLASS_UNAVAILABLE`, `KW_KUBERNETES_UNAVAILABLE` or `KW_KUBERNETES_FORBIDDEN` when the server did not tell,
    /// `KW_CONFIG_INVALID` for what cannot be a name.
    pub async fn wait_for(&self, namespace: &str, name: &str, patience: Duration) -> Result<Arc<Class>> {
        names::check("namespace", namespace)?;
        names::check("SecretProviderClass", name)?;
        let now = Instant::now();
        let end = now.checked_add(patience).unwrap_or(now);
        let mut changed = self.store.changed();
        self.store.want(namespace, name);
        let mut fetched = false;
        loop {
            changed.borrow_and_update();
            match self.store.get(namespace, name) {
                Lookup::Found(class) => return Ok(class),
                Lookup::Broken(error) => return Err(error),
                Lookup::Absent if self.store.was_passed_over() && !fetched => {
                    fetched = true;
                    fetch(&self.api, &self.store, namespace, name).await?;
                }
                Lookup::Absent | Lookup::NotSynced => {
                    self.watching.hurry();
                    if tokio::time::timeout_at(end, changed.changed()).await.is_err() {
                        return Err(self.missing(namespace, name));
                    }
                }
            }
        }
    }

    /// A number that moves whenever any class changes in what [`get`](Self::get) answers.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.store.changed()
    }

    /// Why the server does not tell about classes at this moment.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        self.store.trouble()
    }

    /// How many classes are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.store.count()
    }

    fn missing(&self, namespace: &str, name: &str) -> Error {
        if let Lookup::NotSynced = self.store.get(namespace, name) {
            return self.trouble().unwrap_or_else(|| {
                Error::new(
                    Code::ClassUnavailable,
                    "the Kubernetes API has not told about SecretProviderClasses yet",
                )
            });
        }
        let advice = if self.store.is_installed() {
            "create it in the pod's namespace"
        } else {
            "its definition (secrets-store.csi.x-k8s.io) is not installed in this cluster"
        };
        Error::new(
            Code::ClassNotFound,
            format!("SecretProviderClass `{name}` does not exist in namespace `{namespace}`; {advice}"),
        )
    }
}

/// One class that there may have been no room for.
async fn fetch(api: &Api, store: &Store, namespace: &str, name: &str) -> Result<()> {
    let ask = Ask { verb: "get", resource: RESOURCE, group: GROUP };
    for version in VERSIONS {
        let path = format!("/apis/{GROUP}/{version}/namespaces/{namespace}/{RESOURCE}/{name}");
        match api.get::<ClassItem>(ask, &path, PATIENCE).await {
            Ok(item) => {
                store.put_wanted(item);
                return Ok(());
            }
            Err(failure) if failure.is_absent() => {}
            Err(failure) => return Err(failure.error),
        }
    }
    Ok(())
}
