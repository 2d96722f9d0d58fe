//! One attacker against one build of the injector: peace and attack in turns.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Webhook;
use super::webhook::{Client, good};
use crate::attacks::InjectorAttack;
use crate::cores;
use crate::report::Trial;
use crate::samples::{Figure, Samples};
use crate::turns::Turns;
use crate::{Outcome, Size};

/// How long a round may take: what is not measured by then is not measured.
const ROUND: Duration = Duration::from_secs(20);
/// How long an attack may take to be in place, and how long it lasts at least.
const START: Duration = Duration::from_secs(3);
const LEAST: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(200);
/// Reviews of peaceful pods a round, and how many of them come on a new connection.
const NEW: usize = 8;

/// Runs one attacker.
pub(crate) async fn run(program: &Path, attack: &InjectorAttack, size: Size) -> Outcome<Trial> {
    let (count, rounds) = match size {
        Size::Short => (60, 1),
        Size::Long => (60, 6),
    };
    let webhook = Webhook::lay()?;
    let mut injector = webhook.start(program).await?;
    let calm = injector.peak();
    let (turns, watched) = Turns::new();
    let attacker = spawn(attack, webhook.clone(), turns)?;
    let prepared = timeout(Duration::from_secs(20), watched.ready()).await.unwrap_or(false);
    let mut server = Server { webhook: webhook.clone(), client: webhook.client().await?, failed: Vec::new() };
    let (mut peace, mut war) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        sleep(QUIET).await;
        peace.extend(server.round(count).await);
        watched.attack(START).await;
        let start = Instant::now();
        war.extend(server.round(count).await);
        sleep_until(start + LEAST).await;
        // What the attack left is felt now, if it is felt at all.
        war.extend(server.round(count / 4).await);
        watched.peace();
    }
    let alive = injector.is_alive();
    let (kills, peak, limit) = (injector.kills(), injector.peak(), injector.limit());
    watched.end();
    let refused = attacker.await.unwrap_or(None);
    let mut failed = server.failed;
    if alive && !injector.stop().await {
        failed.push("the injector did not end within 20 s".to_owned());
    }
    let last_words = (!alive).then(|| webhook.last_words());
    Ok(Trial {
        peace,
        war,
        calm,
        peak,
        limit,
        kills,
        alive,
        failed,
        tries: watched.tries(),
        answer: watched.answer(),
        prepared,
        refused,
        last_words,
        ..Trial::default()
    })
}

/// The API server and kubelet.
struct Server {
    webhook: Webhook,
    client: Client,
    failed: Vec<String>,
}

impl Server {
    async fn round(&mut self, count: usize) -> Samples {
        let mut samples = Samples::default();
        let end = Instant::now() + ROUND;
        for number in 0..count {
            if self.failed.len() > 20 || Instant::now() > end {
                break;
            }
            if number % NEW == NEW - 1 || self.client.is_closed() {
                match self.webhook.client().await {
                    Ok(client) => self.client = client,
                    Err(error) => self.failed.push(format!("review: cannot connect: {error}")),
                }
            }
            let start = Instant::now();
            match self.webhook.review(&mut self.client, &good()).await {
                Ok(()) => samples.push(Figure::Review, start.elapsed()),
                Err(error) => {
                    self.failed.push(format!("review: {error}"));
                    // As the API server does.
                    if let Ok(client) = self.webhook.client().await {
                        self.client = client;
                    }
                }
            }
            let start = Instant::now();
            match self.webhook.livez().await {
                Ok(()) => samples.push(Figure::Probe, start.elapsed()),
                Err(error) => self.failed.push(format!("probe: {error}")),
            }
        }
        samples
    }
}

fn spawn(
    attack: &InjectorAttack,
    webhook: Webhook,
    turns: Turns,
) -> Outcome<tokio::task::JoinHandle<Option<String>>> {
    let work = attack.work;
    let (done, is_done) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("attacker".to_owned()).spawn(move || {
        cores::stand_back();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        let turns = Arc::new(turns);
        let end = Arc::clone(&turns);
        let local = tokio::task::LocalSet::new();
        let result = runtime.block_on(local.run_until(async {
            tokio::select! {
                result = work(webhook, turns) => result,
                () = end.ended() => Ok(()),
            }
        }));
        let result = result.err().map(|error| error.to_string());
        drop(local);
        runtime.shutdown_background();
        let _ = done.send(result);
    })?;
    Ok(tokio::spawn(async move { is_done.await.unwrap_or(None) }))
}
