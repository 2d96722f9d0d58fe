use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use keyward_core::Error;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::item::{ClassItem, Metadata};
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
    known: HashMap<Key, Slot>,
    wanted: VecDeque<Key>,
    /// Bytes of the classes in `known` that nobody asked for.
    spare_bytes: usize,
    spare_count: usize,
    synced: bool,
    installed: bool,
    passed_over: bool,
    trouble: Option<Error>,
    revision: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    name: String,
}

enum Slot {
    Whole { class: Arc<Class>, bytes: usize, wanted: bool },
    Broken { error: Error, resource_version: String, wanted: bool },
}

impl Slot {
    fn spare_bytes(&self) -> Option<usize> {
        match self {
            Self::Whole { bytes, wanted: false, .. } => Some(*bytes),
            Self::Broken { wanted: false, .. } => Some(0),
            _ => None,
        }
    }

    fn want(&mut self) {
        match self {
            Self::Whole { wanted, .. } | Self::Broken { wanted, .. } => *wanted = true,
        }
    }
}

impl Store {
    pub(super) fn new(limits: ClassLimits) -> Self {
        Self { limits, state: Mutex::default(), changed: watch::Sender::new(0) }
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Lookup {
        let state = self.state.lock();
        match state.known.get(&Key::new(namespace, name)) {
            Some(Slot::Whole { class, .. }) => Lookup::Found(Arc::clone(class)),
            Some(Slot::Broken { error, .. }) => Lookup::Broken(error.clone()),
            None if state.synced => Lookup::Absent,
            None => Lookup::NotSynced,
        }
    }

    /// Keeps this class whatever the limits say.
    pub(super) fn want(&self, namespace: &str, name: &str) {
        let key = Key::new(namespace, name);
        let mut state = self.state.lock();
        if let Some(at) = state.wanted.iter().position(|k| *k == key) {
            state.wanted.remove(at);
        }
        state.wanted.push_back(key.clone());
        if state.wanted.len() > WANTED {
            state.wanted.pop_front();
        }
        if let Some(slot) = state.known.get_mut(&key) {
            let spare = slot.spare_bytes();
            slot.want();
            state.give_back(spare);
        }
    }

    pub(super) fn put_wanted(&self, item: ClassItem) {
        self.want(&item.metadata.namespace, &item.metadata.name);
        self.put(item);
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

    fn replace(&self, items: Vec<ClassItem>) {
        let mut state = self.state.lock();
        let was_synced = std::mem::replace(&mut state.synced, true);
        (state.installed, state.trouble, state.passed_over) = (true, None, false);
        let mut old = std::mem::take(&mut state.known);
        (state.spare_bytes, state.spare_count) = (0, 0);
        let mut moved = !was_synced;
        for item in items {
            let before = old.remove(&Key::of(&item.metadata));
            moved |= state.insert(item, before, self.limits);
        }
        moved |= !old.is_empty();
        drop(state);
        if moved {
            self.tell();
        }
    }

    fn put(&self, item: ClassItem) {
        let mut state = self.state.lock();
        let before = state.take(&Key::of(&item.metadata));
        let moved = state.insert(item, before, self.limits);
        drop(state);
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
        let (wanted, revision) = (std::mem::take(&mut state.wanted), state.revision);
        *state = State { synced: true, wanted, revision, ..State::default() };
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
    fn take(&mut self, key: &Key) -> Option<Slot> {
        let slot = self.known.remove(key)?;
        self.give_back(slot.spare_bytes());
        Some(slot)
    }

    fn give_back(&mut self, spare: Option<usize>) {
        if let Some(bytes) = spare {
            self.spare_bytes -= bytes;
            self.spare_count -= 1;
        }
    }

    /// Keeps `item`, which replaces `before`. Answers whether readers see a difference.
    fn insert(&mut self, mut item: ClassItem, before: Option<Slot>, limits: ClassLimits) -> bool {
        let key = Key::of(&item.metadata);
        let (wanted, known) = (self.wanted.contains(&key), before.is_some());
        let (slot, moved) = match item.spec(limits.bytes) {
            Err(error) => {
                let resource_version = item.metadata.resource_version;
                let moved = !matches!(&before,
                    Some(Slot::Broken { resource_version: old, .. }) if *old == resource_version);
                if moved {
                    tracing::debug!(%error, "a SecretProviderClass cannot be used");
                }
                (Slot::Broken { error, resource_version, wanted }, moved)
            }
            Ok(spec) => {
                let bytes = spec.size();
                match before {
                    Some(Slot::Whole { class, .. }) if says(&class, &item.metadata, &spec) => {
                        (Slot::Whole { class, bytes, wanted }, false)
                    }
                    _ => {
                        self.revision += 1;
                        let class = Arc::new(Class {
                            namespace: item.metadata.namespace,
                            name: item.metadata.name,
                            uid: item.metadata.uid,
                            resource_version: item.metadata.resource_version,
                            revision: self.revision,
                            provider: spec.provider,
                            parameters: spec.parameters,
                            secret_objects: spec.secret_objects,
                        });
                        (Slot::Whole { class, bytes, wanted }, true)
                    }
                }
            }
        };
        if self.keep(key, slot, limits) { moved } else { known }
    }

    fn keep(&mut self, key: Key, slot: Slot, limits: ClassLimits) -> bool {
        if let Some(bytes) = slot.spare_bytes() {
            if self.spare_count >= limits.count || self.spare_bytes + bytes > limits.total_bytes {
                if !std::mem::replace(&mut self.passed_over, true) {
                    tracing::warn!(
                        kept = self.known.len(),
                        "more SecretProviderClasses than are kept; the others are fetched when a volume asks for them"
                    );
                }
                return false;
            }
            self.spare_bytes += bytes;
            self.spare_count += 1;
        }
        self.known.insert(key, slot);
        true
    }
}

fn says(class: &Class, metadata: &Metadata, spec: &super::item::Spec) -> bool {
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
