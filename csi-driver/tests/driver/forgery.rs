//! Promise 7: each pod reads with its own identity. Every attempt is made while the victim's values are cached.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::join_all;
use keyward_emulator::{Emulator, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_proto::csi::v1::ProbeRequest;
use keyward_test_support::kubelet::{Context, Pod, PodVolume};
use keyward_test_support::node::{DRIVER, Driver, Node, PATIENCE, VAULT};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::BINARY;
use crate::hands::until;

/// A value that nobody but the victim may see.
const CROWN: &str = "canary-crown-jewel";
/// Nothing is read again by itself: whatever is read is somebody's doing.
const QUIET: &str = "rotation: {interval: 1h}\n";

/// A node on which a pod of `shop/web` holds `crown`.
struct Warm {
    node: Node,
    driver: Driver,
    victim: PodVolume,
    requests: u64,
}

impl Warm {
    async fn start() -> Option<Self> {
        let node = Node::start(BINARY).await?;
        node.configure(QUIET);
        node.vault().set_secret("crown", CROWN);
        let driver = node.drive().await;
        let victim = node.volume("web-0", &["crown"]);
        node.publish(&victim).await.unwrap();
        let requests = node.emulator.counters().requests("vault.*");
        Some(Self { node, driver, victim, requests })
    }

    /// A pod of the attacker's own service account that asks for the victim's object as the victim's identity.
    fn attacker(&self, name: &str) -> PodVolume {
        let pod = Pod::new("shop", name, "evil");
        self.node.volume_of(&pod, &json!([format!("https://{VAULT}/secrets/crown")]).to_string(), &[])
    }

    async fn attempt(&self, volume: &PodVolume, context: &Context) -> Result<(), Status> {
        self.node.kubelet.publish(volume, context).await
    }

    /// Nothing was delivered to anybody but the victim, and no vault was asked.
    fn nothing_came_of_it(&self) {
        assert_eq!(self.node.kubelet.mounts(), [self.node.kubelet.target(&self.victim)]);
        assert_eq!(self.node.read(&self.victim, "crown").unwrap(), CROWN.as_bytes());
        assert_eq!(self.node.emulator.counters().requests("vault.*"), self.requests, "a vault was asked");
        assert!(!self.driver.log().contains(CROWN));
    }
}

/// Final for kubelet, and named by a stable code.
#[track_caller]
fn refused(answer: Result<(), Status>, reason: &str) -> String {
    let status = answer.expect_err("this must not be published");
    assert!(status.message().contains(reason), "{reason} is not in: {}", status.message());
    let passing = [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded, Code::Internal, Code::Unknown];
    assert!(!passing.contains(&status.code()), "{status:?}");
    status.message().to_owned()
}

/// The claims of a token that the API server would give to `pod`.
fn claims(node: &Node, pod: &Pod) -> Value {
    let token = node.token(pod);
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(claims))
}

fn presenting(token: String) -> Context {
    Context {
        tokens: vec![(TOKEN_EXCHANGE_AUDIENCE.to_owned(), token)],
        tokens_in_secrets: true,
        ..Context::default()
    }
}

