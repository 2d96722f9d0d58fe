mod answers;
mod guard;
mod projecting;
mod recall;
mod record;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use keyward_broker::{Broker, Watch, WatchItem};
use keyward_core::audit::{Actor, AuditSink};
use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::observe::{Event, Observer};
use keyward_core::spec::{Notify, ObjectSource, ObjectSpec, Source};
use keyward_core::{
    Clock, Error, FetchRequest, Fetched, IdentityKey, ObjectKey, Result, Served, Snapshot, State, Version,
};
use keyward_delivery::atomic::Committed;
use keyward_delivery::conversions::Payer;
use keyward_delivery::projection::{Defaults, Projected, Projection};
use keyward_delivery::tree::Tree;
use tokio::time::Instant;

use crate::kept::{Found, Keeping, Kept};
use crate::outputs::Outputs;
use crate::view::View;
use guard::{Guard, Snapshots};
use projecting::Mentions;
pub use projecting::Projecting;
use recall::Apart;

/// Turns snapshots into what applications see: projects, keeps for a restart, commits, serves and records, in that
/// order, so that a file and the API never disagree for longer than one swap, unless files cannot be written at all, and
/// no restart begins with anything older than what readers were given.
pub struct Engine {
    parts: Parts,
    declared: Arc<Declared>,
    watch: Watch,
    view: Arc<View>,
    outputs: Option<Outputs>,
    kept: Option<Kept>,
    guard: Guard,
    /// What an earlier process left, until the first pass has looked at it.
    found: Option<Found>,
    /// Entries whose files are not what is remembered of them.
    apart: Vec<Apart>,
    /// What was projected last, so that nothing is converted twice.
    latest: Option<Arc<Projection>>,
    /// Which objects the templates of a declaration mention.
    mentions: Option<(Arc<Declared>, Arc<Mentions>)>,
    /// What was delivered last.
    delivered: Option<Arc<Projection>>,
    /// Every required entry was there once.
    complete: bool,
    unproved: bool,
    warned: HashSet<(String, &'static str)>,
    /// For the values that the broker holds for it.
    cached: Charge,
    /// Why what is at hand is not shown: it would hold more than the pod may.
    refused: Option<Error>,
}

/// What engines share.
#[derive(Clone)]
pub struct Parts {
    /// Where snapshots come from.
    pub broker: Arc<Broker>,
    /// Receives one record for each delivery.
    pub audit: Arc<dyn AuditSink>,
    /// Receives `Event::Written`.
    pub observer: Arc<dyn Observer>,
    /// Wall time for audit records.
    pub clock: Arc<dyn Clock>,
    /// Who deliveries are recorded for.
    pub actor: Actor,
    /// What is held for it is charged here.
    pub account: Account,
    /// Conversions run in its turn.
    pub conversions: Payer,
    /// What the files of one volume may hold together, in bytes.
    pub most_payload: usize,
}

/// What is to be kept current, and as whom.
pub struct Declared {
    /// The entries.
    pub specs: Vec<ObjectSpec>,
    /// Modes and owners of files whose entry says nothing.
    pub defaults: Defaults,
    /// Who reads.
    pub identity: Arc<IdentityKey>,
}

/// What one pass found and did.
#[derive(Default)]
pub struct Pass {
    /// Required entries without a value, each with its reason.
    pub missing: Vec<(String, Error)>,
    /// Why files could not be written; readers keep what they have.
    pub failure: Option<Error>,
    /// Why a restart would not find what readers have; nothing older is kept in its place.
    pub unkept: Option<Error>,
    /// Entries that readers see otherwise than before; all of them at the first delivery.
    pub changed: Vec<Change>,
    /// What became of the files; `None` when none were to be written.
    pub wrote: Option<Committed>,
}

/// One entry that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What the application calls it.
    pub name: String,
    /// The version delivered; `None` for templates and what has no value.
    pub version: Option<Version>,
    /// Removed on purpose.
    pub removed: bool,
    /// Whom the declaration wants told.
    pub notify: Option<Notify>,
}

