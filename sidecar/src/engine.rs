mod answers;
mod outputs;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, Watch, WatchItem};
use keyward_core::audit::{Action, Actor, AuditEvent, AuditSink};
use keyward_core::config::Config;
use keyward_core::observe::{Event, Observer};
use keyward_core::spec::{Notify, ObjectSource, ObjectSpec, Source};
use keyward_core::{Clock, Error, FetchRequest, IdentityKey, ObjectKey, Result, Snapshot};
use keyward_delivery::atomic::Committed;
use keyward_delivery::notify::Notifier;
use keyward_delivery::projection::{Defaults, Projected, Projection, project};
use tokio::time::Instant;

pub(crate) use outputs::Outputs;

use crate::restart::Kept;
use crate::view::View;

/// Replaced generations stay readable for one to two of these.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Turns snapshots into what applications see: projects, commits, serves, records and notifies, in that order, so that
/// a file and the API never disagree for longer than one swap, unless files cannot be written at all.
pub(crate) struct Engine {
    pub(crate) parts: Parts,
    pub(crate) specs: Vec<ObjectSpec>,
    pub(crate) defaults: Defaults,
    pub(crate) identity: Arc<IdentityKey>,
    pub(crate) watch: Watch,
    projection: Option<Arc<Projection>>,
    complete: bool,
    warned: HashSet<(String, &'static str)>,
}

/// What one pass found.
pub(crate) struct Pass {
    /// Required entries without a value, each with its reason.
    pub(crate) missing: Vec<(String, Error)>,
    /// Why files could not be written.
    pub(crate) failure: Option<Error>,
}

/// The parts that an engine is made of.
pub(crate) struct Parts {
    pub(crate) broker: Arc<Broker>,
    pub(crate) view: Arc<View>,
    pub(crate) outputs: Option<Outputs>,
    pub(crate) kept: Option<Kept>,
    pub(crate) notifier: Notifier,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Engine {
    /// Begins to watch what `config` declares, for `identity`.
    pub(crate) fn new(parts: Parts, config: &Config, identity: Arc<IdentityKey>) -> Self {
        let watch = parts.broker.watch(items(&config.objects, &identity));
        // Names are known before anyone can ask; their values are on their way.
        parts.view.publish(
            &config.objects,
            &identity,
            config.objects.iter().map(answers::on_its_way).collect(),
        );
        Self {
            parts,
            specs: config.objects.clone(),
            defaults: defaults(config),
            identity,
            watch,
            projection: None,
            complete: false,
            warned: HashSet::new(),
        }
    }

    /// Goes on with another declaration. The old watch ends only after the new one holds its objects, so that what
    /// both declare is not read again.
    pub(crate) fn redeclare(&mut self, config: &Config, identity: Arc<IdentityKey>) {
        self.watch = self.parts.broker.watch(items(&config.objects, &identity));
        self.specs.clone_from(&config.objects);
        self.defaults = defaults(config);
        self.identity = identity;
    }

    /// Whether every required entry has been delivered once.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Projects the current snapshots and delivers what changed. Until everything required is there once, no file is
    /// written (promise 1); from then on one entry's failure is its own (promise 5).
    pub(crate) async fn pass(&mut self) -> Pass {
        let snapshots: HashMap<FetchRequest, Arc<Snapshot>> = self
            .watch
            .snapshots()
            .into_iter()
            .map(|snapshot| (snapshot.key.request.clone(), snapshot))
            .collect();
        let projection = self.project(snapshots.clone()).await;
        let missing = projection.missing_required.clone();
        self.warn(&projection, &snapshots);
        self.serve(&projection, &snapshots);
        if !missing.is_empty() && !self.complete {
            return Pass { missing, failure: None };
        }
        let failure = self.write(&projection).await.err();
        if let Some(error) = &failure {
            tracing::error!(%error, "the files could not be written; readers keep what they have");
            return Pass { missing, failure };
        }
        let changed = self.changed(&projection);
        self.record(&changed);
        if self.complete {
            self.tell(&changed);
        }
        self.complete = true;
        self.projection = Some(projection);
        self.keep().await;
        Pass { missing, failure: None }
    }

    /// Keeps the current snapshot for a restart.
    pub(crate) async fn keep(&mut self) {
        if let Some(kept) = &mut self.parts.kept {
            kept.save(self.parts.broker.export()).await;
        }
    }

    /// Removes generations whose grace is over.
    pub(crate) async fn sweep(&mut self) {
        if let Some(outputs) = &mut self.parts.outputs {
            outputs.sweep().await;
        }
    }

    /// Conversions may derive keys: they run off the thread that answers lookups.
    async fn project(&self, snapshots: HashMap<FetchRequest, Arc<Snapshot>>) -> Arc<Projection> {
        let (specs, defaults, previous) = (self.specs.clone(), self.defaults, self.projection.clone());
        let work = move || {
            let of = |source: &ObjectSource| snapshots.get(&request(source)).cloned();
            Arc::new(project(&specs, &of, previous.as_deref(), &defaults))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(projection) => projection,
            // Only a panic of projection itself ends here, and it was reported by the panic hook.
            Err(_) => self.projection.clone().unwrap_or_default(),
        }
    }

    async fn write(&mut self, projection: &Projection) -> Result<()> {
        let Some(outputs) = &mut self.parts.outputs else { return Ok(()) };
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
        })
    }

