//! The standard services beside ours: health and server reflection.

use std::sync::OnceLock;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower_service::Service;

use crate::status::DOMAIN;

type Request = http::Request<Incoming>;
type Answer = BoxFuture<'static, http::Response<Body>>;
type Dispatch = Box<dyn Fn(Request) -> Answer + Send + Sync>;

/// `grpc.health.v1`, for the server (`""`) and for `keyward.secrets.v1.SecretService`.
pub(crate) struct Health {
    reporter: HealthReporter,
    server: HealthServer<HealthService>,
}

impl Health {
    pub(crate) fn new(max_message: usize) -> Self {
        let reporter = HealthReporter::new();
        let server = HealthServer::new(HealthService::from_health_reporter(reporter.clone()))
            .max_decoding_message_size(max_message);
        Self { reporter, server }
    }

    /// Tells the world whether we are ready.
    pub(crate) async fn set(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Says NOT_SERVING for the last time and ends every watch of health.
    pub(crate) async fn stop(&self) {
        self.set(false).await;
        let mut reporter = self.reporter.clone();
        for service in SERVICES {
            reporter.clear_service_status(service).await;
        }
    }

    pub(crate) async fn call(&self, request: http::Request<Full<Bytes>>) -> http::Response<Body> {
        infallible(self.server.clone().call(request).await)
    }
}

const SERVICES: [&str; 2] = ["", keyward_proto::SECRET_SERVICE];

/// Server reflection, built when it is first asked for: most processes never are.
pub(crate) struct Reflection {
    max_message: usize,
    v1: OnceLock<Option<Dispatch>>,
    v1alpha: OnceLock<Option<Dispatch>>,
}

impl Reflection {
    pub(crate) fn new(max_message: usize) -> Self {
        Self { max_message, v1: OnceLock::new(), v1alpha: OnceLock::new() }
    }

    /// Answers a stream of questions; `alpha` is the draft version of the service.
    pub(crate) async fn call(&self, request: Request, alpha: bool) -> http::Response<Body> {
        let limit = self.max_message;
        let dispatch = if alpha {
            self.v1alpha.get_or_init(|| {
                let server = builder().build_v1alpha().ok()?.max_decoding_message_size(limit);
                Some(Box::new(move |request| {
                    let mut server = server.clone();
                    Box::pin(async move { infallible(server.call(request).await) })
                }))
            })
        } else {
            self.v1.get_or_init(|| {
                let server = builder().build_v1().ok()?.max_decoding_message_size(limit);
                Some(Box::new(move |request| {
                    let mut server = server.clone();
                    Box::pin(async move { infallible(server.call(request).await) })
                }))
            })
        };
        match dispatch {
            Some(dispatch) => dispatch(request).await,
            None => tonic::Status::internal(format!("{DOMAIN}: the descriptors do not load")).into_http(),
        }
    }
}

fn builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(keyward_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that a reflecting client can show an error's details.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

fn infallible<T>(result: Result<T, std::convert::Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}
