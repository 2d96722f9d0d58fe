//! The emulator from outside: raw HTTP over real sockets, and in process with paused time.

mod admin;
mod certificates;
mod client;
mod entra;
mod fault_bodies;
mod fault_connections;
mod fault_listings;
mod incidents;
mod keys;
mod managed_identity;
mod parsers;
mod secrets;
mod tls;
mod tokens;
