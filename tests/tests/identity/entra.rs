use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, TokenSource as _};
use keyward_emulator::{Effect, Fault, IDENTITY_BINDING_AUDIENCE, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_identity::{CaSource, IdentitySettings};
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::setup::{SECRET, SUBJECT, VAULT, World};

#[tokio::test]
async fn workload_identity_reads_the_vault() {
    let world = World::new().await;
    world.works(world.workload()).await;
    assert_eq!(world.requests("token.federated"), 1);
}

#[tokio::test]
async fn fifty_readers_cost_one_exchange() {
    let world = World::new().await;
    world
        .emulator
        .faults()
        .set(Fault::on("token.federated", Effect::Latency { millis: 50, jitter_millis: 0 }));
    let tokens = world.tokens(world.workload());
    let mut readers = JoinSet::new();
    for _ in 0..50 {
        let tokens = Arc::clone(&tokens);
        readers.spawn(async move { tokens.token(VAULT).await.is_ok() });
    }
    assert_eq!(readers.join_all().await, vec![true; 50]);
    assert_eq!(world.requests("token.federated"), 1);
}

#[tokio::test]
async fn limit_7_a_token_file_may_come_late_is_trimmed_and_its_absence_names_path_and_variable() {
    let world = World::new().await;
    let path = world.path("late");
    let tokens = world.tokens(world.workload_of(world.federated(TOKEN_EXCHANGE_AUDIENCE), &path));
    let error = tokens.token(VAULT).await.err().unwrap();
    assert_eq!(error.code(), Code::IdentityFile);
    let text = error.to_string();
    assert!(text.contains("AZURE_FEDERATED_TOKEN_FILE") && text.contains(path.to_str().unwrap()), "{text}");
    let token = world.service_account_token("web", TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(3600));
    world.file("late", format!("\n{token}\n"));
    tokens.reload();
    assert_eq!(world.read_with(&tokens.token(VAULT).await.ok().unwrap()).await, 200);
}

#[tokio::test]
async fn a_replaced_token_file_is_sent_with_the_next_exchange_and_the_old_content_never_again() {
    let world = World::new().await;
    let good = world.service_account_token("web", TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(3600));
    let tokens = world
        .tokens(world.workload_of(world.federated(TOKEN_EXCHANGE_AUDIENCE), &world.file("token", &good)));
    let first = tokens.token(VAULT).await.ok().unwrap();
    let other = world.service_account_token("other", TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(3600));
    world.file("token", other);
    tokens.reject(VAULT, &first);
    let error = tokens.token(VAULT).await.err().unwrap();
    assert_eq!(error.code(), Code::TokenRefused, "the new content was sent: {error}");
    world.file("token", good);
    tokens.reload();
    assert!(tokens.token(VAULT).await.is_ok());
}

#[tokio::test]
async fn a_refusal_names_the_number_the_identity_and_what_the_token_says_of_itself() {
    let world = World::new().await;
    let client_id = world.federated(TOKEN_EXCHANGE_AUDIENCE);
    let token = world.service_account_token("intruder", TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(3600));
    let settings = world.workload_of(client_id.clone(), &world.file("token", &token));
    let start = Instant::now();
    let error = world.token(settings).await.err().unwrap();
    let text = error.to_string();
    assert_eq!(error.code(), Code::TokenRefused);
    for part in [
        "AADSTS700213",
        "system:serviceaccount:shop:intruder",
        TOKEN_EXCHANGE_AUDIENCE,
        world.emulator.issuer().url(),
        &client_id,
        world.emulator.tenant_id(),
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(!text.contains("eyJ") && !text.contains("Correlation"), "{text}");
    // Propagation is given 1 + 2 + 4 s, and four tries in all.
    assert!(start.elapsed() >= Duration::from_secs(7));
    assert_eq!(world.requests("token.federated"), 4);
}

#[tokio::test]
async fn a_new_federated_credential_that_is_not_known_everywhere_yet_is_waited_for() {
    let world = World::new().await;
    world.emulator.faults().set(Fault::on("token.federated", Effect::TokenError { code: 700_213 }).times(2));
    world.works(world.workload()).await;
    assert_eq!(world.requests("token.federated"), 3);
}

#[tokio::test]
async fn an_assertion_out_of_its_time_is_read_again_once() {
    let world = World::new().await;
    world.emulator.faults().set(Fault::on("token.federated", Effect::TokenError { code: 700_024 }).times(1));
    world.works(world.workload()).await;
    assert_eq!(world.requests("token.federated"), 2);

    let expired = world.service_account_token("web", TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(3600));
    world.emulator.advance_clock(Duration::from_secs(3600 + 301));
    let settings =
        world.workload_of(world.federated(TOKEN_EXCHANGE_AUDIENCE), &world.file("expired", expired));
    let error = world.token(settings).await.err().unwrap();
    assert!(error.message().contains("AADSTS700024"), "{error}");
    assert_eq!(world.requests("token.federated"), 4);
}

fn binding(world: &World, ca: Option<CaSource>, sni_name: Option<String>) -> IdentitySettings {
    let token = world.service_account_token("web", IDENTITY_BINDING_AUDIENCE, Duration::from_secs(3600));
    IdentitySettings::IdentityBinding {
        client_id: world.federated(IDENTITY_BINDING_AUDIENCE),
        tenant_id: world.emulator.tenant_id().to_owned(),
        token_file: world.file("binding", token),
        proxy_url: world.emulator.token_proxy_url(),
        ca,
        sni_name,
        authority_host: "https://login.microsoftonline.com".to_owned(),
    }
}

#[tokio::test]
async fn identity_binding_posts_to_the_clusters_proxy_by_its_own_ca_and_name() {
    let world = World::new().await;
    let (ca, name) = (world.emulator.token_proxy_ca_pem(), world.emulator.token_proxy_name());
    world.works(binding(&world, Some(CaSource::Data(ca.clone())), Some(name.clone()))).await;
    let file = world.file("ca.pem", ca);
    world.works(binding(&world, Some(CaSource::File(file)), Some(name))).await;
    assert_eq!((world.requests("token.proxy"), world.requests("token.federated")), (2, 0));
}

#[tokio::test]
async fn a_token_proxy_with_another_ca_or_name_is_not_trusted_with_the_token() {
    let world = World::new().await;
    let (ca, name) = (world.emulator.token_proxy_ca_pem(), world.emulator.token_proxy_name());
    let wrong_ca = binding(&world, Some(CaSource::Data(world.emulator.ca_pem())), Some(name.clone()));
    assert_eq!(world.token(wrong_ca).await.err().unwrap().code(), Code::TlsUntrusted);
    let no_ca = binding(&world, None, Some(name));
    assert_eq!(world.token(no_ca).await.err().unwrap().code(), Code::TlsUntrusted);
    let wrong_name = binding(&world, Some(CaSource::Data(ca)), Some("other.test".to_owned()));
    assert!(matches!(world.token(wrong_name).await.err().unwrap().code(), Code::Tls | Code::TlsUntrusted));
    assert_eq!(world.requests("token.*"), 0);
}

#[tokio::test]
async fn a_rotated_ca_of_the_token_proxy_is_noticed_without_a_restart() {
    let world = World::new().await;
    let file = world.file("ca.pem", world.emulator.ca_pem());
    let tokens =
        world.tokens(binding(&world, Some(CaSource::File(file)), Some(world.emulator.token_proxy_name())));
    assert_eq!(tokens.token(VAULT).await.err().unwrap().code(), Code::TlsUntrusted);
    world.file("ca.pem", world.emulator.token_proxy_ca_pem());
    tokens.reload();
    assert!(tokens.token(VAULT).await.is_ok());
}

#[tokio::test]
async fn a_client_secret_reads_the_vault_and_a_wrong_one_fails_at_once_with_its_number() {
    let world = World::new().await;
    let client_id = world.application();
    world.works(world.secret(client_id.clone(), &format!("{SECRET}\n"))).await;
    let before = world.requests("token.client-secret");
    let start = Instant::now();
    let error = world.token(world.secret(client_id, "wrong-secret")).await.err().unwrap();
    assert!(error.code() == Code::TokenRefused && error.message().contains("AADSTS7000215"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1), "no retries");
    assert_eq!(world.requests("token.client-secret"), before + 1);
}

#[tokio::test]
async fn a_rotated_client_secret_is_taken_up_without_a_restart() {
    let world = World::new().await;
    let client_id = world.application();
    let tokens = world.tokens(world.secret(client_id.clone(), SECRET));
    let first = tokens.token(VAULT).await.ok().unwrap();
    world.emulator.identities().replace_client_secret(&client_id, "rotated");
    world.file("secret", "rotated");
    tokens.reload();
    tokens.reject(VAULT, &first);
    assert_eq!(world.read_with(&tokens.token(VAULT).await.ok().unwrap()).await, 200);
}

#[tokio::test]
async fn limit_9_a_certificate_from_pem_or_pfx_reads_the_vault() {
    let world = World::new().await;
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(vec!["app.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let client_id = world.register(Registration::application().certificate(certificate.der()));
    let pem = world.file("app.pem", format!("{}{}", key.serialize_pem(), certificate.pem()));
    let chain = PrivateKeyChain::new(
        vec![1],
        PrivateKey::from_der(&key.serialize_der()).unwrap(),
        [Certificate::from_der(certificate.der()).unwrap()],
    );
    let mut store = KeyStore::new();
    store.add_entry("app", KeyStoreEntry::PrivateKeyChain(chain));
    let pfx = world.file("app.pfx", store.writer("pass").write().unwrap());
    let password = world.file("password", "pass\n");
    for (certificate_file, password_file, send_chain) in [(pem, None, true), (pfx, Some(password), false)] {
        world
            .works(IdentitySettings::ServicePrincipalCertificate {
                client_id: client_id.clone(),
                tenant_id: world.emulator.tenant_id().to_owned(),
                certificate_file,
                password_file,
                authority_host: world.emulator.authority_url(),
                send_chain,
            })
            .await;
    }
    assert_eq!(world.requests("token.client-certificate"), 2);
}

#[tokio::test]
async fn a_token_in_hand_serves_while_every_token_endpoint_is_down() {
    let world = World::new().await;
    let tokens = world.tokens(world.workload());
    assert!(tokens.token(VAULT).await.is_ok());
    world.emulator.faults().set(Fault::token_endpoints_down());
    tokens.reload();
    for _ in 0..10 {
        assert_eq!(world.read_with(&tokens.token(VAULT).await.ok().unwrap()).await, 200);
    }
    assert!(tokens.expires().is_some());
}

#[tokio::test]
async fn what_is_no_token_is_told_apart_and_never_quoted() {
    let world = World::new().await;
    let client_id = world.application();
    for (effect, code) in [
        (Effect::GarbageJson, Code::TokenProtocol),
        (Effect::HugeBody { bytes: 200 << 20 }, Code::ResponseTooLarge),
        (Effect::TruncatedBody { keep: 10 }, Code::TokenProtocol),
        (Effect::Throttle { retry_after: Some("120".to_owned()) }, Code::TokenThrottled),
        (Effect::Status { status: 503, retry_after: None }, Code::TokenUnavailable),
    ] {
        let fault = world.emulator.faults().set(Fault::on("token.*", effect.clone()));
        let error = world.token(world.secret(client_id.clone(), SECRET)).await.err().unwrap();
        assert_eq!(error.code(), code, "{effect:?}: {error}");
        assert!(!error.to_string().contains(SECRET), "{error}");
        world.emulator.faults().clear(fault);
    }
}

#[tokio::test]
async fn sovereign_and_custom_authorities_are_a_matter_of_configuration() {
    let world = World::new().await;
    let IdentitySettings::WorkloadIdentity { client_id, tenant_id, token_file, authority_host } =
        world.workload()
    else {
        panic!("workload identity")
    };
    // With a trailing slash, as the webhook sets it.
    let authority_host = format!("{authority_host}/");
    world
        .works(IdentitySettings::WorkloadIdentity { client_id, tenant_id, token_file, authority_host })
        .await;
    assert!(SUBJECT.starts_with("system:serviceaccount:"));
}