impl Engine {
    /// Begins to watch what is declared. Without `outputs` no files are written, until [`Self::set_outputs`].
    #[must_use]
    pub fn new(parts: Parts, declared: Declared, outputs: Option<Outputs>) -> Self {
        let watch = parts.broker.watch(items(&declared));
        let view = View::new(&parts.broker, parts.conversions.clone(), parts.account.clone());
        let declared = Arc::new(declared);
        let cached = parts.account.take(Kind::Cached, 0);
        // Names are known before anyone can ask; their values are on their way.
        view.publish(&declared, declared.specs.iter().map(answers::on_its_way).collect());
        Self {
            parts,
            declared,
            watch,
            view,
            outputs,
            kept: None,
            guard: Guard::default(),
            found: None,
            apart: Vec::new(),
            latest: None,
            mentions: None,
            delivered: None,
            complete: false,
            unproved: false,
            warned: HashSet::new(),
            cached,
            refused: None,
        }
    }

    /// Begins to watch what is declared, and goes on with what an earlier process delivered to the same readers: `found`
    /// is what was kept of it, and the files are where `outputs` lead. Both stay as they are until the provider confirms
    /// them, or names another version, to this process.
    #[must_use]
    pub fn resume(parts: Parts, declared: Declared, outputs: Option<Outputs>, found: Found) -> Self {
        let mut engine = Self::new(parts, declared, outputs);
        engine.found = Some(found);
        engine
    }

    /// Where what a restart must find is written down from now on, before readers are given it.
    pub fn set_kept(&mut self, kept: Kept) {
        self.kept = Some(kept);
    }

    /// Where it is written down.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Goes on with another declaration. The old watch ends only after the new one holds its objects, so that what
    /// both declare is not read again.
    pub fn redeclare(&mut self, declared: Declared) {
        self.watch = self.parts.broker.watch(items(&declared));
        recall::redeclared(&mut self.apart, &self.declared, &declared);
        self.declared = Arc::new(declared);
    }

    /// Whether what is at hand of another declaration holds no more than the pod may: to be asked before
    /// [`Self::redeclare`]. Nothing changes.
    ///
    /// # Errors
    /// `KW_NO_SPACE`.
    pub async fn fits(&mut self, declared: Declared) -> Result<()> {
        let watch = self.parts.broker.watch(items(&declared));
        let before = (
            std::mem::replace(&mut self.watch, watch),
            std::mem::replace(&mut self.declared, Arc::new(declared)),
        );
        let mut projecting = self.begin();
        // Not across the wait: who gives up leaves the declaration that there is.
        (self.watch, self.declared) = before;
        projecting.ready().await;
        projecting.refused().cloned().map_or(Ok(()), Err)
    }

    /// What is declared now.
    #[must_use]
    pub fn declared(&self) -> &Arc<Declared> {
        &self.declared
    }

