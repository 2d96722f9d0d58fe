//! Checkpoints as signed notes: C2SP `tlog-checkpoint` in C2SP `signed-note`, with Ed25519 (signature type 0x01).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use keyward_core::{Code, Error, Result};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use super::merkle::Hash;

const ED25519_TYPE: u8 = 0x01;
/// A note of ours is under 500 bytes; a witnessed one has up to sixteen more lines.
const MAX_NOTE: usize = 8 * 1024;
const MAX_SIGNATURES: usize = 32;

/// Signs checkpoints.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A key for this log alone.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self> {
        Ed25519KeyPair::generate()
            .map(Self)
            .map_err(|_| Error::new(Code::AuditUnavailable, "no key for the audit log could be made"))
    }

    /// A key that outlives the process, so that `verify` can pin it: PKCS#8 PEM, as `openssl genpkey -algorithm
    /// ed25519` writes it.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when it is anything else.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        let wrong = || {
            Error::new(
                Code::ConfigInvalid,
                "the audit key is not an Ed25519 key in PKCS#8 PEM; make one with `openssl genpkey -algorithm ed25519`",
            )
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| wrong())?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map(Self).map_err(|_| wrong())
    }

    /// The public half.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the length is the algorithm's")]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }
}

/// Verifies checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads a note verifier key (`name+hash+base64`), or the 32 bytes alone in base64.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when it is neither, or the hash does not belong to name and key.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Ok(bytes) = BASE64_STANDARD.decode(text)
            && let Ok(raw) = bytes.try_into()
        {
            return Ok(Self(raw));
        }
        Self::parse_verifier(text).map(|(_, key)| key).ok_or_else(|| {
            Error::new(
                Code::ConfigInvalid,
                "the audit public key is neither a note verifier key `name+hash+key` nor 32 bytes in base64",
            )
        })
    }

    /// Reads a note verifier key: its name and the key.
    #[must_use]
    pub fn parse_verifier(text: &str) -> Option<(&str, Self)> {
        let mut parts = text.splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = BASE64_STANDARD.decode(key).ok()?;
        let (kind, raw) = bytes.split_first()?;
        let key = Self(raw.try_into().ok()?);
        let known = *kind == ED25519_TYPE && key.id(name).map(|b| format!("{b:02x}")).concat() == id;
        (known && is_origin(name)).then_some((name, key))
    }

    /// The note verifier key under `name`, as Go's `note.NewVerifier` and the other tools of C2SP take it.
    #[must_use]
    pub fn verifier(&self, name: &str) -> String {
        let id = self.id(name).map(|b| format!("{b:02x}")).concat();
        format!("{name}+{id}+{}", BASE64_STANDARD.encode(self.typed()))
    }

    /// The first four bytes of SHA-256(name ‖ 0x0A ‖ type ‖ key).
    fn id(&self, name: &str) -> [u8; 4] {
        let text = [name.as_bytes(), b"\n", &self.typed()].concat();
        digest(&SHA256, &text).as_ref().first_chunk().copied().unwrap_or_default()
    }

    fn typed(&self) -> Vec<u8> {
        [&[ED25519_TYPE], self.0.as_slice()].concat()
    }
}

/// What a log looked like at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// How many records it had.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The signed note. The key's name is the origin.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> String {
        let text = self.text();
        let id = key.public().id(&self.origin);
        let signature = key.0.sign(text.as_bytes());
        let signed = BASE64_STANDARD.encode([id.as_slice(), signature.as_ref()].concat());
        format!("{text}\n\u{2014} {} {signed}\n", self.origin)
    }

    /// Reads a signed note and verifies its log's signature; other signatures (witnesses) are ignored.
    ///
    /// # Errors
    /// `KW_AUDIT_BROKEN` when it is no checkpoint, or `key` did not sign it.
    pub fn open(note: &str, key: &PublicKey) -> Result<Self> {
        let broken = |what: &str| Error::new(Code::AuditBroken, format!("the checkpoint {what}"));
        let (checkpoint, signatures) =
            Self::parse(note.as_bytes()).ok_or_else(|| broken("is not a signed note"))?;
        let id = key.id(&checkpoint.origin);
        let (text, _) = split(note).ok_or_else(|| broken("is not a signed note"))?;
        let mut ours = signatures.iter().filter(|s| s.name == checkpoint.origin && s.id == id).peekable();
        if ours.peek().is_none() {
            return Err(broken("is not signed with the key of its log"));
        }
        let verifier = UnparsedPublicKey::new(&ED25519, key.0);
        if ours.all(|signature| verifier.verify(text.as_bytes(), &signature.bytes).is_ok()) {
            Ok(checkpoint)
        } else {
            Err(broken("has a wrong signature"))
        }
    }

    /// Reads a signed note without verifying it.
    #[must_use]
    pub fn parse(note: &[u8]) -> Option<(Self, Vec<NoteSignature>)> {
        if note.len() > MAX_NOTE {
            return None;
        }
        let note = std::str::from_utf8(note).ok()?;
        if note.chars().any(|c| c.is_control() && c != '\n') {
            return None;
        }
        let (text, signatures) = split(note)?;
        let signatures: Vec<_> =
            signatures.strip_suffix('\n')?.split('\n').map(NoteSignature::parse).collect::<Option<_>>()?;
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let number: u64 = size.parse().ok()?;
        let sound = is_origin(origin)
            && number.to_string() == size
            && lines.all(|extension| !extension.is_empty())
            && signatures.len() <= MAX_SIGNATURES;
        let root = BASE64_STANDARD.decode(root).ok()?.try_into().ok()?;
        sound.then(|| (Self { origin: origin.to_owned(), size: number, root }, signatures))
    }

    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64_STANDARD.encode(self.root))
    }
}

