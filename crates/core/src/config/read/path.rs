use std::path::PathBuf;

use crate::document::Fields;

pub(in crate::config) fn absolute(fields: &mut Fields<'_>, key: &'static str) -> Option<PathBuf> {
    fields.parsed(key, check_absolute)
}

/// A file that is only read may be named relative to the working directory.
pub(in crate::config) fn check_path(text: &str) -> std::result::Result<PathBuf, String> {
    if text.is_empty() || text.len() > 4096 || text.contains('\0') {
        return Err("must be a file's path".to_owned());
    }
    Ok(PathBuf::from(text))
}

pub(in crate::config) fn check_absolute(text: &str) -> std::result::Result<PathBuf, String> {
    if text.starts_with('/') && text.len() <= 4096 && !text.contains('\0') {
        Ok(PathBuf::from(text))
    } else {
        Err("must be an absolute path".to_owned())
    }
}

/// RFC 1123: labels of lower-case letters, digits and inner dashes.
pub(in crate::config) fn kubernetes_name(
    text: &str,
    longest: usize,
    dots: bool,
) -> std::result::Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= longest && text.split('.').all(label) && (dots || !text.contains('.')) {
        Ok(text.to_owned())
    } else {
        Err("must be a name as Kubernetes takes it, no pattern".to_owned())
    }
}
