//! The injector under attack: the API server's reviews and kubelet's probes beside strangers on the pod network and pods
//! that mean ill.

mod trial;
mod webhook;

pub(crate) use trial::run;
pub(crate) use webhook::{Webhook, good, review};
