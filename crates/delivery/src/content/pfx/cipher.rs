use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
use aws_lc_rs::iv::FixedLength;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, InnerIvInit, KeyInit};
use des::{TdesEde2, TdesEde3};
use keyward_core::{Error, Result};
use rc2::Rc2;
use zeroize::Zeroizing;

use super::super::asn1::{OCTET_STRING, Reader, SEQUENCE, oid};
use super::super::invalid;
use super::derive::{Derive, Purpose, unsupported};

/// Decrypts what an AlgorithmIdentifier of password-based encryption describes.
pub(super) fn decrypt(
    mut algorithm: Reader<'_>,
    data: Zeroizing<Vec<u8>>,
    derive: &mut Derive<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    let name = algorithm.oid()?;
    let mut parameters = algorithm.inside(SEQUENCE)?;
    if name == oid::PBES2 {
        return pbes2(parameters, data, derive);
    }
    let Some([number]) = name.strip_prefix(oid::PBES1) else { return Err(unsupported()) };
    let key_length = match number {
        3 => 24,
        4 | 5 => 16,
        6 => 5,
        _ => return Err(unsupported()),
    };
    let salt = parameters.octets()?;
    let iterations = parameters.number()?;
    let hash = &SHA1_FOR_LEGACY_USE_ONLY;
    let key = derive.pkcs12(hash, &salt, iterations, Purpose::Key, key_length)?;
    let iv = derive.pkcs12(hash, &salt, iterations, Purpose::Iv, 8)?;
    match number {
        3 => cbc(TdesEde3::new_from_slice(&key).map_err(|_| unsupported())?, &iv, data),
        4 => cbc(TdesEde2::new_from_slice(&key).map_err(|_| unsupported())?, &iv, data),
        _ => cbc(Rc2::new_with_eff_key_len(&key, key_length.saturating_mul(8)), &iv, data),
    }
}

/// RFC 8018 §6.2.
fn pbes2(
    mut parameters: Reader<'_>,
    data: Zeroizing<Vec<u8>>,
    derive: &mut Derive<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    let derivation = parameters.inside(SEQUENCE)?;
    let mut scheme = parameters.inside(SEQUENCE)?;
    let name = scheme.oid()?;
    let iv = scheme.expect(OCTET_STRING)?.content;
    if name == oid::DES3_CBC {
        let key = derive.pbkdf2(derivation, 24)?;
        return cbc(TdesEde3::new_from_slice(&key).map_err(|_| unsupported())?, iv, data);
    }
    let (cipher, length) = if name == oid::AES128_CBC {
        (&AES_128, 16)
    } else if name == oid::AES192_CBC {
        (&AES_192, 24)
    } else if name == oid::AES256_CBC {
        (&AES_256, 32)
    } else {
        return Err(unsupported());
    };
    let iv: [u8; 16] = iv.try_into().map_err(|_| undecipherable())?;
    let key = derive.pbkdf2(derivation, length)?;
    aes(cipher, &key, iv, data)
}

fn aes(
    cipher: &'static Algorithm,
    key: &[u8],
    iv: [u8; 16],
    mut data: Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>> {
    let key = UnboundCipherKey::new(cipher, key)
        .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
        .map_err(|_| undecipherable())?;
    let length = key
        .decrypt(&mut data, DecryptionContext::Iv128(FixedLength::from(iv)))
        .map_err(|_| undecipherable())?
        .len();
    data.truncate(length);
    Ok(data)
}

/// CBC with PKCS#7 padding over the old ciphers, which the main crypto library does not offer.
fn cbc<C>(cipher: C, iv: &[u8], mut data: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>>
where
    C: BlockCipherDecrypt,
{
    let length = cbc::Decryptor::<C>::inner_iv_slice_init(cipher, iv)
        .map_err(|_| undecipherable())?
        .decrypt_padded::<Pkcs7>(&mut data)
        .map_err(|_| undecipherable())?
        .len();
    data.truncate(length);
    Ok(data)
}

/// Encrypts with AES-256 in CBC mode, padded.
pub(super) fn encrypt(key: &[u8], iv: [u8; 16], plain: &[u8]) -> Result<Vec<u8>> {
    let mut data = Zeroizing::new(Vec::with_capacity(plain.len().saturating_add(16)));
    data.extend_from_slice(plain);
    UnboundCipherKey::new(&AES_256, key)
        .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
        .and_then(|key| key.less_safe_encrypt(&mut *data, EncryptionContext::Iv128(FixedLength::from(iv))))
        .map_err(|_| Error::new(keyward_core::Code::Internal, "AES-256 refused to encrypt a key store"))?;
    Ok(data.to_vec())
}

pub(super) fn undecipherable() -> Error {
    invalid("the key store cannot be decrypted: its password is not empty, or it is damaged")
}
