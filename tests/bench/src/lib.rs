//! Benchmarks: one command, one table.
