use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use keyward_core::audit::{Action, Actor, AuditEvent};
use keyward_core::observe::Event;
use keyward_core::trace::{self, TraceContext};
use keyward_core::{Code, Error};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tracing::Instrument;

use crate::caller::{Access, Seat, Slot};
use crate::io::{Flow, Io, PREFACE, Reading};
use crate::method::Method;
use crate::pace::Wait;
use crate::pool::Taken;
use crate::reply;
use crate::server::Shared;
use crate::status::{code_name, status};
use crate::turn::{self, Turns};
use crate::wire::{self, Body};
use crate::{secrets, watch};

/// Largest header block of a request; gRPC's own default.
const MAX_HEADERS: u32 = 8 << 10;

/// How long a refused connection may take to hear why.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// What a peer may send ahead of what its calls have read, in bytes: on one call the longest request message with its
/// prefix, on all calls of a connection twice as much.
const STREAM_WINDOW: u32 = (64 << 10) + 16;
const CONNECTION_WINDOW: u32 = 2 * STREAM_WINDOW;

/// What a call needs beside its answer, in bytes: its task, HTTP/2's state and its headers.
const CALL: usize = 4 << 10;

pub(crate) type Request = http::Request<Incoming>;

/// One connection: who is at its other end, and what it is doing.
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) actor: Actor,
    pub(crate) watches: AtomicUsize,
    pub(crate) seat: Arc<Seat>,
    access: Access,
    slot: Option<Slot>,
    /// Bytes that wait to be read.
    unread: AtomicUsize,
}

