//! Each fault of a vault, and what a caller is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyward_core::{Code, Collection, Provider, VaultHost};
use keyward_emulator::{Effect, Fault, Permission, Registration};

use crate::rig::{Rig, Tokens, error_of, read};

async fn rig() -> Rig {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    rig
}

fn shop() -> VaultHost {
    VaultHost::parse("shop.vault.azure.net").expect("a host")
}

fn gets(effect: Effect) -> Fault {
    Fault::on("secrets.get", effect)
}

/// A server that counts who comes by.
async fn bystander() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, visits)
}

#[tokio::test]
async fn a_foreign_next_link_gets_neither_the_token_nor_a_connection() {
    let (address, visits) = bystander().await;
    let rig =
        Rig::with(|builder| builder, |egress| egress.resolve.push(("evil.example".to_owned(), address)))
            .await;
    rig.vault().set_secret("db", "x");
    rig.emulator.faults().set(Fault::on(
        "secrets.list",
        Effect::ForeignNextLink { origin: "https://evil.example".to_owned() },
    ));
    let error = error_of(rig.provider.list(&shop(), Collection::Secrets, 100).await);
    assert_eq!(error.code(), Code::OriginRefused);
    assert_eq!(error.object_name(), Some("https://shop.vault.azure.net/secrets"));
    assert_eq!(visits.load(Ordering::SeqCst), 0);
    assert_eq!(rig.emulator.counters().requests("secrets.list"), 1);
}

#[tokio::test]
async fn an_endless_listing_is_given_up_at_the_first_repetition() {
    let rig = rig().await;
    rig.emulator.faults().set(Fault::on("secrets.list", Effect::EndlessNextLink));
    let error = error_of(rig.provider.list(&shop(), Collection::Secrets, 100).await);
    assert_eq!(error.code(), Code::VaultProtocol);
    assert!(rig.emulator.counters().requests("secrets.list") <= 3);
}

#[tokio::test]
async fn empty_pages_do_not_end_a_listing() {
    let rig = rig().await;
    rig.emulator.faults().set(Fault::on("secrets.list", Effect::EmptyPages));
    let lines = rig.provider.list(&shop(), Collection::Secrets, 100).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(lines.len(), 1);
}

#[tokio::test]
async fn a_body_of_200_mib_is_refused_at_once() {
    let rig = rig().await;
    rig.emulator.faults().set(gets(Effect::HugeBody { bytes: 200 * 1024 * 1024 }));
    let error = error_of(rig.provider.fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::ResponseTooLarge);
    assert_eq!(rig.emulator.counters().requests("secrets.get"), 1);
}

#[tokio::test]
async fn nonsense_is_a_failure_and_never_a_definite_no_and_one_piece_of_it_is_overcome() {
    let rig = rig().await;
    for effect in
        [Effect::GarbageJson, Effect::WrongContentType, Effect::TruncatedBody { keep: 16 }, Effect::Reset]
    {
        let fault = rig.emulator.faults().set(gets(effect.clone()));
        let error = error_of(rig.provider.fetch(&read("kv://shop/secrets/db")).await);
        assert!(error.kind().is_transient() && !error.kind().is_definite_no(), "{error}");
        assert!(!error.to_string().contains("hunter2"));
        rig.emulator.faults().clear(fault);
        rig.emulator.faults().set(gets(effect).times(1));
        rig.provider.fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    }
}

#[tokio::test]
async fn one_401_costs_one_fresh_token() {
    let rig = rig().await;
    rig.emulator.faults().set(gets(Effect::Unauthorized).times(1));
    rig.provider.fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rig.tokens.exchanges(), 2);
    assert_eq!(rig.emulator.counters().requests("secrets.get"), 2);
}

#[tokio::test]
async fn a_401_for_good_is_unauthenticated_after_exactly_one_fresh_token() {
    let rig = rig().await;
    rig.emulator.faults().set(gets(Effect::Unauthorized));
    let error = error_of(rig.provider.fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::VaultUnauthenticated);
    assert_eq!((rig.tokens.exchanges(), rig.emulator.counters().requests("secrets.get")), (2, 2));
}

