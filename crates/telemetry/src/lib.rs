//! Audit log, metrics, tracing and health.
