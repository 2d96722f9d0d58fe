use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keyward_core::audit::{Action, Actor, AuditEvent};
use keyward_core::observe::Event;
use keyward_core::trace::{self, TraceContext};
use keyward_core::{Code, Error};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tracing::Instrument;

use crate::caller::{Access, Slot};
use crate::method::Method;
use crate::server::Shared;
use crate::status::{code_name, status};
use crate::wire::{self, Body};
use crate::{secrets, watch};

/// What an HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Largest header block of a request; gRPC's own default.
const MAX_HEADERS: u32 = 8 << 10;

/// How long a refused connection may take to hear why.
const REFUSED_FOR: Duration = Duration::from_secs(5);

pub(crate) type Request = http::Request<Incoming>;

/// One connection: who is at its other end, and what it is doing.
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) actor: Actor,
    pub(crate) watches: AtomicUsize,
    access: Access,
    slot: Option<Slot>,
    /// When a call last began or ended, in milliseconds of [`Shared::now`].
    last: AtomicU64,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, actor: Actor, access: Access, slot: Option<Slot>) -> Self {
        let last = AtomicU64::new(millis(shared.now()));
        Self { shared, actor, watches: AtomicUsize::new(0), access, slot, last }
    }

    /// Answers until the peer goes away, falls silent or the server stops.
    pub(crate) async fn run(self, mut stream: UnixStream) {
        let settings = &self.shared.settings;
        let mut preface = [0; PREFACE.len()];
        match timeout(settings.handshake_timeout, stream.read_exact(&mut preface)).await {
            Ok(Ok(_)) if &preface == PREFACE => {}
            _ => return,
        }
        let (read, write) = stream.into_split();
        let io = TokioIo::new(tokio::io::join(Cursor::new(preface).chain(read), write));

        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(settings.max_calls_per_connection)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(settings.keepalive.0)
            .keep_alive_timeout(settings.keepalive.1);
        let stopping = self.shared.stopping.clone();
        let this = Arc::new(self);
        let calls = Arc::clone(&this);
        let service = service_fn(move |request| {
            let connection = Arc::clone(&calls);
            async move { Ok::<_, Infallible>(connection.call(request).await) }
        });
        let mut serving = std::pin::pin!(http.serve_connection(io, service));
        let mut ends = std::pin::pin!(this.ends());
        tokio::select! {
            biased;
            _ = &mut serving => return,
            () = &mut ends => {}
            () = stopping.cancelled() => {}
        }
        serving.as_mut().graceful_shutdown();
        // At shutdown the server cuts what is left; a connection that ends by itself gets the same time.
        let _ = timeout(this.shared.settings.drain_timeout, serving).await;
    }

    /// Returns when the connection has lived long enough.
    async fn ends(&self) {
        if self.slot.is_none() {
            return sleep(REFUSED_FOR).await;
        }
        let idle = self.shared.settings.idle_timeout;
        loop {
            let silent =
                self.shared.now().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)));
            if self.watches.load(Ordering::Relaxed) > 0 {
                sleep(idle).await;
            } else if silent < idle {
                sleep(idle - silent).await;
            } else {
                return;
            }
        }
    }

    async fn call(self: Arc<Self>, request: Request) -> Response<Body> {
        let began = self.shared.now();
        self.last.store(millis(began), Ordering::Relaxed);
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
        this.last.store(millis(ended), Ordering::Relaxed);
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
        self.limited(self.slot.as_ref().map(|slot| slot.caller.lookups.take(self.shared.now(), lookups)))
    }

    /// Takes one call that may reach the provider from what the caller may do this second.
    pub(crate) fn spend_upstream(&self) -> Result<(), Status> {
        self.limited(self.slot.as_ref().map(|slot| slot.caller.upstream.take(self.shared.now(), 1)))
    }

    fn limited(&self, taken: Option<Result<(), Duration>>) -> Result<(), Status> {
        match taken {
            Some(Err(wait)) => {
                let error = too_often("this user id calls too often; wait and try again", wait);
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
