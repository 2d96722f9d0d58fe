use keyward_core::document::Mistakes;
use keyward_core::spec::{Decode, FilePath, Format, ObjectSource, ObjectSpec, OnRevoke, Source};
use keyward_core::{Collection, ObjectRef, VaultHost, Version};

use crate::class::Notes;
use crate::objects::{Fields, place};

/// The mode of a file whose object names none: a class keeps the driver's 0644.
const DEFAULT_MODE: u32 = 0o644;

/// One object of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassObject {
    /// The object. `file` is the alias, or the object's name, and `name` the same text; with a [`Self::history`] it is
    /// the directory of the versions, and [`Self::expand`] gives what is written.
    pub spec: ObjectSpec,
    /// `objectVersionHistory`: 0 for a single file; N for the files `<file>/0` (newest) to `<file>/N`, which are N+1,
    /// as the Azure provider writes them.
    pub history: u32,
    /// What the object is called in a SecretProviderClassPodStatus: `secret/<name>`, `key/<name>`, `cert/<name>`.
    pub uid: String,
}

/// Reads all objects, and refuses those that claim a path of another's.
pub(crate) fn read_all(
    items: Vec<(usize, Fields)>,
    host: &VaultHost,
    mistakes: &Mistakes,
    notes: &mut Notes,
) -> Vec<ClassObject> {
    let objects: Vec<(usize, ClassObject)> = items
        .into_iter()
        .filter_map(|(index, fields)| {
            let reader = Reader { at: place(index), mistakes, notes: &mut *notes };
            reader.read(&fields, host).map(|object| (index, object))
        })
        .collect();
    refuse_clashes(&objects, mistakes);
    objects.into_iter().map(|(_, object)| object).collect()
}

struct Reader<'a> {
    at: String,
    mistakes: &'a Mistakes,
    notes: &'a mut Notes,
}

/// The types, spelled as only they may be, with their collections.
const TYPES: [(&str, Collection); 3] =
    [("secret", Collection::Secrets), ("key", Collection::Keys), ("cert", Collection::Certificates)];

