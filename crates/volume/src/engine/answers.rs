//! What the API answers for each entry: the projected value, or why there is none (promise 3).

use keyward_core::spec::{ObjectSource, ObjectSpec};
use keyward_core::{Code, Error, Served, Snapshot, State};
use keyward_delivery::projection::Projected;

/// An entry whose first read has not ended: pending, and without an error.
pub(super) fn on_its_way(spec: &ObjectSpec) -> Served {
    let source = spec.object().map_or_else(template, ToString::to_string);
    let waiting = Error::new(Code::VaultUnavailable, "the object has not been read yet").object(&source);
    Served { state: State::Pending, ..bare(&spec.name, source, Err(waiting)) }
}

/// One object.
pub(super) fn of_object(entry: &Projected, source: &ObjectSource, snapshot: Option<&Snapshot>) -> Served {
    let fetched = snapshot.and_then(|snapshot| snapshot.fetched.as_deref());
    let value = snapshot.and_then(refusal).map_or_else(|| entry.value.clone(), Err);
    Served {
        version: entry.version.clone(),
        content_type: fetched.and_then(|fetched| fetched.content_type.clone()),
        created: fetched.and_then(|fetched| fetched.created),
        updated: fetched.and_then(|fetched| fetched.updated),
        expires: fetched.and_then(|fetched| fetched.expires),
        fetched: snapshot.and_then(|snapshot| snapshot.confirmed),
        state: snapshot.map_or(State::Pending, |snapshot| snapshot.state),
        error: snapshot
            .filter(|snapshot| !untried(snapshot))
            .and_then(|snapshot| entry.error.as_ref().or(snapshot.error.as_ref()))
            .cloned(),
        ..bare(&entry.name, source.object.to_string(), value)
    }
}

/// A template, which is as stale as the stalest of the objects that it mentions.
pub(super) fn of_template<'a>(entry: &Projected, mentioned: impl Iterator<Item = &'a Snapshot>) -> Served {
    let worst = mentioned.max_by_key(|snapshot| severity(snapshot.state));
    let value = worst.and_then(refusal).map_or_else(|| entry.value.clone(), Err);
    let error = entry.error.as_ref().or_else(|| worst.and_then(|snapshot| snapshot.error.as_ref()));
    Served {
        fetched: worst.and_then(|snapshot| snapshot.confirmed),
        state: worst.map_or(State::Fresh, |snapshot| snapshot.state),
        error: if worst.is_some_and(untried) { None } else { error.cloned() },
        ..bare(&entry.name, template(), value)
    }
}

/// Nobody has said yes or no to a first read.
pub(super) fn untried(snapshot: &Snapshot) -> bool {
    snapshot.fetched.is_none() && snapshot.error.is_none()
}

/// Why the API gives nothing although a last good value exists.
fn refusal(snapshot: &Snapshot) -> Option<Error> {
    let stale = |cause: Option<&Error>| {
        let cause = cause
            .map(|cause| format!("; the last check failed with {}", cause.code().as_str()))
            .unwrap_or_default();
        Error::new(Code::StaleLimit, format!("the last good value is older than rotation.maxStale{cause}"))
            .object(&snapshot.key.request.object)
    };
    match (snapshot.state, &snapshot.error) {
        (State::Revoked, Some(error)) => Some(error.clone()),
        (State::Expired | State::Revoked, error) => Some(stale(error.as_ref())),
        (State::Pending | State::Fresh | State::Stale, _) => None,
    }
}

fn severity(state: State) -> u8 {
    match state {
        State::Fresh => 0,
        State::Stale => 1,
        State::Expired => 2,
        State::Revoked => 3,
        State::Pending => 4,
    }
}

fn template() -> String {
    "template".to_owned()
}

fn bare(name: &str, source: String, value: Result<keyward_core::SecretBytes, Error>) -> Served {
    Served {
        name: name.to_owned(),
        value,
        version: None,
        source,
        content_type: None,
        created: None,
        updated: None,
        expires: None,
        fetched: None,
        state: State::Fresh,
        error: None,
        sequence: 0,
    }
}
