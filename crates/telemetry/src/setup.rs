//! What every daemon does at its start: logs, audit log and standing gauges, as its configuration says.

use std::sync::Arc;

use keyward_core::audit::{Action, Actor, AuditEvent, AuditSink};
use keyward_core::config::{Audit, Log, Traces};
use keyward_core::observe::Observer;
use keyward_core::{Clock, Code, Error, Result};

use crate::audit::{AuditLog, Destination, OnFailure, Settings, SigningKey};
use crate::{Metrics, logs, traces};

/// Records that may wait for a slow destination.
const QUEUE: usize = 8192;

/// Opens the audit log as the configuration says; its origin names the host.
///
/// # Errors
/// `KW_AUDIT_UNAVAILABLE` or `KW_CONFIG_INVALID`, naming the file.
pub fn audit_log(
    config: &Audit,
    clock: &Arc<dyn Clock>,
    observer: &Arc<dyn Observer>,
    seed: u64,
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
        origin: format!("keyward/{}/{seed:016x}", host()),
        queue: QUEUE,
        key,
    };
    AuditLog::open(settings, Arc::clone(clock), Arc::clone(observer)).map(Arc::new)
}

/// Starts logs and, where it is configured, trace export, whose task the caller runs.
///
/// # Errors
/// `KW_INTERNAL` when the process has a log already.
pub fn start_logs(
    log: &Log,
    config: Option<&Traces>,
    service: &'static str,
    version: &'static str,
    clock: &Arc<dyn Clock>,
) -> Result<Option<traces::Exporter>> {
    let format = if log.json { logs::Format::Json } else { logs::Format::Text };
    let (layer, exporter) = config
        .map(|settings| {
            let settings = traces::Settings {
                endpoint: settings.endpoint.clone(),
                ratio: f64::from(settings.sample_per_mille) / 1000.0,
                object_names: false,
                resource: vec![
                    ("service.name".to_owned(), service.to_owned()),
                    ("service.version".to_owned(), version.to_owned()),
                    ("k8s.pod.name".to_owned(), host()),
                ],
            };
            traces::tracer(settings, Arc::clone(clock))
        })
        .unzip();
    logs::init(format, log.level, layer)?;
    logs::install_panic_hook();
    Ok(exporter)
}

/// Shows when the audit log was last signed.
pub fn register_audit(metrics: &Metrics, log: &Arc<AuditLog>) {
    let log = Arc::clone(log);
    metrics.register_gauge(
        "audit_checkpoint_timestamp_seconds",
        "When the audit log last signed a checkpoint, Unix time",
        move || i64::try_from(log.last_checkpoint().as_secs()).unwrap_or(i64::MAX),
    );
}

/// Leaves a record that a configuration was applied or refused.
pub fn configured(audit: &dyn AuditSink, clock: &dyn Clock, error: Option<Code>) {
    let event = AuditEvent {
        at: clock.wall(),
        actor: Actor::Keyward,
        action: Action::Configure,
        object: "configuration".to_owned(),
        version: None,
        identity: None,
        error,
        trace_id: None,
        request_id: None,
    };
    // The log reports its own gaps.
    let _ = audit.record(event);
}

/// The pod's name is its host name; only what an origin may hold.
fn host() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let name: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(100).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}
