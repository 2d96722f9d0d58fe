//! The keyward command line.
