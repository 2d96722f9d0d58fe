use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use keyward_core::spec::Decode;
use keyward_core::{Result, SecretBytes};
use zeroize::Zeroizing;

use super::invalid;

const LENIENT_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// The standard alphabet, padded or not.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT_PADDING);
/// The URL alphabet, padded or not.
pub(super) const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT_PADDING);

/// Undoes the encoding that the value has in the vault.
///
/// One trailing line end (LF or CR LF) is tolerated, because shells and editors add it; anything else outside the
/// alphabet is refused rather than skipped, so that damage is seen (RFC 4648 §3.3).
///
/// # Errors
/// `KW_CONTENT_INVALID` when the value is not so encoded.
pub fn decode(value: &SecretBytes, how: Decode) -> Result<SecretBytes> {
    match how {
        Decode::None => Ok(value.clone()),
        Decode::Base64 => base64(&BASE64, value.expose(), "base64"),
        Decode::Base64Url => base64(&BASE64_URL, value.expose(), "base64url"),
        Decode::Hex => {
            let text = without_line_end(value.expose());
            let mut bytes = Zeroizing::new(vec![0; text.len() / 2]);
            hex::decode_to_slice(text, &mut bytes).map_err(|_| {
                invalid("the value is not hexadecimal; set `decode` to how it is encoded in the vault, or leave it out")
            })?;
            Ok(SecretBytes::copy_from(&bytes))
        }
    }
}

/// Decodes into a buffer of the final size, so that no partial copy is left behind by growing.
fn base64(engine: &GeneralPurpose, value: &[u8], word: &str) -> Result<SecretBytes> {
    let text = without_line_end(value);
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = engine.decode_slice(text, &mut bytes).map_err(|_| {
        if text.contains(&b'\n') {
            invalid(format!(
                "the {word} value is broken into lines; encode it without wrapping, such as base64 -w0"
            ))
        } else {
            invalid(format!(
                "the value is not {word}; set `decode` to how it is encoded in the vault, or leave it out"
            ))
        }
    })?;
    bytes.truncate(length);
    Ok(SecretBytes::copy_from(&bytes))
}

fn without_line_end(value: &[u8]) -> &[u8] {
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    value.strip_suffix(b"\r").unwrap_or(value)
}
