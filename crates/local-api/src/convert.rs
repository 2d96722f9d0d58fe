use bytes::Bytes;
use keyward_core::{Error, SecretBytes, Served, State, UnixTime};
use keyward_proto::secrets::v1::{Failure, Secret, SecretMetadata, SecretState};
use prost_types::Timestamp;

use crate::status::{canonical_code, status};

/// The wire form of a value that is being given. The bytes are shared with the snapshot, not copied.
pub(crate) fn secret(served: &Served, value: &SecretBytes) -> Secret {
    Secret {
        name: served.name.clone(),
        value: Bytes::from_owner(value.clone()),
        version: version(served),
        source: served.source.clone(),
        content_type: served.content_type.clone().unwrap_or_default(),
        created_at: served.created.map(timestamp),
        updated_at: served.updated.map(timestamp),
        expires_at: served.expires.map(timestamp),
        fetched_at: served.fetched.map(timestamp),
        stale: served.state == State::Stale,
        sequence: served.sequence,
    }
}

/// The wire form of what is known about an object, without its value.
pub(crate) fn metadata(served: &Served) -> SecretMetadata {
    let state = match served.state {
        State::Pending => SecretState::Pending,
        State::Fresh => SecretState::Fresh,
        State::Stale => SecretState::Stale,
        State::Expired => SecretState::Expired,
        State::Revoked => SecretState::Revoked,
    };
    let error = served.error.as_ref().or(served.value.as_ref().err());
    SecretMetadata {
        name: served.name.clone(),
        version: version(served),
        source: served.source.clone(),
        content_type: served.content_type.clone().unwrap_or_default(),
        created_at: served.created.map(timestamp),
        updated_at: served.updated.map(timestamp),
        expires_at: served.expires.map(timestamp),
        fetched_at: served.fetched.map(timestamp),
        state: state.into(),
        reason: error.map(|error| error.code().as_str().to_owned()).unwrap_or_default(),
        sequence: served.sequence,
    }
}

/// The wire form of a value that is not given.
pub(crate) fn failure(name: &str, error: &Error, sequence: u64) -> Failure {
    Failure {
        name: name.to_owned(),
        code: canonical_code(error) as i32,
        reason: error.code().as_str().to_owned(),
        message: status(error).message().to_owned(),
        sequence,
    }
}

fn version(served: &Served) -> String {
    served.version.as_ref().map(|version| version.as_str().to_owned()).unwrap_or_default()
}

fn timestamp(time: UnixTime) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.subsec_nanos()).expect("fewer than a thousand million"),
    }
}
