//! The content pipeline, templates and projection, seen from outside.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod content {
    mod azure;
    mod certificates;
    mod chain;
    mod keys;
    mod peers;
    mod projection;
    pub(crate) mod support;
    mod templates;
    mod values;
}
