//! The broker as its callers see it, on paused time, over a model of a vault.

mod access;
mod bench;
mod events;
mod node;
mod promise_three;
mod rotation;
mod watching;
