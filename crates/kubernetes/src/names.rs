//! Names that go into a URL path or an object's metadata.

use keyward_core::{Code, Error, Result};
use sha2::{Digest as _, Sha256};

/// The longest name of an object.
const LONGEST: usize = 253;

/// The longest value of a label.
const LONGEST_LABEL: usize = 63;

/// Whether `name` is a DNS subdomain in the sense of Kubernetes: nothing in it can leave its place in a URL.
pub(crate) fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let outer = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= LONGEST
        && bytes.iter().all(|b| inner(*b))
        && bytes.first().is_some_and(|b| outer(*b))
        && bytes.last().is_some_and(|b| outer(*b))
        && !name.contains("..")
}

/// Refuses what is not a name, without repeating it.
pub(crate) fn check(what: &str, name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::new(
        Code::ConfigInvalid,
        format!(
            "the name of the {what} is not one that Kubernetes allows (lower-case letters, digits, - and .)"
        ),
    ))
}

/// `name`, or as much of it as fits, made unique again by a hash of the whole.
pub(crate) fn fitted(name: &str) -> String {
    shortened(name, LONGEST)
}

/// `value` as the value of a label.
pub(crate) fn label(value: &str) -> String {
    shortened(value, LONGEST_LABEL)
}

/// 16 hexadecimal digits that stand for `parts`.
pub(crate) fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut digits = hex::encode(hash.finalize());
    digits.truncate(16);
    digits
}

/// At most `limit` bytes of `text`, whole characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}

fn shortened(name: &str, limit: usize) -> String {
    if name.len() <= limit {
        return name.to_owned();
    }
    let head = cut(name, limit.saturating_sub(17)).trim_end_matches(['-', '.', '_']);
    format!("{head}-{}", digest(&[name]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_its_place_in_a_url_is_no_name() {
        for bad in ["", "..", "a/b", "../x", "A", "a..b", "-a", "a-", ".a", "a?b", "a%2fb", &"a".repeat(254)]
        {
            assert!(!is_name(bad), "{bad}");
        }
        for good in ["a", "a-b.c", "0", &"a".repeat(253)] {
            assert!(is_name(good), "{good}");
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_shortened_and_stays_a_name_of_its_own() {
        let (one, two) = (format!("{}-one", "a.".repeat(126)), format!("{}-two", "a.".repeat(126)));
        let (short_one, short_two) = (fitted(&one), fitted(&two));
        assert!(is_name(&short_one) && is_name(&short_two));
        assert_ne!(short_one, short_two);
        assert_eq!(fitted("pod-ns-class"), "pod-ns-class");
        assert_eq!(label(&"n".repeat(70)).len(), 63);
    }
}