/// The signed text, its last line end included, and the signatures after the blank line.
fn split(note: &str) -> Option<(&str, &str)> {
    let (text, _) = note.rsplit_once("\n\n")?;
    let (text, rest) = note.split_at_checked(text.len().checked_add(1)?)?;
    Some((text, rest.strip_prefix('\n')?))
}

/// One signature line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: [u8; 4],
    bytes: Vec<u8>,
}

impl NoteSignature {
    fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = BASE64_STANDARD.decode(signature).ok()?;
        let (id, bytes) = bytes.split_first_chunk()?;
        (is_origin(name) && !bytes.is_empty()).then(|| Self {
            name: name.to_owned(),
            id: *id,
            bytes: bytes.to_vec(),
        })
    }
}

/// Whether `text` may name a log: not empty, no space, control character or plus, at most 255 bytes.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '+')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "keyward/node-1/7f".to_owned(), size: 42, root: [7; 32] }
    }

    /// The verifier key that golang.org/x/mod/sumdb/note shows in its own documentation.
    #[test]
    fn the_key_id_is_the_one_that_other_tools_compute() {
        let published = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let (name, key) = PublicKey::parse_verifier(published).unwrap();
        assert_eq!(name, "PeterNeumann");
        assert_eq!(key.verifier(name), published);
    }

    /// The signed message of the same page; its text is no checkpoint, so only the signature is looked at.
    #[test]
    fn a_signature_made_elsewhere_verifies_here() {
        let key =
            PublicKey::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let signature = NoteSignature::parse(line).unwrap();
        assert_eq!(signature.id, key.id("PeterNeumann"));
        assert!(UnparsedPublicKey::new(&ED25519, key.0).verify(text.as_bytes(), &signature.bytes).is_ok());
    }

    #[test]
    fn a_checkpoint_is_opened_with_its_own_key_only() {
        let key = SigningKey::generate().unwrap();
        let note = checkpoint().sign(&key);
        assert_eq!(Checkpoint::open(&note, &key.public()).unwrap(), checkpoint());
        let other = SigningKey::generate().unwrap().public();
        assert_eq!(Checkpoint::open(&note, &other).unwrap_err().code(), Code::AuditBroken);
    }

    #[test]
    fn a_witness_signature_is_ignored() {
        let key = SigningKey::generate().unwrap();
        let witnessed = checkpoint().sign(&key) + "\u{2014} witness.example AAAAAAAA\n";
        assert!(Checkpoint::open(&witnessed, &key.public()).is_ok());
    }

    #[test]
    fn a_key_is_pinned_as_a_verifier_key_or_as_bare_bytes() {
        let key = SigningKey::generate().unwrap().public();
        assert_eq!(PublicKey::parse(&key.verifier("keyward/a")).unwrap(), key);
        assert_eq!(PublicKey::parse(&format!("{}\n", BASE64_STANDARD.encode(key.0))).unwrap(), key);
        assert!(PublicKey::parse(&key.verifier("keyward/a").replace("keyward/a", "keyward/b")).is_err());
    }

    #[test]
    fn a_key_file_in_any_other_form_is_refused() {
        assert_eq!(SigningKey::from_pem(b"garbage").err().unwrap().code(), Code::ConfigInvalid);
    }

    proptest! {
        #[test]
        fn any_changed_byte_of_a_checkpoint_is_found(at: prop::sample::Index, byte: u8) {
            let key = SigningKey::generate().unwrap();
            let mut note = checkpoint().sign(&key).into_bytes();
            let at = at.index(note.len());
            prop_assume!(note[at] != byte);
            note[at] = byte;
            let opened = String::from_utf8(note).ok().and_then(|note| Checkpoint::open(&note, &key.public()).ok());
            prop_assert_eq!(opened, None);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused_without_a_panic(note: Vec<u8>, text in "(a\n1\n)?(AAAA=*\n)?\n(— [a-z] [A-Za-z0-9=]*\n)?") {
            let _ = Checkpoint::parse(&note);
            let _ = Checkpoint::parse(text.as_bytes());
            let _ = PublicKey::parse_verifier(&text);
        }
    }
}
