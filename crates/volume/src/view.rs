use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use keyward_broker::Broker;
use keyward_core::ledger::Account;
use keyward_core::spec::{ObjectSpec, Source};
use keyward_core::{Code, Error, FetchRequest, ObjectKey, Result, SecretView, Served, Snapshot, Version};
use keyward_delivery::content::{as_it_is, convert};
use keyward_delivery::conversions::{Payer, Turn};
use keyward_delivery::projection::with_newline;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::LARGEST_VALUE;
use crate::engine::{Declared, request};

/// What the local API reads: a table that the engine replaces whole.
pub struct View {
    table: ArcSwap<Table>,
    generation: watch::Sender<u64>,
    broker: Weak<Broker>,
    conversions: Payer,
    /// Pays for versions that are asked for and are not declared.
    account: Account,
    unproved: AtomicBool,
    closed: CancellationToken,
}

#[derive(Default)]
struct Table {
    served: BTreeMap<String, Arc<Served>>,
    declared: Option<Arc<Declared>>,
}

impl View {
    pub(crate) fn new(broker: &Arc<Broker>, conversions: Payer, account: Account) -> Arc<Self> {
        Arc::new(Self {
            table: ArcSwap::default(),
            generation: watch::Sender::new(0),
            broker: Arc::downgrade(broker),
            conversions,
            account,
            unproved: AtomicBool::new(false),
            closed: CancellationToken::new(),
        })
    }

    /// Ends the calls that wait for a vault or a conversion: the volume is about to go.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Serves a new table. Watchers are woken only by what they would see: a confirmation alone moves no sequence.
    pub(crate) fn publish(&self, declared: &Arc<Declared>, served: Vec<Served>) {
        let old = self.table.load();
        let mut changed = served.len() != old.served.len();
        let served = served
            .into_iter()
            .map(|mut new| {
                let before = old.served.get(&new.name);
                let same = before.is_some_and(|before| looks_the_same(before, &new));
                changed |= !same;
                new.sequence = before.map_or(0, |before| before.sequence).saturating_add(u64::from(!same));
                (new.name.clone(), Arc::new(new))
            })
            .collect();
        self.table.store(Arc::new(Table { served, declared: Some(Arc::clone(declared)) }));
        if changed {
            self.generation.send_modify(|generation| *generation = generation.saturating_add(1));
        }
    }

    /// Whether to ask nobody upstream, because the right to read is in doubt.
    pub(crate) fn set_unproved(&self, unproved: bool) {
        self.unproved.store(unproved, Ordering::Relaxed);
    }

    /// The entry `name`, and the broker to ask about it.
    fn upstream(&self, name: &str) -> Result<(Arc<Broker>, ObjectSpec, ObjectKey)> {
        let table = self.table.load();
        let unknown = || Error::new(Code::UnknownName, format!("{name} is not declared for this pod"));
        let declared = table.declared.as_deref().ok_or_else(unknown)?;
        let spec = declared.specs.iter().find(|spec| spec.name == name).ok_or_else(unknown)?;
        let Source::Object(source) = &spec.source else { return Err(no_upstream(name)) };
        if self.unproved.load(Ordering::Relaxed) {
            return Err(Error::new(
                Code::IdentityUnproved,
                "the pod's identity could not be proved again; nothing new is read in its name until it is",
            )
            .object(&source.object));
        }
        let stopping = || Error::new(Code::ShuttingDown, "Keyward is shutting down");
        let broker = self.broker.upgrade().ok_or_else(stopping)?;
        let key = ObjectKey { identity: Arc::clone(&declared.identity), request: request(source) };
        Ok((broker, spec.clone(), key))
    }

    /// What a template or a key store needs besides the object itself comes from the table. Runs in the pod's turn.
    async fn convert(&self, spec: ObjectSpec, snapshot: Arc<Snapshot>) -> Result<Arc<Served>> {
        let Source::Object(source) = &spec.source else { return Err(no_upstream(&spec.name)) };
        let fetched = snapshot.fetched.clone().ok_or_else(|| {
            snapshot
                .error
                .clone()
                .unwrap_or_else(|| Error::new(Code::VaultUnavailable, "the object was not read yet"))
        })?;
        let password = match &source.password_from {
            None => None,
            Some(from) => Some(
                self.get(from)
                    .ok_or_else(|| {
                        Error::new(Code::UnknownName, format!("{from} is not declared for this pod"))
                    })?
                    .value
                    .clone()?,
            ),
        };
        let value = match as_it_is(source, &fetched).filter(|_| !spec.newline) {
            Some(converted) => converted?.value,
            None => {
                let (spec, source, fetched) = (spec.clone(), source.clone(), Arc::clone(&fetched));
                let work = move |turn: &Turn| {
                    let converted = convert(turn, &source, &fetched, password.as_ref())?;
                    Ok(with_newline(&spec, &converted.value))
                };
                self.conversions.run(work).await??
            }
        };
        Ok(Arc::new(Served {
            name: spec.name.clone(),
            value: Ok(value),
            version: Some(fetched.version.clone()),
            source: source.object.to_string(),
            content_type: fetched.content_type.clone(),
            created: fetched.created,
            updated: fetched.updated,
            expires: fetched.expires,
            fetched: snapshot.confirmed,
            state: snapshot.state,
            error: snapshot.error.clone(),
            sequence: snapshot.sequence,
        }))
    }

    async fn unless_closed<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let closed = || Error::new(Code::ShuttingDown, "the volume is being unmounted");
        self.closed.run_until_cancelled(work).await.unwrap_or_else(|| Err(closed()))
    }
}

#[async_trait]
impl SecretView for View {
    fn get(&self, name: &str) -> Option<Arc<Served>> {
        self.table.load().served.get(name).cloned()
    }

    fn list(&self) -> Vec<Arc<Served>> {
        self.table.load().served.values().cloned().collect()
    }

    async fn version(&self, name: &str, version: &str) -> Result<Arc<Served>> {
        let version = Version::parse(version)?;
        if let Some(current) = self.get(name)
            && current.version.as_ref() == Some(&version)
        {
            return Ok(current);
        }
        let (broker, spec, key) = self.upstream(name)?;
        let request = FetchRequest { object: key.request.object.at(version), parts: key.request.parts };
        self.unless_closed(async {
            let key = ObjectKey { request, ..key };
            let snapshot = broker.get_charged(&key, &self.account, LARGEST_VALUE).await?;
            self.convert(spec, snapshot).await
        })
        .await
    }

    async fn refresh(&self, name: &str) -> Result<Arc<Served>> {
        let (broker, spec, key) = self.upstream(name)?;
        self.unless_closed(async {
            let snapshot = broker.refresh(&key).await?;
            self.convert(spec, snapshot).await
        })
        .await
    }

    fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    async fn changed(&self, seen: u64) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.generation.subscribe().wait_for(|now| *now != seen).await;
    }
}

fn no_upstream(name: &str) -> Error {
    Error::new(Code::ObjectInvalid, format!("{name} is a template: ask for the objects that it is made of"))
}

fn looks_the_same(old: &Served, new: &Served) -> bool {
    old.state == new.state
        && old.version == new.version
        && old.error.as_ref().map(Error::code) == new.error.as_ref().map(Error::code)
        && match (&old.value, &new.value) {
            // A projection takes over what is the same from the one before, so that no byte is looked at here.
            (Ok(old), Ok(new)) => old.shares(new),
            (Err(old), Err(new)) => old.code() == new.code(),
            _ => false,
        }
}
