//! Every way in which a pod's identity can be proved.

use keyward_emulator::{IDENTITY_BINDING_AUDIENCE, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_test_support::kubelet::{Context, Pod};
use keyward_test_support::node::{DRIVER, Node};
use serde_json::json;
use tonic::Code;

use crate::BINARY;
use crate::class::{entry, of_class, put_class};
use crate::hands::{assert_refused, secret};

/// A token of the cluster for any audience.
fn token(node: &Node, pod: &Pod, audience: &str) -> Context {
    let now = node.emulator.now();
    let claims = json!({
        "iss": node.emulator.issuer().url(),
        "sub": format!("system:serviceaccount:{}:{}", pod.namespace, pod.service_account),
        "aud": [audience],
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "jti": pod.uid,
        "kubernetes.io": {
            "namespace": pod.namespace,
            "serviceaccount": {"name": pod.service_account, "uid": "sa-uid"},
            "pod": {"name": pod.name, "uid": pod.uid},
        },
    });
    Context {
        tokens: vec![(audience.to_owned(), node.emulator.issuer().mint(&claims))],
        tokens_in_secrets: true,
        ..Context::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workload_identity_comes_from_attributes_from_the_class_or_from_the_service_account() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    node.api.put_account(
        "shop",
        "web",
        &[
            ("azure.workload.identity/client-id", &node.identity.client_id),
            ("azure.workload.identity/tenant-id", node.emulator.tenant_id()),
        ],
    );
    node.api.put_account("shop", "bare", &[]);
    let driver = node.drive().await;
    let objects = json!([secret("a")]).to_string();
    let by_account = node.pod("account-0").volume(DRIVER, &[("objects", &objects)]);
    node.publish(&by_account).await.unwrap();
    assert_eq!(node.read(&by_account, "a").unwrap(), b"1");
    put_class(&node, "account", &[&entry("a")], &[("clientID", "")]);
    let class_by_account = of_class(&node, "account-1", "account");
    node.publish(&class_by_account).await.unwrap();
    // Both spellings of the tenant.
    put_class(&node, "spelled", &[&entry("a")], &[("tenantId", ""), ("tenantID", node.emulator.tenant_id())]);
    let spelled = of_class(&node, "spelled-0", "spelled");
    node.publish(&spelled).await.unwrap();
    assert_eq!(node.read(&spelled, "a").unwrap(), b"1");

    let mut bare = node.pod("bare-0");
    bare.service_account = "bare".to_owned();
    let unnamed = bare.volume(DRIVER, &[("objects", &objects)]);
    let text = assert_refused(node.publish(&unnamed).await, Code::InvalidArgument, "KW_IDENTITY_MISSING");
    assert!(text.contains("azure.workload.identity/"), "the next step is named: {text}");
    // Without a token: which audience to add, and where.
    let untold = node.volume("untold-0", &["a"]);
    let answer = node.kubelet.publish(&untold, &Context::default()).await;
    let text = answer.unwrap_err().message().to_owned();
    assert!(text.contains("KW_TOKEN_MISSING") && text.contains(TOKEN_EXCHANGE_AUDIENCE), "{text}");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_binding_posts_the_pods_token_to_the_clusters_proxy() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let bound = node.emulator.identities().register(Registration::application().federated(
        node.emulator.issuer().url(),
        "system:serviceaccount:shop:web",
        IDENTITY_BINDING_AUDIENCE,
    ));
    node.vault().assign(&bound, Permission::READ_ALL);
    std::fs::write(node.etc().join("proxy.pem"), node.emulator.token_proxy_ca_pem()).unwrap();
    node.configure(&format!(
        "identityBinding: {{proxy: '{}', caFile: {}, sni: {}}}\n",
        node.emulator.token_proxy_url(),
        node.etc().join("proxy.pem").display(),
        node.emulator.token_proxy_name(),
    ));
    node.api.put_usual_driver(DRIVER, &[TOKEN_EXCHANGE_AUDIENCE, IDENTITY_BINDING_AUDIENCE]);
    let driver = node.drive().await;
    put_class(
        &node,
        "bound",
        &[&entry("a")],
        &[("useAzureTokenProxy", "true"), ("clientID", &bound.client_id)],
    );
    let volume = of_class(&node, "bound-0", "bound");
    let context = token(&node, &volume.pod, IDENTITY_BINDING_AUDIENCE);
    node.kubelet.publish(&volume, &context).await.unwrap();
    assert_eq!(node.read(&volume, "a").unwrap(), b"1");
    assert!(node.emulator.counters().requests("token.proxy") > 0);
    assert_eq!(node.emulator.counters().requests("token.federated"), 0);
    node.vault().rotate_secret("a", "2");
    node.until_file(&volume, "a", b"2").await;
    // The other audience's token is not sent there.
    let other = of_class(&node, "bound-1", "bound");
    let answer = node.publish(&other).await.unwrap_err();
    assert!(
        answer.message().contains("KW_TOKEN_MISSING") && answer.message().contains(IDENTITY_BINDING_AUDIENCE),
        "{answer:?}"
    );
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_of_the_node_serves_only_whom_the_administrator_listed() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let managed = node.emulator.identities().register(Registration::user_assigned(
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop",
    ));
    node.vault().assign(&managed, Permission::READ_ALL);
    node.configure(&format!(
        "metadataEndpoint: '{}'\nnodeIdentity: [{{namespace: shop, serviceAccount: web, clientId: {}, vaults: [shop.vault.azure.net]}}]\n",
        node.emulator.imds_url(),
        managed.client_id,
    ));
    let driver = node.drive().await;
    let managed_by = |id: &str| {
        [
            ("useVMManagedIdentity", "true".to_owned()),
            ("userAssignedIdentityID", id.to_owned()),
            ("clientID", String::new()),
        ]
    };
    let put = |name: &str, id: &str| {
        let more = managed_by(id);
        let more: Vec<_> = more.iter().map(|(key, value)| (*key, value.as_str())).collect();
        put_class(&node, name, &[&entry("a")], &more);
    };
    put("listed", &managed.client_id);
    let listed = of_class(&node, "listed-0", "listed");
    // No token is needed: the node's identity proves itself.
    node.kubelet.publish(&listed, &Context { tokens_in_secrets: true, ..Context::default() }).await.unwrap();
    assert_eq!(node.read(&listed, "a").unwrap(), b"1");
    assert!(node.emulator.counters().requests("token.imds") > 0);

    let mut other = node.pod("other-0");
    other.service_account = "other".to_owned();
    let unlisted = other.volume(DRIVER, &[("secretProviderClass", "listed")]);
    let text =
        assert_refused(node.publish(&unlisted).await, Code::PermissionDenied, "KW_NODE_IDENTITY_REFUSED");
    assert!(text.contains("nodeIdentity"), "{text}");
    put("system", "");
    let system = of_class(&node, "system-0", "system");
    assert_refused(node.publish(&system).await, Code::PermissionDenied, "KW_NODE_IDENTITY_REFUSED");
    node.vault().rotate_secret("a", "2");
    node.until_file(&listed, "a", b"2").await;
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_principal_comes_with_node_publish_secret_ref_and_a_wrong_secret_gets_nothing() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let principal =
        node.emulator.identities().register(Registration::application().client_secret("correct horse"));
    node.vault().assign(&principal, Permission::READ_ALL);
    put_class(&node, "principal", &[&entry("a")], &[("clientID", "")]);
    let driver = node.drive().await;
    let with = |pod: &str, secret: &str| {
        let mut volume = of_class(&node, pod, "principal");
        volume.secrets.insert("clientid".to_owned(), principal.client_id.clone());
        volume.secrets.insert("clientsecret".to_owned(), secret.to_owned());
        volume
    };
    let context = Context { tokens_in_secrets: true, ..Context::default() };
    let volume = with("web-0", "correct horse");
    node.kubelet.publish(&volume, &context).await.unwrap();
    assert_eq!(node.read(&volume, "a").unwrap(), b"1");
    // Under the warm cache of the first.
    let wrong = with("web-1", "battery staple");
    let answer = node.kubelet.publish(&wrong, &context).await;
    let text = assert_refused(answer, Code::Unauthenticated, "KW_TOKEN_REFUSED");
    assert!(!text.contains("battery staple") && !driver.log().contains("battery staple"));
    let mut half = of_class(&node, "web-2", "principal");
    half.secrets.insert("clientid".to_owned(), principal.client_id.clone());
    let answer = node.kubelet.publish(&half, &context).await;
    let text = assert_refused(answer, Code::InvalidArgument, "KW_IDENTITY_MISSING");
    assert!(text.contains("clientsecret"), "{text}");
    node.vault().rotate_secret("a", "2");
    node.until_file(&volume, "a", b"2").await;
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_class_can_no_longer_ask_for_is_refused_with_advice() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    put_class(&node, "pod-identity", &[&entry("a")], &[("usePodIdentity", "true")]);
    put_class(&node, "proxy", &[&entry("a")], &[("useAzureTokenProxy", "true")]);
    node.api.put_class("shop", "gcp", "gcp", &[("objects", "array: []")]);
    let driver = node.drive().await;
    for (class, advice) in [("pod-identity", "orkload"), ("proxy", "identityBinding.proxy"), ("gcp", "azure")]
    {
        let answer = node.publish(&of_class(&node, class, class)).await;
        let text = assert_refused(answer, Code::InvalidArgument, "KW_");
        assert!(text.contains(advice), "{text}");
    }
    assert_eq!(node.emulator.counters().requests("*"), 0, "nobody was asked");
    assert!(node.kubelet.mounts().is_empty());
    drop(driver);
}
