//! The CSI Identity and Node services: wire in, wire out. What is asked is checked in [`crate::request`], what is done
//! is in [`crate::publish`] and [`crate::node`].

mod identity;
mod node;
mod probe;
mod status;

pub(crate) use identity::IdentityService;
pub(crate) use node::NodeService;
pub(crate) use probe::probe;
pub(crate) use status::{cut, status, text};

/// Longest message that kubelet may send: a class is not part of it, but 1 MiB of objects and some tokens are.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;
