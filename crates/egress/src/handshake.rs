use std::collections::HashMap;

use parking_lot::Mutex;
use rustls::crypto::SupportedKxGroup;
use rustls::{ClientConnection, NamedGroup, ProtocolVersion};

/// Hosts remembered at most; a new one beyond that replaces an arbitrary old one.
const REMEMBERED: usize = 64;

/// What the last TLS handshake with a host agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// `TLSv1_3` or `TLSv1_2`.
    pub version: &'static str,
    /// The key exchange group: `X25519MLKEM768`, `X25519`, …
    pub group: &'static str,
    /// The application protocol: `h2` or `http/1.1`.
    pub protocol: &'static str,
}

impl Handshake {
    pub(crate) fn of(connection: &ClientConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1_3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1_2",
            _ => "unknown",
        };
        let group = match connection.negotiated_key_exchange_group().map(SupportedKxGroup::name) {
            Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
            Some(NamedGroup::secp256r1MLKEM768) => "secp256r1MLKEM768",
            Some(NamedGroup::X25519) => "X25519",
            Some(NamedGroup::secp256r1) => "secp256r1",
            Some(NamedGroup::secp384r1) => "secp384r1",
            Some(NamedGroup::secp521r1) => "secp521r1",
            Some(_) => "other",
            None => "none",
        };
        let protocol = match connection.alpn_protocol() {
            Some(b"h2") => "h2",
            _ => "http/1.1",
        };
        Self { version, group, protocol }
    }
}

/// The last handshake of each host.
#[derive(Default)]
pub(crate) struct Handshakes(Mutex<HashMap<String, Handshake>>);

impl Handshakes {
    pub(crate) fn record(&self, host: &str, handshake: Handshake) {
        let mut hosts = self.0.lock();
        if hosts.len() >= REMEMBERED
            && !hosts.contains_key(host)
            && let Some(old) = hosts.keys().next().cloned()
        {
            hosts.remove(&old);
        }
        hosts.insert(host.to_owned(), handshake);
    }

    pub(crate) fn last(&self, host: &str) -> Option<Handshake> {
        self.0.lock().get(&host.to_ascii_lowercase()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_handshakes_is_bounded() {
        let seen = Handshakes::default();
        let handshake = Handshake { version: "TLSv1_3", group: "X25519", protocol: "h2" };
        for number in 0..200 {
            seen.record(&format!("h{number}"), handshake);
        }
        assert_eq!(seen.0.lock().len(), REMEMBERED);
        assert_eq!(seen.last("H199"), Some(handshake));
    }
}