/// What a kubelet that lies about a pod would say.
fn saying(context: Context, names: &[(&str, &str)]) -> Context {
    let overrides =
        names.iter().map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), (*value).to_owned()));
    Context { overrides: overrides.collect(), ..context }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forged_foreign_or_stolen_token_gets_what_the_victim_has_cached() {
    let Some(warm) = Warm::start().await else { return };
    let node = &warm.node;
    let elsewhere = Emulator::builder().issuer_url("https://issuer.evil.example/").build();
    let web = |name: &str| Pod { service_account: "web".to_owned(), ..warm.attacker(name).pod };
    let as_web = |context: Context| saying(context, &[("serviceAccount.name", "web")]);
    let mut foreign = claims(node, &web("foreign"));
    foreign["iss"] = json!("https://issuer.evil.example/");
    let mut crafted = claims(node, &web("crafted"));
    crafted["kubernetes.io"] = Value::Null;
    let own = |name: &str| node.token(&warm.attacker(name).pod);
    let wrong_audience = Context {
        tokens: vec![("https://kubernetes.default.svc".to_owned(), own("audience"))],
        ..presenting(String::new())
    };
    let cases: Vec<(&str, Context, &str)> = vec![
        // The names are kubelet's: the token must be of the pod's own service account.
        ("unsigned", presenting(unsigned(&claims(node, &web("unsigned")))), "KW_CLAIMS_MISMATCH"),
        ("stolen", presenting(node.token(&warm.victim.pod)), "KW_CLAIMS_MISMATCH"),
        // Were the names a lie as well, only Entra's verdict on the very token counts.
        ("unsigned-as", as_web(presenting(unsigned(&claims(node, &web("unsigned-as"))))), "KW_TOKEN_REFUSED"),
        ("foreign", as_web(presenting(elsewhere.issuer().mint(&foreign))), "KW_TOKEN_REFUSED"),
        (
            "foreign-key",
            as_web(presenting(elsewhere.issuer().mint(&claims(node, &web("foreign-key"))))),
            "KW_TOKEN_REFUSED",
        ),
        ("crafted", as_web(presenting(node.emulator.issuer().mint(&crafted))), "KW_CLAIMS_MISMATCH"),
        // A genuine token, and another's client id: Entra knows no federated credential for it.
        ("own", presenting(own("own")), "KW_TOKEN_REFUSED"),
        ("own-as", as_web(presenting(own("own-as"))), "KW_CLAIMS_MISMATCH"),
        ("audience", wrong_audience, "KW_TOKEN_MISSING"),
        ("none", Context::default(), "KW_TOKEN_MISSING"),
        ("no-token", presenting("not a token".to_owned()), "KW_IDENTITY_FILE"),
    ];
    let attempts = cases.iter().map(|(name, context, reason)| {
        let warm = &warm;
        async move {
            let answer = warm.attempt(&warm.attacker(name), context).await;
            refused(answer, reason);
        }
    });
    let expired = presenting(node.token_for(&warm.attacker("expired").pod, Duration::ZERO));
    let awaited = async {
        // Kubelet is about to pass a fresh one: this is not final.
        let status = warm.attempt(&warm.attacker("expired"), &expired).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("KW_TOKEN_AWAITED"), "{}", status.message());
    };
    tokio::join!(join_all(attempts), awaited);
    warm.nothing_came_of_it();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_the_volume_context_that_differ_from_the_tokens_claims_are_refused() {
    let Some(warm) = Warm::start().await else { return };
    let node = &warm.node;
    for (key, value) in [("pod.name", "web-0"), ("pod.namespace", "bank"), ("serviceAccount.name", "default")]
    {
        let volume = node.volume("web-1", &["crown"]);
        let context = saying(node.context(&volume.pod), &[(key, value)]);
        refused(warm.attempt(&volume, &context).await, "KW_CLAIMS_MISMATCH");
    }
    // The uid stands in the target path too, and kubelet makes both.
    let volume = node.volume("web-1", &["crown"]);
    let context = saying(node.context(&volume.pod), &[("pod.uid", &warm.victim.pod.uid)]);
    refused(warm.attempt(&volume, &context).await, "KW_REQUEST_INVALID");
    warm.nothing_came_of_it();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_read_only_from_where_the_csi_driver_object_says_that_kubelet_puts_it() {
    let Some(warm) = Warm::start().await else { return };
    let node = &warm.node;
    let volume = node.volume("web-1", &["crown"]);
    // A pod's author can write anything into the volume's attributes, a genuine token of another pod included.
    let misplaced = Context { tokens_in_secrets: false, ..node.context(&volume.pod) };
    refused(warm.attempt(&volume, &misplaced).await, "KW_TOKEN_MISSING");
    node.api.put_driver(
        DRIVER,
        json!({"podInfoOnMount": true, "tokenRequests": [{"audience": TOKEN_EXCHANGE_AUDIENCE}], "volumeLifecycleModes": ["Ephemeral"]}),
    );
    // Only the object's change makes it right; then the secrets are the wrong place.
    let end = tokio::time::Instant::now() + PATIENCE;
    while warm.attempt(&volume, &misplaced).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "the change was not seen:\n{}", warm.driver.log());
    }
    let another = node.volume("web-2", &["crown"]);
    let in_secrets = node.context(&another.pod);
    refused(warm.attempt(&another, &in_secrets).await, "KW_TOKEN_MISSING");
    assert!(node.read(&another, "crown").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_client_secret_proves_nothing_however_warm_the_principal_is() {
    let Some(warm) = Warm::start().await else { return };
    let node = &warm.node;
    let register = |secret: &str| {
        let principal =
            node.emulator.identities().register(Registration::application().client_secret(secret));
        node.vault().assign(&principal, keyward_emulator::Permission::READ_ALL);
        principal.client_id
    };
    let (warm_id, other_id) = (register("right-secret"), register("other-secret"));
    let volume = |name: &str, id: &str, secret: &str| {
        let objects = json!([format!("https://{VAULT}/secrets/crown")]).to_string();
        let attributes = [("objects", objects.as_str()), ("tenantID", node.emulator.tenant_id())];
        let mut volume = Pod::new("shop", name, "legacy").volume(DRIVER, &attributes);
        volume.secrets = [("clientid", id), ("clientsecret", secret)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        volume
    };
    let served = volume("legacy-0", &warm_id, "right-secret");
    node.kubelet.publish(&served, &Context::default()).await.unwrap();
    assert_eq!(node.read(&served, "crown").unwrap(), CROWN.as_bytes());
    let reads = node.emulator.counters().with_status("vault.*", 200);
    let attempts = [
        ("wrong", warm_id.as_str(), "wrong-secret"),
        ("cut", &warm_id, "right-secre"),
        ("longer", &warm_id, "right-secret "),
        ("others", &warm_id, "other-secret"),
        ("swapped", &other_id, "right-secret"),
        ("unknown", "00000000-0000-0000-0000-000000000000", "right-secret"),
    ];
    let attempts = attempts.map(|(name, id, secret)| {
        let volume = volume(name, id, secret);
        async move {
            let answer = node.kubelet.publish(&volume, &Context::default()).await;
            let message = refused(answer, "KW_TOKEN_REFUSED");
            assert!(!message.contains(secret.trim()), "{message}");
            assert!(node.read(&volume, "crown").is_none());
        }
    });
    join_all(attempts).await;
    // Nor is the principal's name enough for a pod that brings a token of its own.
    let objects = json!([format!("https://{VAULT}/secrets/crown")]).to_string();
    let attributes =
        [("objects", objects.as_str()), ("tenantID", node.emulator.tenant_id()), ("clientID", &warm_id)];
    let named = Pod::new("shop", "named", "web").volume(DRIVER, &attributes);
    refused(node.publish(&named).await, "KW_TOKEN_REFUSED");
    assert_eq!(node.emulator.counters().with_status("vault.*", 200), reads, "a vault was read");
    // The right secret still proves, with an exchange of its own and not one read.
    let again = volume("legacy-1", &warm_id, "right-secret");
    node.kubelet.publish(&again, &Context::default()).await.unwrap();
    assert_eq!(node.emulator.counters().with_status("vault.*", 200), reads);
}

async fn ready(node: &Node) -> Option<bool> {
    let mut client = node.kubelet.identity(DRIVER).await.ok()?;
    client.probe(ProbeRequest {}).await.ok()?.into_inner().ready
}

async fn until_ready(node: &Node, driver: &Driver, wanted: bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while ready(node).await != Some(wanted) {
        assert!(tokio::time::Instant::now() < end, "ready is not {wanted}:\n{}", driver.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_pod_info_or_token_requests_the_driver_is_not_ready_until_the_object_is_mended() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    node.vault().set_secret("crown", CROWN);
    let requests = json!([{"audience": TOKEN_EXCHANGE_AUDIENCE}]);
    let lacking = [
        ("podInfoOnMount", json!({"tokenRequests": requests, "serviceAccountTokenInSecrets": true})),
        (
            "podInfoOnMount",
            json!({"podInfoOnMount": false, "tokenRequests": requests, "serviceAccountTokenInSecrets": true}),
        ),
        ("tokenRequests", json!({"podInfoOnMount": true, "serviceAccountTokenInSecrets": true})),
        (
            "tokenRequests",
            json!({"podInfoOnMount": true, "tokenRequests": [], "serviceAccountTokenInSecrets": true}),
        ),
    ];
    node.api.put_driver(DRIVER, lacking[0].1.clone());
    let driver = node.spawn();
    assert!(node.kubelet.register(DRIVER, PATIENCE).await.is_some(), "it is registered all the same");
    until_ready(&node, &driver, false).await;
    let first = node.volume("web-0", &["crown"]);
    refused(node.publish(&first).await, "KW_CSI_DRIVER_OBJECT");
    assert_eq!(node.emulator.counters().requests("*"), 0, "nobody is asked for anything");
    node.api.put_usual_driver(DRIVER, &[TOKEN_EXCHANGE_AUDIENCE]);
    until_ready(&node, &driver, true).await;
    node.publish(&first).await.unwrap();
    // While it serves: who is served stays so, and nobody new is.
    for (index, (field, spec)) in lacking.into_iter().enumerate() {
        node.api.put_driver(DRIVER, spec);
        until_ready(&node, &driver, false).await;
        let volume = node.volume(&format!("web-{}", index + 1), &["crown"]);
        let message = refused(node.publish(&volume).await, "KW_CSI_DRIVER_OBJECT");
        assert!(message.contains(field), "{message}");
        node.publish(&first).await.unwrap();
        assert_eq!(node.read(&first, "crown").unwrap(), CROWN.as_bytes());
        node.api.put_usual_driver(DRIVER, &[TOKEN_EXCHANGE_AUDIENCE]);
        until_ready(&node, &driver, true).await;
    }
    node.api.delete(keyward_test_support::fake_api::DRIVERS, "", DRIVER);
    until_ready(&node, &driver, false).await;
    let volume = node.volume("web-9", &["crown"]);
    refused(node.publish(&volume).await, "KW_CSI_DRIVER_OBJECT");
    assert_eq!(node.kubelet.mounts().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_revocation_a_running_pod_keeps_its_files_gets_nothing_new_and_no_new_pod_joins() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("crown", "before");
    let trusting = |accounts: &[&str]| {
        let known = Registration::application()
            .client_id(&node.identity.client_id)
            .object_id(&node.identity.object_id)
            .tenant(&node.identity.tenant_id);
        let all = accounts.iter().fold(known, |registration, account| {
            let subject = format!("system:serviceaccount:shop:{account}");
            registration.federated(node.emulator.issuer().url(), &subject, TOKEN_EXCHANGE_AUDIENCE)
        });
        node.emulator.identities().register(all);
    };
    trusting(&["web", "batch"]);
    let mut driver = node.drive().await;
    let objects = json!([format!("https://{VAULT}/secrets/crown")]).to_string();
    let revoked = node.volume("web-0", &["crown"]);
    let trusted = node.volume_of(&Pod::new("shop", "batch-0", "batch"), &objects, &[]);
    node.publish(&revoked).await.unwrap();
    node.publish(&trusted).await.unwrap();
    trusting(&["batch"]);
    // A new pod makes its own proof: it is refused at once, whatever others have proved and cached.
    let joining = node.volume("web-1", &["crown"]);
    refused(node.publish(&joining).await, "KW_TOKEN_REFUSED");
    // A proof that was made holds for ten minutes; a restart forgets every proof, and so need not be waited for.
    let mounter = driver.mounter();
    driver.kill(mounter).await;
    let driver = node.drive().await;
    node.publish(&revoked).await.unwrap();
    node.publish(&trusted).await.unwrap();
    node.vault().rotate_secret("crown", "after");
    node.until_file(&trusted, "crown", b"after").await;
    // The value is on the node and current for another pod of the identity; the refusal of this one comes in its time.
    until("the refusal is told", || {
        node.api.events().iter().any(|event| {
            event["regarding"]["uid"] == revoked.pod.uid
                && event["note"].as_str().is_some_and(|note| note.contains("KW_TOKEN_REFUSED"))
        })
    })
    .await;
    assert_eq!(node.read(&revoked, "crown").unwrap(), b"before", "{}", driver.log());
    node.publish(&revoked).await.unwrap();
    // Trusted again, it goes on by itself.
    trusting(&["web", "batch"]);
    node.until_file(&revoked, "crown", b"after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_edited_to_anothers_identity_while_the_driver_was_away_shows_nothing_of_that_identity() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    node.vault().set_secret("crown", CROWN);
    node.vault().set_secret("bread", "mine");
    let evil = node.emulator.identities().register(Registration::application().federated(
        node.emulator.issuer().url(),
        "system:serviceaccount:shop:evil",
        TOKEN_EXCHANGE_AUDIENCE,
    ));
    node.vault().assign(&evil, keyward_emulator::Permission::READ_ALL);
    let class = |client_id: &str, secret: &str| {
        let objects =
            format!("array:\n- |\n  objectName: {secret}\n  objectType: secret\n  objectAlias: bread\n");
        node.api.put_class(
            "shop",
            "evil",
            "azure",
            &[
                ("keyvaultName", "shop"),
                ("tenantId", node.emulator.tenant_id()),
                ("clientID", client_id),
                ("objects", &objects),
            ],
        );
    };
    class(&evil.client_id, "bread");
    let mut driver = node.drive().await;
    let victim = node.volume("web-0", &["crown"]);
    node.publish(&victim).await.unwrap();
    let attacker = Pod::new("shop", "evil-0", "evil")
        .volume(DRIVER, &[("secretProviderClass", "evil"), ("grpc", "true")]);
    node.publish(&attacker).await.unwrap();
    // The worst case: the edit comes while nobody looks, and what was remembered of the volume is lost.
    let mounter = driver.mounter();
    driver.kill(mounter).await;
    class(&node.identity.client_id, "crown");
    std::fs::write(node.kubelet.dir().join("state/volumes").join(attacker.id()), "lost").unwrap();
    let driver = node.drive().await;
    node.publish(&victim).await.unwrap();
    // The volume is mounted, so a republish succeeds; and it is all that it does.
    node.publish(&attacker).await.unwrap();
    assert_eq!(node.read(&attacker, "bread").unwrap(), b"mine", "{}", driver.log());
    let directory = std::fs::File::open(node.kubelet.target(&attacker)).unwrap();
    let socket = format!("/proc/self/fd/{}/keyward.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
    if let Ok(client) = crate::application::Client::connect(socket.into()).await {
        let answer = client.get("bread").await;
        assert!(answer.is_err_and(|status| !status.message().contains(CROWN)), "{}", driver.log());
    }
    // With its own identity in the class again it is served again.
    class(&evil.client_id, "bread");
    node.vault().rotate_secret("bread", "fresh");
    let end = tokio::time::Instant::now() + PATIENCE;
    while node.read(&attacker, "bread").unwrap() != b"fresh" {
        assert!(tokio::time::Instant::now() < end, "{}", driver.log());
        node.publish(&attacker).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
