//! The paths at which the API server asks. Each holds a random text that only the API server and the injector know: that
//! tells the API server apart from everybody else on the pod network (docs/adr/0019).

mod plan;

use arc_swap::ArcSwap;
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

pub(crate) use plan::{Step, Written, next, perform};

/// What stands before the random text.
const ROOT: &str = "/mutate/";

/// The paths that are answered at, exchanged while the server runs.
#[derive(Default)]
pub(crate) struct Paths(ArcSwap<Vec<Zeroizing<String>>>);

impl Paths {
    /// Answers at these from now on, and at no others.
    pub(crate) fn exchange(&self, written: &Written) {
        let paths = written.tokens.iter().map(|token| Zeroizing::new(path(token))).collect();
        self.0.store(Arc::new(paths));
    }

    /// Whether there is a path.
    pub(crate) fn is_there(&self) -> bool {
        !self.0.load().is_empty()
    }

    /// Whether `asked` is one of them, in a time that depends on its length only.
    pub(crate) fn contains(&self, asked: &str) -> bool {
        let paths = self.0.load();
        let found =
            paths.iter().fold(Choice::from(0), |found, path| found | path.as_bytes().ct_eq(asked.as_bytes()));
        found.into()
    }
}

/// The whole path of a random text.
pub(crate) fn path(token: &str) -> String {
    format!("{ROOT}{token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_paths_are_answered_at_and_only_those_in_use() {
        let paths = Paths::default();
        assert!(!paths.is_there() && !paths.contains("/mutate/") && !paths.contains(""));
        let (one, two) = ("a".repeat(64), "b".repeat(64));
        let written = |tokens: &[&String]| Written {
            tokens: tokens.iter().map(|token| Zeroizing::new((*token).clone())).collect(),
            since: None,
        };
        paths.exchange(&written(&[&one, &two]));
        assert!(paths.is_there() && paths.contains(&path(&one)) && paths.contains(&path(&two)));
        for other in ["/mutate", "/mutate/", &path(&one)[..71], &path(&format!("{one}a")), &one] {
            assert!(!paths.contains(other), "{other}");
        }
        paths.exchange(&written(&[&two]));
        assert!(!paths.contains(&path(&one)) && paths.contains(&path(&two)));
    }
}
