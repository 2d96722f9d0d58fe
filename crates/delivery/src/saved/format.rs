//! The bytes of a snapshot: magic and version, a count, records of length-prefixed fields, SHA-256 of all before.
//!
//! Numbers are little-endian. A text or byte field has a u32 length; an optional field has a byte 0 or 1 before it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};
use keyward_core::{
    BundleType, CertificateContent, Code, Collection, Content, Error, FetchRequest, Fetched, IdentityKey,
    ObjectKey, ObjectRef, Parts, Result, SecretBytes, UnixTime, VaultHost, Version,
};
use zeroize::Zeroizing;

use super::SavedObject;

/// The last byte is the version of the format.
const MAGIC: &[u8; 8] = b"KWSAVED\x02";
/// The same records, but written after readers had been given the values, not before.
const BEHIND: u8 = 1;
/// Longest text, in bytes; values are bounded by the file.
const LONGEST_TEXT: usize = 4096;

/// Reads a whole snapshot file. Objects of other identities are skipped.
///
/// # Errors
/// `KW_FILE_SYSTEM` saying what is wrong, never quoting content.
pub fn parse(bytes: &[u8], identities: &[Arc<IdentityKey>]) -> Result<Vec<SavedObject>> {
    parse_records(checked(bytes)?, identities)
}

/// Reads a whole snapshot file, the objects of every identity. One that was read by a method unknown here is skipped.
///
/// # Errors
/// As [`parse`].
pub fn parse_all(bytes: &[u8]) -> Result<Vec<SavedObject>> {
    let mut met: Vec<Arc<IdentityKey>> = Vec::new();
    read_records(checked(bytes)?, &mut |owner| {
        if let Some(known) = met.iter().find(|identity| is_of(identity, owner)) {
            return Some(Arc::clone(known));
        }
        let [method, authority, tenant, client] = owner.map(str::to_owned);
        let method = IdentityKey::METHODS.into_iter().find(|known| *known == method)?;
        let identity = Arc::new(IdentityKey { method, authority, tenant, client });
        met.push(Arc::clone(&identity));
        Some(identity)
    })
}

/// What is between magic and checksum, after both were compared.
fn checked(bytes: &[u8]) -> Result<&[u8]> {
    let (magic, rest) = bytes.split_at_checked(MAGIC.len()).ok_or_else(|| bad("it is too short"))?;
    if magic.split_last().map(|(_, name)| name) != MAGIC.split_last().map(|(_, name)| name) {
        return Err(bad("it is no snapshot"));
    }
    if magic != MAGIC && magic.last() != Some(&BEHIND) {
        return Err(bad("another version of Keyward wrote it"));
    }
    let (records, sum) =
        rest.split_last_chunk::<SHA256_OUTPUT_LEN>().ok_or_else(|| bad("it is too short"))?;
    let mut context = Context::new(&SHA256);
    context.update(magic);
    context.update(records);
    if context.finish().as_ref() != sum {
        return Err(bad("its checksum does not match"));
    }
    Ok(records)
}

/// Whether readers may have been given something newer than what `bytes` hold, although nothing is damaged.
pub(super) fn is_behind(bytes: &[u8]) -> bool {
    bytes.first_chunk::<{ MAGIC.len() }>().and_then(|magic| magic.last()) == Some(&BEHIND)
}

/// Reads what is between magic and checksum: for fuzzing, which would not get past the checksum.
///
/// # Errors
/// As [`parse`].
pub fn parse_records(bytes: &[u8], identities: &[Arc<IdentityKey>]) -> Result<Vec<SavedObject>> {
    read_records(bytes, &mut |owner| identities.iter().find(|identity| is_of(identity, owner)).cloned())
}

fn read_records(bytes: &[u8], identity_of: &mut IdentityOf<'_>) -> Result<Vec<SavedObject>> {
    let mut reader = Reader(bytes);
    let count = reader.u32()?;
    let mut objects = Vec::new();
    for _ in 0..count {
        objects.extend(reader.object(identity_of)?);
    }
    if reader.0.is_empty() { Ok(objects) } else { Err(bad("something follows the last record")) }
}

