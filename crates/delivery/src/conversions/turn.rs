#![expect(clippy::arithmetic_side_effects, reason = "times of this boot and bounded slices")]

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward_core::spec::ObjectSource;
use keyward_core::{Code, Content, Error, Fetched, Result, SecretBytes};
use tokio::sync::oneshot;

use super::cache::{Key, Known};
use super::{Place, closed};
use crate::content::Converted;

/// Work for longer than this gives way to other pods.
const SLICE: Duration = Duration::from_millis(20);

/// The right to convert: one piece of work on a thread of the pool. It cannot leave its thread, and only the pool, and
/// [`super::apart`], make one.
pub struct Turn {
    /// Whether it is one of a pool.
    pooled: bool,
    /// `None` outside a pool, and after the pool was closed.
    place: RefCell<Option<Place>>,
    given_up: Arc<AtomicBool>,
    /// When the slice began, and the time worked before it.
    slice: Cell<(Duration, Duration)>,
    stopped: RefCell<Option<Error>>,
    refused: Cell<bool>,
    /// The hashes of contents, each kept alive so that its address stays its own.
    hashed: RefCell<Vec<(Arc<Fetched>, Key)>>,
}

impl Turn {
    pub(super) fn begin(place: Place, given_up: Arc<AtomicBool>) -> Self {
        let now = place.shared.clock.boot();
        Self::with(Some(place), now, given_up)
    }

    pub(super) fn alone() -> Self {
        Self::with(None, Duration::ZERO, Arc::default())
    }

    fn with(place: Option<Place>, now: Duration, given_up: Arc<AtomicBool>) -> Self {
        Self {
            pooled: place.is_some(),
            place: RefCell::new(place),
            given_up,
            slice: Cell::new((now, Duration::ZERO)),
            stopped: RefCell::default(),
            refused: Cell::new(false),
            hashed: RefCell::default(),
        }
    }

    /// To be called between two steps: gives way to other pods when it is their turn.
    ///
    /// # Errors
    /// `KW_SHUTTING_DOWN` when nobody waits for the result any more; `KW_CONTENT_INVALID` when the work takes longer than
    /// `limits.conversionDeadline` allows. Every later call fails too.
    pub fn check(&self) -> Result<()> {
        if let Some(stopped) = self.stopped() {
            return Err(stopped);
        }
        let outcome = self.step();
        if let Err(error) = &outcome {
            *self.stopped.borrow_mut() = Some(error.clone());
        }
        outcome
    }

    /// Why the work ends early, once it does.
    #[must_use]
    pub fn stopped(&self) -> Option<Error> {
        self.stopped.borrow().clone()
    }

    /// Notes that content was refused for what it would cost: its pod waits longer before its next turn.
    pub fn refuse(&self) {
        self.refused.set(true);
    }

