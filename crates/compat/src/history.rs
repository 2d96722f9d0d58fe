use keyward_core::spec::{FilePath, ObjectSpec, Source};
use keyward_core::{Code, Error, Result, VersionInfo};

use crate::object::ClassObject;

impl ClassObject {
    /// What the object becomes: itself, or with a history one entry for each version, newest first, as `<file>/<index>`
    /// under the identifier `<uid>/<index>`.
    ///
    /// `versions` is the vault's whole list, in any order, and not looked at without a history. Disabled versions are
    /// left out; a pinned version is where the history begins; N+1 are taken where there are as many.
    ///
    /// # Errors
    /// `KW_OBJECT_NOT_FOUND` or `KW_OBJECT_DISABLED` for a pinned version that the list does not hold or that is
    /// disabled, or when there is no enabled version at all: the provider would silently write nothing.
    pub fn expand(&self, versions: &[VersionInfo]) -> Result<Vec<(ObjectSpec, String)>> {
        let Source::Object(source) = &self.spec.source else {
            return Ok(vec![(self.spec.clone(), self.uid.clone())]);
        };
        if self.history == 0 {
            return Ok(vec![(self.spec.clone(), self.uid.clone())]);
        }
        let mut sorted: Vec<&VersionInfo> = versions.iter().collect();
        // Without a time a version counts as the oldest; versions of one second keep the order of the list.
        sorted.sort_by_key(|info| std::cmp::Reverse(info.created.unwrap_or_default()));
        let enabled = sorted.iter().filter(|info| info.enabled);
        let chosen: Vec<&VersionInfo> = match source.object.version() {
            None => enabled.copied().collect(),
            Some(pinned) => enabled.skip_while(|info| info.version != *pinned).copied().collect(),
        };
        if chosen.is_empty() {
            return Err(nothing(versions, source.object.version()).object(&source.object));
        }
        chosen
            .into_iter()
            .take((self.history as usize).saturating_add(1))
            .enumerate()
            .map(|(index, info)| {
                let mut spec = self.spec.clone();
                let mut source = source.clone();
                source.object = source.object.at(info.version.clone());
                spec.source = Source::Object(source);
                if let Some(file) = &self.spec.file {
                    let path = format!("{file}/{index}");
                    spec.file =
                        Some(FilePath::parse(&path).map_err(|message| {
                            Error::new(Code::ClassInvalid, format!("{path} {message}"))
                        })?);
                    spec.name = path;
                }
                Ok((spec, format!("{}/{index}", self.uid)))
            })
            .collect()
    }
}

fn nothing(versions: &[VersionInfo], pinned: Option<&keyward_core::Version>) -> Error {
    let listed = versions.iter().any(|info| pinned.is_none_or(|pinned| info.version == *pinned));
    match (pinned, listed) {
        (Some(_), true) => {
            Error::new(Code::ObjectDisabled, "the version that the history begins at is disabled")
        }
        (Some(_), false) => {
            Error::new(Code::ObjectNotFound, "the version that the history begins at does not exist")
        }
        (None, true) => Error::new(Code::ObjectDisabled, "every version of the object is disabled"),
        (None, false) => Error::new(Code::ObjectNotFound, "the object has no version"),
    }
}
