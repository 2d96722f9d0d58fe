//! One question, answered.

mod body;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Body;
use keyward_core::config::injector::Injection;
use keyward_core::{Code, Error, Result};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub(crate) use body::{Answer, Budget, Share};

use crate::admission::{self, Decision, Facts, Needs};
use crate::counts::Counts;
use crate::lookups::Lookups;
use crate::paths::Paths;
use crate::places::Place;
use crate::review::{self, Question};
use crate::text::cut;

/// Questions for which something is looked up at a time. What the API server answers may be large: a ConfigMap has up to
/// 1 MiB, a service account's annotations 256 KiB.
pub(crate) const LOOKUPS: usize = 4;
/// How long a question waits for its turn among those.
pub(crate) const TURN: Duration = Duration::from_secs(4);
/// Longest name in a log line, bytes: what Kubernetes takes.
const LONGEST_NAME: usize = 253;
/// Longest reason in a log line, bytes.
const LONGEST_REASON: usize = 2048;

/// Answers questions.
pub(crate) struct Webhook {
    pub(crate) injection: Injection,
    pub(crate) lookups: Lookups,
    pub(crate) counts: Arc<Counts>,
    pub(crate) paths: Arc<Paths>,
    pub(crate) budget: Budget,
    pub(crate) turns: Semaphore,
}

impl Webhook {
    pub(crate) fn new(
        injection: Injection,
        lookups: Lookups,
        counts: Arc<Counts>,
        paths: Arc<Paths>,
    ) -> Self {
        let (budget, turns) = (Budget::default(), Semaphore::new(LOOKUPS));
        Self { injection, lookups, counts, paths, budget, turns }
    }

    /// Answers one question. Whoever asks elsewhere is no API server: nothing of what it sends is read.
    pub(crate) async fn serve(
        &self,
        request: Request<impl Body<Data = Bytes> + Unpin>,
        place: &Place,
    ) -> Response<Answer> {
        if !self.paths.contains(request.uri().path()) {
            place.refuse();
            return last(StatusCode::NOT_FOUND, "not found\n");
        }
        place.know();
        if request.method() != Method::POST {
            return last(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        }
        let body = match self.budget.read(request.into_body()).await {
            Ok(body) => body,
            Err(refusal) => return last(refusal.status(), refusal.message()),
        };
        match review::read(&body) {
            Ok(question) => {
                let answer = self.answer(&question, &body).await;
                json(&answer, body.into_share())
            }
            Err(error) => last(StatusCode::BAD_REQUEST, error.message()),
        }
    }

    /// The answer to a question. No tree of the pod lives while something is waited for, so that there is one at a time.
    async fn answer(&self, question: &Question, body: &[u8]) -> Value {
        let concerns = question.is_new_pod() && !self.injection.excludes(&question.namespace);
        if !concerns {
            return review::answer(question, Value::Null, &Ok(Decision::Untouched));
        }
        let (object, decision) = match self.decide(question, body).await {
            Ok((object, decision)) => (object, Ok(decision)),
            Err(error) => (Value::Null, Err(error)),
        };
        self.counts.count(&decision);
        log(question, &object, &decision);
        review::answer(question, object, &decision)
    }

    async fn decide(&self, question: &Question, body: &[u8]) -> Result<(Value, Decision)> {
        question.check_size()?;
        let decide = |object: Value, facts: &Facts| {
            let decision = admission::decide(&object, &question.namespace, &self.injection, facts)?;
            Ok((object, decision))
        };
        let object = review::object(body)?;
        let Some(needs) = admission::needs(&object, &question.namespace, &self.injection) else {
            return decide(object, &Facts::default());
        };
        drop(object);
        let later = |what: &str| {
            Error::new(Code::KubernetesUnavailable, format!("{what}; the pod's controller tries again"))
        };
        let turn = timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(later("too many pods are waiting for the API server")) };
        let facts =
            self.facts(&needs, question).await.map_err(|error| match error.kind().is_transient() {
                true => later(error.message()),
                false => error,
            })?;
        decide(review::object(body)?, &facts)
    }

    async fn facts(&self, needs: &Needs, question: &Question) -> Result<Facts> {
        self.lookups.facts(needs, &question.namespace, &self.injection).await
    }
}

/// One line for each pod that asked. What a pod contains is not repeated, only its names and the decision.
fn log(question: &Question, object: &Value, decision: &Result<Decision>) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let pod = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or(&question.name);
    let pod = cut(pod, LONGEST_NAME);
    let namespace = question.namespace.as_str();
    match decision {
        Ok(Decision::Untouched) => {}
        Ok(Decision::Skipped { reason, .. }) => tracing::info!(namespace, pod, %reason, "skipped"),
        Ok(Decision::Injected { summary, .. }) => {
            tracing::info!(namespace, pod, summary = cut(summary, LONGEST_REASON), "injected");
        }
        Err(error) => {
            let text = error.to_string();
            tracing::warn!(namespace, pod, error = cut(&text, LONGEST_REASON), "refused");
        }
    }
}

fn json(answer: &Value, share: Share) -> Response<Answer> {
    let mut response = Response::new(Answer::counted(answer.to_string(), share));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer after which the connection is closed, so that what was not read needs not be.
fn last(status: StatusCode, body: &str) -> Response<Answer> {
    let mut response = Response::new(Answer::free(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
