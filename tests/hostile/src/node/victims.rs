//! Twenty peaceful pods with watches, pods that come and go beside them, and a watch over what they get.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use keyward_proto::secrets::v1::{GetSecretRequest, WatchSecretsRequest};
use keyward_test_support::kubelet::PodVolume;
use keyward_test_support::node::VAULT;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use super::Field;
use crate::Outcome;
use crate::samples::{Figure, Samples};

/// Peaceful pods that stay.
const PODS: usize = 20;
/// How long anything of a victim may take before it counts as failed. Kubelet waits two minutes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a round may take: what is not measured by then is not measured.
const ROUND: Duration = Duration::from_secs(30);
/// After so many failures, or so many calls without an answer, there is no use in going on.
const HOPELESS: (usize, usize) = (40, 3);
/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// Objects by the kind of pod, of the vault's secrets.
const PLAIN: [&str; 3] = ["plain-a", "plain-b", "plain-c"];

/// The peaceful pods of a node.
pub(crate) struct Victims {
    field: Field,
    pods: Vec<Peaceful>,
    /// What went wrong for a victim, worst first seen.
    failures: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    visitors: AtomicUsize,
    unanswered: AtomicUsize,
    /// Pod uid, object and version that the audit must tell of.
    expected: Mutex<BTreeSet<(String, String, Option<String>)>>,
    lookups: Channel,
}

struct Peaceful {
    volume: PodVolume,
    source: &'static str,
    told: Arc<AtomicUsize>,
}

/// How much of each figure one round takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    pub(crate) publishes: usize,
    pub(crate) lookups: usize,
    pub(crate) rotations: usize,
}

fn object(name: &str) -> String {
    format!("https://{VAULT}/secrets/{name}")
}

/// What a pod of each kind declares, and which secret moves it.
fn declaration(kind: usize) -> (String, &'static str) {
    match kind % 4 {
        0 => (json!(PLAIN.map(object)).to_string(), "plain-a"),
        1 => (json!([{"from": object("store"), "format": "pem"}]).to_string(), "store"),
        2 => (json!([{"from": object("bundle"), "format": "pfx"}]).to_string(), "bundle"),
        _ => (
            json!([
                object("word"),
                {"name": "pgpass", "template": "postgres:5432:shop:web:{{ secret('word') | pgpass }}\n"},
            ])
            .to_string(),
            "word",
        ),
    }
}

/// What a pod that comes and goes declares.
fn visitor(converts: bool) -> String {
    if converts {
        json!([
            {"from": object("store"), "format": "pem"},
            {"from": object("bundle"), "format": "pfx"},
            object("word"),
            {"name": "pgpass", "template": "postgres:5432:shop:web:{{ secret('word') | pgpass }}\n"},
        ])
        .to_string()
    } else {
        json!(PLAIN.map(object)).to_string()
    }
}

impl Victims {
    /// Plants the vault and publishes the pods that stay.
    pub(crate) async fn settle(field: &Field) -> Outcome<Self> {
        let vault = field.node().vault();
        for name in PLAIN {
            vault.set_secret(name, name);
        }
        vault.set_secret("word", "word");
        vault.create_certificate("store", "store.example", "application/x-pkcs12");
        vault.create_certificate("bundle", "bundle.example", "application/x-pem-file");
        let (failures, over) = (Arc::default(), Arc::<AtomicBool>::default());
        let mut pods = Vec::new();
        for number in 0..PODS {
            let (objects, source) = declaration(number);
            let pod = field.node().pod(&format!("peaceful-{number}"));
            let volume = field.node().volume_of(&pod, &objects, &[("grpc", "true")]);
            let end = Instant::now() + PATIENCE;
            while let Err(status) = field.node().publish(&volume).await {
                if Instant::now() > end {
                    return Err(format!("a peaceful pod did not start: {}", status.message()).into());
                }
                sleep(LOOK).await;
            }
            let told = Arc::<AtomicUsize>::default();
            let watching = Watching {
                told: Arc::clone(&told),
                failures: Arc::clone(&failures),
                over: Arc::clone(&over),
            };
            watching.begin(channel(field.socket(&volume)).await?, volume.pod.name.clone()).await?;
            pods.push(Peaceful { volume, source, told });
        }
        let first = pods.first().ok_or("there are pods")?;
        let lookups = channel(field.socket(&first.volume)).await?;
        let victims = Self {
            field: field.clone(),
            pods,
            failures,
            over,
            visitors: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            expected: Mutex::default(),
            lookups,
        };
        for pod in &victims.pods {
            victims.expect(&pod.volume.pod.uid, pod.source, field.node().vault().secret_version(pod.source));
        }
        Ok(victims)
    }

    fn expect(&self, pod: &str, secret: &str, version: Option<String>) {
        self.expected.lock().insert((pod.to_owned(), object(secret), version));
    }

    /// What the audit must tell of.
    pub(crate) fn expected(&self) -> BTreeSet<(String, String, Option<String>)> {
        self.expected.lock().clone()
    }