    /// The shared parts.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What the local API reads.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The lease on the objects.
    pub fn watch(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// Returns when every object was tried once, well or not.
    pub async fn ready(&self) {
        self.watch.ready().await;
    }

    /// Returns when a pass could find something new. Cancel-safe.
    pub async fn changed(&mut self) {
        self.watch.changed().await;
    }

    /// Where files go from now on.
    pub fn set_outputs(&mut self, outputs: Outputs) {
        self.outputs = Some(outputs);
    }

    /// The files may not be what was written: the next pass compares them, and writes them anew where they differ.
    pub async fn distrust(&mut self) {
        if let Some(outputs) = &mut self.outputs {
            outputs.distrust().await;
        }
    }

    /// The directory that files go to.
    #[must_use]
    pub fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// Whether every required entry has been delivered once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether readers could be given what the broker holds of `snapshot`'s object, or have it already. After a restart
    /// that takes an answer of the provider to this process.
    #[must_use]
    pub fn would_show(&self, snapshot: &Snapshot) -> bool {
        self.guard.would_show(snapshot)
    }

    /// The versions that readers have, by the entries' names; templates have none.
    #[must_use]
    pub fn versions(&self) -> Vec<(String, Version)> {
        let delivered = self.delivered.iter().flat_map(|projection| &projection.entries);
        delivered.filter_map(|entry| Some((entry.name.clone(), entry.version.clone()?))).collect()
    }

    /// Whether the right to read is in doubt because a proof lapsed and cannot be renewed. While it is, the view shows
    /// values as stale and asks nobody upstream, and passes deliver nothing new: another's proof is not ours.
    pub fn set_unproved(&mut self, unproved: bool) {
        if std::mem::replace(&mut self.unproved, unproved) != unproved {
            self.view.set_unproved(unproved);
            if let Some(projection) = self.latest.clone() {
                self.serve(&projection, &self.guard.shown(self.watch.snapshots()));
            }
        }
    }

    /// Whether [`Self::set_unproved`] holds.
    #[must_use]
    pub fn is_unproved(&self) -> bool {
        self.unproved
    }

    /// Projects the current snapshots and delivers what changed. Until everything required is there once, no file is
    /// written (promise 1); from then on one entry's failure is its own (promise 5).
    ///
    /// Dropping the future ends a conversion that is under way; what is being written is written to its end.
    pub async fn pass(&mut self) -> Pass {
        self.recall().await;
        let projecting = self.begin();
        self.finish(projecting).await
    }

    /// Delivers what [`Self::begin`] began, once it is made; see [`Self::pass`].
    pub async fn finish(&mut self, projecting: Projecting) -> Pass {
        let before = self.latest.clone();
        let (projection, shown) = self.look(projecting).await;
        let missing = projection.missing_required.clone();
        if let Some(error) = self.refused.clone() {
            // Neither written nor kept for a restart: readers have what they had, and are told why.
            tracing::warn!(%error, "a volume stays as it is");
            self.serve(&projection, &shown);
            return Pass { missing, failure: Some(error), ..Pass::default() };
        }
        let (laid, lacks) = self.lay_over(&projection, &shown);
        let keeping = self.keeping(&shown);
        let unready = !laid.missing_required.is_empty() && !self.is_complete();
        let (unkept, wrote) = if self.unproved || lacks || unready {
            (keep(keeping).await, None)
        } else {
            let (unkept, wrote) = self.write(&laid, keeping).await;
            (unkept, Some(wrote))
        };
        if let Some(result) = unkept.as_ref().map(Result::as_ref) {
            let error =
                result.map_or_else(|error| Some(error.code()), |error| error.as_ref().map(Error::code));
            self.parts.observer.event(&Event::Kept { error });
        }
        let unkept = match unkept.transpose() {
            Ok(unkept) => unkept.flatten(),
            Err(error) => {
                tracing::error!(%error, "what a restart would begin with cannot be replaced; readers keep what they have");
                return Pass { missing, failure: Some(error), ..Pass::default() };
            }
        };
        self.serve(&projection, &shown);
        let wrote = match wrote.transpose() {
            Ok(wrote) => wrote,
            Err(error) => {
                self.guard.settle(&shown, self.parts.clock.boot());
                tracing::error!(%error, "the files could not be written; readers keep what they have");
                return Pass { missing, failure: Some(error), unkept, ..Pass::default() };
            }
        };
        self.guard.settle(&shown, self.parts.clock.boot());
        let Some(wrote) = wrote else { return Pass { missing, unkept, ..Pass::default() } };
        let changed = self.changes(&laid, before.as_ref());
        if self.outputs.is_some() {
            record::deliveries(&self.parts, &self.declared, &changed);
        }
        let specs: HashMap<&str, &ObjectSpec> =
            self.declared.specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        let change = |entry: &Projected| Change {
            name: entry.name.clone(),
            version: entry.version.clone(),
            removed: entry.removed,
            notify: specs.get(entry.name.as_str()).and_then(|spec| spec.notify.clone()),
        };
        let changed = changed.into_iter().map(change).collect();
        self.delivered = Some(laid);
        self.complete |= missing.is_empty();
        Pass { missing, failure: None, unkept, changed, wrote }
    }

    /// Delivers what [`Self::snapshot_tree`] projected, without a look at what has changed since: nothing is converted.
    pub async fn deliver(&mut self) -> Pass {
        let projecting = self.begin_with_latest();
        self.finish(projecting).await
    }

    /// Writes again what was delivered last, where the files are not that; see [`Self::distrust`]. `None` before the first
    /// delivery.
    pub async fn rewrite(&mut self) -> Option<Pass> {
        let delivered = self.delivered.clone()?;
        Some(match self.write(&delivered, None).await.1 {
            Ok(wrote) => Pass { wrote, ..Pass::default() },
            Err(error) => Pass { failure: Some(error), ..Pass::default() },
        })
    }

    /// Projects the current snapshots and shows them in the view, and writes nothing: how large a directory must be
    /// made before [`Self::set_outputs`]. [`Self::deliver`] writes the very same.
    pub async fn snapshot_tree(&mut self) -> (Pass, Tree) {
        let projecting = self.begin();
        let (projection, shown) = self.look(projecting).await;
        self.serve(&projection, &shown);
        let missing = projection.missing_required.clone();
        (Pass { missing, ..Pass::default() }, projection.tree.clone())
    }

    /// Removes generations whose grace is over.
    pub async fn sweep(&mut self) {
        if let Some(outputs) = &mut self.outputs {
            outputs.sweep().await;
        }
    }

    async fn look(&mut self, mut projecting: Projecting) -> (Arc<Projection>, Snapshots) {
        projecting.ready().await;
        // Nothing new is shown when the right to read came into doubt meanwhile.
        while !projecting.is_of(&self.declared) || (self.unproved && !projecting.is_unproved()) {
            projecting = self.begin();
            projecting.ready().await;
        }
        let (projection, shown) = self.take(projecting);
        let projection = self.accept(projection, &shown);
        self.latest = Some(Arc::clone(&projection));
        self.warn(&projection, &shown);
        (projection, shown)
    }

    /// Charges what the broker holds for the pod, and takes a projection over. One that would hold more than the pod may
    /// is refused, and readers go on with what they have.
    fn accept(&mut self, projection: Arc<Projection>, snapshots: &Snapshots) -> Arc<Projection> {
        let fetched = snapshots.values().filter_map(|snapshot| snapshot.fetched.as_deref());
        let cached = self.cached.resize(fetched.map(Fetched::weight).sum());
        self.refused = projection.refused.clone().or(cached.err());
        match &self.refused {
            None => projection,
            Some(error) => {
                self.latest.clone().unwrap_or_else(|| Arc::new(projecting::nothing(&self.declared, error)))
            }
        }
    }

    /// What readers may see now: nothing that was asked for before they were given what they have, and nothing new while
    /// the right to read is in doubt.
    fn admit(&mut self) -> Snapshots {
        let now = self.watch.snapshots();
        if self.unproved {
            return self.guard.shown(now);
        }
        let (shown, again) = self.guard.admit(now);
        again.iter().for_each(|request| self.watch.ask_again(request));
        shown
    }

    /// Takes what an earlier process delivered for what readers have: the files that are there, and what was kept of the
    /// values. Where the two disagree, the files stay. Does it once; to be called before [`Self::begin`].
    pub async fn recall(&mut self) {
        let Some(mut found) = self.found.take() else { return };
        let watched: HashSet<_> = self.watch.snapshots().iter().map(|now| now.key.clone()).collect();
        found.objects.retain(|saved| watched.contains(&saved.key));
        let on_volume = match &mut self.outputs {
            Some(outputs) => outputs.read(recall::paths(&self.declared)).await,
            None => Ok(None),
        };
        let on_volume = on_volume.unwrap_or_else(|error| {
            tracing::warn!(%error, "what is on the volume cannot be read, and is written anew where it differs");
            None
        });
        if on_volume.is_none() && found.objects.is_empty() {
            return;
        }
        self.guard = Guard::resumed(found.objects);
        let mut projection = self.look_back().await;
        if let Some(on_volume) = &on_volume {
            self.apart = recall::apart(&self.declared, &projection, on_volume);
            if found.is_behind && !self.apart.is_empty() {
                self.guard.disown(&recall::requests(&self.apart, &self.declared));
                self.latest = None;
                projection = self.look_back().await;
                self.apart = recall::apart(&self.declared, &projection, on_volume);
            }
            if projection.missing_required.is_empty() {
                self.delivered = Some(recall::laid_over(&projection, &self.apart).0);
                self.complete = true;
            }
        }
    }

    async fn look_back(&mut self) -> Arc<Projection> {
        let shown = self.guard.shown(self.watch.snapshots());
        let mut projecting = self.begin_with(shown);
        projecting.ready().await;
        let (projection, _) = self.take(projecting);
        if let Some(error) = &projection.refused {
            return Arc::new(projecting::nothing(&self.declared, error));
        }
        self.latest = Some(Arc::clone(&projection));
        projection
    }

    fn lay_over(&mut self, projection: &Arc<Projection>, shown: &Snapshots) -> (Arc<Projection>, bool) {
        let declared = Arc::clone(&self.declared);
        self.apart.retain(|apart| !recall::is_settled(apart, &declared, projection, shown));
        recall::laid_over(projection, &self.apart)
    }

    /// What to write down before readers see `shown`, in the order of the declaration.
    fn keeping(&self, shown: &Snapshots) -> Option<Keeping> {
        let kept = self.kept.as_ref()?;
        let order = self.watch.snapshots();
        let shown = order.iter().filter_map(|snapshot| shown.get(&snapshot.key.request).cloned());
        kept.next(shown.collect())
    }

    /// Keeps and commits. The first result is that of keeping: `None` when there was nothing new to keep, and an error
    /// when nothing may be shown.
    async fn write(
        &mut self,
        projection: &Projection,
        keeping: Option<Keeping>,
    ) -> (Option<Unkept>, Result<Option<Committed>>) {
        let Some(outputs) = &mut self.outputs else { return (keep(keeping).await, Ok(None)) };
        let start = Instant::now();
        let unkept = Arc::new(OnceLock::new());
        let told = Arc::clone(&unkept);
        let first = move || {
            let Some(keeping) = keeping else { return Ok(()) };
            let result = keeping.run();
            let refused = result.as_ref().err().cloned();
            let _ = told.set(result);
            refused.map_or(Ok(()), Err)
        };
        let result = outputs.commit(projection.tree.clone(), first).await;
        let unkept = unkept.get().cloned();
        if !matches!(result, Ok(Committed::Unchanged)) {
            let error = result.as_ref().err().map(Error::code);
            let files = projection.tree.files.len();
            self.parts.observer.event(&Event::Written { files, duration: start.elapsed(), error });
        }
        let result = result.map(|committed| {
            if let Committed::Swapped { files, generation } = committed {
                tracing::info!(files, generation, "files written");
            }
            Some(committed)
        });
        (unkept, result)
    }

    fn serve(&mut self, projection: &Projection, snapshots: &Snapshots) {
        let mentions = self.mentions();
        let snapshot = |source: &ObjectSource| snapshots.get(&request(source)).map(Arc::as_ref);
        let entries = by_name(projection);
        let specs = &self.declared.specs;
        let served = specs
            .iter()
            .enumerate()
            .filter_map(|(at, spec)| Some((at, spec, *entries.get(spec.name.as_str())?)))
            .map(|(at, spec, entry)| match &spec.source {
                Source::Object(source) => answers::of_object(entry, source, snapshot(source)),
                Source::Template(_) => {
                    let inputs = mentions.of(at).filter_map(|at| match &specs.get(at)?.source {
                        Source::Object(source) => snapshot(source),
                        Source::Template(_) => None,
                    });
                    answers::of_template(entry, inputs)
                }
            })
            .map(|served| if self.unproved { doubted(served) } else { served })
            .map(|served| match &self.refused {
                Some(error) => Served { error: Some(error.clone()), ..doubted(served) },
                None => served,
            })
            .collect();
        self.view.publish(&self.declared, served);
    }

    /// What readers see otherwise than before. `latest` is what the projection was made after.
    fn changes<'a>(
        &self,
        projection: &'a Projection,
        latest: Option<&Arc<Projection>>,
    ) -> Vec<&'a Projected> {
        let Some(before) = &self.delivered else { return projection.entries.iter().collect() };
        // Values of a volume may have many megabytes, and this thread answers calls.
        let follows = latest.is_some_and(|latest| Arc::ptr_eq(latest, before));
        let same = if follows { Projected::is_taken_over } else { Projected::same_as };
        let before = by_name(before);
        let is_new =
            |entry: &&Projected| !before.get(entry.name.as_str()).is_some_and(|old| same(entry, old));
        projection.entries.iter().filter(is_new).collect()
    }

    /// Each (entry, reason) is said once until it changes. An object that nobody has asked for yet is no news.
    fn warn(&mut self, projection: &Projection, snapshots: &Snapshots) {
        if !self.is_complete() && snapshots.values().any(|snapshot| answers::untried(snapshot)) {
            return;
        }
        let mut now = HashSet::new();
        for entry in &projection.entries {
            let error = entry.error.as_ref().or(entry.value.as_ref().err());
            if let Some(error) = error {
                let key = (entry.name.clone(), error.code().as_str());
                if !self.warned.contains(&key) {
                    tracing::warn!(name = entry.name, %error, "an entry is not current");
                }
                now.insert(key);
            }
            if let Some(advice) = entry.advice {
                let key = (entry.name.clone(), advice);
                if !self.warned.contains(&key) {
                    tracing::warn!(name = entry.name, advice, "a value looks suspicious");
                }
                now.insert(key);
            }
        }
        self.warned = now;
    }
}

