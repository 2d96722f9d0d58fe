use std::collections::HashMap;
use std::sync::Arc;

use keyward_broker::{Broker, Watch, WatchItem};
use keyward_core::ledger::Charge;
use keyward_core::spec::{ObjectSpec, Source};
use keyward_core::{Error, FetchRequest, ObjectKey};
use keyward_volume::{Declared, Engine};

use super::Histories;
use crate::identities::Tenant;
use crate::plan::{Basis, Expanded, Plan};
use crate::shares::OfVolume;

/// A declaration that takes over once all that it requires is at hand: an edit of a class, or a new version in a
/// history, shows all at once or not at all.
pub(super) struct Pending {
    pub(super) plan: Plan,
    pub(super) basis: Basis,
    pub(super) tenant: Arc<Tenant>,
    pub(super) expanded: Expanded,
    pub(super) histories: Histories,
    pub(super) hosts: OfVolume,
    watch: Watch,
    /// For what is read before it can take over.
    _reserved: Charge,
}

impl Pending {
    /// Begins to read what `expanded` declares, for which there is room.
    #[expect(clippy::too_many_arguments, reason = "each is a part of what takes over")]
    pub(super) fn begin(
        broker: &Arc<Broker>,
        plan: Plan,
        basis: Basis,
        tenant: Arc<Tenant>,
        expanded: Expanded,
        histories: Histories,
        hosts: OfVolume,
        reserved: Charge,
    ) -> Self {
        let watch = broker.watch(items(&expanded.specs, &tenant));
        Self { plan, basis, tenant, expanded, histories, hosts, watch, _reserved: reserved }
    }

    /// Returns when something may have become available. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        self.watch.changed().await;
    }

    /// Whether it can take over; otherwise why not, once the reason is known.
    /// After a restart what is only remembered does not count: the provider must have been asked.
    pub(super) fn readiness(&self, engine: &Engine) -> Result<(), Option<Error>> {
        let snapshots = self.watch.snapshots();
        // A declaration may have a thousand objects, and each of them that is read asks again.
        let known: HashMap<_, _> =
            snapshots.iter().map(|snapshot| (&snapshot.key.request, snapshot)).collect();
        let required = |spec: &&ObjectSpec| !spec.optional;
        for spec in self.expanded.specs.iter().filter(required) {
            let Source::Object(source) = &spec.source else { continue };
            let request = FetchRequest { object: source.object.clone(), parts: source.parts() };
            match known.get(&request) {
                Some(snapshot) if engine.would_show(snapshot) => {}
                Some(snapshot) => return Err(snapshot.error.clone()),
                None => return Err(None),
            }
        }
        Ok(())
    }

    pub(super) fn declared(&self) -> Declared {
        Declared {
            specs: self.expanded.specs.clone(),
            defaults: self.plan.defaults,
            identity: Arc::clone(&self.tenant.key),
        }
    }
}

/// What the broker is to keep current for `specs`.
pub(super) fn items(specs: &[ObjectSpec], tenant: &Tenant) -> Vec<WatchItem> {
    specs
        .iter()
        .filter_map(|spec| match &spec.source {
            Source::Object(source) => Some(WatchItem {
                key: ObjectKey {
                    identity: Arc::clone(&tenant.key),
                    request: FetchRequest { object: source.object.clone(), parts: source.parts() },
                },
                refresh: spec.refresh,
            }),
            Source::Template(_) => None,
        })
        .collect()
}
