use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use keyward_core::{Clock, Error, Result};

use crate::api::Api;
use crate::classes::{ClassLimits, Classes};
use crate::driver_object::DriverObject;
use crate::lookups::{self, Version};
use crate::node::{self, Taints};
use crate::own::{Change, OwnObjects};
use crate::reporter::Reporter;
use crate::service_account::{self, ServiceAccountFacts};
use crate::{connection, names};

/// Where the cluster is, and who asks.
#[derive(Debug, Clone, Default)]
pub struct ClusterSettings {
    /// A kubeconfig; without one, the service account of the pod that we run in.
    pub kubeconfig: Option<PathBuf>,
    /// The node's name, for status labels and events.
    pub node: String,
    /// The CSI driver's name: that of its CSIDriver object, and the reporter of events.
    pub driver_name: String,
    /// How much of the classes is kept.
    pub limits: ClassLimits,
}

/// The Kubernetes API as Keyward uses it. Each part starts with its first use and ends with its last handle.
pub struct Cluster {
    api: Api,
    settings: ClusterSettings,
    clock: Arc<dyn Clock>,
    classes: OnceLock<Arc<Classes>>,
    driver: OnceLock<Arc<DriverObject>>,
    reporter: OnceLock<Reporter>,
}

impl Cluster {
    /// Reads addresses and credentials. The API server itself is not asked and may be away.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when the kubeconfig or the service account's files cannot be read or used.
    pub async fn connect(settings: &ClusterSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        let client = connection::connect(settings.kubeconfig.as_deref()).await?;
        Ok(Self {
            api: Api::new(client),
            settings: settings.clone(),
            clock,
            classes: OnceLock::new(),
            driver: OnceLock::new(),
            reporter: OnceLock::new(),
        })
    }

    /// The watched SecretProviderClasses of all namespaces.
    #[must_use]
    pub fn classes(&self) -> Arc<Classes> {
        Arc::clone(
            self.classes.get_or_init(|| Arc::new(Classes::start(self.api.clone(), self.settings.limits))),
        )
    }

    /// The watched CSIDriver object of this driver.
    #[must_use]
    pub fn driver_object(&self) -> Arc<DriverObject> {
        Arc::clone(
            self.driver
                .get_or_init(|| Arc::new(DriverObject::start(self.api.clone(), &self.settings.driver_name))),
        )
    }

    /// Where outcomes go; clones share one queue.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        self.reporter
            .get_or_init(|| {
                Reporter::start(
                    self.api.clone(),
                    self.settings.node.clone(),
                    self.settings.driver_name.clone(),
                    Arc::clone(&self.clock),
                )
            })
            .clone()
    }

    /// What a service account's annotations say about its identity in Azure; `None` when there is no such account.
    ///
    /// # Errors
    /// `KW_KUBERNETES_FORBIDDEN` without the right `get` on service accounts; `KW_KUBERNETES_UNAVAILABLE` when no
    /// answer came within two seconds; `KW_CONFIG_INVALID` for what cannot be a name.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<Option<ServiceAccountFacts>> {
        names::check("namespace", namespace)?;
        names::check("service account", name)?;
        service_account::get(&self.api, namespace, name).await.map_err(Error::from)
    }

    /// One key of a ConfigMap; `None` when there is no such ConfigMap or key.
    ///
    /// # Errors
    /// As [`Cluster::service_account`], of ConfigMaps.
    pub async fn config_map(&self, namespace: &str, name: &str, key: &str) -> Result<Option<String>> {
        names::check("namespace", namespace)?;
        names::check("ConfigMap", name)?;
        lookups::config_map(&self.api, namespace, name, key).await.map_err(Error::from)
    }

    /// The API server's version.
    ///
    /// # Errors
    /// `KW_KUBERNETES_UNAVAILABLE` when no answer came within two seconds.
    pub async fn version(&self) -> Result<Version> {
        lookups::version(&self.api).await.map_err(Error::from)
    }

    /// The injector's own objects in `namespace`.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` for what cannot be a namespace.
    pub fn own_objects(&self, namespace: &str) -> Result<OwnObjects> {
        OwnObjects::new(self.api.clone(), namespace)
    }

    /// The taints of our node.
    ///
    /// # Errors
    /// `KW_KUBERNETES_FORBIDDEN` without the right `get` on nodes; `KW_KUBERNETES_UNAVAILABLE` without an answer.
    pub async fn taints(&self) -> Result<Taints> {
        node::taints(&self.api, &self.settings.node).await
    }

    /// Takes taints with `key` away from our node, unless it has changed since it was read.
    ///
    /// # Errors
    /// As [`Cluster::taints`], of the right `patch`.
    pub async fn remove_taint(&self, read: &Taints, key: &str) -> Result<Change> {
        node::remove_taint(&self.api, &self.settings.node, read, key).await
    }

    /// Whether kubelet lists our driver for our node.
    ///
    /// # Errors
    /// As [`Cluster::taints`], of CSINodes.
    pub async fn is_registered(&self) -> Result<bool> {
        node::is_registered(&self.api, &self.settings.node, &self.settings.driver_name).await
    }
}
