use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::audit::{Action, Actor, AuditEvent, AuditSink};
use keyward_core::ledger::{Account, Kind};
use keyward_core::observe::Observer;
use keyward_core::{Clock, Code, Error, Result, SecretView};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caller::{Access, Callers, Slot, access};
use crate::connection::Connection;
use crate::crowd::Crowd;
use crate::pace::{Pace, Wait};
use crate::peer::{Peer, PeerCheck};
use crate::pool::Pool;
use crate::rate::Rate;
use crate::secrets::Refreshes;
use crate::socket::Bound;
use crate::standard::{Health, Reflection};
use crate::values::Values;
use crate::watch::Watches;
use crate::{ApiSettings, Pod};

/// Refused connections that are told why at a time; more are closed without a word.
const MAX_REFUSED: usize = 8;

/// Calls, and bytes of answers, that are charged to the account at a time.
const CALLS: usize = 8;
const BYTES: usize = 64 << 10;

/// What the server answers from and reports to.
pub struct Parts {
    /// The declared objects. A name's `sequence` must move whenever what a reader of that name sees changes.
    pub view: Arc<dyn SecretView>,
    /// Receives every delivery and every refusal.
    pub audit: Arc<dyn AuditSink>,
    /// Receives `Event::Lookup` and `Event::Rpc`.
    pub observer: Arc<dyn Observer>,
    /// Wall time for audit records.
    pub clock: Arc<dyn Clock>,
    /// Whether `grpc.health.v1` says SERVING.
    pub ready: watch::Receiver<bool>,
    /// What connections, calls and answers are charged to.
    pub account: Account,
}

/// A bound socket that nobody is answering on yet.
pub struct Server {
    bound: Bound,
    shared: Box<Shared>,
    ready: watch::Receiver<bool>,
    check: Option<Arc<dyn PeerCheck>>,
    crowd: Option<Arc<Crowd>>,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) settings: ApiSettings,
    pub(crate) view: Arc<dyn SecretView>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) callers: Arc<Callers>,
    /// Calls under way.
    pub(crate) calls: Arc<Pool>,
    /// Bytes of answers that wait to be read, and of what calls need meanwhile.
    pub(crate) answers: Arc<Pool>,
    pub(crate) values: Arc<Values>,
    pub(crate) refreshes: Refreshes,
    /// Calls that may reach the provider.
    pub(crate) upstream: Semaphore,
    pub(crate) watches: Watches,
    /// Names that watches may compare.
    pub(crate) looks: Rate,
    pub(crate) health: Health,
    pub(crate) reflection: Reflection,
    pub(crate) stopping: CancellationToken,
    /// The pod's share of the thread.
    pub(crate) pace: Pace,
    began: Instant,
}

impl Shared {
    /// Time since the server began: the clock of the limits.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Server {
    /// Binds the socket. Connections wait in the kernel until [`Self::serve`] runs.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the socket cannot be put in its place; see the message.
    pub fn bind(settings: ApiSettings, parts: Parts) -> Result<Self> {
        let bound = Bound::bind(&settings)?;
        let account = parts.account;
        let calls = Pool::new(account.clone(), Kind::Streams, settings.max_calls, CALLS);
        let answers = Pool::new(account.clone(), Kind::Answers, settings.max_unread, BYTES);
        let shared = Shared {
            view: parts.view,
            audit: parts.audit,
            observer: parts.observer,
            clock: parts.clock,
            callers: Arc::new(Callers::new(account, Arc::clone(&answers), Arc::clone(&calls))),
            values: Values::new(Arc::clone(&answers)),
            calls,
            answers,
            refreshes: Refreshes::new(settings.refresh_gap),
            upstream: Semaphore::new(settings.max_upstream),
            watches: Watches::new(settings.max_watches),
            looks: Rate::new(settings.looks),
            health: Health::new(settings.max_message),
            reflection: Reflection::new(settings.max_message),
            stopping: CancellationToken::new(),
            pace: Pace::default(),
            began: Instant::now(),
            settings,
        };
        Ok(Self { bound, shared: Box::new(shared), ready: parts.ready, check: None, crowd: None })
    }

    /// Admits only peers that `check` admits too.
    #[must_use]
    pub fn check_peers(self, check: Arc<dyn PeerCheck>) -> Self {
        Self { check: Some(check), ..self }
    }

    /// Shares the node's places for connections with the other servers of `crowd`.
    #[must_use]
    pub fn among(self, crowd: Arc<Crowd>) -> Self {
        crowd.join(&self.shared.callers);
        Self { crowd: Some(crowd), ..self }
    }

