//! Clocks and helpers that tests share.
