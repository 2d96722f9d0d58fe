//! The atomic directory: kubelet's `..data` layout beneath a directory descriptor.
