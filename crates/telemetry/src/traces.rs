//! Spans for those who asked for them: a `tracing` layer that keeps spans of `keyward_core::trace::TARGET`, and an
//! exporter that posts them as OTLP over HTTP through the one HTTP client there is. Without the layer a span costs a
//! branch. Attributes hold names and versions only; object names are left out unless the user wants them.

mod exporter;
mod layer;
mod otlp;

use std::sync::Arc;

use keyward_core::Clock;
use keyward_core::trace::TraceContext;
use tracing::Span;
use tracing_subscriber::Registry;
use tracing_subscriber::registry::LookupSpan;

pub use exporter::Exporter;
pub use layer::TraceLayer;

use layer::Kept;

/// Spans that wait for export; further ones are dropped and counted.
const QUEUE: usize = 2048;

/// What to export, and where to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The whole URL, such as `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// The share of traces begun here that is kept, 0 to 1; a caller's trace is kept when the caller keeps it.
    pub ratio: f64,
    /// Whether `keyward.object` and `keyward.version` are exported.
    pub object_names: bool,
    /// Resource attributes: `service.name`, `service.version`, `k8s.pod.name`, …
    pub resource: Vec<(String, String)>,
}

/// The layer to install at start, and the exporter to run once there is an HTTP client.
#[must_use]
pub fn tracer(settings: Settings, clock: Arc<dyn Clock>) -> (TraceLayer, Exporter) {
    let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
    let dropped = Arc::default();
    let layer = TraceLayer::new(&settings, clock, sender, Arc::clone(&dropped));
    (layer, Exporter::new(settings, receiver, dropped))
}

/// The context of `span` or of the nearest span around it that is traced; `None` when tracing is off.
#[must_use]
pub fn context(span: &Span) -> Option<TraceContext> {
    span.with_subscriber(|(id, dispatch)| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        let span = registry.span(id)?;
        span.scope().find_map(|span| span.extensions().get::<Kept>().map(Kept::context))
    })
    .flatten()
}

#[cfg(test)]
mod tests;
