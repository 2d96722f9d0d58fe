#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts of tries, and times a bounded wait ahead: the settings bound the interval"
)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::Watch;
use keyward_core::{Code, Error, ErrorKind, Result, SecretView, State};
use keyward_delivery::atomic::Committed;
use keyward_kubernetes::{Lookup, ObjectVersion};
use keyward_local_api::Pace;
use keyward_volume::{Engine, Pass};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::pending::{Pending, items};
use super::{Histories, Order, Volume, credential};
use crate::identities::Tenant;
use crate::node::Node;
use crate::plan::{Basis, ClassText, Plan};
use crate::reports::Teller;
use crate::serve::Serving;
use crate::shares::{self, OfVolume};
use crate::state::Record;

/// Replaced generations stay readable for one to two of these.
const GRACE: Duration = Duration::from_secs(30);
/// Proofs that cannot be renewed are tried again after this, doubling.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_LIMIT: Duration = Duration::from_secs(60);
/// Files that could not be written are tried again after this, doubling up to the same limit.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// The least time between two edits of a class that a volume takes up. Edits in between are skipped, the last one stays.
const EDIT_GAP: Duration = Duration::from_secs(1);
/// The volumes of a class take an edit up at different moments within this time, so that other pods' calls come between.
const EDIT_SPREAD: Duration = Duration::from_millis(500);
/// Steps of an edit that ask somebody.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is told of beside single objects.
const OTHERS: [&str; 5] = ["identity", "files", "class", "history", "snapshot"];
/// Versions that were disabled show in no other way than by listing again.
const RELIST: u32 = 10;

/// Keeps one published volume current, whatever kubelet does: rotation, edits of its class, renewal of its proof.
pub(crate) struct Keeper {
    pub(crate) node: Arc<Node>,
    pub(crate) volume: Arc<Volume>,
    pub(crate) engine: Engine,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) plan: Plan,
    pub(crate) ids: Vec<(String, String)>,
    pub(crate) histories: Histories,
    pub(crate) record: Record,
    pub(crate) serving: Option<Serving>,
    pub(crate) teller: Teller,
    /// Why a restart would not find what readers have.
    pub(crate) unkept: Option<Error>,
    /// The vaults that it asks.
    pub(crate) hosts: OfVolume,
}

/// What a running keeper has in mind.
#[derive(Default)]
struct Mind {
    /// The current versions of objects with a history.
    newest: Option<Watch>,
    pending: Option<Pending>,
    /// When to sweep, and how often still.
    sweep: Option<(Instant, u8)>,
    /// When the proof lapses of a volume whose lookups could come at any time: it is renewed then. One that has only
    /// files renews it when they change.
    renew: Option<Instant>,
    relist: Option<Instant>,
    retry: Option<Instant>,
    /// When to look at an edit again that could not be made ready: a fresh credential, or time, may help.
    edit: Option<Instant>,
    /// When to look at the classes that moved, and when an edit was taken up last.
    look: Option<Instant>,
    taken: Option<Instant>,
    failures: u32,
    /// Passes in a row that could not write.
    unwritten: u32,
    told: HashSet<(String, &'static str)>,
    /// Repairs that are answered after the pass that is under way.
    repairs: Vec<oneshot::Sender<()>>,
    /// Held while the volume's record is written.
    saving: Arc<tokio::sync::Mutex<()>>,
}

/// The versions that readers have, as a status names them.
pub(crate) fn versions(engine: &Engine, ids: &[(String, String)]) -> Vec<ObjectVersion> {
    let delivered: HashMap<_, _> = engine.versions().into_iter().collect();
    let mut objects: Vec<_> = ids
        .iter()
        .filter_map(|(name, id)| {
            Some(ObjectVersion { id: id.clone(), version: delivered.get(name)?.to_string() })
        })
        .collect();
    objects.sort_unstable();
    objects
}

impl Keeper {
    /// Runs until the volume is to be unmounted. What is under way then (a conversion, a proof, a question to a vault) is
    /// given up; see [`Volume::stop`].
    pub(crate) async fn run(mut self: Box<Self>, mut orders: mpsc::Receiver<Order>) {
        let volume = Arc::clone(&self.volume);
        let _stopped = volume.stopped.clone().drop_guard();
        let mut mind = Mind::default();
        let pace = self.node.crowd.pace(&volume.pod.uid);
        // On the heap, and not twice in what every volume keeps in memory.
        let live = Box::pin(self.live(&mut mind, &mut orders, &pace));
        volume.stopping.run_until_cancelled(pace.measured(live)).await;
        Box::pin(self.end(mind)).await;
    }

