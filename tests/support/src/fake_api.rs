//! A small Kubernetes API server on loopback, in plain HTTP: lists, watches with bookmarks, merge patches, conflicts,
//! expired versions, refusals and outages. It knows the few kinds that Keyward touches and checks what is written.
//!
//! It runs on a thread of its own, so that tests with or without a runtime, and other processes, can use it.

mod objects;
mod route;
mod serve;
mod watching;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use objects::Objects;

/// SecretProviderClasses.
pub const CLASSES: &str = "secretproviderclasses";
/// SecretProviderClassPodStatuses.
pub const STATUSES: &str = "secretproviderclasspodstatuses";
/// CSIDriver objects.
pub const DRIVERS: &str = "csidrivers";
/// Service accounts.
pub const ACCOUNTS: &str = "serviceaccounts";
/// Events.
pub const EVENTS: &str = "events";

/// Nodes.
pub const NODES: &str = "nodes";
/// What kubelet says of drivers on a node.
pub const CSI_NODES: &str = "csinodes";
/// ConfigMaps.
pub const CONFIG_MAPS: &str = "configmaps";
/// Secrets.
pub const SECRETS: &str = "secrets";
/// Leases.
pub const LEASES: &str = "leases";
/// MutatingWebhookConfigurations.
pub const WEBHOOKS: &str = "mutatingwebhookconfigurations";

/// Every kind that is there.
const KINDS: &[&str] =
    &[CLASSES, STATUSES, DRIVERS, ACCOUNTS, EVENTS, NODES, CSI_NODES, CONFIG_MAPS, SECRETS, LEASES, WEBHOOKS];

/// How long [`FakeApi::until`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server.
pub struct FakeApi {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Mutex<Option<(AbortHandle, mpsc::Receiver<()>)>>,
    runtime: Option<Runtime>,
}

pub(crate) struct Shared {
    objects: Mutex<Objects>,
    rules: Mutex<Rules>,
    requests: Mutex<Vec<String>>,
    /// Moves with every change of objects, every request, and when watches are to look up.
    moved: watch::Sender<u64>,
    /// Moves when all watches are to end.
    cut: watch::Sender<u64>,
}

#[derive(Default)]
struct Rules {
    forbidden: Vec<(String, String)>,
    failures: Vec<u16>,
    absent: Vec<String>,
    versions: Option<Vec<String>>,
    status_subresource: bool,
    page: Option<usize>,
    token: Option<String>,
}

