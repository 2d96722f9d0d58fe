use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keyward_core::trace::TARGET;
use keyward_core::{Code, Error, HttpPost, Result, SystemClock};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as Exported;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;
use tracing::{field, info_span};
use tracing_subscriber::layer::SubscriberExt;

use super::*;

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn settings(ratio: f64) -> Settings {
    Settings {
        endpoint: "http://127.0.0.1:4318/v1/traces".to_owned(),
        ratio,
        object_names: false,
        resource: vec![("service.name".to_owned(), "keyward-sidecar".to_owned())],
    }
}

/// Answers with the statuses given, then 200; 0 is no answer.
#[derive(Default)]
struct Collector {
    statuses: Mutex<VecDeque<u16>>,
    bodies: Mutex<Vec<Bytes>>,
}

#[async_trait]
impl HttpPost for Collector {
    async fn post(&self, url: &str, content_type: &str, body: Bytes, _: Duration) -> Result<u16> {
        assert_eq!((url, content_type), ("http://127.0.0.1:4318/v1/traces", "application/x-protobuf"));
        match self.statuses.lock().pop_front().unwrap_or(200) {
            0 => Err(Error::new(Code::Connect, "refused")),
            200 => {
                self.bodies.lock().push(body);
                Ok(200)
            }
            status => Ok(status),
        }
    }
}

impl Collector {
    /// Every span received, read by OpenTelemetry's own messages.
    fn spans(&self) -> Vec<Exported> {
        let requests = self
            .bodies
            .lock()
            .iter()
            .map(|b| ExportTraceServiceRequest::decode(b.clone()).unwrap())
            .collect::<Vec<_>>();
        requests
            .into_iter()
            .flat_map(|request| request.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }
}

/// Runs `act` under the layer, then exports until everything is out.
async fn exported(settings: Settings, statuses: &[u16], act: impl FnOnce()) -> (Vec<Exported>, u64) {
    let (layer, exporter) = tracer(settings, Arc::new(SystemClock));
    let subscriber = Registry::default().with(layer);
    tracing::subscriber::with_default(subscriber, act);
    let collector = Arc::new(Collector {
        statuses: Mutex::new(statuses.iter().copied().collect()),
        ..Collector::default()
    });
    let dropped = exporter.dropped();
    exporter.run(Arc::clone(&collector) as _, std::future::pending()).await;
    (collector.spans(), dropped())
}

fn text<'a>(span: &'a Exported, key: &str) -> Option<&'a str> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match value.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn call() {
    let rpc = info_span!(
        target: TARGET,
        "rpc",
        otel.name = "keyward.secrets.v1.SecretService/GetSecret",
        otel.kind = "server",
        rpc.system.name = "grpc",
        error.type = field::Empty,
        traceparent = CALLER,
    );
    let _entered = rpc.enter();
    let log_only = info_span!("not for export");
    let _inner = log_only.enter();
    let provider = info_span!(
        target: TARGET,
        "provider",
        otel.kind = "client",
        keyward.object = "https://shop.vault.azure.net/secrets/db",
        attempts = 2u64,
    );
    let _deep = provider.enter();
    rpc.record("error.type", "KW_TIMEOUT");
}

