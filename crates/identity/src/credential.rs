use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use keyward_core::{Code, Error, Result, SecretBytes, UnixTime};

use crate::parse_assertion_claims;
use crate::proof::ProofSource;

/// What one pod brings to prove a shared identity. There is no `Debug`.
#[derive(Clone)]
pub enum Credential {
    /// Its service-account token, as kubelet passed it.
    ServiceAccountToken(SecretBytes),
    /// The client secret of its service principal.
    ClientSecret(SecretBytes),
    /// Nothing: a managed identity is the node's own.
    None,
}

/// Stands for one credential and for no other. Cannot be turned back, and that of a client secret cannot be guessed
/// either: it depends on a key that no other process has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Credential {
    /// SHA-256 of a token, which has too much randomness to be guessed; HMAC-SHA-256 of a secret that people may have
    /// chosen.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; 32];
        match self {
            Self::ServiceAccountToken(token) => {
                bytes.copy_from_slice(digest(&SHA256, token.expose()).as_ref());
            }
            Self::ClientSecret(secret) => {
                bytes.copy_from_slice(hmac::sign(&PROCESS_KEY, secret.expose()).as_ref());
            }
            Self::None => {}
        }
        Fingerprint(bytes)
    }

    /// When it ends by its own word, wall time.
    pub(crate) fn expires(&self) -> Option<UnixTime> {
        match self {
            Self::ServiceAccountToken(token) => parse_assertion_claims(token.expose())
                .and_then(|claims| claims.expires)
                .map(UnixTime::from_secs),
            Self::ClientSecret(_) | Self::None => None,
        }
    }

    pub(crate) fn source(&self) -> Result<ProofSource> {
        match self {
            Self::ServiceAccountToken(token) => Ok(ProofSource::Token(token.clone())),
            Self::ClientSecret(secret) => Ok(ProofSource::Secret(secret.clone())),
            Self::None => Err(Error::new(Code::ConfigInvalid, "this identity is proved by a credential")),
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "no input decides it, and without random bytes there is no TLS either"
)]
static PROCESS_KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the system gives random bytes")
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_differs_for_each_credential_and_kind() {
        let bytes = |text: &str| SecretBytes::copy_from(text.as_bytes());
        let all = [
            Credential::ServiceAccountToken(bytes("a")),
            Credential::ServiceAccountToken(bytes("b")),
            Credential::ClientSecret(bytes("a")),
            Credential::ClientSecret(bytes("b")),
            Credential::None,
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(one.fingerprint() == other.fingerprint(), at == other_at);
            }
        }
    }

    #[test]
    fn a_client_secrets_fingerprint_is_keyed() {
        let secret = SecretBytes::copy_from(b"hunter2");
        let plain = Credential::ServiceAccountToken(secret.clone()).fingerprint();
        assert!(Credential::ClientSecret(secret).fingerprint() != plain);
    }
}
