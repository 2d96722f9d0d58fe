//! One question, answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use keyward_core::config::injector::Injection;
use keyward_core::{Code, Error, Result};
use tokio::time::timeout;

use crate::admission::{self, Decision, Facts};
use crate::counts::Counts;
use crate::lookups::Lookups;
use crate::review;

/// How long a question may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(5);

/// Answers questions.
pub(crate) struct Webhook {
    pub(crate) injection: Injection,
    pub(crate) lookups: Lookups,
    pub(crate) counts: Arc<Counts>,
}

impl Webhook {
    pub(crate) async fn serve(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/mutate" {
            return text(StatusCode::NOT_FOUND, "/mutate\n");
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        }
        let body = Limited::new(request.into_body(), review::LARGEST).collect();
        let body = match timeout(ARRIVAL, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the question is larger than 3 MiB\n"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the question did not arrive within 5 s\n"),
        };
        let request = match review::read(&body) {
            Ok(request) => request,
            Err(error) => return text(StatusCode::BAD_REQUEST, error.message()),
        };
        let decision = self.decide(&request).await;
        self.counts.count(&decision);
        tell(&request, &decision);
        let mut response = Response::new(Full::from(review::answer(&request, &decision).to_string()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    async fn decide(&self, request: &review::Request) -> Result<Decision> {
        if !request.is_new_pod() {
            return Ok(Decision::Untouched);
        }
        let facts = match admission::needs(&request.object, &self.injection) {
            None => Facts::default(),
            Some(needs) => {
                let facts = self.lookups.facts(&needs, &request.namespace, &self.injection).await;
                facts.map_err(|error| match error.kind().is_transient() {
                    true => Error::new(
                        Code::KubernetesUnavailable,
                        format!("{}; the pod's controller tries again", error.message()),
                    ),
                    false => error,
                })?
            }
        };
        admission::decide(&request.object, &request.namespace, &self.injection, &facts)
    }
}

/// One line for each pod that asked. What a pod contains is not repeated, only its names and the decision.
fn tell(request: &review::Request, decision: &Result<Decision>) {
    let text = |pointer: &str| request.object.pointer(pointer).and_then(serde_json::Value::as_str);
    let pod = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default();
    let namespace = request.namespace.as_str();
    match decision {
        Ok(Decision::Untouched) => {}
        Ok(Decision::Skipped { reason, .. }) => tracing::info!(namespace, pod, %reason, "skipped"),
        Ok(Decision::Injected { summary, .. }) => tracing::info!(namespace, pod, %summary, "injected"),
        Err(error) => tracing::warn!(namespace, pod, %error, "refused"),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
