//! From snapshots to files: projection, content pipeline, atomic directory, tmpfs, notification.
