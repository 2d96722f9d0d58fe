//! `keyward-injector`: the mutating admission webhook, which turns a pod's label and annotations into a sidecar, an init
//! container or a CSI volume. It holds no code that can read a secret.

pub mod admission;
