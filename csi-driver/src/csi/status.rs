use keyward_core::{Code, Error, ErrorKind};
use tonic::Status;

/// The code and message that kubelet is given. `details` stay empty, as the specification demands; the message is
/// what the pod's FailedMount event shows: code, hop, what to do, object and identity.
///
/// Kubelet keeps the volume as *uncertain* after UNAVAILABLE, RESOURCE_EXHAUSTED, ABORTED, CANCELLED and
/// DEADLINE_EXCEEDED and tears it down later; everything else is final, and nothing was mounted then.
pub(crate) fn status(error: &Error) -> Status {
    Status::new(code(error), text(error))
}

/// What people are shown.
pub(crate) fn text(error: &Error) -> String {
    format!("{error} (hop: {})", error.hop().as_str())
}

fn code(error: &Error) -> tonic::Code {
    match error.code() {
        Code::VolumeBusy => tonic::Code::Aborted,
        Code::DriverObjectInvalid => tonic::Code::FailedPrecondition,
        _ => match error.kind() {
            ErrorKind::InvalidInput => tonic::Code::InvalidArgument,
            ErrorKind::Unauthenticated => tonic::Code::Unauthenticated,
            ErrorKind::Forbidden | ErrorKind::PermissionDenied => tonic::Code::PermissionDenied,
            ErrorKind::NotFound => tonic::Code::NotFound,
            ErrorKind::Disabled | ErrorKind::Content => tonic::Code::FailedPrecondition,
            ErrorKind::Throttled
            | ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Protocol
            | ErrorKind::StaleLimit => tonic::Code::Unavailable,
            ErrorKind::ResourceExhausted => tonic::Code::ResourceExhausted,
            ErrorKind::System | ErrorKind::Internal => tonic::Code::Internal,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_by_itself_is_not_final_for_kubelet_and_the_rest_is() {
        let code_of = |code| code_of_error(&Error::new(code, "why"));
        for passing in
            [Code::VaultThrottled, Code::TokenUnavailable, Code::Timeout, Code::VaultProtocol, Code::Dns]
        {
            assert_eq!(code_of(passing), tonic::Code::Unavailable);
        }
        assert_eq!(code_of(Code::VolumeBusy), tonic::Code::Aborted);
        assert_eq!(code_of(Code::VaultForbidden), tonic::Code::PermissionDenied);
        assert_eq!(code_of(Code::TokenRefused), tonic::Code::Unauthenticated);
        assert_eq!(code_of(Code::ObjectNotFound), tonic::Code::NotFound);
        assert_eq!(code_of(Code::ReadOnlyRequired), tonic::Code::InvalidArgument);
    }

    fn code_of_error(error: &Error) -> tonic::Code {
        status(error).code()
    }

    #[test]
    fn a_message_says_code_hop_object_and_identity_and_has_no_details() {
        let error = Error::new(Code::VaultForbidden, "the vault refused")
            .object("https://v/secrets/a")
            .identity("client 1");
        let status = status(&error);
        assert!(status.details().is_empty());
        for part in ["KW_VAULT_FORBIDDEN", "hop: vault", "https://v/secrets/a", "client 1"] {
            assert!(status.message().contains(part), "{part}");
        }
    }
}
