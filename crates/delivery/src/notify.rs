//! Telling applications of a change.
