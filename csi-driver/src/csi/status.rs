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

/// Bytes of a text that kubelet is given. It goes into a header, percent-encoded, so that three times as many must fit
/// into the 8 KiB that an HTTP/2 peer takes at least in practice; an event of Kubernetes shows 1 KiB of it.
pub(crate) const LONGEST_TEXT: usize = 2048;
/// What follows a text that was cut.
const MORE: &str = "…";

/// What people are shown, at most [`LONGEST_TEXT`] bytes of it.
pub(crate) fn text(error: &Error) -> String {
    // The hop is last: what is cut is the middle.
    let hop = format!(" (hop: {})", error.hop().as_str());
    shorten(&error.to_string(), LONGEST_TEXT.saturating_sub(hop.len())) + &hop
}

/// A text for kubelet or from it, at most [`LONGEST_TEXT`] bytes of it.
pub(crate) fn cut(text: &str) -> String {
    shorten(text, LONGEST_TEXT)
}

/// At most `limit` bytes, whole characters, with a mark that there was more.
fn shorten(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit.saturating_sub(MORE.len()));
    text.get(..end).unwrap_or_default().to_owned() + MORE
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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn what_kubelet_is_told_is_bounded_whatever_the_error_says(
            short in "\\PC{0,80}", long in "[a-zé€😀\\n]{600,1200}", times in 0_usize..4,
        ) {
            let message = format!("{short}{}", long.repeat(times));
            let error = Error::new(Code::VaultForbidden, message.clone()).object(long.clone());
            let text = text(&error);
            prop_assert!(text.len() <= LONGEST_TEXT, "{} bytes", text.len());
            prop_assert!(text.starts_with("KW_VAULT_FORBIDDEN") && text.ends_with("(hop: vault)"), "{text}");
            let status = status(&error);
            prop_assert_eq!(status.message(), &text);
            prop_assert!(cut(&message).len() <= LONGEST_TEXT);
            prop_assert_eq!(cut(&short), short);
        }
    }

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("abcd", 3), "…");
        assert_eq!(shorten("ééé", 5), "é…");
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
