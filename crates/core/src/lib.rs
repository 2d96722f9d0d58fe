//! Nouns and traits of Keyward, all pure.
