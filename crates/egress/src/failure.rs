use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use hyper_util::client::legacy;
use keyward_core::{Code, Error};
use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use crate::body::BodyFailure;
use crate::request::Target;

/// The error of ours that `error` or one of its causes is.
pub(crate) fn ours(error: &(dyn StdError + 'static)) -> Option<Error> {
    find::<Error>(error).cloned()
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // `io::Error::source` skips the error that it wraps, which is where rustls puts its own.
        if let Some(wrapped) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = find::<E>(wrapped)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A failure to resolve or to connect.
pub(crate) fn of_connect(host: &str, error: &(dyn StdError + 'static)) -> Error {
    ours(error).unwrap_or_else(|| {
        let reason = find::<io::Error>(error).map_or(io::ErrorKind::Other, io::Error::kind);
        Error::new(Code::Connect, format!("cannot connect to {host}: {reason}")).detail(error)
    })
}

pub(crate) fn connect_timeout(host: &str, limit: Duration) -> Error {
    let seconds = limit.as_secs();
    Error::new(
        Code::Connect,
        format!(
            "cannot connect to {host}: no answer within {seconds} s; check firewalls and network policies"
        ),
    )
}

/// A failed TLS handshake, told apart as far as the peer lets us.
pub(crate) fn of_handshake(host: &str, error: &io::Error) -> Error {
    let Some(tls) = find::<rustls::Error>(error) else {
        let message = format!("the connection to {host} broke during the TLS handshake: {}", error.kind());
        return Error::new(Code::Tls, message).detail(error);
    };
    let (code, message) = match tls {
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => (
            Code::TlsVersion,
            format!(
                "{host} does not speak TLS 1.3; update it, or allow 1.2 for it with \
                 `tls.hosts: [{{host: {host}, minimumVersion: \"1.2\"}}]`"
            ),
        ),
        rustls::Error::InvalidCertificate(reason) => {
            (Code::TlsUntrusted, format!("the certificate of {host} is not trusted: {}", untrusted(reason)))
        }
        rustls::Error::AlertReceived(alert) => (
            Code::Tls,
            format!(
                "{host} refused the TLS handshake (alert {}); it may lack TLS 1.3 or want a client certificate",
                u8::from(*alert)
            ),
        ),
        _ => (Code::Tls, format!("the TLS handshake with {host} failed")),
    };
    Error::new(code, message).detail(tls)
}

/// Fixed words: what a certificate says about itself stays out of public text.
fn untrusted(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::UnknownIssuer => {
            "its issuer is not known; add the CA with `tls.extraRootsFile` if it is yours"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired, or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet, or this machine's clock is wrong"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name"
        }
        CertificateError::Revoked => "it is revoked",
        CertificateError::BadSignature => "its signature is wrong",
        _ => "it does not verify",
    }
}

/// A request that got no answer.
pub(crate) fn of_request(target: Target, host: &str, error: &legacy::Error) -> Error {
    if let Some(ours) = ours(error) {
        return ours;
    }
    let hyper = find::<hyper::Error>(error);
    if hyper.is_some_and(|error| error.is_parse() || error.is_incomplete_message()) {
        return broken_answer(target, host).detail(error);
    }
    let reason = find::<io::Error>(error).map_or(io::ErrorKind::Other, io::Error::kind);
    Error::new(Code::Connect, format!("the connection to {host} broke: {reason}")).detail(error)
}

/// An answer whose body could not be used.
pub(crate) fn of_body(target: Target, host: &str, limit: usize, failure: BodyFailure) -> Error {
    match failure {
        BodyFailure::TooLarge => Error::new(
            Code::ResponseTooLarge,
            format!("the answer of {host} is larger than the limit of {limit} bytes and was not read"),
        ),
        BodyFailure::Broken(error) => broken_answer(target, host).detail(error),
    }
}

fn broken_answer(target: Target, host: &str) -> Error {
    Error::new(target.protocol_code(), format!("the answer of {host} ended early or is not well-formed HTTP"))
}

pub(crate) fn deadline(host: &str, deadline: Duration) -> Error {
    Error::new(Code::Timeout, format!("{host} did not answer within {} ms", deadline.as_millis()))
}