    fn step(&self) -> Result<()> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(Error::new(Code::ShuttingDown, "nobody waits for the conversion any more"));
        }
        if !self.pooled {
            return Ok(());
        }
        let Some((shared, pod, job)) =
            self.place.borrow().as_ref().map(|it| (Arc::clone(&it.shared), Arc::clone(&it.pod), it.job))
        else {
            return Err(closed());
        };
        let (began, before) = self.slice.get();
        let now = shared.clock.boot();
        let slice = now.saturating_sub(began);
        if shared.deadline.is_some_and(|deadline| before + slice > deadline) {
            self.refuse();
            return Err(Error::new(
                Code::ContentInvalid,
                "the conversions of the volume take longer than `limits.conversionDeadline` allows",
            ));
        }
        let (give, given) = oneshot::channel();
        {
            let mut queue = shared.queue.lock();
            if queue.is_closed() {
                return Err(closed());
            }
            if slice < SLICE || !queue.is_wanted() {
                return Ok(());
            }
            if let Some(mut rested) = self.place.borrow_mut().take() {
                rested.held = false;
            }
            queue.rest(&pod, job, give);
        }
        shared.dispatch();
        let again = given.blocking_recv().map_err(|_| closed())?;
        *self.place.borrow_mut() = Some(again);
        self.slice.set((shared.clock.boot(), before + slice));
        if self.given_up.load(Ordering::Relaxed) {
            return Err(Error::new(Code::ShuttingDown, "nobody waits for the conversion any more"));
        }
        Ok(())
    }

    /// The result of `convert` over these inputs, remembered from an earlier time or made now.
    pub(crate) fn once(
        &self,
        source: &ObjectSource,
        fetched: &Arc<Fetched>,
        password: Option<&SecretBytes>,
        convert: impl FnOnce() -> Result<Converted>,
    ) -> Result<Converted> {
        self.check()?;
        let key = self.key(source, fetched, password);
        if let Some(known) = key.as_ref().and_then(|key| self.known(key)) {
            if known.refused {
                self.refuse();
            }
            return known.result;
        }
        let refused = self.refused.replace(false);
        let result = convert();
        let now_refused = self.refused.replace(refused);
        self.refused.set(refused || now_refused);
        // What ended early says nothing of the content.
        if result.is_err()
            && let Some(stopped) = self.stopped()
        {
            return Err(stopped.object(&source.object));
        }
        if let (Some(place), Some(key)) = (&*self.place.borrow(), key) {
            place.shared.converted.fetch_add(1, Ordering::Relaxed);
            let known = Known { result: result.clone(), refused: now_refused };
            place.shared.cache.lock().put(&place.pod, key, known);
        }
        result
    }

    fn known(&self, key: &Key) -> Option<Known> {
        let place = self.place.borrow();
        let place = place.as_ref()?;
        place.shared.cache.lock().get(&place.pod, key)
    }

    /// Everything that a result depends on.
    fn key(
        &self,
        source: &ObjectSource,
        fetched: &Arc<Fetched>,
        password: Option<&SecretBytes>,
    ) -> Option<Key> {
        let place = self.place.borrow();
        let secret = &place.as_ref()?.shared.secret;
        let mut hashed = self.hashed.borrow_mut();
        let content = match hashed.iter().find(|(known, _)| Arc::ptr_eq(known, fetched)) {
            Some((_, key)) => *key,
            None => {
                let key = Key::of(secret, content(&fetched.content));
                hashed.push((Arc::clone(fetched), key));
                key
            }
        };
        let object = source.object.to_string();
        let how = format!("{:?} {:?} {:?}", source.decode, source.format, fetched.created);
        let optional =
            |value: Option<&[u8]>| [&[u8::from(value.is_some())][..], value.unwrap_or_default()].concat();
        let pointer = optional(source.key.as_deref().map(str::as_bytes));
        let with: &[u8] = if password.is_some() { b"+" } else { b"-" };
        let password = password.map(SecretBytes::expose).unwrap_or_default();
        let parts = [content.bytes(), object.as_bytes(), how.as_bytes(), &pointer, with, password];
        Some(Key::of(secret, parts))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(place) = &*self.place.borrow()
            && self.refused.get()
        {
            let now = place.shared.clock.boot();
            place.shared.penalties.lock().refuse(&place.pod, now);
        }
    }
}

fn content(content: &Content) -> Vec<&[u8]> {
    match content {
        Content::Secret { value, bundle } => {
            let bundle: &[u8] = match bundle {
                None => b"",
                Some(keyward_core::BundleType::Pfx) => b"pfx",
                Some(keyward_core::BundleType::Pem) => b"pem",
            };
            vec![b"secret", bundle, value.expose()]
        }
        Content::Key { jwk } => vec![b"key", jwk.as_bytes()],
        Content::Certificate(certificate) => {
            let mut parts = vec![&b"certificate"[..], &certificate.leaf_der];
            if let Some((kind, bundle)) = &certificate.bundle {
                parts.push(match kind {
                    keyward_core::BundleType::Pfx => b"pfx",
                    keyward_core::BundleType::Pem => b"pem",
                });
                parts.push(bundle.expose());
            }
            parts
        }
    }
}
