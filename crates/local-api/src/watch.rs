use std::collections::{BTreeMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;
use keyward_core::observe::Lookup;
use keyward_core::trace::TraceContext;
use keyward_core::{Code, Error, Served, State, Version};
use keyward_proto::secrets::v1::{
    Removal, WatchSecretsRequest, WatchSecretsResponse, watch_secrets_response,
};
use tonic::Status;

use crate::answer::answer;
use crate::connection::{Connection, Owed, Request, context};
use crate::convert;
use crate::method::Method;
use crate::reply::{self, Entry, Reply};
use crate::status::status;
use crate::wire::{self, Body};

/// `WatchSecrets`: checks the request and begins the stream.
pub(crate) async fn begin(connection: &Arc<Connection>, request: Request) -> Result<Response<Body>, Status> {
    let shared = &connection.shared;
    let settings = &shared.settings;
    let trace = context(&request);
    let body = request.into_body();
    let request: WatchSecretsRequest =
        wire::receive(body, settings.max_message, |size| connection.owe(size)).await?;
    connection.spend(1)?;
    if request.names.len() > settings.max_watched_names {
        let message = format!("a watch has at most {} names", settings.max_watched_names);
        return Err(status(&Error::new(Code::RequestInvalid, message)));
    }
    if request.names.iter().any(|name| shared.view.get(name).is_none()) {
        return Err(status(&connection.unknown_name(trace)));
    }
    let mut seen = HashSet::new();
    let names: Vec<_> = request.names.into_iter().filter(|name| seen.insert(name.clone())).collect();
    let slot = Slot::take(connection)?;
    let watched = if names.is_empty() { shared.view.list().len() } else { names.len() };
    let watch = Watch {
        _owed: connection.owe(watched.saturating_mul(MARK)).map_err(|error| status(&error))?,
        slot,
        sending: None,
        names: (!names.is_empty()).then_some(names),
        trace,
        sent: BTreeMap::new(),
        due: VecDeque::new(),
        looked_at: None,
        ended: None,
    };
    let frames = futures::stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((Ok::<_, Infallible>(frame), watch))
    });
    Ok(wire::respond(Body::Stream(tonic::body::Body::new(StreamBody::new(frames)))))
}

/// What a watch remembers of each name, in bytes: the name, twice where it is about to be looked at, and its mark.
const MARK: usize = 256;

/// Numbers of the fields of `WatchSecretsResponse`.
const CURRENT: u32 = 1;
const FAILURE: u32 = 2;

/// How many watches there are.
pub(crate) struct Watches {
    most: usize,
    now: AtomicUsize,
}

impl Watches {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, now: AtomicUsize::new(0) }
    }
}

/// One watch. It holds no values and no backlog: only what was last sent of each name, and which names may have moved.
struct Watch {
    _owed: Owed,
    slot: Slot,
    /// The rest of the message that is being sent.
    sending: Option<Reply>,
    /// `None` watches everything.
    names: Option<Vec<String>>,
    trace: Option<TraceContext>,
    sent: BTreeMap<String, Mark>,
    due: VecDeque<String>,
    /// The generation of the view that `due` was made from.
    looked_at: Option<u64>,
    /// The code that the stream ended with.
    ended: Option<tonic::Code>,
}

/// What a watcher is told next.
enum Next {
    Piece(Bytes),
    Reply(Reply),
}

/// What a watcher saw of a name, as far as it takes to know that it would see something else now.
#[derive(PartialEq, Eq)]
struct Mark {
    sequence: u64,
    state: State,
    version: Option<Version>,
    refusal: Option<Code>,
}

impl Watch {
    /// The next frame: a change as soon as there is one, in the end the trailers, then `None`.
    ///
    /// HTTP/2 asks only when the reader has room, so that a slow reader finds the newest state and nothing else.
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.ended.is_some() {
            return None;
        }
        let shared = Arc::clone(&self.slot.connection.shared);
        loop {
            if let Some(piece) = self.sending.as_mut().and_then(Reply::next) {
                return Some(Frame::data(piece));
            }
            self.sending = None;
            if shared.stopping.is_cancelled() {
                let error = Error::new(Code::ShuttingDown, "Keyward is shutting down; connect again");
                return Some(self.end(&error));
            }
            while let Some(name) = self.due.pop_front() {
                match self.event(name) {
                    Ok(Some(Next::Piece(piece))) => return Some(Frame::data(piece)),
                    Ok(Some(Next::Reply(reply))) => {
                        if let Some(piece) = self.sending.insert(reply).next() {
                            return Some(Frame::data(piece));
                        }
                    }
                    Ok(None) => {}
                    Err(error) => return Some(self.end(&error)),
                }
            }
            let generation = shared.view.generation();
            if self.looked_at == Some(generation) {
                tokio::select! {
                    () = shared.stopping.cancelled() => {}
                    () = shared.view.changed(generation) => {}
                }
            } else if let Err(wait) = shared.looks.take(shared.now(), self.watched()) {
                // What changes meanwhile is seen by the same look.
                tokio::select! {
                    () = shared.stopping.cancelled() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            } else {
                tokio::select! {
                    biased;
                    () = shared.pace.ready() => {}
                    () = shared.stopping.cancelled() => continue,
                }
                self.looked_at = Some(generation);
                self.look();
            }
        }
    }

