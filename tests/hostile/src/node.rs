//! The node plugin under attack.

mod audit;
mod field;
mod socket;
mod trial;
mod victims;

pub(crate) use field::{Field, HOSTILE, Hostile};
pub(crate) use socket::{Socket, dial, encoded};
pub(crate) use trial::run;
