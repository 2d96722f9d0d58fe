use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyward_core::{Code, Error, Result, SecretBytes, UnixTime};

mod load;

pub use load::parse_certificate;

/// How long a signed assertion is good for, seconds.
const ASSERTION_LIFE: u64 = 300;

/// A certificate and its RSA key, which sign client assertions. There is no `Debug`.
pub struct SigningCertificate {
    key: KeyPair,
    /// DER, the leaf first.
    chain: Vec<Vec<u8>>,
}

impl SigningCertificate {
    /// The certificate whose key signs, DER.
    #[must_use]
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map_or(&[], Vec::as_slice)
    }

    /// A client assertion for the token endpoint `audience` (RFC 7523): RS256, the certificate named by its SHA-1 and
    /// SHA-256 thumbprints and, with `send_chain`, sent along.
    ///
    /// # Errors
    /// `KW_INTERNAL` when the key does not sign.
    pub(crate) fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        now: UnixTime,
        send_chain: bool,
    ) -> Result<SecretBytes> {
        let thumbprint = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, self.leaf()));
        let mut header = serde_json::json!({
            "alg": "RS256",
            "typ": "JWT",
            "x5t": thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            "x5t#S256": thumbprint(&digest::SHA256),
        });
        if send_chain {
            let chain: serde_json::Value = self.chain.iter().map(|der| STANDARD.encode(der)).collect();
            if let Some(header) = header.as_object_mut() {
                header.insert("x5c".to_owned(), chain);
            }
        }
        let claims = serde_json::json!({
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": format!("{:032x}", fastrand::u128(..)),
            "nbf": now.as_secs(),
            "exp": now.as_secs().saturating_add(ASSERTION_LIFE),
        });
        let encode = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let mut token = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|_| Error::new(Code::Internal, "the certificate's key does not sign"))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(SecretBytes::from(token))
    }

    /// Puts the certificate of this key first.
    fn of(key: KeyPair, mut chain: Vec<Vec<u8>>) -> Option<Self> {
        let public = key.public_key().as_ref().to_vec();
        let leaf = chain.iter().position(|der| load::public_key(der).as_deref() == Some(&*public))?;
        chain.swap(0, leaf);
        Some(Self { key, chain })
    }
}

#[cfg(test)]
mod tests;