    /// Returns when nobody can give orders any more.
    async fn live(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>, pace: &Pace) {
        self.schedule(mind);
        mind.renew = self.proof_lapses();
        let mut classes = self.classes();
        if self.engine.is_complete() {
            self.tell_unkept(mind);
            self.look_around(mind);
        } else {
            // Gone on with after a restart: what it holds is shown at once, and what was left behind is swept.
            mind.sweep = Some((Instant::now() + GRACE, 2));
            self.engine.recall().await;
            self.presented(mind, orders).await;
            self.deliver(mind, orders).await;
        }
        loop {
            pace.ready().await;
            let timer =
                [mind.sweep.map(|(at, _)| at), mind.renew, mind.relist, mind.retry, mind.edit, mind.look]
                    .into_iter()
                    .flatten()
                    .min();
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Repair(done)) => {
                        self.repair(mind, orders).await;
                        // The caller may have gone away.
                        let _ = done.send(());
                    }
                    None => return,
                },
                () = self.volume.fresh.notified() => self.presented(mind, orders).await,
                () = self.engine.changed() => self.deliver(mind, orders).await,
                () = changed(&mut classes), if mind.look.is_none() => {
                    let soon = Instant::now() + EDIT_SPREAD.mul_f64(fastrand::f64());
                    mind.look = Some(mind.taken.map_or(soon, |taken| soon.max(taken + EDIT_GAP)));
                }
                () = available(&mut mind.pending) => Box::pin(self.take_over(mind, orders)).await,
                () = moved(&mut mind.newest) => Box::pin(self.relist(mind, orders)).await,
                () = until(timer) => self.on_time(mind, orders).await,
            }
        }
    }

    async fn end(self: Box<Self>, mind: Mind) {
        let Self { serving, engine, tenant, volume, teller, .. } = *self;
        engine.view().close();
        if let Some(serving) = serving {
            serving.end().await;
        }
        tenant.shared.withdraw(volume.place.volume_id());
        teller.gone();
        // What was under way holds the volume's directory, or would write its record after it was forgotten.
        if let Some(outputs) = engine.outputs() {
            outputs.idle().await;
        }
        drop(mind.saving.lock().await);
        drop(engine);
    }

    fn schedule(&self, mind: &mut Mind) {
        if !self.histories.is_empty() {
            mind.relist = Some(Instant::now() + self.node.settings.config.rotation.interval * RELIST);
            let newest: Vec<_> = self
                .plan
                .objects
                .iter()
                .filter(|object| object.history > 0)
                .map(|object| object.spec.clone())
                .collect();
            mind.newest = Some(self.node.broker.watch(items(&newest, &self.tenant)));
        }
    }

    fn classes(&self) -> Option<watch::Receiver<u64>> {
        let cluster = self.node.cluster.as_ref().filter(|_| self.record.basis.class.is_some())?;
        let mut changed = cluster.classes().changed();
        // Whatever moved while the volume was published or restored is looked at soon.
        changed.mark_changed();
        Some(changed)
    }

    async fn on_time(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Some((at, times)) = mind.sweep.filter(|(at, _)| *at <= now) {
            self.engine.sweep().await;
            mind.sweep = (times > 1).then_some((at + GRACE, times - 1));
        }
        if due(mind.renew) || due(mind.retry) {
            (mind.renew, mind.retry) = (None, None);
            self.deliver(mind, orders).await;
        }
        // What is rare and large is not part of what every volume keeps in memory.
        if due(mind.edit) || due(mind.look) {
            mind.look = None;
            Box::pin(self.reconsider(mind, orders)).await;
        }
        if due(mind.relist) {
            Box::pin(self.relist(mind, orders)).await;
        }
    }

    fn lend(&self) {
        if let Ok(credential) = credential(&self.plan.way, &self.volume.presented(), &self.volume.pod) {
            self.node.identities.lend(&self.tenant, self.volume.place.volume_id(), credential);
        }
    }

    /// A fresh credential serves whatever waits for one.
    async fn presented(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>) {
        self.lend();
        if self.engine.is_unproved() {
            mind.failures = 0;
            mind.retry = None;
            self.deliver(mind, orders).await;
        }
        if mind.edit.is_some() {
            Box::pin(self.reconsider(mind, orders)).await;
        }
    }

    async fn repair(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>) {
        tracing::warn!(volume = %self.volume.place.volume_id(), pod = %self.volume.pod.name, "the files of a volume were tampered with and are written anew");
        self.engine.distrust().await;
        self.engine.sweep().await;
        // What the pod had is there; what is newer follows in its own time.
        let pass = match self.engine.rewrite().await {
            Some(pass) => pass,
            None => self.pass(mind, orders).await,
        };
        self.after(pass, mind);
    }

    /// Projects and delivers. Meanwhile proofs are renewed, credentials taken along and files repaired: conversions wait for
    /// their turn, and may take long.
    async fn pass(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>) -> Pass {
        let mut projecting = self.engine.begin();
        loop {
            tokio::select! {
                biased;
                () = projecting.ready() => break,
                Some(Order::Repair(done)) = orders.recv() => {
                    self.engine.distrust().await;
                    if self.engine.rewrite().await.is_some() {
                        let _ = done.send(());
                    } else {
                        mind.repairs.push(done);
                    }
                }
                () = self.volume.fresh.notified() => {
                    self.lend();
                    if self.engine.is_unproved() {
                        self.renew(mind).await;
                    }
                }
                () = until(mind.renew) => self.renew(mind).await,
            }
        }
        let pass = self.engine.finish(projecting).await;
        for done in mind.repairs.drain(..) {
            let _ = done.send(());
        }
        pass
    }

    /// Delivers what changed, if the pod has proved its identity within the last ten minutes or proves it now: what
    /// another pod's proof brought is not for this one (promise 7).
    async fn deliver(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>) {
        let was_complete = self.engine.is_complete();
        self.renew(mind).await;
        let pass = self.pass(mind, orders).await;
        if was_complete && !pass.changed.is_empty() {
            let ids: HashMap<_, _> = self.ids.iter().map(|(name, id)| (name, id)).collect();
            let changed =
                pass.changed.iter().filter_map(|change| Some((*ids.get(&change.name)?).clone())).collect();
            self.teller.rotated(versions(&self.engine, &self.ids), changed);
            // The status forgets its last error with that: what is still wrong is told again.
            mind.told.retain(|(about, _)| OTHERS.contains(&about.as_str()));
        }
        self.after(pass, mind);
    }

    /// Proves the pod's identity again, or marks the volume as unproved.
    async fn renew(&mut self, mind: &mut Mind) {
        // Not again and again while it is being tried, or when it fails: then `retry` says when.
        mind.renew = None;
        match self.prove().await {
            Ok(()) => {
                mind.failures = 0;
                mind.retry = None;
                mind.renew = self.proof_lapses();
                self.engine.set_unproved(false);
            }
            Err(error) => {
                tracing::debug!(%error, "a volume's proof of identity cannot be renewed");
                self.engine.set_unproved(true);
                mind.retry = Some(Instant::now() + RETRY_LIMIT.min(RETRY * 2u32.pow(mind.failures.min(4))));
                mind.failures += 1;
                if error.kind().is_definite_no() {
                    self.tell_once(mind, "identity", &error);
                }
            }
        }
    }

    async fn prove(&self) -> Result<()> {
        let credential = credential(&self.plan.way, &self.volume.presented(), &self.volume.pod)?;
        let proof = self.node.identities.prove(&self.tenant, &credential, &self.volume.pod);
        let proved = timeout(PATIENCE, proof).await;
        proved.map_err(|_| Error::new(Code::Timeout, "the token endpoint did not answer"))?
    }

    /// When a volume with a socket must prove its identity again.
    fn proof_lapses(&self) -> Option<Instant> {
        self.serving.as_ref()?;
        let credential = credential(&self.plan.way, &self.volume.presented(), &self.volume.pod).ok()?;
        let lasts = self.tenant.shared.proof_lasts(&credential, &self.tenant.audience)?;
        Some(Instant::now() + lasts)
    }

    fn after(&mut self, pass: Pass, mind: &mut Mind) {
        if let Some(Committed::Swapped { .. }) = pass.wrote {
            // Twice: the first sweep marks what the second removes.
            mind.sweep = Some((Instant::now() + GRACE, 2));
        }
        if let Some(error) = &pass.failure {
            self.tell_once(mind, "files", error);
            // The vault may have nothing new for months.
            let wait = RETRY_LIMIT.min(WRITE_AGAIN * 2u32.pow(mind.unwritten.min(6)));
            mind.retry = Some(mind.retry.map_or(Instant::now() + wait, |at| at.min(Instant::now() + wait)));
            mind.unwritten += 1;
        } else if pass.wrote.is_some() {
            mind.unwritten = 0;
        }
        if pass.failure.is_none() {
            self.unkept = pass.unkept;
        }
        self.tell_unkept(mind);
        self.look_around(mind);
    }

    /// That a restart would begin with nothing is a condition of the volume, and is tried to be mended.
    fn tell_unkept(&self, mind: &mut Mind) {
        match &self.unkept {
            Some(error) => {
                self.tell_once(mind, "snapshot", error);
                let again = Instant::now() + RETRY_LIMIT;
                mind.retry = Some(mind.retry.map_or(again, |at| at.min(again)));
            }
            None => Self::forget_told(mind, "snapshot"),
        }
    }

    /// What is not as declared, for health and events.
    fn look_around(&self, mind: &mut Mind) {
        let mut complaints = Vec::new();
        if let Some(error) = &self.unkept {
            complaints
                .push(("SnapshotNotKept", format!("a restart of the driver would find no values: {error}")));
        }
        let mut now = HashSet::new();
        for served in self.engine.view().list() {
            let Some(error) = served.error.as_ref().or(served.value.as_ref().err()) else { continue };
            let reason = match served.state {
                State::Pending => "ObjectMissing",
                State::Fresh => "ContentInvalid",
                State::Stale => "ObjectStale",
                State::Expired => "ObjectExpired",
                State::Revoked => "ObjectRevoked",
            };
            // One entry for each reason, as the specification demands.
            if !complaints.iter().any(|(known, _)| *known == reason) {
                complaints.push((reason, format!("{}: {error}", served.name)));
            }
            let lasting = error.kind().is_definite_no() || error.kind() == ErrorKind::Content;
            if lasting && served.state != State::Pending {
                let key = (served.name.clone(), error.code().as_str());
                if mind.told.insert(key.clone()) {
                    self.teller.failed(error, true);
                }
                now.insert(key);
            }
        }
        mind.told.retain(|key| now.contains(key) || OTHERS.contains(&key.0.as_str()));
        self.volume.show(complaints);
    }

    fn tell_once(&self, mind: &mut Mind, about: &str, error: &Error) {
        if mind.told.insert((about.to_owned(), error.code().as_str())) {
            tracing::warn!(volume = %self.volume.place.volume_id(), %error, "a mounted volume cannot be brought up to date");
            self.teller.failed(error, true);
        }
    }

    fn forget_told(mind: &mut Mind, about: &str) {
        mind.told.retain(|(known, _)| known != about);
    }

    /// Looks at the class again; an edit that is good takes over once all that it requires is there, and one that is
    /// bad changes nothing.
    async fn reconsider(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>) {
        mind.edit = None;
        let Some(class) = self.edited() else { return };
        mind.taken = Some(Instant::now());
        let basis = Basis { class: Some(class), ..self.record.basis.clone() };
        if mind.pending.as_ref().is_some_and(|pending| pending.basis == basis) {
            return self.take_over(mind, orders).await;
        }
        match timeout(PATIENCE, self.prepare(basis)).await {
            Ok(Ok(pending)) => {
                Self::forget_told(mind, "class");
                mind.pending = Some(pending);
                self.take_over(mind, orders).await;
            }
            Ok(Err(error)) => {
                // After a restart there is no token until kubelet calls, which is nobody's mistake.
                let awaits = error.code() == Code::TokenMissing;
                if awaits || error.kind().is_transient() || error.kind() == ErrorKind::Unauthenticated {
                    mind.edit = Some(Instant::now() + RETRY_LIMIT);
                }
                if !awaits {
                    self.tell_once(mind, "class", &error);
                }
            }
            Err(_) => mind.edit = Some(Instant::now() + RETRY_LIMIT),
        }
    }

    /// The class, if it is not the one that was applied.
    fn edited(&self) -> Option<ClassText> {
        let applied = self.record.basis.class.as_ref()?;
        let classes = self.node.cluster.as_ref()?.classes();
        // A class that was deleted, or is not known, leaves the volume as it is.
        let Lookup::Found(class) = classes.get(&self.volume.pod.namespace, &applied.name) else {
            return None;
        };
        let same = class.provider == applied.provider && class.parameters == applied.parameters;
        (!same).then(|| ClassText {
            name: class.name.clone(),
            provider: class.provider.clone(),
            parameters: class.parameters.clone(),
        })
    }

    async fn prepare(&self, basis: Basis) -> Result<Pending> {
        let pod = &self.volume.pod;
        let plan = self.node.plan(&basis, pod).await?;
        let account = self.node.account(pod);
        let hosts = self.node.hosts.admit(&account, &pod.uid, plan.hosts())?;
        let tenant = self.node.identities.join(plan.way.settings(), &plan.cloud)?;
        let credential = credential(&plan.way, &self.volume.presented(), pod)?;
        self.node.identities.prove(&tenant, &credential, pod).await?;
        self.node.identities.lend(&tenant, self.volume.place.volume_id(), credential);
        let histories = Histories::list(&plan, &tenant.provider, &account, pod).await?;
        let expanded = plan.expand(&|object| histories.of(object))?;
        let reserved = shares::values(&account, expanded.specs.len())?;
        Ok(Pending::begin(&self.node.broker, plan, basis, tenant, expanded, histories, hosts, reserved))
    }

    /// Lists versions again; a history that moved takes over like an edit.
    async fn relist(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>) {
        mind.relist = Some(Instant::now() + self.node.settings.config.rotation.interval * RELIST);
        if mind.pending.is_some() {
            return self.take_over(mind, orders).await;
        }
        match timeout(PATIENCE, self.prepare(self.record.basis.clone())).await {
            Ok(Ok(pending)) => {
                Self::forget_told(mind, "history");
                if pending.expanded.specs != self.engine.declared().specs {
                    mind.pending = Some(pending);
                    self.take_over(mind, orders).await;
                }
            }
            Ok(Err(error)) => self.tell_once(mind, "history", &error),
            Err(_) => {}
        }
    }

    async fn take_over(&mut self, mind: &mut Mind, orders: &mut mpsc::Receiver<Order>) {
        let Some(pending) = &mind.pending else { return };
        match pending.readiness(&self.engine) {
            Ok(()) => {}
            Err(Some(error)) => return self.tell_once(mind, "class", &error),
            Err(None) => return,
        }
        let declared = pending.declared();
        // The same gate as at the first publish: what does not fit leaves the volume as it is.
        if let Err(error) = self.engine.fits(pending.declared()).await {
            return self.tell_once(mind, "class", &error);
        }
        // Before anything of it shows: a restart must not go on with the declaration of before.
        let mut record = self.record.clone();
        record.basis = pending.basis.clone();
        record.histories = pending.histories.write();
        let (state, saved) = (self.node.state.clone(), record.clone());
        let volume_id = self.volume.place.volume_id().to_owned();
        let shares = Arc::clone(&self.volume.shares);
        let saving = Arc::clone(&mind.saving).lock_owned().await;
        let save = move |_: &_| {
            let _saving = saving;
            state.save(&volume_id, &saved, |bytes| shares.record(bytes))
        };
        if let Err(error) = self.node.blocking(save).await {
            mind.edit = Some(Instant::now() + RETRY_LIMIT);
            mind.relist = mind.relist.map(|_| Instant::now() + RETRY_LIMIT);
            return self.tell_once(mind, "class", &error);
        }
        let Some(Pending { plan, tenant, expanded, histories, hosts, .. }) = mind.pending.take() else {
            return;
        };
        self.hosts = hosts;
        if !Arc::ptr_eq(&self.tenant, &tenant) {
            self.tenant.shared.withdraw(self.volume.place.volume_id());
        }
        self.engine.redeclare(declared);
        self.record = record;
        (self.plan, self.tenant, self.ids, self.histories) =
            (plan.expanded(), tenant, expanded.ids, histories);
        mind.newest = None;
        self.schedule(mind);
        Self::forget_told(mind, "class");
        tracing::info!(volume = %self.volume.place.volume_id(), pod = %self.volume.pod.name, objects = self.ids.len(), "a new declaration is applied");
        self.deliver(mind, orders).await;
    }
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn changed(classes: &mut Option<watch::Receiver<u64>>) {
    let changed = match classes {
        Some(classes) => classes.changed().await.is_ok(),
        None => false,
    };
    // The sender lives as long as the cluster's handle does.
    if !changed {
        std::future::pending::<()>().await;
    }
}

async fn available(pending: &mut Option<Pending>) {
    match pending {
        Some(pending) => pending.changed().await,
        None => std::future::pending().await,
    }
}

async fn moved(newest: &mut Option<Watch>) {
    match newest {
        Some(newest) => newest.changed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
