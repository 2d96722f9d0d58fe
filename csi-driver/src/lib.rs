//! The node plugin: secrets as CSI volumes.
