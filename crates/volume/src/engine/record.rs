use keyward_core::audit::{Action, AuditEvent};
use keyward_core::spec::ObjectSpec;
use keyward_delivery::projection::Projected;

use super::{Declared, Parts};

/// One record for each entry that was handed over or removed.
pub(super) fn deliveries(parts: &Parts, declared: &Declared, changed: &[&Projected]) {
    for entry in changed.iter().filter(|entry| entry.removed || !entry.files.is_empty()) {
        let spec = declared.specs.iter().find(|spec| spec.name == entry.name);
        let object = spec
            .and_then(ObjectSpec::object)
            .map_or_else(|| format!("template:{}", entry.name), ToString::to_string);
        let event = AuditEvent {
            at: parts.clock.wall(),
            actor: parts.actor.clone(),
            action: if entry.removed { Action::Remove } else { Action::Deliver },
            object,
            version: entry.version.as_ref().map(ToString::to_string),
            identity: Some(declared.identity.to_string()),
            error: None,
            trace_id: None,
            request_id: None,
        };
        // Files are there already; a log that cannot take it has reported the gap itself.
        let _ = parts.audit.record(event);
    }
}