#[tokio::test(start_paused = true)]
async fn spans_continue_the_callers_trace_and_are_read_by_open_telemetrys_own_messages() {
    let (spans, dropped) = exported(settings(0.0), &[], call).await;
    assert_eq!((spans.len(), dropped), (2, 0));
    let [client, server] = &spans[..] else { panic!() };
    let trace = TraceContext::parse(CALLER.as_bytes()).unwrap();
    assert_eq!(server.trace_id, trace.trace());
    assert_eq!(server.parent_span_id, trace.span());
    assert_eq!((server.name.as_str(), server.kind), ("keyward.secrets.v1.SecretService/GetSecret", 2));
    assert_eq!(text(server, "rpc.system.name"), Some("grpc"));
    assert_eq!(text(server, "error.type"), Some("KW_TIMEOUT"));
    assert_eq!(server.status.as_ref().unwrap().code, 2);
    assert_eq!(client.trace_id, server.trace_id);
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!((client.kind, client.status.as_ref()), (3, None));
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.start_time_unix_nano <= client.end_time_unix_nano && client.start_time_unix_nano > 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_was_served_is_no_failure_of_the_server() {
    let serve = || {
        for code in ["OK", "NOT_FOUND", "PERMISSION_DENIED", "UNAVAILABLE", "INTERNAL"] {
            let rpc = info_span!(target: TARGET, "rpc", otel.kind = "server", rpc.status_code = field::Empty);
            rpc.record("rpc.status_code", code);
        }
    };
    let (spans, _) = exported(settings(1.0), &[], serve).await;
    let failed: Vec<_> = spans.iter().map(|span| span.status.is_some()).collect();
    assert_eq!(failed, [false, false, false, true, true]);
}

#[tokio::test(start_paused = true)]
async fn object_names_are_exported_only_when_asked_for() {
    let (spans, _) = exported(settings(1.0), &[], call).await;
    assert_eq!(text(&spans[0], "keyward.object"), None);
    let (spans, _) = exported(Settings { object_names: true, ..settings(1.0) }, &[], call).await;
    assert_eq!(text(&spans[0], "keyward.object"), Some("https://shop.vault.azure.net/secrets/db"));
}

#[tokio::test(start_paused = true)]
async fn the_ratio_decides_about_traces_begun_here_and_a_caller_about_its_own() {
    let begin = || (0..1000).for_each(|_| drop(info_span!(target: TARGET, "check")));
    assert_eq!(exported(settings(0.0), &[], begin).await.0.len(), 0);
    assert_eq!(exported(settings(1.0), &[], begin).await.0.len(), 1000);
    let half = exported(settings(0.5), &[], begin).await.0.len();
    assert!((350..650).contains(&half), "{half}");
    let unsampled = CALLER.replace("-01", "-00");
    let refused = || drop(info_span!(target: TARGET, "rpc", traceparent = unsampled.as_str()));
    assert_eq!(exported(settings(1.0), &[], refused).await.0.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn more_spans_than_the_queue_holds_are_dropped_and_counted() {
    let begin = || (0..QUEUE + 100).for_each(|_| drop(info_span!(target: TARGET, "check")));
    let (spans, dropped) = exported(settings(1.0), &[], begin).await;
    assert_eq!((spans.len(), dropped), (QUEUE, 100));
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_asks_to_wait_gets_the_spans_later() {
    let (spans, dropped) = exported(settings(1.0), &[503, 0, 429], call).await;
    assert_eq!((spans.len(), dropped), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_refuses_or_never_comes_back_costs_the_spans_and_they_are_counted() {
    assert_eq!(exported(settings(1.0), &[400], call).await, (Vec::new(), 2));
    assert_eq!(exported(settings(1.0), &[0, 0, 0, 0], call).await, (Vec::new(), 2));
}

#[tokio::test(start_paused = true)]
async fn stopping_exports_what_is_left() {
    let (layer, exporter) = tracer(settings(1.0), Arc::new(SystemClock));
    // Kept to the end, as the process's own subscriber is: without it there is nothing to wait for.
    let dispatch = tracing::Dispatch::new(Registry::default().with(layer));
    let collector = Arc::new(Collector::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(exporter.run(Arc::clone(&collector) as _, async move {
        let _ = stopped.await;
    }));
    tracing::dispatcher::with_default(&dispatch, call);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(collector.spans().is_empty(), "still waiting for company");
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(collector.spans().len(), 2);
    drop(dispatch);
}

#[test]
fn the_context_of_a_span_is_found_through_spans_that_are_not_traced() {
    let (layer, _exporter) = tracer(settings(1.0), Arc::new(SystemClock));
    tracing::subscriber::with_default(Registry::default().with(layer), || {
        assert_eq!(context(&Span::current()), None);
        let rpc = info_span!(target: TARGET, "rpc", traceparent = CALLER);
        let _entered = rpc.enter();
        let inner = info_span!("not for export");
        let _inner = inner.enter();
        let context = context(&Span::current()).unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    });
}

#[test]
fn without_the_layer_there_is_no_context() {
    assert_eq!(context(&Span::current()), None);
}
