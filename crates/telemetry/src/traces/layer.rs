//! Turns `tracing` spans into records for export.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keyward_core::trace::{TARGET, TraceContext};
use keyward_core::{Clock, UnixTime};
use tokio::sync::mpsc::Sender;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Settings;

const MAX_ATTRIBUTES: usize = 24;
const MAX_TEXT: usize = 256;
/// OpenTelemetry semantic conventions, docs/rpc/grpc.md.
const SERVER_ERRORS: &[&str] =
    &["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];

/// A finished span.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finished {
    pub(super) context: TraceContext,
    pub(super) parent: Option<[u8; 8]>,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) start: UnixTime,
    pub(super) end: UnixTime,
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// `error.type` was set, or a status that is an error of the server.
    pub(super) failed: bool,
}

/// Which side of a call a span is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Internal,
    Server,
    Client,
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
}

/// Keeps spans whose target is `keyward_core::trace::TARGET`.
pub struct TraceLayer {
    clock: Arc<dyn Clock>,
    sender: Sender<Finished>,
    dropped: Arc<AtomicU64>,
    ratio: f64,
    object_names: bool,
}

/// What is kept of a span while it is open.
pub(super) struct Kept {
    span: Finished,
    object_names: bool,
}

impl Kept {
    pub(super) fn context(&self) -> TraceContext {
        self.span.context
    }
}

impl TraceLayer {
    pub(super) fn new(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        sender: Sender<Finished>,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self { clock, sender, dropped, ratio: settings.ratio, object_names: settings.object_names }
    }

    /// Whether a span is one that this layer keeps.
    fn wants(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == TARGET
    }

    /// The context of a new span below `parent`, or of the first span of a trace.
    fn begin(&self, parent: Option<TraceContext>) -> TraceContext {
        loop {
            let (mut trace, mut span) = ([0; 16], [0; 8]);
            if aws_lc_rs::rand::fill(&mut trace).and_then(|()| aws_lc_rs::rand::fill(&mut span)).is_err() {
                (trace, span) = ([1; 16], [1; 8]);
            }
            let context = match parent {
                Some(parent) => TraceContext::new(parent.trace(), span, parent.sampled()),
                None => TraceContext::new(trace, span, self.keep(&trace)),
            };
            if let Some(context) = context {
                return context;
            }
        }
    }

    fn keep(&self, trace: &[u8; 16]) -> bool {
        let low = trace.last_chunk().copied().unwrap_or_default();
        f64::from(u32::from_be_bytes(low)) < self.ratio * (f64::from(u32::MAX) + 1.0)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let (Some(span), true) = (context.span(id), Self::wants(attributes.metadata())) else { return };
        let around =
            span.scope().skip(1).find_map(|outer| outer.extensions().get::<Kept>().map(Kept::context));
        let mut visitor = Visitor::default();
        attributes.record(&mut visitor);
        let parent = around.or(visitor.traceparent);
        let mut kept = Kept {
            object_names: self.object_names,
            span: Finished {
                context: self.begin(parent),
                parent: parent.map(|parent| parent.span()),
                name: attributes.metadata().name().to_owned(),
                kind: Kind::Internal,
                start: self.clock.wall(),
                end: UnixTime::ZERO,
                attributes: Vec::new(),
                failed: false,
            },
        };
        kept.take(visitor);
        span.extensions_mut().insert(kept);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(kept) = span.extensions_mut().get_mut::<Kept>() {
            let mut visitor = Visitor::default();
            values.record(&mut visitor);
            kept.take(visitor);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Kept { span: mut finished, .. }) = span.extensions_mut().remove::<Kept>() else { return };
        if finished.context.sampled() {
            finished.end = self.clock.wall().max(finished.start);
            if self.sender.try_send(finished).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Kept {
    /// A server span fails with these codes only: a NOT_FOUND served is no failure of the server.
    fn is_server_error(&self, key: &str, value: &Value) -> bool {
        let Value::Text(code) = value else { return false };
        key == "rpc.status_code" && self.span.kind == Kind::Server && SERVER_ERRORS.contains(&code.as_str())
    }

    fn take(&mut self, visitor: Visitor) {
        if let Some(name) = visitor.name {
            self.span.name = name;
        }
        if let Some(kind) = visitor.kind {
            self.span.kind = kind;
        }
        for (key, value) in visitor.attributes {
            self.span.failed |= key == "error.type" || self.is_server_error(key, &value);
            let hidden = !self.object_names && matches!(key, "keyward.object" | "keyward.version");
            if hidden || self.span.attributes.len() >= MAX_ATTRIBUTES {
                continue;
            }
            self.span.attributes.retain(|(old, _)| *old != key);
            self.span.attributes.push((key, value));
        }
    }
}

#[derive(Default)]
struct Visitor {
    name: Option<String>,
    kind: Option<Kind>,
    traceparent: Option<TraceContext>,
    attributes: Vec<(&'static str, Value)>,
}

impl Visit for Visitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        let text = || value.get(..value.floor_char_boundary(MAX_TEXT)).unwrap_or_default().to_owned();
        match field.name() {
            "otel.name" => self.name = Some(text()),
            "otel.kind" => {
                self.kind = match value {
                    "server" => Some(Kind::Server),
                    "client" => Some(Kind::Client),
                    _ => Some(Kind::Internal),
                }
            }
            "traceparent" => self.traceparent = TraceContext::parse(value.as_bytes()),
            name => self.attributes.push((name, Value::Text(text()))),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attributes.push((field.name(), Value::Int(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i64(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.attributes.push((field.name(), Value::Float(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.attributes.push((field.name(), Value::Bool(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