/// Why a connection ends.
enum End {
    /// The peer went, or broke the protocol.
    Gone,
    /// Its place goes to another, or it did not read what it asked for.
    Closed,
    /// It was idle for long, or the server stops: calls under way may end.
    Over,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, actor: Actor, access: Access, slot: Option<Slot>) -> Self {
        let seat = match &slot {
            Some(slot) => Arc::clone(&slot.seat),
            None => Arc::new(Seat::new(shared.now())),
        };
        Self { shared, actor, watches: AtomicUsize::new(0), seat, access, slot, unread: AtomicUsize::new(0) }
    }

    /// Answers until the peer goes away, falls silent, does not read, or the server stops.
    pub(crate) async fn run(self, mut stream: UnixStream) {
        let settings = &self.shared.settings;
        let mut preface = [0; PREFACE.len()];
        let begins = async {
            tokio::select! {
                biased;
                () = self.seat.ended() => false,
                read = timeout(settings.handshake_timeout, self.shared.pace.measured(stream.read_exact(&mut preface))) => {
                    matches!(read, Ok(Ok(_))) && &preface == PREFACE
                }
            }
        };
        if !begins.await {
            return;
        }
        let flow = Arc::new(Flow::default());
        let io = TokioIo::new(Io::new(stream, Arc::clone(&flow)));
        let mut reading = Reading::new(Arc::clone(&flow), Arc::clone(&self.shared.answers), settings);
        let stopping = self.shared.stopping.clone();
        let this = Arc::new(self);
        let settings = &this.shared.settings;
        let mut http = http2::Builder::new(Turns(Arc::clone(&this)));
        http.timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(settings.max_calls_per_connection)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(reply::SEND_BUFFER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(settings.keepalive.0)
            .keep_alive_timeout(settings.keepalive.1);
        let calls = Arc::clone(&this);
        let service = service_fn(move |request| {
            let connection = Arc::clone(&calls);
            async move { Ok::<_, Infallible>(connection.call(request).await) }
        });
        let mut serving = pin!(http.serve_connection(io, service));
        let end = {
            let (mut lives, mut told, mut stops) =
                (pin!(this.lives()), pin!(this.seat.ended()), pin!(stopping.cancelled()));
            let mut wait = Wait::None;
            poll_fn(|context| {
                flow.turn();
                let poll = |context: &mut Context<'_>| serving.as_mut().poll(context);
                if this.shared.pace.poll(&mut wait, context, poll).is_ready() {
                    return Poll::Ready(End::Gone);
                }
                // What is blocked is known when the connection had its turn.
                if reading.poll_stuck(context).is_ready() || told.as_mut().poll(context).is_ready() {
                    return Poll::Ready(End::Closed);
                }
                if lives.as_mut().poll(context).is_ready() || stops.as_mut().poll(context).is_ready() {
                    return Poll::Ready(End::Over);
                }
                Poll::Pending
            })
            .await
        };
        match end {
            End::Gone => {}
            End::Closed => {
                // A peer that reads hears that it may connect again; another is not waited for.
                serving.as_mut().graceful_shutdown();
                let _ = futures::poll!(serving);
            }
            End::Over => {
                serving.as_mut().graceful_shutdown();
                let ended = poll_fn(|context| {
                    flow.turn();
                    match serving.as_mut().poll(context).is_ready() {
                        true => Poll::Ready(()),
                        false => reading.poll_stuck(context),
                    }
                });
                // At shutdown the server cuts what is left; a connection that ends by itself gets the same time.
                let _ = timeout(this.shared.settings.drain_timeout, ended).await;
            }
        }
    }

    /// Returns when the connection has lived long enough.
    async fn lives(&self) {
        if self.slot.is_none() {
            return sleep(REFUSED_FOR).await;
        }
        let idle = self.shared.settings.idle_timeout;
        loop {
            let last = Duration::from_millis(self.seat.last.load(Ordering::Relaxed));
            let silent = self.shared.now().saturating_sub(last);
            if self.watches.load(Ordering::Relaxed) > 0 {
                sleep(idle).await;
            } else if silent < idle {
                sleep(idle.saturating_sub(silent)).await;
            } else {
                return;
            }
        }
    }

    /// Counts a call until what is returned is dropped.
    ///
    /// # Errors
    /// `KW_LIMIT_EXCEEDED` or `KW_NO_SPACE` when too many are under way.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Call, Error> {
        let call = self.shared.calls.take(1)?;
        let owed = self.owe(CALL)?;
        self.seat.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Call { _call: call, owed })
    }

    /// Charges `amount` bytes that wait to be read, until what is returned is dropped.
    ///
    /// # Errors
    /// `KW_NO_SPACE` when the connection, the server, the pod or the node holds too much already.
    pub(crate) fn owe(self: &Arc<Self>, amount: usize) -> Result<Owed, Error> {
        let most = self.shared.settings.max_unread_per_connection;
        let unread = self.unread.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        let granted =
            if unread <= most { self.shared.answers.reserve(amount) } else { Err(unread_error(most)) };
        if let Err(error) = granted {
            self.unread.fetch_sub(amount, Ordering::Relaxed);
            return Err(error);
        }
        Ok(Owed { connection: Arc::clone(self), amount })
    }

    async fn call(self: Arc<Self>, request: Request) -> Response<Body> {
        let began = self.shared.now();
        self.seat.active(began);
        let method = Method::of(request.uri().path());
        let span = tracing::info_span!(
            target: trace::TARGET,
            "rpc",
            otel.name = method.full_name(),
            otel.kind = "server",
            rpc.system.name = "grpc",
            rpc.method = method.full_name(),
            rpc.status_code = tracing::field::Empty,
            traceparent = context(&request).map(tracing::field::display),
        );
        let this = Arc::clone(&self);
        let (response, code) = async move {
            match self.answer(method, request).await {
                Ok(response) => {
                    let code = code_of(&response);
                    (response, code)
                }
                Err(status) => {
                    let code = status.code();
                    (status.into_http(), code)
                }
            }
        }
        .instrument(span.clone())
        .await;
        span.record("rpc.status_code", code_name(code));
        let ended = this.shared.now();
        this.seat.active(ended);
        if method != Method::Watch || code != tonic::Code::Ok {
            this.report(method, code, ended.saturating_sub(began));
        }
        response
    }

    async fn answer(self: Arc<Self>, method: Method, request: Request) -> Result<Response<Body>, Status> {
        if let Some(refusal) = &self.access.refusal
            && !(self.access.health && matches!(method, Method::Health(_)))
        {
            if self.access.health {
                self.refused(refusal, context(&request));
            }
            return Err(status(refusal));
        }
        if !wire::is_grpc(request.headers()) || request.method() != http::Method::POST {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Ok(response);
        }
        let longest = self.shared.settings.call_timeout;
        if let Some(error) = turn::refusal()
            && !matches!(method, Method::Health(_))
        {
            self.refused(&error, None);
            return Err(status(&error));
        }
        match method {
            // Memory alone answers most of these, so their future stays small and is not boxed.
            Method::Get => timeout(longest, secrets::get(&self, request)).await.map_err(|_| late())?,
            Method::Batch | Method::List | Method::Refresh => {
                let longest = wire::deadline(request.headers()).map_or(longest, |wanted| wanted.min(longest));
                let answer = Box::pin(secrets::rarer(&self, method, request));
                timeout(longest, answer).await.map_err(|_| late())?
            }
            Method::Watch => {
                let begun = Box::pin(watch::begin(&self, request));
                timeout(longest, begun).await.map_err(|_| late())?
            }
            Method::Health(_) => {
                self.spend(1)?;
                let (parts, body) = request.into_parts();
                let limit = self.shared.settings.max_message;
                let gathered = wire::gather(body, limit, |amount| self.owe(amount));
                let (message, _owed) = timeout(longest, gathered).await.map_err(|_| late())??;
                let request = http::Request::from_parts(parts, Full::new(message));
                Ok(self.shared.health.call(request).await.map(Body::Stream))
            }
            Method::Reflection | Method::ReflectionAlpha => {
                self.spend(1)?;
                let alpha = method == Method::ReflectionAlpha;
                Ok(Box::pin(self.shared.reflection.call(request, alpha)).await.map(Body::Stream))
            }
            Method::Other => {
                Err(Status::unimplemented("no such method; ask server reflection for the methods"))
            }
        }
    }

    /// Takes `lookups` from what the caller may do this second.
    pub(crate) fn spend(&self, lookups: u32) -> Result<(), Status> {
        let taken = self.slot.as_ref().map(|slot| slot.caller.lookups.take(self.shared.now(), lookups));
        self.limited(
            taken,
            "this user id calls more often than `grpc.ratePerCaller` allows; wait and try again",
        )
    }

    /// Takes one call that may reach the provider from what the caller may do this second.
    pub(crate) fn spend_upstream(&self) -> Result<(), Status> {
        let taken = self.slot.as_ref().map(|slot| slot.caller.upstream.take(self.shared.now(), 1));
        self.limited(taken, "this user id asks for more than is in place too often; wait and try again")
    }

    fn limited(&self, taken: Option<Result<(), Duration>>, why: &str) -> Result<(), Status> {
        match taken {
            Some(Err(wait)) => {
                let error = too_often(why, wait);
                self.refused(&error, None);
                Err(status(&error))
            }
            _ => Ok(()),
        }
    }

    /// Records a refusal for which no object is known. Nothing is given, so a log that fails withholds nothing more.
    pub(crate) fn refused(&self, error: &Error, trace: Option<TraceContext>) {
        let event = self.event(Action::Read, "undeclared", None, trace);
        let _ = self.shared.audit.record(AuditEvent { error: Some(error.code()), ..event });
    }

    /// An audit event of this caller that worked.
    pub(crate) fn event(
        &self,
        action: Action,
        object: &str,
        version: Option<&str>,
        trace: Option<TraceContext>,
    ) -> AuditEvent {
        AuditEvent {
            at: self.shared.clock.wall(),
            actor: self.actor.clone(),
            action,
            object: object.to_owned(),
            version: version.map(str::to_owned),
            identity: None,
            error: None,
            trace_id: trace.map(|trace| trace.trace_id()),
            request_id: None,
        }
    }

    pub(crate) fn report(&self, method: Method, code: tonic::Code, duration: Duration) {
        let method = method.full_name();
        self.shared.observer.event(&Event::Rpc { method, code: code_name(code), duration });
    }
}

