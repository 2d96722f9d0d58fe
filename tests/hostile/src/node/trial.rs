//! One attacker against one build of the node plugin: peace and attack in turns.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::victims::{Amount, Victims};
use super::{Field, Hostile, audit};
use crate::attacks::NodeAttack;
use crate::cores;
use crate::report::Trial;
use crate::samples::Samples;
use crate::turns::Turns;
use crate::{Outcome, Size};

/// How long an attack may take to be in place.
const START: Duration = Duration::from_secs(3);
/// How long an attacker may prepare.
const PREPARATION: Duration = Duration::from_secs(40);

fn amount(size: Size) -> Amount {
    match size {
        Size::Short => Amount { publishes: 12, lookups: 60, rotations: 1 },
        Size::Long => Amount { publishes: 72, lookups: 300, rotations: 2 },
    }
}

/// Rounds of peace, and as many of attack.
fn rounds(size: Size) -> usize {
    match size {
        Size::Short => 1,
        Size::Long => 9,
    }
}

/// Runs one attacker; nothing without the right to mount.
pub(crate) async fn run(program: &Path, attack: &NodeAttack, size: Size) -> Outcome<Option<Trial>> {
    let Some(field) = Field::lay().await? else { return Ok(None) };
    let (turns, watched) = Turns::new();
    let (told, hostile) = tokio::sync::oneshot::channel();
    let (begin, begins) = tokio::sync::oneshot::channel::<()>();
    let attacker = spawn(attack, field.clone(), turns, told, begins)?;
    let hostile: Hostile = hostile.await.map_err(|_| "the attacker's vault did not start")?;
    let mut plugin = field.start(program, &hostile, attack.silent_dns).await?;
    let victims = Victims::settle(&field).await?;
    let calm = plugin.peak();
    let _ = begin.send(());
    let prepared = timeout(PREPARATION, watched.ready()).await.unwrap_or(false);
    let (mut peace, mut war) = (Samples::default(), Samples::default());
    for _ in 0..rounds(size) {
        sleep(quiet(size)).await;
        peace.extend(victims.round(amount(size)).await);
        watched.attack(START).await;
        let start = Instant::now();
        war.extend(victims.round(amount(size)).await);
        // An attack that takes longer than the victims' round has its time.
        sleep_until(start + least(size)).await;
        watched.peace();
    }
    victims.last_words().await;
    let mut failed = victims.failures();
    let alive = plugin.is_alive();
    let (kills, peak, limit) = (plugin.kills(), plugin.peak(), plugin.limit());
    let stopped = plugin.stop().await;
    watched.end();
    let refused = attacker.await.unwrap_or_else(|_| Some("the attacker ended by a defect".to_owned()));
    let missing = audit::missing(&field.audit(), &victims.expected())?;
    if alive && !stopped {
        failed.push("the node plugin did not end within 20 s".to_owned());
    }
    let last_words = (!alive).then(|| field.last_words());
    Ok(Some(Trial {
        peace,
        war,
        calm,
        peak,
        limit,
        one_refused: attack.one_refused,
        kills,
        alive,
        failed,
        lost: missing.lost,
        undelivered: missing.deliveries,
        broken: missing.broken,
        records: missing.records,
        tries: watched.tries(),
        answer: watched.answer(),
        prepared,
        refused,
        last_words,
    }))
}

/// How long after an attack there is quiet before peace is measured.
fn quiet(size: Size) -> Duration {
    match size {
        Size::Short => Duration::from_millis(300),
        Size::Long => Duration::from_secs(1),
    }
}

/// How long an attack lasts at least.
fn least(size: Size) -> Duration {
    match size {
        Size::Short => Duration::from_millis(1_200),
        Size::Long => Duration::from_secs(2),
    }
}

/// The attacker's thread: its vault and its calls, whenever nobody else wants the core.
fn spawn(
    attack: &NodeAttack,
    field: Field,
    turns: Turns,
    told: tokio::sync::oneshot::Sender<Hostile>,
    begins: tokio::sync::oneshot::Receiver<()>,
) -> Outcome<tokio::task::JoinHandle<Option<String>>> {
    let work = attack.work;
    let (done, is_done) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("attacker".to_owned()).spawn(move || {
        cores::stand_back();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        let turns = Arc::new(turns);
        let result = runtime.block_on(async {
            let hostile = Hostile::start().await?;
            let _ = told.send(hostile.clone());
            let _ = begins.await;
            let end = Arc::clone(&turns);
            let local = tokio::task::LocalSet::new();
            local
                .run_until(async {
                    tokio::select! {
                        result = work(field, hostile, turns) => result,
                        () = end.ended() => Ok(()),
                    }
                })
                .await
        });
        // Calls that are never answered are not waited for.
        runtime.shutdown_background();
        let _ = done.send(result.err().map(|error| error.to_string()));
    })?;
    Ok(tokio::spawn(async move { is_done.await.unwrap_or(None) }))
}
