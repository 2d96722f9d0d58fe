//! Cross-process tests, conformance and repository policy. The tests themselves are in `tests/tests`; here is what the
//! fuzz targets and the plain tests that replay their corpora share.

pub mod fuzz;
