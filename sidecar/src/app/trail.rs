use std::sync::Arc;

use keyward_core::config::Audit;
use keyward_core::observe::Observer;
use keyward_core::{Clock, Code, Error, Result};
use keyward_telemetry::audit::{AuditLog, Destination, OnFailure, Settings, SigningKey};

/// Records that may wait for a slow destination.
const QUEUE: usize = 8192;

/// Opens the audit log as the configuration says.
///
/// # Errors
/// `KW_AUDIT_UNAVAILABLE` or `KW_CONFIG_INVALID`, naming the file.
pub(crate) fn open(
    config: &Audit,
    clock: &Arc<dyn Clock>,
    observer: &Arc<dyn Observer>,
) -> Result<Arc<AuditLog>> {
    let key = config
        .key_file
        .as_deref()
        .map(|path| {
            let pem = std::fs::read(path).map_err(|error| {
                Error::new(
                    Code::ConfigInvalid,
                    format!("audit.keyFile {} cannot be read: {error}", path.display()),
                )
            })?;
            SigningKey::from_pem(&pem)
        })
        .transpose()?;
    let settings = Settings {
        destination: config.file.clone().map_or(Destination::Stdout, Destination::File),
        fsync: config.fsync,
        on_failure: if config.deny_on_failure { OnFailure::Deny } else { OnFailure::Allow },
        origin: format!("keyward/{}/{:016x}", host(), fastrand::u64(..)),
        queue: QUEUE,
        key,
    };
    AuditLog::open(settings, Arc::clone(clock), Arc::clone(observer)).map(Arc::new)
}

/// Attributes that say in traces who we are.
pub(crate) fn resource() -> Vec<(String, String)> {
    vec![
        ("service.name".to_owned(), "keyward-sidecar".to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("k8s.pod.name".to_owned(), host()),
    ]
}

/// The pod's name is its host name; only what an origin may hold.
fn host() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let name: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(100).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}
