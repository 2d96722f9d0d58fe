//! The object grammar: one way to say which object, under which name, in which file, wherever an object is named
//! (sidecar configuration, annotation, CSI attribute, command line).

mod notify;
mod parse;
mod path;

use std::time::Duration;

pub use notify::{Notify, NotifyAction};
pub(crate) use parse::parse_mode;
pub use parse::{Context, parse_objects, parse_objects_text};
pub use path::FilePath;

use crate::{Collection, ObjectRef, Parts};

/// One declared object or template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSpec {
    /// Where the bytes come from.
    pub source: Source,
    /// What the application calls it over gRPC; unique.
    pub name: String,
    /// Path below the mount; `None` for gRPC only.
    pub file: Option<FilePath>,
    /// Permission bits; `None` takes the volume's default.
    pub mode: Option<u32>,
    /// Owner; `None` takes the volume's default.
    pub uid: Option<u32>,
    /// Group; `None` takes the volume's default.
    pub gid: Option<u32>,
    /// Whether it may be missing.
    pub optional: bool,
    /// What happens to the file when access is revoked for good.
    pub on_revoke: OnRevoke,
    /// How often to check; `None` takes `rotation.interval`.
    pub refresh: Option<Duration>,
    /// Whom to tell of a change.
    pub notify: Option<Notify>,
    /// Whether a final newline is added when there is none.
    pub newline: bool,
}

impl ObjectSpec {
    /// The provider's object, or `None` for a template.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectRef> {
        match &self.source {
            Source::Object(object) => Some(&object.object),
            Source::Template(_) => None,
        }
    }

    /// Every path that this entry writes: none, one, or two for [`Format::PemPair`].
    #[must_use]
    pub fn files(&self) -> Vec<FilePath> {
        parse::paths(self)
    }
}

/// Where the bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One object of a provider, through the content pipeline.
    Object(ObjectSource),
    /// A template over the other declared objects.
    Template(String),
}

/// One object and what is done to its content: decode, then key or format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSource {
    /// The object.
    pub object: ObjectRef,
    /// JSON Pointer (RFC 6901) into a JSON or YAML value; empty string is the whole document.
    pub key: Option<String>,
    /// How the value is encoded in the vault.
    pub decode: Decode,
    /// How the content is written.
    pub format: Format,
    /// Name of the declared object that holds the password of the key store to write.
    pub password_from: Option<String>,
}

impl ObjectSource {
    /// How much of the object the format needs.
    #[must_use]
    pub fn parts(&self) -> Parts {
        match (self.object.collection(), self.format) {
            (Collection::Certificates, Format::Pem | Format::PemLeaf | Format::Der | Format::Raw) => {
                Parts::Object
            }
            (Collection::Certificates, _) => Parts::Bundle,
            _ => Parts::Object,
        }
    }
}

/// How a value is encoded in the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decode {
    /// As it is.
    #[default]
    None,
    /// Standard alphabet, padded or not.
    Base64,
    /// URL alphabet, padded or not.
    Base64Url,
    /// Hexadecimal digits in either case.
    Hex,
}

/// How content is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The provider's bytes.
    Raw,
    /// Secret: private key and chain. Key: SPKI. Certificate: the leaf.
    Pem,
    /// The chain, leaf to root.
    PemChain,
    /// The leaf certificate.
    PemLeaf,
    /// The private key, PKCS#8.
    PemKey,
    /// Private key, then chain.
    PemBundle,
    /// Two files, `<file>.crt` (chain) and `<file>.key`, after the pair was verified.
    PemPair,
    /// PKCS#12 with AES-256 and SHA-256.
    Pfx,
    /// Java key store with the private key and chain.
    Jks,
    /// Java trust store with the certificates only.
    JksTrust,
    /// DER: leaf certificate or SPKI.
    Der,
    /// JSON Web Key.
    Jwk,
    /// A secret as the Azure provider of the Secrets Store CSI driver writes it: what backs a PKCS#12 certificate as
    /// PEM, everything else as it is, and `decode` afterwards. Only classes ask for it, so there is no word for it.
    Azure,
    /// The same with `objectFormat: pfx`: a PKCS#12 stays the base64 text that it is in the vault.
    AzurePfx,
}

impl Format {
    /// Every format that users may ask for, and the word for it.
    pub const WORDS: &'static [(&'static str, Self)] = &[
        ("raw", Self::Raw),
        ("pem", Self::Pem),
        ("pem-chain", Self::PemChain),
        ("pem-leaf", Self::PemLeaf),
        ("pem-key", Self::PemKey),
        ("pem-bundle", Self::PemBundle),
        ("pem-pair", Self::PemPair),
        ("pfx", Self::Pfx),
        ("jks", Self::Jks),
        ("jks-truststore", Self::JksTrust),
        ("der", Self::Der),
        ("jwk", Self::Jwk),
    ];

    /// The word users write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, format)| *format == self).map_or("raw", |(word, _)| word)
    }

    /// What a collection gives when nothing is said.
    #[must_use]
    pub fn default_for(collection: Collection) -> Self {
        match collection {
            Collection::Secrets => Self::Raw,
            Collection::Keys | Collection::Certificates => Self::Pem,
        }
    }

    /// Whether this format can be made from objects of `collection`.
    #[must_use]
    pub fn fits(self, collection: Collection) -> bool {
        match collection {
            Collection::Secrets => self != Self::Jwk,
            Collection::Keys => matches!(self, Self::Raw | Self::Pem | Self::Der | Self::Jwk),
            Collection::Certificates => !matches!(self, Self::Raw | Self::Jwk),
        }
    }
}

/// What happens to a file when the object was disabled or deleted for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRevoke {
    /// The last good file stays.
    #[default]
    Keep,
    /// The file is removed (disabled and deleted objects only, never for forbidden).
    Remove,
}
