use std::fmt;
use std::sync::Arc;

/// A file's path below the mount: relative, already clean, safe to create beneath a directory descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Arc<str>);

/// Longest path, in bytes.
const MAX_PATH: usize = 1024;
/// Longest element, in bytes (NAME_MAX).
const MAX_ELEMENT: usize = 255;

impl FilePath {
    /// Checks a path.
    ///
    /// # Errors
    /// The message for the user: absolute, empty or dotted elements, elements beginning with `..` (kept for the
    /// generations of the atomic directory), control characters, too long.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.len() > MAX_PATH {
            return Err(format!("is longer than {MAX_PATH} bytes"));
        }
        if text.starts_with('/') {
            return Err("must be relative to the mount, without a leading slash".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("holds a control character".to_owned());
        }
        for element in text.split('/') {
            match element {
                "" => return Err("has an empty element (a doubled or trailing slash)".to_owned()),
                "." => return Err("may not contain the element .".to_owned()),
                _ if element.starts_with("..") => {
                    return Err(
                        "has an element that begins with .., which is kept for the directory's own links"
                            .to_owned(),
                    );
                }
                _ if element.len() > MAX_ELEMENT => {
                    return Err(format!("has an element longer than {MAX_ELEMENT} bytes"));
                }
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The elements, outermost first.
    pub fn elements(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The same path with `suffix` appended to its last element.
    ///
    /// # Errors
    /// When the result is too long.
    pub fn with_suffix(&self, suffix: &str) -> std::result::Result<Self, String> {
        Self::parse(&format!("{}{suffix}", self.0))
    }

    /// Whether one of the two is the other, or a directory on its way.
    #[must_use]
    pub fn clashes_with(&self, other: &Self) -> bool {
        let (short, long) = if self.0.len() <= other.0.len() { (self, other) } else { (other, self) };
        long.0.strip_prefix(&*short.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_leave_the_mount_or_clash_with_its_links_are_refused() {
        for path in [
            "",
            "/etc/x",
            "../../etc/x",
            "a/../../x",
            "..x",
            "..data",
            ".",
            "./x",
            "a//b",
            "a/",
            "a\nb",
            "a/..2",
        ] {
            assert!(FilePath::parse(path).is_err(), "{path}");
        }
        for path in ["a", "db/password", ".hidden", "a..b", "ä"] {
            assert!(FilePath::parse(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn a_file_and_a_directory_of_the_same_name_clash() {
        let path = |text| FilePath::parse(text).unwrap();
        assert!(path("db").clashes_with(&path("db/password")));
        assert!(path("db/password").clashes_with(&path("db")));
        assert!(!path("db").clashes_with(&path("dbx")));
    }

    proptest! {
        #[test]
        fn an_accepted_path_joined_to_a_root_stays_below_it(text in "[a-z./\\PC]{0,40}") {
            if let Ok(path) = FilePath::parse(&text) {
                let joined = std::path::Path::new("/root-of-mount").join(path.as_str());
                prop_assert!(joined.starts_with("/root-of-mount"));
                prop_assert!(joined.components().all(|c| !matches!(c, std::path::Component::ParentDir | std::path::Component::CurDir)));
            }
        }
    }
}