    /// What went wrong so far.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    fn unanswered(&self, what: &str) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.fail(format!("{what}: no answer within 20 s"));
    }

    fn fail(&self, what: String) {
        note(&self.failures, what);
    }

    /// Measures once everything.
    pub(crate) async fn round(&self, amount: Amount) -> Samples {
        let end = Instant::now() + ROUND;
        let (mut all, files, lookups) = tokio::join!(
            self.come_and_go(amount.publishes, end),
            self.rotate(amount.rotations, end),
            self.look_up(amount.lookups, end)
        );
        all.extend(files);
        all.extend(lookups);
        all
    }

    async fn come_and_go(&self, count: usize, end: Instant) -> Samples {
        let mut samples = Samples::default();
        for number in 0..count {
            let converts = number % 2 == 1;
            let name = format!("visitor-{}", self.visitors.fetch_add(1, Ordering::Relaxed));
            let pod = self.field.node().pod(&name);
            let volume = self.field.node().volume_of(&pod, &visitor(converts), &[]);
            let context = self.field.node().context(&pod);
            let start = Instant::now();
            match timeout(PATIENCE, self.field.node().kubelet.publish(&volume, &context)).await {
                Ok(Ok(())) => {
                    let figure = if converts { Figure::Convert } else { Figure::Publish };
                    samples.push(figure, start.elapsed());
                    let objects = if converts { &["store", "bundle", "word"] } else { &PLAIN };
                    objects.iter().for_each(|name| self.expect(&pod.uid, name, None));
                }
                Ok(Err(status)) => self.fail(format!("publish: {}", status.message())),
                Err(_) => self.unanswered("publish"),
            }
            let start = Instant::now();
            match timeout(PATIENCE, self.field.probe()).await {
                Ok(Ok(())) => samples.push(Figure::Probe, start.elapsed()),
                Ok(Err(status)) => self.fail(format!("probe: {}", status.message())),
                Err(_) => self.unanswered("probe"),
            }
            let start = Instant::now();
            match timeout(PATIENCE, self.field.node().kubelet.unpublish(&volume)).await {
                Ok(Ok(())) => samples.push(Figure::Unpublish, start.elapsed()),
                Ok(Err(status)) => self.fail(format!("unpublish: {}", status.message())),
                Err(_) => self.unanswered("unpublish"),
            }
            if self.is_over(end) {
                break;
            }
        }
        samples
    }

    async fn look_up(&self, count: usize, end: Instant) -> Samples {
        let mut samples = Samples::default();
        let mut client = SecretServiceClient::new(self.lookups.clone());
        for _ in 0..count {
            let request = GetSecretRequest { name: "plain-b".to_owned(), version: String::new() };
            let start = Instant::now();
            match timeout(PATIENCE, client.get_secret(request)).await {
                Ok(Ok(_)) => samples.push(Figure::Lookup, start.elapsed()),
                Ok(Err(status)) => self.fail(format!("lookup: {}", status.message())),
                Err(_) => self.unanswered("lookup"),
            }
            if self.is_over(end) {
                break;
            }
            sleep(Duration::from_millis(3)).await;
        }
        samples
    }

    /// Gives every source a new version and waits for the files of all pods.
    async fn rotate(&self, count: usize, end: Instant) -> Samples {
        let mut samples = Samples::default();
        for number in 0..count {
            if self.is_over(end) {
                break;
            }
            let mut waiting: Vec<_> = self.pods.iter().map(|pod| (pod, self.generation(pod))).collect();
            let vault = self.field.node().vault();
            let text = format!("{number}-{}", self.visitors.load(Ordering::Relaxed));
            vault.rotate_secret("plain-a", format!("plain-{text}"));
            vault.rotate_secret("word", format!("word-{text}"));
            vault.create_certificate("store", "store.example", "application/x-pkcs12");
            vault.create_certificate("bundle", "bundle.example", "application/x-pem-file");
            let start = Instant::now();
            while !waiting.is_empty() && start.elapsed() < PATIENCE {
                sleep(LOOK).await;
                waiting.retain(|(pod, before)| {
                    let there = self.generation(pod) != *before;
                    if there {
                        samples.push(Figure::File, start.elapsed());
                        self.expect(&pod.volume.pod.uid, pod.source, vault.secret_version(pod.source));
                    }
                    !there
                });
            }
            for (pod, _) in waiting {
                self.fail(format!("new version: not in the files of {} within 20 s", pod.volume.pod.name));
            }
        }
        samples
    }

    fn generation(&self, pod: &Peaceful) -> Option<PathBuf> {
        std::fs::read_link(self.field.node().kubelet.target(&pod.volume).join("..data")).ok()
    }

    /// Whether there is no use in going on: the time is up, or the plugin has ended or hangs.
    fn is_over(&self, end: Instant) -> bool {
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        Instant::now() > end || self.failures.lock().len() >= HOPELESS.0 || unanswered >= HOPELESS.1
    }

    /// Whether every watch was told of a last version.
    pub(crate) async fn last_words(&self) {
        let before: Vec<_> = self.pods.iter().map(|pod| pod.told.load(Ordering::Relaxed)).collect();
        self.rotate(1, Instant::now() + ROUND).await;
        let end = Instant::now() + PATIENCE;
        for (pod, before) in self.pods.iter().zip(before) {
            while pod.told.load(Ordering::Relaxed) <= before {
                if self.is_over(end) {
                    self.fail(format!("watch: {} was not told of a new version", pod.volume.pod.name));
                    break;
                }
                sleep(LOOK).await;
            }
        }
        self.over.store(true, Ordering::Relaxed);
    }
}

fn note(failures: &Mutex<Vec<String>>, what: String) {
    failures.lock().push(what.chars().take(240).collect());
}

struct Watching {
    told: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl Watching {
    async fn begin(self, channel: Channel, pod: String) -> Outcome<()> {
        let mut client = SecretServiceClient::new(channel);
        let mut stream = client.watch_secrets(WatchSecretsRequest { names: Vec::new() }).await?.into_inner();
        tokio::spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => drop(self.told.fetch_add(1, Ordering::Relaxed)),
                    _ if self.over.load(Ordering::Relaxed) => return,
                    _ => return note(&self.failures, format!("watch: that of {pod} ended")),
                }
            }
        });
        Ok(())
    }
}

async fn channel(socket: PathBuf) -> Outcome<Channel> {
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connect).await?)
}
