//! The last snapshot, kept where only Keyward reads it.
