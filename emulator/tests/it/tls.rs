//! Handshakes.

use keyward_emulator::{Emulator, TlsVersions};
use rustls::{ClientConfig, ProtocolVersion};

use crate::client::{connect, trusting};

fn config(emulator: &Emulator, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    trusting(&emulator.ca_pem(), versions)
}

#[tokio::test]
async fn tls_13_with_the_hybrid_key_exchange_is_the_default_and_12_is_refused() {
    let emulator = Emulator::builder().vault("shop").start().await.expect("starts");
    let both = config(&emulator, &[&rustls::version::TLS13, &rustls::version::TLS12]);
    let stream = connect(emulator.vault_addr(), "shop.vault.azure.net", both).await.expect("handshake");
    let (_, connection) = stream.get_ref();
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = connection.negotiated_key_exchange_group().expect("negotiated").name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let old = config(&emulator, &[&rustls::version::TLS12]);
    assert!(connect(emulator.vault_addr(), "shop.vault.azure.net", old).await.is_err());
}

#[tokio::test]
async fn a_listener_of_12_only_can_be_had() {
    let emulator = Emulator::builder().vault("shop").tls(TlsVersions::Tls12).start().await.expect("starts");
    let new = config(&emulator, &[&rustls::version::TLS13]);
    assert!(connect(emulator.vault_addr(), "shop.vault.azure.net", new).await.is_err());
    let both = config(&emulator, &[&rustls::version::TLS13, &rustls::version::TLS12]);
    let stream = connect(emulator.vault_addr(), "shop.vault.azure.net", both).await.expect("handshake");
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn http2_is_preferred_unless_it_is_switched_off() {
    for (offered, chosen) in [(true, &b"h2"[..]), (false, b"http/1.1")] {
        let emulator = Emulator::builder().vault("shop").http2(offered).start().await.expect("starts");
        let mut client = config(&emulator, &[&rustls::version::TLS13]);
        client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let stream = connect(emulator.vault_addr(), "shop.vault.azure.net", client).await.expect("handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen));
    }
}

#[tokio::test]
async fn the_certificate_covers_vaults_their_aliases_entra_and_loopback() {
    let emulator = Emulator::builder().vault("shop").start().await.expect("starts");
    let _ = emulator.vault("gov.vault.usgovcloudapi.net");
    emulator.alias("kv.internal:8443", "shop");
    for name in [
        "shop.vault.azure.net",
        "never-created.vault.azure.net",
        "gov.vault.usgovcloudapi.net",
        "shop.vault.localhost",
        "kv.internal",
        "login.microsoftonline.com",
        "login.windows.net",
        "localhost",
        "127.0.0.1",
    ] {
        let client = config(&emulator, &[&rustls::version::TLS13]);
        assert!(connect(emulator.vault_addr(), name, client).await.is_ok(), "{name}");
    }
    let client = config(&emulator, &[&rustls::version::TLS13]);
    assert!(connect(emulator.vault_addr(), "evilvault.example", client).await.is_err());
}
