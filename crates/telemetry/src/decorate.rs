//! Audit, metrics and spans around the traits of the pipeline, so that the logic inside knows nothing of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::audit::{Action, Actor, AuditEvent, AuditSink};
use keyward_core::observe::{Event, Observer};
use keyward_core::trace::TARGET;
use keyward_core::{
    AccessToken, Clock, Collection, Error, FetchRequest, Fetched, IdentityKey, ObjectMetadata, ObjectRef,
    Provider, Result, TokenSource, UnixTime, VaultHost, VersionInfo,
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{Instrument, Span, field};

use crate::traces;

/// Resources whose last token is remembered; a process asks for one or two.
const MAX_RESOURCES: usize = 64;

/// A provider of which every call is recorded, measured and traced.
pub struct Observed {
    inner: Arc<dyn Provider>,
    watch: Watch,
    observer: Arc<dyn Observer>,
}

/// A token source of which every exchange is recorded. The source itself measures them, for it also knows those that
/// nobody waits for.
pub struct ObservedTokens {
    inner: Arc<dyn TokenSource>,
    watch: Watch,
    /// The end of the token last seen for each resource: another one means that an exchange took place.
    seen: Mutex<HashMap<String, (Duration, UnixTime)>>,
}

struct Watch {
    identity: String,
    audit: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
}

impl Observed {
    /// Wraps `inner`, which reads with `identity`.
    #[must_use]
    pub fn new(
        inner: Arc<dyn Provider>,
        identity: &IdentityKey,
        audit: Arc<dyn AuditSink>,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { inner, watch: Watch { identity: identity.to_string(), audit, clock }, observer }
    }

    fn span(&self, operation: &'static str, host: &VaultHost) -> Span {
        tracing::info_span!(
            target: TARGET,
            "provider",
            otel.name = operation,
            otel.kind = "client",
            keyward.provider = self.inner.name(),
            keyward.operation = operation,
            server.address = host.as_str(),
            keyward.object = field::Empty,
            keyward.version = field::Empty,
            keyward.request_id = field::Empty,
            error.type = field::Empty,
        )
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        span: &Span,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let start = Instant::now();
        let result = call.instrument(span.clone()).await;
        let error = result.as_ref().err().map(Error::code);
        if let Some(code) = error {
            span.record("error.type", code.as_str());
        }
        self.observer.event(&Event::Upstream {
            provider: self.inner.name(),
            operation,
            error,
            duration: start.elapsed(),
        });
        result
    }

    async fn listing<T>(
        &self,
        operation: &'static str,
        host: &VaultHost,
        object: String,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let span = self.span(operation, host);
        span.record("keyward.object", object.as_str());
        let result = self.call(operation, &span, call).await;
        let event = self.watch.event(Action::List, object, result.as_ref().err());
        self.watch.record(&span, event, result)
    }
}

/// With `audit.onFailure: deny`, content that cannot be recorded is not handed on.
#[async_trait]
impl Provider for Observed {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let object = request.object.to_string();
        let span = self.span("get", request.object.host());
        span.record("keyward.object", object.as_str());
        let result = self.call("get", &span, self.inner.fetch(request)).await;
        let mut event = self.watch.event(Action::Fetch, object, result.as_ref().err());
        event.version = request.object.version().map(ToString::to_string);
        if let Ok(fetched) = &result {
            span.record("keyward.version", fetched.version.as_str());
            event.version = Some(fetched.version.as_str().to_owned());
            if let Some(id) = &fetched.request_id {
                span.record("keyward.request_id", id.as_str());
                event.request_id = Some(id.clone());
            }
        }
        self.watch.record(&span, event, result)
    }

    async fn list(
        &self,
        host: &VaultHost,
        collection: Collection,
        limit: usize,
    ) -> Result<Vec<ObjectMetadata>> {
        let object = format!("https://{host}/{}", collection.as_str());
        self.listing("list", host, object, self.inner.list(host, collection, limit)).await
    }

    async fn versions(&self, object: &ObjectRef, limit: usize) -> Result<Vec<VersionInfo>> {
        let name = format!("{object}/versions");
        self.listing("versions", object.host(), name, self.inner.versions(object, limit)).await
    }

    fn list_cost(&self, count: usize) -> usize {
        self.inner.list_cost(count)
    }

    async fn prepare(&self, host: &VaultHost) {
        self.inner.prepare(host).await;
    }

    async fn warm_up(&self, host: &VaultHost) {
        self.inner.warm_up(host).await;
    }
}

impl ObservedTokens {
    /// Wraps `inner`, which may cache: a token that was not seen before is one exchange.
    #[must_use]
    pub fn new(inner: Arc<dyn TokenSource>, audit: Arc<dyn AuditSink>, clock: Arc<dyn Clock>) -> Self {
        let identity = inner.identity().to_string();
        Self { inner, watch: Watch { identity, audit, clock }, seen: Mutex::default() }
    }

    fn exchanged(&self, resource: &str, result: Result<AccessToken>) -> Result<AccessToken> {
        // Held over the record, so that two callers with one new token leave one record.
        let mut seen = self.seen.lock();
        let ends = result.as_ref().ok().map(|token| (token.expires_boot, token.expires_wall));
        if ends.is_some() && seen.get(resource) == ends.as_ref() {
            return result;
        }
        let event = self.watch.event(Action::Token, resource.to_owned(), result.as_ref().err());
        let token = self.watch.record(&Span::current(), event, result)?;
        if seen.len() >= MAX_RESOURCES {
            seen.clear();
        }
        seen.insert(resource.to_owned(), (token.expires_boot, token.expires_wall));
        Ok(token)
    }
}

#[async_trait]
impl TokenSource for ObservedTokens {
    fn identity(&self) -> &IdentityKey {
        self.inner.identity()
    }

    async fn token(&self, resource: &str) -> Result<AccessToken> {
        let result = self.inner.token(resource).await;
        self.exchanged(resource, result)
    }

    fn reject(&self, resource: &str, token: &AccessToken) {
        self.inner.reject(resource, token);
    }
}

impl Watch {
    fn event(&self, action: Action, object: String, error: Option<&Error>) -> AuditEvent {
        AuditEvent {
            at: self.clock.wall(),
            actor: Actor::Keyward,
            action,
            object,
            version: None,
            identity: Some(self.identity.clone()),
            error: error.map(Error::code),
            trace_id: None,
            request_id: None,
        }
    }

    /// Records `event`; the failure of what was done is worth more to its caller than that of the log.
    fn record<T>(&self, span: &Span, mut event: AuditEvent, result: Result<T>) -> Result<T> {
        event.trace_id = traces::context(span).map(|context| context.trace_id());
        let recorded = self.audit.record(event);
        let value = result?;
        recorded.map(|()| value)
    }
}

#[cfg(test)]
mod tests;
