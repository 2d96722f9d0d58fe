use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use azure_core::http::{HttpClient as _, Method as AzureMethod, Request as AzureRequest};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use keyward_core::Code;
use keyward_egress::{EgressSettings, recover};
use parking_lot::Mutex;
use url::Url;

use crate::server::{Authority, answer, json};
use crate::{VAULT, egress, get, settings, transport, vault_get};

#[tokio::test]
async fn a_request_that_would_leave_the_vault_is_refused_before_anything_is_sent() {
    let ca = Authority::new();
    let vault = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let evil = ca.server(&["evil.test", "127.0.0.1"]).http(async |_| json(200, "{}")).await;
    let mut settings = settings(&ca, &vault);
    settings.resolve.push(("evil.test".to_owned(), evil.address));
    let transport = transport(&egress(settings));
    let port = evil.address.port();
    for foreign in [
        "https://evil.test/secrets?$skiptoken=1".to_owned(),
        format!("https://{VAULT}:{port}/secrets"),
        format!("http://{VAULT}/secrets"),
        format!("https://{VAULT}.evil.test/secrets"),
        format!("https://127.0.0.1:{port}/secrets"),
        format!("https://{VAULT}@evil.test/secrets"),
    ] {
        let mut request = AzureRequest::new(Url::parse(&foreign).unwrap(), AzureMethod::Get);
        request.insert_header("authorization", "Bearer eyJ.never.sent");
        let error = transport.execute_request(&request).await.unwrap_err();
        let error = recover(&error).expect("our own error crosses the SDK");
        assert_eq!(error.code(), Code::OriginRefused, "{foreign}");
        assert!(!error.to_string().contains("eyJ"), "{error}");
    }
    assert_eq!((evil.connections(), vault.connections()), (0, 0));
}

#[tokio::test]
async fn the_vaults_own_origin_is_recognised_in_any_case_and_with_its_default_port() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let transport = transport(&egress(settings(&ca, &server)));
    let url = Url::parse("https://SHOP.vault.TEST:443/secrets").unwrap();
    let sent = transport.send(Method::GET, &url, HeaderMap::new(), Bytes::new()).await;
    assert_eq!(sent.ok().unwrap().status, 200);
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let ca = Authority::new();
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hits);
    let server = ca
        .server(&[VAULT])
        .http(move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert_eq!(request.uri().path(), "/from");
                let mut answer = json(307, "{}");
                answer.headers_mut().insert("location", HeaderValue::from_static("/to"));
                answer
            }
        })
        .await;
    let egress = egress(settings(&ca, &server));
    let error = vault_get(&transport(&egress), "/from").await.err().unwrap();
    assert_eq!(error.code(), Code::VaultProtocol);
    assert_eq!(egress.send(get(&format!("https://{VAULT}/from"))).await.ok().unwrap().status, 307);
    assert_eq!(hits.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn every_vault_request_has_an_id_and_one_from_the_caller_is_kept() {
    let ca = Authority::new();
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ids);
    let server = ca
        .server(&[VAULT])
        .http(move |request| {
            let id = request.headers().get("x-ms-client-request-id").cloned();
            seen.lock().push(id.unwrap().to_str().unwrap().to_owned());
            async { json(200, "{}") }
        })
        .await;
    let transport = transport(&egress(settings(&ca, &server)));
    vault_get(&transport, "/").await.ok().unwrap();
    let url = Url::parse(&format!("https://{VAULT}/")).unwrap();
    let headers =
        HeaderMap::from_iter([("x-ms-client-request-id".parse().unwrap(), HeaderValue::from_static("mine"))]);
    transport.send(Method::GET, &url, headers, Bytes::new()).await.ok().unwrap();
    let ids = ids.lock();
    assert!(ids[0].len() == 36 && ids[1] == "mine", "{ids:?}");
}

#[tokio::test]
async fn an_answer_that_is_not_json_is_a_protocol_error_but_an_errors_status_survives_without_its_words() {
    let ca = Authority::new();
    let server = ca
        .server(&[VAULT])
        .http(async |request| match request.uri().path() {
            "/ok" => answer(200, "text/html", "<h1>welcome to the proxy</h1>"),
            _ => answer(502, "text/html", "<h1>bad gateway</h1>"),
        })
        .await;
    let transport = transport(&egress(settings(&ca, &server)));
    assert_eq!(vault_get(&transport, "/ok").await.err().unwrap().code(), Code::VaultProtocol);
    let bad = vault_get(&transport, "/bad").await.ok().unwrap();
    assert_eq!((bad.status, bad.body.len()), (502, 0));
}

#[tokio::test]
async fn a_vault_name_that_leads_to_loopback_is_refused_unless_it_is_listed() {
    let ca = Authority::new();
    let server = ca.server(&["localhost"]).http(async |_| json(200, "{}")).await;
    let url = format!("https://localhost:{}/", server.address.port());
    let settings = |local_hosts| EgressSettings {
        extra_roots_pem: Some(ca.pem.clone()),
        refuse_local_addresses: true,
        local_hosts,
        ..EgressSettings::default()
    };
    let refused = egress(settings(vec![])).send(get(&url)).await.err().unwrap();
    assert_eq!(refused.code(), Code::AddressRefused);
    let literal = url.replace("localhost", "127.0.0.1");
    assert_eq!(
        egress(settings(vec![])).send(get(&literal)).await.err().unwrap().code(),
        Code::AddressRefused
    );
    assert_eq!(server.connections(), 0);
    let listed = egress(settings(vec!["localhost".to_owned()]));
    assert_eq!(listed.send(get(&url)).await.ok().unwrap().status, 200);
}
