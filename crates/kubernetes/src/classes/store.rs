#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts and sizes of what is kept: each is added before it is taken away"
)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use keyward_core::Error;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::item::{ClassItem, Metadata, Spec};
use super::{Class, ClassLimits, Lookup};
use crate::mirror::Mirror;

/// Classes that volumes have asked for, remembered at most; a node runs a few hundred pods.
const WANTED: usize = 1024;

/// What is known of the classes.
pub(super) struct Store {
    limits: ClassLimits,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    known: HashMap<Key, Kept>,
    wanted: VecDeque<Key>,
    /// Bytes of the classes in `known` that nobody asked for.
    spare_bytes: usize,
    spare_count: usize,
    synced: bool,
    installed: bool,
    /// Whether there is a class that was not kept.
    passed_over: bool,
    passing_over: bool,
    list: u64,
    trouble: Option<Error>,
    revision: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    name: String,
}

struct Kept {
    slot: Slot,
    bytes: usize,
    /// A volume has asked for it, so that it does not count.
    wanted: bool,
    /// The list, or the one before the watch, that had it last.
    list: u64,
}

enum Slot {
    Whole(Arc<Class>),
    Broken { error: Error, resource_version: String },
}

impl Store {
    pub(super) fn new(limits: ClassLimits) -> Self {
        Self { limits, state: Mutex::default(), changed: watch::Sender::new(0) }
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Lookup {
        let state = self.state.lock();
        match state.known.get(&Key::new(namespace, name)) {
            Some(Kept { slot: Slot::Whole(class), .. }) => Lookup::Found(Arc::clone(class)),
            Some(Kept { slot: Slot::Broken { error, .. }, .. }) => Lookup::Broken(error.clone()),
            None if state.synced => Lookup::Absent,
            None => Lookup::NotSynced,
        }
    }

    /// Keeps this class whatever the limits say. Answers whether that is new.
    pub(super) fn want(&self, namespace: &str, name: &str) -> bool {
        let key = Key::new(namespace, name);
        let mut state = self.state.lock();
        let at = state.wanted.iter().position(|wanted| *wanted == key);
        if let Some(at) = at {
            state.wanted.remove(at);
        }
        state.wanted.push_back(key.clone());
        if state.wanted.len() > WANTED {
            state.wanted.pop_front();
        }
        if let Some(mut kept) = state.take(&key) {
            kept.wanted = true;
            state.known.insert(key, kept);
        }
        at.is_none()
    }

    /// Keeps a class that was fetched, unless the watch has told of it meanwhile and thus knows better.
    pub(super) fn put_wanted(&self, item: ClassItem) {
        self.want(&item.metadata.namespace, &item.metadata.name);
        if !self.state.lock().known.contains_key(&Key::of(&item.metadata)) {
            self.put(item);
        }
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn trouble(&self) -> Option<Error> {
        self.state.lock().trouble.clone()
    }

    pub(super) fn is_installed(&self) -> bool {
        self.state.lock().installed
    }

    /// Whether there was a class without room, so that absent may mean not kept.
    pub(super) fn was_passed_over(&self) -> bool {
        self.state.lock().passed_over
    }

    pub(super) fn count(&self) -> usize {
        self.state.lock().known.len()
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

impl Mirror for Store {
    type Item = ClassItem;

    fn begin(&self) {
        let mut state = self.state.lock();
        state.list += 1;
        state.passing_over = false;
    }

    fn complete(&self) {
        let mut state = self.state.lock();
        let mut moved = !std::mem::replace(&mut state.synced, true);
        (state.installed, state.trouble, state.passed_over) = (true, None, state.passing_over);
        let list = state.list;
        let gone: Vec<_> =
            state.known.iter().filter(|(_, kept)| kept.list != list).map(|(key, _)| key.clone()).collect();
        for key in gone {
            moved |= state.take(&key).is_some();
        }
        drop(state);
        if moved {
            self.tell();
        }
    }

    fn put(&self, item: ClassItem) {
        let moved = self.state.lock().put(item, self.limits);
        if moved {
            self.tell();
        }
    }

    fn remove(&self, item: ClassItem) {
        let taken = self.state.lock().take(&Key::of(&item.metadata));
        if taken.is_some() {
            self.tell();
        }
    }

    fn not_installed(&self) {
        let mut state = self.state.lock();
        let moved = !state.synced || !state.known.is_empty();
        let (wanted, revision, list) = (std::mem::take(&mut state.wanted), state.revision, state.list);
        *state = State { synced: true, wanted, revision, list, ..State::default() };
        drop(state);
        if moved {
            self.tell();
        }
    }

    fn trouble(&self, error: &Error) {
        self.state.lock().trouble = Some(error.clone());
    }
}

impl State {
    fn take(&mut self, key: &Key) -> Option<Kept> {
        let kept = self.known.remove(key)?;
        if !kept.wanted {
            self.spare_bytes -= kept.bytes;
            self.spare_count -= 1;
        }
        Some(kept)
    }

    /// Keeps `item` instead of what is known of it. Answers whether readers see a difference.
    fn put(&mut self, mut item: ClassItem, limits: ClassLimits) -> bool {
        let key = Key::of(&item.metadata);
        let before = self.take(&key).map(|kept| kept.slot);
        let known = before.is_some();
        let (slot, bytes, moved) = match item.spec(limits.bytes) {
            Ok(spec) => {
                let bytes = spec.size();
                let (class, moved) = self.whole(item.metadata, spec, before);
                (Slot::Whole(class), bytes, moved)
            }
            Err(error) => {
                let (slot, moved) = broken(item.metadata, error, before);
                (slot, 0, moved)
            }
        };
        let wanted = self.wanted.contains(&key);
        if !wanted && !self.has_room(bytes, limits) {
            return known;
        }
        if !wanted {
            self.spare_bytes += bytes;
            self.spare_count += 1;
        }
        self.known.insert(key, Kept { slot, bytes, wanted, list: self.list });
        moved
    }

    fn whole(&mut self, metadata: Metadata, spec: Spec, before: Option<Slot>) -> (Arc<Class>, bool) {
        if let Some(Slot::Whole(class)) = before
            && says(&class, &metadata, &spec)
        {
            return (class, false);
        }
        self.revision += 1;
        let class = Class {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            revision: self.revision,
            provider: spec.provider,
            parameters: spec.parameters,
            secret_objects: spec.secret_objects,
        };
        (Arc::new(class), true)
    }

    fn has_room(&mut self, bytes: usize, limits: ClassLimits) -> bool {
        if self.spare_count < limits.count && self.spare_bytes + bytes <= limits.total_bytes {
            return true;
        }
        self.passing_over = true;
        if !std::mem::replace(&mut self.passed_over, true) {
            tracing::warn!(
                kept = self.known.len(),
                "more SecretProviderClasses than are kept; the others are fetched when a volume asks for them"
            );
        }
        false
    }
}

fn broken(metadata: Metadata, error: Error, before: Option<Slot>) -> (Slot, bool) {
    let resource_version = metadata.resource_version;
    let moved = !matches!(&before,
        Some(Slot::Broken { resource_version: old, .. }) if *old == resource_version);
    if moved {
        tracing::debug!(%error, "a SecretProviderClass cannot be used");
    }
    (Slot::Broken { error, resource_version }, moved)
}

fn says(class: &Class, metadata: &Metadata, spec: &Spec) -> bool {
    class.uid == metadata.uid
        && class.provider == spec.provider
        && class.parameters == spec.parameters
        && class.secret_objects == spec.secret_objects
}

impl Key {
    fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn of(metadata: &Metadata) -> Self {
        Self::new(&metadata.namespace, &metadata.name)
    }
}
