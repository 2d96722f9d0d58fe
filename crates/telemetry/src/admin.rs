//! The admin port: `/livez`, `/readyz` and `/metrics`, and nothing else. It carries no value, secret name or token, so
//! it needs no TLS; it may be reached from the node, so it is bounded in every direction.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use keyward_core::{Code, Error, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::Metrics;
use crate::health::Health;
use crate::metrics;

/// Connections at a time; for a further one the address that holds the most gives up its oldest.
const MAX_CONNECTIONS: usize = 64;
/// From accepting a connection to the end of its one answer.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
const HEADER_LIMIT: Duration = Duration::from_secs(5);
const MAX_HEADERS: usize = 64;
/// hyper's smallest buffer.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// A bound admin port.
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    health: Health,
    metrics: Arc<Metrics>,
}

impl Admin {
    /// Binds `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when it cannot be bound.
    pub async fn bind(address: SocketAddr, health: Health, metrics: Arc<Metrics>) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(
                Code::ConfigInvalid,
                format!("admin.listen: {address} cannot be bound; is the port taken?"),
            )
            .detail(error)
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, health, metrics })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is done. Answers under way are given up then: probes come again.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send) {
        let mut places = Places::default();
        let mut connections = tokio::task::JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => return,
                accepted = self.listener.accept() => accepted,
            };
            while let Some(ended) = connections.try_join_next_with_id() {
                places.leave(match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                });
            }
            let Ok((stream, peer)) = accepted else {
                // Out of descriptors: the next accept would fail as fast.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if places.0.len() >= MAX_CONNECTIONS {
                places.evict();
            }
            let (health, metrics) = (self.health.clone(), Arc::clone(&self.metrics));
            let asked = Arc::new(AtomicBool::new(false));
            let asks = Arc::clone(&asked);
            let task = connections.spawn(async move {
                let _ = timeout(CONNECTION_LIMIT, connection(stream, health, metrics, asks)).await;
            });
            places.0.push_back(Place { address: peer.ip().to_canonical(), asked, task });
            // What was accepted gets its turn before the next, so that a flood in the backlog does not take its place
            // before its question is read.
            tokio::task::yield_now().await;
        }
    }
}

/// The connections, oldest first.
#[derive(Default)]
struct Places(VecDeque<Place>);

struct Place {
    address: IpAddr,
    /// Whether its question was read.
    asked: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Places {
    fn leave(&mut self, task: tokio::task::Id) {
        self.0.retain(|place| place.task.id() != task);
    }

    /// Ends the oldest connection of the address that holds the most, one whose question is still awaited if it has one:
    /// kubelet, which holds one place for a moment, does not lose it to others that hold many.
    fn evict(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for place in &self.0 {
            let count = counts.entry(place.address).or_default();
            *count = usize::saturating_add(*count, 1);
        }
        let most = counts.values().max().copied();
        let candidates =
            self.0.iter().enumerate().filter(|(_, place)| counts.get(&place.address).copied() == most);
        let oldest = candidates.min_by_key(|(at, place)| (place.asked.load(Ordering::Relaxed), *at));
        if let Some(place) = oldest.map(|(at, _)| at).and_then(|at| self.0.remove(at)) {
            place.task.abort();
        }
    }
}

async fn connection(stream: TcpStream, health: Health, metrics: Arc<Metrics>, asked: Arc<AtomicBool>) {
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        let response = answer(&request, &health, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let result = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = result {
        tracing::debug!(%error, "admin connection");
    }
}

fn answer<B>(request: &Request<B>, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" => {
            let liveness = health.liveness();
            json(liveness.alive, &liveness)
        }
        "/readyz" => {
            let readiness = health.readiness();
            json(readiness.ready, &readiness)
        }
        "/metrics" => text(StatusCode::OK, metrics::CONTENT_TYPE, metrics.encode()),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "/livez /readyz /metrics\n".to_owned()),
    }
}

#[expect(clippy::expect_used, reason = "numbers and words of the program are always JSON")]
fn json(good: bool, answer: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(answer).expect("numbers and words of the program are always JSON");
    text(status, "application/json", body + "\n")
}

fn text(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