    /// Does all that it does at this pace.
    #[must_use]
    pub fn paced(mut self, pace: Pace) -> Self {
        self.shared.pace = pace;
        self
    }

    /// Answers until `shutdown`, then removes the socket, ends watches with `KW_SHUTTING_DOWN` and lets calls in
    /// flight end, for `drain_timeout` at most.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the runtime cannot take the socket.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self { bound: Bound { listener, place }, shared, mut ready, check, crowd } = self;
        let listener = UnixListener::from_std(listener).map_err(|error| {
            Error::new(
                Code::FileSystem,
                "the runtime cannot take the socket; the limit on open files may be too low",
            )
            .detail(error)
        })?;
        let shared: Arc<Shared> = Arc::from(shared);
        let mut shutdown = std::pin::pin!(shutdown);
        let mut wait = Wait::None;
        let mut connections = JoinSet::new();
        let mut refused = JoinSet::new();
        let mut ready_known = true;
        let is_ready = *ready.borrow_and_update();
        shared.health.set(is_ready).await;
        tracing::info!(socket = %shared.settings.shown(), "the local API is listening");
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                changed = ready.changed(), if ready_known => {
                    ready_known = changed.is_ok();
                    let is_ready = *ready.borrow_and_update();
                    shared.health.set(is_ready).await;
                }
                Some(_) = connections.join_next() => {}
                Some(_) = refused.join_next() => {}
                accepted = poll_fn(|context| {
                    shared.pace.poll(&mut wait, context, |context| listener.poll_accept(context))
                }) => match accepted {
                    Ok((stream, _)) => match shared.pace.charged(|| {
                        admit(&shared, check.as_deref(), crowd.as_deref(), &stream)
                    }) {
                        Some((connection, true)) => drop(connections.spawn(connection.run(stream))),
                        Some((connection, false)) if refused.len() < MAX_REFUSED => {
                            if let Some(descriptor) = shared.callers.refuse() {
                                refused.spawn(async move {
                                    connection.run(stream).await;
                                    drop(descriptor);
                                });
                            }
                        }
                        Some(_) | None => {}
                    },
                    Err(error) => {
                        // Out of descriptors as a rule: the next try would fail at once.
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        // Connections may wait behind it.
        drop(wait);
        drop(listener);
        drop(place);
        refused.abort_all();
        shared.health.stop().await;
        shared.stopping.cancel();
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(shared.settings.drain_timeout, all_ended).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "connections were cut at the end of the drain time"
            );
            connections.shutdown().await;
        }
        Ok(())
    }
}

/// Decides about a new connection; the flag says whether it was admitted. `None`: nothing is known about the peer.
fn admit(
    shared: &Arc<Shared>,
    check: Option<&dyn PeerCheck>,
    crowd: Option<&Crowd>,
    stream: &UnixStream,
) -> Option<(Connection, bool)> {
    let peer = Peer::of(stream, check.is_some())?;
    let own_uid = nix::unistd::geteuid().as_raw();
    let settings = &shared.settings;
    let mut access = access(peer.uid, own_uid, settings.allow_uids.as_deref());
    if let Some(Err(refusal)) = check.map(|check| check.check(&peer)) {
        access = Access { refusal: Some(refusal), health: false };
    }
    let mut slot: Option<Slot> = None;
    if access.refusal.is_none() || access.health {
        let mut connected = shared.callers.connect(peer.uid, settings, shared.now());
        if connected.is_err() && crowd.is_some_and(|crowd| crowd.make_room(shared.callers.account())) {
            connected = shared.callers.connect(peer.uid, settings, shared.now());
        }
        match connected {
            Ok(free) => slot = Some(free),
            Err(error) => access = Access { refusal: Some(error), health: false },
        }
    }
    let Peer { uid, gid, pid, .. } = peer;
    let actor = match settings.pod.clone() {
        None => Actor::Peer { uid, gid, pid },
        Some(Pod { namespace, name, uid: pod }) => Actor::PodPeer { namespace, name, pod, uid, gid, pid },
    };
    if let Some(refusal) = access.refusal.as_ref().filter(|_| !access.health) {
        let event = AuditEvent {
            at: shared.clock.wall(),
            actor: actor.clone(),
            action: Action::Read,
            object: settings.shown(),
            version: None,
            identity: None,
            error: Some(refusal.code()),
            trace_id: None,
            request_id: None,
        };
        // Nothing is given to this caller, so a log that cannot take the record withholds nothing more.
        let _ = shared.audit.record(event);
        tracing::debug!(uid, code = refusal.code().as_str(), "a connection was refused");
    }
    let admitted = slot.is_some();
    Some((Connection::new(Arc::clone(shared), actor, access, slot), admitted))
}