/// Whose an object is, by method, authority, tenant and client; `None` skips it.
type IdentityOf<'a> = dyn FnMut([&str; 4]) -> Option<Arc<IdentityKey>> + 'a;

fn is_of(identity: &IdentityKey, owner: [&str; 4]) -> bool {
    [identity.method, &identity.authority, &identity.tenant, &identity.client] == owner
}

/// Bytes of the file that keeps `objects`.
#[must_use]
pub fn size(objects: &[SavedObject]) -> usize {
    let mut size = const { MAGIC.len() + SHA256_OUTPUT_LEN };
    put_records(&mut |bytes| size = size.saturating_add(bytes.len()), objects);
    size
}

/// The whole file. Its size is counted first, so that the buffer never grows and leaves copies behind.
pub(super) fn write(objects: &[SavedObject]) -> Zeroizing<Vec<u8>> {
    let mut file = Zeroizing::new(Vec::with_capacity(size(objects)));
    file.extend_from_slice(MAGIC);
    put_records(&mut |bytes| file.extend_from_slice(bytes), objects);
    let sum = digest(&SHA256, &file);
    file.extend_from_slice(sum.as_ref());
    file
}

pub(super) fn bad(what: &str) -> Error {
    Error::new(Code::FileSystem, what)
}

type Put<'a> = dyn FnMut(&[u8]) + 'a;

fn put_records(put: &mut Put<'_>, objects: &[SavedObject]) {
    put_length(put, objects.len());
    for SavedObject { key, fetched, confirmed } in objects {
        let identity = &key.identity;
        for text in [identity.method, &identity.authority, &identity.tenant, &identity.client] {
            put_bytes(put, text.as_bytes());
        }
        put_reference(put, &key.request.object);
        put(&[match key.request.parts {
            Parts::Object => 0,
            Parts::Bundle => 1,
        }]);
        put_reference(put, &fetched.object);
        put_bytes(put, fetched.version.as_str().as_bytes());
        put_content(put, &fetched.content);
        put_option(put, fetched.content_type.as_ref(), |put, text| put_bytes(put, text.as_bytes()));
        for time in [fetched.created, fetched.updated, fetched.expires, fetched.not_before] {
            put_option(put, time.as_ref(), put_time);
        }
        put_option(put, fetched.request_id.as_ref(), |put, text| put_bytes(put, text.as_bytes()));
        put_time(put, confirmed);
    }
}

fn put_content(put: &mut Put<'_>, content: &Content) {
    match content {
        Content::Secret { value, bundle } => {
            put(&[0]);
            put_bytes(put, value.expose());
            put_option(put, bundle.as_ref(), put_bundle);
        }
        Content::Key { jwk } => {
            put(&[1]);
            put_bytes(put, jwk.as_bytes());
        }
        Content::Certificate(certificate) => {
            put(&[2]);
            put_bytes(put, &certificate.leaf_der);
            put_option(put, certificate.bundle.as_ref(), |put, (kind, bytes)| {
                put_bundle(put, kind);
                put_bytes(put, bytes.expose());
            });
        }
    }
}

fn put_reference(put: &mut Put<'_>, object: &ObjectRef) {
    put_bytes(put, object.host().as_str().as_bytes());
    put(&[match object.collection() {
        Collection::Secrets => 0,
        Collection::Keys => 1,
        Collection::Certificates => 2,
    }]);
    put_bytes(put, object.name().as_bytes());
    put_option(put, object.version(), |put, version| put_bytes(put, version.as_str().as_bytes()));
}

fn put_bundle(put: &mut Put<'_>, kind: &BundleType) {
    put(&[match kind {
        BundleType::Pfx => 0,
        BundleType::Pem => 1,
    }]);
}

fn put_time(put: &mut Put<'_>, time: &UnixTime) {
    put(&time.as_secs().to_le_bytes());
    put(&time.subsec_nanos().to_le_bytes());
}

