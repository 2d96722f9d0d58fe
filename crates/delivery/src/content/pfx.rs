//! PKCS#12 (RFC 7292), read and written.
//!
//! The reader takes what Windows, OpenSSL, NSS and Java write: BER or DER, the old RC2 and 3DES ciphers and PBES2 with
//! AES, MACs from SHA-1 to SHA-512, several keys, an empty password in both forms in use. It is
//! our own because a hostile file must be refused before it costs anything: the iterations of all derivations of one
//! file are counted together, and every plaintext is wiped.

mod cipher;
mod derive;
mod read;
mod write;

use keyward_core::{Result, SecretBytes};
use zeroize::Zeroizing;

pub(super) use write::write;

/// Most iterations of one key derivation.
pub const MAX_ITERATIONS: u64 = 1_000_000;
/// Most iterations of all derivations of one file: its MAC, and each encrypted part.
const MAX_ITERATIONS_TOGETHER: u64 = 4 * MAX_ITERATIONS;

/// What a PKCS#12 file holds, in its order.
pub struct Pfx {
    /// The private keys.
    pub keys: Vec<PfxKey>,
    /// The certificates.
    pub certificates: Vec<PfxCertificate>,
}

/// One private key.
pub struct PfxKey {
    /// PKCS#8, DER.
    pub pkcs8: Zeroizing<Vec<u8>>,
    /// The attribute that binds it to its certificate.
    pub local_key_id: Option<Vec<u8>>,
}

/// One certificate.
pub struct PfxCertificate {
    /// X.509, DER.
    pub der: Vec<u8>,
    /// The attribute that binds it to its key.
    pub local_key_id: Option<Vec<u8>>,
}

/// Reads a PKCS#12 file. With an empty `password`, both forms in use are tried: the empty text and no text at all.
///
/// # Errors
/// `KW_CONTENT_INVALID` for damage, a wrong password, ciphers outside the list above, and limits: 1 MiB, 256 bags,
/// [`MAX_ITERATIONS`] for a derivation and four times that for the file, refused before anything is derived.
pub fn parse_pfx(der: &[u8], password: &SecretBytes) -> Result<Pfx> {
    read::read(der, password)
}

#[cfg(test)]
mod tests {
    use super::derive::{Derive, Password};
    use super::*;
    use crate::content::salt::Salt;

    #[test]
    fn an_empty_password_opens_what_was_written_without_any() {
        let made = write::write_under(
            &Password::absent(),
            Salt::new(b"test", &[]),
            "x",
            b"\x30\x00",
            &[b"\x30\x00"],
        );
        let made = made.unwrap();
        let read = parse_pfx(made.expose(), &SecretBytes::copy_from(b"")).unwrap();
        assert_eq!(*read.keys[0].pkcs8, b"\x30\x00");
        assert!(parse_pfx(made.expose(), &SecretBytes::copy_from(b"x")).is_err());
    }

    #[test]
    fn the_derivations_of_one_file_are_counted_together_and_refused_before_they_begin() {
        let password = Password::absent();
        let mut derive = Derive::new(&password);
        for _ in 0..4 {
            assert!(derive.spend(MAX_ITERATIONS).is_ok());
        }
        assert!(derive.spend(1).is_err());
        assert!(Derive::new(&password).spend(MAX_ITERATIONS + 1).is_err());
        assert!(Derive::new(&password).spend(0).is_err());
    }
}
