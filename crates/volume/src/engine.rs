mod answers;
mod record;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use keyward_broker::{Broker, Watch, WatchItem};
use keyward_core::audit::{Actor, AuditSink};
use keyward_core::ledger::Account;
use keyward_core::observe::{Event, Observer};
use keyward_core::spec::{Decode, Format, Notify, ObjectSource, ObjectSpec, Source};
use keyward_core::{
    Clock, Code, Content, Error, FetchRequest, IdentityKey, ObjectKey, Result, Served, Snapshot, State,
    Version,
};
use keyward_delivery::atomic::Committed;
use keyward_delivery::projection::{Defaults, Projected, Projection, project};
use keyward_delivery::tree::Tree;
use tokio::time::Instant;

use crate::conversions;
use crate::outputs::Outputs;
use crate::view::View;

/// Turns snapshots into what applications see: projects, serves, commits and records, in that order, so that a file and
/// the API never disagree for longer than one swap, unless files cannot be written at all.
pub struct Engine {
    parts: Parts,
    declared: Arc<Declared>,
    watch: Watch,
    view: Arc<View>,
    outputs: Option<Outputs>,
    /// What was projected last, so that nothing is converted twice.
    latest: Option<Arc<Projection>>,
    /// What was delivered last.
    delivered: Option<Arc<Projection>>,
    unproved: bool,
    warned: HashSet<(String, &'static str)>,
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

type Snapshots = HashMap<FetchRequest, Arc<Snapshot>>;

impl Engine {
    /// Begins to watch what is declared. Without `outputs` no files are written, until [`Self::set_outputs`].
    #[must_use]
    pub fn new(parts: Parts, declared: Declared, outputs: Option<Outputs>) -> Self {
        let watch = parts.broker.watch(items(&declared));
        let view = View::new(&parts.broker);
        let declared = Arc::new(declared);
        // Names are known before anyone can ask; their values are on their way.
        view.publish(&declared, declared.specs.iter().map(answers::on_its_way).collect());
        Self {
            parts,
            declared,
            watch,
            view,
            outputs,
            latest: None,
            delivered: None,
            unproved: false,
            warned: HashSet::new(),
        }
    }

    /// Goes on with another declaration. The old watch ends only after the new one holds its objects, so that what
    /// both declare is not read again.
    pub fn redeclare(&mut self, declared: Declared) {
        self.watch = self.parts.broker.watch(items(&declared));
        self.declared = Arc::new(declared);
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
    pub fn distrust(&mut self) {
        if let Some(outputs) = &mut self.outputs {
            outputs.distrust();
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
        self.delivered.is_some()
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
                self.serve(&projection, &self.snapshots());
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
    pub async fn pass(&mut self) -> Pass {
        let (projection, missing) = self.look().await;
        if self.unproved || (!missing.is_empty() && !self.is_complete()) {
            return Pass { missing, ..Pass::default() };
        }
        let wrote = match self.write(&projection).await {
            Ok(wrote) => wrote,
            Err(error) => {
                tracing::error!(%error, "the files could not be written; readers keep what they have");
                return Pass { missing, failure: Some(error), ..Pass::default() };
            }
        };
        let changed = self.changes(&projection);
        if self.outputs.is_some() {
            record::deliveries(&self.parts, &self.declared, &changed);
        }
        let changed = changed.into_iter().map(|entry| self.change(entry)).collect();
        self.delivered = Some(projection);
        Pass { missing, failure: None, changed, wrote }
    }

    /// Projects the current snapshots and shows them in the view, and writes nothing: how large a directory must be
    /// made before [`Self::set_outputs`]. The next [`Self::pass`] converts nothing again.
    pub async fn snapshot_tree(&mut self) -> (Pass, Tree) {
        let (projection, missing) = self.look().await;
        (Pass { missing, ..Pass::default() }, projection.tree.clone())
    }

    /// Removes generations whose grace is over.
    pub async fn sweep(&mut self) {
        if let Some(outputs) = &mut self.outputs {
            outputs.sweep().await;
        }
    }

    async fn look(&mut self) -> (Arc<Projection>, Vec<(String, Error)>) {
        let snapshots = self.snapshots();
        let projection = match &self.latest {
            Some(latest) if self.unproved => Arc::clone(latest),
            _ => self.project(snapshots.clone()).await,
        };
        self.latest = Some(Arc::clone(&projection));
        self.warn(&projection, &snapshots);
        self.serve(&projection, &snapshots);
        let missing = projection.missing_required.clone();
        (projection, missing)
    }

    fn snapshots(&self) -> Snapshots {
        self.watch.snapshots().into_iter().map(|snapshot| (snapshot.key.request.clone(), snapshot)).collect()
    }

    /// Conversions may derive keys: they run off the thread that answers lookups.
    async fn project(&self, snapshots: Snapshots) -> Arc<Projection> {
        let (declared, previous) = (Arc::clone(&self.declared), self.latest.clone());
        let plain = declared.specs.iter().all(|spec| is_plain(spec, &snapshots));
        // Lives as long as this call: a caller whose patience ends takes the result along, and the rest is not made.
        let wanted = conversions::Wanted::default();
        let given_up = wanted.watch();
        let work = move || {
            let of = |source: &ObjectSource| {
                let wanted = !given_up.is_so();
                wanted.then(|| snapshots.get(&request(source)).cloned()).flatten()
            };
            Arc::new(project(&declared.specs, &of, previous.as_deref(), &declared.defaults))
        };
        if plain {
            return work();
        }
        let kept = || self.latest.clone().unwrap_or_else(|| Arc::new(nothing(&self.declared)));
        conversions::aside(work).await.unwrap_or_else(kept)
    }

    async fn write(&mut self, projection: &Projection) -> Result<Option<Committed>> {
        let Some(outputs) = &mut self.outputs else { return Ok(None) };
        let start = Instant::now();
        let result = outputs.commit(projection.tree.clone()).await;
        if !matches!(result, Ok(Committed::Unchanged)) {
            let error = result.as_ref().err().map(Error::code);
            let files = projection.tree.files.len();
            self.parts.observer.event(&Event::Written { files, duration: start.elapsed(), error });
        }
        result.map(|committed| {
            if let Committed::Swapped { files, generation } = committed {
                tracing::info!(files, generation, "files written");
            }
            Some(committed)
        })
    }

    fn serve(&self, projection: &Projection, snapshots: &Snapshots) {
        let snapshot = |source: &ObjectSource| snapshots.get(&request(source)).map(Arc::as_ref);
        let specs = &self.declared.specs;
        let served = specs
            .iter()
            .filter_map(|spec| Some((spec, projection.entry(&spec.name)?)))
            .map(|(spec, entry)| match &spec.source {
                Source::Object(source) => answers::of_object(entry, source, snapshot(source)),
                Source::Template(text) => {
                    let mentioned = specs.iter().filter(|spec| text.contains(&spec.name));
                    let inputs = mentioned.filter_map(|spec| match &spec.source {
                        Source::Object(source) => snapshot(source),
                        Source::Template(_) => None,
                    });
                    answers::of_template(entry, inputs)
                }
            })
            .map(|served| if self.unproved { doubted(served) } else { served })
            .collect();
        self.view.publish(&self.declared, served);
    }

    fn changes<'a>(&self, projection: &'a Projection) -> Vec<&'a Projected> {
        let before = self.delivered.as_deref();
        projection
            .entries
            .iter()
            .filter(|entry| {
                !before.and_then(|before| before.entry(&entry.name)).is_some_and(|old| old.same_as(entry))
            })
            .collect()
    }

    fn change(&self, entry: &Projected) -> Change {
        let spec = self.declared.specs.iter().find(|spec| spec.name == entry.name);
        Change {
            name: entry.name.clone(),
            version: entry.version.clone(),
            removed: entry.removed,
            notify: spec.and_then(|spec| spec.notify.clone()),
        }
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

/// Nothing is fresh for a reader whose right to read is in doubt.
fn doubted(served: Served) -> Served {
    match served.state {
        State::Fresh => Served { state: State::Stale, ..served },
        State::Pending | State::Stale | State::Expired | State::Revoked => served,
    }
}

/// What a defect leaves: no entry, and none of them complete, so that no volume is mounted empty.
fn nothing(declared: &Declared) -> Projection {
    let reason = Error::new(Code::Internal, "the volume's content could not be converted");
    let missing = declared.specs.iter().map(|spec| (spec.name.clone(), reason.clone()));
    Projection { missing_required: missing.collect(), ..Projection::default() }
}

/// Whether its value is delivered as the provider gives it, so that projecting it is a matter of counting references.
fn is_plain(spec: &ObjectSpec, snapshots: &Snapshots) -> bool {
    let Source::Object(source) = &spec.source else { return false };
    let as_it_is = source.key.is_none() && source.decode == Decode::None && source.password_from.is_none();
    let content = || Some(&snapshots.get(&request(source))?.fetched.as_ref()?.content);
    as_it_is
        && match source.format {
            Format::Raw => true,
            // What backs a certificate is taken apart.
            Format::Azure | Format::AzurePfx => {
                content().is_none_or(|content| matches!(content, Content::Secret { bundle: None, .. }))
            }
            _ => false,
        }
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
