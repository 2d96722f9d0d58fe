//! What is looked up for a pod before a decision.

use keyward_core::config::Tls;
use keyward_core::config::injector::{Injection, NativeSidecars};
use keyward_core::{Code, Error, Result};
use keyward_kubernetes::{Cluster, Version};
use tokio::sync::OnceCell;

use crate::admission::{Facts, Needs};

/// From this version on init containers may go on running without a feature gate that could be off
/// (KEP-753, beta in 1.29).
const NATIVE_SIDECARS: Version = Version { major: 1, minor: 29 };

/// The largest trust anchors that fit into a flag, bytes: the kernel takes 128 KiB for one argument.
const LARGEST_ROOTS: usize = 64 * 1024;

/// Asks the API server.
pub(crate) struct Lookups {
    cluster: Cluster,
    version: OnceCell<Version>,
}

impl Lookups {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster, version: OnceCell::new() }
    }

    /// Finds what a decision needs.
    ///
    /// # Errors
    /// `KW_KUBERNETES_FORBIDDEN` or `KW_KUBERNETES_UNAVAILABLE`, and `KW_CONFIG_INVALID` for unreadable trust anchors.
    pub(crate) async fn facts(&self, needs: &Needs, namespace: &str, injection: &Injection) -> Result<Facts> {
        let account = async {
            match &needs.service_account {
                Some(name) => self.cluster.service_account(namespace, name).await,
                None => Ok(None),
            }
        };
        let config = async {
            match &needs.config_map {
                Some(name) => self.cluster.config_map(namespace, name, "config.yaml").await,
                None => Ok(None),
            }
        };
        let native = async {
            Ok(match injection.native_sidecars {
                NativeSidecars::Always => true,
                NativeSidecars::Never => false,
                NativeSidecars::Auto if needs.version => {
                    *self.version.get_or_try_init(|| self.cluster.version()).await? >= NATIVE_SIDECARS
                }
                NativeSidecars::Auto => true,
            })
        };
        let (account, config, native_sidecars) = tokio::try_join!(account, config, native)?;
        let account = account.unwrap_or_default();
        Ok(Facts {
            client_id: account.client_id,
            tenant_id: account.tenant_id,
            config,
            config_is_askers: false,
            native_sidecars,
            extra_roots: extra_roots(&injection.tls)?,
        })
    }
}

/// The trust anchors that go into every sidecar's flags.
///
/// # Errors
/// `KW_CONFIG_INVALID` when they cannot be read, are larger than a flag may be or are no certificates.
pub(crate) fn extra_roots(tls: &Tls) -> Result<Option<String>> {
    let bad = |what: &str| Error::new(Code::ConfigInvalid, format!("the trust anchors of tls: {what}"));
    let text = match (&tls.extra_roots_file, &tls.extra_roots) {
        (Some(file), _) => std::fs::read_to_string(file)
            .map_err(|error| bad(&format!("{} cannot be read", file.display())).detail(error))?,
        (None, Some(text)) => text.clone(),
        (None, None) => return Ok(None),
    };
    if text.len() > LARGEST_ROOTS {
        return Err(bad("they are larger than 64 KiB, which is what a sidecar's flag takes"));
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(bad("there is no PEM certificate"));
    }
    Ok(Some(text))
}