/// The trace that the caller belongs to.
pub(crate) fn context(request: &Request) -> Option<TraceContext> {
    TraceContext::parse(request.headers().get("traceparent")?.as_bytes())
}

/// The refusal of a caller, or of all callers of one name, that must wait.
pub(crate) fn too_often(message: &str, wait: Duration) -> Error {
    Error::new(Code::RateLimited, message).retry_after(Some(wait))
}

/// How a call ended that answered: the standard services put a refusal in the headers.
fn code_of(response: &Response<Body>) -> tonic::Code {
    match Status::from_header_map(response.headers()) {
        Some(status) => status.code(),
        None if response.status() == StatusCode::OK => tonic::Code::Ok,
        None => tonic::Code::Unknown,
    }
}

fn late() -> Status {
    Status::deadline_exceeded("the call took longer than its deadline; what was begun may still complete")
}

fn unread_error(most: usize) -> Error {
    let message = format!(
        "more than {most} bytes wait to be read on this connection; read the answers, or ask for fewer at a time"
    );
    Error::new(Code::NoSpace, message)
}

/// A call that is counted.
pub(crate) struct Call {
    _call: Taken,
    owed: Owed,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.owed.connection.seat.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that wait to be read, or that a call needs meanwhile.
pub(crate) struct Owed {
    connection: Arc<Connection>,
    amount: usize,
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.connection.unread.fetch_sub(self.amount, Ordering::Relaxed);
        self.connection.shared.answers.give_back(self.amount);
    }
}
