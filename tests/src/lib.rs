//! Cross-process tests, conformance and repository policy. The tests themselves are in `tests/tests`.
