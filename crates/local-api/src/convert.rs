#![expect(clippy::arithmetic_side_effects, reason = "sizes of messages that are made from values in memory")]

use keyward_core::{Error, Served, State, UnixTime};
use keyward_proto::secrets::v1::{Failure, SecretMetadata, SecretState};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost_types::Timestamp;

use crate::status::{canonical_code, status};

/// Numbers of the fields of `keyward.secrets.v1.Secret`.
mod field {
    pub(super) const NAME: u32 = 1;
    pub(super) const VALUE: u32 = 2;
    pub(super) const VERSION: u32 = 3;
    pub(super) const SOURCE: u32 = 4;
    pub(super) const CONTENT_TYPE: u32 = 5;
    pub(super) const CREATED_AT: u32 = 6;
    pub(super) const UPDATED_AT: u32 = 7;
    pub(super) const EXPIRES_AT: u32 = 8;
    pub(super) const FETCHED_AT: u32 = 9;
    pub(super) const STALE: u32 = 10;
    pub(super) const SEQUENCE: u32 = 11;
}

/// The texts of a secret's message, by field.
fn texts(served: &Served) -> [(u32, &str); 4] {
    [
        (field::NAME, served.name.as_str()),
        (field::VERSION, served.version.as_ref().map(keyward_core::Version::as_str).unwrap_or_default()),
        (field::SOURCE, served.source.as_str()),
        (field::CONTENT_TYPE, served.content_type.as_deref().unwrap_or_default()),
    ]
}

/// The times of a secret's message, by field.
fn times(served: &Served) -> [(u32, Option<Timestamp>); 4] {
    [
        (field::CREATED_AT, served.created.map(timestamp)),
        (field::UPDATED_AT, served.updated.map(timestamp)),
        (field::EXPIRES_AT, served.expires.map(timestamp)),
        (field::FETCHED_AT, served.fetched.map(timestamp)),
    ]
}

/// Bytes of a `Secret` message whose value has `value` bytes.
pub(crate) fn secret_length(served: &Served, value: usize) -> usize {
    let delimited = |field, length: usize| match length {
        0 => 0,
        _ => key_len(field) + encoded_len_varint(length as u64) + length,
    };
    let texts: usize = texts(served).iter().map(|(field, text)| delimited(*field, text.len())).sum();
    let times: usize = times(served)
        .iter()
        .filter_map(|(field, time)| {
            time.as_ref().map(|time| prost::encoding::message::encoded_len(*field, time))
        })
        .sum();
    let stale = if served.state == State::Stale { key_len(field::STALE) + 1 } else { 0 };
    let sequence = match served.sequence {
        0 => 0,
        sequence => key_len(field::SEQUENCE) + encoded_len_varint(sequence),
    };
    texts + times + stale + sequence + delimited(field::VALUE, value)
}

/// Puts a `Secret` message up to its value, which is its last field and follows as it is. Its texts are not copied
/// first, as a message made by hand would need.
pub(crate) fn put_secret(served: &Served, value: usize, buffer: &mut Vec<u8>) {
    for (field, text) in texts(served).into_iter().filter(|(_, text)| !text.is_empty()) {
        encode_key(field, WireType::LengthDelimited, buffer);
        encode_varint(text.len() as u64, buffer);
        buffer.extend_from_slice(text.as_bytes());
    }
    for (field, time) in times(served) {
        if let Some(time) = time {
            prost::encoding::message::encode(field, &time, buffer);
        }
    }
    if served.state == State::Stale {
        prost::encoding::bool::encode(field::STALE, &true, buffer);
    }
    if served.sequence != 0 {
        prost::encoding::uint64::encode(field::SEQUENCE, &served.sequence, buffer);
    }
    if value != 0 {
        encode_key(field::VALUE, WireType::LengthDelimited, buffer);
        encode_varint(value as u64, buffer);
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
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::{SecretBytes, Version};
    use keyward_proto::secrets::v1::Secret;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// The message as generated code has it.
    fn expected(served: &Served, value: &[u8]) -> Secret {
        Secret {
            name: served.name.clone(),
            value: bytes::Bytes::copy_from_slice(value),
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

    proptest! {
        #[test]
        fn a_secret_is_encoded_as_the_contract_says_whatever_it_holds(
            name in "\\PC{0,40}",
            source in "\\PC{0,200}",
            content_type in proptest::option::of("\\PC{0,200}"),
            times in proptest::array::uniform4(proptest::option::of((0u64..1 << 40, 0u32..1_000_000_000))),
            turn in proptest::option::of(any::<u32>()),
            stale in any::<bool>(),
            sequence in prop_oneof![Just(0), any::<u64>()],
            value in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let [created, updated, expires, fetched] =
                times.map(|time| time.map(|(seconds, nanos)| UnixTime::new(seconds, nanos)));
            let served = Served {
                name,
                value: Ok(SecretBytes::copy_from(&value)),
                version: turn.map(|turn| Version::parse(&format!("{turn:032x}")).unwrap()),
                source,
                content_type,
                created,
                updated,
                expires,
                fetched,
                state: if stale { State::Stale } else { State::Fresh },
                error: None,
                sequence,
            };
            let mut buffer = Vec::new();
            put_secret(&served, value.len(), &mut buffer);
            buffer.extend_from_slice(&value);
            prop_assert_eq!(buffer.len(), secret_length(&served, value.len()));
            let wanted = expected(&served, &value);
            prop_assert_eq!(buffer.len(), wanted.encoded_len());
            prop_assert!(Secret::decode(&buffer[..]).unwrap() == wanted);
        }
    }
}
