use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_core::Result;
use zeroize::Zeroizing;

use super::wiped::append;
use super::{LITERAL_LINE_ENDS, MAX_CONTENT, contains, has_literal_line_ends, invalid};

/// Most blocks of one PEM text.
const MAX_BLOCKS: usize = 128;
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// One block of a PEM text.
pub struct PemBlock {
    /// What stands after `BEGIN`: `CERTIFICATE`, `PRIVATE KEY` …
    pub label: String,
    /// What it holds.
    pub der: Zeroizing<Vec<u8>>,
}

/// Reads every block of a PEM text (RFC 7468, with RFC 1421 headers skipped). Text between blocks, such as the bag
/// attributes that OpenSSL prints, is ignored; LF and CR LF end lines.
///
/// # Errors
/// `KW_CONTENT_INVALID` for a text without blocks, a block that does not end, base64 that is damaged, an encrypted
/// block, or a value beyond the limits; with advice when line ends were lost on the way into the vault.
pub fn parse_pem(text: &[u8]) -> Result<Vec<PemBlock>> {
    if text.len() > MAX_CONTENT {
        return Err(invalid("the PEM text is too large"));
    }
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(label) = marker(line, BEGIN) {
            if blocks.len() == MAX_BLOCKS {
                return Err(invalid(format!("the PEM text has more than {MAX_BLOCKS} blocks")));
            }
            blocks.push(block(label, &mut lines).map_err(|error| explained(error, text))?);
        }
    }
    if blocks.is_empty() {
        let error = if contains(text, BEGIN) {
            invalid(
                "the PEM has lost its line ends (a web form joins lines); store it again from a file, such as \
                 `az keyvault secret set --file key.pem`",
            )
        } else {
            invalid("the value holds no PEM block")
        };
        return Err(explained(error, text));
    }
    Ok(blocks)
}

fn block<'a>(label: &[u8], lines: &mut impl Iterator<Item = &'a [u8]>) -> Result<PemBlock> {
    let label = std::str::from_utf8(label).map_err(|_| invalid("a PEM label is not text"))?.to_owned();
    let mut base64 = Zeroizing::new(Vec::new());
    for line in lines {
        if let Some(end) = marker(line, END) {
            if end != label.as_bytes() {
                return Err(invalid("a PEM block ends under another label than it began"));
            }
            let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(base64.len())]);
            let length = STANDARD
                .decode_slice(base64.as_slice(), &mut der)
                .map_err(|_| invalid(format!("the base64 of a PEM block is damaged ({label})")))?;
            der.truncate(length);
            return Ok(PemBlock { label, der });
        }
        if line.starts_with(b"Proc-Type:") && contains(line, b"ENCRYPTED") {
            return Err(encrypted());
        }
        if !line.contains(&b':') {
            append(&mut base64, line);
        }
    }
    Err(invalid("a PEM block does not end"))
}

pub(super) fn encrypted() -> keyward_core::Error {
    invalid("the private key is encrypted with a password; store it unencrypted, the vault protects it")
}

/// The label of a line that is a marker.
fn marker<'a>(line: &'a [u8], kind: &[u8]) -> Option<&'a [u8]> {
    let label = line.strip_prefix(kind)?.strip_suffix(DASHES)?;
    let plain = label.len() <= 64
        && label.iter().all(|byte| (b' '..=b'~').contains(byte))
        && !contains(label, DASHES);
    plain.then_some(label)
}

fn explained(error: keyward_core::Error, text: &[u8]) -> keyward_core::Error {
    if has_literal_line_ends(text) { invalid(LITERAL_LINE_ENDS) } else { error }
}

/// Writes one block, 64 characters a line, the last line ended.
#[expect(clippy::expect_used, reason = "the buffer is made for the length")]
pub(super) fn append_pem(into: &mut Zeroizing<Vec<u8>>, label: &str, der: &[u8]) {
    let mut base64 = Zeroizing::new(vec![0; der.len().div_ceil(3).saturating_mul(4)]);
    STANDARD.encode_slice(der, &mut base64).expect("the buffer has the encoded length");
    for part in [BEGIN, label.as_bytes(), DASHES, b"\n"] {
        append(into, part);
    }
    for line in base64.chunks(64) {
        append(into, line);
        append(into, b"\n");
    }
    for part in [END, label.as_bytes(), DASHES, b"\n"] {
        append(into, part);
    }
}
