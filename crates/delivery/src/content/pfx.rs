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

use crate::conversions::Turn;

pub(super) use write::write;

/// Most key-derivation iterations of one file, all derivations together: its MAC, each encrypted part, and a second
/// attempt with the absent password. A derivation counts once for each block of its hash that the key needs. SECURITY.md
/// names this number.
pub const MAX_ITERATIONS: u64 = 1_000_000;

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
/// [`MAX_ITERATIONS`] for the file, refused before the derivation that exceeds them; what ends a [`Turn`] early.
pub fn parse_pfx(turn: &Turn, der: &[u8], password: &SecretBytes) -> Result<Pfx> {
    read::read(turn, der, password)
}

#[cfg(test)]
mod tests {
    use super::derive::{Derive, Password};
    use super::*;
    use crate::content::salt::Salt;
    use crate::conversions::apart;

    #[test]
    fn an_empty_password_opens_what_was_written_without_any() {
        apart(|turn| {
            let made = write::write_under(
                turn,
                &Password::absent(),
                Salt::new(b"test", &[]),
                "x",
                b"\x30\x00",
                &[b"\x30\x00"],
            );
            let made = made.unwrap();
            let read = parse_pfx(turn, made.expose(), &SecretBytes::copy_from(b"")).unwrap();
            assert_eq!(*read.keys[0].pkcs8, b"\x30\x00");
            assert!(parse_pfx(turn, made.expose(), &SecretBytes::copy_from(b"x")).is_err());
        })
        .unwrap();
    }

    #[test]
    fn all_derivations_of_one_file_are_counted_together_and_refused_before_they_begin() {
        let password = Password::absent();
        apart(|turn| {
            let mut derive = Derive::new(turn, &password);
            assert!(derive.spend(MAX_ITERATIONS / 4, 4).is_ok());
            assert!(derive.spend(1, 1).is_err());
            assert!(
                derive.again(&password).spend(1, 1).is_err(),
                "a second attempt has what the first one left"
            );
            assert!(Derive::new(turn, &password).spend(MAX_ITERATIONS + 1, 1).is_err());
            assert!(Derive::new(turn, &password).spend(MAX_ITERATIONS / 2 + 1, 2).is_err());
            assert!(Derive::new(turn, &password).spend(u64::MAX, 2).is_err());
            assert!(Derive::new(turn, &password).spend(0, 1).is_err());
        })
        .unwrap();
    }

    /// A key store with a checksum and two encrypted parts, of `mac` and `part` iterations.
    fn store(mac: u64, part: u64) -> Vec<u8> {
        apart(|turn| {
            let made = write::write_with(
                turn,
                &Password::new(&SecretBytes::copy_from(b"pw")).unwrap(),
                Salt::new(b"test", &[]),
                "x",
                b"\x30\x00",
                &[b"\x30\x00"],
                write::Cost { mac, part },
            );
            made.unwrap().expose().to_vec()
        })
        .unwrap()
    }

    #[test]
    fn a_file_may_have_as_many_iterations_as_security_says_and_not_one_more() {
        let text = include_str!("../../../../SECURITY.md");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let said =
            words.split(" key-derivation iterations").next().and_then(|before| before.rsplit(' ').next());
        let digits: String = said.unwrap().chars().filter(char::is_ascii_digit).collect();
        assert_eq!(digits.parse::<u64>().ok(), Some(MAX_ITERATIONS), "{said:?} in SECURITY.md");

        let read = |der: &[u8]| {
            apart(|turn| parse_pfx(turn, der, &SecretBytes::copy_from(b"pw")).map(drop)).unwrap()
        };
        let part = MAX_ITERATIONS / 2 - 5_000;
        assert!(read(&store(MAX_ITERATIONS - 2 * part, part)).is_ok());
        let error = read(&store(MAX_ITERATIONS - 2 * part + 1, part)).unwrap_err();
        assert!(error.message().contains("1000000"), "{error}");
    }
}
