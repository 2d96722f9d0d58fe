//! Cross-process tests, conformance and repository policy.