impl FakeApi {
    /// A server on a port of its own, with all kinds installed and no objects.
    #[must_use]
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fake-api")
            .enable_all()
            .build()
            .expect("a thread");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        let api = Self {
            shared: Arc::new(Shared {
                objects: Mutex::default(),
                rules: Mutex::default(),
                requests: Mutex::default(),
                moved: watch::Sender::new(0),
                cut: watch::Sender::new(0),
            }),
            address,
            accepting: Mutex::new(None),
            runtime: Some(runtime),
        };
        api.accept(listener);
        api
    }

    fn accept(&self, listener: std::net::TcpListener) {
        let shared = Arc::clone(&self.shared);
        let (last, ended) = mpsc::channel::<()>();
        let task = async move {
            let _last = last;
            serve::forever(listener, shared).await;
        };
        if let Some(runtime) = &self.runtime {
            *self.accepting.lock() = Some((runtime.spawn(task).abort_handle(), ended));
        }
    }

    /// Closes the port and every connection.
    pub fn down(&self) {
        if let Some((task, ended)) = self.accepting.lock().take() {
            task.abort();
            // The other end goes with the task's last breath.
            let _ = ended.recv();
        }
    }

    /// Listens again on the same port.
    pub fn up(&self) {
        if self.accepting.lock().is_none() {
            let listener = std::net::TcpListener::bind(self.address).expect("the port is free again");
            self.accept(listener);
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a kubeconfig that leads here.
    pub fn write_kubeconfig(&self, path: &Path) {
        let token = self.shared.rules.lock().token.clone();
        let user = token.map_or(json!({}), |token| json!({ "token": token }));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{ "name": "fake", "cluster": { "server": self.url() } }],
            "users": [{ "name": "fake", "user": user }],
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake" } }],
        });
        std::fs::write(path, config.to_string()).expect("the kubeconfig is written");
    }

    /// Adds or changes a class with `provider` and `parameters`.
    pub fn put_class(&self, namespace: &str, name: &str, provider: &str, parameters: &[(&str, &str)]) {
        let parameters: serde_json::Map<_, _> =
            parameters.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.put_class_spec(namespace, name, json!({ "provider": provider, "parameters": parameters }));
    }

    /// Adds or changes a class, whatever its specification is.
    #[expect(clippy::needless_pass_by_value, reason = "callers write json!(…)")]
    pub fn put_class_spec(&self, namespace: &str, name: &str, spec: Value) {
        let metadata = json!({ "namespace": namespace, "name": name });
        self.put(CLASSES, json!({ "metadata": metadata, "spec": spec }));
    }

    /// Adds or changes a CSIDriver object.
    #[expect(clippy::needless_pass_by_value, reason = "callers write json!(…)")]
    pub fn put_driver(&self, name: &str, spec: Value) {
        self.put(DRIVERS, json!({ "metadata": { "name": name }, "spec": spec }));
    }

    /// Adds or changes the CSIDriver object as the chart installs it.
    pub fn put_usual_driver(&self, name: &str, audiences: &[&str]) {
        let requests: Vec<_> = audiences.iter().map(|audience| json!({ "audience": audience })).collect();
        self.put_driver(
            name,
            json!({
                "attachRequired": false,
                "podInfoOnMount": true,
                "requiresRepublish": true,
                "serviceAccountTokenInSecrets": true,
                "tokenRequests": requests,
                "volumeLifecycleModes": ["Ephemeral"],
            }),
        );
    }

    /// Adds or changes a service account.
    pub fn put_account(&self, namespace: &str, name: &str, annotations: &[(&str, &str)]) {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let metadata = json!({ "namespace": namespace, "name": name, "annotations": annotations });
        self.put(ACCOUNTS, json!({ "metadata": metadata }));
    }

    /// Adds or changes an object of one of the kinds.
    pub fn put(&self, resource: &str, object: Value) {
        self.shared.objects.lock().put(resource, object);
        self.shared.tell();
    }

    /// Deletes an object; `namespace` is empty for kinds without one.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        self.shared.objects.lock().delete(resource, namespace, name);
        self.shared.tell();
    }

    /// An object as the server has it.
    #[must_use]
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.objects.lock().get(resource, namespace, name)
    }

    /// All objects of a kind.
    #[must_use]
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        self.shared.objects.lock().list(resource, None)
    }

    /// All statuses that were written.
    #[must_use]
    pub fn statuses(&self) -> Vec<Value> {
        self.objects(STATUSES)
    }

    /// All events that were written.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.objects(EVENTS)
    }

    /// Answers 404 for a kind, as when its definition is not installed.
    pub fn uninstall(&self, resource: &str) {
        self.shared.rules.lock().absent.push(resource.to_owned());
        self.cut_watches();
    }

    /// Serves the kind again.
    pub fn install(&self, resource: &str) {
        self.shared.rules.lock().absent.retain(|absent| absent != resource);
    }

    /// Serves only these versions of SecretProviderClass.
    pub fn serve_versions(&self, versions: &[&str]) {
        self.shared.rules.lock().versions = Some(versions.iter().map(|v| (*v).to_owned()).collect());
    }

    /// Whether the status is a subresource, so that it is not taken with the object. It is not, by default.
    pub fn with_status_subresource(&self, with: bool) {
        self.shared.rules.lock().status_subresource = with;
    }

    /// At most so many objects a page, whatever is asked for.
    pub fn page_by(&self, objects: usize) {
        self.shared.rules.lock().page = Some(objects);
    }

    /// Refuses a verb (`get`, `list`, `watch`, `create`, `update`, `patch`) on a kind.
    pub fn forbid(&self, verb: &str, resource: &str) {
        self.shared.rules.lock().forbidden.push((verb.to_owned(), resource.to_owned()));
    }

    /// Takes back every refusal.
    pub fn allow_all(&self) {
        self.shared.rules.lock().forbidden.clear();
    }

    /// Answers the next `count` requests with `status`.
    pub fn fail_next(&self, count: usize, status: u16) {
        self.shared.rules.lock().failures.extend(std::iter::repeat_n(status, count));
    }

    /// Accepts only this bearer token.
    pub fn require_token(&self, token: &str) {
        self.shared.rules.lock().token = Some(token.to_owned());
    }

    /// Ends every watch that is open.
    pub fn cut_watches(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Forgets all changes up to now, so that a watch from an older version gets 410, and ends every watch.
    pub fn expire(&self) {
        self.shared.objects.lock().expire();
        self.cut_watches();
    }

    /// The requests so far, as `GET /path?query`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }

    /// How many requests so far would have changed something.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.requests().iter().filter(|request| !request.starts_with("GET ")).count()
    }

    /// Waits until `condition` holds; it is asked after every request and every change.
    ///
    /// # Panics
    /// When it does not hold within half a minute.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut moved = self.shared.moved.subscribe();
        let waiting = async {
            while !condition(self) {
                moved.changed().await.expect("the server lives");
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn tell(&self) {
        self.moved.send_modify(|n| *n += 1);
    }
}
