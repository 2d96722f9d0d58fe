//! From snapshots to files: projection, content pipeline, atomic directory, tmpfs, notification.

pub mod atomic;
mod beneath;
pub mod content;
pub mod conversions;
mod meter;
pub mod notify;
pub mod projection;
pub mod saved;
pub mod template;
pub mod tmpfs;
pub mod tree;

pub use meter::Meter;
