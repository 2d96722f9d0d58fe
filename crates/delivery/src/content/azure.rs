//! Secrets as the Azure provider of the Secrets Store CSI driver writes them, for classes that were written for it.
//!
//! A secret that backs a certificate and is stored as PKCS#12 becomes PEM: every private key as PKCS#8, then the
//! certificates. Those are brought into order by their key identifiers alone, and keep the order in which they are
//! stored unless every one of them has its place in one chain: gaps, repeated certificates and second chains are no
//! error. Beyond the provider, new ciphers are read, authorities that certify one another are no error, and the chain
//! of a PEM is put in order as well.

use std::ops::Range;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use keyward_core::spec::{Decode, Format, ObjectSource};
use keyward_core::{BundleType, Result, SecretBytes};
use zeroize::Zeroizing;

use super::key::portable_pkcs8;
use super::pem::{append_pem, parse_pem};
use super::pfx::parse_pfx;
use super::wiped::append;
use super::{chain, decode, invalid};
use crate::conversions::Turn;

/// The conversion comes first and `decode` after it, the other way round than everywhere else.
pub(super) fn secret(
    turn: &Turn,
    source: &ObjectSource,
    value: &SecretBytes,
    bundle: Option<BundleType>,
) -> Result<SecretBytes> {
    let value = match (bundle, source.format) {
        (Some(BundleType::Pfx), Format::Azure) => pem_of_pfx(turn, value.expose())?,
        (Some(BundleType::Pem), _) => in_order(value),
        _ => value.clone(),
    };
    match source.decode {
        Decode::Base64 => base64(value.expose()),
        how => decode(&value, how)
            .map_err(|_| invalid("the value is not hexadecimal; leave objectEncoding out, or store it so")),
    }
}

fn pem_of_pfx(turn: &Turn, text: &[u8]) -> Result<SecretBytes> {
    let der = base64(text).map_err(|_| invalid("the certificate's secret is not the base64 of a PKCS#12"))?;
    let pfx = parse_pfx(turn, der.expose(), &SecretBytes::copy_from(b""))?;
    if pfx.keys.is_empty() {
        return Err(invalid(
            "the PKCS#12 holds no private key (the certificate's policy makes it not exportable); use \
             `objectType: cert` for the certificate alone",
        ));
    }
    let mut pem = Zeroizing::new(Vec::new());
    for key in &pfx.keys {
        turn.check()?;
        append_pem(&mut pem, "PRIVATE KEY", &portable_pkcs8(&key.pkcs8)?);
    }
    let certificates: Vec<&[u8]> = pfx.certificates.iter().map(|it| it.der.as_slice()).collect();
    let order = chain::by_key_ids(&certificates).unwrap_or_else(|| (0..certificates.len()).collect());
    for der in order.iter().filter_map(|at| certificates.get(*at)) {
        append_pem(&mut pem, "CERTIFICATE", der);
    }
    Ok(SecretBytes::copy_from(&pem))
}

/// A PEM whose certificates change places, each standing where another stood; everything else is kept as it is. What
/// cannot be read, or has no single chain, is left alone: it was delivered before, too.
fn in_order(value: &SecretBytes) -> SecretBytes {
    reordered(value.expose()).unwrap_or_else(|| value.clone())
}

fn reordered(text: &[u8]) -> Option<SecretBytes> {
    let places = certificates(text);
    let ders: Vec<Vec<u8>> = places
        .iter()
        .map(|place| Some(parse_pem(text.get(place.clone())?).ok()?.first()?.der.to_vec()))
        .collect::<Option<_>>()?;
    let ders: Vec<&[u8]> = ders.iter().map(Vec::as_slice).collect();
    let order = chain::by_key_ids(&ders)?;
    if order.is_sorted() {
        return None;
    }
    let mut pem = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut written = 0;
    for (place, at) in places.iter().zip(order) {
        append(&mut pem, text.get(written..place.start)?);
        append(&mut pem, text.get(places.get(at)?.clone())?);
        written = place.end;
    }
    append(&mut pem, text.get(written..)?);
    Some(SecretBytes::copy_from(&pem))
}

/// Where the certificates of a PEM stand, from the first dash to the last.
fn certificates(text: &[u8]) -> Vec<Range<usize>> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let find = |needle: &[u8], from: usize| {
        let at = text.get(from..)?.windows(needle.len()).position(|window| window == needle)?;
        from.checked_add(at)
    };
    let mut places = Vec::new();
    let mut from = 0;
    while let Some(start) = find(BEGIN, from) {
        let Some(end) = find(END, start) else { break };
        from = end.saturating_add(END.len());
        places.push(start..from);
    }
    places
}

/// Base64 as Go's standard decoder takes it: padded, line ends wherever they stand, stray bits at the end.
fn base64(text: &[u8]) -> Result<SecretBytes> {
    const AS_IN_GO: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
            .with_decode_allow_trailing_bits(true),
    );
    let mut joined = Zeroizing::new(Vec::with_capacity(text.len()));
    joined.extend(text.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(joined.len())]);
    let length = AS_IN_GO
        .decode_slice(joined.as_slice(), &mut bytes)
        .map_err(|_| invalid("the value is not base64; leave objectEncoding out, or store it so"))?;
    bytes.truncate(length);
    Ok(SecretBytes::copy_from(&bytes))
}