    /// How many names a look compares.
    fn watched(&self) -> u32 {
        let names = self.names.as_ref().map_or(self.sent.len(), Vec::len);
        u32::try_from(names).unwrap_or(u32::MAX).max(1)
    }

    /// Notes the names that may have moved.
    fn look(&mut self) {
        let view = &self.slot.connection.shared.view;
        match &self.names {
            Some(names) => {
                let moved = names.iter().filter(|name| {
                    view.get(name).as_deref().map(Mark::of).as_ref() != self.sent.get(name.as_str())
                });
                self.due.extend(moved.cloned());
            }
            None => {
                let all = view.list();
                let moved =
                    all.iter().filter(|served| Some(&Mark::of(served)) != self.sent.get(&served.name));
                self.due.extend(moved.map(|served| served.name.clone()));
                let declared: HashSet<_> = all.iter().map(|served| served.name.as_str()).collect();
                let gone = self.sent.keys().filter(|name| !declared.contains(name.as_str()));
                self.due.extend(gone.cloned());
            }
        }
    }

    /// What the watcher has not seen of `name` as it stands now, which may be later than when it became due.
    ///
    /// # Errors
    /// What ends the watch.
    fn event(&mut self, name: String) -> Result<Option<Next>, Error> {
        let connection = &self.slot.connection;
        let Some(served) = connection.shared.view.get(&name) else {
            if self.sent.remove(&name).is_none() {
                return Ok(None);
            }
            let event = Some(watch_secrets_response::Event::Removed(Removal { name }));
            let message = WatchSecretsResponse { event };
            return wire::frame_owed(&message, |size| connection.owe(size))
                .map(|piece| Some(Next::Piece(piece)));
        };
        let mark = Mark::of(&served);
        if self.sent.get(&name) == Some(&mark) {
            return Ok(None);
        }
        let outcome = if served.state == State::Stale { Lookup::Stale } else { Lookup::Hit };
        let next = match connection.hand_over(&served, outcome, self.trace) {
            Ok(value) if value.len() <= reply::INLINE => {
                Next::Piece(reply::single(connection, CURRENT, &served, value)?)
            }
            Ok(value) => {
                let held = connection.shared.values.hold(&name, value, true)?;
                Next::Reply(Reply::new(connection, vec![Entry::secret(CURRENT, Arc::clone(&served), held)])?)
            }
            // The log refuses, not the object: without a record nothing may be given, now or later.
            Err(error) if error.code() == Code::AuditUnavailable => return Err(error),
            Err(error) => {
                let failure = convert::failure(&name, &error, served.sequence);
                Next::Reply(Reply::new(connection, vec![Entry::failure(FAILURE, failure)])?)
            }
        };
        self.sent.insert(name, mark);
        Ok(Some(next))
    }

    fn end(&mut self, error: &Error) -> Frame<Bytes> {
        let status = status(error);
        self.ended = Some(status.code());
        Frame::trailers(wire::failure(&status))
    }
}

impl Mark {
    fn of(served: &Served) -> Self {
        Self {
            sequence: served.sequence,
            state: served.state,
            version: served.version.clone(),
            refusal: answer(served).err().map(|error| error.code()),
        }
    }
}

/// Reports how the watch ended: as a rule the watcher went away.
impl Drop for Watch {
    fn drop(&mut self) {
        let connection = &self.slot.connection;
        let code = self.ended.unwrap_or(tonic::Code::Cancelled);
        connection.report(Method::Watch, code, connection.shared.now().saturating_sub(self.slot.since));
    }
}

/// A counted watch.
struct Slot {
    connection: Arc<Connection>,
    since: Duration,
}

impl Slot {
    fn take(connection: &Arc<Connection>) -> Result<Self, Status> {
        let all = &connection.shared.watches;
        let settings = &connection.shared.settings;
        // Counted first, so that dropping the slot is right on every path.
        let here = connection.watches.fetch_add(1, Ordering::Relaxed);
        let everywhere = all.now.fetch_add(1, Ordering::Relaxed);
        let slot = Self { connection: Arc::clone(connection), since: connection.shared.now() };
        let (whose, most) = match settings.max_watches_per_connection {
            most if here >= most => ("this connection", most),
            _ if everywhere >= all.most => ("this socket", all.most),
            _ => return Ok(slot),
        };
        let message = format!("{whose} has {most} watches already; one watch can follow many names");
        Err(status(&Error::new(Code::LimitExceeded, message)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.watches.fetch_sub(1, Ordering::Relaxed);
        self.connection.shared.watches.now.fetch_sub(1, Ordering::Relaxed);
    }
}
