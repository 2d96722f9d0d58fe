//! One test or more for each limit of the SDK's Key Vault clients (versions 1.0.1 on azure_core 1.1.0), by number:
//!
//! 11. each client provokes a 401 of its own, and ignores the tenant in it;
//! 12. names go into the path as they are;
//! 13. links to a next page are followed anywhere and for ever, with the token;
//! 14. answers have no size limit;
//! 15. calls have no deadline, and certificate failures are retried like lost packets;
//! 16. `Retry-After` has no upper bound;
//! 17. error texts quote bodies and values;
//! 18. values and tokens are copied into buffers that nobody wipes;
//! 19. there are no conditional requests.

use std::time::Duration;

use azure_core::http::headers::{AUTHORIZATION, CONTENT_TYPE, Headers};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, Context, Method, Request, StatusCode};
use bytes::Bytes;
use futures::future::join_all;

use super::super::pipeline::{Gatekeeper, Pocket};
use super::*;

fn throttled() -> super::script::Reply {
    reply(429, r#"{"error":{"code":"Throttled","message":"Reason: VaultRequestTypeLimitReached"}}"#)
}

fn good() -> super::script::Reply {
    reply(200, &secret_body("db", VERSION, "x"))
}

#[tokio::test(start_paused = true)]
async fn limit_11_fifty_cold_reads_share_one_challenge_that_is_asked_for_beside_the_token() {
    let script = Script::answering(|sent| {
        let name = sent.url.split('/').nth(4).unwrap();
        reply(200, &secret_body(name, VERSION, "x"))
    })
    .taking(Duration::from_secs(1));
    script.tokens.set_latency(Duration::from_millis(900));
    let provider = script.provider();
    let requests: Vec<_> = (0..50).map(|n| read(&format!("kv://shop/secrets/s{n}"))).collect();
    let begun = Instant::now();
    let reads = join_all(requests.iter().map(|request| provider.fetch(request))).await;
    assert!(reads.iter().all(Result::is_ok));
    assert_eq!((script.unsigned(), script.log().len()), (1, 51));
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn limit_11_a_vault_that_wants_a_token_of_another_service_gets_none() {
    let challenge = r#"Bearer authorization="https://x.y/t", resource="https://management.azure.com""#;
    let script = Script::answering(|_| good()).challenging(challenge);
    let error = error_of(script.provider().fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::ChallengeMismatch);
    assert_eq!((script.log().len(), script.unsigned()), (1, 1));
    assert!(!script.tokens.resources().contains(&"https://management.azure.com".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn limit_11_a_host_listed_as_unverified_gets_our_audience_whatever_it_asks_for() {
    let challenge = r#"Bearer authorization="https://x.y/t", resource="https://management.azure.com""#;
    let script = Script::answering(|_| good()).challenging(challenge);
    let provider = script.provider_with(|settings| {
        settings.unverified_challenge_hosts.insert(VaultHost::parse("shop.vault.azure.net").unwrap());
    });
    provider.fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(script.tokens.resources().iter().all(|resource| resource == "https://vault.azure.net"));
}

#[tokio::test(start_paused = true)]
async fn limit_11_a_caller_that_gives_up_leaves_the_challenge_to_the_others() {
    let script = Script::answering(|_| good()).taking(Duration::from_secs(2));
    let provider = script.provider();
    let request = read("kv://shop/secrets/db");
    let impatient = tokio::time::timeout(Duration::from_secs(1), provider.fetch(&request));
    let (impatient, patient) = tokio::join!(impatient, provider.fetch(&request));
    assert!(impatient.is_err() && patient.is_ok());
    assert_eq!(script.unsigned(), 1);
    let alone = Script::answering(|_| good()).taking(Duration::from_secs(2));
    let provider = alone.provider();
    assert!(tokio::time::timeout(Duration::from_secs(1), provider.fetch(&request)).await.is_err());
    assert!(provider.fetch(&request).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn limit_12_a_name_or_version_that_would_change_the_path_is_refused_before_any_request() {
    let script = Script::answering(|_| good());
    let host = VaultHost::parse("shop.vault.azure.net").unwrap();
    for name in ["../keys/k1", "..", "a/versions", "{secret-version}", "a%2fb", "a?b", ""] {
        let refused = ObjectRef::new(host.clone(), Collection::Secrets, name, None);
        assert_eq!(error_of(refused).code(), Code::ObjectInvalid, "{name}");
    }
    for version in ["..", "versions", "0123", "0123456789abcdef0123456789abcde/"] {
        assert!(keyward_core::Version::parse(version).is_err(), "{version}");
    }
    assert!(script.log().is_empty());
    // A legal name is one path segment, with or without a version.
    let provider = script.provider();
    provider.fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    provider.fetch(&read(&format!("kv://shop/secrets/db/{VERSION}"))).await.unwrap_or_else(|e| panic!("{e}"));
    let paths: Vec<_> =
        script.log().iter().skip(1).map(|sent| sent.url.split('?').next().unwrap().to_owned()).collect();
    assert_eq!(paths[0].trim_end_matches('/'), "https://shop.vault.azure.net/secrets/db");
    assert_eq!(paths[1], format!("https://shop.vault.azure.net/secrets/db/{VERSION}"));
}

#[tokio::test(start_paused = true)]
async fn limit_13_no_link_takes_the_token_elsewhere_or_goes_on_for_ever() {
    let host = VaultHost::parse("shop.vault.azure.net").unwrap();
    for (link, code, most) in [
        ("https://evil.example/secrets?x".to_owned(), Code::OriginRefused, 2),
        (
            "https://shop.vault.azure.net/secrets?api-version=7.4&$skiptoken=x".to_owned(),
            Code::VaultProtocol,
            9,
        ),
    ] {
        let body = serde_json::json!({"value": [], "nextLink": link}).to_string();
        let script = Script::answering(move |_| reply(200, &body));
        let error = error_of(script.provider().list(&host, Collection::Secrets, 1000).await);
        assert_eq!(error.code(), code);
        assert!(script.log().len() <= most, "{}", script.log().len());
        assert!(script.log().iter().all(|sent| sent.url.starts_with("https://shop.vault.azure.net/")));
    }
    let script = Script::answering(|sent| {
        let next = format!("https://shop.vault.azure.net/secrets?$skiptoken={}", sent.url.len());
        reply(
            200,
            &serde_json::json!({"value": [], "nextLink": next + &"x".repeat(sent.url.len() % 7)}).to_string(),
        )
    });
    assert_eq!(
        error_of(script.provider().list(&host, Collection::Secrets, 9).await).code(),
        Code::VaultProtocol
    );
    assert!(script.log().len() <= listing::MAX_PAGES + 1);
}

#[tokio::test(start_paused = true)]
async fn limit_14_a_body_over_the_limit_is_refused_and_not_asked_for_again() {
    let script =
        Script::answering(|_| reply(200, &format!(r#"{{"value":"{}"}}"#, "x".repeat(wire::MAX_BODY))));
    let error = error_of(script.provider().fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::ResponseTooLarge);
    assert_eq!(script.log().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn limit_15_a_failing_or_silent_vault_costs_a_bounded_number_of_tries_and_seconds() {
    let script = Script::answering(|_| reply(503, ""));
    let begun = Instant::now();
    let error = error_of(script.provider().fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::VaultUnavailable);
    assert_eq!(script.log().len(), 1 + 4);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    let timeout = Error::new(Code::Timeout, "no answer within 10 s");
    let silent = Script::answering(|_| good()).taking(Duration::from_secs(10)).failing(timeout);
    let begun = Instant::now();
    assert_eq!(error_of(silent.provider().fetch(&read("kv://shop/secrets/db")).await).code(), Code::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(31), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn limit_15_an_untrusted_certificate_is_not_tried_again() {
    let untrusted = Error::new(Code::TlsUntrusted, "the certificate is not trusted");
    let script = Script::answering(|_| good()).failing(untrusted);
    let error = error_of(script.provider().fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!((error.code(), script.log().len()), (Code::TlsUntrusted, 1));
}

#[tokio::test(start_paused = true)]
async fn limit_16_an_hour_of_retry_after_is_cut_to_the_cap_and_a_short_one_is_kept() {
    for (header, low, high) in [("3600", 10, 11), ("3", 3, 4)] {
        let script = Script::answering(move |_| throttled().with("retry-after", header));
        let provider = script.provider_with(|settings| settings.retry.attempts = 2);
        let begun = Instant::now();
        let error = error_of(provider.fetch(&read("kv://shop/secrets/db")).await);
        assert_eq!((error.code(), script.log().len()), (Code::VaultThrottled, 3));
        assert!((low..high).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
    let script = Script::answering(|_| throttled());
    let begun = Instant::now();
    error_of(script.provider().fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(script.log().len(), 5);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn limit_17_no_error_repeats_what_the_peer_or_the_sdk_said() {
    let canary = "hunter2-secret";
    for (status, content_type, body) in [
        (200, "application/json", format!(r#"{{"value": {{"{canary}": 1}}, "id": "{canary}"}}"#)),
        (200, "application/json", canary.to_owned()),
        (200, "text/html", format!("<html>{canary}</html>")),
        (
            403,
            "application/json",
            format!(
                r#"{{"error":{{"code":"Forbidden","message":"{canary}","innererror":{{"code":"a {canary}"}}}}}}"#
            ),
        ),
        (
            404,
            "application/json",
            format!(r#"{{"error":{{"code":"{canary} NotFound","message":"{canary}"}}}}"#),
        ),
        (418, "application/json", canary.to_owned()),
        (500, "application/json", canary.to_owned()),
        (401, "application/json", canary.to_owned()),
    ] {
        let script = Script::answering(move |_| {
            reply(status, &body)
                .with("content-type", content_type)
                .with("x-ms-error-code", canary)
                .with("www-authenticate", &format!("Bearer x=\"{canary}\""))
        });
        let error = error_of(script.provider().fetch(&read("kv://shop/secrets/db")).await);
        let said = format!("{error} {error:?} {:?}", error.internal_detail());
        assert!(!said.contains("hunter2") && !said.contains("token-"), "{said}");
    }
}

/// The end of the pipeline: answers with bytes that the test can recognise.
#[derive(Debug)]
struct End(Bytes);

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait is written so, which decides how the lifetime is bound"
)]
#[async_trait]
impl Policy for End {
    async fn send(&self, _: &Context, _: &mut Request, _: &[Arc<dyn Policy>]) -> PolicyResult {
        let mut headers = Headers::new();
        headers.insert(CONTENT_TYPE, "application/json; charset=utf-8");
        Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, headers, self.0.clone()))
    }
}

#[tokio::test(start_paused = true)]
async fn limit_18_the_sdk_never_holds_a_value_and_the_body_is_not_copied_on_its_way() {
    let script = Script::answering(|_| good());
    let vault = script.provider().vault(&VaultHost::parse("shop.vault.azure.net").unwrap()).unwrap();
    let body = Bytes::from(secret_body("db", VERSION, "hunter2").into_bytes());
    let end: Arc<dyn Policy> = Arc::new(End(body.clone()));
    let pocket = Arc::new(Pocket::default());
    let context = Context::new().with_value(Arc::clone(&pocket));
    let mut request = Request::new("https://shop.vault.azure.net/secrets/db".parse().unwrap(), Method::Get);
    request.insert_header(AUTHORIZATION, "Bearer x");
    let gatekeeper = Gatekeeper::new(Arc::clone(&vault.session));
    let answer = gatekeeper.send(&context, &mut request, &[end]).await.unwrap();
    let seen_by_sdk = answer.into_body().collect().await.unwrap();
    assert_eq!(&seen_by_sdk[..], b"{}");
    let pocketed = pocket.take().expect("the body is in the pocket").body;
    assert_eq!(pocketed.as_ptr(), body.as_ptr());
}

#[tokio::test(start_paused = true)]
async fn limit_19_changes_are_told_by_a_listing_since_no_request_can_be_conditional() {
    let line = |name: &str, updated: u64| serde_json::json!({"id": format!("https://shop.vault.azure.net/secrets/{name}"), "attributes": {"enabled": true, "updated": updated}});
    let body = serde_json::json!({"value": [line("still", 5), line("moved", 9)]}).to_string();
    let script = Script::answering(move |_| reply(200, &body));
    let host = VaultHost::parse("shop.vault.azure.net").unwrap();
    let lines = script.provider().list(&host, Collection::Secrets, 100).await.unwrap();
    let updated: Vec<_> = lines.iter().map(|line| line.updated.map(|at| at.as_secs())).collect();
    assert_eq!(updated, [Some(5), Some(9)]);
    assert_eq!(script.log().len(), 2, "one page, one request");
    assert!(script.log().iter().all(|sent| !sent.headers.iter().any(|name| name.starts_with("if-"))));
}