/// How keeping went: without an error, with one that keeps nobody from being shown what is new, or not at all.
type Unkept = Result<Option<Error>>;

/// Keeps without committing anything.
async fn keep(keeping: Option<Keeping>) -> Option<Unkept> {
    let keeping = keeping?;
    let lost = |_| Err(Error::new(keyward_core::Code::Internal, "keeping for a restart ended by a defect"));
    Some(tokio::task::spawn_blocking(|| keeping.run()).await.unwrap_or_else(lost))
}

/// Nothing is fresh for a reader whose right to read is in doubt.
fn doubted(served: Served) -> Served {
    match served.state {
        State::Fresh => Served { state: State::Stale, ..served },
        State::Pending | State::Stale | State::Expired | State::Revoked => served,
    }
}

fn by_name(projection: &Projection) -> HashMap<&str, &Projected> {
    projection.entries.iter().map(|entry| (entry.name.as_str(), entry)).collect()
}

pub(crate) fn request(source: &ObjectSource) -> FetchRequest {
    FetchRequest { object: source.object.clone(), parts: source.parts() }
}

fn items(declared: &Declared) -> Vec<WatchItem> {
    declared
        .specs
        .iter()
        .filter_map(|spec| match &spec.source {
            Source::Object(source) => Some(WatchItem {
                key: ObjectKey { identity: Arc::clone(&declared.identity), request: request(source) },
                refresh: spec.refresh,
            }),
            Source::Template(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
