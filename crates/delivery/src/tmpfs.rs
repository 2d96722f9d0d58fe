//! tmpfs: mounting it, or making sure that a path is on it.
