use std::sync::Arc;
use std::time::Duration;

use keyward_core::observe::{Event, Silent};
use keyward_core::{Clock, Code, SystemClock, UnixTime};
use keyward_egress::{Egress, EgressSettings, Handshake, TlsFloor};

use crate::server::{Authority, json};
use crate::{Recorder, VAULT, egress, get, settings, transport, vault_get};

#[tokio::test]
async fn a_server_with_tls_1_2_only_gets_an_error_that_names_it_and_the_setting() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).tls12_only().http(async |_| json(200, "{}")).await;
    let error = vault_get(&transport(&egress(settings(&ca, &server))), "/").await.err().unwrap();
    assert_eq!(error.code(), Code::TlsVersion);
    assert!(
        error.message().contains(VAULT) && error.message().contains("minimumVersion: \"1.2\""),
        "{error}"
    );
}

#[tokio::test]
async fn a_host_lowered_by_an_administrator_may_speak_tls_1_2_and_no_other_host_may() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT, "other.test"]).tls12_only().http(async |_| json(200, "{}")).await;
    let mut settings = settings(&ca, &server);
    settings.resolve.push(("other.test".to_owned(), server.address));
    settings.host_floors = vec![(VAULT.to_owned(), TlsFloor::Tls12)];
    let egress = egress(settings);
    assert_eq!(vault_get(&transport(&egress), "/").await.ok().unwrap().status, 200);
    assert_eq!(egress.handshake(VAULT).unwrap().version, "TLSv1_2");
    let other = egress.send(get("https://other.test/")).await.err().unwrap();
    assert_eq!(other.code(), Code::TlsVersion);
}

#[tokio::test]
async fn a_lowered_host_that_speaks_1_3_gets_1_3() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let egress = egress(EgressSettings { minimum_tls: TlsFloor::Tls12, ..settings(&ca, &server) });
    vault_get(&transport(&egress), "/").await.ok().unwrap();
    assert_eq!(egress.handshake(VAULT).unwrap().version, "TLSv1_3");
}

#[tokio::test]
async fn the_post_quantum_group_is_negotiated_and_recorded() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let recorder = Arc::new(Recorder::default());
    let egress = Egress::new(settings(&ca, &server), Arc::new(SystemClock), recorder.clone()).unwrap();
    vault_get(&transport(&egress), "/").await.ok().unwrap();
    let expected = Handshake { version: "TLSv1_3", group: "X25519MLKEM768", protocol: "h2" };
    assert_eq!(egress.handshake("SHOP.vault.test"), Some(expected));
    let events = recorder.0.lock();
    assert!(events.contains(&Event::Handshake { version: "TLSv1_3", group: "X25519MLKEM768" }), "{events:?}");
    assert!(events.contains(&Event::Request { target: "vault", status: 200 }), "{events:?}");
}

#[tokio::test]
async fn an_unknown_issuer_is_untrusted_and_the_error_names_the_setting() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let unaware = EgressSettings { extra_roots_pem: None, ..settings(&ca, &server) };
    let error = vault_get(&transport(&egress(unaware)), "/").await.err().unwrap();
    assert_eq!(error.code(), Code::TlsUntrusted);
    assert!(error.message().contains("tls.extraRootsFile"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_untrusted() {
    let ca = Authority::new();
    let server = ca.server(&["other.test"]).http(async |_| json(200, "{}")).await;
    let error = vault_get(&transport(&egress(settings(&ca, &server))), "/").await.err().unwrap();
    assert_eq!(error.code(), Code::TlsUntrusted);
    assert!(error.message().contains("another name"), "{error}");
}

struct YearOfTheFirstMoonLanding;

impl Clock for YearOfTheFirstMoonLanding {
    fn wall(&self) -> UnixTime {
        Duration::ZERO
    }
    fn boot(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn a_certificate_outside_its_time_is_untrusted_and_the_clock_is_mentioned() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let egress =
        Egress::new(settings(&ca, &server), Arc::new(YearOfTheFirstMoonLanding), Arc::new(Silent)).unwrap();
    let error = vault_get(&transport(&egress), "/").await.err().unwrap();
    assert_eq!(error.code(), Code::TlsUntrusted);
    assert!(error.message().contains("clock"), "{error}");
}

#[tokio::test]
async fn roots_can_be_exchanged_while_running_and_bad_ones_change_nothing() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = new.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let egress = egress(settings(&old, &server));
    let transport = transport(&egress);
    assert_eq!(vault_get(&transport, "/").await.err().unwrap().code(), Code::TlsUntrusted);
    assert_eq!(egress.reload_roots(Some(b"nonsense")).unwrap_err().code(), Code::ConfigInvalid);
    egress.reload_roots(Some(&new.pem)).unwrap();
    assert_eq!(vault_get(&transport, "/").await.ok().unwrap().status, 200);
    egress.reload_roots(Some(&old.pem)).unwrap();
    let error = vault_get(&transport, "/").await.err().unwrap();
    assert_eq!(error.code(), Code::TlsUntrusted, "a removed root ends the use of its connections");
}

#[tokio::test]
async fn a_server_with_its_own_ca_is_reached_by_its_sni_name_and_by_no_other_trust() {
    let (public, own) = (Authority::new(), Authority::new());
    let server = own.server(&["proxy.sni.test"]).http(async |_| json(200, "{}")).await;
    let egress = egress(settings(&public, &server));
    let mut request = get(&format!("https://{}/", server.address));
    assert_eq!(egress.send(request.clone()).await.err().unwrap().code(), Code::TlsUntrusted);
    request.trust = Some(egress.trust(Some(&own.pem), Some("proxy.sni.test")).unwrap());
    assert_eq!(egress.send(request.clone()).await.ok().unwrap().status, 200);
    assert_eq!(server.server_names.lock().as_slice(), ["proxy.sni.test"]);
    request.trust = Some(egress.trust(Some(&public.pem), Some("proxy.sni.test")).unwrap());
    assert_eq!(egress.send(request).await.err().unwrap().code(), Code::TlsUntrusted);
}

#[tokio::test]
async fn a_peer_that_does_not_speak_tls_is_a_tls_failure_not_a_hang() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error =
        egress(EgressSettings::default()).send(get(&format!("https://{address}/"))).await.err().unwrap();
    assert_eq!(error.code(), Code::Tls);
}