impl Reader<'_> {
    fn read(mut self, fields: &Fields, host: &VaultHost) -> Option<ClassObject> {
        let collection = self.collection(text(&fields.object_type));
        let history = self.history(fields);
        let version = self.version(text(&fields.object_version), history > 0);
        let name = text(&fields.object_name);
        let object = collection.and_then(|collection| self.object(host, collection, name, version?));
        let file = self.file(text(&fields.object_alias), name);
        let mode = self.mode(text(&fields.file_permission));
        let format = collection.and_then(|collection| self.format(text(&fields.object_format), collection));
        let decode = collection.and_then(|collection| self.decode(text(&fields.object_encoding), collection));
        let (word, _) = TYPES.iter().find(|(_, known)| Some(*known) == collection)?;
        let (object, file) = (object?, file?);
        let uid = format!("{word}/{}", object.name());
        let source =
            ObjectSource { object, key: None, decode: decode?, format: format?, password_from: None };
        let spec = ObjectSpec {
            source: Source::Object(source),
            name: file.as_str().to_owned(),
            file: Some(file),
            mode: Some(mode?),
            uid: None,
            gid: None,
            optional: false,
            on_revoke: OnRevoke::Keep,
            refresh: None,
            notify: None,
            newline: false,
        };
        Some(ClassObject { spec, history, uid })
    }

    fn mistake(&self, field: &str, message: impl Into<String>) {
        self.mistakes.note(format!("{}.{field}", self.at), message);
    }

    fn collection(&self, word: &str) -> Option<Collection> {
        let found = TYPES.iter().find(|(known, _)| *known == word).map(|(_, collection)| *collection);
        if found.is_none() {
            let hint = match word {
                "" => "is missing; it is one of secret, key and cert".to_owned(),
                _ => "must be one of secret, key and cert, in lower case".to_owned(),
            };
            self.mistake("objectType", hint);
        }
        found
    }

    fn object(
        &self,
        host: &VaultHost,
        collection: Collection,
        name: &str,
        version: Option<Version>,
    ) -> Option<ObjectRef> {
        if name.is_empty() {
            self.mistake("objectName", "is missing");
            return None;
        }
        ObjectRef::new(host.clone(), collection, name, version)
            .map_err(|error| self.mistake("objectName", error.message()))
            .ok()
    }

    /// The pinned version: `Some(None)` is the current one.
    fn version(&mut self, text: &str, history: bool) -> Option<Option<Version>> {
        match text {
            "" => Some(None),
            "latest" => {
                if !history {
                    self.notes.add(
                        format!("{}.objectVersion", self.at),
                        "`latest` is the current version; the Azure provider asks the vault for a version of that \
                         name, and fails",
                    );
                }
                Some(None)
            }
            text => Version::parse(text)
                .map(Some)
                .map_err(|error| self.mistake("objectVersion", error.message()))
                .ok(),
        }
    }

    fn history(&self, fields: &Fields) -> u32 {
        match fields.object_version_history.unwrap_or_default().0 {
            ..=1 => 0,
            count => count.unsigned_abs(),
        }
    }

    fn file(&self, alias: &str, name: &str) -> Option<FilePath> {
        let (field, text) = if alias.is_empty() { ("objectName", name) } else { ("objectAlias", alias) };
        if text.is_empty() {
            return None;
        }
        FilePath::parse(text).map_err(|message| self.mistake(field, message)).ok()
    }

    /// An octal number as Go's ParseInt reads it, as far as it is a mode.
    fn mode(&self, text: &str) -> Option<u32> {
        if text.is_empty() {
            return Some(DEFAULT_MODE);
        }
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        if mode.is_none() {
            self.mistake(
                "filePermission",
                "must be an octal number up to 0777, such as 0400 (the Azure provider would drop what it cannot use)",
            );
        }
        mode
    }

    /// What is written by the words of `objectFormat`. For keys and certificates it has no effect, but a plain `pfx`
    /// is refused and a `PFX` is not: so the Azure provider does.
    fn format(&self, word: &str, collection: Collection) -> Option<Format> {
        let pfx = word.eq_ignore_ascii_case("pfx");
        if !(word.is_empty() || pfx || word.eq_ignore_ascii_case("pem")) {
            self.mistake("objectFormat", "must be pem or pfx");
            return None;
        }
        match collection {
            Collection::Secrets if pfx => Some(Format::AzurePfx),
            Collection::Secrets => Some(Format::Azure),
            _ if word == "pfx" => {
                self.mistake(
                    "objectFormat",
                    "pfx is for objectType secret: only a secret holds the private key",
                );
                None
            }
            _ => Some(Format::Pem),
        }
    }

    fn decode(&self, word: &str, collection: Collection) -> Option<Decode> {
        if word.is_empty() {
            return Some(Decode::None);
        }
        if collection != Collection::Secrets {
            self.mistake("objectEncoding", "is for objectType secret");
            return None;
        }
        let words = [("utf-8", Decode::None), ("base64", Decode::Base64), ("hex", Decode::Hex)];
        let found = words.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
        if found.is_none() {
            self.mistake("objectEncoding", "must be utf-8, base64 or hex");
        }
        found.map(|(_, decode)| decode)
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default().trim()
}

/// A history is a directory, so that what another object writes below it clashes as well.
fn refuse_clashes(objects: &[(usize, ClassObject)], mistakes: &Mistakes) {
    let mut files: Vec<(&FilePath, usize)> =
        objects.iter().filter_map(|(index, object)| Some((object.spec.file.as_ref()?, *index))).collect();
    // Sorted by elements, a path and what lies below it are neighbours.
    files.sort_by(|(a, _), (b, _)| a.elements().cmp(b.elements()));
    for ((first, at), (second, index)) in files.iter().copied().zip(files.iter().copied().skip(1)) {
        if first.clashes_with(second) {
            let (earlier, later) = (at.min(index), at.max(index));
            let file = if later == index { second } else { first };
            mistakes.note(
                place(later),
                format!(
                    "{file} clashes with the file of {}; give one of them an objectAlias",
                    place(earlier)
                ),
            );
        }
    }
}
