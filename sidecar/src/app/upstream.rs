use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyward_core::audit::AuditSink;
use keyward_core::config::Config;
use keyward_core::observe::Observer;
use keyward_core::{Clock, IdentityKey, Provider, Result, TokenSource};
use keyward_egress::{Egress, EgressSettings};
use keyward_identity::{IdentitySettings, TokenCache, token_source};
use keyward_providers::key_vault::{KeyVault, KeyVaultSettings};
use keyward_telemetry::{Observed, ObservedTokens};

/// The way to the vault: one outbound client, one identity, one provider.
pub(crate) struct Upstream {
    pub(crate) egress: Arc<Egress>,
    pub(crate) identity: Arc<IdentityKey>,
    pub(crate) provider: Arc<dyn Provider>,
    tokens: Arc<TokenCache>,
    roots: Option<PathBuf>,
    files: Vec<PathBuf>,
}

impl Upstream {
    /// Builds it from a configuration. No request leaves yet.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` or `KW_IDENTITY_FILE`, naming the setting or file.
    pub(crate) fn build(
        config: &Config,
        clock: &Arc<dyn Clock>,
        observer: &Arc<dyn Observer>,
        audit: &Arc<dyn AuditSink>,
    ) -> Result<Self> {
        let vars = |name: &str| std::env::var(name).ok();
        let egress = Egress::new(
            EgressSettings::from_config(config, &vars)?,
            Arc::clone(clock),
            Arc::clone(observer),
        )?;
        let settings = IdentitySettings::from_config(&config.identity, &config.cloud, &vars)?;
        let files = settings.files();
        let tokens = token_source(settings, Arc::clone(&egress), Arc::clone(clock), Arc::clone(observer))?;
        let identity = Arc::new(tokens.identity().clone());
        let observed_tokens = Arc::new(ObservedTokens::new(
            Arc::clone(&tokens) as Arc<dyn TokenSource>,
            Arc::clone(audit),
            Arc::clone(clock),
        ));
        let vault = KeyVault::new(
            KeyVaultSettings::from_config(config),
            Arc::clone(&egress),
            observed_tokens,
            Arc::clone(clock),
        );
        let provider =
            Observed::new(vault, &identity, Arc::clone(audit), Arc::clone(observer), Arc::clone(clock));
        let roots = config.tls.extra_roots_file.clone();
        Ok(Self { egress, identity, provider: Arc::new(provider), tokens, roots, files })
    }

    /// Files whose change matters: token, secret, certificate, trust anchors.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().chain(&self.roots)
    }

    /// Takes note of a changed file.
    pub(crate) fn file_changed(&self, path: &Path) {
        if self.roots.as_deref() == Some(path) {
            let renewed =
                EgressSettings::read_roots(path).and_then(|pem| self.egress.reload_roots(Some(&pem)));
            match renewed {
                Ok(()) => tracing::info!(path = %path.display(), "trust anchors read again"),
                Err(error) => tracing::warn!(%error, "the old trust anchors stay in use"),
            }
        } else {
            self.tokens.reload();
        }
    }
}
