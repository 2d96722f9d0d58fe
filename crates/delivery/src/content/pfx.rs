//! PKCS#12 (RFC 7292), read and written.
//!
//! The reader takes what Windows, OpenSSL, NSS and Java write: BER or DER, the old RC2 and 3DES ciphers and PBES2 with
//! AES, MACs from SHA-1 to SHA-512 and PBMAC1 (RFC 9579), several keys, an empty password in both forms in use. It is
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
