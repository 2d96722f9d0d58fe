use std::collections::HashMap;

use keyward_core::{Error, ErrorKind, Hop};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of every `google.rpc.ErrorInfo` that Keyward sends.
pub const DOMAIN: &str = "keyward.dev";

/// Longest message and longest detail in bytes: HTTP/2 clients commonly take 8 KiB of headers altogether.
const MAX_TEXT: usize = 1024;

/// The canonical code of an error: the one place where Keyward's kinds become gRPC's.
///
/// Upstream trouble that may pass is UNAVAILABLE, which standard retry policies repeat; a definite no of the vault or
/// of Entra is PERMISSION_DENIED or NOT_FOUND (the caller itself was never asked for credentials, so UNAUTHENTICATED
/// would mislead); RESOURCE_EXHAUSTED is only ever the caller's own doing.
#[must_use]
pub fn canonical_code(error: &Error) -> Code {
    match error.kind() {
        ErrorKind::InvalidInput if matches!(error.hop(), Hop::Configuration | Hop::Caller) => {
            Code::InvalidArgument
        }
        ErrorKind::InvalidInput | ErrorKind::Content => Code::FailedPrecondition,
        ErrorKind::Unauthenticated
        | ErrorKind::Forbidden
        | ErrorKind::Disabled
        | ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Throttled
        | ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Protocol
        | ErrorKind::StaleLimit
        | ErrorKind::System => Code::Unavailable,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The status that a caller gets: canonical code, the error's public text, `google.rpc.ErrorInfo`, and
/// `google.rpc.RetryInfo` when a time to wait is known.
#[must_use]
pub fn status(error: &Error) -> Status {
    let mut metadata = HashMap::from([("hop".to_owned(), error.hop().as_str().to_owned())]);
    if let Some(object) = error.object_name() {
        metadata.insert("object".to_owned(), bounded(object));
    }
    if let Some(identity) = error.identity_name() {
        metadata.insert("identity".to_owned(), bounded(identity));
    }
    let mut details = ErrorDetails::with_error_info(error.code().as_str(), DOMAIN, metadata);
    if let Some(wait) = error.wait() {
        details.set_retry_info(Some(wait));
    }
    Status::with_error_details(canonical_code(error), bounded(&error.to_string()), details)
}

fn bounded(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT);
    text.get(..end).unwrap_or_default().to_owned()
}

/// The code by name, as metrics and `google.rpc.Code` spell it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_status_has_code_reason_domain_and_public_text_and_never_the_detail() {
        let error = Error::new(keyward_core::Code::VaultForbidden, "the vault says no; assign a role")
            .object("https://shop.vault.azure.net/secrets/db")
            .identity("client 1111")
            .retry_after(Some(Duration::from_secs(3)))
            .detail("internal-detail");
        let status = status(&error);
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.message(), error.to_string());
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("KW_VAULT_FORBIDDEN", "keyward.dev"));
        assert_eq!(info.metadata["object"], "https://shop.vault.azure.net/secrets/db");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(3)));
        assert!(!String::from_utf8_lossy(status.details()).contains("internal-detail"));
    }

    #[test]
    fn every_code_of_keyward_maps_and_trouble_that_passes_is_unavailable() {
        for code in keyward_core::Code::ALL {
            let error = Error::new(*code, "x");
            let canonical = canonical_code(&error);
            assert!(!matches!(canonical, Code::Ok | Code::Unknown | Code::Unauthenticated), "{code:?}");
            if error.kind().is_transient() {
                assert_eq!(canonical, Code::Unavailable, "{code:?}");
            }
            if error.kind().is_definite_no() {
                assert!(matches!(canonical, Code::PermissionDenied | Code::NotFound), "{code:?}");
            }
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let status = status(&Error::new(keyward_core::Code::Internal, "ä".repeat(4000)));
        assert!(status.message().len() <= MAX_TEXT);
    }
}