    fn serve(&self, projection: &Projection, snapshots: &HashMap<FetchRequest, Arc<Snapshot>>) {
        let snapshot = |source: &ObjectSource| snapshots.get(&request(source)).map(Arc::as_ref);
        let served = self
            .specs
            .iter()
            .filter_map(|spec| Some((spec, projection.entry(&spec.name)?)))
            .map(|(spec, entry)| match &spec.source {
                Source::Object(source) => answers::of_object(entry, source, snapshot(source)),
                Source::Template(text) => {
                    let mentioned = self.specs.iter().filter(|spec| text.contains(&spec.name));
                    let inputs = mentioned.filter_map(|spec| match &spec.source {
                        Source::Object(source) => snapshot(source),
                        Source::Template(_) => None,
                    });
                    answers::of_template(entry, inputs)
                }
            })
            .collect();
        self.parts.view.publish(&self.specs, &self.identity, served);
    }

    fn changed<'a>(&self, projection: &'a Projection) -> Vec<&'a Projected> {
        let before = self.projection.as_deref();
        projection
            .entries
            .iter()
            .filter(|entry| {
                !before.and_then(|before| before.entry(&entry.name)).is_some_and(|old| old.same_as(entry))
            })
            .collect()
    }

    /// One record for each entry that was handed over or removed.
    fn record(&self, changed: &[&Projected]) {
        if self.parts.outputs.is_none() {
            return;
        }
        for entry in changed.iter().filter(|entry| entry.removed || !entry.files.is_empty()) {
            let spec = self.specs.iter().find(|spec| spec.name == entry.name);
            let object = spec
                .and_then(ObjectSpec::object)
                .map_or_else(|| format!("template:{}", entry.name), ToString::to_string);
            let event = AuditEvent {
                at: self.parts.clock.wall(),
                actor: Actor::Keyward,
                action: if entry.removed { Action::Remove } else { Action::Deliver },
                object,
                version: entry.version.as_ref().map(ToString::to_string),
                identity: Some(self.identity.to_string()),
                error: None,
                trace_id: None,
                request_id: None,
            };
            // Files are there already; a log that cannot take it has reported the gap itself.
            let _ = self.parts.audit.record(event);
        }
    }

    fn tell(&self, changed: &[&Projected]) {
        let mut groups: HashMap<&Notify, Vec<String>> = HashMap::new();
        for entry in changed {
            let spec = self.specs.iter().find(|spec| spec.name == entry.name);
            if let Some(notify) = spec.and_then(|spec| spec.notify.as_ref()) {
                groups.entry(notify).or_default().push(entry.name.clone());
            }
        }
        for (notify, names) in groups {
            self.parts.notifier.changed(notify, names);
        }
    }

    /// Each (entry, reason) is said once until it changes. An object that nobody has asked for yet is no news.
    fn warn(&mut self, projection: &Projection, snapshots: &HashMap<FetchRequest, Arc<Snapshot>>) {
        if !self.complete && snapshots.values().any(|snapshot| answers::untried(snapshot)) {
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

fn request(source: &ObjectSource) -> FetchRequest {
    FetchRequest { object: source.object.clone(), parts: source.parts() }
}

fn items(specs: &[ObjectSpec], identity: &Arc<IdentityKey>) -> Vec<WatchItem> {
    specs
        .iter()
        .filter_map(|spec| match &spec.source {
            Source::Object(source) => Some(WatchItem {
                key: ObjectKey { identity: Arc::clone(identity), request: request(source) },
                refresh: spec.refresh,
            }),
            Source::Template(_) => None,
        })
        .collect()
}

fn defaults(config: &Config) -> Defaults {
    config.files.as_ref().map_or(Defaults { mode: 0o444, uid: None, gid: None }, |files| Defaults {
        mode: files.mode,
        uid: files.uid,
        gid: files.gid,
    })
}

#[cfg(test)]
mod tests;