fn put_option<T>(put: &mut Put<'_>, value: Option<&T>, write: impl FnOnce(&mut Put<'_>, &T)) {
    put(&[u8::from(value.is_some())]);
    if let Some(value) = value {
        write(put, value);
    }
}

fn put_bytes(put: &mut Put<'_>, bytes: &[u8]) {
    put_length(put, bytes.len());
    put(bytes);
}

fn put_length(put: &mut Put<'_>, length: usize) {
    // Longer than the file may be; such a snapshot is refused by its size before it is written.
    put(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// One record, or `None` when it belongs to nobody who asked.
    fn object(&mut self, identity_of: &mut IdentityOf<'_>) -> Result<Option<SavedObject>> {
        let owner = [self.text()?, self.text()?, self.text()?, self.text()?];
        let object = self.reference()?;
        let parts = match self.u8()? {
            0 => Parts::Object,
            1 => Parts::Bundle,
            _ => return Err(bad("it asks for unknown parts")),
        };
        let fetched = Fetched {
            object: self.reference()?,
            version: Version::parse(self.text()?)?,
            content: self.content()?,
            content_type: self.option(Self::owned)?,
            created: self.option(Self::time)?,
            updated: self.option(Self::time)?,
            expires: self.option(Self::time)?,
            not_before: self.option(Self::time)?,
            request_id: self.option(Self::owned)?,
        };
        let confirmed = self.time()?;
        Ok(identity_of(owner).map(|identity| SavedObject {
            key: ObjectKey { identity, request: FetchRequest { object, parts } },
            fetched: Arc::new(fetched),
            confirmed,
        }))
    }

    fn content(&mut self) -> Result<Content> {
        Ok(match self.u8()? {
            0 => Content::Secret {
                value: SecretBytes::copy_from(self.bytes()?),
                bundle: self.option(Self::bundle)?,
            },
            1 => Content::Key { jwk: self.unbounded_text()?.to_owned() },
            2 => Content::Certificate(CertificateContent {
                leaf_der: self.bytes()?.to_vec(),
                bundle: self
                    .option(|reader| Ok((reader.bundle()?, SecretBytes::copy_from(reader.bytes()?))))?,
            }),
            _ => return Err(bad("it holds an unknown kind of content")),
        })
    }

    fn reference(&mut self) -> Result<ObjectRef> {
        let host = VaultHost::parse(self.text()?)?;
        let collection = match self.u8()? {
            0 => Collection::Secrets,
            1 => Collection::Keys,
            2 => Collection::Certificates,
            _ => return Err(bad("it names an unknown collection")),
        };
        let name = self.text()?;
        let version = self.option(|reader| Version::parse(reader.text()?))?;
        ObjectRef::new(host, collection, name, version)
    }

    fn bundle(&mut self) -> Result<BundleType> {
        match self.u8()? {
            0 => Ok(BundleType::Pfx),
            1 => Ok(BundleType::Pem),
            _ => Err(bad("it holds an unknown kind of bundle")),
        }
    }

    fn time(&mut self) -> Result<UnixTime> {
        let seconds = u64::from_le_bytes(self.array()?);
        let nanos = self.u32()?;
        if nanos >= 1_000_000_000 {
            return Err(bad("it holds a time that is none"));
        }
        Ok(Duration::new(seconds, nanos))
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(bad("it holds a flag that is neither 0 nor 1")),
        }
    }

    fn owned(&mut self) -> Result<String> {
        self.text().map(str::to_owned)
    }

    fn text(&mut self) -> Result<&'a str> {
        self.unbounded_text().and_then(|text| {
            if text.len() <= LONGEST_TEXT { Ok(text) } else { Err(bad("a text is too long")) }
        })
    }

    fn unbounded_text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| bad("a text is not UTF-8"))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| bad("a field is too long"))?)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk().ok_or_else(|| bad("it ends too early"))?;
        self.0 = rest;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(|| bad("it ends too early"))?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
