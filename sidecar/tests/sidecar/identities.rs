//! Every way to prove who the pod is, from the first byte to the file.

use std::time::Duration;

use keyward_emulator::{IDENTITY_BINDING_AUDIENCE, Permission, Registration};
use rcgen::{CertificateParams, KeyPair};

use crate::process::Sidecar;
use crate::rig::{Rig, SUBJECT};

/// A vault that only `registration` may read.
async fn rig_for(registration: Registration) -> (Rig, String) {
    let rig = Rig::start().await;
    rig.vault().revoke(&rig.identity);
    rig.vault().set_secret("db", "hunter2");
    let identity = rig.emulator.identities().register(registration);
    rig.vault().assign(&identity, [Permission::SECRETS_GET]);
    (rig, identity.client_id)
}

async fn delivers(rig: &Rig, identity: &str, variables: &[(&str, String)], operation: &str) {
    let config = rig.config_as(identity, "- kv://shop/secrets/db");
    let sidecar: Sidecar = rig.launch_with(&config, &[], variables);
    sidecar.ready().await;
    assert_eq!(rig.text("db"), "hunter2");
    assert_eq!(sidecar.client().await.text("db").await, "hunter2");
    assert_eq!(rig.served(operation), 1, "one exchange of {operation}");
    assert_eq!(rig.emulator.counters().requests("token.*"), 1);
    assert!(sidecar.stop().await.success());
}

#[tokio::test]
async fn workload_identity_finds_everything_in_the_variables_of_the_webhook() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "hunter2");
    let variables = [
        ("AZURE_CLIENT_ID", rig.identity.client_id.clone()),
        ("AZURE_TENANT_ID", rig.emulator.tenant_id().to_owned()),
        ("AZURE_FEDERATED_TOKEN_FILE", rig.path("token").display().to_string()),
        ("AZURE_AUTHORITY_HOST", format!("{}/", rig.emulator.authority_url())),
    ];
    delivers(&rig, "{}", &variables, "token.federated").await;
}

#[tokio::test]
async fn identity_binding_posts_the_token_to_the_clusters_proxy() {
    let issuer = "https://oidc.cluster.test/";
    let (rig, client) = rig_for(Registration::user_assigned("/subscriptions/s/web").federated(
        issuer,
        SUBJECT,
        IDENTITY_BINDING_AUDIENCE,
    ))
    .await;
    rig.write("token", rig.token(IDENTITY_BINDING_AUDIENCE, Duration::from_secs(3600)));
    let ca = rig.write("proxy-ca.pem", rig.emulator.token_proxy_ca_pem());
    let variables = [
        ("AZURE_CLIENT_ID", client),
        ("AZURE_TENANT_ID", rig.emulator.tenant_id().to_owned()),
        ("AZURE_FEDERATED_TOKEN_FILE", rig.path("token").display().to_string()),
        ("AZURE_KUBERNETES_TOKEN_PROXY", rig.emulator.token_proxy_url()),
        ("AZURE_KUBERNETES_SNI_NAME", rig.emulator.token_proxy_name()),
        ("AZURE_KUBERNETES_CA_FILE", ca.display().to_string()),
    ];
    delivers(&rig, "{method: workload-identity}", &variables, "token.proxy").await;
}

#[tokio::test]
async fn managed_identity_of_the_machine_by_client_id() {
    let (rig, client) = rig_for(Registration::user_assigned("/subscriptions/s/web")).await;
    let imds = rig.emulator.imds_url();
    let identity = format!("{{method: managed-identity, clientId: {client}, metadataEndpoint: '{imds}'}}");
    delivers(&rig, &identity, &[], "token.imds").await;
}

#[tokio::test]
async fn managed_identity_of_the_machine_itself() {
    let (rig, _) = rig_for(Registration::system_assigned()).await;
    let imds = rig.emulator.imds_url();
    delivers(&rig, &format!("{{method: managed-identity, metadataEndpoint: '{imds}'}}"), &[], "token.imds")
        .await;
}

#[tokio::test]
async fn managed_identity_of_app_service() {
    let (rig, client) = rig_for(Registration::user_assigned("/subscriptions/s/web")).await;
    let variables = [
        ("IDENTITY_ENDPOINT", rig.emulator.app_service_url()),
        ("IDENTITY_HEADER", rig.emulator.app_service_secret().to_owned()),
    ];
    let identity = format!("{{method: managed-identity, clientId: {client}}}");
    delivers(&rig, &identity, &variables, "token.app-service").await;
}

#[tokio::test]
async fn a_service_principal_with_a_secret() {
    let (rig, client) = rig_for(Registration::application().client_secret("s3cret of the app")).await;
    let file = rig.write("client-secret", "s3cret of the app\n");
    let identity = principal(&rig, &client, &format!("secretFile: {}", file.display()));
    delivers(&rig, &identity, &[], "token.client-secret").await;
}

#[tokio::test]
async fn a_service_principal_with_a_certificate() {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(["app.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (rig, client) = rig_for(Registration::application().certificate(certificate.der())).await;
    let file = rig.write("client.pem", format!("{}{}", key.serialize_pem(), certificate.pem()));
    let identity = principal(&rig, &client, &format!("certificateFile: {}", file.display()));
    delivers(&rig, &identity, &[], "token.client-certificate").await;
}

fn principal(rig: &Rig, client: &str, proof: &str) -> String {
    format!(
        "{{method: service-principal, clientId: {client}, tenantId: {}, {proof}, authorityHost: '{}'}}",
        rig.emulator.tenant_id(),
        rig.emulator.authority_url(),
    )
}