#[tokio::test]
async fn a_token_of_another_tenant_is_explained_by_both_tenants() {
    const THEIRS: &str = "99999999-2222-3333-4444-555555555555";
    let mut rig = rig().await;
    let stranger = rig.emulator.identities().register(Registration::application().tenant(THEIRS));
    rig.vault().assign(&stranger, Permission::READ_ALL);
    rig.tokens = Tokens::of_tenant(&rig.emulator, &stranger, THEIRS);
    let error = error_of(rig.again(|_| {}).fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::VaultUnauthenticated);
    let ours = rig.emulator.tenant_id();
    assert!(error.message().contains(ours) && error.message().contains(THEIRS), "{error}");
}

#[tokio::test]
async fn each_kind_of_403_is_forbidden_and_names_what_to_do() {
    let rig = rig().await;
    for (inner_code, words) in [
        ("ForbiddenByRbac", "Key Vault Secrets User"),
        ("ForbiddenByPolicy", "access policies"),
        ("AccessDenied", "access policies"),
        ("ForbiddenByFirewall", "firewall"),
        ("ForbiddenByConnection", "private endpoint"),
    ] {
        let before = rig.emulator.counters().requests("secrets.get");
        let effect = Effect::Forbidden { inner_code: inner_code.to_owned() };
        let fault = rig.emulator.faults().set(gets(effect));
        let error = error_of(rig.provider.fetch(&read("kv://shop/secrets/db")).await);
        rig.emulator.faults().clear(fault);
        assert_eq!(error.code(), Code::VaultForbidden);
        assert!(error.message().contains(words) && error.message().contains(inner_code), "{error}");
        assert_eq!(
            rig.emulator.counters().requests("secrets.get"),
            before + 1,
            "a definite no is not tried again"
        );
    }
}

#[tokio::test]
async fn throttling_with_and_without_retry_after_is_waited_out() {
    for retry_after in [None, Some("1".to_owned())] {
        let rig = rig().await;
        rig.emulator.faults().set(gets(Effect::Throttle { retry_after }).times(1));
        rig.provider.fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rig.emulator.counters().with_status("secrets.get", 429), 1);
        assert_eq!(rig.emulator.counters().with_status("secrets.get", 200), 1);
    }
}

#[tokio::test]
async fn lasting_failures_end_with_their_own_codes() {
    let rig = rig().await;
    let provider = rig.again(|settings| settings.retry = keyward_core::backoff::RetryPolicy::NONE);
    for (effect, code) in [
        (Effect::Throttle { retry_after: None }, Code::VaultThrottled),
        (Effect::Status { status: 500, retry_after: None }, Code::VaultUnavailable),
        (Effect::Status { status: 503, retry_after: None }, Code::VaultUnavailable),
        (Effect::Status { status: 408, retry_after: None }, Code::VaultUnavailable),
    ] {
        let fault = rig.emulator.faults().set(gets(effect));
        assert_eq!(error_of(provider.fetch(&read("kv://shop/secrets/db")).await).code(), code);
        rig.emulator.faults().clear(fault);
    }
}

#[tokio::test]
async fn a_disabled_current_version_is_one_request_and_a_definite_no() {
    let rig = rig().await;
    rig.vault().set_secret("db", "two");
    rig.vault().disable_secret("db");
    let error = error_of(rig.provider.fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::ObjectDisabled);
    assert!(error.message().contains("SecretDisabled"), "{error}");
    assert_eq!(rig.emulator.counters().requests("secrets.get"), 1);
}

#[tokio::test]
async fn an_untrusted_vault_is_told_by_name_and_asked_once() {
    let rig = Rig::with(|builder| builder, |egress| egress.extra_roots_pem = None).await;
    let error = error_of(rig.provider.fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::TlsUntrusted);
    assert_eq!(rig.emulator.counters().connections().accepted, 1);
}
